//! `--cache-from` and `--cache-to`: caches at a registry, in an image, or in a directory here, which is an OCI layout whose
//! blobs the daemon asks for, and gives, while it builds.

use crate::blocking::Download;
use crate::body;
use crate::commands::Context;
use crate::error::{Error, Result};
use crate::http::{Extra, Path};
use crate::terminal;
use hyper::Method;
use oci::image::Index;
use oci::{Descriptor, Digest};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path as FilePath, PathBuf};

/// Largest `index.json` that is read.
const MAX_INDEX: u64 = 4 << 20;
/// What manifests are known by in an index.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The caches of one build.
#[derive(Debug, Default)]
pub(crate) struct Caches {
    pub(crate) from: Vec<Value>,
    pub(crate) to: Vec<Value>,
    /// Directories with caches to use.
    sources: Vec<String>,
    /// Directories that caches go to, with their tags.
    targets: BTreeMap<String, String>,
}

/// `type=registry,ref=x`, or a reference alone.
fn fields(text: &str, flag: &str) -> Result<(String, BTreeMap<String, String>)> {
    if !text.contains('=') {
        return Ok(("registry".into(), [("ref".to_string(), text.to_string())].into()));
    }
    let mut attributes = BTreeMap::new();
    for field in text.split(',') {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| Error::Usage(format!("invalid value {field} in {flag} {text:?}")))?;
        attributes.insert(key.trim().to_lowercase(), value.to_string());
    }
    let kind = attributes
        .remove("type")
        .ok_or_else(|| Error::Usage(format!("type required form> {text:?} in {flag}")))?;
    Ok((kind, attributes))
}

impl Caches {
    /// Reads the flags, and the indexes of directories.
    pub(crate) fn read(from: &[String], to: &[String]) -> Result<Caches> {
        let mut out = Caches::default();
        for text in from {
            let (kind, mut attributes) = fields(text, "--cache-from")?;
            if kind == "local" {
                let src = attributes.get("src").cloned().unwrap_or_default();
                if src.is_empty() {
                    return Err(Error::Usage("--cache-from type=local requires src".into()));
                }
                let tag = attributes.remove("tag").unwrap_or_else(|| "latest".into());
                if !attributes.contains_key("digest") {
                    match find(FilePath::new(&src), &tag) {
                        Ok(digest) => drop(attributes.insert("digest".into(), digest.to_string())),
                        // One that is not there yet is no reason not to build.
                        Err(why) => {
                            terminal::warn(&format!("local cache import at {src} skipped: {why}"));
                            continue;
                        }
                    }
                }
                out.sources.push(src);
            }
            out.from.push(json!({ "type": kind, "attrs": attributes }));
        }
        for text in to {
            let (kind, mut attributes) = fields(text, "--cache-to")?;
            if kind == "local" {
                let dest = attributes.get("dest").cloned().unwrap_or_default();
                if dest.is_empty() {
                    return Err(Error::Usage("--cache-to type=local requires dest".into()));
                }
                if attributes.contains_key("reset") {
                    return Err(Error::Unsupported("--cache-to: \"reset\" is not supported".into()));
                }
                let tag = attributes.remove("tag").unwrap_or_else(|| "latest".into());
                out.targets.insert(dest, tag);
            }
            out.to.push(json!({ "type": kind, "attrs": attributes }));
        }
        Ok(out)
    }

    /// Does what an event of the build asks of a directory. Whether it was such an event.
    pub(crate) async fn answer(&self, context: &Context, event: &Value) -> Result<bool> {
        let kind = event["event"].as_str().unwrap_or_default();
        if !["blob-wanted", "blob-offered", "cache-stored"].contains(&kind) {
            return Ok(false);
        }
        let text = |name: &str| event[name].as_str().unwrap_or_default();
        let (store, id) = (text("store"), text("id"));
        let digest = match kind {
            "cache-stored" => event["manifest"]["digest"].as_str().unwrap_or_default(),
            _ => text("digest"),
        };
        let Ok(digest) = digest.parse::<Digest>() else {
            return Err(Error::Reported(format!("the daemon asks for {digest:?}, which is no digest")));
        };
        let path = Path::new(&["brig", "builds", id, "blobs", &digest.to_string()]);
        // Only in the directories that were named, and only what was meant.
        let done = match kind {
            "blob-wanted" if self.sources.iter().any(|s| s == store) => {
                give(context, &path, FilePath::new(store), &digest).await
            }
            "blob-offered" if self.targets.contains_key(store) => {
                let size = event["size"].as_u64().unwrap_or_default();
                take(context, &path, FilePath::new(store), &digest, size).await
            }
            "cache-stored" if self.targets.contains_key(store) => {
                let manifest = serde_json::from_value(event["manifest"].clone());
                let manifest = manifest.map_err(|e| Error::Reported(format!("the cache's manifest: {e}")))?;
                let tag = self.targets.get(store).map_or("latest", String::as_str);
                name(FilePath::new(store), manifest, tag).map(|()| false)
            }
            _ => Err(Error::Reported(format!("the daemon asks for {store:?}, which was not named"))),
        };
        match done {
            // It has heard.
            Ok(true) => {}
            Ok(false) => drop(context.client.delete(&path).await?),
            Err(e) => drop(context.client.delete(&path.query("error", &errors::chain(&e))).await?),
        }
        Ok(true)
    }
}

fn blob(dir: &FilePath, digest: &Digest) -> PathBuf {
    dir.join("blobs/sha256").join(digest.hex())
}

fn failed(doing: &'static str, path: &FilePath) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::File { doing, path, source }
}

/// The manifest that a layout knows as `tag`.
fn find(dir: &FilePath, tag: &str) -> std::result::Result<Digest, String> {
    let index = read_index(dir)?.ok_or("it has no index.json")?;
    let named = index.manifests.iter().rev().find(|m| m.annotations.get(REF_NAME).is_some_and(|n| n == tag));
    let digest = named.ok_or_else(|| format!("no digest found for tag {tag}"))?.digest;
    if !blob(dir, &digest).is_file() {
        return Err(format!("{digest} is not there"));
    }
    Ok(digest)
}

fn read_index(dir: &FilePath) -> std::result::Result<Option<Index>, String> {
    let mut bytes = Vec::new();
    match std::fs::File::open(dir.join("index.json")) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => {
            opened.and_then(|f| f.take(MAX_INDEX).read_to_end(&mut bytes)).map_err(|e| e.to_string())?
        }
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| format!("index.json: {e}"))
}

/// Sends a blob. True: the daemon has its answer with it.
async fn give(context: &Context, path: &Path, dir: &FilePath, digest: &Digest) -> Result<bool> {
    let file = blob(dir, digest);
    let opened = tokio::fs::File::open(&file).await.map_err(failed("open", &file))?;
    let body = body::streamed(body::file_chunks(opened));
    let sent = context.client.request_stream(Method::PUT, path, "application/octet-stream", body).await;
    match sent {
        Ok(response) => drop(context.client.read_all(response).await?),
        // The build hears the same and goes on without it.
        Err(Error::Api { status: 400, message }) => terminal::warn(&message),
        Err(e) => return Err(e),
    }
    Ok(true)
}

/// Takes a blob into the layout, unless it is there.
async fn take(context: &Context, path: &Path, dir: &FilePath, digest: &Digest, size: u64) -> Result<bool> {
    let file = blob(dir, digest);
    if std::fs::metadata(&file).is_ok_and(|m| m.is_file() && m.len() == size) {
        return Ok(false);
    }
    let above = file.parent().unwrap_or(dir).to_path_buf();
    std::fs::create_dir_all(&above).map_err(failed("create", &above))?;
    let response = context.client.request(Method::GET, path, Extra::default()).await?;
    let mut download = Download::start(response.into_body());
    let (temporary, expected) = (above.join(format!(".{}.{}", digest.hex(), std::process::id())), *digest);
    let written = tokio::task::spawn_blocking(move || {
        let mut out = std::fs::File::create(&temporary).map_err(failed("create", &temporary))?;
        let mut bytes = archive::Hashing::new(&mut download);
        let copied = std::io::copy(&mut bytes, &mut out);
        let (actual, _) = bytes.finish();
        let done = match copied {
            Err(e) => Err(Error::Reported(format!("receive {expected}: {e}"))),
            Ok(_) if actual != expected => Err(Error::Reported(format!("received {actual} for {expected}"))),
            Ok(_) => out
                .sync_all()
                .and_then(|()| std::fs::rename(&temporary, &file))
                .map_err(failed("write", &file)),
        };
        if done.is_err() {
            drop(std::fs::remove_file(&temporary));
        }
        done
    });
    written.await.unwrap_or_else(|e| Err(Error::Reported(e.to_string()))).map(|()| true)
}

/// Gives the manifest its name in the layout's index.
fn name(dir: &FilePath, mut manifest: Descriptor, tag: &str) -> Result<()> {
    let path = dir.join("index.json");
    let index = read_index(dir).map_err(|e| Error::Reported(format!("{}: {e}", path.display())))?;
    let mut index = index.unwrap_or_else(|| Index {
        schema_version: 2,
        media_type: Some(oci::image::media_type::OCI_INDEX.into()),
        manifests: Vec::new(),
        annotations: BTreeMap::new(),
    });
    index.manifests.retain(|m| m.annotations.get(REF_NAME).is_none_or(|n| n != tag));
    manifest.annotations.insert(REF_NAME.into(), tag.into());
    index.manifests.push(manifest);
    let text = serde_json::to_vec(&index).unwrap_or_default();
    let layout = dir.join("oci-layout");
    std::fs::write(&layout, br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(failed("write", &layout))?;
    let temporary = dir.join(format!(".index.json.{}", std::process::id()));
    let written = std::fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&temporary, &path));
    written.map_err(failed("write", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_layouts() {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path();
        let src = format!("type=local,src={}", dir.display());
        let read = |from: &str, to: &str| {
            let list = |text: &str| if text.is_empty() { Vec::new() } else { vec![text.to_string()] };
            Caches::read(&list(from), &list(to))
        };
        // There is none yet.
        assert!(read(&src, "").unwrap().from.is_empty());
        let digest = Digest::of(b"m");
        std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        std::fs::write(blob(dir, &digest), b"m").unwrap();
        for tag in ["latest", "other", "latest"] {
            name(dir, Descriptor::new(oci::image::media_type::OCI_MANIFEST, digest, 1), tag).unwrap();
        }
        assert_eq!(read_index(dir).unwrap().unwrap().manifests.len(), 2);
        assert_eq!(read(&src, "").unwrap().from[0]["attrs"]["digest"], digest.to_string());
        assert!(read(&format!("{src},tag=none"), "").unwrap().from.is_empty());
        let caches = read("a.example/b", "type=local,dest=d,tag=t,mode=max").unwrap();
        assert_eq!(caches.from[0]["attrs"]["ref"], "a.example/b");
        assert_eq!((&caches.to[0]["attrs"]["mode"], &caches.targets["d"]), (&json!("max"), &"t".to_string()));
        for (from, to) in [("type=local", ""), ("ref=x", ""), ("", "type=local"), ("type=registry,x", "")] {
            assert!(read(from, to).is_err(), "{from}{to}");
        }
    }
}
