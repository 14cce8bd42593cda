//! From a request to an image: bases, stages side by side, the image.

use crate::annotations::Annotations;
use crate::attest::{self, Attests, Beside, Capture};
use crate::cache::{self, Keeper, News};
use crate::error::{During, Error};
use crate::event::{Event, StepResult};
use crate::plan::{self, Plan, Source, StagePlan};
use crate::request::Request;
use crate::several::{Documents, Outcome};
use crate::share::{self, Lent, Trail, Trodden};
use crate::stage::{StageState, run_stage};
use base64::Engine as _;
use dockerfile::{Dockerfile, Instruction};
use engine::Engine;
use engine::blocking;
use image::{ImageId, Lease};
use oci::image::ImageConfig;
use oci::{Descriptor, Digest, Platform, Reference};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc, watch};

/// What a build came to.
#[derive(Debug, Clone)]
pub struct Built {
    pub image_id: ImageId,
    pub manifest: Descriptor,
    pub warnings: Vec<dockerfile::Warning>,
    /// The image of each platform, where several were asked for.
    pub images: Vec<(Platform, ImageId)>,
}

/// An image that something starts from.
#[derive(Debug, Clone)]
pub(crate) struct Base {
    pub(crate) id: Option<ImageId>,
    /// What its name leads to at a registry: an index, or its manifest.
    pub(crate) target: Option<Digest>,
    pub(crate) config: ImageConfig,
    pub(crate) layers: Vec<Descriptor>,
    pub(crate) chain_id: Option<Digest>,
}

/// What all stages share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) engine: Arc<Engine>,
    pub(crate) request: Request,
    pub(crate) plan: Plan,
    pub(crate) lease: Arc<Lease>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) keeper: mpsc::UnboundedSender<News>,
    /// Images by name and platform.
    pub(crate) bases: BTreeMap<Source, Base>,
    /// Finished stages.
    pub(crate) done: BTreeMap<usize, watch::Receiver<Option<Arc<StageState>>>>,
    pub(crate) epoch: Option<i64>,
    /// When the build began: RFC 3339.
    pub(crate) began: String,
    /// Networks that no step uses at the moment, by mode.
    pub(crate) networks: Arc<Mutex<Vec<(String, engine::StepNetwork)>>>,
    /// What shared caches offer.
    pub(crate) lent: Arc<Lent>,
    /// The steps that were gone through.
    pub(crate) trail: Arc<Trail>,
    /// What went in.
    pub(crate) capture: Arc<Capture>,
}

impl Shared {
    pub(crate) async fn tell(&self, event: Event) {
        // Who has stopped listening has also dropped the build, or does not care.
        drop(self.events.send(event).await);
    }

    /// Waits for a stage that is being built.
    pub(crate) async fn stage(&self, index: usize) -> Result<Arc<StageState>, Error> {
        let mut receiver = self.done.get(&index).expect("the plan has what is needed").clone();
        match receiver.wait_for(Option::is_some).await {
            Ok(state) => Ok(state.clone().expect("waited for it")),
            // Its own failure is told; this one is not seen.
            Err(_) => Err(Error::Elsewhere),
        }
    }
}

/// What a build came to, before anything is made of it. Its layers stay for as long as it lives.
#[derive(Debug, Clone)]
pub struct Solved {
    pub(crate) engine: Arc<Engine>,
    pub(crate) lease: Arc<Lease>,
    pub config: ImageConfig,
    /// Bottom first.
    pub layers: Vec<Descriptor>,
    /// Topmost layer; none for no files at all.
    pub chain_id: Option<Digest>,
    /// Seconds since 1970 that no time of it passes.
    pub epoch: Option<i64>,
    /// The image that it was made from.
    parent: Option<ImageId>,
    /// For who shares the cache.
    pub(crate) trail: Arc<Trodden>,
    pub(crate) lent: Arc<Lent>,
    pub(crate) origin: Arc<attest::Origin>,
    /// What a list of packages is to be made of besides.
    pub(crate) beside: Arc<Vec<Beside>>,
    /// What is to be said of it.
    pub attests: Attests,
    pub warnings: Vec<dockerfile::Warning>,
}

impl Solved {
    /// Makes an image of it, with these names; they may be none. With what is to be said of it, in an index.
    async fn image(&self, references: &[Reference], annotations: &Annotations) -> Result<Built, Error> {
        let (solved, references, annotations) = (self.clone(), references.to_vec(), annotations.clone());
        let (image, manifest) = blocking(move || {
            let (platform, attests) = (solved.config.platform(), solved.attests.clone());
            let outcomes = [Outcome { solved, platform, attests }];
            let documents = Documents::make(&outcomes, &annotations, &references, false)?;
            Ok::<_, Error>((documents.keep(&outcomes, &references)?, documents.target))
        })
        .await?;
        Ok(Built { image_id: image.id, manifest, warnings: self.warnings.clone(), images: Vec::new() })
    }

    /// Puts its config and manifest into the content store, and makes no image of them. Blocking.
    pub fn compose(&self, annotations: &BTreeMap<String, String>) -> Result<image::Composed, Error> {
        let images = self.engine.images();
        images
            .compose(&self.config, &self.layers, annotations, &self.lease)
            .during(|| "make the image".into())
    }

    /// An image that was not built: what a context's name means.
    pub(crate) fn of_image(
        engine: Arc<Engine>,
        lease: Arc<Lease>,
        config: ImageConfig,
        layers: Vec<Descriptor>,
        chain_id: Option<Digest>,
    ) -> Solved {
        Solved {
            engine,
            lease,
            config,
            layers,
            chain_id,
            epoch: None,
            parent: None,
            trail: Arc::default(),
            lent: Arc::default(),
            origin: Arc::default(),
            beside: Arc::default(),
            attests: Attests::default(),
            warnings: Vec::new(),
        }
    }

    /// The image that it was made from.
    pub fn parent(&self) -> Option<ImageId> {
        self.parent
    }

    /// Keeps from being collected what the result needs.
    pub fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }
}

/// Builds an image. Dropping the future ends what runs; what was finished stays in the cache.
///
/// # Errors
///
/// The first failure of any step.
pub async fn build(
    engine: Arc<Engine>,
    request: Request,
    file: Dockerfile,
    events: mpsc::Sender<Event>,
) -> Result<Built, Error> {
    let references = request.references.clone();
    let asked = request.clone();
    let solved = solve(engine, request, file, events.clone()).await?;
    let built = solved.image(&references, &asked.annotations).await?;
    share::give_all(&[&solved], &asked, &events).await?;
    Ok(built)
}

/// Builds up to the files and the config of an image, and makes none.
///
/// # Errors
///
/// As [`build`].
pub async fn solve(
    engine: Arc<Engine>,
    mut request: Request,
    mut file: Dockerfile,
    events: mpsc::Sender<Event>,
) -> Result<Solved, Error> {
    crate::syntax::check(&request, &file)?;
    if let Some(text) = request.build_arg("BUILDKIT_DOCKERFILE_CHECK") {
        let checks = dockerfile::Checks::parse(text).map_err(|m| {
            Error::invalid(format!("failed to parse build-arg:BUILDKIT_DOCKERFILE_CHECK: {m}"))
        })?;
        file.directives.checks = file.directives.checks.merged(&checks);
    }
    if request.hostname.is_empty()
        && let Some(name) = request.build_arg("BUILDKIT_SANDBOX_HOSTNAME")
    {
        request.hostname = name.to_string();
    }
    let lease = Arc::new(engine.images().lease());
    let mut warnings = request.context.check(&file);
    for warning in &warnings {
        drop(events.send(Event::Warning(warning.clone())).await);
    }
    if file.directives.checks.error && !warnings.is_empty() {
        return Err(Error::invalid("lint violation found for rules: ".to_string() + &rules(&warnings)));
    }
    let started = jiff::Timestamp::now().to_string();
    let (plan, bases) = make_plan(&engine, &request, file, &lease, &events).await?;
    let epoch = request.epoch(plan.global.get("SOURCE_DATE_EPOCH"))?;
    for warning in base_platforms(&plan, &bases) {
        drop(events.send(Event::Warning(warning.clone())).await);
        warnings.push(warning);
    }
    drop(events.send(Event::Planned(plan.infos.clone())).await);
    if let (Some(client), Some(paths)) = (request.client.clone(), plan::context_paths(&plan))
        && let Some(context) = client.context(paths).await.map_err(Error::invalid)?
    {
        request.context = context;
    }
    for index in 0..plan.file.global.len() {
        drop(events.send(Event::Started { index }).await);
        let result = StepResult { image_id: String::new(), from_cache: false };
        drop(events.send(Event::Finished { index, result }).await);
    }
    let capture = Arc::new(Capture::default());
    for (source, base) in &bases {
        let (Source::Image { name, .. }, Some(digest)) = (source, base.target) else { continue };
        capture.image(name, &base.config.platform(), digest);
    }
    for context in [&request.context].into_iter().chain(request.contexts.values()) {
        context.material.iter().for_each(|material| capture.material(material.clone()));
    }
    let wants_inline = wants_inline(&request)?;
    let lent = Arc::new(Lent::new(share::import(&engine, &request, &lease, &events).await));
    let keeper = Keeper::start(engine.clone(), lease.clone());
    let mut shared = Shared {
        engine: engine.clone(),
        keeper: keeper.sender(),
        request,
        plan,
        lease: lease.clone(),
        events,
        bases,
        done: BTreeMap::new(),
        epoch,
        began: match epoch {
            Some(seconds) => timestamp(seconds),
            None => jiff::Timestamp::now().to_string(),
        },
        networks: Arc::default(),
        lent: lent.clone(),
        trail: Arc::default(),
        capture,
    };
    let solved = loop {
        match run_all(&mut shared).await {
            // What was done is remembered; what was relied on in vain is not relied on again.
            Err(Error::Lost { message }) if !lent.is_empty() => {
                shared.tell(Event::CacheLost { why: message }).await;
            }
            result => break result,
        }
    };
    // Taken down beside what is left to do.
    let networks = std::mem::take(&mut *shared.networks.lock().await);
    let closing = tokio::task::spawn_blocking(move || drop(networks));
    let (state, beside) = match solved {
        Ok(solved) => solved,
        Err(e) => {
            drop(closing.await);
            return Err(e);
        }
    };
    let labels = shared.request.labels.clone();
    let (captured, source) = (shared.capture.all(), &shared.plan.file.source);
    let origin = Arc::new(attest::Origin::of(&shared.request, captured, &started, source));
    let attests = shared.request.attests.clone();
    let beside = Arc::new(beside);
    let trail = shared.trail.take();
    let (here, taken) = (engine.clone(), lent.rows());
    let present = blocking(move || cache::present(&here, taken)).await.map(|rows| {
        rows.into_iter().for_each(|row| drop(shared.keeper.send(News { row, flight: None })));
    });
    drop(shared);
    let kept = keeper.finish().await;
    drop(closing.await);
    present.and(kept)?;
    let mut config = state.document();
    if !labels.is_empty() {
        let run = config.config.get_or_insert_default();
        run.labels.get_or_insert_default().extend(labels);
    }
    let (layers, chain_id, parent) = (state.layers.clone(), state.chain_id, state.base_id);
    if wants_inline {
        let diff_ids = config.rootfs.diff_ids.iter();
        let own: Vec<(Digest, Digest)> = layers.iter().map(|l| l.digest).zip(diff_ids.copied()).collect();
        let records = share::format::inline(&trail.records, &own);
        config.build_cache = Some(base64::engine::general_purpose::STANDARD.encode(records));
    }
    let trail = Arc::new(trail);
    Ok(Solved {
        engine,
        lease,
        config,
        layers,
        chain_id,
        epoch,
        parent,
        trail,
        lent,
        origin,
        beside,
        attests,
        warnings,
    })
}

/// The stages, and the context, that arguments say are to be looked into for packages besides the result.
async fn beside(shared: &Shared) -> Result<Vec<Beside>, Error> {
    let mut out = Vec::new();
    let mut has_context = false;
    for index in shared.plan.stages.keys() {
        let state = shared.stage(*index).await?;
        let name = shared.plan.file.stages[*index].name.clone();
        let name = name.map_or_else(|| index.to_string(), |name| name.to_lowercase());
        let is_meant = |arg: &str| {
            let declared =
                state.args.iter().rev().find(|(own, _)| own == arg).map(|(_, value)| value.as_ref());
            // Before the first FROM it holds for all stages.
            let value = declared.unwrap_or_else(|| shared.plan.global.get(arg));
            value.is_some_and(|value| attest::is_meant(value, &name))
        };
        if *index != shared.plan.target && is_meant(attest::SCAN_STAGE) {
            shared.lent.fetch(&shared.engine, &shared.lease, state.chain_id).await?;
            out.push(Beside::Stage { name: name.clone(), chain_id: state.chain_id });
        }
        if is_meant(attest::SCAN_CONTEXT) && !std::mem::replace(&mut has_context, true) {
            out.push(Beside::Context(shared.request.context.clone()));
        }
    }
    Ok(out)
}

/// Whether the image's config is to have the cache.
fn wants_inline(request: &Request) -> Result<bool, Error> {
    Ok(inline_cache(request.build_arg(INLINE_CACHE))?.unwrap_or(request.inline_cache))
}

/// The build argument that puts the cache into the config of the image.
pub const INLINE_CACHE: &str = "BUILDKIT_INLINE_CACHE";

/// What the value of [`INLINE_CACHE`] says, if there is one: the words are those of Go's `ParseBool`.
///
/// # Errors
///
/// InvalidArgument for other words.
pub fn inline_cache(value: Option<&str>) -> Result<Option<bool>, Error> {
    match value {
        None | Some("") => Ok(None),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
        // As if it were not said: what else asks for it counts.
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(None),
        Some(other) => Err(Error::invalid(format!("invalid {INLINE_CACHE}: {other:?}"))),
    }
}

/// Runs all stages, and finds what else is looked into for packages.
async fn run_all(shared: &mut Shared) -> Result<(Arc<StageState>, Vec<Beside>), Error> {
    let state = run_stages(shared).await?;
    let has_packages = shared.request.attests.has_packages();
    let beside = if has_packages { beside(shared).await? } else { Vec::new() };
    Ok((state, beside))
}

/// Runs all stages, side by side. Nothing of it runs any more when it returns.
async fn run_stages(shared: &mut Shared) -> Result<Arc<StageState>, Error> {
    let mut senders = BTreeMap::new();
    shared.done.clear();
    for index in shared.plan.stages.keys() {
        let (sender, receiver) = watch::channel(None);
        shared.done.insert(*index, receiver);
        senders.insert(*index, sender);
    }
    shared.trail = Arc::default();
    let target = shared.plan.target;
    let shared = Arc::new(shared.clone());
    let mut tasks = tokio::task::JoinSet::new();
    for (index, sender) in senders {
        let shared = shared.clone();
        tasks.spawn(async move {
            let state = run_stage(&shared, index).await?;
            sender.send_replace(Some(Arc::new(state)));
            // What waits for this stage must still find it.
            Ok::<_, Error>(sender)
        });
    }
    let mut kept = Vec::new();
    let mut failure = None;
    while let Some(joined) = tasks.join_next().await {
        match joined {
            Ok(Ok(sender)) => kept.push(sender),
            Ok(Err(e)) => {
                if failure.is_none() || matches!(failure, Some(Error::Elsewhere)) {
                    failure = Some(e);
                }
                tasks.abort_all();
            }
            Err(e) if e.is_cancelled() => {}
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        }
    }
    if let Some(e) = failure {
        return Err(e);
    }
    let state = shared.stage(target).await?;
    // An image has its layers, wherever they were.
    shared.lent.fetch(&shared.engine, &shared.lease, state.chain_id).await?;
    Ok(state)
}

/// Base images that are for another platform than their stage.
fn base_platforms(plan: &Plan, bases: &BTreeMap<Source, Base>) -> Vec<dockerfile::Warning> {
    let mut out = Vec::new();
    for (index, stage) in &plan.stages {
        let (Source::Image { name, .. }, Some(base)) = (&stage.base, bases.get(&stage.base)) else {
            continue;
        };
        let found = Platform {
            os: base.config.os.clone(),
            architecture: base.config.architecture.clone(),
            variant: base.config.variant.clone(),
            ..stage.platform.clone()
        };
        if (&found.os, &found.architecture) != (&stage.platform.os, &stage.platform.architecture) {
            let (found, expected) = (found.to_string(), stage.platform.to_string());
            let stage = &plan.file.stages[*index];
            out.extend(dockerfile::check_base_platform(&plan.file, stage, name, &found, &expected));
        }
    }
    out
}

/// Names of the rules that were broken, each once.
fn rules(warnings: &[dockerfile::Warning]) -> String {
    let names: BTreeSet<String> = warnings.iter().map(|w| w.rule.name()).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

pub(crate) fn timestamp(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "1970-01-01T00:00:00Z".into(), |t| t.to_string())
}

/// Follows the target to all that it needs, pulling base images on the way because their triggers may need more.
async fn make_plan(
    engine: &Arc<Engine>,
    request: &Request,
    file: Dockerfile,
    lease: &Arc<Lease>,
    events: &mpsc::Sender<Event>,
) -> Result<(Plan, BTreeMap<Source, Base>), Error> {
    let target = file.target(&request.target).map_err(|e| Error::invalid(e.to_string()))?;
    let build_platform = Platform::host();
    let target_platform = request.platform.clone().unwrap_or_else(Platform::host);
    let automatic = plan::platform_args(&build_platform, &target_platform, &request.target);
    let global = plan::global_args(&file, request, &automatic)?;
    let mut bases: BTreeMap<Source, Base> = BTreeMap::new();
    let mut found: BTreeMap<usize, (Source, Platform, Vec<Instruction>)> = BTreeMap::new();
    let mut pending = vec![target];
    while let Some(index) = pending.pop() {
        if found.contains_key(&index) {
            continue;
        }
        let (mut base, platform_text) = plan::base_of(&file, request, &global, index)?;
        let platform = match &platform_text {
            Some(text) => {
                text.parse().map_err(|e| Error::invalid(format!("failed to parse platform {text}: {e}")))?
            }
            None => target_platform.clone(),
        };
        if let Source::Image { platform: wanted, .. } = &mut base {
            *wanted = platform_text.clone().or_else(|| request.platform.as_ref().map(ToString::to_string));
        }
        let mut triggers = Vec::new();
        match &base {
            Source::Image { .. } => {
                let image = fetch(engine, request, lease, events, &base, &mut bases).await?;
                for text in image.config.config.iter().flat_map(|c| c.on_build.iter().flatten()) {
                    triggers.push(trigger(text)?);
                }
            }
            Source::Stage(other) => {
                pending.push(*other);
                for instruction in &file.stages[*other].instructions {
                    if let dockerfile::Kind::OnBuild { trigger, heredocs } = &instruction.kind {
                        let escape = file.directives.escape;
                        let read = Instruction::parse_trigger(trigger, heredocs, escape);
                        triggers.push(read.map_err(|e| plan::at(&file, instruction, &e.token, e.message))?);
                    }
                }
            }
            Source::Scratch | Source::Context(_) => {}
        }
        let all: Vec<&Instruction> = triggers.iter().chain(&file.stages[index].instructions).collect();
        for need in plan::needs(&file, request, index, &all) {
            match &need {
                Source::Stage(other) => pending.push(*other),
                Source::Image { .. } => drop(fetch(engine, request, lease, events, &need, &mut bases).await?),
                Source::Scratch | Source::Context(_) => {}
            }
        }
        found.insert(index, (base, platform, triggers));
    }
    let needed: BTreeSet<usize> = found.keys().copied().collect();
    let (infos, heads) = plan::describe(&file, &needed);
    let mut stages = BTreeMap::new();
    for (index, (base, platform, triggers)) in found {
        let head = heads[&index];
        let steps = (head + 1..).zip(file.stages[index].instructions.iter().cloned()).collect();
        stages.insert(index, StagePlan { base, platform, triggers, head, steps });
    }
    let plan = Plan { file, target, global, stages, infos };
    Ok((plan, bases))
}

/// A trigger of an image's config: its here-documents stand behind its first line.
fn trigger(text: &str) -> Result<Instruction, Error> {
    let whole = Dockerfile::parse("ONBUILD", &format!("FROM scratch\n{text}\n"));
    let stage = whole.ok().and_then(|mut f| f.stages.pop());
    let instruction =
        stage.and_then(|mut s| if s.instructions.len() == 1 { s.instructions.pop() } else { None });
    instruction.ok_or_else(|| Error::invalid(format!("invalid ONBUILD trigger of the base image: {text:?}")))
}

/// Finds an image here, or pulls it.
async fn fetch(
    engine: &Arc<Engine>,
    request: &Request,
    lease: &Arc<Lease>,
    events: &mpsc::Sender<Event>,
    source: &Source,
    bases: &mut BTreeMap<Source, Base>,
) -> Result<Base, Error> {
    if let Some(base) = bases.get(source) {
        return Ok(base.clone());
    }
    let Source::Image { name, platform } = source else { return Err(Error::invalid("no image is named")) };
    if let Some(result) = name.strip_prefix(plan::RESULT).and_then(|name| request.context_results.get(name)) {
        let Solved { config, layers, chain_id, .. } = result.clone();
        if let Some(chain_id) = &chain_id {
            lease.keep_layer(chain_id);
        }
        layers.iter().for_each(|layer| lease.keep_blob(&layer.digest));
        let base = Base { id: None, target: None, config, layers, chain_id };
        bases.insert(source.clone(), base.clone());
        return Ok(base);
    }
    let wanted: Option<Platform> = match platform {
        Some(text) => {
            Some(text.parse().map_err(|e| Error::invalid(format!("failed to parse platform {text}: {e}")))?)
        }
        None => None,
    };
    let here = if request.pull { None } else { load(engine, lease, name).await? };
    let fits = |base: &Base| {
        wanted.as_ref().is_none_or(|p| p.os == base.config.os && p.architecture == base.config.architecture)
    };
    let base = match here.filter(fits) {
        Some(base) => base,
        None => {
            let reference: Reference = name
                .parse::<Reference>()
                .map(Reference::with_default_tag)
                .map_err(|e| Error::invalid(format!("failed to parse reference {name:?}: {e}")))?;
            pull(engine, request, events, &reference, wanted.unwrap_or_else(Platform::host)).await?;
            load(engine, lease, name).await?.ok_or_else(|| {
                Error::invalid(format!("image {name} was removed while it was being built from"))
            })?
        }
    };
    bases.insert(source.clone(), base.clone());
    Ok(base)
}

async fn pull(
    engine: &Arc<Engine>,
    request: &Request,
    events: &mpsc::Sender<Event>,
    reference: &Reference,
    platform: Platform,
) -> Result<(), Error> {
    let (sender, mut receiver) = mpsc::channel(64);
    let auth = request.credentials(reference.host()).await?;
    let (events, name) = (events.clone(), reference.familiar());
    let forward = async move {
        while let Some(event) = receiver.recv().await {
            drop(events.send(Event::Pull { name: name.clone(), event }).await);
        }
    };
    let (pulled, ()) = tokio::join!(engine.pull(reference, &platform, &auth, sender), forward);
    // What the engine says is the whole story.
    pulled.map(drop).during(String::new)
}

async fn load(engine: &Arc<Engine>, lease: &Arc<Lease>, name: &str) -> Result<Option<Base>, Error> {
    let (images, lease, name) = (engine.images().clone(), lease.clone(), name.to_string());
    blocking(move || {
        use errors::HasKind;
        let image = match images.get(&name) {
            Ok(image) => image,
            Err(e) if e.kind() == errors::Kind::NotFound => return Ok(None),
            Err(e) => return Err(e).during(|| format!("find image {name}")),
        };
        let doing = || format!("read image {name}");
        if let Some(chain_id) = &image.chain_id {
            lease.keep_layer(chain_id);
        }
        // Another storage driver may have had it before.
        images.ensure_unpacked(&image.id).during(doing)?;
        let config = ImageConfig::clone(&*images.config(&image.id).during(doing)?);
        let layers = images.manifest(&image.id).during(doing)?.layers;
        for layer in &layers {
            lease.keep_blob(&layer.digest);
        }
        let (id, target) = (Some(image.id), Some(image.target.digest));
        Ok(Some(Base { id, target, config, layers, chain_id: image.chain_id }))
    })
    .await
}
