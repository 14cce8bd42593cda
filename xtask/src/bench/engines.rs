//! Engines under measurement: how each is started on directories of its own, and how one speaks to it.

use crate::run::{Doing, Error, Result, output};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long an engine may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a daemon may take to leave.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Parent cgroups, one an engine: what is left below them can be found.
const CGROUP_PARENTS: &[&str] = &["brig-bench", "dockerd-bench", "podman-bench", "buildkit-bench"];
/// Programs of Debian's packages.
const DOCKERD: &str = "usr/sbin/dockerd";
const PROXY: &str = "usr/sbin/docker-proxy";
const BUILDX: &str = "usr/libexec/docker/cli-plugins/docker-buildx";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Brig,
    Dockerd,
    Podman,
    /// A newer dockerd, whose builder is BuildKit.
    BuildKit,
}

/// One engine.
#[derive(Debug)]
pub(super) struct Engine {
    kind: Kind,
    /// Where its programs are, of those that are not installed: brig's, BuildKit's.
    programs: PathBuf,
    /// Everything of this engine's.
    home: PathBuf,
    processes: Vec<Child>,
}

/// All engines, not started; brig first.
pub(super) fn all(programs: &Path, work: &Path) -> Vec<Engine> {
    let engine = |kind: Kind, name: &str| Engine {
        kind,
        programs: programs.into(),
        home: work.join(name),
        processes: Vec::new(),
    };
    vec![engine(Kind::Brig, "brig"), engine(Kind::Dockerd, "dockerd"), engine(Kind::Podman, "podman")]
}

/// dockerd and buildx as Debian's packages unpack into `programs`.
pub(super) fn buildkit(programs: &Path, work: &Path) -> Engine {
    let (kind, home) = (Kind::BuildKit, work.join("buildkit"));
    Engine { kind, programs: programs.into(), home, processes: Vec::new() }
}

impl Engine {
    pub(super) fn name(&self) -> &'static str {
        match self.kind {
            Kind::Brig => "brig",
            Kind::Dockerd => "dockerd",
            Kind::Podman => "podman",
            Kind::BuildKit => "BuildKit",
        }
    }

    /// Versions of the programs that do the work.
    pub(super) fn versions(&self) -> Result<String> {
        let ask = |program: &str| output(Command::new(program).arg("--version"));
        let first = |text: String| text.lines().next().unwrap_or_default().to_string();
        Ok(match self.kind {
            Kind::Brig => {
                let head = output(Command::new("git").args(["rev-parse", "--short", "HEAD"]));
                format!("brig at commit {}", head.unwrap_or_else(|_| "unknown".into()))
            }
            Kind::Dockerd => {
                format!("{}; {}; {}", first(ask("dockerd")?), first(ask("containerd")?), first(ask("runc")?))
            }
            Kind::Podman => {
                format!("{}; {}; {}", first(ask("podman")?), first(ask("crun")?), first(ask("conmon")?))
            }
            Kind::BuildKit => {
                let buildx = output(Command::new(self.programs.join(BUILDX)).arg("version"))?;
                let dockerd = output(Command::new(self.programs.join(DOCKERD)).arg("--version"))?;
                format!("BuildKit in: {dockerd}; {buildx}")
            }
        })
    }

    /// Names of the programs that run whether there are containers or not.
    pub(super) fn daemons(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Brig => &["brigd"],
            Kind::Dockerd | Kind::BuildKit => &["dockerd", "containerd"],
            Kind::Podman => &[],
        }
    }

    /// Names of the programs of which each container has one.
    pub(super) fn supervisors(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Brig => &["brig-shim"],
            Kind::Dockerd | Kind::BuildKit => &["containerd-shim-runc-v2"],
            Kind::Podman => &["conmon"],
        }
    }

    /// Starts the engine's daemons and waits until it answers.
    pub(super) fn start(&mut self) -> Result<()> {
        std::fs::create_dir_all(&self.home).doing(|| format!("create {}", self.home.display()))?;
        match self.kind {
            Kind::Brig => {
                let mut command = Command::new(self.programs.join("brigd"));
                command
                    .arg("--data-root")
                    .arg(self.home.join("data"))
                    .arg("--exec-root")
                    .arg(self.home.join("exec"));
                command.args([
                    "--cgroup-parent",
                    "/brig-bench",
                    "--bridge",
                    "brigbench0",
                    "--config-file",
                    "/dev/null",
                ]);
                self.spawn("brigd", command)?;
            }
            Kind::Dockerd | Kind::BuildKit => {
                let config = self.home.join("containerd.toml");
                std::fs::write(&config, self.containerd_config()).doing(|| "write containerd.toml".into())?;
                let mut containerd = Command::new("containerd");
                containerd.arg("--config").arg(config);
                self.spawn("containerd", containerd)?;
                let socket = self.home.join("containerd.sock");
                wait_until("containerd", || socket.exists())?;
                let mut command = match self.kind {
                    // One docker0 there is, and the other dockerd may have it.
                    Kind::BuildKit => {
                        for line in [
                            "link add dkit0 type bridge",
                            "addr add 198.18.64.1/24 dev dkit0",
                            "link set dkit0 up",
                        ] {
                            output(Command::new("ip").args(line.split(' ')))?;
                        }
                        let mut command = Command::new(self.programs.join(DOCKERD));
                        command.args(["--bridge", "dkit0", "--cgroup-parent", "/buildkit-bench"]);
                        command.arg("--userland-proxy-path").arg(self.programs.join(PROXY));
                        command
                    }
                    _ => {
                        let mut command = Command::new("dockerd");
                        command.args(["--cgroup-parent", "/dockerd-bench"]);
                        command
                    }
                };
                command.arg("--host").arg(self.host()).arg("--containerd").arg(socket);
                command
                    .arg("--data-root")
                    .arg(self.home.join("data"))
                    .arg("--exec-root")
                    .arg(self.home.join("exec"));
                command.arg("--pidfile").arg(self.home.join("dockerd.pid"));
                command.args(["--storage-driver", "overlay2"]);
                let config = self.home.join("daemon.json");
                std::fs::write(&config, "{}").doing(|| "write daemon.json".into())?;
                command.arg("--config-file").arg(config).args(["--log-level", "warn"]);
                self.spawn("dockerd", command)?;
            }
            Kind::Podman => {}
        }
        wait_until(self.name(), || {
            self.command(&["info"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|s| s.success())
        })
        .map_err(|e| Error::new(format!("{e}\n{}", self.log())))
    }

    fn containerd_config(&self) -> String {
        let path = |name: &str| self.home.join(name).display().to_string();
        // CRI would only take memory here.
        format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{}\"\n[debug]\nlevel = \"warn\"\n",
            path("containerd-root"),
            path("containerd-state"),
            path("containerd.sock")
        )
    }

    /// Where its API is.
    pub(super) fn socket(&self) -> PathBuf {
        self.home.join(match self.kind {
            Kind::Brig => "exec/brig.sock",
            Kind::Dockerd | Kind::BuildKit | Kind::Podman => "docker.sock",
        })
    }

    /// The processes of its daemons.
    pub(super) fn processes(&self) -> Vec<u32> {
        self.processes.iter().map(Child::id).collect()
    }

    fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn spawn(&mut self, name: &str, mut command: Command) -> Result<()> {
        let path = self.home.join("log");
        let log = File::options().create(true).append(true).open(&path);
        let log = log.doing(|| format!("open {}", path.display()))?;
        let too = log.try_clone().doing(|| "share the log".into())?;
        let child =
            command.stdin(Stdio::null()).stdout(log).stderr(too).spawn().doing(|| format!("start {name}"))?;
        self.processes.push(child);
        Ok(())
    }

    /// The end of what its daemons wrote.
    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.home.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// The engine's command line with these arguments.
    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = match self.kind {
            Kind::Brig => Command::new(self.programs.join("brig")),
            // Debian's own client of the same version, where it is.
            // Works without its plugin's frame, and asks the daemon itself.
            Kind::BuildKit if args.first() == Some(&"build") => Command::new(self.programs.join(BUILDX)),
            Kind::Dockerd | Kind::BuildKit => {
                Command::new(if Path::new("/usr/bin/docker").exists() { "/usr/bin/docker" } else { "docker" })
            }
            Kind::Podman => Command::new("podman"),
        };
        command.env("HOME", &self.home).env_remove("BRIG_HOST").env_remove("DOCKER_CONTEXT");
        match self.kind {
            Kind::Brig | Kind::Dockerd | Kind::BuildKit => {
                command.env("DOCKER_HOST", self.host()).env("DOCKER_CONFIG", &self.home).args(args);
                command.env("DOCKER_BUILDKIT", "0").env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1");
            }
            Kind::Podman => {
                for (flag, name) in [
                    ("--root", "root"),
                    ("--runroot", "runroot"),
                    ("--tmpdir", "tmpdir"),
                    ("--network-config-dir", "networks"),
                ] {
                    command.arg(flag).arg(self.home.join(name));
                }
                command.args([
                    "--cgroup-manager",
                    "cgroupfs",
                    "--runtime",
                    "crun",
                    "--storage-driver",
                    "overlay",
                ]);
                command.args(["--events-backend", "file"]);
                command.args(args.iter().take(1));
                if args.first() == Some(&"run") {
                    command.args(["--cgroup-parent", "/podman-bench"]);
                }
                if args.first() == Some(&"rm") {
                    // The others kill at once; podman would wait ten seconds for a process that ignores SIGTERM.
                    command.args(["--time", "0"]);
                }
                command.args(args.iter().skip(1));
            }
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command that must work.
    pub(super) fn check(&self, args: &[&str]) -> Result<()> {
        output(&mut self.command(args))
            .map(drop)
            .map_err(|e| Error::new(format!("{}: {e}\n{}", self.name(), self.log())))
    }

    /// Ends the daemons, the last started first. What they leave ends with the namespace.
    pub(super) fn stop(&mut self) {
        while let Some(mut child) = self.processes.pop() {
            let pid = rustix::process::Pid::from_child(&child);
            let _ignored = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let begin = Instant::now();
            // An error: process 1 has reaped it already, so it is gone.
            while let Ok(None) = child.try_wait() {
                if begin.elapsed() > STOP_TIMEOUT {
                    drop(child.kill());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn wait_until(what: &str, mut ready: impl FnMut() -> bool) -> Result<()> {
    let begin = Instant::now();
    while !ready() {
        if begin.elapsed() > START_TIMEOUT {
            return Err(Error::new(format!("{what} does not answer")));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Removes the engines' cgroups, whose processes are gone.
pub(super) fn remove_cgroups() {
    let base = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(base).into_iter().flatten().flatten().map(|e| e.path());
    for hierarchy in hierarchies.chain([base.to_path_buf()]) {
        for parent in CGROUP_PARENTS {
            remove_tree(&hierarchy.join(parent));
        }
    }
}

fn remove_tree(cgroup: &Path) {
    let Ok(entries) = std::fs::read_dir(cgroup) else { return };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        remove_tree(&entry.path());
    }
    if let Err(error) = std::fs::remove_dir(cgroup) {
        eprintln!("warning: remove {}: {error}", cgroup.display());
    }
}
