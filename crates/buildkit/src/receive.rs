//! Receiving a directory from a client: it tells all files first, and sends those that are asked for.
//!
//! ```text
//! client                          here
//!   STAT for each file, in order    compared with what is there; REQUEST n for what differs
//!   STAT without a file             what was not told is removed
//!   DATA n, ..., DATA n empty       written under another name, then renamed
//!                                   FINISH once nothing is missing
//!   FINISH
//! ```
//!
//! What is told is compared and written by [`build::Mirror`].

use crate::rpc::{Reply, stream_of_unbounded};
use crate::session::Session;
use crate::wire::{Packet, Stat};
use build::{FileStat, Mirror, Received};
use rustix::fs::{FileType, Mode, OFlags};
use std::path::Path;
use tokio::sync::mpsc;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Status, Streaming};

const DIFF_COPY: &str = "/moby.filesync.v1.FileSync/DiffCopy";

/// What of a directory is wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// The name by which the client offers it.
    pub(crate) name: String,
    pub(crate) exclude: Vec<String>,
    /// Only these paths, with what their symlinks lead to; empty for all.
    pub(crate) follow: Vec<String>,
}

/// Makes the directory `to` like what the client of `session` offers. `progress` hears the bytes received so far.
pub(crate) async fn receive(
    session: &Session,
    wanted: &Wanted,
    to: &Path,
    progress: impl Fn(u64) + Send + 'static,
) -> Reply<Received> {
    if !session.serves(DIFF_COPY) {
        return Err(Status::failed_precondition("no local sources enabled"));
    }
    let mut metadata = MetadataMap::new();
    put(&mut metadata, "dir-name", std::slice::from_ref(&wanted.name))?;
    put(&mut metadata, "exclude-patterns", &wanted.exclude)?;
    put(&mut metadata, "followpaths", &wanted.follow)?;
    let (sender, receiver) = mpsc::unbounded_channel();
    let incoming = session.caller.streams(DIFF_COPY, stream_of_unbounded(receiver), metadata).await?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(to, flags, Mode::empty())
        .map_err(|e| Status::internal(format!("open {}: {e}", to.display())))?;
    let handle = tokio::runtime::Handle::current();
    let work = move || {
        let mut mirror = Mirror::new(root);
        let done = run(&handle, incoming, &sender, &mut mirror, &progress);
        if let Err(status) = &done {
            let data = bytes::Bytes::from(status.message().to_string());
            drop(sender.send(Packet { data, ..Packet::new(Packet::ERROR) }));
        }
        mirror.clean();
        done.map(|()| mirror.received())
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(Status::internal(e.to_string())))
}

/// Puts values where the client looks for options; those with other than ASCII are percent-encoded, and so marked.
fn put(metadata: &mut MetadataMap, key: &'static str, values: &[String]) -> Reply<()> {
    let is_plain = values.iter().all(|v| v.bytes().all(|b| (0x20..0x7f).contains(&b)));
    for value in values {
        let text: String =
            if is_plain {
                value.clone()
            } else {
                value
                    .bytes()
                    .map(|b| {
                        if b.is_ascii_alphanumeric() {
                            char::from(b).to_string()
                        } else {
                            format!("%{b:02X}")
                        }
                    })
                    .collect()
            };
        let text: AsciiMetadataValue =
            text.parse().map_err(|_| Status::invalid_argument(format!("{key} {value:?} cannot be sent")))?;
        metadata.append(key, text);
    }
    if !is_plain {
        let name = tonic::metadata::AsciiMetadataKey::from_bytes(format!("{key}-encoded").as_bytes());
        metadata
            .insert(name.map_err(|e| Status::internal(e.to_string()))?, AsciiMetadataValue::from_static("1"));
    }
    Ok(())
}

fn run(
    handle: &tokio::runtime::Handle,
    mut incoming: Streaming<Packet>,
    to_client: &mpsc::UnboundedSender<Packet>,
    mirror: &mut Mirror,
    progress: &dyn Fn(u64),
) -> Reply<()> {
    let failed = |e: build::Error| match errors::HasKind::kind(&e) {
        errors::Kind::InvalidArgument => Status::invalid_argument(e.text()),
        _ => Status::internal(e.text()),
    };
    let send = |packet| to_client.send(packet).map_err(|_| Status::aborted("the client has gone"));
    let mut next_id = 0;
    let mut has_said = false;
    loop {
        let Some(packet) = handle.block_on(incoming.message())? else {
            return Err(Status::aborted("the client ended a transfer of files in the middle"));
        };
        let is_complete = match (packet.kind, packet.stat) {
            (Packet::STAT, Some(stat)) => {
                if mirror.told(file_stat(stat)).map_err(failed)? {
                    send(Packet { id: next_id, ..Packet::new(Packet::REQUEST) })?;
                }
                next_id += 1;
                false
            }
            (Packet::STAT, None) => mirror.told_all().map_err(failed)?,
            (Packet::DATA, _) => {
                let is_complete = mirror.data(packet.id, &packet.data).map_err(failed)?;
                progress(mirror.received().sent_bytes);
                is_complete
            }
            (Packet::FINISH, _) if has_said => return Ok(()),
            (Packet::ERROR, _) => {
                let text = String::from_utf8_lossy(&packet.data);
                return Err(Status::unknown(format!("error from sender: {text}")));
            }
            (kind, _) => return Err(Status::invalid_argument(format!("unexpected packet of kind {kind}"))),
        };
        if is_complete && !std::mem::replace(&mut has_said, true) {
            send(Packet::new(Packet::FINISH))?;
        }
    }
}

/// The same with the kernel's mode. Kinds that contexts may not have become a device, which nobody takes.
fn file_stat(stat: Stat) -> FileStat {
    let Stat { path, mode, uid, gid, size, modified_ns, link, attributes, .. } = stat;
    // What the kernel does not have is refused as a device is.
    let mode = engine::unix_mode(mode).unwrap_or(FileType::CharacterDevice.as_raw_mode());
    FileStat { path, mode, uid, gid, size, modified_ns, link, attributes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_the_kernels() {
        let mode = |go: u32| file_stat(Stat { mode: go, ..Stat::default() }).mode;
        assert_eq!(mode((1 << 31) | 0o750), 0o040_750);
        assert_eq!(mode((1 << 27) | 0o777), 0o120_777);
        assert_eq!(mode(0o755 | (1 << 23) | (1 << 20)), 0o105_755);
        assert_eq!(mode(1 << 26 | 0o600), 0o060_600);
        // Irregular, which the kernel does not know.
        assert_eq!(mode(1 << 19 | 0o600), 0o020_000);
    }
}
