//! What the other hosts do, as the store tells it, and what this host holds, as the store should have it.
//!
//! Two threads: one listens, and reads everything anew whenever it could not; the other renews the lease and makes the
//! changes that wait.

use super::{Change, Cluster, Node, RemoteEndpoint};
use crate::Engine;
use crate::error::{During, Error};
use crate::networks::addresses::Entry;
use crate::networks::{Network, Networks};
use etcd::{Compare, Event, KeyValue, Op};
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// A network, who left it, and who joined it.
type Touched = (Arc<Entry>, Vec<RemoteEndpoint>, Vec<RemoteEndpoint>);

/// How long a store that failed is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// What an endpoint's key says: network and address.
fn parse_endpoint_key(rest: &str) -> Option<(&str, IpAddr)> {
    let (network, address) = rest.split_once('/')?;
    Some((network, address.parse().ok()?))
}

impl Engine {
    /// Begins to follow the other hosts, if there are any.
    pub(crate) fn follow_cluster(self: &Arc<Self>) {
        if self.networks.cluster.is_none() {
            return;
        }
        let runtime = tokio::runtime::Handle::current();
        let listening = (Arc::downgrade(self), runtime.clone());
        let keeping = (Arc::downgrade(self), runtime);
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(work).map(drop)
        };
        let started = spawn("cluster", Box::new(move || listen(&listening.0, &listening.1)))
            .and_then(|()| spawn("lease", Box::new(move || keep(&keeping.0, &keeping.1))));
        if let Err(error) = started {
            tracing::error!(%error, "other hosts are not listened to");
        }
    }
}

/// Listens until the engine is gone.
fn listen(engine: &Weak<Engine>, runtime: &tokio::runtime::Handle) {
    let mut was_told = false;
    while let Some(strong) = engine.upgrade() {
        let begun = strong.networks.catch_up(&strong, runtime);
        drop(strong);
        let result = begun.and_then(|mut watch| {
            was_told = false;
            loop {
                let events = watch.changes().during(|| "listen to the store".into())?;
                let Some(engine) = engine.upgrade() else { return Ok(()) };
                engine.networks.take(&engine, events);
            }
        });
        if let Err(e) = result {
            if !was_told {
                tracing::warn!(error = %errors::chain(&e), "the store of shared networks does not answer; what runs goes on");
            }
            was_told = true;
            std::thread::sleep(PAUSE);
        }
    }
}

/// Keeps the lease until the engine is gone.
fn keep(engine: &Weak<Engine>, runtime: &tokio::runtime::Handle) {
    let mut last = Instant::now();
    while let Some(engine) = engine.upgrade() {
        let Some(cluster) = engine.networks.cluster.clone() else { return };
        {
            let changes = cluster.changes.lock().expect("no holder panics");
            // Short, so that changes that could not be made are tried again, and the engine is let go of.
            if changes.is_empty() {
                drop(cluster.wake.wait_timeout(changes, PAUSE));
            } else {
                drop(changes);
                std::thread::sleep(PAUSE / 10);
            }
        }
        if let Err(e) = cluster.make_changes() {
            tracing::debug!(error = %errors::chain(&e), "changes wait");
            std::thread::sleep(PAUSE);
        }
        if last.elapsed() >= cluster.pulse() {
            last = Instant::now();
            match cluster.renew() {
                Ok(true) => {}
                Ok(false) => {
                    if let Err(e) = engine.networks.reassert(&engine, runtime) {
                        tracing::warn!(error = %errors::chain(&e), "this host has no lease in the store");
                    }
                }
                Err(e) => tracing::debug!(error = %errors::chain(&e), "lease not renewed"),
            }
        }
    }
}

impl Networks {
    /// Reads everything, and begins to listen to what changes from then on.
    fn catch_up(&self, engine: &Arc<Engine>, runtime: &tokio::runtime::Handle) -> Result<etcd::Watch, Error> {
        let doing = || "read the store of shared networks".to_string();
        let cluster = self.cluster.as_ref().ok_or_else(super::data_plane::no_store)?;
        self.reassert(engine, runtime)?;
        let (revision, rows) = cluster.client.range(&cluster.key("")).during(doing)?;
        self.take_all(engine, &rows);
        tracing::info!(revision, "the store of shared networks is followed");
        cluster.client.watch(&cluster.key(""), revision + 1).during(doing)
    }

    /// Makes memory and kernel be as the store is.
    fn take_all(&self, engine: &Engine, rows: &[KeyValue]) {
        let Some(cluster) = &self.cluster else { return };
        let strip = |kv: &KeyValue, kind: &str| kv.key.strip_prefix(&cluster.key(kind)).map(str::to_string);
        let mut nodes = BTreeMap::new();
        let mut networks = HashSet::new();
        let mut endpoints: BTreeMap<String, BTreeMap<IpAddr, RemoteEndpoint>> = BTreeMap::new();
        for row in rows {
            if let Some(id) = strip(row, "networks/") {
                networks.insert(id);
                self.adopt_network(engine, &row.value);
            } else if let Some(id) = strip(row, "nodes/") {
                nodes.extend(serde_json::from_str::<Node>(&row.value).map(|n| (id, n)));
            } else if let Some(rest) = strip(row, "endpoints/")
                && let Some((network, address)) = parse_endpoint_key(&rest)
                && let Some(endpoint) = cluster.foreign(address, &row.value)
            {
                endpoints.entry(network.into()).or_default().insert(address, endpoint);
            }
        }
        *cluster.nodes.lock().expect("no holder panics") = nodes;
        for entry in self.entries().into_iter().filter(|e| e.record.driver == "overlay") {
            if !networks.contains(&entry.record.id) {
                self.lose_network(engine, &entry);
                continue;
            }
            entry.set_remote(endpoints.remove(&entry.record.id).unwrap_or_default());
        }
        cluster.caught_up.store(true, Ordering::SeqCst);
        for entry in self.entries().into_iter().filter(|e| e.record.driver == "overlay") {
            self.renew_neighbours(&entry);
            self.tell_shared(&[entry]);
        }
    }

    /// Takes note of changes.
    fn take(&self, engine: &Engine, events: Vec<Event>) {
        let Some(cluster) = &self.cluster else { return };
        let mut touched: BTreeMap<String, Touched> = BTreeMap::new();
        for event in events {
            let (key, value) = match &event {
                Event::Put(kv) => (kv.key.as_str(), Some(kv.value.as_str())),
                Event::Deleted(key) => (key.as_str(), None),
            };
            let strip = |kind: &str| key.strip_prefix(&cluster.key(kind));
            if let Some(id) = strip("networks/") {
                match value {
                    Some(value) => self.adopt_network(engine, value),
                    None => {
                        if let Ok(entry) = self.find(id) {
                            self.lose_network(engine, &entry);
                        }
                    }
                }
            } else if let Some(id) = strip("nodes/") {
                let node = value.and_then(|v| serde_json::from_str::<Node>(v).ok());
                let mut nodes = cluster.nodes.lock().expect("no holder panics");
                match node {
                    Some(node) => drop(nodes.insert(id.into(), node)),
                    None => drop(nodes.remove(id)),
                }
            } else if let Some((network, address)) = strip("endpoints/").and_then(parse_endpoint_key)
                && let Ok(entry) = self.find(network)
            {
                let slot = touched.entry(network.into()).or_insert_with(|| (entry, Vec::new(), Vec::new()));
                match value.and_then(|v| cluster.foreign(address, v)) {
                    Some(endpoint) => {
                        slot.0.add_remote(address, endpoint.clone());
                        slot.2.push(endpoint);
                    }
                    None => slot.1.extend(slot.0.remove_remote(address)),
                }
            }
        }
        for (entry, gone, new) in touched.into_values() {
            self.change_neighbours(&entry, &gone, &new);
            self.tell_shared(&[entry]);
        }
    }

    /// Has the containers here find the names of those elsewhere.
    fn tell_shared(&self, entries: &[Arc<Entry>]) {
        if let Err(e) = self.tell_entries(entries) {
            tracing::error!(error = %errors::chain(&e), "names of other hosts not served");
        }
    }

    /// A network that some host made.
    fn adopt_network(&self, engine: &Engine, text: &str) {
        let Ok(network) = serde_json::from_str::<Network>(text) else {
            return tracing::warn!("a network in the store cannot be read");
        };
        if let Err(e) = self.add_shared(&engine.db, network) {
            tracing::warn!(error = %errors::chain(&e), "a network of other hosts is not had here");
        }
    }

    /// A network that some host removed.
    fn lose_network(&self, engine: &Engine, entry: &Arc<Entry>) {
        if entry.is_used() {
            // Nobody removes what is in use: the store lost it. It is written again with what this host holds.
            return tracing::warn!(
                network = entry.record.name,
                "the store does not have a network that is in use here"
            );
        }
        let gone = entry.close().and_then(|()| self.forget(&engine.db, entry));
        if let Err(e) = gone {
            tracing::warn!(network = entry.record.name, error = %errors::chain(&e), "not removed here");
        }
    }

    /// Makes the store have what this host holds, and nothing that it does not.
    fn reassert(&self, engine: &Arc<Engine>, runtime: &tokio::runtime::Handle) -> Result<(), Error> {
        let doing = || "write this host's endpoints".to_string();
        let Some(cluster) = &self.cluster else { return Ok(()) };
        let mut lost = Vec::new();
        {
            let _allocating = cluster.allocating.lock().expect("no holder panics");
            // A lease that is gone is noticed here.
            cluster.renew().during(doing)?;
            let lease = cluster.ensure_lease().during(doing)?;
            cluster.make_changes().during(doing)?;
            let node = Node {
                host: cluster.config.advertise,
                name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            };
            let value = serde_json::to_string(&node).expect("texts are JSON");
            let announce = Op::Put { key: cluster.key(&format!("nodes/{}", cluster.node)), value, lease };
            cluster.client.transact(&[], &[announce]).during(doing)?;
            let (_, rows) = cluster.client.range(&cluster.key("endpoints/")).during(doing)?;
            let mut there: BTreeMap<String, KeyValue> =
                rows.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
            for entry in self.entries().into_iter().filter(|e| e.record.driver == "overlay") {
                let network = &entry.record;
                let all = entry.all_held();
                if !all.is_empty() {
                    // All or none: a name or number of it that is another's now is refused.
                    let absent = cluster.absent(network);
                    cluster.client.transact(&absent, &cluster.network_puts(network)).during(doing)?;
                }
                for (container, held) in all {
                    let mut is_ours = true;
                    for op in cluster.puts(&network.id, &container, &held, lease) {
                        let Op::Put { key, value, .. } = &op else { continue };
                        let compares = match there.remove(key) {
                            Some(kv) if kv.value == *value && kv.lease == lease => continue,
                            Some(kv) if cluster.is_same(&kv.value, &held.endpoint_id) => {
                                vec![Compare::ModRevision(key.clone(), kv.mod_revision)]
                            }
                            Some(_) => {
                                is_ours = false;
                                continue;
                            }
                            None => vec![Compare::Absent(key.clone())],
                        };
                        is_ours &= cluster.client.transact(&compares, &[op]).during(doing)?;
                    }
                    if !is_ours {
                        lost.push((network.name.clone(), container));
                    }
                }
            }
            for (key, kv) in there.into_iter().filter(|(_, kv)| cluster.is_own(&kv.value)) {
                let compares = vec![Compare::Value(key.clone(), kv.value)];
                cluster.queue(Change { compares, ops: vec![Op::Delete(key)] });
            }
        }
        for (network, container) in lost {
            tracing::error!(
                container_id = container,
                network,
                "the address was given to another host's container while this host was away; disconnecting"
            );
            let disconnected = runtime.block_on(engine.disconnect_network(&network, &container, true));
            if let Err(e) = disconnected {
                tracing::error!(container_id = container, error = %errors::chain(&e), "not disconnected");
            }
        }
        Ok(())
    }
}

impl Cluster {
    /// The endpoint in a key's value with the key's address, if it is another host's.
    fn foreign(&self, address: IpAddr, value: &str) -> Option<RemoteEndpoint> {
        let endpoint: RemoteEndpoint = serde_json::from_str(value).ok()?;
        (endpoint.node != self.node).then_some(RemoteEndpoint { addresses: vec![address], ..endpoint })
    }

    fn is_own(&self, value: &str) -> bool {
        serde_json::from_str::<RemoteEndpoint>(value).is_ok_and(|e| e.node == self.node)
    }

    fn is_same(&self, value: &str, endpoint_id: &str) -> bool {
        serde_json::from_str::<RemoteEndpoint>(value)
            .is_ok_and(|e| e.node == self.node && e.endpoint == endpoint_id)
    }
}
