//! One network in memory: its pools, and who is on it.

use super::cluster::{Cluster, RemoteEndpoint};
use super::options::SharedMode;
use super::{Network, NetworkPool};
use crate::error::{During, Error};
use crate::model::EndpointSettings;
use crate::record::Record;
use network::ipam::Pool;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

/// A network and what is given out of it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) record: Network,
    state: Mutex<State>,
    /// The kernel has bridge and rules. Held while they are made or removed.
    pub(super) ready: Mutex<bool>,
    /// The store of a network that hosts share.
    cluster: Option<Arc<Cluster>>,
}

#[derive(Debug)]
struct State {
    /// In the order in which they are used up.
    pools: Vec<Pool>,
    /// Containers with an endpoint, by id.
    held: BTreeMap<String, Held>,
    /// Who is on it on other hosts, by address.
    remote: BTreeMap<IpAddr, RemoteEndpoint>,
    /// Being removed: nobody joins any more.
    closed: bool,
}

/// One container on the network.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) name: String,
    pub(super) endpoint_id: String,
    pub(super) mac: String,
    /// Under which others find it.
    pub(super) names: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
}

impl Held {
    fn new(record: &Record, settings: &EndpointSettings) -> Held {
        let texts = [&settings.ip_address, &settings.global_ipv6_address];
        Held {
            name: record.name.clone(),
            endpoint_id: settings.endpoint_id.clone(),
            mac: settings.mac_address.clone(),
            names: dns_names(record, settings),
            addresses: texts.iter().filter_map(|t| t.parse().ok()).collect(),
        }
    }
}

impl Entry {
    pub(super) fn new(record: Network, cluster: Option<Arc<Cluster>>) -> Result<Entry, Error> {
        let state = State {
            pools: pools_of(&record)?,
            held: BTreeMap::new(),
            remote: BTreeMap::new(),
            closed: false,
        };
        Ok(Entry { record, state: Mutex::new(state), ready: Mutex::new(false), cluster })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Gives the container an endpoint: id, addresses, gateways, names.
    pub(super) fn allocate(&self, record: &Record, settings: &mut EndpointSettings) -> Result<(), Error> {
        match &self.cluster {
            Some(cluster) => cluster.allocate(self, record, settings),
            None if self.record.driver == "overlay" => Err(super::cluster::no_store()),
            None => self.allocate_here(record, settings),
        }
    }

    /// As [`Entry::allocate`], as far as this host knows.
    pub(super) fn allocate_here(
        &self,
        record: &Record,
        settings: &mut EndpointSettings,
    ) -> Result<(), Error> {
        let network = &self.record;
        if network.config_only {
            return Err(Error::denied("cannot create endpoint on configuration-only network"));
        }
        let wanted = |text: fn(&crate::model::EndpointIpam) -> &String| {
            let text = settings.ipam_config.as_ref().map(text).filter(|t| !t.is_empty());
            text.map(|t| t.parse::<IpAddr>().map_err(|_| Error::invalid(format!("invalid IP address: {t}"))))
                .transpose()
        };
        let (wanted4, wanted6) = (wanted(|i| &i.ipv4_address)?, wanted(|i| &i.ipv6_address)?);
        let mut state = self.lock();
        if state.closed {
            return Err(Error::NoSuchNetwork { name: network.name.clone() });
        }
        let ipv4 = state.allocate(false, wanted4, network)?;
        let ipv6 = match state.allocate(true, wanted6, network) {
            Ok(ipv6) => ipv6,
            Err(e) => {
                ipv4.into_iter().for_each(|address| state.release(address));
                return Err(e);
            }
        };
        settings.network_id.clone_from(&network.id);
        settings.endpoint_id = super::endpoint_id();
        let text = |address: Option<IpAddr>| address.map(|a| a.to_string()).unwrap_or_default();
        let pool = |address: Option<IpAddr>| network.pool_with(address?);
        let prefix = |address: Option<IpAddr>| address.and_then(|a| network.prefix_of(a)).unwrap_or(0);
        settings.ip_address = text(ipv4);
        settings.ip_prefix_len = prefix(ipv4);
        settings.global_ipv6_address = text(ipv6);
        settings.global_ipv6_prefix_len = prefix(ipv6);
        let routed = network.shared_mode()?.is_some_and(SharedMode::is_routed);
        if !network.leads_nowhere() && !routed {
            settings.gateway = text(pool(ipv4).and_then(|p| p.gateway));
            settings.ipv6_gateway = text(pool(ipv6).and_then(|p| p.gateway));
        }
        if let (Some(address), true) = (ipv4.or(ipv6), network.driver != "ipvlan") {
            settings.mac_address = match record.wanted_macs.get(&network.name) {
                Some(asked) => asked.clone(),
                None => mac_text(network::mac_for(address)),
            };
        }
        if network.is_user_defined() {
            settings.dns_names = Some(dns_names(record, settings));
        }
        state.held.insert(record.id.to_string(), Held::new(record, settings));
        Ok(())
    }

    /// Does `work` with the names on the network as they are, and lets nobody join or leave meanwhile.
    pub(super) fn with_table<T>(&self, work: impl FnOnce(&::dns::table::NetworkTable) -> T) -> T {
        let state = self.lock();
        let mut table = ::dns::table::NetworkTable { name: self.record.name.clone(), ..Default::default() };
        for held in state.held.values() {
            for name in &held.names {
                table.names.entry(name.to_ascii_lowercase()).or_default().extend(&held.addresses);
            }
            let full = format!("{}.{}", held.name, self.record.name);
            table.pointers.extend(held.addresses.iter().map(|a| (*a, full.clone())));
        }
        for (address, endpoint) in &state.remote {
            for name in &endpoint.names {
                table.names.entry(name.to_ascii_lowercase()).or_default().push(*address);
            }
            table.pointers.insert(*address, format!("{}.{}", endpoint.name, self.record.name));
        }
        work(&table)
    }

    /// Takes note of a running container's new name.
    pub(super) fn rename(&self, record: &Record, settings: &EndpointSettings) {
        if let Some(held) = self.lock().held.get_mut(record.id.as_str()) {
            *held = Held::new(record, settings);
        }
        if let Some(cluster) = &self.cluster {
            cluster.republish(self, record);
        }
    }

    /// Takes the addresses that a running container has.
    pub(super) fn adopt(&self, record: &Record, settings: &EndpointSettings) {
        let mut state = self.lock();
        // Two records with one address cannot be; if they were, the second simply keeps what it has.
        super::addresses_of(settings).into_iter().for_each(|address| state.take(address));
        state.held.insert(record.id.to_string(), Held::new(record, settings));
    }

    /// Takes the endpoint's addresses back. Harmless if it has none, or if the container has another one by now.
    pub(super) fn release(&self, record: &Record, settings: &EndpointSettings) {
        if let Some(cluster) = &self.cluster {
            cluster.withdraw(self, record, settings);
        }
        self.release_here(record, settings);
    }

    /// As [`Entry::release`], as far as this host knows.
    pub(super) fn release_here(&self, record: &Record, settings: &EndpointSettings) {
        let mut state = self.lock();
        let id = record.id.as_str();
        if settings.endpoint_id.is_empty()
            || state.held.get(id).is_none_or(|h| h.endpoint_id != settings.endpoint_id)
        {
            return;
        }
        state.held.remove(id);
        super::addresses_of(settings).into_iter().for_each(|address| state.release(address));
    }

    /// Forgets an endpoint whose addresses are another host's, as it turned out: nobody here gets them either.
    pub(super) fn abandon(&self, record: &Record, settings: &mut EndpointSettings) {
        self.lock().held.remove(record.id.as_str());
        super::clear_one(settings);
    }

    /// What is known of the container's endpoint, which it has.
    pub(super) fn with_held<T>(&self, record: &Record, work: impl FnOnce(&Held) -> T) -> T {
        let held = self.lock().held.get(record.id.as_str()).cloned();
        work(&held.unwrap_or_else(|| Held::new(record, &EndpointSettings::default())))
    }

    /// What is known of the container's endpoint, if it is the one of `settings`.
    pub(super) fn with_held_if<T>(
        &self,
        record: &Record,
        settings: &EndpointSettings,
        work: impl FnOnce(&Held) -> T,
    ) -> Option<T> {
        let held = self.lock().held.get(record.id.as_str()).cloned();
        held.filter(|h| !settings.endpoint_id.is_empty() && h.endpoint_id == settings.endpoint_id)
            .map(|h| work(&h))
    }

    /// Whether there is nobody to say who is on it elsewhere, since this daemon began.
    pub(super) fn is_behind(&self) -> bool {
        self.cluster.as_ref().is_some_and(|c| !c.has_caught_up())
    }

    /// Everybody on it here, by container.
    pub(super) fn all_held(&self) -> Vec<(String, Held)> {
        self.lock().held.iter().map(|(id, held)| (id.clone(), held.clone())).collect()
    }

    /// Everybody on it on other hosts, by address.
    pub(super) fn remote(&self) -> Vec<RemoteEndpoint> {
        self.lock().remote.values().cloned().collect()
    }

    /// Somebody on another host has this address.
    pub(super) fn add_remote(&self, address: IpAddr, endpoint: RemoteEndpoint) {
        let mut state = self.lock();
        state.take(address);
        state.remote.insert(address, endpoint);
    }

    /// Nobody on another host has this address any more. Who had it.
    pub(super) fn remove_remote(&self, address: IpAddr) -> Option<RemoteEndpoint> {
        let mut state = self.lock();
        if !state.held.values().any(|h| h.addresses.contains(&address)) {
            state.release(address);
        }
        state.remote.remove(&address)
    }

    /// Takes note of everybody on other hosts.
    pub(super) fn set_remote(&self, remote: BTreeMap<IpAddr, RemoteEndpoint>) {
        let mut state = self.lock();
        // From nothing: what was taken for another's may be free.
        if let Ok(pools) = pools_of(&self.record) {
            state.pools = pools;
        }
        let held: Vec<IpAddr> = state.held.values().flat_map(|h| h.addresses.clone()).collect();
        for address in held.into_iter().chain(remote.keys().copied()) {
            state.take(address);
        }
        state.remote = remote;
    }

    /// Lets nobody join any more.
    ///
    /// # Errors
    ///
    /// Denied while somebody is there.
    pub(super) fn close(&self) -> Result<(), Error> {
        let mut state = self.lock();
        if !state.held.is_empty() {
            let name = |held: &Held| {
                let id = held.endpoint_id.get(..12).unwrap_or(&held.endpoint_id);
                format!("name:\"{}\" id:\"{id}\"", held.name)
            };
            let all: Vec<String> = state.held.values().map(name).collect();
            return Err(Error::denied(format!(
                "error while removing network: network {} has active endpoints ({})",
                self.record.name,
                all.join(", ")
            )));
        }
        state.closed = true;
        Ok(())
    }

    /// Whether it is being removed.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// As before [`Entry::close`].
    pub(super) fn reopen(&self) {
        self.lock().closed = false;
    }

    /// Whether a running container is there.
    pub(super) fn is_used(&self) -> bool {
        !self.lock().held.is_empty()
    }
}

impl State {
    fn pool_mut(&mut self, address: IpAddr) -> Option<&mut Pool> {
        self.pools.iter_mut().find(|p| p.subnet().contains(address))
    }

    fn release(&mut self, address: IpAddr) {
        if let Some(pool) = self.pool_mut(address) {
            pool.release(address);
        }
    }

    /// Takes an address of a family, `wanted` or one of the first pool that has any; None on a network without the family.
    /// With Docker's words for what can go wrong.
    fn allocate(
        &mut self,
        is_ipv6: bool,
        wanted: Option<IpAddr>,
        network: &Network,
    ) -> Result<Option<IpAddr>, Error> {
        let mut last = Ok(None);
        for pool in self.pools.iter_mut().filter(|p| p.subnet().is_ipv6() == is_ipv6) {
            match pool.allocate(wanted) {
                Ok(address) => return Ok(Some(address)),
                // The next may have it.
                Err(e @ (network::Error::AddressOutside { .. } | network::Error::PoolExhausted { .. })) => {
                    last = Err(e);
                }
                Err(e) => {
                    last = Err(e);
                    break;
                }
            }
        }
        let family = if is_ipv6 { 6 } else { 4 };
        last.map_err(|e| match e {
            network::Error::AddressTaken { .. } => Error::denied("Address already in use"),
            network::Error::AddressOutside { address, .. } => Error::invalid(format!(
                "invalid address {address}: It does not belong to any of this network's subnets"
            )),
            _ => Error::Exhausted {
                message: format!(
                    "no available IPv{family} addresses on this network's address pools: {} ({})",
                    network.name, network.id
                ),
            },
        })
    }

    /// Has nobody else be given the address. Harmless if it is given.
    fn take(&mut self, address: IpAddr) {
        if let Some(pool) = self.pool_mut(address) {
            drop(pool.allocate(Some(address)));
        }
    }
}

/// The addresses of a network, none of them given out.
fn pools_of(record: &Network) -> Result<Vec<Pool>, Error> {
    let doing = || format!("read the record of network {}", record.name);
    let of = |pool: &NetworkPool| {
        let reserved: Vec<IpAddr> = pool.gateway.into_iter().chain(pool.aux.values().copied()).collect();
        let addresses = Pool::new(pool.net()?, &reserved);
        match &pool.ip_range {
            Some(range) => addresses.with_range(range.parse().during(doing)?).during(doing),
            None => Ok(addresses),
        }
    };
    record.pools.iter().map(of).collect()
}

/// The names under which others on the network find the container.
pub(crate) fn dns_names(record: &Record, settings: &EndpointSettings) -> Vec<String> {
    let mut out = vec![record.name.clone()];
    out.extend(settings.aliases.iter().flatten().cloned());
    out.push(record.id.short().into());
    if !record.config.hostname.is_empty() {
        out.push(record.config.hostname.clone());
    }
    let mut seen = std::collections::HashSet::new();
    out.retain(|name| seen.insert(name.clone()));
    out
}

pub(super) fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

pub(crate) fn parse_mac(text: &str) -> Result<[u8; 6], Error> {
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
