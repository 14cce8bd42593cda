//! Files from URLs, for ADD and for remote contexts.

use crate::attest::Material;
use crate::context::Context;
use crate::error::{During, Error, IoDuring};
use crate::git::{GitAccess, Repository};
use crate::git_url::{GitUrl, is_git, redact};
use engine::Engine;
use oci::Digest;
use sha2::Digest as _;
use std::path::PathBuf;
use tokio::io::AsyncWriteExt;

/// Largest file that is read from a URL.
const MAX_FILE: u64 = 64 << 30;
/// What a file from a URL may be used for: its owner alone, as Docker has it.
const MODE: u32 = 0o600;

/// A file that was read.
#[derive(Debug)]
pub(crate) struct Downloaded {
    /// A tree with this file alone.
    pub(crate) context: Context,
    pub(crate) path: PathBuf,
    pub(crate) name: String,
    pub(crate) digest: Digest,
    /// Seconds since 1970, where the server said so.
    pub(crate) modified_s: Option<i64>,
}

/// Whether a source is a URL, or a name of git's.
pub(crate) fn is_remote(source: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| source.starts_with(scheme)) || is_git(source)
}

/// The last part of a URL's path; empty where there is none.
pub fn file_name(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['#', '?']).next().unwrap_or(rest);
    match rest.split_once('/') {
        Some((_, path)) => path.rsplit('/').next().unwrap_or_default(),
        None => "",
    }
}

/// Reads the file behind a URL.
pub(crate) async fn download(engine: &Engine, url: &str) -> Result<Downloaded, Error> {
    let doing = || format!("ADD failed: failed to GET {url}");
    let name = match file_name(url) {
        "" | "." | ".." => "download",
        name => name,
    };
    let (context, path) = Context::for_file(engine, name)?;
    let mut stream = engine.registry().fetch(url).await.during(doing)?;
    let mut file = tokio::fs::File::create(&path).await.io_during(doing)?;
    let mut hasher = sha2::Sha256::new();
    let mut total = 0u64;
    while let Some(piece) = stream.next().await.during(doing)? {
        total += piece.len() as u64;
        if total > MAX_FILE {
            return Err(Error::invalid(format!("{url} is larger than {MAX_FILE} bytes")));
        }
        hasher.update(&piece);
        file.write_all(&piece).await.io_during(doing)?;
    }
    file.flush().await.io_during(doing)?;
    let file = file.into_std().await;
    let parse = |text: &String| jiff::fmt::rfc2822::parse(text).ok().map(|t| t.timestamp().as_second());
    let modified_s = stream.last_modified.as_ref().and_then(parse);
    rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(MODE)).io_during(doing)?;
    if let Some(seconds) = modified_s {
        let at = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: at, last_modification: at };
        rustix::fs::futimens(&file, &times).io_during(doing)?;
    }
    let digest = Digest::from_sha256(hasher.finalize().into());
    Ok(Downloaded { context, path, name: name.to_string(), digest, modified_s })
}

/// A build context behind a URL: a repository, an archive, or a Dockerfile, whose text comes back.
///
/// # Errors
///
/// InvalidArgument for what is none of these, with the words of git or of the server.
pub async fn fetch_context(
    engine: &Engine,
    url: &str,
    access: &GitAccess,
) -> Result<(Context, Option<String>), Error> {
    if is_git(url) {
        let url = GitUrl::parse(url).map_err(Error::invalid)?;
        let repository = Repository::open(engine, &url, access).await?;
        let resolved = repository.resolve(None).await?;
        let keep_git_dir = url.keep_git_dir.unwrap_or(access.keep_git_dir);
        let mut context = repository.check_out(&resolved, keep_git_dir).await?;
        context.material = Some(Material::Git { url: url.remote.clone(), commit: resolved.commit });
        return Ok((context, None));
    }
    let downloaded = download(engine, url).await?;
    let (mut context, text) = read_context(engine, &downloaded.path, url)?;
    context.material = Some(Material::Http { url: redact(url), digest: downloaded.digest });
    Ok((context, text))
}

/// A build context in a file: an archive, or a Dockerfile, whose text comes back. Blocking.
pub fn read_context(
    engine: &Engine,
    path: &std::path::Path,
    name: &str,
) -> Result<(Context, Option<String>), Error> {
    let doing = || format!("read {name}");
    let mut file = std::fs::File::open(path).io_during(doing)?;
    if crate::copy::is_tar(&mut file, name)? {
        let context = Context::from_tar(engine, file)?;
        return Ok((context, None));
    }
    let text = std::fs::read_to_string(path).io_during(doing)?;
    Ok((Context::empty(engine)?, Some(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_urls() {
        let check = |url: &str, want: &str| assert_eq!(file_name(url), want, "{url}");
        check("https://x.example/a/b.txt?c=d/e#f", "b.txt");
        check("https://x.example/a/", "");
        check("https://x.example", "");
        assert!(is_git("git@x:y") && is_git("https://x/y.git#main") && !is_git("https://x/y.tgz"));
        assert!(is_remote("http://x") && !is_remote("x/http") && !is_remote("file:///x.git"));
    }
}
