//! A task's end: hear of it, record it, take down what is left, and start again where the policy says so.

use crate::container::Container;
use crate::record::{Status, now};
use crate::shim_client::ShimConnection;
use crate::{Engine, error::blocking, shim_alive, shm};
use shim_api::{Event, Exit};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// First pause before an automatic restart; doubles up to [`MAX_BACKOFF_MS`], as Docker's.
const FIRST_BACKOFF_MS: u64 = 100;
const MAX_BACKOFF_MS: u64 = 60_000;
/// A task that ran this long is healthy: its next restart starts the back-off anew.
const HEALTHY: Duration = Duration::from_secs(10);
/// How long the runtime may take to kill and forget a container.
const DELETE_DEADLINE: Duration = Duration::from_secs(60);
/// Pauses between tries to hear of a shim that does not answer.
const LISTEN_PAUSE: Duration = Duration::from_millis(10);
const MAX_LISTEN_PAUSE: Duration = Duration::from_secs(1);
/// What a task is recorded with when its shim was killed and took the exit code along.
const SHIM_LOST: i32 = 137;

impl Engine {
    /// Listens to the shim until its task ends. The connection is subscribed; None where the shim does not answer yet.
    pub(crate) fn supervise(self: &Arc<Self>, container: Arc<Container>, connection: Option<ShimConnection>) {
        let engine = self.clone();
        tokio::spawn(async move {
            let dir = engine.config.shim_dir(container.id().as_str());
            let mut connection = connection;
            let exit = loop {
                let Some(listened) = &mut connection else {
                    connection = listen_again(&dir).await;
                    if connection.is_none() {
                        break None;
                    }
                    continue;
                };
                match listened.next_event().await {
                    Ok(Some(Event::Exited { exec_id: None, exit })) => break Some(exit),
                    Ok(Some(Event::Exited { exec_id: Some(id), exit })) => engine.exec_exited(&id, &exit),
                    Ok(None) => connection = None,
                    Err(e) => {
                        tracing::debug!(container_id = %container.id(), error = %errors::chain(&e), "the shim is silent");
                        connection = None;
                    }
                }
            };
            let exit = exit.or_else(|| read_exit(&dir));
            engine.ended(&container, exit, connection).await;
        });
    }

    /// Records the end of a task and takes down what is left of it. `exit` is None when the shim was killed. A shim that told
    /// the exit on `connection` closes that once the runtime has deleted the container.
    pub(crate) async fn ended(
        self: &Arc<Self>,
        container: &Arc<Container>,
        exit: Option<Exit>,
        connection: Option<ShimConnection>,
    ) {
        let id = container.id().as_str();
        let lost = exit.is_none();
        let exit = exit.unwrap_or_else(|| Exit { pid: 0, code: SHIM_LOST, at: now(), oom_killed: false });
        let remains = container.remains.clone().lock_owned().await;
        if lost {
            // Nobody supervises what may still run: it must not go on unseen.
            tracing::warn!(container_id = id, "the shim was killed; killing what it left");
            self.runtime_delete(container).await;
        }
        self.stop_watching(container);
        let restart = self.plan_restart(container, exit.code);
        let auto_remove = container.lock().host_config.auto_remove && !container.is_restarting();
        {
            let mut record = container.lock();
            let state = &mut record.state;
            state.status = match restart {
                Some(_) => Status::Restarting,
                // Nobody can start it any more, and so the record need not be written before it is erased.
                None if auto_remove => Status::Removing,
                None => Status::Exited,
            };
            state.pid = 0;
            state.exit_code = exit.code;
            state.oom_killed = exit.oom_killed;
            state.finished_at.clone_from(&exit.at);
            if let Some(health) = &mut state.health {
                // As Docker: nobody looks any more, and what does not run is not healthy.
                health.status = crate::health::HealthStatus::Unhealthy;
            }
            if lost {
                state.error = "the supervising shim was killed".into();
            }
        }
        self.forget_execs(container.id());
        self.publish(container, "die", &[("exitCode", exit.code.to_string())]);
        self.publish_networks(container, "disconnect");
        self.publish_mounts(&container.record(), "unmount");
        if !auto_remove && let Err(e) = self.save(container).await {
            tracing::error!(container_id = id, error = %errors::chain(&e), "cannot record an exit");
        }
        container.life.send_modify(|life| {
            life.exits += 1;
            life.running = false;
            life.exit_code = exit.code;
        });
        if !auto_remove {
            container.release_mount_namespace();
        }
        tokio::join!(self.release(container), self.deleted(container, connection));
        self.clear_away(container).await;
        drop(remains);
        if auto_remove {
            let _verb = container.verbs.lock().await;
            if let Err(e) = self.remove_now(container, true).await {
                tracing::warn!(container_id = id, error = %errors::chain(&e), "automatic removal failed");
                container.lock().state.status = Status::Dead;
            }
            // Only now, as it keeps the root file system, whose unmounting would otherwise wait for the same.
            container.release_mount_namespace();
        } else if let Some(pause) = restart {
            self.restart_later(container.clone(), pause);
        }
    }

    /// Waits until the runtime has deleted the container, or sees to it.
    async fn deleted(&self, container: &Container, connection: Option<ShimConnection>) {
        let id = container.id().as_str();
        if let Some(mut connection) = connection {
            let closed = async { while let Ok(Some(_)) = connection.next_event().await {} };
            if tokio::time::timeout(DELETE_DEADLINE, closed).await.is_err() {
                tracing::error!(container_id = id, "the shim's runtime delete does not end");
            }
        }
        if self.config.runtime_root().join(id).exists() {
            tracing::warn!(
                container_id = id,
                "the runtime did not get to delete the container; doing it again"
            );
            self.runtime_delete(container).await;
        }
    }

    /// Releases what a task used: network, mount, directories. Every step is tried; failures are logged, and what is
    /// left is found again by the next start of container or daemon. The caller holds `remains`.
    pub(crate) async fn take_down(self: &Arc<Self>, container: &Arc<Container>) {
        self.release(container).await;
        self.clear_away(container).await;
    }

    /// The part of [`Engine::take_down`] that the runtime has no use for: its processes are gone.
    async fn release(self: &Arc<Self>, container: &Arc<Container>) {
        let engine = self.clone();
        let record = container.record();
        blocking(move || {
            let id = record.id.as_str();
            if let Err(e) = engine.networks.disconnect(&engine.config, &record) {
                tracing::warn!(container_id = id, error = %errors::chain(&e), "network not released");
            }
            // Unmounting an overlay that is not volatile writes its upper directory out first, which takes long: that
            // is for a thread nobody waits for. A restart meanwhile uses the mount as it is.
            if record.host_config.auto_remove {
                unmount(&engine, id);
            }
            if shm::is_shareable(&record) {
                shm::unmount(&engine, id);
            }
            engine.unstage_mounts(&record);
        })
        .await;
    }

    /// The rest of it: the bundle, and what says that the task has anything.
    async fn clear_away(self: &Arc<Self>, container: &Arc<Container>) {
        let dir = self.config.shim_dir(container.id().as_str());
        blocking(move || drop(std::fs::remove_dir_all(dir))).await;
        let mut record = container.lock();
        crate::networks::clear(&mut record.networks);
        record.ports.clear();
        container.reservations.lock().expect("no holder panics").clear();
        if !record.host_config.auto_remove {
            drop(record);
            self.unmount_later(container.clone());
        }
    }

    pub(crate) fn unmount_later(self: &Arc<Self>, container: Arc<Container>) {
        let engine = self.clone();
        tokio::spawn(async move {
            // A restart that comes at once keeps the mount.
            tokio::time::sleep(Duration::from_millis(500)).await;
            let remains = container.remains.clone().lock_owned().await;
            if !container.status().is_alive() && container.status() != Status::Restarting {
                blocking(move || engine.unmount_unused(&container)).await;
            }
            drop(remains);
        });
    }

    /// Kills and forgets whatever the runtime still knows of the container.
    pub(crate) async fn runtime_delete(&self, container: &Container) {
        let record = container.record();
        let Some(runtime) = self.config.runtimes.get(&record.host_config.runtime) else { return };
        let output = tokio::process::Command::new(runtime)
            .arg("--root")
            .arg(self.config.runtime_root())
            .args(["delete", "--force", record.id.as_str()])
            .kill_on_drop(true)
            .output();
        let Ok(output) = tokio::time::timeout(DELETE_DEADLINE, output).await else {
            tracing::error!(container_id = record.id.as_str(), "runtime delete does not end; killed");
            return;
        };
        match output {
            Ok(output) if output.status.success() => {}
            Ok(output) => tracing::warn!(
                container_id = record.id.as_str(),
                stderr = %String::from_utf8_lossy(&output.stderr).trim(),
                "runtime delete"
            ),
            Err(error) => {
                tracing::error!(container_id = record.id.as_str(), %error, "cannot run the runtime")
            }
        }
    }

    /// The pause before the restart that the policy asks for, if it does.
    fn plan_restart(&self, container: &Container, code: i32) -> Option<Duration> {
        if container.is_restarting() {
            return None;
        }
        let ran = container.ran();
        let mut record = container.lock();
        let policy = record.host_config.restart_policy.clone();
        let again = !record.state.manually_stopped
            && match policy.name.as_str() {
                "always" | "unless-stopped" => true,
                "on-failure" => {
                    let most = policy.maximum_retry_count;
                    code != 0 && (most == 0 || record.state.restart_count < most)
                }
                _ => false,
            };
        if !again {
            return None;
        }
        record.state.restart_count = record.state.restart_count.saturating_add(1);
        let mut backoff = container.backoff_ms.lock().expect("no holder panics");
        *backoff = if ran >= HEALTHY || *backoff == 0 {
            FIRST_BACKOFF_MS
        } else {
            (*backoff * 2).min(MAX_BACKOFF_MS)
        };
        Some(Duration::from_millis(*backoff))
    }

    /// Starts the container after `pause`, unless someone starts, stops or removes it first.
    pub(crate) fn restart_later(self: &Arc<Self>, container: Arc<Container>, pause: Duration) {
        let engine = self.clone();
        let mut plan = container.restart_plan.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = plan.changed() => return,
            }
            // What is swept when the daemon starts must not be made anew at the same time.
            drop(engine.recovered.subscribe().wait_for(|r| *r).await);
            let _verb = container.verbs.lock().await;
            let removed = container.life.borrow().removed;
            if removed || plan.has_changed().unwrap_or(true) || container.status() != Status::Restarting {
                return;
            }
            if let Err(e) = engine.launch(&container).await {
                tracing::warn!(container_id = %container.id(), error = %errors::chain(&e), "automatic restart failed");
                // Docker gives up on a container that cannot be started; one that ran is tried again.
            }
        });
    }
}

/// A subscribed connection to the shim, or None once it is gone. A stopped one is waited for: its container goes on.
async fn listen_again(dir: &Path) -> Option<ShimConnection> {
    let mut pause = LISTEN_PAUSE;
    while shim_alive::is_alive(dir) {
        if let Ok(mut connection) = ShimConnection::connect(dir).await
            && connection.subscribe().await.is_ok()
        {
            return Some(connection);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_LISTEN_PAUSE);
    }
    None
}

/// What the shim left when it ended by itself.
pub(crate) fn read_exit(dir: &Path) -> Option<Exit> {
    serde_json::from_slice(&std::fs::read(dir.join(shim_api::EXIT_FILE)).ok()?).ok()
}

/// Unmounts the root file system of `id`, which may not be mounted.
pub(crate) fn unmount(engine: &Engine, id: &str) {
    let rootfs = engine.config.rootfs(id);
    if !rootfs.exists() {
        return;
    }
    if let Err(e) = engine.snapshots.unmount(&rootfs) {
        // The daemon was killed between making the directory and mounting on it.
        if std::fs::remove_dir(&rootfs).is_ok() || std::fs::remove_file(&rootfs).is_ok() {
            return;
        }
        tracing::warn!(container_id = id, error = %errors::chain(&e), "root file system in use; detaching it");
        if let Err(e) = mount::detach(&rootfs) {
            tracing::warn!(container_id = id, error = %errors::chain(&e), "root file system not unmounted");
            return;
        }
    }
    // A build step binds single files too.
    if std::fs::remove_dir(&rootfs).is_err() {
        drop(std::fs::remove_file(&rootfs));
    }
}
