//! What is one request and little output: stop, kill, rm, rename, wait, top, port, diff, ...

use super::{Context, each};
use crate::error::{Error, Result};
use crate::http::Path;
use crate::run::Waited;
use crate::table;
use crate::terminal;
use gotemplate::Value;
use hyper::Method;

#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum Simple {
    /// Stop one or more running containers
    Stop(Stop),
    /// Restart one or more containers
    Restart(Stop),
    /// Kill one or more running containers
    Kill {
        /// Signal to send to the container
        #[arg(short, long, value_name = "string", default_value = "", hide_default_value = true)]
        signal: String,
        #[arg(required = true, value_name = "CONTAINER")]
        containers: Vec<String>,
    },
    /// Remove one or more containers
    #[command(alias = "remove")]
    Rm {
        /// Force the removal of a running container (uses SIGKILL)
        #[arg(short, long)]
        force: bool,
        /// Remove anonymous volumes associated with the container
        #[arg(short, long)]
        volumes: bool,
        /// Remove the specified link
        #[arg(short, long)]
        link: bool,
        #[arg(required = true, value_name = "CONTAINER")]
        containers: Vec<String>,
    },
    /// Pause all processes within one or more containers
    Pause {
        #[arg(required = true, value_name = "CONTAINER")]
        containers: Vec<String>,
    },
    /// Unpause all processes within one or more containers
    Unpause {
        #[arg(required = true, value_name = "CONTAINER")]
        containers: Vec<String>,
    },
    /// Block until one or more containers stop, then print their exit codes
    Wait {
        #[arg(required = true, value_name = "CONTAINER")]
        containers: Vec<String>,
    },
    /// Rename a container
    Rename { container: String, new_name: String },
    /// Display the running processes of a container
    #[command(override_usage = "brig top CONTAINER [ps OPTIONS]")]
    Top {
        #[arg(required = true, trailing_var_arg = true, value_names = ["CONTAINER", "ps OPTIONS"], num_args = 1..)]
        words: Vec<String>,
    },
    /// List port mappings or a specific mapping for the container
    Port {
        container: String,
        #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
        port: Option<String>,
    },
    /// Inspect changes to files or directories on a container's filesystem
    Diff { container: String },
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Stop {
    /// Signal to send to the container
    #[arg(short, long, value_name = "string", default_value = "", hide_default_value = true)]
    signal: String,
    /// Seconds to wait before killing the container
    #[arg(short, long, alias = "time", value_name = "int", allow_negative_numbers = true)]
    timeout: Option<i64>,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) async fn simple(context: &Context, command: &Simple) -> Result<u8> {
    match command {
        Simple::Stop(flags) => stop(context, "stop", flags).await,
        Simple::Restart(flags) => stop(context, "restart", flags).await,
        Simple::Kill { signal, containers } => {
            post_each(context, containers, "kill", |path| path.query_some("signal", signal)).await
        }
        Simple::Pause { containers } => post_each(context, containers, "pause", |path| path).await,
        Simple::Unpause { containers } => post_each(context, containers, "unpause", |path| path).await,
        Simple::Rm { force, volumes, link, containers } => {
            each(containers, async |name| {
                let bare = name.trim_matches('/');
                if bare.is_empty() {
                    return Err(Error::Usage("container name cannot be empty".into()));
                }
                let path = Path::new(&["containers", bare])
                    .flag("force", *force)
                    .flag("v", *volumes)
                    .flag("link", *link);
                match context.client.delete(&path).await {
                    // With force it is gone, which is what was asked.
                    Err(error) if *force && error.is_not_found() => {
                        terminal::warn(&errors::chain(&error));
                        Ok(None)
                    }
                    result => result.map(|_| Some(name)),
                }
            })
            .await
        }
        Simple::Wait { containers } => wait(context, containers).await,
        Simple::Rename { container, new_name } => {
            if container.trim().is_empty() || new_name.trim().is_empty() {
                return Err(Error::Usage("Error: Neither old nor new names may be empty".into()));
            }
            let path = Path::new(&["containers", container, "rename"]).query("name", new_name);
            context.client.post(&path).await?;
            Ok(0)
        }
        Simple::Top { words } => top(context, words).await,
        Simple::Port { container, port } => ports(context, container, port.as_deref()).await,
        Simple::Diff { container } => diff(context, container).await,
    }
}

async fn stop(context: &Context, verb: &str, flags: &Stop) -> Result<u8> {
    let seconds = flags.timeout.map(|t| t.to_string()).unwrap_or_default();
    post_each(context, &flags.containers, verb, |path| {
        path.query_some("signal", &flags.signal).query_some("t", &seconds)
    })
    .await
}

async fn post_each(
    context: &Context,
    containers: &[String],
    verb: &str,
    finish: impl Fn(Path) -> Path,
) -> Result<u8> {
    each(containers, async |name| {
        let path = finish(Path::new(&["containers", &name, verb]));
        context.client.post(&path).await.map(|_| Some(name))
    })
    .await
}

async fn wait(context: &Context, containers: &[String]) -> Result<u8> {
    each(containers, async |name| {
        let path = Path::new(&["containers", &name, "wait"]);
        let response = context.client.request(Method::POST, &path, crate::http::Extra::default()).await?;
        let waited: Waited = context.client.json(&path, response).await?;
        match waited.error {
            Some(error) => Err(Error::Reported(error.message)),
            None => Ok(Some(waited.status_code.to_string())),
        }
    })
    .await
}

async fn top(context: &Context, words: &[String]) -> Result<u8> {
    let Some((container, arguments)) = words.split_first() else { return Ok(0) };
    let path = Path::new(&["containers", container, "top"]).query_some("ps_args", &arguments.join(" "));
    let answer: Value = context.client.get(&path).await?;
    let empty = Value::Nil;
    let line = |list: &Value| {
        let words: Vec<&str> = list.items().iter().map(Value::text).collect();
        format!("{}\n", words.join("\t"))
    };
    let mut text = line(answer.get("Titles").unwrap_or(&empty));
    text.extend(answer.get("Processes").unwrap_or(&empty).items().iter().map(line));
    // Docker's own widths for this table: at least twenty wide.
    terminal::print(&table::align_with(&text, 20, 3))?;
    Ok(0)
}

async fn ports(context: &Context, container: &str, port: Option<&str>) -> Result<u8> {
    let answer: Value = context.client.get(&Path::new(&["containers", container, "json"])).await?;
    let empty = Value::Nil;
    let all = answer.at(&["NetworkSettings", "Ports"]).unwrap_or(&empty);
    let wanted = port.map(|p| if p.contains('/') { p.to_string() } else { format!("{p}/tcp") });
    let mut lines = Vec::new();
    for (private, bindings) in all.members() {
        if wanted.as_ref().is_some_and(|w| w != private) {
            continue;
        }
        for binding in bindings.items() {
            let address = super::ps::host_port(binding.text_at(&["HostIp"]), binding.text_at(&["HostPort"]));
            lines.push(match wanted {
                Some(_) => address,
                None => format!("{private} -> {address}"),
            });
        }
    }
    if let (Some(_), true) = (&wanted, lines.is_empty()) {
        let message =
            format!("Error: No public port '{}' published for {container}", port.unwrap_or_default());
        return Err(Error::Usage(message));
    }
    lines.sort_by_key(|line| {
        let number: u32 = line.split('/').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        (number, line.clone())
    });
    terminal::print(&lines.iter().map(|l| format!("{l}\n")).collect::<String>())?;
    Ok(0)
}

async fn diff(context: &Context, container: &str) -> Result<u8> {
    let answer: Value = context.client.get(&Path::new(&["containers", container, "changes"])).await?;
    let line = |change: &Value| {
        let kind = match change.get("Kind").map_or(-1, Value::int) {
            0 => "C",
            1 => "A",
            2 => "D",
            _ => "?",
        };
        format!("{kind} {}\n", change.text_at(&["Path"]))
    };
    terminal::print(&answer.items().iter().map(line).collect::<String>())?;
    Ok(0)
}
