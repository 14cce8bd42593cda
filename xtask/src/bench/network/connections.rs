//! Short connections: one question and one answer each, as a browser's or a health check's.

use super::{Server, at};
use crate::run::{Doing, Error, Result};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Where questions are answered.
pub(super) const PORT: u16 = 5202;
/// Clients at once.
const CLIENTS: usize = 4;
/// Sent one way and the other.
const MESSAGE: &[u8] = &[b'x'; 100];

/// A process that answers, until this is dropped.
#[expect(dead_code, reason = "is held")]
pub(super) struct Answering(Server);

impl Answering {
    /// In the network namespace of a process.
    pub(super) fn at(pid: &str) -> Result<Answering> {
        let own = std::env::current_exe().doing(|| "find our own program".into())?;
        let mut command = at(pid, &[&own.to_string_lossy(), "bench", "network", "--stage=answer"]);
        let mut child = command.stdout(Stdio::piped()).spawn().doing(|| "start who answers".into())?;
        let out = child.stdout.take();
        let server = Server(child);
        let mut line = String::new();
        if let Some(out) = out {
            BufReader::new(out).read_line(&mut line).doing(|| "wait for who answers".into())?;
        }
        if line == "ready\n" { Ok(Answering(server)) } else { Err(Error::new("who answers does not start")) }
    }
}

/// Takes connections, reads a message from each, sends one, and closes.
pub(super) fn answer() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).doing(|| format!("listen on {PORT}"))?;
    println!("ready");
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for stream in listener.incoming() {
                    // A client that goes away is its own loss.
                    drop(stream.and_then(|mut stream| {
                        stream.read_exact(&mut [0; MESSAGE.len()])?;
                        stream.write_all(MESSAGE)
                    }));
                }
            });
        }
    });
    Ok(())
}

/// Connections a second to a port of 127.0.0.1, each with its answer.
pub(super) fn rate(port: u16, time: Duration) -> Result<f64> {
    let begin = Instant::now();
    let one = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(MESSAGE)?;
        let mut answer = Vec::with_capacity(2 * MESSAGE.len());
        // The other side closes first, so that no port of ours waits.
        stream.read_to_end(&mut answer)?;
        if answer == MESSAGE { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
    };
    let client = || -> std::io::Result<u32> {
        let mut count = 0;
        while begin.elapsed() < time {
            one()?;
            count += 1;
        }
        Ok(count)
    };
    let counts: Vec<std::io::Result<u32>> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().map(|c| c.join().expect("a client does not panic")).collect()
    });
    let counts = counts.into_iter().collect::<std::io::Result<Vec<u32>>>();
    let total: u32 = counts.doing(|| format!("ask port {port}"))?.into_iter().sum();
    Ok(f64::from(total) / begin.elapsed().as_secs_f64())
}
