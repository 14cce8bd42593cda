//! Namespaces: names, kernel bits, which are made and which are joined.

use crate::Error;
use crate::procfs::Proc;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::LinkNameSpaceType;
use std::os::fd::{AsFd, OwnedFd};

/// One kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    /// In `config.json`.
    pub(crate) name: &'static str,
    /// Below `/proc/PID/ns`.
    pub(crate) link: &'static str,
    /// `CLONE_NEW*`.
    pub(crate) bit: u32,
}

macro_rules! kinds {
    ($($constant:ident $name:literal $link:literal $bit:literal;)*) => {
        $(pub(crate) const $constant: Kind = Kind { name: $name, link: $link, bit: $bit };)*
        /// All, in an order in which they can be joined: those that give privilege over others first.
        pub(crate) const ALL: &[Kind] = &[$($constant),*];
    };
}

kinds! {
    USER "user" "user" 0x1000_0000;
    PID "pid" "pid" 0x2000_0000;
    NETWORK "network" "net" 0x4000_0000;
    IPC "ipc" "ipc" 0x0800_0000;
    UTS "uts" "uts" 0x0400_0000;
    CGROUP "cgroup" "cgroup" 0x0200_0000;
    TIME "time" "time" 0x0000_0080;
    MOUNT "mount" "mnt" 0x0002_0000;
}

/// What a spec asks for.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// Bits of those to make.
    pub(crate) new: u32,
    /// Those to join.
    pub(crate) joined: Vec<(Kind, OwnedFd)>,
}

impl Namespaces {
    /// Opens what is to be joined.
    pub(crate) fn open(list: &[oci::runtime::Namespace]) -> Result<Namespaces, Error> {
        let mut namespaces = Namespaces::default();
        let mut seen = 0;
        for entry in list {
            let kind = ALL.iter().find(|kind| kind.name == entry.kind).copied();
            let kind = kind.ok_or_else(|| {
                Error::invalid("linux.namespaces", format!("unknown type {:?}", entry.kind))
            })?;
            if seen & kind.bit != 0 {
                return Err(Error::invalid("linux.namespaces", format!("{} appears twice", kind.name)));
            }
            seen |= kind.bit;
            match entry.path.as_deref() {
                None | Some("") => namespaces.new |= kind.bit,
                Some(path) => namespaces.joined.push((kind, open(kind, path)?)),
            }
        }
        Ok(namespaces)
    }

    pub(crate) fn makes(&self, kind: Kind) -> bool {
        self.new & kind.bit != 0
    }

    pub(crate) fn joins(&self, kind: Kind) -> bool {
        self.joined.iter().any(|(joined, _)| *joined == kind)
    }

    /// Whether the container has one of its own: new, or joined and not the runtime's.
    pub(crate) fn owns(&self, kind: Kind, proc: &Proc) -> bool {
        let Some((_, joined)) = self.joined.iter().find(|(joined, _)| *joined == kind) else {
            return self.makes(kind);
        };
        let own = proc.namespace("self", kind.link).and_then(rustix::fs::fstat);
        match (own, rustix::fs::fstat(joined)) {
            (Ok(own), Ok(joined)) => own.st_ino != joined.st_ino,
            _ => false,
        }
    }
}

fn open(kind: Kind, path: &str) -> Result<OwnedFd, Error> {
    const NSFS_MAGIC: u64 = 0x6e73_6673;
    if !path.starts_with('/') {
        return Err(Error::invalid(
            "linux.namespaces",
            format!("path {path:?} of {} is not absolute", kind.name),
        ));
    }
    let at = |e| Error::io(format!("open {} namespace {path}", kind.name), e);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(at)?;
    if u64::try_from(rustix::fs::fstatfs(&fd).map_err(at)?.f_type).ok() != Some(NSFS_MAGIC) {
        return Err(at(Errno::INVAL));
    }
    Ok(fd)
}

/// Why the kernel refused `new` namespaces, if it is because it has no such ones.
pub(crate) fn missing(new: u32, proc: &Proc) -> Option<Error> {
    lacking(ALL.iter().filter(|kind| new & kind.bit != 0), proc)
}

fn lacking<'a>(kinds: impl IntoIterator<Item = &'a Kind>, proc: &Proc) -> Option<Error> {
    let lacks = |kind: &&Kind| matches!(proc.namespace("self", kind.link), Err(Errno::NOENT));
    let kind = kinds.into_iter().find(lacks)?;
    Some(Error::missing(format!("a new {} namespace", kind.name), "such namespaces"))
}

/// Moves the caller into a namespace of this kind.
pub(crate) fn enter(kind: Kind, fd: impl AsFd) -> rustix::io::Result<()> {
    let allowed = match kind {
        USER => LinkNameSpaceType::User,
        PID => LinkNameSpaceType::ProcessID,
        NETWORK => LinkNameSpaceType::Network,
        IPC => LinkNameSpaceType::InterProcessCommunication,
        UTS => LinkNameSpaceType::HostNameAndNISDomainName,
        CGROUP => LinkNameSpaceType::ControlGroup,
        TIME => LinkNameSpaceType::Time,
        _ => LinkNameSpaceType::Mount,
    };
    rustix::thread::move_into_link_name_space(fd.as_fd(), Some(allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_the_kernel_lacks_is_named() {
        let proc = Proc::open().unwrap();
        let of = |kinds: &[Kind]| lacking(kinds, &proc).map(|error| error.to_string());
        assert_eq!(of(&[UTS, MOUNT]), None);
        let text = of(&[UTS, Kind { name: "odd", link: "odd", bit: 1 }]).unwrap();
        assert!(text.starts_with("a new odd namespace is not supported: this kernel ("), "{text}");
    }
}
