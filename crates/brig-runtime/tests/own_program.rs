//! CVE-2019-5736: nothing in a container ever gets hold of the runtime's own file, at create and at exec.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test says why it fails or is skipped")]

#[path = "support/bundle.rs"]
mod support;

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::{Bundle, bundle, runtime_program};

/// Looks at every process it sees, keeps its program open and tries to write to it again and again, so also when it ended:
/// until then the kernel says that the file is busy. What it could open is told in `/tmp/seen`.
const ATTACKER: &str = r#"
busybox mkdir -p /tmp/seen
while :; do
  for p in /proc/[0-9]*; do
    [ $p = /proc/$$ ] && continue
    (
      exec 3<$p/exe
      busybox touch "/tmp/seen/$(busybox readlink /proc/self/fd/3 | busybox tr / _)"
      for i in 1 2 3 4 5 6 7 8 9; do echo overwritten >/proc/self/fd/3; done
    ) 2>/dev/null
  done
done
"#;

/// A copy of the runtime that may be spoiled, beside the bundle.
fn own_copy(bundle: &Bundle) -> PathBuf {
    let program = bundle.path().join("the-runtime");
    // By another process: a test beside could inherit our descriptor, and then the copy is busy.
    let copied = Command::new("cp").arg(runtime_program()).arg(&program).status();
    assert!(copied.unwrap().success());
    program
}

fn call(bundle: &Bundle, program: &Path, args: &[&str]) -> bool {
    output(bundle, program, args).0
}

/// Success and everything said. Into a file, for a container that runs on would keep a pipe open.
fn output(bundle: &Bundle, program: &Path, args: &[&str]) -> (bool, String) {
    std::fs::write(bundle.path().join("config.json"), bundle.spec.to_string()).unwrap();
    let out = bundle.path().join("said");
    let file = std::fs::File::create(&out).unwrap();
    let mut command = Command::new(program);
    command.arg("--root").arg(bundle.path().join("state")).args(args).current_dir(bundle.path());
    command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
    let status = command.status().unwrap();
    (status.success(), std::fs::read_to_string(out).unwrap())
}

fn unharmed(program: &Path, what: &str) {
    let same = std::fs::read(program).unwrap() == std::fs::read(runtime_program()).unwrap();
    assert!(same, "{what} overwrote the runtime");
}

/// Entry points that lead to whatever executes them: a link, a script, and a program whose loader it is.
fn traps(bundle: &Bundle) -> [&'static str; 3] {
    let bin = bundle.rootfs().join("bin");
    symlink("/proc/self/exe", bin.join("link")).unwrap();
    std::fs::write(bin.join("script"), "#!/proc/self/exe\n").unwrap();
    std::fs::write(bin.join("loaded"), loaded_by("/proc/self/exe")).unwrap();
    for name in ["script", "loaded"] {
        std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    ["/bin/link", "/bin/script", "/bin/loaded"]
}

/// An executable that consists of the name of its loader.
fn loaded_by(loader: &str) -> Vec<u8> {
    let name = format!("{loader}\0");
    let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for half in [2u16, 62] {
        out.extend(half.to_le_bytes());
    }
    out.extend(1u32.to_le_bytes());
    for word in [0x0040_0000u64, 64, 0] {
        out.extend(word.to_le_bytes());
    }
    out.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 2, 64, 0, 0] {
        out.extend(half.to_le_bytes());
    }
    let length = name.len() as u64;
    let at = 64 + 2 * 56;
    for (kind, offset, address, size) in
        [(3u32, at, 0x0040_0000 + at, length), (1, 0, 0x0040_0000, at + length)]
    {
        out.extend(kind.to_le_bytes());
        out.extend(5u32.to_le_bytes());
        for word in [offset, address, address, size, size, 0x1000] {
            out.extend(word.to_le_bytes());
        }
    }
    out.extend(name.as_bytes());
    out
}

fn writable_tmp(bundle: &mut Bundle) {
    let seen = bundle.path().join("seen");
    std::fs::create_dir(&seen).unwrap();
    bundle.spec["mounts"].as_array_mut().unwrap().push(serde_json::json!(
        {"destination": "/tmp", "type": "bind", "source": seen, "options": ["bind", "rw"]}
    ));
}

/// Names of the programs that the attacker could open.
fn seen(bundle: &Bundle) -> Vec<String> {
    let entries = std::fs::read_dir(bundle.path().join("seen/seen")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn entry_points_that_are_the_runtime() {
    let Some(mut b) = bundle("own-entry") else { return };
    let program = own_copy(&b);
    for no_new_privileges in [true, false] {
        b.spec["process"]["noNewPrivileges"] = no_new_privileges.into();
        for entry in traps(&b).iter().chain(std::iter::once(&"/proc/self/exe")) {
            b.args(&[entry, "--version"]);
            let id = b.id.clone();
            let (_, said) = output(&b, &program, &["run", &id]);
            // A runtime that is linked dynamically would miss its loader in there; which it may say before it tries.
            let missed = said.contains("no such file") && !said.contains("its loader");
            let ran = said.contains("brig-runtime version") || missed;
            assert!(!ran, "{entry} is the runtime: {said}");
            unharmed(&program, entry);
        }
        ["link", "script", "loaded"]
            .iter()
            .for_each(|n| std::fs::remove_file(b.rootfs().join("bin").join(n)).unwrap());
    }
}

#[test]
fn an_attacker_sees_nothing_at_exec() {
    for capabilities in [&["CAP_KILL"][..], &["CAP_KILL", "CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"]] {
        let Some(mut b) = bundle(&format!("own-exec{}", capabilities.len())) else { return };
        let program = own_copy(&b);
        let traps = traps(&b);
        writable_tmp(&mut b);
        for set in ["bounding", "effective", "permitted"] {
            b.spec["process"]["capabilities"][set] = capabilities.into();
        }
        b.script(ATTACKER);
        let id = b.id.clone();
        assert!(call(&b, &program, &["run", "-d", &id]));
        for _ in 0..8 {
            assert!(call(&b, &program, &["exec", &id, "busybox", "usleep", "2000"]));
            for entry in traps {
                call(&b, &program, &["exec", &id, entry, "--version"]);
            }
        }
        assert!(call(&b, &program, &["kill", &id, "KILL"]));
        b.wait_status("stopped");
        unharmed(&program, "an attacker");
        let seen = seen(&b);
        assert!(
            seen.iter().any(|name| name.contains("busybox")),
            "the attacker saw nothing at all: {seen:?}"
        );
        assert!(!seen.iter().any(|name| name.contains("the-runtime")), "{capabilities:?}: {seen:?}");
    }
}

#[test]
fn an_attacker_sees_nothing_of_a_neighbour_in_its_pid_namespace() {
    let Some(mut first) = bundle("own-first") else { return };
    let Some(mut second) = bundle("own-second") else { return };
    let program = own_copy(&first);
    writable_tmp(&mut first);
    for set in ["bounding", "effective", "permitted"] {
        first.spec["process"]["capabilities"][set] = ["CAP_KILL", "CAP_SYS_PTRACE"].into();
    }
    first.script(ATTACKER);
    let id = first.id.clone();
    assert!(call(&first, &program, &["run", "-d", &id]));
    let namespaces = second.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "pid");
    let path = format!("/proc/{}/ns/pid", first.state()["pid"]);
    namespaces.push(serde_json::json!({"type": "pid", "path": path}));
    second.args(&["busybox", "usleep", "2000"]);
    for _ in 0..8 {
        let id = second.id.clone();
        assert!(call(&second, &program, &["run", &id]));
    }
    assert!(call(&first, &program, &["kill", &id, "KILL"]));
    first.wait_status("stopped");
    unharmed(&program, "a neighbour");
    let seen = seen(&first);
    assert!(!seen.iter().any(|name| name.contains("the-runtime")), "{seen:?}");
}
