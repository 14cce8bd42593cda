//! Shared networks in this host's kernel: bridge and VXLAN interface, made when the first container here joins.

use super::RemoteEndpoint;
use crate::error::{During, Error};
use crate::networks::addresses::{Entry, parse_mac};
use crate::networks::{Network, Networks};
use network::{Neighbour, OverlayConfig};
use std::collections::HashSet;

/// The name of a network's VXLAN interface.
fn interface(network: &Network) -> String {
    format!("vx-{}", &network.id[..12])
}

/// What the kernel is told of an endpoint elsewhere.
pub(super) fn neighbours(endpoint: &RemoteEndpoint) -> Vec<Neighbour> {
    let Ok(mac) = parse_mac(&endpoint.mac) else { return Vec::new() };
    endpoint
        .addresses
        .iter()
        .map(|address| Neighbour { address: *address, mac, host: endpoint.host })
        .collect()
}

impl Networks {
    /// Connects the network's bridge, which exists, with the other hosts. Called with the entry's `ready` held.
    pub(in crate::networks) fn ensure_overlay(&self, entry: &Entry) -> Result<(), Error> {
        let network = &entry.record;
        let doing = || format!("connect network {} with other hosts", network.name);
        let cluster = self.cluster.as_ref().ok_or_else(no_store)?;
        let bridge = self.bridge_config(network)?;
        let ipv6 = bridge.family(true).next().is_some();
        let config = OverlayConfig {
            name: interface(network),
            vni: network.vni.unwrap_or_default(),
            local: cluster.config.advertise,
            bridge: bridge.name,
            mtu: bridge.mtu,
            ipv6,
            owner: bridge.owner,
        };
        let known: Vec<Neighbour> = entry.remote().iter().flat_map(neighbours).collect();
        // Until the store was heard, what the last daemon told the kernel holds.
        let known = cluster.has_caught_up().then_some(known.as_slice());
        network::ensure_overlay(&config, known).during(doing)
    }

    /// Tells the kernel of everybody, where the network is in use here.
    pub(super) fn renew_neighbours(&self, entry: &Entry) {
        let ready = entry.ready.lock().expect("no holder panics");
        if *ready && let Err(e) = self.ensure_overlay(entry) {
            tracing::error!(network = entry.record.name, error = %errors::chain(&e), "neighbours not changed");
        }
    }

    /// Tells the kernel who came and went, where the network is in use here.
    pub(super) fn change_neighbours(&self, entry: &Entry, gone: &[RemoteEndpoint], new: &[RemoteEndpoint]) {
        let ready = entry.ready.lock().expect("no holder panics");
        if !*ready {
            return;
        }
        let all = |list: &[RemoteEndpoint]| list.iter().flat_map(neighbours).collect::<Vec<_>>();
        if let Err(e) = network::change_neighbours(&interface(&entry.record), &all(gone), &all(new)) {
            tracing::error!(network = entry.record.name, error = %errors::chain(&e), "neighbours not changed");
        }
    }

    /// Removes the VXLAN interface of a network.
    pub(in crate::networks) fn remove_overlay(&self, network: &Network) {
        if let Err(e) = network::remove_overlay(&interface(network)) {
            tracing::warn!(network = network.name, error = %errors::chain(&e), "VXLAN interface not removed");
        }
    }

    /// Removes VXLAN interfaces of this daemon's whose network is gone.
    pub(in crate::networks) fn sweep_overlays(&self, known: &HashSet<String>) {
        for (name, owner) in network::list_overlays().unwrap_or_default() {
            let stray =
                owner.split_once(':').is_some_and(|(id, e)| e == self.engine_id && !known.contains(id));
            if stray && let Err(e) = network::remove_overlay(&name) {
                tracing::warn!(interface = name, error = %errors::chain(&e), "stray interface");
            }
        }
    }
}

pub(in crate::networks) fn no_store() -> Error {
    Error::unsupported(
        "the network driver overlay without a store that all hosts share (brigd --cluster-store and --cluster-advertise)",
    )
}
