//! The same profile through libseccomp: the same answers.

use crate::interpreter::{Call, run};
use crate::{I386, X86_64, profile, rule};
use oci::runtime::{Seccomp, SyscallRule};
use seccomp::Instruction;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Compiles a C file of these tests; `None`, with the reason printed, if that is not possible here.
pub fn build(name: &str, libraries: &[&str]) -> Option<PathBuf> {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    // Tests run side by side, each with its own copy.
    static BUILT: AtomicUsize = AtomicUsize::new(0);
    let number = BUILT.fetch_add(1, Ordering::Relaxed);
    let output = directory.join(format!("{name}-{}-{number}", std::process::id()));
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/programs/{name}.c"));
    let result = Command::new("cc").arg("-o").arg(&output).arg(source).args(libraries).output();
    match result {
        Ok(done) if done.status.success() => Some(output),
        Ok(done) => {
            println!("skipped: cannot build {name}.c: {}", String::from_utf8_lossy(&done.stderr));
            None
        }
        Err(e) => {
            println!("skipped: no cc: {e}");
            None
        }
    }
}

fn action(name: &str, errno: Option<u32>) -> u32 {
    match name {
        "SCMP_ACT_ALLOW" => 0x7fff_0000,
        "SCMP_ACT_ERRNO" => 0x0005_0000 | errno.unwrap_or(1),
        "SCMP_ACT_KILL" => 0,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        other => panic!("{other}"),
    }
}

fn describe(profile: &Seccomp) -> String {
    let default = action(&profile.default_action, profile.default_errno_ret);
    let mut text = format!("default {default}\narch {I386}\narch {X86_64}\narch 1073741886\n");
    for rule in &profile.syscalls {
        let wanted = action(&rule.action, rule.errno_ret);
        for name in rule.names.iter().filter(|_| wanted != default) {
            write!(text, "rule {wanted} {name} {}", rule.args.len()).unwrap();
            for arg in &rule.args {
                let op = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]
                    .iter()
                    .position(|o| arg.op.strip_prefix("SCMP_CMP_") == Some(*o))
                    .unwrap()
                    + 1;
                write!(text, " {} {op} {} {}", arg.index, arg.value, arg.value_two).unwrap();
            }
            text.push('\n');
        }
    }
    text
}

fn libseccomp(helper: &PathBuf, profile: &Seccomp) -> Vec<Instruction> {
    let mut child =
        Command::new(helper).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("oracle");
    child.stdin.take().unwrap().write_all(describe(profile).as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "oracle: {} for {}", output.status, describe(profile));
    let instruction = |bytes: &[u8]| Instruction {
        code: u16::from_ne_bytes([bytes[0], bytes[1]]),
        jt: bytes[2],
        jf: bytes[3],
        k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    };
    output.stdout.chunks_exact(8).map(instruction).collect()
}

/// A call of x86_64 that Debian's libseccomp does not know yet, among numbers that it does.
const URETPROBE: u32 = 335;

/// Compares the answers for all numbers that the profile covers, with arguments around `values`.
fn compare(helper: &PathBuf, profile: &Seccomp, largest: u32, values: &[u64]) {
    let theirs = libseccomp(helper, profile);
    let ours = seccomp::compile(profile).unwrap().instructions;
    let mut around: Vec<u64> = values
        .iter()
        .flat_map(|&v| [v, v.wrapping_add(1), v.wrapping_sub(1), v ^ 1 << 32, v & 0xffff_ffff, !v])
        .chain([0, u64::MAX, u64::from(u32::MAX)])
        .collect();
    around.sort_unstable();
    around.dedup();
    for (arch, bit) in [(X86_64, 0), (X86_64, 1 << 30), (I386, 0), (0xc000_00b7, 0)] {
        for nr in (0..=largest).filter(|nr| *nr != URETPROBE) {
            for (at, &value) in around.iter().enumerate() {
                let args = [value, around[(at * 7 + 3) % around.len()], value, 0, value ^ 5, value];
                let call = Call { arch, nr: nr | bit, args };
                let (ours, theirs) = (run(&ours, call).0, run(&theirs, call).0);
                assert_eq!(ours, theirs, "{call:x?}\n{}", describe(profile));
            }
        }
    }
}

/// A small generator: the same cases on each run.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let at = self.next(from.len() as u64) as usize;
        from[at]
    }
}

#[test]
fn answers_are_those_of_libseccomp() {
    let Some(helper) = build("oracle", &["-lseccomp"]) else { return };
    // Names that are direct calls on all three tables, and that libseccomp does not rewrite.
    let names = [
        "read",
        "write",
        "open",
        "ioctl",
        "mmap",
        "clone",
        "personality",
        "prctl",
        "kill",
        "dup3",
        "openat2",
        "getpid",
        "statx",
        "unshare",
        "mount",
        "ptrace",
        "chown",
    ];
    let values = [0, 1, 8, 0x2_0008, 0x7e02_0000, 0xffff_ffff, 1 << 32, 0x1_0000_0026, 1 << 63, u64::MAX];
    let mut random = Random(1);
    for case in 0..150 {
        let (default, other) = random.pick(&[("ERRNO", "ALLOW"), ("ALLOW", "ERRNO"), ("KILL", "LOG")]);
        let mut used = Vec::new();
        let rules: Vec<SyscallRule> = (0..random.next(12) + 1)
            .map(|_| {
                let name = random.pick(&names);
                let mut args = Vec::new();
                for index in 0..random.next(3) as u32 {
                    let op = random.pick(&["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]);
                    let value = random.pick(&values);
                    used.push(value);
                    args.push((
                        index * 2,
                        op,
                        value,
                        if op == "MASKED_EQ" { random.pick(&values) } else { 0 },
                    ));
                }
                rule(&[name], other, &args)
            })
            // Beyond this the answers for numbers that the profile covers are all compared.
            .chain([rule(&["faccessat2"], other, &[])])
            .collect();
        println!("case {case}");
        compare(&helper, &profile(default, rules), 439, &used);
    }
    std::fs::remove_file(helper).unwrap();
}

/// The default profile without what this machine's libseccomp does not know: the numbers to 439.
#[test]
fn the_default_profile_is_what_libseccomp_makes_of_it() {
    let Some(helper) = build("oracle", &["-lseccomp"]) else { return };
    for capabilities in [vec![], vec!["CAP_SYS_ADMIN".to_owned(), "CAP_SYS_PTRACE".to_owned()]] {
        let profile = seccomp::docker_default(&capabilities);
        compare(&helper, &profile, 439, &[38, 40, 45, 0x7e02_0000, 0x2_0008, 0xffff_ffff]);
    }
    std::fs::remove_file(helper).unwrap();
}
