//! User namespaces of containers: with `--userns-remap` root of a container is nobody on the host.
//!
//! Each container has a user namespace of its own, to which its other namespaces belong. `brig-shim --namespaces` makes it,
//! together with the network namespace, before network and files are set up; the daemon holds both by descriptors until the
//! runtime has joined them. Nothing on disk knows of mappings: root file systems and volumes are mounted with mapped ids
//! ([`mount::Mapping`]), so that what root of a container writes is root's on disk, whatever the mapping, and images, `cp`, `diff`
//! and `commit` are the same with and without. Which mapping a running container has the kernel tells.

mod ranges;

use crate::ahead::Ahead;
use crate::container::Container;
use crate::error::{During, Error, IoDuring};
use crate::model::HostConfig;
use crate::record::Record;
use crate::{Config, Engine, user};
use errors::{Kind, Report};
use oci::IdMap;
use ranges::Files;
use rustix::fs::{Mode, OFlags};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use sys::fs_ids::FsIds;

/// The argument with which `brig-shim` makes namespaces, and what it says then; see `shim::namespaces`.
const NAMESPACES: &str = "--namespaces";
const USER_MADE: u8 = b'U';
const NETWORK_MADE: u8 = b'N';
/// Longest complaint of it that is told.
const MAX_COMPLAINT: u64 = 4 << 10;

/// What `--userns-remap` came to.
#[derive(Debug)]
pub(crate) struct Remap {
    pub(crate) map: Arc<IdMap>,
    /// Nobody is in it: it maps the ids of mounts.
    namespace: OwnedFd,
    ready: Arc<Ahead<(OwnedFd, Option<OwnedFd>)>>,
}

/// The user namespace that a container is started in.
#[derive(Debug)]
pub(crate) struct Users {
    pub(crate) map: Arc<IdMap>,
    namespace: OwnedFd,
    /// A network namespace that belongs to it, new.
    pub(crate) network: Option<OwnedFd>,
}

impl Users {
    /// By which the runtime finds it, as long as this is held.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd())
    }
}

impl Remap {
    /// Finds the ranges, and tries whether this machine can do what they take.
    ///
    /// # Errors
    ///
    /// InvalidArgument with what to add to which file; Unsupported where kernel or file system have no mounts with mapped ids.
    pub(crate) fn open(config: &Config, on_overlay: bool) -> Result<Option<Remap>, Error> {
        let Some(text) = config.userns_remap.as_deref().filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let map = ranges::resolve(text, &Files::read(&config.subid_dir))?;
        let namespace = make(&config.shim, Some(&map), None, false)?.0;
        let remap = Remap { map: Arc::new(map), namespace, ready: Arc::default() };
        let dir = config.data_root.join("tmp");
        remap.mapping(&remap.map)?.try_on(&dir, on_overlay).map_err(|e| Error::Failed {
            doing: "--userns-remap needs Linux 5.19 or newer, and a data root whose file system has id-mapped mounts \
                    (ext4, xfs, btrfs, tmpfs)"
                .into(),
            kind: Kind::Unsupported,
            source: Box::new(e),
        })?;
        Ok(Some(remap))
    }

    fn mapping(&self, map: &IdMap) -> Result<mount::Mapping<'_>, Error> {
        mapping(map, self.namespace.as_fd())
    }
}

fn mapping<'a>(map: &IdMap, namespace: BorrowedFd<'a>) -> Result<mount::Mapping<'a>, Error> {
    let root = map.root().ok_or_else(|| Error::invalid("a user namespace without a root"))?;
    Ok(mount::Mapping { namespace, root })
}

/// Makes files as root of the container does, as long as it is held; None for one that has no user namespace.
pub(crate) fn as_root(map: Option<&IdMap>) -> Result<Option<FsIds>, Error> {
    let Some(map) = map else { return Ok(None) };
    // Without one its files would be the host's root's.
    let (uid, gid) = map.root().ok_or_else(|| Error::invalid("a user namespace without a root"))?;
    FsIds::become_ids(uid, gid).map(Some).io_during(|| "become root of the container's user namespace".into())
}

/// Whether the container is to have a user namespace, where the daemon gives one.
fn is_private(host: &HostConfig) -> bool {
    host.userns_mode != "host"
}

/// Refuses what a container in a user namespace cannot have, in Docker's words.
pub(crate) fn check(host: &HostConfig, is_remapped: bool) -> Result<(), Error> {
    if !is_remapped || !is_private(host) {
        return Ok(());
    }
    let refused = [
        (
            host.privileged,
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace \
             when running privileged mode",
        ),
        (
            host.network_mode == "host",
            "cannot share the host's network namespace when user namespaces are enabled",
        ),
        (host.pid_mode == "host", "cannot share the host PID namespace when user namespaces are enabled"),
    ];
    match refused.iter().find(|(asked, _)| *asked) {
        Some((_, words)) => Err(Error::invalid(format!("{words} (hint: --userns=host)"))),
        None => Ok(()),
    }
}

/// Refuses ids that the container has no mapping for: the kernel would say no more than "invalid argument".
pub(crate) fn check_credentials(map: Option<&IdMap>, credentials: &user::Credentials) -> Result<(), Error> {
    let Some(map) = map else { return Ok(()) };
    if map.outside_uid(credentials.uid).is_none() {
        return Err(Error::invalid(format!(
            "user id {} is not mapped in the container's user namespace",
            credentials.uid
        )));
    }
    let groups = std::iter::once(&credentials.gid).chain(&credentials.additional_gids);
    match groups.into_iter().find(|gid| map.outside_gid(**gid).is_none()) {
        Some(gid) => {
            Err(Error::invalid(format!("group id {gid} is not mapped in the container's user namespace")))
        }
        None => Ok(()),
    }
}

/// The mapping of the user namespace that `pid` is in; None for our own.
pub(crate) fn map_of(pid: i32) -> Option<Arc<IdMap>> {
    let link = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user")).ok();
    let number = pid.to_string();
    if pid <= 0 || link(&number)? == link("self")? {
        return None;
    }
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    IdMap::parse(&read("uid_map")?, &read("gid_map")?).map(Arc::new)
}

impl Engine {
    /// Whether containers get user namespaces, unless they ask for the host's.
    pub fn is_remapped(&self) -> bool {
        self.remap.is_some()
    }

    /// Makes the user namespace that a container is to start in, or opens the one of whom it shares namespaces with; None for
    /// the host's. Blocking.
    pub(crate) fn users_for(&self, record: &Record) -> Result<Option<Users>, Error> {
        let host = &record.host_config;
        check(host, self.is_remapped())?;
        match self.remap.as_ref().filter(|_| is_private(host)) {
            Some(remap) => self.users_with(remap, host).map(Some),
            None => Ok(None),
        }
    }

    /// The same for steps of builds on a network; they may be on the host's, over which they have no power. Blocking.
    pub(crate) fn users_for_steps(&self, network: &HostConfig) -> Result<Option<Arc<Users>>, Error> {
        let Some(remap) = &self.remap else { return Ok(None) };
        let users = self.users_with(remap, network)?;
        if users.map != remap.map {
            return Err(Error::conflict(format!(
                "steps on network {} would have other ids than those of this daemon",
                network.network_mode
            )));
        }
        Ok(Some(Arc::new(users)))
    }

    fn users_with(&self, remap: &Remap, host: &HostConfig) -> Result<Users, Error> {
        let wants_network = !host.network_mode.starts_with("container:") && host.network_mode != "host";
        let mut donor: Option<(Arc<IdMap>, OwnedFd)> = None;
        for (mode, what) in
            [(&host.network_mode, "network"), (&host.ipc_mode, "IPC"), (&host.pid_mode, "PID")]
        {
            let Some(("container", other)) = mode.split_once(':') else { continue };
            let other = self.container(other)?;
            let (name, pid) = other.read(|record| (record.name.clone(), record.state.pid));
            let map = map_of(pid).ok_or_else(|| {
                Error::conflict(format!(
                    "cannot share the {what} namespace of container {name}, which runs in the host's user namespace \
                     (hint: --userns=host)"
                ))
            })?;
            let namespace = open_users(pid)?;
            let differs =
                donor.as_ref().map(|(_, first)| Ok::<_, Error>(inode(first)? != inode(&namespace)?));
            if differs.transpose()?.unwrap_or(false) {
                return Err(Error::conflict(
                    "cannot share namespaces of containers that run in different user namespaces (hint: --userns=host)",
                ));
            }
            donor = Some((map, namespace));
        }
        let shim = &self.config.shim;
        Ok(match donor {
            None => {
                let (program, map) = (shim.to_path_buf(), remap.map.clone());
                let make_one = move || make(&program, Some(&map), None, true);
                let ready = if wants_network { remap.ready.take("user-namespaces", make_one) } else { None };
                let (namespace, network) = match ready {
                    Some(ready) => ready,
                    None => make(shim, Some(&remap.map), None, wants_network)?,
                };
                Users { map: remap.map.clone(), namespace, network }
            }
            Some((map, namespace)) => {
                let network =
                    if wants_network { make(shim, None, Some(namespace.as_fd()), true)?.1 } else { None };
                Users { map, namespace, network }
            }
        })
    }

    /// Mounts the container's root with the ids of `users` mapped, or with its own. One that is mounted already stays, where it
    /// is mounted so. The caller holds the container's remains. Blocking.
    pub(crate) fn mount_root(
        &self,
        container: &Container,
        users: Option<&Users>,
        options: &snapshot::MountOptions,
    ) -> Result<(), Error> {
        let wanted = users.map(|users| (users.map.clone(), users.namespace.as_fd()));
        self.mount_root_as(container, wanted, options)
    }

    /// As [`Engine::mount_root`], for who looks at a container that does not run: as its next start will want it.
    pub(crate) fn mount_root_for_view(
        &self,
        container: &Container,
        options: &snapshot::MountOptions,
    ) -> Result<(), Error> {
        let remap = self.remap.as_ref().filter(|_| is_private(&container.lock().host_config));
        let wanted = remap.map(|remap| (remap.map.clone(), remap.namespace.as_fd()));
        self.mount_root_as(container, wanted, options)
    }

    fn mount_root_as(
        &self,
        container: &Container,
        wanted: Option<(Arc<IdMap>, BorrowedFd<'_>)>,
        options: &snapshot::MountOptions,
    ) -> Result<(), Error> {
        let id = container.id().as_str();
        let rootfs = self.config.rootfs(id);
        let map = wanted.as_ref().map(|(map, _)| map.clone());
        if mount::is_mounted(&rootfs).during(|| format!("look at {}", rootfs.display()))? {
            if container.root_ids() == map {
                return Ok(());
            }
            if container.has_views() {
                return Err(Error::conflict(format!(
                    "container {id} is being copied from or to, in another user namespace; try again when that is done"
                )));
            }
            self.snapshots.unmount(&rootfs).during(|| "unmount root file system".into())?;
        }
        match &wanted {
            None => self.snapshots.mount(id, &rootfs, options),
            Some((map, namespace)) => {
                self.snapshots.mount_mapped(id, &rootfs, options, mapping(map, *namespace)?)
            }
        }
        .during(|| "mount root file system".into())?;
        container.set_root_ids(map);
        Ok(())
    }

    /// Mounts the snapshot `key` on `target` as a container with `users` is to see it.
    pub(crate) fn mount_for(
        &self,
        key: &str,
        target: &Path,
        options: &snapshot::MountOptions,
        users: Option<&Users>,
    ) -> Result<(), Error> {
        match users {
            None => self.snapshots.mount(key, target, options),
            Some(users) => {
                let mapping = mapping(&users.map, users.namespace.as_fd())?;
                self.snapshots.mount_mapped(key, target, options, mapping)
            }
        }
        .during(|| format!("mount snapshot {key}"))
    }

    /// Mounts the snapshot `key` as containers of this daemon are to see it, whether one is about to run or not.
    pub(crate) fn mount_for_all(
        &self,
        key: &str,
        target: &Path,
        options: &snapshot::MountOptions,
    ) -> Result<(), Error> {
        match &self.remap {
            None => self.snapshots.mount(key, target, options),
            Some(remap) => self.snapshots.mount_mapped(key, target, options, remap.mapping(&remap.map)?),
        }
        .during(|| format!("mount snapshot {key}"))
    }

    /// Who `uid` and `gid` of a container are outside.
    pub(crate) fn outside(&self, uid: u32, gid: u32) -> Result<(u32, u32), Error> {
        let Some(remap) = &self.remap else { return Ok((uid, gid)) };
        let outside = remap.map.outside_uid(uid).zip(remap.map.outside_gid(gid));
        outside
            .ok_or_else(|| Error::invalid(format!("{uid}:{gid} is not mapped in the step's user namespace")))
    }

    /// A namespace that maps the ids of mounts as `container`'s root is mounted. Blocking.
    pub(crate) fn namespace_like(&self, container: &Container) -> Result<Option<OwnedFd>, Error> {
        let Some(map) = container.root_ids() else { return Ok(None) };
        if let Some(remap) = self.remap.as_ref().filter(|remap| remap.map == map) {
            return remap.namespace.try_clone().map(Some).io_during(|| "duplicate a descriptor".into());
        }
        make(&self.config.shim, Some(&map), None, false).map(|(namespace, _)| Some(namespace))
    }
}

fn open_users(pid: i32) -> Result<OwnedFd, Error> {
    let path = format!("/proc/{pid}/ns/user");
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .io_during(|| format!("open {path}"))
}

fn inode(fd: &OwnedFd) -> Result<u64, Error> {
    rustix::fs::fstat(fd).map(|stat| stat.st_ino).io_during(|| "look at a user namespace".into())
}

/// Has `brig-shim` make a user namespace with `map`, unless it is to enter `within`, and a network namespace in it where
/// `with_network`. Blocking.
fn make(
    shim: &Path,
    map: Option<&IdMap>,
    within: Option<BorrowedFd<'_>>,
    with_network: bool,
) -> Result<(OwnedFd, Option<OwnedFd>), Error> {
    let doing = || format!("run {} {NAMESPACES}", shim.display());
    let mut command = Command::new(shim);
    command.arg(NAMESPACES).env_clear().current_dir("/");
    if let Some(within) = within {
        command.arg(format!("/proc/{}/fd/{}", std::process::id(), within.as_raw_fd()));
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .io_during(doing)?;
    let made = converse(&mut child, map, with_network);
    // It leaves at the end of its input.
    drop(child.stdin.take());
    if let Err(e) = &made {
        tracing::debug!(error = %errors::chain(e), "namespaces not made");
        let mut complaint = String::new();
        let stderr =
            child.stderr.take().map(|stderr| stderr.take(MAX_COMPLAINT).read_to_string(&mut complaint));
        drop(stderr);
        child.wait().io_during(doing)?;
        if !complaint.trim().is_empty() {
            return Err(Report::new(Kind::Unavailable, complaint.trim().to_string()))
                .during(|| "make a user namespace".into());
        }
    } else {
        child.wait().io_during(doing)?;
    }
    made
}

fn converse(
    child: &mut std::process::Child,
    map: Option<&IdMap>,
    with_network: bool,
) -> Result<(OwnedFd, Option<OwnedFd>), Error> {
    let doing = || "make a user namespace".to_string();
    let pid = child.id();
    let mut stdin = child.stdin.take().expect("stdin was asked to be piped");
    let stdout = child.stdout.as_mut().expect("stdout was asked to be piped");
    let mut hear = |wanted: u8| -> Result<(), Error> {
        let mut word = [0];
        stdout.read_exact(&mut word).io_during(doing)?;
        match word[0] == wanted {
            true => Ok(()),
            false => Err(Report::new(Kind::Internal, "not what was asked for")).during(doing),
        }
    };
    let open = |kind: &str| {
        let path = format!("/proc/{pid}/ns/{kind}");
        rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .io_during(|| format!("open {path}"))
    };
    hear(USER_MADE)?;
    if let Some(map) = map {
        for (name, mappings) in [("gid_map", &map.gids), ("uid_map", &map.uids)] {
            let path = format!("/proc/{pid}/{name}");
            std::fs::write(&path, oci::id_map::to_text(mappings)).io_during(|| format!("write {path}"))?;
        }
    }
    let user = open("user")?;
    if !with_network {
        return Ok((user, None));
    }
    stdin.write_all(b"n").io_during(doing)?;
    hear(NETWORK_MADE)?;
    let network = open("net")?;
    drop(stdin);
    Ok((user, Some(network)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_user_namespaces_exclude_is_refused_in_dockers_words() {
        let check = |change: fn(&mut HostConfig), words: Option<&str>| {
            let mut host = HostConfig::default();
            change(&mut host);
            assert!(super::check(&host, false).is_ok());
            match (super::check(&host, true), words) {
                (Ok(()), None) => {}
                (Err(e), Some(words)) => assert!(e.to_string().contains(words), "{e}"),
                (got, want) => panic!("{got:?} where {want:?}"),
            }
            host.userns_mode = "host".into();
            assert!(super::check(&host, true).is_ok());
        };
        check(|_| {}, None);
        check(|h| h.privileged = true, Some("privileged mode is incompatible with user namespaces"));
        check(|h| h.network_mode = "host".into(), Some("cannot share the host's network namespace"));
        check(|h| h.pid_mode = "host".into(), Some("cannot share the host PID namespace"));
        check(|h| h.ipc_mode = "host".into(), None);
    }

    #[test]
    fn ids_without_a_mapping_are_refused() {
        let map = IdMap::parse("0 100000 10\n", "0 100000 20\n").unwrap();
        let check = |uid, gid, more: &[u32]| {
            let own = user::Credentials { uid, gid, additional_gids: more.to_vec(), home: String::new() };
            check_credentials(Some(&map), &own).is_ok()
        };
        assert!(check(9, 19, &[0, 19]));
        assert!(!check(10, 0, &[]) && !check(0, 20, &[]) && !check(0, 0, &[20]));
        let any = user::Credentials { uid: 70_000, gid: 0, additional_gids: vec![], home: String::new() };
        assert!(check_credentials(None, &any).is_ok());
    }

    #[test]
    fn the_host_is_in_no_namespace_of_a_containers() {
        assert_eq!(map_of(0), None);
        assert_eq!(map_of(i32::try_from(std::process::id()).unwrap()), None);
    }
}
