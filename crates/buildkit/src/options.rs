//! The options of the Dockerfile frontend: a map of texts from names that clients and BuildKit have agreed on.

use crate::rpc::Reply;
use engine::model::{HostConfig, Ulimit};
use oci::Platform;
use serde::Deserialize;
use std::collections::BTreeMap;
use tonic::Status;

/// What is asked of the frontend.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// Path of the Dockerfile below its directory.
    pub(crate) filename: String,
    /// Names of the directories with the Dockerfile and the context.
    pub(crate) dockerfile_dir: String,
    pub(crate) context_dir: String,
    /// A Dockerfile's directory was named: it does not come with the context.
    pub(crate) has_dockerfile_dir: bool,
    /// URL of the context, where it is not a directory of the client's.
    pub(crate) context_url: String,
    pub(crate) target: String,
    pub(crate) build_args: BTreeMap<String, Option<String>>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) platforms: Vec<Platform>,
    /// An index is wanted also for one platform.
    pub(crate) is_multi: bool,
    pub(crate) no_cache: bool,
    pub(crate) no_cache_stages: Vec<String>,
    pub(crate) pull: bool,
    pub(crate) network: String,
    pub(crate) hostname: String,
    pub(crate) host_config: HostConfig,
    /// Named contexts: what each leads to.
    pub(crate) contexts: BTreeMap<String, String>,
    /// Attestations by kind, with their parameters.
    pub(crate) attestations: BTreeMap<String, String>,
    /// What is asked instead of a build.
    pub(crate) request: String,
    pub(crate) cache_imports: Vec<CacheEntry>,
    /// Directories with keys of their own.
    pub(crate) shared_keys: BTreeMap<String, String>,
}

/// A cache to import or export.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct CacheEntry {
    #[serde(rename = "Type")]
    pub(crate) kind: String,
    #[serde(rename = "Attrs", default)]
    pub(crate) attrs: BTreeMap<String, String>,
}

/// Options that change nothing here: how sessions and frontends are found, which is known, and what limits of frontends a
/// client knows.
const WITHOUT_EFFECT: &[&str] = &["source", "cmdline", "frontend.caps", "BUILDKIT_SESSION_ID"];

fn invalid(message: impl Into<String>) -> Status {
    Status::invalid_argument(message)
}

impl Options {
    pub(crate) fn parse(options: &BTreeMap<String, String>) -> Reply<Options> {
        let mut out = Options {
            filename: "Dockerfile".into(),
            dockerfile_dir: "dockerfile".into(),
            context_dir: "context".into(),
            ..Options::default()
        };
        for (key, value) in options {
            out.take(key, value)?;
        }
        if let Some(url) = options.get(&out.context_dir) {
            out.context_url.clone_from(url);
        }
        out.is_multi |= out.platforms.len() > 1;
        Ok(out)
    }

    fn take(&mut self, key: &str, value: &str) -> Reply<()> {
        let number = |what: &str| {
            value
                .parse::<i64>()
                .map_err(|_| invalid(format!("failed to parse {what}: {value:?} is no number")))
        };
        let text = value.to_string();
        if let Some((prefix, name)) = key.split_once(':') {
            let name = name.to_string();
            match prefix {
                "build-arg" => self.build_arg(&name, value)?,
                "label" => drop(self.labels.insert(name, text)),
                "context" => drop(self.contexts.insert(name, text)),
                // Configs of results of other builds, which are known here with them.
                "input-metadata" => {}
                "attest" => drop(self.attestations.insert(name, text)),
                // What is known of the source: for provenance, which has all options.
                "vcs" => {}
                "sharedkey" => {
                    let name = name.strip_prefix("localdir:").unwrap_or(&name).to_string();
                    self.shared_keys.insert(name, text);
                }
                // The session of a build has all of its directories.
                "local-sessionid" => {}
                _ => return Err(unknown(key)),
            }
            return Ok(());
        }
        match key {
            "filename" => self.filename = text,
            "dockerfilekey" => {
                self.dockerfile_dir = text;
                self.has_dockerfile_dir = true;
            }
            "contextkey" => self.context_dir = text,
            "context" => {}
            "target" => self.target = text,
            "platform" => {
                for part in value.split(',').filter(|p| !p.is_empty()) {
                    let platform =
                        part.parse().map_err(|e| invalid(format!("failed to parse platform {part}: {e}")))?;
                    self.platforms.push(platform);
                }
            }
            "multi-platform" => self.is_multi = boolean(key, value)?,
            "no-cache" if value.is_empty() => self.no_cache = true,
            "no-cache" => self.no_cache_stages = value.split(',').map(str::to_string).collect(),
            "image-resolve-mode" => match value {
                "" | "default" | "local" => {}
                "pull" => self.pull = true,
                _ => return Err(invalid(format!("invalid image-resolve-mode: {value}"))),
            },
            "force-network-mode" => match value {
                "" | "default" | "sandbox" => {}
                "host" | "none" => self.network = text,
                _ => return Err(invalid(format!("invalid netmode {value}"))),
            },
            "add-hosts" => {
                for part in value.split(',').filter(|p| !p.is_empty()) {
                    let (host, ip) = part
                        .split_once('=')
                        .ok_or_else(|| invalid(format!("failed to parse add-hosts {part}")))?;
                    self.host_config.extra_hosts.push(format!("{host}:{ip}"));
                }
            }
            "shm-size" => self.host_config.shm_size = number("shm size")?,
            "ulimit" => {
                for part in value.split(',').filter(|p| !p.is_empty()) {
                    let limit =
                        ulimit(part).ok_or_else(|| invalid(format!("failed to parse ulimit {part}")))?;
                    self.host_config.ulimits.push(limit);
                }
            }
            "cgroup-parent" => self.host_config.cgroup_parent = text,
            "memory" => self.host_config.memory = number(key)?,
            "memswap" => self.host_config.memory_swap = number(key)?,
            "cpushares" => self.host_config.cpu_shares = number(key)?,
            "cpuperiod" => self.host_config.cpu_period = number(key)?,
            "cpuquota" => self.host_config.cpu_quota = number(key)?,
            "cpusetcpus" => self.host_config.cpuset_cpus = text,
            "cpusetmems" => self.host_config.cpuset_mems = text,
            "hostname" => self.hostname = text,
            "requestid" => self.request = text,
            "cache-imports" => {
                let entries: Vec<CacheEntry> = serde_json::from_str(value)
                    .map_err(|e| invalid(format!("failed to unmarshal cache-imports ({value:?}): {e}")))?;
                self.cache_imports.extend(entries);
            }
            "cache-from" => {
                for name in value.split(',').filter(|n| !n.is_empty()) {
                    let attrs = [("ref".to_string(), name.to_string())].into();
                    self.cache_imports.push(CacheEntry { kind: "registry".into(), attrs });
                }
            }
            // A frontend that is built on the way.
            "gateway-devel" if !boolean(key, value)? => {}
            _ if WITHOUT_EFFECT.contains(&key) => {}
            _ => return Err(unknown(key)),
        }
        Ok(())
    }

    fn build_arg(&mut self, name: &str, value: &str) -> Reply<()> {
        match name {
            "BUILDKIT_SANDBOX_HOSTNAME" if !value.is_empty() => self.hostname = value.into(),
            "BUILDKIT_MULTI_PLATFORM" => self.is_multi |= boolean(name, value)?,
            // The frontend is built in, whatever its version.
            "BUILDKIT_SYNTAX" => {}
            _ => {}
        }
        if let Some(kind) = name.strip_prefix("BUILDKIT_ATTEST_") {
            self.attestations.entry(kind.to_lowercase()).or_insert_with(|| value.into());
        }
        self.build_args.insert(name.into(), Some(value.into()));
        Ok(())
    }
}

fn unknown(key: &str) -> Status {
    Status::unimplemented(format!("the frontend option {key:?} is not supported by this version of brig"))
}

pub(crate) fn boolean(key: &str, value: &str) -> Reply<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(invalid(format!("invalid boolean value for {key}: {value}"))),
    }
}

/// `name=soft[:hard]`.
fn ulimit(text: &str) -> Option<Ulimit> {
    let (name, limits) = text.split_once('=')?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    Some(Ulimit { name: name.into(), soft: soft.parse().ok()?, hard: hard.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Reply<Options> {
        Options::parse(&pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
    }

    #[test]
    fn options_are_read_and_strange_ones_refused_by_name() {
        let options = parse(&[
            ("filename", "a/Dockerfile"),
            ("build-arg:A", "1"),
            ("label:x.y", "z"),
            ("platform", "linux/amd64,linux/arm64"),
            ("add-hosts", "a=10.0.0.1,b=::1"),
            ("ulimit", "nofile=10:20,core=0"),
            ("no-cache", ""),
            ("context", "https://x.example/a.git"),
            ("cache-imports", r#"[{"Type":"registry","Attrs":{"ref":"x"}}]"#),
        ])
        .expect("good");
        assert_eq!(options.filename, "a/Dockerfile");
        assert_eq!(options.host_config.extra_hosts, ["a:10.0.0.1", "b:::1"]);
        assert_eq!(options.host_config.ulimits[0].hard, 20);
        assert_eq!(options.context_url, "https://x.example/a.git");
        assert!(options.no_cache && options.is_multi);
        assert_eq!(options.cache_imports[0].attrs["ref"], "x");
        let refused = |key: &str, value: &str| parse(&[(key, value)]).expect_err(key).message().to_string();
        assert!(refused("strange", "1").contains("\"strange\""));
        assert!(refused("platform", "a/b/c/d/e").contains("a/b/c/d/e"));
        assert!(refused("shm-size", "many").contains("many"));
        assert!(refused("force-network-mode", "mine").contains("mine"));
    }
}
