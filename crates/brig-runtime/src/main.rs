//! `brig-runtime`: the command line of runc in front of the library `runtime`.
#![cfg_attr(not(test), no_main)]
#![cfg_attr(test, expect(dead_code, reason = "tests have their own entry"))]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that answers on its streams")]

mod arguments;
mod log;
mod print;

use arguments::{Command, Global};
use runtime::{Store, Systemd};
use std::path::Path;

/// What runc exits with when it fails itself; engines tell it from a container's code by the message.
const FAILURE: u8 = 1;
/// The same for `exec`.
const EXEC_FAILURE: u8 = 255;

#[cfg(not(test))]
sys::program!(program);

#[cfg(not(test))]
#[global_allocator]
static HEAP: sys::heap::Heap = sys::heap::Heap::new();

fn program() -> u8 {
    sys::spent::keep();
    let mut global = Global::default();
    let parsed = arguments::parse(&mut global);
    let log = match log::open(&global) {
        Ok(log) => log,
        Err(text) => {
            eprintln!("brig-runtime: {text}");
            return FAILURE;
        }
    };
    if global.debug {
        runtime::trace_to(log::debug);
        let args: Vec<_> = sys::program::arguments().into_iter().skip(1).collect();
        log::debug(&format!("brig-runtime {}: {args:?}", env!("CARGO_PKG_VERSION")));
    }
    let command = match parsed {
        Ok(command) => command,
        Err(refusal) => {
            refusal.usage.iter().for_each(|usage| print!("{usage}"));
            log.error(&refusal.text);
            return refusal.code;
        }
    };
    let code = perform(&global, command, log).unwrap_or_else(|text| {
        log.error(&text);
        FAILURE
    });
    if global.debug {
        log::debug(&format!("ends with {code}"));
    }
    code
}

fn perform(global: &Global, command: Command, log: &log::Log) -> Result<u8, String> {
    let store = Store::new(&global.root);
    let verb = command.name();
    let text = |e: runtime::Error| format!("{verb} failed: {}", errors::chain(&e));
    let warn = |log: &log::Log, warnings: Vec<String>| warnings.iter().for_each(|w| log.warning(w));
    match command {
        Command::Create { id, mut options } => {
            options.rootless = global.rootless;
            options.systemd = systemd(global)?;
            take_sockets(&mut options);
            warn(log, runtime::create(&store, &id, &options).map_err(text)?);
        }
        Command::Run { id, mut options, detach, keep } => {
            options.rootless = global.rootless;
            options.systemd = systemd(global)?;
            take_sockets(&mut options);
            let exit = runtime::run(&store, &id, &options, detach, keep).map_err(text)?;
            warn(log, exit.warnings);
            return Ok(code(exit.code));
        }
        Command::Exec { id, options } => {
            return Ok(match runtime::exec(&store, &id, &options).map_err(text) {
                Ok(exit) => {
                    warn(log, exit.warnings);
                    code(exit.code)
                }
                Err(text) => {
                    log.error(&text);
                    // Not 1, which is what many programs end with.
                    EXEC_FAILURE
                }
            });
        }
        Command::Start { id } => runtime::start(&store, &id).map_err(text)?,
        Command::State { id } => println!("{}", pretty(&runtime::state(&store, &id).map_err(text)?)?),
        Command::Kill { id, signal, target } => runtime::kill(&store, &id, signal, target).map_err(text)?,
        Command::Delete { id, force } => warn(log, runtime::delete(&store, &id, force).map_err(text)?),
        Command::List { .. } if global.root_named && !global.root.exists() => {
            return Err(format!("open {}: no such file or directory", global.root.display()));
        }
        Command::List { json, quiet } => print::list(&runtime::list(&store).map_err(text)?, json, quiet)?,
        Command::Ps { id, json, options } => {
            let pids = runtime::processes(&store, &id).map_err(text)?;
            if json {
                println!("{}", serde_json::to_string(&pids).map_err(|e| e.to_string())?);
            } else {
                print::processes(&pids, &options)?;
            }
        }
        Command::Events { id, once, interval } => {
            runtime::events(&store, &id, once, interval, |event| println!("{event}")).map_err(text)?;
        }
        Command::Pause { id } => runtime::pause(&store, &id).map_err(text)?,
        Command::Resume { id } => runtime::resume(&store, &id).map_err(text)?,
        Command::Update { id, resources, schemas } => {
            warn(log, runtime::update(&store, &id, &resources, &schemas).map_err(text)?);
        }
        Command::Checkpoint { id, mut options } => {
            options.criu.program.clone_from(&global.criu);
            warn(log, runtime::checkpoint(&store, &id, &options).map_err(text)?);
        }
        Command::Restore { id, mut options } => {
            if global.systemd_cgroup {
                return Err("restore with --systemd-cgroup is not supported".into());
            }
            options.criu.program.clone_from(&global.criu);
            options.rootless = global.rootless;
            let exit = runtime::restore(&store, &id, &options).map_err(text)?;
            warn(log, exit.warnings);
            return Ok(code(exit.code));
        }
        Command::Spec { bundle, rootless } => write_spec(&bundle, rootless)?,
        Command::Features => println!("{}", pretty(&runtime::features())?),
        Command::Version => println!(
            "brig-runtime version {}\nspec: {}",
            env!("CARGO_PKG_VERSION"),
            oci::runtime::OCI_VERSION
        ),
        Command::Help(text) => print!("{text}"),
    }
    Ok(0)
}

/// Sockets that systemd opened for this process go to the container, before other descriptors.
fn take_sockets(options: &mut runtime::Create) {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID").is_some_and(|pid| pid == std::process::id()) {
        options.listen_fds = number("LISTEN_FDS").unwrap_or(0).min(arguments::MAX_DESCRIPTORS);
        options.preserve_fds = options.preserve_fds.saturating_add(options.listen_fds);
    }
}

/// The systemd that is to make cgroups: of the machine, or of a user without privilege.
fn systemd(global: &Global) -> Result<Option<Systemd>, String> {
    if !global.systemd_cgroup {
        return Ok(None);
    }
    let socket = |name: &str| {
        let address = std::env::var(name).unwrap_or_default();
        address.split([',', ';']).find_map(|part| part.strip_prefix("unix:path=").map(str::to_owned))
    };
    if runtime::is_root_outside() {
        let path = socket("DBUS_SYSTEM_BUS_ADDRESS");
        return Ok(Some(Systemd::System(path.unwrap_or_else(|| "/run/dbus/system_bus_socket".into()))));
    }
    let own = || std::env::var("XDG_RUNTIME_DIR").ok().filter(|d| !d.is_empty()).map(|d| d + "/bus");
    let path = socket("DBUS_SESSION_BUS_ADDRESS").or_else(own);
    let path =
        path.ok_or("--systemd-cgroup without root needs DBUS_SESSION_BUS_ADDRESS or XDG_RUNTIME_DIR")?;
    Ok(Some(Systemd::User(path)))
}

fn code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(u8::MAX)
}

fn pretty(value: &impl serde::Serialize) -> Result<String, String> {
    serde_json::to_string_pretty(value).map_err(|e| e.to_string())
}

fn write_spec(bundle: &Path, rootless: bool) -> Result<(), String> {
    use std::io::Write as _;
    let path = bundle.join("config.json");
    let text = pretty(&if rootless { runtime::rootless_spec() } else { runtime::default_spec() })?;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
    file.and_then(|mut file| writeln!(file, "{text}")).map_err(|e| format!("write {}: {e}", path.display()))
}
