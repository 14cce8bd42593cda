//! `brig`: the command line. Everything it does is in the `cli` crate.

use std::process::ExitCode;

// What musl allocates with is slow, above all for buffers: `logs` of a million lines took half as long again.
#[cfg(target_env = "musl")]
#[global_allocator]
static HEAP: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    cli::main()
}
