//! Execs.

use crate::containers::size;
use crate::detach::DetachKeys;
use crate::hijack::{Refusal, Style, detach_keys, hijack};
use crate::reply::{Failure, Outcome, empty, json, ok, to_the_end};
use crate::request::Call;
use crate::serve::Api;
use engine::{ExecConfig, Streams};
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::json as object;
use std::sync::Arc;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct CreateBody {
    attach_stdin: Option<bool>,
    attach_stdout: Option<bool>,
    attach_stderr: Option<bool>,
    console_size: Option<[u16; 2]>,
    /// docker-py writes it with a small first letter, which Go reads as well.
    #[serde(alias = "detachKeys")]
    detach_keys: Option<String>,
    tty: Option<bool>,
    env: Option<Vec<String>>,
    cmd: Option<engine::model::Words>,
    privileged: Option<bool>,
    user: Option<String>,
    working_dir: Option<String>,
}

/// `POST /containers/{id}/exec`.
pub(crate) async fn create(api: &Arc<Api>, id: &str, call: Call) -> Outcome {
    let body: CreateBody = call.json().await?;
    let keys = body.detach_keys.as_deref().unwrap_or_default();
    if DetachKeys::parse(keys).is_none() {
        return Err(Failure::bad_request(format!("Invalid escape keys ({keys}) provided")));
    }
    let streams = Streams {
        stdin: body.attach_stdin.unwrap_or(false),
        stdout: body.attach_stdout.unwrap_or(false),
        stderr: body.attach_stderr.unwrap_or(false),
    };
    let exec = api.engine.create_exec(
        id,
        ExecConfig {
            cmd: body.cmd.unwrap_or_default().0,
            env: body.env.unwrap_or_default(),
            user: body.user.unwrap_or_default(),
            working_dir: body.working_dir.unwrap_or_default(),
            tty: body.tty.unwrap_or(false),
            privileged: body.privileged.unwrap_or(false),
            streams,
            detach_keys: body.detach_keys.unwrap_or_default(),
            console_size: body.console_size.map(|[h, w]| (h, w)),
        },
    )?;
    Ok(json(StatusCode::CREATED, &object!({ "Id": exec.id })))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct StartBody {
    detach: bool,
    /// Whether the output is sent as the terminal wrote it. Docker goes by this, not by whether the exec has a
    /// terminal, and clients rely on it.
    tty: bool,
    console_size: Option<[u16; 2]>,
}

/// `POST /exec/{id}/start`.
pub(crate) async fn start(api: &Arc<Api>, id: &str, mut call: Call) -> Outcome {
    let exec = api.engine.exec(id)?;
    let named = call.at_least(42);
    // The upgrade belongs to the request; the body is read first and the request goes on without it.
    let upgrade = hyper::upgrade::on(&mut call.request);
    let wants_upgrade = call.request.headers().contains_key(hyper::header::UPGRADE);
    let body: StartBody = call.json().await?;
    let console = body.console_size.map(|[h, w]| (h, w));
    let streams = if body.detach { Streams::default() } else { exec.config.streams };
    let keys = detach_keys(&exec.config.detach_keys, exec.config.tty && streams.stdin)?;
    api.engine.check_exec(&exec)?;
    let style = Style {
        tty: body.tty,
        stdin: streams.stdin,
        closes_stdin: !exec.config.tty,
        detach_keys: keys,
        prologue: None,
    };
    let engine = api.engine.clone();
    let starting = to_the_end(async move { engine.start_exec(&exec, streams, console).await });
    if body.detach || !streams.any() {
        starting.await?;
        return Ok(empty(StatusCode::OK));
    }
    // The stream comes first, as Docker does it: a program that cannot be started is told there, and its exit code, 126
    // or 127, by inspect.
    let attachment = async move { starting.await.map_err(|failure| Refusal(Some(failure.message))) };
    hijack(wants_upgrade.then_some(upgrade), None, style, named, attachment)
}

/// `POST /exec/{id}/resize`.
pub(crate) async fn resize(api: &Arc<Api>, id: &str, call: &Call) -> Outcome {
    let (height, width) = size(call)?;
    api.engine.resize_exec(id, height, width).await?;
    Ok(empty(StatusCode::OK))
}

/// `GET /exec/{id}/json`.
pub(crate) fn inspect(api: &Arc<Api>, id: &str) -> Outcome {
    let exec = api.engine.exec(id)?;
    let status = exec.status();
    let config = &exec.config;
    let (program, arguments) = config.cmd.split_first().map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
    ok(&object!({
        "ID": exec.id,
        "Running": status.running,
        "ExitCode": status.exit_code,
        "ProcessConfig": {
            "tty": config.tty,
            "entrypoint": program,
            "arguments": arguments,
            "privileged": config.privileged,
            "user": config.user,
        },
        "OpenStdin": config.streams.stdin,
        "OpenStderr": config.streams.stderr,
        "OpenStdout": config.streams.stdout,
        "CanRemove": false,
        "ContainerID": exec.container_id.as_str(),
        "DetachKeys": config.detach_keys,
        "Pid": status.pid,
    }))
}
