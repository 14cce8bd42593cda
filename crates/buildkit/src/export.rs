//! What becomes of a result: an image, files for the client, archives, something at a registry.

use crate::board::Task;
use crate::client::{credentials, fresh};
use crate::job::{Job, Output};
use crate::options::boolean;
use crate::rpc::{Reply, stream_of};
use crate::server::Server;
use crate::status;
use crate::tree::{self, Pieces};
use crate::wire::{BytesMessage, SolveRequest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use build::{Annotations, Attests, Documents, Outcome};
use image::Root;
use oci::{Descriptor, Reference};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::metadata::AsciiMetadataValue;

/// One output that is wanted.
#[derive(Debug)]
pub(crate) struct Wanted {
    kind: Kind,
    references: Vec<Reference>,
    push: bool,
    /// An image is kept here; else it is only made, and pushed.
    store: bool,
    annotations: Annotations,
    /// Directories by platform also for one platform, or never.
    platform_split: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Image,
    Local,
    Tar,
    Oci,
    Docker,
}

/// What the client is told of an output.
#[derive(Debug, Default)]
pub(crate) struct Exported {
    pub(crate) answer: BTreeMap<String, String>,
    /// The manifest or index that was made for it.
    pub(crate) target: Option<Descriptor>,
}

impl Wanted {
    /// The outputs of a request.
    pub(crate) fn of(asked: &SolveRequest) -> Reply<Vec<Wanted>> {
        if asked.enable_session_exporter {
            return Err(Status::unimplemented("session exporters are not supported by this version of brig"));
        }
        let old = (!asked.exporter_deprecated.is_empty())
            .then_some((&asked.exporter_deprecated, &asked.exporter_attrs_deprecated));
        let all: Vec<_> = if asked.exporters.is_empty() {
            old.into_iter().collect()
        } else {
            asked.exporters.iter().map(|e| (&e.kind, &e.attrs)).collect()
        };
        all.into_iter().map(|(kind, attrs)| Wanted::parse(kind, attrs)).collect()
    }

    fn parse(kind: &str, attrs: &BTreeMap<String, String>) -> Reply<Wanted> {
        let kind = match kind {
            "moby" | "image" => Kind::Image,
            "local" => Kind::Local,
            "tar" => Kind::Tar,
            "oci" => Kind::Oci,
            "docker" => Kind::Docker,
            other => return Err(Status::unimplemented(format!("exporter {other:?} could not be found"))),
        };
        let mut out = Wanted {
            kind,
            references: Vec::new(),
            push: false,
            store: true,
            annotations: Annotations::default(),
            platform_split: None,
        };
        for (key, value) in attrs {
            out.take(key, value)?;
        }
        Ok(out)
    }

    fn take(&mut self, key: &str, value: &str) -> Reply<()> {
        let refuse = || {
            Status::unimplemented(format!(
                "the output option {key}={value} is not supported by this version of brig"
            ))
        };
        let flag = || if value.is_empty() { Ok(true) } else { boolean(key, value) };
        match key {
            "name" => {
                for name in value.split(',').filter(|n| !n.is_empty()) {
                    let reference: Reference = name
                        .parse()
                        .map_err(|e| Status::invalid_argument(format!("failed to parse {name}: {e}")))?;
                    self.references.push(reference.with_default_tag());
                }
            }
            "push" => self.push = flag()?,
            "store" => self.store = flag()?,
            "platform-split" => self.platform_split = Some(flag()?),
            // The image is unpacked where it was built, named only by its own names, and its documents are OCI's.
            "unpack" | "oci-mediatypes" | "name-canonical" if flag()? => {}
            // With SOURCE_DATE_EPOCH layers are made so, and without it there is nothing to rewrite to.
            "rewrite-timestamp" => drop(flag()?),
            "push-by-digest" | "registry.insecure" | "force-compression" | "buildinfo" | "oci-artifact"
            | "oci-mediatypes" | "unpack" | "name-canonical" => {
                let is_default = !flag()? || key == "unpack";
                // Insecure registries are a matter of the daemon's configuration.
                if !is_default && key != "name-canonical" {
                    return Err(refuse());
                }
                if key == "oci-mediatypes" {
                    return Err(refuse());
                }
            }
            "compression" if value == "gzip" => {}
            // Compose says so of an image that is to be here, which it is.
            "load" if flag()? => {}
            // How clients show an image's id: theirs to do.
            "prefer-image-digest" => {}
            // An archive is one file, which the client has agreed to by giving one.
            "tar" if flag()? => {}
            "mode" if value == "copy" || value.is_empty() => {}
            _ => match key.strip_prefix("annotation") {
                Some(rest) => {
                    let taken = self.annotations.option(rest, key, value);
                    taken.map_err(|e| Status::invalid_argument(e.text()))?;
                }
                None => return Err(refuse()),
            },
        }
        Ok(())
    }
}

/// Gives a result away as `wanted`.
pub(crate) async fn export(
    server: &Server,
    job: &Arc<Job>,
    index: usize,
    wanted: &Wanted,
    outputs: &[Arc<Output>],
) -> Reply<Exported> {
    match wanted.kind {
        Kind::Image => image(server, job, wanted, outputs).await,
        Kind::Local => local(server, job, index, wanted, outputs).await,
        Kind::Tar => tar(server, job, index, wanted, outputs).await,
        Kind::Oci | Kind::Docker => layout(server, job, index, wanted, outputs).await,
    }
}

/// What the client is told of documents.
fn answer(documents: &Documents, references: &[Reference]) -> BTreeMap<String, String> {
    let mut answer = BTreeMap::new();
    answer.insert("containerimage.digest".into(), documents.target.digest.to_string());
    if let [only] = documents.composed.as_slice() {
        answer.insert("containerimage.config.digest".into(), only.config.to_string());
    }
    let descriptor = serde_json::to_vec(&documents.target).unwrap_or_default();
    answer.insert("containerimage.descriptor".into(), STANDARD.encode(descriptor));
    if !references.is_empty() {
        let names: Vec<String> = references.iter().map(ToString::to_string).collect();
        answer.insert("image.name".into(), names.join(","));
    }
    answer
}

/// Runs on a thread that may block.
async fn blocking<T, F>(work: F) -> Reply<T>
where
    T: Send + 'static,
    F: FnOnce() -> Reply<T> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(Status::internal(e.to_string())))
}

/// The results with what is to be said of each.
fn outcomes(wanted: &Wanted, outputs: &[Arc<Output>]) -> Vec<Outcome> {
    let each = outputs.iter().map(|output| {
        let asked = &output.origin.attests;
        // Archives for `docker load` have one manifest. What nobody asked for is left out of them.
        let is_left_out = wanted.kind == Kind::Docker && asked.is_by_default();
        let attests = if is_left_out { Attests::default() } else { asked.clone() };
        Outcome { solved: output.solved.clone(), platform: output.platform.clone(), attests }
    });
    each.collect()
}

async fn documents(wanted: &Wanted, outputs: &[Arc<Output>]) -> Reply<Documents> {
    let (annotations, references) = (wanted.annotations.clone(), wanted.references.clone());
    let (is_docker, outcomes) = (wanted.kind == Kind::Docker, outcomes(wanted, outputs));
    let is_multi = outputs.iter().any(|o| o.origin.is_multi);
    blocking(move || {
        if is_docker && outcomes.iter().any(|outcome| !outcome.attests.is_empty()) {
            return Err(Status::invalid_argument(
                "docker exporter does not currently support exporting manifest lists",
            ));
        }
        Documents::make(&outcomes, &annotations, &references, is_multi)
            .map_err(|e| status::failed(&e, "", "", None))
    })
    .await
}

/// An image in the store, and at registries if it is to be pushed.
async fn image(server: &Server, job: &Arc<Job>, wanted: &Wanted, outputs: &[Arc<Output>]) -> Reply<Exported> {
    let task = Task::begin(&job.board, fresh(), "exporting to image");
    let stored = store(server, wanted, outputs).await;
    if let Ok(documents) = &stored {
        task.progress(&format!("writing image {}", documents.target.digest), 0, 0, true);
        for reference in &wanted.references {
            task.progress(&format!("naming to {reference}"), 0, 0, true);
        }
    }
    let documents = task.of(stored)?;
    if wanted.push {
        if wanted.references.is_empty() {
            return Err(Status::invalid_argument("tag is needed when pushing to registry"));
        }
        for reference in &wanted.references {
            let task = Task::begin(&job.board, fresh(), format!("pushing {}", reference.familiar()));
            task.of(push(server, job, reference).await)?;
        }
    }
    Ok(Exported { answer: answer(&documents, &wanted.references), target: Some(documents.target) })
}

async fn store(server: &Server, wanted: &Wanted, outputs: &[Arc<Output>]) -> Reply<Documents> {
    let documents = documents(wanted, outputs).await?;
    if !wanted.store && !wanted.push {
        return Ok(documents);
    }
    let (engine, references, outcomes) =
        (server.engine.clone(), wanted.references.clone(), outcomes(wanted, outputs));
    blocking(move || {
        let made = documents.keep(&outcomes, &references).map_err(|e| status::failed(&e, "", "", None))?;
        for reference in &references {
            engine.image_event("tag", &reference.familiar(), &made.id);
        }
        engine.image_event("build", &made.id.to_string(), &made.id);
        Ok(documents)
    })
    .await
}

async fn push(server: &Server, job: &Arc<Job>, reference: &Reference) -> Reply<()> {
    let auth = credentials(&job.session, reference.host()).await?;
    let (sender, mut receiver) = mpsc::channel(64);
    let drain = async { while receiver.recv().await.is_some() {} };
    let (pushed, ()) = tokio::join!(server.engine.push(reference, None, &auth, sender), drain);
    pushed.map_err(|e| status::of(&e))
}

/// The directories that a client gets: one, or one by platform.
async fn roots(
    server: &Server,
    wanted: &Wanted,
    outputs: &[Arc<Output>],
) -> Reply<(tree::Roots, Vec<engine::Workspace>)> {
    let is_split = wanted.platform_split.unwrap_or(outputs.iter().any(|o| o.origin.is_multi));
    if !is_split && outputs.len() > 1 {
        return Err(Status::unimplemented(
            "platform-split=false for several platforms is not supported by this version of brig",
        ));
    }
    let (engine, outputs) = (server.engine.clone(), outputs.to_vec());
    blocking(move || {
        let mut roots = Vec::new();
        let mut workspaces = Vec::new();
        for output in &outputs {
            let workspace =
                engine.open_workspace(output.solved.chain_id.as_ref()).map_err(|e| status::of(&e))?;
            let place = if is_split { output.platform.to_string().replace('/', "_") } else { String::new() };
            let predicates = output.solved.predicates(&output.origin.attests);
            predicates
                .and_then(|predicates| build::attest_files(workspace.root(), &predicates))
                .map_err(|e| status::failed(&e, "", "", None))?;
            roots.push((place, workspace.root().try_clone().map_err(|e| status::of(&e))?));
            workspaces.push(workspace);
        }
        roots.sort_by(|a, b| a.0.cmp(&b.0));
        Ok((roots, workspaces))
    })
    .await
}

fn epoch(outputs: &[Arc<Output>]) -> Option<i64> {
    outputs.first()?.solved.epoch
}

/// Files into a directory of the client's.
async fn local(
    server: &Server,
    job: &Arc<Job>,
    index: usize,
    wanted: &Wanted,
    outputs: &[Arc<Output>],
) -> Reply<Exported> {
    let task = Task::begin(&job.board, fresh(), "exporting to client directory");
    let sent = async {
        let (roots, workspaces) = roots(server, wanted, outputs).await?;
        tree::send(&job.session, index, roots, workspaces, epoch(outputs)).await
    };
    let sent = sent.await;
    if let Ok(bytes) = &sent {
        task.progress("copying files", *bytes, *bytes, true);
    }
    task.of(sent)?;
    Ok(Exported::default())
}

/// Hands a client's output what `write` writes, on a thread that may block.
async fn one_file<F>(job: &Arc<Job>, index: usize, more: &BTreeMap<String, String>, write: F) -> Reply<()>
where
    F: FnOnce(Pieces) -> Reply<()> + Send + 'static,
{
    if !job.session.serves(tree::SEND) {
        return Err(Status::failed_precondition(format!(
            "method {} not supported by the client",
            tree::SEND
        )));
    }
    let mut metadata = tree::for_exporter(index);
    for (key, value) in more {
        let name = tonic::metadata::AsciiMetadataKey::from_bytes(format!("exporter-md-{key}").as_bytes());
        if let (Ok(name), Ok(value)) = (name, AsciiMetadataValue::try_from(value.as_str())) {
            metadata.insert(name, value);
        }
    }
    let (sender, receiver) = mpsc::channel::<BytesMessage>(8);
    let caller = job.session.caller.clone();
    let answer = tokio::spawn(async move {
        let mut answers =
            caller.streams::<_, BytesMessage>(tree::SEND, stream_of(receiver), metadata).await?;
        // Nothing comes; the end says that the client has written all.
        while answers.message().await?.is_some() {}
        Ok::<_, Status>(())
    });
    let written = blocking(move || write(Pieces(sender))).await;
    let answered = answer.await.unwrap_or_else(|e| Err(Status::internal(e.to_string())));
    // The client's reason tells more than that it listened no longer.
    answered.and(written)
}

/// Files as a tar archive.
async fn tar(
    server: &Server,
    job: &Arc<Job>,
    index: usize,
    wanted: &Wanted,
    outputs: &[Arc<Output>],
) -> Reply<Exported> {
    let task = Task::begin(&job.board, fresh(), "exporting to client tarball");
    let (roots, workspaces) = roots(server, wanted, outputs).await?;
    let latest_s = epoch(outputs);
    let sent = one_file(job, index, &BTreeMap::new(), move |mut out| {
        let [(place, root)] = roots.as_slice() else {
            return Err(Status::unimplemented(
                "tar output for several platforms is not supported by this version of brig",
            ));
        };
        if !place.is_empty() {
            return Err(Status::unimplemented(
                "platform-split for tar output is not supported by this version of brig",
            ));
        }
        let options = archive::PackOptions { latest_s, ..archive::PackOptions::default() };
        let packed = archive::pack(&mut out, root, std::path::Path::new("."), &options);
        drop(workspaces);
        packed.map(drop).map_err(|e| status::of(&e))
    })
    .await;
    task.of(sent)?;
    Ok(Exported::default())
}

/// An archive of the OCI layout, or one for `docker load`.
async fn layout(
    server: &Server,
    job: &Arc<Job>,
    index: usize,
    wanted: &Wanted,
    outputs: &[Arc<Output>],
) -> Reply<Exported> {
    let is_docker = wanted.kind == Kind::Docker;
    let name = if is_docker { "exporting to docker image format" } else { "exporting to oci image format" };
    let task = Task::begin(&job.board, fresh(), name);
    let sent = async {
        let documents = documents(wanted, outputs).await?;
        if is_docker && documents.composed.len() > 1 {
            return Err(Status::invalid_argument(
                "docker exporter does not currently support exporting manifest lists",
            ));
        }
        let (answer, target) = (answer(&documents, &wanted.references), documents.target.clone());
        let root = Root { target: documents.target, references: wanted.references.clone(), is_docker };
        let (engine, lease) = (server.engine.clone(), outputs[0].solved.lease().clone());
        let kept = outputs.to_vec();
        one_file(job, index, &answer, move |out| {
            let written = engine.images().write_layout(
                &root,
                &lease,
                std::io::BufWriter::with_capacity(256 << 10, out),
            );
            drop(kept);
            written.map_err(|e| status::of(&e))
        })
        .await?;
        Ok(Exported { answer, target: Some(target) })
    };
    task.of(sent.await)
}
