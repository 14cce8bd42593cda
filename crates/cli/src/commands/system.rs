//! `version`, `info`, `events`, `system df`.

use super::{Context, dial, login, storage};
use crate::error::{Error, Result};
use crate::http::{self, Extra, Path};
use crate::listing;
use crate::progress::JsonLines;
use crate::terminal;
use crate::{clock, text, units};
use gotemplate::Template;
use gotemplate::Value;
use hyper::Method;
use jiff::Timestamp;
use serde_json::json;
use std::fmt::Write as _;

#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum Short {
    /// Show the version information
    Version(Version),
    /// Display system-wide information
    Info(Info),
    /// Get real time events from the server
    Events(Events),
    /// Authenticate to a registry
    Login(login::Login),
    /// Log out from a registry
    Logout {
        /// The registry; Docker Hub where none is named
        server: Option<String>,
    },
}

#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum Group {
    /// Show disk usage
    Df(Df),
    /// Compare everything that is stored with its digest and its record
    Check(storage::Check),
    /// Remove unused data
    Prune(storage::Prune),
    /// Display system-wide information
    Info(Info),
    /// Get real time events from the server
    Events(Events),
    /// Be a connection to the daemon: for clients that come by ssh
    #[command(name = "dial-stdio", hide = true)]
    DialStdio,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Version {
    /// Format output: 'json' or a Go template
    #[arg(short, long, value_name = "string", default_value = "", hide_default_value = true)]
    format: String,
    /// Only the client's version; no daemon is asked
    #[arg(long)]
    client: bool,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Info {
    /// Format output: 'json' or a Go template
    #[arg(short, long, value_name = "string", default_value = "", hide_default_value = true)]
    format: String,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Events {
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output: 'json' or a Go template
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    format: String,
    /// Show all events created since timestamp
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    since: String,
    /// Stream events until this timestamp
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    until: String,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Df {
    /// Format output: 'json' or a Go template
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    format: String,
    /// Show detailed information on space usage
    #[arg(short, long)]
    verbose: bool,
}

pub(crate) async fn short(context: &mut Context, command: Short) -> Result<u8> {
    match command {
        Short::Version(flags) => version(context, &flags).await,
        Short::Info(flags) => info(context, &flags).await,
        Short::Events(flags) => events(context, &flags).await,
        Short::Login(flags) => login::login(context, &flags).await,
        Short::Logout { server } => login::logout(context, server.as_deref()).await,
    }
}

pub(crate) async fn group(context: &Context, command: Group) -> Result<u8> {
    match command {
        Group::Df(flags) => df(context, &flags).await,
        Group::Check(flags) => storage::check(context, &flags).await,
        Group::Prune(flags) => storage::prune(context, &flags).await,
        Group::Info(flags) => info(context, &flags).await,
        Group::Events(flags) => events(context, &flags).await,
        Group::DialStdio => dial::dial_stdio(context).await,
    }
}

/// Shows `value` by `--format`; `None` where the command's own text is wanted.
pub(super) fn formatted(format: &str, value: &Value) -> Result<Option<String>> {
    match format {
        "" => Ok(None),
        "json" => Ok(Some(format!("{}\n", value.to_json()))),
        text => Ok(Some(format!("{}\n", Template::parse(text)?.execute(value)?))),
    }
}

fn from_json(value: serde_json::Value) -> Value {
    // Any JSON value is one of ours.
    serde_json::from_value(value).unwrap_or_default()
}

async fn version(context: &Context, flags: &Version) -> Result<u8> {
    let server = match flags.client {
        true => Ok(None),
        false => context.client.get::<Value>(&Path::new(&["version"])).await.map(Some),
    };
    let api = context.client.version();
    let client = json!({
        "Version": env!("CARGO_PKG_VERSION"), "ApiVersion": api.to_string(),
        "DefaultAPIVersion": http::API_VERSION.to_string(),
        "Os": std::env::consts::OS, "Arch": oci::Platform::host().architecture,
    });
    let client = from_json(client);
    let (server, failure) = match server {
        Ok(server) => (server, None),
        Err(error) => (None, Some(error)),
    };
    let whole = Value::Map(vec![
        ("Client".into(), client.clone()),
        ("Server".into(), server.clone().unwrap_or_default()),
    ]);
    let text = match formatted(&flags.format, &whole)? {
        Some(text) => text,
        None => version_text(&client, server.as_ref()),
    };
    terminal::print(&text)?;
    failure.map_or(Ok(0), Err)
}

fn version_text(client: &Value, server: Option<&Value>) -> String {
    let mut out = String::from("Client:\n");
    let api = client.text_at(&["ApiVersion"]);
    let default = client.text_at(&["DefaultAPIVersion"]);
    let api = if api == default { api.to_string() } else { format!("{api} (downgraded from {default})") };
    let platform = format!("{}/{}", client.text_at(&["Os"]), client.text_at(&["Arch"]));
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, " {:<18}{value}", format!("{name}:"));
    };
    line("Version", client.text_at(&["Version"]));
    line("API version", &api);
    line("OS/Arch", &platform);
    let Some(server) = server else { return out };
    out.push_str("\nServer:\n Engine:\n");
    let at = |name| server.text_at(&[name]);
    let api = format!("{} (minimum version {})", at("ApiVersion"), at("MinAPIVersion"));
    let platform = format!("{}/{}", at("Os"), at("Arch"));
    let experimental = server.get("Experimental").is_some_and(Value::is_true).to_string();
    let lines = [
        ("Version", at("Version")),
        ("API version", &api),
        ("Go version", at("GoVersion")),
        ("Git commit", at("GitCommit")),
        ("Built", at("BuildTime")),
        ("OS/Arch", &platform),
        ("Experimental", &experimental),
    ];
    for (name, value) in lines.into_iter().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(out, "  {:<17}{value}", format!("{name}:"));
    }
    let empty = Value::Nil;
    for component in server.get("Components").unwrap_or(&empty).items() {
        let name = component.text_at(&["Name"]);
        if name == "Engine" {
            continue;
        }
        let _ = writeln!(out, " {name}:");
        let _ = writeln!(out, "  {:<17}{}", "Version:", component.text_at(&["Version"]));
        if let Some(commit) = component.at(&["Details", "GitCommit"]) {
            let _ = writeln!(out, "  {:<17}{commit}", "GitCommit:");
        }
    }
    text::printable(&out)
}

async fn info(context: &Context, flags: &Info) -> Result<u8> {
    let info: Value = context.client.get(&Path::new(&["info"])).await?;
    if let Some(text) = formatted(&flags.format, &info)? {
        terminal::print(&text)?;
        return Ok(0);
    }
    terminal::print(&text::printable(&info_text(&info)))?;
    for warning in info.get("Warnings").map_or(&[][..], Value::items) {
        terminal::warn(&text::printable(warning.text()));
    }
    Ok(0)
}

fn info_text(info: &Value) -> String {
    let mut out = format!("Client:\n Version:    {}\n\nServer:\n", env!("CARGO_PKG_VERSION"));
    let show = |name: &str| info.get(name).filter(|v| **v != Value::Nil).map(Value::to_string);
    let mut line = |label: &str, value: Option<String>| {
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            let _ = writeln!(out, " {label}: {value}");
        }
    };
    line("Containers", show("Containers"));
    line(" Running", show("ContainersRunning"));
    line(" Paused", show("ContainersPaused"));
    line(" Stopped", show("ContainersStopped"));
    line("Images", show("Images"));
    line("Server Version", show("ServerVersion"));
    line("Storage Driver", show("Driver"));
    for pair in info.get("DriverStatus").map_or(&[][..], Value::items) {
        if let [name, value] = pair.items() {
            line(&format!(" {name}"), Some(value.to_string()));
        }
    }
    line("Logging Driver", show("LoggingDriver"));
    line("Cgroup Driver", show("CgroupDriver"));
    line("Cgroup Version", show("CgroupVersion"));
    let names = |value: Option<&Value>| {
        let names: Vec<String> = value.map_or(&[][..], Value::items).iter().map(Value::to_string).collect();
        Some(names.join(" "))
    };
    line("Plugins", Some(" ".into()));
    line(" Volume", names(info.at(&["Plugins", "Volume"])));
    line(" Network", names(info.at(&["Plugins", "Network"])));
    line(" Log", names(info.at(&["Plugins", "Log"])));
    let runtimes: Vec<&str> =
        info.get("Runtimes").map_or(&[][..], Value::members).iter().map(|(name, _)| name.as_str()).collect();
    line("Runtimes", Some(runtimes.join(" ")));
    line("Default Runtime", show("DefaultRuntime"));
    line("Init Binary", show("InitBinary"));
    let options = info.get("SecurityOptions").map_or(&[][..], Value::items);
    if !options.is_empty() {
        line("Security Options", Some(" ".into()));
    }
    for option in options {
        let mut parts = option.text().split(',').filter_map(|p| p.split_once('='));
        line(&format!(" {}", parts.next().map_or("", |(_, name)| name)), Some(" ".into()));
        for (key, value) in parts {
            line(&format!("  {key}"), Some(value.to_string()));
        }
    }
    line("Kernel Version", show("KernelVersion"));
    line("Operating System", show("OperatingSystem"));
    line("OSType", show("OSType"));
    line("Architecture", show("Architecture"));
    line("CPUs", show("NCPU"));
    line("Total Memory", info.get("MemTotal").map(|m| units::binary_size(m.int() as f64)));
    line("Name", show("Name"));
    line("ID", show("ID"));
    line("Docker Root Dir", show("DockerRootDir"));
    line("Debug Mode", show("Debug"));
    line("Experimental", show("ExperimentalBuild"));
    line("Live Restore Enabled", show("LiveRestoreEnabled"));
    out
}

async fn events(context: &Context, flags: &Events) -> Result<u8> {
    let template = match flags.format.as_str() {
        "" | "json" => None,
        text => Some(Template::parse(text)?),
    };
    let now = Timestamp::now();
    let path = Path::new(&["events"])
        .query_some("since", &clock::api_timestamp(&flags.since, now)?)
        .query_some("until", &clock::api_timestamp(&flags.until, now)?)
        .query_some("filters", &listing::filters(&flags.filter)?);
    let response = context.client.request(Method::GET, &path, Extra::default()).await?;
    let mut lines = JsonLines::new(response.into_body());
    while let Some(event) = lines.next::<Value>().await? {
        let line = match (&template, flags.format.as_str()) {
            (Some(template), _) => template.execute_on_texts(&event)?,
            (None, "json") => event.to_json(),
            (None, _) => text::printable(&event_line(&event)),
        };
        terminal::print_line(&line)?;
    }
    Ok(0)
}

/// `TIME TYPE ACTION ID (name=value, ...)`.
fn event_line(event: &Value) -> String {
    let time = match event.get("timeNano").map_or(0, Value::int) {
        0 => event.get("time").map_or(0, Value::int).saturating_mul(1_000_000_000),
        nanos => nanos,
    };
    let at = |path: &[&str]| event.text_at(path).to_string();
    let mut line =
        format!("{} {} {} {}", clock::event_time(time), at(&["Type"]), at(&["Action"]), at(&["Actor", "ID"]));
    let empty = Value::Nil;
    let attributes = event.at(&["Actor", "Attributes"]).unwrap_or(&empty);
    let mut pairs: Vec<String> = attributes.members().iter().map(|(k, v)| format!("{k}={v}")).collect();
    if !pairs.is_empty() {
        pairs.sort();
        let _ = write!(line, " ({})", pairs.join(", "));
    }
    line
}

async fn df(context: &Context, flags: &Df) -> Result<u8> {
    let usage: Value = context.client.get(&Path::new(&["system", "df"])).await?;
    if flags.format == "json" {
        terminal::print_line(&usage.to_json())?;
        return Ok(0);
    }
    if flags.verbose {
        if !flags.format.is_empty() {
            return Err(Error::Usage("the verbose and the format options conflict".into()));
        }
        return storage::df_verbose(context, &usage).await;
    }
    let rows = df_rows(&usage);
    let listing = listing::Listing {
        default: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}".into(),
        headers: &[
            ("Type", "TYPE"),
            ("TotalCount", "TOTAL"),
            ("Active", "ACTIVE"),
            ("Size", "SIZE"),
            ("Reclaimable", "RECLAIMABLE"),
        ],
    };
    let format = Some(flags.format.as_str()).filter(|f| !f.is_empty());
    terminal::print(&listing.form(format)?.render(rows)?)?;
    Ok(0)
}

fn df_rows(usage: &Value) -> Vec<listing::Row> {
    let empty = Value::Nil;
    let list = |name| usage.get(name).unwrap_or(&empty).items();
    let number = |item: &Value, path: &[&str]| item.at(path).map_or(0, Value::int).max(0);
    let kind = |name: &str, total: usize, active: usize, size: i64, free: i64| {
        let human = |bytes: i64| units::human_size(bytes as f64, 4);
        let share = if size > 0 {
            format!(" ({}%)", i128::from(free) * 100 / i128::from(size))
        } else {
            String::new()
        };
        listing::row([
            ("Active", Value::Str(active.to_string())),
            ("Reclaimable", Value::Str(format!("{}{share}", human(free)))),
            ("Size", Value::Str(human(size))),
            ("TotalCount", Value::Str(total.to_string())),
            ("Type", Value::from(name)),
        ])
    };
    let images = list("Images");
    let used = |image: &&Value| number(image, &["Containers"]) > 0;
    let layers = usage.get("LayersSize").map_or(0, Value::int);
    let in_use: i64 =
        images.iter().filter(used).map(|i| number(i, &["Size"]) - number(i, &["SharedSize"])).sum();
    let containers = list("Containers");
    let running = |c: &&Value| matches!(c.text_at(&["State"]), "running" | "paused" | "restarting");
    let written = |c: &Value| number(c, &["SizeRw"]);
    let volumes = list("Volumes");
    let mounted = |v: &&Value| number(v, &["UsageData", "RefCount"]) > 0;
    let volume_size = |v: &Value| number(v, &["UsageData", "Size"]);
    let cache = list("BuildCache");
    let cache_used = |c: &&Value| c.get("InUse").is_some_and(Value::is_true);
    vec![
        kind("Images", images.len(), images.iter().filter(used).count(), layers, (layers - in_use).max(0)),
        kind(
            "Containers",
            containers.len(),
            containers.iter().filter(running).count(),
            containers.iter().map(written).sum(),
            containers.iter().filter(|c| !running(c)).map(written).sum(),
        ),
        kind(
            "Local Volumes",
            volumes.len(),
            volumes.iter().filter(mounted).count(),
            volumes.iter().map(volume_size).sum(),
            volumes.iter().filter(|v| !mounted(v)).map(volume_size).sum(),
        ),
        kind(
            "Build Cache",
            cache.len(),
            cache.iter().filter(cache_used).count(),
            cache.iter().map(|c| number(c, &["Size"])).sum(),
            cache.iter().filter(|c| !cache_used(c)).map(|c| number(c, &["Size"])).sum(),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let event: Value = serde_json::from_str(
            r#"{"Type":"container","Action":"start","Actor":{"ID":"c9","Attributes":{"name":"web","image":"x"}},"timeNano":1}"#,
        )
        .unwrap();
        assert!(event_line(&event).ends_with(" container start c9 (image=x, name=web)"));
    }

    #[test]
    fn version_lines_up() {
        let client = from_json(
            json!({"Version": "1", "ApiVersion": "1.41", "DefaultAPIVersion": "1.47", "Os": "linux", "Arch": "amd64"}),
        );
        let text = version_text(&client, None);
        assert_eq!(
            text,
            "Client:\n Version:          1\n API version:      1.41 (downgraded from 1.47)\n OS/Arch:          linux/amd64\n"
        );
    }
}
