//! `update`: new limits for a container that lives.
//!
//! The document kept in the state directory holds what is in force. An update is laid over it, so that limits that are one
//! for the kernel (memory and swap, quota and period) are written together with their other half; when the kernel refuses
//! one, the old limits are written again.

use crate::procfs::Proc;
use crate::rdt::{self, Schemas};
use crate::state::{ContainerId, Status, Store};
use crate::verbs::open_cgroup;
use crate::{Error, config};
use oci::runtime::Resources;
use serde_json::Value;

/// Sets limits. What is absent in `wanted` stays as it is. Returns warnings.
///
/// # Errors
///
/// [`Error::WrongState`] for a container that is not there any more, and the kernel's refusal of a value; then the limits
/// are those before.
pub fn update(
    store: &Store,
    id: &ContainerId,
    wanted: &Resources,
    schemas: &Schemas,
) -> Result<Vec<String>, Error> {
    let container = store.lock(id)?;
    let mut state = container.read()?;
    let proc = Proc::open()?;
    let (status, _) = container.status(&state, &proc)?;
    if !matches!(status, Status::Created | Status::Running | Status::Paused) {
        return Err(Error::WrongState { verb: "update", id: state.id, state: status.as_str() });
    }
    let cgroup = open_cgroup(&state)?.filter(cgroup::Cgroup::exists);
    let cgroup = cgroup.ok_or_else(|| Error::unsupported("update of a container without cgroup", ""))?;
    let mut spec = container.read_config()?;
    let linux = spec.linux.get_or_insert_default();
    let resctrl = rdt::root(&proc).ok();
    if !schemas.is_empty() {
        schemas.lay_over(linux.intel_rdt.get_or_insert_default(), resctrl.as_deref())?;
    }
    let before = linux.resources.clone().unwrap_or_default();
    let merged = merge(&before, wanted)?;
    let warnings = match cgroup.apply(&select(&merged, wanted)) {
        Ok(warnings) => warnings,
        Err(e) => {
            // What was refused is what counts; a value that was never set cannot be written back and stays.
            drop(cgroup.apply(&select(&before, wanted)));
            return Err(e.into());
        }
    };
    if let Some(unit) = state.unit() {
        unit.update(&select(&merged, wanted), cgroup::mode()? == cgroup::Mode::V2)?;
    }
    if let (false, Some(root), Some(rdt)) = (schemas.is_empty(), &resctrl, &linux.intel_rdt) {
        // First what is to go with the container, then the group.
        state.rdt.extend(rdt::will_make(root, rdt, id.as_str()));
        container.write(&state)?;
        schemas.write(root, rdt, id.as_str(), &cgroup.pids()?)?;
    }
    linux.resources = Some(merged);
    container.write_spec(&spec)?;
    Ok(warnings.into_iter().map(|warning| warning.to_string()).collect())
}

/// `over` laid over `base`, number by number. Lists are replaced.
fn merge(base: &Resources, over: &Resources) -> Result<Resources, Error> {
    let document = |e| Error::Document { path: "resources".into(), source: e };
    let mut value = serde_json::to_value(base).map_err(document)?;
    lay(&mut value, serde_json::to_value(said(over)).map_err(document)?);
    let mut merged: Resources = serde_json::from_value(value).map_err(document)?;
    if let (Some(cpu), Some(asked)) = (&mut merged.cpu, &over.cpu) {
        // An idle group has no shares; those of before must not be written after it.
        if asked.idle == Some(1) && asked.shares.is_none() {
            cpu.shares = None;
        }
    }
    Ok(merged)
}

/// Without the zeros and empty texts that mean "leave it".
fn said(wanted: &Resources) -> Resources {
    let mut said = wanted.clone();
    if let Some(memory) = &mut said.memory {
        for value in [&mut memory.limit, &mut memory.swap, &mut memory.reservation] {
            *value = value.filter(|&v| v != 0);
        }
    }
    if let Some(cpu) = &mut said.cpu {
        for value in [&mut cpu.shares, &mut cpu.period, &mut cpu.realtime_period] {
            *value = value.filter(|&v| v != 0);
        }
        for value in [&mut cpu.quota, &mut cpu.realtime_runtime] {
            *value = value.filter(|&v| v != 0);
        }
        for value in [&mut cpu.cpus, &mut cpu.mems] {
            *value = value.take().filter(|v| !v.is_empty());
        }
    }
    said
}

fn lay(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                lay(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

/// The parts of `of` that `wanted` speaks of. Device rules go with those that the runtime adds itself.
fn select(of: &Resources, wanted: &Resources) -> Resources {
    let of = of.clone();
    let devices = if wanted.devices.is_empty() { Vec::new() } else { config::device_rules(of.devices) };
    Resources {
        devices,
        memory: of.memory.filter(|_| wanted.memory.is_some()),
        cpu: of.cpu.filter(|_| wanted.cpu.is_some()),
        pids: of.pids.filter(|_| wanted.pids.is_some()),
        block_io: of.block_io.filter(|_| wanted.block_io.is_some()),
        hugepage_limits: wanted.hugepage_limits.clone(),
        network: of.network.filter(|_| wanted.network.is_some()),
        rdma: wanted.rdma.clone(),
        unified: wanted.unified.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::runtime::{Cpu, Memory};

    fn resources(text: &str) -> Resources {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn an_update_is_laid_over_what_is_there() {
        let base =
            resources(r#"{"memory":{"limit":100,"reservation":5},"cpu":{"shares":7},"pids":{"limit":3}}"#);
        let wanted = resources(r#"{"memory":{"limit":0,"swap":300},"cpu":{"idle":1,"cpus":""}}"#);
        let merged = merge(&base, &wanted).unwrap();
        assert_eq!(
            merged.memory,
            Some(Memory { limit: Some(100), reservation: Some(5), swap: Some(300), ..Memory::default() })
        );
        assert_eq!(merged.cpu, Some(Cpu { idle: Some(1), ..Cpu::default() }));
        let selected = select(&merged, &wanted);
        assert!(selected.pids.is_none() && selected.memory == merged.memory && selected.devices.is_empty());
    }
}
