//! Those who build, and how each is told to.

use crate::bench::engines::{self, Engine};
use crate::run::{Doing, Error, Result, output};
use crate::trixie;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The packages that bring BuildKit and its client.
const BUILDKIT: &[&str] = &["docker.io", "docker-buildx"];

/// One of them.
#[derive(Debug)]
pub(super) enum Peer {
    Engine(Engine),
    Buildah { home: PathBuf },
}

/// What is to be built.
#[derive(Debug, Clone)]
pub(super) struct Build<'a> {
    pub(super) context: &'a Path,
    /// Another Dockerfile than the context's.
    pub(super) file: Option<PathBuf>,
    /// Whether nothing may be taken from the cache.
    pub(super) fresh: bool,
}

impl Build<'_> {
    pub(super) fn of(context: &Path) -> Build<'_> {
        Build { context, file: None, fresh: false }
    }
}

/// Downloads what is not installed.
pub(super) fn fetch() -> Result<PathBuf> {
    trixie::fetch(BUILDKIT)
}

/// Everyone, not started; brig first.
pub(super) fn all(programs: &Path, work: &Path) -> Result<Vec<Peer>> {
    let mut peers: Vec<Peer> = engines::all(programs, work)
        .into_iter()
        .filter(|engine| engine.name() != "podman")
        .map(Peer::Engine)
        .collect();
    if trixie::is_here(BUILDKIT) {
        peers.push(Peer::Engine(engines::buildkit(&fetch()?, work)));
    }
    peers.push(Peer::Buildah { home: work.join("buildah") });
    Ok(peers)
}

impl Peer {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Peer::Engine(engine) => engine.name(),
            Peer::Buildah { .. } => "buildah",
        }
    }

    pub(super) fn versions(&self) -> Result<String> {
        match self {
            Peer::Engine(engine) => engine.versions(),
            Peer::Buildah { .. } => output(Command::new("buildah").arg("--version")),
        }
    }

    /// Starts it, with the image of this archive.
    pub(super) fn start(&mut self, archive: &Path) -> Result<()> {
        match self {
            Peer::Engine(engine) => {
                engine.start()?;
                engine.check(&["load", "-i", &archive.to_string_lossy()])
            }
            Peer::Buildah { home } => {
                std::fs::create_dir_all(&*home).doing(|| format!("create {}", home.display()))?;
                let from = format!("docker-archive:{}", archive.display());
                output(&mut self.buildah(&["pull", "--quiet", &from])).map(drop)
            }
        }
    }

    pub(super) fn stop(&mut self) {
        if let Peer::Engine(engine) = self {
            engine.stop();
        }
    }

    /// Its daemons' process ids.
    pub(super) fn daemons(&self) -> Vec<u32> {
        match self {
            Peer::Engine(engine) => engine.processes(),
            Peer::Buildah { .. } => Vec::new(),
        }
    }

    fn buildah(&self, args: &[&str]) -> Command {
        let mut command = Command::new("buildah");
        if let Peer::Buildah { home } = self {
            command.env("HOME", home).arg("--root").arg(home.join("root"));
            command.arg("--runroot").arg(home.join("run")).args(["--storage-driver", "overlay"]);
        }
        command.args(args).stdin(std::process::Stdio::null());
        command
    }

    fn command(&self, build: &Build<'_>) -> Command {
        let mut words = vec!["build".to_string(), "-t".into(), "localhost/bench/built:1".into()];
        words.extend(build.fresh.then(|| "--no-cache".to_string()));
        words.extend(
            build.file.iter().flat_map(|file| ["-f".to_string(), file.to_string_lossy().into_owned()]),
        );
        if let Peer::Buildah { .. } = self {
            let own = ["--layers", "--pull=never", "--cgroup-parent", "/podman-bench"];
            words.extend(own.map(String::from));
        }
        words.push(build.context.to_string_lossy().into_owned());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match self {
            Peer::Engine(engine) => engine.command(&words),
            Peer::Buildah { .. } => self.buildah(&words),
        }
    }

    /// Builds. How long it took.
    pub(super) fn build(&self, build: &Build<'_>) -> Result<Duration> {
        let mut command = self.command(build);
        let begin = Instant::now();
        output(&mut command)?;
        Ok(begin.elapsed())
    }

    /// The same, and how many MiB the client had at the most.
    pub(super) fn build_weighed(&self, build: &Build<'_>, work: &Path) -> Result<(Duration, f64)> {
        let command = self.command(build);
        let told = work.join("time");
        let mut time = Command::new("time");
        time.args(["-f", "%M", "-o"]).arg(&told).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => time.env(name, value),
                None => time.env_remove(name),
            };
        }
        let begin = Instant::now();
        output(time.stdin(std::process::Stdio::null()))?;
        let took = begin.elapsed();
        let text = std::fs::read_to_string(&told).doing(|| "read what time(1) said".into())?;
        let kib = text.lines().last().and_then(|line| line.trim().parse::<f64>().ok());
        Ok((took, kib.ok_or_else(|| Error::new(format!("time(1) said {text:?}")))? / 1024.0))
    }
}
