//! `conform build`: the corpus of Dockerfiles (`crates/e2e/src/builds.rs`) by `brig build`, by the docker CLI's classic
//! builder, and by buildx where its program is: named, installed as a plugin of the docker CLI, or fetched from Debian.

use crate::run::{Result, no_more, take_flag, take_value};
use std::path::{Path, PathBuf};

/// Where plugins of the docker CLI are installed.
const PLUGINS: &[&str] = &[
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];
const PACKAGE: &str = "docker-buildx";
const IN_PACKAGE: &str = "usr/libexec/docker/cli-plugins/docker-buildx";

pub(super) fn command(args: &[String]) -> Result<()> {
    let mut args = args.to_vec();
    let named = take_value(&mut args, "--buildx")?.map(PathBuf::from);
    let fetches = take_flag(&mut args, "--fetch-buildx");
    no_more(&args)?;
    let buildx = match named.or_else(installed) {
        Some(path) => Some(path),
        None if fetches => Some(crate::trixie::fetch(&[PACKAGE])?.join(IN_PACKAGE)),
        None => None,
    };
    let tests = ["--test", "build", "--test", "buildx", "--test", "build_same", "--test", "build_foreign"];
    let line: Vec<String> = [&["-p", "e2e"], &tests[..], &["--", "--include-ignored"]]
        .concat()
        .into_iter()
        .map(str::to_string)
        .collect();
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
