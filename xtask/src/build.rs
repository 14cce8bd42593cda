//! `build`: the programs, gathered in one directory, where they find each other.

use crate::run::{Doing, Error, Result, no_more, run, take_flag};
use crate::workspace::{cargo, has_target, host_triple, target};
use std::path::{Path, PathBuf};

/// Programs that need the host's C library for names of users and hosts, and certificates.
const DYNAMIC: &[&str] = &["brig", "brigd", "brig-dns"];

/// Programs of which one runs per container, or that start in every container's road: linked static and at a fixed
/// address, which spares them the dynamic loader's time and its private pages.
const STATIC: &[&str] = &["brig-shim", "brig-runtime"];

/// Those of them that are better off with musl: started for every verb, they use nothing of a C library but its start, and
/// glibc's is half a megabyte and a dozen system calls.
const SMALLEST: &[&str] = &["brig-runtime"];

/// Bytes that a stripped release build of a program may have.
const BUDGETS: &[(&str, u64)] = &[("brig-runtime", 2 << 20)];

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
    let small = small_triple(&triple, profile)?;
    let of = |program: &str| if SMALLEST.contains(&program) { &small } else { &triple };
    let mut triples = vec![&triple, &small];
    triples.dedup();
    for triple in triples {
        let mut flags = std::env::var("RUSTFLAGS").unwrap_or_default();
        flags.push_str(" -C target-feature=+crt-static -C relocation-model=static");
        let mut command = cargo();
        command.env("RUSTFLAGS", flags.trim_start());
        let profile = (profile == Profile::Release).then_some("--profile=small");
        let programs: Vec<&str> = STATIC.iter().copied().filter(|program| of(program) == triple).collect();
        run(command.arg("build").args(profile).args(["--target", triple]).args(packages(&programs)))?;
    }

    let gathered = target().join("brig").join(profile.directory());
    std::fs::create_dir_all(&gathered).doing(|| format!("create {}", gathered.display()))?;
    for program in STATIC {
        place(
            &target().join(of(program)).join(profile.static_directory()).join(program),
            &gathered.join(program),
        )?;
    }
    Ok(gathered)
}

/// Compares the programs that a release build has gathered, if there was one, with what they may weigh.
pub(crate) fn check_sizes() -> Result<()> {
    for (program, budget) in BUDGETS {
        let path = target().join("brig").join(Profile::Release.directory()).join(program);
        let Ok(size) = std::fs::metadata(&path).map(|metadata| metadata.len()) else { continue };
        if size >= *budget {
            let shown = path.display();
            return Err(Error::new(format!(
                "{shown} has {size} bytes where docs/promises.md allows less than {budget}: make it smaller, or build it anew if it \
                 is an old one (cargo xtask build --release)"
            )));
        }
    }
    Ok(())
}

/// What the programs of [`SMALLEST`] are built for: with musl, where rustc has its standard library for it. A debug build is
/// not worth compiling everything for one target more.
fn small_triple(host: &str, profile: Profile) -> Result<String> {
    let musl = host.replace("-gnu", "-musl");
    if profile == Profile::Release && has_target(&musl)? {
        return Ok(musl);
    }
    if profile == Profile::Release && musl != host {
        println!("brig-runtime is larger than it could be: `rustup target add {musl}` makes it smaller");
    }
    Ok(host.to_owned())
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
