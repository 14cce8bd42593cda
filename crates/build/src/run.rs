//! RUN, COPY and ADD as steps: their keys, and their work.

mod copying;
mod mounts;

pub(crate) use copying::copy;

use crate::cache::Outcome;
use crate::error::{During, Error};
use crate::event::Event;
use crate::solve::Shared;
use crate::stage::{Place, StageState, Work, base_key, layer_time, proxies, step};
use dockerfile::{Command, Heredoc, Run};
use engine::blocking;
use engine::model::HostConfig;
use engine::{Step, StepNetwork, StepOutput};
use mounts::Prepared;
use serde_json::json;
use std::sync::Arc;
use tokio::sync::mpsc;

/// The name that commands see as theirs; the same everywhere, so that results do not depend on it.
const HOSTNAME: &str = "buildkitsandbox";
/// Where the script of `RUN <<EOF` with a `#!` line is seen.
const SCRIPTS: &str = "/dev/pipes";

/// A command line, with the script that it may need.
struct Line {
    args: Vec<String>,
    script: Option<(String, String)>,
}

/// What RUN runs.
fn line(state: &StageState, command: &Command) -> Line {
    let Command::Shell { text, heredocs } = command else {
        return Line { args: dockerfile::command_words(state.run(), command), script: None };
    };
    let with_shell = |text: String| {
        let mut args = dockerfile::shell(state.run());
        args.push(text);
        args
    };
    let is_alone = |h: &Heredoc| {
        text.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with("<<")
            && text.split_whitespace().count() == 1
            && !h.content.is_empty()
    };
    match heredocs.as_slice() {
        [] => Line { args: with_shell(text.clone()), script: None },
        [only] if is_alone(only) && only.content.starts_with("#!") => {
            let name = only.name.replace(['/', '\0'], "_");
            let path = format!("{SCRIPTS}/{name}");
            Line { args: vec![path.clone()], script: Some((path, only.content.clone())) }
        }
        [only] if is_alone(only) => Line { args: with_shell(only.content.clone()), script: None },
        several => {
            // Put together again for the shell to read.
            let mut whole = text.clone();
            for heredoc in several {
                whole.push_str(&format!("\n{}{}", heredoc.content, heredoc.name));
            }
            Line { args: with_shell(whole), script: None }
        }
    }
}

/// RUN.
pub(crate) async fn run(place: &Place, state: &mut StageState, run: &Run) -> Result<bool, Error> {
    let shared = place.shared.clone();
    let line = line(state, &run.command);
    let security = run.security.as_deref().unwrap_or("sandbox");
    if security == "insecure" && !shared.request.entitlements.security_insecure {
        return Err(
            place.wrong("--security", "security.insecure is not allowed: it needs --allow security.insecure")
        );
    }
    let network = match run.network.as_deref() {
        None | Some("default") => shared.request.network_mode.clone(),
        Some("host")
            if !shared.request.entitlements.network_host && shared.request.network_mode != "host" =>
        {
            return Err(
                place.wrong("--network", "network.host is not allowed: it needs --allow network.host")
            );
        }
        Some(other) => other.to_string(),
    };
    shared.capture.network(&network);
    let devices = devices(place, run).await?;
    let mounts = mounts::plan(place, state, run).await?;
    let env = state.environment();
    let mut key = base_key(place, state, "run");
    key["args"] = json!(line.args);
    key["script"] = json!(line.script);
    key["env"] = json!(env);
    key["user"] = json!(state.run().user);
    key["dir"] = json!(state.working_dir());
    key["network"] = json!(network);
    key["security"] = json!(security);
    key["hosts"] = json!(shared.request.host_config.extra_hosts);
    if !devices.is_empty() {
        key["devices"] = json!(devices);
    }
    if !shared.request.hostname.is_empty() {
        key["hostname"] = json!(shared.request.hostname);
    }
    key["mounts"] = json!(mounts.iter().map(mounts::Planned::key).collect::<Vec<_>>());
    let shown: Vec<String> =
        state.args.iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?))).collect();
    let command = line.args.join(" ");
    let created_by = match shown.len() {
        0 => format!("RUN {command} # buildkit"),
        count => format!("RUN |{count} {} {command} # buildkit", shown.join(" ")),
    };
    let mut all_env = proxies(&shared.request.build_args);
    // What was declared comes later and wins.
    all_env.extend(env);
    let request = StepRequest {
        place: place.clone(),
        parent: state.chain_id,
        step: Step {
            args: line.args,
            env: all_env,
            working_dir: state.working_dir().to_string(),
            user: state.run().user.clone(),
            hostname: match shared.request.hostname.as_str() {
                "" => HOSTNAME.into(),
                own => own.into(),
            },
            mounts: Vec::new(),
            is_privileged: security == "insecure",
            host_config: HostConfig {
                device_requests: Some(devices.iter().map(|name| engine::device_request(name)).collect()),
                ..shared.request.host_config.clone()
            },
        },
        script: line.script,
        mounts,
        network,
        command,
    };
    let work = move || -> Work { Box::pin(request.run()) };
    step(place, state, &key, created_by, work).await
}

/// `--device=NAME[,required]`: the CDI devices that this machine has, as far as the client allows them.
async fn devices(place: &Place, run: &Run) -> Result<Vec<String>, Error> {
    let mut out = Vec::new();
    for text in &run.devices {
        let (mut name, mut required) = (String::new(), false);
        for (at, field) in text.split(',').enumerate() {
            match field.split_once('=') {
                None if field == "required" => required = true,
                Some(("required", value)) => required = value == "true",
                Some(("name", value)) => name = value.to_string(),
                _ if at == 0 && field.contains('/') => name = field.to_string(),
                _ => return Err(place.wrong(text, format!("unexpected key '{field}' in 'device'"))),
            }
        }
        let allowed = &place.shared.request.allowed_devices;
        if !allowed.iter().any(|a| a == "*" || *a == name) {
            let message =
                format!("device {name} is not allowed: it needs --allow device or --allow device={name}");
            return Err(place.wrong(text, message));
        }
        let (engine, wanted) = (place.shared.engine.clone(), name.clone());
        match blocking(move || engine.find_device(&wanted)).await {
            Ok(()) => out.push(name),
            Err(e) if required => return Err(place.wrong(text, errors::chain(&e))),
            Err(_) => {
                let text = format!("device {name} is not here and not required");
                place.shared.tell(Event::Note { index: place.step, text }).await;
            }
        }
    }
    Ok(out)
}

/// All that the work of a RUN needs.
struct StepRequest {
    place: Place,
    parent: Option<oci::Digest>,
    step: Step,
    script: Option<(String, String)>,
    mounts: Vec<mounts::Planned>,
    network: String,
    command: String,
}

impl StepRequest {
    async fn run(self) -> Result<(Outcome, u64), Error> {
        let StepRequest { place, parent, mut step, script, mounts, network, command } = self;
        let shared = place.shared.clone();
        let engine = shared.engine.clone();
        let opened = blocking(move || engine.open_workspace(parent.as_ref())).await;
        let mut workspace = opened.during(|| format!("prepare {command:?}"))?;
        if let Some((path, content)) = &script {
            let source =
                workspace.put_file(content.as_bytes(), 0o755, 0, 0).during(|| "write a script".into())?;
            step.mounts.push(engine::StepMount::Bind {
                source,
                target: path.clone(),
                read_write: false,
                is_plain: false,
            });
        }
        let prepared = Prepared::make(&place, &mounts, &mut workspace, &mut step).await?;
        let network = take_network(&shared, &network).await?;
        shared.tell(Event::Running { index: place.step, workspace: workspace.id().to_string() }).await;
        let (sender, mut receiver) = mpsc::channel::<StepOutput>(64);
        let (events, index) = (shared.events.clone(), place.step);
        let forward = async move {
            while let Some(piece) = receiver.recv().await {
                let StepOutput { is_stderr, bytes } = piece;
                drop(events.send(Event::Output { index, is_stderr, bytes }).await);
            }
        };
        let (code, ()) = tokio::join!(workspace.run(step, &network.network, sender), forward);
        network.give_back().await;
        drop(prepared);
        let code = code.during(|| format!("run {command:?}"))?;
        if code != 0 {
            return Err(Error::Command { command, code });
        }
        let shared_ = shared.clone();
        let made = blocking(move || workspace.commit(&shared_.lease, parent.as_ref(), shared_.epoch)).await;
        let made = made.during(|| format!("keep what {command:?} changed"))?;
        let size = made.as_ref().map_or(0, |m| m.layer.packed.bytes);
        Ok((Outcome::new(parent, made, layer_time(&shared)), size))
    }
}

/// A network in use by one step.
struct Taken {
    shared: Arc<Shared>,
    mode: String,
    network: StepNetwork,
}

/// Takes a network that nobody uses, or makes one.
async fn take_network(shared: &Arc<Shared>, mode: &str) -> Result<Taken, Error> {
    let mode = if mode.is_empty() { "default" } else { mode };
    let idle = {
        let mut networks = shared.networks.lock().await;
        let at = networks.iter().position(|(m, _)| m == mode);
        at.map(|at| networks.swap_remove(at).1)
    };
    let network = match idle {
        Some(network) => network,
        None => {
            let (engine, mode) = (shared.engine.clone(), mode.to_string());
            blocking(move || engine.open_step_network(&mode))
                .await
                .during(|| "set up the network of a step".into())?
        }
    };
    Ok(Taken { shared: shared.clone(), mode: mode.to_string(), network })
}

impl Taken {
    async fn give_back(self) {
        let Taken { shared, mode, network } = self;
        shared.networks.lock().await.push((mode, network));
    }
}
