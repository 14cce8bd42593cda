//! The loop: one thread, one epoll. Sockets of sandboxes, connections of clients by TCP, questions under way, and the
//! daemon's control socket.
//!
//! The daemon says on the control socket which files changed, one line each, and `end`; it hears `ok` when the sockets of
//! new sandboxes are open, so that a container never starts before its name server. A connection that says `watch` is
//! kept open: its end tells the daemon that this process has gone.

use crate::forward::{self, Asked, Progress, Spaces};
use crate::message::{self, Question, Refusal};
use crate::table::{MAX_FILE, NetworkTable, SandboxTable};
use rustix::event::epoll;
use rustix::fs::FlockOperation;
use rustix::time::Timespec;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use sys::datagrams::{self, Datagram, Inbox, Outbox};

/// The daemon's door, in the directory.
pub const CONTROL_SOCKET: &str = "control.sock";
/// Locked by the process that serves the directory.
pub const LOCK_FILE: &str = "lock";

/// How often as many packets as one call brings are taken from one socket before others get their turn.
const BURSTS: usize = 2;
/// Longest question by UDP: a name and EDNS take a tenth of it. What is longer is refused.
const MAX_QUESTION: usize = 4096;
const EVENTS: usize = 64;
/// Questions under way, in all and for one sandbox: what is more gets a failure at once.
const MAX_ASKED: usize = 4096;
const MAX_ASKED_EACH: usize = 256;
/// Clients by TCP of one sandbox, and how long a silent one is kept.
const MAX_CLIENTS_EACH: usize = 64;
const CLIENT_PATIENCE: Duration = Duration::from_secs(10);
/// Longest message by TCP.
const MAX_MESSAGE: usize = 65535;
/// Longest text on the control socket.
const MAX_CONTROL: usize = 1 << 20;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(250);
/// How long another process may take to leave the directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Why the server cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing}")]
    Io { doing: String, source: io::Error },
    /// Another process serves this directory.
    #[error("another process serves {directory:?}")]
    Busy { directory: PathBuf },
}

fn during<T>(doing: impl Into<String>, result: io::Result<T>) -> Result<T, Error> {
    result.map_err(|source| Error::Io { doing: doing.into(), source })
}

/// What a token in epoll means: the kind above, a number below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Control,
    Daemon(usize),
    Udp(usize),
    Listener(usize),
    Client(usize),
    Asked(usize),
}

impl Token {
    fn to_bits(self) -> u64 {
        let (kind, number) = match self {
            Token::Control => (0, 0),
            Token::Daemon(n) => (1, n),
            Token::Udp(n) => (2, n),
            Token::Listener(n) => (3, n),
            Token::Client(n) => (4, n),
            Token::Asked(n) => (5, n),
        };
        (kind << 56) | u64::try_from(number).expect("an index fits")
    }

    fn from_bits(bits: u64) -> Token {
        let number = usize::try_from(bits & ((1 << 56) - 1)).expect("an index fits");
        match bits >> 56 {
            0 => Token::Control,
            1 => Token::Daemon(number),
            2 => Token::Udp(number),
            3 => Token::Listener(number),
            4 => Token::Client(number),
            _ => Token::Asked(number),
        }
    }
}

/// Things with numbers that are used again.
#[derive(Debug)]
struct Slots<T> {
    all: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slots<T> {
    fn default() -> Slots<T> {
        Slots { all: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    fn put(&mut self, value: T) -> usize {
        match self.free.pop() {
            Some(free) => {
                self.all[free] = Some(value);
                free
            }
            None => {
                self.all.push(Some(value));
                self.all.len() - 1
            }
        }
    }

    fn get(&mut self, number: usize) -> Option<&mut T> {
        self.all.get_mut(number)?.as_mut()
    }

    fn take(&mut self, number: usize) -> Option<T> {
        let taken = self.all.get_mut(number)?.take();
        self.free.extend(taken.is_some().then_some(number));
        taken
    }

    fn numbers(&self, wanted: impl Fn(&T) -> bool) -> Vec<usize> {
        let fits = |(number, slot): (usize, &Option<T>)| slot.as_ref().filter(|v| wanted(v)).map(|_| number);
        self.all.iter().enumerate().filter_map(fits).collect()
    }

    fn len(&self) -> usize {
        self.all.len() - self.free.len()
    }
}

#[derive(Debug)]
struct Sandbox {
    table: SandboxTable,
    namespace: OwnedFd,
    udp: UdpSocket,
    /// Several answers go to the kernel as one packet.
    sends_together: bool,
    tcp: TcpListener,
    asked: usize,
    clients: usize,
}

/// A client by TCP.
#[derive(Debug)]
struct Client {
    sandbox: usize,
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    deadline: Instant,
    /// Tells it from an earlier client with its number.
    serial: u64,
}

/// Who is to have an answer.
#[derive(Debug, Clone, Copy)]
enum Asker {
    Udp(SocketAddrV4),
    Tcp { client: usize, serial: u64 },
}

impl Asker {
    /// Longest answer that it takes.
    fn limit(&self, question: &Question<'_>) -> usize {
        match self {
            Asker::Udp(_) => usize::from(question.max_udp),
            Asker::Tcp { .. } => MAX_MESSAGE,
        }
    }
}

#[derive(Debug)]
struct Pending {
    sandbox: usize,
    asker: Asker,
    query: Vec<u8>,
    /// How many servers have been tried.
    tried: usize,
    asked: Asked,
}

#[derive(Debug)]
struct Daemon {
    stream: UnixStream,
    text: Vec<u8>,
}

#[derive(Debug)]
struct Server {
    directory: PathBuf,
    epoll: OwnedFd,
    control: UnixListener,
    spaces: Spaces,
    networks: HashMap<String, NetworkTable>,
    by_id: HashMap<String, usize>,
    sandboxes: Slots<Sandbox>,
    clients: Slots<Client>,
    pending: Slots<Pending>,
    daemons: Slots<Daemon>,
    buffer: Vec<u8>,
    inbox: Inbox,
    /// Answers of one burst, and to whom they go.
    outbox: Outbox,
    /// Questions that may be under way.
    max_asked: usize,
    /// Turns the order of several addresses round.
    turn: usize,
    serial: u64,
}

/// Serves the directory until no sandbox is left in it. Calls `ready` when all that it says is served.
///
/// # Errors
///
/// [`Error::Busy`]; [`Error::Io`] for what makes serving impossible.
pub fn serve(directory: &Path, ready: impl FnOnce()) -> Result<(), Error> {
    let _lock = lock(directory)?;
    let path = directory.join(CONTROL_SOCKET);
    // Left by a process that was killed: we have the lock.
    drop(std::fs::remove_file(&path));
    let control = during("open the control socket", UnixListener::bind(&path))?;
    during("open the control socket", control.set_nonblocking(true))?;
    let epoll = during("make an epoll", epoll::create(epoll::CreateFlags::CLOEXEC).map_err(Into::into))?;
    let mut server = Server {
        directory: directory.to_path_buf(),
        epoll,
        control,
        spaces: during("open the namespace", Spaces::open())?,
        networks: HashMap::new(),
        by_id: HashMap::new(),
        sandboxes: Slots::default(),
        clients: Slots::default(),
        pending: Slots::default(),
        daemons: Slots::default(),
        buffer: vec![0; MAX_MESSAGE + 2],
        inbox: Inbox::new(MAX_QUESTION),
        outbox: Outbox::default(),
        max_asked: MAX_ASKED.min(raise_open_files() / 2),
        turn: 0,
        serial: 0,
    };
    during("watch the control socket", add(&server.epoll, &server.control, Token::Control))?;
    server.load_all();
    ready();
    let result = server.run();
    drop(std::fs::remove_file(&path));
    result
}

/// Raises the soft limit of open files to the hard one, and returns it: a sandbox takes three, a question under way one,
/// and a service manager's usual soft limit is 1,024.
fn raise_open_files() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum;
    let raised = setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum: limit.maximum });
    let now = if raised.is_ok() { wanted } else { limit.current };
    now.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX)
}

fn lock(directory: &Path) -> Result<OwnedFd, Error> {
    let file = during("open the lock", std::fs::File::create(directory.join(LOCK_FILE)))?;
    let begin = Instant::now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file.into()),
            Err(rustix::io::Errno::WOULDBLOCK) if begin.elapsed() > LOCK_PATIENCE => {
                return Err(Error::Busy { directory: directory.into() });
            }
            // It is about to leave, or this one was started for nothing.
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(errno) => return during("take the lock", Err(errno.into())),
        }
    }
}

fn add(epoll: &OwnedFd, fd: impl AsFd, token: Token) -> io::Result<()> {
    let data = epoll::EventData::new_u64(token.to_bits());
    Ok(epoll::add(epoll, fd, data, epoll::EventFlags::IN)?)
}

/// As [`add`], told of each change once: for sockets that are also written.
fn add_both(epoll: &OwnedFd, fd: impl AsFd, token: Token) -> io::Result<()> {
    let data = epoll::EventData::new_u64(token.to_bits());
    let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
    Ok(epoll::add(epoll, fd, data, flags)?)
}

impl Server {
    fn run(&mut self) -> Result<(), Error> {
        let mut events = Vec::with_capacity(EVENTS);
        let mut last_tick = Instant::now();
        loop {
            // With nobody to be waited for, nobody wakes us.
            let waits = self.clients.len() + self.pending.len() > 0;
            let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
            events.clear();
            let buffer = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, buffer, waits.then_some(&tick)) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return during("wait", Err(errno.into())),
            }
            for event in &events {
                let token: Token = Token::from_bits({ event.data }.u64());
                if self.handle(token) == Next::Leave {
                    return Ok(());
                }
            }
            if waits && last_tick.elapsed() >= TICK {
                last_tick = Instant::now();
                self.tick(last_tick);
            }
        }
    }

    fn handle(&mut self, token: Token) -> Next {
        match token {
            Token::Control => self.greet(),
            Token::Daemon(number) => return self.listen(number),
            Token::Udp(number) => self.receive(number),
            Token::Listener(number) => self.accept(number),
            Token::Client(number) => self.converse(number),
            Token::Asked(number) => self.proceed(number),
        }
        Next::Stay
    }

    // The daemon.

    fn greet(&mut self) {
        while let Ok((stream, _)) = self.control.accept() {
            if stream.set_nonblocking(true).is_ok() {
                let number = self.daemons.put(Daemon { stream, text: Vec::new() });
                let stream = &self.daemons.get(number).expect("just put").stream;
                if add(&self.epoll, stream, Token::Daemon(number)).is_err() {
                    self.daemons.take(number);
                }
            }
        }
    }

    fn listen(&mut self, number: usize) -> Next {
        let Some(daemon) = self.daemons.get(number) else { return Next::Stay };
        let mut buffer = [0; 4096];
        let goes_on = loop {
            match daemon.stream.read(&mut buffer) {
                Ok(0) => break false,
                Ok(n) if daemon.text.len() + n <= MAX_CONTROL => daemon.text.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                _ => break false,
            }
        };
        if !goes_on {
            self.daemons.take(number);
            return Next::Stay;
        }
        let text = String::from_utf8_lossy(&daemon.text).into_owned();
        let Some(text) = text.strip_suffix("end\n") else { return Next::Stay };
        daemon.text.clear();
        let mistakes: Vec<String> = text.lines().filter_map(|line| self.change(line).err()).collect();
        let answer = match mistakes.as_slice() {
            [] => "ok\n".to_string(),
            _ => format!("{}\n", mistakes.join("; ").replace('\n', " ")),
        };
        if let Some(daemon) = self.daemons.get(number) {
            // Short, and the socket's buffer is empty: it fits. A daemon that went away does not care.
            drop(daemon.stream.write_all(answer.as_bytes()));
        }
        if self.sandboxes.len() == 0 { Next::Leave } else { Next::Stay }
    }

    fn change(&mut self, line: &str) -> Result<(), String> {
        match line.split_once(' ') {
            Some(("network", id)) => self.load_network(id),
            Some(("sandbox", id)) => self.load_sandbox(id),
            _ if line == "watch" => Ok(()),
            _ if line == "all" => {
                self.load_all();
                Ok(())
            }
            _ => Err(format!("unknown request {line:?}")),
        }
    }

    fn load_all(&mut self) {
        let known: Vec<String> = self.by_id.keys().cloned().collect();
        for id in names_in(&self.directory.join("networks")) {
            // What is wrong with one must not keep the others from being served; the daemon writes it anew.
            drop(self.load_network(&id));
        }
        for id in known.into_iter().chain(names_in(&self.directory.join("sandboxes"))) {
            drop(self.load_sandbox(&id));
        }
    }

    fn load_network(&mut self, id: &str) -> Result<(), String> {
        match read(&self.directory.join("networks").join(id))? {
            Some(text) => {
                let table = NetworkTable::parse(&text).ok_or_else(|| format!("network {id} is malformed"))?;
                self.networks.insert(id.into(), table);
            }
            None => drop(self.networks.remove(id)),
        }
        Ok(())
    }

    fn load_sandbox(&mut self, id: &str) -> Result<(), String> {
        let Some(text) = read(&self.directory.join("sandboxes").join(id))? else {
            self.close_sandbox(id);
            return Ok(());
        };
        let table = SandboxTable::parse(&text).ok_or_else(|| format!("sandbox {id} is malformed"))?;
        if let Some(sandbox) = self.by_id.get(id).and_then(|n| self.sandboxes.get(*n))
            && is_same_file(&sandbox.namespace, &table.namespace)
        {
            sandbox.table = table;
            return Ok(());
        }
        self.close_sandbox(id);
        let failed = |e: &dyn std::fmt::Display| format!("sandbox {id}: {e}");
        let namespace = std::fs::File::open(&table.namespace).map_err(|e| failed(&e))?.into();
        let (udp, tcp) = network::open_resolver(&table.namespace).map_err(|e| failed(&errors::chain(&e)))?;
        let sends_together = datagrams::sends_together(udp.as_fd());
        let sandbox = Sandbox { table, namespace, udp, sends_together, tcp, asked: 0, clients: 0 };
        let number = self.sandboxes.put(sandbox);
        let sandbox = self.sandboxes.get(number).expect("just put");
        let added = add(&self.epoll, &sandbox.udp, Token::Udp(number))
            .and_then(|()| add(&self.epoll, &sandbox.tcp, Token::Listener(number)));
        self.by_id.insert(id.into(), number);
        if let Err(e) = added {
            self.close_sandbox(id);
            return Err(failed(&e));
        }
        Ok(())
    }

    fn close_sandbox(&mut self, id: &str) {
        let Some(number) = self.by_id.remove(id) else { return };
        for client in self.clients.numbers(|c| c.sandbox == number) {
            self.clients.take(client);
        }
        for pending in self.pending.numbers(|p| p.sandbox == number) {
            self.pending.take(pending);
        }
        self.sandboxes.take(number);
    }

    // Containers.

    fn receive(&mut self, number: usize) {
        let (mut inbox, mut outbox) = (std::mem::take(&mut self.inbox), std::mem::take(&mut self.outbox));
        for _ in 0..BURSTS {
            let Some(sandbox) = self.sandboxes.get(number) else { break };
            let Ok(count) = inbox.receive(sandbox.udp.as_fd()) else { break };
            for Datagram { bytes, from, is_whole } in (0..count).filter_map(|n| inbox.get(n)) {
                outbox.put(from, |out| match is_whole {
                    true => self.answer(number, bytes, Asker::Udp(from), out),
                    false => message::too_long(bytes, out),
                });
            }
            if let Some(sandbox) = self.sandboxes.get(number) {
                send_all(sandbox, &outbox);
            }
            outbox.clear();
            if count < datagrams::MOST {
                break;
            }
        }
        (self.inbox, self.outbox) = (inbox, outbox);
    }

    fn accept(&mut self, number: usize) {
        loop {
            let Some(sandbox) = self.sandboxes.get(number) else { return };
            let Ok((stream, _)) = sandbox.tcp.accept() else { return };
            if sandbox.clients >= MAX_CLIENTS_EACH || stream.set_nonblocking(true).is_err() {
                continue;
            }
            sandbox.clients += 1;
            self.serial += 1;
            let client = self.clients.put(Client {
                sandbox: number,
                stream,
                input: Vec::new(),
                output: Vec::new(),
                deadline: Instant::now() + CLIENT_PATIENCE,
                serial: self.serial,
            });
            let stream = &self.clients.get(client).expect("just put").stream;
            if add_both(&self.epoll, stream, Token::Client(client)).is_err() {
                self.dismiss(client);
            }
        }
    }

    fn dismiss(&mut self, number: usize) {
        if let Some(client) = self.clients.take(number)
            && let Some(sandbox) = self.sandboxes.get(client.sandbox)
        {
            sandbox.clients = sandbox.clients.saturating_sub(1);
        }
    }

    /// Reads what a client sends, answers the questions in it, and writes what it takes.
    fn converse(&mut self, number: usize) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut open = true;
        while let (true, Some(client)) = (open, self.clients.get(number)) {
            match client.stream.read(&mut buffer) {
                Ok(0) => open = false,
                Ok(n) if client.input.len() + n <= 2 * (MAX_MESSAGE + 2) => {
                    client.input.extend_from_slice(&buffer[..n]);
                    client.deadline = Instant::now() + CLIENT_PATIENCE;
                    let (sandbox, serial) = (client.sandbox, client.serial);
                    while let Some(message) =
                        self.clients.get(number).and_then(|c| next_message(&mut c.input))
                    {
                        let asker = Asker::Tcp { client: number, serial };
                        let mut answer = Vec::new();
                        if self.answer(sandbox, &message, asker, &mut answer) {
                            self.give(sandbox, asker, &answer);
                        }
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                _ => open = false,
            }
        }
        self.buffer = buffer;
        if !open || !self.flush(number) {
            self.dismiss(number);
        }
    }

    /// Writes what a client takes; false when it takes nothing any more.
    fn flush(&mut self, number: usize) -> bool {
        let Some(client) = self.clients.get(number) else { return true };
        while !client.output.is_empty() {
            match client.stream.write(&client.output) {
                Ok(0) => return false,
                Ok(n) => drop(client.output.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    fn give(&mut self, sandbox: usize, asker: Asker, answer: &[u8]) {
        match asker {
            Asker::Udp(to) => {
                if let Some(sandbox) = self.sandboxes.get(sandbox) {
                    drop(sandbox.udp.send_to(answer, to));
                }
            }
            Asker::Tcp { client: number, serial } => {
                let Some(client) = self.clients.get(number).filter(|c| c.serial == serial) else { return };
                let Ok(length) = u16::try_from(answer.len()) else { return };
                // One that asks and never reads is not worth more memory.
                if client.output.len() <= 4 * MAX_MESSAGE {
                    client.output.extend_from_slice(&length.to_be_bytes());
                    client.output.extend_from_slice(answer);
                }
                if !self.flush(number) {
                    self.dismiss(number);
                }
            }
        }
    }

    /// Writes the answer behind what is in `out`; false when there is none, or others are asked for it first.
    fn answer(&mut self, number: usize, query: &[u8], asker: Asker, out: &mut Vec<u8>) -> bool {
        let question = match message::parse(query) {
            Ok(question) => question,
            Err(Refusal::Ignore) => return false,
            Err(Refusal::Code(code)) => {
                message::refuse(query, code, out);
                return true;
            }
        };
        let limit = asker.limit(&question);
        self.turn = self.turn.wrapping_add(1);
        let turn = self.turn;
        let Some(sandbox) = self.sandboxes.get(number) else { return false };
        match find(&sandbox.table, &self.networks, &question) {
            Found::Addresses(addresses) => {
                let fits = || addresses.iter().copied().filter(|a| question.asks_for(*a));
                // A client takes the first: each in its turn.
                let by = turn.checked_rem(fits().count()).unwrap_or_default();
                question.addresses(fits().skip(by).chain(fits().take(by)), limit, out);
            }
            Found::Name(name) => question.pointer(name, limit, out),
            Found::Nothing if !sandbox.table.forward => question.empty(message::NAME_ERROR, out),
            // The search list's turn: the client asks again with a domain.
            Found::Nothing if sandbox.table.ndots && is_short(&question) => question.empty(0, out),
            Found::Nothing => {
                let is_asked = self.ask(number, query, asker);
                if !is_asked {
                    question.empty(message::SERVER_FAILURE, out);
                }
                return !is_asked;
            }
        }
        true
    }

    /// Asks the first server; false when that is impossible.
    fn ask(&mut self, number: usize, query: &[u8], asker: Asker) -> bool {
        let full = self.pending.len() >= self.max_asked;
        let Some(sandbox) = self.sandboxes.get(number) else { return true };
        if full || sandbox.asked >= MAX_ASKED_EACH {
            return false;
        }
        let by_tcp = matches!(asker, Asker::Tcp { .. });
        let mut tried = 0;
        let Some(asked) = next_server(&self.spaces, sandbox, &mut tried, query, by_tcp) else { return false };
        sandbox.asked += 1;
        let pending = Pending { sandbox: number, asker, query: query.to_vec(), tried, asked };
        let slot = self.pending.put(pending);
        let is_watched = self.watch(slot).is_ok();
        if !is_watched {
            self.finish(slot);
        }
        is_watched
    }

    fn watch(&mut self, slot: usize) -> io::Result<()> {
        let Some(pending) = self.pending.get(slot) else { return Ok(()) };
        add_both(&self.epoll, &pending.asked.socket, Token::Asked(slot))
    }

    fn finish(&mut self, slot: usize) -> Option<Pending> {
        let pending = self.pending.take(slot)?;
        if let Some(sandbox) = self.sandboxes.get(pending.sandbox) {
            sandbox.asked = sandbox.asked.saturating_sub(1);
        }
        Some(pending)
    }

    fn proceed(&mut self, slot: usize) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let progress = match self.pending.get(slot) {
            Some(pending) => match message::parse(&pending.query) {
                Ok(question) => forward::proceed(&mut pending.asked, &question, &mut buffer),
                Err(_) => Progress::Failed,
            },
            None => Progress::Waiting,
        };
        self.buffer = buffer;
        match progress {
            Progress::Waiting => {}
            Progress::Answer(answer) => {
                if let Some(pending) = self.finish(slot)
                    && let Ok(question) = message::parse(&pending.query)
                {
                    let answer = message::passed_on(&question, answer, pending.asker.limit(&question));
                    self.give(pending.sandbox, pending.asker, &answer);
                }
            }
            Progress::Failed => self.next(slot),
        }
    }

    /// Asks the next server, or says that none helps.
    fn next(&mut self, slot: usize) {
        let Some(pending) = self.pending.get(slot) else { return };
        let by_tcp = matches!(pending.asker, Asker::Tcp { .. });
        if let Some(sandbox) = self.sandboxes.get(pending.sandbox)
            && let Some(asked) =
                next_server(&self.spaces, sandbox, &mut pending.tried, &pending.query, by_tcp)
        {
            pending.asked = asked;
            if self.watch(slot).is_ok() {
                return;
            }
        }
        if let Some(pending) = self.finish(slot)
            && let Ok(question) = message::parse(&pending.query)
        {
            let mut answer = Vec::new();
            question.empty(message::SERVER_FAILURE, &mut answer);
            self.give(pending.sandbox, pending.asker, &answer);
        }
    }

    fn tick(&mut self, now: Instant) {
        for slot in self.pending.numbers(|p| p.asked.deadline <= now) {
            self.next(slot);
        }
        for client in self.clients.numbers(|c| c.deadline <= now) {
            self.dismiss(client);
        }
    }
}

/// Sends each to whom it goes. A client that is not there any more, or whose buffer is full, asks again.
fn send_all(sandbox: &Sandbox, answers: &Outbox) {
    let (mut first, mut together) = (0, sandbox.sends_together);
    while first < answers.len() {
        match answers.send(sandbox.udp.as_fd(), first, together) {
            Ok(sent) => first += sent.max(1),
            // What stops many, as rules for IPsec do, need not stop one.
            Err(_) if together => together = false,
            Err(_) => first += 1,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Next {
    Stay,
    Leave,
}

/// The next server of the sandbox that can be asked at all.
fn next_server(
    spaces: &Spaces,
    sandbox: &Sandbox,
    tried: &mut usize,
    query: &[u8],
    by_tcp: bool,
) -> Option<Asked> {
    while let Some(server) = sandbox.table.servers.iter().take(forward::MAX_SERVERS).nth(*tried) {
        *tried += 1;
        if let Ok(asked) = forward::ask(spaces, Some(sandbox.namespace.as_fd()), *server, query, by_tcp) {
            return Some(asked);
        }
    }
    None
}

/// What our own names say.
#[derive(Debug, PartialEq, Eq)]
enum Found<'a> {
    /// The name is ours; it may have no address of the kind asked for.
    Addresses(&'a [IpAddr]),
    Name(&'a str),
    Nothing,
}

fn find<'a>(
    sandbox: &SandboxTable,
    networks: &'a HashMap<String, NetworkTable>,
    question: &Question<'_>,
) -> Found<'a> {
    let tables = || sandbox.networks.iter().filter_map(|id| networks.get(id));
    if question.kind == message::TYPE_PTR {
        let name = question.reverse().and_then(|a| tables().find_map(|t| t.pointers.get(&a)));
        return name.map_or(Found::Nothing, |name| Found::Name(name));
    }
    let name = question.name.as_str();
    let linked = |(alias, id, target): &(String, String, String)| {
        (alias == name).then(|| networks.get(id)?.names.get(target)).flatten()
    };
    let by_link = sandbox.links.iter().find_map(linked);
    let by_name = || {
        tables().find_map(|table| {
            let bare = name.strip_suffix(table.name.as_str()).and_then(|rest| rest.strip_suffix('.'));
            table.names.get(name).or_else(|| table.names.get(bare?))
        })
    };
    by_link.or_else(by_name).map_or(Found::Nothing, |addresses| Found::Addresses(addresses))
}

fn is_short(question: &Question<'_>) -> bool {
    !question.name.as_str().contains('.') && matches!(question.kind, message::TYPE_A | message::TYPE_AAAA)
}

/// Takes the first whole message out of what a client has sent.
fn next_message(input: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes(*input.first_chunk::<2>()?));
    let message = input.get(2..2 + length)?.to_vec();
    input.drain(..2 + length);
    Some(message)
}

/// A file's text; None if there is none. The name came from the daemon, and is one word.
fn read(path: &Path) -> Result<Option<String>, String> {
    let mut text = String::new();
    match std::fs::File::open(path).and_then(|f| f.take(MAX_FILE).read_to_string(&mut text)) {
        Ok(_) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(format!("read {}: {e}", path.display())),
    }
}

fn is_same_file(open: &OwnedFd, path: &Path) -> bool {
    let (Ok(a), Ok(b)) = (rustix::fs::fstat(open), rustix::fs::stat(path)) else { return false };
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

/// The names in a directory, without those of files that are being written.
fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
    names.filter(|name| !name.starts_with('.')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tests::question;

    #[test]
    fn names_are_found_in_the_networks_of_the_sandbox_only() {
        let table = |name: &str, names: &[(&str, &str)]| {
            let mut out = NetworkTable { name: name.into(), ..NetworkTable::default() };
            for (name, address) in names {
                out.names.entry((*name).into()).or_default().push(address.parse().unwrap());
            }
            out
        };
        let networks = HashMap::from([
            (
                "1".to_string(),
                table(
                    "front",
                    &[("web", "10.0.0.2"), ("web", "fd00::2"), ("all", "10.0.0.2"), ("all", "10.0.0.3")],
                ),
            ),
            ("2".to_string(), table("back", &[("db", "10.1.0.2")])),
        ]);
        let sandbox = SandboxTable {
            networks: vec!["1".into()],
            links: vec![("mysql".into(), "2".into(), "db".into())],
            ..SandboxTable::default()
        };
        let check = |name: &str, kind: u16, expected: Option<&[&str]>| {
            let message = question(name, kind);
            let asked = message::parse(&message).unwrap();
            let found = match find(&sandbox, &networks, &asked) {
                Found::Addresses(a) => {
                    let fits = a.iter().filter(|a| asked.asks_for(**a));
                    Some(fits.map(ToString::to_string).collect::<Vec<_>>())
                }
                _ => None,
            };
            assert_eq!(found, expected.map(|e| e.iter().map(ToString::to_string).collect()), "{name}");
        };
        check("WEB", message::TYPE_A, Some(&["10.0.0.2"]));
        check("web", message::TYPE_AAAA, Some(&["fd00::2"]));
        check("web", 15, Some(&[]));
        check("web.front", message::TYPE_A, Some(&["10.0.0.2"]));
        check("all", message::TYPE_A, Some(&["10.0.0.2", "10.0.0.3"]));
        check("db", message::TYPE_A, None);
        check("web.back", message::TYPE_A, None);
        check("mysql", message::TYPE_A, Some(&["10.1.0.2"]));
        check("example.org", message::TYPE_A, None);
    }

    #[test]
    fn numbers_are_used_again() {
        let mut slots = Slots::default();
        assert_eq!([slots.put("a"), slots.put("b"), slots.len()], [0, 1, 2]);
        assert_eq!((slots.take(0), slots.take(0), slots.take(9), slots.len()), (Some("a"), None, None, 1));
        assert_eq!((slots.put("c"), slots.put("d"), slots.len()), (0, 2, 3));
        assert_eq!(slots.numbers(|v| *v > "b"), [0, 2]);
        assert_eq!(slots.get(1), Some(&mut "b"));
    }

    #[test]
    fn tokens_come_back() {
        for token in [
            Token::Control,
            Token::Daemon(3),
            Token::Udp(1 << 30),
            Token::Listener(0),
            Token::Client(9),
            Token::Asked(7),
        ] {
            assert_eq!(Token::from_bits(token.to_bits()), token);
        }
    }
}
