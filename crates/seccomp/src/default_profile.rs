//! Docker's default profile: what 28 and 29 allow.
//!
//! Everything that an ordinary program needs is named, the rest gets `EPERM`. A capability opens the calls that it
//! makes useful. Two things are told apart by argument: namespaces in clone(2) and families in socket(2).

use crate::architecture::NATIVE_NAMES;
use oci::runtime::{Seccomp, SyscallArg, SyscallRule};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Calls for everyone, by what they are about.
const ALWAYS: [&[&str]; 14] = [
    // Processes and threads.
    &[
        "arch_prctl",
        "capget",
        "capset",
        "execve",
        "execveat",
        "exit",
        "exit_group",
        "fork",
        "get_robust_list",
        "get_thread_area",
        "getcpu",
        "getpgid",
        "getpgrp",
        "getpid",
        "getppid",
        "getpriority",
        "getrlimit",
        "getrusage",
        "getsid",
        "gettid",
        "ioprio_get",
        "ioprio_set",
        "kill",
        "membarrier",
        "modify_ldt",
        "pause",
        "pidfd_open",
        "pidfd_send_signal",
        "prctl",
        "prlimit64",
        "process_mrelease",
        "restart_syscall",
        "riscv_hwprobe",
        "rseq",
        "set_robust_list",
        "set_thread_area",
        "set_tid_address",
        "setpgid",
        "setpriority",
        "setrlimit",
        "setsid",
        "tgkill",
        "times",
        "tkill",
        "ugetrlimit",
        "uretprobe",
        "vfork",
        "wait4",
        "waitid",
        "waitpid",
    ],
    // Scheduling.
    &[
        "sched_get_priority_max",
        "sched_get_priority_min",
        "sched_getaffinity",
        "sched_getattr",
        "sched_getparam",
        "sched_getscheduler",
        "sched_rr_get_interval",
        "sched_rr_get_interval_time64",
        "sched_setaffinity",
        "sched_setattr",
        "sched_setparam",
        "sched_setscheduler",
        "sched_yield",
    ],
    // Who one is.
    &[
        "getegid",
        "getegid32",
        "geteuid",
        "geteuid32",
        "getgid",
        "getgid32",
        "getgroups",
        "getgroups32",
        "getresgid",
        "getresgid32",
        "getresuid",
        "getresuid32",
        "getuid",
        "getuid32",
        "setfsgid",
        "setfsgid32",
        "setfsuid",
        "setfsuid32",
        "setgid",
        "setgid32",
        "setgroups",
        "setgroups32",
        "setregid",
        "setregid32",
        "setresgid",
        "setresgid32",
        "setresuid",
        "setresuid32",
        "setreuid",
        "setreuid32",
        "setuid",
        "setuid32",
    ],
    // Memory.
    &[
        "brk",
        "madvise",
        "map_shadow_stack",
        "memfd_create",
        "memfd_secret",
        "mincore",
        "mlock",
        "mlock2",
        "mlockall",
        "mmap",
        "mmap2",
        "mprotect",
        "mremap",
        "mseal",
        "msync",
        "munlock",
        "munlockall",
        "munmap",
        "pkey_alloc",
        "pkey_free",
        "pkey_mprotect",
        "remap_file_pages",
    ],
    // Opening files and reading and writing them.
    &[
        "_llseek",
        "cachestat",
        "close",
        "close_range",
        "copy_file_range",
        "creat",
        "dup",
        "dup2",
        "dup3",
        "fadvise64",
        "fadvise64_64",
        "fallocate",
        "fcntl",
        "fcntl64",
        "fdatasync",
        "flock",
        "fsync",
        "ftruncate",
        "ftruncate64",
        "ioctl",
        "lseek",
        "open",
        "openat",
        "openat2",
        "pipe",
        "pipe2",
        "pread64",
        "preadv",
        "preadv2",
        "pwrite64",
        "pwritev",
        "pwritev2",
        "read",
        "readahead",
        "readv",
        "sendfile",
        "sendfile64",
        "splice",
        "sync",
        "sync_file_range",
        "syncfs",
        "tee",
        "truncate",
        "truncate64",
        "vmsplice",
        "write",
        "writev",
    ],
    // Names and attributes of files.
    &[
        "access",
        "chdir",
        "chmod",
        "chown",
        "chown32",
        "faccessat",
        "faccessat2",
        "fchdir",
        "fchmod",
        "fchmodat",
        "fchmodat2",
        "fchown",
        "fchown32",
        "fchownat",
        "fstat",
        "fstat64",
        "fstatat64",
        "fstatfs",
        "fstatfs64",
        "futimesat",
        "getcwd",
        "getdents",
        "getdents64",
        "lchown",
        "lchown32",
        "link",
        "linkat",
        "listmount",
        "lstat",
        "lstat64",
        "mkdir",
        "mkdirat",
        "mknod",
        "mknodat",
        "name_to_handle_at",
        "newfstatat",
        "readlink",
        "readlinkat",
        "rename",
        "renameat",
        "renameat2",
        "rmdir",
        "stat",
        "stat64",
        "statfs",
        "statfs64",
        "statmount",
        "statx",
        "symlink",
        "symlinkat",
        "umask",
        "unlink",
        "unlinkat",
        "utime",
        "utimensat",
        "utimensat_time64",
        "utimes",
    ],
    // Extended attributes.
    &[
        "fgetxattr",
        "flistxattr",
        "fremovexattr",
        "fsetxattr",
        "getxattr",
        "getxattrat",
        "lgetxattr",
        "listxattr",
        "listxattrat",
        "llistxattr",
        "lremovexattr",
        "lsetxattr",
        "removexattr",
        "removexattrat",
        "setxattr",
        "setxattrat",
    ],
    // Waiting for files.
    &[
        "_newselect",
        "epoll_create",
        "epoll_create1",
        "epoll_ctl",
        "epoll_ctl_old",
        "epoll_pwait",
        "epoll_pwait2",
        "epoll_wait",
        "epoll_wait_old",
        "eventfd",
        "eventfd2",
        "fanotify_mark",
        "inotify_add_watch",
        "inotify_init",
        "inotify_init1",
        "inotify_rm_watch",
        "io_cancel",
        "io_destroy",
        "io_getevents",
        "io_pgetevents",
        "io_pgetevents_time64",
        "io_setup",
        "io_submit",
        "poll",
        "ppoll",
        "ppoll_time64",
        "pselect6",
        "pselect6_time64",
        "select",
        "signalfd",
        "signalfd4",
    ],
    // Signals.
    &[
        "rt_sigaction",
        "rt_sigpending",
        "rt_sigprocmask",
        "rt_sigqueueinfo",
        "rt_sigreturn",
        "rt_sigsuspend",
        "rt_sigtimedwait",
        "rt_sigtimedwait_time64",
        "rt_tgsigqueueinfo",
        "sigaltstack",
        "sigprocmask",
        "sigreturn",
    ],
    // Futexes.
    &["futex", "futex_requeue", "futex_time64", "futex_wait", "futex_waitv", "futex_wake"],
    // Time. Setting it takes a capability, which the kernel checks in adjtimex.
    &[
        "adjtimex",
        "alarm",
        "clock_adjtime",
        "clock_adjtime64",
        "clock_getres",
        "clock_getres_time64",
        "clock_gettime",
        "clock_gettime64",
        "clock_nanosleep",
        "clock_nanosleep_time64",
        "getitimer",
        "gettimeofday",
        "nanosleep",
        "setitimer",
        "time",
        "timer_create",
        "timer_delete",
        "timer_getoverrun",
        "timer_gettime",
        "timer_gettime64",
        "timer_settime",
        "timer_settime64",
        "timerfd_create",
        "timerfd_gettime",
        "timerfd_gettime64",
        "timerfd_settime",
        "timerfd_settime64",
    ],
    // Sockets, but for socket itself. socketcall, through which i386 programs make them, hides the family behind a
    // pointer: only an LSM can refuse one there.
    &[
        "accept",
        "accept4",
        "bind",
        "connect",
        "getpeername",
        "getsockname",
        "getsockopt",
        "listen",
        "recv",
        "recvfrom",
        "recvmmsg",
        "recvmmsg_time64",
        "recvmsg",
        "send",
        "sendmmsg",
        "sendmsg",
        "sendto",
        "setsockopt",
        "shutdown",
        "socketcall",
        "socketpair",
    ],
    // Messages, semaphores and shared memory of System V and POSIX.
    &[
        "ipc",
        "mq_getsetattr",
        "mq_notify",
        "mq_open",
        "mq_timedreceive",
        "mq_timedreceive_time64",
        "mq_timedsend",
        "mq_timedsend_time64",
        "mq_unlink",
        "msgctl",
        "msgget",
        "msgrcv",
        "msgsnd",
        "semctl",
        "semget",
        "semop",
        "semtimedop",
        "semtimedop_time64",
        "shmat",
        "shmctl",
        "shmdt",
        "shmget",
    ],
    // The system, and giving up rights.
    &[
        "getrandom",
        "landlock_add_rule",
        "landlock_create_ruleset",
        "landlock_restrict_self",
        "seccomp",
        "sysinfo",
        "uname",
    ],
];

/// Since Linux 4.8 seccomp looks again after a tracer changed the call, so tracing is no way around it.
const SINCE_4_8: [&str; 3] = ["process_vm_readv", "process_vm_writev", "ptrace"];

/// Calls that only some machines have.
#[cfg(target_arch = "aarch64")]
const MACHINE: [&str; 6] =
    ["arm_fadvise64_64", "arm_sync_file_range", "breakpoint", "cacheflush", "set_tls", "sync_file_range2"];
#[cfg(target_arch = "x86_64")]
const MACHINE: [&str; 0] = [];
/// Named above for x86 only.
#[cfg(target_arch = "aarch64")]
const ELSEWHERE: [&str; 2] = ["arch_prctl", "modify_ldt"];
#[cfg(target_arch = "x86_64")]
const ELSEWHERE: [&str; 0] = [];

/// Calls that a capability opens.
const BY_CAPABILITY: [(&str, &[&str]); 14] = [
    ("CAP_BPF", &["bpf"]),
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("CAP_PERFMON", &["perf_event_open"]),
    (
        "CAP_SYS_ADMIN",
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "lsm_get_self_attr",
            "lsm_list_modules",
            "lsm_set_self_attr",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    ("CAP_SYS_BOOT", &["reboot"]),
    ("CAP_SYS_CHROOT", &["chroot"]),
    ("CAP_SYS_MODULE", &["delete_module", "finit_module", "init_module"]),
    ("CAP_SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("CAP_SYS_PACCT", &["acct"]),
    (
        "CAP_SYS_PTRACE",
        &["kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"],
    ),
    ("CAP_SYS_RAWIO", &["ioperm", "iopl"]),
    ("CAP_SYS_TIME", &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
    ("CAP_SYSLOG", &["syslog"]),
];

/// `CLONE_NEW*` for cgroup, ipc, mnt, net, pid, user and uts namespaces.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

/// personality(2): Linux, Linux with 32-bit `uname`, both without randomised addresses... and the one that asks.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// `AF_ALG`: the kernel's cryptography, a rich source of holes. The families below it are allowed.
const AF_ALG: u64 = 38;

/// The families above `AF_ALG` but for `AF_VSOCK` (40), which reaches the host around network namespaces: NFC, KCM,
/// QIPCRTR, SMC, XDP, MCTP. A list, not a comparison: the kernel looks at the lower 32 bits only, and 2^32 + 38 is
/// above 40.
const LATER_FAMILIES: [u64; 6] = [39, 41, 42, 43, 44, 45];

/// Docker's default profile for a process whose bounding set is `capabilities` (`CAP_...`), for this kernel and this
/// architecture and those that its kernel runs beside.
pub fn docker_default(capabilities: &[String]) -> Seccomp {
    let has = |name: &str| capabilities.iter().any(|c| c == name);
    let always = ALWAYS.iter().flat_map(|group| group.iter()).copied().filter(|n| !ELSEWHERE.contains(n));
    let mut syscalls = vec![allow(always.chain(MACHINE))];
    if kernel_is_at_least(4, 8) {
        syscalls.push(allow(SINCE_4_8));
    }
    syscalls.push(SyscallRule { args: vec![arg("SCMP_CMP_LT", AF_ALG, 0)], ..allow(["socket"]) });
    let equal = |name, value| SyscallRule { args: vec![arg("SCMP_CMP_EQ", value, 0)], ..allow([name]) };
    syscalls.extend(LATER_FAMILIES.map(|family| equal("socket", family)));
    syscalls.extend(PERSONALITIES.map(|personality| equal("personality", personality)));
    let opened = BY_CAPABILITY.iter().filter(|(capability, _)| has(capability));
    syscalls.extend(opened.map(|(_, calls)| allow(calls.iter().copied())));
    if !has("CAP_SYS_ADMIN") {
        let mask = arg("SCMP_CMP_MASKED_EQ", CLONE_NAMESPACES, 0);
        syscalls.push(SyscallRule { args: vec![mask], ..allow(["clone"]) });
        // Its flags are behind a pointer. libc tries clone after ENOSYS.
        syscalls.push(SyscallRule {
            action: "SCMP_ACT_ERRNO".into(),
            errno_ret: Some(ENOSYS),
            ..allow(["clone3"])
        });
    }
    Seccomp {
        default_action: "SCMP_ACT_ERRNO".into(),
        default_errno_ret: Some(EPERM),
        architectures: NATIVE_NAMES.map(str::to_owned).to_vec(),
        syscalls,
        ..Seccomp::default()
    }
}

fn allow<'a>(names: impl IntoIterator<Item = &'a str>) -> SyscallRule {
    SyscallRule {
        names: names.into_iter().map(str::to_owned).collect(),
        action: "SCMP_ACT_ALLOW".into(),
        ..SyscallRule::default()
    }
}

fn arg(op: &str, value: u64, value_two: u64) -> SyscallArg {
    SyscallArg { index: 0, value, value_two, op: op.to_owned() }
}

fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}
