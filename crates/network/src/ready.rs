//! Sandboxes made before anybody needs one: most of what an endpoint costs is a namespace and a pair of interfaces.
//!
//! Such a sandbox is held by descriptors and has no file yet. A process that dies lets go of them, and the kernel removes
//! namespace and pair: nothing is left that somebody would have to find.

use crate::endpoint::{self, ALIAS, EndpointConfig};
use crate::link::{self, failed, ifinfomsg, ifinfomsg_up};
use crate::netlink::{NLM_F_ACK, Request, Socket};
use crate::sandbox::{self, Sandbox};
use crate::{Result, name};
use std::os::fd::AsFd;
use std::path::Path;

/// What the container's end is called until somebody wants another name.
const INSIDE: &str = "eth0";
/// Owner of the host's end until it is somebody's.
const NOBODY: &str = "ready";

/// A sandbox without a file, and a pair of interfaces that is down, on no bridge, and has no address.
#[derive(Debug)]
pub struct ReadySandbox {
    sandbox: Sandbox,
    host_index: u32,
    index: u32,
}

impl ReadySandbox {
    /// Makes one. `host_interface`, the name of the pair's end on the host, must be new; it changes when the sandbox is used.
    ///
    /// Needs `CAP_SYS_ADMIN` and `CAP_NET_ADMIN`.
    ///
    /// # Errors
    ///
    /// [`Error::Sandbox`](crate::Error::Sandbox), [`Error::Netlink`](crate::Error::Netlink),
    /// [`Error::InvalidInterface`](crate::Error::InvalidInterface).
    pub fn make(host_interface: &str) -> Result<ReadySandbox> {
        name::check_interface(host_interface)?;
        let sandbox = sandbox::make_unnamed()?;
        let host = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
        let request = endpoint::pair(host_interface, |_| {}, INSIDE, |_| {}, sandbox.namespace.as_fd());
        let operation = || format!("create interface {host_interface}");
        host.transact(&request).map_err(|f| failed(operation(), f.source))?;
        // From here on the pair goes with the namespace, and that with its descriptors.
        let host_index = link::index_of(&host, host_interface)?;
        let index = link::index_of(&sandbox.route, INSIDE)?;
        let mut request = Request::default();
        request.message(link::RTM_SETLINK, NLM_F_ACK, &ifinfomsg(0, host_index), |r| {
            r.text(link::IFLA_IFALIAS, &format!("{ALIAS}{NOBODY}"));
        });
        let marked = request.len();
        endpoint::without_address(&mut request, host_index);
        match host.transact(&request) {
            Err(f) if f.message != marked => Err(failed(operation(), f.source)),
            _ => Ok(ReadySandbox { sandbox, host_index, index }),
        }
    }

    /// Binds the sandbox at `path` and makes the pair be as `endpoint` says: what [`create_sandbox`](crate::create_sandbox)
    /// and [`attach`](crate::attach) do. Nothing of it is left after a failure.
    ///
    /// # Errors
    ///
    /// As of those two.
    pub fn attach(self, path: &Path, endpoint: &EndpointConfig) -> Result<()> {
        endpoint::check(endpoint)?;
        let host = Socket::route().map_err(|source| failed("open a netlink socket", source))?;
        let bridge = link::index_of(&host, &endpoint.bridge)?;
        sandbox::bind(path, self.sandbox.namespace.as_fd())?;
        let attached = self.try_attach(&host, bridge, path, endpoint);
        if attached.is_err() {
            // The first error is the one to tell. The pair would go with the namespace, but on the kernel's own time, and
            // whoever tries again wants its name.
            sandbox::remove_sandbox(path).ok();
            link::delete_index(&host, self.host_index).ok();
            crate::unguard(&endpoint.host_interface).ok();
        }
        attached
    }

    fn try_attach(&self, host: &Socket, bridge: u32, path: &Path, endpoint: &EndpointConfig) -> Result<()> {
        let (interface, index) = (&endpoint.host_interface, self.host_index);
        let mut request = Request::default();
        request.message(link::RTM_SETLINK, NLM_F_ACK, &ifinfomsg(0, index), |r| {
            r.text(link::IFLA_IFNAME, interface);
            r.text(link::IFLA_IFALIAS, &format!("{ALIAS}{}", endpoint.owner));
            r.u32(link::IFLA_MTU, endpoint.mtu);
            r.u32(link::IFLA_MASTER, bridge);
        });
        endpoint::as_port(&mut request, index, endpoint.isolated);
        let set_up = |r: &mut Request| r.message(link::RTM_SETLINK, NLM_F_ACK, &ifinfomsg_up(index), |_| {});
        if !endpoint.guarded {
            set_up(&mut request);
        }
        let operation = || format!("set up interface {interface}");
        host.transact(&request).map_err(|f| failed(operation(), f.source))?;
        if endpoint.guarded {
            // Before the interface is up.
            crate::guard(endpoint)?;
            let mut request = Request::default();
            set_up(&mut request);
            host.transact(&request).map_err(|f| failed(operation(), f.source))?;
        }
        let inside = &endpoint.container_interface;
        let mut request = Request::default();
        request.message(link::RTM_SETLINK, NLM_F_ACK, &ifinfomsg(0, self.index), |r| {
            r.attribute(link::IFLA_ADDRESS, &endpoint.mac);
            r.u32(link::IFLA_MTU, endpoint.mtu);
            if inside != INSIDE {
                r.text(link::IFLA_IFNAME, inside);
            }
        });
        let route = &self.sandbox.route;
        route.transact(&request).map_err(|f| failed(format!("set up interface {inside}"), f.source))?;
        endpoint::finish_container_end(path, route, endpoint)?;
        endpoint::wait_for_carrier(host, index)?;
        endpoint::wait_for_carrier(host, bridge)
    }
}
