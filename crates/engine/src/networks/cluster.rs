//! Networks that several hosts share: driver `overlay`. What all of them must agree on is in etcd; each host has a copy in
//! memory and, of the networks, in its database.
//!
//! ```text
//! PREFIX/generation                       written by whoever makes a network: one at a time chooses subnets and numbers
//! PREFIX/networks/ID                      the network's record
//! PREFIX/names/NAME, PREFIX/vnis/NUMBER   whose they are
//! PREFIX/nodes/NODE                       a host: its address            (lease)
//! PREFIX/endpoints/ID/ADDRESS             who has the address, and where (lease)
//! ```
//!
//! An address is taken by the transaction that makes its key: two hosts cannot have the same. Keys of a host hang on its
//! lease, which the daemon renews. It is long (ten minutes), because a daemon that is away harms no container: within it
//! the next daemon goes on with the same lease, kept in the exec root. When it ran out, all that it held is free.
//!
//! A host that cannot reach the store changes nothing: its containers run on and talk to those they knew. Containers start
//! only on networks of other drivers then. When the store is back, the host reads everything anew, writes again what it
//! still has, and withdraws keys of what it has no more. If an address was given to somebody else meanwhile, the later one
//! keeps it and the container here loses its interface: never two with one address.

mod data_plane;
mod follow;

pub(super) use data_plane::no_store;

use super::addresses::{Entry, Held};
use super::record::Network;
use crate::error::{During, Error};
use crate::model::EndpointSettings;
use crate::record::Record;
use errors::Kind;
use etcd::{Compare, Op};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// How often it is tried to take a free address while others do, too.
const TRIES: u32 = 64;
/// The first number of a network, as Docker has it.
const FIRST_VNI: u32 = 4097;
/// The highest that VXLAN has.
pub(super) const MAX_VNI: u32 = (1 << 24) - 1;

/// What the daemon's flags say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Servers of the store, as [`etcd::Client::new`] wants them.
    pub store: Vec<String>,
    /// For servers with an `https` address.
    pub tls: etcd::Tls,
    /// What all keys begin with, without a slash at the end.
    pub prefix: String,
    /// The address by which the other hosts reach this one.
    pub advertise: IpAddr,
    /// How long what a host holds outlives its last word.
    pub ttl_s: u32,
}

/// An endpoint on another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteEndpoint {
    pub node: String,
    pub host: IpAddr,
    pub mac: String,
    pub container: String,
    pub name: String,
    pub endpoint: String,
    pub names: Vec<String>,
    pub addresses: Vec<IpAddr>,
}

/// A host that shares networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    pub host: IpAddr,
    pub name: String,
}

/// A change that has to be made when the store can be reached.
#[derive(Debug)]
struct Change {
    compares: Vec<Compare>,
    ops: Vec<Op>,
}

/// This host's part in it.
#[derive(Debug)]
pub(crate) struct Cluster {
    client: etcd::Client,
    config: ClusterConfig,
    /// Of this host.
    node: String,
    lease_file: PathBuf,
    /// 0 while there is none.
    lease: Mutex<i64>,
    /// Held while an address is taken, and while what is held is compared with the store.
    allocating: Mutex<()>,
    changes: Mutex<Vec<Change>>,
    /// There are changes.
    wake: Condvar,
    nodes: Mutex<BTreeMap<String, Node>>,
    /// Memory is as the store was once in this daemon's life.
    caught_up: AtomicBool,
}

impl Cluster {
    pub(super) fn new(config: &crate::Config, node: &str) -> Result<Option<Cluster>, Error> {
        let Some(cluster) = config.cluster.clone() else { return Ok(None) };
        let addresses: Vec<&str> = cluster.store.iter().map(String::as_str).collect();
        Ok(Some(Cluster {
            client: etcd::Client::new(&addresses, cluster.tls.clone())
                .during(|| "read --cluster-store".into())?,
            config: cluster,
            node: node.into(),
            lease_file: config.exec_root.join("cluster-lease"),
            lease: Mutex::default(),
            allocating: Mutex::default(),
            changes: Mutex::default(),
            wake: Condvar::new(),
            nodes: Mutex::default(),
            caught_up: AtomicBool::new(false),
        }))
    }

    fn key(&self, rest: &str) -> String {
        format!("{}/{rest}", self.config.prefix)
    }

    fn endpoint_key(&self, network: &str, address: IpAddr) -> String {
        self.key(&format!("endpoints/{network}/{address}"))
    }

    /// The value of an endpoint's keys.
    fn value(&self, container: &str, held: &Held) -> String {
        let endpoint = RemoteEndpoint {
            node: self.node.clone(),
            host: self.config.advertise,
            mac: held.mac.clone(),
            container: container.into(),
            name: held.name.clone(),
            endpoint: held.endpoint_id.clone(),
            names: held.names.clone(),
            addresses: held.addresses.clone(),
        };
        serde_json::to_string(&endpoint).expect("texts and addresses are JSON")
    }

    /// What makes an endpoint known.
    fn puts(&self, network: &str, container: &str, held: &Held, lease: i64) -> Vec<Op> {
        let value = self.value(container, held);
        let put = |a: &IpAddr| Op::Put { key: self.endpoint_key(network, *a), value: value.clone(), lease };
        held.addresses.iter().map(put).collect()
    }

    /// Gives the container an endpoint with addresses that nobody on any host has. Blocking.
    pub(super) fn allocate(
        &self,
        entry: &Entry,
        record: &Record,
        settings: &mut EndpointSettings,
    ) -> Result<(), Error> {
        let _allocating = self.allocating.lock().expect("no holder panics");
        let doing = || format!("take an address on network {}", entry.record.name);
        let lease = self.ensure_lease().during(doing)?;
        // What this host gave back is free before it takes something.
        self.make_changes().during(doing)?;
        let ipam = settings.ipam_config.as_ref();
        let is_asked = ipam.is_some_and(|i| !i.ipv4_address.is_empty() || !i.ipv6_address.is_empty());
        let network = self.key(&format!("networks/{}", entry.record.id));
        for _ in 0..TRIES {
            entry.allocate_here(record, settings)?;
            let (mut compares, ops) = entry.with_held(record, |held| {
                let keys = held.addresses.iter().map(|a| self.endpoint_key(&entry.record.id, *a));
                let compares: Vec<Compare> = keys.map(Compare::Absent).collect();
                (compares, self.puts(&entry.record.id, record.id.as_str(), held, lease))
            });
            compares.push(Compare::Exists(network.clone()));
            match self.client.transact(&compares, &ops).during(doing) {
                Ok(true) => return Ok(()),
                Ok(false) if self.client.get(&network).during(doing)?.is_none() => {
                    entry.release_here(record, settings);
                    return Err(Error::NoSuchNetwork { name: entry.record.name.clone() });
                }
                Ok(false) if is_asked => {
                    entry.release_here(record, settings);
                    return Err(Error::denied("Address already in use"));
                }
                Ok(false) => entry.abandon(record, settings),
                Err(e) => {
                    // It may have been made all the same.
                    self.withdraw(entry, record, settings);
                    entry.release_here(record, settings);
                    return Err(e);
                }
            }
        }
        Err(Error::Failed {
            doing: doing(),
            kind: Kind::Unavailable,
            source: "the other hosts take addresses faster than this one".into(),
        })
    }

    /// Takes the keys of an endpoint back, now or when the store can be reached.
    pub(super) fn withdraw(&self, entry: &Entry, record: &Record, settings: &EndpointSettings) {
        let ours = entry.with_held_if(record, settings, |held| {
            let value = self.value(record.id.as_str(), held);
            let keys = held.addresses.iter().map(|a| self.endpoint_key(&entry.record.id, *a));
            keys.map(|key| (key, value.clone())).collect::<Vec<_>>()
        });
        for (key, value) in ours.unwrap_or_default() {
            // Only while it is this endpoint's: the key may be somebody else's by then.
            self.queue(Change {
                compares: vec![Compare::Value(key.clone(), value)],
                ops: vec![Op::Delete(key)],
            });
        }
    }

    /// Tells the other hosts the new names of a container.
    pub(super) fn republish(&self, entry: &Entry, record: &Record) {
        let lease = *self.lease.lock().expect("no holder panics");
        let ops =
            entry.with_held(record, |held| self.puts(&entry.record.id, record.id.as_str(), held, lease));
        let exist = |op: &Op| match op {
            Op::Put { key, .. } => Some(Compare::Exists(key.clone())),
            _ => None,
        };
        self.queue(Change { compares: ops.iter().filter_map(exist).collect(), ops });
    }

    fn queue(&self, change: Change) {
        self.changes.lock().expect("no holder panics").push(change);
        self.wake.notify_all();
    }

    /// Makes the changes that wait. Those that could not be made wait on.
    fn make_changes(&self) -> etcd::Result<()> {
        loop {
            let Some(change) = self.changes.lock().expect("no holder panics").pop() else { return Ok(()) };
            if let Err(e) = self.client.transact(&change.compares, &change.ops) {
                self.changes.lock().expect("no holder panics").push(change);
                return Err(e);
            }
        }
    }

    /// The lease of this host, made if there is none.
    fn ensure_lease(&self) -> etcd::Result<i64> {
        let mut lease = self.lease.lock().expect("no holder panics");
        if *lease == 0 {
            let kept = std::fs::read_to_string(&self.lease_file).ok().and_then(|t| t.trim().parse().ok());
            *lease = match kept {
                Some(kept) if self.client.keep_alive(kept)? => kept,
                _ => self.client.grant(self.config.ttl_s)?,
            };
            if let Err(error) = std::fs::write(&self.lease_file, lease.to_string()) {
                tracing::warn!(%error, "the next daemon will not know this host's lease");
            }
        }
        Ok(*lease)
    }

    /// Renews the lease. False when it is gone; there is none then.
    fn renew(&self) -> etcd::Result<bool> {
        let id = *self.lease.lock().expect("no holder panics");
        if id == 0 || self.client.keep_alive(id)? {
            return Ok(id != 0);
        }
        *self.lease.lock().expect("no holder panics") = 0;
        Ok(false)
    }

    /// How often the lease is renewed.
    fn pulse(&self) -> Duration {
        Duration::from_secs(u64::from(self.config.ttl_s)) / 3
    }

    /// Makes a network that all hosts have. `choose` fills in subnets, knowing those of the networks it is given.
    pub(super) fn create_network(
        &self,
        asked: Network,
        choose: impl Fn(&mut Network, &[Network]) -> Result<(), Error>,
    ) -> Result<Network, Error> {
        let doing = || format!("create network {}", asked.name);
        let generation = self.key("generation");
        for _ in 0..TRIES {
            let mut network = asked.clone();
            let revision = self.client.get(&generation).during(doing)?.map_or(0, |kv| kv.mod_revision);
            let (_, rows) = self.client.range(&self.key("networks/")).during(doing)?;
            let others: Vec<Network> =
                rows.iter().filter_map(|r| serde_json::from_str(&r.value).ok()).collect();
            if others.iter().any(|n| n.name == network.name) {
                return Err(Error::conflict(format!("network with name {} already exists", network.name)));
            }
            choose(&mut network, &others)?;
            let vni = match network.wanted_vni()? {
                Some(vni) if others.iter().any(|n| n.vni == Some(vni)) => {
                    return Err(Error::denied(format!("vxlan id {vni} is already in use")));
                }
                Some(vni) => vni,
                None => (FIRST_VNI..=MAX_VNI)
                    .find(|vni| !others.iter().any(|n| n.vni == Some(*vni)))
                    .ok_or_else(|| Error::Exhausted { message: "no vxlan id is left".into() })?,
            };
            network.vni = Some(vni);
            if network.shared_mtu.is_none() {
                network.shared_mtu =
                    network::overlay_mtu(self.config.advertise).during(doing)?.filter(|mtu| *mtu >= 68);
            }
            let mut compares = self.absent(&network);
            compares.push(Compare::ModRevision(generation.clone(), revision));
            let mut ops = self.network_puts(&network);
            ops.push(Op::Put { key: generation.clone(), value: network.id.clone(), lease: 0 });
            if self.client.transact(&compares, &ops).during(doing)? {
                return Ok(network);
            }
        }
        Err(Error::Failed {
            doing: doing(),
            kind: Kind::Unavailable,
            source: "the other hosts make networks faster than this one".into(),
        })
    }

    fn absent(&self, network: &Network) -> Vec<Compare> {
        let keys = self.network_keys(network);
        keys.into_iter().map(Compare::Absent).collect()
    }

    fn network_keys(&self, network: &Network) -> [String; 3] {
        [
            self.key(&format!("networks/{}", network.id)),
            self.key(&format!("names/{}", network.name)),
            self.key(&format!("vnis/{}", network.vni.unwrap_or_default())),
        ]
    }

    fn network_puts(&self, network: &Network) -> Vec<Op> {
        let [record, name, vni] = self.network_keys(network);
        let body = serde_json::to_string(network).expect("texts and numbers are JSON");
        let put = |key: String, value: &str| Op::Put { key, value: value.into(), lease: 0 };
        vec![put(record, &body), put(name, &network.id), put(vni, &network.id)]
    }

    /// Removes the network for all hosts, if no host has a container on it. Whether it did.
    pub(super) fn remove_network(&self, network: &Network) -> Result<bool, Error> {
        let doing = || format!("remove network {}", network.name);
        // What this host gave back does not count.
        self.make_changes().during(doing)?;
        let ops = self.network_keys(network).into_iter().map(Op::Delete).collect::<Vec<_>>();
        let unused = Compare::NoneBelow(self.key(&format!("endpoints/{}/", network.id)));
        self.client.transact(&[unused], &ops).during(doing)
    }

    /// Whether the other hosts are known at all.
    pub(super) fn has_caught_up(&self) -> bool {
        self.caught_up.load(Ordering::SeqCst)
    }

    /// The hosts that share networks, by id.
    pub(super) fn nodes(&self) -> BTreeMap<String, Node> {
        self.nodes.lock().expect("no holder panics").clone()
    }
}
