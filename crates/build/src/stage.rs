//! One stage: instruction after instruction, each sees the state that the one before left.

use crate::cache::{self, News, Outcome};
use crate::error::{During, Error};
use crate::event::{Event, StepResult};
use crate::flight::{self, Turn};
use crate::plan::{self, Source, StagePlan};
use crate::solve::Shared;
use dockerfile::{Arg, Change, Expander, Heredoc, Instruction, Kind};
use engine::blocking;
use image::ImageId;
use oci::image::{History, ImageConfig, RootFs, RunConfig};
use oci::{Descriptor, Digest};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What every image has when it says nothing.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What history says of who made an entry: clients know the format of the text by it.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// Arguments that need not be declared: they reach commands, and count for no key unless they are declared.
pub(crate) const PROXIES: &[&str] = &[
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// An image in the making.
#[derive(Debug, Clone)]
pub(crate) struct StageState {
    pub(crate) base_id: Option<ImageId>,
    pub(crate) config: ImageConfig,
    pub(crate) layers: Vec<Descriptor>,
    pub(crate) chain_id: Option<Digest>,
    /// Declared arguments, with their values where they have one, in order.
    pub(crate) args: Vec<(String, Option<String>)>,
    /// When the newest layer was made.
    created: Option<String>,
    /// The time of the last step that changed the config alone is that of this build, for want of another.
    is_dated_now: bool,
    has_cmd: bool,
    /// Key of the step that led here.
    pub(crate) key: Option<Digest>,
    /// Triggers of ONBUILD said in this stage.
    escape: char,
}

impl StageState {
    fn scratch(escape: char) -> StageState {
        StageState {
            base_id: None,
            config: ImageConfig {
                created: None,
                author: None,
                architecture: String::new(),
                os: String::new(),
                os_version: None,
                variant: None,
                config: Some(RunConfig::default()),
                container: None,
                container_config: None,
                rootfs: RootFs { kind: "layers".into(), diff_ids: Vec::new() },
                history: Vec::new(),
                build_cache: None,
            },
            layers: Vec::new(),
            chain_id: None,
            args: Vec::new(),
            created: None,
            is_dated_now: false,
            has_cmd: false,
            key: None,
            escape,
        }
    }

    /// The config as it would be if the image ended here.
    pub(crate) fn document(&self) -> ImageConfig {
        ImageConfig { created: self.created.clone(), ..self.config.clone() }
    }

    fn id(&self) -> String {
        Digest::of(&serde_json::to_vec(&self.document()).unwrap_or_default()).to_string()
    }

    pub(crate) fn run(&self) -> &RunConfig {
        self.config.config.as_ref().expect("set when a stage begins")
    }

    fn run_mut(&mut self) -> &mut RunConfig {
        self.config.config.get_or_insert_default()
    }

    /// The value of a variable: ENV goes before ARG.
    fn value(&self, name: &str) -> Option<String> {
        let env = self.run().env.iter().flatten().rev();
        let from_env =
            env.filter_map(|e| e.split_once('=')).find(|(k, _)| *k == name).map(|(_, v)| v.to_string());
        from_env.or_else(|| self.args.iter().rev().find(|(k, _)| k == name).and_then(|(_, v)| v.clone()))
    }

    /// Expands a word with the values of this moment.
    pub(crate) fn expand(&self, word: &str) -> Result<String, String> {
        Expander::new(self.escape, &|name| self.value(name)).text(word)
    }

    pub(crate) fn expand_heredoc(&self, heredoc: &Heredoc) -> Result<String, String> {
        if !heredoc.expands {
            return Ok(heredoc.content.clone());
        }
        Expander::new(self.escape, &|name| self.value(name)).heredoc(&heredoc.content).map(|e| e.text)
    }

    pub(crate) fn working_dir(&self) -> &str {
        match self.run().working_dir.as_str() {
            "" => "/",
            dir => dir,
        }
    }

    /// The environment of commands: the image's, and the arguments that it does not hide.
    pub(crate) fn environment(&self) -> Vec<String> {
        let mut env: Vec<String> = self.run().env.clone().unwrap_or_default();
        for (name, value) in &self.args {
            let prefix = format!("{name}=");
            if let Some(value) = value
                && !env.iter().any(|e| e.starts_with(&prefix))
            {
                env.push(format!("{prefix}{value}"));
            }
        }
        env
    }

    /// Adds a step that changed no file.
    fn note(&mut self, shared: &Shared, created_by: String) {
        let created = match (&self.created, shared.epoch) {
            (_, Some(_)) | (None, None) => shared.began.clone(),
            (Some(created), None) => created.clone(),
        };
        self.is_dated_now |= self.created.is_none();
        self.created.get_or_insert_with(|| created.clone());
        self.push_history(created, created_by, true);
    }

    /// The steps that have the time of this build were done then.
    fn date(&mut self, created: &str) {
        let before = self.created.replace(created.to_string());
        for last in self.config.history.iter_mut().rev().take_while(|last| last.created == before) {
            last.created = Some(created.to_string());
        }
    }

    fn push_history(&mut self, created: String, created_by: String, empty_layer: bool) {
        self.config.history.push(History {
            created: Some(created),
            created_by: Some(created_by),
            author: None,
            comment: Some(COMMENT.into()),
            empty_layer,
        });
    }

    /// Takes over what a step came to.
    fn take(&mut self, outcome: &Outcome, key: Digest, created_by: String) -> Result<(), String> {
        if let Some((descriptor, diff_id)) = &outcome.layer {
            if self.layers.len() >= oci::image::MAX_LAYERS {
                return Err(format!("an image can have at most {} layers", oci::image::MAX_LAYERS));
            }
            self.layers.push(descriptor.clone());
            self.config.rootfs.diff_ids.push(*diff_id);
        }
        self.chain_id = outcome.chain_id;
        self.key = Some(key);
        self.created = Some(outcome.created.clone());
        self.push_history(outcome.created.clone(), created_by, outcome.layer.is_none());
        Ok(())
    }
}

/// What a step does when its key is not known.
pub(crate) type Work = std::pin::Pin<Box<dyn Future<Output = Result<(Outcome, u64), Error>> + Send>>;

/// Where a stage is: for the functions of single instructions.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) shared: Arc<Shared>,
    /// The stage.
    pub(crate) stage: usize,
    /// The step in the plan.
    pub(crate) step: usize,
    pub(crate) instruction: Instruction,
    pub(crate) uses_cache: bool,
}

impl Place {
    /// A mistake in the instruction.
    pub(crate) fn wrong(&self, token: &str, message: impl Into<String>) -> Error {
        plan::at(&self.shared.plan.file, &self.instruction, token, message)
    }
}

/// Builds one stage.
pub(crate) async fn run_stage(shared: &Arc<Shared>, index: usize) -> Result<StageState, Error> {
    let plan = &shared.plan.stages[&index];
    let stage = &shared.plan.file.stages[index];
    let request = &shared.request;
    let named =
        |n: &String| stage.name.as_deref() == Some(n.to_lowercase().as_str()) || n.parse() == Ok(index);
    let uses_cache = !request.no_cache && !request.no_cache_stages.iter().any(named);
    shared.tell(Event::Started { index: plan.head }).await;
    let mut state = begin(shared, plan).await?;
    if let Source::Context(name) = &plan.base {
        let place = Place {
            shared: shared.clone(),
            stage: index,
            step: plan.head,
            instruction: stage.head.clone(),
            uses_cache,
        };
        crate::run::copy(&place, &mut state, &everything(name), false).await?;
    }
    if !plan.triggers.is_empty() {
        let count = plan.triggers.len();
        let text = format!("# Executing {count} build trigger{}", if count == 1 { "" } else { "s" });
        shared.tell(Event::Note { index: plan.head, text }).await;
    }
    let place = |step: usize, instruction: &Instruction| Place {
        shared: shared.clone(),
        stage: index,
        step,
        instruction: instruction.clone(),
        uses_cache,
    };
    for trigger in &plan.triggers {
        apply(&place(plan.head, trigger), &mut state).await?;
    }
    finished(shared, plan.head, &state, false).await;
    for (step, instruction) in &plan.steps {
        shared.tell(Event::Started { index: *step }).await;
        let from_cache = apply(&place(*step, instruction), &mut state).await?;
        finished(shared, *step, &state, from_cache).await;
    }
    if index == shared.plan.target {
        shared.tell(Event::StageFinished { image_id: state.id() }).await;
    }
    Ok(state)
}

async fn finished(shared: &Shared, index: usize, state: &StageState, from_cache: bool) {
    let result = StepResult { image_id: state.id(), from_cache };
    shared.tell(Event::Finished { index, result }).await;
}

/// What FROM a directory means: all of it.
fn everything(context: &str) -> dockerfile::Copy {
    dockerfile::Copy {
        sources: vec![".".into()],
        destination: "/".into(),
        from: Some(context.into()),
        ..dockerfile::Copy::default()
    }
}

/// The state behind FROM.
async fn begin(shared: &Arc<Shared>, plan: &StagePlan) -> Result<StageState, Error> {
    let escape = shared.plan.file.directives.escape;
    let mut state = match &plan.base {
        Source::Scratch => StageState::scratch(escape),
        Source::Stage(index) => StageState::clone(&*shared.stage(*index).await?),
        Source::Image { name, .. } => {
            let base = shared
                .bases
                .get(&plan.base)
                .ok_or_else(|| Error::invalid(format!("image {name} is missing")))?;
            let mut state = StageState::scratch(escape);
            state.base_id = base.id;
            // What is built was committed from no container.
            state.config = ImageConfig { container: None, container_config: None, ..base.config.clone() };
            state.layers.clone_from(&base.layers);
            state.chain_id = base.chain_id;
            state.created = base
                .config
                .history
                .iter()
                .rev()
                .find_map(|h| h.created.clone())
                .or(base.config.created.clone());
            state
        }
        // Its files are put in as soon as the platform is known.
        Source::Context(_) => StageState::scratch(escape),
    };
    state.config.created = None;
    // Of a result of another build: its own.
    state.config.build_cache = None;
    state.has_cmd = false;
    state.config.os.clone_from(&plan.platform.os);
    state.config.architecture.clone_from(&plan.platform.architecture);
    if plan.platform.variant.is_some() {
        state.config.variant.clone_from(&plan.platform.variant);
    }
    let run = state.run_mut();
    run.on_build = None;
    let env = run.env.get_or_insert_default();
    if !env.iter().any(|e| e.starts_with("PATH=")) {
        env.push(DEFAULT_PATH.into());
    }
    Ok(state)
}

/// Does one instruction. Whether its files came from the cache.
async fn apply(place: &Place, state: &mut StageState) -> Result<bool, Error> {
    let shared = place.shared.clone();
    match &place.instruction.kind {
        Kind::Run(run) => crate::run::run(place, state, run).await,
        Kind::Copy(copy) => crate::run::copy(place, state, copy, false).await,
        Kind::Add(copy) => crate::run::copy(place, state, copy, true).await,
        Kind::Workdir(path) => workdir(place, state, path).await,
        Kind::Arg(args) => {
            for arg in args {
                declare(place, state, arg)?;
            }
            recall(place, state).await
        }
        Kind::Maintainer(name) => {
            state.config.author = Some(name.clone());
            state.note(&shared, format!("MAINTAINER {name}"));
            recall(place, state).await
        }
        Kind::From { .. } => Err(place.wrong("FROM", "FROM isn't allowed here")),
        _ => {
            let change = {
                let lookup = |name: &str| state.value(name);
                let expander = Expander::new(state.escape, &lookup);
                Change::of(&place.instruction, state.run(), &expander)
            };
            let change = change.map_err(|wrong| place.wrong(&wrong.token, wrong.message))?;
            let change = change.ok_or_else(|| place.wrong("", "this instruction cannot stand here"))?;
            state.note(&shared, change.to_string());
            let mut has_cmd = state.has_cmd;
            change.apply(state.run_mut(), &mut has_cmd);
            state.has_cmd = has_cmd;
            recall(place, state).await
        }
    }
}

/// Whether a build has been at this very point before, of a step that changes the config alone. Remembered for the next.
async fn recall(place: &Place, state: &mut StageState) -> Result<bool, Error> {
    let shared = &place.shared;
    let last = state.config.history.last().and_then(|h| h.created_by.as_deref());
    let mut key = base_key(place, state, "config");
    key["config"] = json!(state.config.config);
    key["before"] = json!(state.key.map(|d| d.to_string()));
    key["text"] = json!(last);
    let key = crate::hash::of_json(&key);
    let text = crate::git_url::redact(&place.instruction.text);
    let is_dated_now = std::mem::take(&mut state.is_dated_now);
    if let Some(outcome) = look_up(place, state, key, &text).await? {
        // Where nothing below says when, it was then and not now.
        if shared.epoch.is_none() && is_dated_now {
            state.date(&outcome.created);
        }
        shared.trail.note(place.stage, key, state.key, &outcome, &text);
        return Ok(true);
    }
    let created = state.created.clone().unwrap_or_else(|| layer_time(shared));
    let outcome = Outcome { chain_id: state.chain_id, layer: None, created };
    let row = cache::row(&key, state.key.as_ref(), &outcome, 0, &text);
    drop(shared.keeper.send(News { row, flight: None }));
    shared.trail.note(place.stage, key, state.key, &outcome, &text);
    Ok(false)
}

/// What is known of a key: here, or by a shared cache.
async fn look_up(
    place: &Place,
    state: &StageState,
    key: Digest,
    text: &str,
) -> Result<Option<Outcome>, Error> {
    if !place.uses_cache {
        return Ok(None);
    }
    let shared = &place.shared;
    let (engine, lease) = (shared.engine.clone(), shared.lease.clone());
    if let Some(known) = blocking(move || cache::look_up(&engine, &lease, &key)).await? {
        return Ok(Some(known));
    }
    Ok(shared.lent.take(&shared.lease, &key, state.chain_id, state.key.as_ref(), text))
}

/// Looks the step's key up, or does its work and remembers what it came to.
pub(crate) async fn step(
    place: &Place,
    state: &mut StageState,
    key: &Value,
    created_by: String,
    work: impl FnOnce() -> Work,
) -> Result<bool, Error> {
    let shared = &place.shared;
    let key = crate::hash::of_json(key);
    let text = crate::git_url::redact(&place.instruction.text);
    let mut flight = None;
    while place.uses_cache && flight.is_none() {
        let found = match flight::begin(&shared.engine, &key) {
            Turn::Mine(own) => {
                flight = Some(own);
                look_up(place, state, key, &text).await?
            }
            Turn::Others(other) => flight::wait(other).await.map(|(outcome, _kept)| {
                cache::hold(&shared.lease, &outcome);
                outcome
            }),
        };
        if let Some(outcome) = found {
            shared.trail.note(place.stage, key, state.key, &outcome, &text);
            state.take(&outcome, key, created_by).map_err(|m| place.wrong("", m))?;
            return Ok(true);
        }
    }
    // The work is done on files.
    shared.lent.fetch(&shared.engine, &shared.lease, state.chain_id).await?;
    let (outcome, size) = work().await?;
    if let Some(flight) = &flight {
        flight.came_to(&outcome, &shared.lease);
    }
    let row = cache::row(&key, state.key.as_ref(), &outcome, size, &text);
    drop(shared.keeper.send(News { row, flight }));
    shared.trail.note(place.stage, key, state.key, &outcome, &text);
    state.take(&outcome, key, created_by).map_err(|m| place.wrong("", m))?;
    Ok(false)
}

/// The time that a layer made now gets.
pub(crate) fn layer_time(shared: &Shared) -> String {
    match shared.epoch {
        Some(_) => shared.began.clone(),
        None => jiff::Timestamp::now().to_string(),
    }
}

/// What every key has.
pub(crate) fn base_key(place: &Place, state: &StageState, kind: &str) -> Value {
    json!({
        "version": 1,
        "kind": kind,
        "parent": state.chain_id.map(|d| d.to_string()),
        "os": state.config.os,
        "architecture": state.config.architecture,
        "variant": state.config.variant,
        "epoch": place.shared.epoch,
    })
}

async fn workdir(place: &Place, state: &mut StageState, word: &str) -> Result<bool, Error> {
    let text = state.expand(word).map_err(|m| place.wrong(word, m))?;
    let whole = if text.starts_with('/') { text } else { format!("{}/{text}", state.working_dir()) };
    let path = format!("/{}", crate::select::clean(&whole));
    state.run_mut().working_dir.clone_from(&path);
    let created_by = format!("WORKDIR {path}");
    if path == "/" {
        state.note(&place.shared, created_by);
        return recall(place, state).await;
    }
    let mut key = base_key(place, state, "workdir");
    key["path"] = json!(path);
    key["user"] = json!(state.run().user);
    let (shared, parent, user) = (place.shared.clone(), state.chain_id, state.run().user.clone());
    let work = move || -> Work {
        Box::pin(blocking(move || {
            let doing = || format!("make working directory {path}");
            let workspace = shared.engine.open_workspace(parent.as_ref()).during(doing)?;
            let owner = if user.is_empty() { (0, 0) } else { workspace.lookup_user(&user).during(doing)? };
            let target = crate::copy::Target {
                root: workspace.root(),
                path: String::new(),
                is_directory: true,
                owner: Some(owner),
                chmod: None,
            };
            drop(target.directory(path.trim_start_matches('/'))?);
            let made = workspace.commit(&shared.lease, parent.as_ref(), shared.epoch).during(doing)?;
            Ok((Outcome::new(parent, made, layer_time(&shared)), 0))
        }))
    };
    step(place, state, &key, created_by, work).await
}

/// ARG: the value given, else the default, else that of the global argument.
fn declare(place: &Place, state: &mut StageState, arg: &Arg) -> Result<(), Error> {
    let shared = place.shared.clone();
    let given = shared.request.build_arg(&arg.name).map(str::to_string);
    let value = match (given, &arg.default) {
        (Some(given), _) => Some(given),
        (None, Some(default)) => Some(state.expand(default).map_err(|m| place.wrong(default, m))?),
        (None, None) => shared.plan.global.get(&arg.name).cloned(),
    };
    let shown = match &value {
        Some(value) => format!("ARG {}={value}", arg.name),
        None => format!("ARG {}", arg.name),
    };
    state.args.retain(|(name, _)| *name != arg.name);
    state.args.push((arg.name.clone(), value));
    state.note(&shared, shown);
    Ok(())
}

/// Values that commands get whether they are declared or not.
pub(crate) fn proxies(given: &BTreeMap<String, Option<String>>) -> Vec<String> {
    let named = PROXIES.iter().filter_map(|name| Some((name, given.get(*name)?.as_ref()?)));
    named.map(|(name, value)| format!("{name}={value}")).collect()
}
