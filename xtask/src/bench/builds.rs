//! `bench build`: brig, dockerd's classic builder, BuildKit and buildah in turn, each on storage of its own.
//!
//! BuildKit is the one in the dockerd of a newer Debian, asked by buildx; both are fetched beside the installed programs.
//! Where they cannot be fetched the others are measured without it. As the bench of engines it runs in namespaces of its
//! own, and every measure begins with the file system synced.

mod contexts;
mod peers;

use super::args::Args;
use super::peak::Peak;
use super::report::machine;
use super::table::{self, Row, Target};
use super::times::{median, milliseconds, settle};
use super::{image, stages};
use crate::packages;
use crate::run::{Error, Result, no_more, output};
use crate::workspace::target;
use contexts::Large;
use peers::{Build, Peer};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Where this part begins in the page of results.
const HEADING: &str = "# Builds: measured by `cargo xtask bench build`";
const RUNS: usize = 5;
const NAME: &str = "build";
/// The peer that has to be fetched.
const BUILDKIT: &str = "BuildKit";
/// Runs of what takes seconds.
const LONG_RUNS: usize = 3;
/// Runs of what takes tens of seconds.
const LARGE_RUNS: usize = 2;
const STEPS: usize = 20;
/// What a step may take over its command, in milliseconds.
const STEP: f64 = 30.0;
/// MiB by which a daemon may grow.
const GROWTH: f64 = 64.0;

pub(super) fn command(args: &[String]) -> Result<()> {
    let mut rest = args.to_vec();
    let args = Args::take(&mut rest, RUNS)?;
    no_more(&rest)?;
    match (args.stage.as_deref(), &args.work) {
        (Some("init"), Some(work)) => stages::init(&args.words(NAME, "inside", work)?),
        (Some("inside"), Some(work)) => inside(work, &args),
        _ => outside(args),
    }
}

fn outside(mut args: Args) -> Result<()> {
    if args.has(BUILDKIT)
        && let Err(error) = peers::fetch()
    {
        eprintln!("warning: without BuildKit: {error}");
        args.without.push(BUILDKIT.into());
    }
    // Short: buildah refuses a long path.
    let words = |work: &Path| args.words(NAME, "init", work);
    stages::outside("bb", &[packages::BENCH_BUILD], args.no_build, image::make, words)
}

fn inside(work: &Path, args: &Args) -> Result<()> {
    stages::own_namespace()?;
    let mut peers = peers::all(&target().join("brig/release"), work)?;
    peers.retain(|peer| args.has(peer.name()));
    let mut bench = Bench { work, runs: args.runs, smoke: args.smoke, peers: Vec::new(), rows: Vec::new() };
    let result = (|| {
        for mut peer in peers {
            let started = peer.start(&image::archive(work));
            bench.peers.push(peer);
            started?;
        }
        bench.measure()
    })();
    let page = result.and_then(|()| bench.page());
    bench.peers.iter_mut().for_each(Peer::stop);
    let text = page?;
    println!("\n{text}");
    if args.smoke { Ok(()) } else { super::sections::put(HEADING, &text) }
}

struct Bench<'a> {
    work: &'a Path,
    runs: usize,
    smoke: bool,
    peers: Vec<Peer>,
    rows: Vec<Row>,
}

impl Bench<'_> {
    fn measure(&mut self) -> Result<()> {
        self.steps()?;
        self.stages()?;
        self.small()?;
        self.large()
    }

    /// What everyone takes, in turn: the medians. A peer that cannot do it leaves an empty place.
    fn in_turn(
        &self,
        what: &str,
        runs: usize,
        mut one: impl FnMut(usize, &Peer) -> Result<Duration>,
    ) -> Result<Vec<Option<f64>>> {
        eprintln!("{what}: {runs} runs each");
        let mut times: Vec<Option<Vec<Duration>>> = vec![Some(Vec::new()); self.peers.len()];
        for _ in 0..runs {
            for (n, peer) in self.peers.iter().enumerate() {
                let Some(list) = &mut times[n] else { continue };
                match one(n, peer) {
                    Ok(time) => list.push(time),
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

    fn row(&mut self, name: impl Into<String>, values: Vec<Option<f64>>, targets: Vec<Target>) {
        self.rows.push(Row { name: name.into(), values, floor: None, targets });
    }

    /// At most this part of what each of the others takes.
    fn of_each(&self, part: f64) -> Vec<Target> {
        (1..self.peers.len()).map(|n| Target::Peer(n, part)).collect()
    }

    fn of(&self, name: &str, part: f64) -> Option<Target> {
        self.peers.iter().position(|peer| peer.name() == name).map(|n| Target::Peer(n, part))
    }

    /// A context with a Dockerfile and nothing else.
    fn bare(&self, name: &str, dockerfile: &str) -> Result<PathBuf> {
        let dir = self.work.join(name);
        contexts::write(&dir.join("Dockerfile"), &format!("FROM {}\n{dockerfile}", image::NAME))?;
        Ok(dir)
    }

    /// Steps that do next to nothing, none of them known.
    fn steps(&mut self) -> Result<()> {
        let steps: String =
            (0..STEPS).fold(String::new(), |text, n| text + &format!("RUN echo {n} > /file{n}\n"));
        let (with, without) = (self.bare("steps", &steps)?, self.bare("no-steps", "CMD [\"true\"]\n")?);
        let of = |context: &Path| {
            let context = context.to_path_buf();
            move |_: usize, peer: &Peer| {
                settle();
                peer.build(&Build { fresh: true, ..Build::of(&context) })
            }
        };
        // Networks and caches that are made when first used.
        self.in_turn("warm up", 1, of(&without))?;
        let base = self.in_turn("no step", self.runs, of(&without))?;
        let all = self.in_turn(&format!("{STEPS} steps"), self.runs, of(&with))?;
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let count = STEPS as f64;
        let each = all.iter().zip(&base).map(|(all, base)| Some(((*all)? - (*base)?).max(0.0) / count));
        let each = each.collect();
        let targets: Vec<Target> =
            [self.of("dockerd", 0.25), self.of("buildah", 0.5)].into_iter().flatten().collect();
        self.row(format!("{STEPS} trivial RUN steps, cold: ms"), all, targets);
        self.row("each of them, over a build without: ms", each, vec![Target::Value(STEP)]);
        Ok(())
    }

    /// Two stages that need nothing of each other beside one alone.
    fn stages(&mut self) -> Result<()> {
        let rounds = if self.smoke { 10_000 } else { 1_000_000 };
        let burn = |n: usize| {
            format!("RUN i=0; while [ $i -lt {rounds} ]; do i=$((i+1)); done; echo $i > /burnt{n}\n")
        };
        let one = self.bare("one-stage", &burn(0))?;
        let from = format!("FROM {}", image::NAME);
        let two = self.work.join("two-stages");
        let text = format!(
            "{from} AS one\n{}{from} AS two\n{}FROM one\nCOPY --from=two /burnt1 /\n",
            burn(0),
            burn(1)
        );
        contexts::write(&two.join("Dockerfile"), &text)?;
        let runs = self.runs.min(LONG_RUNS);
        let mut times = Vec::new();
        for (what, context) in [("one stage", &one), ("two stages", &two)] {
            times.push(self.in_turn(what, runs, |_, peer| {
                settle();
                peer.build(&Build { fresh: true, ..Build::of(context) })
            })?);
        }
        let ratio = times[1].iter().zip(&times[0]).map(|(two, one)| Some((*two)? / (*one)?)).collect();
        self.row("one stage that computes: ms", times[0].clone(), Vec::new());
        self.row("two such stages: ms", times[1].clone(), Vec::new());
        self.row(
            "two stages to one (1 where each has a core, 2 where they wait)",
            ratio,
            vec![Target::Value(1.3)],
        );
        Ok(())
    }

    fn small(&mut self) -> Result<()> {
        let context = contexts::small(&self.work.join("small"))?;
        let build = Build::of(&context);
        self.in_turn("small, cold", 1, |_, peer| peer.build(&build))?;
        let times = self.in_turn("small, nothing changed", self.runs, |_, peer| {
            settle();
            peer.build(&build)
        })?;
        self.row("nothing changed, a small context: ms", times, self.of_each(0.2));
        Ok(())
    }

    fn large(&mut self) -> Result<()> {
        let large = if self.smoke { Large::SMALL } else { Large::WHOLE };
        let context = self.work.join("large");
        large.make(&context)?;
        let size = format!("{} files, {} MiB", large.files(), large.bytes() >> 20);
        let runs = self.runs.min(LARGE_RUNS);
        let build = Build::of(&context);
        let mut grown = vec![None; self.peers.len()];
        let mut clients = vec![None; self.peers.len()];
        let times = self.in_turn("large, cold", 1, |n, peer| {
            settle();
            let before = Peak::reset(&peer.daemons());
            let (time, peak) = peer.build_weighed(&build, self.work)?;
            grown[n] = (!peer.daemons().is_empty()).then(|| before.growth());
            clients[n] = Some(peak);
            Ok(time)
        })?;
        self.row(format!("{size}, cold: ms"), times, Vec::new());
        self.row("growth of the daemon's memory in it, at its peak: MiB", grown, vec![Target::Value(GROWTH)]);
        self.row("memory of the client in it, at its peak: MiB", clients, Vec::new());
        let times = self.in_turn("large, nothing changed", runs, |_, peer| {
            settle();
            peer.build(&build)
        })?;
        self.row(format!("nothing changed, {size}: ms"), times, self.of_each(0.2));
        let mut count = 0;
        let mut change = || {
            count += 1;
            large.change(&context, count)
        };
        let times = self.in_turn("large, one file changed", runs, |_, peer| {
            change()?;
            settle();
            peer.build(&build)
        })?;
        self.row(
            format!("one file changed of {size}, directories copied one by one: ms"),
            times,
            self.of_each(0.5),
        );
        let whole = Build { file: Some(context.join("Dockerfile.whole")), ..Build::of(&context) };
        let times = self.in_turn("large, copied whole", 1, |_, peer| {
            change()?;
            settle();
            peer.build(&whole)
        })?;
        self.row(format!("one file changed of {size}, all copied by one COPY: ms"), times, Vec::new());
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
            facts.push(peer.versions()?);
        }
        for fact in facts {
            writeln!(out, "- {fact}").expect("writing to a String");
        }
        write!(
            out,
            "\nIn turn (A B C A B C ...), each on its own storage on the same file system; medians of {}, of stages \
             that compute of {}, of the large context of {}, and of what is cold or whole there one run. Times are from the start of the client to its end. buildah \
             keeps its layers (`--layers`), as the others do. There is no floor.\n\n",
            self.runs,
            self.runs.min(LONG_RUNS),
            self.runs.min(LARGE_RUNS)
        )
        .expect("writing to a String");
        if names.len() < 2 {
            return Err(Error::new("nobody to compare with is left"));
        }
        out += &table::header(&names);
        for row in &self.rows {
            out += &row.line(&names);
        }
        Ok(out)
    }
}
