//! T-DNS-1: name servers outside that are slow, lie, loop, cut short or say nothing, and clients that ask for more than there
//! is room for. Needs root; a network namespace of its own, in which the servers outside listen on loopback addresses.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "for tests only, where a panic is the report")]

use dns::table::{NetworkTable, SandboxTable, Side};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The two servers outside; the second one helps where the first does not.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// The answer to be believed, and one that is not.
const RIGHT: [u8; 4] = [192, 0, 2, 7];
const WRONG: [u8; 4] = [192, 0, 2, 66];
const LONG: Duration = Duration::from_secs(30);
const A: u16 = 1;
const TXT: u16 = 16;

/// Number and port of each question that came to the first server outside.
type Seen = Arc<Mutex<Vec<(u16, u16)>>>;

/// The server under test, with its directory.
struct Resolver {
    directory: tempfile::TempDir,
    child: Child,
    seen: Seen,
}

impl Drop for Resolver {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs `test` beside a resolver for `sandboxes` containers, in namespaces of their own.
fn with_resolver(sandboxes: usize, test: impl FnOnce(&Resolver) + Send) {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let run = || {
        sys::netns::unshare_network_and_mounts().unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        sys::netns::loopback_up().unwrap();
        let resolver = start(sandboxes);
        test(&resolver);
        for n in 0..sandboxes {
            network::remove_sandbox(&resolver.sandbox(n)).unwrap();
        }
    };
    std::thread::scope(|scope| {
        if let Err(panic) = scope.spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn start(sandboxes: usize) -> Resolver {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for name in ["networks", "sandboxes", "netns"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    let mut network = NetworkTable { name: "net".into(), ..NetworkTable::default() };
    network.names.insert("web".into(), vec![IpAddr::from(RIGHT)]);
    std::fs::write(path("networks/n"), network.render()).unwrap();
    for n in 0..sandboxes {
        let namespace = path(&format!("netns/{n}"));
        network::create_sandbox(&namespace).unwrap();
        let table = SandboxTable {
            namespace,
            networks: vec!["n".into()],
            servers: [FIRST, SECOND].map(|s| (Side::Host, s.into())).to_vec(),
            forward: true,
            ..SandboxTable::default()
        };
        std::fs::write(path(&format!("sandboxes/{n}")), table.render()).unwrap();
    }
    let seen = Seen::default();
    for server in [FIRST, SECOND] {
        serve_outside_by_udp(server, Arc::clone(&seen));
        serve_outside_by_tcp(server);
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_brig-dns"))
        .arg(directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    Resolver { directory, child, seen }
}

impl Resolver {
    fn sandbox(&self, number: usize) -> PathBuf {
        self.directory.path().join("netns").join(number.to_string())
    }

    /// A socket in a container that asks the resolver.
    fn client(&self, number: usize) -> UdpSocket {
        let socket = inside(&self.sandbox(number), || UdpSocket::bind("127.0.0.1:0").unwrap());
        // Room for the answers to all that one container may ask.
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 1 << 20).unwrap();
        socket.connect((network::RESOLVER, 53)).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        socket
    }

    /// The answer by UDP. Asks again, as clients do: a full socket loses packets.
    fn ask(&self, name: &str, kind: u16, edns: Option<u16>) -> Vec<u8> {
        let client = self.client(0);
        client.set_read_timeout(Some(LONG / 6)).unwrap();
        let mut buffer = vec![0; 65535];
        let answered = (0..12).find_map(|_| {
            client.send(&question(7, name, kind, edns)).unwrap();
            client.recv(&mut buffer).ok()
        });
        buffer.truncate(answered.expect("an answer within a minute"));
        assert_eq!(buffer[..2], [0, 7], "the client's own number");
        buffer
    }

    fn connect(&self) -> TcpStream {
        let stream = inside(&self.sandbox(0), || TcpStream::connect((network::RESOLVER, 53)).unwrap());
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }

    /// The answer by TCP.
    fn ask_by_tcp(&self, name: &str, kind: u16) -> Vec<u8> {
        let mut stream = self.connect();
        let query = question(7, name, kind, None);
        stream.write_all(&u16::try_from(query.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&query).unwrap();
        read_message(&mut stream).unwrap()
    }

    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

fn inside<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> T {
    let namespace = std::fs::File::open(path).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn question(id: u16, name: &str, kind: u16, edns: Option<u16>) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())]);
    for label in name.split('.') {
        out.push(u8::try_from(label.len()).unwrap());
        out.extend(label.as_bytes());
    }
    out.push(0);
    out.extend(kind.to_be_bytes());
    out.extend([0, 1]);
    if let Some(size) = edns {
        out.extend([0, 0, 41]);
        out.extend(size.to_be_bytes());
        out.extend([0; 6]);
    }
    out
}

fn read_message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut out = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut out)?;
    Ok(out)
}

/// The name asked for, and where the question ends.
fn name_of(query: &[u8]) -> (String, usize) {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8(query[at + 1..end].to_vec()).unwrap());
        at = end;
    }
    (labels.join("."), at + 5)
}

/// An answer to `query` with one record of `data`.
fn answer(query: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
    let (_, end) = name_of(query);
    let mut out = query[..end].to_vec();
    out[2] |= 0x80;
    out[3] |= 0x80;
    out[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    out.extend([0xc0, 12]);
    out.extend(kind.to_be_bytes());
    out.extend([0, 1, 0, 0, 0, 60]);
    out.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    out.extend(data);
    out
}

fn with(mut message: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    message[at] = byte;
    message
}

/// A name server outside. What it does depends on the name that it is asked for.
fn serve_outside_by_udp(address: Ipv4Addr, seen: Seen) {
    let udp = UdpSocket::bind((address, 53)).unwrap();
    let stranger = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 3), 0)).unwrap();
    let other_port = UdpSocket::bind((address, 0)).unwrap();
    let is_first = address == FIRST;
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            let query = &buffer[..length];
            if is_first {
                seen.lock().unwrap().push((u16::from_be_bytes([query[0], query[1]]), from.port()));
            }
            let send = |message: &[u8]| drop(udp.send_to(message, from));
            let (name, _) = name_of(query);
            let right = answer(query, A, &RIGHT);
            let lie = answer(query, A, &WRONG);
            match name.as_str() {
                "silent.test" => {}
                "helped.test" if is_first => {}
                "refused.test" if is_first => send(&with(right, 3, 0x85)),
                "broken.test" if is_first => send(&with(right, 3, 0x82)),
                "lies.test" => {
                    // Another number; no answer; another question; too short; from elsewhere.
                    send(&with(lie.clone(), 0, query[0] ^ 0x5a));
                    send(&with(lie.clone(), 2, 1));
                    send(&with(lie.clone(), 13, b'x'));
                    send(&query[..5]);
                    send(&[]);
                    drop(stranger.send_to(&lie, from));
                    drop(other_port.send_to(&lie, from));
                    send(&right);
                    // Too late: it has been answered.
                    send(&lie);
                }
                "loops.test" => {
                    // A hundred names that point to themselves.
                    let mut message = with(right, 7, 101);
                    for _ in 0..100 {
                        let at = u16::try_from(message.len()).unwrap();
                        message.extend((0xc000 | at).to_be_bytes());
                        message.extend([0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 1, 2, 3, 4]);
                    }
                    send(&message);
                }
                "cut.test" => send(&with(answer(query, TXT, b"\x01a"), 2, 0x83)),
                "large.test" => send(&answer(query, TXT, &[42; 3000])),
                _ => send(&right),
            }
        }
    });
}

fn serve_outside_by_tcp(address: Ipv4Addr) {
    let tcp = TcpListener::bind((address, 53)).unwrap();
    let serve = move |mut stream: TcpStream| {
        while let Ok(query) = read_message(&mut stream) {
            let message = match name_of(&query).0.as_str() {
                "half.test" if address == FIRST => {
                    // A length, and less than that.
                    drop(stream.write_all(&[0xff, 0xff, 1, 2, 3]));
                    return;
                }
                "cut.test" | "half.test" => answer(&query, TXT, &[42; 60_000]),
                "lies.test" => with(answer(&query, A, &WRONG), 1, query[1] ^ 1),
                _ => answer(&query, A, &RIGHT),
            };
            let length = u16::try_from(message.len()).unwrap().to_be_bytes();
            if stream.write_all(&length).and_then(|()| stream.write_all(&message)).is_err() {
                return;
            }
        }
    };
    std::thread::spawn(move || {
        while let Ok((stream, _)) = tcp.accept() {
            std::thread::spawn(move || serve(stream));
        }
    });
}

fn code(answer: &[u8]) -> u8 {
    answer[3] & 15
}

#[test]
fn only_what_answers_the_question_is_believed() {
    with_resolver(1, |resolver| {
        let plain = resolver.ask("plain.test", A, None);
        assert!(code(&plain) == 0 && plain.ends_with(&RIGHT));
        for _ in 0..20 {
            let lies = resolver.ask("lies.test", A, None);
            assert!(code(&lies) == 0 && lies.ends_with(&RIGHT), "{lies:?}");
        }
        assert_eq!(code(&resolver.ask_by_tcp("lies.test", A)), 2, "nor by TCP");
        assert_eq!(resolver.ask("loops.test", A, Some(4096))[7], 101, "passed on as it is");
        for name in ["refused.test", "broken.test"] {
            let helped = resolver.ask(name, A, None);
            assert!(code(&helped) == 0 && helped.ends_with(&RIGHT), "{name}: the next server is asked");
        }
        assert!(resolver.ask("web", A, None).ends_with(&RIGHT), "it is still there");
    });
}

/// Whoever wants to answer in a server's place has to guess 16 bits of number and some 15 of port.
#[test]
fn numbers_and_ports_are_not_guessed() {
    with_resolver(1, |resolver| {
        const COUNT: usize = 400;
        for n in 0..COUNT {
            resolver.ask(&format!("n{n}.test"), A, None);
        }
        let seen = resolver.seen.lock().unwrap().clone();
        assert!(seen.len() >= COUNT);
        // Birthdays: of 400 random numbers out of 65,536 one or two are the same, of ports out of 28,000 three.
        let ids: HashSet<u16> = seen.iter().map(|s| s.0).collect();
        let ports: HashSet<u16> = seen.iter().map(|s| s.1).collect();
        assert!(ids.len() > COUNT - 20 && ports.len() > COUNT - 40, "{} {}", ids.len(), ports.len());
        // Not the last one and a constant more.
        let steps = |of: fn(&(u16, u16)) -> u16| {
            seen.windows(2).map(|w| of(&w[1]).wrapping_sub(of(&w[0]))).collect::<HashSet<_>>().len()
        };
        assert!(steps(|s| s.0) > COUNT / 2 && steps(|s| s.1) > COUNT / 2);
        for bit in 0..16 {
            let set = seen.iter().filter(|s| s.0 >> bit & 1 == 1).count();
            assert!(
                (COUNT / 4..COUNT * 3 / 4).contains(&set),
                "bit {bit} of the number is set in {set} of {COUNT}"
            );
        }
    });
}

#[test]
fn what_does_not_fit_is_asked_for_by_tcp() {
    with_resolver(1, |resolver| {
        let cut = resolver.ask("cut.test", TXT, None);
        assert!(cut[2] & 2 != 0, "the client is told");
        let whole = resolver.ask_by_tcp("cut.test", TXT);
        assert!(whole[2] & 2 == 0 && whole.len() > 60_000);
        let small = resolver.ask("large.test", TXT, None);
        assert!(small[2] & 2 != 0 && small.len() <= 512, "a client without EDNS takes 512 bytes");
        let small = resolver.ask("large.test", TXT, Some(1232));
        assert!(small[2] & 2 != 0 && small.len() <= 1232);
        let large = resolver.ask("large.test", TXT, Some(4096));
        assert!(large[2] & 2 == 0 && large.len() > 3000);
        let half = resolver.ask_by_tcp("half.test", TXT);
        assert!(code(&half) == 0 && half.len() > 60_000, "the next server is asked");
    });
}

/// 6,000 questions that nobody answers, from 20 containers: those that there is no room for fail at once, our own names are
/// answered meanwhile, and all of it is forgotten.
#[test]
fn silent_servers_hold_up_nobody() {
    with_resolver(20, |resolver| {
        let before = resolver.resident_kib();
        let clients: Vec<UdpSocket> = (0..20).map(|n| resolver.client(n)).collect();
        let mut failed = vec![HashSet::new(); 20];
        let mut buffer = [0; 512];
        for (client, failed) in clients.iter().zip(&mut failed) {
            for id in 0..300u16 {
                client.send(&question(id, "silent.test", A, None)).unwrap();
                // Each is taken before the next is asked, so that none is lost.
                client.send(&question(1000, "web", A, None)).unwrap();
                loop {
                    let length = client.recv(&mut buffer).unwrap();
                    match u16::from_be_bytes([buffer[0], buffer[1]]) {
                        1000 => break assert!(buffer[..length].ends_with(&RIGHT)),
                        refused => {
                            assert_eq!(code(&buffer[..length]), 2);
                            failed.insert(refused);
                        }
                    }
                }
            }
            assert!(failed.len() >= 300 - 256, "{} of one container were refused", failed.len());
        }
        let most = resolver.resident_kib();
        assert!(most < before + 16 * 1024, "{before} KiB became {most}");
        // Every one is answered in the end: that nobody helps.
        for (client, mut failed) in clients.iter().zip(failed) {
            while failed.len() < 300 {
                let length = client.recv(&mut buffer).unwrap();
                assert_eq!(code(&buffer[..length]), 2);
                failed.insert(u16::from_be_bytes([buffer[0], buffer[1]]));
            }
        }
        let helped = resolver.ask("helped.test", A, None);
        assert!(helped.ends_with(&RIGHT), "the second server is asked when the first is silent");
        let open = std::fs::read_dir(format!("/proc/{}/fd", resolver.child.id())).unwrap().count();
        assert!(open < 20 * 3 + 32, "{open} descriptors are open");
    });
}

/// Any sequence of bytes, by UDP and TCP: no answer or a short one, and the server goes on.
#[test]
fn nonsense_harms_nobody() {
    with_resolver(1, |resolver| {
        let client = resolver.client(0);
        let mut state = 0x2545_f491_u32;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_be_bytes()[0]
        };
        for _ in 0..2000 {
            let length = usize::from(next()) % 60;
            let mut bytes: Vec<u8> = (0..length).map(|_| next()).collect();
            if let (true, Some(head)) = (length % 2 == 0, bytes.first_chunk_mut::<6>()) {
                head[2..6].copy_from_slice(&[1, 0, 0, 1]);
            }
            client.send(&bytes).unwrap();
        }
        let (mut mad, idle) = (resolver.connect(), resolver.connect());
        drop(mad.write_all(&[0xff; 70_000]));
        assert!(resolver.ask("web", A, None).ends_with(&RIGHT));
        assert!(resolver.ask_by_tcp("web", A).ends_with(&RIGHT));
        drop((mad, idle));
    });
}
