//! Profile to program.
//!
//! ```text
//! load arch
//! x86_64?  load nr; x32 bit? -> x32's tree; tree over ranges of numbers; leaves that test arguments
//! i386?    load nr; tree; leaves
//! else     kill
//! ```

use crate::architecture::{self, Architecture, X32_BIT};
use crate::assemble::{AND, Assembler, EQUAL, GREATER, GREATER_OR_EQUAL, LOAD, Label};
use crate::profile::{self, Action, Condition, Operator, Profile};
use crate::tables::{self, Table};
use crate::{Error, Program};
use std::collections::BTreeMap;

/// `BPF_MAXINSNS`.
const MAX_INSTRUCTIONS: usize = 4096;

// struct seccomp_data
const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

/// Compiles `profile` for this machine's architecture and those that it names.
///
/// The rules are those of libseccomp as runc calls it: names that an architecture does not have are ignored; of
/// several unconditional rules for a call the first counts, and it makes those with conditions void; of the latter
/// the first that holds counts; a rule that answers what is the default anyway is ignored. An architecture that is
/// not named is killed. Where the default refuses, calls with a number above all that the profile names get `ENOSYS`,
/// so that a libc newer than the profile falls back to what it used before.
///
/// On i386 an unconditional rule for a call that `socketcall` or `ipc` carries too covers that way as well.
///
/// # Errors
///
/// Unknown actions, operators, architectures and flags; more than 4096 instructions.
pub fn compile(profile: &oci::runtime::Seccomp) -> Result<Program, Error> {
    let architectures = architecture::parse(&profile.architectures)?;
    let profile = profile::parse(profile)?;
    let mut assembler = Assembler::default();
    let mut shared = BTreeMap::new();
    let mut next = assembler.ret(Action::KILL_THREAD);
    // From the end: the native architecture comes out first, where most calls end their search early.
    for one in architectures.iter().rev().filter(|a| a.table != Table::X32) {
        let x32 = architectures.iter().find(|a| a.table == Table::X32).filter(|_| one.table == Table::X86_64);
        let body = body(&mut assembler, &mut shared, &profile, *one, x32.copied());
        next = assembler.branch(EQUAL, one.audit, body, next);
    }
    let first = assembler.statement(LOAD, OFFSET_ARCH, next);
    let instructions = assembler.finish(first);
    if instructions.len() > MAX_INSTRUCTIONS {
        return Err(Error::TooLong(instructions.len()));
    }
    Ok(Program { instructions, flags: profile.flags, notify: profile.notify })
}

/// What is answered to one call: the alternatives in order, then the last word.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Answer {
    alternatives: Vec<(Vec<Condition>, Action)>,
    otherwise: Action,
    /// Kept here because the same rules make other code for 32-bit arguments.
    wide: bool,
}

/// Numbers from `start` to the next range's start.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Range {
    start: u32,
    answer: Answer,
}

type Shared = BTreeMap<Answer, Label>;

fn body(
    assembler: &mut Assembler,
    shared: &mut Shared,
    profile: &Profile<'_>,
    one: Architecture,
    x32: Option<Architecture>,
) -> Label {
    let mut tree_of = |assembler: &mut Assembler, one| {
        let ranges = ranges(profile, one);
        let targets: Vec<(u32, Label)> =
            ranges.into_iter().map(|r| (r.start, leaf(assembler, shared, r.answer))).collect();
        tree(assembler, &targets)
    };
    let mut first = tree_of(assembler, one);
    if one.table == Table::X86_64 {
        let marked = match x32 {
            Some(x32) => {
                let tree = tree_of(assembler, x32);
                assembler.statement(AND, !X32_BIT, tree)
            }
            // Numbers of an architecture that the profile does not name.
            None => assembler.ret(Action::KILL_THREAD),
        };
        first = assembler.branch(GREATER_OR_EQUAL, X32_BIT, marked, first);
    }
    assembler.statement(LOAD, OFFSET_NR, first)
}

/// The answers for all numbers, coalesced, from 0.
fn ranges(profile: &Profile<'_>, one: Architecture) -> Vec<Range> {
    let plain = |action| Answer { alternatives: Vec::new(), otherwise: action, wide: one.wide };
    let (answers, largest) = answers(profile, one);
    let mut ranges: Vec<Range> = Vec::new();
    let mut push = |start, answer: Answer| match ranges.last_mut() {
        Some(last) if last.answer == answer => {}
        _ => ranges.push(Range { start, answer }),
    };
    let mut next = 0;
    for (number, answer) in answers {
        if next < number {
            push(next, plain(profile.default));
        }
        push(number, answer);
        next = number + 1;
    }
    let unheard_of = if profile.default.allows() { profile.default } else { Action::ENOSYS };
    match largest {
        Some(largest) => {
            if next <= largest {
                push(next, plain(profile.default));
            }
            push(largest + 1, plain(unheard_of));
        }
        None => push(next, plain(profile.default)),
    }
    ranges
}

/// The answer for each number that a rule decides, and the largest number that any rule names.
fn answers(profile: &Profile<'_>, one: Architecture) -> (BTreeMap<u32, Answer>, Option<u32>) {
    #[derive(Default)]
    struct Found {
        unconditional: Option<Action>,
        alternatives: Vec<(Vec<Condition>, Action)>,
    }
    let mut found: BTreeMap<u32, Found> = BTreeMap::new();
    let mut largest = None;
    for rule in &profile.rules {
        for name in rule.names {
            let number = tables::number(name, one.table);
            largest = largest.max(number);
            if rule.action == profile.default {
                continue;
            }
            if let Some(number) = number {
                let entry = found.entry(number).or_default();
                for conditions in &rule.alternatives {
                    if conditions.is_empty() {
                        entry.unconditional.get_or_insert(rule.action);
                    } else {
                        let narrowed = conditions.iter().map(|c| narrow(*c, one.wide)).collect();
                        entry.alternatives.push((narrowed, rule.action));
                    }
                }
            }
            if let Some((carrier, condition)) = multiplexed(name, one.table)
                && rule.alternatives.iter().any(Vec::is_empty)
            {
                found.entry(carrier).or_default().alternatives.push((vec![condition], rule.action));
            }
        }
    }
    let answer = |f: Found| match f.unconditional {
        Some(action) => Answer { alternatives: Vec::new(), otherwise: action, wide: one.wide },
        None => Answer { alternatives: f.alternatives, otherwise: profile.default, wide: one.wide },
    };
    (found.into_iter().map(|(number, f)| (number, answer(f))).collect(), largest)
}

/// Where arguments have 32 bits, so has what they are compared with.
fn narrow(condition: Condition, wide: bool) -> Condition {
    if wide {
        return condition;
    }
    let low = u64::from(u32::MAX);
    let operator = match condition.operator {
        Operator::MaskedEqual(mask) => Operator::MaskedEqual(mask & low),
        other => other,
    };
    Condition { value: condition.value & low, operator, ..condition }
}

/// The other way to a call on i386: the carrying call, and what its first argument is then.
fn multiplexed(name: &str, table: Table) -> Option<(u32, Condition)> {
    // linux/net.h and linux/ipc.h, from 1 and from the number beside it.
    const SOCKET: [&str; 20] = [
        "socket",
        "bind",
        "connect",
        "listen",
        "accept",
        "getsockname",
        "getpeername",
        "socketpair",
        "send",
        "recv",
        "sendto",
        "recvfrom",
        "shutdown",
        "setsockopt",
        "getsockopt",
        "sendmsg",
        "recvmsg",
        "accept4",
        "recvmmsg",
        "sendmmsg",
    ];
    const IPC: [(&str, u64); 12] = [
        ("semop", 1),
        ("semget", 2),
        ("semctl", 3),
        ("semtimedop", 4),
        ("msgsnd", 11),
        ("msgrcv", 12),
        ("msgget", 13),
        ("msgctl", 14),
        ("shmat", 21),
        ("shmdt", 22),
        ("shmget", 23),
        ("shmctl", 24),
    ];
    if table != Table::I386 {
        return None;
    }
    if let Some(at) = SOCKET.iter().position(|s| *s == name) {
        let value = u64::try_from(at).ok()? + 1;
        let condition = Condition { index: 0, operator: Operator::Equal, value };
        return Some((tables::number("socketcall", table)?, condition));
    }
    let (_, value) = *IPC.iter().find(|(n, _)| *n == name)?;
    // The upper half is a version of the interface.
    let condition = Condition { index: 0, operator: Operator::MaskedEqual(0xffff), value };
    Some((tables::number("ipc", table)?, condition))
}

/// Single numbers tested one after the other inside a range: more would be shorter still, and slower.
const MAX_EXCEPTIONS: usize = 3;

/// A search tree over ranges that begin at the numbers given, the first one at 0.
fn tree(assembler: &mut Assembler, ranges: &[(u32, Label)]) -> Label {
    let mut nodes = Vec::with_capacity(ranges.len());
    let mut rest = ranges;
    while let Some((&(start, target), after)) = rest.split_first() {
        let exceptions = exceptions(rest);
        // Found from the left, written from the right: code cannot jump back.
        nodes.push((start, target, &after[..2 * exceptions]));
        rest = &after[2 * exceptions..];
    }
    search(assembler, &nodes)
}

/// How many single numbers that differ from the range around them follow the first of `ranges`.
fn exceptions(ranges: &[(u32, Label)]) -> usize {
    let Some((_, around)) = ranges.first() else { return 0 };
    let single = |pair: &&[(u32, Label)]| match pair {
        [(start, _), (end, target)] => start + 1 == *end && target == around,
        _ => false,
    };
    ranges[1..].chunks(2).take(MAX_EXCEPTIONS).take_while(single).count()
}

type Node<'a> = (u32, Label, &'a [(u32, Label)]);

fn search(assembler: &mut Assembler, nodes: &[Node<'_>]) -> Label {
    match nodes {
        [] => assembler.ret(Action::KILL_THREAD),
        [(_, target, exceptions)] => exceptions
            .chunks(2)
            .rev()
            .fold(*target, |no, pair| assembler.branch(EQUAL, pair[0].0, pair[0].1, no)),
        _ => {
            let (left, right) = nodes.split_at(nodes.len() / 2);
            let above = search(assembler, right);
            let below = search(assembler, left);
            assembler.branch(GREATER_OR_EQUAL, right[0].0, above, below)
        }
    }
}

/// Code that gives `answer`, once for all numbers and architectures that share it.
fn leaf(assembler: &mut Assembler, shared: &mut Shared, answer: Answer) -> Label {
    let mut next = assembler.ret(answer.otherwise);
    if answer.alternatives.is_empty() {
        return next;
    }
    if let Some(&label) = shared.get(&answer) {
        return label;
    }
    let mut rest = answer.alternatives.as_slice();
    while !rest.is_empty() {
        let run = equal_run(rest);
        let (earlier, last) = rest.split_at(rest.len() - run);
        let ([(conditions, action), ..], yes) = (last, assembler.ret(last[0].1)) else { break };
        debug_assert!(last.iter().all(|(_, a)| a == action));
        next = if let (2.., Some(first)) = (run, conditions.first()) {
            let values: Vec<u64> = last.iter().map(|(c, _)| c[0].value).collect();
            equals(assembler, first.index, &values, answer.wide, yes, next)
        } else {
            conditions.iter().rev().fold(yes, |yes, c| test(assembler, *c, answer.wide, yes, next))
        };
        rest = earlier;
    }
    shared.insert(answer, next);
    next
}

/// How many alternatives at the end compare one and the same argument for equality, with one upper half and one
/// action. At least 1.
fn equal_run(alternatives: &[(Vec<Condition>, Action)]) -> usize {
    let key = |(conditions, action): &(Vec<Condition>, Action)| match conditions.as_slice() {
        [Condition { index, operator: Operator::Equal, value }] => Some((*index, value >> 32, *action)),
        _ => None,
    };
    let Some(wanted) = alternatives.last().and_then(key) else { return 1 };
    alternatives.iter().rev().take_while(|a| key(a) == Some(wanted)).count()
}

fn equals(assembler: &mut Assembler, index: u8, values: &[u64], wide: bool, yes: Label, no: Label) -> Label {
    let tests = values.iter().rev().fold(no, |next, v| assembler.branch(EQUAL, low(*v), yes, next));
    let lower = assembler.statement(LOAD, offset_low(index), tests);
    if !wide {
        return lower;
    }
    let upper = assembler.branch(EQUAL, high(values[0]), lower, no);
    assembler.statement(LOAD, offset_high(index), upper)
}

/// Code that compares one argument.
fn test(assembler: &mut Assembler, c: Condition, wide: bool, yes: Label, no: Label) -> Label {
    let (yes, no) = match c.operator {
        Operator::NotEqual | Operator::Less | Operator::LessOrEqual => (no, yes),
        _ => (yes, no),
    };
    let masks = match c.operator {
        Operator::MaskedEqual(mask) => Some(mask),
        _ => None,
    };
    let code = match c.operator {
        Operator::Equal | Operator::NotEqual | Operator::MaskedEqual(_) => EQUAL,
        // Less is not (greater or equal), less or equal is not greater.
        Operator::GreaterOrEqual | Operator::Less => GREATER_OR_EQUAL,
        Operator::Greater | Operator::LessOrEqual => GREATER,
    };
    let load = |assembler: &mut Assembler, offset, mask: Option<u32>, next| {
        let next = match mask {
            Some(mask) if mask != u32::MAX => assembler.statement(AND, mask, next),
            _ => next,
        };
        assembler.statement(LOAD, offset, next)
    };
    let lower = assembler.branch(code, low(c.value), yes, no);
    let lower = load(assembler, offset_low(c.index), masks.map(low), lower);
    // A mask without upper bits compares nothing there; the value was masked with it.
    if !wide || masks.is_some_and(|m| high(m) == 0) {
        return lower;
    }
    let equal = assembler.branch(EQUAL, high(c.value), lower, no);
    let upper = if code == EQUAL { equal } else { assembler.branch(GREATER, high(c.value), yes, equal) };
    load(assembler, offset_high(c.index), masks.map(high), upper)
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
fn low(value: u64) -> u32 {
    value as u32
}

fn high(value: u64) -> u32 {
    low(value >> 32)
}

// All architectures here are little-endian.
fn offset_low(index: u8) -> u32 {
    OFFSET_ARGS + 8 * u32::from(index)
}

fn offset_high(index: u8) -> u32 {
    offset_low(index) + 4
}
