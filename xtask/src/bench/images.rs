//! `bench images`: brig, dockerd, containerd, podman and skopeo in turn, each on storage of its own, against one
//! docker-registry on loopback; and the floor, `bench/images/floor.rs`.
//!
//! As the bench of engines it runs in namespaces of its own. Every measure begins with the file system synced and the
//! image that it is about gone, or there, as its name says.

mod material;
mod peers;

use super::args::Args;
use super::peak::Peak;
use super::report::machine;
use super::stages;
use super::table::{self, Row, Target};
use super::times::{median, milliseconds, settle};
use crate::packages;
use crate::run::{Doing, Error, Result, no_more, output, run};
use crate::workspace::{cargo, target};
use material::Material;
use peers::{Deed, Peer, Registry};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const RUNS: usize = 5;
const NAME: &str = "images";
/// Where this part begins in the page of results.
pub(super) const HEADING: &str = "# Images: measured by `cargo xtask bench images`";
const PORT: u16 = 5000;
const PUSH_PORT: u16 = 5001;
/// Pulls of one image at once.
const CROWD: usize = 50;
/// Containers that are made to find what one costs.
const CREATED: usize = 20;

pub(super) fn command(args: &[String]) -> Result<()> {
    let mut rest = args.to_vec();
    let args = Args::take(&mut rest, RUNS)?;
    no_more(&rest)?;
    match (args.stage.as_deref(), &args.work) {
        (Some("init"), Some(work)) => stages::init(&args.words(NAME, "inside", work)?),
        (Some("inside"), Some(work)) => inside(work, &args),
        _ => outside(&args),
    }
}

fn outside(args: &Args) -> Result<()> {
    let prepare = |_: &Path| {
        run(cargo().args(["build", "--release", "--package", "archive", "--example", "images-floor"]))?;
        material::ensure().map(drop)
    };
    // Short: podman refuses a long path.
    let words = |work: &Path| args.words(NAME, "init", work);
    stages::outside("bi", &[packages::BENCH_IMAGES], args.no_build, prepare, words)
}

fn inside(work: &Path, args: &Args) -> Result<()> {
    stages::own_namespace()?;
    let material = material::ensure()?;
    let mut peers = peers::all(&target().join("brig/release"), work);
    peers.retain(|peer| args.has(peer.name()));
    let registry = Registry::start(work, PORT, &material.registry)?;
    let mut bench = Bench { work, runs: args.runs, material, registry, peers: Vec::new(), rows: Vec::new() };
    let result = (|| {
        for mut peer in peers {
            peer.start()?;
            bench.peers.push(peer);
        }
        bench.measure()
    })();
    bench.peers.iter_mut().for_each(Peer::stop);
    result?;
    let text = bench.page()?;
    println!("\n{text}");
    if args.smoke { Ok(()) } else { super::sections::put(HEADING, &text) }
}

struct Bench<'a> {
    work: &'a Path,
    runs: usize,
    material: Material,
    registry: Registry,
    peers: Vec<Peer>,
    rows: Vec<Row>,
}

impl Bench<'_> {
    fn measure(&mut self) -> Result<()> {
        for codec in ["gzip", "zstd"] {
            self.pulls(codec)?;
        }
        let name = reference("gzip", "1");
        self.each(|_, peer| peer.act(Deed::Pull(&name)).map(drop))?;
        self.pushes(&name)?;
        self.saves(&name)?;
        self.changes(&name)?;
        self.creates(&name)?;
        self.removals(&name)?;
        self.crowd(&name)?;
        self.loads()
    }

    fn each(&self, mut work: impl FnMut(usize, &Peer) -> Result<()>) -> Result<()> {
        self.peers.iter().enumerate().try_for_each(|(n, peer)| work(n, peer))
    }

    /// Times of everyone, in turn. An error of one of the others is theirs, and said; it leaves an empty place.
    fn in_turn(
        &self,
        what: &str,
        mut one: impl FnMut(&Peer) -> Result<Option<Duration>>,
    ) -> Result<Vec<Option<f64>>> {
        eprintln!("{what}: {} runs each", self.runs);
        let mut times: Vec<Option<Vec<Duration>>> = vec![Some(Vec::new()); self.peers.len()];
        for _ in 0..self.runs {
            for (n, peer) in self.peers.iter().enumerate() {
                let Some(list) = &mut times[n] else { continue };
                match one(peer) {
                    Ok(Some(time)) => list.push(time),
                    Ok(None) => times[n] = None,
                    Err(error) if n > 0 => {
                        eprintln!("{what}: {}: {error}", peer.name());
                        times[n] = None;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(times.into_iter().map(|list| list.map(|list| milliseconds(median(list)))).collect())
    }

    /// The median of what the floor takes.
    fn floor(&self, args: impl Fn() -> Vec<String>) -> Result<Option<f64>> {
        let mut times = Vec::new();
        for _ in 0..self.runs {
            settle();
            let mut command = Command::new(target().join("release/examples/images-floor"));
            let begin = Instant::now();
            output(command.args(args()))?;
            times.push(begin.elapsed());
        }
        Ok(Some(milliseconds(median(times))))
    }

    fn row(&mut self, name: String, values: Vec<Option<f64>>, floor: Option<f64>, targets: &[Target]) {
        self.rows.push(Row { name, values, floor, targets: targets.to_vec() });
    }

    fn place(&self, name: &str) -> usize {
        self.peers.iter().position(|peer| peer.name() == name).unwrap_or(usize::MAX)
    }

    /// Targets that name a peer which takes part.
    fn targets(&self, wanted: &[(&str, f64)]) -> Vec<Target> {
        let known = wanted.iter().map(|(name, part)| match *name {
            "floor" => Some(Target::Floor(*part)),
            "" => Some(Target::Value(*part)),
            name => Some(self.place(name)).filter(|n| *n < usize::MAX).map(|n| Target::Peer(n, *part)),
        });
        known.flatten().collect()
    }

    fn pulls(&mut self, codec: &str) -> Result<()> {
        let (name, next) = (reference(codec, "1"), reference(codec, "2"));
        let mut grown = vec![0.0_f64; self.peers.len()];
        let cold = self.in_turn(&format!("pull, {codec}, cold"), |peer| {
            remove(peer, &[&name, &next]);
            let before = Peak::reset(&peer.daemons());
            let time = peer.act(Deed::Pull(&name))?;
            let at = self.place(peer.name());
            grown[at] = grown[at].max(before.growth());
            Ok(Some(time))
        })?;
        let dir = self.work.join("floor");
        let floor = self.floor(|| {
            drop(std::fs::remove_dir_all(&dir));
            drop(std::fs::create_dir_all(&dir));
            let repository = format!("bench/{codec}");
            let mut args = vec!["pull".to_string(), format!("127.0.0.1:{PORT}"), repository.clone()];
            args.push(dir.display().to_string());
            args.extend(self.material.layers.get(&repository).into_iter().flatten().cloned());
            args
        })?;
        drop(std::fs::remove_dir_all(&dir));
        let targets = self.targets(&[("dockerd", 1.0 / 3.0), ("containerd", 0.5), ("floor", 1.3)]);
        self.row(format!("pull, {codec}, cold: ms"), cold, floor, &targets);
        let has_daemon = |peer: &Peer| !peer.daemons().is_empty();
        let grown = self.peers.iter().zip(&grown).map(|(peer, n)| has_daemon(peer).then_some(*n)).collect();
        self.row(
            format!("pull, {codec}, cold: growth of the daemon's memory at its peak, MiB"),
            grown,
            None,
            &[Target::Value(64.0)],
        );

        let there = self.in_turn(&format!("pull, {codec}, of what is there"), |peer| {
            peer.act(Deed::Pull(&name)).map(Some)
        })?;
        let targets = self.targets(&[("dockerd", 0.1)]);
        self.row(format!("pull, {codec}, of what is there: ms"), there, None, &targets);
        let (_, before) = self.registry.served();
        self.peers[0].act(Deed::Pull(&name))?;
        let (_, after) = self.registry.served();
        let mut trips = vec![None; self.peers.len()];
        trips[0] = Some(count(after - before));
        self.row(format!("pull, {codec}, of what is there: requests"), trips, None, &[Target::Value(1.0)]);

        let changed = self.in_turn(&format!("pull, {codec}, one of four layers changed"), |peer| {
            remove(peer, &[&next]);
            peer.act(Deed::Pull(&next)).map(Some)
        })?;
        let targets = self.targets(&[("dockerd", 1.0 / 3.0), ("containerd", 0.5)]);
        self.row(format!("pull, {codec}, one of four layers new: ms"), changed, None, &targets);
        for peer in &self.peers {
            remove(peer, &[&name, &next]);
        }
        Ok(())
    }

    fn pushes(&mut self, name: &str) -> Result<()> {
        let to = format!("127.0.0.1:{PUSH_PORT}/bench/pushed:1");
        self.each(|_, peer| peer.act(Deed::Tag(name, &to)).map(drop))?;
        let times = self.in_turn("push to an empty registry", |peer| {
            let _registry = self.empty_registry()?;
            peer.act(Deed::Push(name, &to)).map(Some)
        })?;
        self.each(
            |n, peer| {
                if n < self.peers.len() - 1 { peer.act(Deed::Remove(&to)).map(drop) } else { Ok(()) }
            },
        )?;
        // The same bytes, copied; and sent by what does nothing else.
        let layers = self.material.layers.get("bench/gzip").into_iter().flatten();
        let files: Vec<(String, PathBuf)> =
            layers.map(|digest| (digest.clone(), self.blob(digest))).collect();
        let compressed = self.work.join("compressed");
        let mut bytes = File::create(&compressed).doing(|| "gather the layers".into())?;
        for (_, path) in &files {
            let mut blob = File::open(path).doing(|| format!("open {}", path.display()))?;
            std::io::copy(&mut blob, &mut bytes).doing(|| "gather the layers".into())?;
        }
        let copy = self.work.join("copy");
        let copied = self.floor(|| words(&["copy"], &[&compressed, &copy]))?;
        drop((std::fs::remove_file(&compressed), std::fs::remove_file(&copy)));
        let mut sent = Vec::new();
        for _ in 0..self.runs {
            let _registry = self.empty_registry()?;
            let mut command = Command::new(target().join("release/examples/images-floor"));
            command.args(["push", &format!("127.0.0.1:{PUSH_PORT}"), "bench/pushed"]);
            command.args(files.iter().map(|(digest, path)| format!("{digest}={}", path.display())));
            let begin = Instant::now();
            output(&mut command)?;
            sent.push(begin.elapsed());
        }
        drop(std::fs::remove_dir_all(self.work.join("pushed")));
        let targets = self.targets(&[("floor", 1.0 / 0.8)]);
        self.row("push to an empty registry (floor: a copy): ms".into(), times.clone(), copied, &targets);
        let sent = Some(milliseconds(median(sent)));
        self.row("push to an empty registry (floor: sendfile to it): ms".into(), times, sent, &targets);
        Ok(())
    }

    /// A second registry, with nothing in it.
    fn empty_registry(&self) -> Result<Registry> {
        let storage = self.work.join("pushed");
        drop(std::fs::remove_dir_all(&storage));
        std::fs::create_dir_all(&storage).doing(|| "make the registry's storage".into())?;
        let registry = Registry::start(self.work, PUSH_PORT, &storage)?;
        settle();
        Ok(registry)
    }

    /// Where the registry of the material keeps a blob.
    fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        let blobs = self.material.registry.join("docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    fn saves(&mut self, name: &str) -> Result<()> {
        let file = self.work.join("saved.tar");
        let mut saved = 0;
        let times = self.in_turn("save", |peer| {
            drop(std::fs::remove_file(&file));
            settle();
            let time = peer.act(Deed::Save(name, &file))?;
            if peer.name() == "brig" {
                saved = std::fs::metadata(&file).map_or(0, |m| m.len());
            }
            Ok(Some(time))
        })?;
        // What brig saved, copied.
        drop(std::fs::remove_file(&file));
        self.peers[0].act(Deed::Save(name, &file))?;
        let copy = self.work.join("copy");
        let floor = self.floor(|| words(&["copy"], &[&file, &copy]))?;
        drop((std::fs::remove_file(&file), std::fs::remove_file(&copy)));
        let targets = self.targets(&[("floor", 1.0 / 0.8)]);
        self.row(format!("save ({} MiB by brig): ms", saved >> 20), times, floor, &targets);
        Ok(())
    }

    fn loads(&mut self) -> Result<()> {
        let name = "localhost/bench/archive:1";
        let copy = self.work.join("copy");
        let deeds = [
            ("plain", self.material.archive.clone(), "copy"),
            ("gzip", self.material.archive_gzip.clone(), "inflate"),
        ];
        for (kind, file, floor) in deeds {
            let times = self.in_turn(&format!("load, {kind}"), |peer| {
                remove(peer, &[name]);
                peer.act(Deed::Load(&file, name)).map(Some)
            })?;
            for peer in &self.peers {
                remove(peer, &[name]);
            }
            let floor = self.floor(|| words(&[floor], &[&file, &copy]))?;
            drop(std::fs::remove_file(&copy));
            let targets = self.targets(&[("floor", 1.0 / 0.8)]);
            self.row(format!("load, {kind} archive: ms"), times, floor, &targets);
        }
        Ok(())
    }

    /// `diff` and `commit` of a container that changed ten small files.
    fn changes(&mut self, name: &str) -> Result<()> {
        const SCRIPT: &str = "for n in 1 2 3 4 5 6 7 8 9 10; do echo $n > /usr/lib/changed$n; done";
        for peer in &self.peers {
            let Some(engine) = peer.engine() else { continue };
            engine.check(&["run", "--network", "none", "--name", "changed", name, "sh", "-c", SCRIPT])?;
        }
        let diff = self.in_turn("diff", |peer| timed(peer, &["diff", "changed"]))?;
        let commit = self.in_turn("commit", |peer| {
            let time = timed(peer, &["commit", "changed", "localhost/bench/changed:1"])?;
            timed(peer, &["rmi", "localhost/bench/changed:1"])?;
            Ok(time)
        })?;
        for peer in &self.peers {
            timed(peer, &["rm", "-f", "changed"])?;
        }
        let targets = self.targets(&[("dockerd", 1.0)]);
        self.row("diff of ten changed files: ms".into(), diff, None, &targets);
        self.row("commit of ten changed files: ms".into(), commit, None, &targets);
        Ok(())
    }

    /// What a container's snapshot costs: `POST /containers/create` on one connection, whatever else that does.
    fn creates(&mut self, name: &str) -> Result<()> {
        let many = reference("many", "1");
        for (title, image) in [("the large image", name), ("an image of 100 layers", many.as_str())] {
            let mut values = vec![None; self.peers.len()];
            for (n, peer) in self.peers.iter().enumerate() {
                let Some(engine) = peer.engine().filter(|engine| engine.name() != "podman") else { continue };
                peer.act(Deed::Pull(image))?;
                values[n] = Some(milliseconds(creates(&engine.socket(), image)?));
            }
            // Wanted is a snapshot within a millisecond; this is that and all else of a container.
            self.row(format!("create by the API, {title}: ms"), values, None, &[Target::Value(1.0)]);
        }
        for peer in &self.peers {
            if peer.engine().is_some_and(|engine| engine.name() != "podman") {
                remove(peer, &[&many]);
            }
        }
        Ok(())
    }

    fn removals(&mut self, name: &str) -> Result<()> {
        let times = self.in_turn("rmi", |peer| {
            peer.act(Deed::Pull(name))?;
            settle();
            peer.act(Deed::Remove(name)).map(Some)
        })?;
        let targets = self.targets(&[("dockerd", 0.1)]);
        self.row("rmi: ms".into(), times, None, &targets);
        Ok(())
    }

    /// Many pulls of one image at once: how often the registry had to send a blob. There are four: the config too.
    fn crowd(&mut self, name: &str) -> Result<()> {
        let mut values = vec![None; self.peers.len()];
        for (n, peer) in self.peers.iter().enumerate() {
            if !matches!(peer.name(), "brig" | "dockerd") {
                continue;
            }
            remove(peer, &[name]);
            let (before, _) = self.registry.served();
            let mut children = Vec::new();
            for _ in 0..CROWD {
                let Some(mut command) = peer.command(Deed::Pull(name)) else { continue };
                children.push(
                    command.stdout(std::process::Stdio::null()).spawn().doing(|| "start a pull".into())?,
                );
            }
            for mut child in children {
                let status = child.wait().doing(|| "wait for a pull".into())?;
                if !status.success() {
                    return Err(Error::new(format!(
                        "{}: a pull among {CROWD} ended with {status}",
                        peer.name()
                    )));
                }
            }
            let (after, _) = self.registry.served();
            values[n] = Some(count(after - before));
        }
        self.row(format!("{CROWD} pulls at once: blobs sent"), values, None, &[Target::Value(4.0)]);
        for peer in &self.peers {
            remove(peer, &[name]);
        }
        Ok(())
    }

    fn page(&self) -> Result<String> {
        let names: Vec<&str> = self.peers.iter().map(Peer::name).collect();
        let mut out = format!("{HEADING}\n\n");
        let mut facts = machine()?;
        facts.push(format!(
            "load while measuring: {}",
            output(Command::new("cut").args(["-d ", "-f1-3", "/proc/loadavg"]))?
        ));
        for peer in &self.peers {
            facts.extend(peer.versions()?);
        }
        facts.push(output(Command::new("docker-registry").arg("--version"))?);
        for fact in facts {
            writeln!(out, "- {fact}").expect("writing to a String");
        }
        write!(
            out,
            "\nIn turn (A B C A B C ...), each on its own storage on the same file system, against one docker-registry on \
             loopback; medians of {}. The image: Debian with Python and a compiler in three layers, {} MiB unpacked. The \
             floor (bench/images/floor.rs) of a pull fetches, decompresses, hashes and writes each layer as one file, with \
             a thread for each half of each layer, and syncs nothing; that of push and save is a plain copy of the same \
             bytes (and, for push, the same bytes sent to the same registry by sendfile(2) alone: what is left is the \
             registry's own time), that of load a copy or the codec. skopeo copies to and from storage of podman's kind.\n\n",
            self.runs,
            self.material.bytes >> 20
        )
        .expect("writing to a String");
        out += &table::header(&names);
        for row in &self.rows {
            out += &row.line(&names);
        }
        Ok(out)
    }
}

fn reference(repository: &str, tag: &str) -> String {
    format!("127.0.0.1:{PORT}/bench/{repository}:{tag}")
}

fn words(first: &[&str], paths: &[&Path]) -> Vec<String> {
    first.iter().map(ToString::to_string).chain(paths.iter().map(|p| p.display().to_string())).collect()
}

/// Small numbers are exact.
#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn count(n: usize) -> f64 {
    n as f64
}

/// Images that may or may not be there.
fn remove(peer: &Peer, names: &[&str]) {
    for name in names {
        drop(peer.act(Deed::Remove(name)));
    }
    settle();
}

fn timed(peer: &Peer, args: &[&str]) -> Result<Option<Duration>> {
    let Some(engine) = peer.engine() else { return Ok(None) };
    let begin = Instant::now();
    engine.check(args)?;
    Ok(Some(begin.elapsed()))
}

/// The median of creating a container; they are removed again.
fn creates(socket: &Path, image: &str) -> Result<Duration> {
    let doing = || format!("ask {}", socket.display());
    let mut stream = UnixStream::connect(socket).doing(doing)?;
    let body = format!(r#"{{"Image":"{image}","Cmd":["true"],"HostConfig":{{"NetworkMode":"none"}}}}"#);
    let mut times = Vec::new();
    for _ in 0..CREATED {
        let begin = Instant::now();
        let answer = ask(&mut stream, "POST", "/containers/create", &body).doing(doing)?;
        times.push(begin.elapsed());
        let id = answer.split("\"Id\":\"").nth(1).and_then(|rest| rest.get(..64));
        let id = id.ok_or_else(|| Error::new(format!("create a container: {answer}")))?.to_owned();
        ask(&mut stream, "DELETE", &format!("/containers/{id}?force=1"), "").doing(doing)?;
    }
    Ok(median(times))
}

/// One request on a connection that stays.
fn ask(stream: &mut UnixStream, method: &str, path: &str, body: &str) -> std::io::Result<String> {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            if rest.len() >= length.unwrap_or(0) {
                return Ok(rest.to_owned());
            }
        }
        match stream.read(&mut piece)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => answer.extend(&piece[..n]),
        }
    }
}
