//! `build`: the programs, gathered in one directory, where they find each other.

use crate::run::{Doing, Result, no_more, run, take_flag};
use crate::workspace::{cargo, host_triple, target};
use std::path::{Path, PathBuf};

/// Programs that need the host's C library for names of users and hosts, and certificates.
const DYNAMIC: &[&str] = &["brig", "brigd", "brig-dns"];

/// Programs of which one runs per container, or that start in every container's road: linked static and at a fixed
/// address, which spares them the dynamic loader's time and its private pages.
const STATIC: &[&str] = &["brig-shim", "brig-runtime"];

/// All programs.
pub(crate) fn programs() -> impl Iterator<Item = &'static str> {
    DYNAMIC.iter().chain(STATIC).copied()
}

/// How to compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Debug,
    Release,
}

impl Profile {
    fn directory(self) -> &'static str {
        match self {
            Profile::Debug => "debug",
            Profile::Release => "release",
        }
    }

    /// Of the static programs: profile `small`.
    fn static_directory(self) -> &'static str {
        match self {
            Profile::Debug => "debug",
            Profile::Release => "small",
        }
    }
}

pub(crate) fn command(args: &[String]) -> Result<()> {
    let mut args = args.to_vec();
    let profile = if take_flag(&mut args, "--release") { Profile::Release } else { Profile::Debug };
    no_more(&args)?;
    let directory = build(profile)?;
    println!("built: {}", directory.display());
    Ok(())
}

/// Builds the programs and returns the directory that holds them.
pub(crate) fn build(profile: Profile) -> Result<PathBuf> {
    let release = (profile == Profile::Release).then_some("--release");
    run(cargo().arg("build").args(release).args(packages(DYNAMIC)))?;
    let gathered = build_static(profile)?;
    for program in DYNAMIC {
        place(&target().join(profile.directory()).join(program), &gathered.join(program))?;
    }
    Ok(gathered)
}

/// The same for those of [`STATIC`] alone.
pub(crate) fn build_static(profile: Profile) -> Result<PathBuf> {
    // With `--target` the flags reach the programs only, not build scripts and macros.
    let triple = host_triple()?;
    let mut flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    flags.push_str(" -C target-feature=+crt-static -C relocation-model=static");
    let mut command = cargo();
    command.env("RUSTFLAGS", flags.trim_start());
    let small = (profile == Profile::Release).then_some("--profile=small");
    run(command.arg("build").args(small).args(["--target", &triple]).args(packages(STATIC)))?;

    let gathered = target().join("brig").join(profile.directory());
    std::fs::create_dir_all(&gathered).doing(|| format!("create {}", gathered.display()))?;
    for program in STATIC {
        place(
            &target().join(&triple).join(profile.static_directory()).join(program),
            &gathered.join(program),
        )?;
    }
    Ok(gathered)
}

fn packages(programs: &[&str]) -> Vec<String> {
    programs.iter().flat_map(|name| ["-p".to_string(), name.to_string()]).collect()
}

/// Puts a copy of `from` at `to` by a rename, since `to` may be running. Leaves it alone when it is the same.
fn place(from: &Path, to: &Path) -> Result<()> {
    let doing = || format!("copy {} to {}", from.display(), to.display());
    let read = |path: &Path| std::fs::metadata(path).and_then(|m| Ok((m.len(), m.modified()?)));
    if let (Ok((size, built)), Ok((old_size, copied))) = (read(from), read(to))
        && size == old_size
        && built < copied
    {
        return Ok(());
    }
    let temporary = to.with_extension("new");
    std::fs::copy(from, &temporary).doing(doing)?;
    std::fs::rename(&temporary, to).doing(doing)
}
