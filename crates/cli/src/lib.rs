//! `brig`: Docker's command line on the Docker Engine API.
//!
//! The road of a command: [`main`] parses, `commands` dispatches, each command builds requests for `http` (or
//! `hijack`, where the connection is taken over), and prints through `terminal`, `listing` or `progress`. `run` is the
//! longest: flags (`run::options`) become the API's documents (`run::spec`), then create, attach and wait, start, pump.

mod blocking;
mod body;
mod clock;
mod commands;
mod config;
mod contexts;
mod credentials;
mod daemon;
mod demux;
#[cfg(test)]
mod docker_flags;
mod drafts;
mod error;
mod hijack;
mod host;
mod http;
mod listing;
mod progress;
mod run;
mod ssh;
mod streams;
mod table;
mod terminal;
mod text;
mod tls;
mod units;
mod usage;

use std::process::ExitCode;

/// The tree of commands, for completions and man pages.
pub fn command() -> clap::Command {
    commands::command()
}

/// Runs the program: reads the arguments and the environment, does what they say, prints what failed.
pub fn main() -> ExitCode {
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let line = match commands::quick::parse(&arguments) {
        Some(line) => line,
        None => match usage::parse(command(), arguments) {
            Ok(line) => line,
            Err(code) => return code,
        },
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => {
            terminal::warn(&format!("brig: start the event loop: {e}"));
            return ExitCode::from(125);
        }
    };
    let result = runtime.block_on(commands::dispatch(line));
    // Not waited for: a thread may sit in a read of standard input.
    runtime.shutdown_background();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error::Error::Exit { code, message }) => {
            if let Some(message) = message {
                terminal::warn(&message);
            }
            ExitCode::from(code)
        }
        Err(error) => {
            terminal::warn(&errors::chain(&error));
            ExitCode::from(1)
        }
    }
}
