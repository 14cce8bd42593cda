//! Where the daemon listens: `--host`, then `BRIG_HOST`, then `DOCKER_HOST`, then the default socket.

use crate::error::{Error, Result};
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
}

/// An address, and whether somebody named it. A daemon is started only on an address that nobody named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) endpoint: Endpoint,
    pub(crate) explicit: bool,
}

/// What the environment says about the daemon's address.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    pub(crate) brig_host: Option<String>,
    pub(crate) docker_host: Option<String>,
    pub(crate) docker_tls_verify: Option<String>,
    /// The socket used when nobody names one.
    pub(crate) default_socket: PathBuf,
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
            docker_tls_verify: get("DOCKER_TLS_VERIFY"),
            default_socket,
        }
    }
}

/// Chooses the daemon's address.
///
/// # Errors
///
/// [`Error::Unsupported`] for TLS, `ssh://` and the like; [`Error::Usage`] for what is no address.
pub(crate) fn choose(flag: Option<&str>, environment: &Environment) -> Result<Host> {
    let named = flag.or(environment.brig_host.as_deref()).or(environment.docker_host.as_deref());
    let Some(text) = named else {
        return Ok(Host { endpoint: Endpoint::Unix(environment.default_socket.clone()), explicit: false });
    };
    let endpoint = parse(text)?;
    if matches!(endpoint, Endpoint::Tcp(_)) && environment.docker_tls_verify.is_some() {
        return Err(Error::Unsupported(format!("{text}: TLS is not supported yet; unset DOCKER_TLS_VERIFY")));
    }
    Ok(Host { endpoint, explicit: true })
}

fn parse(text: &str) -> Result<Endpoint> {
    let unsupported = |what: &str| Error::Unsupported(format!("{text}: {what} is not supported yet"));
    match text.split_once("://") {
        Some(("unix", "")) => Ok(Endpoint::Unix(PathBuf::from(DEFAULT_SOCKET))),
        Some(("unix", path)) => Ok(Endpoint::Unix(PathBuf::from(path))),
        Some(("tcp" | "http", rest)) => {
            let rest = rest.trim_end_matches('/');
            if rest.contains('/') {
                return Err(Error::Usage(format!("unable to parse docker host `{text}`")));
            }
            let host = if rest.is_empty() { "localhost" } else { rest };
            let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            Ok(Endpoint::Tcp(if has_port { host.to_string() } else { format!("{host}:2375") }))
        }
        Some(("https", _)) => Err(unsupported("TLS")),
        Some(("ssh", _)) => Err(unsupported("ssh://")),
        Some((scheme, _)) => Err(unsupported(&format!("{scheme}://"))),
        None => Err(Error::Usage(format!("unable to parse docker host `{text}`"))),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix://{}", path.display()),
            Endpoint::Tcp(address) => write!(f, "tcp://{address}"),
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
            docker_tls_verify: None,
            default_socket: "/d".into(),
        }
    }

    #[test]
    fn the_flag_wins_then_brig_host_then_docker_host() {
        let check = |flag, brig, docker, expected: &str, explicit| {
            let host = choose(flag, &environment(brig, docker)).unwrap();
            assert_eq!((host.endpoint.to_string().as_str(), host.explicit), (expected, explicit));
        };
        check(Some("unix:///a"), Some("unix:///b"), Some("unix:///c"), "unix:///a", true);
        check(None, Some("unix:///b"), Some("unix:///c"), "unix:///b", true);
        check(None, None, Some("tcp://h:1"), "tcp://h:1", true);
        check(None, None, Some("tcp://h"), "tcp://h:2375", true);
        check(None, None, None, "unix:///d", false);
    }

    #[test]
    fn says_what_it_cannot_do() {
        for text in ["ssh://h", "https://h", "npipe://x"] {
            let error = choose(Some(text), &environment(None, None)).unwrap_err();
            assert!(error.to_string().ends_with("is not supported yet"), "{error}");
        }
        assert!(choose(Some("nothing"), &environment(None, None)).is_err());
        let tls = Environment { docker_tls_verify: Some("1".into()), ..environment(None, Some("tcp://h")) };
        assert!(choose(None, &tls).unwrap_err().to_string().contains("TLS is not supported yet"));
    }
}
