//! `--build-context`: directories that are sent, URLs that the daemon reads, images that it has or pulls.

use super::listed::Listed;
use super::{Source, ignore_of, is_url};
use crate::error::{Error, Result};
use crate::http::Client;
use dockerfile::{Ignore, Verdict};
use rootdir::RootDir;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What stands for names in the Dockerfile.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) images: BTreeMap<String, String>,
    pub(super) urls: BTreeMap<String, String>,
    /// In the order in which they are sent, with what of each is not.
    pub(super) directories: Vec<(String, Directory)>,
    /// Images of layouts on disk: what follows `oci-layout://`.
    pub(super) layouts: Vec<(String, String)>,
}

#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    ignore: Arc<Ignore>,
    /// Where its files were told, and only some of them are sent.
    listed: Option<Listed>,
}

impl Named {
    pub(super) fn read(flags: &[String]) -> Result<Named> {
        let mut out = Named::default();
        for text in flags {
            let (name, value) = text
                .split_once('=')
                .filter(|(name, value)| !name.is_empty() && !value.is_empty())
                .ok_or_else(|| Error::Usage(format!("invalid context value: {text}, expected key=value")))?;
            if let Some(image) = value.strip_prefix("docker-image://") {
                out.images.insert(name.to_string(), image.to_string());
            } else if is_url(value) {
                out.urls.insert(name.to_string(), value.to_string());
            } else if let Some(layout) = value.strip_prefix("oci-layout://") {
                out.layouts.push((name.to_string(), layout.to_string()));
            } else if value.starts_with("target:") {
                return Err(Error::Unsupported(format!(
                    "--build-context {name}: a directory, a URL, docker-image://IMAGE or oci-layout://DIRECTORY is supported, not {value}"
                )));
            } else {
                let path = PathBuf::from(value);
                let failed = |source| Error::File { doing: "open build context", path: path.clone(), source };
                if !std::fs::metadata(&path).map_err(failed)?.is_dir() {
                    return Err(Error::Usage(format!(
                        "failed to get build context {name}: {value:?} is not a directory"
                    )));
                }
                let ignore = Arc::new(ignore_of(&Source::Directory(path.clone()), "")?);
                out.directories.push((name.to_string(), Directory { path, ignore, listed: None }));
            }
        }
        Ok(out)
    }

    /// Tells the daemon of the files of those that are large. Tokens by name.
    pub(super) async fn tell(&mut self, client: &Client) -> Result<BTreeMap<String, String>> {
        let mut tokens = BTreeMap::new();
        for (name, directory) in &mut self.directories {
            let ignore = directory.ignore.clone();
            let keep = move |path: &Path, is_dir: bool| {
                ignore.judge(&path.to_string_lossy(), is_dir) != Verdict::Ignored
            };
            directory.listed = super::listed::tell(client, &directory.path, Arc::new(keep)).await?;
            tokens.extend(directory.listed.iter().map(|listed| (name.clone(), listed.token.clone())));
        }
        Ok(tokens)
    }

    /// Sends the directories: what is wanted of those whose files were told, the others as archives in pieces.
    pub(super) fn send(&self, out: &mut dyn Write) -> std::result::Result<(), String> {
        for (_, Directory { path, ignore, listed }) in &self.directories {
            if let Some(listed) = listed {
                listed.send(out)?;
                continue;
            }
            let root = RootDir::open(path).map_err(|e| errors::chain(&e))?;
            let keep =
                |path: &Path, is_dir: bool| ignore.judge(&path.to_string_lossy(), is_dir) != Verdict::Ignored;
            let mut pieces = std::io::BufWriter::with_capacity(PIECE, Pieces(out));
            archive::pack_kept(&mut pieces, &root, &keep).map_err(|e| errors::chain(&e))?;
            let whole = pieces.into_inner().map_err(|e| e.to_string())?;
            whole.0.write_all(&0u32.to_be_bytes()).map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}

/// Bytes that are sent together.
const PIECE: usize = 64 << 10;

/// Puts its length before what is written.
struct Pieces<'a>(&'a mut dyn Write);

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let bytes = &bytes[..bytes.len().min(PIECE)];
        let length = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
        self.0.write_all(&length.to_be_bytes())?;
        self.0.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}
