//! Names: what the containers' name server (`brig-dns`, crate `dns`) is told, and that it runs.
//!
//! The files say everything, and are written before the server is told of a change: a server that is started again, or a
//! daemon that is, goes on from them. They lie below the exec root and end with the host's uptime, as containers do.

use super::addresses::Entry;
use super::{BUILT_IN, Networks, etc};
use crate::config::Config;
use crate::error::{Error, IoDuring};
use crate::model::EndpointSettings;
use crate::record::Record;
use ::dns::table::{SandboxTable, Side};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long the server may take to open a container's sockets.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is started again when it is about to leave just as somebody comes.
const TRIES: u32 = 4;
/// Where questions go when the host names no server, as Docker has it.
const FALLBACK_SERVERS: [IpAddr; 2] =
    [IpAddr::V4(std::net::Ipv4Addr::new(8, 8, 8, 8)), IpAddr::V4(std::net::Ipv4Addr::new(8, 8, 4, 4))];

/// The process and its files.
#[derive(Debug)]
pub(crate) struct NameServer {
    directory: PathBuf,
    program: PathBuf,
    /// Held while it is told something, so that it is started once.
    telling: Mutex<()>,
    /// A thread waits for its end.
    watched: AtomicBool,
}

impl NameServer {
    pub(super) fn new(config: &Config) -> NameServer {
        NameServer {
            directory: config.exec_root.join("dns"),
            program: config.name_server.clone(),
            telling: Mutex::default(),
            watched: AtomicBool::new(false),
        }
    }

    /// Writes a file whole, or removes it.
    fn write(&self, kind: &str, id: &str, text: Option<&str>) -> Result<(), Error> {
        let directory = self.directory.join(kind);
        let path = directory.join(id);
        let doing = || format!("write {}", path.display());
        let Some(text) = text else {
            return match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).io_during(doing),
                _ => Ok(()),
            };
        };
        let temporary = directory.join(format!(".{id}"));
        let write = || std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, &path));
        match write() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                std::fs::create_dir_all(&directory).io_during(doing)?;
                write().io_during(doing)
            }
            done => done.io_during(doing),
        }
    }

    fn has_sandboxes(&self) -> bool {
        std::fs::read_dir(self.directory.join("sandboxes")).is_ok_and(|mut d| d.next().is_some())
    }

    /// Tells the server which files changed, and starts it where there is something to serve. Blocking.
    fn tell(self: &Arc<Self>, changes: &[String]) -> Result<(), Error> {
        let _telling = self.telling.lock().expect("no holder panics");
        let doing = || "tell the name server".to_string();
        let mut text: String = changes.iter().map(|c| format!("{c}\n")).collect();
        text.push_str("end\n");
        let mut tries = 0;
        loop {
            match self.ask(&text) {
                Ok(answer) if answer == "ok\n" => break,
                Ok(answer) if !answer.is_empty() => {
                    return Err(Error::Internal { message: format!("the name server: {}", answer.trim()) });
                }
                // Nobody there, or about to leave: nothing is lost, the next one reads everything.
                _ if !self.has_sandboxes() => return Ok(()),
                Err(e) if tries == TRIES => return Err(e).io_during(doing),
                _ if tries == TRIES => {
                    return Err(Error::Internal { message: "the name server does not answer".into() });
                }
                _ => self.spawn()?,
            }
            tries += 1;
        }
        self.watch();
        Ok(())
    }

    fn ask(&self, text: &str) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(self.directory.join(::dns::CONTROL_SOCKET))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(text.as_bytes())?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(answer)
    }

    /// Starts the server and waits until it serves.
    fn spawn(&self) -> Result<(), Error> {
        let doing = || format!("run {}", self.program.display());
        let log = std::fs::File::create(self.directory.join("log")).io_during(doing)?;
        let mut child = Command::new(&self.program)
            .arg(&self.directory)
            .current_dir("/")
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .io_during(doing)?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).io_during(doing)?;
        }
        // Without one it stays a zombie until this daemon leaves.
        let _reaped = crate::behind::spawn("reaper", move || drop(child.wait()));
        match line.as_str() {
            "ready\n" => Ok(()),
            _ => {
                let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
                Err(Error::Internal { message: format!("the name server did not start: {}", log.trim()) })
            }
        }
    }

    /// Starts the server again should it be killed.
    fn watch(self: &Arc<Self>) {
        if self.watched.swap(true, Ordering::SeqCst) {
            return;
        }
        let this = self.clone();
        let watching = crate::behind::spawn("name-server", move || {
            let listen = || {
                let mut stream = UnixStream::connect(this.directory.join(::dns::CONTROL_SOCKET))?;
                stream.write_all(b"watch\nend\n")?;
                std::io::copy(&mut stream, &mut std::io::sink())
            };
            drop(listen());
            this.watched.store(false, Ordering::SeqCst);
            if this.has_sandboxes() {
                tracing::warn!("the name server ended; starting it again");
                if let Err(e) = this.tell(&[]) {
                    tracing::error!(error = %errors::chain(&e), "no name server");
                }
            }
        });
        if !watching {
            // The next change of a name tries again.
            self.watched.store(false, Ordering::SeqCst);
        }
    }
}

impl Networks {
    /// Makes the names of a running container known to its neighbours and theirs to it. Blocking.
    pub(super) fn serve_names(
        &self,
        config: &Config,
        record: &Record,
        endpoints: &BTreeMap<String, EndpointSettings>,
    ) -> Result<(), Error> {
        let id = record.id.as_str();
        let mut changes = self.write_networks(endpoints)?;
        let sandbox = self.sandbox_table(config, record, endpoints)?;
        let had = self.names.directory.join("sandboxes").join(id).exists();
        if sandbox.is_none() && !had {
            return if changes.is_empty() { Ok(()) } else { self.names.tell(&changes) };
        }
        self.names.write("sandboxes", id, sandbox.map(|s| s.render()).as_deref())?;
        changes.push(format!("sandbox {id}"));
        self.names.tell(&changes)
    }

    /// Tells of the names on these networks. Blocking.
    pub(super) fn tell_networks(&self, endpoints: &BTreeMap<String, EndpointSettings>) -> Result<(), Error> {
        let changes = self.write_networks(endpoints)?;
        if changes.is_empty() { Ok(()) } else { self.names.tell(&changes) }
    }

    /// Makes the new name of a running container known. Blocking.
    pub(crate) fn renamed(&self, record: &Record) -> Result<(), Error> {
        for (name, settings) in &record.networks {
            self.find(name)?.rename(record, settings);
        }
        self.tell_networks(&record.networks)
    }

    /// Takes the names of a container whose task has ended out. Its addresses are released already. Blocking.
    pub(super) fn forget_names(&self, record: &Record) -> Result<(), Error> {
        let id = record.id.as_str();
        let mut changes = self.write_networks(&record.networks)?;
        if self.names.directory.join("sandboxes").join(id).exists() {
            self.names.write("sandboxes", id, None)?;
            changes.push(format!("sandbox {id}"));
        }
        if changes.is_empty() { Ok(()) } else { self.names.tell(&changes) }
    }

    /// Takes a network's names out. Blocking.
    pub(super) fn forget_network(&self, entry: &Entry) {
        if let Err(e) = self.names.write("networks", &entry.record.id, None) {
            tracing::warn!(network = entry.record.name, error = %errors::chain(&e), "names not removed");
        }
    }

    /// Writes all names anew, and removes what is about containers that are gone. Blocking.
    pub(super) fn restore_names(&self, config: &Config, alive: &[Record]) -> Result<(), Error> {
        let listed = |kind: &str| -> Vec<String> {
            let entries = std::fs::read_dir(self.names.directory.join(kind)).into_iter().flatten().flatten();
            entries.filter_map(|e| e.file_name().into_string().ok()).collect()
        };
        let (networks, sandboxes) = (listed("networks"), listed("sandboxes"));
        for id in networks.iter().filter(|id| self.find(id).is_err()) {
            self.names.write("networks", id, None)?;
        }
        for id in sandboxes.iter().filter(|id| !alive.iter().any(|r| r.id.as_str() == *id)) {
            self.names.write("sandboxes", id, None)?;
        }
        // A daemon that was killed before it told of the last one's end left no file of it, and a server that waits.
        let mut wanted = !sandboxes.is_empty() || self.names.directory.join(::dns::CONTROL_SOCKET).exists();
        for record in alive {
            self.write_networks(&record.networks)?;
            if let Some(table) = self.sandbox_table(config, record, &record.networks)? {
                self.names.write("sandboxes", record.id.as_str(), Some(&table.render()))?;
                wanted = true;
            }
        }
        if wanted { self.names.tell(&["all".into()]) } else { Ok(()) }
    }

    /// Writes the tables of the user's own networks among these; what the server is to be told.
    fn write_networks(&self, endpoints: &BTreeMap<String, EndpointSettings>) -> Result<Vec<String>, Error> {
        let mut changes = Vec::new();
        for name in endpoints.keys().filter(|n| !BUILT_IN.contains(&n.as_str())) {
            // Gone while a container ended: so are its names.
            let Ok(entry) = self.find(name) else { continue };
            // What the last daemon wrote has the names of other hosts, which this one does not know yet.
            let path = self.names.directory.join("networks").join(&entry.record.id);
            if entry.is_behind() && path.exists() {
                continue;
            }
            entry
                .with_table(|table| self.names.write("networks", &entry.record.id, Some(&table.render())))?;
            changes.push(format!("network {}", entry.record.id));
        }
        Ok(changes)
    }

    /// Tells of the names on those of these networks that are in use here. Blocking.
    pub(super) fn tell_entries(&self, entries: &[Arc<Entry>]) -> Result<(), Error> {
        let mut changes = Vec::new();
        for entry in entries.iter().filter(|e| e.is_used()) {
            entry
                .with_table(|table| self.names.write("networks", &entry.record.id, Some(&table.render())))?;
            changes.push(format!("network {}", entry.record.id));
        }
        if changes.is_empty() { Ok(()) } else { self.names.tell(&changes) }
    }

    /// What the container's server does; None for one without networks of the user's own.
    fn sandbox_table(
        &self,
        config: &Config,
        record: &Record,
        endpoints: &BTreeMap<String, EndpointSettings>,
    ) -> Result<Option<SandboxTable>, Error> {
        let mut table =
            SandboxTable { namespace: config.netns(record.id.as_str()), ..SandboxTable::default() };
        for (name, settings) in endpoints {
            let entry = self.find(name)?;
            // Names are not led out of an internal network (CVE-2024-29018).
            table.forward |= !entry.record.internal;
            if !entry.record.is_user_defined() {
                continue;
            }
            let id = &entry.record.id;
            if *name == record.host_config.network_mode {
                table.networks.insert(0, id.clone());
            } else {
                table.networks.push(id.clone());
            }
            for link in settings.links.iter().flatten() {
                let (target, alias) = link.split_once(':').unwrap_or((link, link));
                // A whole id is known by its short form.
                let target = if target.len() == 64 { &target[..12] } else { target };
                table.links.push((alias.to_ascii_lowercase(), id.clone(), target.to_ascii_lowercase()));
            }
        }
        if table.networks.is_empty() {
            return Ok(None);
        }
        let host = &record.host_config;
        table.ndots = host.dns_options.iter().any(|o| o.strip_prefix("ndots:").is_some_and(|n| n != "0"));
        table.servers = match host.dns.as_slice() {
            [] => {
                let mut servers = network::files::servers(&etc::resolver_text());
                if servers.is_empty() {
                    servers.extend(FALLBACK_SERVERS);
                }
                servers.into_iter().map(|a| (Side::Host, a)).collect()
            }
            named => named.iter().filter_map(|t| Some((Side::Inside, t.parse().ok()?))).collect(),
        };
        Ok(Some(table))
    }
}
