//! The overlay mount: directories stacked, the topmost writable.
//!
//! Kernel: [Documentation/filesystems/overlayfs.rst](https://docs.kernel.org/filesystems/overlayfs.html).

use crate::Error;
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags};
use std::ffi::CString;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Longest value that `fsconfig` takes as a string, its NUL included.
const MAX_STRING: usize = 256;
/// Longest text of options that `mount(2)` takes, its NUL included: one page.
const MAX_PAGE: usize = 4096;
/// `f_type` of an overlay file system.
const OVERLAYFS_SUPER_MAGIC: u64 = 0x794c_7630;

/// Layers cannot be added one by one on this kernel: found out by the first mount.
static IS_OLD: AtomicBool = AtomicBool::new(false);

/// An overlay to mount. All paths are absolute and name directories.
#[derive(Debug, Clone, Copy)]
pub struct Overlay<'a> {
    /// Lower layers, topmost first, at least one and at most 500.
    pub lowers: &'a [PathBuf],
    /// Where changes go.
    pub upper: &'a Path,
    /// Scratch of the kernel, empty, on the same file system as `upper`.
    pub work: &'a Path,
    /// Never sync the upper file system, not even when unmounting.
    pub volatile: bool,
    pub read_only: bool,
}

/// Options that pin the format of the upper directory, whatever defaults the kernel was built with: every change is a
/// whole file, a whiteout or an opaque directory, which is what a layer can hold.
pub(crate) const FIXED: [(&str, &str); 3] = [("redirect_dir", "off"), ("metacopy", "off"), ("index", "off")];

/// Mounts `overlay` on `target`.
///
/// Layers are added one by one where the kernel can (`lowerdir+`, Linux 6.5), so neither their number nor the length
/// of their paths matters. Before that, all must fit in one page of options, which [`mount_overlay_in_one_call`]
/// stretches.
pub fn mount_overlay(overlay: &Overlay<'_>, target: &Path) -> Result<(), Error> {
    if IS_OLD.load(Ordering::Relaxed) {
        return mount_overlay_in_one_call(overlay, target);
    }
    match mount_by_steps(overlay, target) {
        Ok(()) => Ok(()),
        // Old kernels collect any option and refuse what they do not know at the end, with nothing but EINVAL.
        Err(Failure { errno: Errno::INVAL | Errno::NOSYS, .. }) if !has_lowerdir_append() => {
            mount_overlay_in_one_call(overlay, target)?;
            // Each try leaves a line in the kernel's log.
            IS_OLD.store(true, Ordering::Relaxed);
            Ok(())
        }
        Err(failure) => Err(failure.explain(overlay, target)),
    }
}

/// As [`mount_overlay`], by `mount(2)`: for kernels before 6.5.
///
/// Paths are given relative to the directory that all of them share, from a thread that has it as its working
/// directory. With layers named by small numbers 500 of them fit.
pub fn mount_overlay_in_one_call(overlay: &Overlay<'_>, target: &Path) -> Result<(), Error> {
    let base = shared_parent(overlay);
    let failed =
        |call: &str, errno| Failure { call: call.into(), errno, log: String::new() }.explain(overlay, target);
    let options =
        options(overlay, &base).ok_or_else(|| failed("mount: options longer than a page", Errno::TOOBIG))?;
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, overlay.read_only);
    let mount = || {
        sys::thread_fs::unshare_fs()
            .map_err(|e| ("unshare", Errno::from_io_error(&e).unwrap_or(Errno::INVAL)))?;
        rustix::process::chdir(&base).map_err(|e| ("chdir", e))?;
        rustix::mount::mount("overlay", target, "overlay", flags, options.as_c_str())
            .map_err(|e| ("mount", e))
    };
    std::thread::scope(|scope| scope.spawn(mount).join())
        .unwrap_or(Err(("mount thread", Errno::CANCELED)))
        .map_err(|(call, errno)| failed(call, errno))
}

/// A call that failed, and what the kernel wrote about it.
pub(crate) struct Failure {
    pub(crate) call: String,
    pub(crate) errno: Errno,
    pub(crate) log: String,
}

impl Failure {
    pub(crate) fn explain(self, overlay: &Overlay<'_>, target: &Path) -> Error {
        let magic = |path: &Path| rustix::fs::statfs(path).ok().and_then(|s| u64::try_from(s.f_type).ok());
        let hint = match self.errno {
            Errno::NODEV => Some("this kernel has no overlay file system; load the module `overlay`"),
            Errno::PERM => Some("mounting an overlay needs root, or Linux 5.11 in a user namespace"),
            Errno::INVAL if magic(overlay.upper) == Some(OVERLAYFS_SUPER_MAGIC) => {
                Some("the data root is itself on overlay; set `data-root` to a plain file system")
            }
            Errno::INVAL | Errno::OPNOTSUPP => Some(
                "the file system of the data root may lack extended attributes; use ext4, xfs, btrfs or tmpfs",
            ),
            _ => None,
        };
        Error::Overlay {
            target: target.into(),
            call: self.call,
            log: self.log,
            hint,
            source: self.errno.into(),
        }
    }
}

fn mount_by_steps(overlay: &Overlay<'_>, target: &Path) -> Result<(), Failure> {
    let plain = |call: &str| {
        let call = call.to_string();
        move |errno| Failure { call, errno, log: String::new() }
    };
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(plain("fsopen"))?;
    let with_log = |call: String| |errno| Failure { call, errno, log: kernel_log(&fs) };
    let set = |key: &str, value: &Path| {
        let named = Named::new(value).map_err(plain("open layer"))?;
        rustix::mount::fsconfig_set_string(&fs, key, named.path())
            .map_err(with_log(format!("fsconfig({key:?}, {value:?})")))
    };
    // Mostly cosmetic: what mountinfo shows as the source.
    rustix::mount::fsconfig_set_string(&fs, "source", "overlay").map_err(plain("fsconfig(\"source\")"))?;
    for lower in overlay.lowers {
        set("lowerdir+", lower)?;
    }
    set("upperdir", overlay.upper)?;
    set("workdir", overlay.work)?;
    for (key, value) in FIXED {
        rustix::mount::fsconfig_set_string(&fs, key, value)
            .map_err(with_log(format!("fsconfig({key:?}, {value:?})")))?;
    }
    if overlay.volatile {
        rustix::mount::fsconfig_set_flag(&fs, "volatile")
            .map_err(with_log("fsconfig(\"volatile\")".into()))?;
    }
    rustix::mount::fsconfig_create(&fs).map_err(with_log("fsconfig(CMD_CREATE)".into()))?;
    let mut attributes = MountAttrFlags::empty();
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, overlay.read_only);
    let tree = rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(with_log("fsmount".into()))?;
    rustix::mount::move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(plain("move_mount"))
}

/// A path that `fsconfig` takes: itself, or, where it is too long or has a backslash (which the kernel takes as an escape
/// in some of the options), the name of a descriptor held open meanwhile.
pub(crate) enum Named {
    Itself(PathBuf),
    Descriptor { path: PathBuf, _fd: OwnedFd },
}

impl Named {
    pub(crate) fn new(path: &Path) -> Result<Named, Errno> {
        let bytes = path.as_os_str().as_bytes();
        if bytes.len() < MAX_STRING && !bytes.contains(&b'\\') {
            return Ok(Named::Itself(path.into()));
        }
        let fd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Named::Descriptor { path: format!("/proc/self/fd/{}", fd.as_raw_fd()).into(), _fd: fd })
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Named::Itself(path) | Named::Descriptor { path, .. } => path,
        }
    }
}

/// What the kernel wrote to the context, as ` [..]`, or nothing.
pub(crate) fn kernel_log(fs: &OwnedFd) -> String {
    let mut out = String::new();
    let mut buffer = [0; 1024];
    // One message a read; ENODATA ends. The kernel keeps at most eight.
    for _ in 0..8 {
        let Ok(length) = rustix::io::read(fs, &mut buffer) else { break };
        let text = String::from_utf8_lossy(&buffer[..length]);
        let line = text.trim_end().trim_start_matches(['e', 'w', 'i']).trim_start();
        out.push_str(if out.is_empty() { " [" } else { "; " });
        out.push_str(line);
    }
    if !out.is_empty() {
        out.push(']');
    }
    out
}

/// Whether this kernel is 6.5 or later.
fn has_lowerdir_append() -> bool {
    is_release_at_least(&rustix::system::uname().release().to_string_lossy(), (6, 5))
}

fn is_release_at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= wanted
}

/// The deepest directory that holds all of the overlay's directories.
fn shared_parent(overlay: &Overlay<'_>) -> PathBuf {
    let others = overlay.lowers.iter().map(PathBuf::as_path).chain([overlay.work]);
    let mut base = overlay.upper.parent().unwrap_or(Path::new("/"));
    for path in others {
        while !path.starts_with(base) {
            base = base.parent().unwrap_or(Path::new("/"));
        }
    }
    base.into()
}

/// The options of `mount(2)`, or nothing when they do not fit.
fn options(overlay: &Overlay<'_>, base: &Path) -> Option<CString> {
    let mut out = Vec::new();
    for (index, lower) in overlay.lowers.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"lowerdir=" } else { b":" });
        escape(lower.strip_prefix(base).unwrap_or(lower), &mut out);
    }
    for (key, path) in [("upperdir", overlay.upper), ("workdir", overlay.work)] {
        out.extend_from_slice(format!(",{key}=").as_bytes());
        escape(path.strip_prefix(base).unwrap_or(path), &mut out);
    }
    for (key, value) in FIXED {
        out.extend_from_slice(format!(",{key}={value}").as_bytes());
    }
    if overlay.volatile {
        out.extend_from_slice(b",volatile");
    }
    if out.len() >= MAX_PAGE {
        return None;
    }
    CString::new(out).ok()
}

/// Overlay splits at commas and colons.
fn escape(path: &Path, out: &mut Vec<u8>) {
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b',' | b':' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        for (release, expected) in [
            ("6.5.0", true),
            ("6.18.44-fc-v669", true),
            ("7.0-rc1", true),
            ("6.4.9-6.5", false),
            ("5.10.0-28-amd64", false),
            ("6.5-rc1", true),
            ("", false),
        ] {
            assert_eq!(is_release_at_least(release, (6, 5)), expected, "{release}");
        }
    }
}
