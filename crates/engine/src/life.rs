//! The verbs on a container that exists: stop, kill, restart, wait, rename, resize, pause.

use crate::container::{Container, Life};
use crate::error::{During, Error, blocking};
use crate::record::Status;
use crate::shim_client::ask;
use crate::{Engine, Record, names, shim_alive, task};
use shim_api::Request;
use std::sync::Arc;
use std::time::Duration;

/// How long a killed task may take to be gone before we say that it cannot be killed.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// How long before we look whether somebody else froze it: on cgroup v1 the frozen do not die.
const FROST: Duration = Duration::from_millis(500);

/// A signal by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(pub i32);

impl Signal {
    pub const TERM: Signal = Signal(15);
    pub const KILL: Signal = Signal(9);

    /// Reads `SIGTERM`, `TERM`, `term`, `15`, `RTMIN+3`.
    pub fn parse(text: &str) -> Result<Signal, Error> {
        let number = oci::signal::number(text);
        number.map(Signal).ok_or_else(|| Error::invalid(format!("invalid signal: {text}")))
    }
}

/// What `wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitCondition {
    NotRunning,
    NextExit,
    Removed,
}

impl Engine {
    /// Asks the task to end with its stop signal, and kills it after `timeout` (None: the container's own; negative:
    /// never).
    ///
    /// # Errors
    ///
    /// NotModified when it does not run.
    pub async fn stop(
        self: &Arc<Self>,
        name: &str,
        timeout_s: Option<i64>,
        signal: Option<Signal>,
    ) -> Result<(), Error> {
        let container = self.container(name)?;
        self.end_task_of(&container, timeout_s, signal, true).await
    }

    /// Ends the task. The verbs are held while the signal is sent and not while its effect is waited for: a task that
    /// ignores the signal must be open to `kill`, `rm -f` and a shorter `stop` meanwhile.
    async fn end_task_of(
        self: &Arc<Self>,
        container: &Arc<Container>,
        timeout_s: Option<i64>,
        signal: Option<Signal>,
        by_user: bool,
    ) -> Result<(), Error> {
        let verb = container.take_verbs().await?;
        let was = container.status();
        if was == Status::Restarting {
            self.cancel_restart(container).await?;
            return Ok(());
        }
        if !was.is_alive() {
            return Err(Error::NotModified { message: "container is already stopped".into() });
        }
        let record = container.record();
        let signal = match signal {
            Some(signal) => signal,
            None => stop_signal(&record)?,
        };
        let seconds =
            timeout_s.or(record.config.stop_timeout).unwrap_or(i64::from(self.config.stop_timeout_s));
        let mut life = container.life.subscribe();
        let exits = life.borrow_and_update().exits;
        if by_user {
            // Before the signal: the end that it causes must not be answered by the restart policy, whoever hears it.
            container.lock().state.manually_stopped = true;
            self.save_if_possible(container).await;
        }
        self.send(container, signal).await?;
        self.thaw(container).await;
        drop(verb);
        let ended = async { life.wait_for(|l| l.exits > exits || l.removed).await.map(drop) };
        let in_time = match u64::try_from(seconds) {
            Ok(seconds) => tokio::time::timeout(Duration::from_secs(seconds), ended).await.is_ok(),
            Err(_) => {
                drop(ended.await);
                true
            }
        };
        if !in_time {
            self.kill_and_wait(container, exits).await?;
        }
        self.publish(container, "stop", &[]);
        Ok(())
    }

    async fn cancel_restart(&self, container: &Arc<Container>) -> Result<(), Error> {
        container.restart_plan.send_modify(|n| *n += 1);
        {
            let mut record = container.lock();
            record.state.status = Status::Exited;
            record.state.manually_stopped = true;
        }
        self.save_if_possible(container).await;
        // There is no next task whose end could be waited for.
        container.life.send_modify(|life| life.exits += 1);
        self.publish(container, "stop", &[]);
        Ok(())
    }

    /// SIGKILL, and waits until the task that was number `exits` is gone.
    pub(crate) async fn kill_and_wait(&self, container: &Arc<Container>, exits: u64) -> Result<(), Error> {
        if container.status().is_alive() {
            self.send(container, Signal::KILL).await?;
            self.thaw(container).await;
        }
        self.wait_for_end(container, exits).await
    }

    /// Waits until the task that was number `exits` is gone, as long as a killed one may take.
    pub(crate) async fn wait_for_end(&self, container: &Container, exits: u64) -> Result<(), Error> {
        let mut life = container.life.subscribe();
        let mut ended = std::pin::pin!(life.wait_for(|l| l.exits > exits || l.removed));
        if tokio::time::timeout(FROST, &mut ended).await.is_ok() {
            return Ok(());
        }
        self.thaw_for(container).await;
        match tokio::time::timeout(KILL_DEADLINE, ended).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::conflict(format!(
                "container {} did not end within {} s of SIGKILL: a process of it is stuck in the kernel",
                container.lock().name,
                KILL_DEADLINE.as_secs()
            ))),
        }
    }

    /// Lets go of a killed task that somebody else froze.
    async fn thaw_for(&self, container: &Container) {
        let path = self.cgroups_path(&container.record());
        let thawed = blocking(move || {
            let cgroup = cgroup::Cgroup::open(&path)?;
            if cgroup.is_frozen()? { cgroup.thaw() } else { Ok(()) }
        });
        if let Err(e) = thawed.await {
            tracing::debug!(container_id = %container.id(), error = %errors::chain(&e), "thaw for a signal");
        }
    }

    /// Sends a signal to the container's init.
    pub async fn kill(self: &Arc<Self>, name: &str, signal: Signal) -> Result<(), Error> {
        let container = self.container(name)?;
        if container.status() == Status::Restarting {
            return self.cancel_restart(&container).await;
        }
        if !container.status().is_alive() {
            return Err(Error::conflict(format!("container {} is not running", container.id())));
        }
        if signal == Signal::KILL || signal == stop_signal(&container.record())? {
            container.lock().state.manually_stopped = true;
            self.save_if_possible(&container).await;
        }
        self.tell(&container, &Request::Kill { exec_id: None, signal: signal.0 }).await?;
        if signal == Signal::KILL {
            self.thaw(&container).await;
        }
        self.publish(&container, "kill", &[("signal", signal.0.to_string())]);
        if signal == Signal::KILL {
            // Docker returns once the container is gone.
            let exits = container.life.borrow().exits;
            if container.status().is_alive() {
                let mut life = container.life.subscribe();
                let mut ended = std::pin::pin!(life.wait_for(|l| l.exits > exits || !l.running));
                if tokio::time::timeout(FROST, &mut ended).await.is_err() {
                    self.thaw_for(&container).await;
                    drop(tokio::time::timeout(KILL_DEADLINE, ended).await);
                }
            }
        }
        Ok(())
    }

    /// Lets a paused container go on to receive the signal it was sent: on cgroup v1 not even SIGKILL reaches the frozen.
    async fn thaw(&self, container: &Container) {
        if container.status() != Status::Paused {
            return;
        }
        if let Err(e) = self.tell(container, &Request::Resume).await {
            tracing::debug!(container_id = %container.id(), error = %errors::chain(&e), "resume for a signal");
        }
        let mut record = container.lock();
        if record.state.status == Status::Paused {
            record.state.status = Status::Running;
        }
    }

    /// Sends a signal for no person's sake, to whatever runs.
    pub(crate) async fn signal(&self, container: &Container, signal: Signal) -> Result<(), Error> {
        self.send(container, signal).await
    }

    async fn send(&self, container: &Container, signal: Signal) -> Result<(), Error> {
        match self.tell(container, &Request::Kill { exec_id: None, signal: signal.0 }).await {
            // It ended by itself meanwhile: what was wanted has happened.
            Err(Error::Conflict { .. }) => Ok(()),
            Ok(()) => {
                self.publish(container, "kill", &[("signal", signal.0.to_string())]);
                Ok(())
            }
            other => other,
        }
    }

    async fn tell(&self, container: &Container, request: &Request) -> Result<(), Error> {
        let answer = ask(&self.config.shim_dir(container.id().as_str()), request).await;
        answer.map(drop).map_err(|e| self.not_running_or(container, e))
    }

    /// What a shim's refusal means when the task has ended meanwhile, heard of or not; else the refusal itself.
    pub(crate) fn not_running_or(&self, container: &Container, error: Error) -> Error {
        let shim_dir = self.config.shim_dir(container.id().as_str());
        let pid = container.lock().state.pid;
        let ended = !container.life.borrow().running
            || has_ended(pid)
            || task::read_exit(&shim_dir).is_some()
            || !shim_alive::is_alive(&shim_dir);
        if ended {
            return Error::conflict(format!("container {} is not running", container.id()));
        }
        if errors::HasKind::kind(&error) != errors::Kind::Unavailable {
            return error;
        }
        Err::<(), _>(error).during(|| format!("container {}", container.lock().name)).expect_err("it is one")
    }

    /// Stops and starts.
    pub async fn restart(
        self: &Arc<Self>,
        name: &str,
        timeout_s: Option<i64>,
        signal: Option<Signal>,
    ) -> Result<(), Error> {
        let container = self.container(name)?;
        let under_way = container.restart_under_way();
        match self.end_task_of(&container, timeout_s, signal, false).await {
            Ok(()) | Err(Error::NotModified { .. }) => {}
            Err(e) => return Err(e),
        }
        let verb = container.take_verbs().await?;
        // The end of the next task is no part of this restart, however soon it comes.
        drop(under_way);
        // Someone else may have started it meanwhile, which is as good.
        match container.status() {
            Status::Running | Status::Paused => {}
            Status::Removing | Status::Dead => return Err(Error::marked_for_removal()),
            Status::Created | Status::Exited | Status::Restarting => self.launch(&container).await?,
        }
        drop(verb);
        self.publish(&container, "restart", &[]);
        Ok(())
    }

    /// Waits for a condition; the exit code and the reason of a failed start.
    ///
    /// The condition is armed when this returns its future's first poll; `subscribe_wait` arms it at once.
    pub async fn wait(&self, name: &str, condition: WaitCondition) -> Result<Life, Error> {
        let (life, condition) = self.subscribe_wait(name, condition)?;
        Engine::finish_wait(life, condition).await
    }

    /// Arms a wait: what happens from now on counts.
    pub fn subscribe_wait(
        &self,
        name: &str,
        condition: WaitCondition,
    ) -> Result<(Armed, WaitCondition), Error> {
        let container = self.container(name)?;
        let life = container.life.subscribe();
        let exits = life.borrow().exits;
        // Between two tries it counts as running, as Docker has it: what is waited for is the end of the next.
        let condition = match (condition, container.status()) {
            (WaitCondition::NotRunning, Status::Restarting) => WaitCondition::NextExit,
            (condition, _) => condition,
        };
        Ok((Armed { life, exits }, condition))
    }

    /// Waits for what [`Engine::subscribe_wait`] armed.
    pub async fn finish_wait(mut armed: Armed, condition: WaitCondition) -> Result<Life, Error> {
        let exits = armed.exits;
        let reached = |life: &Life| match condition {
            WaitCondition::NotRunning => !life.running,
            WaitCondition::NextExit => life.exits > exits || life.removed,
            WaitCondition::Removed => life.removed,
        };
        let life = armed.life.wait_for(reached).await.map(|l| l.clone());
        // The sender goes with the container.
        Ok(life.unwrap_or_else(|_| Life { removed: true, ..armed.life.borrow().clone() }))
    }

    /// Gives the container another name.
    pub async fn rename(self: &Arc<Self>, name: &str, new: &str) -> Result<(), Error> {
        let container = self.container(name)?;
        let new = new.strip_prefix('/').unwrap_or(new);
        if new.is_empty() {
            return Err(Error::invalid("Neither old nor new names may be empty"));
        }
        if !names::is_valid(new) {
            return Err(Error::invalid(format!(
                "Error when allocating new name: Invalid container name (/{new}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are \
                 allowed"
            )));
        }
        let _verb = container.take_verbs().await?;
        let old = container.lock().name.clone();
        if old == new {
            return Err(Error::invalid("Renaming a container with the same name as its current name"));
        }
        self.containers.reserve(new, container.id())?;
        container.lock().name = new.to_string();
        if let Err(e) = self.save(&container).await {
            container.lock().name = old;
            self.containers.release(new);
            return Err(e);
        }
        self.containers.release(&old);
        if container.status().is_alive() {
            let (engine, record) = (self.clone(), self.renamed_endpoints(&container));
            // Its neighbours still find it by its address; the next change of the network tells its name again.
            if let Err(e) = blocking(move || engine.networks.renamed(&record)).await {
                tracing::warn!(container_id = %container.id(), error = %errors::chain(&e), "new name not served");
            }
        }
        self.publish(&container, "rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }

    /// Gives the container's endpoints the names that follow from its name.
    fn renamed_endpoints(&self, container: &Container) -> Record {
        let mut record = container.lock();
        let copy = record.clone();
        for settings in record.networks.values_mut().filter(|s| s.dns_names.is_some()) {
            settings.dns_names = Some(crate::networks::dns_names(&copy, settings));
        }
        record.clone()
    }

    /// Sets the size of the container's terminal.
    pub async fn resize(&self, name: &str, height: u16, width: u16) -> Result<(), Error> {
        let container = self.container(name)?;
        self.require_running(&container)?;
        self.tell(&container, &Request::Resize { exec_id: None, height, width }).await?;
        self.publish(&container, "resize", &[("height", height.to_string()), ("width", width.to_string())]);
        Ok(())
    }

    /// Freezes the container's processes.
    pub async fn pause(self: &Arc<Self>, name: &str) -> Result<(), Error> {
        self.freeze(name, Status::Running, Status::Paused, &Request::Pause, "pause").await
    }

    /// Lets them go on.
    pub async fn unpause(self: &Arc<Self>, name: &str) -> Result<(), Error> {
        self.freeze(name, Status::Paused, Status::Running, &Request::Resume, "unpause").await
    }

    async fn freeze(
        self: &Arc<Self>,
        name: &str,
        from: Status,
        to: Status,
        request: &Request,
        action: &str,
    ) -> Result<(), Error> {
        let container = self.container(name)?;
        let _verb = container.take_verbs().await?;
        match container.status() {
            status if status == from => {}
            Status::Paused => {
                return Err(Error::conflict(format!("Container {} is already paused", container.id())));
            }
            Status::Running => {
                return Err(Error::conflict(format!("Container {} is not paused", container.id())));
            }
            _ => return Err(Error::conflict(format!("container {} is not running", container.id()))),
        }
        if let Err(e) = self.tell(&container, request).await {
            // A runtime that was killed may have frozen it before: nobody was told so, and it goes on.
            if to == Status::Paused {
                drop(self.tell(&container, &Request::Resume).await);
            }
            return Err(e);
        }
        {
            let mut record = container.lock();
            // It may have ended while it was told.
            if record.state.status == from {
                record.state.status = to;
            }
        }
        self.save_if_possible(&container).await;
        self.publish(&container, action, &[]);
        match to {
            Status::Running => self.watch_health(&container),
            _ => self.stop_watching(&container),
        }
        Ok(())
    }

    pub(crate) fn require_running(&self, container: &Container) -> Result<(), Error> {
        match container.status() {
            Status::Running => Ok(()),
            Status::Paused => Err(Error::conflict(format!(
                "Container {} is paused, unpause the container before exec",
                container.lock().name
            ))),
            Status::Restarting => Err(Error::conflict(format!(
                "Container {} is restarting, wait until the container is running",
                container.id()
            ))),
            _ => Err(Error::conflict(format!("container {} is not running", container.id()))),
        }
    }

    /// Bytes of the container's writable layer.
    pub async fn writable_size(self: &Arc<Self>, container: &Container) -> Option<u64> {
        let snapshots = self.snapshots.clone();
        let key = container.id().to_string();
        blocking(move || snapshots.usage(&key)).await.ok().map(|u| u.size_bytes)
    }
}

/// Whether the process has exited, waited for or not. Kernel: proc_pid_stat(5), the state is after the last parenthesis.
fn has_ended(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// The signal that asks the container's task to end.
fn stop_signal(record: &Record) -> Result<Signal, Error> {
    match record.config.stop_signal.as_str() {
        "" => Ok(Signal::TERM),
        text => Signal::parse(text),
    }
}

/// A wait that counts from the moment it was made.
#[derive(Debug)]
pub struct Armed {
    life: tokio::sync::watch::Receiver<Life>,
    exits: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        let check =
            |text: &str, want: Option<i32>| assert_eq!(Signal::parse(text).ok().map(|s| s.0), want, "{text}");
        check("SIGTERM", Some(15));
        check("kill", Some(9));
        check("1", Some(1));
        check("SIGRTMIN+3", Some(37));
        check("RTMAX", Some(64));
        check("RTMAX-1", Some(63));
        for bad in ["", "0", "65", "SIGNOPE", "-1", "RTMIN+99", "SIG", "256"] {
            check(bad, None);
        }
    }
}
