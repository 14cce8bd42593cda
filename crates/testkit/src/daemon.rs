//! A `brigd` of a test's own: own directories, socket, cgroup parent and bridge; all gone when dropped.
//!
//! The programs come from `BRIG_BIN_DIR`, which `cargo xtask test` sets, else from `target/brig/debug`, where
//! `cargo xtask build` puts them. `BRIG_TEST_RUNTIME` names another OCI runtime that brigd knows, such as `runc`.
//!
//! ```no_run
//! let daemon = testkit::daemon::Daemon::start(Default::default());
//! daemon.load_busybox("busybox:latest");
//! daemon.brig(&["run", "--rm", "busybox", "true"]).success();
//! daemon.assert_no_leaks();
//! ```

use crate::raw::{self, Response};
use crate::{images, wait_until};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long brigd may take to leave after SIGTERM before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// How much of the log's end is shown.
const LOG_TAIL: usize = 8 << 10;

/// What a test wants different.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Further flags for brigd.
    pub flags: Vec<String>,
    /// In place of a directory of the test's own, for example on a small file system. Not removed.
    pub data_root: Option<PathBuf>,
    /// The network namespace that it is to run in, in place of the test's: a host of its own, as far as networks go.
    pub netns: Option<PathBuf>,
    /// What the shell that becomes it does first, such as `umask 0077`.
    pub first: Option<&'static str>,
    /// Variables of its environment, besides the test's.
    pub environment: Vec<(&'static str, String)>,
}

/// A running brigd, or one that was just killed.
#[derive(Debug)]
pub struct Daemon {
    pub data_root: PathBuf,
    pub exec_root: PathBuf,
    pub socket: PathBuf,
    /// Below each hierarchy's root, without a leading slash.
    pub cgroup_parent: String,
    pub bridge: String,
    flags: Vec<String>,
    netns: Option<PathBuf>,
    first: Option<&'static str>,
    environment: Vec<(&'static str, String)>,
    process: Option<Child>,
    root: tempfile::TempDir,
}

impl Daemon {
    /// Starts a daemon with nothing in it, and waits until it answers.
    #[track_caller]
    pub fn start(options: Options) -> Daemon {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let root = tempfile::Builder::new().prefix("brig-test-").tempdir().unwrap();
        let exec_root = root.path().join("exec");
        let mut daemon = Daemon {
            data_root: options.data_root.unwrap_or_else(|| root.path().join("data")),
            socket: exec_root.join("brig.sock"),
            exec_root,
            cgroup_parent: format!("brig-test-{pid}-{number}"),
            // At most 15 characters: process ids have up to 7 digits.
            bridge: format!("bt{pid}n{number}"),
            flags: options.flags,
            first: options.first,
            environment: options.environment,
            netns: options.netns,
            process: None,
            root,
        };
        daemon.spawn();
        daemon
    }

    /// Starts brigd on what the last one left, and waits until it answers.
    #[track_caller]
    pub fn spawn(&mut self) {
        self.spawn_only();
        self.wait_ready();
    }

    /// Starts brigd with other flags on what the last one left.
    #[track_caller]
    pub fn spawn_with(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(ToString::to_string).collect();
        self.spawn();
    }

    /// Starts brigd and does not wait.
    #[track_caller]
    pub fn spawn_only(&mut self) {
        assert!(self.process.is_none(), "brigd runs already");
        let program = program("brigd");
        let log = std::fs::File::options().create(true).append(true).open(self.log_path()).unwrap();
        // What is put before it becomes the program: the process id is brigd's.
        let mut command = match (&self.netns, self.first) {
            (None, None) => Command::new(&program),
            (None, Some(first)) => {
                let mut command = Command::new("sh");
                command.args(["-ec", &format!("{first}; exec \"$0\" \"$@\"")]).arg(&program);
                command
            }
            (Some(netns), first) => {
                assert!(first.is_none(), "a command before a daemon in another network namespace");
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", netns.display())).arg("--").arg(&program);
                command
            }
        };
        command
            .arg("--data-root")
            .arg(&self.data_root)
            .arg("--exec-root")
            .arg(&self.exec_root)
            .arg("--pidfile")
            .arg(self.root.path().join("brigd.pid"))
            .arg("--host")
            .arg(format!("unix://{}", self.socket.display()))
            .arg("--cgroup-parent")
            .arg(format!("/{}", self.cgroup_parent))
            .args(["--bridge", &self.bridge, "--debug"])
            // Nothing that this machine's administrator has set.
            .args(["--config-file", "/dev/null"])
            .args(&self.flags)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        if let Some(runtime) = std::env::var_os("BRIG_TEST_RUNTIME") {
            command.arg("--default-runtime").arg(runtime);
        }
        self.process = Some(command.spawn().unwrap_or_else(|e| panic!("start {}: {e}", program.display())));
    }

    /// Waits until brigd answers.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        wait_until("brigd answers", || {
            let process = self.process.as_mut().expect("brigd was started");
            if let Some(status) = process.try_wait().unwrap() {
                panic!("brigd ended with {status}:\n{}", self.log());
            }
            raw::send(&self.socket, "GET", "/_ping", "", &[]).is_ok_and(|r| r.status == 200)
        });
    }

    /// SIGKILL, and waits until the process is gone. What it started goes on.
    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// SIGTERM, and waits until the process is gone. Its exit status; none if it did not run.
    pub fn stop(&mut self) -> Option<ExitStatus> {
        let mut process = self.process.take()?;
        // Cannot fail: the process has not been waited for.
        let _ignored = kill_process(Pid::from_child(&process), Signal::TERM);
        let begin = Instant::now();
        while begin.elapsed() < STOP_TIMEOUT {
            if let Some(status) = process.try_wait().unwrap() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(process.kill());
        process.wait().ok()
    }

    /// Stops brigd as an administrator would, and starts it again.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop();
        self.spawn();
    }

    /// Process id of brigd.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("brigd runs").id()
    }

    /// `unix://…`, for `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Runs `brig` to its end.
    #[track_caller]
    pub fn brig<S: AsRef<OsStr>>(&self, args: &[S]) -> Finished {
        finish(self.brig_command(args), &[])
    }

    /// Runs the docker CLI to its end.
    #[track_caller]
    pub fn docker<S: AsRef<OsStr>>(&self, args: &[S]) -> Finished {
        finish(self.docker_command(args), &[])
    }

    /// `brig` against this daemon, not started yet.
    pub fn brig_command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        self.client(&program("brig"), args)
    }

    /// The docker CLI against this daemon, not started yet.
    pub fn docker_command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        self.client(Path::new("docker"), args)
    }

    /// Another client, ready to run; not started.
    pub fn client<S: AsRef<OsStr>>(&self, program: &Path, args: &[S]) -> Command {
        let mut command = Command::new(program);
        // Its configuration is nobody's: no context, no credentials, no aliases.
        command
            .env("DOCKER_HOST", self.host())
            .env("DOCKER_CONFIG", self.root.path().join("client"))
            .env("HOME", self.root.path())
            .env("XDG_CONFIG_HOME", self.root.path().join("client"))
            .env_remove("BRIG_HOST")
            .env_remove("DOCKER_CONTEXT")
            .env_remove("DOCKER_API_VERSION")
            .args(args);
        command
    }

    /// One request with a JSON body (none when it is null).
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, body: &Value) -> Response {
        raw::request(&self.socket, method, path, body)
    }

    /// `GET path` as JSON; panics unless the status is 200.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.request("GET", path, &Value::Null).expect(200).json()
    }

    /// Loads an archive.
    #[track_caller]
    pub fn load(&self, archive: &[u8]) -> Response {
        raw::send(&self.socket, "POST", "/images/load?quiet=1", "application/x-tar", archive).unwrap()
    }

    /// Loads a busybox image under this name.
    #[track_caller]
    pub fn load_busybox(&self, reference: &str) {
        let answer = self.load(&images::busybox_archive(reference)).expect(200);
        assert!(!answer.text().contains("\"error\""), "{}", answer.text());
    }

    /// `State` of a container.
    #[track_caller]
    pub fn state(&self, container: &str) -> Value {
        self.get(&format!("/containers/{container}/json"))["State"].clone()
    }

    /// Waits until a container has this status.
    #[track_caller]
    pub fn wait_status(&self, container: &str, status: &str) {
        wait_until(&format!("{container} is {status}"), || self.state(container)["Status"] == status);
    }

    /// Ids of all containers.
    #[track_caller]
    pub fn container_ids(&self) -> Vec<String> {
        let list = self.get("/containers/json?all=1");
        list.as_array().unwrap().iter().map(|c| c["Id"].as_str().unwrap().to_string()).collect()
    }

    /// What brigd has logged: the end of it.
    pub fn log(&self) -> String {
        let log = self.whole_log();
        let start = (log.len().saturating_sub(LOG_TAIL)..).find(|at| log.is_char_boundary(*at));
        log[start.unwrap_or_default()..].to_string()
    }

    /// What brigd has logged since the first of it was started here.
    pub fn whole_log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.root.path().join("brigd.log")
    }

    /// A directory of this daemon's, for files of the test; removed with it.
    pub fn scratch(&self) -> &Path {
        self.root.path()
    }

    /// What is left of containers that are gone; see [`crate::leaks`]. Call it when there are none.
    pub fn leaks(&self) -> Vec<String> {
        crate::leaks::find(self, self.process.as_ref().map(Child::id))
    }

    /// Waits until nothing is left of containers that are gone: brigd and the kernel clean up behind the caller's back.
    #[track_caller]
    pub fn assert_no_leaks(&self) {
        self.assert_none("left by containers", || self.leaks());
    }

    /// Removes all containers and images, and waits until nothing is left of either.
    #[track_caller]
    pub fn assert_empties(&self) {
        self.remove_all();
        self.assert_no_leaks();
        for image in self.get("/images/json?all=1").as_array().unwrap() {
            let id = image["Id"].as_str().unwrap();
            let answer = self.request("DELETE", &format!("/images/{id}?force=1"), &Value::Null);
            // One of several platforms goes with the one that the names mean.
            assert!(matches!(answer.status, 200 | 404), "remove {id}: {}", answer.text());
        }
        assert_eq!(self.get("/images/json?all=1"), Value::Array(Vec::new()));
        self.assert_none("left by images", || crate::leaks::find_in_store(self));
    }

    #[track_caller]
    fn assert_none(&self, what: &str, find: impl Fn() -> Vec<String>) {
        let begin = Instant::now();
        loop {
            let leaks = find();
            if leaks.is_empty() {
                return;
            }
            let log = self.log();
            assert!(begin.elapsed() < STOP_TIMEOUT, "{what}: {leaks:#?}\nbrigd said:\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Force-removes all containers.
    #[track_caller]
    pub fn remove_all(&self) {
        for id in self.container_ids() {
            let answer = self.request("DELETE", &format!("/containers/{id}?force=1&v=1"), &Value::Null);
            assert!(matches!(answer.status, 204 | 404 | 409), "{}", answer.text());
        }
        wait_until("all containers are gone", || self.container_ids().is_empty());
    }

    /// As [`Daemon::remove_all`] and without a word, since a test may have failed already.
    fn try_remove_all(&self) -> Option<()> {
        let ask = |method, path: &str| raw::send(&self.socket, method, path, "", &[]).ok();
        let list: Value = serde_json::from_slice(&ask("GET", "/containers/json?all=1")?.body).ok()?;
        for container in list.as_array()? {
            ask("DELETE", &format!("/containers/{}?force=1&v=1", container["Id"].as_str()?));
        }
        let list: Value = serde_json::from_slice(&ask("GET", "/networks")?.body).ok()?;
        for network in list.as_array()? {
            // Those that always exist refuse.
            ask("DELETE", &format!("/networks/{}", network["Id"].as_str()?));
        }
        Some(())
    }
}

impl Drop for Daemon {
    #[allow(clippy::print_stdout, reason = "read by who runs the tests")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("brigd's log:\n{}", self.log());
        }
        if self.process.is_some() {
            self.try_remove_all();
        }
        self.stop();
        let ours = crate::leaks::processes_of(self.root.path(), None);
        for (pid, _) in ours.into_iter().chain(crate::leaks::processes_in(&self.cgroup_parent)) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ignored = kill_process(pid, Signal::KILL);
            }
        }
        let mut mounts = crate::leaks::mounts_below(self.root.path());
        mounts.extend(crate::leaks::mounts_below(&self.data_root.join("snapshots")));
        for mount in mounts.iter().rev() {
            let _ignored = rustix::mount::unmount(mount.as_path(), UnmountFlags::DETACH);
        }
        // The kernel lets go of a cgroup only when its processes are reaped.
        let begin = Instant::now();
        while !crate::leaks::remove_cgroups(&self.cgroup_parent) && begin.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(network::firewall::remove_table_of(&self.bridge));
        drop(network::delete_bridge(&self.bridge));
        // Of networks that a daemon which was killed could not be asked to remove.
        let engine = std::fs::read_to_string(self.data_root.join("engine-id")).unwrap_or_default();
        for bridge in network::list_bridges().unwrap_or_default() {
            if !engine.is_empty() && bridge.owner.ends_with(engine.trim()) {
                drop(network::delete_bridge(&bridge.name));
            }
        }
    }
}

/// One of our programs.
#[track_caller]
pub fn program(name: &str) -> PathBuf {
    let directory = std::env::var_os("BRIG_BIN_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/brig/debug"), PathBuf::from);
    let path = directory.join(name);
    assert!(path.exists(), "{} is missing; `cargo xtask build` makes it", path.display());
    path
}

/// What a program did.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The command line, for messages.
    pub command: String,
    /// The exit code; None after a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Panics unless the exit code is 0; what it printed, without the white space around it.
    #[track_caller]
    pub fn success(&self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.stdout.trim().to_string()
    }

    /// Panics unless the exit code is this one.
    #[track_caller]
    pub fn expect(self, code: i32) -> Finished {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }
}

/// Starts a client, gives it `stdin` and waits for its end.
#[track_caller]
pub fn finish(command: Command, stdin: &[u8]) -> Finished {
    let mut running = Running::start(command);
    // A client that does not read what it is given is not what is tested here.
    drop(running.stdin().write_all(stdin));
    running.finish()
}

/// A client that runs; killed when dropped.
#[derive(Debug)]
pub struct Running {
    command: String,
    child: Child,
    stdout: Gathered,
    stderr: Gathered,
}

/// What a pipe gave until now, read by a thread of its own.
#[derive(Debug)]
struct Gathered {
    bytes: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Gathered {
    fn from(mut pipe: impl std::io::Read + Send + 'static) -> Gathered {
        let bytes = std::sync::Arc::<std::sync::Mutex<Vec<u8>>>::default();
        let shared = bytes.clone();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = pipe.read(&mut buffer) {
                shared.lock().unwrap().extend_from_slice(&buffer[..n]);
            }
        });
        Gathered { bytes, thread: Some(thread) }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    fn end(&mut self) -> String {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.text()
    }
}

impl Running {
    #[track_caller]
    pub fn start(mut command: Command) -> Running {
        let line = std::iter::once(command.get_program()).chain(command.get_args());
        let line = line.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("start `{line}`: {e}"));
        let stdout = Gathered::from(child.stdout.take().expect("it is piped"));
        let stderr = Gathered::from(child.stderr.take().expect("it is piped"));
        Running { command: line, child, stdout, stderr }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input.
    pub fn stdin(&mut self) -> &mut ChildStdin {
        self.child.stdin.as_mut().expect("it was not closed")
    }

    /// What it has printed until now.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Waits until it has printed `text`.
    #[track_caller]
    pub fn wait_stdout(&self, text: &str) {
        let begin = Instant::now();
        while !self.stdout().contains(text) {
            let (out, err) = (self.stdout(), self.stderr.text());
            let late = begin.elapsed() > crate::PATIENCE;
            assert!(!late, "`{}` never printed {text:?}: {out:?} {err:?}", self.command);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Closes its standard input and waits for its end.
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        drop(self.child.stdin.take());
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            let (out, err) = (self.stdout(), self.stderr.text());
            let late = begin.elapsed() > crate::PATIENCE;
            assert!(!late, "`{}` does not end: {out:?} {err:?}", self.command);
            std::thread::sleep(Duration::from_millis(2));
        };
        Finished {
            command: self.command.clone(),
            code: status.code(),
            stdout: self.stdout.end(),
            stderr: self.stderr.end(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Has ended when `finish` was called.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
