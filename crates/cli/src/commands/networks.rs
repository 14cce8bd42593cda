//! `network create` and `network connect`: the commands on networks that have flags of their own.

use super::Context;
use super::objects::{pairs, post_body};
use crate::error::{Error, Result};
use crate::http::Path;
use crate::terminal;
use gotemplate::Value;
use serde_json::{Map, json};
use std::net::IpAddr;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Create {
    /// The network from which to copy the configuration
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    config_from: String,
    /// Create a configuration only network
    #[arg(long)]
    config_only: bool,
    /// Driver to manage the Network
    #[arg(short, long, value_name = "string", default_value = "bridge")]
    driver: String,
    /// Enable manual container attachment
    #[arg(long)]
    attachable: bool,
    /// Auxiliary IPv4 or IPv6 addresses used by Network driver (NAME=ADDRESS)
    #[arg(long, value_name = "map")]
    aux_address: Vec<String>,
    /// IPv4 or IPv6 Gateway for the master subnet
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    gateway: Vec<String>,
    /// Create swarm routing-mesh network
    #[arg(long)]
    ingress: bool,
    /// Restrict external access to the network
    #[arg(long)]
    internal: bool,
    /// Allocate container ip from a sub-range
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    ip_range: Vec<String>,
    /// IP Address Management Driver
    #[arg(long, value_name = "string", default_value = "default")]
    ipam_driver: String,
    /// Set IPAM driver specific options
    #[arg(long, value_name = "map")]
    ipam_opt: Vec<String>,
    /// Enable or disable IPv4 address assignment
    #[arg(long, value_name = "bool", default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    ipv4: Option<bool>,
    /// Enable or disable IPv6 address assignment
    #[arg(long, value_name = "bool", default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    ipv6: Option<bool>,
    /// Set metadata on a network
    #[arg(long, value_name = "list")]
    label: Vec<String>,
    /// Set driver specific options
    #[arg(short, long, value_name = "map")]
    opt: Vec<String>,
    /// Control the network's scope
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    scope: String,
    /// Subnet in CIDR format that represents a network segment
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    subnet: Vec<String>,
    name: String,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Connect {
    /// Add network-scoped alias for the container
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    alias: Vec<String>,
    /// Driver options for the network
    #[arg(long, value_name = "strings")]
    driver_opt: Vec<String>,
    /// Highest gw-priority provides the default gateway. Accepts positive and negative values
    #[arg(
        long,
        value_name = "int",
        default_value = "0",
        hide_default_value = true,
        allow_negative_numbers = true
    )]
    gw_priority: i64,
    /// IPv4 address
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    ip: String,
    /// IPv6 address
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    ip6: String,
    /// Add link to another container
    #[arg(long, value_name = "list")]
    link: Vec<String>,
    /// Add a link-local address for the container
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    link_local_ip: Vec<String>,
    network: String,
    container: String,
}

pub(crate) async fn create(context: &Context, flags: &Create) -> Result<u8> {
    let body = json!({"Name": flags.name, "Driver": flags.driver, "CheckDuplicate": true,
        "Internal": flags.internal, "Attachable": flags.attachable, "Scope": flags.scope,
        "Ingress": flags.ingress, "ConfigOnly": flags.config_only, "ConfigFrom": {"Network": flags.config_from},
        "EnableIPv4": flags.ipv4, "EnableIPv6": flags.ipv6,
        "IPAM": {"Driver": flags.ipam_driver, "Options": pairs(&flags.ipam_opt), "Config": pools(flags)?},
        "Options": pairs(&flags.opt), "Labels": pairs(&flags.label)});
    let answer: Value = context.client.post_json(&Path::new(&["networks", "create"]), &body).await?;
    terminal::print_line(answer.text_at(&["Id"]))?;
    Ok(0)
}

/// Each range, gateway and auxiliary address goes to the subnet it is in.
fn pools(flags: &Create) -> Result<Vec<Map<String, serde_json::Value>>> {
    let mut out: Vec<Map<String, serde_json::Value>> =
        flags.subnet.iter().map(|s| Map::from_iter([("Subnet".to_string(), json!(s))])).collect();
    if flags.subnet.is_empty() && !(flags.gateway.is_empty() && flags.ip_range.is_empty()) {
        return Err(Error::Usage("every ip-range or gateway must have a corresponding subnet".into()));
    }
    let home = |address: &str, what: &str| {
        let bare = address.split('/').next().unwrap_or_default();
        let ip: IpAddr = bare.parse().map_err(|_| Error::Usage(format!("invalid {what}: {address}")))?;
        let fits = |subnet: &String| contains(subnet, ip).unwrap_or(false);
        flags
            .subnet
            .iter()
            .position(fits)
            .ok_or_else(|| Error::Usage(format!("no matching subnet for {what} {address}")))
    };
    for (key, what, list) in [("IPRange", "range", &flags.ip_range), ("Gateway", "gateway", &flags.gateway)] {
        for value in list {
            let pool = &mut out[home(value, what)?];
            if pool.insert(key.into(), json!(value)).is_some() {
                return Err(Error::Usage(format!(
                    "cannot configure multiple {what}s ({value}) on the same subnet"
                )));
            }
        }
    }
    for text in &flags.aux_address {
        let (name, address) =
            text.split_once('=').ok_or_else(|| Error::Usage(format!("invalid aux-address: {text}")))?;
        let pool = &mut out[home(address, "aux-address")?];
        let all = pool.entry("AuxiliaryAddresses").or_insert_with(|| json!({}));
        all[name] = json!(address);
    }
    Ok(out)
}

/// Whether the subnet, CIDR text, has the address; None where it is none.
fn contains(subnet: &str, address: IpAddr) -> Option<bool> {
    let (first, prefix) = subnet.split_once('/')?;
    let prefix: u32 = prefix.parse().ok()?;
    let shifted = |address: IpAddr| match address {
        IpAddr::V4(a) => u128::from(a.to_bits().checked_shr(32u32.checked_sub(prefix)?).unwrap_or(0)).into(),
        IpAddr::V6(a) => Some(a.to_bits().checked_shr(128u32.checked_sub(prefix)?).unwrap_or(0)),
    };
    let first: IpAddr = first.parse().ok()?;
    Some(first.is_ipv4() == address.is_ipv4() && shifted(first)? == shifted(address)?)
}

pub(crate) async fn connect(context: &Context, flags: &Connect) -> Result<u8> {
    let mut endpoint = json!({"Aliases": flags.alias, "Links": flags.link, "GwPriority": flags.gw_priority,
        "DriverOpts": pairs(&flags.driver_opt),
        "IPAMConfig": {"IPv4Address": flags.ip, "IPv6Address": flags.ip6, "LinkLocalIPs": flags.link_local_ip}});
    if flags.ip.is_empty() && flags.ip6.is_empty() && flags.link_local_ip.is_empty() {
        endpoint["IPAMConfig"] = serde_json::Value::Null;
    }
    let body = json!({"Container": flags.container, "EndpointConfig": endpoint});
    post_body(context, &Path::new(&["networks", &flags.network, "connect"]), &body).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_find_their_subnet() {
        let check = |subnet: &str, address: &str, expected: Option<bool>| {
            assert_eq!(contains(subnet, address.parse().unwrap()), expected, "{subnet} {address}");
        };
        check("10.1.0.0/16", "10.1.2.3", Some(true));
        check("10.1.0.0/16", "10.2.2.3", Some(false));
        check("0.0.0.0/0", "10.2.2.3", Some(true));
        check("fd00::/64", "fd00::1", Some(true));
        check("fd00::/64", "10.0.0.1", Some(false));
        check("10.1.0.0", "10.1.0.1", None);
        check("10.1.0.0/33", "10.1.0.1", None);
    }
}
