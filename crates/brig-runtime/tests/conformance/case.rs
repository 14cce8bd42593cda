//! One container under test: its bundle, the verbs of the runtime, and what remains of it.

use serde_json::{Value, json};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a state may take to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Thrown by a test that cannot be run here.
pub(crate) struct Skip(pub(crate) String);

/// Ends the test: it cannot be run here.
pub(crate) fn skip(reason: &str) -> ! {
    std::panic::panic_any(Skip(reason.to_owned()))
}

/// The runtime that is asked.
pub(crate) struct Runtime {
    program: PathBuf,
    version: String,
    features: Option<Value>,
}

impl Runtime {
    pub(crate) fn new(path: &str) -> Runtime {
        let output =
            |arg: &str| Command::new(path).arg(arg).output().unwrap_or_else(|e| panic!("run {path}: {e}"));
        let version = String::from_utf8_lossy(&output("--version").stdout).into_owned();
        let version = version.lines().next().unwrap_or_default().to_owned();
        let features = serde_json::from_slice(&output("features").stdout).ok();
        Runtime { program: path.into(), version, features }
    }

    /// The first line of what `--version` says.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Its first word.
    pub(crate) fn name(&self) -> &str {
        self.version.split(' ').next().unwrap_or_default()
    }

    /// Skips unless the runtime says, or does not say otherwise, that it can.
    pub(crate) fn needs(&self, pointer: &str, what: &str) {
        if !self.lists(pointer, what) {
            skip(&format!("its features do not list {what}"));
        }
    }

    /// Whether its features list it.
    pub(crate) fn lists(&self, pointer: &str, what: &str) -> bool {
        match self.feature(pointer) {
            Some(Value::Bool(yes)) => *yes,
            Some(Value::Array(list)) => list.contains(&what.into()),
            _ => false,
        }
    }

    /// What its features say there.
    pub(crate) fn feature(&self, pointer: &str) -> Option<&Value> {
        self.features.as_ref()?.pointer(pointer)
    }
}

/// How a container ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) struct Case<'a> {
    pub(crate) runtime: &'a Runtime,
    directory: tempfile::TempDir,
    pub(crate) id: String,
    pub(crate) spec: Value,
}

/// A container that does nothing special.
pub(crate) fn case<'a>(runtime: &'a Runtime, name: &str) -> Case<'a> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let id = format!("conform-{name}-{}", std::process::id());
    let case = Case { runtime, directory, spec: spec(&id), id };
    let bin = case.rootfs().join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    // By another program: a child that another thread starts has what we write open until it executes, and what is open for
    // writing cannot be executed.
    let copied = Command::new("cp").arg("/bin/busybox").arg(bin.join("busybox")).status().unwrap();
    assert!(copied.success(), "package busybox-static is installed");
    let applets = [
        "sh", "true", "cat", "id", "sleep", "hostname", "echo", "grep", "pwd", "touch", "ls", "stat", "head",
        "tr", "env", "readlink", "mkdir", "test", "uname", "mknod", "awk", "kill", "printf", "wc", "sort",
        "dd", "umount", "seq", "rm",
    ];
    applets.iter().for_each(|applet| symlink("busybox", bin.join(applet)).unwrap());
    // No /proc, /sys and /dev: the runtime makes what it mounts on.
    ["etc", "tmp"].iter().for_each(|name| std::fs::create_dir(case.rootfs().join(name)).unwrap());
    case
}

fn spec(id: &str) -> Value {
    let caps = json!(["CAP_CHOWN", "CAP_KILL", "CAP_MKNOD", "CAP_DAC_OVERRIDE"]);
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["true"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs"},
        "hostname": "conform",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}
        ],
        "linux": {
            "cgroupsPath": format!("/conform/{id}"),
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "resources": {"devices": [{"allow": false, "access": "rwm"}]}
        }
    })
}

impl Case<'_> {
    /// The bundle.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    pub(crate) fn script(&mut self, script: &str) -> &mut Self {
        self.spec["process"]["args"] = json!(["sh", "-c", script]);
        self
    }

    pub(crate) fn set(&mut self, pointer: &str, value: Value) -> &mut Self {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        self.spec.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent}"))[key] = value;
        self
    }

    pub(crate) fn unset(&mut self, pointer: &str) -> &mut Self {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        self.spec.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key);
        self
    }

    pub(crate) fn mount(&mut self, entry: Value) -> &mut Self {
        self.spec["mounts"].as_array_mut().unwrap().push(entry);
        self
    }

    /// Replaces, or with `None` takes out, the namespace of this type.
    pub(crate) fn namespace(&mut self, kind: &str, entry: Option<Value>) -> &mut Self {
        let list = self.spec["linux"]["namespaces"].as_array_mut().unwrap();
        list.retain(|n| n["type"] != kind);
        list.extend(entry);
        self
    }

    /// A verb with any arguments; `config.json` is written before.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        std::fs::write(self.path().join("config.json"), self.spec.to_string()).unwrap();
        let mut command = Command::new(&self.runtime.program);
        command.arg("--root").arg(self.path().join("state")).args(args);
        command.current_dir(self.path()).stdin(Stdio::null());
        command
    }

    /// A verb, its streams in files: the container's process keeps them open.
    pub(crate) fn call(&self, args: &[&str]) -> Ran {
        let file = |name: &str| std::fs::File::create(self.path().join(name)).unwrap();
        let status = self.command(args).stdout(file("out")).stderr(file("err")).status().unwrap();
        let text = |name: &str| {
            String::from_utf8_lossy(&std::fs::read(self.path().join(name)).unwrap()).into_owned()
        };
        Ran { code: status.code().unwrap_or(-1), out: text("out"), err: text("err") }
    }

    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let ran = self.call(args);
        assert_eq!(ran.code, 0, "{args:?}: {}{}", ran.out, ran.err);
        ran.out
    }

    /// The verb must fail.
    pub(crate) fn error(&self, args: &[&str]) -> String {
        let ran = self.call(args);
        assert_ne!(ran.code, 0, "{args:?} succeeded: {}{}", ran.out, ran.err);
        ran.err
    }

    pub(crate) fn create(&self) -> &Self {
        self.ok(&["create", &self.id]);
        self
    }

    pub(crate) fn start(&self) -> &Self {
        self.ok(&["start", &self.id]);
        self
    }

    /// Runs to the end.
    pub(crate) fn run(&self) -> Ran {
        self.call(&["run", &self.id])
    }

    /// Runs the script; it must succeed and print `want`.
    pub(crate) fn prints(&mut self, script: &str, want: &str) -> &mut Self {
        let ran = self.script(script).run();
        assert_eq!((ran.code, ran.out.trim_end()), (0, want), "{script}: {}", ran.err);
        self
    }

    /// What the script prints; it must succeed.
    pub(crate) fn output(&mut self, script: &str) -> String {
        let ran = self.script(script).run();
        assert_eq!(ran.code, 0, "{script}: {}{}", ran.out, ran.err);
        ran.out.trim_end().to_owned()
    }

    /// Must fail to be created, or, for what may be checked later, to be started; and must leave nothing.
    pub(crate) fn refused(&mut self) -> &mut Self {
        let marker = self.path().join("rootfs/tmp/ran");
        self.script("touch /tmp/ran");
        let id = self.id.clone();
        if self.call(&["create", &id]).code == 0 {
            self.error(&["start", &id]);
            self.call(&["delete", "--force", &id]);
        }
        assert!(!marker.exists(), "the program was run");
        self.gone();
        self
    }

    /// Nothing is left of it.
    pub(crate) fn gone(&self) {
        assert_ne!(self.call(&["state", &self.id]).code, 0, "it is still known");
        for directory in self.cgroups() {
            assert!(!directory.exists(), "{} is left", directory.display());
        }
    }

    /// Where its cgroups are or would be.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let path =
            self.spec["linux"]["cgroupsPath"].as_str().unwrap_or_default().trim_start_matches('/').to_owned();
        let top = Path::new("/sys/fs/cgroup");
        if top.join("cgroup.procs").exists() {
            return vec![top.join(path)];
        }
        let entries = std::fs::read_dir(top).unwrap().map(|e| e.unwrap().path());
        entries.filter(|d| d.join("cgroup.procs").exists()).map(|d| d.join(&path)).collect()
    }

    /// A file of its cgroup: with this name on v1, with that on v2. Skips where the kernel has no such controller.
    pub(crate) fn cgroup_file(&self, controller: &str, v1: &str, v2: &str) -> String {
        let path = self.spec["linux"]["cgroupsPath"].as_str().unwrap().trim_start_matches('/').to_owned();
        let top = Path::new("/sys/fs/cgroup");
        let file = match top.join("cgroup.procs").exists() {
            true => top.join(path).join(v2),
            false => top.join(controller).join(path).join(v1),
        };
        if !file.parent().unwrap().parent().unwrap().exists() {
            skip(&format!("no cgroup controller {controller}"));
        }
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("read {}: {e}", file.display()));
        text.trim().to_owned()
    }

    pub(crate) fn state(&self) -> Value {
        let text = self.ok(&["state", &self.id]);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("state is no JSON: {e}: {text}"))
    }

    pub(crate) fn status(&self) -> String {
        self.state()["status"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn wait_for(&self, status: &str) -> &Self {
        self.wait(&format!("status {status}"), || self.status() == status)
    }

    pub(crate) fn wait(&self, what: &str, mut done: impl FnMut() -> bool) -> &Self {
        let until = Instant::now() + PATIENCE;
        while !done() {
            assert!(Instant::now() < until, "never {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
        self
    }

    /// The host's id of the container's process.
    pub(crate) fn pid(&self) -> String {
        self.state()["pid"].to_string()
    }

    /// A directory of the bundle that the container sees at `/host`.
    pub(crate) fn shared(&mut self) -> PathBuf {
        let directory = self.path().join("shared");
        std::fs::create_dir_all(&directory).unwrap();
        self.mount(
            json!({"destination": "/host", "type": "bind", "source": "shared", "options": ["rbind", "rw"]}),
        );
        directory
    }

    /// A runtime call in a mount namespace of its own, after these steps of a shell.
    pub(crate) fn call_after(&self, steps: &str, args: &[&str]) -> Output {
        let command = self.command(args);
        let words: Vec<_> = [command.get_program()].into_iter().chain(command.get_args()).collect();
        Command::new("unshare")
            .args(["-m", "sh", "-ec", &format!("{steps}\nexec \"$@\""), "sh"])
            .args(words)
            .current_dir(self.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

impl Drop for Case<'_> {
    fn drop(&mut self) {
        drop(self.command(&["delete", "--force", &self.id]).output());
    }
}

/// Removes the cgroups that all tests' are below, and what a runtime left there.
pub(crate) fn remove_groups() {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(top).into_iter().flatten().flatten().map(|e| e.path());
    for group in [top.to_path_buf()].into_iter().chain(hierarchies).map(|d| d.join("conform")) {
        let below = std::fs::read_dir(&group).into_iter().flatten().flatten().map(|e| e.path());
        below.filter(|d| d.is_dir()).for_each(|d| drop(std::fs::remove_dir(d)));
        drop(std::fs::remove_dir(&group));
    }
}

/// A line of `/proc/self/mountinfo` about the mount at `at`, as a script.
pub(crate) fn mountinfo(at: &str) -> String {
    format!("awk '$5 == \"{at}\" {{ print $6, $7 }}' /proc/self/mountinfo")
}

/// One message of a Unix socket with a descriptor beside it.
pub(crate) fn receive(socket: &std::os::unix::net::UnixStream) -> (String, OwnedFd) {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0u8; 16384];
    let received =
        recvmsg(socket, &mut [std::io::IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
            .unwrap();
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    (String::from_utf8_lossy(&bytes[..received.bytes]).into_owned(), fd.expect("a descriptor came"))
}
