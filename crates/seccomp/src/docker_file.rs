//! Docker's own format of a seccomp profile, as files of users have it: the runtime's document, and rules that hold only
//! for some architectures, capabilities and kernels. Here these are decided and what is left is the runtime's document.
//!
//! Format: moby, `profiles/seccomp`.

use crate::architecture::NATIVE_NAMES;
use oci::runtime::{Seccomp, SyscallArg, SyscallRule};
use serde::Deserialize;

/// Longest profile; Docker's own has 16 KiB.
const MAX_PROFILE: usize = 1 << 20;

/// Why a file is no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Not JSON, or of another shape.
    #[error("Decoding seccomp profile failed: {0}")]
    Json(String),
    /// Two fields that say the same.
    #[error("both '{0}' and '{1}' are specified in the seccomp profile, use either '{0}' or '{1}'")]
    Both(&'static str, &'static str),
    /// A kernel's version is two numbers.
    #[error("invalid kernel version {0:?} in the seccomp profile")]
    Kernel(String),
    /// Larger than any real one.
    #[error("the seccomp profile is longer than 1 MiB")]
    TooLong,
    /// The runtime could not make a filter of it.
    #[error("seccomp profile")]
    Rules(#[source] crate::Error),
}

impl errors::HasKind for ProfileError {
    fn kind(&self) -> errors::Kind {
        errors::Kind::InvalidArgument
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    listener_path: Option<String>,
    #[serde(default)]
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    name: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: String,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<SyscallArg>>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// The runtime's document for a profile in Docker's format, for a container with these capabilities (`CAP_...`) on a
/// kernel of this version.
///
/// # Errors
///
/// [`ProfileError`]; the document is one that [`crate::compile`] takes.
pub fn docker_file(text: &str, capabilities: &[String], kernel: (u32, u32)) -> Result<Seccomp, ProfileError> {
    if text.len() > MAX_PROFILE {
        return Err(ProfileError::TooLong);
    }
    let file: File = serde_json::from_str(text).map_err(|e| ProfileError::Json(e.to_string()))?;
    let listed = file.architectures.unwrap_or_default();
    let map = file.arch_map.unwrap_or_default();
    if !listed.is_empty() && !map.is_empty() {
        return Err(ProfileError::Both("architectures", "archMap"));
    }
    let mut architectures = listed;
    for entry in map.into_iter().filter(|m| m.architecture == NATIVE_NAMES[0]) {
        architectures.push(entry.architecture);
        architectures.extend(entry.sub_architectures.unwrap_or_default());
    }
    let mut syscalls = Vec::new();
    for rule in file.syscalls.unwrap_or_default() {
        if !holds(&rule, capabilities, kernel)? {
            continue;
        }
        let mut names = rule.names.unwrap_or_default();
        if !rule.name.is_empty() {
            if !names.is_empty() {
                return Err(ProfileError::Both("name", "names"));
            }
            names.push(rule.name);
        }
        let args = rule.args.unwrap_or_default();
        syscalls.push(SyscallRule { names, action: rule.action, errno_ret: rule.errno_ret, args });
    }
    let profile = Seccomp {
        default_action: file.default_action,
        default_errno_ret: file.default_errno_ret,
        architectures,
        flags: file.flags,
        listener_path: file.listener_path.filter(|p| !p.is_empty()),
        listener_metadata: file.listener_metadata.filter(|m| !m.is_empty()),
        syscalls,
    };
    // A profile that no filter can be made of is refused while someone can still be told.
    crate::compile(&profile).map_err(ProfileError::Rules)?;
    Ok(profile)
}

/// Go's name of the architecture, by which rules are told apart.
const GO_ARCHITECTURE: &str = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };

fn holds(rule: &Rule, capabilities: &[String], kernel: (u32, u32)) -> Result<bool, ProfileError> {
    let nothing = Filter::default();
    let (includes, excludes) =
        (rule.includes.as_ref().unwrap_or(&nothing), rule.excludes.as_ref().unwrap_or(&nothing));
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let at_least = |version: &Option<String>| match version.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => {
            parse_kernel(text).map(|min| Some(kernel >= min)).ok_or_else(|| ProfileError::Kernel(text.into()))
        }
    };
    let (needed, wanted) = (list(&includes.arches), list(&includes.caps));
    Ok(!list(&excludes.arches).iter().any(|a| a == GO_ARCHITECTURE)
        && !list(&excludes.caps).iter().any(|c| capabilities.contains(c))
        && at_least(&excludes.min_kernel)? != Some(true)
        && (needed.is_empty() || needed.iter().any(|a| a == GO_ARCHITECTURE))
        && wanted.iter().all(|c| capabilities.contains(c))
        && at_least(&includes.min_kernel)? != Some(false))
}

fn parse_kernel(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str, capabilities: &[&str], kernel: (u32, u32)) -> Vec<String> {
        let own: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
        let profile = docker_file(text, &own, kernel).unwrap();
        profile.syscalls.into_iter().flat_map(|rule| rule.names).collect()
    }

    #[test]
    fn rules_hold_by_capability_kernel_and_architecture() {
        let text = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,
            "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]},
                       {"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_ARM"]},
                       {"architecture":"SCMP_ARCH_S390X","subArchitectures":null}],
            "syscalls":[
              {"names":["read"],"action":"SCMP_ACT_ALLOW","args":null,"includes":{},"excludes":{}},
              {"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
              {"names":["umount2"],"action":"SCMP_ACT_ERRNO","excludes":{"caps":["CAP_SYS_ADMIN"]}},
              {"names":["ptrace"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}},
              {"names":["sync"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["s390x"]}},
              {"name":"write","action":"SCMP_ACT_ALLOW"}]}"#;
        assert_eq!(names(text, &[], (6, 1)), ["read", "umount2", "ptrace", "write"]);
        assert_eq!(names(text, &["CAP_SYS_ADMIN"], (4, 7)), ["read", "mount", "write"]);
        let profile = docker_file(text, &[], (6, 1)).unwrap();
        assert_eq!(profile.architectures.len(), 2);
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, words: &str| {
            let message = docker_file(text, &[], (6, 1)).unwrap_err().to_string();
            assert!(message.contains(words), "{text}: {message}");
        };
        check("x", "Decoding seccomp profile failed");
        check("{}", "defaultAction");
        check(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"x"}]}"#,
            "both 'architectures' and 'archMap'",
        );
        check(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_ALLOW"}]}"#,
            "both 'name' and 'names'",
        );
        check(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","action":"SCMP_ACT_ALLOW","includes":{"minKernel":"x"}}]}"#,
            "invalid kernel version",
        );
        check(r#"{"defaultAction":"SCMP_ACT_DANCE"}"#, "seccomp profile");
    }
}
