//! The networks a container can have, and the addresses given out. What the kernel is told is in crate `network`.
//!
//! | module | what |
//! |---|---|
//! | `options` | what a network's options mean |
//! | `record` | the document in the database, and a client's request for one |
//! | `addresses` | the pools of a network, and an endpoint's place in them |
//! | `manage` | create, remove, prune |
//! | `ready` | sandboxes made ahead |
//! | `retired` | bridges that wait for being deleted |
//! | `cluster` | networks that several hosts share |
//! | `live` | connecting and disconnecting, also while the container runs |
//! | `etc` | hosts, hostname and resolv.conf |
//! | `dns` | what the containers' name server is told |
//!
//! What a killed daemon leaves: a bridge without a record (made before its record, removed after it), and an interface
//! of a running container that its record does not know. [`Networks::sweep`] removes both.

mod addresses;
mod cluster;
mod dns;
mod etc;
mod live;
mod manage;
mod options;
mod record;
mod retired;

use crate::ahead::Ahead;
use crate::config::Config;
use crate::error::{During, Error, IoDuring};
use crate::model::{self, EndpointSettings, HostConfig, NetworkingConfig};
use crate::record::{Record, random_hex};
use addresses::Entry;
pub(crate) use addresses::{dns_names, parse_mac};
use cluster::Cluster;
pub use cluster::{ClusterConfig, RemoteEndpoint};
pub(crate) use etc::parse_extra_host;
use metadata::{Database, RecordKind};
use network::{
    BridgeConfig, BridgeSubnet, DefaultRoute, EndpointAddress, EndpointConfig, GatewayMode, Interface,
    ReadySandbox,
};
use options::{BridgeOptions, SharedMode};
pub use record::{ConfigReference, IpamRequest, Network, NetworkPool, NetworkRequest, PoolRequest};
use retired::Retired;
use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, RwLock};

/// The three networks that always exist.
pub(crate) const BUILT_IN: &[&str] = &["bridge", "host", "none"];
/// Names the interface inside.
const INTERFACE_NAME: &str = "com.docker.network.endpoint.ifname";
/// Settings of the interface inside: `net.ipv4.conf.IFNAME.log_martians=1,…`.
const INTERFACE_SYSCTLS: &str = "com.docker.network.endpoint.sysctls";

/// All networks.
#[derive(Debug)]
pub(crate) struct Networks {
    entries: RwLock<BTreeMap<String, Arc<Entry>>>,
    /// Held while a network is made: two must not choose the same name or subnet.
    making: Mutex<()>,
    /// Tells our bridges from other daemons'.
    engine_id: String,
    names: Arc<dns::NameServer>,
    bridge: String,
    mtu: u32,
    /// The other hosts, if there are any.
    cluster: Option<Arc<Cluster>>,
    retired: Arc<Retired>,
    ready: Arc<Ahead<network::ReadySandbox>>,
}

impl Networks {
    /// Reads the networks, and makes the records of those that always exist.
    pub(crate) fn open(config: &Config, db: &Database) -> Result<Networks, Error> {
        let doing = || "open networks".to_string();
        network::firewall::use_table_of(&config.bridge).during(doing)?;
        let engine_id = crate::system::engine_id(&config.data_root)?;
        let networks = Networks {
            entries: RwLock::default(),
            making: Mutex::default(),
            cluster: Cluster::new(config, &engine_id)?.map(Arc::new),
            engine_id,
            names: Arc::new(dns::NameServer::new(config)),
            bridge: config.bridge.clone(),
            mtu: config.mtu,
            retired: Arc::default(),
            ready: Arc::default(),
        };
        for row in db.list_records(RecordKind::Network).during(doing)? {
            let mut network: Network =
                serde_json::from_str(&row.body).map_err(std::io::Error::from).io_during(doing)?;
            network.modernise();
            networks.insert(networks.entry(network).during(doing)?);
        }
        for name in BUILT_IN.iter().filter(|name| networks.find(name).is_err()) {
            networks.make_built_in(name, db)?;
        }
        Ok(networks)
    }

    fn make_built_in(&self, name: &str, db: &Database) -> Result<(), Error> {
        let mut network = Network::built_in(name);
        // Two daemons that start at once choose one after the other, and the second sees the first one's bridge.
        let _alone = manage::lock_host();
        if name == "bridge" {
            self.choose_pools(&mut network)?;
        }
        let entry = self.entry(network).during(|| format!("make network {name}"))?;
        if let Err(e) = self.ensure(&entry) {
            // A daemon that may not make it serves all the same; the container that needs it hears why.
            tracing::warn!(network = name, error = %errors::chain(&e), "bridge not made");
        }
        self.put(db, &entry.record)?;
        self.insert(entry);
        Ok(())
    }

    /// Writes a network's record.
    fn put(&self, db: &Database, network: &Network) -> Result<(), Error> {
        let doing = || format!("save network {}", network.name);
        let body = serde_json::to_string(network).map_err(std::io::Error::from).io_during(doing)?;
        db.put_record(RecordKind::Network, &network.id, &network.name, &body).during(doing)
    }

    /// The network in memory; one that hosts share knows of the store.
    fn entry(&self, network: Network) -> Result<Entry, Error> {
        let shared = (network.driver == "overlay").then(|| self.cluster.clone()).flatten();
        Entry::new(network, shared)
    }

    /// Whether the container has an endpoint on a network that hosts share: that takes a word with the store.
    pub(crate) fn has_shared(&self, record: &Record) -> bool {
        record.networks.keys().any(|name| self.find(name).is_ok_and(|e| e.record.driver == "overlay"))
    }

    fn insert(&self, entry: Entry) {
        let mut entries = self.entries.write().expect("no holder panics");
        entries.insert(entry.record.name.clone(), Arc::new(entry));
    }

    /// All networks by name.
    pub(crate) fn list(&self) -> Vec<Network> {
        self.entries().into_iter().map(|e| e.record.clone()).collect()
    }

    fn entries(&self) -> Vec<Arc<Entry>> {
        self.entries.read().expect("no holder panics").values().cloned().collect()
    }

    /// The network with this name, id, or unique beginning of an id.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Entry>, Error> {
        let entries = self.entries.read().expect("no holder panics");
        if let Some(found) = entries.values().find(|e| e.record.id == name).or_else(|| entries.get(name)) {
            return Ok(found.clone());
        }
        let mut matches = entries.values().filter(|e| !name.is_empty() && e.record.id.starts_with(name));
        match (matches.next(), matches.next()) {
            (Some(found), None) => Ok(found.clone()),
            (Some(_), Some(_)) => Err(Error::invalid(format!(
                "network {name} is ambiguous ({} matches found based on ID prefix)",
                matches.count() + 2
            ))),
            (None, _) => Err(Error::NoSuchNetwork { name: name.into() }),
        }
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
        let asked = &request.endpoints_config;
        if mode.starts_with("container:") {
            return match asked.keys().next() {
                None => Ok(BTreeMap::new()),
                Some(_) => Err(Error::invalid(SHARED_NAMESPACE)),
            };
        }
        let mut out = BTreeMap::new();
        let canonical = |name: &str| match self.find(if name == "default" { "bridge" } else { name }) {
            Ok(entry) => (entry.record.name.clone(), Some(entry)),
            // An unknown network is an error of the start, as in Docker: clients take any 404 of a create for a
            // missing image.
            Err(_) => (name.to_string(), None),
        };
        let first = canonical(mode).0;
        for (name, settings) in
            std::iter::once((mode, None)).chain(asked.iter().map(|(n, s)| (n.as_str(), Some(s))))
        {
            let (name, entry) = canonical(name);
            let mut settings = settings.cloned().flatten().unwrap_or_default();
            if name == first && settings.mac_address.is_empty() {
                settings.mac_address.clone_from(&config.mac_address);
            }
            if name == first && !BUILT_IN.contains(&name.as_str()) && !host.links.is_empty() {
                settings.links.get_or_insert_default().extend(host.links.iter().cloned());
            }
            live::check(&name, entry.as_deref(), &mut settings)?;
            live::check_together(&name, out.keys().filter(|other| **other != name))?;
            out.insert(name, settings);
        }
        Ok(out)
    }

    /// Gives addresses to a container that is about to start.
    pub(crate) fn allocate(&self, record: &Record) -> Result<BTreeMap<String, EndpointSettings>, Error> {
        let mut networks = record.networks.clone();
        let mut done: Vec<Arc<Entry>> = Vec::new();
        let result = networks.iter_mut().try_for_each(|(name, settings)| {
            let entry = self.find(name)?;
            entry.allocate(record, settings)?;
            done.push(entry);
            Ok(())
        });
        if let Err(e) = result {
            for entry in done {
                entry.release(record, &networks[&entry.record.name]);
            }
            return Err(e);
        }
        Ok(networks)
    }

    /// Takes the addresses of a container that runs already.
    pub(crate) fn adopt(&self, record: &Record) {
        if !record.state.status.is_alive() {
            return;
        }
        for (name, settings) in &record.networks {
            if let Ok(entry) = self.find(name) {
                entry.adopt(record, settings);
            }
        }
    }

    /// Makes the container's network namespace, or takes `namespace`, which is new, and its interfaces. Blocking.
    pub(crate) fn connect(
        &self,
        config: &Config,
        record: &Record,
        endpoints: &BTreeMap<String, EndpointSettings>,
        namespace: Option<&OwnedFd>,
    ) -> Result<(), Error> {
        let mode = record.host_config.network_mode.as_str();
        if mode == "host" || mode.starts_with("container:") {
            return Ok(());
        }
        let path = config.netns(record.id.as_str());
        let doing = || format!("set up network {mode}");
        // Left by a task whose end nobody heard.
        network::remove_sandbox(&path).during(doing)?;
        let gateways = self.gateways(endpoints);
        let mut names = HashSet::new();
        // The network that the container was made with gets the first interface.
        let mut order: Vec<_> = endpoints.iter().collect();
        order.sort_by_key(|(name, _)| name.as_str() != mode);
        let first = order.first().and_then(|(name, _)| self.find(name).ok());
        let mut ready = first
            .filter(|e| namespace.is_none() && e.record.has_bridge())
            .and_then(|_| self.ready.take("sandboxes", make_ready));
        match namespace {
            Some(namespace) => network::create_sandbox_of(&path, namespace.as_fd()).during(doing)?,
            None if ready.is_none() => network::create_sandbox(&path).during(doing)?,
            None => {}
        }
        for (name, settings) in order {
            let entry = self.find(name)?;
            if entry.record.has_interfaces() {
                let interface = interface_name(&entry, settings, &names)?;
                names.insert(interface.clone());
                self.attach(config, record, &entry, settings, (&interface, ready.take()), &gateways)?;
            }
        }
        let mappings = self.port_mappings(endpoints, &record.ports);
        if !mappings.is_empty() {
            network::ports::publish(&mappings).during(doing)?;
        }
        self.serve_names(config, record, endpoints)
    }

    /// Makes one interface of the container, its first one with the sandbox where one was made ahead.
    fn attach(
        &self,
        config: &Config,
        record: &Record,
        entry: &Entry,
        settings: &EndpointSettings,
        (interface, ready): (&str, Option<ReadySandbox>),
        gateways: &Gateways,
    ) -> Result<(), Error> {
        let doing = || format!("attach to network {}", entry.record.name);
        self.ensure(entry)?;
        let path = config.netns(record.id.as_str());
        let endpoint = self.endpoint(record, entry, settings, interface, gateways)?;
        let parent = entry.record.parent().name;
        match entry.record.shared_mode()? {
            None => match ready.map(|ready| ready.attach(&path, &endpoint)) {
                None => network::attach(&path, &endpoint),
                Some(Ok(())) => Ok(()),
                // Others may have got at what lay ready: it is not the container's mistake.
                Some(Err(e)) => {
                    tracing::debug!(container_id = %record.id, error = %errors::chain(&e), "a sandbox made ahead is no good");
                    self.ready.forget();
                    network::create_sandbox(&path).and_then(|()| network::attach(&path, &endpoint))
                }
            },
            Some(SharedMode::Macvlan(mode)) => network::attach_macvlan(&path, &parent, mode, &endpoint),
            Some(SharedMode::Ipvlan(mode, flag)) => {
                network::attach_ipvlan(&path, &parent, mode, flag, &endpoint)
            }
        }
        .during(doing)?;
        crate::rates::apply(&path, &entry.record.driver, settings, &record.host_config, true)?;
        let sysctls = settings.driver_opts.as_ref().and_then(|o| o.get(INTERFACE_SYSCTLS));
        for (name, value) in live::sysctls(sysctls.map_or("", String::as_str), interface)? {
            network::set_sandbox_sysctl(&path, &name, &value).during(doing)?;
        }
        Ok(())
    }

    /// The interface as the kernel is to make it.
    fn endpoint(
        &self,
        record: &Record,
        entry: &Entry,
        settings: &EndpointSettings,
        interface: &str,
        gateways: &Gateways,
    ) -> Result<EndpointConfig, Error> {
        let network = &entry.record;
        let bridge = self.bridge_config(network)?;
        let error = || Error::invalid(format!("the endpoint on network {} has no address", network.name));
        let mut addresses = Vec::new();
        for (text, prefix, leads) in [
            (&settings.ip_address, settings.ip_prefix_len, &gateways.ipv4),
            (&settings.global_ipv6_address, settings.global_ipv6_prefix_len, &gateways.ipv6),
        ] {
            if !text.is_empty() {
                let address: IpAddr = text.parse().map_err(|_| error())?;
                let leads = leads.as_ref() == Some(&network.name);
                let gateway = default_gateway(network, settings, address.is_ipv6()).filter(|_| leads);
                addresses.push(EndpointAddress { address, prefix, gateway });
            }
        }
        if addresses.is_empty() {
            return Err(error());
        }
        let of_link = settings.ipam_config.iter().flat_map(|i| &i.link_local_ips);
        addresses.extend(of_link.filter_map(|a| Some(EndpointAddress::of_link(a.parse().ok()?))));
        Ok(EndpointConfig {
            bridge: bridge.name,
            host_interface: host_interface(settings),
            container_interface: interface.into(),
            // Those of an ipvlan network have their parent's.
            mac: match settings.mac_address.as_str() {
                "" => [0; 6],
                text => addresses::parse_mac(text)?,
            },
            addresses,
            mtu: bridge.mtu,
            owner: record.id.to_string(),
            isolated: !bridge.icc,
            // Who may configure its interfaces may have any address; so do those who announce addresses for others.
            guarded: !may_configure(&record.host_config) && !network.bridge_options()?.spoofing,
        })
    }

    /// Makes every interface of a running container keep to the limits of its rates. Blocking.
    pub(crate) fn limit_rates(
        &self,
        config: &Config,
        record: &Record,
        host: &HostConfig,
    ) -> Result<(), Error> {
        let path = config.netns(record.id.as_str());
        for (name, settings) in &record.networks {
            let entry = self.find(name)?;
            if entry.record.has_interfaces() {
                crate::rates::apply(&path, &entry.record.driver, settings, host, false)?;
            }
        }
        Ok(())
    }

    /// The bridge that the network is, as it should be.
    pub(crate) fn bridge_config(&self, network: &Network) -> Result<BridgeConfig, Error> {
        let BridgeOptions { name, icc, masquerade, mtu, modes, bare, trusted, .. } =
            network.bridge_options()?;
        let missing = || Error::invalid(format!("the record of network {} has no subnet", network.name));
        let subnet = |pool: &NetworkPool| {
            let subnet = pool.net()?;
            let side = usize::from(subnet.is_ipv6());
            // A record of the first version may name no gateway.
            let first = || subnet.v4().map(|net| network::ipam::default_gateway(net).into());
            let gateway = pool.gateway.or_else(first).filter(|_| !bare[side]);
            Ok(BridgeSubnet { subnet, gateway, mode: modes[side] })
        };
        let subnets = network.pools.iter().map(subnet).collect::<Result<Vec<_>, Error>>()?;
        if subnets.is_empty() {
            return Err(missing());
        }
        let built_in = !network.is_user_defined();
        Ok(BridgeConfig {
            name: match name {
                _ if built_in => self.bridge.clone(),
                Some(name) => name,
                None => format!("br-{}", &network.id[..12]),
            },
            owner: if built_in { network.id.clone() } else { format!("{}:{}", network.id, self.engine_id) },
            subnets,
            mtu: mtu.or(network.shared_mtu).unwrap_or(self.mtu),
            masquerade,
            internal: network.internal,
            icc,
            trusted,
        })
    }

    /// Makes the kernel's part of the network unless that was done. Blocking.
    pub(crate) fn ensure(&self, entry: &Entry) -> Result<(), Error> {
        if !entry.record.has_interfaces() {
            return Ok(());
        }
        let mut ready = entry.ready.lock().expect("no holder panics");
        if entry.is_closed() {
            // Whoever removes it must not find it made again.
            return Ok(());
        }
        if let (false, Some(mode)) = (*ready, entry.record.shared_mode()?) {
            let parent = entry.record.parent();
            let owner = format!("{}:{}", entry.record.id, self.engine_id);
            let doing = || format!("make network {}", entry.record.name);
            mode.sharing().check().during(doing)?;
            network::ensure_parent(&parent.name, parent.is_dummy, &owner).during(doing)?;
            *ready = true;
        }
        if !*ready {
            let config = self.bridge_config(&entry.record)?;
            network::ensure_bridge(&config).during(|| format!("set up bridge {}", config.name))?;
            if entry.record.driver == "overlay" {
                self.ensure_overlay(entry)?;
            }
            *ready = true;
        }
        Ok(())
    }

    /// Which of a container's networks its default routes lead to.
    pub(crate) fn gateways(&self, endpoints: &BTreeMap<String, EndpointSettings>) -> Gateways {
        let candidates: Vec<(&String, Leads)> = endpoints
            .iter()
            .filter_map(|(name, settings)| {
                let entry = self.find(name).ok()?;
                let leads = entry.record.has_interfaces() && !entry.record.leads_nowhere();
                leads.then(|| (name, Leads::of(&entry.record, settings)))
            })
            .collect();
        choose_gateways(&candidates)
    }

    /// The rules' entries for `ports` of a container.
    pub(crate) fn port_mappings(
        &self,
        endpoints: &BTreeMap<String, EndpointSettings>,
        ports: &[crate::PublishedPort],
    ) -> Vec<network::ports::PortMapping> {
        if ports.is_empty() {
            return Vec::new();
        }
        let gateways = self.gateways(endpoints);
        let side = |network: &Option<String>, is_ipv6: bool| {
            let (name, settings) = endpoints.get_key_value(network.as_ref()?)?;
            let text = if is_ipv6 { &settings.global_ipv6_address } else { &settings.ip_address };
            let entry = self.find(name).ok()?;
            if !entry.record.has_bridge() {
                return None;
            }
            let config = self.bridge_config(&entry.record).ok()?;
            let routed = config.family(is_ipv6).any(|s| s.mode == GatewayMode::Routed);
            let direct = routed || !config.trusted.is_empty();
            Some(crate::ports::Target { bridge: config.name, address: text.parse().ok()?, direct })
        };
        let sides = [side(&gateways.ipv4, false), side(&gateways.ipv6, true)];
        crate::ports::mappings(ports, &sides)
    }

    /// Takes the container's network down again. Idempotent. Blocking.
    pub(crate) fn disconnect(&self, config: &Config, record: &Record) -> Result<(), Error> {
        let path = config.netns(record.id.as_str());
        // The kernel removes the veth pair with its namespace, on its own time.
        let mut result = network::remove_sandbox(&path).during(|| "release network".into());
        for (name, settings) in record.networks.iter().filter(|(_, s)| !s.endpoint_id.is_empty()) {
            // Asked to delete what is not there, the kernel waits some 8 ms for its readers before it says so.
            if self.find(name).is_ok_and(|entry| !entry.record.has_bridge()) {
                continue;
            }
            if let Err(e) = network::unguard(&host_interface(settings)) {
                tracing::warn!(container_id = record.id.as_str(), error = %errors::chain(&e), "guard not removed");
            }
        }
        let mappings = self.port_mappings(&record.networks, &record.ports);
        if !mappings.is_empty() {
            result = result.and(network::ports::unpublish(&mappings).during(|| "take ports back".into()));
        }
        for (name, settings) in &record.networks {
            if let Ok(entry) = self.find(name) {
                entry.release(record, settings);
            }
        }
        result.and(self.forget_names(record))
    }

    /// Removes what no running container and no record owns: namespaces, interfaces, bridges, rules; and makes anew
    /// what a record says and the kernel does not have. Blocking.
    pub(crate) fn sweep(&self, config: &Config, alive: &[Record]) {
        let running: HashSet<&str> = alive.iter().map(|r| r.id.as_str()).collect();
        if let Ok(entries) = std::fs::read_dir(config.exec_root.join("netns")) {
            for name in entries.flatten().filter_map(|e| e.file_name().into_string().ok()) {
                if !running.contains(name.as_str())
                    && let Err(e) = network::remove_sandbox(&config.netns(&name))
                {
                    tracing::warn!(container_id = name, error = %errors::chain(&e), "stray network namespace");
                }
            }
        }
        self.sweep_endpoints(alive);
        self.sweep_bridges();
        for entry in self.entries() {
            // A shared one is made when the first container here joins it.
            let needed = match entry.record.driver.as_str() {
                "overlay" => entry.is_used(),
                _ => entry.record.is_user_defined() || !alive.is_empty(),
            };
            if needed && let Err(e) = self.ensure(&entry) {
                tracing::error!(network = entry.record.name, error = %errors::chain(&e), "network not restored");
            }
        }
        alive.iter().for_each(|record| self.restore_guards(record));
        if let Err(e) = self.restore_names(config, alive) {
            tracing::error!(error = %errors::chain(&e), "names not served");
        }
    }

    fn sweep_endpoints(&self, alive: &[Record]) {
        let bridges: HashSet<String> = self.bridge_names();
        let expected: HashSet<String> =
            alive.iter().flat_map(|r| r.networks.values()).map(host_interface).collect();
        match network::list_endpoints() {
            Ok(endpoints) => {
                // Another daemon's endpoints hang on another bridge; one without a bridge is nobody's.
                let ours = |e: &network::Endpoint| e.bridge.as_ref().is_some_and(|b| bridges.contains(b));
                for endpoint in
                    endpoints.into_iter().filter(|e| ours(e) && !expected.contains(&e.host_interface))
                {
                    if let Err(e) = network::detach(&endpoint.host_interface) {
                        tracing::warn!(interface = endpoint.host_interface, error = %errors::chain(&e), "stray interface");
                    }
                }
            }
            Err(e) => tracing::warn!(error = %errors::chain(&e), "interfaces not listed"),
        }
        if let Err(e) = network::retain_guards(&expected) {
            tracing::warn!(error = %errors::chain(&e), "stale guards not removed");
        }
    }

    fn sweep_bridges(&self) {
        let known: HashSet<String> = self.entries().iter().map(|e| e.record.id.clone()).collect();
        match network::list_bridges() {
            Ok(bridges) => {
                for bridge in bridges {
                    let Some((id, engine)) = bridge.owner.split_once(':') else { continue };
                    if engine == self.engine_id && !known.contains(id) {
                        tracing::info!(bridge = bridge.name, "removing a bridge without a record");
                        if let Err(e) = network::remove_bridge(&bridge.name) {
                            tracing::warn!(bridge = bridge.name, error = %errors::chain(&e), "stray bridge");
                        }
                    }
                }
            }
            Err(e) => tracing::warn!(error = %errors::chain(&e), "bridges not listed"),
        }
        for (parent, owner) in network::list_parents().unwrap_or_default() {
            let stray =
                owner.split_once(':').is_some_and(|(id, e)| e == self.engine_id && !known.contains(id));
            if stray && let Err(e) = network::remove_parent(&parent, &owner) {
                tracing::warn!(interface = parent, error = %errors::chain(&e), "stray interface");
            }
        }
        self.sweep_overlays(&known);
        let names = self.bridge_names();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        if let Err(e) = network::firewall::retain(&names) {
            tracing::warn!(error = %errors::chain(&e), "stale rules not removed");
        }
    }

    fn bridge_names(&self) -> HashSet<String> {
        let entries = self.entries();
        let bridges = entries.iter().filter(|e| e.record.has_bridge());
        bridges.filter_map(|e| Some(self.bridge_config(&e.record).ok()?.name)).collect()
    }

    /// Takes back ports that no running container publishes, and publishes those that should be. Blocking.
    pub(crate) fn sweep_ports(&self, alive: &[Record]) {
        let keep: Vec<_> = alive.iter().flat_map(|r| self.port_mappings(&r.networks, &r.ports)).collect();
        match network::ports::retain(&keep) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "took back ports of containers that are gone"),
            Err(e) => tracing::warn!(error = %errors::chain(&e), "stale ports not taken back"),
        }
    }

    /// Restores the published ports of a container that runs, should somebody have flushed them. Blocking.
    pub(crate) fn restore_ports(&self, record: &Record) {
        let mappings = self.port_mappings(&record.networks, &record.ports);
        if !mappings.is_empty()
            && let Err(e) = network::ports::publish(&mappings)
        {
            tracing::error!(container_id = record.id.as_str(), error = %errors::chain(&e), "ports not restored");
        }
    }

    /// Makes every rule anew, after another program deleted the table. Blocking.
    pub(crate) fn restore_rules(&self, alive: &[Record]) {
        for entry in self.entries().into_iter().filter(|e| e.record.driver != "overlay" || e.is_used()) {
            *entry.ready.lock().expect("no holder panics") = false;
            if let Err(e) = self.ensure(&entry) {
                tracing::error!(network = entry.record.name, error = %errors::chain(&e), "network not restored");
            }
        }
        for record in alive {
            self.restore_guards(record);
            self.restore_ports(record);
        }
    }

    /// Has the endpoints of a container that runs claim no address but their own again. Blocking.
    fn restore_guards(&self, record: &Record) {
        for (name, settings) in &record.networks {
            let Ok(entry) = self.find(name) else { continue };
            if !entry.record.has_bridge() || settings.endpoint_id.is_empty() {
                continue;
            }
            let endpoint = self.endpoint(record, &entry, settings, "eth0", &Gateways::default());
            let guarded = endpoint.and_then(|endpoint| match endpoint.guarded {
                true => network::guard(&endpoint).during(|| format!("guard {}", endpoint.host_interface)),
                false => Ok(()),
            });
            if let Err(e) = guarded {
                tracing::error!(network = name, container_id = record.id.as_str(), error = %errors::chain(&e), "not guarded");
            }
        }
    }
}

const SHARED_NAMESPACE: &str = "container sharing network namespace with another container or host cannot be connected to any other network";

/// The networks, by name, that lead out of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Gateways {
    pub(crate) ipv4: Option<String>,
    pub(crate) ipv6: Option<String>,
}

/// Whether an endpoint leads out, and with what priority.
#[derive(Debug, Clone, Copy)]
struct Leads {
    ipv4: bool,
    ipv6: bool,
    priority: i64,
}

impl Leads {
    fn of(network: &Network, settings: &EndpointSettings) -> Leads {
        let v4 = default_gateway(network, settings, false);
        let v6 = default_gateway(network, settings, true);
        Leads { ipv4: v4.is_some(), ipv6: v6.is_some(), priority: settings.gw_priority }
    }
}

/// Where an endpoint's default route goes; the unspecified address for the interface itself.
fn default_gateway(network: &Network, settings: &EndpointSettings, is_ipv6: bool) -> Option<IpAddr> {
    let (gateway, address) = if is_ipv6 {
        (&settings.ipv6_gateway, &settings.global_ipv6_address)
    } else {
        (&settings.gateway, &settings.ip_address)
    };
    let routed = network.shared_mode().ok().flatten().is_some_and(SharedMode::is_routed);
    match gateway.parse() {
        Ok(gateway) => Some(gateway),
        Err(_) if routed && !address.is_empty() => {
            Some(if is_ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() })
        }
        Err(_) => None,
    }
}

/// Docker's order: the highest priority, then what has gateways of both families, then the first name.
fn choose_gateways(candidates: &[(&String, Leads)]) -> Gateways {
    let best = |is_ipv6: bool| {
        let fitting = candidates.iter().filter(|(_, l)| if is_ipv6 { l.ipv6 } else { l.ipv4 });
        fitting
            .min_by_key(|(name, l)| (std::cmp::Reverse(l.priority), !(l.ipv4 && l.ipv6), name.as_str()))
            .map(|(name, _)| name.to_string())
    };
    Gateways { ipv4: best(false), ipv6: best(true) }
}

/// The name of an interface inside: what was asked for, or the first free number behind the network's prefix.
fn interface_name(
    entry: &Entry,
    settings: &EndpointSettings,
    taken: &HashSet<String>,
) -> Result<String, Error> {
    let asked = settings.driver_opts.as_ref().and_then(|o| o.get(INTERFACE_NAME));
    if let Some(asked) = asked {
        return match taken.contains(asked) {
            true => Err(Error::invalid(format!("interface name {asked:?} is in use in this container"))),
            false => Ok(asked.clone()),
        };
    }
    let prefix = entry.record.bridge_options()?.interface_prefix;
    let free = (0..).map(|n| format!("{prefix}{n}")).find(|name| !taken.contains(name));
    Ok(free.expect("there are more numbers than interfaces"))
}

/// A sandbox for whoever comes: its pair is named anew when it is used. The kernel takes 15 characters.
fn make_ready() -> Result<network::ReadySandbox, network::Error> {
    network::ReadySandbox::make(&format!("veth{}", &crate::record::random_hex()[..7]))
}

/// Whether the container has `CAP_NET_ADMIN` over its network namespace.
fn may_configure(host: &HostConfig) -> bool {
    let is = |name: &String, wanted: &str| {
        let upper = name.to_ascii_uppercase();
        upper.strip_prefix("CAP_").unwrap_or(&upper) == wanted
    };
    let named = |list: &[String], wanted| list.iter().any(|name| is(name, wanted));
    let dropped = named(&host.cap_drop, "NET_ADMIN") || named(&host.cap_drop, "ALL");
    host.privileged || named(&host.cap_add, "NET_ADMIN") || named(&host.cap_add, "ALL") && !dropped
}

/// Whether endpoints of the driver are pairs of interfaces, one end on the host.
pub(crate) fn has_host_end(driver: &str) -> bool {
    matches!(driver, "bridge" | "overlay")
}

/// New for each task: the kernel takes the interface of the last one away on its own time. Linux allows 15 characters.
pub(crate) fn host_interface(settings: &EndpointSettings) -> String {
    format!("veth{}", settings.endpoint_id.chars().take(7).collect::<String>())
}

/// Forgets the addresses of a task that has ended; names and what the user asked for stay.
pub(crate) fn clear(networks: &mut BTreeMap<String, EndpointSettings>) {
    networks.values_mut().for_each(clear_one);
}

fn clear_one(settings: &mut EndpointSettings) {
    settings.endpoint_id.clear();
    settings.gateway.clear();
    settings.ip_address.clear();
    settings.ip_prefix_len = 0;
    settings.mac_address.clear();
    settings.ipv6_gateway.clear();
    settings.global_ipv6_address.clear();
    settings.global_ipv6_prefix_len = 0;
    settings.dns_names = None;
}

/// A new endpoint's id.
fn endpoint_id() -> String {
    random_hex()
}

impl Networks {
    /// The default routes that `gateways` mean, among the sandbox's interfaces.
    fn default_route(
        &self,
        endpoints: &BTreeMap<String, EndpointSettings>,
        gateways: &Gateways,
        interfaces: &[Interface],
    ) -> DefaultRoute {
        let side = |network: &Option<String>, is_ipv6| {
            let name = network.as_deref()?;
            let (entry, settings) = (self.find(name).ok()?, endpoints.get(name)?);
            let gateway = default_gateway(&entry.record, settings, is_ipv6)?;
            Some((interface_of(settings, interfaces)?.name.clone(), gateway))
        };
        DefaultRoute { ipv4: side(&gateways.ipv4, false), ipv6: side(&gateways.ipv6, true) }
    }
}

/// The endpoint's interface: the one with its addresses; if the container changed those, the one with its hardware
/// address.
fn interface_of<'a>(settings: &EndpointSettings, interfaces: &'a [Interface]) -> Option<&'a Interface> {
    let own = addresses_of(settings);
    let mac = addresses::parse_mac(&settings.mac_address).ok();
    let by_address = interfaces.iter().find(|i| i.addresses.iter().any(|a| own.contains(a)));
    by_address.or_else(|| interfaces.iter().find(|i| Some(i.mac) == mac))
}

/// An endpoint's addresses on its network.
pub(crate) fn addresses_of(settings: &EndpointSettings) -> Vec<IpAddr> {
    [&settings.ip_address, &settings.global_ipv6_address].iter().filter_map(|t| t.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_goes_where_docker_sends_it() {
        let network = Network { driver: "bridge".into(), ..Network::default() };
        let settings = |gateway: &str, gateway6: &str, gw_priority| EndpointSettings {
            gateway: gateway.into(),
            ipv6_gateway: gateway6.into(),
            gw_priority,
            ..EndpointSettings::default()
        };
        let check = |list: &[(&str, EndpointSettings)], v4: Option<&str>, v6: Option<&str>| {
            let names: Vec<String> = list.iter().map(|(n, _)| n.to_string()).collect();
            let all: Vec<_> = names.iter().zip(list.iter().map(|(_, s)| Leads::of(&network, s))).collect();
            let got = choose_gateways(&all);
            assert_eq!((got.ipv4.as_deref(), got.ipv6.as_deref()), (v4, v6), "{list:?}");
        };
        check(&[], None, None);
        check(&[("b", settings("10.0.0.1", "", 0)), ("a", settings("10.0.0.1", "", 0))], Some("a"), None);
        check(&[("a", settings("10.0.0.1", "", 0)), ("b", settings("10.0.0.1", "", 5))], Some("b"), None);
        check(
            &[("a", settings("10.0.0.1", "", 0)), ("b", settings("10.0.0.1", "fd00::1", 0))],
            Some("b"),
            Some("b"),
        );
        check(
            &[("a", settings("10.0.0.1", "", 1)), ("b", settings("10.0.0.1", "fd00::1", 0))],
            Some("a"),
            Some("b"),
        );
        check(&[("a", settings("", "", 9)), ("b", settings("10.0.0.1", "", 0))], Some("b"), None);
    }
}
