//! `install`: release programs without symbols, completions, man pages and systemd units, below a prefix.
//!
//! What is written, below `--destdir` if given:
//!
//! ```text
//! PREFIX/bin/{brig,brigd,brig-dns,brig-shim,brig-runtime}
//! PREFIX/share/bash-completion/completions/brig
//! PREFIX/share/fish/vendor_completions.d/brig.fish
//! PREFIX/share/zsh/site-functions/_brig
//! PREFIX/share/man/man1/brig*.1
//! PREFIX/lib/systemd/system/brig.{service,socket}
//! ```

use crate::build::{Profile, build, programs};
use crate::packages;
use crate::run::{Doing, Error, Result, no_more, output, run, take_value};
use crate::workspace::{cargo, root};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Shells, and where below the prefix each looks.
const COMPLETIONS: &[(&str, &str)] = &[
    ("bash", "share/bash-completion/completions/brig"),
    ("fish", "share/fish/vendor_completions.d/brig.fish"),
    ("zsh", "share/zsh/site-functions/_brig"),
];

const UNITS: &[&str] = &["brig.service", "brig.socket"];

/// What the units say in place of the prefix.
const PREFIX: &str = "@PREFIX@";

pub(crate) fn command(args: &[String]) -> Result<()> {
    let mut args = args.to_vec();
    let prefix = take_value(&mut args, "--prefix")?.unwrap_or_else(|| "/usr/local".into());
    let destdir = take_value(&mut args, "--destdir")?;
    no_more(&args)?;
    if !prefix.starts_with('/') {
        return Err(Error::new(format!("--prefix {prefix}: not an absolute path")));
    }
    packages::ensure(packages::BUILD)?;
    let built = build(Profile::Release)?;
    let below = below(destdir.as_deref(), &prefix)?;
    let brig = built.join("brig");
    for program in programs() {
        install_program(&built.join(program), &below.join("bin").join(program))?;
    }
    for (shell, path) in COMPLETIONS {
        let text = output(Command::new(&brig).args(["completion", shell]))?;
        write(&below.join(path), &format!("{text}\n"))?;
    }
    let manual = below.join("share/man/man1");
    std::fs::create_dir_all(&manual).doing(|| format!("create {}", manual.display()))?;
    // A run of its own: only this needs the command line's crates, and xtask is to be quick to build.
    let mut pages = cargo();
    pages.args(["run", "--quiet", "--release", "--package", "brig", "--example", "man", "--"]).arg(&manual);
    run(&mut pages)?;
    for unit in UNITS {
        let source = root().join("xtask/units").join(unit);
        let text = std::fs::read_to_string(&source).doing(|| format!("read {}", source.display()))?;
        write(&below.join("lib/systemd/system").join(unit), &text.replace(PREFIX, &prefix))?;
    }
    println!("installed below {}", below.display());
    if destdir.is_none() && Path::new("/run/systemd/system").exists() {
        println!("start it with: systemctl daemon-reload && systemctl enable --now brig.socket");
    }
    Ok(())
}

/// `destdir` in front of `prefix`, as make's DESTDIR.
fn below(destdir: Option<&str>, prefix: &str) -> Result<PathBuf> {
    let Some(destdir) = destdir else { return Ok(PathBuf::from(prefix)) };
    let destdir = std::path::absolute(destdir).doing(|| format!("find {destdir}"))?;
    Ok(destdir.join(prefix.trim_start_matches('/')))
}

/// By a rename: the old program may be running, and for a while both are there.
fn install_program(from: &Path, to: &Path) -> Result<()> {
    let temporary = to.with_extension("new");
    create_parent(to)?;
    output(Command::new("strip").arg("-o").arg(&temporary).arg(from))?;
    let doing = || format!("install {}", to.display());
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o755)).doing(doing)?;
    std::fs::rename(&temporary, to).doing(doing)
}

fn write(path: &Path, text: &str) -> Result<()> {
    create_parent(path)?;
    std::fs::write(path, text).doing(|| format!("write {}", path.display()))
}

fn create_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent).doing(|| format!("create {}", parent.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destdir_goes_in_front() {
        let check =
            |destdir, expected: &str| assert_eq!(below(destdir, "/usr").unwrap(), Path::new(expected));
        check(None, "/usr");
        check(Some("/tmp/x"), "/tmp/x/usr");
    }

    #[test]
    fn units_name_the_prefix_and_spare_the_containers() {
        let unit = |name: &str| std::fs::read_to_string(root().join("xtask/units").join(name)).unwrap();
        let service = unit("brig.service");
        for line in ["KillMode=process", "Delegate=yes", "ExecStart=@PREFIX@/bin/brigd -H fd://"] {
            assert!(service.lines().any(|l| l == line), "{line}");
        }
        assert!(unit("brig.socket").contains("ListenStream=/run/brig/brig.sock"));
    }
}
