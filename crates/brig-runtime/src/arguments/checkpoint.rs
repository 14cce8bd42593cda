//! Flags of `checkpoint` and `restore`, as runc's.

use super::{Command, Parsed, container_id, path};
use lexopt::prelude::*;
use runtime::{Checkpoint, Criu, Restore};

pub(super) fn checkpoint(parser: &mut lexopt::Parser) -> Parsed<Command> {
    let mut options = Checkpoint { criu: defaults(), ..Checkpoint::default() };
    let mut id = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("parent-path") => options.parent_path = path(parser)?,
            Long("leave-running") => options.leave_running = true,
            Long("pre-dump") => options.pre_dump = true,
            Long("page-server") => {
                let text = parser.value()?.string()?;
                let parts = text.rsplit_once(':').filter(|(host, port)| !host.is_empty() && !port.is_empty());
                let (host, port) = parts.ok_or("Use --page-server ADDRESS:PORT to specify page server")?;
                let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
                options.page_server = Some((host.into(), port.parse().map_err(|_| "Invalid port number")?));
            }
            Long("status-fd") => options.status_fd = Some(parser.value()?.parse()?).filter(|&fd| fd >= 0),
            Long("tcp-skip-in-flight") => options.criu.flags.push("--skip-in-flight"),
            Long("link-remap") => options.criu.flags.push("--link-remap"),
            Value(value) if id.is_none() => id = Some(container_id(value)?),
            other => shared(&mut options.criu, &Named::of(other)?, parser)?,
        }
    }
    let id = id.ok_or_else(super::missing)?;
    Ok(Command::Checkpoint { id, options: Box::new(options) })
}

pub(super) fn restore(parser: &mut lexopt::Parser) -> Parsed<Command> {
    let mut options = Restore { criu: defaults(), bundle: ".".into(), ..Restore::default() };
    let mut id = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Short('b') | Long("bundle") => options.bundle = parser.value()?.into(),
            Short('d') | Long("detach") => options.detach = true,
            Long("pid-file") => options.pid_file = path(parser)?,
            Long("lsm-profile") => options.lsm_profile = Some(parser.value()?.string()?),
            Long("lsm-mount-context") => options.lsm_mount_context = Some(parser.value()?.string()?),
            // The runtime waits for its own child only, with this and without.
            Long("no-subreaper") => {}
            Long("no-pivot") => options.no_pivot = true,
            Long("console-socket") => options.console_socket = path(parser)?,
            Value(value) if id.is_none() => id = Some(container_id(value)?),
            other => shared(&mut options.criu, &Named::of(other)?, parser)?,
        }
    }
    let id = id.ok_or_else(super::missing)?;
    Ok(Command::Restore { id, options: Box::new(options) })
}

fn defaults() -> Criu {
    Criu { image_path: "checkpoint".into(), manage_cgroups: "soft".into(), ..Criu::default() }
}

/// The name of a long option, apart from the parser that its value comes from.
struct Named(String);

impl Named {
    fn of(argument: lexopt::Arg<'_>) -> Parsed<Named> {
        match argument {
            Long(name) => Ok(Named(name.to_owned())),
            other => Err(other.unexpected()),
        }
    }
}

fn shared(options: &mut Criu, name: &Named, parser: &mut lexopt::Parser) -> Parsed<()> {
    match name.0.as_str() {
        "image-path" => options.image_path = path(parser)?.unwrap_or_else(|| "checkpoint".into()),
        "work-path" => options.work_path = path(parser)?,
        "tcp-established" => options.flags.push("--tcp-established"),
        "ext-unix-sk" => options.flags.push("--ext-unix-sk"),
        "shell-job" => options.flags.push("--shell-job"),
        "file-locks" => options.flags.push("--file-locks"),
        "auto-dedup" => options.flags.push("--auto-dedup"),
        "lazy-pages" => options.lazy_pages = true,
        "manage-cgroups-mode" => {
            let mode = parser.value()?.string()?;
            if !["full", "strict", "soft", "ignore"].contains(&mode.as_str()) {
                return Err(format!("Invalid manage-cgroups-mode value {mode:?}").into());
            }
            options.manage_cgroups = mode;
        }
        "empty-ns" => match parser.value()?.string()?.as_str() {
            "network" => options.empty_network = true,
            other => return Err(format!("namespace {other:?} is not supported").into()),
        },
        other => return Err(lexopt::Error::UnexpectedOption(format!("--{other}"))),
    }
    Ok(())
}
