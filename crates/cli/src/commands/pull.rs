//! `pull`, and the pulls of `run`.

use super::Context;
use crate::error::{Error, Result};
use crate::http::{Extra, Path};
use crate::progress::Progress;
use crate::terminal::{self, Out};
use hyper::Method;
use oci::Reference;

/// Download an image from a registry
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Pull {
    /// Download all tagged images in the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Set platform if server is multi-platform capable
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    platform: String,
    /// Suppress verbose output
    #[arg(short, long)]
    quiet: bool,
    /// Skip image verification (kept for compatibility)
    #[arg(long, hide = true, default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    disable_content_trust: Option<bool>,
    /// The image: NAME[:TAG|@DIGEST]
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: String,
}

/// Where progress goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Show {
    out: Out,
    quiet: bool,
}

impl Show {
    /// For `run`, whose standard output belongs to the container.
    pub(crate) fn on_stderr(quiet: bool) -> Show {
        Show { out: Out::Stderr, quiet }
    }
}

pub(crate) async fn pull_command(context: &Context, flags: &Pull) -> Result<u8> {
    let named: Reference = parse(&flags.name)?;
    if flags.all_tags {
        if named.tag().is_some() || named.digest().is_some() {
            return Err(Error::Usage("tag can't be used with --all-tags/-a".into()));
        }
        pull(context, &named, &flags.platform, Show { out: Out::Stdout, quiet: flags.quiet }).await?;
        terminal::print_line(&named.name())?;
        return Ok(0);
    }
    if named.tag().is_none() && named.digest().is_none() && !flags.quiet {
        terminal::print_line("Using default tag: latest")?;
    }
    let reference = named.with_default_tag();
    pull(context, &reference, &flags.platform, Show { out: Out::Stdout, quiet: flags.quiet }).await?;
    terminal::print_line(&reference.to_string())?;
    Ok(0)
}

/// Reads a reference the way Docker says no.
pub(crate) fn parse(name: &str) -> Result<Reference> {
    name.parse().map_err(|e: oci::reference::ParseReferenceError| match e.reason {
        "repository name must be lowercase" => {
            Error::Usage(format!("invalid reference format: repository name ({name}) must be lowercase"))
        }
        _ => Error::Usage("invalid reference format".into()),
    })
}

/// [`parse`], with `latest` where nothing is named.
pub(crate) fn tagged(name: &str) -> Result<Reference> {
    Ok(parse(name)?.with_default_tag())
}

/// Pulls `reference`, or all tags of a repository, and shows the progress.
pub(crate) async fn pull(context: &Context, reference: &Reference, platform: &str, show: Show) -> Result<()> {
    // The API takes a digest where a tag stands.
    let version = match (reference.digest(), reference.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or_default().to_string(),
    };
    let path = Path::new(&["images", "create"])
        .query("fromImage", &reference.familiar_name())
        .query_some("tag", &version)
        .query_some("platform", platform);
    let auth = context.config.registry_auth(reference.host()).await?;
    let extra = Extra { content: None, registry_auth: auth };
    let response = context.client.request(Method::POST, &path, extra).await?;
    Progress::new(show.out, show.quiet).follow(response.into_body()).await
}
