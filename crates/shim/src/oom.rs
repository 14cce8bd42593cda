//! Whether the kernel killed for memory in a process's cgroup.

use std::path::{Path, PathBuf};

/// Longest of the kernel's small files read here.
const MAX_TEXT: u64 = 1 << 20;
/// Where cgroups are mounted nearly everywhere, written as the table of mounts is.
const USUAL: &str = "\
0 0 0:0 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
0 0 0:0 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
";

/// The file that counts memory kills in the cgroup of process `pid`: `memory.events` (v2) or `memory.oom_control` (v1).
/// None when there is none.
///
/// To be asked while the process lives; the file stays readable until the cgroup is removed.
///
/// Kernel: [cgroups(7)](https://man7.org/linux/man-pages/man7/cgroups.7.html).
pub(crate) fn counter_of(pid: i32) -> Option<PathBuf> {
    let groups = read(Path::new(&format!("/proc/{pid}/cgroup")))?;
    let found = |mounts: &str| candidates(&groups, mounts).into_iter().find(|path| path.exists());
    // The table of mounts has lines for every container.
    found(USUAL).or_else(|| found(&read(Path::new("/proc/self/mountinfo"))?))
}

/// Kills so far by the counter in `file`; 0 when it cannot be read.
pub(crate) fn kills(file: &Path) -> u64 {
    read(file).map_or(0, |text| count(&text))
}

fn read(path: &Path) -> Option<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(MAX_TEXT).read_to_string(&mut text).ok()?;
    Some(text)
}

fn count(text: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    value.and_then(|v| v.trim().parse().ok()).unwrap_or(0)
}

/// Where the counter may be: v1's memory hierarchy first, as a hybrid host has both.
fn candidates(groups: &str, mounts: &str) -> Vec<PathBuf> {
    let mut v1 = None;
    let mut v2 = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if controllers.split(',').any(|c| c == "memory") {
            v1 = Some(path);
        } else if number == "0" {
            v2 = Some(path);
        }
    }
    let v1 = v1.and_then(|path| {
        below_mount(mounts, path, |kind, options| {
            kind == "cgroup" && options.split(',').any(|o| o == "memory")
        })
    });
    let v2 = v2.and_then(|path| below_mount(mounts, path, |kind, _| kind == "cgroup2"));
    v1.map(|dir| dir.join("memory.oom_control"))
        .into_iter()
        .chain(v2.map(|dir| dir.join("memory.events")))
        .collect()
}

/// The directory of cgroup `path` below the first mount that `is_it` (file system type, super options) picks.
fn below_mount(mounts: &str, path: &str, is_it: impl Fn(&str, &str) -> bool) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, target) = (left.next()?, left.next()?);
        let mut right = right.splitn(3, ' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        if !is_it(kind, options) {
            return None;
        }
        let rest = Path::new(path).strip_prefix(root).ok()?;
        Some(Path::new(target).join(rest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
";

    #[test]
    fn finds_the_file_on_each_layout() {
        let hybrid = candidates("8:pids:/a\n4:memory:/a/b\n0::/\n", HYBRID);
        assert_eq!(
            hybrid,
            [
                Path::new("/sys/fs/cgroup/memory/a/b/memory.oom_control"),
                Path::new("/sys/fs/cgroup/unified/memory.events"),
            ]
        );
        let unified = "30 23 0:26 /x /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(candidates("0::/x/y\n", unified), [Path::new("/sys/fs/cgroup/y/memory.events")]);
        assert_eq!(candidates("", ""), [] as [&Path; 0]);
        let usual = candidates("4:memory:/a/b\n0::/c\n", USUAL);
        assert_eq!(
            usual,
            [
                Path::new("/sys/fs/cgroup/memory/a/b/memory.oom_control"),
                Path::new("/sys/fs/cgroup/c/memory.events"),
            ]
        );
    }

    #[test]
    fn counts_kills_only() {
        assert_eq!(count("low 0\noom 3\noom_kill 2\noom_group_kill 0\n"), 2);
        assert_eq!(count("oom_kill_disable 1\nunder_oom 0\noom_kill 0\n"), 0);
        assert_eq!(count(""), 0);
    }
}
