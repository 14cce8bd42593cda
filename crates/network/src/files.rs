//! The text of a container's `/etc/hosts` and `/etc/resolv.conf`. Pure: the engine reads the host's file and writes
//! the container's.

use crate::{Error, Result};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

/// What every container's hosts file begins with.
const HOSTS_HEAD: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::\tip6-localnet\n\
    ff00::\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

/// Where queries go when the host names no server that a container could reach, as Docker has it.
const FALLBACK_SERVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// Largest part of a host's resolv.conf that is read; real ones have a few hundred bytes.
const MAX_RESOLV_CONF: usize = 64 * 1024;

/// The text of `/etc/hosts`: the fixed head, the extra hosts as `(name, address)`, and a line for each of the
/// container's own `addresses` with `hostname`, preceded by `hostname.domainname` if there is a domain.
///
/// # Errors
///
/// [`Error::InvalidText`] for a name that is empty or has anything but letters, digits, `-`, `_`, `.`.
pub fn hosts(
    hostname: &str,
    domainname: &str,
    addresses: &[IpAddr],
    extra_hosts: &[(String, IpAddr)],
) -> Result<String> {
    let hostname = name("host name", hostname)?;
    let names = if domainname.is_empty() {
        hostname.to_owned()
    } else {
        format!("{hostname}.{} {hostname}", name("domain name", domainname)?)
    };
    let mut text = HOSTS_HEAD.to_owned();
    for (host, address) in extra_hosts {
        line(&mut text, &format!("{address}\t{}", name("host name", host)?));
    }
    for address in addresses {
        line(&mut text, &format!("{address}\t{names}"));
    }
    Ok(text)
}

/// The text of `/etc/resolv.conf`: what the caller names, and the host's lines where it names nothing.
///
/// Servers on the host's loopback are left out, because the container's loopback is another; so are IPv6 servers,
/// because our networks have none. If no server is left, public ones are written. Servers that the caller names are
/// kept whatever they are. A single `.` in `search` or an empty string in `options` asks for none. A host
/// that runs systemd-resolved has only `127.0.0.53`; see [`only_systemd_stub`].
///
/// # Errors
///
/// [`Error::InvalidText`] for a search domain or an option with a blank or a control character.
pub fn resolv_conf(host_text: &str, dns: &[IpAddr], search: &[String], options: &[String]) -> Result<String> {
    let host = Resolv::parse(host_text);
    let mut text = String::new();
    if dns.is_empty() {
        let servers = host.servers.iter().filter(|a| a.is_ipv4() && !a.is_loopback() && !a.is_unspecified());
        let before = text.len();
        servers.for_each(|server| line(&mut text, &format!("nameserver {server}")));
        if text.len() == before {
            FALLBACK_SERVERS.iter().for_each(|server| line(&mut text, &format!("nameserver {server}")));
        }
    } else {
        dns.iter().for_each(|server| line(&mut text, &format!("nameserver {server}")));
    }
    list(&mut text, "search", "search domain", if search.is_empty() { &host.search } else { search })?;
    list(&mut text, "options", "resolver option", if options.is_empty() { &host.options } else { options })?;
    Ok(text)
}

/// The text of `/etc/resolv.conf` for a container whose names `server` knows: search list and options as in
/// [`resolv_conf`]. A name without a dot is one of `server`'s unless the options say something else.
///
/// # Errors
///
/// As [`resolv_conf`].
pub fn own_resolv_conf(
    host_text: &str,
    server: IpAddr,
    search: &[String],
    options: &[String],
) -> Result<String> {
    let mut options = if options.is_empty() { Resolv::parse(host_text).options } else { options.to_vec() };
    if !options.iter().any(|o| o.starts_with("ndots:")) {
        options.push("ndots:0".into());
    }
    resolv_conf(host_text, &[server], search, &options)
}

/// The servers that a resolv.conf names.
pub fn servers(text: &str) -> Vec<IpAddr> {
    Resolv::parse(text).servers.into_iter().filter(|a| !a.is_unspecified()).collect()
}

/// Whether the only server of a resolv.conf is systemd-resolved's stub, 127.0.0.53. The caller then reads
/// `/run/systemd/resolve/resolv.conf`, which has the real servers.
pub fn only_systemd_stub(host_text: &str) -> bool {
    Resolv::parse(host_text).servers == [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53))]
}

/// What counts in a resolv.conf, per resolv.conf(5): of several `search` or `domain` lines the last one.
struct Resolv {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    options: Vec<String>,
}

impl Resolv {
    fn parse(text: &str) -> Resolv {
        let mut all = Resolv { servers: vec![], search: vec![], options: vec![] };
        let end = text.floor_char_boundary(MAX_RESOLV_CONF);
        for line in text[..end].lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            let key = words.next();
            let values = words.filter(|word| plain(word)).map(str::to_owned);
            match key {
                Some("nameserver") => {
                    all.servers.extend(values.filter_map(|v| v.parse::<IpAddr>().ok()).take(1))
                }
                Some("search" | "domain") => all.search = values.collect(),
                Some("options") => all.options.extend(values),
                _ => {}
            }
        }
        all
    }
}

fn list(text: &mut String, key: &str, what: &'static str, values: &[String]) -> Result<()> {
    if let Some(bad) = values.iter().find(|v| !v.is_empty() && !plain(v)) {
        return Err(Error::InvalidText { what, value: bad.clone() });
    }
    let values: Vec<&str> =
        values.iter().map(String::as_str).filter(|v| !v.is_empty() && *v != ".").collect();
    if !values.is_empty() {
        line(text, &format!("{key} {}", values.join(" ")));
    }
    Ok(())
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("writing to a String");
}

/// A word that stays one word: printable, no blank, no comment sign.
fn plain(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'#' | b';'))
}

fn name<'a>(what: &'static str, name: &'a str) -> Result<&'a str> {
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !name.is_empty() && name.len() <= 253 && name.bytes().all(letter) {
        Ok(name)
    } else {
        Err(Error::InvalidText { what, value: name.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn hosts_as_docker_writes_it() {
        let extra = [("db".to_owned(), ip("10.0.0.9"))];
        let text = hosts("web", "", &[ip("172.17.0.2")], &extra).unwrap();
        let expected = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
            ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n10.0.0.9\tdb\n172.17.0.2\tweb\n";
        assert_eq!(text, expected);
        let text = hosts("web", "example.org", &[ip("172.17.0.2")], &[]).unwrap();
        assert!(text.ends_with("172.17.0.2\tweb.example.org web\n"));
    }

    #[test]
    fn hostile_names_are_refused() {
        for bad in ["a\n10.0.0.1 bank.example", "a b", "", "a\tb", "a#b", "\u{2028}"] {
            assert!(hosts(bad, "", &[], &[]).is_err(), "{bad:?}");
            assert!(hosts("a", "", &[], &[(bad.to_owned(), ip("10.0.0.1"))]).is_err(), "{bad:?}");
        }
        assert!(hosts("a", "b\nc", &[], &[]).is_err());
    }

    fn check_resolv(host: &str, expected: &str) {
        assert_eq!(resolv_conf(host, &[], &[], &[]).unwrap(), expected, "{host:?}");
    }

    #[test]
    fn servers_of_the_host() {
        check_resolv(
            "nameserver 10.0.0.1\nsearch a b\noptions ndots:2\n",
            "nameserver 10.0.0.1\nsearch a b\noptions ndots:2\n",
        );
        check_resolv("nameserver 127.0.0.53\n", "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        check_resolv("nameserver 127.0.0.1\nnameserver 10.0.0.1 # x\n", "nameserver 10.0.0.1\n");
        check_resolv("nameserver ::1\nnameserver fe80::1%eth0\n", "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        check_resolv(
            "# nameserver 1.1.1.1\n;x\ndomain d\nsearch s\n",
            "nameserver 8.8.8.8\nnameserver 8.8.4.4\nsearch s\n",
        );
    }

    #[test]
    fn named_by_the_caller() {
        let host = "nameserver 10.0.0.1\nsearch a\noptions rotate\n";
        let text = resolv_conf(host, &[ip("127.0.0.1")], &[".".into()], &["ndots:0".into()]).unwrap();
        assert_eq!(text, "nameserver 127.0.0.1\noptions ndots:0\n");
        for bad in ["a b", "a\nnameserver 6.6.6.6", "a;b"] {
            assert!(resolv_conf(host, &[], &[bad.into()], &[]).is_err(), "{bad:?}");
            assert!(resolv_conf(host, &[], &[], &[bad.into()]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn systemd_stub() {
        assert!(only_systemd_stub("nameserver 127.0.0.53\noptions edns0\n"));
        assert!(!only_systemd_stub("nameserver 127.0.0.53\nnameserver 10.0.0.1\n"));
        assert!(!only_systemd_stub(""));
    }
}
