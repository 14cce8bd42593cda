//! Paths that are swapped while containers start: an attacker with a directory in common, as fast as it can.
//!
//! Needs root and Debian's package busybox-static.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test says why it fails or is skipped")]

#[path = "support/bundle.rs"]
mod bundle;

use bundle::{Bundle, bundle, receive_fd};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, makedev};
use serde_json::{Value, json};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How many containers are started in each race. `BRIG_RACE_STARTS=2000` is for a release.
fn starts() -> u32 {
    std::env::var("BRIG_RACE_STARTS").ok().and_then(|text| text.parse().ok()).unwrap_or(60)
}

/// Swaps two names until it is dropped.
struct Racer {
    end: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Racer {
    fn new(one: PathBuf, two: PathBuf) -> Racer {
        let (end, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop, count) = (end.clone(), swaps.clone());
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(CWD, &one, CWD, &two, RenameFlags::EXCHANGE).unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                // Each state long enough to be met.
                (0..(count.load(Ordering::Relaxed) % 64) * 40).for_each(|_| std::hint::spin_loop());
            }
        });
        Racer { end, swaps, thread: Some(thread) }
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        drop(self.thread.take().unwrap().join());
        assert!(self.swaps.load(Ordering::Relaxed) > u64::from(starts()), "the attacker hardly ran");
    }
}

fn mount(b: &mut Bundle, entry: Value) {
    b.spec["mounts"].as_array_mut().unwrap().push(entry);
}

/// All below a directory.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(path) = open.pop() {
        if path.symlink_metadata().unwrap().is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        found.push(path);
    }
    found.sort();
    found
}

/// Starts containers with `shared` swapping `a` for a link out; gives how many of them ran.
fn race(name: &str, link: impl Fn(&Path) -> PathBuf, add: impl Fn(&mut Bundle)) -> Option<u32> {
    let mut b = bundle(name)?;
    let canary = b.path().join("canary");
    std::fs::create_dir_all(canary.join("b")).unwrap();
    std::fs::write(canary.join("file"), "content").unwrap();
    let shared = b.path().join("shared");
    std::fs::create_dir_all(shared.join("a")).unwrap();
    symlink(link(&canary), shared.join("trap")).unwrap();
    std::fs::create_dir(b.path().join("source")).unwrap();
    std::fs::write(b.path().join("host-file"), "").unwrap();
    mount(&mut b, json!({"destination": "/v", "type": "bind", "source": "shared", "options": ["rbind"]}));
    add(&mut b);
    let before = entries(&canary);
    let racer = Racer::new(shared.join("a"), shared.join("trap"));
    b.args(&["cat", "/proc/self/mountinfo"]);
    let mut ran = 0;
    for _ in 0..starts() {
        let output = b.call(&["run", &b.id]);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() {
            ran += 1;
            // What is shown, not where: below the root a link's target is made, whatever it is called.
            let mut shown = out.lines().filter_map(|line| line.split(' ').nth(3));
            assert!(
                !shown.any(|root| root.contains("canary")),
                "{name}: the host's directory is mounted: {out}"
            );
        } else {
            let clean = err.starts_with("brig-runtime: run failed: ") && err.trim_end().lines().count() == 1;
            assert!(clean, "{name}: {err}");
        }
        assert_eq!(entries(&canary), before, "{name}: something was made outside");
    }
    drop(racer);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(b.path().to_str().unwrap()), "{name}: a mount is left");
    assert_eq!(b.ok(&["list", "-q"]), "");
    Some(ran)
}

fn relative(canary: &Path) -> PathBuf {
    Path::new("../../../../../../../../..").join(canary.strip_prefix("/").unwrap())
}

#[test]
fn cve_2021_30465_a_mount_lands_where_it_should() {
    for (name, link) in [("race-abs", Path::to_owned as fn(&Path) -> PathBuf), ("race-rel", relative)] {
        let ran = race(name, link, |b| {
            mount(
                b,
                json!({"destination": "/v/a/b", "type": "bind", "source": "source", "options": ["rbind"]}),
            );
            mount(b, json!({"destination": "/v/a/c/d", "type": "tmpfs", "source": "tmpfs"}));
        });
        // A race in which nobody ever wins, or loses, is none.
        assert!(ran.is_none_or(|ran| ran > 0), "{name}: no container ever started");
    }
}

#[test]
fn cve_2024_45310_nothing_is_made_outside() {
    let ran = race("race-mkdir", Path::to_owned, |b| {
        mount(
            b,
            json!({"destination": "/v/a/x/y/z/file", "type": "bind", "source": "host-file", "options": ["bind"]}),
        );
        mount(b, json!({"destination": "/v/a/new", "type": "tmpfs", "source": "tmpfs"}));
        b.spec["linux"]["devices"] = json!([{"type": "c", "path": "/v/a/dev/zero", "major": 1, "minor": 5}]);
        b.spec["process"]["cwd"] = "/v/a/cwd".into();
    });
    assert!(ran.is_none_or(|ran| ran > 0), "no container ever started");
}

/// A file of the host's procfs that an attacker would like to have.
const PRIZE: &str = "/proc/sys/kernel/core_pattern";

#[test]
fn cve_2025_31133_and_62161_a_mask_is_the_null_device() {
    let Some(mut b) = bundle("race-mask") else { return };
    // The container's /dev is the image's, and others have it too.
    b.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
    b.spec["root"]["readonly"] = false.into();
    b.spec["linux"]["maskedPaths"] = json!(["/proc/keys", "/proc/timer_list", "/file"]);
    std::fs::write(b.rootfs().join("file"), "content").unwrap();
    let dev = b.rootfs().join("dev");
    std::fs::create_dir(&dev).unwrap();
    rustix::fs::mknodat(
        CWD,
        dev.join("null"),
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o666),
        makedev(1, 3),
    )
    .unwrap();
    symlink(PRIZE, dev.join("trap")).unwrap();
    let before = std::fs::read_to_string(PRIZE).unwrap();
    let racer = Racer::new(dev.join("null"), dev.join("trap"));
    b.script("for f in /proc/keys /proc/timer_list /file; do stat -c %t:%T $f; echo evil > $f; cat $f; done; grep -c core_pattern /proc/self/mountinfo");
    let mut ran = 0;
    for _ in 0..starts() {
        let output = b.call(&["run", &b.id]);
        let out = String::from_utf8_lossy(&output.stdout);
        if !out.is_empty() {
            ran += 1;
            assert_eq!(out, "1:3\n1:3\n1:3\n0\n", "{}", String::from_utf8_lossy(&output.stderr));
        }
        assert_eq!(std::fs::read_to_string(PRIZE).unwrap(), before);
    }
    drop(racer);
    assert!(ran > 0, "no container ever started");
}

#[test]
fn cve_2025_52565_the_console_is_the_containers_terminal() {
    let Some(mut b) = bundle("race-console") else { return };
    b.spec["mounts"].as_array_mut().unwrap().retain(|m| m["destination"] != "/dev");
    b.spec["root"]["readonly"] = false.into();
    b.spec["process"]["terminal"] = true.into();
    let dev = b.rootfs().join("dev");
    std::fs::create_dir(&dev).unwrap();
    std::fs::write(dev.join("console"), "").unwrap();
    symlink(PRIZE, dev.join("trap")).unwrap();
    let before = std::fs::read_to_string(PRIZE).unwrap();
    let socket = b.path().join("console.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    let racer = Racer::new(dev.join("console"), dev.join("trap"));
    b.script("cat /proc/self/mountinfo > /tmp/mounts");
    let id = b.id.clone();
    let mut ran = 0;
    for _ in 0..starts() / 2 {
        let output = b.call(&["create", "--console-socket", socket.to_str().unwrap(), &id]);
        let terminal = listener.accept().ok().map(|(connection, _)| {
            connection.set_nonblocking(false).unwrap();
            // A failed create may have connected and sent nothing.
            output.status.success().then(|| receive_fd(&connection))
        });
        if output.status.success() {
            ran += 1;
            b.ok(&["start", &id]);
            b.wait_status("stopped");
            let mounts = std::fs::read_to_string(b.rootfs().join("tmp/mounts")).unwrap();
            let over = mounts
                .lines()
                .filter(|l| l.contains("devpts"))
                .map(|l| l.split(' ').nth(4).unwrap_or_default());
            assert!(over.clone().all(|at| at.starts_with("/dev/")), "{mounts}");
            b.ok(&["delete", "--force", &id]);
        }
        drop(terminal);
        assert_eq!(std::fs::read_to_string(PRIZE).unwrap(), before);
    }
    drop(racer);
    assert!(ran > 0, "no container ever started");
}

#[test]
fn cve_2019_19921_and_2025_52881_writes_to_proc_while_it_is_swapped() {
    let Some(mut b) = bundle("race-proc") else { return };
    // The image's /proc is a directory, or a link into a volume with files in a procfs' places.
    let fake = b.path().join("shared/fake");
    for file in ["self/attr/exec", "sys/kernel/shmmni", "self/oom_score_adj"] {
        let file = fake.join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, "untouched").unwrap();
    }
    mount(&mut b, json!({"destination": "/v", "type": "bind", "source": "shared", "options": ["rbind"]}));
    let procfs = b.spec["mounts"].as_array_mut().unwrap().remove(0);
    assert_eq!(procfs["destination"], "/proc");
    mount(&mut b, procfs);
    std::fs::create_dir(b.rootfs().join("proc")).unwrap();
    symlink("/v/fake", b.rootfs().join("trap")).unwrap();
    b.spec["linux"]["sysctl"] = json!({"kernel.shmmni": "77"});
    b.spec["process"]["oomScoreAdj"] = 100.into();
    let racer = Racer::new(b.rootfs().join("proc"), b.rootfs().join("trap"));
    b.args(&["cat", "/proc/sys/kernel/shmmni", "/proc/self/oom_score_adj"]);
    let mut ran = 0;
    for _ in 0..starts() {
        let output = b.call(&["run", &b.id]);
        // The names go on being swapped while it reads, so not all that ran shows what was written.
        ran += u32::from(output.stdout == b"77\n100\n");
        for file in ["self/attr/exec", "sys/kernel/shmmni", "self/oom_score_adj"] {
            assert_eq!(std::fs::read_to_string(fake.join(file)).unwrap(), "untouched", "{file} was written");
        }
    }
    drop(racer);
    assert!(ran > 0, "no container ever started");
}
