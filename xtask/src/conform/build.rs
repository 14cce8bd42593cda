//! `conform build`: the corpus of Dockerfiles (`crates/e2e/src/builds.rs`) by `brig build`, by the docker CLI's classic
//! builder, and by buildx where its program is: named, installed as a plugin of the docker CLI, or fetched from Debian.

use crate::run::{Doing, Error, Result, no_more, run, take_flag, take_value};
use crate::workspace::target;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where plugins of the docker CLI are installed.
const PLUGINS: &[&str] = &[
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];
/// The first Debian with a package of it.
const DEBIAN: &str = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main\n";
const PACKAGE: &str = "docker-buildx";
const IN_PACKAGE: &str = "usr/libexec/docker/cli-plugins/docker-buildx";

pub(super) fn command(args: &[String]) -> Result<()> {
    let mut args = args.to_vec();
    let named = take_value(&mut args, "--buildx")?.map(PathBuf::from);
    let fetches = take_flag(&mut args, "--fetch-buildx");
    no_more(&args)?;
    let buildx = match named.or_else(installed) {
        Some(path) => Some(path),
        None if fetches => Some(fetch()?),
        None => None,
    };
    let line =
        ["-p", "e2e", "--test", "build", "--test", "buildx", "--", "--include-ignored"].map(str::to_string);
    let mut variables = vec![("BRIG_CONFORM_BUILD", "1")];
    let path = buildx.as_ref().map(|p| p.to_string_lossy().into_owned());
    match &path {
        Some(path) => variables.push(("BRIG_TEST_BUILDX", path)),
        None => println!("no buildx here: --buildx PROGRAM names one, --fetch-buildx takes Debian's"),
    }
    crate::test::with_environment(&line, &variables)
}

fn installed() -> Option<PathBuf> {
    PLUGINS.iter().map(|dir| Path::new(dir).join("docker-buildx")).find(|path| path.is_file())
}

/// Downloads Debian's package, with package lists of its own, and unpacks it below `target`.
fn fetch() -> Result<PathBuf> {
    let home = target().join("buildx");
    let program = home.join(IN_PACKAGE);
    if program.is_file() {
        return Ok(program);
    }
    std::fs::create_dir_all(home.join("lists/partial")).doing(|| format!("create {}", home.display()))?;
    let sources = home.join("sources.list");
    std::fs::write(&sources, DEBIAN).doing(|| format!("write {}", sources.display()))?;
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
    apt(&["download", "-q", PACKAGE])?;
    let entries = std::fs::read_dir(&home).doing(|| format!("list {}", home.display()))?;
    let archive = entries
        .flatten()
        .map(|e| e.path())
        .find(|p| p.extension().is_some_and(|e| e == "deb"))
        .ok_or_else(|| Error::new(format!("apt-get downloaded no package {PACKAGE}")))?;
    run(Command::new("dpkg").arg("-x").arg(&archive).arg(&home))?;
    Ok(program)
}
