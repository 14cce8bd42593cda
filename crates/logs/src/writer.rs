//! The writing side: splits output into entries, batches them, rotates, and lives with a full disk.

use crate::entry::{Format, Stream};
use crate::remote::Remote;
use crate::time::now_ns;
use crate::{Error, MAX_PIECE};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// A batch is written once it has this many bytes, and at the end of each call. Keeps the writer's memory small.
const BATCH: usize = 32 << 10;

/// When a file is put aside and how many are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rotation {
    /// A new file is begun when the one being written has this many bytes; 0 is never.
    pub max_size_bytes: u64,
    /// Files kept, the one being written included. 0 counts as 1.
    pub max_files: u32,
    /// Files put aside are to be compressed; see [`Writer::take_rotated`].
    pub compress: bool,
}

/// Where entries go.
#[derive(Debug, Default)]
pub struct Target<'a> {
    /// The file and how it is written; None keeps nothing here.
    pub file: Option<(&'a Path, Format, Rotation)>,
    /// Go into each entry of a format that has them.
    pub attrs: BTreeMap<String, String>,
    /// Gets each entry besides.
    pub remote: Option<Remote>,
}

/// Appends the output of one container to its log. One writer a log.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    /// None where no file is kept.
    format: Option<Format>,
    rotation: Rotation,
    /// Files were put aside that may not be compressed yet.
    has_rotated: bool,
    /// Someone compresses what was put aside: names must not move meanwhile.
    is_compressing: bool,
    remote: Option<Remote>,
    /// Empty, or `"attrs":{...},`.
    attrs: Vec<u8>,
    /// None after a rotation that could not make the new file; tried again with each batch.
    file: Option<File>,
    size: u64,
    unfinished: [Unfinished; 2],
    batch: Vec<u8>,
    last_ns: u64,
    dropped: u64,
}

/// The begin of a line whose end has not come.
#[derive(Debug, Default)]
struct Unfinished {
    line: Vec<u8>,
    /// Time of the first piece, when pieces were written already.
    first_ns: Option<u64>,
}

impl Writer {
    /// Opens the log at `path` to append to it, or makes it (mode 0640). `attrs` go into each entry. A torn line at
    /// the end, left by a writer that was killed, is cut off.
    ///
    /// # Errors
    ///
    /// [`Error::Open`]; the directory must exist, and a symlink is not followed.
    pub fn open(path: &Path, rotation: Rotation, attrs: &BTreeMap<String, String>) -> Result<Writer, Error> {
        let file = Some((path, Format::JsonFile, rotation));
        Writer::with(Target { file, attrs: attrs.clone(), remote: None })
    }

    /// As [`Writer::open`], for any target.
    ///
    /// # Errors
    ///
    /// [`Error::Open`].
    pub fn with(target: Target<'_>) -> Result<Writer, Error> {
        let (path, format, rotation) = match target.file {
            Some((path, format, rotation)) => (path, Some(format), rotation),
            None => (Path::new(""), None, Rotation::default()),
        };
        let failed = |source| Error::Open { path: path.to_owned(), source };
        let (mut file, mut size) = (None, 0);
        if format.is_some() {
            let mut opened = open_append(path).map_err(failed)?;
            size = cut_torn_line(&mut opened).map_err(failed)?;
            file = Some(opened);
        }
        let attrs = if target.attrs.is_empty() {
            Vec::new()
        } else {
            let text = serde_json::to_string(&target.attrs).map_err(|e| failed(e.into()))?;
            format!("\"attrs\":{text},").into_bytes()
        };
        Ok(Writer {
            path: path.to_owned(),
            format,
            rotation,
            // A writer before us may have left some.
            has_rotated: format.is_some() && rotation.compress,
            is_compressing: false,
            remote: target.remote,
            attrs,
            file,
            size,
            unfinished: Default::default(),
            batch: Vec::new(),
            last_ns: 0,
            dropped: 0,
        })
    }

    /// The oldest file that was put aside and is not compressed, which somebody is to do now (by [`crate::compress`], in
    /// another process: it takes long). From here on, and until [`Writer::end_compression`], files keep their names.
    pub fn take_rotated(&mut self) -> Option<PathBuf> {
        if !self.has_rotated || self.is_compressing {
            return None;
        }
        let mut numbers = (1..self.rotation.max_files.max(1)).rev();
        let found = numbers.find_map(|n| Some(numbered(&self.path, n)).filter(|path| path.exists()));
        self.has_rotated = found.is_some();
        self.is_compressing = found.is_some();
        found
    }

    /// Whoever compressed is done, or could not.
    pub fn end_compression(&mut self) {
        self.is_compressing = false;
    }

    /// Whether output should wait: the file is due to be put aside, which the compression of the last one prevents; or
    /// the remote side is slow and nothing may be lost.
    pub fn is_full(&self) -> bool {
        let max = self.rotation.max_size_bytes;
        (self.is_compressing && max > 0 && self.size >= max)
            || self.remote.as_ref().is_some_and(Remote::is_full)
    }

    /// The remote side, if there is one.
    pub fn remote(&mut self) -> Option<&mut Remote> {
        self.remote.as_mut()
    }

    /// The same, to look at.
    pub fn remote_ref(&self) -> Option<&Remote> {
        self.remote.as_ref()
    }

    /// Takes output as it comes, cut anywhere. Complete lines are in the file when this returns; the rest waits for
    /// its end.
    ///
    /// # Errors
    ///
    /// [`Error::Write`]: entries were dropped ([`Writer::dropped`] counts them) and the file ends with a whole line;
    /// the next call tries again. [`Error::Rotate`]: nothing was dropped, the file grows past its size.
    pub fn write(&mut self, stream: Stream, mut bytes: &[u8]) -> Result<(), Error> {
        let mut outcome = Ok(());
        while !bytes.is_empty() {
            let room = MAX_PIECE - self.unfinished[stream as usize].line.len();
            let window = &bytes[..room.min(bytes.len())];
            let end = window.iter().position(|&b| b == b'\n');
            let (piece, rest) = bytes.split_at(end.map_or(window.len(), |at| at + 1));
            bytes = rest;
            if end.is_some() || piece.len() == room {
                outcome = outcome.and(self.append(stream, piece, end.is_some()));
            } else {
                self.unfinished[stream as usize].line.extend_from_slice(piece);
            }
        }
        outcome.and(self.flush())
    }

    /// Writes what is left of a line without end. For the end of a stream.
    ///
    /// # Errors
    ///
    /// As [`Writer::write`].
    pub fn finish(&mut self, stream: Stream) -> Result<(), Error> {
        let mut outcome = Ok(());
        if !self.unfinished[stream as usize].line.is_empty() {
            outcome = self.append(stream, b"", false);
        }
        self.unfinished[stream as usize] = Unfinished::default();
        outcome.and(self.flush())
    }

    /// Entries lost to write errors since the log was opened.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Puts one entry into the batch: what is unfinished of the stream, and `piece`.
    fn append(&mut self, stream: Stream, piece: &[u8], is_last: bool) -> Result<(), Error> {
        let mut outcome = Ok(());
        if self.batch.len() >= BATCH {
            outcome = self.flush();
        }
        let max = self.rotation.max_size_bytes;
        if max > 0 && self.size + self.batch.len() as u64 >= max && !self.is_compressing {
            outcome = outcome.and(self.flush()).and(self.rotate());
        }
        // Strictly increasing, so that a client can ask for what came after the last entry it has.
        self.last_ns = now_ns().max(self.last_ns + 1);
        let unfinished = &mut self.unfinished[stream as usize];
        let time_ns = unfinished.first_ns.unwrap_or(self.last_ns);
        // Joined first: a character may be cut between the two.
        let line = if unfinished.line.is_empty() {
            piece
        } else {
            unfinished.line.extend_from_slice(piece);
            &unfinished.line
        };
        if let Some(format) = self.format {
            format.encode(&mut self.batch, stream, line, &self.attrs, time_ns);
        }
        if let Some(remote) = &mut self.remote {
            remote.push(stream, line, is_last, time_ns);
        }
        unfinished.first_ns = (!is_last).then_some(time_ns);
        unfinished.line.clear();
        outcome
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let outcome = self.write_batch();
        if let Err((written, _)) = &outcome {
            // The file ends with the last whole line that got through.
            self.dropped += self.batch[*written..].iter().filter(|&&b| b == b'\n').count() as u64;
        }
        self.batch.clear();
        self.batch.shrink_to(BATCH);
        outcome.map_err(|(_, source)| Error::Write { path: self.path.clone(), source })
    }

    /// On failure: how many bytes of whole lines are in the file.
    fn write_batch(&mut self) -> Result<(), (usize, io::Error)> {
        if self.file.is_none() {
            let file = open_append(&self.path).map_err(|e| (0, e))?;
            self.size = file.metadata().map_err(|e| (0, e))?.len();
            self.file = Some(file);
        }
        let file = self.file.as_mut().expect("opened above");
        let mut written = 0;
        while written < self.batch.len() {
            match file.write(&self.batch[written..]) {
                Ok(0) => {
                    return Err((
                        settle(file, &self.batch[..written], &mut self.size),
                        io::ErrorKind::WriteZero.into(),
                    ));
                }
                Ok(n) => written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err((settle(file, &self.batch[..written], &mut self.size), e)),
            }
        }
        self.size += written as u64;
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), Error> {
        let failed = |source| Error::Rotate { path: self.path.clone(), source };
        let oldest = self.rotation.max_files.max(1) - 1;
        let outcome = if oldest == 0 {
            std::fs::remove_file(&self.path)
        } else {
            for n in (1..oldest).rev() {
                move_aside(&numbered(&self.path, n), &numbered(&self.path, n + 1)).map_err(failed)?;
            }
            let aside = numbered(&self.path, 1);
            ignore_missing(std::fs::remove_file(compressed(&aside))).map_err(failed)?;
            let outcome = std::fs::rename(&self.path, &aside);
            self.has_rotated = self.rotation.compress;
            outcome
        };
        // Someone removed the file under us: a new one is what is wanted.
        ignore_missing(outcome).map_err(failed)?;
        self.file = None;
        self.size = 0;
        let file = open_append(&self.path).map_err(failed)?;
        self.file = Some(file);
        Ok(())
    }
}

/// `path.N`.
pub(crate) fn numbered(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

/// Renames a file that was put aside, in whichever of its two forms it is; there is one form of a number afterwards.
fn move_aside(from: &Path, to: &Path) -> io::Result<()> {
    let (from_gz, to_gz) = (compressed(from), compressed(to));
    match std::fs::rename(from, to) {
        Ok(()) => {
            ignore_missing(std::fs::remove_file(to_gz))?;
            // Of one that was compressed and not taken away yet.
            ignore_missing(std::fs::remove_file(from_gz))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => match std::fs::rename(from_gz, to_gz) {
            Ok(()) => ignore_missing(std::fs::remove_file(to)),
            other => ignore_missing(other),
        },
        Err(e) => Err(e),
    }
}

/// `path.gz`.
pub(crate) fn compressed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    name.into()
}

/// Takes back the torn end of a batch of which only `written` got through. Returns the bytes that stay.
fn settle(file: &File, written: &[u8], size: &mut u64) -> usize {
    let whole = written.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    let torn = (written.len() - whole) as u64;
    // The length is asked for, not remembered: the file may have been cut from outside. A failure leaves a torn line
    // that readers pass over and that the next `open` cuts.
    if torn > 0
        && let Ok(metadata) = file.metadata()
    {
        drop(file.set_len(metadata.len().saturating_sub(torn)));
    }
    *size += whole as u64;
    whole
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).expect("the flag fits"))
        .open(path)
}

/// Cuts what follows the last `\n`; returns the length left.
fn cut_torn_line(file: &mut File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut end = length;
    let mut block = [0; 4096];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let part = &mut block[..usize::try_from(end - start).expect("at most a block")];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(at) = part.iter().rposition(|&b| b == b'\n') {
            end = start + at as u64 + 1;
            break;
        }
        end = start;
    }
    if end < length {
        file.set_len(end)?;
    }
    Ok(end)
}

fn ignore_missing(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry;

    const NEVER: Rotation = Rotation { max_size_bytes: 0, max_files: 1, compress: false };

    fn lines(path: &Path) -> Vec<entry::Entry> {
        let text = std::fs::read(path).unwrap();
        text.split_inclusive(|&b| b == b'\n').map(|l| entry::decode(l.trim_ascii_end()).unwrap()).collect()
    }

    #[test]
    fn joins_and_splits_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut writer = Writer::open(&path, NEVER, &BTreeMap::new()).unwrap();
        writer.write(Stream::Stdout, b"he").unwrap();
        writer.write(Stream::Stderr, b"err\n").unwrap();
        writer.write(Stream::Stdout, b"llo \xc3").unwrap();
        writer.write(Stream::Stdout, b"\xa4\n\nrest").unwrap();
        writer.finish(Stream::Stdout).unwrap();
        writer.finish(Stream::Stderr).unwrap();
        let got: Vec<_> = lines(&path).into_iter().map(|e| (e.stream, e.line)).collect();
        assert_eq!(
            got,
            [
                (Stream::Stderr, b"err\n".to_vec()),
                (Stream::Stdout, "hello \u{e4}\n".into()),
                (Stream::Stdout, b"\n".to_vec()),
                (Stream::Stdout, b"rest".to_vec()),
            ]
        );
    }

    #[test]
    fn long_lines_come_in_pieces_of_16_kib_with_one_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut writer = Writer::open(&path, NEVER, &BTreeMap::new()).unwrap();
        let mut output = vec![b'x'; 2 * MAX_PIECE];
        output.extend_from_slice(b"\nnext\n");
        for part in output.chunks(1000) {
            writer.write(Stream::Stdout, part).unwrap();
        }
        let got = lines(&path);
        let shape: Vec<_> = got.iter().map(|e| e.line.len()).collect();
        assert_eq!(shape, [MAX_PIECE, MAX_PIECE, 1, 5]);
        assert_eq!(got[0].time_ns, got[2].time_ns);
        assert!(got[3].time_ns > got[0].time_ns);
    }

    #[test]
    fn files_put_aside_are_compressed_and_keep_their_turn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let rotation = Rotation { max_size_bytes: 100, max_files: 4, compress: true };
        let target = || Target { file: Some((&path, Format::Local, rotation)), ..Target::default() };
        let mut writer = Writer::with(target()).unwrap();
        for n in 0..200 {
            writer.write(Stream::Stdout, format!("line {n}\n").as_bytes()).unwrap();
            if let Some(aside) = writer.take_rotated() {
                // While it is compressed, nothing moves.
                let before = writer.size;
                writer.write(Stream::Stdout, &[b'x'; 200]).unwrap();
                writer.write(Stream::Stdout, b"\n").unwrap();
                assert!(writer.is_full() && writer.size > before && writer.take_rotated().is_none());
                crate::compress(&aside).unwrap();
                assert!(!aside.exists() && compressed(&aside).exists());
                writer.end_compression();
            }
        }
        let names: Vec<String> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(names.len() <= 5 && names.iter().filter(|n| n.ends_with(".gz")).count() >= 2, "{names:?}");
        // One that was put aside and whose compression never came is taken up again.
        std::fs::write(numbered(&path, 1), "o1 x\n").unwrap();
        assert_eq!(Writer::with(target()).unwrap().take_rotated(), Some(numbered(&path, 1)));
    }

    #[test]
    fn a_restart_appends_after_cutting_the_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        Writer::open(&path, NEVER, &BTreeMap::new()).unwrap().write(Stream::Stdout, b"one\n").unwrap();
        let torn = format!("{{\"log\":\"{}", "y".repeat(10_000));
        OpenOptions::new().append(true).open(&path).unwrap().write_all(torn.as_bytes()).unwrap();
        Writer::open(&path, NEVER, &BTreeMap::new()).unwrap().write(Stream::Stdout, b"two\n").unwrap();
        let got: Vec<_> = lines(&path).into_iter().map(|e| e.line).collect();
        assert_eq!(got, [b"one\n", b"two\n"]);
    }

    #[test]
    fn rotates_by_renaming_and_keeps_so_many() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let rotation = Rotation { max_size_bytes: 200, max_files: 3, compress: false };
        let mut writer = Writer::open(&path, rotation, &BTreeMap::new()).unwrap();
        for n in 0..20 {
            writer.write(Stream::Stdout, format!("line {n}\n").as_bytes()).unwrap();
        }
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["log", "log.1", "log.2"]);
        let all: Vec<_> = [2, 1]
            .into_iter()
            .flat_map(|n| lines(&numbered(&path, n)))
            .chain(lines(&path))
            .map(|e| String::from_utf8(e.line).unwrap())
            .collect();
        let expected: Vec<_> = (20 - all.len()..20).map(|n| format!("line {n}\n")).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn a_single_file_starts_afresh() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let rotation = Rotation { max_size_bytes: 100, max_files: 1, compress: false };
        let mut writer = Writer::open(&path, rotation, &BTreeMap::new()).unwrap();
        for n in 0..9 {
            writer.write(Stream::Stdout, format!("line {n}\n").as_bytes()).unwrap();
        }
        assert_eq!(lines(&path).last().unwrap().line, b"line 8\n");
        assert!(!numbered(&path, 1).exists());
    }

    #[test]
    fn a_symlink_is_no_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(matches!(Writer::open(&path, NEVER, &BTreeMap::new()), Err(Error::Open { .. })));
    }
}
