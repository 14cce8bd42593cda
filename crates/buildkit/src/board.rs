//! What a client that watches a build is told, kept until it is read.
//!
//! A build may begin before its client asks how it goes; so everything is kept for the first who asks. Afterwards a piece
//! goes once it is read, and a build waits for a slow reader. Without a reader the oldest output is dropped.

use crate::wire::{StatusResponse, Timestamp, Vertex, VertexLog, VertexStatus, VertexWarning};
use prost::Message;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// Bytes that are kept for a reader.
const MAX_KEPT: usize = 4 << 20;

/// Bytes that are recorded for the history; output beyond is left out of it.
const MAX_RECORDED: usize = 4 << 20;

/// What was told, for the history.
#[derive(Debug, Default)]
pub(crate) struct Recording {
    /// Pieces, each behind its length (four bytes, little-endian).
    pub(crate) bytes: Vec<u8>,
    /// Pieces of work, and of these.
    pub(crate) total: usize,
    pub(crate) completed: usize,
    pub(crate) cached: usize,
    pub(crate) warnings: usize,
}

#[derive(Debug, Default)]
struct Tape {
    bytes: Vec<u8>,
    /// Digests of vertexes: whether each is completed, and cached.
    vertexes: HashMap<String, (bool, bool)>,
    warnings: usize,
}

impl Tape {
    fn put(&mut self, piece: &StatusResponse) {
        for vertex in &piece.vertexes {
            let (completed, cached) = self.vertexes.entry(vertex.digest.clone()).or_default();
            *completed |= vertex.completed.is_some() && vertex.error.is_empty();
            *cached |= vertex.cached;
        }
        self.warnings += piece.warnings.len();
        let has_room = self.bytes.len() + piece.encoded_len() <= MAX_RECORDED;
        let told = match has_room {
            true => piece.encode_to_vec(),
            // How it ended matters more than what it said; of that there is an end too.
            false if self.bytes.len() < 2 * MAX_RECORDED => {
                let whole = StatusResponse { logs: Vec::new(), statuses: Vec::new(), ..piece.clone() };
                whole.encode_to_vec()
            }
            false => Vec::new(),
        };
        if let (Ok(length), false) = (u32::try_from(told.len()), told.is_empty()) {
            self.bytes.extend(length.to_le_bytes());
            self.bytes.extend(told);
        }
    }
}

/// Pieces of a recording.
pub(crate) fn replay(bytes: &[u8]) -> Vec<StatusResponse> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let Some(piece) = tail.get(..length).and_then(|piece| StatusResponse::decode(piece).ok()) else {
            break;
        };
        out.push(piece);
        rest = &tail[length..];
    }
    out
}

#[derive(Debug, Default)]
struct State {
    tape: Option<Tape>,
    pieces: VecDeque<StatusResponse>,
    bytes: usize,
    readers: usize,
    is_closed: bool,
}

/// The news of one build.
#[derive(Debug, Default)]
pub(crate) struct Board {
    state: Mutex<State>,
    news: Notify,
    room: Notify,
}

impl Board {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells news; waits while a reader has much to read.
    pub(crate) async fn tell(&self, piece: StatusResponse) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let state = self.lock();
                if state.readers == 0 || state.bytes < MAX_KEPT {
                    break;
                }
            }
            room.await;
        }
        self.put(piece);
    }

    /// Tells news at once.
    pub(crate) fn put(&self, piece: StatusResponse) {
        let mut state = self.lock();
        if let Some(tape) = &mut state.tape {
            tape.put(&piece);
        }
        state.bytes += piece.encoded_len();
        state.pieces.push_back(piece);
        while state.readers == 0 && state.bytes > MAX_KEPT {
            let Some(oldest) = state.pieces.iter_mut().find(|p| !p.logs.is_empty()) else { break };
            let before = oldest.encoded_len();
            oldest.logs.clear();
            let after = oldest.encoded_len();
            state.bytes = state.bytes - before + after;
        }
        drop(state);
        self.news.notify_waiters();
    }

    pub(crate) fn vertex(&self, vertex: Vertex) {
        self.put(StatusResponse { vertexes: vec![vertex], ..StatusResponse::default() });
    }

    pub(crate) fn status(&self, status: VertexStatus) {
        self.put(StatusResponse { statuses: vec![status], ..StatusResponse::default() });
    }

    pub(crate) fn warning(&self, warning: VertexWarning) {
        self.put(StatusResponse { warnings: vec![warning], ..StatusResponse::default() });
    }

    pub(crate) async fn log(&self, vertex: &str, is_stderr: bool, msg: Vec<u8>) {
        let stream = if is_stderr { 2 } else { 1 };
        let log = VertexLog { vertex: vertex.into(), timestamp: Some(Timestamp::now()), stream, msg };
        self.tell(StatusResponse { logs: vec![log], ..StatusResponse::default() }).await;
    }

    /// Records what is told from now on.
    pub(crate) fn record(&self) {
        self.lock().tape.get_or_insert_default();
    }

    /// What was recorded; that ends with it.
    pub(crate) fn take_recording(&self) -> Recording {
        let tape = self.lock().tape.take().unwrap_or_default();
        let count = |which: fn(&(bool, bool)) -> bool| tape.vertexes.values().filter(|v| which(v)).count();
        Recording {
            total: tape.vertexes.len(),
            completed: count(|(completed, _)| *completed),
            cached: count(|(_, cached)| *cached),
            warnings: tape.warnings,
            bytes: tape.bytes,
        }
    }

    /// Nothing more comes.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.news.notify_waiters();
    }

    /// Begins to read.
    pub(crate) fn reader(self: &std::sync::Arc<Self>) -> Reader {
        self.lock().readers += 1;
        Reader(self.clone())
    }
}

/// Somebody who reads the news.
#[derive(Debug)]
pub(crate) struct Reader(std::sync::Arc<Board>);

impl Reader {
    /// All that is new, in one; nothing once the build has ended.
    pub(crate) async fn next(&self) -> Option<StatusResponse> {
        loop {
            let news = self.0.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            {
                let mut state = self.0.lock();
                if let Some(mut all) = state.pieces.pop_front() {
                    let mut bytes = all.encoded_len();
                    while let Some(next) = state.pieces.front() {
                        let more = next.encoded_len();
                        if bytes + more > MAX_PIECE {
                            break;
                        }
                        bytes += more;
                        let next = state.pieces.pop_front().expect("looked at above");
                        all.vertexes.extend(next.vertexes);
                        all.statuses.extend(next.statuses);
                        all.logs.extend(next.logs);
                        all.warnings.extend(next.warnings);
                    }
                    state.bytes = state.pieces.iter().map(Message::encoded_len).sum();
                    drop(state);
                    self.0.room.notify_waiters();
                    return Some(all);
                }
                if state.is_closed {
                    return None;
                }
            }
            news.await;
        }
    }
}

/// Bytes of one message to a client.
const MAX_PIECE: usize = 512 << 10;

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.lock().readers -= 1;
        self.0.room.notify_waiters();
    }
}

/// A piece of work that a client sees; it ends when it is told to, or with a failure when it is dropped.
#[derive(Debug)]
pub(crate) struct Task {
    board: std::sync::Arc<Board>,
    vertex: Vertex,
    is_done: bool,
}

impl Task {
    /// Begins one, and tells so.
    pub(crate) fn begin(board: &std::sync::Arc<Board>, digest: String, name: impl Into<String>) -> Task {
        let vertex =
            Vertex { digest, name: name.into(), started: Some(Timestamp::now()), ..Vertex::default() };
        board.vertex(vertex.clone());
        Task { board: board.clone(), vertex, is_done: false }
    }

    /// A line below the work: how much of what is done.
    pub(crate) fn progress(&self, id: &str, current: u64, total: u64, is_done: bool) {
        let now = Timestamp::now();
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.board.status(VertexStatus {
            id: id.into(),
            vertex: self.vertex.digest.clone(),
            name: String::new(),
            current: number(current),
            total: number(total),
            timestamp: Some(now),
            started: self.vertex.started,
            completed: is_done.then_some(now),
        });
    }

    /// It is done.
    pub(crate) fn done(mut self) {
        self.end(String::new());
    }

    /// It failed.
    pub(crate) fn failed(mut self, error: &str) {
        self.end(error.to_string());
    }

    /// Ends as `outcome` says.
    pub(crate) fn of<T, E: std::fmt::Display>(self, outcome: Result<T, E>) -> Result<T, E> {
        match &outcome {
            Ok(_) => self.done(),
            Err(e) => self.failed(&e.to_string()),
        }
        outcome
    }

    fn end(&mut self, error: String) {
        self.is_done = true;
        self.vertex.completed = Some(Timestamp::now());
        self.vertex.error = error;
        self.board.vertex(self.vertex.clone());
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if !self.is_done {
            self.end("context canceled".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn what_is_told_is_recorded_within_limits() {
        let board = Board::default();
        board.record();
        let vertex = |digest: &str, done: bool| Vertex {
            digest: digest.into(),
            completed: done.then(Timestamp::now),
            cached: done,
            ..Vertex::default()
        };
        board.vertex(vertex("a", false));
        board.log("a", false, b"text".to_vec()).await;
        board.vertex(vertex("a", true));
        for _ in 0..100 {
            board.log("b", true, vec![0; 100 << 10]).await;
        }
        board.vertex(vertex("b", false));
        let recording = board.take_recording();
        assert_eq!((recording.total, recording.completed, recording.cached), (2, 1, 1));
        assert!(recording.bytes.len() <= MAX_RECORDED + 1000);
        let pieces = replay(&recording.bytes);
        assert_eq!(pieces[1].logs[0].msg, b"text");
        assert_eq!(pieces.last().map(|p| p.vertexes[0].digest.as_str()), Some("b"), "also when it is full");
        assert_eq!(replay(&recording.bytes[..recording.bytes.len() - 1]).len(), pieces.len() - 1);
        assert!(board.take_recording().bytes.is_empty());
    }

    #[tokio::test]
    async fn news_wait_for_the_first_reader_and_then_for_slow_ones() {
        let board = Arc::new(Board::default());
        board.log("v", false, vec![1; 10]).await;
        board.close();
        let reader = board.reader();
        assert_eq!(reader.next().await.map(|n| n.logs.len()), Some(1));
        assert!(reader.next().await.is_none());

        // Nobody reads: the oldest output goes, and the build goes on.
        let board = Arc::new(Board::default());
        for _ in 0..100 {
            board.log("v", false, vec![0; 100 << 10]).await;
        }
        assert!(board.lock().bytes <= MAX_KEPT);

        // Somebody reads slowly: the build waits for him, and nothing is lost.
        let board = Arc::new(Board::default());
        let reader = board.reader();
        let writer = board.clone();
        let writing = tokio::spawn(async move {
            for _ in 0..100 {
                writer.log("v", false, vec![0; 100 << 10]).await;
            }
            writer.close();
        });
        let mut bytes = 0;
        while let Some(news) = reader.next().await {
            bytes += news.logs.iter().map(|l| l.msg.len()).sum::<usize>();
            assert!(board.lock().bytes <= MAX_KEPT + (200 << 10));
        }
        writing.await.expect("no panic");
        assert_eq!(bytes, 100 * (100 << 10));
    }
}
