//! Id mappings: of the container's user namespace, and of user namespaces that exist only to map the ids of a mount.

use crate::Error;
use crate::procfs::Proc;
use oci::runtime::{IdMapping, Mount};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use sys::process::Cloned;

/// The kernel takes 340 lines (`UID_GID_MAP_MAX_EXTENTS`).
const MAX_MAPPINGS: usize = 340;
/// `CLONE_NEWUSER`.
const NEW_USER: u64 = crate::namespaces::USER.bit as u64;

/// What maps the ids of mounts.
#[derive(Debug)]
pub(crate) struct IdNamespaces<'a> {
    pub(crate) proc: &'a Proc,
    /// Of the container's user namespace, if it is a new one.
    pub(crate) container: Option<(&'a [IdMapping], &'a [IdMapping])>,
    /// The container's user namespace, if it joins one.
    pub(crate) joined: Option<BorrowedFd<'a>>,
    /// Made so far, with their mappings: most containers need one for all their mounts.
    pub(crate) made: Vec<(Vec<IdMapping>, Vec<IdMapping>, OwnedFd)>,
}

impl IdNamespaces<'_> {
    /// The namespace that maps the ids of `mount`: by its own mappings, else as the container's does.
    pub(crate) fn get(&mut self, mount: &Mount) -> Result<BorrowedFd<'_>, Error> {
        let field = || format!("mounts[{:?}]", mount.destination);
        let (uids, gids) = match (mount.uid_mappings.as_slice(), mount.gid_mappings.as_slice()) {
            ([], []) => match (self.joined, self.container) {
                (Some(joined), _) => return Ok(joined),
                (None, Some(container)) => container,
                (None, None) => {
                    return Err(Error::invalid(
                        field(),
                        "idmap needs uidMappings and gidMappings, or a user namespace",
                    ));
                }
            },
            ([], _) | (_, []) => {
                return Err(Error::invalid(field(), "uidMappings and gidMappings go together"));
            }
            both => both,
        };
        let known = self.made.iter().position(|(u, g, _)| u == uids && g == gids);
        let index = match known {
            Some(index) => index,
            None => {
                check(&field(), uids)?;
                check(&field(), gids)?;
                let namespace = make(uids, gids, self.proc)?;
                self.made.push((uids.to_vec(), gids.to_vec(), namespace));
                self.made.len() - 1
            }
        };
        Ok(self.made[index].2.as_fd())
    }
}

/// Refuses what the kernel would refuse without saying which line it was.
pub(crate) fn check(field: &str, mappings: &[IdMapping]) -> Result<(), Error> {
    let refuse = |reason: String| Err(Error::invalid(field, reason));
    if mappings.len() > MAX_MAPPINGS {
        return refuse(format!("{} mappings, the kernel takes {MAX_MAPPINGS}", mappings.len()));
    }
    for (index, m) in mappings.iter().enumerate() {
        let shown = format!("mapping {}:{}:{}", m.container_id, m.host_id, m.size);
        let end = |first: u32| first.checked_add(m.size).filter(|&end| end != 0);
        if m.size == 0 || end(m.container_id).is_none() || end(m.host_id).is_none() {
            return refuse(format!("{shown} is empty or goes beyond 4294967295"));
        }
        let meet = |a: u32, b: u32, size: u32| {
            u64::from(a) < u64::from(b) + u64::from(size) && u64::from(b) < u64::from(a) + u64::from(m.size)
        };
        let overlaps = |o: &IdMapping| {
            meet(m.container_id, o.container_id, o.size) || meet(m.host_id, o.host_id, o.size)
        };
        if mappings[..index].iter().any(overlaps) {
            return refuse(format!("{shown} overlaps another"));
        }
    }
    Ok(())
}

/// Makes a user namespace that nobody is in: a process is born in it, and ends when it has been mapped and opened.
fn make(uids: &[IdMapping], gids: &[IdMapping], proc: &Proc) -> Result<OwnedFd, Error> {
    let at = |what: &'static str| move |e: rustix::io::Errno| Error::io(what, e);
    let (wait, go) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(at("make a pipe"))?;
    let cloned = sys::process::clone3(NEW_USER, false, None);
    let (pid, pidfd) = match cloned {
        Ok(Cloned::Child) => {
            drop(go);
            // The end of the file comes when the parent lets go, or is killed.
            let _ = rustix::io::read(&wait, &mut [0u8; 1][..]);
            sys::process::exit_now(0)
        }
        Ok(Cloned::Parent { pid, pidfd }) => (pid, pidfd),
        Err(e) => return Err(Error::io("make a user namespace for a mount's ids", e)),
    };
    let namespace = write_maps(pid, uids, gids, proc).and_then(|()| {
        proc.namespace(&pid.to_string(), "user").map_err(at("open a user namespace for a mount's ids"))
    });
    drop((go, wait));
    crate::spawn::reap(&pidfd).map_err(at("wait for the process of a user namespace"))?;
    namespace
}

/// Writes the mappings of a new user namespace, whose first process is `pid`.
pub(crate) fn write_maps(pid: i32, uids: &[IdMapping], gids: &[IdMapping], proc: &Proc) -> Result<(), Error> {
    let text = |mappings: &[IdMapping]| {
        mappings.iter().map(|m| format!("{} {} {}\n", m.container_id, m.host_id, m.size)).collect::<String>()
    };
    let write = |file: &str, text: &str| {
        proc.write(&format!("{pid}/{file}"), text).map_err(|e| Error::io(format!("write {file} {text:?}"), e))
    };
    if !rustix::process::geteuid().is_root() {
        // The kernel asks this of who is not privileged outside (CVE-2014-8989).
        write("setgroups", "deny")?;
    }
    write("gid_map", &text(gids))?;
    write("uid_map", &text(uids))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings() {
        let test = |list: &[(u32, u32, u32)], ok: bool| {
            let list: Vec<_> = list
                .iter()
                .map(|&(container_id, host_id, size)| IdMapping { container_id, host_id, size })
                .collect();
            assert_eq!(check("x", &list).is_ok(), ok, "{list:?}");
        };
        test(&[(0, 100_000, 65536)], true);
        test(&[(0, 1000, 1), (1, 100_000, 65535)], true);
        test(&[(0, 0, u32::MAX)], true);
        test(&[(0, 0, 0)], false);
        test(&[(1, 0, u32::MAX)], false);
        test(&[(0, 0, 10), (9, 100, 1)], false);
        test(&[(0, 0, 10), (10, 9, 1)], false);
        test(&[(0, 0, 1); 341], false);
    }
}
