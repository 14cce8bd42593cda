//! `search` and `manifest inspect`: what registries say, asked through the daemon.

use super::{Context, pull};
use crate::error::{Error, Result};
use crate::http::{Extra, Path};
use crate::listing::{self, Listing, Row};
use crate::terminal;
use crate::text::printable;
use crate::units;
use gotemplate::Value;
use hyper::Method;
use oci::reference::DEFAULT_HOST;
use oci::{Digest, Reference};
use serde_json::json;

/// Width of a description that is not shown whole.
const DESCRIPTION: usize = 45;

/// Search a registry for images
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Search {
    /// Filter output based on conditions provided (is-official, stars)
    #[arg(short, long, value_name = "filter")]
    filter: Vec<String>,
    /// Pretty-print search using a Go template
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    format: String,
    /// Max number of search results
    #[arg(long, value_name = "int", default_value_t = 0, hide_default_value = true)]
    limit: i64,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// What to look for; `HOST/TERM` for another registry than Docker Hub
    term: String,
}

const HEADERS: &[(&str, &str)] = &[
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("StarCount", "STARS"),
    ("IsOfficial", "OFFICIAL"),
    ("IsAutomated", "AUTOMATED"),
];

pub(crate) async fn search(context: &Context, flags: &Search) -> Result<u8> {
    let default = "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}".to_string();
    let form = Listing { default, headers: HEADERS }.form(Some(&flags.format))?;
    let host = match flags.term.split_once('/') {
        Some((host, _)) if host == "localhost" || host.contains(['.', ':']) => host,
        _ => DEFAULT_HOST,
    };
    let limit = if flags.limit == 0 { String::new() } else { flags.limit.to_string() };
    let path = Path::new(&["images", "search"])
        .query("term", &flags.term)
        .query_some("limit", &limit)
        .query_some("filters", &listing::filters(&flags.filter)?);
    let extra = Extra { content: None, registry_auth: context.config.registry_auth(host).await? };
    let response = context.client.request(Method::GET, &path, extra).await?;
    let found: Value = context.client.json(&path, response).await?;
    let row = |one: &Value| -> Row {
        let text = printable(one.text_at(&["description"])).replace(['\n', '\t'], " ");
        let yes = |field| {
            let set = one.get(field).is_some_and(Value::truth);
            Value::from(if set { "[OK]" } else { "" })
        };
        listing::row([
            ("Name", Value::Str(printable(one.text_at(&["name"])))),
            (
                "Description",
                Value::Str(if flags.no_trunc { text } else { units::ellipsis(&text, DESCRIPTION) }),
            ),
            ("StarCount", Value::Str(one.get("star_count").map_or(0, Value::int).to_string())),
            ("IsOfficial", yes("is_official")),
            ("IsAutomated", yes("is_automated")),
        ])
    };
    terminal::print(&form.render(found.items().iter().map(row).collect())?)?;
    Ok(0)
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Manifest {
    /// Display an image manifest, or manifest list, as the registry has it
    Inspect(Inspect),
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Inspect {
    /// Also show reference and descriptor, and the manifests that a list names
    #[arg(short, long)]
    verbose: bool,
    /// The image: NAME[:TAG|@DIGEST]
    #[arg(value_name = "MANIFEST")]
    name: String,
}

pub(crate) async fn manifest(context: &Context, command: &Manifest) -> Result<u8> {
    let Manifest::Inspect(flags) = command;
    let reference = pull::tagged(&flags.name)?;
    let (media_type, bytes) = fetch(context, &reference).await?;
    let document: serde_json::Value = parse(&bytes)?;
    let shown = if flags.verbose {
        let entries = document.get("manifests").and_then(|list| list.as_array());
        match entries {
            None => describe(&reference, &media_type, &bytes, json!(null))?,
            Some(entries) => {
                let mut all = Vec::new();
                for entry in entries {
                    let digest = entry.get("digest").and_then(|d| d.as_str()).unwrap_or_default();
                    let digest: Digest = digest.parse().map_err(|_| {
                        Error::Reported(format!("the list names {:?}, which is no digest", printable(digest)))
                    })?;
                    let (media_type, bytes) = fetch(context, &reference.with_digest(digest)).await?;
                    let platform = entry.get("platform").cloned().unwrap_or(json!(null));
                    all.push(describe(&reference.with_digest(digest), &media_type, &bytes, platform)?);
                }
                serde_json::Value::Array(all)
            }
        }
    } else {
        document
    };
    let mut out = Vec::new();
    let form = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut writer = serde_json::Serializer::with_formatter(&mut out, form);
    serde::Serialize::serialize(&shown, &mut writer)
        .map_err(|source| Error::Decode { what: "a manifest".into(), source })?;
    terminal::print_line(&printable(&String::from_utf8_lossy(&out)))?;
    Ok(0)
}

/// The manifest's media type and bytes.
async fn fetch(context: &Context, reference: &Reference) -> Result<(String, Vec<u8>)> {
    let name = reference.familiar();
    let path = Path::new(&["distribution", &name, "manifest"]);
    let extra = Extra { content: None, registry_auth: context.config.registry_auth(reference.host()).await? };
    let response = context.client.request(Method::GET, &path, extra).await?;
    let media_type = response.headers().get("content-type").and_then(|v| v.to_str().ok());
    let media_type = media_type.unwrap_or_default().to_string();
    Ok((media_type, context.client.read_all(response).await?.to_vec()))
}

fn parse(bytes: &[u8]) -> Result<serde_json::Value> {
    serde_json::from_slice(bytes).map_err(|source| Error::Decode { what: "a manifest".into(), source })
}

fn describe(
    reference: &Reference,
    media_type: &str,
    bytes: &[u8],
    platform: serde_json::Value,
) -> Result<serde_json::Value> {
    let mut descriptor = json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()});
    if !platform.is_null() {
        descriptor["platform"] = platform;
    }
    let field = if media_type.contains("docker") { "SchemaV2Manifest" } else { "OCIManifest" };
    Ok(json!({"Ref": reference.to_string(), "Descriptor": descriptor, field: parse(bytes)?}))
}
