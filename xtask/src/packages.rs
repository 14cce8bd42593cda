//! What Debian provides: missing programs are installed where that is possible, named where it is not.

use crate::run::{Doing, Error, Result, run};
use crate::workspace::in_path;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// A Debian package, and how one sees that it (or its like) is here.
#[derive(Debug)]
pub(crate) struct Package {
    name: &'static str,
    provides: Provides,
}

#[derive(Debug)]
enum Provides {
    /// A program in `PATH`.
    Program(&'static str),
    /// This file. For what is no program, or where another program of the same name would not do.
    File(&'static str),
}

const fn program(name: &'static str, program: &'static str) -> Package {
    Package { name, provides: Provides::Program(program) }
}

/// What compiling needs beside the Rust toolchain: a C compiler and linker (SQLite, zstd, *ring*).
pub(crate) const BUILD: &[Package] =
    &[program("gcc", "cc"), Package { name: "libc6-dev", provides: Provides::File("/usr/include/stdio.h") }];

/// What the tests use.
pub(crate) const TEST: &[Package] = &[
    // Not the `busybox` package: the tests put the program into images, where it has no libraries.
    Package { name: "busybox-static", provides: Provides::File("/usr/share/doc/busybox-static") },
    program("docker-registry", "docker-registry"),
    // The client; any version will do, and its own engine is never started.
    program("docker.io", "docker"),
    program("dbus-daemon", "dbus-daemon"),
    program("debootstrap", "debootstrap"),
    program("btrfs-progs", "mkfs.btrfs"),
    program("bzip2", "bzip2"),
    program("e2fsprogs", "mkfs.ext4"),
    program("erofs-utils", "fsck.erofs"),
    program("etcd-server", "etcd"),
    program("git", "git"),
    program("iproute2", "ip"),
    program("nftables", "nft"),
    program("openssh-client", "ssh-agent"),
    program("procps", "ps"),
    program("runc", "runc"),
    program("skopeo", "skopeo"),
    program("strace", "strace"),
    program("tar", "tar"),
    program("util-linux", "unshare"),
    program("xz-utils", "xz"),
];

/// Engines that are run on our runtime.
pub(crate) const CONFORM_ENGINES: &[Package] = &[
    Package { name: "busybox-static", provides: Provides::File("/usr/share/doc/busybox-static") },
    program("containerd", "ctr"),
    program("docker.io", "dockerd"),
    program("podman", "podman"),
    program("tar", "tar"),
];

/// Other runtimes, and what the conformance tests of runtimes use.
pub(crate) const CONFORM_RUNTIME: &[Package] = &[
    Package { name: "busybox-static", provides: Provides::File("/usr/share/doc/busybox-static") },
    program("crun", "crun"),
    program("iproute2", "ip"),
    program("runc", "runc"),
    program("util-linux", "unshare"),
];

/// A machine of its own, and what its disks are made with.
pub(crate) const CONFORM_VM: &[Package] = &[
    program("binutils", "strip"),
    program("debootstrap", "debootstrap"),
    program("e2fsprogs", "mkfs.ext4"),
    program("qemu-system-x86", "qemu-system-x86_64"),
    program("util-linux", "unshare"),
];

/// What sets the clock for a daemon.
pub(crate) const CONFORM_STRESS: &[Package] = &[Package {
    name: "libfaketime",
    provides: Provides::File("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"),
}];

/// What the suites of others need.
pub(crate) const CONFORM: &[Package] = &[
    Package { name: "busybox-static", provides: Provides::File("/usr/share/doc/busybox-static") },
    program("docker-compose", "docker-compose"),
    program("docker-registry", "docker-registry"),
    program("docker.io", "dockerd"),
    Package { name: "python3-venv", provides: Provides::File("/usr/share/doc/python3-venv") },
    program("tar", "tar"),
];

/// What the suites of Node's clients need beside [`CONFORM`].
pub(crate) const CONFORM_NODE: &[Package] =
    &[program("git", "git"), program("nodejs", "node"), program("npm", "npm")];

/// What the bench of runtimes alone needs.
pub(crate) const RUNTIMES: &[Package] = &[
    Package { name: "busybox-static", provides: Provides::File("/usr/share/doc/busybox-static") },
    program("crun", "crun"),
    program("runc", "runc"),
    program("strace", "strace"),
    program("time", "time"),
    program("util-linux", "unshare"),
];

/// The peers of the bench, and what it uses itself.
pub(crate) const BENCH: &[Package] = &[
    Package { name: "busybox-static", provides: Provides::File("/usr/share/doc/busybox-static") },
    program("containerd", "containerd"),
    program("crun", "crun"),
    program("docker.io", "dockerd"),
    program("iproute2", "ip"),
    Package { name: "netavark", provides: Provides::File("/usr/lib/podman/netavark") },
    program("podman", "podman"),
    program("runc", "runc"),
    program("util-linux", "unshare"),
];

/// What the bench of networks uses beside [`BENCH`].
pub(crate) const BENCH_NETWORK: &[Package] = &[program("iperf3", "iperf3")];

/// What the bench of builds uses beside [`BENCH`].
pub(crate) const BENCH_BUILD: &[Package] = &[program("buildah", "buildah"), program("time", "time")];

/// What the bench of images uses beside [`BENCH`].
pub(crate) const BENCH_IMAGES: &[Package] = &[
    program("debootstrap", "debootstrap"),
    program("docker-registry", "docker-registry"),
    program("skopeo", "skopeo"),
    program("tar", "tar"),
    program("zstd", "zstd"),
];

impl Package {
    fn is_here(&self) -> bool {
        match self.provides {
            Provides::Program(program) => in_path(program),
            Provides::File(path) => Path::new(path).exists(),
        }
    }
}

/// Installs those of `packages` that are missing.
///
/// # Errors
///
/// Names them when this process may not, or cannot, install.
pub(crate) fn ensure(packages: &[Package]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().filter(|p| !p.is_here()).map(|p| p.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !in_path("apt-get") {
        return Err(Error::new(format!("this needs what Debian calls: {list}; install it and try again")));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new(format!("packages are missing; as root: apt-get install {list}")));
    }
    let _no_services = NoServices::new()?;
    let install = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").args(["install", "-y", "--no-install-recommends"]);
        apt.args(&missing);
        apt
    };
    if run(&mut install()).is_ok() {
        return Ok(());
    }
    // The lists may be old, or not there at all.
    run(Command::new("apt-get").arg("update"))?;
    run(&mut install())
}

/// While it lives, packages do not start the services they bring: docker.io would start its engine.
#[derive(Debug)]
struct NoServices {
    made: bool,
}

/// Asked by Debian's `invoke-rc.d` and `deb-systemd-invoke`; 101 means "forbidden".
const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn new() -> Result<NoServices> {
        if Path::new(POLICY).exists() {
            // The machine has its own; a container image says no to everything with it.
            return Ok(NoServices { made: false });
        }
        let doing = || format!("write {POLICY}");
        std::fs::write(POLICY, "#!/bin/sh\nexit 101\n").doing(doing)?;
        let guard = NoServices { made: true };
        std::fs::set_permissions(POLICY, std::fs::Permissions::from_mode(0o755)).doing(doing)?;
        Ok(guard)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.made
            && let Err(error) = std::fs::remove_file(POLICY)
        {
            eprintln!(
                "warning: remove {POLICY}: {error}; services do not start after an installation while it is there"
            );
        }
    }
}
