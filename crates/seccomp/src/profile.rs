//! A profile of the specification, its words turned into numbers, before any architecture is looked at.

use crate::Error;
use oci::runtime::{Seccomp, SyscallArg, SyscallRule};

/// More than any real profile, and little enough for one that a client makes up.
const MAX_RULES: usize = 8192;
const MAX_WORK: usize = 65536;

const EPERM: u32 = 1;

const FLAG_TSYNC: u32 = 1;
const FLAG_LOG: u32 = 1 << 1;
const FLAG_SPEC_ALLOW: u32 = 1 << 2;
const FLAG_TSYNC_ESRCH: u32 = 1 << 4;
const FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// Names of all actions.
pub const ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

/// Names of all comparisons.
pub const OPERATORS: &[&str] = &[
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];

/// Names of all flags with the kernel's bits.
pub const FLAGS: &[(&str, u32)] = &[
    ("SECCOMP_FILTER_FLAG_LOG", FLAG_LOG),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", FLAG_SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_TSYNC", FLAG_TSYNC),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", FLAG_WAIT_KILLABLE_RECV),
];

/// What a filter answers: `SECCOMP_RET_*` with its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Action(pub(crate) u32);

impl Action {
    pub(crate) const KILL_THREAD: Action = Action(0);
    pub(crate) const NOTIFY: Action = Action(0x7fc0_0000);
    pub(crate) const ENOSYS: Action = Action::errno(38);

    const fn errno(number: u32) -> Action {
        Action(0x0005_0000 | (number & 0xffff))
    }

    fn parse(name: &str, errno: Option<u32>) -> Result<Action, Error> {
        if errno.is_some() && !matches!(name, "SCMP_ACT_ERRNO" | "SCMP_ACT_TRACE") {
            return Err(Error::NoErrno(name.to_owned()));
        }
        let errno = errno.unwrap_or(EPERM);
        Ok(match name {
            "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KILL_THREAD,
            "SCMP_ACT_KILL_PROCESS" => Action(0x8000_0000),
            "SCMP_ACT_TRAP" => Action(0x0003_0000),
            "SCMP_ACT_ERRNO" => Action::errno(errno),
            "SCMP_ACT_NOTIFY" => Action::NOTIFY,
            "SCMP_ACT_TRACE" => Action(0x7ff0_0000 | (errno & 0xffff)),
            "SCMP_ACT_LOG" => Action(0x7ffc_0000),
            "SCMP_ACT_ALLOW" => Action(0x7fff_0000),
            other => return Err(Error::UnknownAction(other.to_owned())),
        })
    }

    /// Whether calls that nobody has heard of yet are let through (a tracer answers for itself).
    pub(crate) fn allows(self) -> bool {
        matches!(self.0 & 0xffff_0000, 0x7fff_0000 | 0x7ffc_0000 | 0x7ff0_0000)
    }
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Operator {
    NotEqual,
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
    /// With this mask.
    MaskedEqual(u64),
}

/// One comparison of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Condition {
    /// 0 to 5.
    pub(crate) index: u8,
    pub(crate) operator: Operator,
    pub(crate) value: u64,
}

/// Conditions, all of which must hold, and what is answered then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule<'a> {
    pub(crate) names: &'a [String],
    pub(crate) action: Action,
    /// Any of these.
    pub(crate) alternatives: Vec<Vec<Condition>>,
}

/// The profile, checked.
#[derive(Debug)]
pub(crate) struct Profile<'a> {
    pub(crate) default: Action,
    pub(crate) rules: Vec<Rule<'a>>,
    pub(crate) flags: u32,
    pub(crate) notify: bool,
}

/// Checks `profile` and turns its words into numbers.
pub(crate) fn parse(profile: &Seccomp) -> Result<Profile<'_>, Error> {
    let limit =
        |what, count, most| if count > most { Err(Error::TooMany { what, count, most }) } else { Ok(()) };
    limit("rules", profile.syscalls.len(), MAX_RULES)?;
    // Each name of a rule gets its conditions, so it is the product that costs.
    let work = |r: &SyscallRule| r.names.len().saturating_mul(r.args.len().max(1));
    limit("names and conditions", profile.syscalls.iter().map(work).sum(), MAX_WORK)?;
    let default = Action::parse(&profile.default_action, profile.default_errno_ret)?;
    if default == Action::NOTIFY {
        return Err(Error::Notify("as the default: the listener could never be handed over"));
    }
    let rules = profile.syscalls.iter().map(parse_rule).collect::<Result<Vec<_>, _>>()?;
    let notify = rules.iter().any(|r| r.action == Action::NOTIFY && !r.names.is_empty());
    Ok(Profile { default, rules, flags: parse_flags(profile.flags.as_deref(), notify)?, notify })
}

fn parse_rule(rule: &SyscallRule) -> Result<Rule<'_>, Error> {
    let action = Action::parse(&rule.action, rule.errno_ret)?;
    if action == Action::NOTIFY && rule.names.iter().any(|n| n == "write") {
        return Err(Error::Notify(
            "for write: SCMP_ACT_NOTIFY cannot be used for the write syscall, with which its listener is handed over",
        ));
    }
    let conditions = rule.args.iter().map(parse_condition).collect::<Result<Vec<_>, _>>()?;
    let mut seen = 0u8;
    let repeated = conditions.iter().any(|c| {
        let bit = 1u8 << c.index;
        let again = seen & bit != 0;
        seen |= bit;
        again
    });
    // Docker's old profiles write alternatives as conditions on one argument, and runc reads them so.
    let alternatives =
        if repeated { conditions.into_iter().map(|c| vec![c]).collect() } else { vec![conditions] };
    Ok(Rule { names: &rule.names, action, alternatives })
}

fn parse_condition(arg: &SyscallArg) -> Result<Condition, Error> {
    let index = u8::try_from(arg.index).ok().filter(|&i| i < 6).ok_or(Error::ArgumentIndex(arg.index))?;
    let operator = match arg.op.as_str() {
        "SCMP_CMP_NE" => Operator::NotEqual,
        "SCMP_CMP_LT" => Operator::Less,
        "SCMP_CMP_LE" => Operator::LessOrEqual,
        "SCMP_CMP_EQ" => Operator::Equal,
        "SCMP_CMP_GE" => Operator::GreaterOrEqual,
        "SCMP_CMP_GT" => Operator::Greater,
        "SCMP_CMP_MASKED_EQ" => Operator::MaskedEqual(arg.value),
        other => return Err(Error::UnknownOperator(other.to_owned())),
    };
    let value = match operator {
        // As libseccomp does: bits outside the mask do not count on either side.
        Operator::MaskedEqual(mask) => arg.value_two & mask,
        _ => arg.value,
    };
    Ok(Condition { index, operator, value })
}

fn parse_flags(names: Option<&[String]>, notify: bool) -> Result<u32, Error> {
    // runc's choice where the profile says nothing: the filter then costs no mitigation of speculative stores.
    let Some(names) = names else { return Ok(FLAG_SPEC_ALLOW) };
    names.iter().try_fold(0, |flags, name| match name.as_str() {
        // With a listener the kernel wants to report a failing thread otherwise than by its id.
        "SECCOMP_FILTER_FLAG_TSYNC" if notify => Ok(flags | FLAG_TSYNC | FLAG_TSYNC_ESRCH),
        "SECCOMP_FILTER_FLAG_TSYNC" => Ok(flags | FLAG_TSYNC),
        "SECCOMP_FILTER_FLAG_LOG" => Ok(flags | FLAG_LOG),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(flags | FLAG_SPEC_ALLOW),
        // The kernel refuses it without a listener, for which alone it means something.
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" if notify => Ok(flags | FLAG_WAIT_KILLABLE_RECV),
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => Ok(flags),
        other => Err(Error::UnknownFlag(other.to_owned())),
    })
}
