//! Programs of a newer Debian than this one, fetched with package lists of their own and unpacked below `target`.

use crate::run::{Doing, Error, Result, run};
use crate::workspace::target;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCES: &str = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main\n";

/// Downloads a package into `target/NAME` and unpacks it there; `program` is in it.
pub(super) fn fetch(name: &str, package: &str, program: &str) -> Result<PathBuf> {
    let home = target().join(name);
    let program = home.join(program);
    if program.is_file() {
        return Ok(program);
    }
    std::fs::create_dir_all(home.join("lists/partial")).doing(|| format!("create {}", home.display()))?;
    let sources = home.join("sources.list");
    std::fs::write(&sources, SOURCES).doing(|| format!("write {}", sources.display()))?;
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.current_dir(&home).args(words);
        for (key, value) in [
            ("Dir::Etc::sourcelist", sources.as_path()),
            ("Dir::Etc::sourceparts", Path::new("/dev/null")),
            ("Dir::State::lists", &home.join("lists")),
        ] {
            command.arg("-o").arg(format!("{key}={}", value.display()));
        }
        run(&mut command)
    };
    apt(&["update", "-q"])?;
    apt(&["download", "-q", package])?;
    let entries = std::fs::read_dir(&home).doing(|| format!("list {}", home.display()))?;
    let archive = entries
        .flatten()
        .map(|e| e.path())
        .find(|p| p.extension().is_some_and(|e| e == "deb"))
        .ok_or_else(|| Error::new(format!("apt-get downloaded no package {package}")))?;
    run(Command::new("dpkg").arg("-x").arg(&archive).arg(&home))?;
    Ok(program)
}
