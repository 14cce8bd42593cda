//! What is made of the results of one request: documents in the content store, and an image of them. Several platforms have an
//! index.

use crate::annotations::Annotations;
use crate::attest::Attests;
use crate::error::{During, Error};
use crate::event::{Event, StepInfo};
use crate::request::Request;
use crate::solve::{Built, Solved, solve};
use dockerfile::Dockerfile;
use engine::{Engine, blocking};
use image::{Composed, Import};
use oci::{Descriptor, Platform, Reference};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Events of one platform that wait to be passed on.
const EVENTS: usize = 64;
/// Steps of a platform are numbered from a multiple of this.
const APART: usize = 1_000_000;
/// Platforms of one request.
const MAX_PLATFORMS: usize = 64;

/// A result for one platform.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub solved: Solved,
    pub platform: Platform,
    /// What is to be said of it.
    pub attests: Attests,
}

/// The documents of results.
#[derive(Debug, Clone)]
pub struct Documents {
    /// A manifest, or the index of several.
    pub target: Descriptor,
    pub composed: Vec<Composed>,
}

impl Documents {
    /// Puts manifests, what is said of them, and an index where there has to be one (`is_multi` says so for a single one) into
    /// the content store. Blocking.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for annotations of an index that there is not; what keeps something from being said.
    pub fn make(
        outcomes: &[Outcome],
        annotations: &Annotations,
        references: &[Reference],
        is_multi: bool,
    ) -> Result<Documents, Error> {
        let first = outcomes.first().ok_or_else(|| Error::invalid("a build without a result"))?;
        let mut said = Vec::new();
        let mut composed = Vec::new();
        let mut manifests = Vec::new();
        for Outcome { solved, platform, attests } in outcomes {
            let name = platform.to_string();
            let one = solved.compose(&annotations.manifest(&name))?;
            let mut entry = one.manifest.clone();
            entry.platform = Some(platform.clone());
            entry.annotations = annotations.manifest_descriptor(&name);
            said.extend(solved.attest(attests, platform, &entry.digest, references)?);
            manifests.push(entry);
            composed.push(one);
        }
        manifests.extend(said);
        let target = match (is_multi, manifests.as_slice()) {
            (false, [only]) => {
                annotations.refuse_index()?;
                Descriptor { platform: None, annotations: BTreeMap::new(), ..only.clone() }
            }
            _ => {
                let images = first.solved.engine.images();
                let mut index = images
                    .compose_index(manifests, annotations.index(), first.solved.lease())
                    .during(|| "make the index".into())?;
                index.annotations = annotations.index_descriptor();
                index
            }
        };
        Ok(Documents { target, composed })
    }

    /// Makes images of them under these names, the host's own platform last: it is what the names mean. That one. Blocking.
    ///
    /// # Errors
    ///
    /// When they cannot be kept.
    pub fn keep(&self, outcomes: &[Outcome], references: &[Reference]) -> Result<image::Image, Error> {
        let host = Platform::host();
        let mut all: Vec<&Outcome> = outcomes.iter().collect();
        all.sort_by_key(|outcome| outcome.platform.satisfies(&host));
        // What is said of the index belongs to who names it.
        let target = Descriptor { annotations: BTreeMap::new(), ..self.target.clone() };
        let mut last = None;
        for Outcome { solved, platform, .. } in all {
            let doing = || "make the image".to_string();
            let import = Import {
                target: &target,
                platform,
                references,
                lease: Some(&solved.lease),
                progress: &image::ignore,
            };
            let made = solved.engine.images().import_made(&import).during(doing)?;
            if let Some(parent) = solved.parent().filter(|parent| *parent != made.id) {
                let database = solved.engine.database();
                database.write(|tx| tx.put_image_parent(&made.id.0, &parent.0)).during(doing)?;
            }
            last = Some(made);
        }
        last.ok_or_else(|| Error::invalid("a build without a result"))
    }
}

/// As [`crate::build`], once for each platform and side by side; what they come to are one index.
///
/// # Errors
///
/// The first failure of any step.
pub async fn build_for(
    engine: Arc<Engine>,
    request: Request,
    file: Dockerfile,
    platforms: Vec<Platform>,
    events: mpsc::Sender<Event>,
) -> Result<Built, Error> {
    if platforms.len() > MAX_PLATFORMS {
        return Err(Error::invalid(format!("more than {MAX_PLATFORMS} platforms")));
    }
    let solving = platforms.into_iter().enumerate().map(|(at, platform)| {
        let (engine, file, events) = (engine.clone(), file.clone(), events.clone());
        let request = Request { platform: Some(platform.clone()), ..request.clone() };
        async move {
            let attests = request.attests.clone();
            let solved = solve_one(engine, request, file, &platform, at * APART, events).await?;
            Ok::<_, Error>(Outcome { solved, platform, attests })
        }
    });
    let outcomes = futures_util::future::try_join_all(solving).await?;
    let (annotations, references) = (request.annotations.clone(), request.references.clone());
    let made = outcomes.clone();
    let (image, target, images) = blocking(move || {
        let documents = Documents::make(&made, &annotations, &references, true)?;
        let image = documents.keep(&made, &references)?;
        let all = made.iter().zip(&documents.composed);
        let images =
            all.map(|(one, composed)| (one.platform.clone(), image::ImageId(composed.config))).collect();
        Ok::<_, Error>((image, documents.target, images))
    })
    .await?;
    let solved: Vec<&Solved> = outcomes.iter().map(|outcome| &outcome.solved).collect();
    crate::share::give_all(&solved, &request, &events).await?;
    let warnings = outcomes.first().map(|outcome| outcome.solved.warnings.clone()).unwrap_or_default();
    Ok(Built { image_id: image.id, manifest: target, warnings, images })
}

/// Solves for one platform; its steps are told with numbers and stages of their own.
async fn solve_one(
    engine: Arc<Engine>,
    request: Request,
    file: Dockerfile,
    platform: &Platform,
    from: usize,
    events: mpsc::Sender<Event>,
) -> Result<Solved, Error> {
    let (sender, mut receiver) = mpsc::channel(EVENTS);
    let pass_on = async {
        while let Some(event) = receiver.recv().await {
            drop(events.send(moved(event, from, platform)).await);
        }
    };
    let (solved, ()) = tokio::join!(solve(engine, request, file, sender), pass_on);
    solved
}

/// An event of a platform's own.
fn moved(event: Event, from: usize, platform: &Platform) -> Event {
    match event {
        Event::Planned(steps) => {
            let step = |info: StepInfo| {
                let stage =
                    if info.stage.is_empty() { String::new() } else { format!("{platform} {}", info.stage) };
                StepInfo { index: info.index + from, stage, ..info }
            };
            Event::Planned(steps.into_iter().map(step).collect())
        }
        Event::Started { index } => Event::Started { index: index + from },
        Event::Running { index, workspace } => Event::Running { index: index + from, workspace },
        Event::Output { index, is_stderr, bytes } => Event::Output { index: index + from, is_stderr, bytes },
        Event::Note { index, text } => Event::Note { index: index + from, text },
        Event::Finished { index, result } => Event::Finished { index: index + from, result },
        other => other,
    }
}
