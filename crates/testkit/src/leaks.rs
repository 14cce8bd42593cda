//! What a container may leave behind: processes, mounts, namespaces, interfaces, cgroups, directories.
//!
//! Everything is found by names that only one daemon has: its directories, its cgroup parent, its bridge.

use crate::daemon::Daemon;
use std::path::{Path, PathBuf};

/// Where cgroup hierarchies are mounted: on the directory itself, or on directories in it.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Directories that are empty when there is no image either.
const EMPTY_STORE: &[&str] = &["content/blobs/sha256", "snapshots/snapshots"];
/// Directories that are empty when there is no container.
const EMPTY_EXEC: &[&str] = &["shims", "rootfs", "netns", "runtime", "shm"];
/// The same below the data root, and what is empty when nothing is under way.
const EMPTY_DATA: &[&str] = &["containers", "content/ingest", "snapshots/trash", "tmp"];

/// All that is left, one line each.
pub(crate) fn find(daemon: &Daemon, brigd: Option<u32>) -> Vec<String> {
    let mut out = Vec::new();
    let root = daemon.scratch();
    let mut processes = processes_of(root, brigd);
    processes.extend(processes_in(&daemon.cgroup_parent));
    out.extend(processes.into_iter().map(|(pid, line)| format!("process {pid}: {line}")));
    // Layers stay mounted for a while after their last container.
    let layers = daemon.exec_root.join("layers");
    let mounts = mounts_below(root).into_iter().filter(|m| !m.starts_with(&layers));
    out.extend(mounts.map(|m| format!("mount {}", m.display())));
    let ports = Path::new("/sys/class/net").join(&daemon.bridge).join("brif");
    out.extend(names_in(&ports).into_iter().map(|name| format!("interface {name}")));
    let cgroups = cgroups(&daemon.cgroup_parent);
    out.extend(cgroups.iter().filter(|c| !is_parent(c, daemon)).map(|c| format!("cgroup {}", c.display())));
    let below = |base: &Path, names: &[&str]| names.iter().map(|n| base.join(n)).collect::<Vec<_>>();
    let mut empty = below(&daemon.exec_root, EMPTY_EXEC);
    empty.extend(below(&daemon.data_root, EMPTY_DATA));
    for directory in empty {
        let left = names_in(&directory);
        out.extend(left.iter().map(|name| format!("file {}", directory.join(name).display())));
    }
    out.extend(temporary_files(&daemon.data_root));
    out
}

/// What is left of images that are gone. Call it when there are none, and no containers.
pub(crate) fn find_in_store(daemon: &Daemon) -> Vec<String> {
    let directories = EMPTY_STORE.iter().map(|d| daemon.data_root.join(d));
    let left = directories.flat_map(|d| names_in(&d).into_iter().map(move |n| d.join(n)));
    let files = left.map(|path| format!("file {}", path.display()));
    let layers = mounts_below(&daemon.exec_root.join("layers")).into_iter();
    files.chain(layers.map(|m| format!("mount {}", m.display()))).collect()
}

/// The parent itself stays as long as the daemon lives.
fn is_parent(cgroup: &Path, daemon: &Daemon) -> bool {
    cgroup.ends_with(&daemon.cgroup_parent)
}

/// Half-written files among the daemon's own.
fn temporary_files(data_root: &Path) -> Vec<String> {
    let names = names_in(data_root);
    let temporary = names.iter().filter(|n| n.ends_with(".tmp") || n.ends_with(".new"));
    temporary.map(|n| format!("file {}", data_root.join(n).display())).collect()
}

/// Processes, other than `except` and this one, whose command line names a path below `root`: shims, runtimes.
/// Clients of the test are not among them, since they name the socket in their environment.
pub fn processes_of(root: &Path, except: Option<u32>) -> Vec<(u32, String)> {
    let needle = root.to_string_lossy().into_owned();
    let own = std::process::id();
    let pids = names_in(Path::new("/proc")).into_iter().filter_map(|n| n.parse::<u32>().ok());
    pids.filter(|pid| *pid != own && Some(*pid) != except)
        .filter_map(|pid| {
            // Gone already, or a kernel thread: both have no command line.
            let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let line = String::from_utf8_lossy(&bytes).replace('\0', " ");
            line.contains(&needle).then_some((pid, line))
        })
        .collect()
}

/// Processes in cgroups below the daemon's parent.
pub(crate) fn processes_in(parent: &str) -> Vec<(u32, String)> {
    let mut pids: Vec<u32> = cgroups(parent)
        .iter()
        .filter_map(|c| std::fs::read_to_string(c.join("cgroup.procs")).ok())
        .flat_map(|text| text.lines().filter_map(|l| l.parse().ok()).collect::<Vec<u32>>())
        // 0 is a process of another pid namespace, which cannot be ours.
        .filter(|pid| *pid != 0)
        .collect();
    pids.sort_unstable();
    pids.dedup();
    let name = |pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    pids.into_iter().map(|pid| (pid, name(pid).trim().to_string())).collect()
}

/// Mount points at and below `root`, in the order they were made.
pub(crate) fn mounts_below(root: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    // Spaces are written \040; the paths of tests have none.
    points.map(PathBuf::from).filter(|point| point.starts_with(root)).collect()
}

/// The directories of the daemon's parent in every hierarchy, each before what is in it.
fn cgroups(parent: &str) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let hierarchies = names_in(Path::new(CGROUPS)).into_iter().map(|name| Path::new(CGROUPS).join(name));
    for hierarchy in std::iter::once(PathBuf::from(CGROUPS)).chain(hierarchies) {
        walk(&hierarchy.join(parent), &mut out);
    }
    out
}

fn walk(directory: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    out.push(directory.to_path_buf());
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        walk(&entry.path(), out);
    }
}

/// Removes the daemon's cgroups; whether none is left.
pub(crate) fn remove_cgroups(parent: &str) -> bool {
    for cgroup in cgroups(parent).iter().rev() {
        // Busy until its processes are gone; the caller tries again.
        drop(std::fs::remove_dir(cgroup));
    }
    cgroups(parent).is_empty()
}

fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_a_path_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "").unwrap();
        let mut child = std::process::Command::new("tail").arg("-f").arg(&path).spawn().unwrap();
        crate::wait_until("the process is seen", || !processes_of(dir.path(), None).is_empty());
        assert_eq!(processes_of(dir.path(), Some(child.id())), []);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn mounts_of_others_are_not_ours() {
        assert_eq!(mounts_below(Path::new("/nonexistent")), Vec::<PathBuf>::new());
        assert!(mounts_below(Path::new("/proc")).contains(&PathBuf::from("/proc")));
    }
}
