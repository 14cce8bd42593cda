//! Flags (dockerd's names), then the configuration file, then the defaults.

use crate::tls::Tls;
use clap::Parser;
use errors::{Kind, Report};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Read when no other file is named; may be missing.
const DEFAULT_CONFIG: &str = "/etc/brig/config.toml";
const DEFAULT_RUNTIME: &str = "brig";
/// Where certificates and mirrors of registries are looked for when nobody says where.
const CERTS_DIRS: [&str; 2] = ["/etc/brig/certs.d", "/etc/docker/certs.d"];

/// A container engine: containers, images and networks behind Docker's API.
#[derive(Debug, Parser)]
#[command(name = "brigd", version, about)]
pub(crate) struct Flags {
    /// Socket to listen on: unix://PATH, tcp://HOST:PORT or fd:// (systemd's); may be given several times
    #[arg(short = 'H', long = "host", value_name = "URL")]
    hosts: Vec<String>,
    /// Directory of images, containers and volumes [default: /var/lib/brig]
    #[arg(long, value_name = "DIR")]
    data_root: Option<PathBuf>,
    /// Directory of what runs: sockets, mounts [default: /run/brig]
    #[arg(long, value_name = "DIR")]
    exec_root: Option<PathBuf>,
    /// File for the daemon's process id [default: EXEC_ROOT/brigd.pid]
    #[arg(short = 'p', long, value_name = "FILE")]
    pidfile: Option<PathBuf>,
    /// Configuration file [default: /etc/brig/config.toml]
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// Log what is done and not only what changes
    #[arg(short = 'D', long)]
    debug: bool,
    /// Have what Docker calls experimental: checkpoints, which want criu
    #[arg(long)]
    experimental: bool,
    /// Group that may use the socket [default: brig, else docker, else root]
    #[arg(short = 'G', long, value_name = "GROUP")]
    group: Option<String>,
    /// Registry that may be spoken to without TLS or without a valid certificate; may be given several times
    #[arg(long = "insecure-registry", value_name = "HOST")]
    insecure_registries: Vec<String>,
    /// Mirror of Docker Hub; may be given several times
    #[arg(long = "registry-mirror", value_name = "URL")]
    registry_mirrors: Vec<String>,
    /// Directory of registries' certificates and mirrors, HOST[:PORT]/...; may be given several times
    /// [default: /etc/brig/certs.d and /etc/docker/certs.d]
    #[arg(long = "certs-dir", value_name = "DIR")]
    certs_dirs: Vec<PathBuf>,
    /// Proxy for registries spoken to over plain HTTP [default: HTTP_PROXY of the environment]
    #[arg(long, value_name = "URL")]
    http_proxy: Option<String>,
    /// Proxy for registries spoken to over TLS [default: HTTPS_PROXY of the environment]
    #[arg(long, value_name = "URL")]
    https_proxy: Option<String>,
    /// Hosts and networks that are reached without a proxy, separated by commas [default: NO_PROXY of the environment]
    #[arg(long, value_name = "LIST")]
    no_proxy: Option<String>,
    /// Storage driver: erofs, overlay, btrfs or vfs [default: erofs where the kernel can, else overlay]
    #[arg(short = 's', long, value_name = "NAME")]
    storage_driver: Option<String>,
    /// Parent of the containers' cgroups [default: /brig]
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
    /// Name of the default bridge [default: brig0]
    #[arg(short = 'b', long, value_name = "NAME")]
    bridge: Option<String>,
    /// MTU of the default bridge [default: 1500]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32>,
    /// Store of networks that several hosts share, etcd://HOST:PORT[,HOST:PORT…][/PREFIX]
    #[arg(long, value_name = "URL")]
    cluster_store: Option<String>,
    /// Files for a store that speaks TLS: kv.cacertfile=PATH, kv.certfile=PATH, kv.keyfile=PATH
    #[arg(long = "cluster-store-opt", value_name = "KEY=VALUE")]
    cluster_store_opts: Vec<String>,
    /// Address of this host for the others, or the interface that has it
    #[arg(long, value_name = "ADDRESS")]
    cluster_advertise: Option<String>,
    /// How long what this host holds in the store outlives its daemon's last word [default: 600]
    #[arg(long, value_name = "SECONDS")]
    cluster_ttl: Option<u32>,
    /// Runtime for containers that name none [default: brig]
    #[arg(long, value_name = "NAME")]
    default_runtime: Option<String>,
    /// A further OCI runtime, NAME=PATH; may be given several times
    #[arg(long = "add-runtime", value_name = "NAME=PATH")]
    add_runtimes: Vec<String>,
    /// Label of this daemon, KEY=VALUE, that info shows; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Log driver of containers that name none [default: json-file]
    #[arg(long, value_name = "NAME")]
    log_driver: Option<String>,
    /// Option for the log of containers that give none, KEY=VALUE; may be given several times
    #[arg(long = "log-opt", value_name = "KEY=VALUE")]
    log_opts: Vec<String>,
    /// Directory of specs of the Container Device Interface; may be given several times
    /// [default: /etc/cdi and /var/run/cdi]
    #[arg(long = "cdi-spec-dir", value_name = "DIR")]
    cdi_spec_dirs: Vec<PathBuf>,
    /// Give containers user namespaces with the subordinate ids of a user: default (dockremap), USER[:GROUP] or UID[:GID]
    #[arg(long, value_name = "USER")]
    userns_remap: Option<String>,
    /// Directory of passwd, group, subuid and subgid for --userns-remap [default: /etc]
    #[arg(long, value_name = "DIR", hide = true)]
    subid_dir: Option<PathBuf>,
    /// Run an init in containers that do not say whether they want one
    #[arg(long)]
    init: bool,
    /// Address on which Prometheus gets its numbers, HOST:PORT
    #[arg(long, value_name = "ADDRESS")]
    metrics_addr: Option<String>,
    /// Speak TLS on tcp:// sockets
    #[arg(long)]
    tls: bool,
    /// Speak TLS on tcp:// sockets, to clients with a certificate of --tlscacert
    #[arg(long)]
    tlsverify: bool,
    /// Authority of the clients' certificates [default: /etc/brig/ca.pem]
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    /// Our certificate [default: /etc/brig/cert.pem]
    #[arg(long, value_name = "FILE")]
    tlscert: Option<PathBuf>,
    /// Its key [default: /etc/brig/key.pem]
    #[arg(long, value_name = "FILE")]
    tlskey: Option<PathBuf>,
    /// Let whoever reaches a tcp:// socket be root on this machine
    #[arg(long)]
    insecure_tcp: bool,
    /// Seconds between stop signal and SIGKILL [default: 10]
    #[arg(long, value_name = "SECONDS", hide = true)]
    stop_timeout: Option<u32>,
}

/// The configuration file. An unknown key is an error: a typing mistake must not pass for a setting.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct File {
    hosts: Vec<String>,
    data_root: Option<PathBuf>,
    exec_root: Option<PathBuf>,
    pidfile: Option<PathBuf>,
    debug: bool,
    experimental: bool,
    group: Option<String>,
    insecure_registries: Vec<String>,
    registry_mirrors: Vec<String>,
    certs_dirs: Vec<PathBuf>,
    http_proxy: Option<String>,
    https_proxy: Option<String>,
    no_proxy: Option<String>,
    storage_driver: Option<String>,
    cgroup_parent: Option<String>,
    bridge: Option<String>,
    mtu: Option<u32>,
    cluster_store: Option<String>,
    cluster_store_opts: BTreeMap<String, String>,
    cluster_advertise: Option<String>,
    cluster_ttl: Option<u32>,
    default_runtime: Option<String>,
    runtimes: BTreeMap<String, PathBuf>,
    labels: Vec<String>,
    log_driver: Option<String>,
    log_opts: BTreeMap<String, String>,
    cdi_spec_dirs: Vec<PathBuf>,
    userns_remap: Option<String>,
    init: bool,
    stop_timeout: Option<u32>,
    metrics_addr: Option<String>,
    tls: bool,
    tlsverify: bool,
    tlscacert: Option<PathBuf>,
    tlscert: Option<PathBuf>,
    tlskey: Option<PathBuf>,
    insecure_tcp: bool,
}

/// What holds.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) hosts: Vec<String>,
    pub(crate) group: Option<String>,
    pub(crate) pidfile: PathBuf,
    pub(crate) debug: bool,
    pub(crate) workers: usize,
    pub(crate) tls: Tls,
    pub(crate) insecure_tcp: bool,
    pub(crate) metrics_addr: Option<String>,
    pub(crate) engine: engine::Config,
}

impl Settings {
    /// Puts flags, file and defaults together.
    pub(crate) fn resolve(flags: Flags) -> Result<Settings, Report> {
        let file = match &flags.config_file {
            Some(path) => read(path)?,
            None if Path::new(DEFAULT_CONFIG).exists() => read(Path::new(DEFAULT_CONFIG))?,
            None => File::default(),
        };
        let invalid = |text: String| Report::new(Kind::InvalidArgument, text);
        let storage_driver = flags.storage_driver.or(file.storage_driver);
        if let Some(driver) = &storage_driver
            && !engine::STORAGE_DRIVERS.contains(&driver.as_str())
        {
            let known = engine::STORAGE_DRIVERS.join(", ");
            return Err(Report::new(
                Kind::Unsupported,
                format!("storage driver {driver}: this version has {known}"),
            ));
        }
        let data_root =
            absolute(flags.data_root.or(file.data_root).unwrap_or_else(|| "/var/lib/brig".into()))?;
        let exec_root = absolute(flags.exec_root.or(file.exec_root).unwrap_or_else(|| "/run/brig".into()))?;
        let programs = own_directory()?;
        let mut runtimes = file.runtimes;
        runtimes.entry(DEFAULT_RUNTIME.into()).or_insert_with(|| programs.join("brig-runtime"));
        if let Some(runc) = in_path("runc") {
            runtimes.entry("runc".into()).or_insert(runc);
        }
        for text in &flags.add_runtimes {
            let (name, path) = text
                .split_once('=')
                .ok_or_else(|| invalid(format!("--add-runtime {text}: want NAME=PATH")))?;
            runtimes.insert(name.into(), path.into());
        }
        let default_runtime =
            flags.default_runtime.or(file.default_runtime).unwrap_or_else(|| DEFAULT_RUNTIME.into());
        if !runtimes.contains_key(&default_runtime) {
            return Err(invalid(format!("--default-runtime {default_runtime}: no runtime has this name")));
        }
        let log_opts = pairs("--log-opt", file.log_opts, &flags.log_opts)?;
        let log_driver = flags.log_driver.or(file.log_driver).unwrap_or_else(|| "json-file".into());
        engine::check_log_driver(&log_driver, &log_opts)
            .map_err(|e| errors::Report::new(Kind::InvalidArgument, errors::chain(&e)))?;
        let cgroup_parent = flags.cgroup_parent.or(file.cgroup_parent).unwrap_or_else(|| "/brig".into());
        if cgroup_parent.split('/').any(|p| p == "..") {
            return Err(invalid(format!("--cgroup-parent {cgroup_parent}: must not hold ..")));
        }
        let labels: Vec<String> = file.labels.into_iter().chain(flags.labels).collect();
        if let Some(bad) = labels.iter().find(|l| l.split_once('=').is_none_or(|(key, _)| key.is_empty())) {
            return Err(invalid(format!("--label {bad}: want KEY=VALUE")));
        }
        let mut hosts = if flags.hosts.is_empty() { file.hosts } else { flags.hosts };
        if hosts.is_empty() {
            hosts.push(format!("unix://{}", exec_root.join("brig.sock").display()));
        }
        let mut cdi_spec_dirs =
            if flags.cdi_spec_dirs.is_empty() { file.cdi_spec_dirs } else { flags.cdi_spec_dirs };
        if cdi_spec_dirs.is_empty() {
            cdi_spec_dirs = engine::CDI_SPEC_DIRS.map(PathBuf::from).to_vec();
        }
        let mut certs_dirs = if flags.certs_dirs.is_empty() { file.certs_dirs } else { flags.certs_dirs };
        if certs_dirs.is_empty() {
            certs_dirs = CERTS_DIRS.map(PathBuf::from).to_vec();
        }
        let registry = registry_client::Config {
            insecure: flags.insecure_registries.into_iter().chain(file.insecure_registries).collect(),
            mirrors: flags.registry_mirrors.into_iter().chain(file.registry_mirrors).collect(),
            certs_dirs,
            proxy: registry_client::ProxyConfig {
                http: setting(flags.http_proxy, file.http_proxy, "HTTP_PROXY"),
                https: setting(flags.https_proxy, file.https_proxy, "HTTPS_PROXY"),
                no_proxy: setting(flags.no_proxy, file.no_proxy, "NO_PROXY"),
            },
            ..registry_client::Config::default()
        };
        let debug = flags.debug || file.debug;
        let verifies = flags.tlsverify || file.tlsverify;
        let tls = Tls {
            is_on: verifies || flags.tls || file.tls,
            verifies,
            ca: flags.tlscacert.or(file.tlscacert).unwrap_or_else(|| "/etc/brig/ca.pem".into()),
            certificate: flags.tlscert.or(file.tlscert).unwrap_or_else(|| "/etc/brig/cert.pem".into()),
            key: flags.tlskey.or(file.tlskey).unwrap_or_else(|| "/etc/brig/key.pem".into()),
        };
        let cluster = crate::cluster::parse(
            flags.cluster_store.or(file.cluster_store),
            &pairs("--cluster-store-opt", file.cluster_store_opts, &flags.cluster_store_opts)?,
            flags.cluster_advertise.or(file.cluster_advertise),
            flags.cluster_ttl.or(file.cluster_ttl),
        )?;
        Ok(Settings {
            tls,
            metrics_addr: flags.metrics_addr.or(file.metrics_addr),
            insecure_tcp: flags.insecure_tcp || file.insecure_tcp,
            hosts,
            group: flags.group.or(file.group),
            pidfile: flags.pidfile.or(file.pidfile).unwrap_or_else(|| exec_root.join("brigd.pid")),
            debug,
            workers: std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8),
            engine: engine::Config {
                data_root,
                exec_root,
                storage_driver,
                cgroup_parent,
                bridge: flags.bridge.or(file.bridge).unwrap_or_else(|| "brig0".into()),
                mtu: flags.mtu.or(file.mtu).unwrap_or(1500),
                cluster,
                shim: programs.join("brig-shim"),
                name_server: programs.join("brig-dns"),
                runtimes,
                default_runtime,
                log_driver,
                log_opts,
                cdi_spec_dirs,
                default_init: flags.init || file.init,
                open_files: None,
                userns_remap: flags.userns_remap.or(file.userns_remap),
                subid_dir: flags.subid_dir.unwrap_or_else(|| "/etc".into()),
                stop_timeout_s: flags.stop_timeout.or(file.stop_timeout).unwrap_or(10),
                registry,
                debug,
                labels,
                experimental: flags.experimental || file.experimental,
            },
        })
    }

    /// The first descriptor that nobody meant us to have: after systemd's sockets, when there are any.
    pub(crate) fn first_free_descriptor(&self) -> u32 {
        3 + crate::listen::systemd_sockets()
    }
}

fn read(path: &Path) -> Result<File, Report> {
    let fail = |e: String| Report::new(Kind::InvalidArgument, format!("read {}: {e}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
    toml::from_str(&text).map_err(|e| fail(e.to_string()))
}

/// A flag, a key of the file, or a variable of the environment, in capitals or not.
fn setting(flag: Option<String>, file: Option<String>, variable: &str) -> String {
    let read = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    flag.or(file).or_else(|| read(variable)).or_else(|| read(&variable.to_lowercase())).unwrap_or_default()
}

fn absolute(path: PathBuf) -> Result<PathBuf, Report> {
    std::path::absolute(&path)
        .map_err(|e| Report::new(Kind::InvalidArgument, format!("{}: {e}", path.display())))
}

/// Our programs lie side by side.
fn own_directory() -> Result<PathBuf, Report> {
    let fail = |e: String| Report::new(Kind::Internal, format!("find our own program: {e}"));
    let exe = std::env::current_exe().map_err(|e| fail(e.to_string()))?;
    exe.parent().map(Path::to_path_buf).ok_or_else(|| fail("it has no directory".into()))
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|d| d.join(name)).find(|p| p.is_file())
}

/// What the file says, and then each `KEY=VALUE` of the flags.
fn pairs(
    flag: &str,
    mut pairs: BTreeMap<String, String>,
    flags: &[String],
) -> Result<BTreeMap<String, String>, errors::Report> {
    for text in flags {
        let (key, value) = text.split_once('=').ok_or_else(|| {
            errors::Report::new(Kind::InvalidArgument, format!("{flag} {text}: want KEY=VALUE"))
        })?;
        pairs.insert(key.into(), value.into());
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(toml::from_str::<File>("debug = true\ndata-root = \"/x\"").is_ok());
        assert!(toml::from_str::<File>("data_root = \"/x\"").is_err());
    }

    #[test]
    fn flags_win_over_defaults() {
        let flags = Flags::parse_from([
            "brigd",
            "--data-root",
            "/d",
            "--exec-root",
            "/e",
            "--config-file",
            "/dev/null",
            "--add-runtime",
            "x=/x",
            "--default-runtime",
            "x",
        ]);
        let settings = Settings::resolve(flags).unwrap();
        assert_eq!(settings.hosts, ["unix:///e/brig.sock"]);
        assert_eq!(settings.pidfile, PathBuf::from("/e/brigd.pid"));
        assert_eq!(settings.engine.default_runtime, "x");
    }
}
