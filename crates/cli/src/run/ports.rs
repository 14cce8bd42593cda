//! `-p` and `--expose`: `[[IP:]HOST[-HOST]:]PORT[-PORT][/PROTOCOL]`.

use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// The API's `PortBindings` and `ExposedPorts`.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Ports {
    pub(crate) bindings: Map<String, Value>,
    pub(crate) exposed: Map<String, Value>,
}

impl Ports {
    /// Adds what one `-p` says.
    pub(crate) fn publish(&mut self, text: &str) -> Result<()> {
        if text.contains('=') {
            return self.publish_long(text);
        }
        let bad = |what: &str, part: &str| Error::Usage(format!("invalid {what}: {part}"));
        let (address, protocol) = split_protocol(text)?;
        let (rest, container) = address.rsplit_once(':').unwrap_or(("", address));
        let (ip, host) = split_ip(rest).ok_or_else(|| bad("IP address", rest))?;
        if container.is_empty() {
            return Err(Error::Usage(format!("no port specified: {text}<empty>")));
        }
        if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
            return Err(bad("IP address", ip));
        }
        let (first, last) = range(container).ok_or_else(|| bad("containerPort", container))?;
        let hosts = match host {
            "" => None,
            host => Some(range(host).ok_or_else(|| bad("hostPort", host))?),
        };
        if let Some((host_first, host_last)) = hosts
            && last - first != host_last - host_first
            && first != last
        {
            return Err(Error::Usage(format!(
                "invalid ranges specified for container and host Ports: {container} and {host}"
            )));
        }
        for port in first..=last {
            let host_port = match hosts {
                None => String::new(),
                // One container port and a range of the host's: any free port of the range.
                Some((from, to)) if first == last && from != to => format!("{from}-{to}"),
                Some((from, _)) => (from + (port - first)).to_string(),
            };
            self.add(port, protocol, ip, &host_port);
        }
        Ok(())
    }

    /// Adds what one `--expose` says.
    pub(crate) fn expose(&mut self, text: &str) -> Result<()> {
        let bad = || Error::Usage(format!("invalid range format for --expose: {text}"));
        if text.contains(':') {
            return Err(Error::Usage(format!("invalid port format for --expose: {text}")));
        }
        let (ports, protocol) = split_protocol(text)?;
        let (first, last) = range(ports).ok_or_else(bad)?;
        for port in first..=last {
            self.exposed.insert(format!("{port}/{protocol}"), json!({}));
        }
        Ok(())
    }

    /// `target=80,published=8080,protocol=tcp`.
    fn publish_long(&mut self, text: &str) -> Result<()> {
        let bad =
            || Error::Usage(format!("invalid publish opts format (should be name=value but got '{text}')"));
        let (mut target, mut published, mut protocol) = (None, String::new(), "tcp");
        for field in text.split(',') {
            match field.split_once('=').ok_or_else(bad)? {
                ("target", value) => target = value.parse::<u16>().ok(),
                ("published", value) => published = value.to_string(),
                ("protocol", value @ ("tcp" | "udp" | "sctp")) => protocol = value,
                ("mode", "host" | "ingress") => {}
                _ => return Err(bad()),
            }
        }
        self.add(target.ok_or_else(bad)?, protocol, "", &published);
        Ok(())
    }

    fn add(&mut self, port: u16, protocol: &str, ip: &str, host_port: &str) {
        let key = format!("{port}/{protocol}");
        self.exposed.insert(key.clone(), json!({}));
        let binding = json!({"HostIp": ip, "HostPort": host_port});
        match self.bindings.entry(key).or_insert_with(|| json!([])) {
            Value::Array(list) => list.push(binding),
            other => *other = json!([binding]),
        }
    }
}

fn split_protocol(text: &str) -> Result<(&str, &'static str)> {
    match text.rsplit_once('/') {
        None => Ok((text, "tcp")),
        Some((rest, protocol)) => match protocol.to_ascii_lowercase().as_str() {
            "tcp" | "" => Ok((rest, "tcp")),
            "udp" => Ok((rest, "udp")),
            "sctp" => Ok((rest, "sctp")),
            other => Err(Error::Usage(format!("invalid proto: {other}"))),
        },
    }
}

/// `IP:HOST`, `[IPv6]:HOST`, `HOST`, or nothing.
fn split_ip(text: &str) -> Option<(&str, &str)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (ip, rest) = rest.split_once(']')?;
        return Some((ip, rest.strip_prefix(':').unwrap_or(rest)));
    }
    Some(text.rsplit_once(':').unwrap_or(("", text)))
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Value) {
        let mut ports = Ports::default();
        ports.publish(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(Value::Object(ports.bindings), expected, "{text}");
    }

    #[test]
    fn publishes() {
        let one = |key: &str, ip: &str, port: &str| json!({key: [{"HostIp": ip, "HostPort": port}]});
        check("80", one("80/tcp", "", ""));
        check("8080:80", one("80/tcp", "", "8080"));
        check("127.0.0.1:8080:80/udp", one("80/udp", "127.0.0.1", "8080"));
        check("127.0.0.1::80", one("80/tcp", "127.0.0.1", ""));
        check("[::1]:8080:80", one("80/tcp", "::1", "8080"));
        check("8000-8010:80", one("80/tcp", "", "8000-8010"));
        check("target=80,published=8080", one("80/tcp", "", "8080"));
        check(
            "90-91:80-81",
            json!({"80/tcp": [{"HostIp": "", "HostPort": "90"}], "81/tcp": [{"HostIp": "", "HostPort": "91"}]}),
        );
    }

    #[test]
    fn refuses() {
        for text in
            ["x", "80:", "70000", "1:2:3:4", "80/xyz", "1-3:1-2", "a:80", "1.2.3:1:2", "9-8", "mode=x,y"]
        {
            assert!(Ports::default().publish(text).is_err(), "{text}");
        }
        assert_eq!(Ports::default().publish("x").unwrap_err().to_string(), "invalid containerPort: x");
        assert!(Ports::default().expose("80:80").is_err());
    }

    #[test]
    fn exposes() {
        let mut ports = Ports::default();
        ports.expose("80-81/udp").unwrap();
        assert_eq!(Value::Object(ports.exposed), json!({"80/udp": {}, "81/udp": {}}));
    }
}
