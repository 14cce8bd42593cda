//! The floor: the least that a container of `config.json` beside costs the kernel, with nothing decided, checked or
//! reported. One clone3, the mounts, devices, masks and read-only paths, a cgroup in each v1 hierarchy with the device
//! rules, execve, wait, removal. A runtime cannot be faster; how far above it is, is its own.
//!
//! Built by `cargo xtask bench runtime` with rustc alone. usage: floor ROOTFS CGROUP PROGRAM

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_ulong, c_void};
use std::ptr::null;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn mount(source: *const c_char, target: *const c_char, kind: *const c_char, flags: c_ulong, data: *const c_void) -> c_int;
    fn umount2(target: *const c_char, flags: c_int) -> c_int;
    fn mknod(path: *const c_char, mode: u32, device: u64) -> c_int;
    fn symlink(to: *const c_char, path: *const c_char) -> c_int;
    fn mkdir(path: *const c_char, mode: u32) -> c_int;
    fn rmdir(path: *const c_char) -> c_int;
    fn open(path: *const c_char, flags: c_int, ...) -> c_int;
    fn write(fd: c_int, bytes: *const c_void, length: usize) -> isize;
    fn read(fd: c_int, bytes: *mut c_void, length: usize) -> isize;
    fn pipe(fds: *mut c_int) -> c_int;
    fn close(fd: c_int) -> c_int;
    fn chdir(path: *const c_char) -> c_int;
    fn sethostname(name: *const c_char, length: usize) -> c_int;
    fn execve(path: *const c_char, args: *const *const c_char, env: *const *const c_char) -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn _exit(code: c_int) -> !;
}

const RDONLY: c_ulong = 1;
const NOSUID: c_ulong = 2;
const NODEV: c_ulong = 4;
const NOEXEC: c_ulong = 8;
const REMOUNT: c_ulong = 32;
const BIND: c_ulong = 4096;
const REC: c_ulong = 16384;
const SLAVE: c_ulong = 1 << 19;
/// pid, net, ipc, uts, mount.
const NAMESPACES: u64 = 0x2000_0000 | 0x4000_0000 | 0x0800_0000 | 0x0400_0000 | 0x0002_0000;

fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

fn must(result: c_int, what: &str) {
    if result < 0 {
        eprintln!("floor: {what}: {}", std::io::Error::last_os_error());
        // SAFETY: ends the process, nothing is needed any more.
        unsafe { _exit(1) };
    }
}

fn attach(source: &CStr, target: &CStr, kind: &CStr, flags: c_ulong, data: &CStr) {
    // SAFETY: all are C strings that outlive the call.
    let result = unsafe { mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) };
    must(result, &format!("mount {target:?}"));
}

fn put(path: &CStr, values: &[&CStr]) {
    // SAFETY: a C string, and then the bytes of C strings.
    unsafe {
        let fd = open(path.as_ptr(), 1 | 0o2_000_000);
        must(fd, &format!("open {path:?}"));
        for value in values {
            let bytes = value.to_bytes();
            must(write(fd, bytes.as_ptr().cast(), bytes.len()) as c_int, &format!("write {path:?}"));
        }
        close(fd);
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (root, cgroup, program) = (&args[1], &args[2], c(&args[3]));
    let hierarchies: Vec<String> = ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"]
        .iter()
        .map(|name| format!("/sys/fs/cgroup/{name}"))
        .filter(|path| std::path::Path::new(path).is_dir())
        .collect();
    let directories: Vec<CString> = hierarchies.iter().map(|path| c(&format!("{path}{cgroup}"))).collect();
    for directory in &directories {
        // SAFETY: a C string.
        must(unsafe { mkdir(directory.as_ptr(), 0o755) }, "make a cgroup");
        if directory.to_str().unwrap().contains("/cpuset/") {
            for name in ["cpuset.cpus", "cpuset.mems"] {
                let value = std::fs::read(format!("/sys/fs/cgroup/cpuset/{name}")).unwrap();
                put(&c(&format!("{}/{name}", directory.to_str().unwrap())), &[&CString::new(value).unwrap()]);
            }
        }
    }
    let mut pipes = [0; 2];
    // SAFETY: room for two numbers.
    must(unsafe { pipe(pipes.as_mut_ptr()) }, "pipe");
    let mut clone: [u64; 11] = [0; 11];
    clone[0] = NAMESPACES;
    clone[4] = 17;
    // SAFETY: a zeroed clone_args; the process has one thread, and the child goes on with a copy of its memory.
    let pid = unsafe { syscall(435, clone.as_ptr(), size_of_val(&clone)) } as c_int;
    must(pid, "clone3");
    if pid == 0 {
        for directory in &directories {
            put(&c(&format!("{}/tasks", directory.to_str().unwrap())), &[c"0"]);
        }
        child(root, &hierarchies, &directories, &program, pipes[0]);
    }
    if let Some(devices) = directories.iter().find(|d| d.to_str().unwrap().contains("/devices/")) {
        let file = |name: &str| c(&format!("{}/{name}", devices.to_str().unwrap()));
        put(&file("devices.deny"), &[c"a"]);
        let rules = [
            c"c *:* m", c"b *:* m", c"c 1:3 rwm", c"c 1:5 rwm", c"c 1:7 rwm", c"c 1:8 rwm", c"c 1:9 rwm", c"c 5:0 rwm",
            c"c 5:2 rwm", c"c 136:* rwm",
        ];
        put(&file("devices.allow"), &rules);
    }
    let mut status = 0;
    // SAFETY: a pipe of our own; then waits for our only child.
    unsafe {
        write(pipes[1], c"g".as_ptr().cast(), 1);
        must(waitpid(pid, &mut status, 0), "wait");
    }
    for directory in &directories {
        // SAFETY: a C string.
        must(unsafe { rmdir(directory.as_ptr()) }, "remove a cgroup");
    }
    std::process::exit(status >> 8 & 0xff);
}

fn child(root: &str, hierarchies: &[String], directories: &[CString], program: &CStr, go: c_int) -> ! {
    let none = c"none";
    attach(none, c"/", none, REC | SLAVE, c"");
    attach(&c(root), &c(root), none, BIND | REC, c"");
    let at = |path: &str| c(&format!("{root}{path}"));
    let make = |path: &str| {
        // SAFETY: a C string. One that is there is fine.
        unsafe { mkdir(at(path).as_ptr(), 0o755) };
    };
    let safe = NOSUID | NODEV | NOEXEC;
    attach(c"proc", &at("/proc"), c"proc", 0, c"");
    attach(c"tmpfs", &at("/dev"), c"tmpfs", NOSUID, c"mode=755,size=65536k");
    for (path, kind, flags, data) in [
        ("/dev/pts", c"devpts", NOSUID | NOEXEC, c"newinstance,ptmxmode=0666,mode=0620,gid=5"),
        ("/dev/shm", c"tmpfs", safe, c"mode=1777,size=65536k"),
        ("/dev/mqueue", c"mqueue", safe, c""),
    ] {
        make(path);
        attach(kind, &at(path), kind, flags, data);
    }
    attach(c"sysfs", &at("/sys"), c"sysfs", safe | RDONLY, c"");
    attach(c"tmpfs", &at("/sys/fs/cgroup"), c"tmpfs", safe, c"mode=755");
    for (hierarchy, directory) in hierarchies.iter().zip(directories) {
        make(hierarchy);
        attach(directory, &at(hierarchy), none, BIND, c"");
        attach(none, &at(hierarchy), none, BIND | REMOUNT | safe | RDONLY, c"");
    }
    attach(none, &at("/sys/fs/cgroup"), none, BIND | REMOUNT | safe | RDONLY, c"");
    for (name, major, minor) in
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
    {
        // SAFETY: a C string.
        must(unsafe { mknod(at(&format!("/dev/{name}")).as_ptr(), 0o20666, major << 8 | minor) }, "mknod");
    }
    for (name, to) in [
        ("fd", c"/proc/self/fd"),
        ("stdin", c"/proc/self/fd/0"),
        ("stdout", c"/proc/self/fd/1"),
        ("stderr", c"/proc/self/fd/2"),
        ("ptmx", c"pts/ptmx"),
    ] {
        // SAFETY: C strings.
        must(unsafe { symlink(to.as_ptr(), at(&format!("/dev/{name}")).as_ptr()) }, "symlink");
    }
    // SAFETY: C strings; the last call puts the old root over the new one, and then away.
    unsafe {
        must(sethostname(c"bench".as_ptr(), 5), "sethostname");
        must(chdir(at("").as_ptr()), "chdir");
        must(syscall(155, c".".as_ptr(), c".".as_ptr()) as c_int, "pivot_root");
        must(umount2(c".".as_ptr(), 2), "umount");
        must(chdir(c"/".as_ptr()), "chdir");
    }
    for path in ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"].map(c) {
        if exists(&path) {
            attach(&path, &path, none, BIND | REC, c"");
            attach(none, &path, none, BIND | REMOUNT | RDONLY, c"");
        }
    }
    for (path, directory) in [
        ("/proc/acpi", true),
        ("/proc/asound", true),
        ("/proc/kcore", false),
        ("/proc/keys", false),
        ("/proc/latency_stats", false),
        ("/proc/timer_list", false),
        ("/proc/timer_stats", false),
        ("/proc/sched_debug", false),
        ("/sys/firmware", true),
        ("/proc/scsi", true),
    ] {
        let path = c(path);
        match (exists(&path), directory) {
            (false, _) => {}
            (true, true) => attach(c"tmpfs", &path, c"tmpfs", safe | RDONLY, c"nr_blocks=1"),
            (true, false) => attach(c"/dev/null", &path, none, BIND, c""),
        }
    }
    attach(none, c"/", none, BIND | REMOUNT | RDONLY, c"");
    let (args, env) = ([program.as_ptr(), null()], [c"PATH=/bin".as_ptr(), null()]);
    let mut byte = 0u8;
    // SAFETY: one byte of ours; then two lists that end in a null pointer.
    unsafe {
        read(go, (&raw mut byte).cast(), 1);
        must(execve(program.as_ptr(), args.as_ptr(), env.as_ptr()), "execve");
        _exit(1)
    }
}

fn exists(path: &CStr) -> bool {
    // SAFETY: a C string; access(2) with F_OK.
    unsafe { syscall(21, path.as_ptr(), 0) == 0 }
}
