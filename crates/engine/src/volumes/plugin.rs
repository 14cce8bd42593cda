//! Volume drivers of others, by Docker's plugin protocol: JSON over HTTP on the plugin's socket.
//!
//! A plugin is found by its name, as Docker finds it: `NAME.sock` or `NAME/NAME.sock` in `/run/docker/plugins`, else `NAME.spec`
//! (its address) or `NAME.json` in `/etc/docker/plugins` or `/usr/lib/docker/plugins`. Each call has a deadline, and none is made
//! while something is held that others need: a dead plugin holds up only who wants its volumes.
//!
//! What a plugin mounts is bound on the volume's own `_data` for as long as a container uses it, so that everything that is
//! done with volumes is done with these. It is asked for one mount a volume, under this daemon's id: whichever daemon sees
//! that nobody uses the volume can give it back.

use crate::error::{Error, IoDuring};
use errors::Kind;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SOCKETS: &str = "/run/docker/plugins";
const SPECS: [&str; 2] = ["/etc/docker/plugins", "/usr/lib/docker/plugins"];
/// How long a plugin may take: mounting a file system over a network does.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long each plugin may take of those that are asked when volumes are listed.
pub(super) const HURRY: Duration = Duration::from_secs(5);
/// How long it may take to be reached.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest file that says where a plugin is.
const MAX_SPEC: u64 = 64 << 10;
/// Longest answer.
const MAX_ANSWER: u64 = 4 << 20;

/// A volume driver of somebody else's.
#[derive(Debug)]
pub(super) struct Plugin {
    name: String,
    address: Address,
    patience: Duration,
}

/// What a driver says of one of its volumes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Told {
    pub(super) name: String,
    /// Where it is mounted; empty if it is not.
    pub(super) mountpoint: String,
    /// Empty if the driver does not say.
    pub(super) created: String,
    /// Whatever the driver wants known.
    pub(super) status: Value,
}

impl Told {
    fn read(value: &Value) -> Option<Told> {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_string();
        let told = Told {
            name: text("Name"),
            mountpoint: text("Mountpoint"),
            created: text("CreatedAt"),
            status: value["Status"].clone(),
        };
        (!told.name.is_empty()).then_some(told)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Address {
    Unix(PathBuf),
    Tcp(String),
}

impl Plugin {
    /// The plugin of this name, which says that it is a volume driver. Blocking.
    ///
    /// # Errors
    ///
    /// NotFound when there is none; Unavailable when it does not answer.
    pub(super) fn find(name: &str) -> Result<Plugin, Error> {
        Plugin::find_within(name, DEADLINE)
    }

    /// As [`Plugin::find`], with that much patience for each question.
    pub(super) fn find_within(name: &str, patience: Duration) -> Result<Plugin, Error> {
        let missing = || Error::NoSuchPlugin { name: name.into() };
        // A name is no path.
        if !crate::names::is_valid(name) {
            return Err(missing());
        }
        let address = locate(name, Path::new(SOCKETS), &SPECS.map(Path::new))?.ok_or_else(missing)?;
        let plugin = Plugin { name: name.into(), address, patience };
        let answer = plugin.call("Plugin.Activate", &json!({}))?;
        let is_driver = |list: &Vec<Value>| list.iter().any(|kind| kind == "VolumeDriver");
        if answer["Implements"].as_array().is_some_and(is_driver) { Ok(plugin) } else { Err(missing()) }
    }

    /// Makes a volume. Harmless if there is one of that name.
    pub(super) fn create(&self, volume: &str, options: &BTreeMap<String, String>) -> Result<(), Error> {
        self.call("VolumeDriver.Create", &json!({ "Name": volume, "Opts": options })).map(drop)
    }

    pub(super) fn remove(&self, volume: &str) -> Result<(), Error> {
        self.call("VolumeDriver.Remove", &json!({ "Name": volume })).map(drop)
    }

    /// Has the volume mounted; where it is.
    pub(super) fn mount(&self, volume: &str, id: &str) -> Result<PathBuf, Error> {
        let answer = self.call("VolumeDriver.Mount", &json!({ "Name": volume, "ID": id }))?;
        match answer["Mountpoint"].as_str() {
            Some(path) if path.starts_with('/') => Ok(path.into()),
            other => Err(self.failed(io::Error::other(format!("mounted at {other:?}")))),
        }
    }

    pub(super) fn unmount(&self, volume: &str, id: &str) -> Result<(), Error> {
        self.call("VolumeDriver.Unmount", &json!({ "Name": volume, "ID": id })).map(drop)
    }

    /// What the driver says of a volume.
    ///
    /// # Errors
    ///
    /// Of kind Internal when it has none of that name.
    pub(super) fn get(&self, volume: &str) -> Result<Told, Error> {
        let answer = self.call("VolumeDriver.Get", &json!({ "Name": volume }))?;
        let mut told = Told::read(&answer["Volume"])
            .ok_or_else(|| self.failed(io::Error::other("VolumeDriver.Get: the answer names no volume")))?;
        if told.mountpoint.is_empty() {
            let answer = self.call("VolumeDriver.Path", &json!({ "Name": volume }))?;
            told.mountpoint = answer["Mountpoint"].as_str().unwrap_or_default().into();
        }
        Ok(told)
    }

    /// What the driver says of all its volumes.
    pub(super) fn list(&self) -> Result<Vec<Told>, Error> {
        let answer = self.call("VolumeDriver.List", &json!({}))?;
        Ok(answer["Volumes"].as_array().into_iter().flatten().filter_map(Told::read).collect())
    }

    /// `global` when all hosts see the same volumes; `local` when not, and when the driver does not say.
    pub(super) fn scope(&self) -> String {
        let answer = self.call("VolumeDriver.Capabilities", &json!({})).unwrap_or_default();
        let scope = answer["Capabilities"]["Scope"].as_str().unwrap_or_default().to_lowercase();
        if matches!(scope.as_str(), "global" | "local") { scope } else { super::LOCAL.into() }
    }

    fn call(&self, method: &str, body: &Value) -> Result<Value, Error> {
        let answer = self.post(method, &body.to_string()).map_err(|e| self.failed(e))?;
        match answer["Err"].as_str() {
            None | Some("") => Ok(answer),
            Some(message) => Err(self.failed(io::Error::other(format!("{method}: {message}")))),
        }
    }

    fn failed(&self, source: io::Error) -> Error {
        let kind = match source.kind() {
            io::ErrorKind::Other => Kind::Internal,
            _ => Kind::Unavailable,
        };
        Error::Failed { doing: format!("ask volume plugin {}", self.name), kind, source: source.into() }
    }

    fn post(&self, method: &str, body: &str) -> io::Result<Value> {
        let end = Instant::now() + self.patience;
        // Version 1.0: the answer ends with the connection.
        let request = format!(
            "POST /{method} HTTP/1.0\r\nHost: plugin\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = match &self.address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_write_timeout(Some(CONNECT))?;
                talk(&stream, &request, end, |left| stream.set_read_timeout(Some(left)))?
            }
            Address::Tcp(address) => {
                let address = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
                let stream = TcpStream::connect_timeout(&address, CONNECT)?;
                stream.set_write_timeout(Some(CONNECT))?;
                talk(&stream, &request, end, |left| stream.set_read_timeout(Some(left)))?
            }
        };
        parse(&answer)
    }
}

/// Sends a request and reads to the end, which comes before `end` or is an error.
fn talk<S>(
    stream: S,
    request: &str,
    end: Instant,
    set_patience: impl Fn(Duration) -> io::Result<()>,
) -> io::Result<Vec<u8>>
where
    S: Read + Write,
{
    let mut stream = stream;
    stream.write_all(request.as_bytes())?;
    let (mut out, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        set_patience(left)?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(out),
            Ok(n) => out.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // What a read that ran out of time says, in words.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(e) => return Err(e),
        }
        if u64::try_from(out.len()).unwrap_or(u64::MAX) > MAX_ANSWER {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

fn parse(answer: &[u8]) -> io::Result<Value> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let text = std::str::from_utf8(answer).map_err(|_| invalid())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(invalid)?;
    let status: u16 = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(invalid)?;
    let value: Option<Value> = serde_json::from_str(body.trim()).ok();
    match (status, value) {
        (200, Some(value)) => Ok(value),
        (200, None) => Err(invalid()),
        (_, Some(value)) if value["Err"].as_str().is_some_and(|e| !e.is_empty()) => Ok(value),
        (status, _) => Err(io::Error::other(format!(
            "status {status}: {}",
            body.trim().chars().take(200).collect::<String>()
        ))),
    }
}

/// Where the plugin is; None if nowhere.
fn locate(name: &str, sockets: &Path, specs: &[&Path]) -> Result<Option<Address>, Error> {
    for path in [sockets.join(format!("{name}.sock")), sockets.join(name).join(format!("{name}.sock"))] {
        if path.exists() {
            return Ok(Some(Address::Unix(path)));
        }
    }
    for directory in specs {
        for (ending, is_json) in [("spec", false), ("json", true)] {
            for path in [
                directory.join(format!("{name}.{ending}")),
                directory.join(name).join(format!("{name}.{ending}")),
            ] {
                let doing = || format!("read {}", path.display());
                let file = match std::fs::File::open(&path) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    other => other.io_during(doing)?,
                };
                let mut text = String::new();
                file.take(MAX_SPEC).read_to_string(&mut text).io_during(doing)?;
                return address(&text, is_json)
                    .map(Some)
                    .map_err(|why| Error::invalid(format!("{}: {why}", path.display())));
            }
        }
    }
    Ok(None)
}

/// The address in a file's text.
fn address(text: &str, is_json: bool) -> Result<Address, String> {
    let url = if is_json {
        let value: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
        if !value["TLSConfig"].is_null() {
            return Err("plugins over TLS are not supported".into());
        }
        value["Addr"].as_str().unwrap_or_default().to_string()
    } else {
        text.trim().to_string()
    };
    match url.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') => Ok(Address::Unix(path.into())),
        Some(("tcp" | "http", rest)) if !rest.is_empty() => {
            Ok(Address::Tcp(rest.trim_end_matches('/').into()))
        }
        _ => Err(format!("{url:?} is not the address of a plugin")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_where_docker_has_them() {
        let root = tempfile::tempdir().unwrap();
        let (sockets, specs) = (root.path().join("run"), root.path().join("etc"));
        std::fs::create_dir_all(sockets.join("b")).unwrap();
        std::fs::create_dir_all(&specs).unwrap();
        for (path, text) in [
            (sockets.join("a.sock"), ""),
            (sockets.join("b/b.sock"), ""),
            (specs.join("c.spec"), "unix:///x/c.sock\n"),
            (specs.join("d.json"), r#"{"Name":"d","Addr":"http://127.0.0.1:1"}"#),
            (specs.join("e.json"), r#"{"Name":"e","Addr":"https://h:1","TLSConfig":{}}"#),
            (specs.join("f.spec"), "nonsense"),
        ] {
            std::fs::write(path, text).unwrap();
        }
        let find = |name: &str| locate(name, &sockets, &[&specs]).map_err(|e| e.to_string());
        assert_eq!(find("a").unwrap(), Some(Address::Unix(sockets.join("a.sock"))));
        assert_eq!(find("b").unwrap(), Some(Address::Unix(sockets.join("b/b.sock"))));
        assert_eq!(find("c").unwrap(), Some(Address::Unix("/x/c.sock".into())));
        assert_eq!(find("d").unwrap(), Some(Address::Tcp("127.0.0.1:1".into())));
        assert!(find("e").unwrap_err().contains("TLS"));
        assert!(find("f").unwrap_err().contains("not the address"));
        assert_eq!(find("g").unwrap(), None);
        assert!(matches!(Plugin::find("../x"), Err(Error::NoSuchPlugin { .. })));
    }

    #[test]
    fn answers() {
        let parse = |text: &str| super::parse(text.as_bytes());
        assert_eq!(parse("HTTP/1.0 200 OK\r\nA: b\r\n\r\n{\"Err\":\"\"}").unwrap()["Err"], "");
        assert_eq!(parse("HTTP/1.0 500 No\r\n\r\n{\"Err\":\"full\"}").unwrap()["Err"], "full");
        assert!(parse("HTTP/1.0 404 No\r\n\r\nnothing here").is_err());
        assert!(parse("HTTP/1.0 200 OK\r\n\r\nnothing").is_err() && parse("").is_err());
    }
}
