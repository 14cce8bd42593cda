//! File system images mounted from a regular file, without a block device.
//!
//! Kernel: [Documentation/filesystems/erofs.rst](https://docs.kernel.org/filesystems/erofs.html), Linux 6.12 with
//! `CONFIG_EROFS_FS_BACKED_BY_FILE`.

use crate::Error;
use crate::overlay::{Named, kernel_log};
use rustix::fd::OwnedFd;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};
use std::path::Path;

/// Mounts the EROFS image in the file `image` on the directory `target`, read-only; device nodes and setuid bits in it
/// count for nothing there. An overlay on top has flags of its own.
///
/// Each call makes a file system with a page cache of its own: share one mount instead of making several.
pub fn mount_erofs(image: &Path, target: &Path) -> Result<(), Error> {
    let tree = open(image, target)?;
    rustix::mount::move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed(image, target, "move_mount".into()))
}

/// As [`mount_erofs`], on no directory: the root of the mount, which lasts as long as the descriptor. For who reads it once.
pub fn open_erofs(image: &Path) -> Result<OwnedFd, Error> {
    open(image, Path::new("nowhere"))
}

fn open(image: &Path, target: &Path) -> Result<OwnedFd, Error> {
    let failed = |call: &str, log: &str| failed(image, target, format!("{call}{log}"));
    let named = Named::new(image).map_err(failed("open image", ""))?;
    let fs = rustix::mount::fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed("fsopen", ""))?;
    let with_log = |call: &'static str| |errno| failed(call, &kernel_log(&fs))(errno);
    rustix::mount::fsconfig_set_string(&fs, "source", named.path())
        .map_err(with_log("fsconfig(\"source\")"))?;
    rustix::mount::fsconfig_set_flag(&fs, "ro").map_err(with_log("fsconfig(\"ro\")"))?;
    rustix::mount::fsconfig_create(&fs).map_err(with_log("fsconfig(CMD_CREATE)"))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID;
    rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(with_log("fsmount"))
}

fn failed(image: &Path, target: &Path, call: String) -> impl FnOnce(Errno) -> Error {
    let (image, target) = (image.into(), target.into());
    move |e| Error::Image { image, target, call, source: e.into() }
}
