//! `quickstart`: from a checkout to a running container, in one command and without a network.

use crate::build::{Profile, build};
use crate::packages;
use crate::run::{Doing, Error, Result, no_more, run, take_value};
use crate::workspace::{root, target};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// brigd's own defaults.
const DATA_ROOT: &str = "/var/lib/brig";
const EXEC_ROOT: &str = "/run/brig";

/// The image in the repository, by its name in the layout.
const IMAGE: &str = "hello-world";

/// How long brigd may take until it answers. With nothing to adopt it is milliseconds.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the engine lives.
#[derive(Debug)]
struct Roots {
    data: PathBuf,
    exec: PathBuf,
    /// Whether both are brigd's own.
    default: bool,
}

impl Roots {
    fn socket(&self) -> PathBuf {
        self.exec.join("brig.sock")
    }

    /// Flags of brigd. None for the defaults, so that the defaults are what is tried.
    fn flags(&self) -> Vec<String> {
        if self.default {
            return Vec::new();
        }
        let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
        vec![
            flag("data-root", &self.data),
            flag("exec-root", &self.exec),
            flag("pidfile", &self.exec.join("brigd.pid")),
            format!("--host=unix://{}", self.socket().display()),
            // Beside an engine with the defaults, which has brig0.
            "--bridge=brigqs0".into(),
            "--cgroup-parent=/brig-quickstart".into(),
        ]
    }
}

pub(crate) fn command(args: &[String]) -> Result<()> {
    let mut args = args.to_vec();
    let data = take_value(&mut args, "--data-root")?;
    let exec = take_value(&mut args, "--exec-root")?;
    no_more(&args)?;
    let roots = Roots {
        default: data.is_none() && exec.is_none(),
        data: data.unwrap_or_else(|| DATA_ROOT.into()).into(),
        exec: exec.unwrap_or_else(|| EXEC_ROOT.into()).into(),
    };
    packages::ensure(packages::BUILD)?;
    let programs = build(Profile::Release)?;
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new("the programs are built; to start the engine, run this as root"));
    }
    start_daemon(&programs.join("brigd"), &roots)?;

    let archive = pack_image()?;
    let brig = || {
        let mut command = Command::new(programs.join("brig"));
        command.env_remove("DOCKER_HOST").env_remove("BRIG_HOST");
        if !roots.default {
            command.env("BRIG_HOST", format!("unix://{}", roots.socket().display()));
        }
        command
    };
    run(brig().arg("load").arg("--input").arg(&archive))?;
    run(brig().args(["run", "--rm", IMAGE]))?;
    println!("{}", next_steps(&programs, &roots));
    Ok(())
}

/// What to type now. The path is given as one types it in the repository.
fn next_steps(programs: &Path, roots: &Roots) -> String {
    let directory = programs.strip_prefix(root()).unwrap_or(programs).display();
    let host = if roots.default { String::new() } else { format!(" -H unix://{}", roots.socket().display()) };
    format!(
        "\nbrig runs. Next:\n\n  export PATH=\"$PWD/{directory}:$PATH\"\n  brig{host} run --rm -it busybox sh\n  \
         brig{host} ps -a\n"
    )
}

/// Starts brigd, unless one answers, and waits until it does.
fn start_daemon(program: &Path, roots: &Roots) -> Result<()> {
    let socket = roots.socket();
    if answers(&socket) {
        println!("brigd answers on {} already", socket.display());
        return Ok(());
    }
    std::fs::create_dir_all(&roots.exec).doing(|| format!("create {}", roots.exec.display()))?;
    let log_path = roots.exec.join("brigd.log");
    let log = File::create(&log_path).doing(|| format!("create {}", log_path.display()))?;
    let log_too = log.try_clone().doing(|| "share the log".into())?;
    let mut command = Command::new(program);
    command.args(roots.flags()).current_dir("/").stdin(Stdio::null()).stdout(log).stderr(log_too);
    // A group of its own, so that Ctrl-C in this terminal does not reach it.
    let mut daemon = command.process_group(0).spawn().doing(|| format!("start {}", program.display()))?;
    println!("brigd {}: process {}, log {}", roots.flags().join(" "), daemon.id(), log_path.display());
    wait_for(&mut daemon, &socket, &log_path)
}

fn wait_for(daemon: &mut Child, socket: &Path, log: &Path) -> Result<()> {
    let begin = Instant::now();
    while !answers(socket) {
        let ended = daemon.try_wait().doing(|| "wait for brigd".into())?;
        if ended.is_none() && begin.elapsed() < START_TIMEOUT {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        }
        let said = std::fs::read_to_string(log).unwrap_or_default();
        let what = ended.map_or("does not answer".into(), |status| format!("ended with {status}"));
        return Err(Error::new(format!("brigd {what}; its log says:\n{said}")));
    }
    Ok(())
}

/// Whether `GET /_ping` gives 200.
fn answers(socket: &Path) -> bool {
    let ping = || -> std::io::Result<bool> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(START_TIMEOUT))?;
        stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: brig\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(head.ends_with(b" 200"))
    };
    ping().unwrap_or(false)
}

/// The layout as a tar archive, which is what `load` takes.
fn pack_image() -> Result<PathBuf> {
    let layout = root().join("images").join(IMAGE);
    let archive = target().join(format!("{IMAGE}.tar"));
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(layout).arg("-cf").arg(&archive).args(["oci-layout", "index.json", "blobs"]);
    run(&mut tar)?;
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_roots_are_told_to_brigd() {
        let roots = Roots { data: "/a".into(), exec: "/b".into(), default: false };
        let expected =
            ["--data-root=/a", "--exec-root=/b", "--pidfile=/b/brigd.pid", "--host=unix:///b/brig.sock"];
        assert_eq!(roots.flags()[..4], expected);
        assert!(Roots { default: true, ..roots }.flags().is_empty());
    }

    #[test]
    fn nobody_answers_where_nothing_is() {
        assert!(!answers(Path::new("/nonexistent/brig.sock")));
    }
}
