//! `rm`: the record goes first, then what it named. A daemon killed in between leaves a snapshot and a directory without
//! owner, which the next start removes; it never leaves a record without them.

use crate::container::Container;
use crate::error::{During, Error, blocking};
use crate::record::Status;
use crate::{Engine, shim_alive, task};
use errors::{HasKind, Kind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How often and how soon a deletion is tried again on a full disk, whose free blocks others may take first.
const TRIES_ON_FULL_DISK: u32 = 5;
const FULL_DISK_PAUSE: Duration = Duration::from_millis(50);
const TIDY_PAUSE: Duration = Duration::from_millis(300);
/// Pauses before the tries to remove what could not be removed at once.
const REMOVAL_PAUSES: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(60)];
const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);

impl Engine {
    /// Removes a container; with `force` also one that runs. `volumes` removes its anonymous volumes too.
    pub async fn remove(self: &Arc<Self>, name: &str, force: bool, volumes: bool) -> Result<(), Error> {
        let container = self.container(name)?;
        let _verb = container.take_verbs().await?;
        let status = container.status();
        match status {
            Status::Running | Status::Paused | Status::Restarting if !force => {
                let why = match status {
                    Status::Paused => "paused and must be unpaused first",
                    Status::Restarting => "restarting: stop the container before removing or force remove",
                    _ => "running: stop the container before removing or force remove",
                };
                let name = container.lock().name.clone();
                return Err(Error::conflict(format!(
                    "cannot remove container \"/{name}\": container is {why}"
                )));
            }
            _ => {}
        }
        container.restart_plan.send_modify(|n| *n += 1);
        if status.is_alive() {
            container.lock().state.manually_stopped = true;
            let exits = container.life.borrow().exits;
            if let Err(e) = self.kill_and_wait(&container, exits).await {
                if e.kind() != Kind::Unavailable {
                    return Err(e);
                }
                // Its shim does not answer and so cannot kill it. Without a shim the daemon does that itself.
                let shim_dir = self.config.shim_dir(container.id().as_str());
                shim_alive::kill(&shim_dir, Duration::ZERO).await;
                self.wait_for_end(&container, exits).await?;
            }
        }
        // The end of a task with `--rm` waits for our verbs to do the same, and then finds nothing to do.
        let auto_remove = container.lock().host_config.auto_remove;
        self.remove_now(&container, volumes || (auto_remove && status.is_alive())).await
    }

    /// Removes a container without a task. The caller holds its verbs.
    pub(crate) async fn remove_now(
        self: &Arc<Self>,
        container: &Arc<Container>,
        volumes: bool,
    ) -> Result<(), Error> {
        if container.life.borrow().removed {
            return Ok(());
        }
        let remains = container.remains.clone().lock_owned().await;
        let (engine, owned) = (self.clone(), container.clone());
        let result = blocking(move || engine.erase(&owned, volumes)).await;
        drop(remains);
        result?;
        drop(container.take_early());
        self.publish(container, "destroy", &[]);
        self.drop_execs(container.id());
        self.containers.remove(container);
        container.life.send_modify(|life| life.removed = true);
        Ok(())
    }

    fn erase(&self, container: &Container, volumes: bool) -> Result<(), Error> {
        let record = &container.record();
        let id = record.id.as_str();
        let doing = || format!("remove container {}", record.name);
        task::unmount(self, id);
        self.unstage(id);
        if !volumes {
            self.leave_anonymous_volumes(record)?;
        }
        {
            let mut erased = container.erased.lock().expect("no holder panics");
            let delete = || self.db.delete_record(metadata::RecordKind::Container, id).during(doing);
            let mut deleted = delete();
            for _ in 0..TRIES_ON_FULL_DISK {
                if !deleted.as_ref().is_err_and(|e| e.kind() == Kind::Exhausted) {
                    break;
                }
                // Its own files are to go anyway, and make room to write down that they have.
                self.make_room(id);
                deleted = delete();
            }
            deleted?;
            *erased = true;
        }
        // From here on the container is gone; what fails is cleaned up by the next start.
        if let Err(e) = self.snapshots.remove(id) {
            tracing::warn!(container_id = id, error = %errors::chain(&e), "snapshot not removed");
        }
        self.remove_image_snapshots(&record.id, &record.mounts);
        // The bundle went with the task, unless there was not even a descriptor to read its directory with.
        for directory in [self.config.container_dir(id), self.config.shim_dir(id)] {
            remove_tree(id, directory);
        }
        if volumes {
            self.remove_anonymous_volumes(record);
        }
        self.tidy_behind();
        Ok(())
    }

    /// Sees to it that the trees of what was removed are deleted, where nobody waits.
    pub(crate) fn tidy_behind(&self) {
        if self.db.is_reserve_spent() {
            // The disk was full: what this frees must first of all pay for the next deletion, before others take it.
            self.empty_trash();
            self.db.restore_reserve();
        }
        self.tidy_later();
    }

    /// Deletes what was removed.
    pub(crate) fn empty_trash(&self) {
        empty_trash(&*self.snapshots, &self.content);
    }

    /// Removes the log and all that was written in a container that is about to be erased; its directories stay.
    fn make_room(&self, id: &str) {
        let upper = self.snapshots.upper(id).ok();
        for directory in upper.into_iter().chain([self.config.container_dir(id)]) {
            let Ok(entries) = std::fs::read_dir(&directory) else { continue };
            for entry in entries.flatten() {
                let path = entry.path();
                let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
                // What cannot be removed now is removed with the directory.
                drop(if is_dir { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) });
            }
        }
        std::thread::sleep(FULL_DISK_PAUSE);
    }

    /// Empties the trash and brings the database's log home, on one thread however often it is asked for.
    pub(crate) fn tidy_later(&self) {
        if self.tidying.swap(true, Ordering::SeqCst) {
            return;
        }
        let (snapshots, db, tidying) = (self.snapshots.clone(), self.db.clone(), self.tidying.clone());
        let content = self.content.clone();
        let last_checkpoint = self.last_checkpoint.clone();
        let flag = self.tidying.clone();
        let soon = crate::behind::spawn("tidy", move || {
            // A short wait gathers the leavings of many removals in one round.
            std::thread::sleep(TIDY_PAUSE);
            tidying.store(false, Ordering::SeqCst);
            empty_trash(&*snapshots, &content);
            db.restore_reserve();
            // A new log begins with a sync, so not after each removal: a container made next would wait for it.
            let mut last = last_checkpoint.lock().expect("no holder panics");
            if last.is_none_or(|at| at.elapsed() >= CHECKPOINT_EVERY) {
                if let Err(e) = db.checkpoint() {
                    tracing::warn!(error = %errors::chain(&e), "database log not checkpointed");
                }
                *last = Some(Instant::now());
            }
        });
        if !soon {
            // The next removal asks again.
            flag.store(false, Ordering::SeqCst);
        }
    }
}

/// Removes a directory that may be gone; if it cannot be removed now, some time later.
fn remove_tree(id: &str, directory: PathBuf) {
    let removed = |directory: &Path| match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let Err(error) = removed(&directory) else { return };
    tracing::warn!(container_id = id, directory = %directory.display(), %error, "not removed yet");
    // What it lacked others may soon give back. If not, the next start of the daemon removes it.
    let mut left = LEFT.lock().expect("no holder panics");
    left.directories.push((directory, 0));
    if !left.is_tried {
        left.is_tried = crate::behind::spawn("remove", remove_left);
    }
}

/// Directories that could not be removed, and how often that was tried again; one thread sees to them all.
static LEFT: std::sync::Mutex<Left> =
    std::sync::Mutex::new(Left { directories: Vec::new(), is_tried: false });

struct Left {
    directories: Vec<(PathBuf, usize)>,
    is_tried: bool,
}

fn remove_left() {
    loop {
        // The pause of the one that was tried least often.
        let pause = {
            let mut left = LEFT.lock().expect("no holder panics");
            left.directories.retain(|(_, tries)| *tries < REMOVAL_PAUSES.len());
            let Some(least) = left.directories.iter().map(|(_, tries)| *tries).min() else {
                left.is_tried = false;
                return;
            };
            REMOVAL_PAUSES[least]
        };
        std::thread::sleep(pause);
        let all = std::mem::take(&mut LEFT.lock().expect("no holder panics").directories);
        let still = all.into_iter().filter(|(directory, _)| {
            std::fs::remove_dir_all(directory).is_err_and(|e| e.kind() != std::io::ErrorKind::NotFound)
        });
        let still: Vec<_> = still.map(|(directory, tries)| (directory, tries + 1)).collect();
        LEFT.lock().expect("no holder panics").directories.extend(still);
    }
}

fn empty_trash(snapshots: &dyn snapshot::Snapshotter, content: &content::ContentStore) {
    if let Err(e) = snapshots.empty_trash() {
        tracing::warn!(error = %errors::chain(&e), "trash not emptied");
    }
    if let Err(e) = content.empty_trash() {
        tracing::warn!(error = %errors::chain(&e), "removed blobs not deleted");
    }
}
