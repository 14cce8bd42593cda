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

type Pool = Map<String, serde_json::Value>;

/// Each range, gateway and auxiliary address goes to the subnet it is in. With docker's words for what cannot be.
fn pools(flags: &Create) -> Result<Vec<Pool>> {
    let usage = |text: String| Err(Error::Usage(text));
    let subnets = &flags.subnet;
    if subnets.len() < flags.ip_range.len() || subnets.len() < flags.gateway.len() {
        return usage("every ip-range or gateway must have a corresponding subnet".into());
    }
    let first = |subnet: &str| subnet.split('/').next().and_then(|a| a.parse::<IpAddr>().ok());
    for (n, one) in subnets.iter().enumerate() {
        let meets = |other: &&String| {
            let within = |a: &str, b: &str| first(b).and_then(|b| contains(a, b)) == Some(true);
            within(one, other) || within(other, one)
        };
        if subnets.iter().skip(n + 1).any(|other| meets(&other)) {
            return usage("multiple overlapping subnet configuration is not supported".into());
        }
    }
    let mut out: Vec<Pool> =
        subnets.iter().map(|s| Map::from_iter([("Subnet".to_string(), json!(s))])).collect();
    let home = |address: &str| {
        let ip = address.split('/').next().and_then(|a| a.parse::<IpAddr>().ok());
        subnets.iter().position(|subnet| ip.and_then(|ip| contains(subnet, ip)) == Some(true))
    };
    for range in &flags.ip_range {
        if range
            .split_once('/')
            .and_then(|(a, n)| Some((a.parse::<IpAddr>().ok()?, n.parse::<u8>().ok()?)))
            .is_none()
        {
            return usage(format!("invalid CIDR address: {range}"));
        }
        let Some(at) = home(range) else { return usage(format!("no matching subnet for range {range}")) };
        if let Some(earlier) = out[at].insert("IPRange".into(), json!(range)) {
            let (earlier, subnet) = (earlier.as_str().unwrap_or_default(), &subnets[at]);
            return usage(format!(
                "cannot configure multiple ranges ({range}, {earlier}) on the same subnet ({subnet})"
            ));
        }
    }
    for gateway in &flags.gateway {
        let Some(at) = home(gateway) else {
            return usage(format!("no matching subnet for gateway {gateway}"));
        };
        if let Some(earlier) = out[at].insert("Gateway".into(), json!(gateway)) {
            let (earlier, subnet) = (earlier.as_str().unwrap_or_default(), &subnets[at]);
            return usage(format!(
                "cannot configure multiple gateways ({gateway}, {earlier}) for the same subnet ({subnet})"
            ));
        }
    }
    for text in &flags.aux_address {
        let (name, address) = text.split_once('=').unwrap_or((text, ""));
        let Some(at) = home(address) else {
            return usage(format!("no matching subnet for aux-address {address}"));
        };
        let all = out[at].entry("AuxiliaryAddresses").or_insert_with(|| json!({}));
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
    if flags.driver_opt.iter().any(|o| !o.contains('=')) {
        return Err(Error::Usage("invalid key/value pair format in driver options".into()));
    }
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

    fn flags(line: &str) -> Create {
        #[derive(Debug, clap::Parser)]
        struct Line {
            #[command(flatten)]
            create: Create,
        }
        let words = std::iter::once("create").chain(line.split(' ')).chain(["x"]);
        <Line as clap::Parser>::try_parse_from(words).unwrap().create
    }

    #[test]
    fn pools_that_cannot_be() {
        let check = |line: &str, expected: &str| {
            assert_eq!(pools(&flags(line)).unwrap_err().to_string(), expected, "{line}");
        };
        let one = "--subnet 10.0.0.0/24";
        let two = "--subnet 10.0.0.0/24 --subnet 10.1.0.0/24";
        let alone = "every ip-range or gateway must have a corresponding subnet";
        check("--gateway 10.0.0.1", alone);
        check("--ip-range 10.0.0.0/25", alone);
        check(&format!("{one} --gateway 10.0.0.1 --gateway 10.0.0.2"), alone);
        check(&format!("{one} --gateway 10.1.0.1"), "no matching subnet for gateway 10.1.0.1");
        check(&format!("{one} --gateway bad"), "no matching subnet for gateway bad");
        check(&format!("{one} --ip-range 10.1.0.0/25"), "no matching subnet for range 10.1.0.0/25");
        check(&format!("{one} --ip-range bad"), "invalid CIDR address: bad");
        check(&format!("{one} --aux-address a=10.1.0.1"), "no matching subnet for aux-address 10.1.0.1");
        check(&format!("{one} --aux-address a"), "no matching subnet for aux-address ");
        check("--aux-address a=10.0.0.1", "no matching subnet for aux-address 10.0.0.1");
        check(
            &format!("{two} --gateway 10.0.0.1,10.0.0.2"),
            "cannot configure multiple gateways (10.0.0.2, 10.0.0.1) for the same subnet (10.0.0.0/24)",
        );
        check(
            &format!("{two} --ip-range 10.0.0.0/25 --ip-range 10.0.0.128/25"),
            "cannot configure multiple ranges (10.0.0.128/25, 10.0.0.0/25) on the same subnet (10.0.0.0/24)",
        );
        check(
            "--subnet 10.0.0.0/24 --subnet 10.0.0.0/25",
            "multiple overlapping subnet configuration is not supported",
        );
    }

    #[test]
    fn pools_as_the_api_has_them() {
        let line = "--subnet 10.0.0.0/24,fd00::/64 --gateway fd00::9 --ip-range 10.0.0.128/25 --aux-address a=10.0.0.3 \
                    --aux-address b=fd00::3";
        let expected = json!([
            {"Subnet": "10.0.0.0/24", "IPRange": "10.0.0.128/25", "AuxiliaryAddresses": {"a": "10.0.0.3"}},
            {"Subnet": "fd00::/64", "Gateway": "fd00::9", "AuxiliaryAddresses": {"b": "fd00::3"}},
        ]);
        assert_eq!(json!(pools(&flags(line)).unwrap()), expected);
    }

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
