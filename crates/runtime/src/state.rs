//! What later verbs need to know of a container.
//!
//! ```text
//! ROOT/ID/state.json     this file's [`State`]; written beside and renamed, so always whole
//! ROOT/ID/config.json    the document as it was at create, with the limits of the last update
//! ROOT/ID/exec.fifo      there until `start`; init has it open and reads one byte
//! ```
//!
//! Verbs that change something hold an exclusive flock(2) on the directory, which the kernel drops with the process.
//! `state.json` is first written before the cgroup is made (pid 0), so that `delete --force` can clean up after a
//! runtime that was killed at any later point. That first time nobody can want the one before, so it is written in place;
//! an empty one is as good as none.

use crate::Error;
use crate::procfs::Proc;
use oci::runtime::Hooks;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use sys::spent::spend;

const STATE: &str = "state.json";
const CONFIG: &str = "config.json";
pub(crate) const FIFO: &str = "exec.fifo";
/// Longest document read, ours or a user's: 5,000 mounts and a MiB of annotations fit.
pub(crate) const MAX_DOCUMENT: u64 = 32 << 20;
/// The version of `state.json` written here. A newer one is refused.
const VERSION: u32 = 1;

/// A name that is safe as one path component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerId(String);

impl std::str::FromStr for ContainerId {
    type Err = Error;

    fn from_str(id: &str) -> Result<ContainerId, Error> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_+-.".contains(&b);
        if id.is_empty() || id.len() > 255 || id == "." || id == ".." || !id.bytes().all(allowed) {
            return Err(Error::InvalidId { id: id.chars().take(128).collect() });
        }
        Ok(ContainerId(id.to_owned()))
    }
}

impl ContainerId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    /// The specification's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

/// `state.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct State {
    pub(crate) version: u32,
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    /// 0 until init is there.
    pub(crate) pid: i32,
    /// Start time of `pid`, clock ticks after boot: with it a reused id is told from ours.
    pub(crate) start_time: u64,
    /// RFC 3339, UTC.
    pub(crate) created: String,
    /// Path below the cgroup roots; none without cgroup.
    pub(crate) cgroup: Option<String>,
    /// The unit that systemd made for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<Scope>,
    /// `CLONE_NEW*` bits of the namespaces the container has, made or joined.
    pub(crate) namespaces: u32,
    /// Root by chroot, so the mount namespace's root is not the container's.
    #[serde(default)]
    pub(crate) no_pivot: bool,
    #[serde(default)]
    pub(crate) owner: u32,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
    /// Whether the document has hooks for verbs after create, which read it for them only. Not known of states that earlier
    /// versions wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) later_hooks: Option<bool>,
    /// Groups of resctrl that go with the container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rdt: Vec<PathBuf>,
}

/// A unit of systemd's: what [`cgroup::Unit`] is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Scope {
    name: String,
    slice: String,
    bus: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    manager: Option<String>,
}

impl From<cgroup::Unit> for Scope {
    fn from(unit: cgroup::Unit) -> Scope {
        Scope { name: unit.name, slice: unit.slice, bus: unit.bus, manager: unit.manager }
    }
}

impl State {
    /// The unit of systemd's that it is in.
    pub(crate) fn unit(&self) -> Option<cgroup::Unit> {
        let Scope { name, slice, bus, manager } = self.scope.clone()?;
        Some(cgroup::Unit { name, slice, bus, manager })
    }

    pub(crate) fn new(id: &ContainerId, bundle: PathBuf, rootfs: PathBuf) -> State {
        State {
            version: VERSION,
            id: id.0.clone(),
            bundle,
            rootfs,
            pid: 0,
            start_time: 0,
            created: timestamp(),
            cgroup: None,
            scope: None,
            namespaces: 0,
            no_pivot: false,
            owner: sys::process::ids_at_start().0,
            annotations: BTreeMap::new(),
            later_hooks: None,
            rdt: Vec::new(),
        }
    }
}

/// The `--root` directory.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Names the directory; it is made by the first create.
    pub fn new(root: impl Into<PathBuf>) -> Store {
        Store { root: root.into() }
    }

    /// Makes the directory of a new container and locks it.
    pub(crate) fn create(&self, id: &ContainerId) -> Result<Container, Error> {
        let path = self.root.join(&id.0);
        let mode = Mode::from_raw_mode(0o700);
        let made = match rustix::fs::mkdir(&path, mode) {
            Err(Errno::NOENT) => {
                std::fs::create_dir_all(&self.root)
                    .and_then(|()| {
                        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
                        std::fs::set_permissions(&self.root, private)
                    })
                    .map_err(|e| Error::io(format!("make {}", self.root.display()), e))?;
                rustix::fs::mkdir(&path, mode)
            }
            other => other,
        };
        match made {
            Ok(()) => {
                let directory = open_directory(id, &path)?;
                lock(Container { directory, path, id: id.clone() })
            }
            Err(Errno::EXIST) => Err(Error::Exists { id: id.0.clone() }),
            Err(e) => Err(Error::io(format!("make {}", path.display()), e)),
        }
    }

    /// Opens and locks a container's directory.
    pub(crate) fn lock(&self, id: &ContainerId) -> Result<Container, Error> {
        let path = self.root.join(&id.0);
        let directory = open_directory(id, &path)?;
        lock(Container { directory, path, id: id.clone() })
    }

    /// Reads without lock. The first state is one write of less than a page, which is seen as a whole or not at all, where an
    /// empty file is as good as none; all others come by a rename.
    pub(crate) fn read(&self, id: &ContainerId) -> Result<State, Error> {
        let path = self.root.join(&id.0);
        let directory = open_directory(id, &path)?;
        Container { directory, path, id: id.clone() }.read()
    }

    /// The status, without lock.
    pub(crate) fn status(&self, id: &ContainerId, state: &State, proc: &Proc) -> Result<Status, Error> {
        let path = self.root.join(&id.0);
        let directory = open_directory(id, &path)?;
        Ok(Container { directory, path, id: id.clone() }.status(state, proc)?.0)
    }

    /// Names of all containers, sorted.
    pub(crate) fn ids(&self) -> Result<Vec<ContainerId>, Error> {
        let at = |e| Error::io(format!("list {}", self.root.display()), e);
        let entries = match std::fs::read_dir(&self.root) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(at)?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            let entry = entry.map_err(at)?;
            if let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                ids.push(id);
            }
        }
        ids.sort_by(|a: &ContainerId, b| a.0.cmp(&b.0));
        Ok(ids)
    }
}

fn open_directory(id: &ContainerId, path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => Ok(fd),
        Err(Errno::NOENT | Errno::NOTDIR) => Err(Error::NotFound { id: id.0.clone() }),
        Err(e) => Err(Error::io(format!("open {}", path.display()), e)),
    }
}

fn lock(container: Container) -> Result<Container, Error> {
    let at = |e| Error::io(format!("lock {}", container.path.display()), e);
    rustix::io::retry_on_intr(|| rustix::fs::flock(&container.directory, FlockOperation::LockExclusive))
        .map_err(at)?;
    // While we waited a delete may have removed it; a directory without links is not the one of that name any more.
    if rustix::fs::fstat(&container.directory).map_err(at)?.st_nlink == 0 {
        return Err(Error::NotFound { id: container.id.0.clone() });
    }
    Ok(container)
}

/// A container's directory that others may lock meanwhile.
#[derive(Debug)]
pub(crate) struct Unlocked(Container);

impl Unlocked {
    /// Locks it again.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if it was deleted meanwhile, whatever has its name now.
    pub(crate) fn lock(self) -> Result<Container, Error> {
        lock(self.0)
    }
}

/// A container's directory, locked while this lives.
#[derive(Debug)]
pub(crate) struct Container {
    directory: OwnedFd,
    path: PathBuf,
    pub(crate) id: ContainerId,
}

impl Container {
    /// Lets others lock it.
    pub(crate) fn unlock(self) -> Result<Unlocked, Error> {
        rustix::fs::flock(&self.directory, FlockOperation::Unlock)
            .map_err(|e| Error::io(format!("unlock {}", self.path.display()), e))?;
        Ok(Unlocked(self))
    }

    /// Lets go of it, in a process that is a copy of the one that locked it.
    pub(crate) fn spend(self) {
        spend(self.directory);
    }

    pub(crate) fn read(&self) -> Result<State, Error> {
        let bytes = self.read_file(STATE)?;
        if bytes.is_empty() {
            return Err(Error::NotFound { id: self.id.0.clone() });
        }
        let state: State = serde_json::from_slice(&bytes)
            .map_err(|e| Error::Document { path: self.path.join(STATE), source: e })?;
        if state.version > VERSION {
            return Err(Error::unsupported(
                format!("state version {} of container {}", state.version, state.id),
                "a newer brig-runtime made it",
            ));
        }
        Ok(state)
    }

    /// Writes the state of a container that has none yet.
    pub(crate) fn write_first(&self, state: &State) -> Result<(), Error> {
        // More than a page is not there all at once.
        const AT_ONCE: usize = 4096;
        match self.to_bytes(state)? {
            bytes if bytes.len() <= AT_ONCE => self.write_file(STATE, &bytes),
            bytes => self.replace(STATE, &bytes),
        }
    }

    /// Replaces the state.
    pub(crate) fn write(&self, state: &State) -> Result<(), Error> {
        self.replace(STATE, &self.to_bytes(state)?)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let new = format!("{name}.new");
        self.write_file(&new, bytes)?;
        rustix::fs::renameat(&self.directory, &new, &self.directory, name)
            .map_err(|e| Error::io(format!("rename {}", self.path.join(name).display()), e))
    }
    fn to_bytes(&self, state: &State) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(state).map_err(|e| Error::Document { path: self.path.join(STATE), source: e })
    }

    pub(crate) fn write_config(&self, bytes: &[u8]) -> Result<(), Error> {
        self.write_file(CONFIG, bytes)
    }

    /// Replaces the document, after an update.
    pub(crate) fn write_spec(&self, spec: &oci::runtime::Spec) -> Result<(), Error> {
        let bytes = serde_json::to_vec(spec)
            .map_err(|e| Error::Document { path: self.path.join(CONFIG), source: e })?;
        self.replace(CONFIG, &bytes)
    }

    /// The document as it was at create, with the limits of the last update.
    pub(crate) fn read_config(&self) -> Result<oci::runtime::Spec, Error> {
        oci::runtime::from_json(&self.read_file(CONFIG)?)
            .map_err(|e| Error::Document { path: self.path.join(CONFIG), source: e })
    }

    /// The document's hooks for verbs after create.
    pub(crate) fn later_hooks(&self, state: &State) -> Result<Hooks, Error> {
        if state.later_hooks == Some(false) {
            return Ok(Hooks::default());
        }
        Ok(self.read_config()?.hooks.unwrap_or_default())
    }

    /// Makes the fifo and opens both its ends as one descriptor: opening never blocks, and a read waits for a byte.
    pub(crate) fn make_fifo(&self) -> Result<OwnedFd, Error> {
        let at = |e| Error::io(format!("make {}", self.path.join(FIFO).display()), e);
        rustix::fs::mknodat(&self.directory, FIFO, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .map_err(at)?;
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.directory, FIFO, flags, Mode::empty()).map_err(at)
    }

    /// Lets init go. None if nobody waits, else what tells how it went: [`outcome`].
    pub(crate) fn open_gate(&self) -> Result<Option<OwnedFd>, Error> {
        let at = |e| Error::io(format!("open {}", self.path.join(FIFO).display()), e);
        let open = |access: OFlags| {
            let flags = access | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&self.directory, FIFO, flags, Mode::empty())
        };
        let fifo = match open(OFlags::WRONLY) {
            // No process has the other end: init is gone.
            Err(Errno::NXIO | Errno::NOENT) => return Ok(None),
            other => other.map_err(at)?,
        };
        let answer = open(OFlags::RDONLY).map_err(at)?;
        rustix::io::write(&fifo, &[GO]).map_err(at)?;
        rustix::fs::unlinkat(&self.directory, FIFO, AtFlags::empty()).map_err(at)?;
        Ok(Some(answer))
    }

    fn has_fifo(&self) -> bool {
        rustix::fs::statat(&self.directory, FIFO, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// The status, and a descriptor of init if it lives.
    pub(crate) fn status(&self, state: &State, proc: &Proc) -> Result<(Status, Option<OwnedFd>), Error> {
        let pidfd = init(state, proc)?;
        let status = match &pidfd {
            None if state.pid == 0 => Status::Creating,
            None => Status::Stopped,
            Some(_) if self.has_fifo() => Status::Created,
            Some(_) if is_paused(state) => Status::Paused,
            Some(_) => Status::Running,
        };
        Ok((status, pidfd))
    }

    /// Removes the directory and everything we put there.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        let at = |e| Error::io(format!("remove {}", self.path.display()), e);
        let unlink = |names: &[&str]| {
            names.iter().try_for_each(|name| {
                match rustix::fs::unlinkat(&self.directory, *name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => Ok(()),
                    Err(e) => Err(at(e)),
                }
            })
        };
        unlink(&[CONFIG, STATE])?;
        let mut removed = rustix::fs::rmdir(&self.path);
        // What a container never started has, and what a killed runtime leaves.
        if removed == Err(Errno::NOTEMPTY) {
            unlink(&[FIFO, "config.json.new", "state.json.new", crate::criu::PID_FILE])?;
            removed = rustix::fs::rmdir(&self.path);
        }
        match removed {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(at(e)),
        }
    }

    /// Where a file of the directory is, for programs that are given a path.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn remove_file(&self, name: &str) -> Result<(), Error> {
        match rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(Error::io(format!("remove {}", self.path_of(name).display()), e)),
        }
    }

    fn read_file(&self, name: &str) -> Result<Vec<u8>, Error> {
        let path = self.path.join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.directory, name, flags, Mode::empty()) {
            Ok(fd) => read_bounded(fd, &path),
            Err(Errno::NOENT) => Err(Error::NotFound { id: self.id.0.clone() }),
            Err(e) => Err(Error::io(format!("open {}", path.display()), e)),
        }
    }

    fn write_file(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let at = |e| Error::io(format!("write {}", self.path.join(name).display()), e);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.directory, name, flags, Mode::from_raw_mode(0o600)).map_err(at)?;
        let mut left = bytes;
        while !left.is_empty() {
            let count = rustix::io::retry_on_intr(|| rustix::io::write(&fd, left)).map_err(at)?;
            left = &left[count..];
        }
        spend(fd);
        Ok(())
    }
}

/// What lets init go.
const GO: u8 = b'0';

/// How long `start` listens: a program on a dead disk, or of a frozen container, is not executed at once.
const LISTEN: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };

/// What init wrote into the fifo instead of closing it by executing the program: a [kind](crate::channel::Kind) and words.
/// `None` if it went well, or is not known yet.
///
/// Only the end of all writers is waited for. A byte that is read before could be our own.
pub(crate) fn outcome(answer: &OwnedFd) -> Result<Option<Vec<u8>>, Error> {
    use rustix::event::{PollFd, PollFlags, poll};
    let at = |e: Errno| Error::io("listen to the container's first process", e);
    match poll(&mut [PollFd::new(answer, PollFlags::empty())], Some(&LISTEN)) {
        Ok(0) | Err(Errno::INTR) => return Ok(None),
        Ok(_) => {}
        Err(e) => return Err(at(e)),
    }
    let mut bytes = vec![0; 4096];
    let length = rustix::io::read(answer, &mut bytes).map_err(at)?;
    bytes.truncate(length);
    Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
}

/// Reads a whole document of at most [`MAX_DOCUMENT`] bytes.
pub(crate) fn read_bounded(fd: OwnedFd, path: &Path) -> Result<Vec<u8>, Error> {
    /// What most documents fit in.
    const FIRST: usize = 32 << 10;
    let at = |e: Errno| Error::io(format!("read {}", path.display()), e);
    let mut bytes = Vec::with_capacity(FIRST);
    // What can be read from any place is a file, and then less than there was room for is all that is left. Of a pipe it may
    // be what is there so far.
    let mut is_file = true;
    loop {
        if bytes.capacity() == bytes.len() {
            bytes.reserve(bytes.len());
        }
        let room = bytes.capacity() - bytes.len();
        let offset = bytes.len() as u64;
        let read = match is_file {
            true => rustix::io::pread(&fd, rustix::buffer::spare_capacity(&mut bytes), offset),
            false => rustix::io::read(&fd, rustix::buffer::spare_capacity(&mut bytes)),
        };
        match read {
            Err(Errno::SPIPE) if is_file => is_file = false,
            Ok(_) if bytes.len() as u64 > MAX_DOCUMENT => return Err(at(Errno::FBIG)),
            // As every document ends; a file system that gives files in pieces is asked again.
            Ok(count) if count == 0 || is_file && count < room && bytes.trim_ascii_end().ends_with(b"}") => {
                spend(fd);
                return Ok(bytes);
            }
            Ok(_) => {}
            Err(Errno::INTR) => {}
            // A pipe whose writer has not come that far.
            Err(Errno::AGAIN) => {
                let mut polled = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
                let _ = rustix::event::poll(&mut polled, None);
            }
            Err(e) => return Err(at(e)),
        }
    }
}

/// A descriptor of the container's init, if it lives and is not a zombie. The start time is compared after the descriptor
/// is open: from then on the number cannot be reused.
pub(crate) fn init(state: &State, proc: &Proc) -> Result<Option<OwnedFd>, Error> {
    let Some(pid) = Pid::from_raw(state.pid) else { return Ok(None) };
    let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
        Err(e) => return Err(Error::io(format!("open process {}", state.pid), e)),
    };
    match proc.stat(state.pid) {
        Ok((b'Z' | b'X', _)) | Err(Errno::NOENT | Errno::SRCH) => Ok(None),
        Ok((_, start)) => Ok((start == state.start_time).then_some(pidfd)),
        Err(e) => Err(Error::io(format!("read state of process {}", state.pid), e)),
    }
}

fn is_paused(state: &State) -> bool {
    let cgroup = state.cgroup.as_deref().and_then(|path| cgroup::Cgroup::open(path).ok());
    cgroup.is_some_and(|cgroup| cgroup.is_frozen().unwrap_or(false))
}

/// The time now, RFC 3339 in UTC with nanoseconds.
pub fn timestamp() -> String {
    // A clock that is set before 1970 shows that year.
    let time = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    format_time(i64::try_from(time.as_secs()).unwrap_or(i64::MAX), time.subsec_nanos())
}

/// Howard Hinnant's days to civil date.
pub(crate) fn format_time(seconds: i64, nanoseconds: u32) -> String {
    let days = seconds.div_euclid(86400) + 719_468;
    let clock = seconds.rem_euclid(86400);
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanoseconds:09}Z")
}

impl AsFd for Container {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        let check = |id: &str, ok: bool| assert_eq!(id.parse::<ContainerId>().is_ok(), ok, "{id:?}");
        for good in ["a", "a.b", "A_b-c+1", "..."] {
            check(good, true);
        }
        for bad in ["", ".", "..", "a/b", "../x", "a b", "a\n", "é", &"a".repeat(256)] {
            check(bad, false);
        }
    }

    #[test]
    fn times() {
        assert_eq!(format_time(0, 1), "1970-01-01T00:00:00.000000001Z");
        assert_eq!(format_time(951_782_400, 0), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(
            format_time(1_795_229_999, 0),
            "2026-11-21T03:13:19.000000000Z".replace("03:13:19", "02:59:59")
        );
    }

    #[test]
    fn a_deleted_container_is_gone_for_the_one_that_waited() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        let id: ContainerId = "x".parse().unwrap();
        let first = store.create(&id).unwrap();
        assert!(matches!(store.create(&id), Err(Error::Exists { .. })));
        let other = store.clone();
        let waiting = std::thread::spawn(move || other.lock(&"x".parse().unwrap()).map(drop));
        first.remove().unwrap();
        drop(first);
        assert!(matches!(waiting.join().unwrap(), Err(Error::NotFound { .. })));
    }
}
