//! `push`.

use super::Context;
use super::pull::parse;
use crate::error::{Error, Result};
use crate::http::{Extra, Path};
use crate::progress::Progress;
use crate::terminal::{self, Out};
use hyper::Method;
use oci::Platform;

/// Upload an image to a registry
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Push {
    /// Push all tags of an image to the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Push a platform-specific manifest as a single-platform image to the registry
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    platform: String,
    /// Suppress verbose output
    #[arg(short, long)]
    quiet: bool,
    /// Skip image signing (kept for compatibility)
    #[arg(long, hide = true, default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    disable_content_trust: Option<bool>,
    /// The image: NAME[:TAG]
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
}

pub(crate) async fn push_command(context: &Context, flags: &Push) -> Result<u8> {
    let named = parse(&flags.name)?;
    if flags.all_tags && named.tag().is_some() {
        return Err(Error::Usage("tag can't be used with --all-tags/-a".into()));
    }
    let reference = if flags.all_tags { named } else { default_tag(named, flags.quiet)? };
    let platform = match flags.platform.as_str() {
        "" => String::new(),
        text => {
            let platform: Platform = text.parse().map_err(|e| Error::Usage(format!("{e}")))?;
            serde_json::to_string(&platform).map_err(|e| Error::Usage(e.to_string()))?
        }
    };
    let path = Path::new(&["images", &reference.familiar_name(), "push"])
        .query("tag", reference.tag().unwrap_or_default())
        .query_some("platform", &platform);
    // Present even when it says nothing: older daemons read the body where there is no such header.
    let auth = context.config.registry_auth(reference.host()).await?.unwrap_or_else(|| "e30=".into());
    let extra = Extra { content: None, registry_auth: Some(auth) };
    let response = context.client.request(Method::POST, &path, extra).await?;
    Progress::new(Out::Stdout, flags.quiet).follow(response.into_body()).await?;
    if flags.quiet {
        terminal::print_line(&reference.to_string())?;
    }
    Ok(0)
}

fn default_tag(named: oci::Reference, quiet: bool) -> Result<oci::Reference> {
    if named.tag().is_none() && named.digest().is_none() && !quiet {
        terminal::print_line("Using default tag: latest")?;
    }
    Ok(named.with_default_tag())
}
