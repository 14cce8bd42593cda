//! `brig-shim DIR`: supervises the container that `DIR/shim.json` describes. Started by the engine, not by people; what
//! the two say to each other is in `shim-api`.
//!
//! `brig-shim --namespaces` makes namespaces for the engine (`shim::namespaces`).
//!
//! Called `docker-init` it is the init of a container that was made with `--init` (`shim::init`).

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    if words.next().is_some_and(|name| Path::new(&name).file_name() == Some(shim::init::NAME.as_ref())) {
        return ExitCode::from(shim::init::run(&words.collect::<Vec<_>>()));
    }
    sys::footprint::keep_heap_small();
    // What the parent left open would stay open as long as the container lives. Kernels before 5.9 cannot; our engine
    // leaves nothing open.
    drop(sys::spawn::close_inherited(3));
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some(done) = shim::compress(&args).or_else(|| shim::namespaces::run(&args)) {
        if let Err(error) = done {
            complain(&errors::chain(&error));
            return ExitCode::FAILURE;
        }
        return ExitCode::SUCCESS;
    }
    let [dir] = args.as_slice() else {
        complain("usage: brig-shim DIR");
        return ExitCode::from(2);
    };
    let env = std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    });
    match shim::run(Path::new(dir), env.collect(), shim::Limits::default()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&errors::chain(&error));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "stderr is the shim's log")]
fn complain(text: &str) {
    eprintln!("brig-shim: {text}");
}
