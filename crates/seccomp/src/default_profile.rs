//! Docker's default profile.

/// Docker's default profile for a process with these (bounding) capabilities.
pub fn docker_default(_capabilities: &[String]) -> oci::runtime::Seccomp {
    oci::runtime::Seccomp { default_action: "SCMP_ACT_ALLOW".into(), ..Default::default() }
}
