//! `hosts.toml`: where a registry's images are looked for before, or in place of, the registry itself.
//!
//! ```text
//! <certs_dir>/<host[:port]>/hosts.toml, else <certs_dir>/_default/hosts.toml; docker.io for Docker Hub
//!
//! server = "https://registry.example"          asked last; the registry itself where it is not named
//! [host."https://mirror.example/prefix"]       asked first, in the order of the file, anonymously
//!   capabilities = ["pull", "resolve"]         blobs and manifests by digest; tags
//!   ca = "ca.pem"                              a file or several, besides the system's
//!   client = [["cert.pem", "key.pem"]]         a file with both, several of these, or pairs
//!   skip_verify = false
//!   override_path = false                      the URL's path takes the place of /v2
//!   [host."https://mirror.example/prefix".header]
//!     x-name = ["value"]                       a text or several
//! ```
//!
//! Spec: containerd, docs/hosts.md.

use crate::Error;
use crate::tls::HostTls;
use crate::transport::Endpoint;
use crate::url::{Authority, Scheme, Url};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::Spanned;

/// Largest file that is read.
const MAX_FILE: u64 = 1 << 20;
const FILE: &str = "hosts.toml";
const DEFAULT_DIR: &str = "_default";

/// What a file says, checked.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    pub(crate) hosts: Vec<Host>,
    /// Asked last, with the caller's credentials.
    pub(crate) server: Option<Host>,
}

/// A place to ask.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) endpoint: Endpoint,
    pub(crate) tls: HostTls,
    pub(crate) pulls: bool,
    pub(crate) resolves: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    server: Option<String>,
    #[serde(default)]
    host: BTreeMap<Spanned<String>, Entry>,
    // Of the server itself.
    #[serde(default)]
    capabilities: Option<Vec<String>>,
    #[serde(default)]
    ca: Option<OneOrMore>,
    #[serde(default)]
    client: Option<Client>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    #[serde(default)]
    header: BTreeMap<String, OneOrMore>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Entry {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMore>,
    client: Option<Client>,
    skip_verify: bool,
    override_path: bool,
    header: BTreeMap<String, OneOrMore>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn all(self) -> Vec<String> {
        match self {
            OneOrMore::One(one) => vec![one],
            OneOrMore::More(all) => all,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Client {
    File(String),
    Files(Vec<String>),
    Pairs(Vec<(String, String)>),
}

/// Reads what `dirs` say of `host`. Blocks. Nothing where no file speaks of it.
pub(crate) fn read(dirs: &[PathBuf], host: &Authority, name: &str) -> Result<Option<Hosts>, Error> {
    for dir in dirs {
        for below in [name, DEFAULT_DIR] {
            let path = dir.join(below).join(FILE);
            let failed = |reason: String| Error::Config { what: path.display().to_string(), reason };
            match std::fs::metadata(&path) {
                Ok(metadata) if metadata.len() > MAX_FILE => return Err(failed("too large".into())),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error.to_string())),
            }
            let text = std::fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?;
            let base = path.parent().unwrap_or(Path::new("/"));
            return parse(&text, base, host).map(Some).map_err(failed);
        }
    }
    Ok(None)
}

fn parse(text: &str, base: &Path, own: &Authority) -> Result<Hosts, String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    let mut entries: Vec<(Spanned<String>, Entry)> = file.host.into_iter().collect();
    // As they stand in the file: the first is asked first.
    entries.sort_by_key(|(url, _)| url.span().start);
    let hosts = entries.into_iter().map(|(url, entry)| host(url.get_ref(), entry, base, own));
    let hosts = hosts.collect::<Result<_, _>>()?;
    let entry = Entry {
        capabilities: file.capabilities,
        ca: file.ca,
        client: file.client,
        skip_verify: file.skip_verify,
        override_path: file.override_path,
        header: file.header,
    };
    let server = match file.server {
        Some(url) => Some(host(&url, entry, base, own)?),
        None => None,
    };
    Ok(Hosts { hosts, server })
}

fn host(text: &str, entry: Entry, base: &Path, own: &Authority) -> Result<Host, String> {
    let whole = if text.contains("://") { text.to_string() } else { format!("https://{text}") };
    let url = Url::parse(&whole).ok_or_else(|| format!("{text:?} is no http or https URL"))?;
    let known = ["pull", "resolve", "push"];
    let capabilities = entry.capabilities.unwrap_or_else(|| known.map(String::from).to_vec());
    if let Some(other) = capabilities.iter().find(|one| !known.contains(&one.as_str())) {
        return Err(format!("{text:?}: unknown capability {other:?}"));
    }
    let can = |what: &str| capabilities.iter().any(|one| one == what);
    let mut headers = HeaderMap::new();
    for (name, values) in entry.header {
        let invalid = || format!("{text:?}: {name:?} is no header");
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
        for value in values.all() {
            headers.append(key.clone(), HeaderValue::from_str(&value).map_err(|_| invalid())?);
        }
    }
    let at = |name: String| base.join(name);
    let client = match entry.client {
        None => Vec::new(),
        Some(Client::File(file)) => vec![(at(file.clone()), at(file))],
        Some(Client::Files(files)) => files.into_iter().map(|f| (at(f.clone()), at(f))).collect(),
        Some(Client::Pairs(pairs)) => pairs.into_iter().map(|(cert, key)| (at(cert), at(key))).collect(),
    };
    let path = url.path.split('?').next().unwrap_or_default().trim_end_matches('/');
    Ok(Host {
        pulls: can("pull"),
        resolves: can("resolve"),
        tls: HostTls {
            roots: entry.ca.map(OneOrMore::all).unwrap_or_default().into_iter().map(at).collect(),
            client,
            skip_verify: entry.skip_verify && url.scheme == Scheme::Https,
        },
        endpoint: Endpoint {
            mirror: url.authority != *own,
            scheme: Some(url.scheme),
            prefix: path.to_string(),
            override_path: entry.override_path,
            namespace: None,
            headers,
            authority: url.authority,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Hosts, String> {
        parse(text, Path::new("/certs/r.example"), &Authority::parse("r.example").unwrap())
    }

    #[test]
    fn files_of_containerd_are_read() {
        let hosts = read_text(
            r#"
            server = "https://upstream.example"
            ca = "/etc/ca.pem"
            [host."https://z.example"]
              capabilities = ["pull"]
              ca = ["one.pem", "two.pem"]
              client = [["c.pem", "k.pem"]]
            [host."http://a.example:5000/cache/"]
              capabilities = ["pull", "resolve"]
              override_path = true
              [host."http://a.example:5000/cache/".header]
                x-one = "1"
                x-two = ["2", "3"]
            [host."r.example"]
              skip_verify = true
            "#,
        )
        .unwrap();
        let names: Vec<String> = hosts.hosts.iter().map(|h| h.endpoint.authority.to_string()).collect();
        assert_eq!(names, ["z.example", "a.example:5000", "r.example"], "in the order of the file");
        let [z, a, own] = &hosts.hosts[..] else { panic!("three") };
        assert!(z.pulls && !z.resolves && z.endpoint.mirror);
        assert_eq!(z.tls.roots[1], Path::new("/certs/r.example/two.pem"));
        assert_eq!(z.tls.client[0].1, Path::new("/certs/r.example/k.pem"));
        assert!(a.endpoint.override_path && a.resolves);
        assert_eq!((a.endpoint.prefix.as_str(), a.endpoint.headers.len()), ("/cache", 3));
        assert!(own.tls.skip_verify && !own.endpoint.mirror && own.pulls);
        let server = hosts.server.unwrap();
        assert_eq!(server.endpoint.authority.to_string(), "upstream.example");
        assert_eq!(server.tls.roots, [Path::new("/etc/ca.pem")]);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "servers = \"https://x\"",
            "[host.\"ftp://x\"]",
            "[host.\"https://x\"]\ncapabilities = [\"fly\"]",
            "[host.\"https://x\"]\ndial_timeout = \"3s\"",
            "[host.\"https://x\".header]\n\"a b\" = \"c\"",
            "[host",
        ] {
            assert!(read_text(text).is_err(), "{text}");
        }
        assert!(read_text("").unwrap().hosts.is_empty());
    }
}
