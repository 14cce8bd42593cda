//! Query, headers and our own document: what a client asks for.

use super::exchange::Exchange;
use crate::reply::Failure;
use crate::request::Call;
use build::{Attests, CacheFrom, CacheTo, Context, GitAccess, Request, Secret};
use engine::model::{HostConfig, Ulimit};
use oci::Reference;
use registry_client::Auth;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

/// The type of a body in brig's own form.
pub(crate) const OWN_TYPE: &str = "application/vnd.brig.build";
/// Longest document in front of the tar. Secrets are keys and tokens.
const MAX_EXTRA: u64 = 8 << 20;
/// Bytes behind the end of an archive that are read and thrown away.
pub(crate) const MAX_TAIL: u64 = 1 << 20;

/// What stands before the tar in our own form.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Extra {
    /// Text of the Dockerfile, where it is not in the context.
    pub(crate) dockerfile: Option<String>,
    /// Only the build checks are wanted.
    pub(crate) check: bool,
    /// By id, base64.
    pub(crate) secrets: BTreeMap<String, String>,
    /// Sockets of ssh agents on this machine, by id.
    pub(crate) ssh: BTreeMap<String, PathBuf>,
    /// `network.host`, `security.insecure`, `device`, `device=NAME`.
    pub(crate) allow: Vec<String>,
    /// Images that stand for a name.
    pub(crate) context_images: BTreeMap<String, String>,
    /// Named contexts whose archives stand before the tar, in this order, each in pieces (see [`Pieces`]).
    pub(crate) contexts: Vec<String>,
    /// URLs of named contexts, which the daemon reads.
    pub(crate) context_urls: BTreeMap<String, String>,
    /// Stages that take nothing from the cache.
    pub(crate) no_cache_stages: Vec<String>,
    /// Tokens of contexts whose files were told before, by name; the main one's is empty. See [`super::listed`].
    pub(crate) kept: BTreeMap<String, String>,
    /// Shared caches to use, and to make.
    pub(crate) cache_from: Vec<Shared>,
    pub(crate) cache_to: Vec<Shared>,
    /// What is to be said of the image, by kind.
    pub(crate) attests: BTreeMap<String, String>,
    /// `[type:]key=value`.
    pub(crate) annotations: Vec<String>,
}

/// A shared cache as clients write it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shared {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) attrs: BTreeMap<String, String>,
}

/// An archive in pieces: four bytes (big-endian) with a length, so many bytes, and so on; a length of 0 is the end.
#[derive(Debug)]
pub(crate) struct Pieces<'a, R> {
    reader: &'a mut R,
    left: u32,
    is_done: bool,
}

impl<R: Read> Read for Pieces<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 && !self.is_done {
            let mut length = [0; 4];
            self.reader.read_exact(&mut length)?;
            self.left = u32::from_be_bytes(length);
            self.is_done = self.left == 0;
        }
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let read = self.reader.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= u32::try_from(read).unwrap_or(self.left);
        Ok(read)
    }
}

impl Extra {
    /// Reads the archives of the named contexts. Blocking.
    pub(crate) fn named(
        &self,
        engine: &engine::Engine,
        reader: &mut (impl Read + Send),
    ) -> Result<BTreeMap<String, Arc<Context>>, Failure> {
        let mut out = BTreeMap::new();
        for name in &self.contexts {
            if let Some(token) = self.kept.get(name) {
                out.insert(name.to_lowercase(), Arc::new(super::listed::finish(token, reader)?));
                continue;
            }
            let mut pieces = Pieces { reader: &mut *reader, left: 0, is_done: false };
            let context = Context::from_tar(engine, &mut pieces).map_err(super::failure)?;
            // Behind the end of the archive there may be padding.
            std::io::copy(&mut pieces, &mut std::io::sink())
                .map_err(|e| Failure::bad_request(format!("reading the context {name}: {e}")))?;
            out.insert(name.to_lowercase(), Arc::new(context));
        }
        Ok(out)
    }

    fn decoded(&self) -> Result<BTreeMap<String, Secret>, Failure> {
        let decode = |(id, text): (&String, &String)| {
            let bytes = crate::request::from_base64(text)
                .ok_or_else(|| Failure::bad_request(format!("secret {id} is not base64")))?;
            Ok((id.clone(), Secret(bytes)))
        };
        self.secrets.iter().map(decode).collect()
    }

    /// Reads length and document off the front.
    pub(crate) fn read(reader: &mut impl Read) -> Result<Extra, Failure> {
        let cut = |e: std::io::Error| Failure::bad_request(format!("reading the build document: {e}"));
        let mut length = [0; 8];
        reader.read_exact(&mut length).map_err(cut)?;
        let length = u64::from_be_bytes(length);
        if length > MAX_EXTRA {
            return Err(Failure::bad_request(format!("the build document is longer than {MAX_EXTRA} bytes")));
        }
        let mut bytes = Vec::new();
        reader.by_ref().take(length).read_to_end(&mut bytes).map_err(cut)?;
        // serde's messages quote names only, never the values of a map.
        serde_json::from_slice(&bytes)
            .map_err(|e| Failure::bad_request(format!("invalid build document: {e}")))
    }
}

/// The query, read.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) dockerfile: String,
    /// URL of the context.
    pub(crate) remote: String,
    pub(crate) quiet: bool,
    pub(super) references: Vec<Reference>,
    pub(super) build_args: BTreeMap<String, Option<String>>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) no_cache: bool,
    pub(super) pull: bool,
    pub(super) network_mode: String,
    pub(super) target: String,
    /// Several make an index.
    pub(crate) platforms: Vec<oci::Platform>,
    pub(super) host_config: HostConfig,
    pub(super) auth: BTreeMap<String, Auth>,
    pub(super) cache_from: Vec<String>,
}

impl Asked {
    pub(crate) fn parse(call: &Call) -> Result<Asked, Failure> {
        let query = &call.query;
        refuse(call)?;
        let references =
            query.all("t").iter().filter(|t| !t.is_empty()).map(|t| tag(t)).collect::<Result<Vec<_>, _>>()?;
        let platforms = query.text("platform").split(',').filter(|text| !text.is_empty());
        let platforms = platforms
            .map(|text| text.parse().map_err(|e| Failure::bad_request(format!("{e}"))))
            .collect::<Result<Vec<oci::Platform>, _>>()?;
        if let Some((at, twice)) = platforms.iter().enumerate().find(|(at, p)| platforms[..*at].contains(p)) {
            return Err(Failure::bad_request(format!(
                "platform {twice} is named again as number {}",
                at + 1
            )));
        }
        let number = |name: &str| query.number::<i64>(name).map(Option::unwrap_or_default);
        let host_config = HostConfig {
            memory: number("memory")?,
            memory_swap: number("memswap")?,
            cpu_shares: number("cpushares")?,
            cpu_period: number("cpuperiod")?,
            cpu_quota: number("cpuquota")?,
            cpuset_cpus: query.text("cpusetcpus").into(),
            cpuset_mems: query.text("cpusetmems").into(),
            cgroup_parent: query.text("cgroupparent").into(),
            shm_size: number("shmsize")?,
            ulimits: document::<Vec<Ulimit>>(call, "ulimits")?.unwrap_or_default(),
            extra_hosts: hosts(call)?,
            ..HostConfig::default()
        };
        Ok(Asked {
            dockerfile: query.text("dockerfile").into(),
            remote: query.text("remote").into(),
            quiet: query.flag("q"),
            references,
            build_args: document(call, "buildargs")?.unwrap_or_default(),
            labels: document(call, "labels")?.unwrap_or_default(),
            no_cache: query.flag("nocache"),
            pull: query.flag("pull"),
            network_mode: query.text("networkmode").into(),
            target: query.text("target").into(),
            platforms,
            host_config,
            auth: registry_config(&call.header("X-Registry-Config"))?,
            cache_from: document(call, "cachefrom")?.unwrap_or_default(),
        })
    }

    /// With what a context is read that is a repository. A client of the classic endpoint has no secrets to give.
    pub(crate) fn git_access(&self, extra: &Extra) -> Result<GitAccess, Failure> {
        Ok(GitAccess::new(extra.decoded()?, extra.ssh.get("default").cloned(), &self.build_args))
    }

    pub(crate) fn request(
        &self,
        context: Arc<Context>,
        extra: &Extra,
        dockerfile: &str,
        exchange: &Arc<Exchange>,
    ) -> Result<Request, Failure> {
        let mut request = Request::new(context);
        request.dockerfile = dockerfile.to_string();
        request.references.clone_from(&self.references);
        request.target.clone_from(&self.target);
        request.build_args.clone_from(&self.build_args);
        request.labels.clone_from(&self.labels);
        request.no_cache = self.no_cache;
        request.no_cache_stages.clone_from(&extra.no_cache_stages);
        request.pull = self.pull;
        request.network_mode.clone_from(&self.network_mode);
        request.host_config = self.host_config.clone();
        request.platform = self.platforms.first().cloned();
        request.auth.clone_from(&self.auth);
        request.ssh.clone_from(&extra.ssh);
        for (name, image) in &extra.context_images {
            request.context_images.insert(name.to_lowercase(), image.clone());
        }
        request.attests = Attests::parse(&extra.attests).map_err(super::failure)?;
        for text in &extra.annotations {
            request.annotations.flag(text).map_err(super::failure)?;
        }
        if self.remote.is_empty() {
            request.locals = vec!["context".into()];
        }
        request.secrets = extra.decoded()?;
        let store = |name: &str| Ok(exchange.store(name));
        for name in &self.cache_from {
            request.cache_from.push(CacheFrom::image(name).map_err(super::failure)?);
        }
        for Shared { kind, attrs } in &extra.cache_from {
            request.cache_from.push(CacheFrom::parse(kind, attrs, &store).map_err(super::failure)?);
        }
        for Shared { kind, attrs } in &extra.cache_to {
            let to = CacheTo::parse(kind, attrs, &store).map_err(super::failure)?;
            request.inline_cache |= to.place.is_none();
            if to.place.is_some() {
                request.cache_to.push(to);
            }
        }
        for name in &extra.allow {
            match name.as_str() {
                "network.host" => request.entitlements.network_host = true,
                "security.insecure" => request.entitlements.security_insecure = true,
                "device" => request.allowed_devices.push("*".into()),
                device if device.starts_with("device=") => {
                    request.allowed_devices.push(device["device=".len()..].to_string());
                }
                other => return Err(Failure::bad_request(format!("unknown entitlement {other:?}"))),
            }
        }
        Ok(request)
    }
}

/// What this version cannot honour, by name.
fn refuse(call: &Call) -> Result<(), Failure> {
    let query = &call.query;
    if query.flag("squash") {
        return Err(Failure::not_here("squashing layers"));
    }
    let is_classic = match query.text("version") {
        "" | "1" => true,
        "2" => false,
        other => return Err(Failure::bad_request(format!("invalid version {other}"))),
    };
    if is_classic && matches!(query.text("remote"), "client-session" | "upload-request") {
        return Err(Failure::bad_request("the context of a session is BuildKit's (version=2)"));
    }
    if is_classic && !matches!(query.text("outputs"), "" | "[]" | "null") {
        return Err(Failure::not_here("build outputs without version=2"));
    }
    if !matches!(query.text("isolation"), "" | "default") {
        return Err(Failure::bad_request(format!("invalid isolation: {:?}", query.text("isolation"))));
    }
    if !matches!(query.text("securityopt"), "" | "[]" | "null") {
        return Err(Failure::not_here("security options for builds"));
    }
    Ok(())
}

fn tag(text: &str) -> Result<Reference, Failure> {
    let reference: Reference = text.parse::<Reference>().map_err(|e| {
        Failure::bad_request(format!("invalid argument {text:?} for \"-t, --tag\" flag: {e}"))
    })?;
    if reference.digest().is_some() {
        return Err(Failure::bad_request("build tag cannot contain a digest"));
    }
    Ok(reference.with_default_tag())
}

/// A JSON value of the query; an empty one and `null` are none.
pub(super) fn document<T: serde::de::DeserializeOwned>(
    call: &Call,
    name: &str,
) -> Result<Option<T>, Failure> {
    match call.query.text(name) {
        "" => Ok(None),
        text => serde_json::from_str(text).map_err(|e| Failure::bad_request(format!("invalid {name}: {e}"))),
    }
}

/// `extrahosts`: a JSON array, or texts.
fn hosts(call: &Call) -> Result<Vec<String>, Failure> {
    let mut out = Vec::new();
    for text in call.query.all("extrahosts").iter().filter(|t| !t.is_empty()) {
        match serde_json::from_str::<Vec<String>>(text) {
            Ok(list) => out.extend(list),
            Err(_) => out.extend(text.split(',').map(|t| t.trim().to_string())),
        }
    }
    Ok(out)
}

/// `X-Registry-Config`: base64 of a JSON map from registry to credentials.
pub(crate) fn registry_config(header: &str) -> Result<BTreeMap<String, Auth>, Failure> {
    if header.is_empty() {
        return Ok(BTreeMap::new());
    }
    let wrong = || Failure::bad_request("X-Registry-Config is not base64 of a JSON map");
    let bytes = crate::request::from_base64(header).ok_or_else(wrong)?;
    // Clients without credentials send `null`.
    let map: Option<BTreeMap<String, Value>> = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
    let mut out = BTreeMap::new();
    for (server, value) in map.unwrap_or_default() {
        let login = registry_client::Login::from_json(value.to_string().as_bytes()).map_err(|e| {
            Failure::bad_request(format!("X-Registry-Config for {server}: {}", errors::chain(&e)))
        })?;
        out.insert(host_of(&server), login.auth);
    }
    Ok(out)
}

/// The host that references use for a registry as clients write it.
fn host_of(server: &str) -> String {
    let bare = server.trim_start_matches("https://").trim_start_matches("http://");
    let host = bare.split('/').next().unwrap_or(bare);
    if matches!(host, "index.docker.io" | "registry-1.docker.io") { "docker.io".into() } else { host.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_registries() {
        assert_eq!(host_of("https://index.docker.io/v1/"), "docker.io");
        assert_eq!(host_of("localhost:5000"), "localhost:5000");
    }

    #[test]
    fn documents_before_the_tar() {
        let with = |json: &[u8]| [&(json.len() as u64).to_be_bytes()[..], json, b"tar"].concat();
        let bytes = with(br#"{"secrets":{"a":"Yg=="},"allow":["network.host"]}"#);
        let mut reader = &bytes[..];
        let extra = Extra::read(&mut reader).expect("good");
        assert_eq!((extra.secrets.len(), extra.allow.len(), reader), (1, 1, &b"tar"[..]));
        assert!(Extra::read(&mut &with(br#"{"unknown":1}"#)[..]).is_err());
        assert!(Extra::read(&mut &u64::MAX.to_be_bytes()[..]).is_err());
        assert!(Extra::read(&mut &b"abc"[..]).is_err());
    }

    #[test]
    fn archives_come_in_pieces() {
        let bytes = b"\0\0\0\x02ab\0\0\0\x01c\0\0\0\0rest";
        let mut reader = &bytes[..];
        let mut out = String::new();
        Pieces { reader: &mut reader, left: 0, is_done: false }.read_to_string(&mut out).expect("whole");
        assert_eq!((out.as_str(), reader), ("abc", &b"rest"[..]));
        let mut cut = &bytes[..5];
        assert!(Pieces { reader: &mut cut, left: 0, is_done: false }.read_to_end(&mut Vec::new()).is_err());
    }
}
