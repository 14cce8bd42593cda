//! `cp` and `export`: files out of a container and into it, as tar streams.

use crate::error::{During, Error, blocking};
use crate::launch::credentials;
use crate::record::Status;
use crate::view::View;
use crate::{Engine, userns};
use archive::{PackOptions, Whiteouts};
use errors::{HasKind, Kind};
use oci::IdMap;
use rootdir::RootDir;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatVfsMountFlags, StatxFlags};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// As many symlinks as the kernel follows in one path.
const MAX_LINKS: usize = 40;

/// What is at a path of a container. Nothing is followed at its end, unless the path says that it is a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// The last part of the path; `/` for the root, `.` where the path ends so.
    pub name: String,
    pub size: i64,
    /// As the kernel has it, type included.
    pub mode: u32,
    /// Seconds since 1970 and nanoseconds.
    pub mtime: (i64, i64),
    /// Where a symlink leads, all others on the way followed.
    pub link_target: Option<PathBuf>,
}

/// How an archive goes into a container.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extract {
    /// Everything belongs to the container's user.
    pub to_user: bool,
    /// Refuse to put a directory where something else is, and the reverse.
    pub keep_kinds: bool,
}

/// Files about to be packed.
#[derive(Debug)]
pub struct Packing {
    view: View,
    what: What,
    name: String,
    latest_s: Option<i64>,
}

#[derive(Debug)]
enum What {
    /// All below this directory, and an entry for itself of this name unless that is empty.
    Directory(RootDir, PathBuf),
    /// Something that is no directory.
    Other(PathBuf),
}

impl Packing {
    /// Tells times after this second (since 1970) as it.
    pub fn with_latest(self, latest_s: Option<i64>) -> Packing {
        Packing { latest_s, ..self }
    }

    /// Writes the archive. Blocks.
    pub fn write(self, out: impl Write) -> Result<(), Error> {
        let ids = self.view.ids().map(|ids| IdMap::clone(ids));
        let options = PackOptions {
            cross_mounts: true,
            latest_s: self.latest_s,
            is_live: true,
            ids,
            ..PackOptions::default()
        };
        let packed = match &self.what {
            What::Directory(dir, name) => {
                let rebase = Some(name.clone()).filter(|n| !n.as_os_str().is_empty());
                archive::pack(out, dir, Path::new("."), &PackOptions { rebase, ..options })
            }
            What::Other(path) => archive::pack(out, self.view.root(), path, &options),
        };
        let packed = packed.during(|| format!("pack files of container {}", self.name))?;
        if packed.cut > 0 {
            tracing::warn!(
                container = self.name,
                files = packed.cut,
                "became shorter while they were copied"
            );
        }
        Ok(())
    }
}

/// A path as a client gives it: cleaned as text, and whether its end says that it is a directory.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    path: PathBuf,
    is_directory: bool,
    /// Docker's name for the thing: what the archive calls it.
    name: String,
}

impl Named {
    fn parse(text: &str) -> Result<Named, Error> {
        if text.contains('\0') {
            return Err(Error::invalid("a path holds a NUL byte"));
        }
        let mut parts: Vec<&str> = Vec::new();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        let last = text.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let ends_in_dot = last == ".";
        let path = PathBuf::from(format!("/{}", parts.join("/")));
        let name = match parts.last() {
            _ if ends_in_dot => ".",
            Some(last) => last,
            None => "/",
        };
        Ok(Named { name: name.into(), path, is_directory: ends_in_dot || text.ends_with('/') })
    }
}

impl Engine {
    /// Looks at `path` in a container.
    pub async fn stat_path(self: &Arc<Self>, name: &str, path: &str) -> Result<PathStat, Error> {
        let container = self.container(name)?;
        let view = self.open_view(&container, true).await?;
        let (name, path) = (name.to_string(), path.to_string());
        blocking(move || stat(view.root(), &name, &path)).await
    }

    /// Prepares an archive of what is at `path` in a container.
    pub async fn archive_path(
        self: &Arc<Self>,
        name: &str,
        path: &str,
    ) -> Result<(PathStat, Packing), Error> {
        let container = self.container(name)?;
        let view = self.open_view(&container, true).await?;
        let (owned, path) = (name.to_string(), path.to_string());
        let found = blocking(move || {
            let stat = stat(view.root(), &owned, &path)?;
            let named = Named::parse(&path)?;
            let what = if FileType::from_raw_mode(stat.mode).is_dir() {
                let mut flags = OFlags::PATH | OFlags::DIRECTORY;
                if !named.is_directory {
                    flags |= OFlags::NOFOLLOW;
                }
                let dir = view.root().open_file(&named.path, flags, Mode::empty());
                What::Directory(RootDir::from_fd(dir.map_err(|e| lost(e, &owned, &path))?), named.name.into())
            } else {
                What::Other(named.path)
            };
            Ok::<_, Error>((stat, Packing { view, what, name: owned, latest_s: None }))
        })
        .await?;
        self.publish(&container, "archive-path", &[]);
        Ok(found)
    }

    /// Prepares an archive of a container's whole root, without what is mounted on it.
    pub async fn export(self: &Arc<Self>, name: &str) -> Result<Packing, Error> {
        let container = self.container(name)?;
        let own = container.lock().name.clone();
        match container.status() {
            Status::Removing => {
                return Err(Error::conflict(format!(
                    "You cannot export container {own} which is being removed"
                )));
            }
            Status::Dead => {
                return Err(Error::conflict(format!("You cannot export container {own} which is Dead")));
            }
            _ => {}
        }
        let view = self.open_view(&container, false).await?;
        let dir = view.root().try_clone().during(|| "open root file system".into())?;
        self.publish(&container, "export", &[]);
        Ok(Packing { view, what: What::Directory(dir, PathBuf::new()), name: own, latest_s: None })
    }

    /// Unpacks the archive that `input` brings, plain or compressed, into the directory `path` of a container.
    ///
    /// # Errors
    ///
    /// NotFound when there is nothing at `path`, InvalidArgument when that is no directory or read-only. What was unpacked
    /// before a failure stays.
    pub async fn extract<R: Read + Send + 'static>(
        self: &Arc<Self>,
        name: &str,
        path: &str,
        how: Extract,
        input: R,
    ) -> Result<(), Error> {
        let container = self.container(name)?;
        let view = self.open_view(&container, true).await?;
        let user = container.lock().config.user.clone();
        let (owned, path) = (name.to_string(), path.to_string());
        blocking(move || extract(&view, &owned, &path, how, &user, input)).await?;
        self.publish(&container, "extract-to-dir", &[]);
        Ok(())
    }
}

fn extract(
    view: &View,
    container: &str,
    path: &str,
    how: Extract,
    user: &str,
    input: impl Read + Send,
) -> Result<(), Error> {
    let root = view.root();
    let named = Named::parse(path)?;
    let flags = if named.is_directory { OFlags::PATH | OFlags::DIRECTORY } else { OFlags::PATH };
    let target = root.open_file(&named.path, flags, Mode::empty()).map_err(|e| lost(e, container, path))?;
    let found = rustix::fs::fstat(&target).map_err(|e| io(e, path))?;
    if !FileType::from_raw_mode(found.st_mode).is_dir() {
        return Err(Error::invalid("extraction point is not a directory"));
    }
    let access = rustix::fs::fstatvfs(&target).map_err(|e| io(e, path))?;
    if access.f_flag.contains(StatVfsMountFlags::RDONLY) {
        let whole = root.open_dir(Path::new("/")).during(|| "open root file system".into())?;
        return Err(Error::invalid(if mount_of(&target) == mount_of(&whole) {
            "container rootfs is marked read-only"
        } else {
            "mounted volume is marked read-only"
        }));
    }
    let owner = match how.to_user && !user.is_empty() {
        true => Some(credentials(root, user, &[])?),
        false => None,
    };
    let options = archive::Options {
        whiteouts: Whiteouts::Keep,
        owner: owner.map(|o| (o.uid, o.gid)),
        base: named.path,
        keep_base: true,
        keep_kinds: how.keep_kinds,
        ids: view.ids().map(|ids| IdMap::clone(ids)),
        ..archive::Options::default()
    };
    let _as_root = userns::as_root(view.ids().map(|ids| &**ids))?;
    archive::decompress(input)
        .and_then(|tar| archive::apply(tar, root, &options))
        .map(drop)
        .during(|| format!("unpack into {path} of container {container}"))
}

fn mount_of(fd: &OwnedFd) -> Option<u64> {
    rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok().map(|s| s.stx_mnt_id)
}

fn stat(root: &RootDir, container: &str, path: &str) -> Result<PathStat, Error> {
    let named = Named::parse(path)?;
    let flags =
        if named.is_directory { OFlags::PATH | OFlags::DIRECTORY } else { OFlags::PATH | OFlags::NOFOLLOW };
    let fd = root.open_file(&named.path, flags, Mode::empty()).map_err(|e| lost(e, container, path))?;
    let found = rustix::fs::fstat(&fd).map_err(|e| io(e, path))?;
    let is_link = FileType::from_raw_mode(found.st_mode).is_symlink();
    Ok(PathStat {
        name: named.name,
        size: found.st_size,
        mode: found.st_mode,
        mtime: (found.st_mtime, i64::try_from(found.st_mtime_nsec).unwrap_or(0)),
        link_target: is_link.then(|| follow(root, &named.path)),
    })
}

/// Where `path` leads, as far as there is something. For people and clients: what is opened is resolved by the kernel.
fn follow(root: &RootDir, path: &Path) -> PathBuf {
    let mut left: VecDeque<PathBuf> = path.components().map(|c| PathBuf::from(c.as_os_str())).collect();
    let mut here = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = left.pop_front() {
        match part.components().next() {
            Some(Component::RootDir) => here = PathBuf::from("/"),
            Some(Component::ParentDir) => drop(here.pop()),
            Some(Component::Normal(name)) => {
                let next = here.join(name);
                match root.read_link(&next) {
                    Ok(target) if links < MAX_LINKS => {
                        links += 1;
                        let parts = target.components().map(|c| PathBuf::from(c.as_os_str()));
                        for part in parts.collect::<Vec<_>>().into_iter().rev() {
                            left.push_front(part);
                        }
                    }
                    _ => here = next,
                }
            }
            _ => {}
        }
    }
    here
}

/// Docker's words for a path that is not there; others in the kernel's.
fn lost(error: rootdir::Error, container: &str, path: &str) -> Error {
    if error.kind() == Kind::NotFound {
        let what = format!("Could not find the file {path} in container {container}");
        return Error::NoSuchPath { what };
    }
    let text = errors::chain(&error).to_lowercase();
    match text.contains("not a directory") {
        true => Error::invalid(format!("{path}: not a directory")),
        false => Err::<(), _>(error).during(|| format!("look at {path}")).expect_err("it is one"),
    }
}

fn io(errno: rustix::io::Errno, path: &str) -> Error {
    let error = std::io::Error::from(errno);
    Error::Failed { doing: format!("look at {path}"), kind: errors::io_kind(&error), source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_mean_what_docker_says() {
        let check = |text: &str, path: &str, is_directory: bool, name: &str| {
            let want = Named { path: path.into(), is_directory, name: name.into() };
            assert_eq!(Named::parse(text).unwrap(), want, "{text}");
        };
        check("/", "/", true, "/");
        check("", "/", false, "/");
        check(".", "/", true, ".");
        check("/.", "/", true, ".");
        check("/./", "/", true, ".");
        check("a/b", "/a/b", false, "b");
        check("/a/b/", "/a/b", true, "b");
        check("/a/b/.", "/a/b", true, ".");
        check("../../a/../b", "/b", false, "b");
        assert!(Named::parse("a\0b").is_err());
    }
}
