//! Reading on a thread of its own, so that what makes the bytes and what uses them run side by side.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// Bytes in one piece.
const PIECE: usize = 256 * 1024;
/// Pieces that are read and not yet used, at most. With the one being filled and the one being used this is all the
/// memory that it takes: 1.5 MiB.
const AHEAD: usize = 4;

/// What [`read_ahead`] gives its caller to read from.
#[derive(Debug)]
pub struct Ahead {
    full: Receiver<io::Result<Vec<u8>>>,
    empty: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

/// Calls `f` with a reader of what `input` gives, read ahead by another thread. Returns when both are done; what `f`
/// does not read is not read by anyone, but for a few pieces.
pub fn read_ahead<R: Read + Send, T>(input: R, f: impl FnOnce(Ahead) -> T) -> T {
    let (full_sender, full) = sync_channel(AHEAD);
    let (empty, empty_receiver) = sync_channel(AHEAD + 2);
    std::thread::scope(|scope| {
        scope.spawn(move || produce(input, &full_sender, &empty_receiver));
        f(Ahead { full, empty, piece: Vec::new(), at: 0 })
    })
}

fn produce(mut input: impl Read, full: &SyncSender<io::Result<Vec<u8>>>, empty: &Receiver<Vec<u8>>) {
    loop {
        let mut piece = empty.try_recv().unwrap_or_default();
        piece.resize(PIECE, 0);
        let filled = fill(&mut input, &mut piece);
        let (length, failure) = match filled {
            Ok(length) => (length, None),
            Err((length, e)) => (length, Some(e)),
        };
        piece.truncate(length);
        // An error here says that nobody reads any more.
        if length > 0 && full.send(Ok(piece)).is_err() {
            return;
        }
        match failure {
            Some(e) => return drop(full.send(Err(e))),
            None if length < PIECE => return,
            None => {}
        }
    }
}

/// Reads until `piece` is full or `input` ends; says how far it got, also when it failed.
fn fill(input: &mut impl Read, piece: &mut [u8]) -> Result<usize, (usize, io::Error)> {
    let mut length = 0;
    while length < piece.len() {
        match input.read(&mut piece[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err((length, e)),
        }
    }
    Ok(length)
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            match self.full.recv() {
                Ok(Ok(piece)) => {
                    let used = std::mem::replace(&mut self.piece, piece);
                    self.at = 0;
                    // To be filled again. Where there are enough of them, or nobody to fill them, it is freed.
                    match self.empty.try_send(used) {
                        Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
                    }
                }
                Ok(Err(e)) => return Err(e),
                // The thread has come to the end.
                Err(_) => return Ok(0),
            }
        }
        let n = buffer.len().min(self.piece.len() - self.at);
        buffer[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_arrive_in_order() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, PIECE * 20 + 7] {
            let bytes: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let mut read = Vec::new();
            read_ahead(&bytes[..], |mut ahead| ahead.read_to_end(&mut read)).unwrap();
            assert!(read == bytes, "{length}");
        }
    }

    /// Gives some bytes, then an error.
    struct Broken(usize);

    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.0.min(buffer.len());
            self.0 -= n;
            if n == 0 { Err(io::Error::other("broken")) } else { Ok(n) }
        }
    }

    #[test]
    fn a_failure_comes_behind_the_bytes_before_it() {
        let mut read = Vec::new();
        let error = read_ahead(Broken(PIECE * 2 + 5), |mut ahead| ahead.read_to_end(&mut read)).unwrap_err();
        assert_eq!((error.to_string().as_str(), read.len()), ("broken", PIECE * 2 + 5));
    }

    #[test]
    fn a_reader_that_stops_ends_the_thread() {
        let mut one = [0];
        read_ahead(io::repeat(7), |mut ahead| ahead.read_exact(&mut one)).unwrap();
        assert_eq!(one, [7]);
    }
}
