//! `save`, `import`.

use super::{Context, export, pull};
use crate::body;
use crate::error::{Error, Result};
use crate::http::Path;
use crate::progress::Progress;
use crate::terminal::{self, Out};
use hyper::Method;
use std::io::IsTerminal;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Save {
    /// Write to a file, instead of STDOUT
    #[arg(short, long, value_name = "string")]
    output: Option<String>,
    /// Save only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    platform: String,
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Import {
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "list")]
    change: Vec<String>,
    /// Set commit message for imported image
    #[arg(short, long, value_name = "string", default_value = "", hide_default_value = true)]
    message: String,
    /// Set platform if server is multi-platform capable
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    platform: String,
    #[arg(value_name = "file|URL|-", allow_hyphen_values = true)]
    source: String,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<String>,
}

pub(crate) async fn save(context: &Context, flags: &Save) -> Result<u8> {
    let mut path = Path::new(&["images", "get"]);
    for image in &flags.images {
        path = path.query("names", image);
    }
    if !flags.platform.is_empty() {
        let platform: oci::Platform = flags.platform.parse().map_err(|e| Error::Usage(format!("{e}")))?;
        path = path.query("platform", &serde_json::to_string(&platform).unwrap_or_default());
    }
    export::download(context, &path, flags.output.as_deref()).await
}

pub(crate) async fn import(context: &Context, flags: &Import) -> Result<u8> {
    let is_url = flags.source.starts_with("http://") || flags.source.starts_with("https://");
    let mut path = Path::new(&["images", "create"])
        .query("fromSrc", if is_url { &flags.source } else { "-" })
        .query_some("message", &flags.message)
        .query_some("platform", &flags.platform);
    if let Some(text) = &flags.reference {
        let reference = pull::parse(text)?;
        path =
            path.query("repo", &reference.familiar_name()).query_some("tag", reference.tag().unwrap_or(""));
    }
    for change in &flags.change {
        path = path.query("changes", change);
    }
    let chunks = match flags.source.as_str() {
        _ if is_url => tokio::sync::mpsc::channel(1).1,
        "-" if std::io::stdin().is_terminal() => {
            return Err(Error::Usage("requested import from stdin, but stdin is a terminal".into()));
        }
        "-" => terminal::stdin_chunks(),
        file => body::file_chunks(tokio::fs::File::open(file).await.map_err(|source| Error::File {
            doing: "open",
            path: file.into(),
            source,
        })?),
    };
    let body = body::streamed(chunks);
    let response = context.client.request_stream(Method::POST, &path, "application/x-tar", body).await?;
    Progress::new(Out::Stdout, false).follow(response.into_body()).await?;
    Ok(0)
}
