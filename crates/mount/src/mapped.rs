//! Mounts whose ids are mapped as a user namespace maps them: what is 0 on disk is, through the mount, the id outside that the
//! namespace's 0 stands for, and what a process of the namespace writes as its root is 0 on disk again. So one tree serves any
//! mapping, and none.
//!
//! An overlay cannot be mapped as a whole; its layers can be. It is mounted by whoever stands for the namespace's root, since
//! what it makes in its layers it makes as who mounted it, and a mapped layer takes files only from ids it knows.
//!
//! Kernel: [mount_setattr(2)](https://man7.org/linux/man-pages/man2/mount_setattr.2.html), `MOUNT_ATTR_IDMAP`; overlays on such
//! layers since Linux 5.19.

use crate::overlay::{Failure, Overlay, kernel_log};
use crate::{Error, overlay, place};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags,
};
use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use sys::fs_ids::FsIds;

/// Detached mounts cannot be layers on this kernel: found out by the first mount.
static MUST_ATTACH: AtomicBool = AtomicBool::new(false);

/// How ids are mapped.
#[derive(Debug, Clone, Copy)]
pub struct Mapping<'a> {
    /// A user namespace other than the first.
    pub namespace: BorrowedFd<'a>,
    /// User and group that its root is outside.
    pub root: (u32, u32),
}

impl Mapping<'_> {
    /// Tries whether directories below `dir` can be mounted so, and an overlay of such where `on_overlay`. Nothing is attached
    /// anywhere; what is made below `dir` is removed.
    pub fn try_on(&self, dir: &Path, on_overlay: bool) -> Result<(), Error> {
        let place = dir.join(format!("mapped-{}", std::process::id()));
        let tried = self.try_in(&place, on_overlay);
        // Left by one that was killed, it is in nobody's way.
        drop(std::fs::remove_dir_all(&place));
        tried
    }

    fn try_in(&self, place: &Path, on_overlay: bool) -> Result<(), Error> {
        let [lower, upper, work] = ["lower", "upper", "work"].map(|name| place.join(name));
        for dir in [&lower, &upper, &work] {
            std::fs::create_dir_all(dir).map_err(|source| Error::View {
                base: dir.clone(),
                call: "create",
                source,
            })?;
        }
        let lowers = [lower];
        let overlay =
            Overlay { lowers: &lowers, upper: &upper, work: &work, volatile: true, read_only: false };
        let made = match on_overlay {
            true => mapped_overlay(&overlay, *self),
            false => clone_mapped(place, self.namespace),
        };
        made.map(drop).map_err(|failure| failure.explain(&overlay, place))
    }
}

/// Mounts `overlay` on `target` with the ids of all layers mapped. `overlay.upper` and `overlay.work` lie in one directory.
///
/// The source that is shown for it is the upper directory's path: the layers themselves have no names any more.
pub fn mount_mapped_overlay(overlay: &Overlay<'_>, mapping: Mapping<'_>, target: &Path) -> Result<(), Error> {
    mapped_overlay(overlay, mapping)
        .and_then(|tree| attach(&tree, target))
        .map_err(|failure| failure.explain(overlay, target))
}

fn mapped_overlay(overlay: &Overlay<'_>, mapping: Mapping<'_>) -> Result<OwnedFd, Failure> {
    if MUST_ATTACH.load(Ordering::Relaxed) {
        return on_thread(overlay, mapping);
    }
    match by_descriptors(overlay, mapping) {
        // Before 6.15 a layer is a mount of the caller's namespace.
        Err(Failure { errno: Errno::INVAL, .. }) => {
            let tree = on_thread(overlay, mapping)?;
            MUST_ATTACH.store(true, Ordering::Relaxed);
            Ok(tree)
        }
        other => other,
    }
}

/// As [`mount_mapped_overlay`], for kernels before 6.15: the layers are attached in a mount namespace that is gone with the
/// thread which has it.
pub fn mount_mapped_overlay_attached(
    overlay: &Overlay<'_>,
    mapping: Mapping<'_>,
    target: &Path,
) -> Result<(), Error> {
    on_thread(overlay, mapping)
        .and_then(|tree| attach(&tree, target))
        .map_err(|failure| failure.explain(overlay, target))
}

fn on_thread(overlay: &Overlay<'_>, mapping: Mapping<'_>) -> Result<OwnedFd, Failure> {
    std::thread::scope(|scope| scope.spawn(|| by_names(overlay, mapping)).join())
        .unwrap_or_else(|_| Err(failed("mount thread", Errno::CANCELED)))
}

/// Binds the directory `source` on `target` as [`bind_root`](crate::bind_root), with its ids mapped.
pub fn bind_mapped_root(
    source: &Path,
    target: &Path,
    read_only: bool,
    mapping: Mapping<'_>,
) -> Result<(), Error> {
    place::bind_root_as(source, target, read_only, Some(mapping.namespace))
}

/// What holds the mapped clones of an overlay's directories.
struct Clones {
    /// Topmost first.
    lowers: Vec<OwnedFd>,
    /// Of the directory that has both upper and work.
    changes: OwnedFd,
}

impl Clones {
    fn make(overlay: &Overlay<'_>, mapping: Mapping<'_>) -> Result<Clones, Failure> {
        let parent = overlay.upper.parent().filter(|parent| overlay.work.parent() == Some(*parent));
        let parent = parent.ok_or_else(|| failed("upper and work in different directories", Errno::XDEV))?;
        let clone = |path: &Path| clone_mapped(path, mapping.namespace);
        let lowers = overlay.lowers.iter().map(|path| clone(path)).collect::<Result<_, _>>()?;
        Ok(Clones { lowers, changes: clone(parent)? })
    }
}

/// The last part of a path of [`Overlay::upper`] or [`Overlay::work`].
fn last(path: &Path) -> &Path {
    path.file_name().map_or(path, Path::new)
}

fn clone_mapped(path: &Path, namespace: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, path, flags)
        .map_err(|errno| failed(&format!("open_tree({})", path.display()), errno))?;
    sys::mount_attr::set_idmap(&tree, false, namespace)
        .map_err(|e| failed(&format!("map the ids of {}", path.display()), errno_of(&e)))?;
    Ok(tree)
}

fn by_descriptors(overlay: &Overlay<'_>, mapping: Mapping<'_>) -> Result<OwnedFd, Failure> {
    let clones = Clones::make(overlay, mapping)?;
    let (uid, gid) = mapping.root;
    let _owner =
        FsIds::become_ids(uid, gid).map_err(|e| failed("become root of the namespace", errno_of(&e)))?;
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|errno| failed("fsopen", errno))?;
    let with_log = |call: String| |errno| Failure { call, errno, log: kernel_log(&fs) };
    let set = |key: &str, value: &Path| {
        rustix::mount::fsconfig_set_string(&fs, key, value)
            .map_err(with_log(format!("fsconfig({key:?}, {value:?})")))
    };
    // A longer one is not taken; then nothing tells that the layers below are in use, and all of them count as used.
    if set("source", overlay.upper).is_err() {
        set("source", Path::new("overlay"))?;
    }
    let of = |tree: &OwnedFd| PathBuf::from(format!("/proc/self/fd/{}", tree.as_raw_fd()));
    for lower in &clones.lowers {
        set("lowerdir+", &of(lower))?;
    }
    set("upperdir", &of(&clones.changes).join(last(overlay.upper)))?;
    set("workdir", &of(&clones.changes).join(last(overlay.work)))?;
    for (key, value) in overlay::FIXED {
        set(key, Path::new(value))?;
    }
    if overlay.volatile {
        rustix::mount::fsconfig_set_flag(&fs, "volatile")
            .map_err(with_log("fsconfig(\"volatile\")".into()))?;
    }
    rustix::mount::fsconfig_create(&fs).map_err(with_log("fsconfig(CMD_CREATE)".into()))?;
    let mut attributes = MountAttrFlags::empty();
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, overlay.read_only);
    rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(with_log("fsmount".into()))
}

/// Runs on a thread of its own, which it leaves in another mount namespace.
fn by_names(overlay: &Overlay<'_>, mapping: Mapping<'_>) -> Result<OwnedFd, Failure> {
    let clones = Clones::make(overlay, mapping)?;
    sys::thread_fs::unshare_mounts().map_err(|e| failed("unshare", errno_of(&e)))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(|errno| failed("make private", errno))?;
    // Some directory that is there: what it shows does not matter to this thread any more.
    let base = Path::new("/proc");
    rustix::mount::mount("tmpfs", base, "tmpfs", MountFlags::empty(), c"mode=0755")
        .map_err(|errno| failed("mount tmpfs", errno))?;
    rustix::process::chdir(base).map_err(|errno| failed("chdir", errno))?;
    let mut options = String::new();
    let place = |tree: &OwnedFd, name: &str| -> Result<(), Failure> {
        let made = rustix::fs::mkdir(name, rustix::fs::Mode::from_raw_mode(0o755));
        made.map_err(|errno| failed("mkdir", errno))?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(tree, "", CWD, name, flags).map_err(|errno| failed("move_mount", errno))
    };
    for (index, lower) in clones.lowers.iter().enumerate() {
        let name = index.to_string();
        place(lower, &name)?;
        options += if index == 0 { "lowerdir=" } else { ":" };
        options += &name;
    }
    place(&clones.changes, "changes")?;
    for (key, path) in [("upperdir", overlay.upper), ("workdir", overlay.work)] {
        options += &format!(",{key}=changes/{}", last(path).display());
    }
    for (key, value) in overlay::FIXED {
        options += &format!(",{key}={value}");
    }
    if overlay.volatile {
        options += ",volatile";
    }
    let options = CString::new(options).map_err(|_| failed("mount", Errno::INVAL))?;
    let made = rustix::fs::mkdir("whole", rustix::fs::Mode::from_raw_mode(0o755));
    made.map_err(|errno| failed("mkdir", errno))?;
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, overlay.read_only);
    let (uid, gid) = mapping.root;
    let owner =
        FsIds::become_ids(uid, gid).map_err(|e| failed("become root of the namespace", errno_of(&e)))?;
    rustix::mount::mount(overlay.upper, "whole", "overlay", flags, options.as_c_str())
        .map_err(|errno| failed("mount", errno))?;
    drop(owner);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(CWD, "whole", flags).map_err(|errno| failed("open_tree", errno))
}

fn attach(tree: &OwnedFd, target: &Path) -> Result<(), Failure> {
    rustix::mount::move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno| failed("move_mount", errno))
}

fn failed(call: &str, errno: Errno) -> Failure {
    Failure { call: call.into(), errno, log: String::new() }
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::INVAL)
}
