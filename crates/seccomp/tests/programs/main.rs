//! Compiled programs against libseccomp, against a plain reading of the profile, and on the kernel.
//!
//! Needs a C compiler (which Rust's linker is) and, for the comparison with libseccomp, Debian's libseccomp-dev.
#![allow(unreachable_pub, reason = "modules of a test")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]
#![allow(clippy::cast_possible_truncation, reason = "halves of 64-bit arguments")]

mod interpreter;
mod kernel;
mod oracle;

use interpreter::{Call, run};
use oci::runtime::{Seccomp, SyscallArg, SyscallRule};

pub const ALLOW: u32 = 0x7fff_0000;
pub const EPERM: u32 = 0x0005_0001;
pub const ENOSYS: u32 = 0x0005_0026;
pub const X86_64: u32 = 0xc000_003e;
pub const I386: u32 = 0x4000_0003;

fn rule(names: &[&str], action: &str, args: &[(u32, &str, u64, u64)]) -> SyscallRule {
    let arg = |&(index, op, value, value_two): &(u32, &str, u64, u64)| SyscallArg {
        index,
        value,
        value_two,
        op: format!("SCMP_CMP_{op}"),
    };
    SyscallRule {
        names: names.iter().map(|&n| n.into()).collect(),
        action: format!("SCMP_ACT_{action}"),
        errno_ret: None,
        args: args.iter().map(arg).collect(),
    }
}

fn profile(default: &str, rules: Vec<SyscallRule>) -> Seccomp {
    Seccomp {
        default_action: format!("SCMP_ACT_{default}"),
        architectures: ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"].map(str::to_owned).to_vec(),
        syscalls: rules,
        ..Seccomp::default()
    }
}

fn answer(profile: &Seccomp, arch: u32, nr: u32, args: &[u64]) -> u32 {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    run(&seccomp::compile(profile).unwrap().instructions, Call { arch, nr, args: all }).0
}

#[test]
fn every_action_and_the_default() {
    let check = |action: &str, errno, expected| {
        let mut one = rule(&["getpid"], action, &[]);
        one.errno_ret = errno;
        assert_eq!(answer(&profile("ERRNO", vec![one]), X86_64, 39, &[]), expected, "{action}");
    };
    check("ALLOW", None, ALLOW);
    check("ERRNO", Some(5), 0x0005_0005);
    check("ERRNO", None, EPERM);
    check("KILL", None, 0);
    check("KILL_THREAD", None, 0);
    check("KILL_PROCESS", None, 0x8000_0000);
    check("TRAP", None, 0x0003_0000);
    check("TRACE", Some(7), 0x7ff0_0007);
    check("LOG", None, 0x7ffc_0000);
    check("NOTIFY", None, 0x7fc0_0000);
    // A call that no rule names, and an architecture that is not named.
    let one = profile("KILL_PROCESS", vec![rule(&["getpid", "tkill"], "ALLOW", &[])]);
    assert_eq!(answer(&one, X86_64, 40, &[]), 0x8000_0000);
    assert_eq!(answer(&one, 0xc000_00b7, 39, &[]), 0);
}

#[test]
fn what_the_profile_never_heard_of() {
    let refusing = profile("ERRNO", vec![rule(&["getpid", "tkill", "no_such_call"], "ALLOW", &[])]);
    assert_eq!(answer(&refusing, X86_64, 200, &[]), ALLOW);
    assert_eq!(answer(&refusing, X86_64, 199, &[]), EPERM);
    assert_eq!(answer(&refusing, X86_64, 201, &[]), ENOSYS);
    assert_eq!(answer(&refusing, X86_64, 0x4000_0000 | 201, &[]), ENOSYS);
    assert_eq!(answer(&refusing, X86_64, 0x4000_0000 | 39, &[]), ALLOW);
    assert_eq!(answer(&refusing, I386, 1000, &[]), ENOSYS);
    let allowing = profile("ALLOW", vec![rule(&["tkill"], "ERRNO", &[])]);
    assert_eq!(answer(&allowing, X86_64, 201, &[]), ALLOW);
}

#[test]
fn carried_calls_of_i386() {
    let denying = profile("ALLOW", vec![rule(&["socket", "semop"], "ERRNO", &[])]);
    assert_eq!(answer(&denying, I386, 359, &[]), EPERM);
    assert_eq!(answer(&denying, I386, 102, &[1]), EPERM);
    assert_eq!(answer(&denying, I386, 102, &[2]), ALLOW);
    assert_eq!(answer(&denying, I386, 117, &[0x1_0001]), EPERM);
    assert_eq!(answer(&denying, X86_64, 41, &[]), EPERM);
}

#[test]
fn bad_profiles_are_refused() {
    let check = |profile: Seccomp, text: &str| {
        let error = seccomp::compile(&profile).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    check(profile("MAYBE", vec![]), "MAYBE");
    check(profile("NOTIFY", vec![]), "NOTIFY");
    check(profile("ALLOW", vec![rule(&["write"], "NOTIFY", &[])]), "NOTIFY");
    check(profile("ALLOW", vec![rule(&["read"], "ERRNO", &[(0, "ALMOST", 0, 0)])]), "ALMOST");
    check(profile("ALLOW", vec![rule(&["read"], "ERRNO", &[(6, "EQ", 0, 0)])]), "index 6");
    check(Seccomp { architectures: vec!["SCMP_ARCH_PDP11".into()], ..profile("ALLOW", vec![]) }, "PDP11");
    check(
        Seccomp { flags: Some(vec!["SECCOMP_FILTER_FLAG_X".into()]), ..profile("ALLOW", vec![]) },
        "FLAG_X",
    );
    let conditions = vec![(0, "EQ", 1, 0); 1000];
    check(profile("ALLOW", vec![rule(&["read"; 100], "ERRNO", &conditions)]), "conditions");
    let many = (0..3000).map(|v| rule(&["read"], "ERRNO", &[(0, "EQ", v << 32 | v, 0)])).collect();
    check(profile("ALLOW", many), "4096");
}

#[test]
fn flags() {
    let with = |flags: &[&str], rules| {
        let flags = flags.iter().map(|f| format!("SECCOMP_FILTER_FLAG_{f}")).collect();
        let program = seccomp::compile(&Seccomp { flags: Some(flags), ..profile("ALLOW", rules) }).unwrap();
        (program.flags, program.notify)
    };
    // Nothing said is for us to choose; an empty list asks for none.
    assert_eq!(seccomp::compile(&profile("ALLOW", vec![])).unwrap().flags, 4);
    assert_eq!(with(&[], vec![]), (0, false));
    assert_eq!(with(&["TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"], vec![]), (7, false));
    let notify = || vec![rule(&["mkdir"], "NOTIFY", &[])];
    assert_eq!(with(&["TSYNC", "WAIT_KILLABLE_RECV"], notify()), (1 | 16 | 32, true));
}

/// More leaves than a conditional jump can step over.
#[test]
fn far_jumps() {
    let names = ["read", "write", "open", "close", "stat", "fstat", "lstat", "poll", "lseek", "mmap"];
    let rules: Vec<_> = (0..30u64)
        .flat_map(|v| {
            names.iter().enumerate().map(move |(n, name)| {
                rule(&[name], "ALLOW", &[(0, "EQ", v << 33 | n as u64, 0), (1, "GT", v, 0)])
            })
        })
        .collect();
    let profile = profile("ERRNO", rules);
    assert!(seccomp::compile(&profile).unwrap().instructions.len() > 1000);
    for nr in 0..10 {
        for v in 0..31u64 {
            let allowed = if v < 30 { ALLOW } else { EPERM };
            assert_eq!(answer(&profile, X86_64, nr, &[v << 33 | u64::from(nr), v + 1]), allowed, "{nr} {v}");
            assert_eq!(answer(&profile, X86_64, nr, &[v << 33 | u64::from(nr), v]), EPERM, "{nr} {v}");
        }
    }
}

#[test]
fn the_default_profile() {
    let none = seccomp::docker_default(&[]);
    let check = |nr: u32, args: &[u64], expected| {
        assert_eq!(answer(&none, X86_64, nr, args), expected, "{nr} {args:x?}");
    };
    check(0, &[], ALLOW); // read
    check(165, &[], EPERM); // mount
    check(101, &[], ALLOW); // ptrace
    check(435, &[], ENOSYS); // clone3
    check(250, &[], EPERM); // keyctl
    check(272, &[], EPERM); // unshare
    check(161, &[], EPERM); // chroot
    check(425, &[], EPERM); // io_uring_setup
    check(444, &[], ALLOW); // landlock_create_ruleset
    check(462, &[], ALLOW); // mseal
    check(467, &[], ENOSYS); // open_tree_attr, newer than the profile
    check(56, &[17], ALLOW); // clone
    for flag in [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
        check(56, &[17 | flag], EPERM);
    }
    for family in [1, 2, 10, 16, 17, 37, 39, 41, 44, 45] {
        check(41, &[family], ALLOW);
    }
    for family in [38, 40, 46, 1 << 32 | 38, 1 << 32 | 40, 1 << 32 | 1, u64::MAX] {
        check(41, &[family], EPERM);
    }
    for value in [0, 8, 0x20000, 0x20008, 0xffff_ffff] {
        check(135, &[value], ALLOW);
    }
    check(135, &[0x0004_0000], EPERM);
    let admin = seccomp::docker_default(&["CAP_SYS_ADMIN".into(), "CAP_SYS_CHROOT".into()]);
    for nr in [165, 435, 272, 161, 56] {
        assert_eq!(answer(&admin, X86_64, nr, &[0x1000_0000]), ALLOW, "{nr}");
    }
    assert_eq!(answer(&none, I386, 102, &[1]), ALLOW);
    assert_eq!(answer(&none, I386, 288, &[]), EPERM);
}

#[test]
fn the_default_profile_is_short() {
    let program = seccomp::compile(&seccomp::docker_default(&[])).unwrap();
    let length = program.instructions.len();
    println!("{length} instructions");
    assert!(length < 350, "{length}");
    for nr in 0..600 {
        let steps = run(&program.instructions, Call { arch: X86_64, nr, args: [0; 6] }).1;
        assert!(steps < 32, "call {nr} takes {steps}");
    }
}
