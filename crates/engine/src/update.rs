//! `update`: other limits and another restart policy for a container, while it runs or not.
//!
//! The limits are written into the container's cgroups from here: no process is started and none is stopped. The record
//! keeps what holds from now on, and is written after the kernel has agreed; a daemon killed between the two leaves a
//! container with its new limits, until it is started again.

use crate::error::{During, Error, blocking};
use crate::model::{HostConfig, RestartPolicy};
use crate::record::Status;
use crate::{Engine, bundle, create, devices, limits};
use std::sync::Arc;

/// What a client wants changed. A field that is zero, empty or absent stays as it is.
#[derive(Debug, Clone, Default)]
pub struct UpdateRequest {
    /// Only the resource fields are looked at.
    pub resources: HostConfig,
    pub restart_policy: RestartPolicy,
}

impl Engine {
    /// Changes limits and restart policy; gives back warnings.
    ///
    /// # Errors
    ///
    /// InvalidArgument for values that cannot be, WrongState for a container about to be removed, and what the kernel
    /// says to a limit. Nothing of the request holds then in the record; limits that the kernel took before the one it
    /// refused are taken back.
    pub async fn update(self: &Arc<Self>, name: &str, request: UpdateRequest) -> Result<Vec<String>, Error> {
        let container = self.container(name)?;
        let _verb = container.take_verbs().await?;
        let record = container.record();
        let status = record.state.status;
        if matches!(status, Status::Removing | Status::Dead) {
            return Err(Error::conflict(
                "Cannot update container: Container is marked for removal and cannot be \"update\".",
            ));
        }
        let old = record.host_config.clone();
        let new = merged(&old, &request).map_err(|message| {
            Error::invalid(format!("Cannot update container {}: {message}", container.id()))
        })?;
        create::check_reservation(&request.resources)?;
        create::check_resources(&new)?;
        create::check_restart_policy(&new)?;
        limits::check(&new)?;
        crate::rates::check(&new)?;
        let mut warnings = Vec::new();
        if status.is_alive() {
            self.update_rates(&record, &old, &new).await?;
            let path = self.cgroups_path(&record);
            let (from, to) = (old.clone(), new.clone());
            let applied = blocking(move || {
                let to_new = difference(&from, &to);
                apply(&path, &to_new).inspect_err(|_| {
                    // What did hold holds again; the cause of the failure is what the client must hear.
                    drop(apply(&path, &difference(&to, &from)));
                })
            })
            .await;
            if applied.is_err() {
                drop(self.update_rates(&record, &new, &old).await);
            }
            warnings = applied.during(|| format!("Cannot update container {}", container.id()))?;
        }
        container.lock().host_config = new;
        if let Err(e) = self.save(&container).await {
            container.lock().host_config = old;
            return Err(e);
        }
        self.publish(&container, "update", &[]);
        Ok(warnings)
    }

    /// Changes the rates of the interfaces, if they are to change; all of them or none.
    async fn update_rates(
        self: &Arc<Self>,
        record: &crate::Record,
        old: &HostConfig,
        new: &HostConfig,
    ) -> Result<(), Error> {
        if (old.net_rate_in, old.net_rate_out) == (new.net_rate_in, new.net_rate_out) {
            return Ok(());
        }
        let (engine, record, old, new) = (self.clone(), record.clone(), old.clone(), new.clone());
        blocking(move || {
            engine.networks.limit_rates(&engine.config, &record, &new).inspect_err(|_| {
                drop(engine.networks.limit_rates(&engine.config, &record, &old));
            })
        })
        .await
        .during(|| "Cannot update the rates of the container".into())
    }
}

fn apply(path: &str, host: &HostConfig) -> Result<Vec<String>, Error> {
    let numbers = devices::numbers(host);
    let resources = bundle::limits(host, &numbers)?;
    let cgroup = cgroup::Cgroup::open(path).during(|| "open cgroup".into())?;
    let warnings = cgroup.apply(&resources).during(|| "write limits".into())?;
    Ok(warnings.into_iter().map(|w| w.0).collect())
}

/// `old` with what the request names in place of what was.
fn merged(old: &HostConfig, request: &UpdateRequest) -> Result<HostConfig, String> {
    let mut new = old.clone();
    let asked = &request.resources;
    // One way of limiting the CPU at a time; the first chosen stays.
    if asked.nano_cpus != 0 && (old.cpu_period != 0 || old.cpu_quota != 0) {
        let what = if old.cpu_period != 0 { "Period" } else { "Quota" };
        return Err(format!(
            "Conflicting options: Nano CPUs cannot be updated as CPU {what} has already been set"
        ));
    }
    if (asked.cpu_period != 0 || asked.cpu_quota != 0) && old.nano_cpus != 0 {
        let what = if asked.cpu_period != 0 { "Period" } else { "Quota" };
        return Err(format!(
            "Conflicting options: CPU {what} cannot be updated as NanoCPUs has already been set"
        ));
    }
    let nothing = HostConfig::default();
    macro_rules! take {
        ($($field:ident)*) => {$(
            if asked.$field != nothing.$field {
                new.$field = asked.$field.clone();
            }
        )*};
    }
    take! {
        blkio_weight cpu_shares cpu_period cpu_quota nano_cpus cpu_realtime_period cpu_realtime_runtime
        cpuset_cpus cpuset_mems memory_reservation memory_swap
        blkio_weight_device blkio_device_read_bps blkio_device_write_bps blkio_device_read_iops
        blkio_device_write_iops net_rate_in net_rate_out
    }
    if asked.memory != 0 {
        // A limit above the sum of memory and swap cannot be: the sum has to be said with it.
        if asked.memory > old.memory_swap && old.memory_swap > 0 && asked.memory_swap == 0 {
            return Err("Memory limit should be smaller than already set memoryswap limit, update the \
                        memoryswap at the same time"
                .into());
        }
        new.memory = asked.memory;
        if new.memory_swap == 0 {
            new.memory_swap = create::default_swap(new.memory);
        }
    }
    if asked.pids_limit.is_some_and(|n| n != 0) {
        new.pids_limit = asked.pids_limit;
    }
    if asked.memory_swappiness.is_some_and(|n| n >= 0) {
        new.memory_swappiness = asked.memory_swappiness;
    }
    if asked.oom_kill_disable.is_some() && asked.oom_kill_disable != old.oom_kill_disable.or(Some(false)) {
        return Err("whether the OOM killer is disabled cannot be updated".into());
    }
    if !request.restart_policy.name.is_empty() {
        if old.auto_remove && request.restart_policy.name != "no" {
            return Err(
                "Restart policy cannot be updated because AutoRemove is enabled for the container".into()
            );
        }
        new.restart_policy = request.restart_policy.clone();
    }
    Ok(new)
}

/// What has to be written to come from the limits of `from` to those of `to`: only what differs, and "no limit" where
/// there is none any more.
fn difference(from: &HostConfig, to: &HostConfig) -> HostConfig {
    let mut out = HostConfig::default();
    macro_rules! differing {
        ($($field:ident)*) => {$(
            if from.$field != to.$field {
                out.$field = to.$field.clone();
            }
        )*};
    }
    differing! {
        blkio_weight cpu_shares cpu_realtime_period cpu_realtime_runtime cpuset_cpus cpuset_mems
        memory_reservation memory_swappiness
        blkio_weight_device blkio_device_read_bps blkio_device_write_bps blkio_device_read_iops
        blkio_device_write_iops
    }
    if (from.cpu_period, from.cpu_quota, from.nano_cpus) != (to.cpu_period, to.cpu_quota, to.nano_cpus) {
        (out.cpu_period, out.cpu_quota, out.nano_cpus) = (to.cpu_period, to.cpu_quota, to.nano_cpus);
        if out.cpu_quota == 0 && out.nano_cpus == 0 {
            out.cpu_quota = -1;
        }
    }
    // The two bound each other and are written together.
    if (from.memory, from.memory_swap) != (to.memory, to.memory_swap) {
        (out.memory, out.memory_swap) = (to.memory, to.memory_swap);
        if out.memory == 0 {
            (out.memory, out.memory_swap) = (-1, -1);
        }
    }
    if from.pids_limit != to.pids_limit {
        out.pids_limit = to.pids_limit.filter(|n| *n > 0).or(Some(-1));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(change: impl FnOnce(&mut HostConfig)) -> UpdateRequest {
        let mut resources = HostConfig::default();
        change(&mut resources);
        UpdateRequest { resources, restart_policy: RestartPolicy::default() }
    }

    #[test]
    fn what_is_not_named_stays() {
        let old = HostConfig { memory: 100, cpu_shares: 5, pids_limit: Some(7), ..HostConfig::default() };
        let new = merged(&old, &request(|h| h.cpu_shares = 9)).unwrap();
        assert_eq!((new.memory, new.cpu_shares, new.pids_limit), (100, 9, Some(7)));
        let wanted = difference(&old, &new);
        assert_eq!(wanted, HostConfig { cpu_shares: 9, ..HostConfig::default() });
    }

    #[test]
    fn conflicts_in_dockers_words() {
        let check = |old: HostConfig, request: UpdateRequest, words: &str| {
            let message = merged(&old, &request).unwrap_err();
            assert!(message.contains(words), "{message}");
        };
        let with = |change: fn(&mut HostConfig)| request(change).resources;
        check(with(|h| h.cpu_quota = 5000), request(|h| h.nano_cpus = 1), "CPU Quota has already been set");
        check(with(|h| h.nano_cpus = 1), request(|h| h.cpu_period = 1000), "NanoCPUs has already been set");
        check(
            with(|h| h.memory_swap = 10),
            request(|h| h.memory = 11),
            "update the memoryswap at the same time",
        );
        let policy = RestartPolicy { name: "always".into(), maximum_retry_count: 0 };
        let always = UpdateRequest { restart_policy: policy, ..UpdateRequest::default() };
        check(with(|h| h.auto_remove = true), always, "AutoRemove is enabled");
    }

    #[test]
    fn the_way_back_takes_limits_away() {
        let old = HostConfig::default();
        let new = HostConfig { memory: 100, nano_cpus: 5, pids_limit: Some(3), ..HostConfig::default() };
        let back = difference(&new, &old);
        assert_eq!((back.memory, back.memory_swap, back.cpu_quota, back.pids_limit), (-1, -1, -1, Some(-1)));
    }
}
