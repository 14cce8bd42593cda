//! The streams of a process, as a client of the engine holds them.

use crate::container::Container;
use crate::error::Error;
use crate::exec::Exec;
use crate::shim_client::{Output, ShimConnection, ShimReader, ShimWriter};
use crate::{Engine, Status};
use shim_api::Streams;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Connected streams. Dropping it detaches; the process goes on.
#[derive(Debug)]
pub struct Attachment {
    reader: ShimReader,
    writer: ShimWriter,
    exec: Option<Arc<Exec>>,
}

impl Attachment {
    pub(crate) fn new(connection: ShimConnection, exec: Option<Arc<Exec>>) -> Attachment {
        let (reader, writer) = connection.split();
        Attachment { reader, writer, exec }
    }

    /// The two directions, to be driven side by side.
    pub fn split(self) -> (AttachedOutput, ShimWriter) {
        (AttachedOutput { reader: self.reader, exec: self.exec }, self.writer)
    }
}

/// The output side.
#[derive(Debug)]
pub struct AttachedOutput {
    reader: ShimReader,
    exec: Option<Arc<Exec>>,
}

impl AttachedOutput {
    /// The next piece; None at the end. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Output>, Error> {
        let output = self.reader.next().await?;
        // Clients ask for the exit code as soon as the stream ends; it must be known by then.
        if let (Some(Output::Exited(exit)), Some(exec)) = (&output, &self.exec) {
            exec.set_exit(exit);
        }
        Ok(output)
    }
}

/// An attachment that may have to wait for the task.
#[derive(Debug)]
pub struct PendingAttachment {
    pub tty: bool,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Now(Box<ShimConnection>),
    Later(oneshot::Receiver<ShimConnection>),
}

impl PendingAttachment {
    /// Waits for the task to be created. None when it never is.
    pub async fn ready(self) -> Option<Attachment> {
        let connection = match self.source {
            Source::Now(connection) => *connection,
            Source::Later(receiver) => receiver.await.ok()?,
        };
        Some(Attachment::new(connection, None))
    }
}

impl Engine {
    /// Attaches to the container's init: to the running task, or to the next one from its first byte.
    pub async fn attach(&self, name: &str, streams: Streams) -> Result<PendingAttachment, Error> {
        let container = self.container(name)?;
        let tty = container.lock().config.tty;
        let streams = Streams { stdin: streams.stdin && container.lock().config.open_stdin, ..streams };
        Ok(PendingAttachment { tty, source: self.attach_source(&container, streams).await? })
    }

    async fn attach_source(&self, container: &Arc<Container>, streams: Streams) -> Result<Source, Error> {
        match container.status() {
            Status::Running => {
                let dir = self.config.shim_dir(container.id().as_str());
                let attached = ShimConnection::attach(&dir, streams).await;
                Ok(Source::Now(Box::new(attached.map_err(|e| self.not_running_or(container, e))?)))
            }
            Status::Paused => {
                let name = container.lock().name.clone();
                Err(Error::conflict(format!(
                    "container {name} is paused, unpause the container before attach"
                )))
            }
            Status::Removing | Status::Dead => Err(Error::conflict("container is being removed")),
            Status::Created | Status::Exited | Status::Restarting => {
                Ok(Source::Later(container.attach_early(streams)))
            }
        }
    }
}
