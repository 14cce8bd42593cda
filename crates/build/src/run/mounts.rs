//! `RUN --mount`: what each mount is taken from, what it counts for in the key, and putting it in place.

use crate::context::Context;
use crate::copy::Target;
use crate::error::{During, Error, IoDuring};
use crate::plan::{self, Source};
use crate::request::Agent;
use crate::select::{Filter, Pick, clean, pick};
use crate::stage::{Place, StageState};
use dockerfile::{Ignore, Mount, MountKind, Run, Sharing};
use engine::blocking;
use engine::{Scratch, Step, StepMount, Workspace};
use oci::Digest;
use rootdir::RootDir;
use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

/// A mount with everything that is known before the step runs.
#[derive(Debug)]
pub(crate) struct Planned {
    mount: Mount,
    /// Absolute and clean.
    target: String,
    source: From,
    key: Value,
}

/// What a mount is taken from.
#[derive(Debug, Clone)]
enum From {
    Nothing,
    /// Chain ID of a stage's or image's topmost layer.
    Layers(Option<Digest>),
    Context(Arc<Context>),
}

impl Planned {
    pub(crate) fn key(planned: &Planned) -> Value {
        planned.key.clone()
    }
}

/// Reads the mounts of a RUN and finds what they are taken from.
pub(crate) async fn plan(place: &Place, state: &StageState, run: &Run) -> Result<Vec<Planned>, Error> {
    let mut out = Vec::new();
    for text in &run.mounts {
        let mount = Mount::parse(text, &|word| state.expand(word)).map_err(|m| place.wrong(text, m))?;
        out.push(plan_one(place, state, mount, text).await?);
    }
    Ok(out)
}

async fn plan_one(place: &Place, state: &StageState, mount: Mount, text: &str) -> Result<Planned, Error> {
    let shared = &place.shared;
    let default = |name: &str| match mount.kind {
        MountKind::Secret => format!("/run/secrets/{name}"),
        _ => "/run/buildkit/ssh_agent.0".to_string(),
    };
    let id = mount.id.clone().unwrap_or_else(|| "default".into());
    let target = mount.target.clone().unwrap_or_else(|| default(&id));
    let whole = if target.starts_with('/') { target } else { format!("{}/{target}", state.working_dir()) };
    let target = format!("/{}", clean(&whole));
    if target == "/" {
        return Err(place.wrong(text, "invalid mount target \"/\""));
    }
    match mount.kind {
        MountKind::Secret => shared.capture.secret(&id, !mount.required),
        MountKind::Ssh => shared.capture.agent(&id, !mount.required),
        MountKind::Bind | MountKind::Cache | MountKind::Tmpfs => {}
    }
    let source = match (&mount.from, mount.kind) {
        (Some(name), _) => from(place, name).await?,
        (None, MountKind::Bind) => From::Context(shared.request.context.clone()),
        (None, MountKind::Cache) if mount.source.as_deref().is_some_and(|s| !clean(s).is_empty()) => {
            return Err(place.wrong(text, "source of a cache mount needs from"));
        }
        (None, _) => From::Nothing,
    };
    let mut key = json!({
        "kind": format!("{:?}", mount.kind),
        "target": target,
        "writable": mount.writable,
        "id": mount.id,
        "mode": mount.mode,
        "uid": mount.uid,
        "gid": mount.gid,
        "size": mount.size,
        "env": mount.env,
        "required": mount.required,
    });
    match &source {
        From::Nothing => {}
        From::Layers(chain_id) => {
            key["layers"] = json!(chain_id.map(|d| d.to_string()));
            key["source"] = json!(mount.source);
        }
        From::Context(context) => {
            let (context, path) = (context.clone(), mount.source.clone().unwrap_or_default());
            let named = path.clone();
            let digest = blocking(move || {
                let one = pick_one(&context.root, &context.ignore, &path)?;
                let exclude = Ignore::default();
                crate::hash::of_pick(
                    &one,
                    Filter { ignore: &context.ignore, exclude: &exclude },
                    context.known.as_deref(),
                )
            })
            .await
            .map_err(|e| {
                place.wrong(&named, format!("failed to find the source of the mount: {}", e.text()))
            })?;
            key["content"] = json!(digest.to_string());
        }
    }
    Ok(Planned { mount, target, source, key })
}

/// What a `from` leads to.
async fn from(place: &Place, name: &str) -> Result<From, Error> {
    let shared = &place.shared;
    let source = plan::named(&shared.plan.file, &shared.request, place.stage, name, None);
    Ok(match &source {
        Source::Scratch => From::Layers(None),
        Source::Stage(index) => From::Layers(shared.stage(*index).await?.chain_id),
        Source::Image { .. } => match shared.bases.get(&source) {
            Some(base) => From::Layers(base.chain_id),
            None => return Err(place.wrong(name, format!("image {name} is missing"))),
        },
        Source::Context(name) => match shared.request.contexts.get(name) {
            Some(context) => From::Context(context.clone()),
            None => return Err(place.wrong(name, format!("context {name} is missing"))),
        },
    })
}

/// What stays alive while a step runs.
#[derive(Default)]
pub(crate) struct Prepared {
    workspaces: Vec<Workspace>,
    scratches: Vec<Scratch>,
    locks: Vec<CacheLock>,
    agents: Vec<Agent>,
}

impl Prepared {
    /// Puts mounts in place: into the step's list, with what they need alive.
    pub(crate) async fn make(
        place: &Place,
        mounts: &[Planned],
        workspace: &mut Workspace,
        step: &mut Step,
    ) -> Result<Prepared, Error> {
        let mut prepared = Prepared::default();
        for planned in mounts {
            if let From::Layers(chain_id) = &planned.source {
                place.shared.lent.fetch(&place.shared.engine, &place.shared.lease, *chain_id).await?;
            }
            match planned.mount.kind {
                MountKind::Tmpfs => step.mounts.push(StepMount::Tmpfs {
                    target: planned.target.clone(),
                    size: planned.mount.size.unwrap_or(0),
                }),
                MountKind::Secret => secret(place, planned, workspace, step).await?,
                MountKind::Ssh => prepared.ssh(place, planned, step).await?,
                MountKind::Bind => prepared.bind(place, planned, workspace, step).await?,
                MountKind::Cache => prepared.cache(place, planned, workspace, step).await?,
            }
        }
        Ok(prepared)
    }

    async fn bind(
        &mut self,
        place: &Place,
        planned: &Planned,
        workspace: &mut Workspace,
        step: &mut Step,
    ) -> Result<(), Error> {
        let doing = || format!("mount {}", planned.target);
        let engine = place.shared.engine.clone();
        let writable = planned.mount.writable.unwrap_or(false);
        let path = planned.mount.source.clone().unwrap_or_default();
        let fd = match &planned.source {
            From::Layers(chain_id) => {
                // Of its own: what is written to it goes with the step.
                let chain_id = *chain_id;
                let opened =
                    blocking(move || engine.open_shown_workspace(chain_id.as_ref())).await.during(doing)?;
                let one = pick_one(opened.root(), &Ignore::default(), &path)?;
                self.workspaces.push(opened);
                one.fd
            }
            From::Context(context) if writable || !context.ignore.is_empty() => {
                // A copy: writes are thrown away, and what is ignored is not seen.
                let scratch = engine.make_scratch().during(doing)?;
                let (context, to) = (context.clone(), scratch.path().to_path_buf());
                let fd = blocking(move || copy_out(&context, &path, &to)).await?;
                self.scratches.push(scratch);
                fd
            }
            From::Context(context) => pick_one(&context.root, &context.ignore, &path)?.fd,
            From::Nothing => return Err(Error::invalid("a bind mount needs a source")),
        };
        let source = workspace.pin(&fd).during(doing)?;
        step.mounts.push(StepMount::Bind {
            source,
            target: planned.target.clone(),
            read_write: writable,
            is_plain: !matches!(planned.source, From::Layers(_)),
        });
        Ok(())
    }

    async fn ssh(&mut self, place: &Place, planned: &Planned, step: &mut Step) -> Result<(), Error> {
        let id = planned.mount.id.clone().unwrap_or_else(|| "default".into());
        let request = &place.shared.request;
        let socket = match (request.ssh.get(&id), &request.client) {
            (Some(socket), _) => Some(socket.clone()),
            (None, Some(client)) => {
                let agent = client.agent(&id).await.map_err(|m| place.wrong(&id, m))?;
                match agent {
                    Some(agent) => {
                        let (socket, mount) = (agent.socket.clone(), &planned.mount);
                        let doing = || format!("set up the agent's socket {id}");
                        std::os::unix::fs::chown(
                            &socket,
                            Some(mount.uid.unwrap_or(0)),
                            Some(mount.gid.unwrap_or(0)),
                        )
                        .io_during(doing)?;
                        let mode = std::fs::Permissions::from_mode(mount.mode.unwrap_or(0o600));
                        std::fs::set_permissions(&socket, mode).io_during(doing)?;
                        self.agents.push(agent);
                        Some(socket)
                    }
                    None => None,
                }
            }
            (None, None) => None,
        };
        let Some(socket) = socket else {
            if planned.mount.required {
                return Err(place.wrong(&id, format!("no SSH key \"{id}\" forwarded from the client")));
            }
            return Ok(());
        };
        step.env.push(format!("SSH_AUTH_SOCK={}", planned.target));
        step.mounts.push(StepMount::Bind {
            source: socket,
            target: planned.target.clone(),
            read_write: true,
            is_plain: true,
        });
        Ok(())
    }

    async fn cache(
        &mut self,
        place: &Place,
        planned: &Planned,
        workspace: &mut Workspace,
        step: &mut Step,
    ) -> Result<(), Error> {
        let doing = || format!("mount cache {}", planned.target);
        let shared = &place.shared;
        let space = shared.request.build_arg("BUILDKIT_CACHE_MOUNT_NS").unwrap_or_default();
        let id = planned.mount.id.clone().unwrap_or_else(|| planned.target.clone());
        // A digest, never the id itself: an id is text of a stranger and no path.
        let name = Digest::of(format!("{space}\0{id}").as_bytes()).hex();
        let home = shared.engine.build_cache_dir();
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&home).io_during(doing)?;
        let (lock, dir) = CacheLock::take(&home, &name, planned.mount.sharing).await;
        if !dir.exists() {
            self.fill_cache(place, planned, &dir).await?;
        }
        let row = metadata::BuildCacheRow {
            key: format!("mount:{}", dir.file_name().unwrap_or_default().to_string_lossy()),
            kind: "exec.cachemount".into(),
            parent: None,
            chain_id: None,
            blob: None,
            body: "{}".into(),
            description: format!("cached mount {} with id \"{id}\"", planned.target),
            size_bytes: 0,
            created_ms: crate::cache::now_ms(),
            used_ms: crate::cache::now_ms(),
            uses: 1,
        };
        shared.engine.database().write(|tx| tx.put_build_cache(&row)).during(doing)?;
        self.locks.push(lock);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&dir, flags, Mode::empty()).io_during(doing)?;
        let source = workspace.pin(&fd).during(doing)?;
        let read_write = planned.mount.writable.unwrap_or(true);
        step.mounts.push(StepMount::Bind {
            source,
            target: planned.target.clone(),
            read_write,
            is_plain: true,
        });
        Ok(())
    }

    /// Makes the directory of a cache, with what `from` says is in it to begin with. It gets its name last.
    async fn fill_cache(&self, place: &Place, planned: &Planned, dir: &Path) -> Result<(), Error> {
        let shown = planned.target.clone();
        let engine = place.shared.engine.clone();
        let (mount, source, dir) = (planned.mount.clone(), planned.source.clone(), dir.to_path_buf());
        blocking(move || {
            let doing = || format!("make the cache for {shown}");
            let temporary = dir.with_extension("new");
            snapshot_remove(&temporary)?;
            std::fs::DirBuilder::new().mode(0o755).create(&temporary).io_during(doing)?;
            let path = mount.source.clone().unwrap_or_default();
            let nothing = Ignore::default();
            let fill = |root: &RootDir, ignore: &Ignore| -> Result<(), Error> {
                let to = RootDir::open(&temporary).during(doing)?;
                let one = pick_one(root, ignore, &path)?;
                let target =
                    Target { root: &to, path: String::new(), is_directory: true, owner: None, chmod: None };
                target.put(&one, Filter { ignore, exclude: &nothing }, "")
            };
            match &source {
                From::Nothing => {}
                From::Layers(chain_id) => {
                    let opened = engine.open_workspace(chain_id.as_ref()).during(doing)?;
                    fill(opened.root(), &nothing)?;
                }
                From::Context(context) => fill(&context.root, &context.ignore)?,
            }
            let (uid, gid) = (mount.uid.unwrap_or(0), mount.gid.unwrap_or(0));
            std::os::unix::fs::chown(&temporary, Some(uid), Some(gid)).io_during(doing)?;
            let mode = std::fs::Permissions::from_mode(mount.mode.unwrap_or(0o755));
            std::fs::set_permissions(&temporary, mode).io_during(doing)?;
            std::fs::rename(&temporary, &dir).io_during(doing)
        })
        .await
    }
}

fn snapshot_remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).io_during(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The one thing that a mount's source names.
fn pick_one(root: &RootDir, ignore: &Ignore, path: &str) -> Result<Pick, Error> {
    // A mount's source is a path, not a pattern.
    let picks = pick(root, ignore, &dockerfile::Glob::escape(path), false)?;
    picks.into_iter().next().ok_or_else(|| Error::invalid(format!("{path}: no such file or directory")))
}

/// Copies what the context has at `path` to a directory of ours, and opens it there.
fn copy_out(context: &Context, path: &str, to: &Path) -> Result<std::os::fd::OwnedFd, Error> {
    let doing = || format!("copy {path} of the context");
    let one = pick_one(&context.root, &context.ignore, path)?;
    let root = RootDir::open(to).during(doing)?;
    let target = Target { root: &root, path: "copy".into(), is_directory: false, owner: None, chmod: None };
    let nothing = Ignore::default();
    target.put(&one, Filter { ignore: &context.ignore, exclude: &nothing }, "")?;
    root.open_file(Path::new("copy"), OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).during(doing)
}

async fn secret(
    place: &Place,
    planned: &Planned,
    workspace: &mut Workspace,
    step: &mut Step,
) -> Result<(), Error> {
    let mount = &planned.mount;
    let id = mount.id.clone().unwrap_or_default();
    let request = &place.shared.request;
    let found = match (request.secrets.get(&id), &request.client) {
        (Some(secret), _) => Some(secret.clone()),
        (None, Some(client)) => client.secret(&id).await.map_err(|m| place.wrong(&id, m))?,
        (None, None) => None,
    };
    let Some(secret) = found else {
        if mount.required {
            return Err(place.wrong(&id, format!("secret {id}: not found")));
        }
        return Ok(());
    };
    if let Some(name) = &mount.env {
        let text = String::from_utf8(secret.0.clone()).map_err(|_| {
            place.wrong(&id, format!("secret {id} is no text and cannot be in the environment"))
        })?;
        step.env.push(format!("{name}={text}"));
    }
    if mount.env.is_none() || mount.target.is_some() {
        let (mode, uid, gid) = (mount.mode.unwrap_or(0o400), mount.uid.unwrap_or(0), mount.gid.unwrap_or(0));
        let source = workspace.put_file(&secret.0, mode, uid, gid).during(|| format!("mount secret {id}"))?;
        step.mounts.push(StepMount::Bind {
            source,
            target: planned.target.clone(),
            read_write: false,
            is_plain: false,
        });
    }
    Ok(())
}

type Locks = Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>;

/// Keeps others from a cache mount, where its sharing mode asks for that.
struct CacheLock {
    _held: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl CacheLock {
    /// Waits for the cache `name` as its mode asks; the directory to use.
    async fn take(home: &Path, name: &str, sharing: Sharing) -> (CacheLock, PathBuf) {
        static LOCKS: OnceLock<Locks> = OnceLock::new();
        let lock_of = |path: &Path| {
            let mut locks =
                LOCKS.get_or_init(Locks::default).lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            locks.entry(path.to_path_buf()).or_default().clone()
        };
        let dir = home.join(name);
        match sharing {
            Sharing::Shared => (CacheLock { _held: None }, dir),
            Sharing::Locked => {
                let held = lock_of(&dir).lock_owned().await;
                (CacheLock { _held: Some(held) }, dir)
            }
            Sharing::Private => {
                for number in 0.. {
                    let dir = if number == 0 { dir.clone() } else { home.join(format!("{name}-{number}")) };
                    if let Ok(held) = lock_of(&dir).try_lock_owned() {
                        return (CacheLock { _held: Some(held) }, dir);
                    }
                }
                unreachable!("there are more numbers than builds")
            }
        }
    }
}
