//! Programs of a newer Debian than the one here, beside it: downloaded with package lists of their own, unpacked below
//! `target`, installed nowhere.

use crate::run::{Doing, Error, Result, run};
use crate::workspace::target;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCES: &str = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main\n";

/// Whether [`fetch`] has been successful.
pub(crate) fn is_here(packages: &[&str]) -> bool {
    packages.iter().all(|name| target().join("trixie").join(name).join("done").exists())
}

/// Where the files of these packages are, as if that were the root. What is there already is not fetched again.
pub(crate) fn fetch(packages: &[&str]) -> Result<PathBuf> {
    let home = target().join("trixie");
    let (tree, lists) = (home.join("root"), home.join("lists"));
    let missing: Vec<&str> = packages.iter().copied().filter(|name| !is_here(&[name])).collect();
    if missing.is_empty() {
        return Ok(tree);
    }
    std::fs::create_dir_all(lists.join("partial")).doing(|| format!("create {}", lists.display()))?;
    let sources = home.join("sources.list");
    std::fs::write(&sources, SOURCES).doing(|| format!("write {}", sources.display()))?;
    let apt = |dir: &Path, words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.current_dir(dir).args(words);
        for (key, value) in [
            ("Dir::Etc::sourcelist", sources.as_path()),
            ("Dir::Etc::sourceparts", Path::new("/dev/null")),
            ("Dir::State::lists", &lists),
        ] {
            command.arg("-o").arg(format!("{key}={}", value.display()));
        }
        run(&mut command)
    };
    apt(&home, &["update", "-q"])?;
    for name in missing {
        let dir = home.join(name);
        std::fs::create_dir_all(&dir).doing(|| format!("create {}", dir.display()))?;
        apt(&dir, &["download", "-q", name])?;
        let entries = std::fs::read_dir(&dir).doing(|| format!("list {}", dir.display()))?;
        let archive = entries
            .flatten()
            .map(|e| e.path())
            .find(|p| p.extension().is_some_and(|e| e == "deb"))
            .ok_or_else(|| Error::new(format!("apt-get downloaded no package {name}")))?;
        run(Command::new("dpkg").arg("-x").arg(&archive).arg(&tree))?;
        std::fs::rename(&archive, dir.join("done")).doing(|| format!("keep {}", archive.display()))?;
    }
    Ok(tree)
}
