//! The seccomp agent: the process that answers the calls which a profile notifies of. It gets the listener, and who the
//! container is, over a Unix socket.
//!
//! Spec: runtime-spec config-linux.md, `listenerPath` and "The Container Process State".

use crate::Error;
use oci::runtime::{Seccomp, State};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io::{IoSlice, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

/// The container process state.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessState<'a> {
    oci_version: &'a str,
    fds: [&'a str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a str>,
    state: &'a State,
}

/// Refuses what could not be handed over.
pub(crate) fn check(profile: &Seccomp) -> Result<(), Error> {
    let path = profile.listener_path.as_deref().filter(|path| !path.is_empty());
    if path.is_none() && profile.listener_metadata.as_deref().is_some_and(|text| !text.is_empty()) {
        return Err(Error::invalid("linux.seccomp.listenerMetadata", "needs listenerPath"));
    }
    let notifies = profile.syscalls.iter().any(|rule| rule.action == "SCMP_ACT_NOTIFY");
    match path {
        None if notifies => {
            Err(Error::invalid("linux.seccomp.listenerPath", "is missing, and SCMP_ACT_NOTIFY is used"))
        }
        Some(path) if notifies && !path.starts_with('/') => {
            Err(Error::invalid("linux.seccomp.listenerPath", format!("{path:?} is not an absolute path")))
        }
        _ => Ok(()),
    }
}

/// Hands `listener` of process `pid` over, on a connection of its own.
pub(crate) fn hand_over(profile: &Seccomp, pid: i32, state: &State, listener: OwnedFd) -> Result<(), Error> {
    let path = profile.listener_path.as_deref().unwrap_or_default();
    let at = |what: &str| {
        let operation = format!("{what} seccomp agent at {path}");
        move |e: std::io::Error| Error::io(operation, e)
    };
    let address = SocketAddrUnix::new(path).map_err(|e| at("failed to connect with")(e.into()))?;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|e| at("make a socket for")(e.into()))?;
    rustix::net::connect(&socket, &address).map_err(|e| at("failed to connect with")(e.into()))?;
    let state = ProcessState {
        oci_version: oci::runtime::OCI_VERSION,
        fds: ["seccompFd"],
        pid,
        metadata: profile.listener_metadata.as_deref(),
        state,
    };
    let document = serde_json::to_vec(&state)
        .map_err(|e| Error::Document { path: "container process state".into(), source: e })?;
    // The descriptor goes with the first part, and what does not fit with it follows alone.
    let sent = crate::channel::send_parts(socket.as_fd(), &[IoSlice::new(&document)], Some(listener.as_fd()))
        .map_err(at("send to"))?;
    std::fs::File::from(socket).write_all(&document[sent..]).map_err(at("send to"))
}
