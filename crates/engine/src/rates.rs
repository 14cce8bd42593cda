//! What a container may receive and send, in bits a second on each of its interfaces: `NetRateIn` and `NetRateOut` of
//! `HostConfig`, or for clients that do not know these fields the labels `brig.net-rate-in` and `brig.net-rate-out`.

use crate::error::{During, Error};
use crate::model::{EndpointSettings, HostConfig};
use std::collections::BTreeMap;
use std::path::Path;

/// Labels of a create request that stand for the fields.
const LABELS: [&str; 2] = ["brig.net-rate-in", "brig.net-rate-out"];
/// Less would not let a full packet pass in a second.
const LEAST: i64 = 16_000;
/// What `update` takes for "no limit".
const UNLIMITED: i64 = -1;

/// Takes limits from the labels that a client gave (not its image) where the fields name none.
pub(crate) fn from_labels(labels: &BTreeMap<String, String>, host: &mut HostConfig) -> Result<(), Error> {
    for (label, field) in LABELS.iter().zip([&mut host.net_rate_in, &mut host.net_rate_out]) {
        if let (0, Some(text)) = (*field, labels.get(*label)) {
            *field = parse(text).ok_or_else(|| {
                Error::invalid(format!("invalid label {label}={text}: want bits per second, such as 10m"))
            })?;
        }
    }
    Ok(())
}

/// Bits a second from `64000`, `10m`, `1.5g`, `100mbit`: decimal multiples.
fn parse(text: &str) -> Option<i64> {
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix("bit").unwrap_or(&lower);
    let (number, factor) = match lower.bytes().last()? {
        b'k' => (&lower[..lower.len() - 1], 1e3),
        b'm' => (&lower[..lower.len() - 1], 1e6),
        b'g' => (&lower[..lower.len() - 1], 1e9),
        _ => (lower, 1.0),
    };
    if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    let bits = number.parse::<f64>().ok()? * factor;
    #[expect(clippy::cast_possible_truncation, reason = "checked to be in range")]
    (bits.is_finite() && bits < 1e15).then_some(bits as i64)
}

/// Refuses limits that cannot be.
pub(crate) fn check(host: &HostConfig) -> Result<(), Error> {
    let limits = [("NetRateIn", host.net_rate_in), ("NetRateOut", host.net_rate_out)];
    for (name, bits) in limits.into_iter().filter(|(_, bits)| *bits != 0) {
        if bits < LEAST && bits != UNLIMITED {
            return Err(Error::invalid(format!("invalid {name}: {bits} bits per second is below {LEAST}")));
        }
        let mode = host.network_mode.as_str();
        if mode == "host" || mode == "none" || mode.starts_with("container:") {
            return Err(Error::invalid(format!("conflicting options: {name} and the network mode {mode}")));
        }
    }
    Ok(())
}

fn limit(bits: i64) -> Option<u64> {
    u64::try_from(bits).ok().filter(|bits| *bits != 0)
}

/// Makes one interface keep to the limits. `is_new` when it has none yet.
pub(crate) fn apply(
    sandbox: &Path,
    driver: &str,
    settings: &EndpointSettings,
    host: &HostConfig,
    is_new: bool,
) -> Result<(), Error> {
    let doing = || "limit the rate of the network".to_string();
    let (incoming, outgoing) = (limit(host.net_rate_in), limit(host.net_rate_out));
    if incoming.is_some() && !crate::networks::has_host_end(driver) {
        return Err(Error::unsupported(format!("NetRateIn on a network of driver {driver}")));
    }
    if (incoming.is_some() || !is_new) && crate::networks::has_host_end(driver) {
        network::limit_incoming(&crate::networks::host_interface(settings), incoming).during(doing)?;
    }
    if outgoing.is_some() || !is_new {
        let own = crate::networks::addresses_of(settings);
        let mac = crate::networks::parse_mac(&settings.mac_address).ok();
        network::limit_outgoing(sandbox, &own, mac, outgoing).during(doing)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (text, bits) in
            [("64000", 64_000), ("10m", 10_000_000), ("1.5G", 1_500_000_000), ("100kbit", 100_000)]
        {
            assert_eq!(parse(text), Some(bits), "{text}");
        }
        for text in ["", "m", "-1", "ten", "10mb", "inf", "nan", "1e9", "9999999999g"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn limits_that_cannot_be() {
        let check = |bits, mode: &str| {
            super::check(&HostConfig {
                net_rate_in: bits,
                network_mode: mode.into(),
                ..HostConfig::default()
            })
        };
        assert!(
            check(1_000_000, "bridge").is_ok() && check(0, "host").is_ok() && check(-1, "bridge").is_ok()
        );
        assert!(
            check(100, "bridge").is_err()
                && check(-2, "bridge").is_err()
                && check(1_000_000, "host").is_err()
        );
    }
}
