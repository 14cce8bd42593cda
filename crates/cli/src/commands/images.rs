//! `images`, `rmi`, `load`, `tag`, `history`.

use super::{Context, each, image_tree, pull};
use crate::error::{Error, Result};
use crate::http::Path;
use crate::listing::{self, Listing, Row};
use crate::progress::Progress;
use crate::terminal::{self, Out};
use crate::{clock, units};
use gotemplate::Value;
use hyper::Method;
use std::io::IsTerminal;

#[derive(Debug, Clone, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "one per flag of the command line")]
pub(crate) struct Images {
    /// Show all images (default hides intermediate images)
    #[arg(short, long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    quiet: bool,
    /// List the platforms of each image as a tree
    #[arg(long)]
    tree: bool,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Remove {
    /// Force removal of the image
    #[arg(short, long)]
    force: bool,
    /// Do not delete untagged parents
    #[arg(long)]
    no_prune: bool,
    /// Remove only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    platform: Vec<String>,
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Load {
    /// Read from tar archive file, instead of STDIN
    #[arg(short, long, value_name = "string")]
    input: Option<String>,
    /// Suppress the load output
    #[arg(short, long)]
    quiet: bool,
    /// Load only the given platform
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    platform: String,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Tag {
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    source: String,
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    target: String,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct History {
    /// Format output: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Print sizes and dates in human readable format
    #[arg(short = 'H', long, value_name = "bool", default_value = "true", default_missing_value = "true",
          num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    human: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    quiet: bool,
    /// Show history for the given platform. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    platform: String,
    image: String,
}

const NONE: &str = "<none>";

const IMAGE_HEADERS: &[(&str, &str)] = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "SIZE"),
];

pub(crate) async fn images(context: &Context, flags: &Images) -> Result<u8> {
    let mut filter = flags.filter.clone();
    filter.extend(flags.name.as_ref().map(|name| format!("reference={name}")));
    let path = Path::new(&["images", "json"])
        .flag("all", flags.all)
        .query_some("filters", &listing::filters(&filter)?);
    if flags.tree {
        return tree(context, flags, &path).await;
    }
    let digest = if flags.digests { "{{.Digest}}\t" } else { "" };
    let default = format!(
        "{{{{.Repository}}}}\t{{{{.Tag}}}}\t{digest}{{{{.ID}}}}\t{{{{.CreatedSince}}}}\t{{{{.Size}}}}"
    );
    let configured = context.config.text("imagesFormat").filter(|_| !flags.quiet);
    let form = Listing { default, headers: IMAGE_HEADERS }
        .form(flags.format.as_deref().or(configured.as_deref()))?;
    let images: Vec<Value> = context.client.get(&path).await?;
    let with_digests = flags.digests || (flags.format.is_some() && form.mentions("Digest"));
    let names =
        images.iter().flat_map(|image| names(image, with_digests).into_iter().map(move |name| (image, name)));
    if flags.quiet && flags.format.is_none() {
        let ids: String = names.map(|(image, _)| format!("{}\n", id(image, flags.no_trunc))).collect();
        terminal::print(&ids)?;
        return Ok(0);
    }
    let rows = names.map(|(image, name)| image_row(image, &name, flags.no_trunc)).collect();
    terminal::print(&form.render(rows)?)?;
    Ok(0)
}

/// The list as a tree, with which some flags cannot be; docker's words.
async fn tree(context: &Context, flags: &Images, path: &Path) -> Result<u8> {
    let others = [
        ("quiet", flags.quiet),
        ("no-trunc", flags.no_trunc),
        ("show-digest", flags.digests),
        ("format", flags.format.is_some()),
    ];
    if let Some((name, _)) = others.iter().find(|(_, set)| *set) {
        return Err(Error::Usage(format!("--{name} is not yet supported with --tree")));
    }
    let images: Vec<Value> = context.client.get(&path.clone().flag("manifests", true)).await?;
    image_tree::print(&images)?;
    Ok(0)
}

/// One line of the list: an image may have many.
#[derive(Debug, PartialEq, Eq)]
struct Name {
    repository: String,
    tag: String,
    digest: String,
}

/// A line for each tag; one with `<none>` where there is no tag.
fn names(image: &Value, with_digests: bool) -> Vec<Name> {
    let list = |name| {
        let items = image.get(name).map_or(&[][..], Value::items);
        items.iter().map(Value::text).filter(|t| !t.starts_with(NONE)).collect::<Vec<_>>()
    };
    let (tags, digests) = (list("RepoTags"), list("RepoDigests"));
    let digest_of = |repository: &str| {
        let found = digests.iter().filter_map(|d| d.split_once('@')).find(|(name, _)| *name == repository);
        found.map_or(NONE, |(_, digest)| digest).to_string()
    };
    let tagged = tags.iter().filter_map(|t| t.rsplit_once(':')).map(|(repository, tag)| Name {
        repository: repository.into(),
        tag: tag.into(),
        digest: if with_digests { digest_of(repository) } else { String::new() },
    });
    let mut out: Vec<Name> = tagged.collect();
    if out.is_empty() {
        let (repository, digest) = digests.iter().find_map(|d| d.split_once('@')).unwrap_or((NONE, NONE));
        out.push(Name { repository: repository.into(), tag: NONE.into(), digest: digest.into() });
    }
    out
}

/// Repository and tag of each line that an image has in a list.
pub(crate) fn names_of(image: &Value) -> Vec<(String, String)> {
    names(image, false).into_iter().map(|name| (name.repository, name.tag)).collect()
}

fn id(image: &Value, whole: bool) -> String {
    let id = image.text_at(&["Id"]);
    if whole { id.to_string() } else { units::short_id(id) }
}

fn image_row(image: &Value, name: &Name, whole: bool) -> Row {
    let number = |field| image.get(field).map_or(0, Value::int);
    let size = units::human_size(number("Size") as f64, 3);
    let known = |field| match number(field) {
        n if n < 0 => "N/A".to_string(),
        n => n.to_string(),
    };
    let digest = if name.digest.is_empty() { NONE } else { &name.digest };
    listing::row([
        ("Containers", Value::Str(known("Containers"))),
        ("CreatedAt", Value::Str(clock::local(number("Created")))),
        ("CreatedSince", Value::Str(clock::ago(number("Created")))),
        ("Digest", Value::from(digest)),
        ("ID", Value::Str(id(image, whole))),
        ("Repository", Value::from(name.repository.as_str())),
        ("SharedSize", Value::Str(known("SharedSize"))),
        ("Size", Value::from(size.as_str())),
        ("Tag", Value::from(name.tag.as_str())),
        ("UniqueSize", Value::from("N/A")),
        ("VirtualSize", Value::Str(size)),
    ])
}

/// A platform as the API takes it.
fn platform(text: &str) -> Result<String> {
    let platform: oci::Platform = text.parse().map_err(|e| Error::Usage(format!("{e}")))?;
    serde_json::to_string(&platform).map_err(|e| Error::Usage(e.to_string()))
}

pub(crate) async fn remove(context: &Context, flags: &Remove) -> Result<u8> {
    let mut missing = false;
    let platforms = flags.platform.iter().map(|text| platform(text)).collect::<Result<Vec<_>>>()?;
    let code = each(&flags.images, async |name| {
        let mut path =
            Path::new(&["images", &name]).flag("force", flags.force).flag("noprune", flags.no_prune);
        for platform in &platforms {
            path = path.query("platforms", platform);
        }
        let bytes = context.client.delete(&path).await?;
        let answer: Value = serde_json::from_slice(&bytes)
            .map_err(|source| Error::Decode { what: "an image's removal".into(), source })?;
        let line = |item: &Value| match item.text_at(&["Deleted"]) {
            "" => format!("Untagged: {}", item.text_at(&["Untagged"])),
            id => format!("Deleted: {id}"),
        };
        let lines: Vec<String> = answer.items().iter().map(line).collect();
        Ok((!lines.is_empty()).then(|| lines.join("\n")))
    })
    .await?;
    missing |= code != 0;
    // With force a missing image is no failure.
    Ok(if missing && !flags.force { 1 } else { 0 })
}

pub(crate) async fn load(context: &Context, flags: &Load) -> Result<u8> {
    let file = match &flags.input {
        Some(path) => Some(tokio::fs::File::open(path).await.map_err(|source| Error::File {
            doing: "open",
            path: path.into(),
            source,
        })?),
        None if std::io::stdin().is_terminal() => {
            return Err(Error::Usage("requested load from stdin, but stdin is empty".into()));
        }
        None => None,
    };
    let quiet = flags.quiet || !std::io::stdout().is_terminal();
    let mut path = Path::new(&["images", "load"]).query("quiet", if quiet { "1" } else { "0" });
    if !flags.platform.is_empty() {
        path = path.query("platform", &platform(&flags.platform)?);
    }
    let chunks = match file {
        Some(file) => crate::body::file_chunks(file),
        None => terminal::stdin_chunks(),
    };
    let body = crate::body::streamed(chunks);
    let response = context.client.request_stream(Method::POST, &path, "application/x-tar", body).await?;
    Progress::new(Out::Stdout, false).follow(response.into_body()).await?;
    Ok(0)
}

pub(crate) async fn tag(context: &Context, flags: &Tag) -> Result<u8> {
    let target = pull::parse(&flags.target).map_err(|e| {
        Error::Usage(format!(
            "Error parsing reference: {:?} is not a valid repository/tag: {e}",
            flags.target
        ))
    })?;
    if target.digest().is_some() {
        return Err(Error::Usage("refusing to create a tag with a digest reference".into()));
    }
    let target = target.with_default_tag();
    let path = Path::new(&["images", &flags.source, "tag"])
        .query("repo", &target.familiar_name())
        .query("tag", target.tag().unwrap_or_default());
    context.client.post(&path).await?;
    Ok(0)
}

const HISTORY_HEADERS: &[(&str, &str)] = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

pub(crate) async fn history(context: &Context, flags: &History) -> Result<u8> {
    let when = if flags.human { "{{.CreatedSince}}" } else { "{{.CreatedAt}}" };
    let default = format!("{{{{.ID}}}}\t{when}\t{{{{.CreatedBy}}}}\t{{{{.Size}}}}\t{{{{.Comment}}}}");
    let form = Listing { default, headers: HISTORY_HEADERS }.form(flags.format.as_deref())?;
    let mut path = Path::new(&["images", &flags.image, "history"]);
    if !flags.platform.is_empty() {
        path = path.query("platform", &platform(&flags.platform)?);
    }
    let layers: Vec<Value> = context.client.get(&path).await?;
    if flags.quiet && flags.format.is_none() {
        let ids: String = layers.iter().map(|l| format!("{}\n", id(l, flags.no_trunc))).collect();
        terminal::print(&ids)?;
        return Ok(0);
    }
    let row = |layer: &Value| {
        let number = |field| layer.get(field).map_or(0, Value::int);
        let by = layer.text_at(&["CreatedBy"]).replace('\t', " ");
        let size = number("Size");
        let created = number("Created");
        listing::row([
            ("Comment", Value::from(layer.text_at(&["Comment"]))),
            ("CreatedAt", Value::Str(clock::local_rfc3339(created))),
            ("CreatedBy", Value::Str(if flags.no_trunc { by } else { units::ellipsis(&by, 45) })),
            ("CreatedSince", Value::Str(clock::ago(created))),
            ("ID", Value::Str(id(layer, flags.no_trunc))),
            (
                "Size",
                Value::Str(if flags.human { units::human_size(size as f64, 3) } else { size.to_string() }),
            ),
        ])
    };
    terminal::print(&form.render(layers.iter().map(row).collect())?)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_line_for_each_tag() {
        let image: Value = serde_json::from_str(
            r#"{"RepoTags":["a:1","r:5000/b:2"],"RepoDigests":["a@sha256:00"],"Id":"sha256:0123456789abcdef"}"#,
        )
        .unwrap();
        let lines = names(&image, true);
        let show: Vec<String> =
            lines.iter().map(|n| format!("{} {} {}", n.repository, n.tag, n.digest)).collect();
        assert_eq!(show, ["a 1 sha256:00", "r:5000/b 2 <none>"]);
        let bare: Value = serde_json::from_str(r#"{"RepoTags":null,"RepoDigests":["x@sha256:1"]}"#).unwrap();
        assert_eq!(names(&bare, false)[0].repository, "x");
        let none: Value = serde_json::from_str(r#"{"RepoTags":["<none>:<none>"]}"#).unwrap();
        assert_eq!(names(&none, false)[0].repository, "<none>");
    }
}
