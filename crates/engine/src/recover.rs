//! Start-up: disk, kernel and database are made to agree, and what runs is adopted.
//!
//! What a daemon that was killed at any point may leave, and what becomes of it:
//!
//! | left | becomes |
//! |---|---|
//! | shim whose container runs | adopted: its exits are heard again |
//! | shim that does not answer | its container goes on; heard again once the shim speaks |
//! | shim whose container is being made, or was made and never started | ended; the container is startable |
//! | no shim, but `exit.json` | the exit is recorded as if it had been heard |
//! | no shim and no `exit.json`, record says running | killed, recorded as lost |
//! | mount, shared memory, network namespace, cgroup, runtime state, shim directory without a running container | taken down |
//! | container paused for a commit | goes on |
//! | bridge without a network's record; interface of a running container that its record does not know | removed |
//! | rules and published ports that nobody has | removed, in `networks.rs` |
//! | snapshot, container directory without a record | removed |
//! | volume of a plugin that its container took along | removed by the plugin, in `volumes/doomed.rs` |
//! | half-pulled blobs, layers without image | removed |
//!
//! Each step may be cut off and done again; a second recovery finds nothing to do.

use crate::container::Container;
use crate::error::{During, Error, blocking};
use crate::record::{ContainerId, Record, Status};
use crate::shim_client::{ShimConnection, ask};
use crate::{Engine, shim_alive, task};
use metadata::RecordKind;
use shim_api::{Exit, Request, Response, Status as ShimStatus};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a container that ran when the machine went down is recorded with, as Docker does.
const MACHINE_LOST: i32 = 255;
/// A shim that has not answered for so long when the daemon starts is waited for behind everybody's back.
const SILENCE: Duration = Duration::from_secs(5);

impl Engine {
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<(), Error> {
        let engine = self.clone();
        let records = blocking(move || engine.load_records()).await?;
        for mut record in records {
            if !record.state.status.is_alive() {
                // They may be another's by now: nothing of them must be given back a second time.
                crate::networks::clear(&mut record.networks);
                record.ports.clear();
            } else {
                self.adopt_volumes(&record);
            }
            self.containers.reserve(&record.name, &record.id)?;
            self.networks.adopt(&record);
            self.containers.insert(Arc::new(Container::new(record)));
        }
        let containers = self.list_containers();
        let mut adoptions = tokio::task::JoinSet::new();
        for container in &containers {
            let (engine, container) = (self.clone(), container.clone());
            adoptions.spawn(async move { engine.adopt(&container).await });
        }
        // Each adoption has its own deadline: a stuck shim does not hold up the others.
        while adoptions.join_next().await.is_some() {}
        self.end_strays().await;
        let engine = self.clone();
        blocking(move || engine.sweep()).await?;
        self.recovered.send_replace(true);
        for container in containers {
            self.end_lost_commit(&container).await;
            self.apply_policy_at_start(&container).await;
        }
        Ok(())
    }

    fn load_records(&self) -> Result<Vec<Record>, Error> {
        let rows = self.db.list_records(RecordKind::Container).during(|| "list containers".into())?;
        let mut out = Vec::with_capacity(rows.len());
        for row in rows {
            match serde_json::from_str::<Record>(&row.body) {
                Ok(record) if record.version <= crate::record::RECORD_VERSION => out.push(record),
                Ok(record) => {
                    return Err(Error::unsupported(format!(
                        "the record of container {} has version {}, which",
                        record.name, record.version
                    )));
                }
                // One unreadable record must not keep the others down; it stays in the database for a person to see.
                Err(error) => tracing::error!(container_id = row.id, %error, "unreadable container record"),
            }
        }
        Ok(out)
    }

    async fn adopt(self: &Arc<Self>, container: &Arc<Container>) {
        let id = container.id().as_str();
        let dir = self.config.shim_dir(id);
        let was_alive = container.status().is_alive();
        if !dir.exists() {
            if was_alive {
                self.ended(container, Some(exit_with(MACHINE_LOST)), None).await;
            }
            return;
        }
        match look(&dir).await {
            // Its exit was told, and written down, while the runtime deletes it still: the record says how it ended.
            Found::Running(ShimStatus::Stopped, _, connection) if !was_alive => {
                drop(connection);
                self.clear_ended(container, &dir).await;
            }
            Found::Running(status, pid, connection) => {
                {
                    let mut record = container.lock();
                    record.state.status =
                        if status == ShimStatus::Paused { Status::Paused } else { Status::Running };
                    record.state.pid = pid;
                }
                if let Err(e) = self.save(container).await {
                    tracing::error!(container_id = id, error = %errors::chain(&e), "cannot record an adoption");
                }
                self.adopted(container, Some(*connection));
            }
            // Its container goes on; what became of it is heard once the shim speaks again.
            Found::Silent if was_alive => {
                tracing::warn!(container_id = id, "the shim does not answer");
                self.adopted(container, None);
            }
            Found::Silent | Found::Gone if was_alive => {
                shim_alive::kill(&dir, shim_alive::LEAVE_DEADLINE).await;
                let exit = task::read_exit(&dir);
                self.ended(container, exit, None).await;
            }
            Found::Silent | Found::Gone => self.clear_ended(container, &dir).await,
        }
    }

    /// Removes what a task left whose end is in its record.
    async fn clear_ended(self: &Arc<Self>, container: &Arc<Container>, dir: &Path) {
        shim_alive::kill(dir, shim_alive::LEAVE_DEADLINE).await;
        self.runtime_delete(container).await;
        let remains = container.remains.clone().lock_owned().await;
        self.take_down(container).await;
        drop(remains);
    }

    fn adopted(self: &Arc<Self>, container: &Arc<Container>, connection: Option<ShimConnection>) {
        let pid = container.lock().state.pid;
        *container.started.lock().expect("no holder panics") = Some(crate::age::start_of(pid));
        // The daemon may have another mapping by now.
        container.set_root_ids(crate::userns::map_of(pid));
        container.life.send_modify(|life| life.running = true);
        if container.status() == Status::Running {
            self.watch_health(container);
        }
        self.supervise(container.clone(), connection);
    }

    /// Ends shims whose container has no record.
    async fn end_strays(&self) {
        let known: HashSet<String> = self.list_containers().iter().map(|c| c.id().to_string()).collect();
        for id in names_in(&self.config.exec_root.join("shims")) {
            if known.contains(&id) {
                continue;
            }
            tracing::warn!(container_id = id, "ending a task without a record");
            let dir = self.config.shim_dir(&id);
            if ask(&dir, &Request::Kill { exec_id: None, signal: 9 }).await.is_err() {
                shim_alive::shut_down(&dir).await;
            }
            shim_alive::kill(&dir, shim_alive::LEAVE_DEADLINE).await;
            drop(std::fs::remove_dir_all(&dir));
        }
    }

    /// Removes what no running container and no record owns. Blocking.
    fn sweep(&self) -> Result<(), Error> {
        let containers = self.list_containers();
        let known: HashSet<String> = containers.iter().map(|c| c.id().to_string()).collect();
        let alive: HashSet<String> =
            containers.iter().filter(|c| c.status().is_alive()).map(|c| c.id().to_string()).collect();
        for id in names_in(&self.config.runtime_root()) {
            if ContainerId::parse(&id).is_some() && !alive.contains(&id) {
                self.delete_runtime_state(&id);
            }
        }
        for id in names_in(&self.config.exec_root.join("rootfs")) {
            if !alive.contains(&id) {
                task::unmount(self, &id);
            }
        }
        for id in names_in(&self.config.exec_root.join("shm")) {
            if !alive.contains(&id) {
                crate::shm::unmount(self, &id);
            }
        }
        for id in names_in(&self.config.exec_root.join("mounts")) {
            if !alive.contains(&id) {
                self.unstage(&id);
            }
        }
        let running: Vec<Record> =
            containers.iter().map(|c| c.record()).filter(|r| r.state.status.is_alive()).collect();
        self.networks.sweep(&self.config, &running);
        self.networks.sweep_ports(&running);
        for container in &containers {
            // Not while its end takes the ports back.
            let remains = container.remains.blocking_lock();
            if container.status().is_alive() {
                crate::ports::reserve_again(container);
                self.networks.restore_ports(&container.record());
            }
            drop(remains);
        }
        self.sweep_cgroups(&alive);
        for id in names_in(&self.config.data_root.join("containers")) {
            if !known.contains(&id) {
                tracing::info!(container_id = id, "removing a container directory without a record");
                drop(std::fs::remove_dir_all(self.config.container_dir(&id)));
            }
        }
        self.remove_snapshots_of(|owner| !known.contains(owner))?;
        let reconciled = self.images.reconcile().during(|| "reconcile the store".into())?;
        if !reconciled.is_clean() {
            tracing::info!(?reconciled, "store reconciled");
        }
        self.remove_volumes_of(|owner| !known.contains(owner))?;
        self.sweep_volumes()?;
        self.remove_doomed_volumes();
        self.tidy_later();
        Ok(())
    }

    /// Removes the snapshots of containers that are gone. Blocking.
    pub(crate) fn remove_snapshots_of(&self, is_gone: impl Fn(&str) -> bool) -> Result<(), Error> {
        for row in self.snapshots.list().during(|| "list snapshots".into())? {
            if is_gone(crate::volumes::owner_of_snapshot(&row.key)) {
                tracing::info!(snapshot_key = row.key, "removing a snapshot without a record");
                self.snapshots.remove(&row.key).during(|| format!("remove snapshot {}", row.key))?;
            }
        }
        Ok(())
    }

    fn delete_runtime_state(&self, id: &str) {
        for runtime in self.config.runtimes.values() {
            let output = std::process::Command::new(runtime)
                .arg("--root")
                .arg(self.config.runtime_root())
                .args(["delete", "--force", id])
                .output();
            if output.is_ok_and(|o| o.status.success()) {
                return;
            }
        }
        tracing::warn!(container_id = id, "no runtime could delete its state");
    }

    /// Kills and removes cgroups below our parent that no running container owns.
    fn sweep_cgroups(&self, alive: &HashSet<String>) {
        let parent = self.config.cgroup_parent.trim_matches('/');
        let mut stray = HashSet::new();
        for hierarchy in std::iter::once(std::path::PathBuf::from("/sys/fs/cgroup")).chain(
            names_in(Path::new("/sys/fs/cgroup")).into_iter().map(|n| Path::new("/sys/fs/cgroup").join(n)),
        ) {
            stray.extend(
                names_in(&hierarchy.join(parent)).into_iter().filter(|n| ContainerId::parse(n).is_some()),
            );
        }
        for id in stray.into_iter().filter(|id| !alive.contains(id)) {
            let path = format!("/{parent}/{id}");
            let removed = cgroup::Cgroup::open(&path).and_then(|c| c.kill().and_then(|()| c.remove()));
            if let Err(e) = removed {
                tracing::warn!(container_id = id, error = %errors::chain(&e), "stray cgroup not removed");
            }
        }
    }

    async fn apply_policy_at_start(self: &Arc<Self>, container: &Arc<Container>) {
        let record = container.record();
        let state = &record.state;
        let start = match (state.status, record.host_config.restart_policy.name.as_str()) {
            (Status::Restarting, _) => true,
            (Status::Exited, "always") => true,
            (Status::Exited, "unless-stopped") => !state.manually_stopped,
            (Status::Exited, "on-failure") => {
                let most = record.host_config.restart_policy.maximum_retry_count;
                !state.manually_stopped && state.exit_code != 0 && (most == 0 || state.restart_count < most)
            }
            _ => false,
        };
        if start && state.status == Status::Restarting {
            self.restart_later(container.clone(), Duration::ZERO);
        } else if start {
            container.lock().state.status = Status::Restarting;
            self.restart_later(container.clone(), Duration::ZERO);
        } else if record.host_config.auto_remove && state.status == Status::Exited {
            let _verb = container.verbs.lock().await;
            if let Err(e) = self.remove_now(container, true).await {
                tracing::warn!(container_id = record.id.as_str(), error = %errors::chain(&e), "automatic removal failed");
            }
        }
    }
}

/// What has become of a task.
enum Found {
    Running(ShimStatus, i32, Box<ShimConnection>),
    /// The shim lives and does not answer.
    Silent,
    Gone,
}

/// Looks for the task of the shim directory `dir`. One that nobody has started is ended, since who wanted it is gone.
async fn look(dir: &Path) -> Found {
    let begin = Instant::now();
    while shim_alive::is_alive(dir) {
        match tokio::time::timeout(SILENCE, shim_state(dir)).await.ok().flatten() {
            Some((ShimStatus::Created, ..)) => {
                tracing::info!(dir = %dir.display(), "ending a task that was never started");
                shim_alive::shut_down(dir).await;
            }
            None => {}
            Some((status, pid, connection)) => return Found::Running(status, pid, Box::new(connection)),
        }
        if begin.elapsed() > SILENCE {
            return Found::Silent;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Found::Gone
}

/// What the shim in `dir` says, and a subscribed connection to it.
async fn shim_state(dir: &Path) -> Option<(ShimStatus, i32, ShimConnection)> {
    let mut connection = ShimConnection::connect(dir).await.ok()?;
    let Response::State(state) = connection.request(&Request::State).await.ok()? else { return None };
    if state.status != ShimStatus::Created {
        connection.subscribe().await.ok()?;
    }
    Some((state.status, state.pid, connection))
}

fn exit_with(code: i32) -> Exit {
    Exit { pid: 0, code, at: crate::record::now(), oom_killed: false }
}

/// Names of the entries of a directory; none when it cannot be read.
pub(crate) fn names_in(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect()
}
