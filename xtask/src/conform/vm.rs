//! `conform vm`: a machine with nothing but cgroup v2 and a real systemd, which a developer's machine may not be. Debian's kernel
//! in Debian's qemu, without hardware help, so that it runs anywhere; each command in it is some ten times slower.
//!
//! ```text
//! target/conform/vm/root.ext4     Debian: systemd, D-Bus, runc, crun; made once, never written to by the machine
//! target/conform/vm/vmlinuz       of linux-image-cloud-amd64, unpacked
//! target/conform/vm/brig.ext4     made each time: our programs, test programs, units, and this program
//! target/conform/vm/console.log   what kernel and systemd said
//! ```
//!
//! [`inside`] is started by a unit, writes a line for each check to the second serial port, and the machine ends itself.

mod brigd;
pub(super) mod inside;
mod networks;
mod suites;
mod systemd;

use crate::build::{Profile, build};
use crate::packages;
use crate::run::{Doing, Error, Result, output, run};
use crate::workspace::{cargo, root, target};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// All of it, boot included.
const DEADLINE: Duration = Duration::from_secs(40 * 60);
/// Without a line. The longest check has less.
const SILENCE: Duration = Duration::from_secs(6 * 60);
/// What the root file system has beside Debian's smallest; without udev, for which nothing waits then. `dbus-user-session` and `libpam-systemd` are for users' own systemds.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,busybox-static,runc,crun,iproute2,nftables,\
                        procps,kmod,uidmap,strace,xfsprogs,criu,iptables";
const SUITE: &str = "bookworm";
const KERNEL: &str = "linux-image-cloud-amd64";
/// Raised when what is below changes, so that an old root is not used.
const RECIPE: &str = "1";
/// Where `brig.ext4` is mounted.
const BRIG: &str = "/brig";
/// Test programs whose every test is quick, and asks the kernel something that differs on another kernel or on cgroup v2.
const TESTS: &[&str] = &[
    "containers",
    "linux",
    "mounts",
    "rootless",
    "security",
    "security_limits",
    "verbs",
    "bad_input",
    "own_program",
    // With the real criu, which does not run on every kernel.
    "checkpoint",
];

const UNIT: &str = "[Unit]\nDescription=brig's checks\nAfter=multi-user.target dbus.service systemd-journald.service\n\
     SuccessAction=poweroff-force\nFailureAction=poweroff-force\n\
     [Service]\nType=oneshot\nStandardOutput=tty\nStandardError=tty\nTTYPath=/dev/ttyS1\nDelegate=yes\nTasksMax=infinity\n\
     Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root\n\
     ExecStartPre=/bin/mount -t ext4 -o ro /dev/nvme0n2 /brig\n\
     ExecStart=/brig/xtask conform vm-inside\n[Install]\nWantedBy=multi-user.target\n";

/// `[FILTER...]`: names of checks, or parts of them.
pub(super) fn command(args: &[String]) -> Result<()> {
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::TEST)?;
    packages::ensure(packages::CONFORM_VM)?;
    let home = target().join("conform/vm");
    std::fs::create_dir_all(&home).doing(|| format!("create {}", home.display()))?;
    ensure_root(&home)?;
    payload(&home, args)?;
    let mut machine = Machine::boot(&home)?;
    judge(&mut machine, &home)
}

/// Makes kernel and root file system, if they are not there yet.
fn ensure_root(home: &Path) -> Result<()> {
    let stamp = home.join("recipe");
    let recipe = format!("{RECIPE} {SUITE} {PACKAGES}\n{UNIT}");
    if std::fs::read_to_string(&stamp).is_ok_and(|made| made == recipe) {
        return Ok(());
    }
    let (tree, kernel) = (home.join("root"), home.join("kernel"));
    for old in [&tree, &kernel] {
        drop(std::fs::remove_dir_all(old));
        std::fs::create_dir_all(old).doing(|| format!("create {}", old.display()))?;
    }
    // What it mounts must be gone with it.
    let mut debootstrap = Command::new("unshare");
    debootstrap.args([
        "--mount",
        "debootstrap",
        "--variant=minbase",
        &format!("--include={PACKAGES}"),
        SUITE,
    ]);
    run(debootstrap.arg(&tree).arg("http://deb.debian.org/debian").stdout(Stdio::null()))?;
    let version = unpack_kernel(home, &kernel, &tree)?;
    write(&tree.join("etc/hostname"), "brig-vm\n")?;
    write(&tree.join("etc/systemd/system/brig-checks.service"), UNIT)?;
    std::fs::create_dir_all(tree.join(&BRIG[1..])).doing(|| format!("create {BRIG}"))?;
    let inside = |args: &[&str]| run(Command::new("chroot").arg(&tree).args(args));
    inside(&["depmod", &version])?;
    inside(&["systemctl", "enable", "brig-checks.service"])?;
    inside(&["useradd", "--create-home", "--uid", "1000", "someone"])?;
    image(&tree, &home.join("root.ext4"), 2048)?;
    for made in [&tree, &kernel] {
        drop(std::fs::remove_dir_all(made));
    }
    write(&stamp, &recipe)
}

/// `vmlinuz` into `home`, the modules into `tree`. The release of the kernel.
fn unpack_kernel(home: &Path, kernel: &Path, tree: &Path) -> Result<String> {
    // The package of that name only depends on the one that has the kernel.
    let depends = output(Command::new("apt-cache").args(["show", "--no-all-versions", KERNEL]))?;
    let package = depends
        .lines()
        .find_map(|line| line.strip_prefix("Depends: "))
        .and_then(|list| list.split([' ', ',']).find(|name| name.starts_with("linux-image-")))
        .ok_or_else(|| Error::new(format!("{KERNEL} depends on no kernel")))?
        .to_owned();
    run(Command::new("apt-get").args(["download", &package]).current_dir(kernel).stderr(Stdio::null()))?;
    let files = std::fs::read_dir(kernel).doing(|| format!("read {}", kernel.display()))?;
    let deb = files.flatten().map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "deb"));
    let deb = deb.ok_or_else(|| Error::new(format!("no {package} was downloaded")))?;
    run(Command::new("dpkg-deb").arg("--extract").arg(deb).arg(kernel))?;
    let version = package.trim_start_matches("linux-image-").to_owned();
    let copy = |from: PathBuf, to: PathBuf| run(Command::new("cp").arg("-a").arg(from).arg(to));
    copy(kernel.join(format!("boot/vmlinuz-{version}")), home.join("vmlinuz"))?;
    // Not unpacked over the root: there `lib` is a link.
    copy(kernel.join("lib/modules"), tree.join("usr/lib/"))?;
    Ok(version)
}

/// Our programs, and what the checks need.
fn payload(home: &Path, filters: &[String]) -> Result<()> {
    let tree = home.join("brig");
    drop(std::fs::remove_dir_all(&tree));
    for directory in ["bin", "tests", "units"] {
        let path = tree.join(directory);
        std::fs::create_dir_all(&path).doing(|| format!("create {}", path.display()))?;
    }
    let built = build(Profile::Debug)?;
    // Debugging information is most of a program, and nobody debugs in there.
    let strip =
        |from: &Path, to: PathBuf| output(Command::new("strip").arg("-o").arg(to).arg(from)).map(drop);
    for program in crate::build::programs() {
        strip(&built.join(program), tree.join("bin").join(program))?;
    }
    let this = std::env::current_exe().doing(|| "find this program".to_owned())?;
    strip(&this, tree.join("xtask"))?;
    for (name, path) in test_programs()? {
        strip(&path, tree.join("tests").join(name))?;
    }
    for unit in ["brig.service", "brig.socket"] {
        let path = root().join("xtask/units").join(unit);
        let text = std::fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
        write(&tree.join("units").join(unit), &text.replace("@PREFIX@", BRIG))?;
    }
    write(&tree.join("filters"), &filters.join("\n"))?;
    // Where the test programs look for the runtime that they test.
    write(&tree.join("runtime-path"), &target().join("debug/brig-runtime").display().to_string())?;
    image(&tree, &home.join("brig.ext4"), 512)?;
    drop(std::fs::remove_dir_all(&tree));
    Ok(())
}

/// The runtime's test programs by name, compiled and not run.
fn test_programs() -> Result<Vec<(String, PathBuf)>> {
    let mut build = cargo();
    build.args(["test", "--no-run", "-p", "brig-runtime", "--test", "conformance"]);
    for name in TESTS {
        build.args(["--test", name]);
    }
    let output = build.output().doing(|| "start cargo".to_owned())?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(Error::new(format!("the test programs do not compile: {text}")));
    }
    // `Executable tests/verbs.rs (target/debug/deps/verbs-0123)`
    let found = text.lines().filter_map(|line| {
        let (_, path) = line.trim().strip_prefix("Executable ")?.rsplit_once('(')?;
        let path = root().join(path.trim_end_matches(')'));
        let name = path.file_name()?.to_str()?.rsplit_once('-')?.0.to_owned();
        Some((name, path))
    });
    let found: Vec<_> = found.collect();
    if found.len() == TESTS.len() + 1 {
        return Ok(found);
    }
    Err(Error::new(format!("{} test programs, not {}: {text}", found.len(), TESTS.len() + 1)))
}

/// A file system of `megabytes` with what is in `tree`.
fn image(tree: &Path, path: &Path, megabytes: u32) -> Result<()> {
    drop(std::fs::remove_file(path));
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.args(["-q", "-O", "^has_journal", "-d"]).arg(tree).arg(path).arg(format!("{megabytes}M"));
    run(&mut mkfs)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).doing(|| format!("write {}", path.display()))
}

/// A running qemu, ended with its value.
struct Machine {
    process: Child,
    lines: Receiver<String>,
}

impl Machine {
    fn boot(home: &Path) -> Result<Machine> {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args([
            "-nodefaults",
            "-no-reboot",
            "-display",
            "none",
            "-machine",
            "q35",
            "-m",
            "2G",
            "-smp",
            "2",
        ]);
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-device", "nvme,id=disks,serial=brig"]);
        for (number, name) in [(1, "root"), (2, "brig")] {
            let file = home.join(format!("{name}.ext4"));
            // Nothing that is written stays.
            qemu.arg("-drive").arg(format!(
                "file={},if=none,id={name},format=raw,snapshot=on,discard=unmap",
                file.display()
            ));
            qemu.arg("-device").arg(format!("nvme-ns,drive={name},bus=disks,nsid={number}"));
        }
        qemu.arg("-serial").arg(format!("file:{}", home.join("console.log").display()));
        qemu.args(["-serial", "stdio", "-device", "virtio-rng-pci", "-kernel"]).arg(home.join("vmlinuz"));
        qemu.args([
            "-append",
            "root=/dev/nvme0n1 rw console=ttyS0 panic=-1 systemd.unified_cgroup_hierarchy=1 quiet mitigations=off",
        ]);
        let mut process = qemu
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .doing(|| "start qemu-system-x86_64".to_owned())?;
        let (sender, lines) = channel();
        let stdout = process.stdout.take();
        std::thread::spawn(move || {
            for line in stdout.into_iter().flat_map(|out| BufReader::new(out).lines()).map_while(|l| l.ok()) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Machine { process, lines })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Prints what the machine prints, to its last line, which has the numbers.
fn judge(machine: &mut Machine, home: &Path) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    let console = home.join("console.log");
    let at = |what: &str| Error::new(format!("the machine {what}; its console is in {}", console.display()));
    loop {
        let left = end.saturating_duration_since(Instant::now()).min(SILENCE);
        match machine.lines.recv_timeout(left) {
            Ok(line) => {
                let line = line.trim_end();
                eprintln!("{line}");
                if let Some(verdict) = line.strip_prefix(inside::END) {
                    return match verdict.trim().contains(" 0 failed") {
                        true => Ok(()),
                        false => Err(Error::new(format!("in the machine: {}", verdict.trim()))),
                    };
                }
            }
            Err(RecvTimeoutError::Timeout) => return Err(at("says nothing, or takes too long")),
            Err(RecvTimeoutError::Disconnected) => return Err(at("ended before the last check")),
        }
    }
}
