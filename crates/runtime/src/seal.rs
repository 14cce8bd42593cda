//! Running from memory. A process that enters a container shows `/proc/PID/exe` there; if that is the file on the
//! host, a hostile image can have it opened for writing once the runtime is gone (CVE-2019-5736: the image's entry
//! point is a link to `/proc/self/exe`, or a script whose interpreter is). So the verbs that enter a container first
//! copy this program into a sealed memfd and execute that. The others never do.

use crate::Error;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

const SEALS: SealFlags =
    SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);

/// Returns when this program runs from a sealed copy; otherwise makes one and starts over in it.
pub fn ensure_sealed() -> Result<(), Error> {
    let program = rustix::fs::open("/proc/self/exe", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::io("open /proc/self/exe", e))?;
    if rustix::fs::fcntl_get_seals(&program).is_ok_and(|seals| seals.contains(SEALS)) {
        return Ok(());
    }
    let copy = sealed_copy(&program).map_err(|e| Error::io("copy this program into a sealed memfd", e))?;
    let strings = |list: Vec<std::ffi::OsString>| {
        let list = list.into_iter().filter_map(|s| CString::new(s.into_vec()).ok());
        sys::process::StringList::new(list.collect())
    };
    let args = strings(std::env::args_os().collect());
    let pair = |(mut name, value): (std::ffi::OsString, std::ffi::OsString)| {
        name.push("=");
        name.push(value);
        name
    };
    let env = strings(std::env::vars_os().map(pair).collect());
    Err(Error::io("execute this program from a sealed memfd", sys::process::execve_file(copy, &args, &env)))
}

fn sealed_copy(program: &OwnedFd) -> Result<OwnedFd, Errno> {
    const NAME: &str = "brig-runtime";
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = match rustix::fs::memfd_create(NAME, flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 there is no such flag and every memfd may be executed.
        Err(Errno::INVAL) => rustix::fs::memfd_create(NAME, flags)?,
        other => other?,
    };
    let length = usize::try_from(rustix::fs::fstat(program)?.st_size).map_err(|_| Errno::FBIG)?;
    let mut offset = 0;
    let mut left = length;
    while left > 0 {
        match rustix::fs::sendfile(copy.as_fd(), program.as_fd(), Some(&mut offset), left)? {
            0 => return Err(Errno::IO),
            count => left -= count,
        }
    }
    rustix::fs::fcntl_add_seals(&copy, SEALS)?;
    Ok(copy)
}
