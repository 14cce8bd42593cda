//! Shared memory that other containers may join: a tmpfs on the host, `<exec-root>/shm/<id>`, bound at `/dev/shm` of the
//! container whose IPC mode is `shareable` and of those that join it. The kernel does not let one container bind what only
//! another one sees. It is there while the task is; those who joined keep what they have bound.

use crate::Engine;
use crate::error::{Error, IoDuring};
use crate::record::Record;
use rustix::mount::MountFlags;
use std::ffi::CString;
use std::path::PathBuf;

/// The directory of a container that shares its memory.
pub(crate) fn path(engine: &Engine, id: &str) -> PathBuf {
    engine.config.exec_root.join("shm").join(id)
}

/// Whether others may join this container's IPC namespace by its id.
pub(crate) fn is_shareable(record: &Record) -> bool {
    record.host_config.ipc_mode == "shareable"
}

/// Mounts the memory of a container that shares it, for `owner`, or root. Blocking.
pub(crate) fn mount(engine: &Engine, record: &Record, owner: Option<(u32, u32)>) -> Result<(), Error> {
    let dir = path(engine, record.id.as_str());
    let doing = || format!("mount shared memory on {}", dir.display());
    // Left by a task that ended while nobody listened: its content is not this one's.
    unmount(engine, record.id.as_str());
    std::fs::create_dir_all(&dir).io_during(doing)?;
    let (uid, gid) = owner.unwrap_or((0, 0));
    let options = CString::new(format!("mode=1777,size={},uid={uid},gid={gid}", record.host_config.shm_size))
        .map_err(|_| Error::invalid("a NUL byte in the size of /dev/shm"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("shm", &dir, "tmpfs", flags, &*options).io_during(doing)
}

/// Takes it away, if it is there. Blocking.
pub(crate) fn unmount(engine: &Engine, id: &str) {
    let dir = path(engine, id);
    if std::fs::remove_dir(&dir).is_ok() || !dir.exists() {
        return;
    }
    if let Err(e) = mount::detach(&dir) {
        tracing::warn!(container_id = id, error = %errors::chain(&e), "shared memory not unmounted");
    }
    drop(std::fs::remove_dir(&dir));
}
