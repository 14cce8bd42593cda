//! The smaller controllers, and raw v2 files.

use super::{Target, enable, missing};
use crate::convert::is_page_size;
use crate::layout::Mode;
use crate::{Cgroup, Error};
use oci::runtime::{HugepageLimit, NetworkClass, Pids, Rdma};
use std::collections::BTreeMap;

pub(super) fn pids(cgroup: &Cgroup, pids: &Pids) -> Result<(), Error> {
    if pids.limit < 0 && cgroup.controller("pids").is_none() {
        return Ok(());
    }
    // With none at all the container's process itself could not become its program.
    let value = if pids.limit < 0 { "max".into() } else { pids.limit.max(1).to_string() };
    Target::new(cgroup, "pids", "pids limit")?.write("pids.max", &value)
}

pub(super) fn huge_pages(cgroup: &Cgroup, limits: &[HugepageLimit]) -> Result<(), Error> {
    for limit in limits {
        let size = &limit.page_size;
        if !is_page_size(size) {
            let reason = "a page size is like 2MB";
            return Err(Error::InvalidValue { limit: "huge page size", value: size.clone(), reason });
        }
        let target = Target::new(cgroup, "hugetlb", &format!("huge page limit of {size}"))?;
        let ending = if target.v2 { "max" } else { "limit_in_bytes" };
        let value = limit.limit.to_string();
        // Reservations first: pages are counted when reserved, before they are used. Linux 5.7.
        target.write_if_there(&format!("hugetlb.{size}.rsvd.{ending}"), &value)?;
        let name = format!("hugetlb.{size}.{ending}");
        if !target.write_if_there(&name, &value)? {
            return Err(missing("hugetlb", name));
        }
    }
    Ok(())
}

pub(super) fn network(cgroup: &Cgroup, network: &NetworkClass) -> Result<(), Error> {
    if let Some(class) = network.class_id.filter(|&c| c != 0) {
        Target::new(cgroup, "net_cls", "network class")?.write("net_cls.classid", &class.to_string())?;
    }
    for priority in &network.priorities {
        let target = Target::new(cgroup, "net_prio", "network priority")?;
        target.write("net_prio.ifpriomap", &format!("{} {}", priority.name, priority.priority))?;
    }
    Ok(())
}

pub(super) fn rdma(cgroup: &Cgroup, devices: &BTreeMap<String, Rdma>) -> Result<(), Error> {
    for (device, limit) in devices {
        if limit.hca_handles.is_none() && limit.hca_objects.is_none() {
            let reason = "it has neither hcaHandles nor hcaObjects";
            return Err(Error::InvalidValue { limit: "rdma limit", value: device.clone(), reason });
        }
        let target = Target::new(cgroup, "rdma", "rdma limit")?;
        let text = |n: Option<u32>| n.map_or("max".to_owned(), |n| n.to_string());
        let (handles, objects) = (text(limit.hca_handles), text(limit.hca_objects));
        target.write("rdma.max", &format!("{device} hca_handle={handles} hca_object={objects}"))?;
    }
    Ok(())
}

/// Files of v2 named by the user. Such a name must not lead out of the directory, nor move processes.
pub(super) fn unified(cgroup: &Cgroup, files: &BTreeMap<String, String>) -> Result<(), Error> {
    for (name, value) in files {
        let invalid =
            |reason| Err(Error::InvalidValue { limit: "unified resource", value: name.clone(), reason });
        let (controller, _) = name.split_once('.').unwrap_or(("", ""));
        if controller.is_empty() || name.contains('/') || name.starts_with('.') {
            return invalid("it is not the name of a control file");
        }
        if ["cgroup.procs", "cgroup.threads", "cgroup.kill", "cgroup.freeze"].contains(&name.as_str()) {
            return invalid("it is not a limit");
        }
        if cgroup.layout.index_of(controller).is_some_and(|at| !cgroup.layout.hierarchies[at].v2) {
            return invalid("invalid configuration: the controller is on cgroup v1, which has other files");
        }
        let Some((hierarchy, directory)) = cgroup.v2() else { return Err(missing(controller, name.clone())) };
        if cgroup.layout.mode == Mode::Hybrid && hierarchy.has(controller) {
            enable(hierarchy, &cgroup.path, &[controller])?;
        }
        let target = Target { directory, shown: cgroup.shown(hierarchy), v2: true };
        // The kernel takes one line a write.
        for line in value.lines() {
            if !target.write_if_there(name, line)? {
                return Err(missing(controller, name.clone()));
            }
        }
    }
    Ok(())
}
