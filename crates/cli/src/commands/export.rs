//! `export`, `save`: an archive to a file or to standard output.

use super::Context;
use crate::error::{Error, Result};
use crate::http::{Extra, Path};
use crate::terminal::Out;
use http_body_util::BodyExt;
use hyper::Method;
use std::io::IsTerminal;
use tokio::io::AsyncWriteExt;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Export {
    /// Write to a file, instead of STDOUT
    #[arg(short, long, value_name = "string")]
    output: Option<String>,
    container: String,
}

pub(crate) async fn export(context: &Context, flags: &Export) -> Result<u8> {
    let path = Path::new(&["containers", &flags.container, "export"]);
    download(context, &path, flags.output.as_deref()).await
}

/// Writes the answer to `path` into the file `output`, which appears whole or not at all, or to standard output.
pub(crate) async fn download(context: &Context, path: &Path, output: Option<&str>) -> Result<u8> {
    let Some(output) = output else {
        if std::io::stdout().is_terminal() {
            return Err(Error::Usage(
                "cowardly refusing to save to a terminal. Use the -o flag or redirect".into(),
            ));
        }
        let response = context.client.request(Method::GET, path, Extra::default()).await?;
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| Error::transport("read the archive", e))?;
            if let Ok(bytes) = frame.into_data() {
                let written = Out::Stdout.write_all(&bytes).await;
                written.map_err(|source| Error::Stream { doing: "write the archive", source })?;
            }
        }
        return Ok(0);
    };
    let target = std::path::Path::new(output);
    let above = target.parent().filter(|p| !p.as_os_str().is_empty());
    if above.is_some_and(|dir| !dir.exists()) {
        return Err(Error::Usage(format!(
            "invalid output path: directory {:?} does not exist",
            above.unwrap_or(target)
        )));
    }
    let is_special = std::fs::metadata(target).is_ok_and(|m| !m.is_file());
    if is_special && target.is_dir() {
        return Err(Error::Usage(format!("{output:?} is a directory")));
    }
    let response = context.client.request(Method::GET, path, Extra::default()).await?;
    // Into a device or a pipe directly; a file is only replaced by a whole one.
    let written = if is_special {
        target.to_path_buf()
    } else {
        target.with_file_name(format!(".{}.{}.tmp", name_of(target), std::process::id()))
    };
    let done = write(response.into_body(), &written).await;
    if is_special {
        return done.map(|()| 0);
    }
    let moved =
        done.and_then(|()| std::fs::rename(&written, target).map_err(|source| file("write", target, source)));
    if moved.is_err() {
        drop(std::fs::remove_file(&written));
    }
    moved.map(|()| 0)
}

fn name_of(path: &std::path::Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn file(doing: &'static str, path: &std::path::Path, source: std::io::Error) -> Error {
    Error::File { doing, path: path.into(), source }
}

async fn write(mut body: hyper::body::Incoming, path: &std::path::Path) -> Result<()> {
    let opened =
        tokio::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).await;
    let mut out = opened.map_err(|source| file("create", path, source))?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Error::transport("read the archive", e))?;
        if let Ok(bytes) = frame.into_data() {
            out.write_all(&bytes).await.map_err(|source| file("write", path, source))?;
        }
    }
    out.flush().await.map_err(|source| file("write", path, source))
}
