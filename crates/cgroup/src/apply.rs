//! Limits written: `Resources` -> control files.

mod block_io;
mod cpu;
mod memory;
mod other;

use crate::directories::directory_error;
use crate::layout::{Hierarchy, Mode};
use crate::{Cgroup, Error, Warning, file};
use oci::runtime::Resources;
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Controllers that limits or statistics want on v2, where each must be enabled in every directory above.
const WANTED_ON_V2: [&str; 7] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma"];

pub(crate) fn apply(cgroup: &Cgroup, r: &Resources) -> Result<Vec<Warning>, Error> {
    let mut warnings = Vec::new();
    if let Some(memory) = &r.memory {
        memory::apply(cgroup, memory, &mut warnings)?;
    }
    if let Some(cpu) = &r.cpu {
        cpu::apply(cgroup, cpu)?;
    }
    if let Some(pids) = &r.pids {
        other::pids(cgroup, pids)?;
    }
    if let Some(block_io) = &r.block_io {
        block_io::apply(cgroup, block_io, &mut warnings)?;
    }
    other::huge_pages(cgroup, &r.hugepage_limits)?;
    if let Some(network) = &r.network {
        other::network(cgroup, network)?;
    }
    other::rdma(cgroup, &r.rdma)?;
    other::unified(cgroup, &r.unified)?;
    // Last, so that nothing above is done under the rules of a container.
    crate::devices::apply(cgroup, &r.devices)?;
    Ok(warnings)
}

pub(crate) fn missing(controller: &str, limit: String) -> Error {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    Error::MissingController { controller: controller.to_owned(), limit, kernel }
}

/// One controller's files of one container.
struct Target<'a> {
    directory: BorrowedFd<'a>,
    shown: String,
    v2: bool,
}

impl<'a> Target<'a> {
    /// The files of `controller`, which `limit` needs.
    fn new(cgroup: &'a Cgroup, controller: &str, limit: &str) -> Result<Target<'a>, Error> {
        let lookup =
            cgroup.layout.index_of(controller).ok_or_else(|| missing(controller, limit.to_owned()))?;
        let hierarchy = &cgroup.layout.hierarchies[lookup];
        let directory = cgroup.directory(lookup);
        let directory = directory.ok_or_else(|| Error::NotFound { path: cgroup.shown(hierarchy) })?;
        if hierarchy.v2 && cgroup.layout.mode == Mode::Hybrid {
            enable(hierarchy, &cgroup.path, &[controller])?;
        }
        Ok(Target { directory, shown: cgroup.shown(hierarchy), v2: hierarchy.v2 })
    }

    fn write(&self, name: &str, value: &str) -> Result<(), Error> {
        self.write_errno(name, value).map_err(|e| self.error(name, value, e))
    }

    fn write_errno(&self, name: &str, value: &str) -> Result<(), Errno> {
        file::write_errno(self.directory, name, value)
    }

    fn error(&self, name: &str, value: &str, e: Errno) -> Error {
        Error::Write { value: value.to_owned(), file: format!("{}/{name}", self.shown), source: e.into() }
    }

    /// Writes if the file is there, and tells whether it was.
    fn write_if_there(&self, name: &str, value: &str) -> Result<bool, Error> {
        match self.write_errno(name, value) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(self.error(name, value, e)),
        }
    }

    /// Writes two values of which each bounds the other: when the first is refused, the second goes first.
    fn write_pair(&self, first: (&str, &str), second: (&str, &str)) -> Result<(), Error> {
        match self.write_errno(first.0, first.1) {
            Err(Errno::INVAL) => {
                self.write(second.0, second.1)?;
                self.write(first.0, first.1)
            }
            Err(e) => Err(self.error(first.0, first.1, e)),
            Ok(()) => self.write(second.0, second.1),
        }
    }
}

/// Enables all wanted controllers of a pure v2 machine above the container's directory.
pub(crate) fn enable_all(cgroup: &Cgroup) -> Result<(), Error> {
    let Some((hierarchy, _)) = cgroup.v2() else { return Ok(()) };
    let there: Vec<&str> = WANTED_ON_V2.into_iter().filter(|c| hierarchy.has(c)).collect();
    enable(hierarchy, &cgroup.path, &there)
}

/// Enables controllers in `cgroup.subtree_control` of each directory above `path`, from the root down.
fn enable(hierarchy: &Hierarchy, path: &str, controllers: &[&str]) -> Result<(), Error> {
    const FILE: &str = "cgroup.subtree_control";
    let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
    for parent in parents {
        let shown = format!("{}{parent}", hierarchy.directory);
        let at = |e| directory_error("open", hierarchy, parent, e);
        let opened: OwnedFd;
        let root = hierarchy.root().map_err(at)?;
        let directory = if parent.is_empty() {
            root
        } else {
            opened = file::open_directory(root, &parent[1..]).map_err(at)?;
            opened.as_fd()
        };
        let on = file::read(directory, FILE, &shown)?;
        let off = controllers.iter().filter(|c| !on.split_ascii_whitespace().any(|o| o == **c));
        let value = off.map(|c| format!("+{c}")).collect::<Vec<_>>();
        if value.is_empty() || file::write_errno(directory, FILE, &value.join(" ")).is_ok() {
            continue;
        }
        // All or nothing: one that cannot be enabled (cpu with realtime tasks outside the root) takes the others
        // along. Alone, each that is not asked for may fail; a limit that needs it says so later.
        for one in value {
            let _ = file::write_errno(directory, FILE, &one);
        }
    }
    Ok(())
}

/// A new v1 cpuset is empty, and takes no process until it has CPUs and memory nodes: gives it its parent's. `path` was
/// just made.
pub(crate) fn fill_cpuset(hierarchy: &Hierarchy, path: &str) -> Result<(), Error> {
    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let value = inherit(hierarchy, parent, name)?;
        write_value(hierarchy, path, name, &value)?;
    }
    Ok(())
}

/// The value of `name` in `path`, filled from the nearest directory above that has one.
fn inherit(hierarchy: &Hierarchy, path: &str, name: &str) -> Result<String, Error> {
    let whole = format!("{}{path}/{name}", hierarchy.directory);
    let own = file::read_control(&whole).map_err(|e| Error::File {
        operation: "read",
        file: whole,
        source: e.into(),
    })?;
    let own = own.trim_ascii();
    if let (true, Some((parent, _))) = (own.is_empty(), path.rsplit_once('/')) {
        let value = inherit(hierarchy, parent, name)?;
        write_value(hierarchy, path, name, &value)?;
        return Ok(value);
    }
    Ok(own.to_owned())
}

fn write_value(hierarchy: &Hierarchy, path: &str, name: &str, value: &str) -> Result<(), Error> {
    let whole = format!("{}{path}/{name}", hierarchy.directory);
    file::write_path(&whole, value).map_err(|e| Error::Write {
        value: value.to_owned(),
        file: whole,
        source: e.into(),
    })
}
