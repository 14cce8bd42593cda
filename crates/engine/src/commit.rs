//! `commit`: a container's changes become an image.
//!
//! The container is paused meanwhile, so that files are not half written; a mark in its directory says so, and a daemon
//! that is killed while the mark is there lets the container go on when it starts again.

use crate::container::Container;
use crate::error::{During, Error, IoDuring, blocking};
use crate::model::Config;
use crate::record::{Record, Status, now};
use crate::{Engine, instructions};
use archive::Compression;
use errors::{HasKind, Kind};
use image::{Assemble, Image, ImageId};
use oci::image::{History, ImageConfig, RootFs, RunConfig};
use oci::{Descriptor, Platform, Reference};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What the engine makes in every root to mount on: no change of the container's as long as it is new and empty.
pub const PLACES: &[&str] = &[
    "etc",
    "etc/hosts",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/mtab",
    "dev",
    "dev/pts",
    "dev/shm",
    "dev/mqueue",
    "dev/console",
    "proc",
    "sys",
    ".dockerenv",
];

/// Stands in a container's directory while it is paused for a commit.
const MARK: &str = "paused-for-commit";

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct CommitRequest {
    pub container: String,
    pub reference: Option<Reference>,
    pub comment: String,
    pub author: String,
    pub pause: bool,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
    /// In place of the container's own.
    pub config: Option<Config>,
}

impl Engine {
    /// Makes an image of a container's changes on the image that it was made from.
    ///
    /// # Errors
    ///
    /// WrongState for a container that is being removed; InvalidArgument for changes that cannot be.
    pub async fn commit(self: &Arc<Self>, request: CommitRequest) -> Result<ImageId, Error> {
        let container = self.container(&request.container)?;
        let named = container.lock().name.clone();
        match container.status() {
            Status::Removing => {
                return Err(Error::conflict(format!(
                    "You cannot commit container {named} which is being removed"
                )));
            }
            Status::Dead => {
                return Err(Error::conflict(format!("You cannot commit container {named} which is Dead")));
            }
            _ => {}
        }
        let record = container.record();
        let mut config = image_config(request.config.as_ref().unwrap_or(&record.config));
        instructions::apply(&mut config, &request.changes)?;
        fill(&mut config, &image_config(&record.config));

        let paused = if request.pause && container.status() == Status::Running {
            self.pause_for_commit(&container).await?
        } else {
            None
        };
        let (engine, wanted) = (self.clone(), request.clone());
        let made = blocking(move || engine.make_image(&record, config, &wanted)).await;
        if let Some(mark) = paused {
            self.end_commit_pause(&container, &mark).await;
        }
        let image = made?;
        let name = request.reference.as_ref().map(Reference::familiar).unwrap_or_default();
        let more = [
            ("comment", request.comment.clone()),
            ("imageID", image.id.to_string()),
            ("imageRef", name.clone()),
        ];
        self.publish(&container, "commit", &more);
        if request.reference.is_some() {
            self.image_event("tag", &name, &image.id);
        }
        Ok(image.id)
    }

    fn make_image(
        &self,
        record: &Record,
        config: RunConfig,
        request: &CommitRequest,
    ) -> Result<Image, Error> {
        let doing = || format!("commit container {}", record.name);
        let lease = self.images.lease();
        let parent = ImageId(record.image_id);
        if let Some(chain_id) = &record.chain_id {
            lease.keep_layer(chain_id);
        }
        let (mut layers, base, parent) = match self.images.manifest(&parent) {
            Ok(manifest) => {
                let base = ImageConfig::clone(&*self.images.config(&parent).during(doing)?);
                (manifest.layers, base, Some(parent))
            }
            // Removed by force: its layers are there, because the container stands on them, but neither its config nor the
            // blobs that the new image's manifest must name.
            Err(e) if e.kind() == Kind::NotFound => {
                let (layers, base) = self.base_again(record, &lease).during(doing)?;
                (layers, base, None)
            }
            Err(e) => return Err(e).during(doing),
        };
        for layer in &layers {
            lease.keep_blob(&layer.digest);
        }
        let layer = self
            .images
            .commit_snapshot(&lease, record.id.as_str(), PLACES, Compression::None)
            .during(doing)?;
        let created = now();
        let history = History {
            created: Some(created.clone()),
            created_by: Some(record.config.cmd.as_ref().map(|c| c.0.join(" ")).unwrap_or_default()),
            author: Some(request.author.clone()).filter(|a| !a.is_empty()),
            comment: Some(request.comment.clone()).filter(|c| !c.is_empty()),
            empty_layer: false,
        };
        let host = Platform::host();
        let mut document = ImageConfig {
            created: Some(created),
            author: Some(request.author.clone()).filter(|a| !a.is_empty()),
            architecture: if base.architecture.is_empty() {
                host.architecture
            } else {
                base.architecture.clone()
            },
            os: if base.os.is_empty() { host.os } else { base.os.clone() },
            config: Some(config),
            container: Some(record.id.to_string()),
            container_config: serde_json::to_value(&record.config).ok(),
            ..base
        };
        image::push_layer(&mut document, layer.as_ref(), history).during(doing)?;
        layers.extend(layer.map(|layer| layer.descriptor));
        let references: Vec<Reference> = request.reference.iter().cloned().collect();
        self.images
            .assemble(&Assemble {
                config: &document,
                layers: &layers,
                references: &references,
                parent,
                lease: &lease,
                progress: &image::ignore,
            })
            .during(doing)
    }

    /// The layers that a container stands on, packed again, and what there is to say of them.
    fn base_again(
        &self,
        record: &Record,
        lease: &image::Lease,
    ) -> Result<(Vec<Descriptor>, ImageConfig), image::Error> {
        let layers = match &record.chain_id {
            Some(chain_id) => self.images.repack(chain_id, lease)?,
            None => Vec::new(),
        };
        let host = Platform::host();
        let mut base = ImageConfig {
            created: None,
            author: None,
            architecture: host.architecture,
            os: host.os,
            os_version: None,
            variant: host.variant,
            config: None,
            container: None,
            container_config: None,
            rootfs: RootFs { kind: "layers".into(), diff_ids: Vec::new() },
            history: Vec::new(),
            build_cache: None,
        };
        for layer in &layers {
            let comment = Some("of an image that was removed".to_string());
            image::push_layer(&mut base, Some(layer), History { comment, ..History::default() })?;
        }
        Ok((layers.into_iter().map(|layer| layer.descriptor).collect(), base))
    }

    /// Pauses a running container; the mark to be removed when it goes on. None when it ended meanwhile.
    async fn pause_for_commit(self: &Arc<Self>, container: &Container) -> Result<Option<PathBuf>, Error> {
        let mark = self.config.container_dir(container.id().as_str()).join(MARK);
        std::fs::write(&mark, b"").io_during(|| format!("create {}", mark.display()))?;
        match self.pause(container.id().as_str()).await {
            Ok(()) => Ok(Some(mark)),
            Err(e) => {
                drop(std::fs::remove_file(&mark));
                // Ended or paused meanwhile, perhaps so lately that the record does not say so yet.
                if e.kind() == Kind::WrongState { Ok(None) } else { Err(e) }
            }
        }
    }

    async fn end_commit_pause(self: &Arc<Self>, container: &Container, mark: &std::path::Path) {
        // Ended, or unpaused by someone, meanwhile: what was wanted has happened.
        if let Err(e) = self.unpause(container.id().as_str()).await {
            tracing::debug!(container_id = %container.id(), error = %errors::chain(&e), "unpause after a commit");
        }
        drop(std::fs::remove_file(mark));
    }

    /// Lets go on what a daemon that was killed in a commit has left paused.
    pub(crate) async fn end_lost_commit(self: &Arc<Self>, container: &Arc<Container>) {
        let mark = self.config.container_dir(container.id().as_str()).join(MARK);
        if !mark.exists() {
            return;
        }
        if container.status() == Status::Paused {
            tracing::info!(container_id = %container.id(), "going on: it was paused for a commit that was cut off");
        }
        self.end_commit_pause(container, &mark).await;
    }
}

/// What an image keeps of a container's config.
fn image_config(config: &Config) -> RunConfig {
    let text = |t: &String| Some(t.clone()).filter(|t| !t.is_empty());
    let map = |m: &BTreeMap<_, _>| Some(m.clone()).filter(|m| !m.is_empty());
    RunConfig {
        user: config.user.clone(),
        exposed_ports: map(&config.exposed_ports),
        env: Some(config.env.iter().filter(|e| e.contains('=')).cloned().collect::<Vec<_>>())
            .filter(|e| !e.is_empty()),
        entrypoint: config.entrypoint.as_ref().map(|w| w.0.clone()),
        cmd: config.cmd.as_ref().map(|w| w.0.clone()),
        volumes: config.volumes.clone().filter(|v| !v.is_empty()),
        working_dir: config.working_dir.clone(),
        labels: Some(config.labels.clone()).filter(|l| !l.is_empty()),
        stop_signal: text(&config.stop_signal),
        stop_timeout: config.stop_timeout,
        healthcheck: config.healthcheck.as_ref().and_then(|h| serde_json::to_value(h).ok()),
        on_build: config.on_build.clone(),
        shell: config.shell.clone(),
        args_escaped: config.args_escaped,
    }
}

/// Fills what `config` leaves open from the container's own, by Docker's rules.
fn fill(config: &mut RunConfig, own: &RunConfig) {
    if config.user.is_empty() {
        config.user.clone_from(&own.user);
    }
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&own.working_dir);
    }
    if config.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd.clone_from(&own.cmd);
        }
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&own.entrypoint);
        }
    }
    for (key, value) in own.labels.iter().flatten() {
        config.labels.get_or_insert_default().entry(key.clone()).or_insert_with(|| value.clone());
    }
    for (port, empty) in own.exposed_ports.iter().flatten() {
        config.exposed_ports.get_or_insert_default().insert(port.clone(), *empty);
    }
    for (path, empty) in own.volumes.iter().flatten() {
        config.volumes.get_or_insert_default().insert(path.clone(), *empty);
    }
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_string();
    for entry in own.env.iter().flatten() {
        let list = config.env.get_or_insert_default();
        if !list.iter().any(|e| name(e) == name(entry)) {
            list.push(entry.clone());
        }
    }
    if config.stop_signal.is_none() {
        config.stop_signal.clone_from(&own.stop_signal);
    }
    if config.stop_timeout.is_none() {
        config.stop_timeout = own.stop_timeout;
    }
    if config.healthcheck.is_none() {
        config.healthcheck.clone_from(&own.healthcheck);
    }
    if config.shell.is_none() {
        config.shell.clone_from(&own.shell);
    }
    if config.on_build.is_none() {
        config.on_build.clone_from(&own.on_build);
    }
}
