//! `inspect`: any object by name.

use super::Context;
use crate::error::{Error, Result};
use crate::http::Path;
use crate::terminal;
use gotemplate::Template;
use gotemplate::Value;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Inspect {
    /// Format output: 'json' or a Go template
    #[arg(short, long, value_name = "string", default_value = "", hide_default_value = true)]
    format: String,
    /// Display total file sizes if the type is container
    #[arg(short, long)]
    size: bool,
    /// Only inspect objects of the given type
    #[arg(long = "type", value_name = "string", default_value = "", hide_default_value = true)]
    kind: String,
    /// Inspect one platform of an image that has several, where the daemon can
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    platform: String,
    #[arg(required = true, value_name = "NAME|ID")]
    names: Vec<String>,
}

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Container,
    Image,
    Network,
    Volume,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Container, Kind::Image, Kind::Network, Kind::Volume];

    fn word(self) -> &'static str {
        match self {
            Kind::Container => "container",
            Kind::Image => "image",
            Kind::Network => "network",
            Kind::Volume => "volume",
        }
    }

    fn path(self, name: &str, size: bool, platform: &str) -> Path {
        match self {
            Kind::Container => Path::new(&["containers", name, "json"]).flag("size", size),
            Kind::Image => Path::new(&["images", name, "json"]).query_some("platform", platform),
            Kind::Network => Path::new(&["networks", name]),
            Kind::Volume => Path::new(&["volumes", name]),
        }
    }
}

pub(crate) async fn inspect(context: &Context, flags: &Inspect, only: Option<Kind>) -> Result<u8> {
    let kinds: Vec<Kind> = match (only, flags.kind.as_str()) {
        (Some(kind), _) => vec![kind],
        (None, "") => Kind::ALL.to_vec(),
        (None, word) => Kind::ALL.into_iter().filter(|k| k.word() == word).collect(),
    };
    if kinds.is_empty() {
        return Err(Error::Usage(format!("unknown type: {:?}", flags.kind)));
    }
    let platform = match flags.platform.as_str() {
        "" => String::new(),
        _ if kinds != [Kind::Image] => {
            return Err(Error::Usage("--platform is for images: use 'image inspect' or --type image".into()));
        }
        text => {
            let platform: oci::Platform = text.parse().map_err(|e| Error::Usage(format!("{e}")))?;
            serde_json::to_string(&platform).map_err(|e| Error::Usage(e.to_string()))?
        }
    };
    show_platform(context, &flags.names, &kinds, &flags.format, flags.size, &platform).await
}

/// Looks for each name among `kinds`, first found wins, and shows all that were found even where some were not.
pub(crate) async fn show(
    context: &Context,
    names: &[String],
    kinds: &[Kind],
    format: &str,
    size: bool,
) -> Result<u8> {
    show_platform(context, names, kinds, format, size, "").await
}

/// As [`show`]; of images the one for `platform`, JSON, where that is not empty.
async fn show_platform(
    context: &Context,
    names: &[String],
    kinds: &[Kind],
    format: &str,
    size: bool,
    platform: &str,
) -> Result<u8> {
    let template = match format {
        "" | "json" => None,
        text => Some(Template::parse(text).map_err(|e| Error::Exit {
            // Docker's exit code for a template that cannot be read.
            code: 64,
            message: Some(e.to_string()),
        })?),
    };
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for name in names {
        match find(context, name, kinds, size, platform).await {
            Ok(value) => found.push(value),
            Err(error @ (Error::Connect { .. } | Error::StartDaemon { .. })) => return Err(error),
            Err(error) => failures.push(error),
        }
    }
    let mut out = String::new();
    match (&template, format) {
        (Some(template), _) => {
            for value in &found {
                out.push_str(&template.execute(value)?);
                out.push('\n');
            }
            if found.is_empty() {
                out.push('\n');
            }
        }
        (None, "json") => out = format!("{}\n", Value::List(found).to_json()),
        (None, _) => out = format!("{}\n", Value::List(found).to_pretty_json()),
    }
    terminal::print(&out)?;
    if failures.is_empty() {
        return Ok(0);
    }
    let lines: Vec<String> = failures.iter().map(|e| errors::chain(e)).collect();
    Err(Error::Exit { code: 1, message: Some(lines.join("\n")) })
}

async fn find(context: &Context, name: &str, kinds: &[Kind], size: bool, platform: &str) -> Result<Value> {
    for kind in kinds {
        match context.client.get(&kind.path(name, size, platform)).await {
            Err(error) if error.is_not_found() && kinds.len() > 1 => {}
            // A daemon without networks or volumes has none of this name.
            Err(Error::Api { status: 501, .. }) if kinds.len() > 1 => {}
            result => return result,
        }
    }
    Err(Error::Missing(format!("Error: No such object: {name}")))
}
