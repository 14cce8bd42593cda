//! `build`: the programs, gathered in one directory, where they find each other.

use crate::run::{Doing, Error, Result, no_more, run, take_flag};
use crate::workspace::{cargo, has_target, host_triple, target};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Programs that live long, and need the host's C library for names of users and hosts.
const DYNAMIC: &[&str] = &["brigd", "brig-dns"];

/// The command line: linked static with musl where rustc has its standard library for it, else dynamic.
///
/// It lives for a millisecond. The dynamic loader takes half of one; and where CPUID traps, as in virtual machines, the
/// start of glibc takes another half, which asks it some sixty times about caches. Names of hosts are then musl's matter:
/// `/etc/hosts` and DNS, nothing else that nsswitch.conf(5) may name (docs/api.md).
const CLIENT: &str = "brig";

/// Programs of which one runs per container, or that start in every container's road: linked static and at a fixed
/// address, which spares them the dynamic loader's time and its private pages.
const STATIC: &[&str] = &["brig-shim", "brig-runtime"];

/// Those of them that are linked with musl as [`CLIENT`] is: started for every verb, it is half a megabyte and a dozen
/// system calls less. The shim copies the lines of logs, at which musl is slow: a million took twice as long.
const SMALLEST: &[&str] = &["brig-runtime"];

/// Bytes that a stripped release build of a program may have.
const BUDGETS: &[(&str, u64)] = &[("brig-runtime", 2 << 20)];

/// All programs.
pub(crate) fn programs() -> impl Iterator<Item = &'static str> {
    DYNAMIC.iter().chain([&CLIENT]).chain(STATIC).copied()
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
    let musl = musl(&host_triple()?, profile)?;
    let mut dynamic = DYNAMIC.to_vec();
    if musl.is_none() {
        dynamic.push(CLIENT);
    }
    run(cargo().arg("build").args(release).args(packages(&dynamic)))?;
    if let Some(triple) = &musl {
        run(static_cargo(triple).args(release).args(packages(&[CLIENT])))?;
    }

    let gathered = build_static(profile)?;
    for program in dynamic {
        place(&target().join(profile.directory()).join(program), &gathered.join(program))?;
    }
    if let Some(triple) = &musl {
        place(&target().join(triple).join(profile.directory()).join(CLIENT), &gathered.join(CLIENT))?;
    }
    Ok(gathered)
}

/// The same for those of [`STATIC`] alone.
pub(crate) fn build_static(profile: Profile) -> Result<PathBuf> {
    let host = host_triple()?;
    let musl = musl(&host, profile)?.unwrap_or_else(|| host.clone());
    let of = |program: &str| if SMALLEST.contains(&program) { &musl } else { &host };
    let small = (profile == Profile::Release).then_some("--profile=small");
    let mut triples = vec![&host, &musl];
    triples.dedup();
    for triple in triples {
        let programs: Vec<&str> = STATIC.iter().copied().filter(|program| of(program) == triple).collect();
        run(static_cargo(triple).args(small).args(packages(&programs)))?;
    }

    let gathered = target().join("brig").join(profile.directory());
    std::fs::create_dir_all(&gathered).doing(|| format!("create {}", gathered.display()))?;
    for program in STATIC {
        let built = target().join(of(program)).join(profile.static_directory()).join(program);
        place(&built, &gathered.join(program))?;
    }
    Ok(gathered)
}

/// `cargo build` of programs that need nothing at their start.
fn static_cargo(triple: &str) -> Command {
    let mut flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    flags.push_str(" -C target-feature=+crt-static -C relocation-model=static");
    let mut command = cargo();
    // With `--target` the flags reach the programs only, not build scripts and macros.
    command.arg("build").args(["--target", triple]).env("RUSTFLAGS", flags.trim_start());
    // Compression and cryptography are C in part, and of its library they use what every one has: the host's compiler will
    // do, and musl's wrapper of it is in another package.
    let compiler = format!("CC_{}", triple.replace('-', "_"));
    if triple.ends_with("-musl") && std::env::var_os(&compiler).is_none() {
        command.env(compiler, "cc");
    }
    command
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

/// The target whose C library is musl, where rustc has its standard library for it. A debug build is not worth compiling
/// everything for one target more.
fn musl(host: &str, profile: Profile) -> Result<Option<String>> {
    let musl = host.replace("-gnu", "-musl");
    if profile == Profile::Debug || musl == host {
        return Ok(None);
    }
    if has_target(&musl)? {
        return Ok(Some(musl));
    }
    println!(
        "brig, brig-shim and brig-runtime start later than they could: `rustup target add {musl}` makes them sooner"
    );
    Ok(None)
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
