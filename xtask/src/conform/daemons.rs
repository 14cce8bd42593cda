//! An engine on directories of its own, and the registry that stands in for Docker Hub.

use super::images;
use crate::build::{Profile, build};
use crate::run::{Doing, Error, Result, output, run};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A registry that has what Docker Hub has, as far as the tests know it.
#[derive(Debug)]
pub(super) struct Registry {
    process: Child,
    pub(super) port: u16,
}

impl Registry {
    pub(super) fn start(work: &Path) -> Result<Registry> {
        let listener = TcpListener::bind("127.0.0.1:0").doing(|| "find a free port".into())?;
        let port = listener.local_addr().doing(|| "find a free port".into())?.port();
        drop(listener);
        let config = work.join("registry.yml");
        let storage = work.join("registry");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
            storage.display()
        );
        std::fs::write(&config, text).doing(|| format!("write {}", config.display()))?;
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .doing(|| "start docker-registry".into())?;
        let registry = Registry { process, port };
        wait("docker-registry", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())?;
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The engine under test. Dropping it removes its containers and ends it.
#[derive(Debug)]
pub(super) struct Daemon {
    process: Child,
    pub(super) host: String,
    /// Unmounted and deleted at the end.
    home: PathBuf,
}

impl Daemon {
    pub(super) fn brig(work: &Path, registry: &Registry) -> Result<Daemon> {
        let programs = build(Profile::Debug)?;
        let home = work.join("brig");
        let mut command = shared_mounts(&programs.join("brigd"));
        command.args([
            "--cgroup-parent",
            "/brig-conform",
            "--bridge",
            "brigconf0",
            "--config-file",
            "/dev/null",
        ]);
        Daemon::start(command, home, registry)
    }

    /// Debian's dockerd, with these flags besides.
    pub(super) fn dockerd(work: &Path, registry: &Registry, flags: &[&str]) -> Result<Daemon> {
        let home = work.join("dockerd");
        let mut command = shared_mounts(Path::new("dockerd"));
        command.args(flags);
        command.args(["--cgroup-parent", "/dockerd-conform", "--storage-driver", "overlay2"]);
        std::fs::create_dir_all(&home).doing(|| format!("create {}", home.display()))?;
        let config = home.join("daemon.json");
        std::fs::write(&config, "{}").doing(|| format!("write {}", config.display()))?;
        command.arg("--config-file").arg(config).arg("--pidfile").arg(home.join("pid"));
        Daemon::start(command, home, registry)
    }

    /// dockerd of Debian trixie, whose files are below `trixie`, with containerd's store in place of its own.
    pub(super) fn dockerd_on_containerd(
        work: &Path,
        registry: &Registry,
        flags: &[&str],
        trixie: &Path,
    ) -> Result<Daemon> {
        let home = work.join("dockerd26");
        let mut command = Command::new(trixie.join("usr/sbin/dockerd"));
        command.args(flags).args(["--cgroup-parent", "/dockerd-conform", "--storage-driver", "overlayfs"]);
        // It starts a containerd of its own, of its age. A runc of that age would want newer libraries.
        let (path, bin) = (std::env::var("PATH").unwrap_or_default(), home.join("bin"));
        std::fs::create_dir_all(&bin).doing(|| format!("create {}", bin.display()))?;
        for program in ["containerd", "containerd-shim-runc-v2"] {
            std::os::unix::fs::symlink(trixie.join("usr/bin").join(program), bin.join(program))
                .doing(|| format!("link {program}"))?;
        }
        command.env("PATH", format!("{}:{path}", bin.display()));
        let config = home.join("daemon.json");
        std::fs::write(&config, "{\"features\": {\"containerd-snapshotter\": true}}")
            .doing(|| format!("write {}", config.display()))?;
        command.arg("--config-file").arg(config).arg("--pidfile").arg(home.join("pid"));
        Daemon::start(command, home, registry)
    }

    fn start(mut command: Command, home: PathBuf, registry: &Registry) -> Result<Daemon> {
        std::fs::create_dir_all(&home).doing(|| format!("create {}", home.display()))?;
        let socket = home.join("docker.sock");
        let host = format!("unix://{}", socket.display());
        let log = std::fs::File::create(home.join("log")).doing(|| "create the log".into())?;
        command
            .args(["-H", &host, "--data-root"])
            .arg(home.join("data"))
            .arg("--exec-root")
            .arg(home.join("exec"))
            .args(["--registry-mirror", &format!("http://127.0.0.1:{}", registry.port)])
            .stdout(Stdio::null())
            .stderr(log);
        let process = command.spawn().doing(|| format!("start {:?}", command.get_program()))?;
        let daemon = Daemon { process, host, home };
        let ready = || {
            let ask = Command::new("docker").env("DOCKER_HOST", &daemon.host).arg("version").output();
            ask.is_ok_and(|o| o.status.success())
        };
        wait("the engine", ready)?;
        Ok(daemon)
    }
}

/// The program among mounts of its own that are shared, as systemd makes them, whatever this machine's are.
fn shared_mounts(program: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "shared", "--"]).arg(program);
    command
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let docker = |args: &[&str]| output(Command::new("docker").env("DOCKER_HOST", &self.host).args(args));
        if let Ok(ids) = docker(&["ps", "-aq"]) {
            for id in ids.lines() {
                drop(docker(&["rm", "-f", "-v", id]));
            }
        }
        drop(docker(&["network", "prune", "-f"]));
        let pid = i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // Fails only for a process that is gone.
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        drop(self.process.wait());
        // What is mounted below would be deleted through.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mut below: Vec<&str> = mounts
            .lines()
            .filter_map(|l| l.split(' ').nth(1))
            .filter(|m| Path::new(m).starts_with(&self.home))
            .collect();
        below.sort_by_key(|m| std::cmp::Reverse(m.len()));
        for mount in below {
            // What is still mounted makes the deletion fail, which deletes nothing of it.
            let _busy = rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// Does `work` with the address of an engine that has the images, and a registry that has them too.
pub(super) fn with_images<T>(engine: &str, work: impl FnOnce(&str) -> Result<T>) -> Result<T> {
    // Short: the paths of sockets are.
    let directory = std::env::temp_dir().join(format!("brig-conform-{}", std::process::id()));
    std::fs::create_dir(&directory).doing(|| format!("create {}", directory.display()))?;
    let all = || {
        let archive = images::make(&directory)?;
        let registry = Registry::start(&directory)?;
        let daemon = match engine {
            "brig" => Daemon::brig(&directory, &registry)?,
            "dockerd" => Daemon::dockerd(&directory, &registry, &[])?,
            other => return Err(Error::new(format!("no engine {other:?}; there are brig and dockerd"))),
        };
        let docker = |args: &[&str]| run(Command::new("docker").env("DOCKER_HOST", &daemon.host).args(args));
        docker(&["load", "-q", "-i", &archive.to_string_lossy()])?;
        for name in images::names() {
            let there = format!("127.0.0.1:{}/library/{name}", registry.port);
            docker(&["tag", name, &there])?;
            docker(&["push", "-q", &there])?;
            docker(&["rmi", &there])?;
        }
        work(&daemon.host)
    };
    let done = all();
    // The daemon is gone by now, and what it mounted.
    drop(std::fs::remove_dir_all(&directory));
    done
}

pub(super) fn wait(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let begin = Instant::now();
    while !done() {
        if begin.elapsed() > START_TIMEOUT {
            return Err(Error::new(format!("{what} does not answer within {} s", START_TIMEOUT.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
