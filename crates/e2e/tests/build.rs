//! `build`: the corpus by `brig` (and by the docker CLI when asked), the cache, faults, and what must not be left behind.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::builds::{CASES, MORE, judge};
use e2e::{BUSYBOX, own};
use serde_json::json;
use std::path::Path;
use testkit::daemon::{Daemon, Running};

fn context(dockerfile: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Dockerfile"), dockerfile.replace("BASE", BUSYBOX)).unwrap();
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

fn text(dir: &Path) -> &str {
    dir.to_str().unwrap()
}

/// Everything that the corpus says is so. `BRIG_CONFORM_BUILD` adds the docker CLI.
#[test]
fn the_corpus() {
    let Some(daemon) = own() else { return };
    let mut wrong = Vec::new();
    let is_set = |name: &str| std::env::var_os(name).is_some();
    let mut clients = vec!["brig"];
    clients.extend(is_set("BRIG_CONFORM_BUILD").then_some("docker"));
    clients.extend(is_set("BRIG_TEST_BUILDX").then_some("buildx"));
    let mut count = 0;
    for client in clients {
        for case in CASES.iter().chain(MORE).filter(|c| client == "brig" || c.own.is_empty()) {
            count += 1;
            if let Err(reason) = judge(&daemon, case, client) {
                wrong.push(format!("{client}: {}: {reason}", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count} cases:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(daemon.container_ids(), Vec::<String>::new());
    daemon.brig(&["builder", "prune", "-af"]).success();
    daemon.assert_no_leaks();
}

#[test]
fn the_classic_client_is_served() {
    let Some(daemon) = own() else { return };
    let dir = context(
        "FROM BASE AS one\nRUN echo out; echo err >&2\nFROM one\nCOPY f /f\nCMD [\"cat\", \"/f\"]\n",
        &[("f", "hi\n")],
    );
    let build = |flags: &[&str]| {
        let args = [&["build"], flags, &[text(dir.path())]].concat();
        let mut command = daemon.docker_command(&args);
        command.env("DOCKER_BUILDKIT", "0");
        testkit::daemon::finish(command, &[])
    };
    let iid = dir.path().join("../iid-of-classic-test");
    let first = build(&["-t", "app", "-t", "app:2", "--iidfile", text(&iid)]).success();
    let id = std::fs::read_to_string(&iid).unwrap();
    std::fs::remove_file(&iid).unwrap();
    for line in [
        "Step 1/5 : FROM busybox:latest AS one",
        "out\n",
        " ---> Running in ",
        "Step 5/5 : CMD [\"cat\", \"/f\"]",
    ] {
        assert!(first.contains(line), "{line:?} in {first}");
    }
    assert!(first.contains(&format!("Successfully built {}", &id[7..19])), "{first}");
    assert!(first.ends_with("Successfully tagged app:latest\nSuccessfully tagged app:2"), "{first}");
    assert_eq!(daemon.docker(&["run", "--rm", "app"]).success(), "hi");
    // Nothing changed: the same image, from the cache, also after the daemon was killed.
    let second = build(&["-t", "app"]).success();
    assert!(second.contains(" ---> Using cache") && !second.contains("Running in"), "{second}");
    assert_eq!(build(&["-q"]).success(), id);
    let mut daemon = daemon;
    daemon.kill9();
    daemon.spawn();
    let args = ["build", "-q", text(dir.path())];
    let mut command = daemon.docker_command(&args);
    command.env("DOCKER_BUILDKIT", "0");
    assert_eq!(testkit::daemon::finish(command, &[]).success(), id);
    // Without the cache it is made again.
    let args = ["build", "--no-cache", text(dir.path())];
    let mut command = daemon.docker_command(&args);
    command.env("DOCKER_BUILDKIT", "0");
    assert!(testkit::daemon::finish(command, &[]).success().contains("Running in"));
    let failing = context("FROM BASE\nRUN echo last words; exit 3\n", &[]);
    let args = ["build", text(failing.path())];
    let mut command = daemon.docker_command(&args);
    command.env("DOCKER_BUILDKIT", "0");
    let failed = testkit::daemon::finish(command, &[]);
    assert_eq!(failed.code, Some(3));
    assert!(failed.stdout.contains("last words"), "{failed:?}");
    assert!(
        failed
            .stderr
            .contains("The command '/bin/sh -c echo last words; exit 3' returned a non-zero code: 3"),
        "{failed:?}"
    );
    daemon.assert_no_leaks();
}

#[test]
fn keys_are_of_contents() {
    let Some(daemon) = own() else { return };
    let dir = context(
        "FROM BASE\nARG v=1\nCOPY f /f\nRUN cat /f > /g; cat /proc/sys/kernel/random/uuid > /id\n",
        &[("f", "1\n")],
    );
    let build = |flags: &[&str]| {
        daemon.brig(&[&["build", "-q", "-t", "k"], flags, &[text(dir.path())]].concat()).success()
    };
    let first = build(&[]);
    // Times of files do not count, their content and mode do.
    let file = std::fs::File::options().write(true).open(dir.path().join("f")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(build(&[]), first);
    std::fs::write(dir.path().join("f"), "2\n").unwrap();
    let second = build(&[]);
    assert_ne!(second, first);
    assert_eq!(daemon.brig(&["run", "--rm", "k", "cat", "/g"]).success(), "2");
    // Back again: it is remembered.
    std::fs::write(dir.path().join("f"), "1\n").unwrap();
    assert_eq!(build(&[]), first);
    // An argument that a command sees counts; the base too.
    assert_ne!(build(&["--build-arg", "v=2"]), first);
    let usage = daemon.get("/system/df");
    assert!(usage["BuildCache"].as_array().unwrap().len() >= 4, "{usage}");
    daemon.brig(&["rmi", "-f", "k"]).success();
    let pruned = daemon.brig(&["builder", "prune", "-af"]).success();
    assert!(pruned.contains("Total reclaimed space"), "{pruned}");
    assert_eq!(daemon.get("/system/df")["BuildCache"], json!([]));
    assert_ne!(build(&[]), first, "what was pruned is made again, with another id inside");
    daemon.assert_no_leaks();
}

#[test]
fn the_same_input_gives_the_same_image() {
    let (Some(one), Some(two)) = (own(), own()) else { return };
    let dir =
        context("FROM BASE\nWORKDIR /w\nCOPY f .\nRUN echo made > g && mkdir d\nENV a=b\n", &[("f", "1\n")]);
    let args = ["build", "-q", "--build-arg", "SOURCE_DATE_EPOCH=1700000000", text(dir.path())];
    let first = one.brig(&args).success();
    assert_eq!(two.brig(&args).success(), first);
    let image = one.get(&format!("/images/{first}/json"));
    assert_eq!(image["Created"], "2023-11-14T22:13:20Z");
    let shown = one.brig(&["run", "--rm", &first, "stat", "-c", "%Y", "/w/g", "/w/d", "/w"]).success();
    assert_eq!(shown, "1700000000\n1700000000\n1700000000");
}

#[test]
fn secrets_are_nowhere_afterwards() {
    let Some(daemon) = own() else { return };
    let secret = "bb7c2f-the-secret-of-this-test";
    let dir = context(
        "FROM BASE\nRUN --mount=type=secret,id=s --mount=type=secret,id=s,env=S,target=/s sha256sum /s /run/secrets/s && test -n \"$S\"\nRUN --mount=type=secret,id=s exit 5\n",
        &[],
    );
    let file = dir.path().join("../secret-of-build-test");
    std::fs::write(&file, secret).unwrap();
    let flag = format!("id=s,src={}", text(&file));
    daemon.brig(&["build", "--secret", &flag, text(dir.path())]).expect(5);
    std::fs::remove_file(&file).unwrap();
    let found = std::process::Command::new("grep")
        .args(["-rlaF", secret])
        .args([&daemon.data_root, &daemon.exec_root])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    assert!(!daemon.log().contains(secret));
    daemon.assert_no_leaks();
}

#[test]
fn a_client_that_goes_ends_its_build() {
    let Some(daemon) = own() else { return };
    let dir = context("FROM BASE\nRUN echo begun; sleep 1000\n", &[]);
    let running = Running::start(daemon.brig_command(&["build", "--progress", "plain", text(dir.path())]));
    testkit::wait_until("the step", || !runtime_states(&daemon).is_empty());
    let pid = i32::try_from(running.pid()).unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    drop(running.finish());
    testkit::wait_until("the end of the step", || runtime_states(&daemon).is_empty());
    testkit::wait_until("the end of its traces", || daemon.leaks().is_empty());
    // And another build goes on as if nothing had been.
    let dir = context("FROM BASE\nRUN true\n", &[]);
    daemon.brig(&["build", text(dir.path())]).success();
    daemon.assert_no_leaks();
}

#[test]
fn a_killed_daemon_has_kept_what_was_finished() {
    let Some(mut daemon) = own() else { return };
    let dir = context(
        "FROM BASE\nRUN cat /proc/sys/kernel/random/uuid > /id\nRUN test -e /id && sleep ${s:-1000}\n",
        &[],
    );
    let running = Running::start(daemon.brig_command(&["build", "--progress", "plain", text(dir.path())]));
    // The first step is remembered, the second runs.
    testkit::wait_until("the first step", || cached(&daemon) == 1 && !runtime_states(&daemon).is_empty());
    testkit::wait_until("the second step", || sleeps(&daemon));
    daemon.kill9();
    drop(running.finish());
    daemon.spawn();
    assert!(runtime_states(&daemon).is_empty());
    let dockerfile =
        format!("FROM {BUSYBOX}\nRUN cat /proc/sys/kernel/random/uuid > /id\nRUN test -e /id && true\n");
    std::fs::write(dir.path().join("Dockerfile"), dockerfile).unwrap();
    let again = daemon.brig(&["build", "--progress", "plain", text(dir.path())]);
    again.success();
    assert!(again.stderr.contains("#2 CACHED"), "{again:?}");
    daemon.assert_no_leaks();
}

fn cached(daemon: &Daemon) -> usize {
    daemon.get("/system/df")["BuildCache"].as_array().map_or(0, Vec::len)
}

fn sleeps(daemon: &Daemon) -> bool {
    runtime_states(daemon).iter().any(|id| {
        let cgroup = format!("{}/{id}", daemon.cgroup_parent);
        testkit_processes(&cgroup)
    })
}

/// Whether a process of the cgroup is `sleep`.
fn testkit_processes(cgroup: &str) -> bool {
    let base = Path::new("/sys/fs/cgroup");
    let hierarchies =
        std::fs::read_dir(base).unwrap().flatten().map(|e| e.path()).chain([base.to_path_buf()]);
    hierarchies
        .map(|h| h.join(cgroup).join("cgroup.procs"))
        .filter_map(|p| std::fs::read_to_string(p).ok())
        .any(|pids| {
            pids.lines().any(|pid| {
                std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == "sleep")
            })
        })
}

fn runtime_states(daemon: &Daemon) -> Vec<String> {
    let entries = std::fs::read_dir(daemon.exec_root.join("runtime")).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).filter(|n| n.len() == 64).collect()
}

/// Serves one file to whoever asks for `/file`, on a port of its own.
fn serve(content: Vec<u8>) -> String {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                head.push(byte[0]);
            }
            let (status, body) = if head.starts_with(b"GET /file") {
                ("200 OK", &content[..])
            } else {
                ("404 Not Found", &b"no"[..])
            };
            let date = "Tue, 14 Nov 2023 22:13:20 GMT";
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nLast-Modified: {date}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)));
        }
    });
    format!("http://127.0.0.1:{port}")
}

#[test]
fn files_come_from_urls() {
    let Some(daemon) = own() else { return };
    let url = serve(b"from afar\n".to_vec());
    let digest = oci::Digest::of(b"from afar\n");
    let build = |line: &str| {
        let dir = context(&format!("FROM BASE\n{line}\n"), &[]);
        daemon.brig(&["build", "-t", "far", text(dir.path())])
    };
    build(&format!("ADD --checksum={digest} {url}/file.txt?x=1 /w/")).success();
    let shown =
        daemon.brig(&["run", "--rm", "far", "sh", "-c", "cd /w; cat file.txt; stat -c '%a %u %Y' file.txt"]);
    assert_eq!(shown.success(), "from afar\n600 0 1700000000");
    build(&format!("ADD --chmod=644 {url}/file /f")).success();
    assert_eq!(daemon.brig(&["run", "--rm", "far", "stat", "-c", "%a", "/f"]).success(), "644");
    for (line, want) in [
        (format!("ADD --checksum=sha256:{} {url}/file /f", "0".repeat(64)), "digest mismatch"),
        (format!("ADD {url}/none /f"), "404"),
        (format!("ADD {url}/ /d/"), "cannot determine filename"),
    ] {
        let failed = build(&line);
        assert!(failed.code != Some(0) && failed.stderr.contains(want), "{line}: {failed:?}");
    }
    // A Dockerfile as context.
    let url = serve(format!("FROM {BUSYBOX}\nRUN echo remote > /r\n").into_bytes());
    daemon.brig(&["build", "-t", "far", &format!("{url}/file")]).success();
    assert_eq!(daemon.brig(&["run", "--rm", "far", "cat", "/r"]).success(), "remote");
    daemon.assert_no_leaks();
}

#[test]
fn hostile_contexts_are_refused_or_harmless() {
    let Some(daemon) = own() else { return };
    let canary = daemon.scratch().join("canary");
    std::fs::write(&canary, "canary").unwrap();
    let dockerfile = format!("FROM {BUSYBOX}\nCOPY . /w\nCOPY link /l\n");
    let dir = context(&dockerfile, &[]);
    // A link out of the context leads to the context's own root, where nothing is.
    std::os::unix::fs::symlink(&canary, dir.path().join("link")).unwrap();
    let failed = daemon.brig(&["build", text(dir.path())]);
    assert_ne!(failed.code, Some(0));
    assert!(failed.stderr.contains("file does not exist"), "{failed:?}");
    // The Dockerfile itself as such a link.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(canary.with_extension("d"), format!("FROM {BUSYBOX}\nRUN echo canary")).unwrap();
    std::os::unix::fs::symlink(canary.with_extension("d"), dir.path().join("Dockerfile")).unwrap();
    let mut command = daemon.docker_command(&["build", text(dir.path())]);
    command.env("DOCKER_BUILDKIT", "0");
    let failed = testkit::daemon::finish(command, &[]);
    assert_ne!(failed.code, Some(0), "{failed:?}");
    // What is no archive, and one that is cut.
    let send = |bytes: &[u8]| send_tar(&daemon, "/build", bytes);
    for bytes in [&b"no tar at all"[..], &[0x1f, 0x8b, 8, 0, 0], &[7; 2000]] {
        let answer = send(bytes);
        assert_eq!(answer.status, 400, "{answer:?}");
    }
    let empty = send(&[0; 1024]);
    assert_eq!(empty.status, 400);
    assert_eq!(empty.json()["message"], "Cannot locate specified Dockerfile: Dockerfile");
    for (query, status) in [("squash=1", 501), ("version=3", 400), ("remote=client-session", 400)] {
        let path = format!("/build?{query}");
        let answer = send_tar(&daemon, &path, &[0; 1024]);
        assert_eq!(answer.status, status, "{query}");
    }
    daemon.assert_no_leaks();
}

fn send_tar(daemon: &Daemon, path: &str, bytes: &[u8]) -> testkit::raw::Response {
    testkit::raw::send(&daemon.socket, "POST", path, "application/x-tar", bytes).unwrap()
}
