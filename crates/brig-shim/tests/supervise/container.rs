//! A shim with a real container below it: a busybox root, runc, a cgroup of its own, all gone when dropped.

use rustix::net;
use serde_json::json;
use shim_api::frame::{self, encode_control};
use shim_api::{
    CONFIG_FILE, Config, EXIT_FILE, Event, Exit, FrameKind, Log, LogFile, Ready, Request, Response,
    SOCKET_FILE, State, Streams, VERSION,
};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// No state takes longer than this to come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true };
pub(crate) const OUTPUT: Streams = Streams { stdin: false, stdout: true, stderr: true };
pub(crate) const NONE: Streams = Streams { stdin: false, stdout: false, stderr: false };

/// What a test wants.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) args: Vec<String>,
    pub(crate) tty: bool,
    pub(crate) open_stdin: bool,
    pub(crate) stdin_once: bool,
    pub(crate) max_size_bytes: u64,
    pub(crate) max_files: u32,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) log_path: Option<PathBuf>,
    pub(crate) has_pid_namespace: bool,
    pub(crate) runtime: PathBuf,
}

impl Wish {
    pub(crate) fn sh(script: &str) -> Wish {
        Wish {
            args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            tty: false,
            open_stdin: false,
            stdin_once: false,
            max_size_bytes: 0,
            max_files: 1,
            memory_bytes: None,
            log_path: None,
            has_pid_namespace: true,
            runtime: "/usr/sbin/runc".into(),
        }
    }
}

/// A container and its shim.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) base: tempfile::TempDir,
    pub(crate) id: String,
    pub(crate) shim: Child,
    pub(crate) ready: Ready,
}

/// Whether the tests can run; says why not.
pub(crate) fn can_run() -> bool {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return false;
    }
    for program in ["/usr/sbin/runc", "/bin/busybox"] {
        assert!(Path::new(program).exists(), "{program} is missing: apt-get install runc busybox-static");
    }
    true
}

/// Polls until `what` gives something.
pub(crate) fn wait_for<T>(name: &str, mut what: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain: {name}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Container {
    /// The container, created and not started.
    pub(crate) fn create(wish: &Wish) -> Container {
        let container = Container::try_create(wish);
        assert!(matches!(container.ready, Ready::Created { .. }), "{:?}", container.ready);
        container
    }

    pub(crate) fn try_create(wish: &Wish) -> Container {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let base = tempfile::Builder::new().prefix("brig-shim-test-").tempdir().unwrap();
        let id = format!("c{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        make_bundle(&base.path().join("bundle"), &id, wish);
        // Longer than a socket's path may be.
        let dir = base.path().join(format!("shims/{}", "d".repeat(120)));
        std::fs::create_dir_all(&dir).unwrap();
        let config = Config {
            version: VERSION,
            container_id: id.clone(),
            bundle: base.path().join("bundle"),
            runtime: wish.runtime.clone(),
            runtime_root: base.path().join("runc"),
            runtime_args: Vec::new(),
            tty: wish.tty,
            open_stdin: wish.open_stdin,
            stdin_once: wish.stdin_once,
            log: Log::JsonFile {
                file: LogFile {
                    path: wish.log_path.clone().unwrap_or_else(|| base.path().join("log")),
                    max_size_bytes: wish.max_size_bytes,
                    max_files: wish.max_files,
                    compress: false,
                },
                attrs: BTreeMap::new(),
            },
            restore: None,
            tells_early: wish.has_pid_namespace,
            stdio_owner: None,
        };
        std::fs::write(dir.join(CONFIG_FILE), serde_json::to_vec(&config).unwrap()).unwrap();
        let mut shim = Command::new(env!("CARGO_BIN_EXE_brig-shim"))
            .arg(&dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(dir.join("shim.log")).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(shim.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
        Container { base, id, shim, ready }
    }

    /// The container, running.
    pub(crate) fn run(wish: &Wish) -> Container {
        let container = Container::create(wish);
        container.start();
        container
    }

    pub(crate) fn start(&self) -> i32 {
        match self.ask(&Request::Start) {
            Response::Started { pid } => pid,
            other => panic!("start: {other:?}"),
        }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.base.path().join(format!("shims/{}", "d".repeat(120)))
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.base.path().join("log")
    }

    /// A connection that has said hello.
    pub(crate) fn connect(&self) -> Connection {
        let mut connection = self.connect_raw();
        let hello = connection.ask(&Request::Hello { version: VERSION });
        assert_eq!(hello, Response::Hello { version: VERSION, container_id: self.id.clone() });
        connection
    }

    pub(crate) fn connect_raw(&self) -> Connection {
        let dir = std::fs::File::open(self.dir()).unwrap();
        let path = format!("/proc/self/fd/{}/{SOCKET_FILE}", dir.as_raw_fd());
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Connection { stream }
    }

    pub(crate) fn ask(&self, request: &Request) -> Response {
        self.connect().ask(request)
    }

    pub(crate) fn state(&self) -> State {
        match self.ask(&Request::State) {
            Response::State(state) => state,
            other => panic!("state: {other:?}"),
        }
    }

    pub(crate) fn attach(&self, streams: Streams) -> Connection {
        let mut connection = self.connect();
        assert_eq!(connection.ask(&Request::Attach { streams }), Response::Ok);
        connection
    }

    pub(crate) fn exec(
        &self,
        exec_id: &str,
        tty: bool,
        script: &str,
        streams: Streams,
    ) -> (Connection, Response) {
        let mut connection = self.connect();
        let request = exec_request(exec_id, tty, &["/bin/sh", "-c", script], streams);
        let response = connection.ask(&request);
        (connection, response)
    }

    pub(crate) fn kill(&self, exec_id: Option<&str>, signal: i32) -> Response {
        self.ask(&Request::Kill { exec_id: exec_id.map(str::to_owned), signal })
    }

    /// Waits for the shim to leave; what it left in `exit.json`.
    pub(crate) fn exit(&mut self) -> Exit {
        wait_for("the shim leaves", || self.shim.try_wait().unwrap());
        let exit = serde_json::from_slice(&std::fs::read(self.dir().join(EXIT_FILE)).unwrap()).unwrap();
        assert!(!self.dir().join(SOCKET_FILE).exists());
        exit
    }

    /// What the log says, all its files together.
    pub(crate) fn logged(&self) -> Vec<(logs::Stream, String)> {
        let mut reader = logs::Reader::open(&self.log_path(), logs::Options::default()).unwrap();
        let mut all = Vec::new();
        while let Some(entry) = reader.next().unwrap() {
            all.push((entry.stream, String::from_utf8(entry.line).unwrap()));
        }
        all
    }

    pub(crate) fn logged_text(&self) -> String {
        self.logged().into_iter().map(|(_, line)| line).collect()
    }

    pub(crate) fn shim_log(&self) -> String {
        std::fs::read_to_string(self.dir().join("shim.log")).unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("shim.log: {}", self.shim_log());
        }
        drop(self.shim.kill());
        drop(self.shim.wait());
        let root = self.base.path().join("runc");
        let mut delete = Command::new("/usr/sbin/runc");
        delete.arg("--root").arg(root).args(["delete", "--force", &self.id]).stderr(Stdio::null());
        drop(delete.status());
        let Ok(hierarchies) = std::fs::read_dir("/sys/fs/cgroup") else { return };
        for hierarchy in hierarchies.flatten() {
            drop(std::fs::remove_dir(hierarchy.path().join(parent_cgroup(&self.id))));
        }
    }
}

/// One a container: removing a parent that another test is about to use would fail that test.
fn parent_cgroup(id: &str) -> String {
    format!("brig-shim-test-{id}")
}

pub(crate) fn exec_request(exec_id: &str, tty: bool, args: &[&str], streams: Streams) -> Request {
    let process = json!({
        "terminal": tty, "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/",
        "env": ["PATH=/bin"],
    });
    Request::Exec { exec_id: exec_id.into(), process: serde_json::from_value(process).unwrap(), streams }
}

fn make_bundle(bundle: &Path, id: &str, wish: &Wish) {
    let root = bundle.join("rootfs");
    for dir in ["bin", "proc", "dev", "tmp"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    // By another program: a child that another thread starts has what we write open until it executes, and what is open for
    // writing cannot be executed.
    let copied = std::process::Command::new("cp").arg("/bin/busybox").arg(root.join("bin")).status().unwrap();
    assert!(copied.success(), "package busybox-static is installed");
    for name in
        ["sh", "cat", "echo", "sleep", "seq", "dd", "stty", "setsid", "true", "kill", "yes", "head", "tail"]
    {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    let capabilities = ["CAP_KILL"];
    let mut namespaces = vec![json!({"type": "mount"}), json!({"type": "ipc"}), json!({"type": "uts"})];
    if wish.has_pid_namespace {
        namespaces.push(json!({"type": "pid"}));
    }
    let memory = wish.memory_bytes.map(|limit| json!({"limit": limit, "swap": limit}));
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": wish.tty, "user": {"uid": 0, "gid": 0}, "args": wish.args, "cwd": "/",
            "env": ["PATH=/bin"],
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "root": {"path": "rootfs"},
        "hostname": "test",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["newinstance", "ptmxmode=0666", "mode=0620"]},
        ],
        "linux": {
            "cgroupsPath": format!("/{}/{id}", parent_cgroup(id)),
            "namespaces": namespaces,
            "resources": memory.map(|memory| json!({"memory": memory})),
        },
    });
    std::fs::write(bundle.join("config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
}

/// A client's end.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: UnixStream,
}

/// All that came until the connection's end.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Heard {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) exit: Option<Exit>,
}

impl Heard {
    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn code(&self) -> i32 {
        self.exit.as_ref().map(|e| e.code).expect("the exit was told")
    }
}

impl Connection {
    pub(crate) fn send(&mut self, request: &Request) {
        self.stream.write_all(&encode_control(request).unwrap()).unwrap();
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Response {
        self.send(request);
        self.response()
    }

    pub(crate) fn response(&mut self) -> Response {
        match frame::read(&mut self.stream).unwrap() {
            Some((FrameKind::Control, payload)) => serde_json::from_slice(&payload).unwrap(),
            other => panic!("not a response: {other:?}"),
        }
    }

    pub(crate) fn stdin(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(shim_api::MAX_STDIO) {
            frame::write(&mut self.stream, FrameKind::Stdin, part).unwrap();
        }
    }

    pub(crate) fn close_stdin(&mut self) {
        frame::write(&mut self.stream, FrameKind::CloseStdin, b"").unwrap();
    }

    /// Reads until stdout holds `text`.
    pub(crate) fn read_until(&mut self, text: &str) -> String {
        let mut heard = String::new();
        while !heard.contains(text) {
            match frame::read(&mut self.stream).unwrap_or_else(|e| panic!("{e} after {heard:?}")) {
                Some((FrameKind::Stdout, bytes)) => heard += &String::from_utf8_lossy(&bytes),
                other => panic!("{other:?} after {heard:?}"),
            }
        }
        heard
    }

    /// Reads to the end.
    pub(crate) fn hear(&mut self) -> Heard {
        let mut heard = Heard::default();
        while let Some((kind, bytes)) = frame::read(&mut self.stream).unwrap() {
            assert!(heard.exit.is_none(), "nothing comes after the exit");
            match kind {
                FrameKind::Stdout => heard.stdout.extend(bytes),
                FrameKind::Stderr => heard.stderr.extend(bytes),
                FrameKind::Control => match serde_json::from_slice(&bytes).unwrap() {
                    Response::Event(Event::Exited { exit, .. }) => heard.exit = Some(exit),
                    other => panic!("{other:?}"),
                },
                FrameKind::Stdin | FrameKind::CloseStdin => panic!("{kind:?} from the shim"),
            }
        }
        heard
    }

    /// Whether the shim closed this connection, without a word.
    pub(crate) fn is_cut(&mut self) -> bool {
        matches!(frame::read(&mut self.stream), Ok(None) | Err(_))
    }

    /// Makes the socket take little, so that a slow reader is felt.
    pub(crate) fn take_little(&self) {
        net::sockopt::set_socket_recv_buffer_size(&self.stream, 4096).unwrap();
    }
}
