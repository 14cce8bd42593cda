//! `brig-runtime`: the command line of runc in front of the library `runtime`.
#![cfg_attr(not(test), no_main)]
#![cfg_attr(test, expect(dead_code, reason = "tests have their own entry"))]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that answers on its streams")]

mod arguments;
mod log;
mod print;

use arguments::{Command, Global};
use runtime::Store;
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
    let (global, command) = match arguments::parse() {
        Ok(parsed) => parsed,
        Err(text) => {
            eprintln!("brig-runtime: {text}");
            return FAILURE;
        }
    };
    let mut log = log::Log::new(&global);
    match perform(&global, command, &mut log) {
        Ok(code) => code,
        Err(text) => {
            log.error(&text);
            FAILURE
        }
    }
}

fn perform(global: &Global, command: Command, log: &mut log::Log) -> Result<u8, String> {
    if global.systemd_cgroup && !runtime::is_root() {
        return Err("--systemd-cgroup needs root: a user's own systemd is not asked yet".into());
    }
    let store = Store::new(&global.root);
    let verb = command.name();
    let text = |e: runtime::Error| format!("{verb} failed: {}", errors::chain(&e));
    let rootless = global.rootless.unwrap_or_else(|| !runtime::is_root());
    let warn = |log: &mut log::Log, warnings: Vec<String>| warnings.iter().for_each(|w| log.warning(w));
    match command {
        Command::Create { id, mut options } => {
            options.rootless = rootless;
            options.systemd = global.systemd_cgroup.then(system_bus);
            take_sockets(&mut options);
            warn(log, runtime::create(&store, &id, &options).map_err(text)?);
        }
        Command::Run { id, mut options, detach, keep } => {
            options.rootless = rootless;
            options.systemd = global.systemd_cgroup.then(system_bus);
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
        Command::Update { id, resources } => {
            warn(log, runtime::update(&store, &id, &resources).map_err(text)?);
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
            options.rootless = rootless;
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
        Command::Help => println!("{}", arguments::HELP),
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

/// The socket of the system bus.
fn system_bus() -> String {
    let address = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_default();
    let path = address.split([',', ';']).find_map(|part| part.strip_prefix("unix:path="));
    path.unwrap_or("/run/dbus/system_bus_socket").to_owned()
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
