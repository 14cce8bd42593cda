//! `exec`.

use super::Context;
use crate::error::{Error, Result};
use crate::http::{Extra, Path};
use crate::run::{self, environment};
use crate::streams::{self, Ended, Plan};
use crate::terminal::{self, RawMode};
use gotemplate::Value;
use hyper::Method;
use serde_json::json;

#[derive(Debug, Clone, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "one per flag of the command line")]
pub(crate) struct Exec {
    /// Detached mode: run command in the background
    #[arg(short, long)]
    detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    detach_keys: String,
    /// Set environment variables
    #[arg(short, long, value_name = "list")]
    env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "list")]
    env_file: Vec<String>,
    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    interactive: bool,
    /// Give extended privileges to the command
    #[arg(long)]
    privileged: bool,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    tty: bool,
    /// Username or UID (format: "<name|uid>[:<group|gid>]")
    #[arg(short, long, value_name = "string", default_value = "", hide_default_value = true)]
    user: String,
    /// Working directory inside the container
    #[arg(short, long, value_name = "string", default_value = "", hide_default_value = true)]
    workdir: String,
    /// The container, then the command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["CONTAINER", "COMMAND"], num_args = 2..)]
    words: Vec<String>,
}

pub(crate) async fn exec(context: &Context, flags: &Exec) -> Result<u8> {
    let Some((container, command)) = flags.words.split_first() else { return Ok(0) };
    let keys = context.detach_keys(&flags.detach_keys)?;
    let attached = !flags.detach;
    let stdin = flags.interactive && attached;
    run::check_tty(stdin, flags.tty)?;
    let env = environment::variables(&flags.env_file, &flags.env, |name| std::env::var(name).ok())?;
    let size =
        terminal::size().filter(|_| flags.tty && attached).map(|(rows, columns)| json!([rows, columns]));
    let body = json!({
        "User": flags.user, "Privileged": flags.privileged, "Tty": flags.tty, "ConsoleSize": size,
        "AttachStdin": stdin, "AttachStdout": attached, "AttachStderr": attached, "Env": env,
        "WorkingDir": flags.workdir, "Cmd": command, "DetachKeys": flags.detach_keys,
    });
    let client = &context.client;
    let created: Value = client.post_json(&Path::new(&["containers", container, "exec"]), &body).await?;
    let id = created.text_at(&["Id"]).to_string();
    if id.is_empty() {
        return Err(Error::Reported("exec ID empty".into()));
    }
    let start = Path::new(&["exec", &id, "start"]);
    let start_body = json!({"Detach": flags.detach, "Tty": flags.tty, "ConsoleSize": size});
    if flags.detach {
        let response = client.request(Method::POST, &start, Extra::json(&start_body)).await?;
        client.read_all(response).await?;
        return Ok(0);
    }
    let connection = client.hijack(&start, Some(&start_body)).await?;
    let plan = Plan { stdin, tty: flags.tty, detach_keys: keys };
    let raw = if flags.tty && stdin { Some(RawMode::enter()?) } else { None };
    let resizing = async {
        match flags.tty {
            true => streams::follow_size(client, &["exec", &id]).await,
            false => std::future::pending().await,
        }
    };
    let told = async {
        match raw.is_some() {
            true => streams::until_told_to_end().await,
            false => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        ended = streams::pump(connection, &plan) => ended,
        () = resizing => Ok(Ended::Output),
        told = told => told.map(|never| match never {}),
    };
    drop(raw);
    if ended? == Ended::Detached {
        return Ok(0);
    }
    let state: Value = client.get(&Path::new(&["exec", &id, "json"])).await?;
    let code = state.get("ExitCode").map_or(0, Value::int);
    Ok(u8::try_from(code & 0xff).unwrap_or(125))
}
