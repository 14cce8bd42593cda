//! Mounts of every kind, by the built program on the real kernel. Needs root and Debian's package busybox-static.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test says why it fails or is skipped")]

#[path = "support/bundle.rs"]
mod bundle;

use bundle::{Bundle, bundle};
use serde_json::{Value, json};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

impl Bundle {
    fn mount(&mut self, entry: Value) {
        self.spec["mounts"].as_array_mut().unwrap().push(entry);
    }

    /// In a user namespace whose ids begin at 100000 on the host, with the rootfs of its root.
    fn in_user_namespace(&mut self) {
        give(&self.rootfs(), 100_000);
        self.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        self.spec["linux"]["uidMappings"] = mapping(100_000);
        self.spec["linux"]["gidMappings"] = mapping(100_000);
    }

    /// A directory of the bundle with a file in it, both of `owner`.
    fn shared(&self, name: &str, owner: u32) {
        let directory = self.path().join(name);
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("file"), "content").unwrap();
        give(&directory, owner);
    }
}

fn mapping(host: u32) -> Value {
    json!([{"containerID": 0, "hostID": host, "size": 65536}])
}

fn give(path: &Path, owner: u32) {
    std::os::unix::fs::lchown(path, Some(owner), Some(owner)).unwrap();
    if path.symlink_metadata().unwrap().is_dir() {
        std::fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path(), owner));
    }
}

#[test]
fn links_that_lead_nowhere_yet() {
    let Some(mut b) = bundle("dangling") else { return };
    b.spec["root"]["readonly"] = false.into();
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, b.rootfs().join(name)).unwrap();
    link("/tmp/foo/bar", "jump");
    link("/jump/baz/hosts", "etc/hosts");
    link("/tmp/directory", "place");
    std::fs::write(b.path().join("hosts"), "here").unwrap();
    std::fs::create_dir(b.path().join("source")).unwrap();
    std::fs::write(b.path().join("source/file"), "there").unwrap();
    b.spec["mounts"].as_array_mut().unwrap().extend([
        serde_json::json!({"destination": "/etc/hosts", "type": "bind", "source": "hosts", "options": ["bind"]}),
        serde_json::json!({"destination": "/place", "type": "bind", "source": "source", "options": ["bind"]}),
    ]);
    b.check("cat /etc/hosts /tmp/foo/bar/baz/hosts /place/file /tmp/directory/file", "hereheretherethere");
    assert!(b.rootfs().join("tmp/foo/bar/baz/hosts").is_file() && b.rootfs().join("tmp/directory").is_dir());
    assert!(
        !std::path::Path::new("/tmp/foo/bar").exists() && !std::path::Path::new("/tmp/directory").exists()
    );
}

#[test]
fn id_mapped_mounts() {
    let Some(mut b) = bundle("idmap") else { return };
    b.shared("shared", 5);
    b.mount(json!({"destination": "/one", "type": "bind", "source": "shared", "options": ["rbind", "idmap"],
        "uidMappings": [{"containerID": 5, "hostID": 77, "size": 1}],
        "gidMappings": [{"containerID": 5, "hostID": 88, "size": 1}]}));
    b.mount(json!({"destination": "/two", "type": "bind", "source": "shared", "options": ["rbind", "ridmap", "ro"],
        "uidMappings": mapping(1000), "gidMappings": mapping(2000)}));
    b.mount(json!({"destination": "/plain", "type": "bind", "source": "shared", "options": ["rbind"]}));
    b.check("stat -c %u:%g /one/file /two/file /plain/file; cat /two/file", "77:88\n1005:2005\n5:5\ncontent");
    // What is not mapped is nobody's.
    b.check("touch /one/new 2>/dev/null || echo refused", "refused");
    assert_eq!(std::fs::metadata(b.path().join("shared/file")).unwrap().uid(), 5);
}

#[test]
fn id_mapped_mounts_that_cannot_be() {
    let Some(mut b) = bundle("idmapbad") else { return };
    b.shared("shared", 0);
    b.args(&["true"]);
    let mut check = |entry: Value, want: &str| {
        b.mount(entry);
        b.refused(want);
        b.spec["mounts"].as_array_mut().unwrap().pop();
    };
    let bind = |options: &[&str], extra: Value| {
        let mut entry = json!({"destination": "/m", "type": "bind", "source": "shared", "options": options});
        entry.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        entry
    };
    check(
        bind(&["bind", "idmap"], json!({})),
        "idmap needs uidMappings and gidMappings, or a user namespace",
    );
    check(bind(&["bind", "idmap"], json!({"uidMappings": mapping(1)})), "go together");
    check(
        bind(
            &["bind"],
            json!({"uidMappings": [{"containerID": 0, "hostID": 0, "size": 0}], "gidMappings": mapping(1)}),
        ),
        "is empty",
    );
    check(
        json!({"destination": "/m", "type": "tmpfs", "options": ["idmap"], "uidMappings": mapping(1), "gidMappings": mapping(1)}),
        "only bind mounts",
    );
    check(
        json!({"destination": "/m", "type": "bind", "source": "/proc", "options": ["bind", "idmap"],
            "uidMappings": mapping(1), "gidMappings": mapping(1)}),
        "has no id-mapped mounts",
    );
}

#[test]
fn mounts_in_a_user_namespace() {
    let Some(mut b) = bundle("usermounts") else { return };
    // Nobody but root can pass: what is mounted is found before the ids change.
    std::fs::set_permissions(b.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    b.in_user_namespace();
    b.shared("root", 0);
    b.shared("mapped", 100_000);
    b.mount(json!({"destination": "/root", "type": "bind", "source": "root", "options": ["rbind", "ro"]}));
    b.mount(
        json!({"destination": "/idmapped", "type": "bind", "source": "root", "options": ["rbind", "idmap"]}),
    );
    b.mount(
        json!({"destination": "/mapped", "type": "bind", "source": "mapped", "options": ["rbind", "nosuid"]}),
    );
    b.mount(
        json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "mode=700"]}),
    );
    b.mount(
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}),
    );
    b.check(
        "stat -c %u /root/file /idmapped/file /mapped/file /t; cat /root/file; echo; echo x > /idmapped/new; echo x > /t/x",
        "65534\n0\n0\n0\ncontent",
    );
    assert_eq!(std::fs::metadata(b.path().join("root/new")).unwrap().uid(), 0);
    b.check("ls /dev/pts /sys/fs/cgroup /dev/mqueue > /dev/null && echo hi > /dev/shm/x && head -c 2 /dev/zero | wc -c", "2");
    assert_ne!(b.run("echo x > /root/x").0, 0);
    // With the host's network the kernel does not give a sysfs of one's own: the host's is shown.
    let namespaces = b.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|n| n["type"] != "network");
    b.check("ls -d /sys/class/net && touch /sys/x 2>/dev/null || echo ro", "/sys/class/net\nro");
}

#[test]
fn a_joined_user_namespace() {
    let Some(mut owner) = bundle("userjoin1") else { return };
    let Some(mut joiner) = bundle("userjoin2") else { return };
    owner.in_user_namespace();
    owner.args(&["sleep", "100"]);
    owner.ok(&["run", "-d", &owner.id]);
    let pid = owner.state()["pid"].to_string();
    let path = |link: &str| format!("/proc/{pid}/ns/{link}");
    joiner.in_user_namespace();
    joiner.shared("root", 0);
    joiner.mount(
        json!({"destination": "/idmapped", "type": "bind", "source": "root", "options": ["rbind", "idmap"]}),
    );
    joiner.spec["linux"]["namespaces"] = json!([
        {"type": "user", "path": path("user")}, {"type": "network", "path": path("net")},
        {"type": "ipc", "path": path("ipc")}, {"type": "uts", "path": path("uts")},
        {"type": "pid", "path": path("pid")}, {"type": "mount"}, {"type": "cgroup"}
    ]);
    joiner.spec["hostname"] = "".into();
    joiner.check(
        "cat /proc/1/cmdline | tr '\\0' ' '; hostname; id -u; stat -c %u /idmapped/file",
        "sleep 100 brig\n0\n0",
    );
    // All of them, the mount namespace too: nothing is mounted then.
    let names = ["user", "pid", "network", "ipc", "uts", "mount", "cgroup"];
    let links = ["user", "pid", "net", "ipc", "uts", "mnt", "cgroup"];
    joiner.spec["linux"]["namespaces"] =
        names.iter().zip(links).map(|(name, link)| json!({"type": name, "path": path(link)})).collect();
    joiner.spec["mounts"] = json!([]);
    joiner.spec["root"]["readonly"] = false.into();
    for key in ["maskedPaths", "readonlyPaths"] {
        joiner.spec["linux"][key] = json!([]);
    }
    joiner.check("hostname; id -u", "brig\n0");
}

#[test]
fn recursively_read_only() {
    let Some(mut b) = bundle("rro") else { return };
    std::fs::create_dir_all(b.path().join("shared")).unwrap();
    // A tmpfs below the source, made in a mount namespace of the runtime's own, so that nothing can stay behind.
    b.script("touch /rro/below/x 2>/dev/null || echo rro; touch /ro/below/x && echo ro; touch /nosuid/y && grep -c ' /nosuid.* rw,nosuid' /proc/self/mountinfo");
    b.mount(json!({"destination": "/rro", "type": "bind", "source": "shared", "options": ["rbind", "rro"]}));
    b.mount(json!({"destination": "/ro", "type": "bind", "source": "shared", "options": ["rbind", "ro"]}));
    b.mount(json!({"destination": "/nosuid", "type": "bind", "source": "shared", "options": ["rbind", "rnosuid", "rnodev", "rnoexec", "rnoatime"]}));
    let run = b.command(&["run", &b.id]);
    let mut words = vec![run.get_program().to_str().unwrap().to_owned()];
    words.extend(run.get_args().map(|a| a.to_str().unwrap().to_owned()));
    let script =
        format!("mkdir shared/below && mount -t tmpfs none shared/below && exec {}", words.join(" "));
    let output = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .current_dir(b.path())
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(text.trim(), "rro\nro\n2");
}

#[test]
fn a_tmpfs_that_begins_with_what_it_covers() {
    let Some(mut b) = bundle("copyup") else { return };
    std::fs::create_dir_all(b.rootfs().join("data/below")).unwrap();
    std::fs::write(b.rootfs().join("data/below/file"), "content").unwrap();
    chown(b.rootfs().join("data/below/file"), Some(7), Some(8)).unwrap();
    std::fs::set_permissions(b.rootfs().join("data"), std::fs::Permissions::from_mode(0o751)).unwrap();
    b.mount(json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=1m"]}));
    b.check(
        "cat /data/below/file; echo; stat -c %u:%g /data/below/file; stat -c %a /data; echo x > /data/new; ls /data",
        "content\n7:8\n751\nbelow\nnew",
    );
    assert!(!b.rootfs().join("data/new").exists());
    b.spec["mounts"].as_array_mut().unwrap().pop();
    b.mount(
        json!({"destination": "/data", "type": "bind", "source": "/tmp", "options": ["bind", "tmpcopyup"]}),
    );
    b.args(&["true"]);
    b.refused("tmpcopyup is for tmpfs only");
}

#[test]
fn remounts_and_superblock_options() {
    let Some(mut b) = bundle("remount") else { return };
    b.mount(json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "sync", "dirsync", "lazytime"]}));
    b.mount(json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["remount", "size=128k", "noexec"]}));
    b.mount(json!({"destination": "/u", "type": "tmpfs", "source": "tmpfs"}));
    b.mount(json!({"destination": "/u", "options": ["bind", "remount", "ro", "nosymfollow"]}));
    b.check(
        "grep -E ' /[tu] ' /proc/self/mounts",
        "tmpfs /t tmpfs rw,sync,dirsync,lazytime,noexec,relatime,size=128k 0 0\ntmpfs /u tmpfs ro,relatime,nosymfollow 0 0",
    );
}

#[test]
fn fifos_and_devices_outside_of_dev() {
    let Some(mut b) = bundle("devices") else { return };
    b.spec["linux"]["devices"] = json!([
        {"type": "p", "path": "/run/fifo", "fileMode": 0o640, "uid": 5, "gid": 6},
        {"type": "c", "path": "/x/zero", "major": 1, "minor": 5, "fileMode": 0o600},
        {"type": "b", "path": "/dev/disk", "major": 7, "minor": 9}
    ]);
    b.check(
        "stat -c '%F %a %u:%g' /run/fifo; stat -c '%F %a %t:%T' /x/zero /dev/disk; head -c 3 /x/zero | wc -c",
        "fifo 640 5:6\ncharacter special file 600 1:5\nblock special file 666 7:9\n3",
    );
    std::fs::write(b.rootfs().join("taken"), "").unwrap();
    b.spec["linux"]["devices"] = json!([{"type": "c", "path": "/taken", "major": 1, "minor": 5}]);
    b.args(&["true"]);
    b.refused("/taken");
}

/// Which of procfs's names are files is a guess of ours; in a container without procfs they may be anything.
#[test]
fn masks_over_files_and_directories_of_any_name() {
    let Some(mut b) = bundle("guess") else { return };
    b.spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/proc");
    let proc = b.rootfs().join("proc");
    for directory in ["keys", "kcore", "acpi"] {
        std::fs::create_dir_all(proc.join(directory)).unwrap();
        std::fs::write(proc.join(directory).join("secret"), "told").unwrap();
    }
    for file in ["timer_list", "scsi"] {
        std::fs::write(proc.join(file), "told").unwrap();
    }
    let masked = ["keys", "kcore", "acpi", "timer_list", "scsi", "sched_debug"];
    let paths: Vec<String> = masked.iter().map(|name| format!("/proc/{name}")).collect();
    b.spec["linux"]["maskedPaths"] = paths.into();
    b.spec["linux"]["readonlyPaths"] = json!(["/proc/none"]);
    b.check("ls /proc/keys /proc/kcore /proc/acpi | tr '\\n' ' '", "/proc/acpi:  /proc/kcore:  /proc/keys:");
    b.check("cat /proc/timer_list /proc/scsi; touch /proc/keys/x 2>/dev/null; echo $?", "1");
}
