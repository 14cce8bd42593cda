//! `attach`, and `start` with and without `-a`.

use super::{Context, each};
use crate::error::{Error, Result};
use crate::http::{Extra, Path};
use crate::run::{self, Waited, spec};
use crate::streams::{Ended, Plan, SignalProxy};
use crate::terminal::RawMode;
use gotemplate::Value;
use hyper::Method;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Attach {
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    detach_keys: String,
    /// Do not attach STDIN
    #[arg(long)]
    no_stdin: bool,
    /// Proxy all received signals to the process
    #[arg(long, value_name = "bool", default_value = "true", default_missing_value = "true", num_args = 0..=1,
          require_equals = true, action = clap::ArgAction::Set)]
    sig_proxy: bool,
    container: String,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Start {
    /// Attach STDOUT/STDERR and forward signals
    #[arg(short, long)]
    attach: bool,
    /// Attach container's STDIN
    #[arg(short, long)]
    interactive: bool,
    /// Restore from this checkpoint
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    checkpoint: String,
    /// Use a custom checkpoint storage directory
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    checkpoint_dir: String,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    detach_keys: String,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) async fn attach(context: &Context, flags: &Attach) -> Result<u8> {
    let keys = context.detach_keys(&flags.detach_keys)?;
    let container = inspect(context, &flags.container).await?;
    let state = |name| container.at(&["State", name]).is_some_and(Value::is_true);
    let usage = |text: &str| Err(Error::Usage(text.into()));
    if !state("Running") {
        return usage("cannot attach to a stopped container, start it first");
    }
    if state("Paused") {
        return usage("cannot attach to a paused container, unpause it first");
    }
    if state("Restarting") {
        return usage("cannot attach to a restarting container, wait until it is running");
    }
    let config = |name| container.at(&["Config", name]).is_some_and(Value::is_true);
    let stdin = !flags.no_stdin && config("OpenStdin");
    let plan = Plan { stdin, tty: config("Tty"), detach_keys: keys };
    run::check_tty(stdin, plan.tty)?;
    joined(context, &flags.container, &plan, flags.sig_proxy, Begin::Running).await
}

pub(crate) async fn start(context: &Context, flags: &Start) -> Result<u8> {
    let start_path = |name: &str| {
        Path::new(&["containers", name, "start"])
            .query_some("checkpoint", &flags.checkpoint)
            .query_some("checkpoint-dir", &flags.checkpoint_dir)
    };
    if !flags.checkpoint.is_empty() && flags.containers.len() > 1 {
        return Err(Error::Usage("you cannot restore multiple containers at once".into()));
    }
    if !flags.attach && !flags.interactive {
        let failed = std::cell::RefCell::new(Vec::new());
        let code = each(&flags.containers, async |name| {
            let started = context.client.post(&start_path(&name)).await;
            started.inspect_err(|_| failed.borrow_mut().push(name.clone())).map(|_| Some(name))
        })
        .await?;
        if code != 0 {
            let names = failed.borrow().join(", ");
            let message = format!("Error: failed to start containers: {names}");
            return Err(Error::Exit { code, message: Some(message) });
        }
        return Ok(0);
    }
    let [name] = flags.containers.as_slice() else {
        return Err(Error::Usage("you cannot start and attach multiple containers at once".into()));
    };
    let keys = context.detach_keys(&flags.detach_keys)?;
    let container = inspect(context, name).await?;
    let config = |field| container.at(&["Config", field]).is_some_and(Value::is_true);
    let removed = container.at(&["HostConfig", "AutoRemove"]).is_some_and(Value::is_true);
    let plan =
        Plan { stdin: flags.interactive && config("OpenStdin"), tty: config("Tty"), detach_keys: keys };
    run::check_tty(plan.stdin, plan.tty)?;
    joined(context, name, &plan, true, Begin::Start { removed, path: start_path(name) }).await
}

/// Whether the container runs already.
enum Begin {
    Running,
    Start { removed: bool, path: Path },
}

async fn joined(context: &Context, name: &str, plan: &Plan, sig_proxy: bool, begin: Begin) -> Result<u8> {
    let client = &context.client;
    let condition = match &begin {
        Begin::Running => "",
        Begin::Start { removed: true, .. } => "removed",
        Begin::Start { removed: false, .. } => "next-exit",
    };
    let wait_path = Path::new(&["containers", name, "wait"]).query_some("condition", condition);
    let attach = spec::Attach { stdin: plan.stdin, stdout: true, stderr: true };
    let attach_path = run::attach_path(name, &attach);
    let proxy = if sig_proxy { Some(SignalProxy::install()?) } else { None };
    let attaching = client.hijack(&attach_path, None);
    let waiting = client.request(Method::POST, &wait_path, Extra::default());
    let (connection, waiting) = tokio::try_join!(attaching, waiting)?;
    let raw = if plan.tty && plan.stdin { Some(RawMode::enter()?) } else { None };
    if let Begin::Start { path, .. } = begin {
        client.post(&path).await?;
    }
    let ended = run::session(context, name, Some(connection), plan, proxy).await;
    drop(raw);
    if ended? == Ended::Detached {
        return Ok(0);
    }
    let waited: Waited = client.json(&wait_path, waiting).await?;
    run::exit_code(&waited)
}

async fn inspect(context: &Context, name: &str) -> Result<Value> {
    context.client.get(&Path::new(&["containers", name, "json"])).await
}
