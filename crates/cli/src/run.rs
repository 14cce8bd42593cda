//! `run` and `create`: from flags to the API's documents ([`spec`]), then create, attach, start, and the exit code.

pub(crate) mod environment;
pub(crate) mod mounts;
pub(crate) mod options;
pub(crate) mod ports;
pub(crate) mod spec;

use crate::commands::Context;
use crate::commands::pull;
use crate::error::{Error, Result};
use crate::hijack::Hijacked;
use crate::http::Path;
use crate::streams::{self, Ended, Plan, SignalProxy};
use crate::terminal::{self, DetachKeys, RawMode};
use hyper::Method;
use options::Options;
use serde::Deserialize;
use spec::Spec;
use std::io::{IsTerminal, Write};

/// What `run` adds to the flags of `create`.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct RunFlags {
    /// Run container in background and print container ID
    #[arg(short = 'd', long)]
    pub(crate) detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    pub(crate) detach_keys: String,
    /// Proxy received signals to the process
    #[arg(long, value_name = "bool", default_value = "true", default_missing_value = "true", num_args = 0..=1,
          require_equals = true, action = clap::ArgAction::Set)]
    pub(crate) sig_proxy: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    id: String,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

/// The answer to `wait`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Waited {
    pub(crate) status_code: i64,
    #[serde(default)]
    pub(crate) error: Option<WaitError>,
}

/// Why waiting failed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct WaitError {
    pub(crate) message: String,
}

/// `create`: prints the ID.
pub(crate) async fn create_command(context: &Context, options: &Options) -> Result<u8> {
    let spec = spec::build(options, &client_side()).map_err(helped("create"))?;
    let id = create(context, options, &spec).await.map_err(helped("create"))?;
    terminal::print_line(&id)?;
    Ok(0)
}

/// `run`: gives back the container's exit code.
pub(crate) async fn run_command(context: &Context, options: &Options, flags: &RunFlags) -> Result<u8> {
    let failed = helped("run");
    let mut spec = spec::build(options, &client_side()).map_err(&failed)?;
    let keys = context.detach_keys(&flags.detach_keys).map_err(&failed)?;
    if flags.detach {
        if !options.attach.is_empty() {
            return Err(failed(Error::Usage(
                "conflicting options: cannot specify both --attach and --detach".into(),
            )));
        }
        spec.attach = spec::Attach::default();
        spec.write_attach();
    } else {
        check_tty(spec.attach.stdin, options.tty)?;
        if options.tty
            && let Some((rows, columns)) = terminal::size()
        {
            spec.host_config().insert("ConsoleSize".into(), serde_json::json!([rows, columns]));
        }
    }
    let proxy = if flags.sig_proxy && !flags.detach { Some(SignalProxy::install()?) } else { None };
    let id = create(context, options, &spec).await.map_err(&failed)?;
    if flags.detach {
        start(context, &id).await.map_err(start_failure)?;
        terminal::print_line(&id)?;
        return Ok(0);
    }
    let plan = Plan { stdin: spec.attach.stdin, tty: options.tty, detach_keys: keys };
    attached(context, &id, options.rm, &spec.attach, &plan, proxy).await
}

/// Attaches and opens the wait before the start, so that neither the first byte nor the exit can be missed; both
/// requests are under way at the same time.
async fn attached(
    context: &Context,
    id: &str,
    removed: bool,
    attach: &spec::Attach,
    plan: &Plan,
    proxy: Option<SignalProxy>,
) -> Result<u8> {
    let client = &context.client;
    let wait_path = Path::new(&["containers", id, "wait"])
        .query("condition", if removed { "removed" } else { "next-exit" });
    let attach_path = attach_path(id, attach);
    let wants_streams = attach.stdin || attach.stdout || attach.stderr;
    let attaching = async {
        match wants_streams {
            true => client.hijack(&attach_path, None).await.map(Some),
            false => Ok(None),
        }
    };
    let waiting = client.request(Method::POST, &wait_path, crate::http::Extra::default());
    let (connection, waiting) = tokio::try_join!(attaching, waiting).map_err(helped("run"))?;
    let raw = if plan.tty && plan.stdin { Some(RawMode::enter()?) } else { None };
    if let Err(error) = start(context, id).await {
        drop(raw);
        if removed {
            // The daemon removes it; the name is free again when this command returns.
            drop(client.read_all(waiting).await);
        }
        return Err(start_failure(error));
    }
    let ended = session(context, id, connection, plan, proxy).await;
    drop(raw);
    if ended? == Ended::Detached {
        return Ok(0);
    }
    let waited: Waited = client.json(&wait_path, waiting).await?;
    exit_code(&waited)
}

/// Pumps until the output ends, passing on signals and the terminal's size meanwhile.
pub(crate) async fn session(
    context: &Context,
    id: &str,
    connection: Option<Hijacked>,
    plan: &Plan,
    mut proxy: Option<SignalProxy>,
) -> Result<Ended> {
    let client = &context.client;
    let Some(connection) = connection else { return Ok(Ended::Output) };
    let resizing = async {
        match plan.tty {
            true => streams::follow_size(client, &["containers", id]).await,
            false => std::future::pending().await,
        }
    };
    let signals = async {
        match (&mut proxy, plan.tty) {
            (Some(proxy), _) => {
                proxy.forward(client, id).await;
                Ok(())
            }
            (None, true) => streams::until_told_to_end().await.map(|never| match never {}),
            (None, false) => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = streams::pump(connection, plan) => ended,
        () = resizing => Ok(Ended::Output),
        told = signals => told.map(|()| Ended::Output),
    }
}

/// The path of an attach.
pub(crate) fn attach_path(id: &str, attach: &spec::Attach) -> Path {
    Path::new(&["containers", id, "attach"])
        .query("stream", "1")
        .flag("stdin", attach.stdin)
        .flag("stdout", attach.stdout)
        .flag("stderr", attach.stderr)
}

/// The exit code that a wait reports.
pub(crate) fn exit_code(waited: &Waited) -> Result<u8> {
    if let Some(error) = &waited.error {
        return Err(Error::Exit {
            code: 125,
            message: Some(format!("Error waiting for container: {}", error.message)),
        });
    }
    Ok(u8::try_from(waited.status_code & 0xff).unwrap_or(125))
}

/// `POST /containers/ID/start`.
pub(crate) async fn start(context: &Context, id: &str) -> Result<()> {
    context.client.post(&Path::new(&["containers", id, "start"])).await.map(drop)
}

/// The client's end of a terminal must be one, where input is wanted.
pub(crate) fn check_tty(stdin: bool, tty: bool) -> Result<()> {
    if stdin && tty && !std::io::stdin().is_terminal() {
        return Err(Error::Usage("the input device is not a TTY".into()));
    }
    Ok(())
}

async fn create(context: &Context, options: &Options, spec: &Spec) -> Result<String> {
    let cidfile = options.cidfile.as_deref().map(CidFile::open).transpose()?;
    let image = spec.image.as_str();
    match options.pull.as_str() {
        "always" => pull_for_run(context, options, image).await?,
        "missing" | "never" => {}
        other => {
            return Err(Error::Usage(format!(
                "invalid pull option: '{other}': must be one of \"always\", \"missing\" or \"never\""
            )));
        }
    }
    let path = Path::new(&["containers", "create"])
        .query_some("name", &options.name)
        .query_some("platform", &options.platform);
    let first = context.client.post_json::<Created>(&path, &spec.body).await;
    let created = match first {
        Err(Error::Api { status: 404, message })
            if options.pull == "missing" && message.to_lowercase().contains("no such image") =>
        {
            let shown = pull::tagged(image).map_or_else(|_| image.to_string(), |r| r.familiar());
            terminal::warn(&format!("Unable to find image '{shown}' locally"));
            pull_for_run(context, options, image).await?;
            context.client.post_json::<Created>(&path, &spec.body).await?
        }
        result => result?,
    };
    for warning in created.warnings.iter().flatten() {
        terminal::warn(&format!("WARNING: {}", crate::text::printable(warning)));
    }
    if let Some(file) = cidfile {
        file.write(&created.id)?;
    }
    Ok(created.id)
}

async fn pull_for_run(context: &Context, options: &Options, image: &str) -> Result<()> {
    let reference = pull::tagged(image)?;
    pull::pull(context, &reference, &options.platform, pull::Show::on_stderr(options.quiet)).await
}

/// `--cidfile`: made before the container, taken away again where there is none.
struct CidFile {
    path: std::path::PathBuf,
    file: Option<std::fs::File>,
}

impl CidFile {
    fn open(path: &str) -> Result<CidFile> {
        let path = std::path::PathBuf::from(path);
        match std::fs::File::create_new(&path) {
            Ok(file) => Ok(CidFile { path, file: Some(file) }),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::Usage(format!(
                "container ID file found, make sure the other container isn't running or delete {}",
                path.display()
            ))),
            Err(source) => Err(Error::File { doing: "create the container ID file", path, source }),
        }
    }

    fn write(mut self, id: &str) -> Result<()> {
        if let Some(mut file) = self.file.take() {
            file.write_all(id.as_bytes()).map_err(|source| Error::File {
                doing: "write the container ID to",
                path: self.path.clone(),
                source,
            })?;
        }
        Ok(())
    }
}

impl Drop for CidFile {
    fn drop(&mut self) {
        if self.file.is_some() {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

fn client_side() -> spec::ClientSide {
    let home = std::env::var("HOME").unwrap_or_default();
    let here = std::env::current_dir().unwrap_or_default();
    spec::ClientSide {
        lookup: Box::new(|name| std::env::var(name).ok()),
        absolute: Box::new(move |path| match path.strip_prefix("~/") {
            Some(rest) => format!("{home}/{rest}"),
            None => lexical(&here.join(path)),
        }),
    }
}

/// Takes `.` and `..` out of a path without asking the file system, as Go's `filepath.Abs` does.
fn lexical(path: &std::path::Path) -> String {
    let mut out = std::path::PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::ParentDir => drop(out.pop()),
            std::path::Component::CurDir => {}
            other => out.push(other),
        }
    }
    out.to_string_lossy().into_owned()
}

/// Errors of `run` and `create` end with 125 and a hint.
fn helped(command: &'static str) -> impl Fn(Error) -> Error {
    move |error| with_help(&error, command, 125)
}

fn with_help(error: &Error, command: &str, code: u8) -> Error {
    if let Error::Exit { .. } = error {
        return Error::Exit { code, message: None };
    }
    let chain = errors::chain(error);
    let message = format!("brig: {chain}\n\nRun 'brig {command} --help' for more information");
    Error::Exit { code, message: Some(message) }
}

/// Why a start failed, with Docker's exit codes: 127 where the command is missing, 126 where it cannot be executed.
fn start_failure(error: Error) -> Error {
    with_help(&error, "run", start_failure_code(&error.to_string()))
}

fn start_failure_code(message: &str) -> u8 {
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    match () {
        () if has(&[
            "executable file not found",
            "no such file or directory",
            "No such file or directory",
        ]) =>
        {
            127
        }
        () if has(&[
            "permission denied",
            "Permission denied",
            "is a directory",
            "Is a directory",
            "exec format error",
        ]) =>
        {
            126
        }
        () => 125,
    }
}

/// The default keys where none are given.
pub(crate) fn detach_keys(flag: &str, configured: Option<&str>) -> Result<DetachKeys> {
    DetachKeys::parse(if flag.is_empty() { configured.unwrap_or("") } else { flag })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_failures_have_dockers_codes() {
        let check = |message: &str, code: u8| assert_eq!(start_failure_code(message), code, "{message}");
        check("exec: \"x\": executable file not found in $PATH: unknown", 127);
        check("exec: \"/x\": stat /x: no such file or directory", 127);
        check("exec: \"/etc\": permission denied", 126);
        check("exec: \"/etc\": is a directory", 126);
        check("exec: \"/x\": exec format error: the file is empty", 126);
        check("port is already allocated", 125);
    }

    #[test]
    fn exit_codes() {
        let code = |n| exit_code(&Waited { status_code: n, error: None }).unwrap();
        assert_eq!((code(0), code(7), code(137), code(256 + 3)), (0, 7, 137, 3));
    }

    #[test]
    fn paths_are_made_absolute_by_their_text() {
        assert_eq!(lexical(std::path::Path::new("/a/./b/../c")), "/a/c");
        assert_eq!(lexical(std::path::Path::new("/../a")), "/a");
    }
}
