//! Whom files belong to that a thread makes: setfsuid(2), setfsgid(2).
#![allow(unsafe_code, reason = "rustix has neither setfsuid nor setfsgid")]

use rustix::thread::CapabilitySets;
use std::io;
use std::marker::PhantomData;

/// The calling thread makes files as another user and group, its capabilities kept, until this is dropped.
///
/// A file system mounted with mapped ids takes new files only from ids that the mapping knows, whatever privilege the
/// maker has.
#[derive(Debug)]
pub struct FsIds {
    before: (libc::uid_t, libc::gid_t),
    /// Of one thread.
    _not_send: PhantomData<*const ()>,
}

impl FsIds {
    /// Becomes `uid` and `gid` for what concerns files. Needs `CAP_SETUID` and `CAP_SETGID`.
    ///
    /// # Errors
    ///
    /// `EPERM` without those.
    ///
    /// Kernel: [setfsuid(2)](https://man7.org/linux/man-pages/man2/setfsuid.2.html),
    /// [capabilities(7)](https://man7.org/linux/man-pages/man7/capabilities.7.html).
    pub fn become_ids(uid: u32, gid: u32) -> io::Result<FsIds> {
        let held = rustix::thread::capabilities(None)?;
        let this = FsIds { before: (set_uid(uid), set_gid(gid)), _not_send: PhantomData };
        // Both tell only what was before; an id that is none changes nothing.
        if (set_uid(u32::MAX), set_gid(u32::MAX)) != (uid, gid) {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        // Leaving 0 took those away that files ask for.
        let now = rustix::thread::capabilities(None)?;
        rustix::thread::set_capabilities(None, CapabilitySets { effective: held.effective, ..now })?;
        Ok(this)
    }
}

impl Drop for FsIds {
    fn drop(&mut self) {
        set_gid(self.before.1);
        set_uid(self.before.0);
    }
}

fn set_uid(uid: u32) -> libc::uid_t {
    // SAFETY: takes and gives numbers, of the calling thread alone.
    unsafe { libc::setfsuid(uid) }.cast_unsigned()
}

fn set_gid(gid: u32) -> libc::gid_t {
    // SAFETY: as in `set_uid`.
    unsafe { libc::setfsgid(gid) }.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn files_belong_to_them_and_capabilities_stay() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = std::env::temp_dir().join(format!("brig-fs-ids-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let held = rustix::thread::capabilities(None).unwrap();
        let owner = |name: &str| {
            std::fs::write(dir.join(name), "x").unwrap();
            let found = std::fs::metadata(dir.join(name)).unwrap();
            (found.uid(), found.gid())
        };
        let ids = FsIds::become_ids(100_000, 200_000).unwrap();
        // In a directory of root's that is closed to others.
        let during = owner("a");
        let capabilities = rustix::thread::capabilities(None).unwrap();
        drop(ids);
        let after = owner("b");
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!((during, after), ((100_000, 200_000), (0, 0)));
        assert_eq!(capabilities, held);
        assert_eq!(rustix::thread::capabilities(None).unwrap(), held);
    }
}
