//! Why a program is not going to start, found out while it can still be told to whoever asked: after `start` the kernel's
//! one number is all there is, and "no such file or directory" about a file that is there has cost people days.
//!
//! Only what the kernel is sure to refuse is named. Where it has formats of others (binfmt_misc), files of formats that
//! are not its own are left to it.
//!
//! Kernel: [execve(2)](https://man7.org/linux/man-pages/man2/execve.2.html), fs/binfmt_elf.c, fs/binfmt_script.c.

use rustix::fs::{Access, AtFlags, CWD, Dir, DirEntry, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use std::ffi::CStr;
use std::os::fd::OwnedFd;
use sys::spent::spend;

/// What the kernel looks at of a file's begin.
const HEAD: usize = 256;
/// What is read of it: of most programs the headers are in it.
const FIRST: usize = 1024;
/// Program headers looked at; real programs have about ten.
const MAX_HEADERS: usize = 64;
/// Bytes of one.
const HEADER: usize = 56;
const PT_INTERP: u32 = 3;

/// Machines whose programs a kernel of this one runs: itself, and its 32-bit elder.
#[cfg(target_arch = "x86_64")]
const OWN: [u16; 2] = [62, 3];
#[cfg(target_arch = "aarch64")]
const OWN: [u16; 2] = [183, 40];

/// What execve would say, and why.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) errno: Errno,
    pub(crate) why: String,
    /// The kernel has no such format of its own, but somebody may have given it one.
    pub(crate) unless_other_formats: bool,
}

/// Whether the kernel may know formats besides its own. To be asked where the host's procfs is in its place.
///
/// It knows them also where nobody has mounted the list of them, as in a container that runs this: then that is looked at
/// without a place.
pub(crate) fn has_other_formats() -> bool {
    rustix::fs::access("/proc/sys/fs/binfmt_misc/status", Access::EXISTS).is_ok() || lists_formats()
}

#[cold]
fn lists_formats() -> bool {
    // Asking for a file system that is not there would load its module.
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.lines().any(|line| line.ends_with("\tbinfmt_misc")) {
        return false;
    }
    let list = || {
        let context = fsopen("binfmt_misc", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Dir::new(rustix::fs::openat(&mount, ".", flags, Mode::empty())?)
    };
    let is_format =
        |entry: DirEntry| ![&b"."[..], b"..", b"register", b"status"].contains(&entry.file_name().to_bytes());
    list().is_ok_and(|entries| entries.flatten().any(is_format))
}

/// Opens a program to read what it is. `None` for one that may be executed and not read, or is no file.
///
/// # Errors
///
/// `EISDIR` for a directory; the kernel's, when nothing is there.
pub(crate) fn open(path: &CStr) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok();
    // A filter may be loaded by now that knows stat(2) and not fstat(2).
    let fstat = file.as_ref().and_then(|file| rustix::fs::fstat(file).ok());
    let stat = fstat.map_or_else(|| rustix::fs::stat(path), Ok)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Err(Errno::ISDIR),
        FileType::RegularFile => Ok(file),
        _ => Ok(None),
    }
}

/// Why execve would refuse `file`; None when it is likely to work.
pub(crate) fn refusal(file: OwnedFd) -> Option<Refusal> {
    let mut first = [0; FIRST];
    let length = rustix::io::pread(&file, &mut first, 0).ok()?;
    let refusal = of_content(&file, &first[..length]);
    spend(file);
    refusal
}

fn sure(errno: Errno, why: String) -> Option<Refusal> {
    Some(Refusal { errno, why, unless_other_formats: false })
}

fn unknown(why: String) -> Option<Refusal> {
    Some(Refusal { errno: Errno::NOEXEC, why, unless_other_formats: true })
}

fn of_content(file: &OwnedFd, first: &[u8]) -> Option<Refusal> {
    let head = &first[..first.len().min(HEAD)];
    if let Some(line) = head.strip_prefix(b"#!") {
        return script(line);
    }
    match head {
        [] => unknown("the file is empty".into()),
        [0x7f, b'E', b'L', b'F', ..] => elf(file, first),
        [0xef, 0xbb, 0xbf, b'#', b'!', ..] => {
            unknown("a byte order mark comes before its #!; save it without one".into())
        }
        _ => unknown("it is neither a program nor a script that begins with #!".into()),
    }
}

/// `line` is what follows the `#!`.
fn script(line: &[u8]) -> Option<Refusal> {
    // A line that is longer than what the kernel looks at is cut there.
    let line = line.split(|&b| b == b'\n').next().unwrap_or_default();
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let start = line.iter().position(|b| !blank(b)).unwrap_or(line.len());
    let name = line[start..].split(blank).next().unwrap_or_default();
    let shown = String::from_utf8_lossy(name).into_owned();
    if name.is_empty() {
        return sure(Errno::NOEXEC, "its #! names no interpreter".into());
    }
    match can_execute(name)? {
        Errno::NOENT if name.ends_with(b"\r") => {
            let without = shown.trim_end_matches('\r');
            let why = format!(
                "it asks for the interpreter {without:?} with a carriage return behind: its lines end in CR LF; save it with LF"
            );
            sure(Errno::NOENT, why)
        }
        Errno::NOENT => sure(Errno::NOENT, format!("its interpreter {shown:?} does not exist")),
        e => sure(e, format!("its interpreter {shown:?} cannot be executed")),
    }
}

fn elf(file: &OwnedFd, head: &[u8]) -> Option<Refusal> {
    let half = |at: usize| head.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let is_little = head.get(5) == Some(&1);
    let machine = match (is_little, head.get(18..20)) {
        (false, Some(b)) => u16::from_be_bytes([b[0], b[1]]),
        _ => half(18)?,
    };
    if !is_little || !OWN.contains(&machine) {
        return unknown(format!(
            "it is a program for {}, and this machine is {}; binfmt_misc has no interpreter for it (qemu-user-static brings some)",
            name_of(machine),
            name_of(OWN[0])
        ));
    }
    // The loader of 32-bit programs is at another place of another header; the kernel tells of it as ever.
    if head.get(4) != Some(&2) || machine != OWN[0] {
        return None;
    }
    let headers = u64::from_le_bytes(head.get(32..40)?.try_into().ok()?);
    let (size, count) = (half(54)?, half(56)?);
    // All at once: they stand side by side, and a program has a dozen.
    let wanted = usize::from(count).min(MAX_HEADERS) * usize::from(size);
    let begin = usize::try_from(headers).ok()?;
    let mut more = [0; MAX_HEADERS * HEADER];
    let bytes = match head.get(begin..begin.checked_add(wanted)?) {
        Some(there) => there,
        None => {
            let length = rustix::io::pread(file, more.get_mut(..wanted)?, headers).ok()?;
            &more[..length]
        }
    };
    for number in 0..usize::from(count).min(MAX_HEADERS) {
        let at = number * usize::from(size);
        let header: &[u8; HEADER] = bytes.get(at..at + HEADER)?.try_into().ok()?;
        if u32::from_le_bytes(header[..4].try_into().ok()?) != PT_INTERP {
            continue;
        }
        let mut name = [0; HEAD];
        let offset = u64::from_le_bytes(header[8..16].try_into().ok()?);
        let length = rustix::io::pread(file, &mut name, offset).ok()?;
        let name = name[..length].split(|&b| b == 0).next().unwrap_or_default();
        let shown = String::from_utf8_lossy(name).into_owned();
        return match can_execute(name)? {
            Errno::NOENT => sure(
                Errno::NOENT,
                format!(
                    "its loader {shown:?} does not exist: the image lacks the C library that it was built for"
                ),
            ),
            e => sure(e, format!("its loader {shown:?} cannot be executed")),
        };
    }
    None
}

/// None when the file can be executed, or nobody can say.
fn can_execute(path: &[u8]) -> Option<Errno> {
    match rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS) {
        Err(e @ (Errno::NOENT | Errno::ACCESS | Errno::NOTDIR | Errno::LOOP)) => Some(e),
        _ => None,
    }
}

/// As Go and Docker call machines; the number where nobody does.
fn name_of(machine: u16) -> String {
    let name = match machine {
        3 => "386",
        8 => "mips",
        20 => "ppc",
        21 => "ppc64",
        22 => "s390x",
        40 => "arm",
        62 => "amd64",
        183 => "arm64",
        243 => "riscv64",
        258 => "loong64",
        other => return format!("machine number {other}"),
    };
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt as _;

    #[track_caller]
    fn check(content: &[u8], others: bool, want: Option<(Errno, &str)>) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, content).unwrap();
        let path = CString::new(file.path().as_os_str().as_bytes()).unwrap();
        let refusal = open(&path).unwrap().and_then(refusal).filter(|r| !(others && r.unless_other_formats));
        match (refusal, want) {
            (None, None) => {}
            (Some(Refusal { errno: e, why, .. }), Some((errno, words))) => {
                assert_eq!(e, errno, "{why}");
                assert!(why.contains(words), "{why}");
            }
            (got, want) => panic!("{got:?} where {want:?}"),
        }
    }

    fn elf_of(machine: u16, loader: &str) -> Vec<u8> {
        let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
        bytes.resize(16, 0);
        bytes.extend(2u16.to_le_bytes());
        bytes.extend(machine.to_le_bytes());
        bytes.resize(32, 0);
        bytes.extend(64u64.to_le_bytes());
        bytes.resize(54, 0);
        bytes.extend(56u16.to_le_bytes());
        bytes.extend(1u16.to_le_bytes());
        bytes.resize(64, 0);
        bytes.extend(PT_INTERP.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(120u64.to_le_bytes());
        bytes.resize(120, 0);
        bytes.extend(loader.as_bytes());
        bytes.push(0);
        bytes
    }

    #[test]
    fn scripts() {
        check(b"#!/bin/sh\necho\n", false, None);
        check(b"#! /usr/bin/env sh\n", false, None);
        check(b"#!/bin/sh\r\necho\r\n", true, Some((Errno::NOENT, "CR LF")));
        check(b"#!/no/such -x\n", true, Some((Errno::NOENT, "\"/no/such\" does not exist")));
        check(b"#!/etc/passwd\n", true, Some((Errno::ACCESS, "cannot be executed")));
        check(b"#!\n", true, Some((Errno::NOEXEC, "names no interpreter")));
        check(b"\xef\xbb\xbf#!/bin/sh\n", false, Some((Errno::NOEXEC, "byte order mark")));
    }

    #[test]
    fn programs() {
        check(&std::fs::read("/proc/self/exe").unwrap(), false, None);
        check(
            &elf_of(OWN[0], "/no/loader"),
            true,
            Some((Errno::NOENT, "its loader \"/no/loader\" does not exist")),
        );
        let other = if OWN[0] == 183 { 62 } else { 183 };
        check(&elf_of(other, "/x"), false, Some((Errno::NOEXEC, "it is a program for")));
        check(&elf_of(other, "/x"), true, None);
        // Cut anywhere, it is nobody's fault but the file's.
        let whole = elf_of(OWN[0], "/no/loader");
        for length in 4..whole.len() {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            std::io::Write::write_all(&mut file, &whole[..length]).unwrap();
            let path = CString::new(file.path().as_os_str().as_bytes()).unwrap();
            drop(refusal(open(&path).unwrap().unwrap()));
        }
    }

    #[test]
    fn neither() {
        check(b"", false, Some((Errno::NOEXEC, "empty")));
        check(b"echo\n", false, Some((Errno::NOEXEC, "neither a program nor a script")));
        check(b"echo\n", true, None);
    }
}
