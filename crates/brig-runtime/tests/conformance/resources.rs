//! config-linux.md: control groups.

use crate::case::{Runtime, case, skip};
use crate::tests;
use serde_json::json;

tests! {
    #[quick] configLinuxCgroupsPath the_process_is_in_the_group_asked_for;
    configLinuxCgroupsPath the_same_path_is_the_same_place;
    configLinuxControlGroups the_groups_owner_is_the_user_where_it_may_be_written;
    configLinuxControlGroups the_groups_owner_is_not_changed_otherwise;
    #[quick] configLinuxMemory memory_limit;
    configLinuxMemory swappiness_and_reservation;
    configLinuxCPU shares_quota_and_period;
    configLinuxCPU processors_and_nodes;
    #[quick] configLinuxPIDS limit_of_tasks;
    configLinuxHugePageLimits huge_pages;
    configLinuxBlockIO throttle;
    #[quick] configLinuxDeviceAllowedlist what_is_not_allowed_is_denied;
    configLinuxDeviceAllowedlist entries_count_in_order;
    configLinuxUnified a_controller_that_is_not_there_is_an_error;
}

fn the_process_is_in_the_group_asked_for(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.script("sleep 100").create();
    let path = c.spec["linux"]["cgroupsPath"].as_str().unwrap().to_owned();
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", c.pid())).unwrap();
    // What is named only, and hierarchies of v2 beside v1, may be left alone.
    let counts = |l: &&str| l.contains(":memory:") || l.contains(":pids:") || groups.lines().count() == 1;
    let lines: Vec<_> = groups.lines().filter(counts).collect();
    assert!(!lines.is_empty() && lines.iter().all(|l| l.ends_with(&path)), "{groups}");
}

fn the_same_path_is_the_same_place(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let groups =
        |c: &crate::case::Case<'_>| std::fs::read_to_string(format!("/proc/{}/cgroup", c.pid())).unwrap();
    c.script("sleep 100").create();
    let first = groups(&c);
    c.ok(&["delete", "--force", &c.id]);
    c.create();
    assert_eq!(first, groups(&c));
}

fn memory_limit(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/linux/resources/memory", json!({"limit": 67_108_864}));
    c.script("sleep 100").create();
    assert_eq!(c.cgroup_file("memory", "memory.limit_in_bytes", "memory.max"), "67108864");
}

fn swappiness_and_reservation(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/linux/resources/memory", json!({"limit": 67_108_864, "reservation": 33_554_432}));
    c.script("sleep 100").create();
    assert_eq!(c.cgroup_file("memory", "memory.soft_limit_in_bytes", "memory.low"), "33554432");
}

fn shares_quota_and_period(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/linux/resources/cpu", json!({"shares": 1024, "quota": 50_000, "period": 100_000}));
    c.script("sleep 100").create();
    let shares = c.cgroup_file("cpu", "cpu.shares", "cpu.weight");
    // Two conversions are in use.
    assert!(["1024", "39", "100"].contains(&shares.as_str()), "{shares}");
    let quota = c.cgroup_file("cpu", "cpu.cfs_quota_us", "cpu.max");
    assert_eq!(quota.split(' ').next(), Some("50000"));
}

fn processors_and_nodes(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/linux/resources/cpu", json!({"cpus": "0", "mems": "0"}));
    c.script("sleep 100").create();
    assert_eq!(c.cgroup_file("cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    assert_eq!(c.cgroup_file("cpuset", "cpuset.mems", "cpuset.mems"), "0");
}

fn limit_of_tasks(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/linux/resources/pids", json!({"limit": 77}));
    c.script("sleep 100").create();
    assert_eq!(c.cgroup_file("pids", "pids.max", "pids.max"), "77");
}

fn huge_pages(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/linux/resources/hugepageLimits", json!([{"pageSize": "2MB", "limit": 4_194_304}]));
    if !std::path::Path::new("/sys/fs/cgroup/hugetlb").exists()
        && !std::path::Path::new("/sys/fs/cgroup/cgroup.procs").exists()
    {
        skip("no cgroup controller hugetlb");
    }
    c.script("sleep 100").create();
    assert_eq!(c.cgroup_file("hugetlb", "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"), "4194304");
}

fn throttle(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    let Some((major, minor)) = disk() else { skip("no disk to throttle") };
    c.set(
        "/linux/resources/blockIO",
        json!({"throttleReadBpsDevice": [{"major": major, "minor": minor, "rate": 1_048_576}]}),
    );
    c.script("sleep 100").create();
    let text = c.cgroup_file("blkio", "blkio.throttle.read_bps_device", "io.max");
    assert!(text.contains(&format!("{major}:{minor}")) && text.contains("1048576"), "{text}");
}

/// Numbers of a whole disk of this machine.
fn disk() -> Option<(u32, u32)> {
    std::fs::read_dir("/sys/block").ok()?.flatten().find_map(|entry| {
        let text = std::fs::read_to_string(entry.path().join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    })
}

/// Opens a device that any process of root may open, if its cgroup lets it.
const OPEN_FUSE: &str =
    "mknod /tmp/fuse c 10 229; (: < /tmp/fuse) 2>/dev/null && echo open || echo denied; rm /tmp/fuse";

/// Skips where the kernel has no such device.
fn needs_fuse() {
    if std::fs::File::open("/dev/fuse").is_err() {
        skip("no /dev/fuse to open");
    }
}

fn what_is_not_allowed_is_denied(runtime: &Runtime, name: &str) {
    needs_fuse();
    let mut c = case(runtime, name);
    c.prints(&format!("{OPEN_FUSE}; head -c 1 /dev/zero | wc -c"), "denied\n1");
}

fn entries_count_in_order(runtime: &Runtime, name: &str) {
    needs_fuse();
    let mut c = case(runtime, name);
    let rule = |allow: bool, access: &str| json!({"allow": allow, "type": "c", "major": 10, "minor": 229, "access": access});
    let deny_all = json!({"allow": false, "access": "rwm"});
    c.set("/linux/resources/devices", json!([deny_all, rule(true, "rwm")])).prints(OPEN_FUSE, "open");
    c.set("/linux/resources/devices", json!([deny_all, rule(true, "rwm"), rule(false, "r")]))
        .prints(OPEN_FUSE, "denied");
    c.set("/linux/resources/devices", json!([rule(true, "rwm"), deny_all])).prints(OPEN_FUSE, "denied");
}

fn a_controller_that_is_not_there_is_an_error(runtime: &Runtime, name: &str) {
    let mut c = case(runtime, name);
    c.set("/linux/resources/unified", json!({"nosuchcontroller.max": "1"})).refused();
}

/// The owners of the cgroup's directory and of two files in it, with a mount of these options.
fn owners(runtime: &Runtime, name: &str, options: &[&str], namespace: bool) -> Vec<u32> {
    use std::os::unix::fs::MetadataExt as _;
    if std::path::Path::new("/sys/fs/cgroup/cgroup.procs").exists() {
        let mut c = case(runtime, name);
        c.set("/process/user", json!({"uid": 1234, "gid": 0}))
            .namespace("cgroup", namespace.then(|| json!({"type": "cgroup"})));
        c.mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options}));
        c.script("sleep 100").create();
        let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", c.pid())).unwrap();
        let path = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
        let directory = std::path::Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'));
        let owner = |file: &str| std::fs::metadata(directory.join(file)).unwrap().uid();
        return [".", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads", "memory.max"]
            .map(owner)
            .to_vec();
    }
    skip("not cgroup v2 alone")
}

fn the_groups_owner_is_the_user_where_it_may_be_written(runtime: &Runtime, name: &str) {
    assert_eq!(owners(runtime, name, &["rw", "nosuid"], true), [1234, 1234, 1234, 1234, 0]);
}

fn the_groups_owner_is_not_changed_otherwise(runtime: &Runtime, name: &str) {
    assert_eq!(owners(runtime, name, &["ro", "nosuid"], true), [0; 5]);
    assert_eq!(owners(runtime, name, &["rw", "nosuid"], false), [0; 5]);
}
