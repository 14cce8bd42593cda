//! Whether a shim lives, and its end when it does not come by itself.
//!
//! The shim's stderr is `shim.log`, opened and locked by the daemon that started it. The lock belongs to the open file
//! and not to a process: it is there from before the shim's first instruction, survives the daemon, and goes with the
//! shim, however that ends. A socket cannot tell as much: it is made later, and a stopped shim does not answer.

use crate::shim_client::{ShimConnection, ask};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags, Signal};
use shim_api::Request;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

/// What the shim says of itself, below its directory.
pub(crate) const LOG_FILE: &str = "shim.log";
/// How long a shim may take to end the container it has just made.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);
/// How long a shim may take to see that its container is gone, and to write that down.
pub(crate) const LEAVE_DEADLINE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// Locks the file that is going to be a shim's stderr.
pub(crate) fn mark(log: &File) -> std::io::Result<()> {
    // Waits only for somebody who is just asking.
    Ok(rustix::fs::flock(log, FlockOperation::LockExclusive)?)
}

/// Whether the shim of the directory `dir` lives.
pub(crate) fn is_alive(dir: &Path) -> bool {
    let Ok(log) = File::open(dir.join(LOG_FILE)) else { return false };
    rustix::fs::flock(&log, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
}

/// Waits until the shim of `dir` is gone; whether it is.
pub(crate) async fn gone(dir: &Path, deadline: Duration) -> bool {
    let begin = Instant::now();
    while is_alive(dir) {
        if begin.elapsed() > deadline {
            return false;
        }
        tokio::time::sleep(PAUSE).await;
    }
    true
}

/// Has a shim end its container that was never started, which it can do only once that is made. Returns when the shim
/// is gone, when it cannot (its container runs), or when it took too long.
pub(crate) async fn shut_down(dir: &Path) {
    let begin = Instant::now();
    while is_alive(dir) && begin.elapsed() < SHUTDOWN_DEADLINE {
        match ask(dir, &Request::Shutdown).await {
            Ok(_) => {
                gone(dir, LEAVE_DEADLINE).await;
                return;
            }
            Err(_) if runs(dir).await => return,
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn runs(dir: &Path) -> bool {
    match ask(dir, &Request::State).await {
        Ok(shim_api::Response::State(state)) => state.status != shim_api::Status::Created,
        _ => false,
    }
}

/// Kills the shim of `dir` when it does not leave by itself within `patience`. What it leaves behind is the caller's.
pub(crate) async fn kill(dir: &Path, patience: Duration) {
    if gone(dir, patience).await {
        return;
    }
    tracing::warn!(dir = %dir.display(), "the shim does not leave; killing it");
    let Some(pid) = ShimConnection::pid(dir).await.and_then(Pid::from_raw) else { return };
    let Ok(handle) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return };
    // It lives now, after the handle was made: the number was not given to another process in between.
    if is_alive(dir) {
        // Fails only when it has just left.
        let _ignored = rustix::process::pidfd_send_signal(&handle, Signal::KILL);
        gone(dir, LEAVE_DEADLINE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_shim_lives_as_long_as_its_process_and_not_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_alive(dir.path()));
        let log = File::create(dir.path().join(LOG_FILE)).unwrap();
        mark(&log).unwrap();
        let mut child = Command::new("sleep").arg("100").stdin(Stdio::null()).stderr(log).spawn().unwrap();
        assert!(is_alive(dir.path()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_alive(dir.path()));
    }
}
