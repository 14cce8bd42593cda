//! The files by which the daemon tells names. Lines of words; the first is the version.
//!
//! ```text
//! DIR/networks/<network id>              DIR/sandboxes/<container id>
//!   brig-dns 1                             brig-dns 1
//!   network backend                        netns /run/brig/netns/<container id>
//!   name web 172.18.0.2                    network <network id>
//!   name web fd00::2                       link db <network id> web
//!   ptr 172.18.0.2 web.backend             forward
//!                                          ndots
//!                                          server host 10.0.0.1
//! ```
//!
//! `forward` allows names that are none of ours to be asked of the servers, `host` ones from the host's network, `inside`
//! ones from the container's. `ndots` says that the user chose it: a name without a dot is then for the search list.
//! Each file is written whole and renamed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

/// The first line.
const VERSION: &str = "brig-dns 1";
/// Largest file that is read: 64 bytes for each of 16,384 containers with a few names.
pub(crate) const MAX_FILE: u64 = 16 << 20;

/// The names of one network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkTable {
    pub name: String,
    /// Lower case.
    pub names: HashMap<String, Vec<IpAddr>>,
    pub pointers: HashMap<IpAddr, String>,
}

/// Where a server is asked from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Host,
    Inside,
}

/// What one container's server does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxTable {
    pub namespace: PathBuf,
    /// Ids, in the order in which names are looked for.
    pub networks: Vec<String>,
    /// Names that only this container knows: alias, network's id, name there.
    pub links: Vec<(String, String, String)>,
    pub servers: Vec<(Side, IpAddr)>,
    pub forward: bool,
    pub ndots: bool,
}

impl NetworkTable {
    /// The text of the file.
    pub fn render(&self) -> String {
        let mut lines = vec![VERSION.to_string(), format!("network {}", self.name)];
        let mut names: Vec<_> = self.names.iter().collect();
        names.sort();
        for (name, addresses) in names {
            lines.extend(addresses.iter().map(|a| format!("name {name} {a}")));
        }
        let mut pointers: Vec<_> = self.pointers.iter().collect();
        pointers.sort();
        lines.extend(pointers.into_iter().map(|(a, name)| format!("ptr {a} {name}")));
        lines.join("\n") + "\n"
    }

    /// Reads a file's text; None if it is not one.
    pub fn parse(text: &str) -> Option<NetworkTable> {
        let mut out = NetworkTable::default();
        for words in lines(text)? {
            match words.as_slice() {
                ["network", name] => out.name = (*name).into(),
                ["name", name, address] => {
                    out.names.entry(name.to_ascii_lowercase()).or_default().push(address.parse().ok()?);
                }
                ["ptr", address, name] => drop(out.pointers.insert(address.parse().ok()?, (*name).into())),
                _ => return None,
            }
        }
        Some(out)
    }
}

impl SandboxTable {
    /// The text of the file.
    pub fn render(&self) -> String {
        let mut lines = vec![VERSION.to_string(), format!("netns {}", self.namespace.display())];
        lines.extend(self.networks.iter().map(|id| format!("network {id}")));
        lines.extend(self.links.iter().map(|(alias, id, name)| format!("link {alias} {id} {name}")));
        lines.extend(self.forward.then(|| "forward".into()));
        lines.extend(self.ndots.then(|| "ndots".into()));
        lines.extend(self.servers.iter().map(|(side, address)| match side {
            Side::Host => format!("server host {address}"),
            Side::Inside => format!("server inside {address}"),
        }));
        lines.join("\n") + "\n"
    }

    /// Reads a file's text; None if it is not one.
    pub fn parse(text: &str) -> Option<SandboxTable> {
        let mut out = SandboxTable::default();
        for words in lines(text)? {
            match words.as_slice() {
                ["netns", path] => out.namespace = path.into(),
                ["network", id] => out.networks.push((*id).into()),
                ["link", alias, id, name] => {
                    out.links.push((alias.to_ascii_lowercase(), (*id).into(), name.to_ascii_lowercase()));
                }
                ["forward"] => out.forward = true,
                ["ndots"] => out.ndots = true,
                ["server", "host", address] => out.servers.push((Side::Host, address.parse().ok()?)),
                ["server", "inside", address] => out.servers.push((Side::Inside, address.parse().ok()?)),
                _ => return None,
            }
        }
        (!out.namespace.as_os_str().is_empty()).then_some(out)
    }
}

fn lines(text: &str) -> Option<impl Iterator<Item = Vec<&str>>> {
    let rest = text.strip_prefix(VERSION)?.strip_prefix('\n')?;
    Some(rest.lines().map(|line| line.split(' ').collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut network = NetworkTable { name: "backend".into(), ..NetworkTable::default() };
        network.names.insert("web".into(), vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()]);
        network.pointers.insert("10.0.0.2".parse().unwrap(), "web.backend".into());
        assert_eq!(NetworkTable::parse(&network.render()), Some(network));
        let sandbox = SandboxTable {
            namespace: "/run/x".into(),
            networks: vec!["n".into()],
            links: vec![("db".into(), "n".into(), "web".into())],
            servers: vec![(Side::Host, "10.0.0.1".parse().unwrap()), (Side::Inside, "::1".parse().unwrap())],
            forward: true,
            ndots: false,
        };
        assert_eq!(SandboxTable::parse(&sandbox.render()), Some(sandbox));
    }

    #[test]
    fn other_versions_and_nonsense_are_refused() {
        for text in
            ["", "brig-dns 2\nnetwork a\n", "brig-dns 1", "brig-dns 1\nname a\n", "brig-dns 1\nname a b\n"]
        {
            assert_eq!(NetworkTable::parse(text), None, "{text:?}");
        }
        assert_eq!(SandboxTable::parse("brig-dns 1\nforward\n"), None, "without a namespace");
    }
}
