//! Where the process of an `exec` goes: the container's cgroup, or one below it, on v1 for each controller another.

use crate::Error;
use crate::state::State;
use crate::verbs::open_cgroup;
use cgroup::{Cgroup, HierarchyMount};
use std::path::PathBuf;

/// The cgroup that counts, and the files of v1 by which the process joins. `asked` are the values of `--cgroup`:
/// `[CONTROLLER[,CONTROLLER...]:]PATH`.
pub(crate) fn place(state: &State, asked: &[String]) -> Result<(Option<Cgroup>, Vec<PathBuf>), Error> {
    let own = match asked {
        [] => open_cgroup(state)?.filter(Cgroup::exists),
        _ => open_cgroup(state)?,
    };
    if let [whole] = asked
        && !whole.contains(':')
    {
        let below = sub_path(whole)?;
        let own = own.ok_or_else(|| bad(whole, "needs a container with a cgroup"))?;
        let cgroup = if below.is_empty() { own } else { Cgroup::open(&format!("{}/{below}", own.path()))? };
        if !cgroup.exists() {
            return Err(missing(cgroup.path()));
        }
        let tasks = tasks(cgroup.mounts());
        return Ok((Some(cgroup), tasks));
    }
    let mut mounts = own.as_ref().map(Cgroup::mounts).unwrap_or_default();
    let mut seen: Vec<&str> = Vec::new();
    for argument in asked {
        let refuse =
            |why: &str| Err(Error::argument(format!("invalid --cgroup argument: {argument} ({why})")));
        let Some((controllers, path)) = argument.split_once(':') else {
            return refuse("missing <controller>: prefix");
        };
        let below = sub_path(path)?;
        for controller in controllers.split(',') {
            if controller.is_empty() {
                return refuse("empty <controller> prefix");
            }
            if seen.contains(&controller) {
                let text =
                    format!("invalid --cgroup argument(s): controller {controller} specified multiple times");
                return Err(Error::argument(text));
            }
            seen.push(controller);
            let Some(mount) = mounts.iter_mut().find(|mount| has(mount, controller)) else {
                return Err(Error::argument(format!(
                    "unknown controller {controller} in --cgroup {argument}"
                )));
            };
            // Controllers that share a hierarchy are moved by the first; the same place again is no other place.
            if !below.is_empty() && !mount.source.ends_with(below) {
                mount.source.push(below);
            }
            if !mount.source.is_dir() {
                return Err(missing(&mount.source.display().to_string()));
            }
        }
    }
    Ok((own, tasks(mounts)))
}

fn has(mount: &HierarchyMount, controller: &str) -> bool {
    !mount.v2
        && mount.name.split(',').chain(mount.links.iter().map(String::as_str)).any(|one| one == controller)
}

/// The files by which a process joins the v1 directories.
pub(crate) fn tasks(mounts: Vec<HierarchyMount>) -> Vec<PathBuf> {
    mounts.into_iter().filter(|mount| !mount.v2).map(|mount| mount.source.join("tasks")).collect()
}

/// A path below, without the slashes at its ends; never up.
fn sub_path(path: &str) -> Result<&str, Error> {
    let below = path.trim_matches('/');
    match below.split('/').any(|part| part == "." || part == ".." || part.is_empty()) && !below.is_empty() {
        true => Err(bad(path, "leaves the container's")),
        false => Ok(below),
    }
}

fn bad(path: &str, why: &str) -> Error {
    Error::argument(format!("bad sub cgroup path: {path}: {why}"))
}

fn missing(path: &str) -> Error {
    Error::argument(format!("error adding pid of the process to cgroups: {path}: no such file or directory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_down() {
        let check = |path: &str, want: Option<&str>| assert_eq!(sub_path(path).ok(), want, "{path:?}");
        check("/", Some(""));
        check("", Some(""));
        check("a", Some("a"));
        check("/a/b/", Some("a/b"));
        for bad in ["..", "/..", "a/..", "a/../b", ".", "a//b"] {
            check(bad, None);
        }
    }

    #[test]
    fn controllers_of_a_hierarchy() {
        let mount = |v2| HierarchyMount {
            name: "cpu,cpuacct".into(),
            source: "/c".into(),
            links: vec!["cpu".into(), "cpuacct".into()],
            v2,
        };
        assert!(has(&mount(false), "cpu") && has(&mount(false), "cpuacct"));
        assert!(!has(&mount(false), "cp") && !has(&mount(true), "cpu"));
        assert_eq!(tasks(vec![mount(true), mount(false)]), [PathBuf::from("/c/tasks")]);
    }
}
