//! Containers of a user without privilege: uid 65534, no subordinate ids, no cgroup of its own. Needs root to become that
//! user, and Debian's package busybox-static.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test says why it fails or is skipped")]

#[path = "support/bundle.rs"]
mod support;

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use support::{Bundle, bundle, copy_program, runtime_program};

const NOBODY: u32 = 65_534;

/// A bundle that belongs to nobody, with a runtime that nobody may execute.
struct Theirs {
    bundle: Bundle,
    program: PathBuf,
}

fn theirs(name: &str) -> Option<Theirs> {
    let mut bundle = bundle(name)?;
    let program = bundle.path().join("runtime");
    copy_program(Path::new(&runtime_program()), &program);
    std::fs::remove_file(bundle.path().join("config.json")).unwrap();
    give(bundle.path());
    let theirs = |bundle: &Bundle, program: &Path, args: &[&str]| call(bundle, program, args);
    assert!(theirs(&bundle, &program, &["spec", "--rootless"]).status.success());
    let text = std::fs::read(bundle.path().join("config.json")).unwrap();
    bundle.spec = serde_json::from_slice(&text).unwrap();
    bundle.spec["process"]["terminal"] = false.into();
    Some(Theirs { bundle, program })
}

fn give(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap_or_default();
    if path.is_dir() && !path.is_symlink() {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path()));
    }
}

fn call(bundle: &Bundle, program: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.arg("--root").arg(bundle.path().join("state")).args(args).current_dir(bundle.path());
    command.uid(NOBODY).gid(NOBODY).stdin(Stdio::null()).output().unwrap()
}

impl Theirs {
    fn call(&self, args: &[&str]) -> Output {
        std::fs::write(self.bundle.path().join("config.json"), self.bundle.spec.to_string()).unwrap();
        call(&self.bundle, &self.program, args)
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.call(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        drop(call(&self.bundle, &self.program, &["delete", "--force", &self.bundle.id]));
    }
}

#[test]
fn nobody_is_root_inside() {
    let Some(mut t) = theirs("rootless") else { return };
    t.bundle
        .script("id -u; hostname; tr -s ' ' < /proc/self/uid_map; echo x > /dev/null && ls /sys | head -1");
    let said = t.ok(&["run", &t.bundle.id]);
    assert_eq!(said, "0\nbrig\n 0 65534 1\nblock\n");
    assert!(!Path::new("/sys/fs/cgroup/pids").join(&t.bundle.id).exists());
}

#[test]
fn life_and_exec() {
    let Some(mut t) = theirs("rootless-life") else { return };
    let id = t.bundle.id.clone();
    t.bundle.args(&["sleep", "100"]);
    // Its output must not keep our pipe open.
    let config = t.bundle.spec.to_string();
    std::fs::write(t.bundle.path().join("config.json"), config).unwrap();
    let mut create = Command::new(&t.program);
    create
        .arg("--root")
        .arg(t.bundle.path().join("state"))
        .args(["create", &id])
        .current_dir(t.bundle.path());
    create.uid(NOBODY).gid(NOBODY).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(create.status().unwrap().success());
    t.ok(&["start", &id]);
    // It is in the container's PID namespace, and cannot be its init.
    let said = t.ok(&["exec", &id, "sh", "-c", "id -u; test $$ != 1 && cat /proc/1/comm"]);
    assert_eq!(said, "0\nsleep\n");
    let exit = t.call(&["exec", &id, "sh", "-c", "exit 5"]);
    assert_eq!(exit.status.code(), Some(5));
    let refused = t.call(&["pause", &id]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("without cgroup"));
    t.ok(&["delete", "--force", &id]);
    assert_eq!(t.ok(&["list", "-q"]), "");
}

/// A user's own cgroup on the host must not be writable from inside, where nobody asked for it.
#[test]
fn cve_2023_25809_cgroups_of_the_host() {
    let Some(mut t) = theirs("rootless-sys") else { return };
    let cgroup = Path::new("/sys/fs/cgroup/pids").join(&t.bundle.id);
    if !cgroup.parent().unwrap().exists() {
        println!("skipped: no cgroup v1");
        return;
    }
    std::fs::create_dir(&cgroup).unwrap();
    chown(&cgroup, Some(NOBODY), Some(NOBODY)).unwrap();
    let script = format!("mkdir {}/x 2>&1", cgroup.display());
    t.bundle.script(&script);
    let as_written = t.call(&["run", &t.bundle.id]);
    // And the same by a sysfs of its own, which is denied, so that the host's takes its place.
    for mount in t.bundle.spec["mounts"].as_array_mut().unwrap() {
        if mount["destination"] == "/sys" {
            *mount = serde_json::json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
                "options": ["nosuid", "noexec", "nodev", "ro"]});
        }
    }
    let in_its_place = t.call(&["run", &t.bundle.id]);
    // So that the failure is not that of the user.
    let mut own = Command::new("mkdir");
    let made = own.arg(cgroup.join("y")).uid(NOBODY).gid(NOBODY).status().unwrap().success();
    drop(std::fs::remove_dir(cgroup.join("y")));
    let escaped = std::fs::remove_dir(cgroup.join("x")).is_ok();
    std::fs::remove_dir(&cgroup).unwrap();
    assert!(made && !escaped);
    for output in [as_written, in_its_place] {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("Read-only file system"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn limits_need_a_cgroup() {
    let Some(mut t) = theirs("rootless-limits") else { return };
    t.bundle.args(&["true"]);
    for (pointer, value, want) in [
        ("resources", serde_json::json!({"pids": {"limit": 5}}), "rootless needs no limits + no cgrouppath"),
        (
            "cgroupsPath",
            "/brigtest/not-allowed".into(),
            "unable to apply cgroup configuration: permission denied",
        ),
    ] {
        let before = t.bundle.spec.clone();
        t.bundle.spec["linux"][pointer] = value;
        let output = t.call(&["run", &t.bundle.id]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(want), "{text}");
        assert_eq!(t.ok(&["list", "-q"]), "", "something stayed");
        t.bundle.spec = before;
    }
    // Who says that it is root is told what is missing.
    let output = t.call(&["--rootless", "false", "run", &t.bundle.id]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"));
}
