//! Where the daemon listens: `--host`, then `--context`, then `BRIG_HOST`, `DOCKER_HOST`, `DOCKER_CONTEXT`, then the context in
//! use, then the default socket.

use crate::config::Config;
use crate::contexts::{DEFAULT, Store};
use crate::error::{Error, Result};
use crate::{ssh, tls};
use std::fmt;
use std::path::PathBuf;

/// The socket of the rootful daemon. Design, section 3.
pub(crate) const DEFAULT_SOCKET: &str = "/run/brig/brig.sock";

/// A daemon's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// `unix://PATH`.
    Unix(PathBuf),
    /// `tcp://HOST:PORT`, without TLS.
    Tcp(String),
    /// `tcp://HOST:PORT`, with TLS.
    Tls(String, tls::Files),
    /// `ssh://...`: the daemon of a machine that one can log in to.
    Ssh(ssh::Address),
}

/// An address, and whether somebody named it. A daemon is started only on an address that nobody named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) endpoint: Endpoint,
    pub(crate) explicit: bool,
}

/// What the command line says about the daemon, before the command.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Flags {
    /// Daemon socket to connect to (unix://PATH, tcp://HOST:PORT or ssh://HOST)
    #[arg(short = 'H', long, value_name = "list")]
    pub(crate) host: Option<String>,
    /// Name of the context to use to connect to the daemon
    #[arg(short, long, value_name = "string")]
    pub(crate) context: Option<String>,
    /// Use TLS
    #[arg(long)]
    tls: bool,
    /// Use TLS and verify the daemon's certificate
    #[arg(long)]
    tlsverify: bool,
    /// Trust certs signed only by this CA
    #[arg(long, value_name = "string")]
    tlscacert: Option<PathBuf>,
    /// Path to TLS certificate file
    #[arg(long, value_name = "string")]
    tlscert: Option<PathBuf>,
    /// Path to TLS key file
    #[arg(long, value_name = "string")]
    tlskey: Option<PathBuf>,
}

/// What the environment says about the daemon's address.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    pub(crate) brig_host: Option<String>,
    pub(crate) docker_host: Option<String>,
    pub(crate) docker_context: Option<String>,
    pub(crate) docker_tls: bool,
    pub(crate) docker_tls_verify: bool,
    /// Where certificates are, `DOCKER_CERT_PATH`.
    pub(crate) cert_path: Option<PathBuf>,
    /// The socket used when nobody names one.
    pub(crate) default_socket: PathBuf,
}

/// What was chosen.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    pub(crate) host: Host,
    /// The context's name.
    pub(crate) context: String,
    /// What the context `default` means.
    pub(crate) default: Endpoint,
}

impl Environment {
    /// Reads this process's environment.
    pub(crate) fn read() -> Environment {
        let get = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let runtime = get("XDG_RUNTIME_DIR").filter(|_| !rustix::process::geteuid().is_root());
        // A user who may reach the rootful daemon (group brig or docker) gets that one.
        let system = PathBuf::from(DEFAULT_SOCKET);
        let default_socket = match runtime {
            Some(dir) if rustix::fs::access(&system, rustix::fs::Access::WRITE_OK).is_err() => {
                PathBuf::from(dir).join("brig/brig.sock")
            }
            _ => system,
        };
        Environment {
            brig_host: get("BRIG_HOST"),
            docker_host: get("DOCKER_HOST"),
            docker_context: get("DOCKER_CONTEXT"),
            docker_tls: get("DOCKER_TLS").is_some(),
            docker_tls_verify: get("DOCKER_TLS_VERIFY").is_some(),
            cert_path: get("DOCKER_CERT_PATH").map(PathBuf::from),
            default_socket,
        }
    }
}

/// Chooses the daemon's address.
///
/// # Errors
///
/// [`Error::Unsupported`] for schemes that docker has elsewhere; [`Error::Usage`] for what is no address and for contexts that are
/// not there.
pub(crate) fn choose(flags: &Flags, environment: &Environment, config: &Config) -> Result<Choice> {
    if flags.host.is_some() && flags.context.is_some() {
        let text = "conflicting options: cannot specify both --host and --context";
        return Err(Error::Usage(text.into()));
    }
    let named = environment.brig_host.as_deref().or(environment.docker_host.as_deref());
    let host = default_host(flags, environment, config, flags.host.as_deref().or(named))?;
    let default = host.endpoint.clone();
    let (name, is_asked) =
        match (&flags.context, flags.host.as_deref().or(named), &environment.docker_context) {
            (Some(context), ..) => (context.clone(), true),
            (None, Some(_), _) => (DEFAULT.to_string(), true),
            (None, None, Some(context)) => (context.clone(), true),
            (None, None, None) => (config.text("currentContext").unwrap_or_else(|| DEFAULT.into()), false),
        };
    if name == DEFAULT {
        return Ok(Choice { host, context: name, default });
    }
    let store = Store::beside(config.path());
    let endpoint = match store.get(&name) {
        Ok(stored) => store.endpoint(&stored)?,
        Err(Error::Missing(_)) if !is_asked => {
            return Err(Error::Usage(format!(
                "Current context {name:?} is not found on the file system, please check your config file at {}",
                config.path().display()
            )));
        }
        Err(error) => return Err(error),
    };
    Ok(Choice { host: Host { endpoint, explicit: true }, context: name, default })
}

/// The daemon without contexts.
fn default_host(
    flags: &Flags,
    environment: &Environment,
    config: &Config,
    named: Option<&str>,
) -> Result<Host> {
    let Some(text) = named else {
        return Ok(Host { endpoint: Endpoint::Unix(environment.default_socket.clone()), explicit: false });
    };
    let verifies = flags.tlsverify || environment.docker_tls_verify;
    let files = [&flags.tlscacert, &flags.tlscert, &flags.tlskey];
    let with_tls = verifies || flags.tls || environment.docker_tls || files.iter().any(|f| f.is_some());
    let endpoint = match Endpoint::parse(text)? {
        Endpoint::Tcp(address) if with_tls => {
            // The port without TLS is no port of a daemon with it.
            let address = if has_port(text) { address } else { address.replace(":2375", ":2376") };
            let directory = match &environment.cert_path {
                Some(path) => path.clone(),
                None => config.path().parent().map(PathBuf::from).unwrap_or_default(),
            };
            let file =
                |flag: &Option<PathBuf>, name: &str| flag.clone().unwrap_or_else(|| directory.join(name));
            let identity = (file(&flags.tlscert, "cert.pem"), file(&flags.tlskey, "key.pem"));
            // What nobody named may be absent.
            let is_named = flags.tlscert.is_some() || flags.tlskey.is_some();
            let identity = (is_named || identity.0.is_file() || identity.1.is_file()).then_some(identity);
            Endpoint::Tls(
                address,
                tls::Files { ca: Some(file(&flags.tlscacert, "ca.pem")), identity, verifies },
            )
        }
        other => other,
    };
    Ok(Host { endpoint, explicit: true })
}

fn has_port(text: &str) -> bool {
    let address = text.split_once("://").map_or(text, |(_, rest)| rest).trim_end_matches('/');
    address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

impl Endpoint {
    /// Reads an address. TCP is without TLS here: that is said elsewhere.
    pub(crate) fn parse(text: &str) -> Result<Endpoint> {
        match text.split_once("://") {
            Some(("unix", "")) => Ok(Endpoint::Unix(PathBuf::from(DEFAULT_SOCKET))),
            Some(("unix", path)) => Ok(Endpoint::Unix(PathBuf::from(path))),
            Some(("tcp" | "http", rest)) => {
                let rest = rest.trim_end_matches('/');
                if rest.contains('/') {
                    return Err(Error::Usage(format!("unable to parse docker host `{text}`")));
                }
                let host = if rest.is_empty() { "localhost" } else { rest };
                Ok(Endpoint::Tcp(if has_port(text) { host.to_string() } else { format!("{host}:2375") }))
            }
            Some(("ssh", rest)) => ssh::Address::parse(rest).map(Endpoint::Ssh),
            Some((scheme, _)) => Err(Error::Unsupported(format!("{text}: {scheme}:// is not supported yet"))),
            None => Err(Error::Usage(format!("unable to parse docker host `{text}`"))),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix://{}", path.display()),
            Endpoint::Tcp(address) | Endpoint::Tls(address, _) => write!(f, "tcp://{address}"),
            Endpoint::Ssh(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(brig: Option<&str>, docker: Option<&str>) -> Environment {
        Environment {
            brig_host: brig.map(str::to_string),
            docker_host: docker.map(str::to_string),
            default_socket: "/d".into(),
            ..Environment::default()
        }
    }

    fn of(flag: Option<&str>, environment: &Environment) -> Result<Host> {
        let flags = Flags { host: flag.map(str::to_string), ..Flags::default() };
        choose(&flags, environment, &Config::default()).map(|choice| choice.host)
    }

    #[test]
    fn the_flag_wins_then_brig_host_then_docker_host() {
        let check = |flag, brig, docker, expected: &str, explicit| {
            let host = of(flag, &environment(brig, docker)).unwrap();
            assert_eq!((host.endpoint.to_string().as_str(), host.explicit), (expected, explicit));
        };
        check(Some("unix:///a"), Some("unix:///b"), Some("unix:///c"), "unix:///a", true);
        check(None, Some("unix:///b"), Some("unix:///c"), "unix:///b", true);
        check(None, None, Some("tcp://h:1"), "tcp://h:1", true);
        check(None, None, Some("tcp://h"), "tcp://h:2375", true);
        check(None, None, Some("ssh://me@h"), "ssh://me@h", true);
        check(None, None, None, "unix:///d", false);
    }

    #[test]
    fn says_what_it_cannot_do() {
        for text in ["fd://h", "https://h", "npipe://x"] {
            let error = of(Some(text), &environment(None, None)).unwrap_err();
            assert!(error.to_string().ends_with("is not supported yet"), "{error}");
        }
        assert!(of(Some("nothing"), &environment(None, None)).is_err());
    }

    #[test]
    fn tls_by_environment_and_flags() {
        let verify = Environment {
            docker_tls_verify: true,
            cert_path: Some("/certs".into()),
            ..environment(None, Some("tcp://h"))
        };
        let Endpoint::Tls(address, files) = of(None, &verify).unwrap().endpoint else {
            panic!("TLS is asked for")
        };
        assert_eq!((address.as_str(), files.verifies), ("h:2376", true));
        assert_eq!((files.ca, files.identity), (Some("/certs/ca.pem".into()), None));
        let flags = Flags { tls: true, tlscert: Some("c".into()), ..Flags::default() };
        let host = choose(&flags, &environment(None, Some("tcp://h:1")), &Config::default()).unwrap().host;
        let Endpoint::Tls(address, files) = host.endpoint else { panic!("TLS is asked for") };
        assert_eq!((address.as_str(), files.verifies, files.identity.unwrap().0), ("h:1", false, "c".into()));
        // A local socket has nothing to encrypt.
        let local = Environment { docker_tls_verify: true, ..environment(None, Some("unix:///s")) };
        assert_eq!(of(None, &local).unwrap().endpoint, Endpoint::Unix("/s".into()));
    }

    #[test]
    fn host_and_context_contradict_each_other() {
        let flags = Flags { host: Some("unix:///a".into()), context: Some("b1".into()), ..Flags::default() };
        assert!(choose(&flags, &environment(None, None), &Config::default()).is_err());
        let flags = Flags { context: Some("nowhere".into()), ..Flags::default() };
        let error = choose(&flags, &environment(None, Some("unix:///c")), &Config::default()).unwrap_err();
        assert!(error.to_string().contains("context not found"), "{error}");
    }
}
