//! Why a network operation failed.

use crate::Subnet;
use errors::Kind;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

/// Why a network operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not `address/n`.
    #[error("{text:?} is not a network in CIDR form")]
    InvalidNet { text: String },
    /// Not a name the kernel and the firewall take for an interface.
    #[error("{name:?} is not an interface name")]
    InvalidInterface { name: String },
    /// An owner that does not fit an alias.
    #[error("{owner:?} cannot own an interface: 1 to 200 letters, digits, '-', '_', '.', ':'")]
    InvalidOwner { owner: String },
    /// The gateway, or a requested address, is outside the network, or is its first or last address.
    #[error("address {address} cannot be used in {subnet}")]
    AddressOutside { address: IpAddr, subnet: Subnet },
    /// The address asked for is in use.
    #[error("address {address} is in use")]
    AddressTaken { address: IpAddr },
    /// Every address of the network is in use.
    #[error("no address is left in {subnet}")]
    PoolExhausted { subnet: Subnet },
    /// Every default subnet overlaps something.
    #[error("every default subnet overlaps an address or a route of this host, or another network")]
    NoSubnet,
    /// A value would break out of its line in a file.
    #[error("{what} {value:?} cannot be written to a configuration file")]
    InvalidText { what: &'static str, value: String },
    /// An interface of this name is not ours, or is another network's.
    #[error("interface {name} exists and belongs to {owner}")]
    InterfaceTaken { name: String, owner: String },
    /// No interface has this name.
    #[error("interface {name} not found")]
    InterfaceNotFound { name: String },
    /// The kernel was built without a kind of interfaces.
    #[error("this kernel ({release}) has no {kind} interfaces (CONFIG_{})", kind.to_uppercase(), release = release())]
    NotInKernel { kind: &'static str },
    /// The kernel refused a change or a question about interfaces, addresses or routes.
    #[error("{operation}")]
    Netlink { operation: String, source: io::Error },
    /// The kernel refused a change of the firewall table.
    #[error("firewall: {operation}")]
    Firewall { operation: String, source: io::Error },
    /// A kernel setting could not be read or written.
    #[error("set {path:?} to {value:?}")]
    Sysctl { path: PathBuf, value: String, source: io::Error },
    /// The file or the namespace of a sandbox could not be made, entered or removed.
    #[error("{operation} sandbox {path:?}")]
    Sandbox { operation: &'static str, path: PathBuf, source: io::Error },
    /// A port of the host is in use, by a program or by another container.
    #[error("port {address}:{port}/{protocol} is in use")]
    PortTaken { address: IpAddr, port: u16, protocol: &'static str },
    /// A port of the host could not be reserved for another reason.
    #[error("bind {address}:{port}/{protocol}")]
    Bind { address: IpAddr, port: u16, protocol: &'static str, source: io::Error },
}

fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

impl errors::HasKind for Error {
    fn kind(&self) -> Kind {
        match self {
            Error::InvalidNet { .. }
            | Error::InvalidInterface { .. }
            | Error::InvalidOwner { .. }
            | Error::AddressOutside { .. }
            | Error::InvalidText { .. } => Kind::InvalidArgument,
            Error::AddressTaken { .. } | Error::InterfaceTaken { .. } | Error::PortTaken { .. } => {
                Kind::AlreadyExists
            }
            Error::NotInKernel { .. } => Kind::Unsupported,
            Error::PoolExhausted { .. } | Error::NoSubnet => Kind::Exhausted,
            Error::InterfaceNotFound { .. } => Kind::NotFound,
            Error::Netlink { source, .. }
            | Error::Firewall { source, .. }
            | Error::Sysctl { source, .. }
            | Error::Sandbox { source, .. }
            | Error::Bind { source, .. } => errors::io_kind(source),
        }
    }
}
