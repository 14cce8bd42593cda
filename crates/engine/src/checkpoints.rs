//! Checkpoints: a container's processes as criu's images, written by the runtime's `checkpoint`, and containers that go on
//! from them.
//!
//! ```text
//! <data-root>/containers/<id>/checkpoints/NAME    or  DIR/NAME where the client names a directory
//!                                         .NAME   one that is being written; it gets its name when it is whole
//! ```
//! A daemon killed meanwhile leaves a `.NAME`, which nobody lists: the next checkpoint of this name removes it, and so does
//! the removal of the container.

use crate::Engine;
use crate::container::Container;
use crate::error::{Error, IoDuring, blocking};
use crate::record::Status;
use errors::{Kind, Report};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long criu may take: it writes all memory of the container.
const DEADLINE: Duration = Duration::from_secs(600);
/// Most that is told of what the runtime has to say.
const MAX_WORDS: usize = 4 << 10;

/// What a client asks for.
#[derive(Debug, Clone, Default)]
pub struct CheckpointRequest {
    /// The checkpoint's name.
    pub name: String,
    /// In place of the container's own directory.
    pub directory: Option<PathBuf>,
    /// The container ends with it.
    pub exit: bool,
}

impl Engine {
    /// Writes the processes of a running container down, and ends it where that is asked for.
    ///
    /// # Errors
    ///
    /// WrongState when it does not run, AlreadyExists when the name is taken, and what the runtime or criu say.
    pub async fn create_checkpoint(
        self: &Arc<Self>,
        container: &str,
        request: CheckpointRequest,
    ) -> Result<(), Error> {
        let container = self.container(container)?;
        check_name(&request.name)?;
        let _verb = container.take_verbs().await?;
        let record = container.record();
        if !matches!(record.state.status, Status::Running | Status::Paused) {
            return Err(Error::conflict(format!("container {} is not running", record.id)));
        }
        if container.root_ids().is_some() {
            return Err(Error::unsupported("a checkpoint of a container that has a user namespace"));
        }
        let parent = self.checkpoints_dir(&container, request.directory)?;
        let whole = parent.join(&request.name);
        if whole.exists() {
            return Err(Error::conflict(format!(
                "checkpoint with name {} already exists for container {}",
                request.name, record.name
            )));
        }
        let partial = parent.join(format!(".{}", request.name));
        let work = self.config.container_dir(record.id.as_str()).join("criu");
        let (images, logs) = (partial.clone(), work.clone());
        blocking(move || empty_directory(&images).and_then(|()| empty_directory(&logs)))
            .await
            .io_during(|| format!("create {}", partial.display()))?;

        let mut life = container.life.subscribe();
        let exits = life.borrow_and_update().exits;
        let was_stopped = record.state.manually_stopped;
        if request.exit {
            // The end is what was asked for, and nothing for the restart policy.
            container.lock().state.manually_stopped = true;
            self.save_if_possible(&container).await;
        }
        let written = self.runtime_checkpoint(&container, &partial, &work, request.exit).await;
        if let Err(e) = written {
            container.lock().state.manually_stopped = was_stopped;
            self.save_if_possible(&container).await;
            drop(blocking(move || std::fs::remove_dir_all(&partial)).await);
            return Err(e);
        }
        std::fs::rename(&partial, &whole).io_during(|| format!("rename {}", partial.display()))?;
        self.publish(&container, "checkpoint", &[]);
        if request.exit {
            self.wait_for_end(&container, exits).await?;
        }
        Ok(())
    }

    /// The names of a container's checkpoints, sorted.
    ///
    /// # Errors
    ///
    /// NotFound when there is no such container.
    pub async fn list_checkpoints(
        &self,
        container: &str,
        directory: Option<PathBuf>,
    ) -> Result<Vec<String>, Error> {
        let container = self.container(container)?;
        let directory = self.checkpoints_dir(&container, directory)?;
        let doing = directory.display().to_string();
        blocking(move || -> io::Result<Vec<String>> {
            let entries = match std::fs::read_dir(&directory) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries?,
            };
            let mut names = Vec::new();
            for entry in entries {
                let entry = entry?;
                if let (true, Ok(name)) = (entry.file_type()?.is_dir(), entry.file_name().into_string())
                    && check_name(&name).is_ok()
                {
                    names.push(name);
                }
            }
            names.sort();
            Ok(names)
        })
        .await
        .io_during(|| format!("list {doing}"))
    }

    /// Removes a checkpoint.
    ///
    /// # Errors
    ///
    /// NotFound when there is no such container or checkpoint.
    pub async fn remove_checkpoint(
        &self,
        container: &str,
        name: &str,
        directory: Option<PathBuf>,
    ) -> Result<(), Error> {
        let container = self.container(container)?;
        let _verb = container.take_verbs().await?;
        let path = self.checkpoint(&container, name, directory)?;
        let doing = path.display().to_string();
        // Renamed first: half a checkpoint has no name.
        let gone = path.with_file_name(format!(".{name}"));
        blocking(move || {
            drop(std::fs::remove_dir_all(&gone));
            std::fs::rename(&path, &gone).and_then(|()| std::fs::remove_dir_all(&gone))
        })
        .await
        .io_during(|| format!("remove {doing}"))
    }

    /// Starts a container that goes on where it was when the checkpoint was made.
    ///
    /// # Errors
    ///
    /// As [`Engine::start`]; InvalidArgument when there is no such checkpoint.
    pub async fn start_checkpoint(
        self: &Arc<Self>,
        name: &str,
        checkpoint: &str,
        directory: Option<PathBuf>,
    ) -> Result<(), Error> {
        let container = self.container(name)?;
        let images = self.checkpoint(&container, checkpoint, directory).map_err(|e| match e {
            // 404 is for the container.
            Error::NoSuchPath { what } => Error::invalid(what),
            other => other,
        })?;
        self.start_from(name, Some(images)).await
    }

    fn checkpoints_dir(&self, container: &Container, directory: Option<PathBuf>) -> Result<PathBuf, Error> {
        match directory.filter(|d| !d.as_os_str().is_empty()) {
            None => Ok(self.config.container_dir(container.id().as_str()).join("checkpoints")),
            Some(directory) if directory.is_absolute() => Ok(directory),
            Some(directory) => Err(Error::invalid(format!(
                "invalid checkpoint directory {}: it must be an absolute path",
                directory.display()
            ))),
        }
    }

    /// The directory of a checkpoint that is there.
    fn checkpoint(
        &self,
        container: &Container,
        name: &str,
        directory: Option<PathBuf>,
    ) -> Result<PathBuf, Error> {
        check_name(name)?;
        let path = self.checkpoints_dir(container, directory)?.join(name);
        if !path.is_dir() {
            let container = &container.lock().name;
            let what = format!("checkpoint {name} does not exist for container {container}");
            return Err(Error::NoSuchPath { what });
        }
        Ok(path)
    }

    async fn runtime_checkpoint(
        &self,
        container: &Container,
        images: &Path,
        work: &Path,
        exit: bool,
    ) -> Result<(), Error> {
        let record = container.record();
        let failed = |kind, text: String| Error::Failed {
            doing: format!("Cannot checkpoint container {}", record.name),
            kind,
            source: Box::new(Report::new(kind, text)),
        };
        let runtime = &record.host_config.runtime;
        let program = self.config.runtimes.get(runtime);
        let program =
            program.ok_or_else(|| Error::invalid(format!("unknown or invalid runtime name: {runtime}")))?;
        let mut command = tokio::process::Command::new(program);
        command.arg("--root").arg(self.config.runtime_root()).arg("checkpoint");
        command.arg("--image-path").arg(images).arg("--work-path").arg(work);
        if !exit {
            command.arg("--leave-running");
        }
        let output = command.arg(record.id.as_str()).kill_on_drop(true).output();
        let Ok(output) = tokio::time::timeout(DEADLINE, output).await else {
            return Err(failed(Kind::Unavailable, format!("no end within {} s", DEADLINE.as_secs())));
        };
        let output = output.map_err(|e| failed(Kind::Internal, format!("run {}: {e}", program.display())))?;
        if output.status.success() {
            return Ok(());
        }
        let words: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(MAX_WORDS).collect();
        let words = if words.is_empty() { output.status.to_string() } else { words };
        Err(failed(Kind::Internal, format!("runtime checkpoint: {words}")))
    }
}

/// Docker's rule, which also keeps a name from being a path.
fn check_name(name: &str) -> Result<(), Error> {
    if crate::names::is_valid(name) {
        return Ok(());
    }
    Err(Error::invalid(format!("Invalid checkpoint ID ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")))
}

/// Makes a directory that only root reads: memory of the container goes into it.
fn empty_directory(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
