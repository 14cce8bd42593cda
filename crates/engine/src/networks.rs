//! The networks a container can have, and the addresses given out. What the kernel is told is in crate `network`.

use crate::config::Config;
use crate::error::{During, Error, IoDuring};
use crate::model::{self, EndpointSettings, HostConfig, NetworkingConfig};
use crate::record::{Record, now, random_hex};
use metadata::{Database, RecordKind};
use network::ipam::Pool;
use network::{BridgeConfig, EndpointConfig, Net};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Mutex;

/// The three networks that always exist.
const BUILT_IN: &[&str] = &["bridge", "host", "none"];
/// Name of the interface inside.
const CONTAINER_INTERFACE: &str = "eth0";

/// A network as the database keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub id: String,
    pub name: String,
    /// `bridge`, `host`, `null`.
    pub driver: String,
    pub created: String,
    /// CIDR text; None for networks without addresses.
    #[serde(default)]
    pub subnet: Option<String>,
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
}

#[derive(Debug)]
struct Bridge {
    config: BridgeConfig,
    pool: Pool,
    /// The kernel has bridge and rules.
    ready: bool,
}

/// All networks.
#[derive(Debug)]
pub(crate) struct Networks {
    records: BTreeMap<String, Network>,
    bridge: Mutex<Bridge>,
    /// Held while bridge and rules are made, so that two first containers do not make them twice.
    setup: Mutex<()>,
}

impl Networks {
    /// Reads the networks, and makes the records of those that always exist.
    pub(crate) fn open(config: &Config, db: &Database) -> Result<Networks, Error> {
        let doing = || "open networks".to_string();
        let mut records = BTreeMap::new();
        for row in db.list_records(RecordKind::Network).during(doing)? {
            let network: Network =
                serde_json::from_str(&row.body).map_err(std::io::Error::from).io_during(doing)?;
            records.insert(network.name.clone(), network);
        }
        for name in BUILT_IN.iter().filter(|n| !records.contains_key(**n)).copied().collect::<Vec<_>>() {
            let network = built_in(name)?;
            let body = serde_json::to_string(&network).map_err(std::io::Error::from).io_during(doing)?;
            db.put_record(RecordKind::Network, &network.id, name, &body).during(doing)?;
            records.insert(name.to_string(), network);
        }
        let record = &records["bridge"];
        let subnet: Net = record
            .subnet
            .as_deref()
            .and_then(|s| s.parse().ok())
            .ok_or_else(|| Error::invalid("the record of network bridge has no subnet"))?;
        let gateway = record.gateway.unwrap_or_else(|| network::ipam::default_gateway(subnet));
        let bridge = Bridge {
            config: BridgeConfig {
                name: config.bridge.clone(),
                owner: record.id.clone(),
                subnet,
                gateway,
                mtu: config.mtu,
                masquerade: true,
                internal: false,
                icc: true,
            },
            pool: Pool::new(subnet, gateway, &[]).during(doing)?,
            ready: false,
        };
        Ok(Networks { records, bridge: Mutex::new(bridge), setup: Mutex::default() })
    }

    /// All networks by name.
    pub(crate) fn list(&self) -> Vec<Network> {
        self.records.values().cloned().collect()
    }

    /// The networks that a container will have, checked.
    pub(crate) fn plan(
        &self,
        host: &HostConfig,
        request: &NetworkingConfig,
        config: &model::Config,
    ) -> Result<BTreeMap<String, EndpointSettings>, Error> {
        crate::ports::check(host, config)?;
        let mode = host.network_mode.as_str();
        if let Some(other) = request
            .endpoints_config
            .keys()
            .find(|n| *n != mode && *n != "default" && !BUILT_IN.contains(&n.as_str()))
        {
            return Err(Error::unsupported(format!("connecting a container to a second network ({other})")));
        }
        if mode.starts_with("container:") {
            return Ok(BTreeMap::new());
        }
        // An unknown network is an error of the start, as in Docker: clients take any 404 of a create for a missing image.
        let Ok(record) = self.find(mode) else {
            return Ok([(mode.to_string(), EndpointSettings::default())].into());
        };
        let given = request.endpoints_config.get(mode).or_else(|| request.endpoints_config.get("default"));
        let mut settings = given.cloned().flatten().unwrap_or_default();
        let wants_address = settings
            .ipam_config
            .as_ref()
            .is_some_and(|i| !i.ipv4_address.is_empty() || !i.ipv6_address.is_empty());
        if wants_address {
            return Err(Error::invalid(
                "user specified IP address is supported on user defined networks only",
            ));
        }
        settings.network_id.clone_from(&record.id);
        Ok([(record.name.clone(), settings)].into())
    }

    /// The network with this name, id, or unique beginning of an id.
    pub(crate) fn find(&self, name: &str) -> Result<&Network, Error> {
        let by_id = || {
            let mut matches = self.records.values().filter(|n| !name.is_empty() && n.id.starts_with(name));
            matches.next().filter(|_| matches.next().is_none())
        };
        self.records.get(name).or_else(by_id).ok_or_else(|| Error::NoSuchNetwork { name: name.into() })
    }

    /// Gives addresses to a container that is about to start.
    pub(crate) fn allocate(&self, record: &Record) -> Result<BTreeMap<String, EndpointSettings>, Error> {
        let mut networks = record.networks.clone();
        for (name, settings) in &mut networks {
            self.find(name)?;
            settings.endpoint_id = random_hex();
            if name != "bridge" {
                continue;
            }
            let mut bridge = self.lock();
            let address =
                bridge.pool.allocate(None).during(|| "allocate an address on network bridge".into())?;
            settings.ip_address = address.to_string();
            settings.ip_prefix_len = bridge.config.subnet.prefix();
            settings.gateway = bridge.config.gateway.to_string();
            settings.mac_address = match record.config.mac_address.as_str() {
                "" => mac_text(network::mac_for(address)),
                asked => asked.to_string(),
            };
        }
        Ok(networks)
    }

    /// Takes the addresses of a container that runs already.
    pub(crate) fn adopt(&self, record: &Record) {
        if !record.state.status.is_alive() {
            return;
        }
        if let Some(address) = address_of(record) {
            // Two records with one address cannot be; if they were, the second simply keeps what it has.
            drop(self.lock().pool.allocate(Some(address)));
        }
    }

    /// Makes the container's network namespace and its interfaces. Blocking.
    pub(crate) fn connect(
        &self,
        config: &Config,
        record: &Record,
        endpoints: &BTreeMap<String, EndpointSettings>,
    ) -> Result<(), Error> {
        let mode = record.host_config.network_mode.as_str();
        if mode == "host" || mode.starts_with("container:") {
            return Ok(());
        }
        let path = config.netns(record.id.as_str());
        let doing = || format!("set up network {mode}");
        // Left by a task whose end nobody heard.
        network::remove_sandbox(&path).during(doing)?;
        if let Some(settings) = endpoints.get("bridge") {
            self.ensure_bridge()?;
            network::create_sandbox(&path).during(doing)?;
            let endpoint = self.endpoint(record, settings)?;
            network::attach(&path, &endpoint).during(doing)?;
            let mappings = crate::ports::mappings(record, &endpoint.bridge);
            if !mappings.is_empty() {
                network::ports::publish(&mappings).during(doing)?;
            }
            return Ok(());
        }
        network::create_sandbox(&path).during(doing)
    }

    fn ensure_bridge(&self) -> Result<(), Error> {
        let _setup = self.setup.lock().expect("no holder panics");
        let config = {
            let bridge = self.lock();
            if bridge.ready {
                return Ok(());
            }
            bridge.config.clone()
        };
        network::ensure_bridge(&config).during(|| format!("set up bridge {}", config.name))?;
        self.lock().ready = true;
        Ok(())
    }

    fn endpoint(&self, record: &Record, settings: &EndpointSettings) -> Result<EndpointConfig, Error> {
        let bridge = self.lock();
        let address =
            settings.ip_address.parse().map_err(|_| Error::invalid("the endpoint has no address"))?;
        Ok(EndpointConfig {
            bridge: bridge.config.name.clone(),
            host_interface: host_interface(settings),
            container_interface: CONTAINER_INTERFACE.into(),
            mac: parse_mac(&settings.mac_address)?,
            address,
            prefix: bridge.config.subnet.prefix(),
            gateway: Some(bridge.config.gateway),
            mtu: bridge.config.mtu,
            owner: record.id.to_string(),
            isolated: !bridge.config.icc,
        })
    }

    /// Takes the container's network down again. Idempotent. Blocking.
    pub(crate) fn disconnect(&self, config: &Config, record: &Record) -> Result<(), Error> {
        let path = config.netns(record.id.as_str());
        // The kernel removes the veth pair with its namespace, on its own time.
        let mut result = network::remove_sandbox(&path).during(|| "release network".into());
        let mappings = crate::ports::mappings(record, &config.bridge);
        if !mappings.is_empty() {
            result = result.and(network::ports::unpublish(&mappings).during(|| "take ports back".into()));
        }
        if let Some(address) = address_of(record) {
            self.lock().pool.release(address);
        }
        result
    }

    /// Removes namespaces and interfaces that no running container owns. Blocking.
    pub(crate) fn sweep(&self, config: &Config, alive: &HashSet<String>) {
        if let Ok(entries) = std::fs::read_dir(config.exec_root.join("netns")) {
            for name in entries.flatten().filter_map(|e| e.file_name().into_string().ok()) {
                if !alive.contains(&name)
                    && let Err(e) = network::remove_sandbox(&config.netns(&name))
                {
                    tracing::warn!(container_id = name, error = %errors::chain(&e), "stray network namespace");
                }
            }
        }
        let bridge = self.lock().config.name.clone();
        match network::list_endpoints() {
            Ok(endpoints) => {
                // Another daemon's endpoints hang on another bridge; one without a bridge is nobody's.
                let ours = |e: &network::Endpoint| e.bridge.as_ref() == Some(&bridge);
                for endpoint in endpoints.into_iter().filter(|e| ours(e) && !alive.contains(&e.owner)) {
                    if let Err(e) = network::detach(&endpoint.host_interface) {
                        tracing::warn!(interface = endpoint.host_interface, error = %errors::chain(&e), "stray interface");
                    }
                }
            }
            Err(e) => tracing::warn!(error = %errors::chain(&e), "interfaces not listed"),
        }
        if !alive.is_empty()
            && let Err(e) = self.ensure_bridge()
        {
            tracing::error!(error = %errors::chain(&e), "bridge not restored");
        }
    }

    /// Restores the published ports of containers that run, should somebody have flushed them. Blocking.
    pub(crate) fn restore_ports(&self, config: &Config, record: &Record) {
        let mappings = crate::ports::mappings(record, &config.bridge);
        if !mappings.is_empty()
            && let Err(e) = network::ports::publish(&mappings)
        {
            tracing::error!(container_id = record.id.as_str(), error = %errors::chain(&e), "ports not restored");
        }
    }

    /// (file name, text) of hosts, hostname and resolv.conf.
    pub(crate) fn etc_files(&self, record: &Record) -> Result<Vec<(&'static str, String)>, Error> {
        let host = &record.host_config;
        let hostname = format!("{}\n", record.config.hostname);
        let host_mode = host.network_mode == "host";
        let resolv_source = resolver_text();
        let resolv = if host_mode
            && host.dns.is_empty()
            && host.dns_search.is_empty()
            && host.dns_options.is_empty()
        {
            resolv_source
        } else {
            let servers = host.dns.iter().map(|s| parse_address(s)).collect::<Result<Vec<_>, _>>()?;
            network::files::resolv_conf(&resolv_source, &servers, &host.dns_search, &host.dns_options)
                .during(|| "write resolv.conf".into())?
        };
        let extra = host.extra_hosts.iter().map(|e| self.extra_host(e)).collect::<Result<Vec<_>, _>>()?;
        let hosts = if host_mode {
            let mut text = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            for (name, address) in &extra {
                text.push_str(&format!("{address}\t{name}\n"));
            }
            text
        } else {
            let addresses: Vec<IpAddr> = address_of(record).map(IpAddr::V4).into_iter().collect();
            network::files::hosts(&record.config.hostname, &record.config.domainname, &addresses, &extra)
                .during(|| "write hosts".into())?
        };
        Ok(vec![("hosts", hosts), ("hostname", hostname), ("resolv.conf", resolv)])
    }

    /// `name:address`, where `host-gateway` means the bridge's address.
    fn extra_host(&self, text: &str) -> Result<(String, IpAddr), Error> {
        let error = || Error::invalid(format!("bad format for add-host: {text:?}"));
        let (name, address) = text.split_once([':', '=']).ok_or_else(error)?;
        if address == "host-gateway" {
            return Ok((name.into(), IpAddr::V4(self.lock().config.gateway)));
        }
        let bare = address.trim_start_matches('[').trim_end_matches(']');
        Ok((name.into(), bare.parse().map_err(|_| error())?))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Bridge> {
        self.bridge.lock().expect("no holder panics")
    }
}

impl crate::Engine {
    /// All networks by name.
    pub fn list_networks(&self) -> Vec<Network> {
        self.networks.list()
    }

    /// The network with this name, id, or unique beginning of an id.
    pub fn network(&self, name: &str) -> Result<Network, Error> {
        self.networks.find(name).cloned()
    }
}

/// Forgets the addresses of a task that has ended; names and what the user asked for stay.
pub(crate) fn clear(networks: &mut BTreeMap<String, EndpointSettings>) {
    for settings in networks.values_mut() {
        settings.endpoint_id.clear();
        settings.gateway.clear();
        settings.ip_address.clear();
        settings.ip_prefix_len = 0;
        settings.mac_address.clear();
    }
}

fn built_in(name: &str) -> Result<Network, Error> {
    let mut network = Network {
        id: random_hex(),
        name: name.into(),
        driver: if name == "none" { "null".into() } else { name.into() },
        created: now(),
        subnet: None,
        gateway: None,
    };
    if name == "bridge" {
        let taken = network::host_subnets().during(|| "list the host's subnets".into())?;
        let subnet =
            network::ipam::choose_subnet(&taken).during(|| "choose a subnet for network bridge".into())?;
        network.subnet = Some(subnet.to_string());
        network.gateway = Some(network::ipam::default_gateway(subnet));
    }
    Ok(network)
}

/// New for each task: the kernel takes the interface of the last one away on its own time. Linux allows 15 characters.
fn host_interface(settings: &EndpointSettings) -> String {
    format!("veth{}", settings.endpoint_id.chars().take(7).collect::<String>())
}

fn address_of(record: &Record) -> Option<Ipv4Addr> {
    record.networks.get("bridge").and_then(|s| s.ip_address.parse().ok())
}

fn parse_address(text: &str) -> Result<IpAddr, Error> {
    text.parse().map_err(|_| Error::invalid(format!("{text} is not an IP address")))
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

fn parse_mac(text: &str) -> Result<[u8; 6], Error> {
    let error = || Error::invalid(format!("invalid MAC address: {text}"));
    let bytes: Vec<u8> = text
        .split([':', '-'])
        .map(|p| u8::from_str_radix(p, 16))
        .collect::<Result<_, _>>()
        .map_err(|_| error())?;
    let mac: [u8; 6] = bytes.try_into().map_err(|_| error())?;
    // A group address cannot be a station's own.
    if mac[0] & 1 == 1 { Err(error()) } else { Ok(mac) }
}

/// The resolver configuration that leads out of this host: systemd-resolved's own where only its stub is listed.
fn resolver_text() -> String {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    let text = read("/etc/resolv.conf");
    let servers: Vec<&str> =
        text.lines().filter_map(|l| l.strip_prefix("nameserver")).map(str::trim).collect();
    if servers == ["127.0.0.53"] {
        let resolved = read("/run/systemd/resolve/resolv.conf");
        if !resolved.is_empty() {
            return resolved;
        }
    }
    text
}
