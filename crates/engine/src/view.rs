//! A container's root as `cp` sees it: its file system with its volumes, binds and network files on it, whether it runs or
//! not. Not what its processes mounted themselves, nor tmpfs, `/proc` and the like: those are nobody else's business.
//!
//! Everything is reached through one descriptor ([`mount::private_view`]); paths below are resolved inside it by `rootdir`, so
//! that no symlink leads out, however fast the container exchanges them.

use crate::container::Container;
use crate::error::{During, Error, IoDuring, blocking};
use crate::record::{MountKind, Record};
use crate::{Engine, task, userns};
use oci::IdMap;
use rootdir::RootDir;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The root, held until dropped.
#[derive(Debug)]
pub(crate) struct View {
    root: RootDir,
    /// How the ids of what is below are mapped.
    ids: Option<Arc<IdMap>>,
    _hold: Hold,
}

impl View {
    pub(crate) fn root(&self) -> &RootDir {
        &self.root
    }

    /// How the ids of its files are mapped, where they are.
    pub(crate) fn ids(&self) -> Option<&Arc<IdMap>> {
        self.ids.as_ref()
    }
}

/// Keeps the container's root mounted: a second mount of the same changes beside the first would damage them.
#[derive(Debug)]
struct Hold {
    engine: Arc<Engine>,
    container: Arc<Container>,
    runtime: tokio::runtime::Handle,
}

impl Hold {
    fn new(engine: &Arc<Engine>, container: &Arc<Container>) -> Hold {
        container.views.fetch_add(1, Ordering::SeqCst);
        Hold {
            engine: engine.clone(),
            container: container.clone(),
            runtime: tokio::runtime::Handle::current(),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.container.views.fetch_sub(1, Ordering::SeqCst) == 1 && !self.container.status().is_alive() {
            let _runtime = self.runtime.enter();
            self.engine.unmount_later(self.container.clone());
        }
    }
}

impl Engine {
    /// Opens the root of a container; `with_mounts` with what the user had mounted on it.
    pub(crate) async fn open_view(
        self: &Arc<Self>,
        container: &Arc<Container>,
        with_mounts: bool,
    ) -> Result<View, Error> {
        // Nobody mounts, unmounts or removes meanwhile. Once there is a view it may end, start and end again.
        let remains = container.remains.clone().lock_owned().await;
        if container.life.borrow().removed {
            return Err(Error::NoSuchContainer { name: container.lock().name.clone() });
        }
        let hold = Hold::new(self, container);
        let engine = self.clone();
        let own = container.clone();
        let root = blocking(move || engine.make_view(&own, with_mounts)).await?;
        let ids = container.root_ids();
        drop(remains);
        Ok(View { root, ids, _hold: hold })
    }

    fn make_view(&self, container: &Container, with_mounts: bool) -> Result<RootDir, Error> {
        let record = &container.record();
        let doing = || format!("open root file system of container {}", record.name);
        let rootfs = self.config.rootfs(record.id.as_str());
        std::fs::create_dir_all(&rootfs).io_during(|| format!("create {}", rootfs.display()))?;
        if !mount::is_mounted(&rootfs).during(doing)? {
            let options = snapshot::MountOptions {
                volatile: record.host_config.auto_remove,
                ..snapshot::MountOptions::default()
            };
            if let Err(e) = self.mount_root_for_view(container, &options) {
                drop(std::fs::remove_dir(&rootfs));
                return Err(e).during(doing);
            }
        }
        let (ids, namespace) = (container.root_ids(), self.namespace_like(container)?);
        let read_only = with_mounts && record.host_config.readonly_rootfs;
        let attach = |root: &rustix::fd::OwnedFd| -> Result<(), Failure> {
            if !with_mounts {
                return Ok(());
            }
            let root = RootDir::from_fd(root.try_clone().map_err(|e| Failure(e.into_error(doing)))?);
            self.attach_mounts(record, &root, namespace.as_ref().zip(ids.as_deref())).map_err(Failure)
        };
        let tree = mount::private_view(&rootfs, read_only, attach).map_err(|Failure(e)| e)?;
        Ok(RootDir::from_fd(tree))
    }

    fn attach_mounts(
        &self,
        record: &Record,
        root: &RootDir,
        ids: Option<(&OwnedFd, &IdMap)>,
    ) -> Result<(), Error> {
        let dir = match record.host_config.network_mode.split_once(':') {
            Some(("container", other)) => match self.container(other) {
                Ok(other) => self.config.container_dir(other.id().as_str()),
                Err(_) => self.config.container_dir(record.id.as_str()),
            },
            _ => self.config.container_dir(record.id.as_str()),
        };
        let etc = ["hosts", "hostname", "resolv.conf"].map(|name| {
            let source = dir.join(name);
            // Empty until the first start, as Docker's. What cannot be made is not shown.
            drop(std::fs::File::options().write(true).create_new(true).mode(0o644).open(&source));
            Wanted {
                source,
                destination: format!("/etc/{name}"),
                how: mount::Attach::default(),
                is_ours: true,
            }
        });
        let points = record.mounts.iter().enumerate().filter(|(_, m)| m.kind != MountKind::Tmpfs);
        let points = points.map(|(at, m)| Wanted {
            // An image, and a part of a volume, are there while the container runs.
            source: match m.kind == MountKind::Image || !m.subpath.is_empty() {
                true => self.config.staged(record.id.as_str(), at),
                false => m.source.clone().into(),
            },
            destination: m.destination.clone(),
            is_ours: self.maps_owners(m),
            how: mount::Attach {
                recursive: !m.non_recursive,
                read_only: !m.read_write,
                read_only_below: !m.non_recursive && !m.read_only_top,
            },
        });
        let mut wanted: Vec<Wanted> = points.collect();
        wanted.extend(
            etc.into_iter().filter(|e| !record.mounts.iter().any(|m| m.destination == e.destination)),
        );
        wanted.sort_by_key(|w| Path::new(&w.destination).components().count());
        for one in wanted {
            // A bind whose source has gone: nothing to show.
            let Ok(found) = std::fs::metadata(&one.source) else { continue };
            let doing = || format!("show {} in the container", one.destination);
            let target = {
                let _as_root = userns::as_root(ids.map(|(_, map)| map))?;
                root.mkdirs_for_mountpoint(Path::new(&one.destination), found.is_dir()).during(doing)?
            };
            let ids = ids.filter(|_| one.is_ours).map(|(namespace, _)| namespace.as_fd());
            mount::attach_at(&one.source, &target, one.how, ids).during(doing)?;
        }
        Ok(())
    }

    /// Unmounts the root of a container that does not run, where nobody looks at it. The caller holds its remains.
    pub(crate) fn unmount_unused(&self, container: &Container) {
        if container.views.load(Ordering::SeqCst) == 0 {
            task::unmount(self, container.id().as_str());
        }
    }
}

/// Something to show in a view.
struct Wanted {
    source: std::path::PathBuf,
    destination: String,
    how: mount::Attach,
    /// Its ids are mapped as those of the root.
    is_ours: bool,
}

/// What goes wrong while a view is made, from either crate.
struct Failure(Error);

impl From<mount::Error> for Failure {
    fn from(error: mount::Error) -> Failure {
        Failure(Err::<(), _>(error).during(|| "open root file system".into()).expect_err("it is one"))
    }
}

trait IntoError {
    fn into_error(self, doing: impl FnOnce() -> String) -> Error;
}

impl IntoError for std::io::Error {
    fn into_error(self, doing: impl FnOnce() -> String) -> Error {
        Err::<(), _>(self).io_during(doing).expect_err("it is one")
    }
}
