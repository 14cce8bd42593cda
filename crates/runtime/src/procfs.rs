//! A handle of the host's procfs, opened once and verified, so that nothing written below it can land in a file that
//! only pretends (CVE-2019-16884, CVE-2019-19921).

use crate::Error;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use sys::spent::spend;

/// `PROC_SUPER_MAGIC` of linux/magic.h.
pub(crate) const PROC_SUPER_MAGIC: u64 = 0x9fa0;
/// `PROC_ROOT_INO` of linux/proc_fs.h.
const PROC_ROOT_INO: u64 = 1;
/// Longest file read through the handle: `status`, `stat`, `cgroup`.
const MAX_FILE: usize = 64 << 10;

/// The root of a procfs.
#[derive(Debug)]
pub(crate) struct Proc(OwnedFd);

impl Proc {
    /// Opens `/proc` and refuses anything but the root of a procfs.
    pub(crate) fn open() -> Result<Proc, Error> {
        let at = |e: Errno| Error::io("open /proc", e);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open("/proc", flags, Mode::empty()).map_err(at)?;
        let root = rustix::fs::fstat(&fd).map_err(at)?;
        if !is_procfs(&fd).map_err(at)? || root.st_ino != PROC_ROOT_INO {
            return Err(Error::io("open /proc: it is not a procfs", Errno::XDEV));
        }
        Ok(Proc(fd))
    }

    /// Lets go of it.
    pub(crate) fn spend(self) {
        spend(self.0);
    }

    /// Opens a file below, never through another mount or a magic link.
    pub(crate) fn open_file(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// Writes `value` in one call.
    pub(crate) fn write(&self, path: &str, value: &str) -> Result<(), Errno> {
        let fd = self.open_file(path, OFlags::WRONLY)?;
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&fd, value.as_bytes()));
        spend(fd);
        written.map(|_| ())
    }

    /// The text of a small file.
    pub(crate) fn read(&self, path: &str) -> Result<String, Errno> {
        let fd = self.open_file(path, OFlags::RDONLY)?;
        let mut bytes = vec![0; 4096];
        let mut length = 0;
        loop {
            let count = rustix::io::retry_on_intr(|| rustix::io::read(&fd, &mut bytes[length..]))?;
            length += count;
            // The kernel hands out such files in pages of whole lines, each shorter than half a page: so this is the end,
            // and there is no need to ask again.
            if count < 2048 {
                break;
            }
            if length > MAX_FILE {
                return Err(Errno::FBIG);
            }
            bytes.resize(length + 4096, 0);
        }
        spend(fd);
        bytes.truncate(length);
        String::from_utf8(bytes).map_err(|_| Errno::ILSEQ)
    }

    /// A namespace of a process, by its magic link. The only one followed, and `pid` and `name` are ours.
    pub(crate) fn namespace(&self, pid: &str, name: &str) -> Result<OwnedFd, Errno> {
        let directory = self.open_file(&format!("{pid}/ns"), OFlags::PATH | OFlags::DIRECTORY)?;
        let namespace = rustix::fs::openat(&directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        spend(directory);
        namespace
    }

    /// State letter and start time (clock ticks after boot) of a process.
    pub(crate) fn stat(&self, pid: i32) -> Result<(u8, u64), Errno> {
        let text = self.read(&format!("{pid}/stat"))?;
        parse_stat(&text).ok_or(Errno::INVAL)
    }
}

/// The command name, in parentheses, may hold anything; what counts comes after the last `)`.
fn parse_stat(text: &str) -> Option<(u8, u64)> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Whether `fd` is on a procfs.
pub(crate) fn is_procfs(fd: impl AsFd) -> Result<bool, Errno> {
    Ok(u64::try_from(rustix::fs::fstatfs(fd)?.f_type).ok() == Some(PROC_SUPER_MAGIC))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_hostile_name() {
        let text = "12 (a) R 1 (b)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20";
        assert_eq!(parse_stat(text), Some((b'S', 777)));
        assert_eq!(parse_stat("12 (a"), None);
    }

    #[test]
    fn own_start_time_is_stable() {
        let proc = Proc::open().unwrap();
        let pid = rustix::process::getpid().as_raw_pid();
        assert_eq!(proc.stat(pid).unwrap().1, proc.stat(pid).unwrap().1);
    }
}
