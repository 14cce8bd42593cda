//! Networks, and the `prune` of every kind.

use super::inspect::{self, Kind};
use super::networks;
use super::{Context, each};
use crate::clock;
use crate::error::{Error, Result};
use crate::http::{Extra, Path};
use crate::listing::{self, Listing};
use crate::terminal;
use crate::units;
use gotemplate::Value;
use hyper::Method;
use serde_json::{Map, json};
use std::io::BufRead;

#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum Network {
    /// List networks
    #[command(name = "ls", alias = "list")]
    List(List),
    /// Display detailed information on one or more networks
    Inspect(Inspect),
    /// Create a network
    Create(networks::Create),
    /// Remove one or more networks
    #[command(name = "rm", alias = "remove")]
    Remove {
        /// Do not error if the network does not exist
        #[arg(short, long)]
        force: bool,
        #[arg(required = true, value_name = "NETWORK")]
        names: Vec<String>,
    },
    /// Connect a container to a network
    Connect(networks::Connect),
    /// Disconnect a container from a network
    Disconnect {
        /// Force the container to disconnect from a network
        #[arg(short, long)]
        force: bool,
        network: String,
        container: String,
    },
    /// Remove all unused networks
    Prune(Prune),
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct List {
    /// Provide filter values (e.g. "driver=bridge")
    #[arg(short, long, value_name = "filter")]
    pub(super) filter: Vec<String>,
    /// Format output: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long, value_name = "string")]
    pub(super) format: Option<String>,
    /// Do not truncate the output
    #[arg(long)]
    no_trunc: bool,
    /// Only display names or IDs
    #[arg(short, long)]
    pub(super) quiet: bool,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Inspect {
    /// Format output: 'json' or a Go template
    #[arg(short, long, value_name = "string", default_value = "", hide_default_value = true)]
    pub(super) format: String,
    #[arg(required = true, value_name = "NAME")]
    pub(super) names: Vec<String>,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Prune {
    /// Remove all unused ones, not just dangling ones (images, volumes)
    #[arg(short, long)]
    all: bool,
    /// Provide filter values (e.g. "until=<timestamp>")
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

pub(super) fn pairs(list: &[String]) -> Map<String, serde_json::Value> {
    let split = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_string(), json!(value))
    };
    list.iter().map(split).collect()
}

pub(crate) async fn network(context: &Context, command: Network) -> Result<u8> {
    let client = &context.client;
    match command {
        Network::List(flags) => network_list(context, &flags).await,
        Network::Inspect(flags) => {
            inspect::show(context, &flags.names, &[Kind::Network], &flags.format, false).await
        }
        Network::Create(flags) => networks::create(context, &flags).await,
        Network::Remove { force, names } => {
            each(&names, async |name| match client.delete(&Path::new(&["networks", &name])).await {
                Err(error) if force && error.is_not_found() => Ok(None),
                result => result.map(|_| Some(name)),
            })
            .await
        }
        Network::Connect(flags) => networks::connect(context, &flags).await,
        Network::Disconnect { force, network, container } => {
            let body = json!({"Container": container, "Force": force});
            post_body(context, &Path::new(&["networks", &network, "disconnect"]), &body).await
        }
        Network::Prune(flags) => prune(context, "networks", &flags).await,
    }
}

pub(super) async fn post_body(context: &Context, path: &Path, body: &serde_json::Value) -> Result<u8> {
    let response = context.client.request(Method::POST, path, Extra::json(body)).await?;
    context.client.read_all(response).await?;
    Ok(0)
}

async fn network_list(context: &Context, flags: &List) -> Result<u8> {
    const HEADERS: &[(&str, &str)] = &[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("CreatedAt", "CREATED AT"),
    ];
    let default = "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}".to_string();
    let form = Listing { default, headers: HEADERS }.form(flags.format.as_deref())?;
    let path = Path::new(&["networks"]).query_some("filters", &listing::filters(&flags.filter)?);
    let mut networks: Vec<Value> = context.client.get(&path).await?;
    networks.sort_by(|a, b| a.text_at(&["Name"]).cmp(b.text_at(&["Name"])));
    let id = |network: &Value| match flags.no_trunc {
        true => network.text_at(&["Id"]).to_string(),
        false => units::short_id(network.text_at(&["Id"])),
    };
    if flags.quiet && flags.format.is_none() {
        terminal::print(&networks.iter().map(|n| format!("{}\n", id(n))).collect::<String>())?;
        return Ok(0);
    }
    let row = |network: &Value| {
        let labels = network.get("Labels").cloned().unwrap_or_default();
        let truth = |field| Value::Str(network.get(field).is_some_and(Value::is_true).to_string());
        listing::row([
            ("CreatedAt", Value::Str(clock::go_time(network.text_at(&["Created"])))),
            ("Driver", Value::from(network.text_at(&["Driver"]))),
            ("ID", Value::Str(id(network))),
            ("IPv6", truth("EnableIPv6")),
            ("Internal", truth("Internal")),
            ("Label", listing::label_method(&labels)),
            ("Labels", Value::Str(listing::labels_text(&labels))),
            ("Name", Value::from(network.text_at(&["Name"]))),
            ("Scope", Value::from(network.text_at(&["Scope"]))),
        ])
    };
    terminal::print(&form.render(networks.iter().map(row).collect())?)?;
    Ok(0)
}

/// `prune` of `what`: `containers`, `images`, `networks` or `volumes`.
pub(crate) async fn prune(context: &Context, what: &str, flags: &Prune) -> Result<u8> {
    if flags.all && matches!(what, "containers" | "networks") {
        return Err(Error::Usage("unknown shorthand flag: 'a' in -a".into()));
    }
    let (warning, list, heading) = match (what, flags.all) {
        ("containers", _) => ("all stopped containers", "ContainersDeleted", "Deleted Containers:"),
        ("images", false) => ("all dangling images", "ImagesDeleted", "Deleted Images:"),
        ("images", true) => (
            "all images without at least one container associated to them",
            "ImagesDeleted",
            "Deleted Images:",
        ),
        ("networks", _) => {
            ("all custom networks not used by at least one container", "NetworksDeleted", "Deleted Networks:")
        }
        (_, false) => (
            "anonymous local volumes not used by at least one container",
            "VolumesDeleted",
            "Deleted Volumes:",
        ),
        (_, true) => {
            ("all local volumes not used by at least one container", "VolumesDeleted", "Deleted Volumes:")
        }
    };
    if !flags.force && !confirmed(&format!("WARNING! This will remove {warning}."))? {
        return Err(Error::Exit { code: 1, message: None });
    }
    let mut filter = flags.filter.clone();
    match (what, flags.all) {
        ("images", all) => filter.push(format!("dangling={}", !all)),
        ("volumes", true) => filter.push("all=1".into()),
        _ => {}
    }
    let path = Path::new(&[what, "prune"]).query_some("filters", &listing::filters(&filter)?);
    let response = context.client.request(Method::POST, &path, Extra::default()).await?;
    let answer: Value = context.client.json(&path, response).await?;
    let empty = Value::Nil;
    let deleted = answer.get(list).unwrap_or(&empty).items();
    let line = |item: &Value| match (item, item.text_at(&["Deleted"])) {
        (Value::Str(name), _) => format!("{name}\n"),
        (_, "") => format!("untagged: {}\n", item.text_at(&["Untagged"])),
        (_, id) => format!("deleted: {id}\n"),
    };
    let mut out = String::new();
    if !deleted.is_empty() {
        out = format!("{heading}\n{}\n", deleted.iter().map(line).collect::<String>());
    }
    if what != "networks" {
        let bytes = answer.get("SpaceReclaimed").map_or(0, Value::int);
        out.push_str(&format!("Total reclaimed space: {}\n", units::human_size(bytes as f64, 4)));
    }
    terminal::print(&out)?;
    Ok(0)
}

pub(super) fn confirmed(warning: &str) -> Result<bool> {
    terminal::print(&format!("{warning}\nAre you sure you want to continue? [y/N] "))?;
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    read.map_err(|source| Error::Stream { doing: "read the answer", source })?;
    Ok(line.trim().eq_ignore_ascii_case("y"))
}
