//! On the real kernel, below an own parent in each hierarchy. Needs root; a test of a controller that is not mounted
//! here says so and ends. The v2 part runs in a mount and a cgroup namespace of its own (`unshare` and `mount`, util-linux).
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use cgroup::{Cgroup, Error, Mode, mode};
use oci::runtime::{Cpu, DeviceRule, HugepageLimit, Memory, Pids, Resources, ThrottleDevice};
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const INSIDE: &str = "BRIG_TEST_CGROUP_V2";

/// A container's cgroup that is gone at the end, whatever happens.
struct Own {
    cgroup: Cgroup,
    children: Vec<Child>,
}

impl Own {
    fn new(name: &str) -> Option<Own> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        let path = format!("/brig-test-{}-{name}/container", std::process::id());
        Some(Own { cgroup: Cgroup::create(&path).unwrap(), children: Vec::new() })
    }

    fn has(&self, controller: &str) -> bool {
        let there = self.cgroup.mounts().iter().any(|m| {
            m.name.split(',').any(|n| n == controller)
                || m.v2
                    && std::fs::read_to_string(m.source.join("cgroup.controllers"))
                        .unwrap()
                        .contains(controller)
        });
        if !there {
            println!("skipped: no controller {controller}");
        }
        there
    }

    fn file(&self, controller: &str, name: &str) -> String {
        let mounts = self.cgroup.mounts();
        let mount = mounts.iter().find(|m| m.name.split(',').any(|n| n == controller)).unwrap();
        std::fs::read_to_string(mount.source.join(name)).unwrap().trim().to_owned()
    }

    /// Starts a shell inside; it runs `script` once it has joined.
    fn start(&mut self, script: &str) -> &mut Child {
        let mut child = Command::new("sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        self.cgroup.join(i32::try_from(child.id()).unwrap()).unwrap();
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        self.children.push(child);
        self.children.last_mut().unwrap()
    }

    fn run(&mut self, script: &str) -> std::process::Output {
        self.start(script);
        self.children.pop().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        drop(self.cgroup.kill());
        for child in &mut self.children {
            drop(child.wait());
        }
        let path = self.cgroup.path().to_owned();
        for path in [path.as_str(), path.rsplit_once('/').unwrap().0] {
            if let Err(e) = Cgroup::open(path).and_then(|c| c.remove()) {
                println!("left behind: {}", errors::chain(&e));
            }
        }
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < end, "{what} did not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn memory(limit: i64, swap: i64) -> Resources {
    let memory = Memory { limit: Some(limit), swap: Some(swap), ..Memory::default() };
    Resources { memory: Some(memory), ..Resources::default() }
}

fn device(allow: bool, kind: &str, numbers: Option<(i64, i64)>, access: &str) -> DeviceRule {
    DeviceRule {
        allow,
        kind: Some(kind.into()),
        major: numbers.map(|n| n.0),
        minor: numbers.map(|n| n.1),
        access: Some(access.into()),
    }
}

fn only_null() -> Resources {
    let devices = vec![device(false, "a", None, "rwm"), device(true, "c", Some((1, 3)), "rw")];
    Resources { devices, ..Resources::default() }
}

const M: i64 = 1 << 20;

#[test]
fn memory_limit_kills() {
    let Some(mut own) = Own::new("oom") else { return };
    if !own.has("memory") {
        return;
    }
    own.cgroup.apply(&memory(16 * M, 32 * M)).unwrap();
    assert_eq!(own.cgroup.oom_kills(), 0);
    let output = own.run("exec tail /dev/zero");
    assert_eq!(output.status.signal(), Some(9), "{output:?}");
    assert_eq!(own.cgroup.oom_kills(), 1);
    let stats = own.cgroup.stats().unwrap();
    assert_eq!(stats.memory.limit, Some(16 << 20));
    assert!(stats.memory.max_usage > 8 << 20 && stats.memory.failcnt > 0, "{:?}", stats.memory);
    assert!(stats.memory.stat.len() > 10);
    assert!(stats.cpu.total_ns > 0);
}

#[test]
fn memory_limits_go_up_and_down() {
    let Some(own) = Own::new("memory") else { return };
    if !own.has("memory") {
        return;
    }
    for (limit, sum) in [(32, 64), (16, 24), (128, 256), (200, 200), (64, 64)] {
        own.cgroup.apply(&memory(limit * M, sum * M)).unwrap();
        let stats = own.cgroup.stats().unwrap().memory;
        assert_eq!(stats.limit.map(|b| b >> 20), u64::try_from(limit).ok());
        if stats.swap_limit.is_some() {
            assert_eq!(stats.swap_limit.map(|b| b >> 20), u64::try_from(sum - limit).ok());
        }
    }
    let unlimited = Memory { limit: Some(-1), ..Memory::default() };
    own.cgroup.apply(&Resources { memory: Some(unlimited), ..Resources::default() }).unwrap();
    assert_eq!(own.cgroup.stats().unwrap().memory.limit, None);
    let error = own.cgroup.apply(&memory(64 * M, 32 * M)).unwrap_err();
    assert_eq!(errors::HasKind::kind(&error), errors::Kind::InvalidArgument, "{error:?}");
}

#[test]
fn pids_limit_stops_forks() {
    let Some(mut own) = Own::new("pids") else { return };
    if !own.has("pids") {
        return;
    }
    own.cgroup.apply(&Resources { pids: Some(Pids { limit: 3 }), ..Resources::default() }).unwrap();
    let output = own.run("exec 2>&-; for i in 1 2 3; do sleep 100 >&- & done; echo not reached");
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    let pids = own.cgroup.stats().unwrap().pids;
    assert!(pids.current <= 3 && pids.limit == Some(3), "{pids:?}");
    own.cgroup.apply(&Resources { pids: Some(Pids { limit: -1 }), ..Resources::default() }).unwrap();
    assert_eq!(own.cgroup.stats().unwrap().pids.limit, None);
}

#[test]
fn cpu_values() {
    let Some(own) = Own::new("cpu") else { return };
    if mode().unwrap() == Mode::V2 || !own.has("cpu") {
        println!("skipped: v1 files");
        return;
    }
    let set = |cpu| own.cgroup.apply(&Resources { cpu: Some(cpu), ..Resources::default() });
    set(Cpu { shares: Some(512), quota: Some(50_000), period: Some(100_000), ..Cpu::default() }).unwrap();
    assert_eq!(own.file("cpu", "cpu.shares"), "512");
    assert_eq!(own.file("cpu", "cpu.cfs_quota_us"), "50000");
    set(Cpu { quota: Some(-1), period: Some(20_000), ..Cpu::default() }).unwrap();
    assert_eq!(own.file("cpu", "cpu.cfs_quota_us"), "-1");
    assert_eq!(own.file("cpu", "cpu.cfs_period_us"), "20000");
    set(Cpu { quota: Some(30_000), burst: Some(10_000), ..Cpu::default() }).unwrap();
    set(Cpu { quota: Some(5_000), burst: Some(4_000), ..Cpu::default() }).unwrap();
    assert_eq!(own.file("cpu", "cpu.cfs_burst_us"), "4000");
    set(Cpu { idle: Some(1), ..Cpu::default() }).unwrap();
    assert_eq!(own.file("cpu", "cpu.idle"), "1");
    set(Cpu { cpus: Some("0".into()), mems: Some("0".into()), ..Cpu::default() }).unwrap();
    assert_eq!(own.file("cpuset", "cpuset.cpus"), "0");
    let error = set(Cpu { cpus: Some("4000".into()), ..Cpu::default() }).unwrap_err();
    assert!(errors::chain(&error).contains("cpuset.cpus"), "{error:?}");
}

#[test]
fn a_new_cpuset_takes_processes() {
    let Some(mut own) = Own::new("cpuset") else { return };
    assert_eq!(own.run("echo in").stdout, b"in\n");
}

#[test]
fn devices_are_denied() {
    let Some(mut own) = Own::new("devices") else { return };
    own.cgroup.apply(&only_null()).unwrap();
    assert!(own.run("cat /dev/null").status.success());
    assert!(!own.run("head -c1 /dev/zero").status.success());
    own.cgroup
        .apply(&Resources { devices: vec![device(true, "a", None, "")], ..Resources::default() })
        .unwrap();
    assert!(own.run("head -c1 /dev/zero").status.success());
}

#[test]
fn throttles() {
    let Some(own) = Own::new("blkio") else { return };
    if !own.has("blkio") {
        return;
    }
    // The disk under the root, if there is one.
    let stat = rustix::fs::stat("/").unwrap();
    let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    let rate = ThrottleDevice { major: major.into(), minor: minor.into(), rate: 1 << 20 };
    let block_io = oci::runtime::BlockIo { throttle_read_bps_device: vec![rate], ..Default::default() };
    match own.cgroup.apply(&Resources { block_io: Some(block_io), ..Resources::default() }) {
        Ok(_) => assert_eq!(
            own.file("blkio", "blkio.throttle.read_bps_device"),
            format!("{major}:{minor} {}", 1 << 20)
        ),
        Err(e) => println!("skipped: {}", errors::chain(&e)),
    }
}

#[test]
fn freeze_kill_remove() {
    let Some(mut own) = Own::new("freeze") else { return };
    freeze_and_kill(&mut own);
}

fn freeze_and_kill(own: &mut Own) {
    own.start("sleep 1000 & exec sleep 1000");
    until("two processes", || own.cgroup.pids().unwrap().len() == 2);
    let path = own.cgroup.path().to_owned();
    assert!(matches!(Cgroup::create(&path), Err(Error::Occupied { .. })));
    assert!(!own.cgroup.is_frozen().unwrap());
    own.cgroup.freeze().unwrap();
    assert!(own.cgroup.is_frozen().unwrap());
    own.cgroup.thaw().unwrap();
    assert!(!own.cgroup.is_frozen().unwrap());
    // Frozen processes die too.
    own.cgroup.freeze().unwrap();
    own.cgroup.kill().unwrap();
    let status = own.children.pop().unwrap().wait().unwrap();
    assert_eq!(status.signal(), Some(9));
    own.cgroup.remove().unwrap();
    own.cgroup.remove().unwrap();
    let gone = Cgroup::open(&path).unwrap();
    assert!(!gone.exists());
    assert!(gone.pids().unwrap().is_empty());
    assert!(matches!(gone.stats(), Err(Error::NotFound { .. })));
    gone.thaw().unwrap();
    gone.kill().unwrap();
}

#[test]
fn a_frozen_cgroup_is_not_used_again() {
    let Some(own) = Own::new("frozen") else { return };
    own.cgroup.freeze().unwrap();
    assert!(matches!(Cgroup::create(own.cgroup.path()), Err(Error::Frozen { .. })));
    own.cgroup.thaw().unwrap();
    Cgroup::create(own.cgroup.path()).unwrap();
}

#[test]
fn nested_cgroups_are_listed_and_removed() {
    let Some(mut own) = Own::new("nested") else { return };
    let inner = format!("{}/a/b", own.cgroup.path());
    let nested = Cgroup::create(&inner).unwrap();
    let child = own.start("exec sleep 1000");
    let pid = i32::try_from(child.id()).unwrap();
    nested.join(pid).unwrap();
    assert_eq!(own.cgroup.pids().unwrap(), [pid]);
    assert!(matches!(Cgroup::create(own.cgroup.path()), Err(Error::Occupied { .. })));
    own.cgroup.kill().unwrap();
    // Killed, not yet reaped: removal waits for the kernel only.
    own.cgroup.remove().unwrap();
    assert!(!Cgroup::open(&inner).unwrap().exists());
}

#[test]
fn missing_controllers_are_named() {
    let Some(own) = Own::new("missing") else { return };
    let rdma = [("mlx5_0".to_owned(), oci::runtime::Rdma::default())].into();
    match own.cgroup.apply(&Resources { rdma, ..Resources::default() }) {
        Err(Error::MissingController { controller, .. }) => assert_eq!(controller, "rdma"),
        other => println!("skipped: rdma is there ({other:?})"),
    }
    let bad = [("../x.y", "1"), ("cgroup.procs", "1"), ("memory", "1")];
    for (name, value) in bad {
        let unified = [(name.to_owned(), value.to_owned())].into();
        assert!(own.cgroup.apply(&Resources { unified, ..Resources::default() }).is_err(), "{name}");
    }
    own.cgroup.apply(&Resources::default()).unwrap();
}

#[test]
fn v2() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let script = "mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["-m", "-C", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "v2_inside", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn v2_inside() {
    if std::env::var_os(INSIDE).is_none() {
        println!("runs in a namespace of `v2`");
        return;
    }
    assert_eq!(mode().unwrap(), Mode::V2);
    let Some(mut own) = Own::new("v2") else { return };
    assert!(own.cgroup.v2_directory().is_some());
    let mounts = own.cgroup.mounts();
    assert_eq!(mounts.len(), 1);
    assert!(mounts[0].v2 && mounts[0].name.is_empty());

    own.cgroup.apply(&only_null()).unwrap();
    assert!(own.run("cat /dev/null").status.success());
    assert!(!own.run("head -c1 /dev/zero").status.success());
    // Replaced, not added to: else the first would still refuse.
    let devices = vec![device(false, "a", None, ""), device(true, "c", Some((1, 5)), "r")];
    own.cgroup.apply(&Resources { devices, ..Resources::default() }).unwrap();
    assert!(own.run("head -c1 /dev/zero").status.success());
    assert!(!own.run("exec 3<>/dev/zero").status.success());
    own.cgroup
        .apply(&Resources { devices: vec![device(true, "a", None, "")], ..Resources::default() })
        .unwrap();

    let root = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
    let has = |name: &str| root.split_whitespace().any(|c| c == name);
    if has("hugetlb") {
        let sizes = std::fs::read_dir(&mounts[0].source).unwrap();
        let names = sizes.map(|e| e.unwrap().file_name().into_string().unwrap());
        let size = names.filter_map(|n| Some(n.strip_prefix("hugetlb.")?.strip_suffix(".max")?.to_owned()));
        for page_size in size.filter(|s| !s.contains('.')) {
            let hugepage_limits = vec![HugepageLimit { page_size: page_size.clone(), limit: 0 }];
            own.cgroup.apply(&Resources { hugepage_limits, ..Resources::default() }).unwrap();
            let value = std::fs::read_to_string(mounts[0].source.join(format!("hugetlb.{page_size}.max")));
            assert_eq!(value.unwrap().trim(), "0");
            println!("limited pages of {page_size}");
        }
    }
    if !has("memory") {
        let error = own.cgroup.apply(&memory(M, M)).unwrap_err();
        assert!(matches!(error, Error::MissingController { .. }), "{error:?}");
    }
    let unified = [("cgroup.max.descendants".to_owned(), "7".to_owned())].into();
    own.cgroup.apply(&Resources { unified, ..Resources::default() }).unwrap();
    let value = std::fs::read_to_string(mounts[0].source.join("cgroup.max.descendants")).unwrap();
    assert_eq!(value.trim(), "7");
    assert!(own.cgroup.stats().unwrap().cpu.total_ns > 0);
    freeze_and_kill(&mut own);
}

/// Prints what one container costs; no assertion, the machine is shared.
#[test]
fn cost() {
    let Some(own) = Own::new("cost") else { return };
    let parent = own.cgroup.path().rsplit_once('/').unwrap().0.to_owned();
    let mut resources = memory(64 * M, 128 * M);
    resources.devices = only_null().devices;
    resources.pids = Some(Pids { limit: 100 });
    let start = Instant::now();
    let cgroup = Cgroup::create(&format!("{parent}/other")).unwrap();
    let created = start.elapsed();
    cgroup.apply(&resources).unwrap();
    let applied = start.elapsed();
    cgroup.remove().unwrap();
    println!("create {created:?}, apply {:?}, remove {:?}", applied - created, start.elapsed() - applied);
}
