//! Programs of another machine in builds, where the kernel has an interpreter for them (binfmt_misc).
//!
//! What the kernel is taught holds for the whole machine, so that this runs by `cargo xtask conform build` alone.

#![allow(clippy::unwrap_used, reason = "for tests only, where a panic is the report")]

use e2e::{BUSYBOX, own};
use rustix::mount::{MountFlags, UnmountFlags};
use std::path::Path;
use testkit::daemon::{Daemon, Finished};

/// Machines of this number there are none.
const MACHINE: [u8; 2] = [0x72, 0xb4];
const NAME: &str = "brig-test";
const SAID: &str = "said by an interpreter";

/// A format that the kernel knows for as long as this lives.
struct Format {
    dir: tempfile::TempDir,
}

impl Format {
    fn new() -> Format {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("list");
        std::fs::create_dir(&list).unwrap();
        let format = Format { dir };
        rustix::mount::mount("none", &list, "binfmt_misc", MountFlags::empty(), None).unwrap();
        // A program that shows the file it is given; open from now on, so that containers have it too.
        let interpreter = format.dir.path().join("cat");
        std::fs::copy("/bin/busybox", &interpreter).unwrap();
        let machine = MACHINE.map(|byte| format!("\\x{byte:02x}")).concat();
        let text = format!(":{NAME}:M:18:{machine}::{}:F", interpreter.display());
        std::fs::write(list.join("register"), text).unwrap();
        format
    }
}

impl Drop for Format {
    fn drop(&mut self) {
        let list = self.dir.path().join("list");
        drop(std::fs::write(list.join(NAME), "-1"));
        let _at_the_end = rustix::mount::unmount(&list, UnmountFlags::DETACH);
    }
}

fn build(daemon: &Daemon, dir: &Path) -> Finished {
    let path = dir.to_str().unwrap();
    daemon.brig(&["build", "--no-cache", "--progress=plain", "--platform", "linux/arm64", "-t", "app", path])
}

#[test]
#[ignore = "teaches the kernel a format: cargo xtask conform build"]
fn the_kernel_s_interpreters_run_what_is_foreign() {
    let Some(daemon) = own() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut program = vec![0u8; 64];
    program[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    program[16] = 2;
    program[18..20].copy_from_slice(&MACHINE);
    program.extend(format!("\n{SAID}\n").bytes());
    std::fs::write(dir.path().join("foreign"), program).unwrap();
    let text = format!(
        "FROM --platform=$BUILDPLATFORM {BUSYBOX} AS host\nRUN echo host > /by\n\
         FROM scratch\nCOPY --chmod=755 foreign /\nCOPY --from=host /by /\nRUN [\"/foreign\"]\n"
    );
    std::fs::write(dir.path().join("Dockerfile"), text).unwrap();
    let failed = build(&daemon, dir.path()).expect(1);
    assert!(
        failed.stderr.contains("exec format error") && failed.stderr.contains("qemu-user-static"),
        "{failed:?}"
    );
    {
        let _format = Format::new();
        let built = build(&daemon, dir.path());
        built.success();
        assert!(built.stderr.contains(SAID), "{built:?}");
        assert_eq!(daemon.get("/images/app/json")["Architecture"], "arm64");
    }
    build(&daemon, dir.path()).expect(1);
    daemon.assert_no_leaks();
}
