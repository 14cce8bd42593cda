//! Connecting a container to a network and taking it off, whether it runs or not.
//!
//! Running, a connection is made in the kernel first and then recorded, and unrecorded first and then unmade: what a
//! killed daemon leaves is an interface that no record knows, which the next start removes.

use super::addresses::{self, Entry};
use super::options::BridgeOptions;
use super::{
    Gateways, INTERFACE_NAME, Networks, SHARED_NAMESPACE, clear_one, host_interface, interface_name,
};
use crate::container::Container;
use crate::error::{During, Error, blocking};
use crate::model::EndpointSettings;
use crate::record::Record;
use crate::{Engine, Status};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

const NO_NETWORK: &str =
    "container cannot be connected to multiple networks with one of the networks in private (none) mode";
/// `IFNAMSIZ` without the terminating zero.
const MAX_INTERFACE_NAME: usize = 15;

/// Checks one endpoint's settings; `entry` is None for a network that does not exist (yet).
pub(super) fn check(name: &str, entry: Option<&Entry>, settings: &mut EndpointSettings) -> Result<(), Error> {
    let mut mistakes = Vec::new();
    let user_defined = entry.is_none_or(|e| e.record.is_user_defined());
    if let Some(ipam) = &settings.ipam_config {
        let asked = [(&ipam.ipv4_address, false), (&ipam.ipv6_address, true)];
        if !user_defined && asked.iter().any(|(text, _)| !text.is_empty()) {
            mistakes.push("user-specified IP address is supported on user-defined networks only".to_string());
        }
        for (text, is_ipv6) in asked.into_iter().filter(|(text, _)| !text.is_empty()) {
            let family = if is_ipv6 { 6 } else { 4 };
            match text.parse::<std::net::IpAddr>() {
                Ok(address) if address.is_ipv6() == is_ipv6 && !address.is_unspecified() => {
                    if user_defined && entry.is_some_and(|e| e.record.pool_with(address).is_none()) {
                        mistakes.push(format!("no configured subnet contains IP address {address}"));
                    }
                }
                _ => mistakes.push(format!("invalid IPv{family} address: {text}")),
            }
        }
        for text in &ipam.link_local_ips {
            if text.parse::<std::net::IpAddr>().map_or(true, |a| a.is_unspecified()) {
                mistakes.push(format!("invalid link-local IP address: {text}"));
            }
        }
    }
    if !user_defined && settings.aliases.as_ref().is_some_and(|a| !a.is_empty()) {
        mistakes.push("network-scoped aliases are only supported for user-defined networks".to_string());
    }
    let words = settings.aliases.iter().chain(&settings.links).flatten();
    let is_word = |w: &&String| w.is_empty() || w.len() > 253 || !w.bytes().all(|b| b.is_ascii_graphic());
    mistakes.extend(words.filter(is_word).map(|w| format!("invalid alias or link: {w:?}")));
    let options = settings.driver_opts.iter().flatten();
    for (key, value) in options {
        match key.as_str() {
            INTERFACE_NAME => {
                let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
                if value.is_empty()
                    || value.len() > MAX_INTERFACE_NAME
                    || !value.bytes().all(plain)
                    || matches!(value.as_str(), "lo" | "all" | "default" | "." | "..")
                {
                    mistakes.push(format!("invalid interface name: {value:?}"));
                }
            }
            super::INTERFACE_SYSCTLS => {
                if let Err(e) = sysctls(value, "eth0") {
                    mistakes.push(e.to_string());
                }
            }
            // Docker's own prefix: it would mean something. Any other is for drivers that do not concern us, and is
            // kept and shown, as Docker does.
            other if other.starts_with("com.docker.network.") => {
                return Err(Error::unsupported(format!("the endpoint option {other}")));
            }
            _ => {}
        }
    }
    if !settings.mac_address.is_empty() {
        addresses::parse_mac(&settings.mac_address)?;
        if entry.is_some_and(|e| !e.record.has_interfaces()) {
            return Err(Error::invalid(format!(
                "conflicting options: mac-address and the network mode {name}"
            )));
        }
        if entry.is_some_and(|e| e.record.driver == "ipvlan") {
            return Err(Error::invalid("ipvlan interfaces do not support custom mac address assignment"));
        }
    }
    if !mistakes.is_empty() {
        return Err(Error::invalid(format!("invalid endpoint settings:\n{}", mistakes.join("\n"))));
    }
    if let Some(entry) = entry {
        settings.network_id.clone_from(&entry.record.id);
    }
    Ok(())
}

/// Refuses networks that cannot be had beside others.
pub(super) fn check_together<'a>(
    name: &str,
    mut others: impl Iterator<Item = &'a String>,
) -> Result<(), Error> {
    let Some(other) = others.next() else { return Ok(()) };
    match (name, other.as_str()) {
        ("host", _) | (_, "host") => Err(Error::invalid(SHARED_NAMESPACE)),
        ("none", _) | (_, "none") => Err(Error::invalid(NO_NETWORK)),
        _ => Ok(()),
    }
}

/// The settings that an endpoint's option names, for the interface: path below `/proc/sys/net` and value.
pub(super) fn sysctls(text: &str, interface: &str) -> Result<Vec<(String, String)>, Error> {
    text.split(',')
        .filter(|s| !s.is_empty())
        .map(|setting| {
            let error = || {
                Error::invalid(format!(
                    "unrecognised network interface sysctl '{setting}'; represent 'net.X.Y.ethN.Z=V' as \
                     'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
                ))
            };
            let (key, value) = setting.split_once('=').ok_or_else(error)?;
            let plain = |part: &str| {
                !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
            };
            match key.split('.').collect::<Vec<_>>().as_slice() {
                ["net", family @ ("ipv4" | "ipv6" | "mpls"), group, "IFNAME" | "ifname", rest]
                    if plain(group) && plain(rest) =>
                {
                    Ok((format!("{family}/{group}/{interface}/{rest}"), value.to_string()))
                }
                _ => Err(error()),
            }
        })
        .collect()
}

impl Engine {
    /// Connects a container to a network.
    ///
    /// # Errors
    ///
    /// NotFound, Denied when it is connected already or an address is taken, InvalidArgument for what cannot be.
    pub async fn connect_network(
        self: &Arc<Self>,
        network: &str,
        container: &str,
        mut settings: EndpointSettings,
    ) -> Result<(), Error> {
        let container = self.container(container)?;
        let _verb = container.take_verbs().await?;
        let remains = container.remains.clone().lock_owned().await;
        let record = changeable(&container)?;
        let entry = self.networks.find(network)?;
        let name = entry.record.name.clone();
        if record.host_config.network_mode.starts_with("container:") {
            return Err(Error::invalid(SHARED_NAMESPACE));
        }
        check_together(&name, record.networks.keys().filter(|other| **other != name))?;
        if record.networks.contains_key(&name) {
            return Err(Error::denied(format!(
                "endpoint with name {} already exists in network {name}",
                record.name
            )));
        }
        check(&name, Some(&entry), &mut settings)?;
        let wanted_mac = std::mem::take(&mut settings.mac_address);
        clear_one(&mut settings);
        settings.network_id.clone_from(&entry.record.id);
        let mut after = record.clone();
        if !wanted_mac.is_empty() {
            after.wanted_macs.insert(name.clone(), wanted_mac);
        }
        after.networks.insert(name.clone(), settings);
        if record.state.status.is_alive() {
            let (engine, container, entry) = (self.clone(), container.clone(), entry.clone());
            after =
                blocking(move || engine.networks.join(&engine, &container, &entry, &record, after)).await?;
        }
        self.record_networks(&container, after).await;
        drop(remains);
        self.tell_connection(&container, &entry, "connect");
        Ok(())
    }

    /// Takes a container off a network. With `force`, also off one that is gone.
    ///
    /// # Errors
    ///
    /// NotFound; Internal, as Docker has it, when it is not connected.
    pub async fn disconnect_network(
        self: &Arc<Self>,
        network: &str,
        container: &str,
        force: bool,
    ) -> Result<(), Error> {
        let container = self.container(container)?;
        let _verb = container.take_verbs().await?;
        let remains = container.remains.clone().lock_owned().await;
        let record = changeable(&container)?;
        let entry = match self.networks.find(network) {
            Ok(entry) => Some(entry),
            Err(_) if force => None,
            Err(e) => return Err(e),
        };
        let name = entry.as_ref().map_or(network, |e| e.record.name.as_str()).to_string();
        if !record.networks.contains_key(&name) {
            let message = format!("container {} is not connected to the network {name}", record.id);
            return Err(Error::Internal { message });
        }
        if name == "host" && record.state.status.is_alive() {
            return Err(Error::invalid(
                "cannot disconnect container from host network - container was created in host network mode",
            ));
        }
        let mut after = record.clone();
        let gone = after.networks.remove(&name).unwrap_or_default();
        after.wanted_macs.remove(&name);
        let alive = record.state.status.is_alive();
        if alive && self.networks.gateways(&after.networks) == Gateways::default() {
            after.ports.clear();
        }
        self.record_networks(&container, after.clone()).await;
        if let (true, Some(entry)) = (alive, entry.clone()) {
            let (engine, owned) = (self.clone(), container.clone());
            blocking(move || engine.networks.leave(&engine, &owned, &entry, &record, &after, &gone)).await?;
        }
        drop(remains);
        if let Some(entry) = entry {
            self.tell_connection(&container, &entry, "disconnect");
        }
        Ok(())
    }

    async fn record_networks(self: &Arc<Self>, container: &Arc<Container>, after: Record) {
        {
            let mut record = container.lock();
            record.networks = after.networks;
            record.wanted_macs = after.wanted_macs;
            record.ports = after.ports;
        }
        self.save_if_possible(container).await;
    }

    fn tell_connection(&self, container: &Container, entry: &Entry, action: &str) {
        let attributes = BTreeMap::from([
            ("container".to_string(), container.id().to_string()),
            ("name".to_string(), entry.record.name.clone()),
            ("type".to_string(), entry.record.driver.clone()),
        ]);
        self.events.publish("network", action, entry.record.id.as_str(), attributes);
    }
}

/// The record, unless the container is about to be gone.
fn changeable(container: &Container) -> Result<Record, Error> {
    let record = container.record();
    if matches!(record.state.status, Status::Removing | Status::Dead) {
        return Err(Error::conflict(format!(
            "Container {} is marked for removal and cannot be connected or disconnected to the network",
            record.id
        )));
    }
    Ok(record)
}

impl Networks {
    /// Makes the new interface of a running container, and moves routes and ports where they now belong. The record
    /// as it is then. Blocking.
    fn join(
        &self,
        engine: &Engine,
        container: &Container,
        entry: &Arc<Entry>,
        before: &Record,
        mut after: Record,
    ) -> Result<Record, Error> {
        let name = &entry.record.name;
        let mut settings = after.networks.remove(name).unwrap_or_default();
        entry.allocate(&after, &mut settings)?;
        after.networks.insert(name.clone(), settings.clone());
        let done = self.try_join(engine, container, entry, before, &mut after, &settings);
        if done.is_err() {
            if let Err(e) = unmake(engine, &after, entry, &settings) {
                tracing::warn!(network = name, error = %errors::chain(&e), "interface not removed");
            }
            entry.release(&after, &settings);
        }
        done.map(|()| after)
    }

    fn try_join(
        &self,
        engine: &Engine,
        container: &Container,
        entry: &Arc<Entry>,
        before: &Record,
        after: &mut Record,
        settings: &EndpointSettings,
    ) -> Result<(), Error> {
        if !entry.record.has_interfaces() {
            return Ok(());
        }
        let path = engine.config.netns(after.id.as_str());
        let doing = || format!("connect to network {}", entry.record.name);
        let taken: HashSet<String> =
            network::list_interfaces(&path).during(doing)?.into_iter().map(|i| i.name).collect();
        let interface = interface_name(entry, settings, &taken)?;
        self.attach(&engine.config, after, entry, settings, (&interface, None), &Gateways::default())?;
        if self.gateways(&before.networks) == Gateways::default() && after.ports.is_empty() {
            after.ports = crate::ports::reserve(engine, container, self.families(&after.networks))?;
        }
        self.redirect(engine, before, after).during(doing)?;
        self.serve_names(&engine.config, after, &after.networks)?;
        self.add_host_line(engine, after, settings);
        super::etc::change_resolv_conf(self, engine, before, after);
        Ok(())
    }

    /// Unmakes the interface of a running container. Blocking.
    fn leave(
        &self,
        engine: &Engine,
        container: &Container,
        entry: &Entry,
        before: &Record,
        after: &Record,
        gone: &EndpointSettings,
    ) -> Result<(), Error> {
        let doing = || format!("disconnect from network {}", entry.record.name);
        let result = unmake(engine, after, entry, gone).during(doing);
        let result = result.and(self.redirect(engine, before, after).during(doing));
        if after.ports.is_empty() {
            container.reservations.lock().expect("no holder panics").clear();
        }
        entry.release(after, gone);
        self.remove_host_line(engine, after, gone);
        super::etc::change_resolv_conf(self, engine, before, after);
        // The network that was left has no name of it any more.
        let mut told = after.networks.clone();
        told.insert(entry.record.name.clone(), gone.clone());
        result.and(self.tell_networks(&told)).and(self.serve_names(&engine.config, after, &after.networks))
    }

    /// Makes default routes and published ports of a running container be as `after` says.
    fn redirect(&self, engine: &Engine, before: &Record, after: &Record) -> Result<(), network::Error> {
        let path = engine.config.netns(after.id.as_str());
        let interfaces = network::list_interfaces(&path)?;
        let gateways = self.gateways(&after.networks);
        network::set_default_route(&path, &self.default_route(&after.networks, &gateways, &interfaces))?;
        let old = self.port_mappings(&before.networks, &before.ports);
        let new = self.port_mappings(&after.networks, &after.ports);
        if old != new {
            if !old.is_empty() {
                network::ports::unpublish(&old)?;
            }
            if !new.is_empty() {
                network::ports::publish(&new)?;
            }
        }
        Ok(())
    }

    /// Which families the container's published ports can lead to.
    pub(crate) fn families(&self, endpoints: &BTreeMap<String, EndpointSettings>) -> crate::ports::Families {
        let gateways = self.gateways(endpoints);
        let entry =
            |network: &Option<String>| self.find(network.as_deref()?).ok().filter(|e| e.record.has_bridge());
        let (ipv4, ipv6) = (entry(&gateways.ipv4), entry(&gateways.ipv6));
        let options = |e: &Option<Arc<Entry>>| e.as_ref()?.record.bridge_options().ok();
        let (options4, options6) = (options(&ipv4), options(&ipv6));
        let routed = |o: &Option<BridgeOptions>, side: usize| {
            o.as_ref().is_some_and(|o| o.modes[side] == network::GatewayMode::Routed)
        };
        crate::ports::Families {
            ipv4: ipv4.is_some(),
            ipv6: ipv6.is_some(),
            routed: [routed(&options4, 0), routed(&options6, 1)],
            binding: options4.and_then(|o| o.host_binding),
        }
    }
}

/// Removes the endpoint's interface. Harmless if there is none.
fn unmake(
    engine: &Engine,
    record: &Record,
    entry: &Entry,
    settings: &EndpointSettings,
) -> Result<(), network::Error> {
    match entry.record.shared_mode().ok().flatten() {
        Some(mode) => {
            let path = engine.config.netns(record.id.as_str());
            let mac = addresses::parse_mac(&settings.mac_address).ok();
            network::detach_shared(&path, mode.sharing(), &super::addresses_of(settings), mac)
        }
        None if entry.record.has_bridge() => network::detach(&host_interface(settings)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctls_of_an_interface() {
        let got =
            sysctls("net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.ifname.accept_ra=2", "eth3").unwrap();
        assert_eq!(got[0], ("ipv4/conf/eth3/log_martians".into(), "1".into()));
        assert_eq!(got[1].0, "ipv6/conf/eth3/accept_ra");
        for bad in [
            "net.ipv4.conf.eth0.x=1",
            "kernel.x=1",
            "net.ipv4.conf.IFNAME.a/../../b=1",
            "net.ipv4.IFNAME.x=1",
        ] {
            assert!(sysctls(bad, "eth0").is_err(), "{bad}");
        }
    }
}
