//! Faults that other builders had, each with the number of its report. `docs/security.md` has the list.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::{BUSYBOX, own};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use testkit::daemon::{Daemon, Finished, Running};

fn context(dockerfile: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files.iter().chain(&[("Dockerfile", dockerfile)]) {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text.replace("BASE", BUSYBOX)).unwrap();
    }
    dir
}

fn build(daemon: &Daemon, dockerfile: &str, files: &[(&str, &str)]) -> Finished {
    let dir = context(dockerfile, files);
    daemon.brig(&["build", "-t", "app", "--progress=plain", dir.path().to_str().unwrap()])
}

fn run(daemon: &Daemon, script: &str) -> String {
    daemon.brig(&["run", "--rm", "app", "sh", "-c", script]).success()
}

/// A directory of the host's that nothing in a build may see, change or remove: a file, and an empty directory.
fn canary(daemon: &Daemon) -> PathBuf {
    let dir = daemon.scratch().join("canary");
    std::fs::create_dir_all(dir.join("empty")).unwrap();
    std::fs::write(dir.join("file"), "canary").unwrap();
    dir
}

fn is_whole(canary: &Path) -> bool {
    let names = std::fs::read_dir(canary).unwrap().count();
    let file = std::fs::read_to_string(canary.join("file")).unwrap();
    names == 2 && file == "canary" && std::fs::read_dir(canary.join("empty")).unwrap().count() == 0
}

#[test]
fn cve_2024_23652_cleaning_up_mount_points_stays_inside() {
    let Some(daemon) = own() else { return };
    let canary = canary(&daemon);
    // The step puts a link where the directory of its mount point was: what is removed behind it is found through that.
    let script = format!("umount /x/empty 2>/dev/null; mv /x /y; ln -s {} /x", canary.display());
    let built = build(&daemon, &format!("FROM BASE\nRUN --mount=type=tmpfs,target=/x/empty {script}\n"), &[]);
    built.success();
    assert!(is_whole(&canary));
    let script = format!("rm -rf /etc/hosts; ln -sfn {} /run; true", canary.display());
    build(&daemon, &format!("FROM BASE\nRUN --mount=type=secret,id=empty {script}\n"), &[]).success();
    assert!(is_whole(&canary));
    daemon.assert_no_leaks();
}

#[test]
fn cve_2024_23651_a_cache_mount_has_no_path_of_another_step() {
    let Some(daemon) = own() else { return };
    let line = "RUN --mount=type=cache,id=one,source=sub,target=/c true\n";
    let built = build(&daemon, &format!("FROM BASE\n{line}"), &[]);
    assert!(
        built.code != Some(0) && built.stderr.contains("source of a cache mount needs from"),
        "{built:?}"
    );
}

#[test]
fn cve_2024_1753_a_root_that_is_a_link_is_not_the_hosts() {
    let Some(daemon) = own() else { return };
    let name = format!("brig-test-{}-of-cve-2024-1753", std::process::id());
    let text = format!(
        "FROM BASE AS s\nRUN ln -s / /up && ln -s ../../../.. /far && ln -s /proc/1/root /init\nFROM BASE\n\
         RUN --mount=type=bind,from=s,source=/up,target=/m,rw touch /m/{name} && test -L /m/up\n\
         RUN --mount=type=bind,from=s,source=/far,target=/m,rw touch /m/{name} && test -L /m/up\n"
    );
    build(&daemon, &text, &[]).success();
    let outside = Path::new("/").join(&name);
    assert!(!outside.exists(), "the host's root was mounted");
    // /proc of a layer is an empty directory.
    let text = "FROM BASE AS s\nRUN ln -s /proc/1/root /init\nFROM BASE\nRUN --mount=from=s,source=/init,target=/m true\n";
    let built = build(&daemon, text, &[]);
    assert!(built.code != Some(0) && built.stderr.contains("/init"), "{built:?}");
    daemon.assert_no_leaks();
}

#[test]
fn cve_2024_9407_propagation_is_refused() {
    let Some(daemon) = own() else { return };
    for value in ["shared", "rshared", "private"] {
        let line = format!("RUN --mount=type=bind,source=d,target=/m,bind-propagation={value} true\n");
        let built = build(&daemon, &format!("FROM BASE\n{line}"), &[("d/f", "")]);
        assert!(
            built.code != Some(0) && built.stderr.contains("unexpected key 'bind-propagation'"),
            "{built:?}"
        );
    }
}

#[test]
fn cve_2024_9675_the_id_of_a_cache_mount_is_no_path() {
    let Some(daemon) = own() else { return };
    let canary = canary(&daemon);
    for id in [canary.display().to_string(), format!("../../../../../../..{}", canary.display())] {
        let line = format!("RUN --mount=type=cache,id={id},target=/c test ! -e /c/file && touch /c/made\n");
        build(&daemon, &format!("FROM BASE\n{line}"), &[]).success();
    }
    assert!(is_whole(&canary));
    daemon.brig(&["builder", "prune", "-af"]).success();
    assert!(is_whole(&canary));
    daemon.assert_no_leaks();
}

/// One build changes a directory that both have, while the other mounts on it.
#[test]
fn cve_2024_11218_a_mount_point_that_changes_meanwhile_leads_nowhere() {
    let Some(daemon) = own() else { return };
    let canary = canary(&daemon);
    let swap = format!(
        "FROM BASE\nRUN --mount=type=cache,id=raced,target=/c while test ! -e /c/stop; do ln -s {} /c/d; rm -f /c/d; mkdir /c/d; rmdir /c/d; done 2>/dev/null; true\n",
        canary.display()
    );
    let dir = context(&swap, &[]);
    let swapping = Running::start(daemon.brig_command(&["build", dir.path().to_str().unwrap()]));
    let line = "RUN --mount=type=cache,id=raced,target=/c --mount=type=bind,source=d,target=/c/d";
    for n in 0..5 {
        // It works or it does not, as the race has it.
        drop(build(&daemon, &format!("FROM BASE\n{line} echo {n}; touch /c/d/new\n"), &[("d/f", "")]));
        assert!(is_whole(&canary));
    }
    build(&daemon, "FROM BASE\nRUN --mount=type=cache,id=raced,target=/c touch /c/stop\n", &[]).success();
    swapping.finish().success();
    assert!(is_whole(&canary));
    daemon.assert_no_leaks();
}

#[test]
fn cve_2024_24557_keys_have_the_base_in_them() {
    let Some(daemon) = own() else { return };
    let step = "COPY f /f\nWORKDIR /w\n";
    // An image of the same history on another base, and of the same name and size of file.
    build(&daemon, &format!("FROM BASE\nRUN echo evil > /evil\n{step}"), &[("f", "1")]).success();
    let built = build(&daemon, &format!("FROM BASE\n{step}"), &[("f", "1")]);
    built.success();
    assert!(!built.stderr.contains("CACHED"), "{built:?}");
    assert_eq!(run(&daemon, "ls /evil 2>&1 | grep -c such"), "1");
    build(&daemon, &format!("FROM scratch\n{step}"), &[("f", "1")]).success();
    let built = build(&daemon, &format!("FROM scratch\n{step}"), &[("f", "2")]);
    built.success();
    assert!(!built.stderr.contains("CACHED"), "{built:?}");
    // Platform and arguments count too.
    let other = if oci::Platform::host().architecture == "arm64" { "linux/amd64" } else { "linux/arm64" };
    let dir = context(&format!("FROM scratch\n{step}"), &[("f", "2")]);
    let args = ["build", "--progress=plain", "--platform", other, dir.path().to_str().unwrap()];
    let built = daemon.brig(&args);
    built.success();
    assert!(!built.stderr.contains("CACHED"), "{built:?}");
}

#[test]
fn cve_2022_4122_files_of_the_build_itself_are_read_inside() {
    let Some(daemon) = own() else { return };
    let canary = canary(&daemon);
    let link = |name: &str, to: &Path| {
        let mut header = vec![0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(b"0000777");
        header[156] = b'2';
        let to = to.to_str().unwrap().as_bytes();
        header[157..157 + to.len()].copy_from_slice(to);
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header
    };
    std::fs::write(canary.join("file"), "FROM scratch\nLABEL canary=read\n").unwrap();
    for name in ["Dockerfile", ".dockerignore", "Dockerfile.dockerignore"] {
        let tar = [link(name, &canary.join("file")), vec![0; 1024]].concat();
        let answer = testkit::raw::send(&daemon.socket, "POST", "/build", "application/x-tar", &tar).unwrap();
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(answer.status == 400 && !text.contains("canary"), "{name}: {text}");
    }
    daemon.assert_no_leaks();
}

#[test]
fn cve_2025_4953_work_in_progress_is_nobody_elses() {
    let Some(daemon) = own() else { return };
    let dir = context(
        "FROM BASE\nRUN --mount=type=bind,source=d,target=/m,rw sleep 1000\n",
        &[("d/secret", "s"), (".dockerignore", "x\n")],
    );
    let running = Running::start(daemon.brig_command(&["build", dir.path().to_str().unwrap()]));
    let of = |name: &str| {
        std::fs::read_dir(daemon.data_root.join(name)).into_iter().flatten().flatten().map(|e| e.path())
    };
    let scratches = || of("tmp").filter(|path| path.is_dir()).collect::<Vec<_>>();
    testkit::wait_until("a copy for the step", || !scratches().is_empty());
    for path in scratches() {
        // One that has gone meanwhile shows nothing.
        if let Ok(meta) = path.metadata() {
            assert_eq!(meta.permissions().mode() & 0o777, 0o700, "{}", path.display());
        }
    }
    for path in [&daemon.data_root, &daemon.exec_root] {
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o066, 0, "{}: {mode:o}", path.display());
    }
    let pid = i32::try_from(running.pid()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    drop(running.finish());
    testkit::wait_until("the end of its traces", || daemon.leaks().is_empty());
    testkit::wait_until("the end of its copies", || scratches().is_empty());
}

/// A daemon that is killed while any of the steps runs: nothing is left, and what was finished is used.
#[test]
fn a_daemon_killed_at_any_step_leaves_nothing() {
    let Some(mut daemon) = own() else { return };
    let steps = [
        "RUN echo 1 > /one",
        "COPY d /w/d",
        "WORKDIR /made/here",
        "RUN --mount=type=cache,id=k,target=/c --mount=type=bind,source=d,target=/m,rw touch /c/x /m/y && echo 2 > two",
        "COPY --link d /linked/",
        "RUN --network=none echo 3 > three",
    ];
    let files = [("d/f", "f"), (".dockerignore", "x\n")];
    for killed in 0..steps.len() {
        // The step at which it is killed waits for that; those before are as they will be.
        let mut text = "FROM BASE\n".to_string();
        steps[..killed].iter().for_each(|step| text += &format!("{step}\n"));
        text += "RUN --mount=type=tmpfs,target=/t --mount=type=bind,source=d,target=/m,rw sleep 1000\n";
        let dir = context(&text, &files);
        let path = dir.path().to_str().unwrap();
        let running = Running::start(daemon.brig_command(&["build", "--progress=plain", path]));
        let runtime = daemon.exec_root.join("runtime");
        let is_up = || {
            let entries = std::fs::read_dir(&runtime).into_iter().flatten().flatten();
            entries.filter(|e| e.file_name().len() == 64).count() > 0
        };
        testkit::wait_until("the step", || sleeps(&daemon) && is_up());
        daemon.kill9();
        drop(running.finish());
        daemon.spawn();
        testkit::wait_until("what was left is gone", || daemon.leaks().is_empty() && !is_up());
        assert_eq!(std::fs::read_dir(daemon.data_root.join("tmp")).unwrap().count(), 0);
    }
    let text = format!("FROM BASE\n{}\n", steps.join("\n"));
    let whole = build(&daemon, &text, &files);
    whole.success();
    // All but the last were made in the first or the later rounds; a row of the one before the kill may be missing.
    assert!(whole.stderr.matches("CACHED").count() >= steps.len() - 2, "{whole:?}");
    assert_eq!(run(&daemon, "cat /one /w/d/f /made/here/two /linked/f; cat /made/here/three"), "1\nf2\nf3");
    daemon.assert_no_leaks();
}

/// Whether a step's `sleep` runs.
fn sleeps(daemon: &Daemon) -> bool {
    let base = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(base).into_iter().flatten().flatten().map(|e| e.path());
    let parents = hierarchies.chain([base.to_path_buf()]).map(|h| h.join(&daemon.cgroup_parent));
    let cgroups = parents.flat_map(|p| std::fs::read_dir(p).into_iter().flatten().flatten());
    let pids = cgroups.filter_map(|c| std::fs::read_to_string(c.path().join("cgroup.procs")).ok());
    pids.flat_map(|text| text.lines().map(str::to_string).collect::<Vec<_>>()).any(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sleep")
    })
}
