//! Contexts of which only what has changed is sent: `POST /brig/context`, then `POST /build` with its token.
//!
//! ```text
//! POST /brig/context?key=TEXT   body: all files, as [`entry`] reads them, and an end
//!   {"token": ..., "wanted": [[first, count], ...]}      numbers of files whose content is not here
//! POST /build                   the document has "kept": {"": token}; behind it, in place of the tar:
//!   number (4 bytes), length (4 bytes), so many bytes; a length of 0 ends a file, the number 2^32-1 the whole
//! ```
//!
//! Numbers are big-endian. Between the two requests the directory is held, for a minute at the most.

use crate::body;
use crate::reply::{Failure, Outcome, ok};
use crate::request::Call;
use crate::serve::Api;
use build::{Context, FileStat, Kept, Mirror};
use hyper::StatusCode;
use rustix::fs::{Mode, OFlags};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::io::{BufReader, Read};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// How long a directory waits for the build that it was told for.
const HELD: Duration = Duration::from_secs(60);
/// Most directories that wait at a time.
const MAX_HELD: usize = 64;
/// Longest key of a directory.
const MAX_KEY: usize = 8192;
/// Most attributes of a file, and bytes of all of them: a file system keeps no more in an inode and a block.
const MAX_ATTRIBUTES: usize = 256;
const MAX_ATTRIBUTE_BYTES: usize = 64 << 10;
/// Longest piece of a file.
const MAX_PIECE: u32 = 1 << 20;
/// Ends the content.
const END: u32 = u32::MAX;

/// A directory whose files were told, and not yet sent.
struct Waiting {
    kept: Kept,
    mirror: Mirror,
}

fn held() -> &'static Mutex<HashMap<String, Waiting>> {
    static HELD: OnceLock<Mutex<HashMap<String, Waiting>>> = OnceLock::new();
    HELD.get_or_init(Mutex::default)
}

fn take(token: &str) -> Option<Waiting> {
    held().lock().unwrap_or_else(PoisonError::into_inner).remove(token)
}

/// `POST /brig/context`.
pub(crate) async fn list(api: &Arc<Api>, call: Call) -> Outcome {
    let key = call.query.text("key").to_string();
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(Failure::bad_request(format!("a context has a key of 1 to {MAX_KEY} bytes")));
    }
    let engine = api.engine.clone();
    let (waiting, wanted) = body::read_by(call, |reader| async move {
        let read = tokio::task::spawn_blocking(move || {
            let kept = Kept::open(&engine, &format!("cli\0{key}"), "local source for context");
            compare(kept.map_err(super::failure)?, &mut BufReader::with_capacity(64 << 10, reader))
        });
        read.await.unwrap_or_else(|e| Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string())))
    })
    .await?;
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("make a token: {e}")))?;
    let token = random.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    {
        let mut held = held().lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= MAX_HELD {
            let text = format!("{MAX_HELD} build contexts wait for their builds already");
            return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, text));
        }
        held.insert(token.clone(), waiting);
    }
    let forgotten = token.clone();
    drop(tokio::spawn(async move {
        tokio::time::sleep(HELD).await;
        drop(take(&forgotten));
    }));
    ok(&json!({ "token": token, "wanted": wanted }))
}

/// Tells a mirror what is read. Runs of numbers that are wanted: the first, and how many.
fn compare(kept: Kept, reader: &mut impl Read) -> Result<(Waiting, Vec<(u32, u32)>), Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(kept.files(), flags, Mode::empty()).map_err(|e| {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("open {}: {e}", kept.files().display()))
    })?;
    let mut mirror = Mirror::new(root);
    let mut wanted: Vec<(u32, u32)> = Vec::new();
    let mut number = 0;
    while let Some(stat) = entry(reader)? {
        if mirror.told(stat).map_err(super::failure)? {
            match wanted.last_mut() {
                Some((first, count)) if *first + *count == number => *count += 1,
                _ => wanted.push((number, 1)),
            }
        }
        number += 1;
    }
    mirror.told_all().map_err(super::failure)?;
    // The end of the body belongs to the request too: a connection that is closed before it is reset.
    drop(std::io::copy(&mut reader.by_ref().take(super::request::MAX_TAIL), &mut std::io::sink()));
    Ok((Waiting { kept, mirror }, wanted))
}

fn cut(e: std::io::Error) -> Failure {
    Failure::bad_request(format!("reading the files of a context: {e}"))
}

fn array<const N: usize>(reader: &mut impl Read) -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes).map_err(cut)?;
    Ok(bytes)
}

fn bytes(reader: &mut impl Read, length: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes).map_err(cut)?;
    Ok(bytes)
}

fn text(reader: &mut impl Read, length: usize) -> Result<String, Failure> {
    String::from_utf8(bytes(reader, length)?)
        .map_err(|_| Failure::bad_request("a name in a list of files is not UTF-8 text"))
}

/// One file: length (2) and path, mode (4), size (8), nanoseconds since 1970 (8), length (2) and target of a symlink,
/// number of attributes (1), of each length (1) and name, length (4) and value. No path is the end.
fn entry(reader: &mut impl Read) -> Result<Option<FileStat>, Failure> {
    let length = u16::from_be_bytes(array(reader)?);
    if length == 0 {
        return Ok(None);
    }
    let path = text(reader, length.into())?;
    let mode = u32::from_be_bytes(array(reader)?);
    let size = i64::from_be_bytes(array(reader)?);
    let modified_ns = i64::from_be_bytes(array(reader)?);
    let length = u16::from_be_bytes(array(reader)?);
    let link = text(reader, length.into())?;
    let [count] = array(reader)?;
    let mut attributes = BTreeMap::new();
    let mut sum = 0;
    for _ in 0..usize::from(count).min(MAX_ATTRIBUTES) {
        let [length] = array(reader)?;
        let name = text(reader, length.into())?;
        let length = usize::try_from(u32::from_be_bytes(array(reader)?)).unwrap_or(usize::MAX);
        sum += length.min(MAX_ATTRIBUTE_BYTES + 1);
        if sum > MAX_ATTRIBUTE_BYTES {
            return Err(Failure::bad_request(format!(
                "a file has more than {MAX_ATTRIBUTE_BYTES} bytes of attributes"
            )));
        }
        attributes.insert(name, bytes(reader, length)?);
    }
    // As in an archive that is sent: files belong to the daemon's user.
    Ok(Some(FileStat { path, mode, uid: 0, gid: 0, size, modified_ns, link, attributes }))
}

/// Reads what was missing, and gives the context. Blocking.
pub(super) fn finish(token: &str, reader: &mut impl Read) -> Result<Context, Failure> {
    let Some(Waiting { kept, mut mirror }) = take(token) else {
        return Err(Failure::bad_request(
            "the files of the build context were told too long ago: build again",
        ));
    };
    let done = content(&mut mirror, reader);
    mirror.clean();
    done?;
    let received = mirror.received();
    kept.settle(received.is_changed);
    tracing::debug!(
        files = received.files,
        sent_files = received.sent_files,
        sent_bytes = received.sent_bytes,
        "context received"
    );
    Context::of_kept(kept).map_err(super::failure)
}

fn content(mirror: &mut Mirror, reader: &mut impl Read) -> Result<(), Failure> {
    let mut piece = Vec::new();
    loop {
        let number = u32::from_be_bytes(array(reader)?);
        if number == END {
            break;
        }
        let length = u32::from_be_bytes(array(reader)?);
        if length > MAX_PIECE {
            return Err(Failure::bad_request(format!("a piece of a file is longer than {MAX_PIECE} bytes")));
        }
        piece.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
        reader.read_exact(&mut piece).map_err(cut)?;
        mirror.data(number, &piece).map_err(super::failure)?;
    }
    if mirror.is_finished() {
        return Ok(());
    }
    Err(Failure::bad_request("the client ended a transfer of files in the middle"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, attributes: &[(&str, u32)]) -> Vec<u8> {
        let mut out = u16::try_from(path.len()).expect("short").to_be_bytes().to_vec();
        out.extend(path.as_bytes());
        out.extend(0o100_644_u32.to_be_bytes());
        out.extend(3_i64.to_be_bytes());
        out.extend(7_i64.to_be_bytes());
        out.extend([0, 0, u8::try_from(attributes.len()).expect("few")]);
        for (name, length) in attributes {
            out.push(u8::try_from(name.len()).expect("short"));
            out.extend(name.as_bytes());
            out.extend(length.to_be_bytes());
            out.extend(vec![1; usize::try_from(*length).expect("short").min(10)]);
        }
        out
    }

    #[test]
    fn entries_are_read_and_what_is_cut_or_large_is_refused() {
        let bytes = [file("a/b", &[("user.x", 2)]), vec![0, 0]].concat();
        let mut reader = &bytes[..];
        let read = entry(&mut reader).ok().flatten().expect("an entry");
        assert_eq!((read.path.as_str(), read.mode, read.size, read.modified_ns), ("a/b", 0o100_644, 3, 7));
        assert_eq!(read.attributes.get("user.x").map(Vec::as_slice), Some(&[1, 1][..]));
        assert!(matches!(entry(&mut reader), Ok(None)));
        for length in 1..bytes.len() - 2 {
            assert!(entry(&mut &bytes[..length]).is_err(), "{length}");
        }
        assert!(entry(&mut &file("a", &[("user.x", u32::MAX)])[..]).is_err());
        assert!(entry(&mut &[0, 1, 0xff][..]).is_err());
        assert!(finish("no such token", &mut &b""[..]).is_err());
    }
}
