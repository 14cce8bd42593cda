//! Capabilities and `--security-opt`.

use crate::error::Error;
use crate::model::HostConfig;
use crate::modes;
use oci::runtime::ALL_CAPABILITIES;

/// Docker's default capabilities, without `CAP_`.
pub const DEFAULT_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The bounding set, names with `CAP_`.
pub(crate) fn capabilities(host: &HostConfig, available: &[String]) -> Result<Vec<String>, Error> {
    let normal = |field: &str, name: &String| -> Result<String, Error> {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if bare == "ALL" || ALL_CAPABILITIES.contains(&bare) {
            return Ok(format!("CAP_{bare}"));
        }
        Err(Error::invalid(format!("invalid {field}: unknown capability: \"CAP_{bare}\"")))
    };
    let add = host.cap_add.iter().map(|name| normal("CapAdd", name)).collect::<Result<Vec<_>, _>>()?;
    let drop = host.cap_drop.iter().map(|name| normal("CapDrop", name)).collect::<Result<Vec<_>, _>>()?;
    if host.privileged {
        return Ok(available.to_vec());
    }
    let all = |list: &[String]| list.iter().any(|c| c == "CAP_ALL");
    let mut set: Vec<String> = if all(&add) {
        available.to_vec()
    } else if all(&drop) {
        Vec::new()
    } else {
        DEFAULT_CAPABILITIES.iter().map(|c| format!("CAP_{c}")).collect()
    };
    if !all(&drop) {
        set.retain(|c| !drop.contains(c));
    }
    for name in add.into_iter().filter(|c| c != "CAP_ALL") {
        if !set.contains(&name) {
            set.push(name);
        }
    }
    // What the daemon itself lacks it cannot hand on; the default set shrinks with it instead of failing.
    let asked = |c: &String| host.cap_add.iter().filter_map(|n| normal("CapAdd", n).ok()).any(|n| n == *c);
    set.retain(|c| available.contains(c) || asked(c));
    Ok(set)
}

/// Which calls to the kernel are let through.
#[derive(Debug, Default)]
enum Seccomp {
    #[default]
    Builtin,
    Unconfined,
    /// The text of a profile in Docker's format.
    Own(String),
}

/// `--security-opt`, read.
#[derive(Debug, Default)]
pub(crate) struct Security {
    pub(super) no_new_privileges: bool,
    seccomp: Seccomp,
    pub(super) systempaths_unconfined: bool,
    pub(super) apparmor: Option<String>,
}

impl Security {
    /// Reads the options; one that cannot be honoured is an error, never ignored (T-LABEL-1).
    pub(crate) fn parse(host: &HostConfig) -> Result<Security, Error> {
        let mut security = Security::default();
        for option in &host.security_opt {
            let (key, value) = match option.split_once(['=', ':']) {
                Some((key, value)) => (key, value),
                None => (option.as_str(), ""),
            };
            match (key, value) {
                ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
                ("no-new-privileges", "false") => security.no_new_privileges = false,
                ("seccomp", "unconfined") => security.seccomp = Seccomp::Unconfined,
                ("seccomp", "builtin") => security.seccomp = Seccomp::Builtin,
                ("seccomp", text) => security.seccomp = Seccomp::Own(text.into()),
                ("systempaths", "unconfined") => security.systempaths_unconfined = true,
                ("apparmor", "unconfined") | ("label", "disable") => {}
                ("apparmor", profile) if !profile.is_empty() && !modes::has_apparmor() => {
                    return Err(Error::invalid(format!(
                        "AppArmor profile {profile:?}: the kernel of this host does not enforce AppArmor"
                    )));
                }
                ("apparmor", profile) if !profile.is_empty() => security.apparmor = Some(profile.into()),
                ("label", _) => return Err(Error::unsupported("an SELinux label")),
                _ => return Err(Error::invalid(format!("invalid --security-opt 2: {option:?}"))),
            }
        }
        Ok(security)
    }

    /// The profile for a container with these capabilities; None lets everything through.
    pub(crate) fn seccomp(&self, capabilities: &[String]) -> Result<Option<oci::runtime::Seccomp>, Error> {
        match &self.seccomp {
            Seccomp::Unconfined => Ok(None),
            Seccomp::Builtin => Ok(Some(seccomp::docker_default(capabilities))),
            Seccomp::Own(text) => seccomp::docker_file(text, capabilities, kernel())
                .map(Some)
                .map_err(|e| Error::invalid(errors::chain(&e))),
        }
    }
}

/// The first two numbers of the kernel's version.
fn kernel() -> (u32, u32) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
