//! `builder`: building, and what builds remember.

use super::{Context, build, objects};
use crate::error::Result;
use crate::http::{Extra, Path};
use crate::terminal;
use crate::units;
use hyper::Method;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal};

#[derive(Debug, Clone, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum Builder {
    /// Build an image from a Dockerfile
    Build(Box<build::Build>),
    /// Remove build cache
    Prune(Prune),
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Prune {
    /// Remove all unused build cache, not just dangling ones
    #[arg(short, long)]
    all: bool,
    /// Provide filter values (e.g. "until=24h")
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
    /// Amount of disk space to keep for cache
    #[arg(long, value_name = "bytes", value_parser = units::parse_bytes)]
    keep_storage: Option<i64>,
}

pub(crate) async fn builder(context: &Context, command: &Builder) -> Result<u8> {
    match command {
        Builder::Build(flags) => build::build(context, flags).await,
        Builder::Prune(flags) => prune(context, flags).await,
    }
}

async fn prune(context: &Context, flags: &Prune) -> Result<u8> {
    if !flags.force {
        let what = if flags.all { "all build cache" } else { "all dangling build cache" };
        terminal::print(&format!(
            "WARNING! This will remove {what}. Are you sure you want to continue? [y/N] "
        ))?;
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer);
        if read.is_err() || !answer.trim().eq_ignore_ascii_case("y") {
            if !std::io::stdin().is_terminal() {
                terminal::print_line("")?;
            }
            return Ok(0);
        }
    }
    let mut path = Path::new(&["build", "prune"]).flag("all", flags.all);
    if !flags.filter.is_empty() {
        let mut filters: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for (key, value) in objects::pairs(&flags.filter) {
            filters.entry(key).or_default().push(value);
        }
        path = path.query("filters", &serde_json::to_string(&filters).unwrap_or_default());
    }
    if let Some(bytes) = flags.keep_storage {
        path = path.query("reserved-space", &bytes.to_string());
    }
    let response = context.client.request(Method::POST, &path, Extra::default()).await?;
    let answer: Value = context.client.json(&path, response).await?;
    for id in answer["CachesDeleted"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        terminal::print_line(id)?;
    }
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    let bytes = answer["SpaceReclaimed"].as_u64().unwrap_or(0) as f64;
    terminal::print_line(&format!("\nTotal reclaimed space: {}", units::human_size(bytes, 4)))?;
    Ok(0)
}
