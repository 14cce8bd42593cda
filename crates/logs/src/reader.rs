//! The reading side: entries oldest first over the rotated files, the last N without reading the rest, and following.
//!
//! Names move under a reader while the writer rotates, so files are known by device and inode: [`list`] opens them
//! newest first, where a rename can only make one show up twice, and starts over when `path` is another file by then.

use crate::Error;
use crate::entry::{Entry, Format};
use crate::gzip;
use crate::time::now_ns;
use crate::writer::{compressed, numbered};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Bytes read at a time.
const BLOCK: usize = 64 << 10;
/// Longest line that is taken for an entry: 16 KiB of output, each byte escaped to six, and as much again and more for
/// attributes. What is longer was not written by a log driver and is passed over.
const MAX_LINE: usize = 1 << 20;
/// Most rotated files looked for.
const MAX_FILES: u32 = 10_000;
/// How often to look when inotify is not to be had (its instances are limited per user).
const BLIND_WAIT_MS: u64 = 200;

/// Which entries, and whether to wait for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Only entries of this time or later, nanoseconds since 1970 UTC.
    pub since_ns: Option<u64>,
    /// Only entries of this time or earlier. The first later one ends the reading.
    pub until_ns: Option<u64>,
    /// Only the last so many entries that are there at the opening; counted before `since_ns` is applied, as Docker does.
    pub tail: Option<u64>,
    /// More may come: [`Reader::wait`] is going to be called.
    pub follow: bool,
    /// How the entries are written.
    pub format: Format,
}

/// Why [`Reader::wait`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// There may be more entries.
    Changed,
    /// The caller's descriptor is readable or hung up. What was written before that is still to be had from
    /// [`Reader::next`].
    Stopped,
    /// No more will come: `until_ns` is past, or the log's directory is gone.
    Ended,
}

/// Reads the log of one container.
///
/// ```no_run
/// # fn f(path: &std::path::Path, stop: std::os::fd::BorrowedFd<'_>) -> Result<(), logs::Error> {
/// let mut reader = logs::Reader::open(path, logs::Options { follow: true, ..Default::default() })?;
/// loop {
///     while let Some(entry) = reader.next()? {
///         drop(entry);
///     }
///     if reader.wait(stop)? != logs::Woken::Changed {
///         break; // After `Stopped`, one more round of `next` gets the rest.
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    options: Options,
    current: Option<Source>,
    newer: VecDeque<Source>,
    /// Read and not yet taken; `taken` bytes at its begin are done.
    buffer: Vec<u8>,
    taken: usize,
    /// In the middle of a line that is too long.
    skipping: bool,
    ended: bool,
    watch: Option<OwnedFd>,
    /// Time of the last entry read.
    last_ns: u64,
    /// The last entry read.
    entry: Entry,
}

#[derive(Debug)]
struct Source {
    file: File,
    id: (u64, u64),
    offset: u64,
    /// The file holds gzip and has to be unpacked before it is read.
    packed: bool,
    /// Taken up while following: it may be what was read already, compressed since under another inode.
    may_be_seen: bool,
    /// `path` was seen to be another file, so this one is complete.
    sealed: bool,
}

impl Source {
    /// Makes what is compressed readable, beside the log at `path`.
    fn unpack(&mut self, path: &Path) -> io::Result<()> {
        if std::mem::take(&mut self.packed) {
            self.file = gzip::unpack(&self.file, path)?;
        }
        Ok(())
    }
}

impl Reader {
    /// Opens the log at `path` and what was rotated from it. None of them need exist.
    ///
    /// # Errors
    ///
    /// [`Error::Open`], and [`Error::Read`] while looking for the last entries.
    pub fn open(path: &Path, options: Options) -> Result<Reader, Error> {
        // Watched first: what is written from here on wakes, what was written before is read.
        let watch = if options.follow { watch(path) } else { None };
        let mut files = list(path).map_err(|source| Error::Open { path: path.to_owned(), source })?;
        if let Some(tail) = options.tail {
            keep_last(path, &mut files, tail)
                .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        }
        let mut newer: VecDeque<Source> = files.into_iter().rev().collect();
        let mut current = newer.pop_front();
        if let Some(first) = &mut current {
            first.unpack(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        }
        Ok(Reader {
            path: path.to_owned(),
            options,
            current,
            newer,
            buffer: Vec::new(),
            taken: 0,
            skipping: false,
            ended: false,
            watch,
            last_ns: 0,
            entry: Entry::default(),
        })
    }

    /// The next entry, or None when there is none now. Lines that are no entry are passed over. Never waits.
    ///
    /// # Errors
    ///
    /// [`Error::Read`], [`Error::Open`].
    #[expect(clippy::should_implement_trait, reason = "None is not the end when following")]
    pub fn next(&mut self) -> Result<Option<Entry>, Error> {
        Ok(self.step()?.then(|| std::mem::take(&mut self.entry)))
    }

    /// As [`Reader::next`], in memory that the next one is read into.
    ///
    /// # Errors
    ///
    /// [`Error::Read`], [`Error::Open`].
    pub fn next_ref(&mut self) -> Result<Option<&Entry>, Error> {
        Ok(if self.step()? { Some(&self.entry) } else { None })
    }

    /// Reads the next entry; false when there is none now.
    fn step(&mut self) -> Result<bool, Error> {
        while !self.ended {
            while let Some(line) = self.take_line() {
                if !self.options.format.decode_into(&self.buffer[line], &mut self.entry) {
                    continue;
                }
                let time_ns = self.entry.time_ns;
                if self.is_seen(time_ns) {
                    continue;
                }
                self.last_ns = time_ns;
                if self.options.since_ns.is_some_and(|since| time_ns < since) {
                    continue;
                }
                // Not the end of what is there: a clock that was set back writes earlier times behind later ones.
                if let Some(until) = self.options.until_ns.filter(|until| time_ns > *until) {
                    // But of what may come: somebody may write as fast as this reads.
                    if self.options.follow && until < now_ns() {
                        self.ended = true;
                        return Ok(false);
                    }
                    continue;
                }
                return Ok(true);
            }
            if !self.fill()? && !self.advance()? {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Waits until there may be more, or until `stop` is readable or hung up. Only after [`Reader::next`] gave None, and
    /// only when following.
    ///
    /// # Errors
    ///
    /// [`Error::Wait`].
    pub fn wait(&mut self, stop: BorrowedFd<'_>) -> Result<Woken, Error> {
        let failed =
            |source: rustix::io::Errno| Error::Wait { path: self.path.clone(), source: source.into() };
        let until_ms = self.options.until_ns.map(|until| until.saturating_sub(now_ns()) / 1_000_000 + 1);
        if self.ended || self.options.until_ns.is_some_and(|until| until < now_ns()) {
            return Ok(Woken::Ended);
        }
        let blind_ms = self.watch.is_none().then_some(BLIND_WAIT_MS);
        let timeout = until_ms.into_iter().chain(blind_ms).min().map(timespec_of);
        let mut fds = vec![PollFd::from_borrowed_fd(stop, PollFlags::IN)];
        if let Some(watch) = &self.watch {
            fds.push(PollFd::new(watch, PollFlags::IN));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(failed(e)),
        }
        if !fds[0].revents().is_empty() {
            return Ok(Woken::Stopped);
        }
        let has_news = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        if has_news && self.is_directory_gone() {
            self.ended =
                self.current.as_ref().is_none_or(|c| c.file.metadata().is_ok_and(|m| m.len() <= c.offset));
            return Ok(if self.ended { Woken::Ended } else { Woken::Changed });
        }
        Ok(Woken::Changed)
    }

    /// Takes what inotify has to say.
    fn is_directory_gone(&self) -> bool {
        let Some(watch) = &self.watch else { return false };
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(watch.as_fd(), &mut space);
        let mut gone = false;
        while let Ok(event) = events.next() {
            gone |= event.events().contains(ReadFlags::IGNORED);
        }
        gone
    }

    /// Whether the entry of this time was given before, out of the file that has been compressed since.
    fn is_seen(&self, time_ns: u64) -> bool {
        self.current.as_ref().is_some_and(|c| c.may_be_seen) && time_ns <= self.last_ns
    }

    /// The next whole line in the buffer, without its `\n`.
    fn take_line(&mut self) -> Option<std::ops::Range<usize>> {
        loop {
            let start = self.taken;
            let Some(length) = self.buffer[start..].iter().position(|&b| b == b'\n') else {
                if self.buffer.len() - start > MAX_LINE {
                    self.skipping = true;
                    self.taken = self.buffer.len();
                }
                return None;
            };
            self.taken = start + length + 1;
            if !std::mem::take(&mut self.skipping) {
                return Some(start..start + length);
            }
        }
    }

    /// Reads one more block of the current file; false at its end.
    fn fill(&mut self) -> Result<bool, Error> {
        let Some(source) = &mut self.current else { return Ok(false) };
        self.buffer.drain(..self.taken);
        self.taken = 0;
        let start = self.buffer.len();
        self.buffer.resize(start + BLOCK, 0);
        let outcome = source.file.read_at(&mut self.buffer[start..], source.offset);
        self.buffer.truncate(start + outcome.as_ref().map_or(0, |n| *n));
        let read = outcome.map_err(|e| Error::Read { path: self.path.clone(), source: e })?;
        source.offset += read as u64;
        Ok(read > 0)
    }

    /// At the end of the current file: goes on to the next one if there is one; false when there is nothing to read.
    fn advance(&mut self) -> Result<bool, Error> {
        if let Some(next) = self.newer.pop_front() {
            self.begin(next)?;
            return Ok(true);
        }
        if !self.options.follow {
            return Ok(false);
        }
        let failed = |source| Error::Open { path: self.path.clone(), source };
        let Some(current) = &mut self.current else {
            self.newer = list(&self.path).map_err(failed)?.into_iter().rev().collect();
            let first = self.newer.pop_front();
            let found = first.is_some();
            if let Some(first) = first {
                self.begin(first)?;
            }
            return Ok(found);
        };
        if current.file.metadata().map_err(failed)?.len() < current.offset {
            // Someone emptied the file, as people do to get their disk back.
            current.offset = 0;
            self.buffer.clear();
            self.taken = 0;
            return Ok(true);
        }
        if current.sealed {
            let id = current.id;
            let files = list(&self.path).map_err(failed)?;
            // When our file is no longer among them, all that are there are newer.
            self.newer =
                files.into_iter().take_while(|f| f.id != id).collect::<Vec<_>>().into_iter().rev().collect();
            for next in self.newer.iter_mut().filter(|s| s.packed) {
                next.may_be_seen = true;
            }
            let Some(next) = self.newer.pop_front() else { return Ok(false) };
            self.begin(next)?;
            return Ok(true);
        }
        match std::fs::metadata(&self.path) {
            Ok(now) if (now.dev(), now.ino()) != current.id => {
                // Once more to the end: the last entries may have come between our read and the rename.
                current.sealed = true;
                Ok(true)
            }
            Ok(_) => Ok(false),
            // Between the two steps of a rotation. The new file's creation wakes us.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(failed(e)),
        }
    }

    /// Goes on with `source`; a torn line at the end of the file before is dropped.
    fn begin(&mut self, mut source: Source) -> Result<(), Error> {
        source.unpack(&self.path).map_err(|source| Error::Read { path: self.path.clone(), source })?;
        self.buffer.clear();
        self.taken = 0;
        self.skipping = false;
        self.current = Some(source);
        Ok(())
    }
}

fn timespec_of(ms: u64) -> Timespec {
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    Timespec { tv_sec: seconds, tv_nsec: i64::try_from(ms % 1000 * 1_000_000).expect("less than a second") }
}

/// None when the kernel has no more to give; the reader then looks at intervals.
fn watch(path: &Path) -> Option<OwnedFd> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok()?;
    let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
    inotify::add_watch(&fd, parent, flags).ok()?;
    Some(fd)
}

/// The log and what was rotated from it, newest first, each once.
fn list(path: &Path) -> io::Result<Vec<Source>> {
    let mut files = Vec::new();
    // A rotation takes microseconds; a writer that rotates without end must not keep us for ever.
    for _ in 0..8 {
        files = list_once(path)?;
        match std::fs::metadata(path) {
            Ok(now) if files.first().is_some_and(|f| f.id == (now.dev(), now.ino())) => break,
            Err(e) if e.kind() == io::ErrorKind::NotFound && files.is_empty() => break,
            _ => {}
        }
    }
    Ok(files)
}

fn list_once(path: &Path) -> io::Result<Vec<Source>> {
    let mut files: Vec<Source> = Vec::new();
    let mut missing = 0;
    for n in 0..MAX_FILES {
        let name = if n == 0 { path.to_owned() } else { numbered(path, n) };
        let (opened, packed) = match File::open(&name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && n > 0 => (File::open(compressed(&name)), true),
            opened => (opened, false),
        };
        match opened {
            Ok(file) => {
                let metadata = file.metadata()?;
                let id = (metadata.dev(), metadata.ino());
                if metadata.is_file() && files.iter().all(|f| f.id != id) {
                    files.push(Source { file, id, offset: 0, packed, may_be_seen: false, sealed: false });
                }
                missing = 0;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => missing += 1,
            Err(e) => return Err(e),
        }
        // While a rotation shifts the names there is one gap.
        if missing > 2 {
            break;
        }
    }
    Ok(files)
}

/// Moves the begin of `files`, newest first, so that `tail` entries are left.
fn keep_last(path: &Path, files: &mut Vec<Source>, mut tail: u64) -> io::Result<()> {
    for at in 0..files.len() {
        files[at].unpack(path)?;
        if let Some(offset) = start_of_last(&files[at].file, &mut tail)? {
            files[at].offset = offset;
            files.truncate(at + 1);
            break;
        }
    }
    Ok(())
}

/// Where the last `tail` lines begin, or None, `tail` lessened, when the file has no more than that. What follows the
/// last `\n` is no line.
fn start_of_last(file: &File, tail: &mut u64) -> io::Result<Option<u64>> {
    let mut end = file.metadata()?.len();
    let mut block = vec![0; BLOCK];
    let mut seen = 0;
    while end > 0 {
        let start = end.saturating_sub(BLOCK as u64);
        let part = &mut block[..usize::try_from(end - start).expect("at most a block")];
        file.read_exact_at(part, start)?;
        for at in (0..part.len()).rev().filter(|&at| part[at] == b'\n') {
            // The `\n` of the line before the first one wanted.
            if seen == *tail {
                return Ok(Some(start + at as u64 + 1));
            }
            seen += 1;
        }
        end = start;
    }
    *tail -= seen;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Rotation, Stream, Writer};
    use std::collections::BTreeMap;
    use std::io::Write as _;

    fn writer(path: &Path, max_size_bytes: u64, max_files: u32) -> Writer {
        Writer::open(path, Rotation { max_size_bytes, max_files, compress: false }, &BTreeMap::new()).unwrap()
    }

    fn put(writer: &mut Writer, numbers: std::ops::Range<u32>) {
        for n in numbers {
            writer.write(Stream::Stdout, format!("{n}\n").as_bytes()).unwrap();
        }
    }

    fn rest(reader: &mut Reader) -> Vec<u32> {
        let mut numbers = Vec::new();
        while let Some(entry) = reader.next().unwrap() {
            numbers.push(String::from_utf8(entry.line).unwrap().trim().parse().unwrap());
        }
        numbers
    }

    fn options(tail: Option<u64>, follow: bool) -> Options {
        Options { tail, follow, ..Options::default() }
    }

    #[test]
    fn reads_all_files_oldest_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        put(&mut writer(&path, 300, 100), 0..50);
        assert!(numbered(&path, 5).exists());
        let mut reader = Reader::open(&path, Options::default()).unwrap();
        assert_eq!(rest(&mut reader), (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn compressed_files_are_read_and_not_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut writer = writer(&path, 300, 100);
        put(&mut writer, 0..20);
        let mut follower = Reader::open(&path, options(None, true)).unwrap();
        assert_eq!(rest(&mut follower), (0..20).collect::<Vec<_>>());
        put(&mut writer, 20..50);
        for n in 1..10 {
            if numbered(&path, n).exists() {
                crate::compress(&numbered(&path, n)).unwrap();
            }
        }
        assert_eq!(rest(&mut follower), (20..50).collect::<Vec<_>>());
        assert_eq!(rest(&mut Reader::open(&path, Options::default()).unwrap()), (0..50).collect::<Vec<_>>());
        for tail in [1, 7, 30, 60] {
            let mut reader = Reader::open(&path, options(Some(tail), false)).unwrap();
            let first = 50_u32.saturating_sub(u32::try_from(tail).unwrap());
            assert_eq!(rest(&mut reader), (first..50).collect::<Vec<_>>(), "tail {tail}");
        }
    }

    #[test]
    fn tail_over_files_and_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        put(&mut writer(&path, 100_000, 100), 0..3000);
        for tail in [0, 1, 5, 999, 1500, 2999, 3000, 5000] {
            let mut reader = Reader::open(&path, options(Some(tail), false)).unwrap();
            let first = 3000_u32.saturating_sub(u32::try_from(tail).unwrap());
            assert_eq!(rest(&mut reader), (first..3000).collect::<Vec<_>>(), "tail {tail}");
        }
    }

    #[test]
    fn torn_and_foreign_lines_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        put(&mut writer(&path, 0, 1), 0..2);
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"\0\0\0\nnot json\n").unwrap();
        file.write_all(&vec![b'z'; 3 * MAX_LINE]).unwrap();
        file.write_all(b"\n").unwrap();
        file.write_all(
            b"{\"log\":\"2\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:00Z\"}\n{\"log\":\"to",
        )
        .unwrap();
        let mut reader = Reader::open(&path, Options::default()).unwrap();
        assert_eq!(rest(&mut reader), [0, 1, 2]);
        let mut reader = Reader::open(&path, options(Some(1), false)).unwrap();
        assert_eq!(rest(&mut reader), [2]);
    }

    #[test]
    fn since_and_until_are_inclusive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        put(&mut writer(&path, 0, 1), 0..10);
        let mut reader = Reader::open(&path, Options::default()).unwrap();
        let mut times = Vec::new();
        while let Some(entry) = reader.next().unwrap() {
            times.push(entry.time_ns);
        }
        let between = Options { since_ns: Some(times[3]), until_ns: Some(times[6]), ..Options::default() };
        assert_eq!(rest(&mut Reader::open(&path, between).unwrap()), [3, 4, 5, 6]);
    }

    #[test]
    fn a_clock_that_was_set_hides_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let line = |number: u32, day: u32| {
            format!(
                "{{\"log\":\"{number}\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-0{day}T00:00:00Z\"}}\n"
            )
        };
        // A day ahead by mistake, then right again.
        std::fs::write(&path, [line(0, 1), line(1, 3), line(2, 2), line(3, 4)].concat()).unwrap();
        let second = 1_767_312_000_000_000_000;
        let until = Options { until_ns: Some(second), ..Options::default() };
        assert_eq!(rest(&mut Reader::open(&path, until).unwrap()), [0, 2]);
        let since = Options { since_ns: Some(second), ..Options::default() };
        assert_eq!(rest(&mut Reader::open(&path, since).unwrap()), [1, 2, 3]);
    }

    #[test]
    fn follows_through_rotations_and_truncation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut reader = Reader::open(&path, options(None, true)).unwrap();
        assert_eq!(rest(&mut reader), [0; 0]);
        let mut writer = writer(&path, 500, 50);
        for round in 0..20 {
            put(&mut writer, round * 10..round * 10 + 10);
            assert_eq!(rest(&mut reader), (round * 10..round * 10 + 10).collect::<Vec<_>>());
        }
        put(&mut writer, 200..400);
        assert_eq!(rest(&mut reader), (200..400).collect::<Vec<_>>());
        File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        assert_eq!(rest(&mut reader), [0; 0]);
        put(&mut writer, 400..401);
        assert_eq!(rest(&mut reader), [400]);
    }

    #[test]
    fn a_follower_on_another_thread_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (stop, stopper) = std::io::pipe().unwrap();
        let follower = std::thread::spawn({
            let path = path.clone();
            move || {
                let mut reader = Reader::open(&path, options(None, true)).unwrap();
                let mut got = Vec::new();
                while {
                    got.extend(rest(&mut reader));
                    reader.wait(stop.as_fd()).unwrap() == Woken::Changed
                } {}
                got.extend(rest(&mut reader));
                got
            }
        });
        put(&mut writer(&path, 20_000, 1000), 0..20_000);
        drop(stopper);
        assert_eq!(follower.join().unwrap(), (0..20_000).collect::<Vec<_>>());
    }

    #[test]
    fn waiting_ends_with_until_and_with_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (stop, _stopper) = std::io::pipe().unwrap();
        let soon = Options { until_ns: Some(now_ns() + 50_000_000), follow: true, ..Options::default() };
        let mut reader = Reader::open(&path, soon).unwrap();
        while reader.wait(stop.as_fd()).unwrap() == Woken::Changed {}
        let mut reader = Reader::open(&path, options(None, true)).unwrap();
        drop(dir);
        while reader.wait(stop.as_fd()).unwrap() == Woken::Changed {}
        assert_eq!(reader.wait(stop.as_fd()).unwrap(), Woken::Ended);
    }
}
