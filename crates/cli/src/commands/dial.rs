//! `system dial-stdio`: the daemon's connection on our standard streams, for a client that came here by ssh.

use super::Context;
use crate::error::{Error, Result};
use crate::terminal::{self, Out};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Bytes read at once.
const READ: usize = 64 << 10;

pub(super) async fn dial_stdio(context: &Context) -> Result<u8> {
    let (mut from_daemon, mut to_daemon) = tokio::io::split(context.client.connect().await?);
    let incoming = async {
        let mut chunks = terminal::stdin_chunks();
        while let Some(Ok(chunk)) = chunks.recv().await {
            if to_daemon.write_all(&chunk).await.is_err() || to_daemon.flush().await.is_err() {
                break;
            }
        }
        // The client has said all it has to say. What the daemon still says goes on.
        drop(to_daemon.shutdown().await);
        std::future::pending::<()>().await;
    };
    let outgoing = async move {
        let mut buffer = vec![0; READ];
        loop {
            match from_daemon.read(&mut buffer).await? {
                0 => return Ok::<(), std::io::Error>(()),
                n => Out::Stdout.write_all(&buffer[..n]).await?,
            }
        }
    };
    tokio::select! {
        copied = outgoing => match copied {
            Ok(()) => Ok(0),
            // The client has gone.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(0),
            Err(source) => Err(Error::Stream { doing: "pass the daemon's answer on", source }),
        },
        () = incoming => Ok(0),
    }
}
