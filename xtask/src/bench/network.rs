//! `bench network`: what containers' packets, ports, names and networks cost, brig, dockerd and podman in turn, and a bare
//! veth pair through a bridge as the floor.
//!
//! The programs that send are not in the containers but in their network namespaces (`nsenter`), so that the image does
//! not matter. It runs in namespaces of its own, as the bench of engines does.

mod connections;

use super::args::{Args, number};
use super::engines::{self, Engine};
use super::report::machine;
use super::times::median;
use super::{image, stages};
use crate::packages;
use crate::run::{Doing, Error, Result, no_more, output};
use crate::workspace::target;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use sys::datagrams::{self, Inbox, Outbox};

/// Where this part begins in the page of results.
const HEADING: &str = "# Networks: measured by `cargo xtask bench network`";
const RUNS: usize = 5;
/// How long a stream flows.
const SECONDS: u64 = 5;
/// The port that iperf3 listens on.
const IPERF: u16 = 5201;
/// Published ports of the engines begin here, one after the other.
const PUBLISHED: u16 = 5300;
/// The same of those that answer a question a connection.
const PUBLISHED_ANSWERS: u16 = 5400;
/// Address of the bench's host for the client in another namespace.
const HOST: &str = "192.0.2.1";
const MANY_PORTS: u16 = 500;
const MANY_NETWORKS: u32 = 200;
/// Questions under way at once: who asks and who answers both have some to work at.
const WINDOW: u16 = 128;

pub(super) fn command(args: &[String]) -> Result<()> {
    let mut rest = args.to_vec();
    let args = Args::take(&mut rest, RUNS)?;
    let seconds = number(&mut rest, "--seconds", if args.smoke { 1 } else { SECONDS })?;
    no_more(&rest)?;
    let words = |stage: &str, work: &Path| -> Result<Vec<String>> {
        let mut words = args.words("network", stage, work)?;
        words.push(format!("--seconds={seconds}"));
        Ok(words)
    };
    match (args.stage.as_deref(), &args.work) {
        (Some("init"), Some(work)) => stages::init(&words("inside", work)?),
        (Some("inside"), Some(work)) => inside(work, &args, seconds),
        (Some("ask"), _) => ask(Duration::from_secs(seconds)),
        (Some("answer"), _) => connections::answer(),
        _ => stages::outside("bn", &[packages::BENCH_NETWORK], args.no_build, image::make, |work| {
            words("init", work)
        }),
    }
}

fn inside(work: &Path, args: &Args, seconds: u64) -> Result<()> {
    stages::own_namespace()?;
    let mut all = engines::all(&target().join("brig/release"), work);
    all.retain(|engine| args.has(engine.name()));
    let result = (|| {
        for engine in &mut all {
            engine.start()?;
            engine.check(&["load", "-i", &image::archive(work).to_string_lossy()])?;
        }
        let mut bench = Bench { engines: &all, runs: args.runs, seconds, rows: Vec::new() };
        bench.measure()?;
        bench.page()
    })();
    all.iter_mut().for_each(Engine::stop);
    let text = result?;
    println!("\n{text}");
    if args.smoke { Ok(()) } else { super::sections::put(HEADING, &text) }
}

/// A line of the table.
struct Row {
    name: String,
    values: Vec<Option<f64>>,
    floor: Option<f64>,
    unit: &'static str,
}

struct Bench<'a> {
    engines: &'a [Engine],
    runs: usize,
    seconds: u64,
    rows: Vec<Row>,
}

/// A process that ends with this.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A program in the network namespace of a process.
fn at(pid: &str, words: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", pid, "--net", "--"]).args(words).stdin(Stdio::null());
    command
}

fn ip(line: &str) -> Result<()> {
    output(Command::new("ip").args(line.split(' '))).map(drop)
}

/// A process whose network namespace is empty.
fn empty_namespace() -> Result<Server> {
    let mut command = Command::new("unshare");
    let child = command.args(["--net", "sleep", "1000000"]).spawn().doing(|| "start unshare".into())?;
    // It is in its namespace once it is `sleep`.
    let name = format!("/proc/{}/comm", child.id());
    let begin = Instant::now();
    while std::fs::read_to_string(&name).unwrap_or_default().trim() != "sleep" {
        if begin.elapsed() > Duration::from_secs(10) {
            return Err(Error::new("unshare does not start"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(Server(child))
}

/// Begins to serve iperf3 in a namespace.
fn serve(pid: &str) -> Result<Server> {
    let mut command = at(pid, &["iperf3", "--server"]);
    let child = command.stdout(Stdio::null()).spawn().doing(|| "start iperf3".into())?;
    let begin = Instant::now();
    let listens = || {
        let tables = ["tcp", "tcp6"]
            .map(|t| std::fs::read_to_string(format!("/proc/{pid}/net/{t}")).unwrap_or_default());
        tables.iter().any(|t| t.contains(&format!(":{IPERF:04X} ")))
    };
    while !listens() {
        if begin.elapsed() > Duration::from_secs(10) {
            return Err(Error::new("iperf3 does not listen"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(Server(child))
}

impl Bench<'_> {
    fn measure(&mut self) -> Result<()> {
        let client = empty_namespace()?;
        let client_pid = client.0.id().to_string();
        ip(&format!("link add bench0 type veth peer name eth0 netns {client_pid}"))?;
        ip(&format!("addr add {HOST}/24 dev bench0"))?;
        ip("link set bench0 up")?;
        for line in ["addr add 192.0.2.2/24 dev eth0", "link set eth0 up", "route add default via 192.0.2.1"]
        {
            output(&mut at(&client_pid, &[&["ip"][..], &line.split(' ').collect::<Vec<_>>()].concat()))?;
        }
        self.throughput(&client_pid)?;
        self.names()?;
        self.starts()?;
        self.many_ports()?;
        self.many_networks()
    }

    fn pid(&self, engine: &Engine, container: &str) -> Result<String> {
        output(&mut engine.command(&["inspect", "--format", "{{.State.Pid}}", container]))
    }

    fn address(&self, pid: &str) -> Result<String> {
        let text = output(&mut at(pid, &["ip", "-4", "-o", "addr", "show", "dev", "eth0"]))?;
        let address =
            text.split_whitespace().skip_while(|w| *w != "inet").nth(1).and_then(|a| a.split('/').next());
        address.map(str::to_string).ok_or_else(|| Error::new(format!("no address in {text:?}")))
    }

    /// Gigabits a second from a client in `from` (None: here) to an iperf3 at `address`.
    fn transfer(&self, from: Option<&str>, address: &str, port: u16) -> Result<f64> {
        let (port, seconds) = (port.to_string(), self.seconds.to_string());
        let words = ["iperf3", "--client", address, "--port", &port, "--time", &seconds, "--json"];
        let mut command = match from {
            Some(pid) => at(pid, &words),
            None => {
                let mut command = Command::new(words[0]);
                command.args(&words[1..]);
                command
            }
        };
        let text = output(&mut command)?;
        let end = text.split("\"sum_received\"").nth(1).unwrap_or_default();
        let bits = end.split("\"bits_per_second\":").nth(1).and_then(|t| t.split([',', '}']).next());
        let bits = bits.and_then(|t| t.trim().parse::<f64>().ok());
        bits.map(|b| b / 1e9).ok_or_else(|| Error::new(format!("iperf3 said no rate: {text}")))
    }

    /// The median of `one` for each engine and the floor, in turn.
    fn in_turn(
        &self,
        what: &str,
        mut one: impl FnMut(Option<usize>) -> Result<Option<f64>>,
    ) -> Result<(Vec<Option<f64>>, Option<f64>)> {
        eprintln!("{what}: {} runs each", self.runs);
        let mut all: Vec<Vec<f64>> = vec![Vec::new(); self.engines.len() + 1];
        for _ in 0..self.runs {
            for (n, list) in all.iter_mut().enumerate() {
                let engine = (n < self.engines.len()).then_some(n);
                list.extend(one(engine)?);
            }
        }
        let mut medians: Vec<Option<f64>> = all.into_iter().map(middle).collect();
        let floor = medians.pop().flatten();
        Ok((medians, floor))
    }

    fn row(&mut self, name: &str, unit: &'static str, (values, floor): (Vec<Option<f64>>, Option<f64>)) {
        self.rows.push(Row { name: name.into(), values, floor, unit });
    }

    fn throughput(&mut self, client: &str) -> Result<()> {
        // The floor: two namespaces on a bridge.
        ip("link add benchbr type bridge")?;
        ip("addr add 198.18.0.1/24 dev benchbr")?;
        ip("link set benchbr up")?;
        let ends = [empty_namespace()?, empty_namespace()?];
        for (n, end) in ends.iter().enumerate() {
            let (pid, address) = (end.0.id().to_string(), format!("198.18.0.{}/24", n + 2));
            ip(&format!("link add floor{n} type veth peer name eth0 netns {pid}"))?;
            ip(&format!("link set floor{n} master benchbr up"))?;
            output(&mut at(&pid, &["ip", "addr", "add", &address, "dev", "eth0"]))?;
            output(&mut at(&pid, &["ip", "link", "set", "eth0", "up"]))?;
        }
        let pids = ends.each_ref().map(|e| e.0.id().to_string());
        let mut servers = vec![serve(&pids[1])?];
        let mut sides = Vec::new();
        // They answer until all is measured.
        let mut answering = vec![connections::Answering::at(&std::process::id().to_string())?];
        for (n, engine) in (0u16..).zip(self.engines) {
            engine.check(&["network", "create", "bench"])?;
            let published = format!("{}:{IPERF}", PUBLISHED + n);
            let answered = format!("{}:{}", PUBLISHED_ANSWERS + n, connections::PORT);
            for (name, flags) in [("one", &[][..]), ("two", &["-p", &published, "-p", &answered][..])] {
                let mut words = vec!["run", "-d", "--name", name, "--network", "bench"];
                words.extend(flags);
                words.extend([image::NAME, "sleep", "1000000"]);
                engine.check(&words)?;
            }
            let (one, two) = (self.pid(engine, "one")?, self.pid(engine, "two")?);
            servers.push(serve(&two)?);
            sides.push((one, self.address(&two)?, PUBLISHED + n));
            answering.push(connections::Answering::at(&two)?);
        }
        let measured = self.in_turn("container to container", |n| match n {
            Some(n) => self.transfer(Some(&sides[n].0), &sides[n].1, IPERF).map(Some),
            None => self.transfer(Some(&pids[0]), "198.18.0.3", IPERF).map(Some),
        })?;
        self.row("container to container", "Gbit/s", measured);
        let measured = self.in_turn("host to container", |n| match n {
            Some(n) => self.transfer(None, &sides[n].1, IPERF).map(Some),
            None => self.transfer(None, "198.18.0.3", IPERF).map(Some),
        })?;
        self.row("host to container", "Gbit/s", measured);
        let measured = self.in_turn("published port, from another namespace", |n| match n {
            Some(n) => self.transfer(Some(client), HOST, sides[n].2).map(Some),
            None => self.transfer(Some(&pids[0]), "198.18.0.3", IPERF).map(Some),
        })?;
        self.row("published port, from another namespace", "Gbit/s", measured);
        let _here = serve(&std::process::id().to_string())?;
        let measured = self.in_turn("published port over loopback", |n| match n {
            Some(n) => self.transfer(None, "127.0.0.1", sides[n].2).map(Some),
            None => self.transfer(None, "127.0.0.1", IPERF).map(Some),
        })?;
        self.row("published port over loopback (floor: loopback itself)", "Gbit/s", measured);
        let measured = self.in_turn("connections over loopback", |n| {
            let port = (0..).zip(&sides).find(|(at, _)| Some(*at) == n).map(|(_, side)| side.2);
            let port = port.map_or(connections::PORT, |port| port - PUBLISHED + PUBLISHED_ANSWERS);
            connections::rate(port, Duration::from_secs(self.seconds)).map(Some)
        })?;
        self.row("connections to a published port over loopback, a question each", "1/s", measured);
        drop(answering);
        drop(servers);
        Ok(())
    }

    fn names(&mut self) -> Result<()> {
        let own = std::env::current_exe().doing(|| "find our own program".into())?;
        let own = own.to_string_lossy().into_owned();
        let seconds = format!("--seconds={}", self.seconds);
        let measured = self.in_turn("names", |n| {
            let Some(engine) = n.map(|n| &self.engines[n]) else { return Ok(None) };
            // podman's server is at the gateway, not at 127.0.0.11.
            if engine.name() == "podman" {
                return Ok(None);
            }
            let pid = self.pid(engine, "one")?;
            let text = output(&mut at(&pid, &[&own, "bench", "network", "--stage=ask", &seconds]))?;
            text.trim().parse::<f64>().map(Some).doing(|| format!("read {text:?}"))
        })?;
        self.row("names of containers resolved", "1/s", measured);
        for engine in self.engines {
            engine.check(&["rm", "-f", "one", "two"])?;
            engine.check(&["network", "rm", "bench"])?;
        }
        Ok(())
    }

    fn starts(&mut self) -> Result<()> {
        for (name, network) in [("`run -d`, bridge", "bridge"), ("`run -d`, no network", "none")] {
            let measured = self.in_turn(name, |n| {
                let Some(engine) = n.map(|n| &self.engines[n]) else { return Ok(None) };
                let words =
                    ["run", "-d", "--name", "start", "--network", network, image::NAME, "sleep", "1000"];
                let time = timed(|| engine.check(&words))?;
                engine.check(&["rm", "-f", "start"])?;
                Ok(Some(time))
            })?;
            self.row(name, "ms", measured);
        }
        if let [.., bridge, none] = self.rows.as_slice() {
            let less = bridge.values.iter().zip(&none.values).map(|(b, n)| Some((*b)? - (*n)?)).collect();
            self.row("attaching: the first less the second", "ms", (less, None));
        }
        for (name, network) in [("`rm -f`, bridge", "bridge"), ("`rm -f`, no network", "none")] {
            let measured = self.in_turn(name, |n| {
                let Some(engine) = n.map(|n| &self.engines[n]) else { return Ok(None) };
                engine.check(&[
                    "run",
                    "-d",
                    "--name",
                    "start",
                    "--network",
                    network,
                    image::NAME,
                    "sleep",
                    "1000",
                ])?;
                timed(|| engine.check(&["rm", "-f", "start"])).map(Some)
            })?;
            self.row(name, "ms", measured);
        }
        Ok(())
    }

    fn many_ports(&mut self) -> Result<()> {
        let last = MANY_PORTS - 1;
        let ports = format!("20000-{}:20000-{}", 20_000 + last, 20_000 + last);
        let mut helpers = Vec::new();
        let measured = self.in_turn("500 published ports", |n| {
            let Some(engine) = n.map(|n| &self.engines[n]) else { return Ok(None) };
            let words = ["run", "-d", "--name", "ports", "-p", &ports, image::NAME, "sleep", "1000"];
            let before = processes();
            let time = timed(|| engine.check(&words))?;
            // The container's own process and its supervisor are not meant.
            helpers.push((engine.name(), processes().saturating_sub(before + 2)));
            engine.check(&["rm", "-f", "ports"])?;
            Ok(Some(time))
        })?;
        self.row("`run -d` with 500 published ports", "ms", measured);
        #[expect(clippy::cast_precision_loss, reason = "printed without decimals")]
        let most = |name: &str| {
            helpers.iter().filter(|(n, _)| *n == name).map(|(_, count)| *count as f64).reduce(f64::max)
        };
        let values = self.engines.iter().map(|e| most(e.name())).collect();
        self.row("processes more with 500 published ports", "", (values, None));
        Ok(())
    }

    fn many_networks(&mut self) -> Result<()> {
        let measured = self.in_turn("200 networks", |n| {
            let Some(engine) = n.map(|n| &self.engines[n]) else { return Ok(None) };
            if engine.name() == "podman" {
                return Ok(None);
            }
            let socket = engine.socket();
            timed(|| {
                for n in 0..MANY_NETWORKS {
                    let body = format!(
                        r#"{{"Name":"many{n}","Driver":"bridge","IPAM":{{"Config":[{{"Subnet":"10.{}.{}.0/24"}}]}}}}"#,
                        200 + n / 256,
                        n % 256
                    );
                    request(&socket, "POST", "/v1.41/networks/create", &body, 201)?;
                }
                (0..MANY_NETWORKS).try_for_each(|n| {
                    request(&socket, "DELETE", &format!("/v1.41/networks/many{n}"), "", 204)
                })
            })
            .map(Some)
        })?;
        self.row("200 networks created and removed", "ms", measured);
        Ok(())
    }

    fn page(&self) -> Result<String> {
        let mut out = format!("{HEADING}\n\n");
        for fact in machine()?
            .into_iter()
            .chain(self.engines.iter().map(Engine::versions).collect::<Result<Vec<_>>>()?)
        {
            writeln!(out, "- {fact}").expect("writing to a String");
        }
        writeln!(
            out,
            "\nIn turn, medians of {} runs of {} s; iperf3 with one TCP stream. The floor is a bare veth pair through a \
             bridge.\n",
            self.runs, self.seconds
        )
        .expect("writing to a String");
        let mut head = vec!["what".to_string(), "unit".into()];
        head.extend(self.engines.iter().map(|e| e.name().to_string()));
        head.push("floor".into());
        head.extend(self.engines.iter().skip(1).map(|e| format!("brig / {}", e.name())));
        head.push("brig / floor".into());
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        out += &line(&head);
        out += &line(&vec!["---".to_string(); head.len()]);
        for row in &self.rows {
            let text = |v: &Option<f64>| v.map_or("".into(), |v| format!("{v:.1}"));
            let ratio = |of: &Option<f64>| match (row.values.first().copied().flatten(), of) {
                (Some(own), Some(of)) if *of > 0.0 => format!("{:.2}", own / of),
                _ => String::new(),
            };
            let mut cells = vec![row.name.clone(), row.unit.to_string()];
            cells.extend(row.values.iter().map(text));
            cells.push(text(&row.floor));
            cells.extend(row.values.iter().skip(1).map(ratio));
            cells.push(ratio(&row.floor));
            out += &line(&cells);
        }
        Ok(out)
    }
}

fn middle(list: Vec<f64>) -> Option<f64> {
    let mut list = list;
    list.sort_by(f64::total_cmp);
    list.get(list.len() / 2).copied()
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begin = Instant::now();
    work()?;
    Ok(median(vec![begin.elapsed()]).as_secs_f64() * 1000.0)
}

/// How many processes there are in the bench's namespace.
fn processes() -> usize {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter(|e| e.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit())).count()
}

/// One request to a daemon.
fn request(socket: &Path, method: &str, path: &str, body: &str, expected: u16) -> Result<()> {
    let doing = || format!("{method} {path}");
    let mut stream = UnixStream::connect(socket).doing(doing)?;
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).doing(doing)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).doing(doing)?;
    let status = answer.split(' ').nth(1).unwrap_or_default();
    if status == expected.to_string() { Ok(()) } else { Err(Error::new(format!("{}: {answer}", doing()))) }
}

/// So many answers are taken until the window is filled anew.
const ROUND: usize = 2_000_000;

/// Asks the name server of the namespace this runs in for a container's name, with many questions under way, and prints
/// answers a second. Many in one call and as one packet, so that it is the server that is measured and not who asks.
fn ask(time: Duration) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0").doing(|| "open a socket".into())?;
    let together = datagrams::sends_together(socket.as_fd());
    let server = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 11), 53);
    let mut questions = Outbox::default();
    for id in 0..WINDOW {
        questions.put(server, |out| {
            out.extend_from_slice(&id.to_be_bytes());
            out.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
            out.extend_from_slice(b"\x03two\x00\x00\x01\x00\x01");
            true
        });
    }
    let send = |count: usize| {
        let mut first = questions.len().saturating_sub(count);
        while first < questions.len() {
            first += questions.send(socket.as_fd(), first, together).doing(|| "ask".into())?;
        }
        Ok(())
    };
    let mut inbox = Inbox::new(512);
    send(questions.len())?;
    let (begin, mut answers, mut round) = (Instant::now(), 0u32, 0);
    while begin.elapsed() < time {
        let mut ready = [PollFd::new(&socket, PollFlags::IN)];
        let patience = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        if poll(&mut ready, Some(&patience)).doing(|| "wait for answers".into())? == 0 {
            // What was under way is lost: all are asked again.
            send(questions.len())?;
            round = 0;
            continue;
        }
        let count = inbox.receive(socket.as_fd()).doing(|| "read answers".into())?;
        for answer in (0..count).filter_map(|n| inbox.get(n)) {
            match answer.bytes {
                [_, _, _, flags, _, _, _, records, ..] if flags & 0x0f == 0 && *records > 0 => answers += 1,
                other => return Err(Error::new(format!("not an answer: {other:?}"))),
            }
        }
        round += count;
        // A lost one would be missing from the window for good. So now and then nothing is asked until all is quiet.
        if round < ROUND {
            send(count)?;
        }
    }
    println!("{:.0}", f64::from(answers) / begin.elapsed().as_secs_f64());
    Ok(())
}
