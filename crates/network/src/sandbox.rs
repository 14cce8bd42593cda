//! Sandboxes: network namespaces that a file keeps alive.
//!
//! A namespace is made, or entered, on a thread that is started for it and ends with it, so that no other thread of
//! the program ever is in the wrong network. A socket opened there stays in that namespace and is then used from
//! anywhere.

use crate::link::{IFLA_IFNAME, RTM_SETLINK, failed, ifinfomsg_up};
use crate::netlink::{NLM_F_ACK, Request, Socket};
use crate::{Error, Result, sysctl};
use rustix::fs::{Mode, OFlags};
use rustix::mount::UnmountFlags;
use rustix::thread::LinkNameSpaceType;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Makes a network namespace and binds it at `path`, which must not exist, in a directory the caller trusts.
///
/// `lo` is up, with its addresses; interfaces that come later have IPv6 off. Undone on failure. Needs
/// `CAP_SYS_ADMIN`.
///
/// # Errors
///
/// [`Error::Sandbox`], of kind `AlreadyExists` if the file exists; [`Error::Netlink`]; [`Error::Sysctl`].
///
/// Kernel: [network_namespaces(7)](https://man7.org/linux/man-pages/man7/network_namespaces.7.html).
pub fn create_sandbox(path: &Path) -> Result<()> {
    create_file(path)?;
    let made = on_thread(path, || {
        fill_new_namespace(path)?;
        // Last, so that a file that is a namespace is a whole one.
        bind_on(path, OWN)
    });
    if made.is_err() {
        // The first error is the one to tell; what is left of the file is found by whoever reads the directory.
        remove_sandbox(path).ok();
    }
    made
}

/// As [`create_sandbox`], of the network namespace that is open as `namespace`: new, with nothing set up in it. What it belongs
/// to is for whoever made it to say, such as a user namespace.
///
/// # Errors
///
/// As [`create_sandbox`].
pub fn create_sandbox_of(path: &Path, namespace: BorrowedFd<'_>) -> Result<()> {
    create_file(path)?;
    let made = enter(path, namespace, || fill_namespace(path))
        .and_then(|_| bind_on(path, &format!("/proc/self/fd/{}", namespace.as_raw_fd())));
    if made.is_err() {
        remove_sandbox(path).ok();
    }
    made
}

/// The calling thread's network namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// As [`create_sandbox`], with no file: it is there as long as it is held.
pub(crate) fn make_unnamed() -> Result<Sandbox> {
    let path = Path::new(OWN);
    on_thread(path, || {
        let route = fill_new_namespace(path)?;
        let namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| sandbox_error("open", path, errno.into()))?;
        Ok(Sandbox { namespace, route })
    })
}

/// Binds an open namespace at `path`, as [`create_sandbox`] does a new one.
pub(crate) fn bind(path: &Path, namespace: BorrowedFd<'_>) -> Result<()> {
    create_file(path)?;
    let bound = bind_on(path, &format!("/proc/self/fd/{}", namespace.as_raw_fd()));
    if bound.is_err() {
        remove_sandbox(path).ok();
    }
    bound
}

fn create_file(path: &Path) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::RUSR)
        .map(drop)
        .map_err(|errno| sandbox_error("create", path, errno.into()))
}

fn bind_on(path: &Path, namespace: &str) -> Result<()> {
    rustix::mount::mount_bind(namespace, path).map_err(|errno| sandbox_error("bind", path, errno.into()))
}

/// Removes the sandbox at `path`: what runs in it keeps the namespace, but nobody finds it here any more. Harmless
/// if there is none.
///
/// The kernel takes the namespace down later, and its interfaces with it. A [`detach`](crate::detach) before this is
/// only needed for who wants the host's end gone at once.
///
/// # Errors
///
/// [`Error::Sandbox`].
pub fn remove_sandbox(path: &Path) -> Result<()> {
    loop {
        match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // Someone bound it twice: what is below would keep the file busy.
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => break,
            Err(errno) => return Err(sandbox_error("unmount", path, errno.into())),
        }
    }
    match rustix::fs::unlink(path) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(sandbox_error("remove", path, errno.into())),
    }
}

/// Writes one kernel setting of the sandbox: `name` is a path below `/proc/sys/net`, of plain parts.
///
/// # Errors
///
/// [`Error::Sysctl`], [`Error::Sandbox`].
pub fn set_sandbox_sysctl(path: &Path, name: &str, value: &str) -> Result<()> {
    if name.split('/').any(|part| part.is_empty() || part == "..") {
        return Err(Error::InvalidText { what: "setting", value: name.into() });
    }
    inside(path, || sysctl::set(name, value, false))
}

/// Leaves the calling thread in a new namespace as sandboxes are. A socket in it.
fn fill_new_namespace(path: &Path) -> Result<Socket> {
    sys::netns::unshare_network().map_err(|source| sandbox_error("make", path, source))?;
    fill_namespace(path)
}

/// Makes the calling thread's namespace, which is new, be as sandboxes are. A socket in it.
fn fill_namespace(path: &Path) -> Result<Socket> {
    // Interfaces made later copy these. `lo` keeps ::1, as in Docker.
    sysctl::set("ipv6/conf/default/disable_ipv6", "1", true)?;
    let mut request = Request::default();
    request.message(RTM_SETLINK, NLM_F_ACK, &ifinfomsg_up(0), |r| r.text(IFLA_IFNAME, "lo"));
    let socket = Socket::route().map_err(|source| sandbox_error("open a netlink socket in", path, source))?;
    socket.transact(&request).map_err(|f| failed("set lo up", f.source))?;
    Ok(socket)
}

/// An open sandbox: its namespace, and a route socket inside.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) namespace: OwnedFd,
    pub(crate) route: Socket,
}

/// Opens the sandbox at `path`.
pub(crate) fn open(path: &Path) -> Result<Sandbox> {
    let namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| sandbox_error("open", path, errno.into()))?;
    let route = enter(path, namespace.as_fd(), || {
        Socket::route().map_err(|source| failed("open a netlink socket", source))
    })?;
    Ok(Sandbox { namespace, route })
}

/// Runs `work` in the sandbox at `path`, on a thread of its own.
pub(crate) fn inside<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| sandbox_error("open", path, errno.into()))?;
    enter(path, namespace.as_fd(), work)
}

/// Runs `work` in `namespace`, on a thread of its own.
fn enter<T: Send>(
    path: &Path,
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    on_thread(path, || {
        rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))
            .map_err(|errno| sandbox_error("enter", path, errno.into()))?;
        work()
    })
}

/// Small: such a thread makes a few calls. The default of 2 MiB costs a larger mapping.
const STACK_BYTES: usize = 64 * 1024;

/// Runs `work` on a new thread and waits for it.
fn on_thread<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).stack_size(STACK_BYTES);
        let thread = thread
            .spawn_scoped(scope, work)
            .map_err(|source| sandbox_error("start a thread for", path, source))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn sandbox_error(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Sandbox { operation, path: PathBuf::from(path), source }
}
