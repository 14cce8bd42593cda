//! `conform engines`: others' engines on our runtime: containerd's `ctr`, podman, dockerd. Each does what an engine asks of a
//! runtime: containers that end, that stay, that fail, execs, pausing, limits, a terminal, ids of their own.
//!
//! Debian's programs, on directories, sockets and cgroups of this run; they are ended by the end of it.

use crate::build::{Profile, build};
use crate::packages;
use crate::run::{Doing, Error, Result};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// `[ctr] [podman] [dockerd]`, all if none is named.
pub(super) fn command(args: &[String]) -> Result<()> {
    packages::ensure(packages::BUILD)?;
    packages::ensure(packages::CONFORM_ENGINES)?;
    let runtime = build(Profile::Debug)?.join("brig-runtime");
    // Short: sockets are below.
    let home = std::env::temp_dir().join(format!("brig-engines-{}", std::process::id()));
    std::fs::create_dir_all(&home).doing(|| format!("create {}", home.display()))?;
    let bundle = Bundle { runtime: runtime.display().to_string(), layer: layer(&home)?, home };
    let wanted = |name: &str| args.is_empty() || args.iter().any(|a| a == name);
    let known = ["ctr", "podman", "dockerd"];
    if let Some(other) = args.iter().find(|a| !known.contains(&a.as_str())) {
        return Err(Error::new(format!("no engine {other:?}; there are: {}", known.join(", "))));
    }
    let containerd =
        if wanted("ctr") || wanted("dockerd") { Some(Daemon::containerd(&bundle)?) } else { None };
    if wanted("ctr") {
        ctr(&bundle)?;
    }
    if wanted("podman") {
        podman(&bundle)?;
    }
    if wanted("dockerd") {
        dockerd(&bundle)?;
    }
    drop(containerd);
    drop(std::fs::remove_dir_all(&bundle.home));
    Ok(())
}

/// What all engines get.
struct Bundle {
    runtime: String,
    /// A root file system, as a directory; its tar is beside.
    layer: PathBuf,
    home: PathBuf,
}

impl Bundle {
    fn path(&self, name: &str) -> String {
        self.home.join(name).display().to_string()
    }
}

fn layer(home: &Path) -> Result<PathBuf> {
    let layer = home.join("layer");
    let bin = layer.join("bin");
    let doing = || format!("make {}", layer.display());
    std::fs::create_dir_all(&bin).doing(doing)?;
    std::fs::copy("/bin/busybox", bin.join("busybox")).doing(doing)?;
    for applet in ["sh", "true", "cat", "id", "sleep", "ls", "hostname", "test", "echo"] {
        std::os::unix::fs::symlink("busybox", bin.join(applet)).doing(doing)?;
    }
    crate::run::run(
        Command::new("tar").arg("-C").arg(&layer).arg("-cf").arg(home.join("layer.tar")).arg("."),
    )?;
    Ok(layer)
}

/// Calls one program with the same first arguments again and again.
struct Engine {
    program: &'static str,
    first: Vec<String>,
}

impl Engine {
    /// The call must end with `code` and print, on either stream, `want`.
    fn check(&self, args: &[&str], code: i32, want: &str) -> Result<()> {
        let shown = format!("{} {}", self.program, args.join(" "));
        let output = Command::new(self.program)
            .args(&self.first)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .doing(|| format!("start `{shown}`"))?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        if output.status.code() == Some(code) && text.contains(want) {
            eprintln!("ok `{shown}`");
            return Ok(());
        }
        Err(Error::new(format!(
            "`{shown}`: {}, want {code} and {want:?}: {}",
            output.status,
            text.trim_end()
        )))
    }
}

fn ctr(bundle: &Bundle) -> Result<()> {
    let rootfs = bundle.layer.display().to_string();
    let ctr = Engine { program: "ctr", first: vec!["--address".into(), bundle.path("containerd.sock")] };
    let ours = ["--runc-binary", &bundle.runtime, "--env", "PATH=/bin", "--rootfs", &rootfs];
    let run =
        |first: &[&str], rest: &[&str], code, want| ctr.check(&[first, &ours, rest].concat(), code, want);
    run(&["run", "--rm"], &["brig-one", "sh", "-c", "echo process $$; exit 3"], 3, "process 1")?;
    run(&["run", "--rm"], &["brig-two", "nope"], 1, "executable file not found in $PATH")?;
    run(&["run", "--rm", "--memory-limit", "33554432"], &["brig-three", "true"], 0, "")?;
    run(&["run", "--detach"], &["brig-four", "sleep", "1000"], 0, "")?;
    ctr.check(&["task", "list"], 0, "RUNNING")?;
    ctr.check(
        &["task", "exec", "--exec-id", "one", "brig-four", "sh", "-c", "echo inside; exit 4"],
        4,
        "inside",
    )?;
    ctr.check(&["task", "metrics", "brig-four"], 0, "memory")?;
    ctr.check(&["task", "pause", "brig-four"], 0, "")?;
    ctr.check(&["task", "list"], 0, "PAUSED")?;
    ctr.check(&["task", "resume", "brig-four"], 0, "")?;
    ctr.check(&["task", "kill", "--signal", "KILL", "brig-four"], 0, "")?;
    until("brig-four has stopped", || ctr.check(&["task", "list"], 0, "STOPPED").is_ok())?;
    // Its exit code is the task's: 128 + 9.
    ctr.check(&["task", "remove", "brig-four"], 0, "137")?;
    ctr.check(&["container", "remove", "brig-four"], 0, "")
}

fn podman(bundle: &Bundle) -> Result<()> {
    let options = [
        "--root",
        &bundle.path("podman-root"),
        "--runroot",
        &bundle.path("podman-run"),
        "--cgroup-manager",
        "cgroupfs",
        "--events-backend",
        "file",
        "--runtime",
        &bundle.runtime,
    ];
    let podman = Engine { program: "podman", first: options.map(str::to_owned).to_vec() };
    podman.check(&["import", &bundle.path("layer.tar"), "busy:1"], 0, "")?;
    let run = |options: &[&str], command: &[&str], code, want| {
        podman.check(
            &[&["run", "--rm", "--network", "none"], options, &["busy:1"], command].concat(),
            code,
            want,
        )
    };
    run(&[], &["sh", "-c", "echo process $$; exit 5"], 5, "process 1")?;
    run(&[], &["nope"], 127, "executable file not found in $PATH")?;
    run(&["--tty"], &["sh", "-c", "test -t 1 && echo a terminal"], 0, "a terminal")?;
    run(
        &["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"],
        &["cat", "/proc/self/uid_map"],
        0,
        "100000",
    )?;
    run(
        &["--read-only", "--tmpfs", "/x", "--sysctl", "kernel.shmmni=77"],
        &["cat", "/proc/sys/kernel/shmmni"],
        0,
        "77",
    )?;
    run(&["--privileged"], &["ls", "/dev"], 0, "null")?;
    podman.check(
        &[
            "run",
            "--detach",
            "--name",
            "one",
            "--network",
            "none",
            "--memory",
            "64m",
            "busy:1",
            "sleep",
            "1000",
        ],
        0,
        "",
    )?;
    podman.check(&["exec", "one", "sh", "-c", "echo inside; exit 7"], 7, "inside")?;
    podman.check(&["pause", "one"], 0, "one")?;
    podman.check(&["ps", "--all"], 0, "aused")?;
    podman.check(&["unpause", "one"], 0, "one")?;
    podman.check(&["stop", "--time", "0", "one"], 0, "one")?;
    podman.check(&["rm", "one"], 0, "")?;
    podman.check(&["rmi", "--force", "busy:1"], 0, "")
}

fn dockerd(bundle: &Bundle) -> Result<()> {
    let daemon = Daemon::dockerd(bundle)?;
    let docker = Engine {
        program: "docker",
        first: vec!["--host".into(), format!("unix://{}", bundle.path("docker.sock"))],
    };
    until("dockerd answers", || docker.check(&["version"], 0, "Server").is_ok())?;
    docker.check(&["info", "--format", "{{.DefaultRuntime}}"], 0, "brig")?;
    docker.check(&["import", &bundle.path("layer.tar"), "busy:1"], 0, "sha256")?;
    let run = |options: &[&str], command: &[&str], code, want| {
        docker.check(
            &[&["run", "--rm", "--network", "none"], options, &["busy:1"], command].concat(),
            code,
            want,
        )
    };
    run(&[], &["sh", "-c", "echo process $$; exit 6"], 6, "process 1")?;
    run(&[], &["nope"], 127, "executable file not found in $PATH")?;
    run(&["--tty"], &["sh", "-c", "test -t 1 && echo a terminal"], 0, "a terminal")?;
    run(&["--init"], &["true"], 0, "")?;
    run(&["--privileged"], &["ls", "/dev"], 0, "null")?;
    let one =
        ["--name", "one", "--network", "none", "--memory", "64m", "--pids-limit", "20", "--user", "5:6"];
    docker.check(
        &[&["run", "--detach"], &one[..], &["--read-only", "--tmpfs", "/tmp", "busy:1", "sleep", "1000"]]
            .concat(),
        0,
        "",
    )?;
    docker.check(&["exec", "one", "id"], 0, "uid=5 gid=6")?;
    docker.check(&["top", "one"], 0, "sleep 1000")?;
    docker.check(&["pause", "one"], 0, "one")?;
    docker.check(&["ps"], 0, "Paused")?;
    docker.check(&["unpause", "one"], 0, "one")?;
    docker.check(&["update", "--memory", "32m", "--memory-swap", "32m", "one"], 0, "one")?;
    docker.check(&["stats", "--no-stream", "one"], 0, "32MiB")?;
    docker.check(&["rm", "--force", "one"], 0, "one")?;
    drop(daemon);
    Ok(())
}

/// Waits for a state, not for a time.
fn until(what: &str, done: impl Fn() -> bool) -> Result<()> {
    let end = Instant::now() + START_TIMEOUT;
    while !done() {
        if Instant::now() > end {
            return Err(Error::new(format!("never: {what}")));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// A program that is ended with its value.
struct Daemon(Child);

impl Daemon {
    fn start(bundle: &Bundle, name: &str, command: &mut Command) -> Result<Daemon> {
        let log = bundle.path(&format!("{name}.log"));
        let file = std::fs::File::create(&log).doing(|| format!("create {log}"))?;
        let again = file.try_clone().doing(|| format!("open {log}"))?;
        command.stdin(Stdio::null()).stdout(file).stderr(again);
        Ok(Daemon(command.spawn().doing(|| format!("start {name}"))?))
    }

    fn containerd(bundle: &Bundle) -> Result<Daemon> {
        let config = bundle.path("containerd.toml");
        let text = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            bundle.path("containerd-root"),
            bundle.path("containerd-state"),
            bundle.path("containerd.sock"),
            bundle.path("containerd.ttrpc"),
        );
        std::fs::write(&config, text).doing(|| format!("write {config}"))?;
        let daemon =
            Daemon::start(bundle, "containerd", Command::new("containerd").args(["--config", &config]))?;
        let ctr = Engine { program: "ctr", first: vec!["--address".into(), bundle.path("containerd.sock")] };
        until("containerd answers", || ctr.check(&["version"], 0, "Server").is_ok())?;
        Ok(daemon)
    }

    fn dockerd(bundle: &Bundle) -> Result<Daemon> {
        let mut command = Command::new("dockerd");
        command.args(["--host", &format!("unix://{}", bundle.path("docker.sock"))]);
        for (flag, name) in [
            ("--data-root", "docker-root"),
            ("--exec-root", "docker-run"),
            ("--pidfile", "docker.pid"),
            ("--containerd", "containerd.sock"),
        ] {
            command.args([flag, &bundle.path(name)]);
        }
        command.args(["--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"]);
        command.args(["--cgroup-parent", "/brig-engines", "--default-runtime", "brig"]);
        command.args(["--add-runtime", &format!("brig={}", bundle.runtime)]);
        Daemon::start(bundle, "dockerd", &mut command)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        drop(self.0.wait());
    }
}
