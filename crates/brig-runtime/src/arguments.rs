//! runc's command line.

mod checkpoint;
mod update;

use lexopt::prelude::*;
use runtime::{ContainerId, Create, Exec, KillTarget};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) const HELP: &str = "\
brig-runtime: OCI runtime

usage: brig-runtime [--root DIR] [--log FILE] [--log-format json|text] [--debug] [--systemd-cgroup]
                    [--cgroup-manager systemd|cgroupfs] [--rootless true|false|auto] [--criu PROGRAM] COMMAND

  create   [-b BUNDLE] [--config FILE] [--console-socket PATH] [--pid-file FILE] [--preserve-fds N] [--no-pivot] [--no-new-keyring]
           [--pidfd-socket PATH] ID
  run      as create, and [-d] [--keep]
  start    ID
  state    ID
  kill     [-a] ID [SIGNAL]
  delete   [-f] ID
  exec     [-p FILE] [-d] [-t] [--console-socket PATH] [--pid-file FILE] [--cwd DIR] [-e NAME=VALUE] [-u UID[:GID]]
           [-g GID] [-c CAP] [--no-new-privs] [--preserve-fds N] [--cgroup PATH] [--ignore-paused] [--pidfd-socket PATH]
           ID COMMAND [ARG...]
  list     [-f table|json] [-q]
  ps       [-f table|json] ID [OPTION OF PS...]
  events   [--stats] [--interval TIME] ID
  pause    ID
  resume   ID
  update   [-r FILE|-] [--memory SIZE] [--memory-reservation SIZE] [--memory-swap SIZE] [--pids-limit N]
           [--cpu-share N] [--cpu-quota US] [--cpu-period US] [--cpu-burst US] [--cpu-idle 0|1] [--cpu-rt-period US]
           [--cpu-rt-runtime US] [--cpuset-cpus LIST] [--cpuset-mems LIST] [--blkio-weight N] ID
  checkpoint [--image-path DIR] [--work-path DIR] [--parent-path DIR] [--leave-running] [--pre-dump] [--tcp-established]
           [--tcp-skip-in-flight] [--ext-unix-sk] [--shell-job] [--file-locks] [--link-remap] [--auto-dedup]
           [--manage-cgroups-mode soft|full|strict|ignore] [--empty-ns network] [--page-server HOST:PORT] [--status-fd N] ID
  restore  [--image-path DIR] [--work-path DIR] [-b BUNDLE] [-d] [--pid-file FILE] [--tcp-established] [--ext-unix-sk]
           [--shell-job] [--file-locks] [--auto-dedup] [--manage-cgroups-mode MODE] [--empty-ns network]
           [--lsm-profile TYPE:NAME] [--lsm-mount-context CONTEXT] ID
  spec     [-b BUNDLE] [--rootless]
  features
";

/// Options before the command.
#[derive(Debug)]
pub(crate) struct Global {
    pub(crate) root: PathBuf,
    pub(crate) log: Option<PathBuf>,
    pub(crate) log_json: bool,
    pub(crate) systemd_cgroup: bool,
    /// The program for checkpoint and restore.
    pub(crate) criu: Option<PathBuf>,
    /// Not said: for whoever is not root.
    pub(crate) rootless: Option<bool>,
}

/// The command with its options.
#[derive(Debug)]
pub(crate) enum Command {
    Create { id: ContainerId, options: Create },
    Run { id: ContainerId, options: Create, detach: bool, keep: bool },
    Exec { id: ContainerId, options: Box<Exec> },
    Start { id: ContainerId },
    State { id: ContainerId },
    Kill { id: ContainerId, signal: i32, target: KillTarget },
    Delete { id: ContainerId, force: bool },
    List { json: bool, quiet: bool },
    Ps { id: ContainerId, json: bool, options: Vec<OsString> },
    Events { id: ContainerId, once: bool, interval: Duration },
    Pause { id: ContainerId },
    Resume { id: ContainerId },
    Update { id: ContainerId, resources: Box<oci::runtime::Resources> },
    Checkpoint { id: ContainerId, options: Box<runtime::Checkpoint> },
    Restore { id: ContainerId, options: Box<runtime::Restore> },
    Spec { bundle: PathBuf, rootless: bool },
    Features,
    Version,
    Help,
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
            Command::Help => "help",
        }
    }
}

/// Parses the process's arguments.
pub(crate) fn parse() -> Result<(Global, Command), String> {
    let mut parser = lexopt::Parser::from_iter(sys::program::arguments());
    parse_with(&mut parser).map_err(|e| format!("{e}; see brig-runtime --help"))
}

type Parsed<T> = Result<T, lexopt::Error>;

fn parse_with(parser: &mut lexopt::Parser) -> Parsed<(Global, Command)> {
    let mut global = Global {
        root: default_root(),
        log: None,
        log_json: false,
        systemd_cgroup: false,
        criu: None,
        rootless: None,
    };
    while let Some(argument) = parser.next()? {
        match argument {
            Long("root") => global.root = parser.value()?.into(),
            Long("log") => {
                global.log = Some(parser.value()?.into()).filter(|p: &PathBuf| !p.as_os_str().is_empty())
            }
            Long("log-format") => {
                global.log_json = match parser.value()?.string()?.as_str() {
                    "json" => true,
                    "text" => false,
                    other => return Err(format!("unknown log format {other:?}").into()),
                }
            }
            Long("debug") => {}
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
                global.rootless = match parser.value()?.string()?.as_str() {
                    "auto" => None,
                    word => Some(word.parse().map_err(|_| format!("invalid --rootless {word:?}"))?),
                }
            }
            Long("criu") => global.criu = path(parser)?,
            Short('v') | Long("version") => return Ok((global, Command::Version)),
            Short('h') | Long("help") => return Ok((global, Command::Help)),
            Value(name) => {
                return match command(&name.string()?, parser) {
                    Err(lexopt::Error::UnexpectedOption(help)) if help == "--help" || help == "-h" => {
                        Ok((global, Command::Help))
                    }
                    other => Ok((global, other?)),
                };
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok((global, Command::Help))
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
        "features" => Ok(Command::Features),
        "help" => Ok(Command::Help),
        "version" => Ok(Command::Version),
        other => Err(format!("unknown command {other:?}").into()),
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
    let id = id.ok_or("a container id is missing")?;
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
            Long("cgroup") => options.cgroup = Some(parser.value()?.string()?),
            Long("ignore-paused") => options.ignore_paused = true,
            Long("cwd") => options.cwd = Some(parser.value()?.string()?),
            Short('e') | Long("env") => options.env.push(parser.value()?.string()?),
            Short('u') | Long("user") => options.user = Some(parser.value()?.string()?),
            Short('g') | Long("additional-gids") => options.additional_gids.push(parser.value()?.parse()?),
            Short('c') | Long("cap") => options.caps.push(parser.value()?.string()?),
            Long("no-new-privs") => options.no_new_privileges = true,
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
    if options.process.is_none() && options.args.is_empty() {
        return Err("process args cannot be empty".into());
    }
    Ok(Command::Exec { id: id.ok_or("a container id is missing")?, options: Box::new(options) })
}

fn process(parser: &mut lexopt::Parser) -> Parsed<oci::runtime::Process> {
    let path: PathBuf = parser.value()?.into();
    let bytes = std::fs::read(&path).map_err(|e| format!("read {}: {e}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|e| format!("read {}: {e}", path.display()).into())
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
    Ok(Command::Kill { id: id.ok_or("a container id is missing")?, signal: signal.unwrap_or(15), target })
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
    Err("a container id is missing".into())
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
    Ok(Command::Events { id: id.ok_or("a container id is missing")?, once, interval })
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
    id.ok_or_else(|| "a container id is missing".into())
}

fn container_id(value: OsString) -> Parsed<ContainerId> {
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
