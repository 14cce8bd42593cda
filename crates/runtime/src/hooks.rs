//! Programs run at points of the life cycle. Each gets exactly the environment that the hook names, or where it names none,
//! as with other runtimes, this program's, in the container its process's; the state as JSON on stdin; and the bundle as
//! its directory, in the container `/`. What it prints is told when it fails.
//!
//! Spec: runtime-spec config.md, "POSIX-platform Hooks".

use crate::Error;
use oci::runtime::{Hook, Hooks, State};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use sys::process::StringList;

/// Refuses hooks that could not run, before anything is made.
pub(crate) fn check(hooks: Option<&Hooks>) -> Result<(), Error> {
    let Some(hooks) = hooks else { return Ok(()) };
    let stages = [
        ("prestart", &hooks.prestart),
        ("createRuntime", &hooks.create_runtime),
        ("createContainer", &hooks.create_container),
        ("startContainer", &hooks.start_container),
        ("poststart", &hooks.poststart),
        ("poststop", &hooks.poststop),
    ];
    for (stage, list) in stages {
        for hook in list {
            let refuse = |reason: String| Err(Error::invalid(format!("hooks.{stage}"), reason));
            if !hook.path.starts_with('/') {
                return refuse(format!("path {:?} is not absolute", hook.path));
            }
            if hook.timeout == Some(0) {
                return refuse(format!("timeout of {} is not above 0", hook.path));
            }
        }
    }
    Ok(())
}

/// What is shown of a hook's output.
const MAX_OUTPUT: usize = 1000;

/// A deadly signal in the words of runc, which are Go's.
fn signal_words(number: i32) -> String {
    let words = match number {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        10 => "user defined signal 1",
        11 => "segmentation fault",
        12 => "user defined signal 2",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        24 => "CPU time limit exceeded",
        25 => "file size limit exceeded",
        31 => "bad system call",
        other => return format!("signal {other}"),
    };
    words.into()
}

/// Runs `hooks` one after the other; the first failure ends it. `inside` is the process's environment, for those that run in
/// the container.
pub(crate) fn run(
    stage: &'static str,
    hooks: &[Hook],
    state: &State,
    inside: Option<&StringList>,
) -> Result<(), Error> {
    if hooks.is_empty() {
        return Ok(());
    }
    let document =
        serde_json::to_vec(state).map_err(|e| Error::Document { path: "state".into(), source: e })?;
    hooks.iter().enumerate().try_for_each(|(number, hook)| {
        crate::trace::say(|| format!("{stage} hook #{number}: {}", hook.path));
        one(hook, &document, inside, &state.bundle).map_err(|reason| Error::Hook {
            stage,
            number,
            path: hook.path.clone(),
            reason,
        })
    })
}

/// Runs all of `hooks`. The specification asks for no more than a warning of those that fail.
pub(crate) fn run_all(stage: &'static str, hooks: &[Hook], state: &State) -> Vec<String> {
    let failures = hooks.iter().filter_map(|hook| run(stage, std::slice::from_ref(hook), state, None).err());
    failures.map(|failure| failure.to_string()).collect()
}

fn one(hook: &Hook, state: &[u8], inside: Option<&StringList>, bundle: &str) -> Result<(), String> {
    if !hook.path.starts_with('/') {
        return Err("path is not absolute".into());
    }
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    if inside.is_some() || !hook.env.is_empty() {
        command.env_clear();
    }
    if let (Some(own), true) = (inside, hook.env.is_empty()) {
        let own = own.strings().iter().map(|entry| entry.to_bytes());
        for (name, value) in own.filter_map(|e| Some(e.split_at(e.iter().position(|&b| b == b'=')?))) {
            command.env(OsStr::from_bytes(name), OsStr::from_bytes(&value[1..]));
        }
    }
    // In a user namespace the way to the bundle may be closed.
    let open = inside.is_none() && rustix::fs::access(bundle, rustix::fs::Access::EXEC_OK).is_ok();
    command.current_dir(if open { bundle } else { "/" }).stdin(Stdio::piped());
    for entry in &hook.env {
        let (name, value) =
            entry.split_once('=').ok_or_else(|| format!("environment {entry:?} has no `=`"))?;
        command.env(name, value);
    }
    // No pipe: a process that the hook leaves behind may keep it.
    let output = rustix::fs::memfd_create("hook", rustix::fs::MemfdFlags::CLOEXEC).ok();
    if let Some((one, two)) = output.as_ref().and_then(|fd| fd.try_clone().ok().zip(fd.try_clone().ok())) {
        command.stdout(one).stderr(two);
    }
    let mut child = command.spawn().map_err(|e| format!("cannot be run: {e}"))?;
    // A hook that does not read its state is fine.
    drop(child.stdin.take().map(|mut pipe| pipe.write_all(state)));
    if let Some(seconds) = hook.timeout
        && !ends_within(&child, Duration::from_secs(seconds.into()))
    {
        drop(child.kill());
        drop(child.wait());
        return Err(format!("timed out after {seconds} s"));
    }
    let status = child.wait().map_err(|e| format!("wait: {e}"))?;
    let failure = match (status.code(), status.signal()) {
        (Some(0), _) => return Ok(()),
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal: {}", signal_words(signal.unwrap_or_default())),
    };
    let mut text = [0u8; MAX_OUTPUT];
    let length = output.and_then(|fd| rustix::io::pread(fd, &mut text[..], 0).ok()).unwrap_or(0);
    match String::from_utf8_lossy(&text[..length]).trim_end() {
        "" => Err(failure),
        said => Err(format!("{failure}, output: {said}")),
    }
}

/// Waits for the end of `child`. False when the time is over.
fn ends_within(child: &std::process::Child, limit: Duration) -> bool {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let Some(Ok(pidfd)) = pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) else { return false };
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let Ok(timeout) = Timespec::try_from(left) else { return false };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => {
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
                return false;
            }
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Hook {
        let args = vec!["sh".into(), "-c".into(), script.into()];
        Hook { path: "/bin/sh".into(), args, env: vec!["A=b".into()], timeout: Some(1) }
    }

    #[test]
    fn environment_state_and_failure() {
        let state = State { id: "x".into(), ..State::default() };
        run(
            "prestart",
            &[shell(r#"[ "$A" = b ] && [ -z "$HOME" ] && grep -q '"id":"x"' && [ "$PWD" = / ]"#)],
            &state,
            None,
        )
        .unwrap();
        let error = run("prestart", &[shell(":"), shell("echo why >&2; exit 3")], &state, None).unwrap_err();
        assert_eq!(error.to_string(), "error running prestart hook #1: /bin/sh: exit status 3, output: why");
        let error = run("poststop", &[shell("exec sleep 60")], &state, None).unwrap_err();
        assert_eq!(error.to_string(), "error running poststop hook #0: /bin/sh: timed out after 1 s");
    }
}
