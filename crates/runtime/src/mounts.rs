//! Mounts: what an entry of `mounts` means, decided by the parent, and making it, done by the child.
//!
//! Spec: runtime-spec config.md, "Mounts".

use crate::Error;
use crate::child::Failure;
use crate::error::lacks;
use crate::idmap::IdNamespaces;
use crate::mount_options::{self, Bind, Idmap, Options};
use crate::procfs::is_procfs;
use crate::rooted::{self, clean};
use crate::site::Site;
use crate::{config, copy_up};
use oci::runtime::Mount;
use rootdir::RootDir;
use rustix::fs::{CWD, Mode};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick,
    move_mount, open_tree,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use sys::mount_attr::{self as attr, Attributes};
use sys::spent::spend;

/// One mount to make.
#[derive(Debug)]
pub(crate) struct MountStep {
    pub(crate) destination: PathBuf,
    pub(crate) what: What,
    pub(crate) options: Options,
}

/// What is mounted.
#[derive(Debug)]
pub(crate) enum What {
    /// A new file system. Where a user namespace may not have one of its own, because it does not own the namespace that
    /// the file system shows, the host's is bound from `fallback`.
    New { kind: String, source: String, fallback: Option<&'static str> },
    /// A host path.
    Bind { source: PathBuf, how: Bind },
    /// A tree that the parent cloned: for a user namespace, to which host paths may be closed, and for id-mapped mounts,
    /// which the kernel makes only for who is privileged over the file system.
    Tree { tree: OwnedFd, source: PathBuf },
    /// The container's cgroup directories.
    Cgroup(Vec<cgroup::HierarchyMount>),
    /// Other options for what is mounted there already.
    Remount,
}

impl MountStep {
    /// Leaves a mount writable that was to be read-only, and gives the step that makes it read-only.
    pub(crate) fn take_read_only(&mut self) -> Option<MountStep> {
        if self.options.attributes.set & attr::RDONLY == 0 {
            return None;
        }
        self.options.attributes.set &= !attr::RDONLY;
        let attributes = Attributes::new(attr::RDONLY, 0);
        let options = Options { attributes, bind: Some(Bind::One), ..Options::default() };
        Some(MountStep { destination: self.destination.clone(), what: What::Remount, options })
    }
}

/// What deciding needs to know besides the entry.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) bundle: &'a Path,
    pub(crate) cgroup: Option<&'a cgroup::Cgroup>,
    /// In a user namespace: whether trees stay peers of the host's, or become their slaves.
    pub(crate) user: Option<bool>,
    pub(crate) namespaces: IdNamespaces<'a>,
    /// SELinux context of new file systems.
    pub(crate) label: Option<&'a str>,
}

/// Whether the entry shows a host path.
pub(crate) fn is_bind(mount: &Mount) -> bool {
    mount.kind.as_deref() == Some("bind") || mount.options.iter().any(|o| o == "bind" || o == "rbind")
}

/// Decides what one entry means.
pub(crate) fn mount_step(mount: &Mount, around: &mut Surroundings<'_>) -> Result<MountStep, Error> {
    let field = || format!("mounts[{:?}]", mount.destination);
    let mut options =
        mount_options::parse(&mount.options).map_err(|reason| Error::invalid(field(), reason))?;
    let mapped = options.idmap.is_some() || !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
    let kind = mount.kind.as_deref().unwrap_or(if options.bind.is_some() { "bind" } else { "" });
    if mapped && (!is_bind(mount) || options.remount) {
        return Err(Error::unsupported(
            format!("id-mapped mount on {}", mount.destination),
            "only bind mounts can be",
        ));
    }
    if options.copy_up && kind != "tmpfs" {
        return Err(Error::invalid(field(), "tmpcopyup is for tmpfs only"));
    }
    let what = if options.remount {
        What::Remount
    } else if is_bind(mount) {
        let source = mount.source.as_deref().filter(|s| !s.is_empty());
        let source =
            around.bundle.join(source.ok_or_else(|| Error::invalid(field(), "bind without source"))?);
        let how = options.bind.unwrap_or(Bind::One);
        match around.user {
            None if !mapped => What::Bind { source, how },
            // Who has no privilege here leaves it to the child, which has it in its own mount namespace.
            Some(_) if !mapped && !crate::is_root() => What::Bind { source, how },
            user => {
                let tree = parent_clone(&source, how, user)?;
                if mapped {
                    let namespace = around.namespaces.get(mount)?;
                    let recursive = options.idmap == Some(Idmap::Recursive);
                    attr::set_idmap(&tree, recursive, namespace)
                        .map_err(|e| idmap_error(&source, &mount.destination, e))?;
                }
                What::Tree { tree, source }
            }
        }
    } else {
        match kind {
            "" => return Err(Error::invalid(field(), "has no type")),
            "cgroup" | "cgroup2" => {
                let cgroup =
                    around.cgroup.ok_or_else(|| Error::unsupported("cgroup mount without a cgroup", ""))?;
                What::Cgroup(cgroup.mounts())
            }
            _ => {
                if let Some(label) = around.label.filter(|_| !matches!(kind, "proc" | "sysfs" | "mqueue")) {
                    options.data.push(format!("context={label}"));
                }
                let source = mount.source.clone().unwrap_or_else(|| kind.to_owned());
                let fallback = around.user.and_then(|_| fallback(kind));
                What::New { kind: kind.to_owned(), source, fallback }
            }
        }
    };
    // Below the host's /sys are its cgroups, writable for the user to whom they were given, and `ro` is for the top alone
    // (CVE-2023-25809).
    let shows_host = match &what {
        What::New { fallback, .. } => *fallback == Some(SYS),
        What::Bind { source, .. } | What::Tree { source, .. } => source == Path::new(SYS),
        _ => false,
    };
    if around.user.is_some() && shows_host && options.attributes.set & attr::RDONLY != 0 {
        options.recursive.set |= attr::RDONLY;
    }
    Ok(MountStep { destination: clean(&mount.destination), what, options })
}

/// Where the host has its sysfs.
const SYS: &str = "/sys";

/// Where the host has what a user namespace may be denied.
fn fallback(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "proc" => "/proc",
        "sysfs" => SYS,
        "mqueue" => "/dev/mqueue",
        _ => return None,
    })
}

fn idmap_error(source: &Path, destination: &str, e: std::io::Error) -> Error {
    match Errno::from_io_error(&e) {
        Some(Errno::INVAL) => Error::unsupported(
            format!("id-mapped mount of {} on {destination}", source.display()),
            &format!("its file system has no id-mapped mounts, or {}", lacks("them")),
        ),
        _ => Error::io(format!("map the ids of {} for {destination}", source.display()), e),
    }
}

fn parent_clone(source: &Path, how: Bind, user: Option<bool>) -> Result<OwnedFd, Error> {
    let at = |e: std::io::Error| Error::io(format!("open bind source {}", source.display()), e);
    let tree = clone_tree(CWD, source, how == Bind::Recursive).map_err(|e| at(e.into()))?;
    if user != Some(true) {
        attr::set(&tree, how == Bind::Recursive, &Attributes::propagation(attr::SLAVE)).map_err(at)?;
    }
    Ok(tree)
}

/// Clones the mount at `path`, with `recursive` the tree below it, without attaching it anywhere.
pub(crate) fn clone_tree(directory: impl AsFd, path: &Path, recursive: bool) -> Result<OwnedFd, Errno> {
    let recursive = if recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
    let empty =
        if path.as_os_str().is_empty() { OpenTreeFlags::AT_EMPTY_PATH } else { OpenTreeFlags::empty() };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | recursive | empty;
    open_tree(directory, path, flags)
}

/// Attaches `tree` on what is open as `target`. No path is resolved.
pub(crate) fn attach(tree: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", target, "", flags)
}

/// Where in `/proc` something may be mounted: files that give no way to change the kernel's or the process's state.
const OVER_PROC: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Makes one mount below `root`.
pub(crate) fn mount_one(mount: MountStep, site: &mut Site) -> Result<(), Failure> {
    let shown = mount.destination.clone();
    let name = match &mount.what {
        What::New { kind, .. } => kind.clone(),
        What::Bind { source, .. } | What::Tree { source, .. } => source.display().to_string(),
        What::Cgroup(_) => "cgroup".into(),
        What::Remount => "again".into(),
    };
    let failure = |e: std::io::Error| Failure::new(format!("mount {name} on {}", shown.display()), e);
    if mount.destination == Path::new("/") {
        return Err(failure(Errno::BUSY.into()));
    }
    let options = &mount.options;
    let mut fresh = None;
    let (tree, target) = match mount.what {
        What::New { kind, source, fallback } => {
            let plain = if kind == "proc" || kind == "sysfs" {
                site.ordinary_directory(&mount.destination).map_err(|_| {
                    Failure::text(format!(
                        "mount {name} on {}: must be mounted on ordinary directory",
                        shown.display()
                    ))
                })?
            } else {
                None
            };
            if mount_by_name(&kind, &source, options, &mount.destination, site) {
                return Ok(());
            }
            let mut data = options.data.clone();
            if kind == "tmpfs" && !data.iter().any(|option| option.starts_with("mode=")) {
                // It is as open as the directory that it covers, if there is one.
                let there = rooted::find(&site.root, &mount.destination).and_then(rustix::fs::fstat);
                data.extend(there.ok().map(|stat| format!("mode={:o}", stat.st_mode & 0o7777)));
            }
            let target = match plain {
                Some(target) => target,
                None => site.ensure_directory(&mount.destination).map_err(|e| failure(e.into()))?,
            };
            fresh = Some(kind.clone());
            let tree = match new_filesystem(&kind, &source, &data, options.attributes.set) {
                Err((what, e)) => match fallback.filter(|_| Errno::from_io_error(&e) == Some(Errno::PERM)) {
                    Some(host) => {
                        fresh = None;
                        clone_tree(CWD, Path::new(host), true).map_err(|e| failure(e.into()))?
                    }
                    None => {
                        return Err(Failure::new(format!("mount {name} on {}: {what}", shown.display()), e));
                    }
                },
                Ok(tree) => tree,
            };
            if options.copy_up {
                copy_up::copy(&target, &tree).map_err(|e| {
                    Failure::new(format!("copy what is in {} into its tmpfs", shown.display()), e)
                })?;
            }
            (tree, target)
        }
        What::Bind { source, how } => {
            let tree = clone_tree(CWD, &source, how == Bind::Recursive).map_err(|e| failure(e.into()))?;
            let target = site.ensure_like(&mount.destination, &tree).map_err(|e| failure(e.into()))?;
            (tree, target)
        }
        What::Tree { tree, .. } => {
            let target = site.ensure_like(&mount.destination, &tree).map_err(|e| failure(e.into()))?;
            (tree, target)
        }
        What::Cgroup(hierarchies) => {
            return mount_cgroups(site, &mount.destination, &hierarchies, options).map_err(failure);
        }
        What::Remount => return remount(&site.root, &mount.destination, options).map_err(failure),
    };
    // A file system that covers a file of /proc could make later writes there, by us or by the container, lies. Seen on
    // the target's descriptor, so links in the image do not help.
    let whole_proc = mount.destination == Path::new("/proc");
    if !whole_proc
        && !site.is_plain(&mount.destination)
        && is_procfs(&target).map_err(|e| failure(e.into()))?
        && !OVER_PROC.iter().any(|allowed| mount.destination == Path::new(allowed))
    {
        return Err(Failure::text(format!("mount {name} on {}: is inside /proc", shown.display())));
    }
    if whole_proc && fresh.as_deref() != Some("proc") && !is_procfs(&tree).map_err(|e| failure(e.into()))? {
        return Err(Failure::text(format!("mount {name} on /proc: is not a procfs")));
    }
    // A new file system has its attributes from the start.
    if fresh.is_none() || !options.recursive.is_empty() {
        attributes(tree.as_fd(), options).map_err(failure)?;
    }
    attach(&tree, &target).map_err(|e| failure(e.into()))?;
    propagations(tree.as_fd(), options).map_err(failure)?;
    spend(target);
    site.attached(&mount.destination, tree, fresh.as_deref());
    Ok(())
}

fn attributes(tree: BorrowedFd<'_>, options: &Options) -> std::io::Result<()> {
    if !options.attributes.is_empty() {
        attr::set(tree, false, &options.attributes)?;
    }
    if !options.recursive.is_empty() {
        attr::set(tree, true, &options.recursive)?;
    }
    Ok(())
}

fn propagations(tree: BorrowedFd<'_>, options: &Options) -> std::io::Result<()> {
    options
        .propagation
        .iter()
        .try_for_each(|&(bits, recursive)| attr::set(tree, recursive, &Attributes::propagation(bits)))
}

/// With `bind` only the mount's own attributes change, else the file system's options too.
fn remount(root: &RootDir, path: &Path, options: &Options) -> std::io::Result<()> {
    let target = rooted::find(root, path)?;
    if options.bind.is_none() {
        let context = fspick(&target, "", FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC)?;
        if options.attributes.set & attr::RDONLY != 0 {
            fsconfig_set_flag(&context, "ro")?;
        } else if options.attributes.clear & attr::RDONLY != 0 {
            fsconfig_set_flag(&context, "rw")?;
        }
        configure(&context, &options.data).map_err(|(_, e)| e)?;
        fsconfig_reconfigure(&context)?;
    }
    attributes(target.as_fd(), options)?;
    propagations(target.as_fd(), options)
}

/// A failing option, or call, and why.
type Refused = (String, std::io::Error);

fn configure(context: &OwnedFd, data: &[String]) -> Result<(), Refused> {
    data.iter().try_for_each(|option| {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(context, key, value),
            None => fsconfig_set_flag(context, option.as_str()),
        }
        .map_err(|e| (format!("option {option:?}"), e.into()))
    })
}

/// Makes a file system, not attached. An error says at which option.
pub(crate) fn new_filesystem(
    kind: &str,
    source: &str,
    data: &[String],
    attributes: u64,
) -> Result<OwnedFd, Refused> {
    let at = |what: &str| {
        let what = what.to_owned();
        move |e: Errno| (what, e.into())
    };
    let context = match fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC) {
        Err(Errno::NODEV) => return Err((lacks(&format!("file system {kind}")), Errno::NODEV.into())),
        other => other.map_err(at("fsopen"))?,
    };
    fsconfig_set_string(&context, "source", source).map_err(at("source"))?;
    configure(&context, data)?;
    fsconfig_create(&context).map_err(at("create"))?;
    let flags = MountAttrFlags::from_bits_retain(u32::try_from(attributes).unwrap_or(0));
    let tree = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags).map_err(at("fsmount"))?;
    spend(context);
    Ok(tree)
}

/// Types whose new instances mount(2) may make as well: they show nothing that is the kernel's own.
const BY_NAME: &[&str] = &["tmpfs", "devpts", "mqueue"];

/// Makes a new file system on a directory that is not there yet, in a tmpfs of ours, where a name is as good as a descriptor:
/// one call in place of five, and another one for each option. False where it is not so simple, or where the kernel refuses:
/// then it is to be made the other way, which knows which of the options was refused.
fn mount_by_name(kind: &str, source: &str, options: &Options, path: &Path, site: &mut Site) -> bool {
    const MAX_DATA: usize = 4000;
    let known = attr::NOSUID | attr::NODEV | attr::NOEXEC | attr::NOATIME | attr::STRICTATIME;
    let simple = BY_NAME.contains(&kind)
        && (kind != "tmpfs" || options.data.iter().any(|option| option.starts_with("mode=")))
        && !options.copy_up
        && options.recursive.is_empty()
        && options.propagation.is_empty()
        // Read-only would be the file system, where only this mount is to be.
        && options.attributes.set & !known == 0
        && !options.data.iter().any(|option| option.contains(','));
    let data = options.data.join(",");
    if !simple || data.len() > MAX_DATA {
        return false;
    }
    let flags = [
        (attr::NOSUID, MountFlags::NOSUID),
        (attr::NODEV, MountFlags::NODEV),
        (attr::NOEXEC, MountFlags::NOEXEC),
        (attr::NOATIME, MountFlags::NOATIME),
        (attr::STRICTATIME, MountFlags::STRICTATIME),
    ];
    let flags = flags.iter().filter(|(bit, _)| options.attributes.set & bit != 0);
    let flags = flags.fold(MountFlags::empty(), |all, (_, flag)| all | *flag);
    let Ok(data) = std::ffi::CString::new(data) else { return false };
    let Some(name) = site.new_directory(path) else { return false };
    if rustix::mount::mount(source, name, kind, flags, data.as_c_str()).is_err() {
        return false;
    }
    site.covered(path);
    true
}

/// A tmpfs with a bind of each hierarchy, or on v2 alone the one directory.
fn mount_cgroups(
    site: &mut Site,
    destination: &Path,
    hierarchies: &[cgroup::HierarchyMount],
    options: &Options,
) -> std::io::Result<()> {
    if let [only] = hierarchies
        && only.name.is_empty()
    {
        let target = site.ensure_directory(destination)?;
        let tree = clone_tree(CWD, &only.source, false)?;
        attributes(tree.as_fd(), options)?;
        attach(&tree, &target)?;
        propagations(tree.as_fd(), options)?;
        spend(target);
        site.attached(destination, tree, None);
        return Ok(());
    }
    const TMPFS_DATA: [&str; 2] = ["mode=755", "size=65536"];
    // What is mounted is the working directory then, and a name in it is as good as a descriptor: it is new and ours.
    if let Some(rest) = site.enter_sysfs(destination) {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let data = std::ffi::CString::new(TMPFS_DATA.join(",")).unwrap_or_default();
        rustix::mount::mount("tmpfs", rest, "tmpfs", flags, data.as_c_str())?;
        rustix::process::chdir(rest)?;
        site.covered(destination);
    } else {
        let target = site.ensure_directory(destination)?;
        let set = attr::NOSUID | attr::NODEV | attr::NOEXEC;
        let tmpfs =
            new_filesystem("tmpfs", "tmpfs", &TMPFS_DATA.map(str::to_owned), set).map_err(|(_, e)| e)?;
        attach(&tmpfs, &target)?;
        rustix::process::fchdir(&tmpfs)?;
        spend(target);
        site.left();
        site.attached(destination, tmpfs, None);
    }
    for hierarchy in hierarchies {
        rustix::fs::mkdir(hierarchy.name.as_str(), Mode::from_raw_mode(0o755))?;
        rustix::mount::mount_bind(&hierarchy.source, hierarchy.name.as_str())?;
        for link in &hierarchy.links {
            rustix::fs::symlink(hierarchy.name.as_str(), link.as_str())?;
        }
    }
    // The binds and the tmpfs are one tree with the same attributes, read-only or not.
    let recursive = if options.recursive.is_empty() { options.attributes } else { options.recursive };
    if !recursive.is_empty() {
        attr::set(CWD, true, &recursive)?;
    }
    if !options.recursive.is_empty() {
        attributes(CWD, options)?;
    }
    propagations(CWD, options)
}

/// The SELinux context for mounts, where there is SELinux.
pub(crate) fn label(spec: &oci::runtime::Spec) -> Result<Option<&str>, Error> {
    let label = spec.linux.as_ref().and_then(|linux| linux.mount_label.as_deref());
    let Some(label) = label.filter(|label| !label.is_empty()) else { return Ok(None) };
    if !config::has_selinux() {
        return Err(Error::missing("linux.mountLabel", "active SELinux"));
    }
    Ok(Some(label))
}
