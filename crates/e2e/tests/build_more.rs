//! `build`: named contexts, devices, checks that need more than the file, what is shown as cached, a full disk.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use rustix::mount::{MountFlags, UnmountFlags};
use std::path::Path;
use testkit::daemon::{Daemon, Finished, Options};
use testkit::images;

fn start(options: Options) -> Option<Daemon> {
    if !testkit::is_root() {
        return None;
    }
    let daemon = Daemon::start(options);
    daemon.load_busybox(BUSYBOX);
    Some(daemon)
}

fn write(dir: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content.replace("BASE", BUSYBOX)).unwrap();
    }
}

fn build(daemon: &Daemon, dir: &Path, flags: &[&str]) -> Finished {
    daemon.brig(&[&["build", "-t", "app", "--progress=plain"], flags, &[dir.to_str().unwrap()]].concat())
}

fn run(daemon: &Daemon, script: &str) -> String {
    daemon.brig(&["run", "--rm", "app", "/bin/busybox", "sh", "-c", script]).success()
}

#[test]
fn named_contexts_are_directories_too() {
    let Some(daemon) = start(Options::default()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other");
    write(
        dir.path(),
        &[
            (
                "main/Dockerfile",
                "FROM BASE AS tools\nFROM root\nCOPY --from=tools /bin/busybox /bin/busybox\nCOPY --from=other . /w\nRUN --mount=from=other,target=/m [\"/bin/busybox\", \"cp\", \"/m/o\", \"/n\"]\n",
            ),
            ("other/o", "1"),
            ("other/left.out", "x"),
            ("other/.dockerignore", "*.out\n"),
            ("root/etc/r", "r"),
        ],
    );
    let main = dir.path().join("main");
    let (root, named) =
        (format!("root={}", dir.path().join("root").display()), format!("Other={}", other.display()));
    let flags = ["--build-context", &root, "--build-context", &named];
    build(&daemon, &main, &flags).success();
    assert_eq!(run(&daemon, "cd /w; /bin/busybox ls; /bin/busybox cat o /n /etc/r"), "o\n11r");
    // Cached by what is in them.
    let again = build(&daemon, &main, &flags);
    assert!(again.stderr.matches("CACHED").count() >= 3, "{again:?}");
    write(&other, &[("left.out", "y")]);
    assert_eq!(
        build(&daemon, &main, &flags).stderr.matches("CACHED").count(),
        again.stderr.matches("CACHED").count()
    );
    write(&other, &[("o", "2")]);
    build(&daemon, &main, &flags).success();
    assert_eq!(run(&daemon, "/bin/busybox cat /w/o /n"), "22");
    for (value, want) in
        [("x=/nonexistent", "No such file"), ("x=oci-layout:///x", "index.json"), ("x", "expected key=value")]
    {
        let failed = build(&daemon, &main, &["--build-context", value]);
        assert!(failed.code != Some(0) && failed.stderr.contains(want), "{value}: {failed:?}");
    }
    daemon.assert_no_leaks();
}

#[test]
fn steps_get_devices_that_the_client_allows() {
    if !testkit::is_root() {
        return;
    }
    let specs = tempfile::tempdir().unwrap();
    write(
        specs.path(),
        &[
            ("hello", "from the host\n"),
            (
                "x.json",
                &format!(
                    r#"{{"cdiVersion": "0.6.0", "kind": "example.com/thing", "devices": [{{"name": "one", "containerEdits": {{
            "env": ["THING=one"], "deviceNodes": [{{"path": "/dev/thing", "hostPath": "/dev/null"}}],
            "mounts": [{{"hostPath": "{}/hello", "containerPath": "/opt/hello", "options": ["ro", "bind"]}}]}}}}]}}"#,
                    specs.path().display()
                ),
            ),
        ],
    );
    let flags = vec![format!("--cdi-spec-dir={}", specs.path().display())];
    let Some(daemon) = start(Options { flags, ..Options::default() }) else { return };
    let dir = tempfile::tempdir().unwrap();
    let wants = "FROM BASE\nRUN --device=example.com/thing=one test -c /dev/thing && cat /opt/hello > /f && echo $THING >> /f\n";
    write(dir.path(), &[("Dockerfile", wants)]);
    let failed = build(&daemon, dir.path(), &[]);
    assert!(failed.code != Some(0) && failed.stderr.contains("--allow device"), "{failed:?}");
    let other = build(&daemon, dir.path(), &["--allow", "device=example.com/thing=two"]);
    assert!(other.code != Some(0) && other.stderr.contains("is not allowed"), "{other:?}");
    for allow in ["device", "device=example.com/thing=one"] {
        build(&daemon, dir.path(), &["--no-cache", "--allow", allow]).success();
        assert_eq!(
            run(&daemon, "cat /f; ls /opt 2>&1 | grep -c such; ls /dev/thing 2>&1 | grep -c such"),
            "from the host\none\n1\n1"
        );
    }
    write(
        dir.path(),
        &[("Dockerfile", "FROM BASE\nRUN --device=name=example.com/thing=none echo ${THING-no} > /f\n")],
    );
    build(&daemon, dir.path(), &["--allow", "device"]).success();
    assert_eq!(run(&daemon, "cat /f"), "no");
    write(dir.path(), &[("Dockerfile", "FROM BASE\nRUN --device=example.com/thing=none,required true\n")]);
    let failed = build(&daemon, dir.path(), &["--allow", "device"]);
    assert!(failed.code != Some(0) && failed.stderr.contains("unresolvable CDI devices"), "{failed:?}");
    daemon.assert_no_leaks();
}

#[test]
fn checks_know_the_context_and_the_base() {
    let Some(daemon) = start(Options::default()) else { return };
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[
            ("Dockerfile", "FROM BASE\nCOPY ./gone kept /w/\nADD sub/x.log /x\nCOPY --from=0 gone /y\n"),
            (".dockerignore", "gone\n**/*.log\n"),
            ("gone", ""),
            ("kept", ""),
        ],
    );
    let checked = build(&daemon, dir.path(), &["--check"]);
    let out = format!("{}{}", checked.stdout, checked.stderr);
    assert_ne!(checked.code, Some(0), "{out}");
    assert_eq!(out.matches("CopyIgnoredFile").count(), 2, "{out}");
    assert!(out.contains("Attempting to Copy file \"./gone\" that is excluded by .dockerignore"), "{out}");
    assert!(out.contains("Attempting to Add file \"sub/x.log\" that is excluded"), "{out}");
    let skipped = "# check=skip=CopyIgnoredFile\nFROM BASE\nCOPY kept /w/\nCOPY gone /w/\n";
    write(dir.path(), &[("Dockerfile", skipped)]);
    build(&daemon, dir.path(), &["--check"]).success();
    // A registry that has the image for one platform only.
    let registry = testkit::registry::Registry::start();
    images::push_busybox(&registry, "one", "1");
    let other = if oci::Platform::host().architecture == "arm64" { "linux/amd64" } else { "linux/arm64" };
    let text = format!("ARG P={other}\nFROM --platform=$P {}\nENV a=1\n", registry.reference("one", "1"));
    write(dir.path(), &[("Dockerfile", &text)]);
    let built = build(&daemon, dir.path(), &[]);
    assert!(built.code == Some(0) && built.stderr.contains("InvalidBaseImagePlatform"), "{built:?}");
    daemon.assert_no_leaks();
}

#[test]
fn steps_without_files_are_cached_too() {
    let Some(daemon) = start(Options::default()) else { return };
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[("Dockerfile", "FROM BASE\nARG v=1\nENV a=$v\nRUN echo $a > /f\nUSER 5\nCMD [\"x\"]\n")],
    );
    let first = build(&daemon, dir.path(), &[]);
    assert!(first.code == Some(0) && !first.stderr.contains("CACHED"), "{first:?}");
    let again = build(&daemon, dir.path(), &[]);
    assert_eq!(again.stderr.matches("CACHED").count(), 5, "{again:?}");
    let mut classic = daemon.docker_command(&["build", dir.path().to_str().unwrap()]);
    classic.env("DOCKER_BUILDKIT", "0");
    let classic = testkit::daemon::finish(classic, &[]).success();
    assert_eq!(classic.matches(" ---> Using cache").count(), 5, "{classic}");
    // From the step on whose value has changed.
    let other = build(&daemon, dir.path(), &["--build-arg", "v=2"]);
    assert!(other.code == Some(0) && !other.stderr.contains("CACHED"), "{other:?}");
    assert!(!build(&daemon, dir.path(), &["--no-cache"]).stderr.contains("CACHED"));
    daemon.brig(&["builder", "prune", "-af"]).success();
    assert!(!build(&daemon, dir.path(), &[]).stderr.contains("CACHED"));
    daemon.assert_no_leaks();
}

/// A small file system; gone when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(&self, size: &str) {
        let options = std::ffi::CString::new(format!("size={size},mode=700")).unwrap();
        let flags = MountFlags::empty();
        rustix::mount::mount("tmpfs", self.0.path(), "tmpfs", flags, Some(options.as_c_str())).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ignored = rustix::mount::unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_is_named_and_a_later_build_goes_on() {
    if !testkit::is_root() {
        return;
    }
    let disk = SmallDisk(tempfile::Builder::new().prefix("brig-test-disk-").tempdir().unwrap());
    disk.mount("48m");
    let options = Options { data_root: Some(disk.0.path().join("data")), ..Options::default() };
    let Some(daemon) = start(options) else { return };
    let free = || {
        let stat = rustix::fs::statvfs(disk.0.path()).unwrap();
        stat.f_bavail * stat.f_frsize
    };
    let at_first = free();
    // Nobody waits for trees to be deleted, but they are.
    let recovered =
        || testkit::wait_until("what a failed build took is given back", || free() > at_first / 2);
    let dir = tempfile::tempdir().unwrap();
    let id = "cat /proc/sys/kernel/random/uuid > /id";
    let fill = |size: u32| format!("FROM BASE\nRUN {id}\nRUN dd if=/dev/zero of=/big bs=1M count={size}\n");
    write(dir.path(), &[("Dockerfile", &fill(100))]);
    let failed = build(&daemon, dir.path(), &[]);
    assert!(failed.code != Some(0) && failed.stderr.contains("No space left on device"), "{failed:?}");
    daemon.assert_no_leaks();
    recovered();
    // The step fits, since its layer is kept once; an archive of that does not.
    let layer = format!("FROM BASE\nRUN {id}\nRUN head -c 30000000 /dev/urandom > /big\n");
    write(dir.path(), &[("Dockerfile", &layer)]);
    build(&daemon, dir.path(), &[]).success();
    let before = free();
    let save = || daemon.request("GET", "/images/get?names=app", &serde_json::Value::Null);
    let failed = save();
    assert!(failed.status >= 400 && failed.text().contains("No space left on device"), "{}", failed.text());
    testkit::wait_until("what a failed archive took is given back", || free() + (1 << 20) > before);
    daemon.assert_no_leaks();
    // A context that does not fit.
    std::fs::write(dir.path().join("large"), vec![7; 60 << 20]).unwrap();
    write(dir.path(), &[("Dockerfile", "FROM BASE\nCOPY large /l\n")]);
    let failed = build(&daemon, dir.path(), &[]);
    assert!(failed.code != Some(0) && failed.stderr.contains("No space left on device"), "{failed:?}");
    std::fs::remove_file(dir.path().join("large")).unwrap();
    daemon.assert_no_leaks();
    // With room it goes on with what it had finished.
    let options = std::ffi::CString::new("size=400m").unwrap();
    rustix::mount::mount_remount(disk.0.path(), MountFlags::empty(), options.as_c_str()).unwrap();
    write(dir.path(), &[("Dockerfile", &layer)]);
    let finished = build(&daemon, dir.path(), &[]);
    finished.success();
    assert!(finished.stderr.contains("CACHED"), "{finished:?}");
    assert_eq!(save().status, 200);
    daemon.brig(&["rmi", "app"]).success();
    daemon.brig(&["builder", "prune", "-af"]).success();
    daemon.assert_no_leaks();
}
