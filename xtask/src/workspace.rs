//! Where things are.

use crate::run::{Error, Result, output};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask lies in the repository").to_path_buf()
}

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The cargo that started us, in the repository.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// The host's target triple, as rustc calls it.
pub(crate) fn host_triple() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let text = output(Command::new(rustc).arg("-vV"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(String::from)
        .ok_or_else(|| Error::new("`rustc -vV` does not name the host"))
}

/// Whether rustc has a standard library for the target.
pub(crate) fn has_target(triple: &str) -> Result<bool> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    let library = output(command.args(["--print", "target-libdir", "--target", triple]))?;
    Ok(Path::new(library.trim()).is_dir())
}

/// Whether a program of this name is in `PATH`.
pub(crate) fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian's root-only programs are not in everybody's PATH.
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).any(|dir| dir.join(program).is_file())
}

/// The files of the repository, relative to its root: those that git knows or would add.
pub(crate) fn files() -> Result<Vec<PathBuf>> {
    let mut git = Command::new("git");
    git.current_dir(root()).args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    if root().join(".git").exists() && in_path("git") {
        let mut files: Vec<PathBuf> = output(&mut git)?.lines().map(PathBuf::from).collect();
        files.retain(|file| root().join(file).is_file());
        return Ok(files);
    }
    let mut files = Vec::new();
    walk(Path::new(""), &mut files)?;
    Ok(files)
}

/// Without git, as from an archive: everything but what is built or hidden.
fn walk(below: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let dir = root().join(below);
    let entries = std::fs::read_dir(&dir).map_err(|e| Error::new(format!("read {}: {e}", dir.display())))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let path = below.join(&name);
        let hidden = name.to_string_lossy().starts_with(".git");
        let built = below.as_os_str().is_empty() && name.to_string_lossy().starts_with("target");
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && !hidden && !built => walk(&path, files)?,
            Ok(kind) if kind.is_file() => files.push(path),
            _ => {}
        }
    }
    Ok(())
}
