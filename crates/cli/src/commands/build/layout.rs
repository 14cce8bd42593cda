//! `--build-context NAME=oci-layout://DIRECTORY[:TAG|@DIGEST]`: one image of a layout on disk, handed to the daemon as an
//! archive without a name, and taken away again when the build has ended, unless it was there before or is built on.

use crate::blocking::upload;
use crate::body;
use crate::error::{Error, Result};
use crate::http::{Client, Path};
use crate::progress::JsonLines;
use hyper::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::{Path as FilePath, PathBuf};

/// Largest document of a layout.
const MAX_DOCUMENT: u64 = 8 << 20;
/// Most blobs of an image and its index.
const MAX_BLOBS: usize = 10_000;
/// How the name of an image in a layout is called.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An image of a layout.
#[derive(Debug)]
struct Layout {
    dir: PathBuf,
    /// The index of one entry.
    index: Vec<u8>,
    /// All blobs: algorithm, digits and size.
    blobs: BTreeSet<(String, String, u64)>,
}

/// An image that is there for one build.
#[derive(Debug)]
pub(super) struct Lent {
    pub(super) id: String,
    was_there: bool,
}

/// Sends what `oci-layout://` is followed by.
pub(super) async fn lend(client: &Client, name: &str, text: &str) -> Result<Lent> {
    let layout = Layout::open(text).map_err(|m| Error::Usage(format!("--build-context {name}: {m}")))?;
    let body = body::streamed(upload(move |out| layout.write(out)));
    let path = Path::new(&["images", "load"]).query("quiet", "1");
    let before = ids(client).await?;
    let response = client.request_stream(Method::POST, &path, "application/x-tar", body).await?;
    let mut lines = JsonLines::new(response.into_body());
    let mut id = None;
    while let Some(line) = lines.next::<Value>().await? {
        if let Some(error) = line["error"].as_str() {
            return Err(Error::Reported(format!("load the context {name}: {error}")));
        }
        let said = line["stream"].as_str().unwrap_or_default().trim();
        id = said.strip_prefix("Loaded image ID: ").map(str::to_string).or(id);
    }
    let id = id.ok_or_else(|| Error::Reported(format!("load the context {name}: no image came of it")))?;
    let was_there = before.contains(&id);
    Ok(Lent { id, was_there })
}

async fn ids(client: &Client) -> Result<BTreeSet<String>> {
    let images: Vec<Value> = client.get(&Path::new(&["images", "json"]).query("all", "1")).await?;
    Ok(images.iter().filter_map(|image| image["Id"].as_str().map(str::to_string)).collect())
}

impl Lent {
    /// Takes it away. One that something is built on stays.
    pub(super) async fn give_back(self, client: &Client) {
        if !self.was_there {
            drop(client.delete(&Path::new(&["images", &self.id])).await);
        }
    }
}

impl Layout {
    /// Reads `DIRECTORY[:TAG|@DIGEST]`.
    fn open(text: &str) -> std::result::Result<Layout, String> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let last = rest.rfind('/').map_or(0, |at| at + 1);
        let (dir, tag) = match rest[last..].split_once(':') {
            Some((name, tag)) => (&rest[..last + name.len()], Some(tag)),
            None => (rest, None),
        };
        let dir = PathBuf::from(dir);
        let index: Value = document(&dir.join("index.json"))?;
        let entries = index["manifests"].as_array().cloned().unwrap_or_default();
        let is_it = |entry: &&Value| match (digest, tag) {
            (Some(digest), _) => entry["digest"] == digest,
            (None, tag) => entry["annotations"][REF_NAME] == tag.unwrap_or("latest"),
        };
        let found = match (entries.iter().find(is_it), entries.as_slice()) {
            (Some(entry), _) => entry.clone(),
            // A name need not be said where there is one image.
            (None, [only]) if digest.is_none() && tag.is_none() => only.clone(),
            _ => {
                let wanted = digest.or(tag).unwrap_or("latest");
                return Err(format!("the OCI layout {} has no image {wanted:?}", dir.display()));
            }
        };
        let mut entry = found.clone();
        if let Some(annotations) = entry["annotations"].as_object_mut() {
            annotations.remove(REF_NAME);
            annotations.remove("io.containerd.image.name");
        }
        let index = json!({ "schemaVersion": 2, "manifests": [entry] }).to_string().into_bytes();
        let mut layout = Layout { dir, index, blobs: BTreeSet::new() };
        layout.take(&found, 0)?;
        Ok(layout)
    }

    /// Notes a blob and those that it names. What an index names and the layout lacks is left out: other platforms.
    fn take(&mut self, descriptor: &Value, depth: usize) -> std::result::Result<(), String> {
        let digest = descriptor["digest"].as_str().unwrap_or_default();
        let is_plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric());
        let (algorithm, digits) = digest
            .split_once(':')
            .filter(|(algorithm, digits)| is_plain(algorithm) && is_plain(digits))
            .ok_or_else(|| format!("{digest:?} is no digest"))?;
        let path = self.dir.join("blobs").join(algorithm).join(digits);
        let Ok(meta) = std::fs::metadata(&path) else {
            return if depth > 0 { Ok(()) } else { Err(format!("{} is missing", path.display())) };
        };
        if self.blobs.len() >= MAX_BLOBS || depth > 3 {
            return Err("the image has too many parts".into());
        }
        if !self.blobs.insert((algorithm.into(), digits.into(), meta.len())) {
            return Ok(());
        }
        let kind = descriptor["mediaType"].as_str().unwrap_or_default();
        if !kind.contains("manifest") && !kind.contains("index") {
            return Ok(());
        }
        let parts: Value = document(&path)?;
        let lists =
            ["manifests", "layers"].into_iter().flat_map(|name| parts[name].as_array().into_iter().flatten());
        for part in lists.chain(parts.get("config")) {
            self.take(part, depth + 1)?;
        }
        Ok(())
    }

    fn write(&self, out: &mut dyn Write) -> std::result::Result<(), String> {
        let text = |e: archive::Error| errors::chain(&e);
        let mut files = archive::Files::new(out);
        files.bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(text)?;
        files.bytes("index.json", &self.index).map_err(text)?;
        for (algorithm, digits, size) in &self.blobs {
            let name = format!("blobs/{algorithm}/{digits}");
            let path = self.dir.join(&name);
            let mut file = std::fs::File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            files.file(&name, *size, &mut file).map_err(text)?;
        }
        files.finish().map(drop).map_err(text)
    }
}

fn document(path: &FilePath) -> std::result::Result<Value, String> {
    let failed = |e: &dyn std::fmt::Display| format!("read {}: {e}", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| failed(&e))?;
    file.take(MAX_DOCUMENT).read_to_end(&mut bytes).map_err(|e| failed(&e))?;
    serde_json::from_slice(&bytes).map_err(|e| failed(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_by_tag_and_digest() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = dir.path().join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let manifest = |digest: &str| {
            format!(r#"{{"config":{{"digest":"sha256:{digest}","mediaType":"c"}},"layers":[]}}"#)
        };
        for (name, text) in
            [("m1", manifest("c1")), ("m2", manifest("c2")), ("c1", "1".into()), ("c2", "2".into())]
        {
            std::fs::write(blobs.join(name), text).unwrap();
        }
        let entry = |digest: &str, name: &str| json!({ "mediaType": "x.manifest", "digest": format!("sha256:{digest}"), "annotations": { REF_NAME: name } });
        let write = |entries: Value| {
            std::fs::write(dir.path().join("index.json"), json!({ "manifests": entries }).to_string())
                .unwrap();
        };
        write(json!([entry("m1", "latest"), entry("m2", "two")]));
        let open = |rest: &str| Layout::open(&format!("{}{rest}", dir.path().display()));
        let names =
            |layout: Layout| layout.blobs.into_iter().map(|(_, digits, _)| digits).collect::<Vec<_>>();
        assert_eq!(names(open("").unwrap()), ["c1", "m1"]);
        assert_eq!(names(open(":two").unwrap()), ["c2", "m2"]);
        assert_eq!(names(open("@sha256:m2").unwrap()), ["c2", "m2"]);
        assert!(open(":three").unwrap_err().contains("three"));
        assert!(open("/none").is_err());
        write(json!([entry("m2", "two")]));
        assert_eq!(names(open("").unwrap()), ["c2", "m2"]);
        let hostile = json!([{ "mediaType": "x.manifest", "digest": "sha256:../../etc/passwd" }]);
        write(hostile);
        assert!(open("").unwrap_err().contains("is no digest"));
    }
}
