//! Faults that other runtimes had, one test each, named after them. `docs/security.md` lists them all.
//!
//! Needs root and Debian's package busybox-static. What is raced is in `races.rs`, the overwritten program in
//! `own_program.rs`.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test says why it fails or is skipped")]

#[path = "support/bundle.rs"]
mod bundle;

use bundle::{Bundle, bundle};
use serde_json::{Value, json};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

impl Bundle {
    /// A running container whose program is `sleep`.
    fn running(&mut self) -> String {
        self.args(&["sleep", "1000"]);
        self.ok(&["run", "-d", &self.id]);
        self.id.clone()
    }

    fn exec(&self, args: &[&str]) -> String {
        self.ok(&[&["exec"], args].concat()).trim().to_owned()
    }
}

#[test]
fn cve_2016_3697_and_2026_46680_a_number_is_not_a_name() {
    let Some(mut b) = bundle("user1") else { return };
    std::fs::write(b.rootfs().join("etc/passwd"), "1000:x:0:0::/root:/bin/sh\nroot:x:0:0::/root:/bin/sh\n")
        .unwrap();
    std::fs::write(b.rootfs().join("etc/group"), "100:x:0:\n").unwrap();
    b.spec["process"]["user"] = json!({"uid": 1000, "gid": 100});
    let ids = "awk '/^[UG]id/ { print $2, $5 }' /proc/self/status";
    b.check(ids, "1000 1000\n100 100");
    let id = b.running();
    assert_eq!(b.exec(&["-u", "1000:100", &id, "sh", "-c", ids]), "1000 1000\n100 100");
}

#[test]
fn cve_2026_30892_and_2024_40635_ids_are_read_as_they_are() {
    let Some(mut b) = bundle("user2") else { return };
    let id = b.running();
    for (given, want) in
        [("1", "1"), ("2147483647", "2147483647"), ("2147483648", "2147483648"), ("4294967294", "4294967294")]
    {
        assert_eq!(b.exec(&["-u", given, &id, "id", "-u"]), want);
    }
    for bad in [
        "-1",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "0x0",
        "1:",
        ":0",
        " 0",
        "root",
        "1e0",
        "٠",
    ] {
        let output = b.call(&["exec", "-u", bad, &id, "id"]);
        assert!(!output.status.success() && output.stdout.is_empty(), "{bad:?} was taken");
    }
    b.args(&["true"]);
    b.ok(&["delete", "--force", &id]);
    for bad in [json!(-1), json!(4_294_967_296u64), json!(4_294_967_295u64), json!(1.5), json!("0")] {
        b.spec["process"]["user"]["uid"] = bad.clone();
        assert_ne!(b.call(&["run", &id]).status.code(), Some(0), "{bad} was taken");
    }
}

#[test]
fn cve_2022_36109_groups_of_the_caller_are_not_kept() {
    let Some(mut b) = bundle("groups") else { return };
    b.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [7]});
    b.check("id -G", "1000 7");
    let groups = "awk '/^Groups/ { $1 = \"\"; print }' /proc/self/status";
    b.spec["process"]["user"] = json!({"uid": 0, "gid": 0});
    b.check(groups, "");
    let id = b.running();
    assert_eq!(b.exec(&["-u", "5:6", "-g", "9", &id, "sh", "-c", groups]), "9");
}

/// The sets of `/proc/self/status`.
const SETS: &str = "awk '/^Cap/ { print $1 $2 }' /proc/self/status";

#[test]
fn cve_2022_24769_and_29162_nothing_is_inheritable_unasked() {
    let Some(mut b) = bundle("inheritable") else { return };
    b.check("awk '/^Cap(Inh|Amb)/ { print $2 }' /proc/self/status", "0000000000000000\n0000000000000000");
    let id = b.running();
    let sets = b.exec(&["--cap", "CAP_NET_ADMIN", &id, "sh", "-c", SETS]);
    assert!(sets.contains("CapInh:0000000000000000") && sets.contains("CapAmb:0000000000000000"), "{sets}");
}

#[test]
fn cve_2018_10856_and_2021_20188_another_user_has_no_capabilities() {
    let Some(mut b) = bundle("capuser") else { return };
    b.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    b.check("awk '/^Cap(Prm|Eff|Inh|Amb)/ { print $2 }' /proc/self/status | sort -u", "0000000000000000");
}

#[test]
fn cve_2025_27612_an_exec_has_the_containers_sets() {
    let Some(mut b) = bundle("capexec") else { return };
    b.spec["process"]["capabilities"] =
        json!({"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]});
    let id = b.running();
    let kill = "0000000000000020";
    let none = "0000000000000000";
    let want = format!("CapInh:{none}\nCapPrm:{kill}\nCapEff:{kill}\nCapBnd:{kill}\nCapAmb:{none}");
    assert_eq!(b.exec(&[&id, "sh", "-c", SETS]), want);
    // A process document without sets has the container's, not the runtime's; one with fewer has fewer.
    let document = b.path().join("process.json");
    let process =
        json!({"args": ["sh", "-c", SETS], "env": ["PATH=/bin"], "cwd": "/", "user": {"uid": 0, "gid": 0}});
    std::fs::write(&document, process.to_string()).unwrap();
    assert_eq!(b.exec(&["--process", document.to_str().unwrap(), &id]), want);
    let mut fewer = process;
    fewer["capabilities"] = json!({});
    std::fs::write(&document, fewer.to_string()).unwrap();
    assert!(b.exec(&["--process", document.to_str().unwrap(), &id]).contains(&format!("CapBnd:{none}")));
}

#[test]
fn cve_2024_21626_no_directory_of_the_host_is_reached() {
    let Some(mut b) = bundle("fd") else { return };
    let canary = b.path().join("canary");
    std::fs::create_dir(&canary).unwrap();
    std::fs::write(canary.join("secret"), "secret").unwrap();
    // As a careless engine would leave them.
    let leaks: Vec<_> = (0..20).map(|_| std::fs::File::open(&canary).unwrap()).collect();
    for leak in &leaks {
        rustix::io::fcntl_setfd(leak, rustix::io::FdFlags::empty()).unwrap();
    }
    let most = leaks.iter().map(|l| l.as_raw_fd()).max().unwrap() + 2;
    let cwds = (0..most).flat_map(|n| {
        let fd = format!("/proc/self/fd/{n}");
        [
            fd.clone(),
            format!("{fd}/.."),
            format!("{fd}/../../../../../..{}", canary.display()),
            format!("/bin/../{fd}"),
        ]
    });
    let cwds: Vec<_> = cwds.collect();
    for cwd in &cwds {
        b.spec["process"]["cwd"] = cwd.as_str().into();
        b.args(&["cat", "secret"]);
        let output = b.call(&["run", &b.id]);
        assert!(!String::from_utf8_lossy(&output.stdout).contains("secret"), "{cwd} led out");
    }
    b.spec["process"]["cwd"] = "/".into();
    // Links in the image to the same.
    symlink("/proc/self/fd/7", b.rootfs().join("link")).unwrap();
    b.spec["process"]["cwd"] = "/link".into();
    b.args(&["cat", "secret"]);
    assert!(b.call(&["run", &b.id]).stdout.is_empty());
    b.spec["process"]["cwd"] = "/".into();
    b.check("ls /proc/self/fd", "0\n1\n2\n3");
    let id = b.running();
    assert_eq!(b.exec(&[&id, "ls", "/proc/self/fd"]), "0\n1\n2\n3");
    for cwd in cwds.iter().step_by(5) {
        let output = b.call(&["exec", "--cwd", cwd, &id, "cat", "secret"]);
        assert!(output.stdout.is_empty(), "exec: {cwd} led out");
    }
}

/// What an image may have in a place where the runtime makes something.
const KINDS: [&str; 8] = ["absolute", "relative", "dangling", "loop", "file", "fifo", "device", "closed"];

fn put(kind: &str, at: &Path, canary: &Path) {
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    let node = |kind, device| {
        rustix::fs::mknodat(rustix::fs::CWD, at, kind, rustix::fs::Mode::RWXU, device).unwrap();
    };
    match kind {
        "absolute" => symlink(canary, at).unwrap(),
        "relative" => {
            symlink(Path::new("../../../../../../../..").join(canary.strip_prefix("/").unwrap()), at).unwrap()
        }
        "dangling" => symlink(canary.join("new"), at).unwrap(),
        "loop" => symlink(at.file_name().unwrap(), at).unwrap(),
        "file" => std::fs::write(at, "").unwrap(),
        "fifo" => node(rustix::fs::FileType::Fifo, 0),
        "device" => node(rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 11)),
        _ => {
            std::fs::create_dir(at).unwrap();
            std::fs::set_permissions(at, std::fs::Permissions::from_mode(0o0)).unwrap();
        }
    }
}

/// Names, kinds, modes and times of all in a directory.
fn digest(directory: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt as _;
    let mut lines = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(path) = open.pop() {
        let meta = path.symlink_metadata().unwrap();
        lines.push(format!(
            "{} {:o} {} {} {}",
            path.display(),
            meta.mode(),
            meta.uid(),
            meta.mtime_nsec(),
            meta.ctime_nsec()
        ));
        if meta.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
    }
    lines.sort();
    lines
}

/// The rows of links in images: CVE-2019-18837, 2024-9341, 2025-24965, 2025-54867, 2026-41579, 2026-47766, 2026-55686.
#[test]
fn cve_2019_18837_2025_54867_2026_41579_2026_47766_what_an_image_has_in_the_way() {
    let places = [
        "proc",
        "sys",
        "dev",
        "dev/pts",
        "dev/shm",
        "dev/mqueue",
        "dev/console",
        "dev/null",
        "dev/fd",
        "dev/ptmx",
        "etc/hosts",
        "run/secrets",
        "home/dir",
        "volume",
        "volume/below",
    ];
    for (number, place) in places.into_iter().enumerate() {
        for kind in KINDS {
            let Some(mut b) = bundle(&format!("way{number}{kind}")) else { return };
            let canary = b.path().join("canary");
            std::fs::create_dir_all(canary.join("below")).unwrap();
            std::fs::write(canary.join("file"), "content").unwrap();
            let at = b.rootfs().join(place);
            if place.starts_with("dev/") {
                // Else a tmpfs of the runtime's own covers what the image has.
                b.spec["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] != "/dev");
            }
            put(kind, &at, &canary);
            let before = digest(&canary);
            b.spec["root"]["readonly"] = false.into();
            b.spec["process"]["cwd"] = "/home/dir".into();
            std::fs::create_dir(b.path().join("source")).unwrap();
            std::fs::write(b.path().join("host-file"), "").unwrap();
            let mounts = b.spec["mounts"].as_array_mut().unwrap();
            mounts.push(json!({"destination": "/etc/hosts", "type": "bind", "source": "host-file", "options": ["bind"]}));
            mounts.push(json!({"destination": "/run/secrets", "type": "tmpfs", "source": "tmpfs"}));
            mounts.push(json!({"destination": "/volume/below", "type": "bind", "source": "source", "options": ["rbind"]}));
            b.spec["linux"]["devices"] =
                json!([{"type": "c", "path": "/volume/zero", "major": 1, "minor": 5}]);
            b.args(&["cat", "/proc/self/mountinfo"]);
            let output = b.call(&["run", &b.id]);
            let (out, err) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            let clean = err.starts_with("brig-runtime: run failed: ") && err.trim_end().lines().count() == 1;
            assert!(output.status.success() || clean, "{kind} {place}: {err}");
            assert_eq!(digest(&canary), before, "{kind} {place} led out");
            // By what is mounted; a link followed in the container's root may make it a place of that name.
            let shows = |line: &str| line.split(' ').nth(3).is_some_and(|root| root.contains("canary"));
            assert!(!out.lines().any(shows), "{kind} {place}: the host's directory is mounted: {out}");
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!mounts.contains(b.path().to_str().unwrap()), "{kind} {place}: a mount is left");
            assert_eq!(b.ok(&["list", "-q"]), "", "{kind} {place}: a container is left");
        }
    }
}

#[test]
fn cve_2019_16884_2019_19921_2023_27561_2023_28642_proc_is_a_procfs() {
    let Some(mut b) = bundle("proc") else { return };
    std::fs::create_dir_all(b.path().join("fake/self/attr")).unwrap();
    b.args(&["true"]);
    let keep = b.spec.clone();
    let bind = |at: &str| json!({"destination": at, "type": "bind", "source": "fake", "options": ["rbind"]});
    for at in [
        "/proc",
        "/proc/self",
        "/proc/self/attr",
        "/proc/1",
        "/proc/sys",
        "/../proc/self",
        "/x/../proc/sys",
        "proc",
    ] {
        b.spec = keep.clone();
        b.spec["mounts"].as_array_mut().unwrap().push(bind(at));
        b.refused("/proc");
        // Before the procfs, so that it comes to lie over a volume.
        b.spec = keep.clone();
        if at.trim_start_matches(['/', '.']) != "proc" {
            continue;
        }
        b.spec["mounts"].as_array_mut().unwrap().insert(0, bind(at));
        b.refused("/proc");
    }
    // By links: to /proc, and /proc itself a link into a volume that others write to.
    symlink("/proc/self/attr", b.rootfs().join("link")).unwrap();
    b.spec = keep.clone();
    b.spec["mounts"].as_array_mut().unwrap().push(bind("/link"));
    b.refused("inside /proc");
    b.spec = keep;
    b.spec["mounts"].as_array_mut().unwrap().insert(0, bind("/volume"));
    std::fs::remove_dir(b.rootfs().join("proc")).unwrap();
    symlink("/volume", b.rootfs().join("proc")).unwrap();
    b.refused("on /proc: must be mounted on ordinary directory");
}

#[test]
fn cve_2025_52881_and_62596_what_is_written_to_proc_gets_there() {
    let Some(mut b) = bundle("procwrite") else { return };
    // A file that a sysctl could be redirected to.
    std::fs::write(b.path().join("decoy"), "untouched").unwrap();
    b.spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.shmmni": "77"});
    b.check("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni", "1\n77");
    // Over the parameter's file, by name and by a link in the image: refused before anything is written.
    symlink("/proc/sys/kernel", b.rootfs().join("link")).unwrap();
    let host = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    for at in ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/shmmni", "/link/shmmni"] {
        b.args(&["true"]);
        let sources = ["decoy", "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern"];
        for source in sources.into_iter().filter(|s| !s.starts_with('/') || Path::new(s).exists()) {
            b.spec["mounts"]
                .as_array_mut()
                .unwrap()
                .push(json!({"destination": at, "type": "bind", "source": source, "options": ["bind"]}));
            b.refused("inside /proc");
            b.spec["mounts"].as_array_mut().unwrap().pop();
        }
    }
    assert_eq!(std::fs::read_to_string(b.path().join("decoy")).unwrap(), "untouched");
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), host);
}

#[test]
fn cve_2022_0811_and_2022_0532_parameters_are_the_containers_own() {
    let Some(mut b) = bundle("sysctl") else { return };
    let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    b.args(&["true"]);
    for name in [
        "kernel.core_pattern",
        "kernel/core_pattern",
        "net.ipv4.ip_forward+kernel.core_pattern",
        "net/../kernel/core_pattern",
        "net.ipv4..core",
        "kernel.shmmax\nkernel.core_pattern",
        "net.ipv4.ip_forward=1",
        "vm.swappiness",
        "fs.file-max",
        "",
    ] {
        b.spec["linux"]["sysctl"] = json!({name: "|/evil"});
        b.refused("linux.sysctl");
    }
    // Which of both it would be is nobody's guess.
    b.spec["linux"]["sysctl"] = json!({"kernel.domainname": "one"});
    b.spec["domainname"] = "two".into();
    b.refused("conflicts with the field domainname");
    b.spec["domainname"] = "".into();
    b.spec["linux"]["sysctl"] = json!({"kernel.shmmni": "100+kernel.core_pattern=|/evil"});
    b.refused("kernel.shmmni");
    // The host's network, or one joined that is the host's.
    for namespace in [None, Some(json!({"type": "network", "path": "/proc/self/ns/net"}))] {
        let list = b.spec["linux"]["namespaces"].as_array_mut().unwrap();
        list.retain(|n| n["type"] != "network");
        list.extend(namespace);
        b.spec["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        b.refused("needs a network namespace");
    }
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
}

#[test]
fn cve_2021_43784_a_long_document_changes_no_other_field() {
    let Some(mut b) = bundle("long") else { return };
    let long = "x".repeat(200);
    // More than 64 KiB of names, which is where a length of 16 bits comes back to 0.
    b.spec["linux"]["readonlyPaths"] = (0..1000).map(|n| json!(format!("/{long}{n}"))).collect();
    b.spec["process"]["env"] =
        (0..1000).map(|n| json!(format!("V{n}={long}"))).chain([json!("PATH=/bin")]).collect();
    let namespace =
        |link: &str| std::fs::read_link(format!("/proc/self/ns/{link}")).unwrap().display().to_string();
    for link in ["mnt", "pid", "net", "ipc", "uts"] {
        let (code, inside) = b.run(&format!("stat -c %N /proc/self/ns/{link}"));
        assert!(code == 0 && !inside.contains(&namespace(link)), "{link}: {code} {inside}");
    }
}

#[test]
fn cve_2022_0492_no_release_agent_is_in_sight() {
    let Some(mut b) = bundle("agent") else { return };
    b.spec["mounts"].as_array_mut().unwrap().push(
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime"]}),
    );
    b.check("ls /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/release_agent 2>/dev/null; ls /sys/fs/cgroup | wc -l | tr -d '0-9'", "");
    // And none can be mounted: with the default capabilities nothing can.
    assert_ne!(b.run("mkdir -p /dev/shm/m && mount -t cgroup -o memory none /dev/shm/m").0, 0);
}

#[test]
fn go_2022_0396_devices_are_denied_unless_allowed() {
    let Some(mut b) = bundle("devices") else { return };
    if std::fs::File::open("/dev/fuse").is_err() {
        eprintln!("skipped: no /dev/fuse to open");
        return;
    }
    b.spec["process"]["capabilities"]["bounding"] = json!(["CAP_MKNOD"]);
    b.spec["process"]["capabilities"]["effective"] = json!(["CAP_MKNOD"]);
    b.spec["process"]["capabilities"]["permitted"] = json!(["CAP_MKNOD"]);
    symlink("busybox", b.rootfs().join("bin/mknod")).unwrap();
    b.spec["root"]["readonly"] = false.into();
    let script = "mknod /tmp/fuse c 10 229 || exit 1; (: < /tmp/fuse) 2>/dev/null && echo open || echo denied; busybox rm /tmp/fuse";
    for resources in [
        json!({}),
        json!({"devices": []}),
        json!({"devices": [{"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"}]}),
    ] {
        b.spec["linux"]["resources"] = resources;
        b.check(script, "denied");
    }
    b.spec["linux"]["resources"] =
        json!({"devices": [{"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"}]});
    b.check(script, "open");
}

#[test]
fn cve_2026_47262_2025_4437_2024_9676_passwd_is_read_within_bounds() {
    let Some(mut b) = bundle("passwd") else { return };
    let passwd = b.rootfs().join("etc/passwd");
    let make: [(&str, &dyn Fn()); 4] = [
        ("sparse", &|| std::fs::File::create(&passwd).unwrap().set_len(1 << 40).unwrap()),
        ("fifo", &|| {
            rustix::fs::mknodat(
                rustix::fs::CWD,
                &passwd,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::RWXU,
                0,
            )
            .unwrap()
        }),
        ("endless", &|| symlink("/dev/zero", &passwd).unwrap()),
        ("loop", &|| symlink("passwd", &passwd).unwrap()),
    ];
    for (what, make) in make {
        make();
        let (code, text) = b.run("echo $HOME");
        assert_eq!((code, text.as_str()), (0, "/\n"), "{what}");
        std::fs::remove_file(&passwd).unwrap();
    }
    std::fs::write(&passwd, "root:x:0:0::/home/r=oot:/bin/sh\n").unwrap();
    b.check("echo $HOME", "/home/r=oot");
}

#[test]
fn cve_2025_64750_2025_65105_a_label_is_applied_or_refused() {
    let Some(mut b) = bundle("label") else { return };
    b.args(&["true"]);
    let enabled = std::fs::read("/sys/module/apparmor/parameters/enabled");
    if !enabled.is_ok_and(|text| text.first() == Some(&b'Y')) {
        b.spec["process"]["apparmorProfile"] = "docker-default".into();
        b.refused("no active AppArmor");
        b.spec["process"]["apparmorProfile"] = Value::Null;
    }
    if !Path::new("/sys/fs/selinux/enforce").exists() {
        b.spec["process"]["selinuxLabel"] = "system_u:system_r:container_t:s0".into();
        b.refused("no active SELinux");
    }
}

#[test]
fn cve_2025_23266_hooks_have_their_own_environment() {
    let Some(mut b) = bundle("hookenv") else { return };
    b.spec["process"]["env"] = json!(["PATH=/bin", "LD_PRELOAD=/evil.so", "BASH_ENV=/evil"]);
    let record = b.path().join("record");
    let script = format!("/usr/bin/env | /usr/bin/sort > {}", record.display());
    b.spec["hooks"]["createRuntime"] =
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["ONLY=this"]}]);
    b.spec["hooks"]["createContainer"] = b.spec["hooks"]["createRuntime"].clone();
    b.check("echo $LD_PRELOAD", "/evil.so");
    let seen = std::fs::read_to_string(record).unwrap();
    assert!(seen.contains("ONLY=this") && !seen.contains("evil") && !seen.contains("LD_"), "{seen}");
}

#[test]
fn cve_2024_3154_annotations_are_only_words() {
    let Some(mut b) = bundle("annotations") else { return };
    b.spec["annotations"] = json!({
        "org.systemd.property.ExecStartPre": "['/bin/touch', '/tmp/brig-evil']",
        "run.oci.handler": "krun", "io.kubernetes.cri-o.UnifiedCgroup.x": "memory.max=max",
        "run.oci.hooks.stdout": "/tmp/brig-evil"
    });
    b.check("echo ran", "ran");
    assert!(!PathBuf::from("/tmp/brig-evil").exists());
}

#[test]
fn cve_2016_9962_a_process_that_joins_cannot_be_looked_into() {
    let Some(mut b) = bundle("join") else { return };
    // All that an engine gives by default; with CAP_SYS_PTRACE a container looks into whatever it sees.
    let all = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_KILL",
        "CAP_SETUID",
        "CAP_SETPCAP",
        "CAP_SYS_CHROOT",
        "CAP_MKNOD"
    ]);
    b.spec["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    let shared = b.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    b.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/host", "type": "bind", "source": "shared", "options": ["rbind"]}));
    // Writes down where the descriptors of each process that it sees lead to.
    b.script(
        "touch /host/ready; while [ ! -e /host/end ]; do for p in /proc/[0-9]*; do [ $p = /proc/$$ ] || ls -l $p/fd $p/cwd $p/root $p/exe 2>/dev/null; done; done > /host/seen",
    );
    let id = b.id.clone();
    b.ok(&["run", "-d", &id]);
    while !shared.join("ready").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    for _ in 0..60 {
        b.ok(&["exec", &id, "true"]);
    }
    std::fs::write(shared.join("end"), "").unwrap();
    b.wait_status("stopped");
    let seen = std::fs::read_to_string(shared.join("seen")).unwrap();
    // What it saw of others is what became of them; or the launcher, whose socket leads to a runtime that believes it little.
    let ours = ["brig-runtime", "-> /proc", "pidfd", "/state"];
    let links = seen.lines().filter(|l| l.contains(" -> "));
    let bad: Vec<_> = links.filter(|l| ours.iter().any(|word| l.contains(word))).collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert!(seen.contains("busybox"), "the attacker saw nothing at all");
}
