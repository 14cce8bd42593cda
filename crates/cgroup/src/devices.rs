//! Device rules: what v1 keeps in the kernel, and an eBPF program that says the same for v2.
//!
//! Rules are folded as the v1 controller folds them: a default, and exceptions from it by type and numbers. So a
//! container meets the same rules on both versions, and the program tests each exception once.
//!
//! Kernel: admin-guide/cgroup-v1/devices.rst; `struct bpf_cgroup_dev_ctx` in linux/bpf.h.

use crate::directories::directory_error;
use crate::layout::Hierarchy;
use crate::{Cgroup, Error, file};
use oci::runtime::DeviceRule;
use std::os::fd::AsFd;

const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;

/// No profile comes near; a program of this many exceptions is far below the verifier's limit.
const MAX_RULES: usize = 4096;

/// One exception from the default; a missing number is any.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Exception {
    kind: u32,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Table {
    allow: bool,
    /// In the order of first mention.
    exceptions: Vec<Exception>,
}

/// Puts the rules in force. None: nothing changes.
pub(crate) fn apply(cgroup: &Cgroup, rules: &[DeviceRule]) -> Result<(), Error> {
    if rules.is_empty() {
        return Ok(());
    }
    let table = fold(rules)?;
    if let Some(index) = cgroup.layout.index_of("devices") {
        return apply_v1(cgroup, &cgroup.layout.hierarchies[index], &table);
    }
    let Some((hierarchy, directory)) = cgroup.v2() else {
        return Err(crate::apply::missing("devices", "device rules".into()));
    };
    let at = |source| Error::DeviceFilter { path: cgroup.shown(hierarchy), source };
    let program = match sys::bpf::load_device_program(&program(&table)) {
        // Who is root nowhere can make no devices either.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied && !crate::dbus::is_root_of_host() => {
            return Ok(());
        }
        other => other.map_err(at)?,
    };
    let there = sys::bpf::device_programs(directory).map_err(at)?;
    // Replacing leaves no moment without a filter, nor one with two. All attached programs must agree, so the new
    // one goes in before the rest goes out.
    let replace = if let [one] = there.as_slice() { Some(one.as_fd()) } else { None };
    sys::bpf::attach_device_program(directory, program.as_fd(), replace).map_err(at)?;
    if replace.is_none() {
        for old in &there {
            sys::bpf::detach_device_program(directory, old.as_fd()).map_err(at)?;
        }
    }
    Ok(())
}

fn apply_v1(cgroup: &Cgroup, hierarchy: &Hierarchy, table: &Table) -> Result<(), Error> {
    let shown = cgroup.shown(hierarchy);
    let (default, other) =
        if table.allow { ("devices.allow", "devices.deny") } else { ("devices.deny", "devices.allow") };
    let path = format!("{shown}/{default}");
    file::write_path(&path, "a").map_err(|e| Error::Write {
        value: "a".into(),
        file: path,
        source: e.into(),
    })?;
    if table.exceptions.is_empty() {
        return Ok(());
    }
    let fd = file::open_to_write(&format!("{shown}/{other}"))
        .map_err(|e| directory_error("open", hierarchy, &cgroup.path, e))?;
    for exception in &table.exceptions {
        let line = v1_line(exception);
        rustix::io::write(&fd, line.as_bytes()).map_err(|e| Error::Write {
            value: line,
            file: format!("{shown}/{other}"),
            source: e.into(),
        })?;
    }
    sys::spent::spend(fd);
    Ok(())
}

fn v1_line(exception: &Exception) -> String {
    let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
    let mut line = format!(
        "{} {}:{} ",
        if exception.kind == BLOCK { 'b' } else { 'c' },
        number(exception.major),
        number(exception.minor)
    );
    for (bit, letter) in [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')] {
        if exception.access & bit != 0 {
            line.push(letter);
        }
    }
    line
}

/// Folds rules, in order, into a default and its exceptions. Before the first rule everything is refused, as with runc
/// and crun: who names a device to allow means that one only.
fn fold(rules: &[DeviceRule]) -> Result<Table, Error> {
    if rules.len() > MAX_RULES {
        let value = rules.len().to_string();
        return Err(Error::InvalidValue {
            limit: "number of device rules",
            value,
            reason: "the most is 4096",
        });
    }
    let mut table = Table { allow: false, exceptions: Vec::new() };
    for rule in rules {
        let kinds: &[u32] = match rule.kind.as_deref() {
            None | Some("" | "a") => {
                // As in the kernel, whatever numbers and access stand beside it.
                table = Table { allow: rule.allow, exceptions: Vec::new() };
                continue;
            }
            Some("b") => &[BLOCK],
            // `u`, unbuffered, is a character device to the kernel.
            Some("c" | "u") => &[CHARACTER],
            Some(other) => return invalid("device type", other, "it is none of a, b, c"),
        };
        let (major, minor) = (number(rule.major)?, number(rule.minor)?);
        let access = access(rule.access.as_deref())?;
        for &kind in kinds {
            fold_one(&mut table, &Exception { kind, major, minor, access }, rule.allow);
        }
    }
    Ok(table)
}

fn fold_one(table: &mut Table, new: &Exception, allow: bool) {
    let same = |e: &Exception| (e.kind, e.major, e.minor) == (new.kind, new.major, new.minor);
    let there = table.exceptions.iter().position(same);
    match (allow == table.allow, there) {
        (true, Some(at)) => {
            table.exceptions[at].access &= !new.access;
            if table.exceptions[at].access == 0 {
                table.exceptions.remove(at);
            }
        }
        (true, None) => {}
        (false, Some(at)) => table.exceptions[at].access |= new.access,
        (false, None) => table.exceptions.push(new.clone()),
    }
}

fn number(number: Option<i64>) -> Result<Option<u32>, Error> {
    match number {
        None | Some(-1) => Ok(None),
        Some(n) => match u32::try_from(n) {
            Ok(n) => Ok(Some(n)),
            Err(_) => invalid("device number", &n.to_string(), "it does not fit"),
        },
    }
}

fn access(letters: Option<&str>) -> Result<u32, Error> {
    let Some(letters) = letters.filter(|l| !l.is_empty()) else { return Ok(READ | WRITE | MKNOD) };
    letters.chars().try_fold(0, |bits, letter| match letter {
        'r' => Ok(bits | READ),
        'w' => Ok(bits | WRITE),
        'm' => Ok(bits | MKNOD),
        _ => invalid("device access", letters, "it is none of r, w, m"),
    })
}

fn invalid<T>(limit: &'static str, value: &str, reason: &'static str) -> Result<T, Error> {
    Err(Error::InvalidValue { limit, value: value.to_owned(), reason })
}

// eBPF operations, linux/bpf.h and linux/bpf_common.h.
const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const AND32_K: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const RSH32_K: u8 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
const MOV32_X: u8 = 0xbc; // BPF_ALU | BPF_MOV | BPF_X
const MOV64_K: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const JNE32_K: u8 = 0x56; // BPF_JMP32 | BPF_JNE | BPF_K
const JEQ32_K: u8 = 0x16; // BPF_JMP32 | BPF_JEQ | BPF_K
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

/// `struct bpf_insn` as one number in native order.
fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: u32) -> u64 {
    let registers = source << 4 | destination;
    let mut bytes = [code, registers, 0, 0, 0, 0, 0, 0];
    bytes[2..4].copy_from_slice(&offset.to_ne_bytes());
    bytes[4..8].copy_from_slice(&immediate.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

/// A program for `BPF_CGROUP_DEVICE` that returns 1 to allow.
fn program(table: &Table) -> Vec<u64> {
    // r1: context { access_type: u32 = access << 16 | kind, major: u32, minor: u32 }
    let mut code = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOV32_X, 3, 2, 0, 0),
        instruction(AND32_K, 2, 0, 0, 0xffff),
        instruction(RSH32_K, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for exception in &table.exceptions {
        code.extend(test_exception(exception, table.allow));
    }
    code.push(instruction(MOV64_K, 0, 0, 0, u32::from(table.allow)));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    code
}

/// Instructions that leave with the other answer if the request meets `exception`, and else fall through.
///
/// Allowing: the exception must cover all that is asked for. Denying: some of what is asked for.
fn test_exception(exception: &Exception, default: bool) -> Vec<u64> {
    const ALL: u32 = READ | WRITE | MKNOD;
    let mut tests = vec![(JNE32_K, 2u8, exception.kind)];
    tests.extend(exception.major.map(|n| (JNE32_K, 4, n)));
    tests.extend(exception.minor.map(|n| (JNE32_K, 5, n)));
    let mask = if default { exception.access } else { ALL & !exception.access };
    let masked = if default { Some(JEQ32_K) } else { (mask != 0).then_some(JNE32_K) };
    let length = tests.len() + masked.map_or(0, |_| 3) + 2;
    let mut code: Vec<u64> = Vec::with_capacity(length);
    // At most seven instructions ahead.
    let ahead = |at: usize| i16::try_from(length - at - 1).unwrap_or(i16::MAX);
    for (operation, register, value) in tests {
        code.push(instruction(operation, register, 0, ahead(code.len()), value));
    }
    if let Some(jump) = masked {
        code.push(instruction(MOV32_X, 0, 3, 0, 0));
        code.push(instruction(AND32_K, 0, 0, 0, mask));
        code.push(instruction(jump, 0, 0, ahead(code.len()), 0));
    }
    code.push(instruction(MOV64_K, 0, 0, 0, u32::from(!default)));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> DeviceRule {
        let mut words = text.split(' ');
        let allow = words.next() == Some("allow");
        let kind = words.next().map(str::to_owned);
        let mut numbers = words.next().unwrap_or("*:*").split(':').map(|n| n.parse().ok());
        let (major, minor) = (numbers.next().flatten(), numbers.next().flatten());
        DeviceRule { allow, kind, major, minor, access: words.next().map(str::to_owned) }
    }

    fn table(rules: &[&str]) -> Table {
        fold(&rules.iter().map(|r| rule(r)).collect::<Vec<_>>()).unwrap()
    }

    /// Runs the program as the kernel would.
    fn run(code: &[u64], kind: u32, major: u32, minor: u32, access: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0u32; 11];
        let mut at = 0usize;
        loop {
            let bytes = code[at].to_ne_bytes();
            let (destination, source) = (usize::from(bytes[1] & 15), usize::from(bytes[1] >> 4));
            let offset = i16::from_ne_bytes([bytes[2], bytes[3]]);
            let immediate = u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            at += 1;
            let jump = usize::try_from(offset).unwrap_or(0);
            match bytes[0] {
                LOAD_WORD => registers[destination] = context[jump / 4],
                AND32_K => registers[destination] &= immediate,
                RSH32_K => registers[destination] >>= immediate,
                MOV32_X => registers[destination] = registers[source],
                MOV64_K => registers[destination] = immediate,
                JNE32_K if registers[destination] != immediate => at += jump,
                JEQ32_K if registers[destination] == immediate => at += jump,
                JNE32_K | JEQ32_K => {}
                EXIT => return registers[0] == 1,
                other => panic!("operation {other:#x}"),
            }
        }
    }

    /// The kernel's v1 test, written plainly.
    fn reference(table: &Table, kind: u32, major: u32, minor: u32, access: u32) -> bool {
        let meets = |e: &Exception| {
            let covers = if table.allow { e.access & access != 0 } else { access & !e.access == 0 };
            e.kind == kind
                && e.major.is_none_or(|n| n == major)
                && e.minor.is_none_or(|n| n == minor)
                && covers
        };
        table.allow != table.exceptions.iter().any(meets)
    }

    #[test]
    fn rules_fold_as_in_the_kernel() {
        let check = |rules: &[&str], allow, exceptions: &[&str]| {
            let table = table(rules);
            assert_eq!(table.allow, allow, "{rules:?}");
            assert_eq!(table.exceptions.iter().map(v1_line).collect::<Vec<_>>(), exceptions, "{rules:?}");
        };
        check(&["deny a"], false, &[]);
        check(&["deny a", "allow c 1:3 r", "allow c 1:3 w"], false, &["c 1:3 rw"]);
        check(&["deny a", "allow c 1:3 rwm", "deny c 1:3 w"], false, &["c 1:3 rm"]);
        check(&["deny a", "allow c 1:3 rwm", "deny c 1:3 rwm"], false, &[]);
        check(&["allow a", "deny b 8:* w"], true, &["b 8:* w"]);
        check(&["deny b 8:* w"], false, &[]);
        check(&["allow c 1:3 r"], false, &["c 1:3 r"]);
        check(&["deny b 8:0 w", "allow a"], true, &[]);
        check(&["deny a", "allow c *:* m", "allow u 5:2"], false, &["c *:* m", "c 5:2 rwm"]);
    }

    #[test]
    fn odd_rules_are_refused() {
        let bad = |rule| assert!(fold(&[rule]).is_err());
        bad(rule("allow p 1:3 r"));
        bad(rule("allow c 1:3 rx"));
        bad(DeviceRule { major: Some(-2), ..rule("allow c") });
        bad(DeviceRule { minor: Some(1 << 33), ..rule("allow c") });
        assert!(fold(&vec![rule("deny a"); MAX_RULES + 1]).is_err());
    }

    #[test]
    fn the_program_says_what_v1_says() {
        let tables = [
            table(&["deny a"]),
            table(&["allow a"]),
            table(&["deny a", "allow c 1:3 rwm", "allow c 5:* rw", "allow b *:* m", "allow c *:7 r"]),
            table(&["allow a", "deny c 1:3 w", "deny b 8:* rw", "deny c *:* m"]),
        ];
        for table in &tables {
            let code = program(table);
            for kind in [BLOCK, CHARACTER] {
                for major in [0, 1, 5, 8, u32::MAX] {
                    for minor in [0, 3, 7] {
                        for access in 1..8 {
                            let expected = reference(table, kind, major, minor, access);
                            let got = run(&code, kind, major, minor, access);
                            assert_eq!(got, expected, "{table:?} {kind} {major}:{minor} {access}");
                        }
                    }
                }
            }
        }
    }
}
