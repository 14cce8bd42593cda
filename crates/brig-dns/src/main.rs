//! `brig-dns DIR`: answers containers of one daemon for names, by the files in `DIR`, until no sandbox is left in it.
//! Started by `brigd`, and goes on without it. Prints `ready` once it serves.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "one line for who starts it, one for its log")]

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [directory] = arguments.as_slice() else {
        eprintln!("usage: brig-dns DIRECTORY");
        return ExitCode::FAILURE;
    };
    // The terminal of who started the daemon is not ours to hear from.
    if let Err(error) = rustix::process::setsid() {
        eprintln!("setsid: {error}");
    }
    match dns::serve(Path::new(directory), || println!("ready")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{}", errors::chain(&e));
            ExitCode::FAILURE
        }
    }
}
