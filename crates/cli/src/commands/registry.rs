//! `search`: what registries find, asked through the daemon.

use super::Context;
use crate::error::Result;
use crate::http::{Extra, Path};
use crate::listing::{self, Listing, Row};
use crate::terminal;
use crate::text::printable;
use crate::units;
use gotemplate::Value;
use hyper::Method;
use oci::reference::DEFAULT_HOST;

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
