//! `conform archives`: what one engine saves, pushes and exports, the others load, pull and import: brig, Debian's dockerd, podman
//! and skopeo, in every form that two of them know. The same image has the same id everywhere, and its files are there.

use super::daemons::{Daemon, Registry};
use super::images;
use crate::packages;
use crate::run::{Doing, Error, Result, no_more, output};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the images that are passed around say.
const MARK: &str = "made here";
/// No bridge and no rules, which would stay on this machine.
const NO_NETWORKS: &[&str] =
    &["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"];

pub(super) fn command(args: &[String]) -> Result<()> {
    no_more(args)?;
    for list in [packages::BUILD, packages::TEST, packages::CONFORM, packages::CONFORM_ENGINES] {
        packages::ensure(list)?;
    }
    // Short: sockets are below.
    let work = std::env::temp_dir().join(format!("brig-archives-{}", std::process::id()));
    std::fs::create_dir_all(&work).doing(|| format!("create {}", work.display()))?;
    let registry = Registry::start(&work)?;
    let brig = Daemon::brig(&work, &registry)?;
    let dockerd = Daemon::dockerd(&work, &registry, NO_NETWORKS)?;
    let mut suite = Suite {
        registry: format!("127.0.0.1:{}", registry.port),
        brig: brig.host.clone(),
        dockerd: dockerd.host.clone(),
        work: work.clone(),
        passed: 0,
        failed: Vec::new(),
    };
    let done = suite.all();
    drop((brig, dockerd, registry));
    drop(std::fs::remove_dir_all(&work));
    done?;
    eprintln!("{} passed, {} failed", suite.passed, suite.failed.len());
    match suite.failed.as_slice() {
        [] => Ok(()),
        failed => Err(Error::new(format!("failed: {}", failed.join("; ")))),
    }
}

struct Suite {
    registry: String,
    /// Addresses of the daemons.
    brig: String,
    dockerd: String,
    work: PathBuf,
    passed: usize,
    failed: Vec<String>,
}

impl Suite {
    fn all(&mut self) -> Result<()> {
        let first = images::make(&self.work)?;
        let first = first.display().to_string();
        for host in [self.brig.clone(), self.dockerd.clone()] {
            docker(&host, &["load", "-i", &first])?;
            let script =
                format!("echo {MARK} > /made; rm /etc/hostname; mkdir -m 700 /own; ln /made /own/linked");
            docker(&host, &["run", "--name", "maker", "--network", "none", "busybox", "sh", "-c", &script])?;
            docker(&host, &["commit", "-c", "CMD [\"cat\", \"/own/linked\"]", "maker", "made:1"])?;
            docker(&host, &["tag", "made:1", "made:2"])?;
        }
        self.saved();
        self.pushed();
        self.exported();
        self.podman();
        Ok(())
    }

    /// One check.
    fn check(&mut self, what: &str, work: impl FnOnce(&Suite) -> Result<()>) {
        match work(self) {
            Ok(()) => {
                eprintln!("ok      {what}");
                self.passed += 1;
            }
            Err(error) => {
                eprintln!("FAILED  {what}: {error}");
                self.failed.push(what.to_owned());
            }
        }
    }

    fn path(&self, name: &str) -> String {
        self.work.join(name).display().to_string()
    }

    /// Archives between the two daemons, plain and compressed, with one image and with several.
    fn saved(&mut self) {
        let (brig, dockerd) = (self.brig.clone(), self.dockerd.clone());
        for (from, to, who) in [(&brig, &dockerd, "brig to dockerd"), (&dockerd, &brig, "dockerd to brig")] {
            for (form, program) in
                [("plain", None), ("gzip", Some("gzip")), ("xz", Some("xz")), ("bzip2", Some("bzip2"))]
            {
                self.check(&format!("{who}: save and load, {form}"), |suite| {
                    let file = suite.path("saved.tar");
                    docker(from, &["save", "-o", &file, "made:1", "made:2", "busybox"])?;
                    let file = packed(program, &file)?;
                    let ids = ["made:1", "busybox"].map(|name| id(from, name));
                    for name in ["made:1", "made:2"] {
                        docker(to, &["rmi", "-f", name])?;
                    }
                    docker(to, &["load", "-i", &file])?;
                    for (name, wanted) in ["made:1", "busybox"].iter().zip(ids) {
                        same(&wanted?, &id(to, name)?)?;
                    }
                    same(&id(to, "made:1")?, &id(to, "made:2")?)?;
                    runs(to, "made:2")
                });
            }
        }
    }

    /// Images by way of a registry, their layers by every codec that skopeo writes.
    fn pushed(&mut self) {
        let (brig, dockerd) = (self.brig.clone(), self.dockerd.clone());
        for (from, to, who) in [(&brig, &dockerd, "brig to dockerd"), (&dockerd, &brig, "dockerd to brig")] {
            self.check(&format!("{who}: push and pull"), |suite| {
                let name = format!("{}/{}:1", suite.registry, who.replace(' ', "-"));
                docker(from, &["tag", "made:1", &name])?;
                docker(from, &["push", &name])?;
                docker(to, &["pull", &name])?;
                same(&id(from, &name)?, &id(to, &name)?)?;
                runs(to, &name)
            });
        }
        for codec in ["gzip", "zstd"] {
            self.check(
                &format!("skopeo to brig to dockerd: {codec} layers pulled, saved and loaded"),
                |suite| {
                    let name = format!("{}/{codec}:1", suite.registry);
                    let file = suite.path("skopeo.tar");
                    docker(&brig, &["save", "-o", &file, "made:1"])?;
                    output(Command::new("skopeo").args([
                        "--insecure-policy",
                        "copy",
                        "--quiet",
                        "--dest-tls-verify=false",
                        "--dest-compress-format",
                        codec,
                        "--format=oci",
                        &format!("docker-archive:{file}:docker.io/library/made:1"),
                        &format!("docker://{name}"),
                    ]))?;
                    docker(&brig, &["pull", &name])?;
                    runs(&brig, &name)?;
                    docker(&brig, &["save", "-o", &file, &name])?;
                    let wanted = id(&brig, &name)?;
                    docker(&dockerd, &["load", "-i", &file])?;
                    same(&wanted, &id(&dockerd, &name)?)?;
                    runs(&dockerd, &name)?;
                    // And back, as dockerd writes it.
                    docker(&dockerd, &["save", "-o", &file, &name])?;
                    docker(&brig, &["rmi", "-f", &name])?;
                    docker(&brig, &["load", "-i", &file])?;
                    same(&wanted, &id(&brig, &name)?)?;
                    runs(&brig, &name)
                },
            );
        }
    }

    /// Root file systems.
    fn exported(&mut self) {
        let (brig, dockerd) = (self.brig.clone(), self.dockerd.clone());
        for (from, to, who) in [(&brig, &dockerd, "brig to dockerd"), (&dockerd, &brig, "dockerd to brig")] {
            self.check(&format!("{who}: export and import"), |suite| {
                let file = suite.path("exported.tar");
                docker(from, &["export", "-o", &file, "maker"])?;
                docker(to, &["import", "-c", "CMD [\"cat\", \"/own/linked\"]", &file, "imported:1"])?;
                runs(to, "imported:1")?;
                let show = "stat -c '%a %h' /own /made; ls /etc/hostname 2>&1 | tail -n 1; ls /bin | wc -l";
                let look = |host: &str| {
                    docker(host, &["run", "--rm", "--network", "none", "imported:1", "sh", "-c", show])
                };
                let original =
                    docker(from, &["run", "--rm", "--network", "none", "made:1", "sh", "-c", show])?;
                same(&original, &look(to)?)
            });
        }
    }

    /// podman's archives, both formats, both ways.
    fn podman(&mut self) {
        let brig = self.brig.clone();
        for format in ["docker-archive", "oci-archive"] {
            self.check(&format!("brig to podman and back: {format}"), |suite| {
                let (file, back) = (suite.path("podman.tar"), suite.path("back.tar"));
                let podman = |args: &[&str]| {
                    let mut command = Command::new("podman");
                    for (flag, directory) in [("--root", "p"), ("--runroot", "r"), ("--tmpdir", "t")] {
                        command.arg(flag).arg(suite.work.join(directory));
                    }
                    output(command.args(["--storage-driver", "vfs"]).args(args))
                };
                docker(&brig, &["save", "-o", &file, "made:1"])?;
                podman(&["load", "-q", "-i", &file])?;
                let theirs = podman(&["image", "inspect", "--format", "{{.Id}}", "made:1"])?;
                let ours = id(&brig, "made:1")?;
                same(ours.trim_start_matches("sha256:"), theirs.trim())?;
                podman(&["save", "-q", "--format", format, "-o", &back, "made:1"])?;
                podman(&["rmi", "-f", "made:1"])?;
                docker(&brig, &["load", "-i", &back])?;
                // podman calls it what it calls it.
                let listed =
                    docker(&brig, &["images", "--format", "{{.Repository}}:{{.Tag}}", "localhost/made"])?;
                let name = listed.lines().next().unwrap_or("made:1").to_owned();
                runs(&brig, &name)
            });
        }
    }
}

fn docker(host: &str, args: &[&str]) -> Result<String> {
    output(Command::new("docker").env("DOCKER_HOST", host).args(args))
}

fn id(host: &str, name: &str) -> Result<String> {
    docker(host, &["image", "inspect", "--format", "{{.Id}}", name])
}

/// The image says what it was made to say.
fn runs(host: &str, name: &str) -> Result<()> {
    same(MARK, docker(host, &["run", "--rm", "--network", "none", name])?.trim())
}

fn same(wanted: &str, found: &str) -> Result<()> {
    if wanted.trim() == found.trim() {
        return Ok(());
    }
    Err(Error::new(format!("{:?} is not {:?}", found.trim(), wanted.trim())))
}

/// The file, packed by a program beside it.
fn packed(program: Option<&str>, file: &str) -> Result<String> {
    let Some(program) = program else { return Ok(file.to_owned()) };
    // All three give the file another name, and take what is there.
    output(Command::new(program).args(["-f", "-1", file]))?;
    let suffix = match program {
        "gzip" => "gz",
        "bzip2" => "bz2",
        other => other,
    };
    let packed = Path::new(file).with_extension(format!("tar.{suffix}"));
    Ok(packed.display().to_string())
}
