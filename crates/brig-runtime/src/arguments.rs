//! runc's command line.

mod checkpoint;
mod help;
mod update;

use lexopt::prelude::*;
use runtime::{ContainerId, Create, Exec, KillTarget};
use std::ffi::OsString;
use std::path::{Component, PathBuf};
use std::time::Duration;

/// Options before the command.
#[derive(Debug)]
pub(crate) struct Global {
    pub(crate) root: PathBuf,
    /// It was named, so it has to be there for who only looks.
    pub(crate) root_named: bool,
    pub(crate) log: Option<PathBuf>,
    pub(crate) log_json: bool,
    pub(crate) debug: bool,
    pub(crate) systemd_cgroup: bool,
    /// The program for checkpoint and restore.
    pub(crate) criu: Option<PathBuf>,
    /// Not said: for whoever is not root.
    pub(crate) rootless: Option<bool>,
}

/// The command with its options.
#[derive(Debug)]
pub(crate) enum Command {
    Create {
        id: ContainerId,
        options: Create,
    },
    Run {
        id: ContainerId,
        options: Create,
        detach: bool,
        keep: bool,
    },
    Exec {
        id: ContainerId,
        options: Box<Exec>,
    },
    Start {
        id: ContainerId,
    },
    State {
        id: ContainerId,
    },
    Kill {
        id: ContainerId,
        signal: i32,
        target: KillTarget,
    },
    Delete {
        id: ContainerId,
        force: bool,
    },
    List {
        json: bool,
        quiet: bool,
    },
    Ps {
        id: ContainerId,
        json: bool,
        options: Vec<OsString>,
    },
    Events {
        id: ContainerId,
        once: bool,
        interval: Duration,
    },
    Pause {
        id: ContainerId,
    },
    Resume {
        id: ContainerId,
    },
    Update {
        id: ContainerId,
        resources: Box<oci::runtime::Resources>,
        schemas: runtime::Schemas,
    },
    Checkpoint {
        id: ContainerId,
        options: Box<runtime::Checkpoint>,
    },
    Restore {
        id: ContainerId,
        options: Box<runtime::Restore>,
    },
    Spec {
        bundle: PathBuf,
        rootless: bool,
    },
    Features,
    Version,
    /// The text.
    Help(String),
}

impl Command {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Command::Create { .. } => "create",
            Command::Run { .. } => "run",
            Command::Exec { .. } => "exec",
            Command::Start { .. } => "start",
            Command::State { .. } => "state",
            Command::Kill { .. } => "kill",
            Command::Delete { .. } => "delete",
            Command::List { .. } => "list",
            Command::Ps { .. } => "ps",
            Command::Events { .. } => "events",
            Command::Pause { .. } => "pause",
            Command::Resume { .. } => "resume",
            Command::Update { .. } => "update",
            Command::Checkpoint { .. } => "checkpoint",
            Command::Restore { .. } => "restore",
            Command::Spec { .. } => "spec",
            Command::Features => "features",
            Command::Version => "version",
            Command::Help(_) => "help",
        }
    }
}

/// Why the arguments are none.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) text: String,
    /// For who is at a terminal: how it is used.
    pub(crate) usage: Option<String>,
    pub(crate) code: u8,
}

/// What an unknown command ends with.
const NO_COMMAND: u8 = 3;

/// Parses the process's arguments. `global` holds what was understood, also after a refusal.
pub(crate) fn parse(global: &mut Global) -> Result<Command, Refusal> {
    let mut parser = lexopt::Parser::from_iter(sys::program::arguments());
    let mut name = None;
    options(global, &mut name, &mut parser)
        .and_then(|help| match (help, &name) {
            (Some(command), _) => Ok(command),
            (None, Some(name)) => command(name, &mut parser),
            (None, None) => Ok(Command::Help(help::help(None))),
        })
        .or_else(|e| refusal(e, name.as_deref()))
}

/// In runc's words.
fn refusal(e: lexopt::Error, name: Option<&str>) -> Result<Command, Refusal> {
    let flag = |option: &str| format!("-{}", option.trim_start_matches('-'));
    let text = match e {
        lexopt::Error::UnexpectedOption(option) if option == "--help" || option == "-h" => {
            return Ok(Command::Help(help::help(name)));
        }
        lexopt::Error::UnexpectedOption(option) => {
            format!("flag provided but not defined: {}", flag(&option))
        }
        lexopt::Error::MissingValue { option: Some(option) } => {
            format!("flag needs an argument: {}", flag(&option))
        }
        lexopt::Error::ParsingFailed { value, .. } => format!("invalid value {value:?}: parse error"),
        lexopt::Error::MissingValue { option: None } | lexopt::Error::UnexpectedArgument(_) => {
            let more = matches!(e, lexopt::Error::UnexpectedArgument(_));
            let text = help::count(name.unwrap_or_default(), more);
            return Err(Refusal {
                usage: Some(format!("Incorrect Usage.\n\n{}", help::help(name))),
                text,
                code: 1,
            });
        }
        other => {
            let text = other.to_string();
            let code = if text.starts_with(NO_HELP) { NO_COMMAND } else { 1 };
            return Err(Refusal { text, usage: None, code });
        }
    };
    Err(Refusal { usage: Some(format!("Incorrect Usage: {text}\n\n{}", help::help(name))), text, code: 1 })
}

const NO_HELP: &str = "No help topic for ";

type Parsed<T> = Result<T, lexopt::Error>;

/// A missing argument, where a container's id was to be.
const fn missing() -> lexopt::Error {
    lexopt::Error::MissingValue { option: None }
}

/// What stands before the command, and its name.
fn options(
    global: &mut Global,
    name: &mut Option<String>,
    parser: &mut lexopt::Parser,
) -> Parsed<Option<Command>> {
    while let Some(argument) = parser.next()? {
        match argument {
            Long("root") => {
                global.root = root(parser.value()?)?;
                global.root_named = true;
            }
            Long("log") => {
                global.log = Some(parser.value()?.into()).filter(|p: &PathBuf| !p.as_os_str().is_empty())
            }
            Long("log-format") => {
                global.log_json = match parser.value()?.string()?.as_str() {
                    "json" => true,
                    "text" | "" => false,
                    other => return Err(format!("invalid log-format: {other}").into()),
                }
            }
            Long("debug") => global.debug = true,
            Long("systemd-cgroup") => global.systemd_cgroup = true,
            // crun's way to say it.
            Long("cgroup-manager") => {
                global.systemd_cgroup = match parser.value()?.string()?.as_str() {
                    "systemd" => true,
                    "cgroupfs" => false,
                    other => return Err(format!("unknown cgroup manager {other:?}").into()),
                }
            }
            Long("rootless") => {
                global.rootless = match parser.value()?.string()?.to_ascii_lowercase().as_str() {
                    "auto" | "" => None,
                    "true" | "t" | "1" => Some(true),
                    "false" | "f" | "0" => Some(false),
                    other => return Err(format!("invalid --rootless {other:?}").into()),
                }
            }
            Long("criu") => global.criu = path(parser)?,
            Short('v') | Long("version") => return Ok(Some(Command::Version)),
            Short('h') | Long("help") => return Ok(Some(Command::Help(help::help(None)))),
            Value(value) => {
                *name = Some(value.string()?);
                return Ok(None);
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok(None)
}

impl Default for Global {
    fn default() -> Global {
        Global {
            root: default_root(),
            root_named: false,
            log: None,
            log_json: false,
            debug: false,
            systemd_cgroup: false,
            criu: None,
            rootless: None,
        }
    }
}

/// What was named, absolute; never the root of everything.
fn root(given: OsString) -> Parsed<PathBuf> {
    let path = match given.is_empty() {
        true => std::env::current_dir(),
        false => std::path::absolute(&given),
    };
    let path = path.map_err(|e| format!("--root {given:?}: {e}"))?;
    let clean = path.components().all(|part| matches!(part, Component::RootDir | Component::ParentDir));
    if clean { Err("Option --root argument should not be set to /".into()) } else { Ok(path) }
}

/// A user's own runtime directory, for all but root.
fn default_root() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(own) if !own.is_empty() && !runtime::is_root() => PathBuf::from(own).join("brig-runtime"),
        _ => "/run/brig/runtime".into(),
    }
}

fn command(name: &str, parser: &mut lexopt::Parser) -> Parsed<Command> {
    match name {
        "create" | "run" => create(name == "run", parser),
        "exec" => exec(parser),
        "kill" => kill(parser),
        "delete" => {
            let mut force = false;
            let id = only_id(parser, |argument| {
                let ours = matches!(argument, Short('f') | Long("force"));
                force |= ours;
                ours
            })?;
            Ok(Command::Delete { id, force })
        }
        "start" => Ok(Command::Start { id: only_id(parser, |_| false)? }),
        "state" => Ok(Command::State { id: only_id(parser, |_| false)? }),
        "pause" => Ok(Command::Pause { id: only_id(parser, |_| false)? }),
        "resume" => Ok(Command::Resume { id: only_id(parser, |_| false)? }),
        "list" => list(parser),
        "ps" => ps(parser),
        "events" => events(parser),
        "checkpoint" => checkpoint::checkpoint(parser),
        "restore" => checkpoint::restore(parser),
        "update" => update::update(parser),
        "spec" => spec(parser),
        "features" => no_more(parser, Command::Features),
        "help" | "h" => {
            let about = parser
                .next()?
                .and_then(|argument| if let Value(name) = argument { Some(name) } else { None });
            let about = about.map(|name| name.string()).transpose()?;
            Ok(Command::Help(help::help(about.as_deref())))
        }
        "version" => Ok(Command::Version),
        other => Err(format!("{NO_HELP}'{other}'").into()),
    }
}

fn create(run: bool, parser: &mut lexopt::Parser) -> Parsed<Command> {
    let mut options = Create { bundle: ".".into(), ..Create::default() };
    let (mut detach, mut keep, mut id) = (false, false, None);
    while let Some(argument) = parser.next()? {
        match argument {
            Short('b') | Long("bundle") => options.bundle = parser.value()?.into(),
            // crun's.
            Short('f') | Long("config") => options.config = path(parser)?,
            Long("console-socket") => options.console_socket = path(parser)?,
            Long("pid-file") => options.pid_file = path(parser)?,
            Long("pidfd-socket") => options.pidfd_socket = path(parser)?,
            Long("preserve-fds") => options.preserve_fds = descriptors(parser)?,
            Long("no-pivot") => options.no_pivot = true,
            Long("no-new-keyring") => options.no_new_keyring = true,
            Short('d') | Long("detach") if run => detach = true,
            Long("keep") if run => keep = true,
            Long("no-subreaper") if run => {}
            Value(value) if id.is_none() => id = Some(container_id(value)?),
            other => return Err(other.unexpected()),
        }
    }
    let id = id.ok_or_else(missing)?;
    Ok(if run { Command::Run { id, options, detach, keep } } else { Command::Create { id, options } })
}

fn exec(parser: &mut lexopt::Parser) -> Parsed<Command> {
    let mut options = Exec::default();
    let mut id = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Short('p') | Long("process") => options.process = Some(process(parser)?),
            Short('d') | Long("detach") => options.detach = true,
            Short('t') | Long("tty") => options.tty = true,
            Long("console-socket") => options.console_socket = path(parser)?,
            Long("pid-file") => options.pid_file = path(parser)?,
            Long("pidfd-socket") => options.pidfd_socket = path(parser)?,
            Long("cgroup") => options.cgroup.push(parser.value()?.string()?),
            Long("ignore-paused") => options.ignore_paused = true,
            Long("cwd") => options.cwd = Some(parser.value()?.string()?),
            Short('e') | Long("env") => options.env.push(parser.value()?.string()?),
            Short('u') | Long("user") => options.user = Some(parser.value()?.string()?),
            Short('g') | Long("additional-gids") => options.additional_gids.push(parser.value()?.parse()?),
            Short('c') | Long("cap") => options.caps.push(parser.value()?.string()?),
            Long("no-new-privs") => options.no_new_privileges = true,
            Long("process-label") => options.selinux_label = Some(parser.value()?.string()?),
            Long("apparmor") => options.apparmor_profile = Some(parser.value()?.string()?),
            Long("preserve-fds") => options.preserve_fds = descriptors(parser)?,
            Value(value) => {
                id = Some(container_id(value)?);
                break;
            }
            other => return Err(other.unexpected()),
        }
    }
    // All that follows is the command's, options too.
    let rest = parser.raw_args()?.map(|argument| argument.string()).collect::<Parsed<Vec<_>>>()?;
    options.args = match rest.split_first() {
        Some((first, others)) if first == "--" => others.to_vec(),
        _ => rest,
    };
    let id = id.ok_or_else(missing)?;
    Ok(Command::Exec { id, options: Box::new(options) })
}

fn process(parser: &mut lexopt::Parser) -> Parsed<oci::runtime::Process> {
    let path: PathBuf = parser.value()?.into();
    let bytes = std::fs::read(&path).map_err(|e| format!("read {}: {e}", path.display()))?;
    oci::runtime::from_json(&bytes).map_err(|e| format!("read {}: {e}", path.display()).into())
}

fn kill(parser: &mut lexopt::Parser) -> Parsed<Command> {
    let (mut target, mut id, mut signal) = (KillTarget::Init, None, None);
    while let Some(argument) = parser.next()? {
        match argument {
            Short('a') | Long("all") => target = KillTarget::All,
            Value(value) if id.is_none() => id = Some(container_id(value)?),
            Value(value) if signal.is_none() => {
                let text = value.string()?;
                signal =
                    Some(runtime::signal_number(&text).ok_or_else(|| format!("unknown signal {text:?}"))?);
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok(Command::Kill { id: id.ok_or_else(missing)?, signal: signal.unwrap_or(15), target })
}

fn list(parser: &mut lexopt::Parser) -> Parsed<Command> {
    let (mut json, mut quiet) = (false, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Short('f') | Long("format") => json = is_json(parser)?,
            Short('q') | Long("quiet") => quiet = true,
            other => return Err(other.unexpected()),
        }
    }
    Ok(Command::List { json, quiet })
}

fn is_json(parser: &mut lexopt::Parser) -> Parsed<bool> {
    match parser.value()?.string()?.as_str() {
        "json" => Ok(true),
        "table" => Ok(false),
        _ => Err("invalid format option".into()),
    }
}

fn ps(parser: &mut lexopt::Parser) -> Parsed<Command> {
    let mut json = false;
    while let Some(argument) = parser.next()? {
        match argument {
            Short('f') | Long("format") => json = is_json(parser)?,
            Value(value) => {
                let id = container_id(value)?;
                // What follows is for ps(1).
                return Ok(Command::Ps { id, json, options: parser.raw_args()?.collect() });
            }
            other => return Err(other.unexpected()),
        }
    }
    Err(missing())
}

fn events(parser: &mut lexopt::Parser) -> Parsed<Command> {
    let (mut once, mut interval, mut id) = (false, Duration::from_secs(5), None);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("stats") => once = true,
            Long("interval") => {
                let text = parser.value()?.string()?;
                interval = duration(&text).ok_or_else(|| format!("invalid duration {text:?}"))?;
            }
            Value(value) if id.is_none() => id = Some(container_id(value)?),
            other => return Err(other.unexpected()),
        }
    }
    if interval.is_zero() {
        return Err("duration interval must be greater than 0".into());
    }
    Ok(Command::Events { id: id.ok_or_else(missing)?, once, interval })
}

/// A time as Go writes it: `5s`, `1m30s`, `100ms`, `1.5h`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        rest = &rest[letters..];
        sum = sum.checked_add(Duration::try_from_secs_f64(number * unit).ok()?)?;
    }
    (!text.is_empty()).then_some(sum)
}

fn spec(parser: &mut lexopt::Parser) -> Parsed<Command> {
    let (mut bundle, mut rootless) = (PathBuf::from("."), false);
    while let Some(argument) = parser.next()? {
        match argument {
            Short('b') | Long("bundle") => bundle = parser.value()?.into(),
            Long("rootless") => rootless = true,
            other => return Err(other.unexpected()),
        }
    }
    Ok(Command::Spec { bundle, rootless })
}

/// One id, and what `option` takes.
fn only_id(
    parser: &mut lexopt::Parser,
    mut option: impl FnMut(&lexopt::Arg<'_>) -> bool,
) -> Parsed<ContainerId> {
    let mut id = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Value(value) if id.is_none() => id = Some(container_id(value)?),
            other if option(&other) => {}
            other => return Err(other.unexpected()),
        }
    }
    id.ok_or_else(missing)
}

fn no_more(parser: &mut lexopt::Parser, command: Command) -> Parsed<Command> {
    match parser.next()? {
        None => Ok(command),
        Some(other) => Err(other.unexpected()),
    }
}

fn container_id(value: OsString) -> Parsed<ContainerId> {
    if value.is_empty() {
        return Err("container id cannot be empty".into());
    }
    value.string()?.parse().map_err(|e: runtime::Error| e.to_string().into())
}

fn path(parser: &mut lexopt::Parser) -> Parsed<Option<PathBuf>> {
    Ok(Some(PathBuf::from(parser.value()?)).filter(|path| !path.as_os_str().is_empty()))
}

/// A bound that no table of descriptors exceeds by default.
pub(crate) const MAX_DESCRIPTORS: u32 = 1_048_576;

fn descriptors(parser: &mut lexopt::Parser) -> Parsed<u32> {
    match parser.value()?.parse()? {
        count @ 0..=MAX_DESCRIPTORS => Ok(count),
        count => Err(format!("--preserve-fds {count} is too many").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, want: Option<u64>| {
            assert_eq!(duration(text).map(|d| d.as_millis()), want.map(u128::from), "{text:?}");
        };
        check("5s", Some(5000));
        check("1m30s", Some(90_000));
        check("100ms", Some(100));
        check("1.5h", Some(5_400_000));
        for bad in ["", "5", "s", "5x", "-1s", "1..2s", "99999999999999999999h"] {
            check(bad, None);
        }
    }
}
