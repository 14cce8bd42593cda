//! `/proc/self/mountinfo`.
//!
//! Kernel: [proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html).

use crate::Error;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Unique while mounted; may be used again afterwards.
    pub id: u64,
    /// `id` of the mount it is attached to.
    pub parent: u64,
    /// Which directory or file of the file system is seen here, `/` for all of it.
    pub root: PathBuf,
    /// Where it is attached, from the root of the process.
    pub target: PathBuf,
    pub fs_type: String,
    pub source: OsString,
    /// What happens below it happens to its peers too, and the other way round.
    pub is_shared: bool,
    /// What happens below its master happens to it.
    pub is_slave: bool,
}

/// All mounts of this process's mount namespace, in the order they were attached to each other.
pub fn list() -> Result<Vec<Mount>, Error> {
    let path = Path::new("/proc/self/mountinfo");
    let text = std::fs::read(path).map_err(|source| Error::Read { path: path.into(), source })?;
    parse(&text)
}

/// The mounts at or below `dir`, deepest last. Unmounting from the back always finds the topmost.
pub fn list_below(dir: &Path) -> Result<Vec<Mount>, Error> {
    Ok(list()?.into_iter().filter(|mount| mount.target.starts_with(dir)).collect())
}

/// An overlay that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedOverlay {
    pub target: PathBuf,
    /// Where its changes go, as it was given when it was mounted; none for an overlay that takes none.
    pub upper: Option<PathBuf>,
}

/// The overlays of this process's mount namespace.
pub fn list_overlays() -> Result<Vec<MountedOverlay>, Error> {
    let path = Path::new("/proc/self/mountinfo");
    let text = std::fs::read(path).map_err(|source| Error::Read { path: path.into(), source })?;
    let lines = text.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    Ok(lines.filter_map(parse_overlay).collect())
}

/// As [`parse_line`], for the options behind the source: `rw,lowerdir+=/a,upperdir=/u,workdir=/w`.
fn parse_overlay(line: &[u8]) -> Option<MountedOverlay> {
    let mount = parse_line(line).filter(|mount| mount.fs_type == "overlay")?;
    // Where the ids of layers are mapped the source is the upper directory, which has no name of its own in the options.
    let source = Path::new(&mount.source);
    if source.is_absolute() {
        return Some(MountedOverlay { upper: Some(source.into()), target: mount.target });
    }
    let options = line.rsplit(|b| *b == b' ').next()?;
    // A comma in a path is written as an octal number.
    let upper = options.split(|b| *b == b',').find_map(|option| option.strip_prefix(b"upperdir="));
    let upper = upper.map(|path| PathBuf::from(unescape(path)));
    Some(MountedOverlay { target: mount.target, upper })
}

/// Reads text of the form of `/proc/self/mountinfo`.
pub fn parse(text: &[u8]) -> Result<Vec<Mount>, Error> {
    text.split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse_line(line)
                .ok_or_else(|| Error::Malformed { line: String::from_utf8_lossy(line).into_owned() })
        })
        .collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`, with any number of fields before the dash.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse().ok();
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let _device = fields.next()?;
    let root = unescape(fields.next()?).into();
    let target = unescape(fields.next()?).into();
    let _options = fields.next()?;
    let (mut is_shared, mut is_slave) = (false, false);
    for field in fields.by_ref().take_while(|field| *field != b"-") {
        is_shared |= field.starts_with(b"shared:");
        is_slave |= field.starts_with(b"master:");
    }
    let mut rest = fields;
    let fs_type = String::from_utf8_lossy(rest.next()?).into_owned();
    let source = unescape(rest.next()?);
    Some(Mount { id, parent, root, target, fs_type, source, is_shared, is_slave })
}

/// Space, tab, newline and backslash stand as a backslash and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if first == b'\\' => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(std::ffi::OsStr::from_bytes(&out).as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_line_with_optional_fields_and_escapes() {
        let text = b"36 35 98:0 /mnt1 /with\\040space\\134 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=x\n";
        let mounts = parse(text).unwrap();
        assert_eq!(mounts.len(), 1);
        assert_eq!((mounts[0].id, mounts[0].parent), (36, 35));
        assert_eq!(mounts[0].target, Path::new("/with space\\"));
        assert_eq!((mounts[0].fs_type.as_str(), mounts[0].source.to_str()), ("ext3", Some("/dev/root")));
        assert!(mounts[0].is_shared && mounts[0].is_slave);
    }

    #[test]
    fn a_line_without_optional_fields_is_read_too() {
        let mounts = parse(b"1 0 0:1 / / rw - tmpfs none rw").unwrap();
        assert_eq!(mounts[0].fs_type, "tmpfs");
        assert!(!mounts[0].is_shared && !mounts[0].is_slave);
    }

    #[test]
    fn refuses_what_is_not_mountinfo() {
        for text in [&b"x"[..], b"1 0 0:1 / /", b"1 0 0:1 / / rw tmpfs none rw", b"a 0 0:1 / / rw - t n r"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(list().unwrap().iter().any(|mount| mount.target == Path::new("/")));
    }
}
