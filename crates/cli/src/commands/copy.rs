//! `cp`: between a container and local files, or a tar stream on the standard streams.
//!
//! The daemon packs and unpacks on its side; here is the other half, and the decision what is called what where
//! (`rules.rs`). What a container sends is untrusted: it is unpacked below a descriptor of the destination, and no entry
//! leaves that.

mod rules;

use super::Context;
use crate::blocking::{Download, upload};
use crate::body;
use crate::error::{Error, Result};
use crate::http::{Extra, Path};
use crate::terminal::{self, Out};
use crate::units;
use base64::Engine as _;
use http_body_util::BodyExt;
use hyper::Method;
use rootdir::RootDir;
use rules::{Plan, Side};
use std::fs::FileType;
use std::io::IsTerminal;
use std::os::unix::fs::FileTypeExt;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Copy {
    /// Archive mode (copy all uid/gid information)
    #[arg(short, long)]
    archive: bool,
    /// Always follow symbol link in SRC_PATH
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached
    #[arg(short, long)]
    quiet: bool,
    /// CONTAINER:SRC_PATH, a local path, or '-' for a tar archive on standard input
    #[arg(value_name = "SRC", allow_hyphen_values = true)]
    source: String,
    /// CONTAINER:DEST_PATH, a local path, or '-' for a tar archive on standard output
    #[arg(value_name = "DEST", allow_hyphen_values = true)]
    target: String,
}

/// Symlinks followed at a destination.
const MAX_LINKS: usize = 10;
/// `os.FileMode` bits of Go, as the daemon sends them.
const GO_DIRECTORY: u64 = 1 << 31;
const GO_SYMLINK: u64 = 1 << 27;
const GO_OTHER: u64 = (1 << 26) | (1 << 25) | (1 << 24) | (1 << 19);

pub(crate) async fn copy(context: &Context, flags: &Copy) -> Result<u8> {
    for (what, word) in [("source", &flags.source), ("destination", &flags.target)] {
        if word.is_empty() {
            return Err(Error::Usage(format!("{what} can not be empty")));
        }
    }
    match (rules::split_argument(&flags.source), rules::split_argument(&flags.target)) {
        (Some((container, path)), None) => out_of(context, flags, container, path).await,
        (None, Some((container, path))) => into(context, flags, container, path).await,
        (Some(_), Some(_)) => Err(Error::Usage("copying between containers is not supported".into())),
        (None, None) => Err(Error::Usage("must specify at least one container source".into())),
    }
}

/// What the daemon says of a path.
struct Stat {
    mode: u64,
    link_target: String,
}

fn parse_stat(text: Option<&hyper::header::HeaderValue>) -> Option<Stat> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text?.as_bytes()).ok()?;
    let document: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    Some(Stat {
        mode: document["mode"].as_u64()?,
        link_target: document["linkTarget"].as_str().unwrap_or_default().to_string(),
    })
}

const STAT: &str = "X-Docker-Container-Path-Stat";

async fn stat(context: &Context, container: &str, path: &str) -> Result<Stat> {
    let path = Path::new(&["containers", container, "archive"]).query("path", path);
    let response = context.client.request(Method::HEAD, &path, Extra::default()).await?;
    parse_stat(response.headers().get(STAT))
        .ok_or_else(|| Error::transport("look at a path", "no stat in the answer"))
}

async fn out_of(context: &Context, flags: &Copy, container: &str, path: &str) -> Result<u8> {
    let mut path = path.to_string();
    let target = if flags.target == "-" { None } else { Some(local_target(&flags.target)?) };
    if target.is_none() && std::io::stdout().is_terminal() {
        return Err(Error::Usage("cowardly refusing to write an archive to a terminal".into()));
    }
    let mut name = None;
    if flags.follow_link
        && let Ok(found) = stat(context, container, &path).await
        && found.mode & GO_SYMLINK != 0
    {
        let resolved = rules::keep_end(&found.link_target, &path);
        let asked = rules::split(&path).1;
        name = (rules::split(&resolved).1 != asked).then_some(asked);
        path = resolved;
    }
    let query = Path::new(&["containers", container, "archive"]).query("path", &path);
    let response = context.client.request(Method::GET, &query, Extra::default()).await?;
    let found = parse_stat(response.headers().get(STAT));
    let Some(target) = target else { return to_stdout(response.into_body()).await };
    let found = found.ok_or_else(|| Error::transport("read the archive", "no stat in the answer"))?;
    let source = Side { path, exists: true, is_dir: found.mode & GO_DIRECTORY != 0, name };
    let plan = rules::plan(&source, &target)?;
    let count = receive(response.into_body(), &source, plan, flags.archive).await?;
    report(flags, count, &target.path);
    Ok(0)
}

async fn to_stdout(mut body: hyper::body::Incoming) -> Result<u8> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Error::transport("read the archive", e))?;
        if let Ok(bytes) = frame.into_data() {
            let written = Out::Stdout.write_all(&bytes).await;
            written.map_err(|source| Error::Stream { doing: "write the archive", source })?;
        }
    }
    Ok(0)
}

/// Unpacks what the daemon sends; the bytes that it sent.
async fn receive(body: hyper::body::Incoming, source: &Side, plan: Plan, keep_owner: bool) -> Result<u64> {
    let sent = rules::split(&source.path).1;
    let mut options = archive::Options {
        whiteouts: archive::Whiteouts::Keep,
        keep_owner,
        keep_kinds: true,
        ..archive::Options::default()
    };
    match (sent.as_str(), plan.name.as_str()) {
        // The entries have no name of their own above them.
        ("." | "/", ".") => options.keep_base = true,
        ("." | "/", "/") => options.keep_base = true,
        ("." | "/", name) => options.base = name.into(),
        (sent, name) => options.rename = Some((sent.into(), name.into())),
    }
    let root = open(&plan.directory)?;
    let mut download = Download::start(body);
    let unpacked = tokio::task::spawn_blocking(move || {
        let applied = archive::apply(&mut download, &root, &options);
        applied.map(|a| a.tar_bytes).map_err(|e| (e, download.failure()))
    });
    match unpacked.await {
        Ok(Ok(count)) => Ok(count),
        // What broke the stream is the cause, the other only the consequence.
        Ok(Err((_, Some(broken)))) => Err(Error::transport("read the archive", broken)),
        Ok(Err((e, None))) => Err(Error::Reported(errors::chain(&e))),
        Err(e) => Err(Error::Reported(e.to_string())),
    }
}

fn open(directory: &str) -> Result<RootDir> {
    RootDir::open(std::path::Path::new(directory)).map_err(|e| Error::Reported(errors::chain(&e)))
}

async fn into(context: &Context, flags: &Copy, container: &str, path: &str) -> Result<u8> {
    let mut target = Side { path: path.to_string(), ..Side::default() };
    // A failure may be a missing parent or anything else: the copy itself will say.
    if let Ok(mut found) = stat(context, container, path).await {
        let mut still = true;
        if found.mode & GO_SYMLINK != 0 {
            target.path.clone_from(&found.link_target);
            match stat(context, container, &found.link_target).await {
                Ok(next) => found = next,
                Err(_) => still = false,
            }
        }
        if still {
            if found.mode & GO_OTHER != 0 {
                return Err(Error::Usage(format!(
                    "destination \"{container}:{path}\" must be a directory or a regular file"
                )));
            }
            (target.exists, target.is_dir) = (true, found.mode & GO_DIRECTORY != 0);
        }
    }
    let (directory, chunks) = if flags.source == "-" {
        if !target.is_dir {
            return Err(Error::Usage(format!("destination \"{container}:{path}\" must be a directory")));
        }
        (target.path.clone(), terminal::stdin_chunks())
    } else {
        let (source, found) = local_source(&flags.source, flags.follow_link)?;
        let plan = rules::plan(&source, &target)?;
        (plan.directory, pack(&source, found, plan.name)?)
    };
    let query = Path::new(&["containers", container, "archive"])
        .query("path", &directory)
        .query("noOverwriteDirNonDir", "true")
        .flag("copyUIDGID", flags.archive);
    let body = body::streamed(chunks);
    let response = context.client.request_stream(Method::PUT, &query, "application/x-tar", body).await?;
    context.client.read_all(response).await?;
    report(flags, 0, &format!("{container}:{path}"));
    Ok(0)
}

fn report(flags: &Copy, count: u64, target: &str) {
    if flags.quiet || !std::io::stdout().is_terminal() {
        return;
    }
    let text = match count {
        0 => format!("Successfully copied to {target}"),
        count => format!("Successfully copied {} to {target}", units::human_size(count as f64, 3)),
    };
    terminal::warn(&text);
}

/// Reads a local tree as an archive whose topmost entry is called `name`.
fn pack(
    source: &Side,
    found: FileType,
    name: String,
) -> Result<tokio::sync::mpsc::Receiver<std::io::Result<bytes::Bytes>>> {
    let (root, leaf) = if found.is_dir() {
        (open(&source.path)?, ".".to_string())
    } else {
        let (above, leaf) = rules::split(&source.path);
        (open(&above)?, leaf)
    };
    let options =
        archive::PackOptions { rebase: Some(name.into()), cross_mounts: true, ..Default::default() };
    Ok(upload(move |out| {
        archive::pack(out, &root, std::path::Path::new(&leaf), &options)
            .map(drop)
            .map_err(|e| errors::chain(&e))
    }))
}

/// A local path, absolute, with the end that it was given.
fn absolute(path: &str) -> Result<String> {
    if path.starts_with('/') {
        return Ok(rules::keep_end(&rules::clean(path), path));
    }
    let here = std::env::current_dir().map_err(|source| Error::File {
        doing: "find the current directory for",
        path: path.into(),
        source,
    })?;
    Ok(rules::keep_end(&rules::clean(&format!("{}/{path}", here.display())), path))
}

/// What is at a local path that is read.
fn local_source(path: &str, follow: bool) -> Result<(Side, FileType)> {
    let path = absolute(path)?;
    let failed = |source| Error::File { doing: "read", path: path.clone().into(), source };
    let bare = rules::clean(&path);
    let follow = follow || rules::says_directory(&path);
    let resolved = if follow {
        std::path::Path::new(&bare).canonicalize_by_kernel().map_err(failed)?
    } else {
        bare.clone()
    };
    let found = std::fs::symlink_metadata(&resolved).map_err(failed)?.file_type();
    if rules::says_directory(&path) && !found.is_dir() {
        return Err(failed(std::io::ErrorKind::NotADirectory.into()));
    }
    let kept = rules::keep_end(&resolved, &path);
    let asked = rules::split(&path).1;
    let name = (rules::split(&kept).1 != asked).then_some(asked);
    Ok((Side { path: kept, exists: true, is_dir: found.is_dir(), name }, found))
}

/// What is at a local path that is written, symlinks at its end followed.
fn local_target(path: &str) -> Result<Side> {
    let given = absolute(path)?;
    let above = rules::split(&rules::clean(&given)).0;
    if std::fs::symlink_metadata(&above).is_err() {
        return Err(Error::Usage(format!("invalid output path: directory {above:?} does not exist")));
    }
    let mut now = given.clone();
    for _ in 0..MAX_LINKS {
        let bare = rules::clean(&now);
        let Ok(found) = std::fs::symlink_metadata(&bare) else {
            let parent = rules::split(&bare).0;
            return match std::fs::metadata(&parent) {
                Ok(m) if m.is_dir() => Ok(Side { path: now, ..Side::default() }),
                Ok(_) => Err(Error::Usage("not a directory".into())),
                Err(source) => Err(Error::File { doing: "write into", path: parent.into(), source }),
            };
        };
        let kind = found.file_type();
        if kind.is_symlink() {
            let read = std::fs::read_link(&bare);
            let target =
                read.map_err(|source| Error::File { doing: "read", path: bare.clone().into(), source })?;
            let target = target.to_string_lossy();
            let next = match target.starts_with('/') {
                true => target.into_owned(),
                false => format!("{}/{target}", rules::split(&bare).0),
            };
            now = rules::keep_end(&rules::clean(&next), &given);
            continue;
        }
        if kind.is_block_device() || kind.is_char_device() || kind.is_fifo() || kind.is_socket() {
            return Err(Error::Usage(format!(
                "invalid output path: {given:?} must be a directory or a regular file"
            )));
        }
        if !kind.is_dir() && rules::says_directory(&now) {
            return Err(Error::Usage(format!("{given}: not a directory")));
        }
        return Ok(Side { path: now, exists: true, is_dir: kind.is_dir(), name: None });
    }
    Err(Error::Usage(format!("too many symlinks in {given}")))
}

/// The path of what a path leads to, as the kernel names it.
trait ByKernel {
    fn canonicalize_by_kernel(&self) -> std::io::Result<String>;
}

impl ByKernel for std::path::Path {
    fn canonicalize_by_kernel(&self) -> std::io::Result<String> {
        use std::os::fd::AsRawFd;
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        let fd = rustix::fs::open(self, flags, rustix::fs::Mode::empty())?;
        let path = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        Ok(path.to_string_lossy().into_owned())
    }
}
