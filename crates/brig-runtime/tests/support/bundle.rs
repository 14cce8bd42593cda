//! A bundle with busybox, and the runtime that is built here, for the tests beside.
#![allow(dead_code, reason = "each test program uses its part")]

#[path = "program.rs"]
mod program;

pub(crate) use program::runtime_program;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A bundle with a busybox rootfs, its own `--root`, and everything removed at the end.
pub(crate) struct Bundle {
    directory: tempfile::TempDir,
    pub(crate) id: String,
    pub(crate) spec: serde_json::Value,
}

/// None, with the reason said, when this cannot run.
pub(crate) fn bundle(name: &str) -> Option<Bundle> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let bin = directory.path().join("rootfs/bin");
    std::fs::create_dir_all(&bin).unwrap();
    // By another program: a child that another thread starts has what we write open until it executes, and what is open for
    // writing cannot be executed.
    let copied = Command::new("cp").arg("/bin/busybox").arg(bin.join("busybox")).status().unwrap();
    assert!(copied.success(), "package busybox-static is installed");
    for applet in [
        "sh", "true", "cat", "id", "sleep", "hostname", "echo", "grep", "pwd", "touch", "ls", "stat", "head",
        "wc", "mount", "umount", "tr", "nice", "awk", "ip", "mkdir",
    ] {
        symlink("busybox", bin.join(applet)).unwrap();
    }
    std::fs::create_dir(directory.path().join("state")).unwrap();
    for empty in ["etc", "tmp"] {
        std::fs::create_dir(directory.path().join("rootfs").join(empty)).unwrap();
    }
    let id = format!("brigtest-{name}-{}", std::process::id());
    let spec = Command::new(runtime_program()).arg("spec").arg("-b").arg(directory.path()).output();
    assert!(spec.unwrap().status.success());
    let text = std::fs::read(directory.path().join("config.json")).unwrap();
    let mut spec: serde_json::Value = serde_json::from_slice(&text).unwrap();
    spec["process"]["terminal"] = false.into();
    // Of no interest to most tests.
    spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["type"] != "cgroup");
    let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "cgroup");
    namespaces.push(serde_json::json!({"type": "cgroup"}));
    spec["linux"]["cgroupsPath"] = format!("/brigtest/{id}").into();
    Some(Bundle { directory, id, spec })
}

/// Copies a program by another process: a child that another test forks meanwhile would hold our own descriptor for
/// writing, and the kernel executes no file that is open so ("text file busy").
pub(crate) fn copy_program(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().unwrap().success());
}

impl Bundle {
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    pub(crate) fn args(&mut self, args: &[&str]) {
        self.spec["process"]["args"] = args.into();
    }

    pub(crate) fn script(&mut self, script: &str) {
        self.args(&["sh", "-c", script]);
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        std::fs::write(self.path().join("config.json"), self.spec.to_string()).unwrap();
        let mut command = Command::new(runtime_program());
        command.arg("--root").arg(self.path().join("state")).args(args);
        command.current_dir(self.path()).stdin(Stdio::null());
        command
    }

    pub(crate) fn call(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Output of a verb that must succeed. Its container's output goes to a file, since init keeps the pipe.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let out = self.path().join("out");
        let file = std::fs::File::create(&out).unwrap();
        let status = self.command(args).stdout(file.try_clone().unwrap()).stderr(file).status().unwrap();
        let text = std::fs::read_to_string(&out).unwrap();
        assert!(status.success(), "{args:?}: {status}: {text}");
        text
    }

    /// Runs the script in the foreground.
    pub(crate) fn run(&mut self, script: &str) -> (i32, String) {
        self.script(script);
        let output = self.call(&["run", &self.id]);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
    }

    pub(crate) fn check(&mut self, script: &str, want: &str) {
        let (code, text) = self.run(script);
        assert_eq!((code, text.trim_end()), (0, want), "{script}");
    }

    /// The error of a `run` that must fail before the container's program.
    pub(crate) fn refused(&mut self, want: &str) {
        let output = self.call(&["run", &self.id]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(want), "want {want:?}: {text}");
        assert_eq!(self.ok(&["list", "-q"]), "", "something stayed");
        assert!(!Path::new("/sys/fs/cgroup/pids/brigtest").join(&self.id).exists(), "the cgroup stayed");
    }

    pub(crate) fn refused_without_socket(&self) {
        let output = self.call(&["create", &self.id]);
        assert!(String::from_utf8_lossy(&output.stderr).contains("--console-socket"));
    }

    pub(crate) fn state(&self) -> serde_json::Value {
        serde_json::from_str(&self.ok(&["state", &self.id])).unwrap()
    }

    pub(crate) fn wait_status(&self, want: &str) {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while self.state()["status"] != want {
            assert!(std::time::Instant::now() < until, "never {want}");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        drop(self.command(&["delete", "--force", &self.id]).output());
    }
}

pub(crate) fn receive_fd(socket: &std::os::unix::net::UnixStream) -> std::os::fd::OwnedFd {
    receive_with_text(socket).1
}

/// One message with a descriptor beside it.
pub(crate) fn receive_with_text(socket: &std::os::unix::net::UnixStream) -> (String, std::os::fd::OwnedFd) {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0u8; 8192];
    let length =
        recvmsg(socket, &mut [std::io::IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
            .unwrap()
            .bytes;
    let fd = control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .expect("a descriptor came");
    (String::from_utf8_lossy(&bytes[..length]).into_owned(), fd)
}
