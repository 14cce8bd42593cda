//! `create`: a request and an image become a record and a writable snapshot.
//!
//! ```text
//! validate  -> merge with the image's config -> reserve the name -> snapshot.prepare -> container directory -> record
//! ```
//! The record comes last: a daemon killed before it leaves a snapshot and a directory without owner, which the next
//! start removes.

use crate::container::Container;
use crate::error::{During, Error, IoDuring, blocking};
use crate::model::{Config, HostConfig, NetworkingConfig, Words};
use crate::record::{ContainerId, RECORD_VERSION, Record, State, now};
use crate::{Engine, bundle, cdi, health, log_drivers, modes, names, userns};
use oci::Platform;
use oci::image::RunConfig;
use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;

/// Less is no use: what starts a container in its cgroup takes some.
const LEAST_MEMORY: i64 = 6 << 20;
/// Longest value of one environment variable or argument: the kernel's MAX_ARG_STRLEN is 128 KiB.
const MAX_WORD: usize = 128 << 10;
/// How labels begin that the engine does something with.
const OWN_LABELS: &str = "brig.";
/// Names tried before giving up on finding a free one.
const NAME_ATTEMPTS: u32 = 20;
/// Pauses before the tries to take back what a failed create could not at once.
const GIVE_UP_PAUSES_S: [u64; 5] = [1, 4, 15, 60, 240];

/// What a client asks for.
#[derive(Debug, Clone, Default)]
pub struct CreateRequest {
    /// Empty for a generated one.
    pub name: String,
    /// Which of several images of one index; what the name means where none is named.
    pub platform: Option<Platform>,
    pub config: Config,
    pub host_config: HostConfig,
    pub networking: NetworkingConfig,
}

/// What it gets.
#[derive(Debug, Clone)]
pub struct Created {
    pub id: ContainerId,
    pub warnings: Vec<String>,
}

impl Engine {
    /// Makes a container that can be started.
    ///
    /// # Errors
    ///
    /// NotFound when the image is not there (the client may pull it and ask again), InvalidArgument and Unsupported
    /// for options that cannot be honoured, WrongState when the name is taken.
    pub async fn create(self: &Arc<Self>, request: CreateRequest) -> Result<Created, Error> {
        let CreateRequest { name, platform, mut config, mut host_config, networking } = request;
        let bare = name.strip_prefix('/').unwrap_or(&name).to_string();
        if !bare.is_empty() && !names::is_valid(&bare) {
            return Err(Error::invalid(format!(
                "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            )));
        }
        fill_defaults(&mut host_config, &self.config);
        let image_name = config.image.clone();
        let (images, wanted) = (self.images.clone(), platform.clone());
        let (image, image_config) = blocking(move || {
            let image = match &wanted {
                Some(platform) => images.get_for(&image_name, platform)?,
                None => images.get(&image_name)?,
            };
            image.check_is_image()?;
            let config = images.config(&image.id)?;
            Ok::<_, image::Error>((image, config))
        })
        .await
        .during(|| "find image".into())?;
        let run_config = image_config.config.clone().unwrap_or_default();
        let mut warnings = modes::discard(&mut host_config, self.cgroup_mode == cgroup::Mode::V2);
        warnings.extend(foreign(&image_config.platform(), platform.is_some()));
        modes::check(&config, &host_config)?;
        if let Some(name) = host_config.pid_mode.strip_prefix("container:") {
            self.container(name).map_err(|e| Error::invalid(e.to_string()))?;
        }
        userns::check(&host_config, self.is_remapped())?;
        crate::rates::from_labels(&config.labels, &mut host_config)?;
        self.tie_links(&mut host_config)?;
        let args = merge_image(&mut config, &run_config)?;
        validate(&config, &host_config, &self.config.runtimes)?;
        let capabilities = bundle::capabilities(&host_config, &self.capabilities)?;
        bundle::Security::parse(&host_config)?.seccomp(&capabilities)?;
        cdi::names(&host_config)?;

        let id = ContainerId::random();
        if config.hostname.is_empty() {
            config.hostname = match host_config.network_mode.split_once(':') {
                // Whoever shares a network goes by one name in it.
                Some(("container", other)) => {
                    self.container(other).map(|c| c.record().config.hostname).unwrap_or_default()
                }
                None if host_config.network_mode == "host" || host_config.uts_mode == "host" => {
                    rustix::system::uname().nodename().to_string_lossy().into_owned()
                }
                _ => id.short().into(),
            };
        }
        if host_config.cgroupns_mode.is_empty() {
            let private = self.cgroup_mode == cgroup::Mode::V2 && !host_config.privileged;
            host_config.cgroupns_mode = if private { "private" } else { "host" }.into();
        }
        let mut networks = self.networks.plan(&host_config, &networking, &config)?;
        let wanted_macs: BTreeMap<String, String> = networks
            .iter()
            .filter(|(_, s)| !s.mac_address.is_empty())
            .map(|(name, s)| (name.clone(), s.mac_address.clone()))
            .collect();
        crate::networks::clear(&mut networks);
        let name = self.take_name(&bare, &id)?;
        let mounts = match self.plan_mounts(&id, &config, &host_config).await {
            Ok(mounts) => mounts,
            Err(e) => {
                self.give_up(&name, &id).await;
                return Err(e);
            }
        };
        let record = Record {
            version: RECORD_VERSION,
            id: id.clone(),
            name: name.clone(),
            created: now(),
            image_id: image.id.0,
            chain_id: image.chain_id,
            config,
            host_config,
            args,
            mounts,
            networks,
            wanted_macs,
            ports: Vec::new(),
            state: State::default(),
        };
        if let Err(e) = self.clone().make(&record).await {
            self.give_up(&name, &id).await;
            return Err(e);
        }
        let container = Arc::new(Container::new(record));
        self.containers.insert(container.clone());
        self.drop_claims(&id);
        self.publish(&container, "create", &[]);
        Ok(Created { id, warnings })
    }

    /// Takes back what a create that failed has made before its record.
    async fn give_up(self: &Arc<Self>, name: &str, id: &ContainerId) {
        self.containers.release(name);
        self.drop_claims(id);
        let Err(e) = self.take_back(id).await else { return };
        tracing::warn!(error = %errors::chain(&e), "what a failed create has made is not removed yet");
        // What made it fail may be why: too few descriptors, a full disk. If it lasts, the next start of the daemon does it.
        let (engine, id) = (self.clone(), id.clone());
        tokio::spawn(async move {
            for pause in GIVE_UP_PAUSES_S {
                tokio::time::sleep(std::time::Duration::from_secs(pause)).await;
                if engine.take_back(&id).await.is_ok() {
                    return;
                }
            }
        });
    }

    async fn take_back(self: &Arc<Self>, id: &ContainerId) -> Result<(), Error> {
        let (engine, id) = (self.clone(), id.clone());
        blocking(move || {
            engine.remove_snapshots_of(|owner| owner == id.as_str())?;
            engine.remove_volumes_of(|owner| owner == id.as_str())
        })
        .await
    }

    fn take_name(&self, wanted: &str, id: &ContainerId) -> Result<String, Error> {
        if !wanted.is_empty() {
            self.containers.reserve(wanted, id)?;
            return Ok(wanted.to_string());
        }
        for attempt in 0..NAME_ATTEMPTS {
            let name = names::generate(attempt);
            if self.containers.reserve(&name, id).is_ok() {
                return Ok(name);
            }
        }
        // The short id is unique enough when all pretty names are taken.
        self.containers.reserve(id.short(), id)?;
        Ok(id.short().to_string())
    }

    /// Makes what the record needs on disk, then the record. Undoes what it made when a step fails.
    async fn make(self: Arc<Self>, record: &Record) -> Result<(), Error> {
        let record = record.clone();
        blocking(move || {
            let key = record.id.as_str();
            let dir = self.config.container_dir(key);
            let made = self
                .prepare_snapshot(&record)
                .and_then(|()| {
                    std::fs::DirBuilder::new()
                        .mode(0o710)
                        .create(&dir)
                        .io_during(|| format!("create {}", dir.display()))
                })
                .and_then(|()| crate::put(&self.db, &record));
            if made.is_err() {
                // The first cause is what the caller must hear; what cannot be undone now, the next start removes.
                if let Err(e) = self.snapshots.remove(key) {
                    tracing::debug!(container_id = key, error = %errors::chain(&e), "undo of snapshot");
                }
                drop(std::fs::remove_dir_all(&dir));
            }
            made
        })
        .await
    }
}

/// Docker's defaults, so that `inspect` shows what holds.
fn fill_defaults(host: &mut HostConfig, config: &crate::Config) {
    let fill = |field: &mut String, value: &str| {
        if field.is_empty() {
            *field = value.into();
        }
    };
    fill(&mut host.network_mode, "default");
    if host.network_mode == "default" {
        host.network_mode = "bridge".into();
    }
    fill(&mut host.restart_policy.name, "no");
    fill(&mut host.ipc_mode, "private");
    fill(&mut host.log_config.kind, &config.log_driver);
    fill(&mut host.runtime, &config.default_runtime);
    // The daemon's options are for the daemon's driver.
    if host.log_config.kind == config.log_driver {
        for (key, value) in &config.log_opts {
            host.log_config.config.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    if host.shm_size == 0 {
        host.shm_size = 64 << 20;
    }
    if host.memory > 0 && host.memory_swap == 0 {
        host.memory_swap = default_swap(host.memory);
    }
}

/// Memory and swap together, where only memory was said: as much swap again.
pub(crate) fn default_swap(memory: i64) -> i64 {
    memory.max(0).saturating_mul(2)
}

/// Fills empty fields from the image and returns the command line, entrypoint first.
/// Docker's words for an image that was made for another machine, where nobody asked for one.
fn foreign(platform: &Platform, asked: bool) -> Option<String> {
    let here = Platform::host();
    let known = !platform.os.is_empty() && !platform.architecture.is_empty();
    (known && !asked && !platform.satisfies(&here)).then(|| {
        format!(
            "The requested image's platform ({platform}) does not match the detected host platform ({here}) and no \
             specific platform was requested"
        )
    })
}

fn merge_image(config: &mut Config, image: &RunConfig) -> Result<Vec<String>, Error> {
    let list = |l: &Option<Vec<String>>| l.clone().unwrap_or_default();
    // A client's entrypoint drops the image's command: it was meant for the image's entrypoint.
    if config.entrypoint.is_none() {
        if config.cmd.as_ref().is_none_or(|c| c.0.is_empty()) {
            config.cmd = image.cmd.clone().map(Words);
        }
        config.entrypoint = image.entrypoint.clone().map(Words);
    }
    // `--entrypoint ""` arrives as one empty word and resets the image's entrypoint.
    if config.entrypoint.as_ref().is_some_and(|e| e.0 == [""]) {
        config.entrypoint = None;
    }
    if config.user.is_empty() {
        config.user.clone_from(&image.user);
    }
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&image.working_dir);
    }
    if config.stop_signal.is_empty() {
        config.stop_signal = image.stop_signal.clone().unwrap_or_default();
    }
    if config.stop_timeout.is_none() {
        config.stop_timeout = image.stop_timeout;
    }
    let healthcheck = image.healthcheck.as_ref().filter(|h| !h.is_null());
    let healthcheck = healthcheck.map(|h| serde_json::from_value(h.clone())).transpose();
    health::merge(
        &mut config.healthcheck,
        healthcheck.map_err(|e| Error::invalid(format!("the image's health check cannot be read: {e}")))?,
    );
    let mut env = list(&image.env);
    bundle::merge_env(&mut env, &config.env);
    // A bare KEY that the image does not have still removes one of the engine's defaults at start.
    env.extend(config.env.iter().filter(|e| !e.contains('=')).cloned());
    config.env = env;
    let mut labels = image.labels.clone().unwrap_or_default();
    // What such labels of ours do is for clients to ask, not for images (CVE-2026-53488 was a label that a plugin obeyed).
    labels.retain(|key, _| !key.starts_with(OWN_LABELS));
    labels.append(&mut config.labels);
    config.labels = labels;
    for (port, empty) in image.exposed_ports.iter().flatten() {
        config.exposed_ports.insert(port.clone(), *empty);
    }
    if let Some(volumes) = &image.volumes {
        config.volumes.get_or_insert_default().extend(volumes.iter().map(|(k, v)| (k.clone(), *v)));
    }
    let words = |w: &Option<Words>| w.as_ref().map(|w| w.0.clone()).unwrap_or_default();
    let mut args = words(&config.entrypoint);
    args.extend(words(&config.cmd));
    if args.is_empty() {
        return Err(Error::invalid("no command specified"));
    }
    Ok(args)
}

fn validate(
    config: &Config,
    host: &HostConfig,
    runtimes: &BTreeMap<String, std::path::PathBuf>,
) -> Result<(), Error> {
    let words = config
        .env
        .iter()
        .chain(config.cmd.iter().flat_map(|w| &w.0))
        .chain(config.entrypoint.iter().flat_map(|w| &w.0));
    for word in words {
        if word.contains('\0') || word.len() > MAX_WORD {
            return Err(Error::invalid(
                "a command or environment entry holds a NUL byte or is longer than 128 KiB",
            ));
        }
    }
    if let Some(bad) = config.env.iter().find(|e| e.is_empty() || e.starts_with('=')) {
        return Err(Error::invalid(format!("invalid environment variable: {bad}")));
    }
    let host_text =
        |s: &str| s.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)) && s.len() <= 64;
    if !host_text(&config.hostname) || !host_text(&config.domainname) {
        return Err(Error::invalid(format!("invalid hostname {:?}", config.hostname)));
    }
    if config.working_dir.contains('\0') || config.user.contains('\0') {
        return Err(Error::invalid("a NUL byte in the working directory or the user"));
    }
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(Error::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        )));
    }
    if !config.stop_signal.is_empty() {
        crate::Signal::parse(&config.stop_signal)?;
    }
    if !runtimes.contains_key(&host.runtime) {
        return Err(Error::invalid(format!("unknown or invalid runtime name: {}", host.runtime)));
    }
    for entry in &host.extra_hosts {
        crate::networks::parse_extra_host(entry)?;
    }
    check_reservation(host)?;
    check_resources(host)?;
    check_restart_policy(host)?;
    health::validate(config)?;
    log_drivers::check(&host.log_config)?;
    crate::limits::check(host)?;
    crate::rates::check(host)?;
    unsupported(config, host)
}

/// Checks the two limits of memory that one request names. What an update leaves alone may be the other way round, as in
/// Docker: the kernel takes it.
pub(crate) fn check_reservation(host: &HostConfig) -> Result<(), Error> {
    if host.memory > 0 && host.memory < host.memory_reservation {
        let text = "Minimum memory limit can not be less than memory reservation limit, see usage";
        return Err(Error::invalid(text));
    }
    Ok(())
}

/// Checks what limits say about each other, and their least values.
pub(crate) fn check_resources(host: &HostConfig) -> Result<(), Error> {
    let limit = |value: i64, least: i64, text: &str| {
        if value != 0 && value < least { Err(Error::invalid(text)) } else { Ok(()) }
    };
    limit(host.memory, LEAST_MEMORY, "Minimum memory limit allowed is 6MB")?;
    limit(host.memory_reservation, LEAST_MEMORY, "Minimum memory reservation allowed is 6MB")?;
    limit(host.cpu_shares, 0, "invalid cpu shares: they can not be less than 0")?;
    limit(host.shm_size, 0, "SHM size can not be less than 0")?;
    if host.memory_swap > 0 && host.memory == 0 {
        return Err(Error::invalid(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ));
    }
    if host.memory_swap > 0 && host.memory_swap < host.memory {
        return Err(Error::invalid("Minimum memoryswap limit should be larger than memory limit, see usage"));
    }
    for (value, name) in [(host.cpu_period, "Period"), (host.cpu_quota, "Quota")] {
        if host.nano_cpus > 0 && value > 0 {
            let text = format!("Conflicting options: Nano CPUs and CPU {name} cannot both be set");
            return Err(Error::invalid(text));
        }
    }
    Ok(())
}

/// Checks the restart policy.
pub(crate) fn check_restart_policy(host: &HostConfig) -> Result<(), Error> {
    match (host.restart_policy.name.as_str(), host.restart_policy.maximum_retry_count) {
        ("no" | "always" | "unless-stopped", 0) | ("on-failure", _) => {}
        ("no" | "always" | "unless-stopped", _) => {
            return Err(Error::invalid(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'",
            ));
        }
        (other, _) => {
            return Err(Error::invalid(format!(
                "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or \
                 'unless-stopped'"
            )));
        }
    }
    if host.auto_remove && host.restart_policy.name != "no" {
        return Err(Error::invalid("can't create 'AutoRemove' container with restart policy"));
    }
    Ok(())
}

/// What the API knows and this version does not do. Accepting it silently would be a lie.
fn unsupported(config: &Config, host: &HostConfig) -> Result<(), Error> {
    crate::storage::size_limit(&host.storage_opt)?;
    let what = [
        (!matches!(host.userns_mode.as_str(), "" | "host"), "--userns"),
        (config.network_disabled && host.network_mode != "none", "NetworkDisabled without network none"),
    ];
    match what.iter().find(|(asked, _)| *asked) {
        Some((_, what)) => Err(Error::unsupported(*what)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Option<Words> {
        Some(Words(list.iter().map(ToString::to_string).collect()))
    }

    fn check(image: (&[&str], &[&str]), client: (Option<Words>, Option<Words>), want: Option<&[&str]>) {
        let own = |l: &[&str]| Some(l.iter().map(ToString::to_string).collect());
        let image = RunConfig { entrypoint: own(image.0), cmd: own(image.1), ..RunConfig::default() };
        let mut config = Config { entrypoint: client.0, cmd: client.1, ..Config::default() };
        let got = merge_image(&mut config, &image).ok();
        assert_eq!(
            got.as_deref(),
            want.map(|w| w.iter().map(ToString::to_string).collect::<Vec<_>>()).as_deref()
        );
    }

    #[test]
    fn entrypoint_and_command_follow_dockers_table() {
        check((&["e"], &["c"]), (None, None), Some(&["e", "c"]));
        check((&["e"], &["c"]), (None, words(&["x"])), Some(&["e", "x"]));
        check((&["e"], &["c"]), (words(&["y"]), None), Some(&["y"]));
        check((&["e"], &["c"]), (words(&["y"]), words(&["x"])), Some(&["y", "x"]));
        check((&["e"], &["c"]), (words(&[""]), words(&["x"])), Some(&["x"]));
        check((&[], &["c"]), (None, None), Some(&["c"]));
        check((&[], &[]), (None, None), None);
    }
}
