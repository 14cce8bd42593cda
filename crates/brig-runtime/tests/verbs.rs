//! Verbs that look at a container or change it while it runs. Needs root and Debian's packages busybox-static and procps.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test says why it fails or is skipped")]

#[path = "support/bundle.rs"]
mod support;

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use support::{Bundle, bundle, runtime_program};

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text.trim()).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn running(name: &str) -> Option<Bundle> {
    let mut b = bundle(name)?;
    b.args(&["sleep", "100"]);
    b.ok(&["run", "-d", &b.id]);
    Some(b)
}

#[test]
fn numbers_are_runcs() {
    let Some(b) = running("events") else { return };
    let event = json(&b.ok(&["events", "--stats", &b.id]));
    assert_eq!((event["type"].as_str(), event["id"].as_str()), (Some("stats"), Some(b.id.as_str())));
    let data = &event["data"];
    for name in ["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces"] {
        assert!(data.get(name).is_some(), "{name} is missing: {data}");
    }
    assert_eq!(data["pids"]["current"], 1);
    assert!(data["memory"]["usage"]["usage"].as_u64() > Some(0), "{data}");
    assert!(data["memory"]["raw"].as_object().is_some_and(|raw| !raw.is_empty()));
    assert!(data["cpu"]["usage"]["total"].as_u64() > Some(0));
}

#[test]
fn events_end_with_the_container() {
    let Some(b) = running("events-end") else { return };
    let mut events =
        b.command(&["events", "--interval", "10ms", &b.id]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        assert_eq!(json(&lines.next().unwrap().unwrap())["type"], "stats");
    }
    b.ok(&["kill", &b.id, "KILL"]);
    assert!(lines.all(|line| line.is_ok()));
    assert!(events.wait().unwrap().success());
    let gone = b.call(&["events", "--stats", &b.id]);
    assert!(String::from_utf8_lossy(&gone.stderr).contains("is not running"));
    assert!(!b.call(&["events", "--interval", "0s", &b.id]).status.success());
}

#[test]
fn a_killed_process_is_an_event() {
    let Some(mut b) = bundle("events-oom") else { return };
    b.spec["linux"]["resources"] = serde_json::json!({"memory": {"limit": 8 << 20, "swap": 8 << 20}});
    b.script("busybox usleep 200000; while :; do busybox tail -c 64m /dev/zero; done");
    b.ok(&["create", &b.id]);
    let mut events =
        b.command(&["events", "--interval", "1h", &b.id]).stdout(Stdio::piped()).spawn().unwrap();
    b.ok(&["start", &b.id]);
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    let event = json(&lines.next().unwrap().unwrap());
    assert_eq!((event["type"].as_str(), event.get("data")), (Some("oom"), None));
    b.ok(&["kill", &b.id, "KILL"]);
    assert!(lines.all(|line| line.is_ok()));
    assert!(events.wait().unwrap().success());
}

#[test]
fn lists_and_processes() {
    let Some(b) = running("list") else { return };
    let pid = b.state()["pid"].to_string();
    let table = b.ok(&["list"]);
    let lines: Vec<_> = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(lines[0], ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    assert_eq!(
        (lines[1][0], lines[1][1], lines[1][2], lines[1][5]),
        (b.id.as_str(), pid.as_str(), "running", "root")
    );
    let rows = json(&b.ok(&["list", "-f", "json"]));
    assert_eq!((rows[0]["id"].as_str(), rows[0]["owner"].as_str()), (Some(b.id.as_str()), Some("root")));
    assert_eq!(json(&b.ok(&["ps", "-f", "json", &b.id])).to_string(), format!("[{pid}]"));
    let table = b.ok(&["ps", &b.id]);
    assert!(table.starts_with("UID") && table.contains("sleep 100") && table.lines().count() == 2, "{table}");
    let table = b.ok(&["ps", &b.id, "-o", "pid,comm"]);
    assert!(table.contains(&pid) && table.lines().count() == 2, "{table}");
    let bad = b.call(&["list", "-f", "yaml"]);
    assert!(String::from_utf8_lossy(&bad.stderr).contains("invalid format option"));
}

#[test]
fn exec_below_the_cgroup_and_in_a_paused_container() {
    let Some(b) = running("exec-cgroup") else { return };
    let missing = b.call(&["exec", "--cgroup", "below", &b.id, "true"]);
    assert!(!missing.status.success());
    let own = b.ok(&["exec", &b.id, "cat", "/proc/self/cgroup"]);
    assert!(!own.contains("/below"));
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap();
    let made: Vec<_> = hierarchies
        .map(|entry| entry.unwrap().path().join("brigtest").join(&b.id))
        .chain([std::path::Path::new("/sys/fs/cgroup/brigtest").join(&b.id)])
        .filter(|path| path.is_dir())
        .map(|path| path.join("below"))
        .collect();
    for path in &made {
        std::fs::create_dir(path).unwrap();
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let parent = path.parent().unwrap().join(file);
            if let Ok(value) = std::fs::read(&parent) {
                drop(std::fs::write(path.join(file), value));
            }
        }
    }
    let below = b.ok(&["exec", "--cgroup", "below", &b.id, "cat", "/proc/self/cgroup"]);
    assert!(below.lines().all(|line| line.ends_with("/below")), "{below}");
    b.ok(&["pause", &b.id]);
    let paused = b.call(&["exec", &b.id, "true"]);
    assert!(String::from_utf8_lossy(&paused.stderr).contains("use --ignore-paused to override"));
    let mut waiting = b.command(&["exec", "--ignore-paused", &b.id, "true"]).spawn().unwrap();
    b.ok(&["resume", &b.id]);
    assert!(waiting.wait().unwrap().success());
    let resumed = b.call(&["resume", &b.id]);
    assert!(String::from_utf8_lossy(&resumed.stderr).contains("container not paused"));
}

#[test]
fn exec_names_controllers_of_v1() {
    let Some(b) = running("exec-ctrl") else { return };
    let v1 = |name: &str| std::path::Path::new("/sys/fs/cgroup").join(name).join("brigtest").join(&b.id);
    let refused = |args: &[&str], want: &str| {
        let output = b.call(&[&["exec"], args, &[&b.id, "true"]].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(255) && text.contains(want), "{args:?}: {text}");
    };
    refused(&["--cgroup", ".."], "bad sub cgroup path");
    refused(&["--cgroup", "whaaat:/"], "unknown controller whaaat");
    refused(&["--cgroup", ":x"], "empty <controller> prefix");
    refused(&["--cgroup", "x", "--cgroup", "y"], "missing <controller>: prefix");
    if !v1("memory").is_dir() || !v1("pids").is_dir() {
        println!("skipped: no cgroup v1");
        return;
    }
    refused(&["--cgroup", "pids:nonexistent"], "no such file or directory");
    refused(&["--cgroup", "pids:../x"], "bad sub cgroup path");
    refused(&["--cgroup", "pids:/", "--cgroup", "memory,pids:/"], "pids specified multiple times");
    std::fs::create_dir(v1("memory").join("submem")).unwrap();
    std::fs::create_dir(v1("pids").join("subpids")).unwrap();
    let args = [
        "exec",
        "--cgroup",
        "memory:submem",
        "--cgroup",
        "pids:/subpids/",
        &b.id,
        "cat",
        "/proc/self/cgroup",
    ];
    let text = b.ok(&args);
    let below: Vec<_> = text.lines().filter(|line| line.contains("/sub")).collect();
    assert!(below.len() == 2 && text.contains(":memory:") && text.contains(":pids:"), "{text}");
    assert!(below.iter().all(|line| line.ends_with("/submem") || line.ends_with("/subpids")), "{text}");
}

/// Of a process 1 that has no handler for it, the kernel keeps SIGTERM away.
#[test]
fn sigterm_ends_a_container_that_is_created() {
    for sealed in [false, true] {
        let Some(mut b) = bundle("term") else { return };
        b.args(&["sleep", "100"]);
        if sealed {
            b.spec["hooks"] = serde_json::json!({"startContainer": [{"path": "/bin/true"}]});
        }
        b.ok(&["create", &b.id]);
        b.ok(&["kill", &b.id]);
        b.wait_status("stopped");
        b.ok(&["delete", &b.id]);
    }
}

#[test]
fn a_root_that_was_named_must_be_there() {
    let Some(b) = bundle("noroot") else { return };
    let output = b.call(&["--root", "/nonexistent-root", "list"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(1) && text.contains("open /nonexistent-root: no such file"),
        "{text}"
    );
    let output = b.call(&["--root", "/", "list"]);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("Option --root argument should not be set to /")
    );
    // Where nothing was ever made, the default is no error.
    let mut own = std::process::Command::new(runtime_program());
    let own = own.arg("list").arg("-q").env("XDG_RUNTIME_DIR", b.path().join("none")).output().unwrap();
    assert!(own.status.success());
}

/// As systemd starts a service with sockets: the caller's 3 is the container's 3, and it is told so.
#[test]
fn sockets_of_systemd_are_passed_on() {
    let Some(mut b) = bundle("listen") else { return };
    b.script("echo $LISTEN_FDS $LISTEN_PID; cat <&3");
    let passed = b.path().join("passed");
    std::fs::write(&passed, "through 3\n").unwrap();
    // The shell's id is the runtime's, by exec.
    let program = runtime_program();
    let run = |count: &str, pid: &str| {
        let words = format!(
            "LISTEN_FDS={count} LISTEN_PID={pid} exec {program} --root {} run {} 3<{}",
            b.path().join("state").display(),
            b.id,
            passed.display()
        );
        b.command(&["features"]);
        let output = std::process::Command::new("sh").args(["-c", &words]).current_dir(b.path()).output();
        let output = output.unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    };
    assert_eq!(run("1", "$$"), (true, "1 1\nthrough 3\n".into()));
    let (success, text) = run("2", "$$");
    assert!(!success && text.contains("unable to stat preserved-fd"), "{text}");
    // Meant for another process.
    let (success, text) = run("1", "1");
    assert!(!success && !text.contains("through"), "{text}");
}

#[test]
fn descriptors_that_are_missing_are_not_passed_on() {
    let Some(mut b) = bundle("preserve") else { return };
    b.args(&["true"]);
    let output = b.call(&["run", "--preserve-fds", "200", &b.id]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("unable to stat preserved-fd"));
}

#[test]
fn the_process_comes_as_a_descriptor() {
    let Some(mut b) = bundle("pidfd") else { return };
    b.args(&["sleep", "100"]);
    let path = b.path().join("pidfd.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    b.ok(&["create", "--pidfd-socket", "pidfd.sock", &b.id]);
    let (socket, _) = listener.accept().unwrap();
    let pidfd = support::receive_fd(&socket);
    rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap();
    b.wait_status("stopped");
}

#[test]
fn a_spec_for_users_without_privileges() {
    let Some(b) = bundle("rootless-spec") else { return };
    std::fs::remove_file(b.path().join("config.json")).unwrap_or_default();
    let out = b.path().join("rootless");
    std::fs::create_dir(&out).unwrap();
    b.ok(&["spec", "--rootless", "-b", "rootless"]);
    let spec = json(&std::fs::read_to_string(out.join("config.json")).unwrap());
    let kinds: Vec<_> =
        spec["linux"]["namespaces"].as_array().unwrap().iter().map(|n| n["type"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"user") && !kinds.contains(&"network"), "{kinds:?}");
    assert_eq!(spec["linux"]["uidMappings"][0]["size"], 1);
}

#[test]
fn start_tells_of_a_program_that_cannot_be_executed() {
    let Some(mut b) = bundle("start-fails") else { return };
    let program = b.rootfs().join("bin/program");
    // A header of this machine's programs with nothing behind it: only execve sees that.
    let mut header = [0u8; 64];
    header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    (header[16], header[18], header[20]) = (2, if cfg!(target_arch = "aarch64") { 183 } else { 62 }, 1);
    std::fs::write(&program, header).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    b.args(&["/bin/program"]);
    let start = |b: &Bundle, want: &str| {
        b.ok(&["create", &b.id]);
        let output = b.call(&["start", &b.id]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(want), "{text}");
        b.wait_status("stopped");
        b.ok(&["delete", &b.id]);
    };
    start(&b, "exec /bin/program: exec format error");
    // The same without the launcher, and what comes before the program.
    std::fs::write(b.rootfs().join("bin/hook"), "no program either\n").unwrap();
    b.spec["hooks"] = serde_json::json!({"startContainer": [{"path": "/bin/true"}]});
    start(&b, "exec /bin/program: exec format error");
    b.spec["hooks"] = serde_json::json!({"startContainer": [{"path": "/bin/hook"}]});
    start(&b, "error running startContainer hook #0: /bin/hook");
    // One that dies before it was let go.
    b.spec["hooks"] = serde_json::json!({});
    b.args(&["true"]);
    b.ok(&["create", &b.id]);
    b.ok(&["kill", &b.id, "KILL"]);
    b.wait_status("stopped");
    let output = b.call(&["start", &b.id]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot start a container that has stopped"));
}

/// From a pipe a document comes in pieces, and one that ends in a brace need not be the last.
#[test]
fn a_document_from_a_pipe() {
    let Some(mut b) = bundle("pipe") else { return };
    b.args(&["echo", "read"]);
    let text = b.spec.to_string();
    let at = text[..text.len() / 2].rfind('}').unwrap() + 1;
    let mut command = b.command(&["run", "--config", "/dev/stdin", &b.id]);
    std::fs::remove_file(b.path().join("config.json")).unwrap();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut pipe, &text.as_bytes()[..at]).unwrap();
    // The first piece is taken before the second comes.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while rustix::io::ioctl_fionread(&pipe).unwrap() > 0 {
        assert!(std::time::Instant::now() < until, "nobody reads");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    std::io::Write::write_all(&mut pipe, &text.as_bytes()[at..]).unwrap();
    drop(pipe);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"read\n"[..]));
}
