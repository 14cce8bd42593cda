//! Quotas by project: what all files that carry one number may take, on ext4 and XFS.
//!
//! Kernel: `include/uapi/linux/fs.h`, `include/uapi/linux/quota.h`, `include/uapi/linux/dqblk_xfs.h`;
//! [quotactl(2)](https://man7.org/linux/man-pages/man2/quotactl.2.html). `quotactl_fd` since Linux 5.14.
#![allow(unsafe_code, reason = "rustix has no quota calls")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const GET_ATTRIBUTES: u32 = 0x801c_581f;
const SET_ATTRIBUTES: u32 = 0x401c_5820;
/// What is made in the directory has its project.
const INHERIT: u32 = 0x200;

const QUOTACTL_FD: libc::c_long = 443;
/// Quotas of projects, not of users or groups.
const PROJECT: u32 = 2;
const GET_QUOTA: u32 = 0x80_0007;
const SET_QUOTA: u32 = 0x80_0008;
/// `Q_XGETQSTATV`.
const GET_STATE: u32 = 0x5808;
const STATE_VERSION: i8 = 1;
/// Limits of projects are enforced.
const ENFORCED: u16 = 1 << 5;
/// Of a [`Quota`]: the limits of blocks are set.
const BLOCK_LIMITS: u32 = 1;
/// Limits are in units of so many bytes.
const UNIT: u64 = 1024;

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `struct if_dqblk`.
#[repr(C)]
#[derive(Default)]
struct Quota {
    hard_blocks: u64,
    soft_blocks: u64,
    space: u64,
    hard_inodes: u64,
    soft_inodes: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

/// `struct fs_quota_statv`.
#[repr(C)]
#[derive(Default)]
struct State {
    version: i8,
    padding: u8,
    flags: u16,
    in_core: u32,
    files: [[u64; 3]; 3],
    times: [i32; 3],
    warnings: [u16; 2],
    more: [u64; 8],
}

/// What the files of a project take, and may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    pub bytes: u64,
    /// Zero for no limit.
    pub limit_bytes: u64,
    pub inodes: u64,
}

/// Whether the file system of `any` enforces limits of projects.
///
/// # Errors
///
/// `ENOSYS`, `EOPNOTSUPP`, `ESRCH`, ... where kernel or file system have no quotas.
pub fn is_enforced(any: BorrowedFd<'_>) -> io::Result<bool> {
    let mut state = State { version: STATE_VERSION, ..State::default() };
    quotactl(any, GET_STATE, 0, &mut state)?;
    Ok(state.flags & ENFORCED != 0)
}

/// What the files of `project` on the file system of `any` take; nothing where there are none.
pub fn usage(any: BorrowedFd<'_>, project: u32) -> io::Result<Usage> {
    let mut quota = Quota::default();
    match quotactl(any, GET_QUOTA, project, &mut quota) {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(Usage::default()),
        Err(e) => Err(e),
        Ok(()) => Ok(Usage {
            bytes: quota.space,
            limit_bytes: quota.hard_blocks.saturating_mul(UNIT),
            inodes: quota.inodes,
        }),
    }
}

/// Limits what the files of `project` on the file system of `any` may take, rounded up to KiB; zero lifts the limit.
pub fn limit(any: BorrowedFd<'_>, project: u32, bytes: u64) -> io::Result<()> {
    let blocks = bytes.div_ceil(UNIT);
    let mut quota =
        Quota { hard_blocks: blocks, soft_blocks: blocks, valid: BLOCK_LIMITS, ..Quota::default() };
    quotactl(any, SET_QUOTA, project, &mut quota)
}

/// The project of a file or directory; zero for none.
pub fn project_of(file: BorrowedFd<'_>) -> io::Result<u32> {
    attributes(file).map(|attributes| attributes.project)
}

/// Gives a directory, and all that will be made in it, to `project`. What is in it already stays whose it is.
pub fn assign(directory: BorrowedFd<'_>, project: u32) -> io::Result<()> {
    let mut attributes = attributes(directory)?;
    attributes.project = project;
    attributes.flags |= INHERIT;
    call(directory, SET_ATTRIBUTES, &mut attributes)
}

/// Gives a regular file to `project`.
pub fn assign_file(file: BorrowedFd<'_>, project: u32) -> io::Result<()> {
    let mut attributes = attributes(file)?;
    attributes.project = project;
    call(file, SET_ATTRIBUTES, &mut attributes)
}

fn attributes(file: BorrowedFd<'_>) -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    call(file, GET_ATTRIBUTES, &mut attributes)?;
    Ok(attributes)
}

fn call(file: BorrowedFd<'_>, request: u32, attributes: &mut Attributes) -> io::Result<()> {
    // SAFETY: both requests of this module read or write one `struct fsxattr`, which `attributes` points to and which
    // outlives the call.
    let result =
        unsafe { libc::ioctl(file.as_raw_fd(), libc::Ioctl::from(request), std::ptr::from_mut(attributes)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn quotactl<T>(any: BorrowedFd<'_>, command: u32, project: u32, argument: &mut T) -> io::Result<()> {
    let command = command << 8 | PROJECT;
    // SAFETY: each command of this module reads or writes the `repr(C)` structure that its caller pairs it with, which
    // `argument` points to and which outlives the call; the other arguments are plain numbers.
    let result = unsafe {
        libc::syscall(QUOTACTL_FD, any.as_raw_fd(), command, project, std::ptr::from_mut(argument))
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const _: () = assert!(size_of::<Attributes>() == 28);
const _: () = assert!(size_of::<Quota>() == 72);
const _: () = assert!(size_of::<State>() == 160);

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    /// Whatever this machine's file systems can, an answer comes back, and it is one of the known ones.
    #[test]
    fn a_file_system_without_quotas_says_so() {
        let proc = std::fs::File::open("/proc/self").unwrap();
        assert!(is_enforced(proc.as_fd()).is_err());
        assert!(assign(proc.as_fd(), 7).is_err());
        assert!(limit(proc.as_fd(), 7, 1).is_err());
        let here = std::fs::File::open(env!("CARGO_MANIFEST_DIR")).unwrap();
        if let Ok(project) = project_of(here.as_fd()) {
            assert!(usage(here.as_fd(), project).is_ok() || !is_enforced(here.as_fd()).unwrap_or(false));
        }
    }
}
