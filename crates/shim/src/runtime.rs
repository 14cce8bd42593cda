//! Calls of the OCI runtime, by runc's command line, and what a failed one had to say.

use errors::{Kind, Report};
use rustix::process::Pid;
use serde::Deserialize;
use shim_api::Config;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use sys::spawn::{Program, spawn};

/// Bytes looked at of a runtime's log and of its stderr, from the end: the last error is what matters.
const LAST_WORDS: u64 = 64 << 10;
/// Log of the calls on the container; those on execs have their own, as they may run side by side.
pub(crate) const LOG: &str = "runtime.log";

/// How to call the runtime.
#[derive(Debug)]
pub(crate) struct Runtime {
    program: PathBuf,
    /// Program name and global arguments but the log's.
    base: Vec<OsString>,
    id: String,
    dir: PathBuf,
    env: Vec<OsString>,
    null: File,
    /// This process's own score, as it was before it was lowered; None when it could not be.
    oom_score: Option<String>,
}

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Create,
    Restore,
    Start,
    Pause,
    Resume,
    Delete,
    /// Of the process with this key.
    Exec(u64),
}

impl Op {
    fn name(self) -> &'static str {
        match self {
            Op::Create => "create",
            Op::Restore => "restore",
            Op::Start => "start",
            Op::Pause => "pause",
            Op::Resume => "resume",
            Op::Delete => "delete",
            Op::Exec(_) => "exec",
        }
    }
}

/// A call that runs.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) op: Op,
    pub(crate) pid: Pid,
    log: PathBuf,
    /// What the runtime writes to stderr, unless that is the container's.
    stderr: Option<File>,
}

/// Stdio that the runtime hands to the process it makes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given<'a> {
    pub(crate) stdin: BorrowedFd<'a>,
    pub(crate) stdout: BorrowedFd<'a>,
    pub(crate) stderr: BorrowedFd<'a>,
}

impl Runtime {
    pub(crate) fn new(config: &Config, dir: &Path, env: Vec<OsString>) -> io::Result<Runtime> {
        let mut base = vec![config.runtime.clone().into_os_string(), "--root".into()];
        base.push(config.runtime_root.clone().into_os_string());
        base.extend(config.runtime_args.iter().map(OsString::from));
        Ok(Runtime {
            program: config.runtime.clone(),
            base,
            id: config.container_id.clone(),
            dir: dir.to_owned(),
            env,
            null: File::options().read(true).write(true).open("/dev/null")?,
            oom_score: lower_oom_score(),
        })
    }

    pub(crate) fn null(&self) -> BorrowedFd<'_> {
        self.null.as_fd()
    }

    /// Starts `OP [args] ID`. `log` is a name below the shim's directory; `given` is for `create` and `exec`.
    pub(crate) fn call(
        &self,
        op: Op,
        args: &[OsString],
        log: &str,
        given: Option<Given<'_>>,
    ) -> Result<Job, Report> {
        let log = self.dir.join(log);
        // One call, one log: its last error is this call's.
        drop(std::fs::remove_file(&log));
        let stderr = match given {
            Some(_) => None,
            None => Some(memory_file().map_err(|e| internal("make a file for the runtime's stderr", &e))?),
        };
        let null = self.null.as_fd();
        let stdio = given.unwrap_or(Given {
            stdin: null,
            stdout: null,
            stderr: stderr.as_ref().map_or(null, |file| file.as_fd()),
        });
        let options: [&OsStr; 5] =
            ["--log".as_ref(), log.as_os_str(), "--log-format".as_ref(), "json".as_ref(), op.name().as_ref()];
        let words: Vec<&OsStr> = (self.base.iter().map(OsString::as_os_str))
            .chain(options)
            .chain(args.iter().map(OsString::as_os_str))
            .chain([OsStr::new(&self.id)])
            .collect();
        let env: Vec<&OsStr> = self.env.iter().map(OsString::as_os_str).collect();
        let program = Program {
            path: self.program.as_os_str(),
            args: &words,
            env: &env,
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
        };
        // The score is inherited, and a container that the kernel spares would take the host down in its stead.
        if let Some(before) = &self.oom_score {
            set_oom_score(before);
        }
        let spawned = spawn(&program);
        if self.oom_score.is_some() {
            set_oom_score(SPARED);
        }
        // Not the kind of the errno: a runtime that is not there says nothing about the container's own program.
        let pid = spawned.map_err(|e| Report {
            kind: Kind::Internal,
            links: vec![format!("start runtime {:?}", self.program), errors::chain(&e)],
        })?;
        Ok(Job { op, pid, log, stderr })
    }
}

impl Job {
    /// Why the call failed: the last error in its log, else the end of its stderr (`given_stderr` when that was the
    /// container's), else `status`.
    pub(crate) fn failure(mut self, given_stderr: &[u8], status: &str) -> Report {
        let log = File::open(&self.log).and_then(|mut file| last_words(&mut file)).unwrap_or_default();
        let stderr = self.stderr.as_mut().and_then(|file| last_words(file).ok());
        let stderr = stderr.as_deref().unwrap_or(given_stderr);
        let stderr = String::from_utf8_lossy(stderr);
        let message = match (last_error(&log), stderr.trim()) {
            (Some(message), _) => message,
            (None, "") => format!("runtime ended with {status} and no message"),
            (None, text) => text.to_owned(),
        };
        let links = vec![format!("runtime {}", self.op.name()), message];
        Report { kind: kind_of(&links[1]), links }
    }
}

/// The class of a runtime's message, by the words that runc, crun and ours use.
fn kind_of(message: &str) -> Kind {
    let message = message.to_lowercase();
    let has = |text| message.contains(text);
    if has("executable file not found") || has("no such file or directory") {
        Kind::NotFound
    } else if has("permission denied") {
        Kind::Denied
    } else {
        Kind::Internal
    }
}

/// The `msg` of the last line with level error or worse in a log of JSON lines.
fn last_error(log: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(default)]
        level: String,
        #[serde(default)]
        msg: String,
    }
    log.rsplit(|&b| b == b'\n')
        .filter_map(|line| serde_json::from_slice::<Line>(line).ok())
        .find(|line| matches!(line.level.as_str(), "error" | "fatal" | "panic") && !line.msg.is_empty())
        .map(|line| line.msg)
}

fn last_words(file: &mut File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS)))?;
    let mut text = Vec::new();
    file.take(LAST_WORDS).read_to_end(&mut text)?;
    Ok(text)
}

fn memory_file() -> io::Result<File> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    Ok(File::from(rustix::fs::memfd_create("runtime-stderr", flags)?))
}

fn internal(what: &str, source: &dyn std::error::Error) -> Report {
    Report { kind: Kind::Internal, links: vec![what.to_owned(), errors::chain(source)] }
}

/// The kernel takes nearly everything else first. Not -1000: a shim that leaks must be stoppable.
const SPARED: &str = "-999";

/// Lowers this process's score, and gives what it was; None when that is not permitted.
fn lower_oom_score() -> Option<String> {
    let before = std::fs::read_to_string("/proc/self/oom_score_adj").ok()?;
    std::fs::write("/proc/self/oom_score_adj", SPARED).ok()?;
    Some(before.trim().to_owned())
}

fn set_oom_score(score: &str) {
    // Lowering worked once, so it works; raising always does.
    drop(std::fs::write("/proc/self/oom_score_adj", score));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_counts() {
        let log = br#"{"level":"error","msg":"first"}
{"level":"error","msg":"exec: \"x\": executable file not found in $PATH"}
{"level":"warning","msg":"later"}
torn"#;
        let message = last_error(log).unwrap();
        assert_eq!(message, "exec: \"x\": executable file not found in $PATH");
        assert_eq!(kind_of(&message), Kind::NotFound);
        assert_eq!(last_error(b"no json\n{}\n"), None);
    }

    #[test]
    fn kinds_by_words() {
        for (message, kind) in [
            ("stat /nope: no such file or directory", Kind::NotFound),
            ("exec /etc/passwd: Permission denied", Kind::Denied),
            ("cgroup says no", Kind::Internal),
        ] {
            assert_eq!(kind_of(message), kind, "{message}");
        }
    }
}
