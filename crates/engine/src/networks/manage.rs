//! Making and removing networks.
//!
//! ```text
//! create   choose subnets -> bridge and rules -> record
//! remove   nobody joins -> record goes -> bridge and rules
//! ```
//! Nobody waits for the kernel's removal of a bridge: it loses its addresses and rules, and is deleted later
//! ([`super::retired`]).

use super::addresses::Entry;
use super::options::SharedMode;
use super::record::OVERLAP;
use super::{BUILT_IN, Network, NetworkPool, NetworkRequest, Networks};
use crate::Engine;
use crate::error::{During, Error, blocking};
use metadata::RecordKind;
use network::Subnet;
use network::ipam::{Pool, choose_subnet, choose_ula};
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Held while a daemon of this host chooses a subnet and makes the bridge that others then see.
const LOCK_FILE: &str = "/run/lock/brig-networks.lock";

impl Engine {
    /// Does what waits for a calm moment, for a daemon that leaves. Blocking.
    pub fn settle(&self) {
        self.networks.retired.delete_now();
    }

    /// Makes a network. Its id, and warnings.
    ///
    /// # Errors
    ///
    /// WrongState when the name is taken, Denied when the subnet overlaps another, InvalidArgument and Unsupported for
    /// what cannot be.
    pub async fn create_network(self: &Arc<Self>, request: NetworkRequest) -> Result<String, Error> {
        let engine = self.clone();
        let network = blocking(move || engine.networks.create(&engine.db, request)).await?;
        self.tell_network(&network, "create");
        Ok(network.id)
    }

    /// Removes a network that no running container is on.
    pub async fn remove_network(self: &Arc<Self>, name: &str) -> Result<(), Error> {
        let entry = self.networks.find(name)?;
        let engine = self.clone();
        let network = blocking(move || engine.networks.remove(&engine.db, &entry)).await?;
        self.tell_network(&network, "destroy");
        Ok(())
    }

    /// Removes every user-defined network that `wanted` chooses and no container refers to. Their names.
    pub async fn prune_networks(
        self: &Arc<Self>,
        wanted: impl Fn(&Network) -> bool,
    ) -> Result<Vec<String>, Error> {
        let mut removed = Vec::new();
        let referred: std::collections::HashSet<String> =
            self.list_containers().iter().flat_map(|c| c.record().networks.into_keys()).collect();
        for network in self.list_networks() {
            if network.is_user_defined() && !referred.contains(&network.name) && wanted(&network) {
                match self.remove_network(&network.id).await {
                    Ok(()) => removed.push(network.name),
                    // Somebody was faster, to remove it or to use it.
                    Err(e) => {
                        tracing::debug!(network = network.name, error = %errors::chain(&e), "not pruned")
                    }
                }
            }
        }
        Ok(removed)
    }

    /// All networks by name.
    pub fn list_networks(&self) -> Vec<Network> {
        self.networks.list()
    }

    /// The network with this name, id, or unique beginning of an id.
    pub fn network(&self, name: &str) -> Result<Network, Error> {
        Ok(self.networks.find(name)?.record.clone())
    }

    /// Whether a running container is on the network.
    pub fn is_network_used(&self, name: &str) -> bool {
        self.networks.find(name).is_ok_and(|e| e.is_used())
    }

    /// Who is on a network that hosts share, on other hosts.
    pub fn remote_endpoints(&self, network: &Network) -> Vec<super::RemoteEndpoint> {
        self.networks.find(&network.id).map(|e| e.remote()).unwrap_or_default()
    }

    /// The hosts that share networks: name and address.
    pub fn network_peers(&self) -> Vec<(String, IpAddr)> {
        let cluster = self.networks.cluster.as_ref();
        cluster.map(|c| c.nodes().into_values().map(|n| (n.name, n.host)).collect()).unwrap_or_default()
    }

    /// The name of the network's bridge on the host; none for other drivers.
    pub fn network_bridge(&self, network: &Network) -> Option<String> {
        (network.driver == "bridge").then(|| self.networks.bridge_config(network).ok().map(|c| c.name))?
    }

    fn tell_network(&self, network: &Network, action: &str) {
        let attributes =
            BTreeMap::from([("name".into(), network.name.clone()), ("type".into(), network.driver.clone())]);
        self.events.publish("network", action, network.id.as_str(), attributes);
    }
}

impl Networks {
    fn create(&self, db: &metadata::Database, request: NetworkRequest) -> Result<Network, Error> {
        let mut network = request.check()?;
        if let Some(name) = network.config_from.clone() {
            let missing = || Error::NoSuchConfiguration { name: name.clone() };
            let other = self.find(&name).map_err(|_| missing())?;
            if !other.record.config_only || other.record.name != name {
                return Err(missing());
            }
            network.configure_by(&other.record)?;
        }
        if network.driver == "overlay" {
            return self.create_shared(db, network);
        }
        let _making = self.making.lock().expect("no holder panics");
        if self.entries().iter().any(|e| e.record.name == network.name) {
            return Err(Error::conflict(format!("network with name {} already exists", network.name)));
        }
        if let Some(name) = &network.config_from {
            // Under the lock: whoever removes it sees this one, or is seen.
            self.find(name).map_err(|_| Error::NoSuchConfiguration { name: name.clone() })?;
        }
        let host = lock_host();
        if !network.config_only {
            self.choose_pools(&mut network)?;
        }
        let entry = self.entry(network)?;
        self.check_bridge_name(&entry.record)?;
        self.check_parent(&entry.record)?;
        self.ensure(&entry)?;
        drop(host);
        if let Err(e) = self.put(db, &entry.record) {
            self.remove_bridge(&entry.record);
            return Err(e);
        }
        let network = entry.record.clone();
        self.insert(entry);
        Ok(network)
    }

    /// Makes a network that several hosts share.
    fn create_shared(&self, db: &metadata::Database, network: Network) -> Result<Network, Error> {
        let cluster = self.cluster.as_ref().ok_or_else(super::cluster::no_store)?;
        if self.find(&network.name).is_ok_and(|e| e.record.name == network.name) {
            return Err(Error::conflict(format!("network with name {} already exists", network.name)));
        }
        let network = cluster.create_network(network, |network, others| {
            let shared = others.iter().flat_map(|n| &n.pools).filter_map(|p| p.subnet.parse().ok());
            let own = self.subnets().into_iter().chain(shared).collect::<Vec<_>>();
            self.choose_pools_beside(network, &own, network::ipam::choose_shared_subnet)
        })?;
        self.add_shared(db, network.clone())?;
        Ok(network)
    }

    /// Has a network that some host made. Harmless if it is here.
    pub(super) fn add_shared(&self, db: &metadata::Database, network: Network) -> Result<(), Error> {
        let _making = self.making.lock().expect("no holder panics");
        match self.entries().iter().find(|e| e.record.id == network.id || e.record.name == network.name) {
            Some(known) if known.record.id == network.id => return Ok(()),
            Some(_) => {
                return Err(Error::conflict(format!(
                    "network with name {} already exists here",
                    network.name
                )));
            }
            None => {}
        }
        let entry = self.entry(network)?;
        self.put(db, &entry.record)?;
        self.insert(entry);
        Ok(())
    }

    fn remove(&self, db: &metadata::Database, entry: &Arc<Entry>) -> Result<Network, Error> {
        let network = &entry.record;
        if BUILT_IN.contains(&network.name.as_str()) {
            return Err(Error::denied(format!(
                "{} is a pre-defined network and cannot be removed",
                network.name
            )));
        }
        if network.config_only {
            let _making = self.making.lock().expect("no holder panics");
            let takes = |e: &Arc<Entry>| e.record.config_from.as_deref() == Some(&network.name);
            if self.entries().iter().any(takes) {
                return Err(Error::denied(format!("configuration network \"{}\" is in use", network.name)));
            }
        }
        entry.close()?;
        if network.driver == "overlay"
            && let Err(e) = self.remove_shared(entry)
        {
            entry.reopen();
            return Err(e);
        }
        self.forget(db, entry)?;
        Ok(network.clone())
    }

    /// Takes a network that hosts share from the store.
    fn remove_shared(&self, entry: &Entry) -> Result<(), Error> {
        let network = &entry.record;
        let cluster = self.cluster.as_ref().ok_or_else(super::cluster::no_store)?;
        if cluster.remove_network(network)? {
            return Ok(());
        }
        let name = |e: &super::RemoteEndpoint| {
            format!("name:\"{}\" id:\"{}\" host:{}", e.name, &e.endpoint[..e.endpoint.len().min(12)], e.host)
        };
        let others: Vec<String> = entry.remote().iter().map(name).collect();
        Err(Error::denied(format!(
            "error while removing network: network {} has active endpoints ({})",
            network.name,
            others.join(", ")
        )))
    }

    /// Removes what this host has of a network that nobody joins any more.
    pub(super) fn forget(&self, db: &metadata::Database, entry: &Arc<Entry>) -> Result<(), Error> {
        let network = &entry.record;
        let doing = || format!("remove network {}", network.name);
        match db.delete_record(RecordKind::Network, &network.id).during(doing) {
            Ok(true) => {}
            // The store told of it before whoever removed it came to this.
            Ok(false) if network.driver == "overlay" => {}
            Ok(false) => return Err(Error::NoSuchNetwork { name: network.name.clone() }),
            Err(e) => {
                entry.reopen();
                return Err(e);
            }
        }
        // Whoever makes one of the same name or subnet next waits until this one has let go of both.
        let _making = self.making.lock().expect("no holder panics");
        {
            let mut ready = entry.ready.lock().expect("no holder panics");
            *ready = false;
            self.remove_bridge(network);
        }
        self.forget_network(entry);
        self.entries.write().expect("no holder panics").remove(&network.name);
        Ok(())
    }

    fn remove_bridge(&self, network: &Network) {
        if network.is_shared() {
            let owner = format!("{}:{}", network.id, self.engine_id);
            if let Err(e) = network::remove_parent(&network.parent().name, &owner) {
                tracing::warn!(network = network.name, error = %errors::chain(&e), "parent not removed");
            }
        }
        if !network.has_bridge() {
            return;
        }
        if network.driver == "overlay" {
            self.remove_overlay(network);
        }
        let removed = self
            .bridge_config(network)
            .and_then(|c| network::doom_bridge(&c.name).during(|| format!("remove bridge {}", c.name)));
        if let Err(e) = removed {
            tracing::warn!(network = network.name, error = %errors::chain(&e), "bridge not removed");
        }
        self.retired.add();
    }

    /// Refuses a bridge that another network has.
    fn check_bridge_name(&self, network: &Network) -> Result<(), Error> {
        if network.driver != "bridge" {
            return Ok(());
        }
        let name = self.bridge_config(network)?.name;
        let other = self.entries().into_iter().find(|e| {
            e.record.driver == "bridge" && self.bridge_config(&e.record).is_ok_and(|c| c.name == name)
        });
        match other {
            Some(other) => Err(Error::denied(format!(
                "cannot create network {} ({}): conflicts with network {} ({}): networks have same bridge name",
                network.id, name, other.record.id, name
            ))),
            None => Ok(()),
        }
    }

    /// Refuses a parent that another network has to itself, or shares in another way.
    fn check_parent(&self, network: &Network) -> Result<(), Error> {
        let Some(mode) = network.shared_mode()? else { return Ok(()) };
        let alone = |mode| mode == SharedMode::Macvlan(network::MacvlanMode::Passthru);
        let parent = network.parent().name;
        for entry in self.entries() {
            let Some(other) = entry.record.shared_mode()? else { continue };
            let fits = other.sharing() == mode.sharing() && !alone(mode) && !alone(other);
            if entry.record.parent().name == parent && !fits {
                return Err(Error::denied(format!(
                    "network {} is already using parent interface {parent}",
                    entry.record.name
                )));
            }
        }
        Ok(())
    }

    /// Fills in the subnets and gateways that nobody named, and refuses those that overlap another network's.
    pub(super) fn choose_pools(&self, network: &mut Network) -> Result<(), Error> {
        self.choose_pools_beside(network, &self.subnets(), choose_subnet)
    }

    /// The subnets of all networks.
    fn subnets(&self) -> Vec<Subnet> {
        let entries = self.entries();
        let real = entries.iter().filter(|e| !e.record.config_only);
        real.flat_map(|e| &e.record.pools).filter_map(|p| p.subnet.parse().ok()).collect()
    }

    fn choose_pools_beside(
        &self,
        network: &mut Network,
        own: &[Subnet],
        choose_subnet: fn(&[network::Net]) -> network::Result<network::Net>,
    ) -> Result<(), Error> {
        for pool in &network.pools {
            if own.iter().any(|other| pool.net().is_ok_and(|net| net.overlaps(*other))) {
                return Err(Error::denied(OVERLAP));
            }
        }
        if network.pool(false).is_none() && !network.no_ipv4 {
            let mut taken = network::host_subnets().during(|| "list the host's subnets".into())?;
            taken.extend(own.iter().filter_map(|s| s.v4()));
            let subnet = choose_subnet(&taken)
                .map_err(|_| Error::invalid("all predefined address pools have been fully subnetted"))?;
            network.pools.insert(0, pool_of(subnet.to_string()));
        }
        if network.ipv6 && network.pool(true).is_none() {
            let subnet = choose_ula(self.site(), own)
                .map_err(|_| Error::invalid("all predefined address pools have been fully subnetted"))?;
            network.pools.push(pool_of(subnet.to_string()));
        }
        let bare = [network.has_no_gateway(false)?, network.has_no_gateway(true)?];
        for pool in &mut network.pools {
            if pool.gateway.is_none() && bare[usize::from(pool.net()?.is_ipv6())] {
                continue;
            }
            let aux: Vec<IpAddr> = pool.aux.values().copied().collect();
            let mut addresses = Pool::new(pool.net()?, &aux);
            if let Some(range) = pool.ip_range.as_ref().and_then(|r| r.parse().ok()) {
                addresses = addresses.with_range(range).during(|| "take an ip-range".into())?;
            }
            let error = |_| Error::denied("failed to allocate gateway: Address already in use");
            pool.gateway = Some(addresses.allocate(pool.gateway).map_err(error)?);
        }
        Ok(())
    }

    /// Forty bits of this engine's own, for addresses that nobody else has.
    fn site(&self) -> [u8; 5] {
        let digits: Vec<u8> = self.engine_id.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |n: usize| {
            let pair = digits.get(2 * n..2 * n + 2).and_then(|p| std::str::from_utf8(p).ok());
            pair.and_then(|p| u8::from_str_radix(p, 16).ok()).unwrap_or_default()
        };
        std::array::from_fn(byte)
    }
}

fn pool_of(subnet: String) -> NetworkPool {
    NetworkPool { subnet, ip_range: None, gateway: None, aux: BTreeMap::new() }
}

/// Keeps other daemons of this host from choosing a subnet until it is dropped. Where the lock cannot be had, two that
/// choose in the same millisecond may choose the same.
pub(super) fn lock_host() -> Option<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let open = || {
        let file = rustix::fs::open(LOCK_FILE, flags, Mode::RUSR | Mode::WUSR)?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))?;
        Ok(file)
    };
    open().inspect_err(|error: &rustix::io::Errno| tracing::debug!(%error, LOCK_FILE, "not locked")).ok()
}
