//! File system images mounted from a regular file, without a block device.
//!
//! Kernel: [Documentation/filesystems/erofs.rst](https://docs.kernel.org/filesystems/erofs.html), Linux 6.12 with
//! `CONFIG_EROFS_FS_BACKED_BY_FILE`.

use crate::Error;
use crate::overlay::{Named, kernel_log};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};
use std::path::Path;

/// Mounts the EROFS image in the file `image` on the directory `target`, read-only; device nodes and setuid bits in it
/// count for nothing there. An overlay on top has flags of its own.
///
/// Each call makes a file system with a page cache of its own: share one mount instead of making several.
pub fn mount_erofs(image: &Path, target: &Path) -> Result<(), Error> {
    let failed = |call: &str, log: &str| {
        let call = format!("{call}{log}");
        move |e: Errno| Error::Image { image: image.into(), target: target.into(), call, source: e.into() }
    };
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
    let tree = rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(with_log("fsmount"))?;
    rustix::mount::move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed("move_mount", ""))
}
