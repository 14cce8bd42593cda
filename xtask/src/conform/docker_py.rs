//! `conform docker-py`: the integration tests of Docker's Python client, from its source distribution on PyPI, against
//! brigd or against Debian's dockerd.
//!
//! Images come from a registry on loopback that stands in for Docker Hub as a mirror. `docker-py.exceptions` beside this
//! file lists what does not pass, each with its reason; any other failure is an error, and so is an exception that
//! passes.

use super::images;
use crate::build::{Profile, build};
use crate::packages;
use crate::run::{Doing, Error, Result, output, run};
use crate::workspace::root;
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The last version whose source distribution brings its tests.
const VERSION: &str = "7.0.0";
/// What it needs, of versions that fit it.
const REQUIREMENTS: &[&str] = &[
    "requests==2.31.0",
    "urllib3<2.3",
    "packaging",
    "paramiko",
    "websocket-client",
    "pytest==7.4.4",
    "pytest-timeout",
    "setuptools<81",
    "setuptools_scm",
    "wheel",
];
/// Whole files about what brig leaves to others (swarm), and what no engine takes part in (credential stores).
const NOT_OURS: &[&str] = &[
    "api_config_test.py",
    "api_secret_test.py",
    "api_service_test.py",
    "api_swarm_test.py",
    "models_nodes_test.py",
    "models_services_test.py",
    "models_swarm_test.py",
    "credentials",
    "context_api_test.py",
    "api_plugin_test.py",
];
/// The newest API of both engines.
const API: &str = "1.41";
const START_TIMEOUT: Duration = Duration::from_secs(30);
const EXCEPTIONS: &str = include_str!("docker-py.exceptions");

pub(super) fn command(args: &[String]) -> Result<()> {
    let (engine, rest) = match args {
        [flag, engine, rest @ ..] if flag == "--engine" => (engine.as_str(), rest),
        rest => ("brig", rest),
    };
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::CONFORM)?;
    let home = root().join("target/conform/docker-py");
    std::fs::create_dir_all(&home).doing(|| format!("create {}", home.display()))?;
    let python = prepare(&home)?;
    // Short: the paths of sockets are.
    let work = std::env::temp_dir().join(format!("brig-conform-{}", std::process::id()));
    std::fs::create_dir(&work).doing(|| format!("create {}", work.display()))?;
    let text = test(engine, rest, &home, &python, &work);
    // The daemon is gone by now, and what it mounted.
    drop(std::fs::remove_dir_all(&work));
    judge(&text?, engine)
}

/// Runs the suite; what pytest printed.
fn test(engine: &str, rest: &[String], home: &Path, python: &Path, work: &Path) -> Result<String> {
    let archive = images::make(work)?;
    let registry = Registry::start(work)?;
    let daemon = match engine {
        "brig" => Daemon::brig(work, &registry)?,
        "dockerd" => Daemon::dockerd(work, &registry)?,
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
    let mut pytest = Command::new(python);
    pytest
        .current_dir(home.join(format!("docker-{VERSION}")))
        .env("DOCKER_HOST", &daemon.host)
        .env("DOCKER_TEST_API_VERSION", API)
        .args(["-m", "pytest", "-q", "-rA", "--tb=short", "--timeout=60", "-p", "no:cacheprovider"]);
    if rest.iter().all(|a| a.starts_with('-')) {
        pytest.arg("tests/integration");
    }
    pytest.args(NOT_OURS.iter().map(|f| format!("--ignore=tests/integration/{f}"))).args(rest);
    // Its exit code says only that something failed.
    let out = pytest.output().doing(|| "run pytest".into())?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let report = home.join(format!("report-{engine}.txt"));
    std::fs::write(&report, &text).doing(|| format!("write {}", report.display()))?;
    print!("{text}");
    println!("the whole report: {}", report.display());
    Ok(text)
}

/// Compares what failed with what may.
fn judge(text: &str, engine: &str) -> Result<()> {
    let mut results: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in text.lines() {
        let Some((word, rest)) = line.split_once(' ') else { continue };
        if matches!(word, "PASSED" | "FAILED" | "ERROR") && rest.starts_with("tests/") {
            let test = rest.split(" - ").next().unwrap_or(rest).trim_start_matches("tests/integration/");
            results.entry(word).or_default().insert(test);
        }
    }
    let of = |word: &str| results.get(word).cloned().unwrap_or_default();
    let failed: BTreeSet<&str> = of("FAILED").union(&of("ERROR")).copied().collect();
    let passed: BTreeSet<&str> = of("PASSED").difference(&failed).copied().collect();
    println!("{engine}: {} passed, {} failed", passed.len(), failed.len());
    if passed.is_empty() {
        return Err(Error::new("no test passed: the suite did not run"));
    }
    if engine != "brig" {
        return Ok(());
    }
    let expected: BTreeSet<&str> = exceptions().map(|(test, _)| test).collect();
    let surprises: Vec<&&str> =
        failed.iter().filter(|t| !expected.contains(**t) && !expected.contains(&*format!("~{t}"))).collect();
    let mended: Vec<&&str> = expected.intersection(&passed).collect();
    if surprises.is_empty() && mended.is_empty() {
        return Ok(());
    }
    Err(Error::new(format!("failed and not listed: {surprises:#?}\nlisted and passed: {mended:#?}")))
}

/// Tests that fail, with the reason; `~` before those that only sometimes do.
fn exceptions() -> impl Iterator<Item = (&'static str, &'static str)> {
    EXCEPTIONS.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).filter_map(|l| l.split_once(": "))
}

/// A Python with what the tests need, and their sources; its program.
fn prepare(home: &Path) -> Result<PathBuf> {
    let python = home.join("venv/bin/python");
    let sources = home.join(format!("docker-{VERSION}"));
    if !python.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(home.join("venv")))?;
        run(Command::new(&python).args(["-m", "pip", "-q", "install"]).args(REQUIREMENTS))?;
    }
    if !sources.exists() {
        let mut pip = Command::new(&python);
        pip.args([
            "-m",
            "pip",
            "-q",
            "download",
            "--no-deps",
            "--no-build-isolation",
            "--no-binary",
            "docker",
        ]);
        run(pip.arg(format!("docker=={VERSION}")).arg("-d").arg(home))?;
        run(Command::new("tar")
            .arg("-xzf")
            .arg(home.join(format!("docker-{VERSION}.tar.gz")))
            .arg("-C")
            .arg(home))?;
    }
    Ok(python)
}

/// A registry that has what Docker Hub has, as far as the tests know it.
#[derive(Debug)]
struct Registry {
    process: Child,
    port: u16,
}

impl Registry {
    fn start(work: &Path) -> Result<Registry> {
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
struct Daemon {
    process: Child,
    host: String,
    /// Unmounted and deleted at the end.
    home: PathBuf,
}

impl Daemon {
    fn brig(work: &Path, registry: &Registry) -> Result<Daemon> {
        let programs = build(Profile::Debug)?;
        let home = work.join("brig");
        let mut command = Command::new(programs.join("brigd"));
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

    fn dockerd(work: &Path, registry: &Registry) -> Result<Daemon> {
        let home = work.join("dockerd");
        let mut command = Command::new("dockerd");
        command.args(["--cgroup-parent", "/dockerd-conform", "--storage-driver", "overlay2"]);
        std::fs::create_dir_all(&home).doing(|| format!("create {}", home.display()))?;
        let config = home.join("daemon.json");
        std::fs::write(&config, "{}").doing(|| format!("write {}", config.display()))?;
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

fn wait(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let begin = Instant::now();
    while !done() {
        if begin.elapsed() > START_TIMEOUT {
            return Err(Error::new(format!("{what} does not answer within {} s", START_TIMEOUT.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exception_has_a_reason() {
        for line in EXCEPTIONS.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let (test, reason) = line.split_once(": ").expect("TEST: REASON");
            assert!(test.contains("::") && reason.len() > 10, "{line}");
        }
    }

    #[test]
    fn failures_are_told_from_exceptions() {
        assert!(judge("PASSED tests/integration/a.py::T::x\n", "brig").is_ok());
        assert!(judge("", "brig").is_err());
        let text = "PASSED tests/integration/a.py::T::x\nFAILED tests/integration/a.py::T::y - why\n";
        assert!(judge(text, "brig").is_err());
        assert!(judge(text, "dockerd").is_ok());
    }
}
