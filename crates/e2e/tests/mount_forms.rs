//! What `-v` and `--mount` can say, and what the kernel then has.
#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::{BUSYBOX, Client, shared};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use testkit::daemon::Daemon;

/// A directory that is a mount of its own, and takes part in what happens elsewhere or not.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new(propagation: MountPropagationFlags) -> Place {
        let directory = tempfile::tempdir().unwrap();
        rustix::mount::mount("place", directory.path(), "tmpfs", MountFlags::empty(), None).unwrap();
        rustix::mount::mount_change(directory.path(), propagation).unwrap();
        for name in ["host", "container"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        Place { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _gone = rustix::mount::unmount(self.path(), UnmountFlags::DETACH);
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().any(|l| l.split(' ').nth(4) == path.to_str())
}

/// Runs a container with the bind, mounts on both sides, and says which is seen on the other: (host's inside, container's
/// outside).
fn seen(daemon: &Daemon, place: &Place, flags: &[&str]) -> (bool, bool) {
    let name = Client::Docker.name("propagation");
    let run = [&["run", "-d", "--name", &name, "--cap-add", "SYS_ADMIN"], flags, &[BUSYBOX, "sleep", "600"]];
    daemon.docker(&run.concat()).success();
    let host = place.path().join("host");
    rustix::mount::mount("later", &host, "tmpfs", MountFlags::empty(), None).unwrap();
    let script = "mount -t tmpfs later /d/container && grep -c \" /d/host \" /proc/self/mountinfo; true";
    let inside = daemon.docker(&["exec", &name, "sh", "-c", script]).success();
    let outside = is_mounted(&place.path().join("container"));
    daemon.docker(&["rm", "-f", &name]).success();
    rustix::mount::unmount(&host, UnmountFlags::DETACH).unwrap();
    let _not_seen = rustix::mount::unmount(place.path().join("container"), UnmountFlags::DETACH);
    (inside.trim() == "1", outside)
}

#[test]
fn propagation_is_what_was_asked_for() {
    let Some(shared) = shared() else { return };
    let place = Place::new(MountPropagationFlags::SHARED);
    let path = place.path().display();
    for (words, expected) in [
        (&["private", "rprivate"], (false, false)),
        (&["slave", "rslave"], (true, false)),
        (&["shared", "rshared"], (true, true)),
    ] {
        for word in words {
            let volume = format!("{path}:/d:{word}");
            assert_eq!(seen(&shared.daemon, &place, &["-v", &volume]), expected, "{word}");
        }
        let mount = format!("type=bind,src={path},dst=/d,bind-propagation={}", words[1]);
        assert_eq!(seen(&shared.daemon, &place, &["--mount", &mount]), expected, "{mount}");
    }
    let volume = format!("{path}:/d");
    assert_eq!(seen(&shared.daemon, &place, &["-v", &volume]), (false, false), "nothing is asked for");
}

#[test]
fn propagation_that_cannot_be_is_refused() {
    let Some(shared) = shared() else { return };
    let place = Place::new(MountPropagationFlags::PRIVATE);
    let path = place.path().display();
    for (word, what) in [("rshared", "a shared mount"), ("slave", "a shared or slave mount")] {
        let volume = format!("{path}:/d:{word}");
        let done = shared.daemon.docker(&["run", "--rm", "-v", &volume, BUSYBOX, "true"]).expect(125);
        let said = format!("path {path} is mounted on {path} but it is not {what}");
        assert!(done.stderr.contains(&said), "{}", done.stderr);
    }
    // The daemon's own directories are not to be kept by a copy.
    let own = shared.daemon.data_root.display();
    let volume = format!("{own}:/d:private");
    let done = shared.daemon.docker(&["run", "--rm", "-v", &volume, BUSYBOX, "true"]).expect(125);
    assert!(done.stderr.contains("must use either propagation mode"), "{}", done.stderr);
    shared.daemon.docker(&["run", "--rm", "-v", &format!("{own}:/d"), BUSYBOX, "true"]).success();
}

/// Statuses and texts of what the API refuses.
#[test]
fn mistakes_have_dockers_words() {
    let Some(shared) = shared() else { return };
    let refused = |host: Value, status: u16, words: &str| {
        let body = json!({ "Image": BUSYBOX, "Cmd": ["true"], "HostConfig": host });
        let answer = shared.daemon.request("POST", "/containers/create", &body);
        assert_eq!(answer.status, status, "{host}: {}", answer.text());
        assert!(answer.message().contains(words), "{host}: {}", answer.text());
    };
    let bind = |text: &str| json!({ "Binds": [text] });
    refused(bind("/a:/b:bogus"), 400, "invalid mode: bogus");
    refused(bind("/a:/b:z,Z"), 400, "invalid mode: z,Z");
    refused(bind("/b:ro"), 400, "invalid volume specification: '/b:ro'");
    refused(bind("a:b"), 400, "mount path must be absolute");
    refused(bind("/a:/"), 400, "destination can't be '/'");
    refused(bind("/a:/b:nocopy"), 400, "field VolumeOptions must not be specified");
    refused(json!({ "Binds": ["/tmp:/x", "/var:/x"] }), 400, "Duplicate mount point: ");
    refused(json!({ "VolumesFrom": [""] }), 400, "cannot be an empty string");
    let mount = |fields: Value| {
        let mut all = json!({ "Target": "/d" });
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        json!({ "Mounts": [all] })
    };
    refused(
        mount(json!({ "Type": "bind", "Source": "/no/such/place" })),
        400,
        "invalid mount config for type \"bind\": bind source path does not exist: /no/such/place",
    );
    refused(mount(json!({ "Type": "bind" })), 400, "field Source must not be empty");
    refused(mount(json!({ "Type": "volume", "ReadOnly": true })), 400, "must not set ReadOnly mode");
    refused(mount(json!({ "Type": "odd" })), 400, "mount type unknown");
    refused(
        mount(json!({ "Type": "tmpfs", "TmpfsOptions": { "Options": [["suid"]] } })),
        400,
        "invalid option: suid",
    );
    assert!(!Path::new("/no/such").exists());
}

/// A tmpfs with what was asked for, a bind without what is mounted below, a volume that nothing is copied into.
#[test]
fn options_reach_the_kernel() {
    let Some(shared) = shared() else { return };
    let run = |flags: &[&str], script: &str| {
        let line = [&["run", "--rm"], flags, &[BUSYBOX, "sh", "-c", script]].concat();
        shared.daemon.docker(&line).success()
    };
    let tmpfs = "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=0751";
    let line = run(&["--mount", tmpfs], "stat -c %a /t; grep ' /t ' /proc/mounts");
    assert!(line.starts_with("751\n") && line.contains("size=1024k") && line.contains("noexec"), "{line}");
    let place = Place::new(MountPropagationFlags::PRIVATE);
    let host = place.path().join("host");
    std::fs::write(host.join("below"), "").unwrap();
    rustix::mount::mount("over", &host, "tmpfs", MountFlags::empty(), None).unwrap();
    let path = place.path().display();
    let bind = |more: &str| format!("type=bind,src={path},dst=/d{more}");
    assert_eq!(run(&["--mount", &bind("")], "ls /d/host"), "");
    assert_eq!(run(&["--mount", &bind(",bind-recursive=disabled")], "ls /d/host"), "below");
    rustix::mount::unmount(&host, UnmountFlags::DETACH).unwrap();
    let volume = Client::Docker.name("nocopy");
    let mount = format!("type=volume,src={volume},dst=/bin,volume-nocopy");
    let create = ["create", "--mount", &mount, BUSYBOX, "true"];
    let id = shared.daemon.docker(&create).success();
    // There is no program in there.
    shared.daemon.docker(&["start", &id]).expect(1);
    let content: PathBuf = shared.daemon.data_root.join("volumes").join(&volume).join("_data");
    assert_eq!(std::fs::read_dir(&content).unwrap().count(), 0);
    shared.daemon.docker(&["rm", &id]).success();
    shared.daemon.docker(&["volume", "rm", &volume]).success();
}

/// Volumes of servers that cannot be reached: the words of the mount, nothing left behind.
#[test]
fn mounts_of_servers_that_fail() {
    let Some(shared) = shared() else { return };
    // No label of a name is so long: nobody is asked for it.
    let host = "x".repeat(70);
    let (by_option, share) = (format!("addr={host},soft"), format!("//{host}/s"));
    let unknown = "error resolving passed in network volume address";
    for (kind, device, options, words) in [
        ("nfs", ":/export", by_option.as_str(), unknown),
        ("cifs", share.as_str(), "username=u,password=secret", unknown),
        ("ext4", "/dev/no-such-device", "ro", "failed to mount local volume"),
    ] {
        let name = Client::Docker.name(&format!("fails-{kind}"));
        let (kind, device, options) =
            (format!("type={kind}"), format!("device={device}"), format!("o={options}"));
        let create = ["volume", "create", "-o", &kind, "-o", &device, "-o", &options, &name];
        shared.daemon.docker(&create).success();
        let mount = format!("{name}:/d");
        let done = shared.daemon.docker(&["run", "--rm", "-v", &mount, BUSYBOX, "true"]).expect(125);
        assert!(
            done.stderr.contains("error while mounting volume '") && done.stderr.contains(words),
            "{}",
            done.stderr
        );
        assert!(!done.stderr.contains("secret"), "{}", done.stderr);
        shared.daemon.docker(&["volume", "rm", &name]).success();
    }
}
