//! The launcher: a program of some two hundred bytes in sealed memory that stands between this program and the user's.
//!
//! A process that executes what a hostile image names must not have a file of the host as its `/proc/self/exe`: the image's
//! program may be a link to just that (CVE-2019-5736). So the last thing a new process does in our code is to execute the
//! launcher, which knows nothing of the host:
//!
//! ```text
//! rt_sigaction(SIGTERM) ends it: it may be process 1, to which the kernel brings no signal that it does not handle
//! seccomp(filter)       if one is to be loaded last
//! write(channel, ready)
//! close(channel)        unless it is the gate too
//! read(gate)            one byte lets it go; the end of the file ends it
//! fcntl(gate, FD_CLOEXEC)
//! execve(argv[0], argv + 1, envp)
//! write(gate, [`FAILED`, errno])
//! exit(126, or 127 for ENOENT)
//! ```
//!
//! It has no C library and one page, which is all that waits in a container that is created and not started.
//!
//! Kernel: memfd_create(2), fcntl(2) `F_ADD_SEALS`, execveat(2), seccomp(2).
#![allow(unsafe_code, reason = "machine code, and where it lies")]

use crate::process::{StringList, execve_file};
use crate::seccomp::Instruction;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::{Errno, FdFlags};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// First byte of what the launcher writes when execve fails; the second one is the error number.
pub const FAILED: u8 = b'x';
/// The same, to the channel, for a filter that the kernel refuses.
pub const REFUSED: u8 = b'y';

/// No writer, not even one that holds a descriptor, can change the program.
pub const SEALS: SealFlags =
    SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);

/// Whether there is a launcher for this processor.
pub const AVAILABLE: bool = cfg!(target_arch = "x86_64");

/// System calls that a filter loaded before must allow for a launcher to do its work.
pub const CALLS: &[&str] =
    &["execveat", "rt_sigaction", "write", "close", "read", "fcntl", "execve", "memfd_create"];

/// What the launcher is to do.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Hears `ready`.
    pub channel: BorrowedFd<'a>,
    /// Lets go, and hears of a failure. May be the channel.
    pub gate: BorrowedFd<'a>,
    pub ready: &'a [u8],
    /// A filter and its flags; without a listener, which nobody here could take.
    pub filter: Option<(&'a [Instruction], u32)>,
}

/// `program`, written to sealed memory, ready for [`execute`].
///
/// # Errors
///
/// `ENOSYS` on a processor that [`AVAILABLE`] leaves out; the kernel's.
pub fn prepare(launch: &Launch<'_>) -> io::Result<OwnedFd> {
    const NAME: &str = "launcher";
    if !AVAILABLE {
        return Err(Errno::NOSYS.into());
    }
    let image = image(launch)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = match rustix::fs::memfd_create(NAME, flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 there is no such flag and every memfd may be executed.
        Err(Errno::INVAL) => rustix::fs::memfd_create(NAME, flags)?,
        other => other?,
    };
    if rustix::io::write(&memory, &image)? != image.len() {
        return Err(Errno::NOSPC.into());
    }
    rustix::fs::fcntl_add_seals(&memory, SEALS)?;
    // The launcher closes them.
    rustix::io::fcntl_setfd(launch.gate, FdFlags::empty())?;
    if launch.channel.as_raw_fd() != launch.gate.as_raw_fd() {
        rustix::io::fcntl_setfd(launch.channel, FdFlags::empty())?;
    }
    Ok(memory)
}

/// Becomes the launcher. `args` begins with the path of the program, its own `argv[0]` follows. Returns only on failure.
pub fn execute(launcher: impl AsFd, args: &StringList, env: &StringList) -> io::Error {
    execve_file(launcher, args, env)
}

/// Where the image is loaded. Anything above `vm.mmap_min_addr` that the kernel gives nobody else at execve.
const BASE: u64 = 0x40_0000;
const HEADERS: usize = 64 + 2 * 56;

/// An executable of one read-only segment: headers, code, parameters, the words of `ready`, the filter.
fn image(launch: &Launch<'_>) -> io::Result<Vec<u8>> {
    let code = code();
    let number = |fd: BorrowedFd<'_>| fd.as_raw_fd().to_ne_bytes();
    let length = |length: usize| u32::try_from(length).map(u32::to_ne_bytes).map_err(|_| Errno::TOOBIG);
    let (filter, flags) = launch.filter.unwrap_or((&[], 0));
    let count = u16::try_from(filter.len()).map_err(|_| Errno::TOOBIG)?;
    let ready_at = HEADERS + code.len() + PARAMETERS;
    let filter_at = (ready_at + launch.ready.len()).next_multiple_of(8);

    let mut image = Vec::with_capacity(filter_at + 8 * filter.len());
    image.resize(HEADERS, 0);
    image.extend_from_slice(code);
    image.extend_from_slice(&number(launch.channel));
    image.extend_from_slice(&number(launch.gate));
    image.extend_from_slice(&length(launch.ready.len())?);
    image.extend_from_slice(&flags.to_ne_bytes());
    image.extend_from_slice(&u64::from(count).to_ne_bytes());
    image.extend_from_slice(&(BASE + filter_at as u64).to_ne_bytes());
    image.extend_from_slice(launch.ready);
    image.resize(filter_at, 0);
    for instruction in filter {
        image.extend_from_slice(&instruction.code.to_ne_bytes());
        image.extend_from_slice(&[instruction.jt, instruction.jf]);
        image.extend_from_slice(&instruction.k.to_ne_bytes());
    }
    let headers = headers(image.len() as u64);
    image[..HEADERS].copy_from_slice(&headers);
    Ok(image)
}

/// `Elf64_Ehdr` and two `Elf64_Phdr`: the segment, and a stack that is not executable.
fn headers(size: u64) -> Vec<u8> {
    const EM_X86_64: u16 = 62;
    const READ_EXECUTE: u32 = 5;
    const READ_WRITE: u32 = 6;
    const PT_LOAD: u32 = 1;
    const PT_GNU_STACK: u32 = 0x6474_e551;
    let mut out = Vec::with_capacity(HEADERS);
    // Class 64, little endian, version 1.
    out.extend_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // ET_EXEC.
    for half in [2, EM_X86_64] {
        out.extend_from_slice(&half.to_le_bytes());
    }
    out.extend_from_slice(&1u32.to_le_bytes());
    // Entry, program headers, no section headers.
    for word in [BASE + HEADERS as u64, 64, 0] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&0u32.to_le_bytes());
    // Sizes and counts.
    for half in [64u16, 56, 2, 64, 0, 0] {
        out.extend_from_slice(&half.to_le_bytes());
    }
    for (kind, flags, address, size, align) in
        [(PT_LOAD, READ_EXECUTE, BASE, size, 0x1000u64), (PT_GNU_STACK, READ_WRITE, 0, 0, 16)]
    {
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        for word in [0, address, address, size, size, align] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }
    out
}

/// Channel, gate, length of `ready`, flags of the filter; `struct sock_fprog`.
const PARAMETERS: usize = 4 * 4 + 16;

#[cfg(target_arch = "x86_64")]
fn code() -> &'static [u8] {
    unsafe extern "C" {
        static brig_launcher_begin: u8;
        static brig_launcher_end: u8;
    }
    let (begin, end) = (&raw const brig_launcher_begin, &raw const brig_launcher_end);
    // SAFETY: both symbols are of the block below, the second one after the first, so what lies between is one read-only
    // object of that many bytes that lives as long as the program.
    unsafe { std::slice::from_raw_parts(begin, end.addr() - begin.addr()) }
}

#[cfg(not(target_arch = "x86_64"))]
fn code() -> &'static [u8] {
    &[]
}

// Position independent, uses no memory but its own parameters and 64 bytes below the stack pointer. r12: the stack as
// execve left it (argc, argv, 0, envp, 0); r13: the parameters.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .rodata.brig_launcher, \"a\"",
    ".globl brig_launcher_begin",
    ".globl brig_launcher_end",
    ".hidden brig_launcher_begin",
    ".hidden brig_launcher_end",
    "brig_launcher_begin:",
    "mov r12, rsp",
    "lea r13, [rip + brig_launcher_end]",
    // rt_sigaction(SIGTERM, &{handler, SA_RESTORER, restorer, no mask}, 0, 8); the handler never returns
    "lea rax, [rip + 75f]",
    "mov [rsp - 64], rax",
    "mov qword ptr [rsp - 56], 0x4000000",
    "mov [rsp - 48], rax",
    "mov qword ptr [rsp - 40], 0",
    "mov eax, 13",
    "mov edi, 15",
    "lea rsi, [rsp - 64]",
    "xor edx, edx",
    "mov r10d, 8",
    "syscall",
    // seccomp(SECCOMP_SET_MODE_FILTER, flags, &prog)
    "cmp word ptr [r13 + 16], 0",
    "je 20f",
    "mov eax, 317",
    "mov edi, 1",
    "mov esi, [r13 + 12]",
    "lea rdx, [r13 + 16]",
    "syscall",
    "mov byte ptr [rsp - 64], 'y'",
    "mov edi, [r13]",
    "test eax, eax",
    "jnz 70f",
    // write(channel, ready, length)
    "20:",
    "mov eax, 1",
    "mov edi, [r13]",
    "lea rsi, [r13 + 32]",
    "mov edx, [r13 + 8]",
    "syscall",
    // close(channel)
    "mov edi, [r13]",
    "cmp edi, [r13 + 4]",
    "je 30f",
    "mov eax, 3",
    "syscall",
    // read(gate, buffer, 1), again after EINTR
    "30:",
    "xor eax, eax",
    "mov edi, [r13 + 4]",
    "lea rsi, [rsp - 64]",
    "mov edx, 1",
    "syscall",
    "cmp rax, -4",
    "je 30b",
    "mov ebx, 1",
    "cmp rax, 1",
    "jne 80f",
    // fcntl(gate, F_SETFD, FD_CLOEXEC)
    "mov eax, 72",
    "mov edi, [r13 + 4]",
    "mov esi, 2",
    "mov edx, 1",
    "syscall",
    "mov byte ptr [rsp - 64], 'x'",
    "mov edi, [r13 + 4]",
    "test eax, eax",
    "jnz 70f",
    // execve(argv[0], argv + 1, envp)
    "mov eax, 59",
    "mov rdi, [r12 + 8]",
    "lea rsi, [r12 + 16]",
    "mov rcx, [r12]",
    "lea rdx, [r12 + rcx * 8 + 16]",
    "syscall",
    "mov edi, [r13 + 4]",
    // write(edi, [kind, errno], 2)
    "70:",
    "neg eax",
    "mov [rsp - 63], al",
    "xor ebx, ebx",
    "cmp eax, 2",
    "sete bl",
    "add ebx, 126",
    "mov eax, 1",
    "lea rsi, [rsp - 64]",
    "mov edx, 2",
    "syscall",
    "jmp 80f",
    "75:",
    "mov ebx, 143",
    // exit_group(ebx)
    "80:",
    "mov edi, ebx",
    "mov eax, 231",
    "syscall",
    "ud2",
    ".balign 8",
    "brig_launcher_end:",
    ".popsection",
);

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, ExitStatus, Stdio};

    /// Runs the launcher in a child of a test, with `gate` waiting to be read. Gives what it and the program said, and what
    /// it wrote to the gate.
    #[expect(clippy::unwrap_used, reason = "part of the tests")]
    fn launch(args: &[&str], gate: &[u8], filter: Option<&[Instruction]>) -> (ExitStatus, Vec<u8>, Vec<u8>) {
        let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let (said, channel) = io::pipe().unwrap();
        if !gate.is_empty() {
            ours.send(gate).unwrap();
        }
        let memory = prepare(&Launch {
            channel: channel.as_fd(),
            gate: theirs.as_fd(),
            ready: b"ready",
            filter: filter.map(|f| (f, 0)),
        })
        .unwrap();
        let mut child = Command::new(format!("/proc/self/fd/{}", memory.as_raw_fd()));
        child.arg0(args[0]).args(&args[1..]).env_clear().env("A", "b").stdout(Stdio::piped());
        let child = child.spawn().unwrap();
        drop((channel, theirs));
        let output = child.wait_with_output().unwrap();
        let mut words = Vec::new();
        io::Read::read_to_end(&mut io::BufReader::new(said), &mut words).unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut failure = vec![0; 16];
        let length = ours.recv(&mut failure).unwrap_or(0);
        failure.truncate(length);
        words.extend_from_slice(&output.stdout);
        (output.status, words, failure)
    }

    #[test]
    fn it_becomes_the_program() {
        let (status, said, failure) =
            launch(&["/bin/sh", "name", "-c", "echo $0 $A $1", "x", "y"], b"g", None);
        assert_eq!((status.code(), failure), (Some(0), Vec::new()));
        assert_eq!(String::from_utf8(said).unwrap(), "readyx b y\n");
    }

    #[test]
    fn it_tells_why_not() {
        let (status, said, failure) = launch(&["/nowhere", "x"], b"g", None);
        assert_eq!(
            (status.code(), said.as_slice(), failure.as_slice()),
            (Some(127), &b"ready"[..], &[FAILED, 2][..])
        );
        let (status, _, failure) = launch(&["/etc/passwd", "x"], b"g", None);
        assert_eq!((status.code(), failure.as_slice()), (Some(126), &[FAILED, 13][..]));
    }

    #[test]
    fn a_refused_filter_is_told_before_it_is_ready() {
        // A program that does not end in a return.
        let bad = [Instruction { code: 0x20, jt: 0, jf: 0, k: 0 }];
        let (status, said, _) = launch(&["/bin/true", "true"], b"g", Some(&bad));
        assert_eq!(status.code(), Some(126));
        assert!(said.len() == 2 && said[0] == REFUSED, "{said:?}");
    }

    #[test]
    fn sigterm_ends_it_while_it_waits() {
        let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let (mut said, channel) = io::pipe().unwrap();
        let (channel_fd, gate) = (channel.as_fd(), theirs.as_fd());
        let memory = prepare(&Launch { channel: channel_fd, gate, ready: b"r", filter: None }).unwrap();
        let mut child = Command::new(format!("/proc/self/fd/{}", memory.as_raw_fd()));
        let mut child = child.arg0("/bin/true").arg("true").spawn().unwrap();
        drop((channel, theirs));
        io::Read::read_exact(&mut said, &mut [0]).unwrap();
        let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        // By its handler, not by the signal.
        assert_eq!(child.wait().unwrap().code(), Some(143));
        drop(ours);
    }

    #[test]
    fn nobody_can_write_to_it() {
        let (_, channel) = io::pipe().unwrap();
        let launch = Launch { channel: channel.as_fd(), gate: channel.as_fd(), ready: b"", filter: None };
        let memory = prepare(&launch).unwrap();
        assert_eq!(rustix::io::write(&memory, b"x"), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&memory, 0), Err(Errno::PERM));
    }
}
