//! Subvolumes of Btrfs and their limits.
//!
//! Kernel: `include/uapi/linux/btrfs.h`; [ioctl_btrfs](https://btrfs.readthedocs.io/en/latest/btrfs-ioctl.html).
#![allow(unsafe_code, reason = "rustix has no Btrfs calls")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `f_type` of a Btrfs file system.
pub const SUPER_MAGIC: u64 = 0x9123_683e;

const SNAP_CREATE: u32 = 0x5000_9401;
const SUBVOL_CREATE: u32 = 0x5000_940e;
const SNAP_DESTROY: u32 = 0x5000_940f;
const QUOTA_CTL: u32 = 0xc010_9428;
const QUOTA_RESCAN_WAIT: u32 = 0x0000_942e;
const QGROUP_LIMIT: u32 = 0x8030_942b;

const QUOTA_ENABLE: u64 = 1;
const LIMIT_EXCLUSIVE: u64 = 2;

/// Longest name of a subvolume, its NUL included.
const MAX_NAME: usize = 4088;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolumeArguments {
    fd: i64,
    name: [u8; MAX_NAME],
}

impl VolumeArguments {
    fn new(fd: i64, name: &CStr) -> io::Result<VolumeArguments> {
        let bytes = name.to_bytes_with_nul();
        let mut out = VolumeArguments { fd, name: [0; MAX_NAME] };
        let place = out.name.get_mut(..bytes.len()).ok_or(io::ErrorKind::InvalidInput)?;
        place.copy_from_slice(bytes);
        Ok(out)
    }
}

/// `struct btrfs_ioctl_quota_ctl_args`.
#[repr(C)]
struct QuotaControl {
    command: u64,
    status: u64,
}

/// `struct btrfs_ioctl_qgroup_limit_args`.
#[repr(C)]
#[derive(Default)]
struct GroupLimit {
    group: u64,
    flags: u64,
    max_referenced: u64,
    max_exclusive: u64,
    reserved: [u64; 2],
}

/// Makes an empty subvolume `name` in the directory `parent`.
pub fn create_subvolume(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    call(parent, SUBVOL_CREATE, &mut VolumeArguments::new(0, name)?)
}

/// Makes a writable snapshot `name` of the subvolume open as `source` in the directory `parent`. Waits for the file
/// system to commit.
pub fn snapshot(source: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    call(parent, SNAP_CREATE, &mut VolumeArguments::new(source.as_raw_fd().into(), name)?)
}

/// Removes the subvolume `name` of the directory `parent` with all that is in it; the space comes back later. Not one
/// that has subvolumes in it (`ENOTEMPTY`). `EINVAL` when it is no subvolume.
pub fn destroy_subvolume(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    call(parent, SNAP_DESTROY, &mut VolumeArguments::new(0, name)?)
}

/// Begins to count what each subvolume of the file system takes, and waits until all is counted. Nothing changes where
/// it is counted already.
pub fn enable_quota(any: BorrowedFd<'_>) -> io::Result<()> {
    call(any, QUOTA_CTL, &mut QuotaControl { command: QUOTA_ENABLE, status: 0 })?;
    // Takes no argument.
    call(any, QUOTA_RESCAN_WAIT, &mut ())
}

/// Limits what the subvolume open as `subvolume` takes beside what it shares with others.
pub fn limit_exclusive(subvolume: BorrowedFd<'_>, bytes: u64) -> io::Result<()> {
    // Group 0 means the subvolume's own.
    let mut limit = GroupLimit { flags: LIMIT_EXCLUSIVE, max_exclusive: bytes, ..GroupLimit::default() };
    call(subvolume, QGROUP_LIMIT, &mut limit)
}

fn call<T>(fd: BorrowedFd<'_>, request: u32, argument: &mut T) -> io::Result<()> {
    // The C libraries do not agree on the type; the bits are the same.
    #[cfg(target_env = "musl")]
    let request: libc::Ioctl = request.cast_signed();
    #[cfg(not(target_env = "musl"))]
    let request = libc::Ioctl::from(request);
    // SAFETY: every request of this module reads and writes exactly the `repr(C)` structure that its callers pair it
    // with (the size is part of the request's number; none for a request without), which `argument` points to and which outlives the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(argument)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const _: () = assert!(size_of::<VolumeArguments>() == 4096);
const _: () = assert!(size_of::<QuotaControl>() == 16);
const _: () = assert!(size_of::<GroupLimit>() == 48);
