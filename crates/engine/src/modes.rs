//! Checks of a create request that concern what is shared with the host or with others, what this kernel has, and what
//! only another operating system has.

use crate::error::Error;
use crate::model::{Config, HostConfig};

/// Checks namespaces and what only other systems have.
pub(crate) fn check(config: &Config, host: &HostConfig) -> Result<(), Error> {
    let container = |mode: &str| mode.strip_prefix("container:").is_some_and(|name| !name.is_empty());
    let one_of = |kind: &str, mode: &str, known: &[&str]| match known.contains(&mode) || container(mode) {
        true => Ok(()),
        false => Err(Error::invalid(format!("invalid {kind} mode: {mode}"))),
    };
    one_of("IPC", &host.ipc_mode, &["", "none", "private", "shareable", "host"])?;
    one_of("PID", &host.pid_mode, &["", "host"])?;
    if host.network_mode == "container:" {
        let text = "Invalid network mode: invalid container format container:<name|id>";
        return Err(Error::invalid(text));
    }
    if !matches!(host.uts_mode.as_str(), "" | "host") {
        return Err(Error::invalid(format!("invalid UTS mode: {}", host.uts_mode)));
    }
    if !matches!(host.cgroupns_mode.as_str(), "" | "host" | "private") {
        return Err(Error::invalid(format!("invalid cgroup namespace mode: {}", host.cgroupns_mode)));
    }
    if host.uts_mode == "host" && !config.hostname.is_empty() {
        return Err(Error::invalid("conflicting options: hostname and the UTS mode"));
    }
    if !host.cgroup.is_empty() {
        return Err(Error::unsupported("the option Cgroup (CgroupParent and CgroupnsMode are)"));
    }
    let elsewhere = [
        (host.cpu_count != 0, "CpuCount"),
        (host.cpu_percent != 0, "CpuPercent"),
        (host.io_maximum_iops != 0, "IOMaximumIOps"),
        (host.io_maximum_bandwidth != 0, "IOMaximumBandwidth"),
        (!matches!(host.isolation.as_str(), "" | "default"), "Isolation"),
    ];
    match elsewhere.iter().find(|(asked, _)| *asked) {
        Some((_, name)) => {
            Err(Error::invalid(format!("invalid option: {name} is for Windows containers only")))
        }
        None => Ok(()),
    }
}

/// Takes out what this kernel cannot do and Docker lets pass, and says so.
pub(crate) fn discard(host: &mut HostConfig, is_cgroup_v2: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    if host.kernel_memory != 0 {
        host.kernel_memory = 0;
        warnings.push(
            "Your kernel does not support kernel memory limit capabilities. Limitation discarded.".into(),
        );
    }
    if is_cgroup_v2 && host.memory_swappiness.is_some_and(|n| n >= 0) {
        host.memory_swappiness = None;
        warnings.push(
            "Your kernel does not support memory swappiness capabilities, or the cgroup is not mounted. Memory \
             swappiness discarded."
                .into(),
        );
    }
    if is_cgroup_v2 && host.oom_kill_disable == Some(true) {
        host.oom_kill_disable = None;
        warnings.push("Your kernel does not support OomKillDisable. OomKillDisable discarded.".into());
    }
    if host.oom_kill_disable == Some(true) && host.memory == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system \
             running out of resources."
                .into(),
        );
    }
    warnings
}

/// Whether this kernel enforces AppArmor profiles.
pub(crate) fn has_apparmor() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        let check = |change: fn(&mut Config, &mut HostConfig), words: Option<&str>| {
            let (mut config, mut host) = (Config::default(), HostConfig::default());
            change(&mut config, &mut host);
            match (super::check(&config, &host), words) {
                (Ok(()), None) => {}
                (Err(e), Some(words)) => assert!(e.to_string().contains(words), "{e}"),
                (got, want) => panic!("{got:?} where {want:?}: {host:?}"),
            }
        };
        check(|_, h| h.ipc_mode = "none".into(), None);
        check(|_, h| h.ipc_mode = "container:x".into(), None);
        check(|_, h| h.pid_mode = "container:x".into(), None);
        check(|_, h| h.ipc_mode = "container:".into(), Some("invalid IPC mode"));
        check(|_, h| h.pid_mode = "private".into(), Some("invalid PID mode: private"));
        check(|_, h| h.uts_mode = "container:x".into(), Some("invalid UTS mode"));
        check(
            |c, h| {
                h.uts_mode = "host".into();
                c.hostname = "x".into();
            },
            Some("hostname and the UTS mode"),
        );
        check(|_, h| h.cpu_count = 2, Some("CpuCount"));
        check(|_, h| h.cgroup = "container:x".into(), Some("the option Cgroup"));
        check(|_, h| h.isolation = "hyperv".into(), Some("Isolation"));
    }

    #[test]
    fn what_a_kernel_lacks_is_discarded_aloud() {
        let mut host = HostConfig {
            kernel_memory: 5,
            oom_kill_disable: Some(true),
            memory_swappiness: Some(9),
            ..HostConfig::default()
        };
        assert_eq!(discard(&mut host.clone(), false).len(), 2);
        assert_eq!(discard(&mut host, true).len(), 3);
        assert_eq!((host.kernel_memory, host.oom_kill_disable, host.memory_swappiness), (0, None, None));
    }
}
