//! Files from URLs, for ADD and for remote contexts.

use crate::attest::Material;
use crate::cache::now_ms;
use crate::context::Context;
use crate::error::{During, Error, IoDuring};
use crate::git::{GitAccess, Repository};
use crate::git_url::{GitUrl, is_git, redact};
use crate::request::{Answer, Secret};
use engine::{Engine, blocking};
use metadata::BuildCacheRow;
use oci::Digest;
use registry_client::Terms;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::path::PathBuf;
use std::sync::Arc;
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
    pub(crate) known: Known,
}

/// What there is to know of a file behind a URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) name: String,
    pub(crate) digest: Digest,
    /// Seconds since 1970, where the server said so.
    pub(crate) modified_s: Option<i64>,
    /// By which the server tells whether it has changed.
    etag: Option<String>,
}

/// A file behind a URL that a step copies.
#[derive(Debug)]
pub(crate) struct RemoteFile {
    pub(crate) url: String,
    authorization: Option<String>,
    pub(crate) known: Known,
    /// None where it is as it was when it was read last.
    context: Option<Arc<Context>>,
}

/// What is remembered of a file, in the body of a row of the cache.
#[derive(Debug, Serialize, Deserialize)]
struct Body {
    version: u32,
    file: Known,
}

const VERSION: u32 = 1;

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

/// What stands in `Authorization` for `url`: of the secrets `HTTP_AUTH_HEADER_HOST` the whole value, of `HTTP_AUTH_TOKEN_HOST` a
/// token. `find` finds secrets by id.
pub(crate) async fn authorization<'a, F>(url: &str, find: F) -> Result<Option<String>, Error>
where
    F: Fn(String) -> Answer<'a, Option<Secret>>,
{
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    let mut hosts = vec![authority];
    hosts.extend(Some(host).filter(|host| *host != authority));
    for (kind, scheme) in [("HTTP_AUTH_HEADER", ""), ("HTTP_AUTH_TOKEN", "Bearer ")] {
        for host in &hosts {
            let id = format!("{kind}_{host}");
            let Some(secret) = find(id.clone()).await.map_err(Error::invalid)? else { continue };
            let text = String::from_utf8(secret.0).ok().map(|text| text.trim().to_string());
            match text.filter(|text| !text.is_empty() && text.bytes().all(|b| (b' '..=b'~').contains(&b))) {
                Some(text) => return Ok(Some(format!("{scheme}{text}"))),
                None => return Err(Error::invalid(format!("the secret {id} is no line of text"))),
            }
        }
    }
    Ok(None)
}

/// The row of the cache for `url`.
fn row_key(url: &str) -> String {
    Digest::of(format!("http file {url}").as_bytes()).to_string()
}

/// What is known of the file behind `url` since it was read last. Blocking.
fn recall(engine: &Engine, url: &str) -> Result<Option<Known>, Error> {
    let doing = || "look into the build cache".to_string();
    let key = row_key(url);
    let Some(row) = engine.database().build_cache(&key).during(doing)? else { return Ok(None) };
    let body = serde_json::from_str::<Body>(&row.body).ok().filter(|body| body.version == VERSION);
    if body.is_some() {
        engine.database().touch_build_cache(&key, now_ms()).during(doing)?;
    }
    Ok(body.map(|body| body.file))
}

/// Remembers it for the next build. Blocking.
fn remember(engine: &Engine, url: &str, file: &Known) -> Result<(), Error> {
    let doing = || "write the build cache".to_string();
    // One that may stand for several contents says nothing.
    if !file.etag.as_ref().is_some_and(|etag| etag.starts_with('"')) {
        return engine.database().delete(|tx| tx.delete_build_cache(&row_key(url))).map(drop).during(doing);
    }
    let body = Body { version: VERSION, file: file.clone() };
    let row = BuildCacheRow {
        key: row_key(url),
        kind: "source.http".into(),
        parent: None,
        chain_id: None,
        blob: None,
        body: serde_json::to_string(&body).expect("plain strings"),
        description: redact(url),
        size_bytes: 0,
        created_ms: now_ms(),
        used_ms: now_ms(),
        uses: 1,
    };
    engine.database().write(|tx| tx.put_build_cache(&row)).during(doing)
}

/// Finds out what is behind a URL, and reads it unless the server says that it is what it was.
pub(crate) async fn find(
    engine: &Arc<Engine>,
    url: &str,
    authorization: Option<String>,
    uses_cache: bool,
) -> Result<RemoteFile, Error> {
    let (here, own) = (engine.clone(), url.to_string());
    let before = if uses_cache { blocking(move || recall(&here, &own)).await? } else { None };
    let etag = before.as_ref().and_then(|known| known.etag.clone());
    let terms = Terms { authorization: authorization.clone(), etag };
    let (known, context) = match (download_on(engine, url, &terms).await?, before) {
        (None, Some(before)) => (before, None),
        (Some(file), _) => (file.known, Some(Arc::new(file.context))),
        (None, None) => return Err(Error::invalid(format!("{} was not sent", redact(url)))),
    };
    if context.is_some() {
        let (here, own, file) = (engine.clone(), url.to_string(), known.clone());
        blocking(move || remember(&here, &own, &file)).await?;
    }
    Ok(RemoteFile { url: url.to_string(), authorization, known, context })
}

impl RemoteFile {
    /// A tree with the file alone; read now if it was not.
    pub(crate) async fn context(&self, engine: &Engine) -> Result<Arc<Context>, Error> {
        if let Some(context) = &self.context {
            return Ok(context.clone());
        }
        let terms = Terms { authorization: self.authorization.clone(), etag: None };
        let file = download_on(engine, &self.url, &terms).await?;
        match file.filter(|file| file.known.digest == self.known.digest) {
            Some(file) => Ok(Arc::new(file.context)),
            None => {
                Err(Error::invalid(format!("{} changed while it was read: build again", redact(&self.url))))
            }
        }
    }
}

/// Reads the file behind a URL, unless it is what the terms say.
async fn download_on(engine: &Engine, url: &str, terms: &Terms) -> Result<Option<Downloaded>, Error> {
    let doing = || format!("ADD failed: failed to GET {}", redact(url));
    let name = match file_name(url) {
        "" | "." | ".." => "download",
        name => name,
    };
    let Some(mut stream) = engine.registry().fetch_on(url, terms).await.during(doing)? else {
        return Ok(None);
    };
    let (context, path) = Context::for_file(engine, name)?;
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
    let known = Known { name: name.to_string(), digest, modified_s, etag: stream.etag.clone() };
    Ok(Some(Downloaded { context, path, known }))
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
    let terms = Terms { authorization: access.authorization(url).await?, etag: None };
    let file = download_on(engine, url, &terms).await?;
    let file = file.ok_or_else(|| Error::invalid(format!("{} was not sent", redact(url))))?;
    let (mut context, text) = read_context(engine, &file.path, url)?;
    context.material = Some(Material::Http { url: redact(url), digest: file.known.digest });
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

    #[tokio::test]
    async fn secrets_are_for_their_hosts() {
        let check = async |url: &str, id: &'static str, want: Result<Option<&str>, ()>| {
            let find = |asked: String| -> Answer<'static, Option<Secret>> {
                let value = if id.ends_with("bad") { "a\nb" } else { " t " };
                Box::pin(async move { Ok((asked == id).then(|| Secret(value.into()))) })
            };
            let got = authorization(url, find).await.map_err(|_| ());
            assert_eq!(
                got.as_ref().map(Option::as_deref),
                want.as_ref().map(|w| *w).map_err(|()| &()),
                "{url}"
            );
        };
        check("https://x.example/f", "HTTP_AUTH_TOKEN_x.example", Ok(Some("Bearer t"))).await;
        check("https://x.example:8443/f", "HTTP_AUTH_TOKEN_x.example", Ok(Some("Bearer t"))).await;
        check("https://x.example:8443/f", "HTTP_AUTH_HEADER_x.example:8443", Ok(Some("t"))).await;
        check("https://y.example/x.example", "HTTP_AUTH_TOKEN_x.example", Ok(None)).await;
        check("https://x.example@y.example/", "HTTP_AUTH_TOKEN_x.example", Ok(None)).await;
        check("https://bad/", "HTTP_AUTH_TOKEN_bad", Err(())).await;
    }

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
