//! Which hierarchies are mounted, where, with which controllers. Read once for a process.

use crate::Error;
use crate::file;
use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

/// How this machine mounts cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One hierarchy for each controller or group of controllers.
    V1,
    /// One hierarchy for all.
    V2,
    /// v1 hierarchies with controllers, and v2 beside them, with those that v1 does not have, if any.
    Hybrid,
}

/// How cgroups are mounted here.
pub fn mode() -> Result<Mode, Error> {
    layout().map(|layout| layout.mode)
}

/// Which limits can be set here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    pub memory: bool,
    pub swap: bool,
    pub cpu_shares: bool,
    /// Period and quota.
    pub cpu_quota: bool,
    pub cpuset: bool,
    pub pids: bool,
}

/// Which limits this kernel and these mounts have.
pub fn limits() -> Result<Limits, Error> {
    let layout = layout()?;
    let of = |controller: &str| layout.index_of(controller).map(|at| &layout.hierarchies[at]);
    // v1 has its files at the root too; on v2 they are where a controller is enabled, and always all of them.
    let has = |controller: &str, file: &str| {
        of(controller).is_some_and(|h| h.v2 || std::path::Path::new(&h.directory).join(file).exists())
    };
    let swap = match of("memory") {
        Some(h) if h.v2 => std::path::Path::new("/proc/swaps").exists(),
        _ => has("memory", "memory.memsw.limit_in_bytes"),
    };
    Ok(Limits {
        memory: of("memory").is_some(),
        swap,
        cpu_shares: of("cpu").is_some(),
        cpu_quota: has("cpu", "cpu.cfs_quota_us"),
        cpuset: of("cpuset").is_some(),
        pids: of("pids").is_some(),
    })
}

/// One mounted hierarchy.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    /// The mount point.
    pub(crate) directory: String,
    pub(crate) v2: bool,
    /// Controllers; for a named v1 hierarchy `name=systemd`.
    pub(crate) controllers: Vec<String>,
    /// Opened when first asked for: most containers need few of them.
    root: OnceLock<OwnedFd>,
}

impl Hierarchy {
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }

    /// The mount point, open.
    pub(crate) fn root(&self) -> Result<BorrowedFd<'_>, Errno> {
        if let Some(root) = self.root.get() {
            return Ok(root.as_fd());
        }
        let root = file::open_path(&self.directory)?;
        Ok(self.root.get_or_init(|| root).as_fd())
    }
}

#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) mode: Mode,
    pub(crate) hierarchies: Vec<Hierarchy>,
}

impl Layout {
    pub(crate) fn index_of(&self, controller: &str) -> Option<usize> {
        self.hierarchies.iter().position(|h| h.has(controller))
    }
}

pub(crate) fn layout() -> Result<&'static Layout, Error> {
    static LAYOUT: OnceLock<Layout> = OnceLock::new();
    if let Some(layout) = LAYOUT.get() {
        return Ok(layout);
    }
    let found = read()?;
    Ok(LAYOUT.get_or_init(|| found))
}

fn read() -> Result<Layout, Error> {
    let text = file::read_table("/proc/self/mountinfo").map_err(|e| Error::File {
        operation: "read",
        file: "/proc/self/mountinfo".into(),
        source: e.into(),
    })?;
    let mut hierarchies: Vec<Hierarchy> = Vec::new();
    for mount in parse_mountinfo(&text) {
        // One mount of a hierarchy is enough, and it must not be hidden under a later mount.
        if hierarchies.iter().any(|h| h.v2 == mount.v2 && (h.v2 || h.controllers == mount.controllers)) {
            continue;
        }
        if mount.covered && !is_visible(&mount) {
            continue;
        }
        let root = OnceLock::new();
        let mut controllers = mount.controllers;
        if mount.v2 {
            let Ok(fd) = file::open_path(&mount.directory) else { continue };
            controllers = v2_controllers(root.get_or_init(|| fd), &mount.directory)?;
        }
        hierarchies.push(Hierarchy { directory: mount.directory, v2: mount.v2, controllers, root });
    }
    let v1 = hierarchies.iter().any(|h| !h.v2);
    let v2 = hierarchies.iter().any(|h| h.v2);
    let mode = match (v1, v2) {
        (true, true) => Mode::Hybrid,
        (true, false) => Mode::V1,
        (false, true) => Mode::V2,
        (false, false) => return Err(Error::NotMounted),
    };
    Ok(Layout { mode, hierarchies })
}

fn v2_controllers(root: &OwnedFd, directory: &str) -> Result<Vec<String>, Error> {
    let text = file::read(root.as_fd(), "cgroup.controllers", directory)?;
    Ok(text.split_ascii_whitespace().map(str::to_owned).collect())
}

/// Whether that mount is the one seen at its mount point.
fn is_visible(mount: &Mount) -> bool {
    let Ok(fd) = file::open_path(&mount.directory) else { return false };
    let Ok(stat) = rustix::fs::statx(&fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID) else { return false };
    // Before Linux 5.8 there is no mount id: then trust the table.
    let known = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::MNT_ID);
    !known || stat.stx_mnt_id == mount.id
}

#[derive(Debug, PartialEq, Eq)]
struct Mount {
    id: u64,
    directory: String,
    v2: bool,
    controllers: Vec<String>,
    /// Another mount, not one of those that this one stands on, is at the mount point or above: it may be hidden.
    covered: bool,
}

/// A line's mount id, parent's id and mount point.
fn place(line: &str) -> Option<(u64, u64, &str)> {
    let mut words = line.split(' ');
    let (id, parent) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some((id, parent, words.nth(2)?))
}

/// Whether some mount other than `id` and its ancestors is at `directory` or above. Both as the kernel escapes them.
fn is_covered(places: &[(u64, u64, &str)], id: u64, directory: &str) -> bool {
    let parent_of = |id| places.iter().find(|place| place.0 == id).map(|place| place.1);
    let mut ancestors = vec![id];
    while let Some(parent) = ancestors.last().and_then(|&last| parent_of(last))
        && !ancestors.contains(&parent)
    {
        ancestors.push(parent);
    }
    let above = |point: &str| {
        directory
            .strip_prefix(point)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || point == "/")
    };
    places.iter().any(|(other, _, point)| above(point) && !ancestors.contains(other))
}

/// The cgroup mounts in the text of `/proc/PID/mountinfo`, those below `/sys/fs/cgroup` first.
///
/// Kernel: [proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html).
fn parse_mountinfo(text: &str) -> Vec<Mount> {
    // Super block options that are not controllers.
    let options: BTreeSet<&str> =
        ["rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods"].into();
    let places: Vec<_> = text.lines().filter_map(place).collect();
    let mut mounts: Vec<Mount> = text
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mut left = left.split(' ');
            let id = left.next()?.parse().ok()?;
            let escaped = left.nth(3)?;
            let directory = unescape(escaped);
            let mut right = right.split(' ');
            let v2 = match right.next()? {
                "cgroup" => false,
                "cgroup2" => true,
                _ => return None,
            };
            let supers = right.nth(1)?;
            let controllers = supers
                .split(',')
                .filter(|o| !v2 && !options.contains(o) && !o.starts_with("release_agent="))
                .map(str::to_owned)
                .collect();
            let covered = is_covered(&places, id, escaped);
            Some(Mount { id, directory, v2, controllers, covered })
        })
        .collect();
    mounts.sort_by_key(|m| !m.directory.starts_with("/sys/fs/cgroup"));
    mounts
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_parsed() {
        let text = "\
23 1 0:22 / / rw shared:1 - ext4 /dev/vda rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
77 31 0:29 / /mnt/odd\\040name rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 master:1 - cgroup cgroup rw,cpu,cpuacct
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
bad line
9 9 - cgroup";
        let mount = |id, directory: &str, v2, controllers: &[&str]| Mount {
            id,
            directory: directory.into(),
            v2,
            controllers: controllers.iter().map(|&c| c.into()).collect(),
            covered: false,
        };
        let expected = [
            mount(32, "/sys/fs/cgroup/cpu,cpuacct", false, &["cpu", "cpuacct"]),
            mount(41, "/sys/fs/cgroup/unified", true, &[]),
            mount(77, "/mnt/odd name", false, &["name=systemd"]),
        ];
        assert_eq!(parse_mountinfo(text), expected);
    }

    #[test]
    fn covered_mounts() {
        let text = "\
1 0 0:1 / / rw - ext4 a rw
2 1 0:2 / /sys rw - sysfs a rw
3 2 0:3 / /sys/fs/cgroup rw - tmpfs a rw
4 3 0:4 / /sys/fs/cgroup/cpu rw - cgroup a rw,cpu
5 3 0:5 / /sys/fs/cgroup/pids rw - cgroup a rw,pids
6 5 0:6 / /sys/fs/cgroup/pids rw - tmpfs a rw
7 1 0:7 / /sys/fs/cgroup2 rw - tmpfs a rw";
        let covered: Vec<_> = parse_mountinfo(text).into_iter().map(|m| m.covered).collect();
        assert_eq!(covered, [false, true]);
        let over_all = format!("{text}\n8 1 0:8 / /sys rw - sysfs a rw");
        assert!(parse_mountinfo(&over_all).into_iter().all(|m| m.covered));
    }

    #[test]
    fn escapes() {
        let check = |input, expected: &str| assert_eq!(unescape(input), expected);
        check("a\\040b\\134", "a b\\");
        check("\\", "\\");
        check("x\\9é", "x\\9é");
        check("\\04", "\\04");
    }
}
