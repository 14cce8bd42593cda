//! The files of a result, as clients get them: one by one, or as a directory that is sent.

use crate::rpc::{Reply, stream_of};
use crate::session::Session;
use crate::status;
use crate::wire::{Packet, Stat};
use rootdir::RootDir;
use rustix::fs::{FileType, Mode, OFlags};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc as blocking;
use tokio::sync::mpsc;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Status, Streaming};

pub(crate) const SEND: &str = "/moby.filesync.v1.FileSend/DiffCopy";
/// By which the client knows what of its outputs a file is for.
const EXPORTER_ID: &str = "buildkit-attachable-exporter-id";
/// Bytes of a packet.
const PIECE: usize = 32 << 10;
/// Deepest directory that is sent.
const MAX_DEPTH: usize = 400;

/// What is told of the file at `path`, which is told by the name `shown`.
pub(crate) fn stat(root: &RootDir, path: &Path, shown: &str) -> Reply<Stat> {
    let found = root.symlink_metadata(path).map_err(|e| status::of(&e))?;
    let link = match FileType::from_raw_mode(found.st_mode) {
        FileType::Symlink => root.read_link(path).map_err(|e| status::of(&e))?.to_string_lossy().into_owned(),
        _ => String::new(),
    };
    Ok(stat_of(&found, shown, link))
}

fn stat_of(found: &rustix::fs::Stat, shown: &str, link: String) -> Stat {
    let kind = FileType::from_raw_mode(found.st_mode);
    let is_device = kind.is_block_device() || kind.is_char_device();
    let number = |n: u32| if is_device { i64::from(n) } else { 0 };
    Stat {
        path: shown.to_string(),
        mode: engine::go_mode(found.st_mode),
        uid: found.st_uid,
        gid: found.st_gid,
        size: if kind.is_file() { found.st_size } else { 0 },
        modified_ns: found
            .st_mtime
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::try_from(found.st_mtime_nsec).unwrap_or(0)),
        link,
        device_major: number(rustix::fs::major(found.st_rdev)),
        device_minor: number(rustix::fs::minor(found.st_rdev)),
        attributes: BTreeMap::new(),
    }
}

/// Names the exporter that a stream is for.
pub(crate) fn for_exporter(id: usize) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    if let Ok(value) = AsciiMetadataValue::try_from(id.to_string()) {
        metadata.insert(EXPORTER_ID, value);
    }
    metadata
}

/// Directories to send: where each stands in what is sent (empty for the top), and its root.
pub(crate) type Roots = Vec<(String, RootDir)>;

/// Sends directories to the client's output `id`. `keep` lives until all is sent.
pub(crate) async fn send<K: Send + 'static>(
    session: &Session,
    id: usize,
    roots: Roots,
    keep: K,
    epoch: Option<i64>,
) -> Reply<u64> {
    if !session.serves(SEND) {
        return Err(Status::failed_precondition(format!("method {SEND} not supported by the client")));
    }
    let (sender, receiver) = mpsc::channel::<Packet>(64);
    let (asks, asked) = blocking::channel();
    let caller = session.caller.clone();
    // The client answers nothing before it is told of files: so the call goes on beside.
    let listening = tokio::spawn(async move {
        match caller.streams::<_, Packet>(SEND, stream_of(receiver), for_exporter(id)).await {
            Ok(incoming) => listen(incoming, asks).await,
            Err(status) => {
                drop(asks.send(Ask::Failed(status.clone())));
                Err(status)
            }
        }
    });
    let work = move || {
        let sent = Sender { to_client: sender, files: Vec::new(), epoch, bytes: 0 }.run(&roots, &asked);
        drop(keep);
        sent
    };
    let sent =
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(Status::internal(e.to_string())))?;
    // The client closes the stream once it has put all in place.
    listening.await.unwrap_or_else(|e| Err(Status::internal(e.to_string())))?;
    Ok(sent)
}

/// What the client asks for.
enum Ask {
    File(u32),
    Finish,
    Failed(Status),
}

async fn listen(mut incoming: Streaming<Packet>, asks: blocking::Sender<Ask>) -> Reply<()> {
    loop {
        let packet = match incoming.message().await {
            Ok(Some(packet)) => packet,
            Ok(None) => return Ok(()),
            Err(status) => {
                drop(asks.send(Ask::Failed(status.clone())));
                return Err(status);
            }
        };
        let ask = match packet.kind {
            Packet::REQUEST => Ask::File(packet.id),
            Packet::FINISH => Ask::Finish,
            Packet::ERROR => {
                let text = String::from_utf8_lossy(&packet.data);
                Ask::Failed(Status::unknown(format!("error from receiver: {text}")))
            }
            kind => Ask::Failed(Status::invalid_argument(format!("unexpected packet of kind {kind}"))),
        };
        // Who does not listen any more has failed, and says why.
        drop(asks.send(ask));
    }
}

struct Sender {
    to_client: mpsc::Sender<Packet>,
    /// What was told: the root's place and the path below it, for regular files.
    files: Vec<Option<(usize, PathBuf)>>,
    epoch: Option<i64>,
    bytes: u64,
}

impl Sender {
    fn put(&self, packet: Packet) -> Reply<()> {
        self.to_client.blocking_send(packet).map_err(|_| Status::aborted("the client has gone"))
    }

    fn run(mut self, roots: &Roots, asked: &blocking::Receiver<Ask>) -> Reply<u64> {
        for (index, (place, root)) in roots.iter().enumerate() {
            if !place.is_empty() {
                let mut top = stat(root, Path::new("."), place)?;
                self.clamp(&mut top);
                self.tell(top, None)?;
            }
            self.walk(index, root, place, Path::new(""), 0)?;
        }
        self.put(Packet::new(Packet::STAT))?;
        while let Ok(ask) = asked.recv() {
            match ask {
                Ask::File(id) => self.file(roots, id)?,
                Ask::Finish => {
                    self.put(Packet::new(Packet::FINISH))?;
                    return Ok(self.bytes);
                }
                Ask::Failed(status) => return Err(status),
            }
        }
        Err(Status::aborted("the client ended a transfer of files in the middle"))
    }

    fn clamp(&self, stat: &mut Stat) {
        if let Some(latest) = self.epoch.and_then(|s| s.checked_mul(1_000_000_000)) {
            stat.modified_ns = stat.modified_ns.min(latest);
        }
    }

    fn tell(&mut self, stat: Stat, file: Option<(usize, PathBuf)>) -> Reply<()> {
        self.files.push(file);
        self.put(Packet { stat: Some(stat), ..Packet::new(Packet::STAT) })
    }

    fn walk(&mut self, index: usize, root: &RootDir, place: &str, dir: &Path, depth: usize) -> Reply<()> {
        if depth > MAX_DEPTH {
            return Err(Status::resource_exhausted(format!(
                "directories are nested deeper than {MAX_DEPTH}"
            )));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let here = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let fd = root.open_file(here, flags, Mode::empty()).map_err(|e| status::of(&e))?;
        let mut names = rootdir::list_at(fd.as_fd())
            .map_err(|e| Status::internal(format!("list {}: {e}", dir.display())))?;
        names.sort();
        for name in names {
            let path = dir.join(&name);
            let Some(text) = path.to_str() else {
                let text = path.to_string_lossy();
                return Err(Status::invalid_argument(format!(
                    "{text:?} cannot be sent: its name is not UTF-8"
                )));
            };
            let shown = if place.is_empty() { text.to_string() } else { format!("{place}/{text}") };
            let mut stat = stat(root, &path, &shown)?;
            self.clamp(&mut stat);
            let kind =
                FileType::from_raw_mode(root.symlink_metadata(&path).map_err(|e| status::of(&e))?.st_mode);
            let file = kind.is_file().then(|| (index, path.clone()));
            self.tell(stat, file)?;
            if kind.is_dir() {
                self.walk(index, root, place, &path, depth + 1)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, roots: &Roots, id: u32) -> Reply<()> {
        let known = usize::try_from(id).ok().and_then(|id| self.files.get_mut(id)).and_then(Option::take);
        let Some((index, path)) = known else {
            return Err(Status::invalid_argument(format!("invalid file id {id}")));
        };
        let mut file = roots[index].1.open_regular(&path).map_err(|e| status::of(&e))?;
        let mut buffer = vec![0; PIECE];
        loop {
            let n = file
                .read(&mut buffer)
                .map_err(|e| Status::internal(format!("read {}: {e}", path.display())))?;
            let data = bytes::Bytes::copy_from_slice(&buffer[..n]);
            self.bytes += n as u64;
            self.put(Packet { id, data, ..Packet::new(Packet::DATA) })?;
            if n == 0 {
                return Ok(());
            }
        }
    }
}

/// A blocking writer of one file that the client takes.
pub(crate) struct Pieces(pub(crate) mpsc::Sender<crate::wire::BytesMessage>);

impl std::io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = bytes.len().min(PIECE * 8);
        let data = bytes::Bytes::copy_from_slice(&bytes[..n]);
        let sent = self.0.blocking_send(crate::wire::BytesMessage { data });
        sent.map(|()| n).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
