//! `man DIR`: writes `brig`'s man pages, one a command. Called by `cargo xtask install`; an example, so that the program does not
//! carry what only an installation needs.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from);
    let directory = directory.ok_or_else(|| std::io::Error::other("usage: man DIR"))?;
    clap_mangen::generate_to(cli::command(), directory)
}
