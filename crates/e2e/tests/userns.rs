//! Containers in user namespaces, `--userns-remap`: who root is outside, what it may do, whose its files are wherever one looks
//! at them, and that mappings come and go without a trace in the store.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::BUSYBOX;
use e2e::random::Random;
use serde_json::json;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use testkit::daemon::{Daemon, Options};
use testkit::wait_until;

const BASE: u32 = 700_000;
const OTHER: u32 = 900_000;

/// Files of users in place of the machine's.
fn ids_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("passwd", "root:x:0:0::/:/bin/sh\nother:x:5000:5000::/:/bin/sh\nnone:x:5001:5001::/:/bin/sh\n");
    write("group", "root:x:0:\nother:x:5000:\n");
    let ranges = format!("dockremap:{BASE}:65536\nother:{OTHER}:65536\n");
    write("subuid", &ranges);
    write("subgid", &ranges);
    dir
}

fn flags(dir: &Path, user: &str, more: &[&str]) -> Vec<String> {
    let own = ["--subid-dir", dir.to_str().unwrap(), "--userns-remap", user];
    own.iter().chain(more).map(ToString::to_string).collect()
}

struct Bench {
    daemon: Daemon,
    ids: tempfile::TempDir,
}

fn bench(more: &[&str]) -> Option<Bench> {
    if !testkit::is_root() {
        return None;
    }
    let ids = ids_dir();
    let daemon = Daemon::start(Options { flags: flags(ids.path(), "default", more), ..Options::default() });
    daemon.load_busybox(BUSYBOX);
    Some(Bench { daemon, ids })
}

impl Bench {
    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        self.daemon.docker(args).success().trim_end().to_string()
    }

    #[track_caller]
    fn sh(&self, options: &[&str], script: &str) -> String {
        let mut args = vec!["run", "--rm"];
        args.extend(options);
        args.extend([BUSYBOX, "sh", "-c", script]);
        self.ok(&args)
    }

    #[track_caller]
    fn refused(&self, args: &[&str], why: &str) {
        let done = self.daemon.docker(args);
        assert_ne!(done.code, Some(0), "{args:?} succeeded: {}", done.stdout);
        assert!(done.stderr.contains(why), "{args:?}: {}", done.stderr);
    }

    fn volume(&self, name: &str) -> PathBuf {
        self.daemon.data_root.join("volumes").join(name).join("_data")
    }

    fn pid(&self, name: &str) -> i64 {
        self.daemon.state(name)["Pid"].as_i64().unwrap()
    }
}

fn owner(path: &Path) -> (u32, u32) {
    let found = std::fs::symlink_metadata(path).unwrap();
    (found.uid(), found.gid())
}

/// The words of a text, one space between them.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn root_inside_is_nobody_outside() {
    let Some(b) = bench(&[]) else { return };
    let info = b.ok(&["info", "--format", "{{.SecurityOptions}}"]);
    assert!(info.contains("name=userns"), "{info}");
    let script = "id -u; cat /proc/self/uid_map /proc/self/gid_map; stat -c '%u:%g' / /etc/hosts /dev/shm /bin/busybox";
    let want = format!("0 0 {BASE} 65536 0 {BASE} 65536 0:0 0:0 0:0 0:0");
    assert_eq!(words(&b.sh(&[], script)), want);
    // Both clients, each container a namespace of its own.
    b.ok(&["run", "-d", "--name", "one", BUSYBOX, "sleep", "1000"]);
    b.daemon.brig(&["run", "-d", "--name", "two", BUSYBOX, "sleep", "1000"]).success();
    let link = |name: &str| std::fs::read_link(format!("/proc/{}/ns/user", b.pid(name))).unwrap();
    assert_ne!(link("one"), link("two"));
    assert_eq!(owner(Path::new(&format!("/proc/{}", b.pid("one")))), (BASE, BASE));
    // The network belongs to it: settings, ping, addresses, a socket that takes privilege.
    let network = "cat /proc/sys/net/ipv4/ping_group_range; ping -c1 -W5 127.0.0.1 >/dev/null && echo pings; \
                   ip link set lo down && ip link set lo up && echo admin; cat /proc/sys/net/ipv4/ip_forward";
    let got = b.sh(&["--cap-add", "NET_ADMIN", "--sysctl", "net.ipv4.ip_forward=1"], network);
    assert_eq!(words(&got), "0 65535 pings admin 1");
    assert_eq!(b.sh(&["--network", "none"], "ping -c1 -W5 127.0.0.1 >/dev/null && echo pings"), "pings");
    // With the host's, by name.
    assert_eq!(words(&b.sh(&["--userns", "host"], "cat /proc/self/uid_map")), "0 0 4294967295");
    assert_eq!(
        b.sh(&["--userns", "host", "--privileged", "--network", "host", "--pid", "host"], "id -u"),
        "0"
    );
    b.ok(&["rm", "-f", "one", "two"]);
    b.daemon.assert_no_leaks();
}

#[test]
fn what_it_excludes_is_refused_by_name() {
    let Some(b) = bench(&[]) else { return };
    b.refused(
        &["create", "--privileged", BUSYBOX, "true"],
        "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when \
         running privileged mode",
    );
    b.refused(
        &["create", "--network", "host", BUSYBOX, "true"],
        "cannot share the host's network namespace when user namespaces are enabled",
    );
    b.refused(
        &["create", "--pid", "host", BUSYBOX, "true"],
        "cannot share the host PID namespace when user namespaces are enabled",
    );
    b.refused(&["run", "--rm", "-u", "70000", BUSYBOX, "true"], "user id 70000 is not mapped");
    b.refused(&["run", "--rm", "-u", "0:70000", BUSYBOX, "true"], "group id 70000 is not mapped");
    b.ok(&["run", "-d", "--name", "on-host", "--userns", "host", BUSYBOX, "sleep", "1000"]);
    b.refused(
        &["run", "--rm", "--network", "container:on-host", BUSYBOX, "true"],
        "cannot share the network namespace of container on-host, which runs in the host's user namespace",
    );
    b.ok(&["run", "-d", "--name", "mapped", BUSYBOX, "sleep", "1000"]);
    b.refused(&["exec", "-u", "70000", "mapped", "true"], "user id 70000 is not mapped");
    b.ok(&["run", "-d", "--name", "mapped2", "--ipc", "shareable", BUSYBOX, "sleep", "1000"]);
    b.refused(
        &["run", "--rm", "--network", "container:mapped", "--ipc", "container:mapped2", BUSYBOX, "true"],
        "run in different user namespaces",
    );
    b.ok(&["rm", "-f", "on-host", "mapped", "mapped2"]);
    b.daemon.assert_no_leaks();
}

#[test]
fn privilege_inside_is_none_outside() {
    let Some(b) = bench(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(dir.path().join("secret"), "x").unwrap();
    std::fs::set_permissions(dir.path().join("secret"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let bind = format!("{}:/host", dir.path().display());
    let all = ["--cap-add", "ALL", "--security-opt", "seccomp=unconfined", "-v", &bind];
    let tries = "
        stat -c %u /host/secret
        cat /host/secret && echo READ
        echo y > /host/secret && echo WROTE
        touch /host/new && echo MADE
        chown 0:0 /host/secret && echo OWNED
        chmod 777 /host && echo MODE
        mknod /tmp/disk b 254 0 && echo NODE
        mkdir /tmp/m; mount -t ext4 /dev/vda /tmp/m && echo MOUNTED
        mount -o remount,rw /proc/sys
        echo 1 > /proc/sys/kernel/sysrq && echo SYSCTL
        hostname inside && hostname
        true";
    let got = b.sh(&all, &format!("({tries}) 2>/dev/null"));
    assert_eq!(words(&got), "65534 inside", "{got}");
    assert_eq!(std::fs::read(dir.path().join("secret")).unwrap(), b"x");
    // Where others may write it does, as the id that it is outside.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(words(&b.sh(&all, "echo z > /host/new; stat -c '%u:%g' /host/new")), "0:0");
    assert_eq!(owner(&dir.path().join("new")), (BASE, BASE));
    // A program of root's that anybody may run as root is, in the store, root's: nobody else gets there.
    b.ok(&["run", "--name", "suid", BUSYBOX, "sh", "-c", "cp /bin/busybox /evil; chmod 4755 /evil"]);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode();
    let root = &b.daemon.data_root;
    let mut closed = Vec::new();
    for (dir, below) in [("snapshots", "evil"), ("volumes", ""), ("containers", "")] {
        closed.push((dir, mode(&root.join(dir)) & 0o7, below));
    }
    let outer = mode(root) & 0o7;
    assert_eq!(outer, 0, "the data root is open to others: {closed:?}");
    let evil = std::process::Command::new("find").arg(root).args(["-name", "evil"]).output().unwrap();
    let evil = String::from_utf8(evil.stdout).unwrap();
    assert!(!evil.trim().is_empty());
    for path in evil.lines() {
        assert_eq!(owner(Path::new(path)), (0, 0), "{path}");
        let tried = std::process::Command::new("setpriv")
            .args(["--reuid", "12345", "--regid", "12345", "--clear-groups", path, "id"])
            .output()
            .unwrap();
        assert!(!tried.status.success(), "{path} was run: {}", String::from_utf8_lossy(&tried.stdout));
    }
    b.ok(&["rm", "suid"]);
    b.daemon.assert_no_leaks();
}

#[test]
fn files_are_whose_they_are_wherever_one_looks() {
    let Some(b) = bench(&[]) else { return };
    let make =
        "adduser -D -u 1000 ann 2>/dev/null; mkdir /d; touch /d/of-root /d/of-ann; chown 1000:1000 /d/of-ann";
    b.ok(&[
        "run",
        "--name",
        "maker",
        "-v",
        "vol:/data",
        "-w",
        "/made/here",
        BUSYBOX,
        "sh",
        "-c",
        &format!("{make}; cp -a /d/. /data; pwd"),
    ]);
    // On disk as inside.
    assert_eq!(owner(&b.volume("vol").join("of-root")), (0, 0));
    assert_eq!(owner(&b.volume("vol").join("of-ann")), (1000, 1000));
    // cp, export, commit.
    let scratch = tempfile::tempdir().unwrap();
    let untar = |from: &str| -> String {
        let script = format!("{from} | tar -t -v --numeric-owner | awk '{{print $2, $NF}}'");
        let out = std::process::Command::new("sh").arg("-c").arg(&script).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let docker = format!("docker -H {}", b.daemon.host());
    for state in ["stopped", "running"] {
        if state == "running" {
            b.ok(&["run", "-d", "--name", "keeper", "--volumes-from", "maker", BUSYBOX, "sleep", "1000"]);
            b.ok(&["exec", "keeper", "sh", "-c", make]);
        }
        let name = if state == "running" { "keeper" } else { "maker" };
        for place in ["/d", "/data"] {
            let seen = untar(&format!("{docker} cp {name}:{place} -"));
            assert!(seen.contains("0/0 ") && seen.contains("1000/1000 "), "{state} {place}: {seen}");
            assert!(!seen.contains("700"), "{state} {place}: {seen}");
        }
        let seen = untar(&format!("{docker} export {name}"));
        assert!(seen.contains("0/0 d/of-root") && seen.contains("1000/1000 d/of-ann"), "{seen}");
        let file = scratch.path().join("own");
        std::fs::write(&file, "x").unwrap();
        std::os::unix::fs::chown(&file, Some(7), Some(8)).unwrap();
        b.ok(&["cp", "-a", file.to_str().unwrap(), &format!("{name}:/d/own")]);
        b.ok(&["cp", "-a", file.to_str().unwrap(), &format!("{name}:/data/own")]);
        assert_eq!(owner(&b.volume("vol").join("own")), (7, 8));
        std::os::unix::fs::chown(&file, Some(70_000), Some(8)).unwrap();
        b.refused(&["cp", "-a", file.to_str().unwrap(), &format!("{name}:/d/no")], "is not mapped");
        let seen = untar(&format!("{docker} cp {name}:/d/own -"));
        assert!(seen.contains("7/8 own"), "{seen}");
        let changed = b.ok(&["diff", name]);
        assert!(changed.contains("A /d/own"), "{changed}");
    }
    assert_eq!(b.ok(&["exec", "keeper", "stat", "-c", "%u:%g", "/d/own", "/data/own"]), "7:8\n7:8");
    b.ok(&["commit", "maker", "made:latest"]);
    for users in ["", "host"] {
        let seen = b.ok(&[
            "run",
            "--rm",
            "--userns",
            users,
            "made",
            "stat",
            "-c",
            "%u:%g",
            "/d/of-root",
            "/d/of-ann",
            "/d/own",
            "/made/here",
        ]);
        assert_eq!(words(&seen), "0:0 1000:1000 7:8 0:0");
        // The volume is the same for both; what an image has at its place comes into it as it is in the image.
        let seen =
            b.sh(&["--userns", users, "-v", "vol:/data"], "stat -c %u:%g /data/of-ann; touch /data/by-root");
        assert_eq!(seen, "1000:1000");
        assert_eq!(owner(&b.volume("vol").join("by-root")), (0, 0));
        std::fs::remove_file(b.volume("vol").join("by-root")).unwrap();
        let fresh = format!("fresh{users}");
        b.ok(&["run", "--rm", "--userns", users, "-v", &format!("{fresh}:/d"), "made", "true"]);
        assert_eq!(owner(&b.volume(&fresh).join("of-ann")), (1000, 1000));
        assert_eq!(owner(&b.volume(&fresh)), (0, 0));
    }
    // One that was looked at before it ever ran, with a place to mount on that its image lacks.
    let file = scratch.path().join("own");
    std::os::unix::fs::chown(&file, Some(0), Some(0)).unwrap();
    b.ok(&["create", "--name", "early", "-v", "vol:/not/there", BUSYBOX, "sleep", "1000"]);
    b.ok(&["cp", file.to_str().unwrap(), "early:/not/there/early"]);
    b.ok(&["start", "early"]);
    let seen = b.ok(&[
        "exec",
        "early",
        "sh",
        "-c",
        "stat -c %u:%g /etc/hosts /not /not/there/early; echo >> /etc/hosts",
    ]);
    assert_eq!(words(&seen), "0:0 0:0 0:0");
    b.ok(&["rm", "-f", "early"]);
    // A part of a volume, and an image.
    b.ok(&[
        "run",
        "--rm",
        "-v",
        "vol:/data",
        BUSYBOX,
        "sh",
        "-c",
        "mkdir /data/sub; touch /data/sub/f; chown 5 /data/sub/f",
    ]);
    let parts = [
        "--mount",
        "type=volume,src=vol,dst=/part,volume-subpath=sub",
        "--mount",
        "type=image,src=made,dst=/image",
    ];
    let seen = b.sh(&parts, "stat -c %u:%g /part/f /image/d/of-ann /image/d/of-root; touch /part/new");
    assert_eq!(words(&seen), "5:0 1000:1000 0:0");
    assert_eq!(owner(&b.volume("vol").join("sub/new")), (0, 0));
    b.ok(&["rm", "-f", "maker", "keeper"]);
    b.daemon.assert_no_leaks();
}

#[test]
fn volumes_that_others_have_are_theirs() {
    let Some(b) = bench(&[]) else { return };
    let host = tempfile::tempdir().unwrap();
    let dir = host.path().join("dir");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("of-root"), "x").unwrap();
    let device = format!("device={}", dir.display());
    b.ok(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, "bound"]);
    b.ok(&["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "memory"]);
    let look =
        "stat -c %u /v/of-root; touch /v/new 2>/dev/null || echo refused; touch /m/new && stat -c %u /m/new";
    let seen = b.sh(&["-v", "bound:/v", "-v", "memory:/m"], look);
    assert_eq!(words(&seen), "65534 refused 0");
    // What an image has at its place comes into it as who it is outside.
    std::fs::remove_file(dir.join("of-root")).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    b.ok(&["run", "--name", "made", BUSYBOX, "sh", "-c", "mkdir /d && touch /d/f && chown 5:6 /d/f"]);
    b.ok(&["commit", "made", "made:latest"]);
    assert_eq!(b.ok(&["run", "--rm", "-v", "bound:/d", "made", "stat", "-c", "%u:%g", "/d/f"]), "5:6");
    assert_eq!(owner(&dir.join("f")), (BASE + 5, BASE + 6));
    b.ok(&["rm", "made"]);
    b.daemon.assert_no_leaks();
}

#[test]
fn everyday_options_work_as_without() {
    let Some(b) = bench(&[]) else { return };
    // Streams that belong to the user can be opened again by name, of the container and of what runs in it besides.
    let out = "echo out > /dev/stdout; echo err > /dev/stderr";
    for user in ["0", "1000"] {
        let done = b.daemon.docker(&["run", "--rm", "-u", user, BUSYBOX, "sh", "-c", out]);
        assert_eq!((done.stdout.trim(), done.stderr.trim()), ("out", "err"), "{user}");
    }
    b.ok(&[
        "run",
        "-d",
        "--name",
        "it",
        "--init",
        "--ipc",
        "shareable",
        "--health-cmd",
        "id -u | grep -x 0",
        "--health-interval",
        "1s",
        "--tmpfs",
        "/t:uid=1000,mode=700",
        "--read-only",
        "--device",
        "/dev/null:/dev/other",
        "--ulimit",
        "nofile=100:200",
        BUSYBOX,
        "sleep",
        "1000",
    ]);
    for user in ["0", "1000"] {
        let done = b.daemon.docker(&["exec", "-u", user, "it", "sh", "-c", out]);
        assert_eq!((done.stdout.trim(), done.stderr.trim()), ("out", "err"), "{user}");
    }
    let seen = b.ok(&["exec", "it", "sh", "-c",
        "stat -c %u:%a /t; echo x > /dev/other && echo wrote; ulimit -n; touch /x 2>/dev/null || echo read-only; ps | head -2 | tail -1; \
         stat -c %u:%a /dev/shm"]);
    assert!(words(&seen).starts_with("1000:700 wrote 100 read-only 1 root"), "{seen}");
    assert!(seen.contains("docker-init") && words(&seen).ends_with("0:1777"), "{seen}");
    wait_until("it is healthy", || b.daemon.state("it")["Health"]["Status"] == "healthy");
    // A terminal.
    let script = format!(
        "script -qec 'docker -H {} run --rm -it {BUSYBOX} stat -c %u:%g /dev/pts/0' /dev/null",
        b.daemon.host()
    );
    let seen = std::process::Command::new("sh").arg("-c").arg(&script).output().unwrap();
    assert!(String::from_utf8_lossy(&seen.stdout).contains("0:5"), "{seen:?}");
    // Who shares namespaces shares the user namespace that they belong to.
    let join = ["--network", "container:it", "--ipc", "container:it", "--pid", "container:it"];
    let own = std::fs::read_link(format!("/proc/{}/ns/user", b.pid("it"))).unwrap();
    b.ok(&["exec", "it", "sh", "-c", "echo shared > /dev/shm/f"]);
    let seen = b.sh(
        &join,
        "cat /dev/shm/f; readlink /proc/self/ns/user; ip addr add 127.0.0.9/8 dev lo 2>/dev/null; id -u",
    );
    assert_eq!(words(&seen), format!("shared {} 0", own.display()));
    let seen =
        b.sh(&["--ipc", "container:it"], "cat /dev/shm/f; ping -c1 -W5 127.0.0.1 >/dev/null && echo pings");
    assert_eq!(words(&seen), "shared pings");
    assert_eq!(b.sh(&["--userns", "host", "--network", "container:it"], "id -u"), "0");
    // Refused with its name, since it could not come back.
    let refused = b.daemon.request("POST", "/containers/it/checkpoints", &json!({"CheckpointID": "c"}));
    assert!(refused.status >= 400, "{}", refused.text());
    let top = b.ok(&["top", "it"]);
    assert!(top.contains(&BASE.to_string()), "{top}");
    assert!(b.ok(&["stats", "--no-stream", "it"]).contains("it"));
    b.ok(&["restart", "-t", "0", "it"]);
    assert_eq!(b.ok(&["exec", "it", "id", "-u"]), "0");
    b.ok(&["rm", "-f", "it"]);
    b.daemon.assert_no_leaks();
}

#[test]
fn mappings_change_with_the_daemon_and_running_containers_keep_theirs() {
    let Some(mut b) = bench(&[]) else { return };
    b.ok(&["run", "-d", "--name", "runs", BUSYBOX, "sh", "-c", "touch /mine; exec sleep 1000"]);
    b.ok(&["run", "--name", "rests", BUSYBOX, "touch", "/mine"]);
    b.ok(&["exec", "runs", "test", "-e", "/mine"]);
    let base_of = |b: &Bench, name: &str| owner(Path::new(&format!("/proc/{}", b.pid(name)))).0;
    b.daemon.kill9();
    let (dir, docker) = (b.ids.path().to_path_buf(), |b: &Bench, args: &[&str]| b.ok(args));
    b.daemon.spawn_with(&flags(&dir, "other", &[]).iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(base_of(&b, "runs"), BASE);
    // cp, exec and who joins know the mapping that it has.
    let out = tempfile::tempdir().unwrap();
    let (file, archive) = (out.path().join("f"), out.path().join("mine"));
    std::fs::write(&file, "x").unwrap();
    docker(&b, &["cp", "-a", file.to_str().unwrap(), "runs:/copied"]);
    docker(&b, &["cp", "-a", "runs:/mine", archive.to_str().unwrap()]);
    assert_eq!(owner(&archive), (0, 0));
    assert_eq!(docker(&b, &["exec", "runs", "stat", "-c", "%u:%g", "/copied"]), "0:0");
    let joined = b.sh(&["--network", "container:runs"], "cat /proc/self/uid_map");
    assert_eq!(words(&joined), format!("0 {BASE} 65536"));
    docker(&b, &["start", "rests"]);
    docker(&b, &["restart", "-t", "0", "runs"]);
    assert_eq!(base_of(&b, "runs"), OTHER);
    assert_eq!(docker(&b, &["exec", "runs", "stat", "-c", "%u:%g", "/copied", "/mine"]), "0:0\n0:0");
    // And none.
    b.daemon.stop();
    b.daemon.spawn_with(&[]);
    assert_eq!(base_of(&b, "runs"), OTHER);
    docker(&b, &["restart", "-t", "0", "runs"]);
    assert_eq!(base_of(&b, "runs"), 0);
    assert_eq!(docker(&b, &["exec", "runs", "stat", "-c", "%u:%g", "/copied", "/mine"]), "0:0\n0:0");
    docker(&b, &["rm", "-f", "runs", "rests"]);
    b.daemon.assert_no_leaks();
}

/// What each kind of mount shows, and whose what the step makes is; the last line of each is an owner on disk or none.
const DOCKERFILE: &str = "\
FROM busybox:latest AS below
RUN touch /b && chown 11:12 /b && echo err > /dev/stderr
FROM busybox:latest
COPY --chown=3:4 file /copied
RUN cat /proc/self/uid_map && touch /made && chown 5:6 /made && mkdir /dir && chmod 4755 /made
RUN --mount=type=bind,from=below,target=/below --mount=type=bind,target=/context \\
    --mount=type=cache,target=/cache,uid=21,gid=22 --mount=type=secret,id=s,target=/secret,uid=31 \\
    --mount=type=tmpfs,target=/t \\
    stat -c '%n %u:%g' /below/b /context/file /cache /secret /copied /made /etc/hosts /t && \\
    touch /cache/kept && cat /secret && cp -a /below/b /from-below
RUN --mount=type=cache,target=/cache,uid=21,gid=22 stat -c '%n %u:%g' /cache/kept
USER 1000:1000
RUN --network=none id -u > /tmp/of-user; echo x > /dev/stderr; true
";

#[test]
fn builds_have_the_same_namespaces_and_make_the_same_images() {
    let Some(b) = bench(&[]) else { return };
    let context = tempfile::tempdir().unwrap();
    std::fs::write(context.path().join("Dockerfile"), DOCKERFILE).unwrap();
    std::fs::write(context.path().join("file"), "x").unwrap();
    std::fs::write(context.path().join("secret"), "hush\n").unwrap();
    let secret = format!("id=s,src={}", context.path().join("secret").display());
    let directory = context.path().to_str().unwrap();
    let done =
        b.daemon.brig(&["build", "--progress", "plain", "--secret", &secret, "-t", "built", directory]);
    assert_eq!(done.code, Some(0), "{}{}", done.stdout, done.stderr);
    let said = words(&format!("{}{}", done.stdout, done.stderr));
    for want in [
        format!("0 {BASE} 65536"),
        "/below/b 11:12".into(),
        "/context/file 0:0".into(),
        "/cache 21:22".into(),
        "/secret 31:0".into(),
        "/copied 3:4".into(),
        "/made 5:6".into(),
        "/etc/hosts 0:0".into(),
        "/t 0:0".into(),
        "/cache/kept 0:0".into(),
        "hush".into(),
    ] {
        assert!(said.contains(&want), "{want:?} is not in {said}");
    }
    // On a host of its own in everything that an image is.
    let look =
        "stat -c '%n %u:%g %a' /b /made /copied /dir /from-below /tmp/of-user 2>/dev/null; cat /tmp/of-user";
    for users in ["", "host"] {
        let seen = b.ok(&["run", "--rm", "-u", "0", "--userns", users, "built", "sh", "-c", look]);
        let want = "/made 5:6 4755 /copied 3:4 644 /dir 0:0 755 /from-below 11:12 644 /tmp/of-user 1000:1000 644 1000";
        assert_eq!(words(&seen), want);
    }
    std::fs::write(
        context.path().join("Dockerfile"),
        "FROM busybox\nRUN --network=host cat /proc/self/uid_map; id -u\n",
    )
    .unwrap();
    let done = b.daemon.brig(&["build", "--progress", "plain", "--allow", "network.host", directory]);
    let said = words(&format!("{}{}", done.stdout, done.stderr));
    assert!(done.code == Some(0) && said.contains(&format!("0 {BASE} 65536")), "{said}");
    b.daemon.assert_no_leaks();
}

#[test]
fn a_daemon_killed_while_containers_start_leaves_nothing() {
    let Some(mut b) = bench(&[]) else { return };
    let mut random = Random::new();
    for round in 0..4 {
        let names: Vec<String> = (0..3).map(|n| format!("k{round}{n}")).collect();
        let mut clients: Vec<_> = names
            .iter()
            .map(|name| {
                let args =
                    ["run", "-d", "--name", name, "-v", "vol:/data", "-w", "/made", BUSYBOX, "sleep", "1000"];
                b.daemon.docker_command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
            })
            .collect();
        // Anywhere in it: nothing is waited for.
        std::thread::sleep(Duration::from_millis(random.below(150)));
        b.daemon.kill9();
        for client in &mut clients {
            client.wait().unwrap();
        }
        b.daemon.spawn();
        // Each is there and works, or was never made.
        for id in b.daemon.container_ids() {
            b.daemon.docker(&["start", &id]).success();
            assert_eq!(
                b.ok(&["exec", &id, "sh", "-c", "id -u; touch /new /data/new && stat -c %u /new"]),
                "0\n0"
            );
            b.ok(&["rm", "-f", &id]);
        }
        b.daemon.assert_no_leaks();
    }
}

#[test]
fn every_storage_driver_maps() {
    for driver in ["overlay", "vfs"] {
        let Some(b) = bench(&["--storage-driver", driver]) else { return };
        b.ok(&[
            "run",
            "--name",
            "made",
            BUSYBOX,
            "sh",
            "-c",
            "touch /f; chown 5:6 /f; cat /proc/self/uid_map",
        ]);
        b.ok(&["commit", "made", "made:latest"]);
        for users in ["", "host"] {
            let seen = b.ok(&[
                "run",
                "--rm",
                "--userns",
                users,
                "made",
                "stat",
                "-c",
                "%u:%g",
                "/f",
                "/bin/busybox",
            ]);
            assert_eq!(words(&seen), "5:6 0:0", "{driver}");
        }
        b.ok(&["rm", "made"]);
        b.daemon.assert_no_leaks();
    }
}

#[test]
fn a_daemon_without_ranges_says_what_to_add() {
    if !testkit::is_root() {
        return;
    }
    let dir = ids_dir();
    let root = tempfile::tempdir().unwrap();
    let brigd = testkit::daemon::program("brigd");
    for (user, why) in [
        ("none", "/etc/subuid has no range for none; add a line such as none:965536:65536"),
        ("nobody-here", "no user nobody-here on this machine"),
        ("a:b:c", "want default or USER[:GROUP]"),
    ] {
        let done = std::process::Command::new(&brigd)
            .args(["--config-file", "/dev/null", "--bridge", &format!("btu{}", std::process::id())])
            .args(["--data-root", root.path().join("d").to_str().unwrap()])
            .args(["--exec-root", root.path().join("e").to_str().unwrap()])
            .args(flags(dir.path(), user, &[]))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success() && said.contains(why), "{user}: {said}");
    }
}
