//! `conform archives`: what one engine saves, pushes and exports, the others load, pull and import: brig, Debian's dockerd (with
//! its own store, and a newer one with containerd's), podman and skopeo, in every form that two of them know. The same image has the same id everywhere, and its files are there.

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
    let trixie = crate::trixie::fetch(&["docker.io", "containerd"])?;
    // Short: sockets are below.
    let work = std::env::temp_dir().join(format!("brig-archives-{}", std::process::id()));
    std::fs::create_dir_all(&work).doing(|| format!("create {}", work.display()))?;
    let checked = check_in(&work, &trixie);
    // The daemons are gone by now, and what they mounted.
    drop(std::fs::remove_dir_all(&work));
    let (passed, failed) = checked?;
    eprintln!("{passed} passed, {} failed", failed.len());
    match failed.as_slice() {
        [] => Ok(()),
        failed => Err(Error::new(format!("failed: {}", failed.join("; ")))),
    }
}

/// How many checks passed, and which did not.
fn check_in(work: &Path, trixie: &Path) -> Result<(usize, Vec<String>)> {
    let registry = Registry::start(work)?;
    let brig = Daemon::brig(work, &registry)?;
    let dockerd = Daemon::dockerd(work, &registry, NO_NETWORKS)?;
    let containerd = Daemon::dockerd_on_containerd(work, &registry, NO_NETWORKS, trixie)?;
    let peer = |name, daemon: &Daemon, ids| Peer { name, host: daemon.host.clone(), ids };
    let mut suite = Suite {
        registry: format!("127.0.0.1:{}", registry.port),
        brig: peer("brig", &brig, Ids::Configs),
        peers: vec![
            peer("dockerd", &dockerd, Ids::Configs),
            peer("dockerd on containerd", &containerd, Ids::Manifests),
        ],
        work: work.to_owned(),
        passed: 0,
        failed: Vec::new(),
    };
    suite.all()?;
    Ok((suite.passed, suite.failed))
}

/// An engine.
#[derive(Debug, Clone)]
struct Peer {
    name: &'static str,
    host: String,
    ids: Ids,
}

/// What an engine calls an image by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ids {
    Configs,
    Manifests,
}

impl Peer {
    fn docker(&self, args: &[&str]) -> Result<String> {
        output(Command::new("docker").env("DOCKER_HOST", &self.host).args(args))
    }

    /// The name of what it made.
    fn made(&self) -> String {
        format!("{}made:1", self.name.replace(' ', ""))
    }

    /// What tells an image from every other one, for both engines.
    fn identity(&self, other: &Peer, name: &str) -> Result<String> {
        let format = if self.ids == other.ids {
            "{{.Id}}"
        } else {
            "{{json .RootFS.Layers}} {{json .Config.Cmd}} {{json .Config.Env}} {{.Os}}/{{.Architecture}}"
        };
        self.docker(&["image", "inspect", "--format", format, name])
    }

    /// Removes an image, if it is there, and sees to it that it is gone.
    fn forget(&self, name: &str) -> Result<()> {
        // Not there is as good.
        drop(self.docker(&["rmi", "-f", name]));
        match self.docker(&["image", "inspect", name]) {
            Err(_) => Ok(()),
            Ok(_) => Err(Error::new(format!("{}: {name} cannot be removed", self.name))),
        }
    }

    /// The image says what it was made to say.
    fn runs(&self, name: &str) -> Result<()> {
        same(MARK, self.docker(&["run", "--rm", "--network", "none", name])?.trim())
    }
}

struct Suite {
    registry: String,
    brig: Peer,
    peers: Vec<Peer>,
    work: PathBuf,
    passed: usize,
    failed: Vec<String>,
}

impl Suite {
    fn all(&mut self) -> Result<()> {
        let first = images::make(&self.work)?;
        let first = first.display().to_string();
        for peer in self.peers.iter().chain([&self.brig]) {
            peer.docker(&["load", "-i", &first])?;
            let script =
                format!("echo {MARK} > /made; rm /etc/hostname; mkdir -m 700 /own; ln /made /own/linked");
            peer.docker(&["run", "--name", "maker", "--network", "none", "busybox", "sh", "-c", &script])?;
            // The base cannot be taken for what was made.
            peer.docker(&["commit", "-c", "CMD [\"cat\", \"/own/linked\"]", "maker", &peer.made()])?;
        }
        self.saved();
        self.pushed();
        self.exported();
        self.podman();
        Ok(())
    }

    /// From brig to each of the others, and back.
    fn ways(&self) -> Vec<(Peer, Peer)> {
        let both = |peer: &Peer| [(self.brig.clone(), peer.clone()), (peer.clone(), self.brig.clone())];
        self.peers.iter().flat_map(both).collect()
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

    /// Archives between two daemons, plain and compressed, with one image and with several.
    fn saved(&mut self) {
        for (from, to) in self.ways() {
            let made = from.made();
            let second = made.replace(":1", ":2");
            for (form, program) in
                [("plain", None), ("gzip", Some("gzip")), ("xz", Some("xz")), ("bzip2", Some("bzip2"))]
            {
                self.check(&format!("{} to {}: save and load, {form}", from.name, to.name), |suite| {
                    let file = suite.path("saved.tar");
                    from.docker(&["tag", &made, &second])?;
                    from.docker(&["save", "-o", &file, &made, &second])?;
                    let file = packed(program, &file)?;
                    to.forget(&made)?;
                    to.forget(&second)?;
                    to.docker(&["load", "-i", &file])?;
                    same(&from.identity(&to, &made)?, &to.identity(&from, &made)?)?;
                    same(&to.identity(&to, &made)?, &to.identity(&to, &second)?)?;
                    to.runs(&second)
                });
            }
        }
    }

    /// Images by way of a registry, their layers by every codec that skopeo writes.
    fn pushed(&mut self) {
        for (from, to) in self.ways() {
            self.check(&format!("{} to {}: push and pull", from.name, to.name), |suite| {
                let way = format!("{}-{}", from.name, to.name).replace(' ', "-");
                let name = format!("{}/{way}:1", suite.registry);
                from.docker(&["tag", &from.made(), &name])?;
                from.docker(&["push", &name])?;
                to.forget(&name)?;
                to.docker(&["pull", &name])?;
                same(&from.identity(&to, &name)?, &to.identity(&from, &name)?)?;
                to.runs(&name)
            });
        }
        let brig = self.brig.clone();
        let peers = self.peers.clone();
        let codecs = ["gzip", "zstd", "zstd:chunked"];
        for (codec, peer) in codecs.into_iter().flat_map(|codec| peers.iter().map(move |peer| (codec, peer)))
        {
            let what = format!("skopeo to brig to {}: {codec} layers pulled, saved and loaded", peer.name);
            self.check(&what, |suite| {
                let name = format!("{}/{}:1", suite.registry, codec.replace(':', "-"));
                let (file, made) = (suite.path("skopeo.tar"), brig.made());
                brig.docker(&["save", "-o", &file, &made])?;
                output(Command::new("skopeo").args([
                    "--insecure-policy",
                    "copy",
                    "--quiet",
                    "--dest-tls-verify=false",
                    "--dest-compress-format",
                    codec,
                    "--format=oci",
                    &format!("docker-archive:{file}:docker.io/library/{made}"),
                    &format!("docker://{name}"),
                ]))?;
                brig.forget(&name)?;
                peer.forget(&name)?;
                brig.docker(&["pull", &name])?;
                brig.runs(&name)?;
                brig.docker(&["save", "-o", &file, &name])?;
                let wanted = brig.identity(peer, &name)?;
                peer.docker(&["load", "-i", &file])?;
                same(&wanted, &peer.identity(&brig, &name)?)?;
                peer.runs(&name)?;
                // And back, as the other writes it.
                peer.docker(&["save", "-o", &file, &name])?;
                brig.forget(&name)?;
                brig.docker(&["load", "-i", &file])?;
                same(&wanted, &brig.identity(peer, &name)?)?;
                brig.runs(&name)
            });
        }
    }

    /// Root file systems.
    fn exported(&mut self) {
        for (from, to) in self.ways() {
            self.check(&format!("{} to {}: export and import", from.name, to.name), |suite| {
                let file = suite.path("exported.tar");
                from.docker(&["export", "-o", &file, "maker"])?;
                to.forget("imported:1")?;
                to.docker(&["import", "-c", "CMD [\"cat\", \"/own/linked\"]", &file, "imported:1"])?;
                to.runs("imported:1")?;
                let show = "stat -c '%a %h' /own /made; ls /etc/hostname 2>&1 | tail -n 1; ls /bin | wc -l";
                let look = |peer: &Peer, image: &str| {
                    peer.docker(&["run", "--rm", "--network", "none", image, "sh", "-c", show])
                };
                same(&look(&from, &from.made())?, &look(&to, "imported:1")?)
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
                let name = "passed:1";
                brig.docker(&["tag", &brig.made(), name])?;
                brig.docker(&["save", "-o", &file, name])?;
                podman(&["load", "-q", "-i", &file])?;
                let theirs = podman(&["image", "inspect", "--format", "{{.Id}}", name])?;
                let ours = brig.identity(&brig, name)?;
                same(ours.trim().trim_start_matches("sha256:"), theirs.trim())?;
                podman(&["save", "-q", "--format", format, "-o", &back, name])?;
                podman(&["rmi", "-f", name])?;
                for name in [name, &brig.made(), &format!("localhost/{name}")] {
                    brig.forget(name)?;
                }
                // podman calls it what it calls it.
                let loaded = brig.docker(&["load", "-i", &back])?;
                let found =
                    loaded.lines().find_map(|line| line.split_once(": ").map(|(_, name)| name.trim()));
                let found = found.ok_or_else(|| Error::new(format!("load told no image: {loaded:?}")))?;
                same(&ours, &brig.identity(&brig, found)?)?;
                brig.runs(found)?;
                brig.docker(&["tag", found, &brig.made()]).map(drop)
            });
        }
    }
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
