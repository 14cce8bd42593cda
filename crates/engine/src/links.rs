//! Links on the default bridge (`--link`), as Docker has them: a container there knows another by an alias, in its hosts file and in
//! its environment. On networks of one's own a link is an alias of the name server's instead (`networks/dns.rs`).
//!
//! A record keeps a link as `ID:ALIAS`, so that it survives a rename of the other container.

use crate::Engine;
use crate::container::Container;
use crate::error::{Error, IoDuring as _, blocking};
use crate::model::{Config, HostConfig};
use crate::record::Record;
use std::collections::HashMap;
use std::sync::Arc;

/// Variables of the other container that are not its own.
const NOT_PASSED_ON: &[&str] = &["HOME", "PATH"];

impl Engine {
    /// Checks the links of a container that is made, and ties them to containers instead of names.
    pub(crate) fn tie_links(&self, host: &mut HostConfig) -> Result<(), Error> {
        if host.links.is_empty() {
            return Ok(());
        }
        match host.network_mode.as_str() {
            "bridge" => {}
            mode if mode.starts_with("container:") => {
                return Err(Error::conflict(
                    "conflicting options: container type network can't be used with links. This would result in undefined behavior",
                ));
            }
            mode @ ("host" | "none") => {
                return Err(Error::conflict(format!(
                    "conflicting options: {mode} type networking can't be used with links. This would result in undefined behavior"
                )));
            }
            _ => return Ok(()),
        }
        let mut tied: Vec<String> = Vec::new();
        for link in &host.links {
            let (name, alias) = parse(link)?;
            let other = self.container(name).map_err(|e| {
                Error::invalid(format!("could not get container for {name}: {}", errors::chain(&e)))
            })?;
            let one = format!("{}:{alias}", other.id());
            // Said twice is said once; one alias for two containers is a mistake.
            if tied.contains(&one) {
                continue;
            }
            if tied.iter().any(|t| split(t).1 == alias) {
                return Err(Error::conflict(format!(
                    "Conflict. The alias {alias:?} is given to two containers"
                )));
            }
            tied.push(one);
        }
        host.links = tied;
        Ok(())
    }

    /// The containers that `record` is linked to, with their aliases; those that are gone are left out.
    fn linked(&self, record: &Record) -> Vec<(Record, String)> {
        if record.host_config.network_mode != "bridge" {
            return Vec::new();
        }
        let pair = |link: &String| {
            let (id, alias) = split(link);
            Some((self.container(id).ok()?.record(), alias.to_string()))
        };
        record.host_config.links.iter().filter_map(pair).collect()
    }

    /// What the links of a container that starts add to its environment.
    pub(crate) fn link_environment(&self, record: &Record) -> Result<Vec<String>, Error> {
        let mut out = Vec::new();
        for (other, alias) in self.linked(record) {
            if !other.state.status.is_alive() {
                return Err(Error::conflict(format!(
                    "Cannot link to a non running container: /{} AS /{}/{alias}",
                    other.name, record.name
                )));
            }
            let Some(address) = address(&other) else {
                return Err(Error::conflict(format!(
                    "Cannot link to /{}, as it does not belong to the default network",
                    other.name
                )));
            };
            out.extend(environment(&record.name, &alias, &address, &other.config));
        }
        Ok(out)
    }

    /// The lines that links add to a hosts file.
    pub(crate) fn link_hosts(&self, record: &Record) -> String {
        let line = |(other, alias): (Record, String)| {
            let names = [alias.as_str(), other.config.hostname.as_str(), other.name.as_str()];
            let mut known: Vec<&str> = Vec::new();
            for name in names {
                if !known.contains(&name) {
                    known.push(name);
                }
            }
            Some(format!("{}\t{}\n", address(&other)?, known.join(" ")))
        };
        self.linked(record).into_iter().filter_map(line).collect()
    }

    /// Tells those that are linked to `container`, which has started and may have another address, where it is now.
    pub(crate) async fn relink(self: &Arc<Self>, container: &Container) {
        let id = container.id().as_str();
        let names_it = |c: &Arc<Container>| c.lock().host_config.links.iter().any(|l| split(l).0 == id);
        for parent in self.containers.all().into_iter().filter(names_it) {
            if parent.status().is_alive() {
                self.rewrite_hosts(parent).await;
            }
        }
    }

    /// Writes a running container's hosts file again, in place: it is mounted.
    async fn rewrite_hosts(self: &Arc<Self>, container: Arc<Container>) {
        let engine = self.clone();
        let written = blocking(move || {
            let record = container.record();
            let path = engine.config.container_dir(record.id.as_str()).join("hosts");
            let files = engine.networks.etc_files(&record)?;
            let Some((_, text)) = files.into_iter().find(|(name, _)| *name == "hosts") else { return Ok(()) };
            let text = text + &engine.link_hosts(&record);
            std::fs::write(&path, text).io_during(|| format!("write {}", path.display()))
        });
        if let Err(e) = written.await {
            tracing::warn!(error = %errors::chain(&e), "a linked container's new address is not known");
        }
    }

    /// Removes the link `alias` of the container `parent`.
    ///
    /// # Errors
    ///
    /// NotFound when there is no such container or link.
    pub async fn remove_link(self: &Arc<Self>, parent: &str, alias: &str) -> Result<(), Error> {
        let container = self.container(parent)?;
        let _verb = container.take_verbs().await?;
        let kept = {
            let mut record = container.lock();
            let links = record.host_config.links.clone();
            record.host_config.links.retain(|l| split(l).1 != alias);
            (links.len() != record.host_config.links.len()).then_some(links)
        };
        let Some(before) = kept else {
            return Err(Error::NoSuchPath {
                what: format!("No such link: /{}/{alias}", container.lock().name),
            });
        };
        if let Err(e) = self.save(&container).await {
            container.lock().host_config.links = before;
            return Err(e);
        }
        if container.status().is_alive() {
            self.rewrite_hosts(container.clone()).await;
        }
        Ok(())
    }

    /// The names that links give: `/PARENT/ALIAS`, by the id of the container that is called so.
    pub fn link_names(&self) -> HashMap<String, Vec<String>> {
        let mut out: HashMap<String, Vec<String>> = HashMap::new();
        for parent in self.containers.all() {
            let record = parent.lock();
            if record.host_config.links.is_empty() || record.host_config.network_mode != "bridge" {
                continue;
            }
            for link in &record.host_config.links {
                let (id, alias) = split(link);
                out.entry(id.to_string()).or_default().push(format!("/{}/{alias}", record.name));
            }
        }
        out
    }

    /// A container's links as `inspect` shows them: `/OTHER:/PARENT/ALIAS`.
    pub fn shown_links(&self, record: &Record) -> Vec<String> {
        let show = |(other, alias): (Record, String)| format!("/{}:/{}/{alias}", other.name, record.name);
        self.linked(record).into_iter().map(show).collect()
    }
}

fn address(record: &Record) -> Option<String> {
    record.networks.get("bridge").map(|e| e.ip_address.clone()).filter(|a| !a.is_empty())
}

/// `NAME[:ALIAS]`, where either may be said as a path (`/other:/parent/alias`), as older clients do.
fn parse(link: &str) -> Result<(&str, &str), Error> {
    let bad = || Error::invalid(format!("bad format for links: {link}"));
    let (name, alias) = link.split_once(':').unwrap_or((link, link));
    if alias.contains(':') {
        return Err(bad());
    }
    let name = name.strip_prefix('/').unwrap_or(name);
    let alias = alias.rsplit('/').next().unwrap_or(alias);
    if name.is_empty() || !crate::names::is_valid(alias) && !is_one_letter(alias) {
        return Err(bad());
    }
    Ok((name, alias))
}

fn is_one_letter(alias: &str) -> bool {
    alias.len() == 1 && alias.chars().all(|c| c.is_ascii_alphanumeric())
}

/// A link as records keep it.
fn split(tied: &str) -> (&str, &str) {
    tied.split_once(':').unwrap_or((tied, tied))
}

/// Docker's variables: where the other container is, on which ports it can be reached, and what it was told.
fn environment(parent: &str, alias: &str, address: &str, other: &Config) -> Vec<String> {
    let prefix = alias.to_uppercase().replace(['-', '.'], "_");
    let mut ports: Vec<(u16, &str)> = other
        .exposed_ports
        .keys()
        .filter_map(|port| {
            let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
            Some((number.parse().ok()?, protocol))
        })
        .collect();
    // TCP first, then by number: the first is the one that `PORT` names.
    ports.sort_by_key(|(number, protocol)| (*protocol != "tcp", *number, protocol.to_string()));
    let mut out = Vec::new();
    if let Some((number, protocol)) = ports.first() {
        out.push(format!("{prefix}_PORT={protocol}://{address}:{number}"));
    }
    let mut from = 0;
    while let Some(&(first, protocol)) = ports.get(from) {
        let run = ports[from..]
            .iter()
            .zip(u32::from(first)..)
            .take_while(|((number, p), wanted)| u32::from(*number) == *wanted && *p == protocol)
            .count()
            .max(1);
        if let (true, Some((last, _))) = (run > 1, ports.get(from + run - 1)) {
            let name = format!("{prefix}_PORT_{first}_{}", protocol.to_uppercase());
            out.push(format!("{name}_START={protocol}://{address}:{first}"));
            out.push(format!("{name}_END={protocol}://{address}:{last}"));
            out.push(format!("{name}_PORT_START={first}"));
            out.push(format!("{name}_PORT_END={last}"));
        }
        from += run;
    }
    for (number, protocol) in &ports {
        let name = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
        out.push(format!("{name}={protocol}://{address}:{number}"));
        out.push(format!("{name}_ADDR={address}"));
        out.push(format!("{name}_PORT={number}"));
        out.push(format!("{name}_PROTO={protocol}"));
    }
    out.push(format!("{prefix}_NAME=/{parent}/{alias}"));
    for (key, value) in other.env.iter().filter_map(|e| e.split_once('=')) {
        if !NOT_PASSED_ON.contains(&key) {
            out.push(format!("{prefix}_ENV_{key}={value}"));
        }
    }
    out
}

/// Puts what links say into an environment, whose own variables win.
pub(crate) fn add_environment(env: &mut Vec<String>, links: Vec<String>) {
    let key = |e: &str| e.split('=').next().unwrap_or_default().to_string();
    let known: std::collections::HashSet<String> = env.iter().map(|e| key(e)).collect();
    env.extend(links.into_iter().filter(|e| !known.contains(&key(e))));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read() {
        assert_eq!(parse("db").unwrap(), ("db", "db"));
        assert_eq!(parse("db:d").unwrap(), ("db", "d"));
        assert_eq!(parse("/db:/web/sql").unwrap(), ("db", "sql"));
        for bad in ["", ":", "a:b:c", "a:", ":b", "a:b c", "a:\n"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_variables_are_dockers() {
        let ports = ["53/udp", "6380/tcp", "6379/tcp"].map(|p| (p.to_string(), Default::default()));
        let other = Config {
            env: vec!["PATH=/bin".into(), "A=1=2".into()],
            exposed_ports: ports.into(),
            ..Config::default()
        };
        let out = environment("web", "my-db", "172.17.0.5", &other);
        assert_eq!(
            out,
            [
                "MY_DB_PORT=tcp://172.17.0.5:6379",
                "MY_DB_PORT_6379_TCP_START=tcp://172.17.0.5:6379",
                "MY_DB_PORT_6379_TCP_END=tcp://172.17.0.5:6380",
                "MY_DB_PORT_6379_TCP_PORT_START=6379",
                "MY_DB_PORT_6379_TCP_PORT_END=6380",
                "MY_DB_PORT_6379_TCP=tcp://172.17.0.5:6379",
                "MY_DB_PORT_6379_TCP_ADDR=172.17.0.5",
                "MY_DB_PORT_6379_TCP_PORT=6379",
                "MY_DB_PORT_6379_TCP_PROTO=tcp",
                "MY_DB_PORT_6380_TCP=tcp://172.17.0.5:6380",
                "MY_DB_PORT_6380_TCP_ADDR=172.17.0.5",
                "MY_DB_PORT_6380_TCP_PORT=6380",
                "MY_DB_PORT_6380_TCP_PROTO=tcp",
                "MY_DB_PORT_53_UDP=udp://172.17.0.5:53",
                "MY_DB_PORT_53_UDP_ADDR=172.17.0.5",
                "MY_DB_PORT_53_UDP_PORT=53",
                "MY_DB_PORT_53_UDP_PROTO=udp",
                "MY_DB_NAME=/web/my-db",
                "MY_DB_ENV_A=1=2",
            ]
        );
        let mut env = vec!["MY_DB_NAME=mine".to_string()];
        add_environment(&mut env, out);
        assert_eq!((env.len(), env[0].as_str()), (19, "MY_DB_NAME=mine"));
    }
}
