//! Limits written.

use crate::layout::Hierarchy;
use crate::{Cgroup, Error, Warning, file};
use std::os::fd::AsFd;

pub(crate) fn apply(cgroup: &Cgroup, r: &oci::runtime::Resources) -> Result<Vec<Warning>, Error> {
    if let Some(pids) = &r.pids {
        let value = if pids.limit > 0 { pids.limit.to_string() } else { "max".into() };
        let (hierarchy, directory) =
            cgroup.controller("pids").ok_or_else(|| missing("pids", "pids.max".into()))?;
        file::write(directory, "pids.max", &value, &cgroup.shown(hierarchy))?;
    }
    Ok(Vec::new())
}

pub(crate) fn missing(controller: &'static str, limit: String) -> Error {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    Error::MissingController { controller, limit, kernel }
}

pub(crate) fn enable_all(_cgroup: &Cgroup) -> Result<(), Error> {
    Ok(())
}

/// A new v1 cpuset is empty, and takes no process until it has CPUs and memory nodes: gives it its parent's.
pub(crate) fn fill_cpuset(hierarchy: &Hierarchy, path: &str) -> Result<(), Error> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        inherit(hierarchy, path, name)?;
    }
    Ok(())
}

fn inherit(hierarchy: &Hierarchy, path: &str, name: &str) -> Result<String, Error> {
    let shown = format!("{}{path}", hierarchy.directory);
    let at = |relative: &str| {
        format!("{}{}{name}", relative.trim_start_matches('/'), if relative.is_empty() { "" } else { "/" })
    };
    let own = file::read(hierarchy.root.as_fd(), &at(path), &hierarchy.directory)?;
    let own = own.trim();
    let Some((parent, _)) = path.rsplit_once('/') else { return Ok(own.to_owned()) };
    if !own.is_empty() {
        return Ok(own.to_owned());
    }
    let value = inherit(hierarchy, parent, name)?;
    let directory = file::open_directory(hierarchy.root.as_fd(), &path[1..])
        .map_err(|e| crate::directories::directory_error("open", hierarchy, path, e))?;
    file::write(directory.as_fd(), name, &value, &shown)?;
    Ok(value)
}
