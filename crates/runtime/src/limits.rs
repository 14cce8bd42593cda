//! Names of resource limits and capabilities.

use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit};
use rustix::thread::CapabilitySet;
use std::collections::BTreeSet;

/// The kernel's resource called `RLIMIT_*`.
pub(crate) fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "RLIMIT_AS" => Resource::As,
        "RLIMIT_CORE" => Resource::Core,
        "RLIMIT_CPU" => Resource::Cpu,
        "RLIMIT_DATA" => Resource::Data,
        "RLIMIT_FSIZE" => Resource::Fsize,
        "RLIMIT_LOCKS" => Resource::Locks,
        "RLIMIT_MEMLOCK" => Resource::Memlock,
        "RLIMIT_MSGQUEUE" => Resource::Msgqueue,
        "RLIMIT_NICE" => Resource::Nice,
        "RLIMIT_NOFILE" => Resource::Nofile,
        "RLIMIT_NPROC" => Resource::Nproc,
        "RLIMIT_RSS" => Resource::Rss,
        "RLIMIT_RTPRIO" => Resource::Rtprio,
        "RLIMIT_RTTIME" => Resource::Rttime,
        "RLIMIT_SIGPENDING" => Resource::Sigpending,
        "RLIMIT_STACK" => Resource::Stack,
        _ => return None,
    })
}

/// Sets limits of a process, `None` for the caller. Where raising the hard limit is denied, the most that is allowed.
pub(crate) fn set(
    pid: Option<Pid>,
    limits: &[oci::runtime::Rlimit],
    mut warn: impl FnMut(String),
) -> Result<(), (String, Errno)> {
    for limit in limits {
        let what = || format!("set {} to {}:{}", limit.kind, limit.soft, limit.hard);
        let resource = resource(&limit.kind).ok_or_else(|| (what(), Errno::INVAL))?;
        let finite = |value: u64| (value != u64::MAX).then_some(value);
        let wanted = Rlimit { current: finite(limit.soft), maximum: finite(limit.hard) };
        match rustix::process::prlimit(pid, resource, wanted) {
            Ok(_) => {}
            Err(Errno::PERM) => {
                let most = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
                let hard = limit.hard.min(most);
                let clamped = Rlimit { current: finite(limit.soft.min(hard)), maximum: finite(hard) };
                rustix::process::prlimit(pid, resource, clamped).map_err(|e| (what(), e))?;
                warn(format!(
                    "{}: hard limit {} needs CAP_SYS_RESOURCE, set to {hard}",
                    limit.kind, limit.hard
                ));
            }
            Err(e) => return Err((what(), e)),
        }
    }
    Ok(())
}

/// The set named by `CAP_*` words. Names that are no capability go to `unknown`.
pub(crate) fn capability_set(names: &[String], unknown: &mut BTreeSet<String>) -> CapabilitySet {
    let mut bits = 0u64;
    for name in names {
        let number = name
            .strip_prefix("CAP_")
            .and_then(|n| oci::runtime::ALL_CAPABILITIES.iter().position(|c| *c == n));
        match number {
            Some(number) => bits |= 1 << number,
            // At most so much of it as fits a line.
            None => {
                unknown.insert(name.chars().take(40).collect());
            }
        }
    }
    CapabilitySet::from_bits_retain(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_the_kernels_numbers() {
        let mut unknown = BTreeSet::new();
        let mut set = |name: &str| capability_set(&[name.to_owned()], &mut unknown);
        assert_eq!(set("CAP_CHOWN"), CapabilitySet::CHOWN);
        assert_eq!(set("CAP_SYS_ADMIN"), CapabilitySet::SYS_ADMIN);
        assert_eq!(set("CAP_CHECKPOINT_RESTORE"), CapabilitySet::CHECKPOINT_RESTORE);
        assert!(set("CAP_NOPE").is_empty() && set("CHOWN").is_empty());
        assert_eq!(unknown.into_iter().collect::<Vec<_>>(), ["CAP_NOPE", "CHOWN"]);
    }
}
