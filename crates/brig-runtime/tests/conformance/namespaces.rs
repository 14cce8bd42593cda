//! config-linux.md: namespaces, id mappings, clocks.

use crate::case::{Case, Runtime, case, skip};
use crate::tests;
use serde_json::{Value, json};
use std::path::Path;

tests! {
    #[quick] configLinuxNamespaces each_listed_namespace_is_new;
    #[quick] configLinuxNamespaces each_namespace_not_listed_is_inherited;
    #[quick] configLinuxNamespaces a_path_is_joined;
    configLinuxNamespaces a_path_of_another_type_is_an_error;
    configLinuxNamespaces a_path_that_is_no_namespace_is_an_error;
    configLinuxNamespaces a_relative_path_is_an_error;
    configLinuxNamespaces a_type_listed_twice_is_an_error;
    configLinuxNamespaces an_unknown_type_is_an_error;
    configLinuxNamespaces the_program_is_process_1_of_a_new_pid_namespace;
    configLinuxNamespaces a_cgroup_namespace_begins_at_the_containers_cgroup;
    #[quick] configLinuxUserNamespaceMappings ids_are_mapped;
    configLinuxUserNamespaceMappings owners_of_files_are_not_changed;
    configLinuxUserNamespaceMappings a_user_namespace_can_be_joined;
    configLinuxTimeOffset clocks_are_set_off;
}

/// Type and name below `/proc/PID/ns`.
const KINDS: [(&str, &str); 5] =
    [("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("mount", "mnt")];

fn links(pid: &str) -> Vec<String> {
    KINDS.iter().map(|(_, link)| namespace(pid, link)).collect()
}

fn namespace(pid: &str, link: &str) -> String {
    std::fs::read_link(format!("/proc/{pid}/ns/{link}")).unwrap().to_str().unwrap().to_owned()
}

fn each_listed_namespace_is_new(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.script("sleep 100").create();
    for (one, two) in links("self").iter().zip(links(&c.pid())) {
        assert_ne!(*one, two);
    }
    assert_eq!(namespace("self", "user"), namespace(&c.pid(), "user"), "user was not listed");
}

fn each_namespace_not_listed_is_inherited(runtime: &Runtime, name: &str) {
    for (kind, link) in KINDS {
        if kind == "mount" {
            continue;
        }
        let mut c = case(runtime, &format!("{name}-{kind}"));
        c.namespace(kind, None);
        if kind == "uts" {
            c.unset("/hostname");
        }
        if kind == "network" {
            bind_sys(&mut c);
        }
        c.script("sleep 100").create();
        assert_eq!(namespace("self", link), namespace(&c.pid(), link), "{kind}");
    }
}

/// The host's sysfs, where a new one may not be made.
fn bind_sys(c: &mut Case<'_>) {
    c.spec["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] != "/sys");
    c.mount(json!({"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]}));
}

fn a_path_is_joined(runtime: &Runtime, name: &str) {
    let (mut first, mut second) = (case(runtime, name), case(runtime, &format!("{name}2")));
    first.script("exec sleep 98765").create().start();
    let pid = first.pid();
    for (kind, link) in KINDS.iter().filter(|(kind, _)| *kind != "mount") {
        second.namespace(kind, Some(json!({"type": kind, "path": format!("/proc/{pid}/ns/{link}")})));
    }
    second.unset("/hostname").script("sleep 100").create();
    for ((kind, link), own) in KINDS.iter().zip(links(&second.pid())) {
        assert_eq!(own == namespace(&pid, link), *kind != "mount", "{kind}");
    }
}

fn a_path_of_another_type_is_an_error(runtime: &Runtime, name: &str) {
    for (kind, other) in [("network", "ipc"), ("ipc", "uts"), ("pid", "net")] {
        let mut c = case(runtime, &format!("{name}-{kind}"));
        let path = format!("/proc/self/ns/{other}");
        c.namespace(kind, Some(json!({"type": kind, "path": path}))).refused();
    }
}

fn a_path_that_is_no_namespace_is_an_error(runtime: &Runtime, name: &str) {
    for (index, path) in ["/etc/passwd", "/no/such/path"].iter().enumerate() {
        let mut c = case(runtime, &format!("{name}{index}"));
        c.namespace("ipc", Some(json!({"type": "ipc", "path": path}))).refused();
    }
}

fn a_relative_path_is_an_error(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let target = c.path().join("ns");
    std::os::unix::fs::symlink("/proc/1/ns/ipc", target).unwrap();
    c.namespace("ipc", Some(json!({"type": "ipc", "path": "ns"}))).refused();
}

fn a_type_listed_twice_is_an_error(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "uts"}));
    c.refused();
}

fn an_unknown_type_is_an_error(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "astral"}));
    c.refused();
}

fn the_program_is_process_1_of_a_new_pid_namespace(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.prints("echo $$; ls /proc | grep -c '^[0-9]'", "1\n3");
}

fn a_cgroup_namespace_begins_at_the_containers_cgroup(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.namespace("cgroup", Some(json!({"type": "cgroup"})));
    let seen = c.output("grep -c ':/$' /proc/self/cgroup; wc -l < /proc/self/cgroup");
    let (below, all) = seen.split_once('\n').unwrap();
    assert_eq!(below, all, "{seen}");
}

/// A user namespace that begins at 100000, with a rootfs that its root owns.
fn in_user_namespace(c: &mut Case<'_>) {
    fn give(path: &Path) {
        std::os::unix::fs::lchown(path, Some(100_000), Some(100_000)).unwrap();
        if path.symlink_metadata().unwrap().is_dir() {
            std::fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path()));
        }
    }
    give(&c.rootfs());
    let map: Value = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    c.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    c.namespace("user", Some(json!({"type": "user"})));
}

fn ids_are_mapped(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    in_user_namespace(&mut c);
    c.prints(
        "id -u; awk '{ print $1, $2, $3 }' /proc/self/uid_map /proc/self/gid_map; touch /tmp/new; stat -c %u /bin/busybox",
        "0\n0 100000 65536\n0 100000 65536\n0",
    );
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(c.rootfs().join("tmp/new")).unwrap());
    assert_eq!(owner, 100_000);
    c.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    c.script("sleep 100").create();
    let status = std::fs::read_to_string(format!("/proc/{}/status", c.pid())).unwrap();
    assert!(status.contains("Uid:\t101000\t"), "{status}");
}

fn owners_of_files_are_not_changed(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    in_user_namespace(&mut c);
    let file = c.rootfs().join("etc/others");
    std::fs::write(&file, "").unwrap();
    std::os::unix::fs::chown(&file, Some(7), Some(8)).unwrap();
    c.prints("stat -c %u:%g /etc/others", "65534:65534");
    let meta = std::fs::metadata(&file).unwrap();
    assert_eq!(
        (std::os::unix::fs::MetadataExt::uid(&meta), std::os::unix::fs::MetadataExt::gid(&meta)),
        (7, 8)
    );
}

fn a_user_namespace_can_be_joined(runtime: &Runtime, name: &str) {
    let (mut first, mut second) = (case(runtime, name), case(runtime, &format!("{name}2")));
    in_user_namespace(&mut first);
    first.script("sleep 100").create();
    let pid = first.pid();
    in_user_namespace(&mut second);
    second.namespace("user", Some(json!({"type": "user", "path": format!("/proc/{pid}/ns/user")})));
    second.script("sleep 100").create();
    assert_eq!(namespace(&second.pid(), "user"), namespace(&pid, "user"));
}

fn clocks_are_set_off(runtime: &Runtime, name: &str) {
    runtime.needs("/linux/namespaces", "time");
    if !Path::new("/proc/self/ns/time").exists() {
        skip("this kernel has no time namespaces");
    }
    let mut c = case(runtime, name);
    c.namespace("time", Some(json!({"type": "time"})));
    c.set(
        "/linux/timeOffsets",
        json!({"boottime": {"secs": 100_000_000, "nanosecs": 5}, "monotonic": {"secs": 1000}}),
    );
    let offsets = c.output("cat /proc/self/timens_offsets; cat /proc/uptime");
    assert!(offsets.split_whitespace().any(|w| w == "100000000"), "{offsets}");
    let uptime: f64 = offsets.lines().last().unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(uptime > 1e8, "{offsets}");
}
