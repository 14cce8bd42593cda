//! `cp`, as far as it is plain API: a tar stream out of a container to standard output, or from standard input in.

use super::Context;
use crate::body;
use crate::error::{Error, Result};
use crate::http::{Extra, Path};
use crate::terminal::{self, Out};
use http_body_util::BodyExt;
use hyper::Method;
use std::io::IsTerminal;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Copy {
    /// Archive mode (copy all uid/gid information)
    #[arg(short, long)]
    archive: bool,
    /// CONTAINER:SRC_PATH, or '-' for a tar archive on standard input
    #[arg(value_name = "SRC", allow_hyphen_values = true)]
    source: String,
    /// CONTAINER:DEST_PATH, or '-' for a tar archive on standard output
    #[arg(value_name = "DEST", allow_hyphen_values = true)]
    target: String,
}

pub(crate) async fn copy(context: &Context, flags: &Copy) -> Result<u8> {
    match (split(&flags.source), split(&flags.target)) {
        (Some((container, path)), None) if flags.target == "-" => out_of(context, container, path).await,
        (None, Some((container, path))) if flags.source == "-" => {
            into(context, container, path, flags.archive).await
        }
        (Some(_), Some(_)) => Err(Error::Usage("copying between containers is not supported".into())),
        (None, None) => Err(Error::Usage("must specify at least one container source".into())),
        _ => Err(Error::Unsupported(
            "cp with local files is not supported yet; use '-' and tar: brig cp CONTAINER:PATH - | tar x"
                .into(),
        )),
    }
}

/// `CONTAINER:PATH`. A word that starts with a slash or a dot is a local path whatever follows.
fn split(word: &str) -> Option<(&str, &str)> {
    if word.starts_with(['/', '.']) {
        return None;
    }
    word.split_once(':').filter(|(container, _)| !container.is_empty())
}

async fn out_of(context: &Context, container: &str, path: &str) -> Result<u8> {
    if std::io::stdout().is_terminal() {
        return Err(Error::Usage("cowardly refusing to write an archive to a terminal".into()));
    }
    let path = Path::new(&["containers", container, "archive"]).query("path", path);
    let response = context.client.request(Method::GET, &path, Extra::default()).await?;
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Error::transport("read the archive", e))?;
        if let Ok(bytes) = frame.into_data() {
            let written = Out::Stdout.write_all(&bytes).await;
            written.map_err(|source| Error::Stream { doing: "write the archive", source })?;
        }
    }
    Ok(0)
}

async fn into(context: &Context, container: &str, path: &str, archive: bool) -> Result<u8> {
    let path = Path::new(&["containers", container, "archive"])
        .query("path", path)
        .query("noOverwriteDirNonDir", "true")
        .flag("copyUIDGID", archive);
    let body = body::streamed(terminal::stdin_chunks());
    let response = context.client.request_stream(Method::PUT, &path, "application/x-tar", body).await?;
    context.client.read_all(response).await?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_told_from_files() {
        assert_eq!(split("web:/etc"), Some(("web", "/etc")));
        for local in ["-", "/a:b", "./a:b", "plain", ":x"] {
            assert_eq!(split(local), None, "{local}");
        }
    }
}
