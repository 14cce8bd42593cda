//! Those who move images, and how each is told to.

use crate::bench::engines::{self, Engine};
use crate::run::{Doing, Error, Result, output};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// One of them.
#[derive(Debug)]
pub(super) enum Peer {
    Engine(Engine),
    /// containerd alone, by its own client.
    Containerd {
        home: PathBuf,
        process: Option<Child>,
    },
    /// Into storage of its own, which is podman's kind.
    Skopeo {
        home: PathBuf,
    },
}

/// What is done to an image.
#[derive(Debug, Clone, Copy)]
pub(super) enum Deed<'a> {
    Pull(&'a str),
    /// Gives the image of the first name the second one.
    Tag(&'a str, &'a str),
    /// By the second name, which is where it goes.
    Push(&'a str, &'a str),
    Remove(&'a str),
    Save(&'a str, &'a Path),
    /// An archive whose image has this name.
    Load(&'a Path, &'a str),
}

/// Everyone, not started; brig first.
pub(super) fn all(programs: &Path, work: &Path) -> Vec<Peer> {
    let mut peers: Vec<Peer> = engines::all(programs, work).into_iter().map(Peer::Engine).collect();
    peers.insert(2, Peer::Containerd { home: work.join("ctr"), process: None });
    peers.push(Peer::Skopeo { home: work.join("skopeo") });
    peers
}

impl Peer {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Peer::Engine(engine) => engine.name(),
            Peer::Containerd { .. } => "containerd",
            Peer::Skopeo { .. } => "skopeo",
        }
    }

    pub(super) fn versions(&self) -> Result<Option<String>> {
        Ok(match self {
            Peer::Engine(engine) => Some(engine.versions()?),
            // Said with dockerd's.
            Peer::Containerd { .. } => None,
            Peer::Skopeo { .. } => Some(output(Command::new("skopeo").arg("--version"))?),
        })
    }

    /// The engine, where it is one with Docker's command line.
    pub(super) fn engine(&self) -> Option<&Engine> {
        match self {
            Peer::Engine(engine) => Some(engine),
            _ => None,
        }
    }

    pub(super) fn start(&mut self) -> Result<()> {
        match self {
            Peer::Engine(engine) => engine.start(),
            Peer::Skopeo { home } => {
                std::fs::create_dir_all(&*home).doing(|| format!("create {}", home.display()))
            }
            Peer::Containerd { home, process } => {
                std::fs::create_dir_all(&*home).doing(|| format!("create {}", home.display()))?;
                let config = home.join("config.toml");
                let path = |name: &str| home.join(name).display().to_string();
                let text = format!(
                    "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
                     [grpc]\naddress = {:?}\n[debug]\nlevel = \"warn\"\n",
                    path("root"),
                    path("state"),
                    path("sock")
                );
                std::fs::write(&config, text).doing(|| "write config.toml".into())?;
                let log = File::create(home.join("log")).doing(|| "make a log".into())?;
                let mut command = Command::new("containerd");
                command.arg("--config").arg(&config).stdin(Stdio::null());
                let child = command.stdout(Stdio::null()).stderr(log).spawn();
                *process = Some(child.doing(|| "start containerd".into())?);
                let socket = home.join("sock");
                wait_until("containerd", || socket.exists())
            }
        }
    }

    pub(super) fn stop(&mut self) {
        match self {
            Peer::Engine(engine) => engine.stop(),
            Peer::Containerd { process: Some(child), .. } => {
                drop(child.kill());
                drop(child.wait());
            }
            _ => {}
        }
    }

    /// The command; none where this peer has none.
    pub(super) fn command(&self, deed: Deed<'_>) -> Option<Command> {
        let words: Vec<String> = match self {
            Peer::Engine(engine) => {
                let podman = engine.name() == "podman";
                let text = |path: &Path| path.display().to_string();
                let own = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
                match deed {
                    Deed::Pull(name) if podman => own(&["pull", "--tls-verify=false", name]),
                    Deed::Pull(name) => own(&["pull", name]),
                    Deed::Tag(from, to) => own(&["tag", from, to]),
                    Deed::Push(from, to) if podman => own(&["push", "--tls-verify=false", from, to]),
                    Deed::Push(_, to) => own(&["push", to]),
                    Deed::Remove(name) => own(&["rmi", "-f", name]),
                    Deed::Save(name, file) => own(&["save", "-o", &text(file), name]),
                    Deed::Load(file, _) => own(&["load", "-i", &text(file)]),
                }
            }
            Peer::Containerd { home, .. } => {
                let mut words =
                    vec!["-a".to_string(), home.join("sock").display().to_string(), "images".into()];
                let more: Vec<String> = match deed {
                    Deed::Pull(name) => vec!["pull".into(), "--plain-http".into(), name.into()],
                    Deed::Tag(from, to) => vec!["tag".into(), "--force".into(), from.into(), to.into()],
                    Deed::Push(_, to) => vec!["push".into(), "--plain-http".into(), to.into()],
                    Deed::Remove(name) => vec!["rm".into(), "--sync".into(), name.into()],
                    Deed::Save(name, file) => vec!["export".into(), file.display().to_string(), name.into()],
                    Deed::Load(file, _) => vec!["import".into(), file.display().to_string()],
                };
                words.extend(more);
                let mut command = Command::new("ctr");
                command.args(words).stdin(Stdio::null());
                return Some(command);
            }
            Peer::Skopeo { home } => {
                let stored = |name: &str| {
                    let place = |part: &str| home.join(part).display().to_string();
                    format!("containers-storage:[overlay@{}+{}]{name}", place("root"), place("run"))
                };
                let (remote, archive) = (
                    |name: &str| format!("docker://{name}"),
                    |path: &Path| format!("docker-archive:{}", path.display()),
                );
                let words: Vec<String> = match deed {
                    Deed::Pull(name) => {
                        vec!["copy".into(), "--src-tls-verify=false".into(), remote(name), stored(name)]
                    }
                    // What it pushes has the name that it is told.
                    Deed::Tag(..) => return None,
                    Deed::Push(from, to) => {
                        vec!["copy".into(), "--dest-tls-verify=false".into(), stored(from), remote(to)]
                    }
                    Deed::Remove(name) => vec!["delete".into(), stored(name)],
                    Deed::Save(name, file) => {
                        vec!["copy".into(), stored(name), format!("{}:{name}", archive(file))]
                    }
                    Deed::Load(file, name) => vec!["copy".into(), archive(file), stored(name)],
                };
                let mut command = Command::new("skopeo");
                command.args(words).stdin(Stdio::null());
                return Some(command);
            }
        };
        let engine = self.engine()?;
        Some(engine.command(&words.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    /// Does it, where this peer can. How long it took.
    pub(super) fn act(&self, deed: Deed<'_>) -> Result<Duration> {
        let Some(mut command) = self.command(deed) else { return Ok(Duration::ZERO) };
        let begin = Instant::now();
        output(&mut command)?;
        Ok(begin.elapsed())
    }

    /// Its daemons' process ids.
    pub(super) fn daemons(&self) -> Vec<u32> {
        match self {
            Peer::Engine(engine) => engine.processes(),
            Peer::Containerd { process, .. } => process.iter().map(Child::id).collect(),
            Peer::Skopeo { .. } => Vec::new(),
        }
    }
}

/// Debian's registry, which ends with the value.
#[derive(Debug)]
pub(super) struct Registry {
    process: Child,
    log: PathBuf,
}

impl Registry {
    /// On loopback, at this port, with its storage there.
    pub(super) fn start(work: &Path, port: u16, storage: &Path) -> Result<Registry> {
        let config = work.join(format!("registry-{port}.yml"));
        let log = work.join(format!("registry-{port}.log"));
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n",
            storage.display()
        );
        std::fs::write(&config, text).doing(|| "write the registry's configuration".into())?;
        let file = File::create(&log).doing(|| "make the registry's log".into())?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(file).stderr(Stdio::null());
        let process = command.spawn().doing(|| "start docker-registry".into())?;
        let registry = Registry { process, log };
        wait_until("docker-registry", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())?;
        Ok(registry)
    }

    /// Blobs that it has sent so far, and requests that it has answered.
    pub(super) fn served(&self) -> (usize, usize) {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let requests = || text.lines().filter(|line| line.contains(" HTTP/1.1\" "));
        (
            requests().filter(|line| line.contains("\"GET ") && line.contains("/blobs/")).count(),
            requests().count(),
        )
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn wait_until(what: &str, mut ready: impl FnMut() -> bool) -> Result<()> {
    let begin = Instant::now();
    while !ready() {
        if begin.elapsed() > START_TIMEOUT {
            return Err(Error::new(format!("{what} does not answer")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
