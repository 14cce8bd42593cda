//! What became of builds, kept for who asks later.
//!
//! ```text
//! <data-root>/build-history/<hex>/record      what docs/formats/build-history.md says
//!                                 news        what its client was told while it went on
//!                                 <digest>    what is said of its results, as it is: provenance, packages
//!                            new-<n>/         one that is being written: renamed when it is whole
//! ```
//!
//! `<hex>` is the digest of the build's reference, which its client has chosen. A build that goes on is known in memory only:
//! a daemon that is killed forgets it. Nothing here is synced; what is cut is not read. Records that were not pinned are
//! forgotten when there are too many.

mod filter;

use crate::rpc::Reply;
use crate::wire::{BlobDescriptor, HistoryEvent, HistoryRecord, HistoryRequest, Timestamp};
pub(crate) use filter::Filters;
use oci::Digest;
use prost::Message;
use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast;
use tonic::{Code, Status};

/// Records that nobody has pinned: the newest.
const MAX_RECORDS: usize = 50;
/// Records that somebody has.
const MAX_PINNED: usize = 500;
/// Longest record that is read.
const MAX_RECORD: u64 = 8 << 20;
/// Events that a slow listener may be behind.
const EVENTS: usize = 256;
/// First bytes of a record, with the version of the form.
const MAGIC: &[u8; 8] = b"brigbh\0\x01";
const RECORD: &str = "record";
const NEWS: &str = "news";
/// How directories begin that are not whole.
const NEW: &str = "new-";

/// The type of what is said of results, without what it is said of.
const PREDICATE_TYPE: &str = "application/vnd.in-toto+json";
/// The type of the news: pieces, each behind its length.
const NEWS_TYPE: &str = "application/vnd.buildkit.status.v0";

/// Something that was said of a result.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(crate) predicate_type: String,
    pub(crate) bytes: Vec<u8>,
}

impl Said {
    pub(crate) fn descriptor(&self) -> BlobDescriptor {
        BlobDescriptor {
            media_type: PREDICATE_TYPE.into(),
            digest: Digest::of(&self.bytes).to_string(),
            size: i64::try_from(self.bytes.len()).unwrap_or(i64::MAX),
            annotations: [("in-toto.io/predicate-type".to_string(), self.predicate_type.clone())].into(),
        }
    }
}

/// All that is kept of one build besides its record.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    pub(crate) news: Vec<u8>,
    pub(crate) said: Vec<Said>,
    /// Manifests and indexes of results: the images may go.
    pub(crate) documents: Vec<Vec<u8>>,
}

#[derive(Debug, Default)]
struct State {
    active: BTreeMap<String, HistoryRecord>,
    done: BTreeMap<String, HistoryRecord>,
}

/// The history of builds.
#[derive(Debug)]
pub(crate) struct History {
    dir: PathBuf,
    state: Mutex<State>,
    /// Who changes files has this. Whether what is there was read.
    disk: Mutex<bool>,
    events: broadcast::Sender<HistoryEvent>,
}

fn event(kind: i32, record: &HistoryRecord) -> HistoryEvent {
    HistoryEvent { kind, record: Some(record.clone()) }
}

fn failed(what: &str) -> impl Fn(std::io::Error) -> Status {
    move |e| {
        Status::new(crate::status::code(errors::io_kind(&e)), format!("{what} of the build history: {e}"))
    }
}

impl History {
    /// The history in `dir`, which is read when it is asked for.
    pub(crate) fn new(dir: PathBuf) -> History {
        let (events, _) = broadcast::channel(EVENTS);
        History { dir, state: Mutex::default(), disk: Mutex::new(false), events }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For changes of files; reads them first if nobody has.
    fn disk(&self) -> MutexGuard<'_, bool> {
        let mut is_read = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut *is_read, true) {
            let found = load(&self.dir);
            self.state().done.extend(found.into_iter().map(|record| (record.reference.clone(), record)));
        }
        is_read
    }

    fn home(&self, reference: &str) -> PathBuf {
        self.dir.join(Digest::of(reference.as_bytes()).hex())
    }

    /// A build has begun.
    pub(crate) fn begin(&self, record: HistoryRecord) {
        let mut state = self.state();
        drop(self.events.send(event(HistoryEvent::STARTED, &record)));
        state.active.insert(record.reference.clone(), record);
    }

    /// A build goes on no more, and nothing of it is kept.
    pub(crate) fn abandon(&self, reference: &str) {
        let mut state = self.state();
        if let Some(record) = state.active.remove(reference) {
            drop(self.events.send(event(HistoryEvent::DELETED, &record)));
        }
    }

    /// A build has ended. Blocking.
    pub(crate) fn complete(&self, mut record: HistoryRecord, remains: &Remains) {
        let disk = self.disk();
        record.logs = Some(BlobDescriptor {
            media_type: NEWS_TYPE.into(),
            digest: Digest::of(&remains.news).to_string(),
            size: i64::try_from(remains.news.len()).unwrap_or(i64::MAX),
            annotations: BTreeMap::new(),
        });
        let written = self.write(&record, remains);
        let mut state = self.state();
        state.active.remove(&record.reference);
        let mut gone = Vec::new();
        match written {
            Ok(()) => {
                drop(self.events.send(event(HistoryEvent::COMPLETE, &record)));
                state.done.insert(record.reference.clone(), record);
                let mut loose: Vec<(Option<(i64, i32)>, String)> = state
                    .done
                    .values()
                    .filter(|record| !record.pinned)
                    .map(|record| (age(record), record.reference.clone()))
                    .collect();
                loose.sort();
                let many = loose.len().saturating_sub(MAX_RECORDS);
                gone.extend(loose.into_iter().take(many).map(|(_, reference)| reference));
            }
            Err(e) => {
                tracing::warn!(error = %e, reference = record.reference, "a build is not in the history");
                // Those who listen hear that it goes on no more.
                drop(self.events.send(event(HistoryEvent::DELETED, &record)));
            }
        }
        for reference in &gone {
            self.forget(&mut state, reference);
        }
        drop(state);
        for reference in gone {
            remove(&self.home(&reference));
        }
        drop(disk);
    }

    fn forget(&self, state: &mut State, reference: &str) {
        if let Some(record) = state.done.remove(reference) {
            let bare = HistoryRecord { reference: record.reference, ..HistoryRecord::default() };
            drop(self.events.send(event(HistoryEvent::DELETED, &bare)));
        }
    }

    fn write(&self, record: &HistoryRecord, remains: &Remains) -> std::io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        let make = |path: &Path| std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        make(&self.dir)?;
        let home = self.home(&record.reference);
        let new = self.dir.join(format!("{NEW}{}", Digest::of(record.reference.as_bytes()).hex()));
        remove(&new);
        make(&new)?;
        let written = (|| {
            let bytes = encode(record);
            if bytes.len() as u64 > MAX_RECORD {
                // It would be cut when it is read, and removed.
                return Err(std::io::Error::other(format!("its record is longer than {MAX_RECORD} bytes")));
            }
            std::fs::write(new.join(NEWS), &remains.news)?;
            for bytes in remains.said.iter().map(|said| &said.bytes).chain(&remains.documents) {
                std::fs::write(new.join(Digest::of(bytes).hex()), bytes)?;
            }
            std::fs::write(new.join(RECORD), bytes)?;
            remove(&home);
            std::fs::rename(&new, &home)
        })();
        if written.is_err() {
            remove(&new);
        }
        written
    }

    /// What there is to tell now, and what is to come. Blocking.
    pub(crate) fn list(
        &self,
        asked: &HistoryRequest,
    ) -> Reply<(Vec<HistoryEvent>, broadcast::Receiver<HistoryEvent>)> {
        let filters = Filters::parse(&asked.filter)?;
        drop(self.disk());
        let state = self.state();
        let receiver = self.events.subscribe();
        let is_meant = |record: &&HistoryRecord| {
            (asked.reference.is_empty() || asked.reference == record.reference) && filters.match_all(record)
        };
        let mut out: Vec<HistoryEvent> =
            state.active.values().filter(is_meant).map(|r| event(HistoryEvent::STARTED, r)).collect();
        if !asked.active_only {
            out.extend(state.done.values().filter(is_meant).map(|r| event(HistoryEvent::COMPLETE, r)));
        }
        drop(state);
        if let Some(limit) = usize::try_from(asked.limit).ok().filter(|limit| *limit > 0) {
            // The newest; those that were begun last.
            out.sort_by_key(|event| std::cmp::Reverse(event.record.as_ref().and_then(age)));
            out.truncate(limit);
        }
        Ok((out, receiver))
    }

    /// What the client of a build that has ended was told, from the first piece. Blocking.
    pub(crate) fn news(&self, reference: &str) -> Reply<Option<Vec<u8>>> {
        let _disk = self.disk();
        if !self.state().done.contains_key(reference) {
            return Ok(None);
        }
        std::fs::read(self.home(reference).join(NEWS)).map(Some).map_err(failed("read a record"))
    }

    /// Pins a record, or lets it go with the others. Blocking.
    pub(crate) fn pin(&self, reference: &str, pinned: bool) -> Reply<()> {
        let _disk = self.disk();
        let (mut record, many) = {
            let state = self.state();
            let many = state.done.values().filter(|record| record.pinned).count();
            let known = state.done.get(reference).cloned();
            (known.ok_or_else(|| missing(reference))?, many)
        };
        if pinned && !record.pinned && many >= MAX_PINNED {
            return Err(Status::resource_exhausted(format!("{MAX_PINNED} builds are pinned already")));
        }
        record.pinned = pinned;
        record.generation = record.generation.saturating_add(1);
        let path = self.home(reference).join(RECORD);
        let new = path.with_extension("new");
        std::fs::write(&new, encode(&record))
            .and_then(|()| std::fs::rename(&new, &path))
            .map_err(failed("write a record"))?;
        let mut state = self.state();
        drop(self.events.send(event(HistoryEvent::COMPLETE, &record)));
        state.done.insert(record.reference.clone(), record);
        Ok(())
    }

    /// Forgets a build that has ended. Blocking.
    pub(crate) fn delete(&self, reference: &str) -> Reply<()> {
        let _disk = self.disk();
        let mut state = self.state();
        if !state.done.contains_key(reference) {
            return Err(missing(reference));
        }
        self.forget(&mut state, reference);
        drop(state);
        remove(&self.home(reference));
        Ok(())
    }

    /// Where the blob `digest` of a record is, and the record's time. Blocking.
    fn find_blob(&self, digest: &str) -> Option<(PathBuf, Option<Timestamp>)> {
        let parsed: Digest = digest.parse().ok()?;
        let _disk = self.disk();
        let state = self.state();
        state.done.values().find_map(|record| {
            let results = record.result.iter().chain(record.results.values());
            let mut parts =
                results.flat_map(|result| result.attestations.iter().chain(result.results.values()));
            let home = self.home(&record.reference);
            if record.logs.as_ref().is_some_and(|logs| logs.digest == digest) {
                return Some((home.join(NEWS), record.completed_at));
            }
            let (is_part, path) = (parts.any(|part| part.digest == digest), home.join(parsed.hex()));
            (is_part && path.exists()).then_some((path, record.completed_at))
        })
    }

    /// Size and time of the blob `digest` of some record. Blocking.
    pub(crate) fn blob(&self, digest: &str) -> Reply<(u64, Option<Timestamp>)> {
        let (path, time) = self.find_blob(digest).ok_or_else(|| no_blob(digest))?;
        let metadata = std::fs::metadata(path).map_err(failed("read a blob"))?;
        Ok((metadata.len(), time))
    }

    /// Bytes of the blob `digest` of some record; to its end where `length` is 0. Blocking.
    pub(crate) fn read_blob(&self, digest: &str, offset: u64, length: u64) -> Reply<Vec<u8>> {
        let (path, _) = self.find_blob(digest).ok_or_else(|| no_blob(digest))?;
        let mut file = std::fs::File::open(path).map_err(failed("read a blob"))?;
        file.seek(SeekFrom::Start(offset)).map_err(failed("read a blob"))?;
        let mut bytes = Vec::new();
        let length = if length == 0 { u64::MAX } else { length };
        file.take(length).read_to_end(&mut bytes).map_err(failed("read a blob"))?;
        Ok(bytes)
    }
}

fn missing(reference: &str) -> Status {
    Status::new(Code::NotFound, format!("failed to retrieve ref {reference}: not found"))
}

fn no_blob(digest: &str) -> Status {
    Status::new(Code::NotFound, format!("content {digest}: not found"))
}

fn age(record: &HistoryRecord) -> Option<(i64, i32)> {
    record.created_at.map(|time| (time.seconds, time.nanos))
}

fn remove(path: &Path) {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, path = %path.display(), "left over of the build history");
        }
        _ => {}
    }
}

fn encode(record: &HistoryRecord) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    record.encode(&mut bytes).expect("a vector grows");
    bytes
}

/// A record, of this version.
fn decode(bytes: &[u8]) -> Option<HistoryRecord> {
    HistoryRecord::decode(bytes.strip_prefix(MAGIC)?).ok()
}

/// All records in a directory. What is not whole is removed; what has another version is left alone.
fn load(dir: &Path) -> Vec<HistoryRecord> {
    let mut out = Vec::new();
    let Ok(entries) = std::fs::read_dir(dir) else { return out };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with(NEW) {
            remove(&entry.path());
            continue;
        }
        let mut bytes = Vec::new();
        let read = std::fs::File::open(entry.path().join(RECORD))
            .and_then(|file| file.take(MAX_RECORD).read_to_end(&mut bytes));
        match (read, decode(&bytes)) {
            (Ok(_), Some(record)) if Digest::of(record.reference.as_bytes()).hex() == name => {
                out.push(record)
            }
            (Ok(_), None) if bytes.starts_with(&MAGIC[..7]) && !bytes.starts_with(MAGIC) => {
                tracing::warn!(name, "a record of the build history is of another version of brig");
            }
            // Cut by a power loss.
            _ => remove(&entry.path()),
        }
    }
    out
}

#[cfg(test)]
mod tests;
