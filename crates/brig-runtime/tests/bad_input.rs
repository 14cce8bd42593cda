//! Documents and calls that cannot be: one line that names operation, object and cause, exit code 1, nothing left.
//!
//! Needs root and Debian's package busybox-static.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test says why it fails or is skipped")]

#[path = "support/bundle.rs"]
mod bundle;

use bundle::{Bundle, bundle, runtime_program};
use serde_json::json;
use std::path::Path;
use std::process::Output;

impl Bundle {
    /// The one line of a call that must fail.
    fn line(&self, args: &[&str]) -> String {
        let output = self.call(args);
        one_line(args, &output)
    }

    /// `run` with exactly these bytes as its document; the one line of its failure.
    fn document(&self, bytes: &[u8]) -> String {
        let mut command = self.command(&["run", &self.id]);
        std::fs::write(self.path().join("config.json"), bytes).unwrap();
        let line = one_line(&["run"], &command.output().unwrap());
        self.nothing_is_left();
        line
    }

    fn nothing_is_left(&self) {
        assert_eq!(self.ok(&["list", "-q"]), "", "a container is left");
        for hierarchy in ["pids", "memory", "devices", "unified", "."] {
            let group = Path::new("/sys/fs/cgroup").join(hierarchy).join("brigtest").join(&self.id);
            assert!(!group.exists(), "{} is left", group.display());
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.path().to_str().unwrap()), "a mount is left");
    }
}

fn one_line(args: &[&str], output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = if args.contains(&"exec") { 255 } else { 1 };
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}: {text}", output.status);
    assert!(text.starts_with("brig-runtime: ") && text.lines().count() == 1, "{args:?}: {text:?}");
    assert!(text.len() < 4096 && !text.trim_end().chars().any(char::is_control), "{args:?}: {text:?}");
    text
}

#[test]
fn documents_that_are_none() {
    let Some(mut b) = bundle("documents") else { return };
    b.args(&["true"]);
    let good = b.spec.to_string();
    // Cut anywhere.
    for length in (0..good.len()).step_by(good.len() / 40) {
        let line = b.document(&good.as_bytes()[..length]);
        assert!(line.contains("run failed: read") && line.contains("config.json"), "{line}");
    }
    let deep = "[".repeat(100_000);
    let deep_inside = good.replacen('{', &format!("{{\"x\":{},", "[".repeat(5000) + &"]".repeat(5000)), 1);
    for text in
        ["null", "[]", "\"x\"", "{}", "{\"ociVersion\": 5}", "\u{feff}{}", &deep, "{\"process\": null}"]
    {
        b.document(text.as_bytes());
    }
    // An unknown property may be anything.
    let mut command = b.command(&["run", &b.id]);
    std::fs::write(b.path().join("config.json"), deep_inside).unwrap();
    assert!(command.status().unwrap().success());
    b.document(&[0xff, 0xfe, 0]);
    b.document(&vec![b' '; (32 << 20) + 1]);
    for end in [&b""[..], b"}"] {
        let huge = b.document(&[&b"{"[..], &vec![b' '; 33 << 20][..], end].concat());
        assert!(huge.contains("File too large"), "{huge}");
    }
    // Not even a file.
    std::fs::remove_file(b.path().join("config.json")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        b.path().join("config.json"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let mut command = std::process::Command::new(runtime_program());
    let output =
        command.arg("--root").arg(b.path().join("state")).args(["run", &b.id]).current_dir(b.path()).output();
    one_line(&["run"], &output.unwrap());
    std::fs::remove_file(b.path().join("config.json")).unwrap();
}

#[test]
fn hostile_words_in_fields() {
    let Some(mut b) = bundle("words") else { return };
    b.args(&["true"]);
    let keep = b.spec.clone();
    let long = "x".repeat(100_000);
    for word in ["a\nb", "a\u{1b}[31mb", "\u{0}", "../..", "/", "", "%s%n", long.as_str(), "٣", "\u{202e}x"]
    {
        for pointer in [
            "/root/path",
            "/process/cwd",
            "/process/args/0",
            "/hostname",
            "/domainname",
            "/mounts/0/destination",
            "/mounts/0/type",
            "/mounts/1/options/0",
            "/linux/cgroupsPath",
            "/linux/namespaces/0/type",
            "/linux/maskedPaths/0",
            "/linux/rootfsPropagation",
            "/linux/mountLabel",
            "/process/apparmorProfile",
            "/process/selinuxLabel",
        ] {
            b.spec = keep.clone();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            match b.spec.pointer_mut(parent).unwrap() {
                serde_json::Value::Array(list) => list[key.parse::<usize>().unwrap()] = word.into(),
                object => object[key] = word.into(),
            }
            let output = b.call(&["run", &b.id]);
            if !output.status.success() {
                one_line(&["run", pointer, &word[..word.len().min(20)]], &output);
            }
            b.nothing_is_left();
        }
    }
}

#[test]
fn containers_that_are_not_there_or_not_so() {
    let Some(mut b) = bundle("states") else { return };
    let id = b.id.clone();
    for verb in ["state", "start", "kill", "delete", "pause", "resume", "ps", "exec", "update"] {
        let args: &[&str] = match verb {
            "exec" => &["exec", "nobody", "true"],
            "update" => &["update", "--pids-limit", "5", "nobody"],
            other => &[other, "nobody"],
        };
        let line = b.line(args);
        assert!(line.contains(&format!("{verb} failed: container does not exist: nobody")), "{line}");
    }
    for bad in ["", "..", ".", "a/b", "a b", "a\nb", &"x".repeat(256)] {
        b.line(&["create", bad]);
    }
    b.args(&["sleep", "1000"]);
    b.ok(&["create", &id]);
    let check = |args: &[&str], want: &str| {
        let line = b.line(args);
        assert!(line.contains(want), "want {want:?}: {line}");
    };
    check(&["create", &id], "already exists");
    check(&["resume", &id], "resume");
    b.ok(&["start", &id]);
    check(&["start", &id], "start");
    check(&["delete", &id], "delete");
    check(&["create", &id], "already exists");
    b.ok(&["pause", &id]);
    check(&["pause", &id], "pause");
    check(&["exec", &id, "true"], "exec");
    b.ok(&["resume", &id]);
    b.ok(&["kill", &id, "KILL"]);
    b.wait_status("stopped");
    check(&["kill", &id, "KILL"], "kill");
    check(&["exec", &id, "true"], "exec");
    check(&["pause", &id], "pause");
    b.ok(&["delete", &id]);
    b.nothing_is_left();
}

#[test]
fn what_the_machine_refuses() {
    let Some(mut b) = bundle("machine") else { return };
    let id = b.id.clone();
    b.args(&["true"]);
    let keep = b.spec.clone();
    // A cgroup that cannot be made.
    b.spec["linux"]["cgroupsPath"] = format!("/brigtest/{}", "x".repeat(300)).into();
    let line = b.line(&["run", &id]);
    assert!(line.contains("cgroup path") && line.contains("over 255 bytes"), "{line}");
    for bad in ["/..", "/brigtest/../..", "relative/../../x"] {
        b.spec["linux"]["cgroupsPath"] = bad.into();
        let line = b.line(&["run", &id]);
        assert!(line.contains("cgroup"), "{line}");
    }
    // Limits that the kernel refuses: which file, and why.
    b.spec = keep.clone();
    b.spec["linux"]["resources"] = json!({"cpu": {"cpus": "4000"}});
    assert!(b.line(&["run", &id]).contains("cpuset.cpus"));
    b.nothing_is_left();
    b.spec["linux"]["resources"] = json!({"cpu": {"quota": -7, "period": 5}});
    assert!(b.line(&["run", &id]).contains("cpu"));
    b.nothing_is_left();
    // A rootfs that has gone.
    b.spec = keep.clone();
    std::fs::rename(b.rootfs(), b.path().join("elsewhere")).unwrap();
    let line = b.line(&["run", &id]);
    assert!(line.contains("rootfs") && line.contains("No such file"), "{line}");
    b.nothing_is_left();
    std::fs::rename(b.path().join("elsewhere"), b.rootfs()).unwrap();
    // No process is left in the limit: an exec says so, the container lives on.
    b.spec["linux"]["resources"] = json!({"pids": {"limit": 1}});
    b.args(&["sleep", "1000"]);
    b.ok(&["run", "-d", &id]);
    // On v1 the process joins all the same and its own children are refused, on v2 the kernel refuses the process.
    let output = b.call(&["exec", &id, "sh", "-c", "true | true"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("temporarily unavailable"), "{text}");
    assert_eq!(b.state()["status"], "running");
    // The rootfs goes while it runs: what is mounted stays.
    b.ok(&["delete", "--force", &id]);
    b.nothing_is_left();
    // A state directory that cannot be written.
    std::fs::write(b.path().join("file"), "").unwrap();
    let mut command = std::process::Command::new(runtime_program());
    let output =
        command.arg("--root").arg(b.path().join("file")).args(["create", &id]).current_dir(b.path()).output();
    one_line(&["create"], &output.unwrap());
}
