//! Being attached: bytes between the user's streams and a container's, signals and terminal size passed on.

use crate::demux::{Demux, Stream};
use crate::error::{Error, Result};
use crate::hijack::{Hijacked, Reader, Writer};
use crate::http::{Client, Path};
use crate::terminal::{self, DetachFilter, DetachKeys, Out};
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How the streams are joined.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Whether standard input is sent.
    pub(crate) stdin: bool,
    /// Whether there is a terminal in the container, so that the stream is one and not in frames.
    pub(crate) tty: bool,
    pub(crate) detach_keys: DetachKeys,
}

/// How being attached ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The container's output came to its end.
    Output,
    /// The user typed the detach keys.
    Detached,
}

/// Pumps until the output ends or the user detaches.
pub(crate) async fn pump(connection: Hijacked, plan: &Plan) -> Result<Ended> {
    let Hijacked { reader, writer } = connection;
    let output = pump_output(reader, plan.tty);
    if !plan.stdin {
        // The writing half stays open: its end would end the container's input.
        let result = output.await;
        drop(writer);
        return result.map(|()| Ended::Output);
    }
    let input = pump_input(writer, plan);
    tokio::pin!(output, input);
    let mut input_done = false;
    loop {
        tokio::select! {
            result = &mut output => return result.map(|()| Ended::Output),
            ended = &mut input, if !input_done => match ended? {
                // The end of standard input does not end the output.
                None => input_done = true,
                Some(Ended::Detached) => return Ok(Ended::Detached),
                Some(Ended::Output) => input_done = true,
            },
        }
    }
}

async fn pump_output(mut reader: Reader, tty: bool) -> Result<()> {
    let mut demux = Demux::default();
    loop {
        let bytes = match reader.read().await {
            Ok(bytes) => bytes,
            // A daemon that dies takes the connection with it; what the container does then is asked elsewhere.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(e) => return Err(Error::transport("read the container's output", e)),
        };
        if bytes.is_empty() {
            return Ok(());
        }
        show(&mut demux, bytes, tty).await?;
    }
}

/// Writes what arrived to the user's streams.
pub(crate) async fn show(demux: &mut Demux, bytes: bytes::Bytes, tty: bool) -> Result<()> {
    if tty {
        return written(Out::Stdout.write_all(&bytes).await);
    }
    // What goes to one stream in a row is written at once.
    let mut runs: Vec<(Stream, Vec<u8>)> = Vec::new();
    let fed = demux.feed(&bytes, |stream, piece| match runs.last_mut() {
        Some((last, run)) if *last == stream => run.extend_from_slice(piece),
        _ => runs.push((stream, piece.to_vec())),
    });
    for (stream, run) in runs {
        let out = if stream == Stream::Stdout { Out::Stdout } else { Out::Stderr };
        written(out.write_all(&run).await)?;
    }
    fed.map_err(|e| Error::transport("read the container's output", e))
}

fn written(result: io::Result<()>) -> Result<()> {
    result.map_err(|source| match source.kind() {
        io::ErrorKind::BrokenPipe => Error::Exit { code: 1, message: None },
        _ => Error::Stream { doing: "write the container's output", source },
    })
}

/// Sends standard input until it ends (`None`), the container stops reading (`None`), or the user detaches.
async fn pump_input(mut writer: Writer, plan: &Plan) -> Result<Option<Ended>> {
    let mut chunks = terminal::stdin_chunks();
    let mut filter = DetachFilter::new(&plan.detach_keys);
    while let Some(chunk) = chunks.recv().await {
        let chunk = chunk.map_err(|source| Error::Stream { doing: "read standard input", source })?;
        let (bytes, detach) = match plan.tty {
            true => filter.feed(&chunk),
            false => (chunk.to_vec(), false),
        };
        if writer.write_all(&bytes).await.is_err() {
            break;
        }
        if detach {
            return Ok(Some(Ended::Detached));
        }
    }
    // Where the other side is gone already, nothing is left to close.
    drop(writer.close().await);
    Ok(None)
}

/// The signals that are passed on to a container, with their names for the API.
///
/// Not passed on: SIGCHLD and SIGPIPE are ours, SIGWINCH becomes a resize, SIGURG is what Go programs send themselves.
fn forwarded() -> [(SignalKind, &'static str); 7] {
    [
        (SignalKind::hangup(), "HUP"),
        (SignalKind::interrupt(), "INT"),
        (SignalKind::quit(), "QUIT"),
        (SignalKind::terminate(), "TERM"),
        (SignalKind::user_defined1(), "USR1"),
        (SignalKind::user_defined2(), "USR2"),
        (SignalKind::from_raw(rustix::process::Signal::CONT.as_raw()), "CONT"),
    ]
}

/// Sends the signals that this process gets to the container, until dropped. Installed before the container starts,
/// so that none is lost; the first signals wait until [`SignalProxy::forward`] is polled.
#[derive(Debug)]
pub(crate) struct SignalProxy {
    signals: Vec<(Signal, &'static str)>,
}

impl SignalProxy {
    pub(crate) fn install() -> Result<SignalProxy> {
        let mut signals = Vec::new();
        for (kind, name) in forwarded() {
            let signal =
                signal(kind).map_err(|source| Error::Stream { doing: "listen for signals", source })?;
            signals.push((signal, name));
        }
        Ok(SignalProxy { signals })
    }

    /// Never ends. `kill` is the path that takes `?signal=`.
    pub(crate) async fn forward(&mut self, client: &Client, container: &str) {
        loop {
            let name = self.next().await;
            let path = Path::new(&["containers", container, "kill"]).query("signal", name);
            // A container that just ended takes no signals; its exit code follows anyway.
            drop(client.post(&path).await);
        }
    }

    async fn next(&mut self) -> &'static str {
        std::future::poll_fn(|cx| {
            for (signal, name) in &mut self.signals {
                if signal.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*name);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

/// Ends the command with 128 + n when the process is told to end, so that raw mode is undone. Never returns else.
pub(crate) async fn until_told_to_end() -> Result<std::convert::Infallible> {
    let listen = |kind| signal(kind).map_err(|source| Error::Stream { doing: "listen for signals", source });
    let mut hangup = listen(SignalKind::hangup())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let code = tokio::select! {
        _ = hangup.recv() => 129,
        _ = interrupt.recv() => 130,
        _ = terminate.recv() => 143,
    };
    Err(Error::Exit { code, message: None })
}

/// Passes the terminal's size on, now and whenever it changes. Never ends. `base` is the path of a container or exec.
pub(crate) async fn follow_size(client: &Client, base: &[&str]) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else {
        return std::future::pending().await;
    };
    loop {
        if let Some((rows, columns)) = terminal::size() {
            let mut components = base.to_vec();
            components.push("resize");
            let path = Path::new(&components).query("h", &rows.to_string()).query("w", &columns.to_string());
            // Not started yet, or ended already: the next change tries again.
            drop(client.post(&path).await);
        }
        if changes.recv().await.is_none() {
            return std::future::pending().await;
        }
    }
}
