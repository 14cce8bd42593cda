//! The document of a shared cache: BuildKit's `application/vnd.buildkit.cacheconfig.v0`, with one field of ours.
//!
//! ```text
//! layers   [ blob, parent (place in this list, -1 for none), annotations (type, diff ID, size, time) ]
//! records  [ digest: the step's key, inputs: the step before, layers: what it made, brig: what only we need ]
//! ```
//!
//! BuildKit reads it and finds no key that it knows, as we do with its own: keys are each engine's. A parent chain begins
//! above the base image, which whoever builds has.
//!
//! What comes from elsewhere may say anything. Links between records are not followed, so that they cannot lead in
//! circles; a blob counts only where the manifest names it; and that a layer is what a record says is verified when it is
//! unpacked.

use oci::image::media_type::{DOCKER_LAYER_GZIP, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD};
use oci::{Descriptor, Digest};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Media type of the document.
pub(crate) const CONFIG_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";
/// Longest document that is read.
pub(crate) const MAX_CONFIG: u64 = 8 << 20;
/// Records of one document that are read.
const MAX_RECORDS: usize = 50_000;
/// Annotation of a layer: digest of its uncompressed bytes.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// What one step of a build came to, as caches say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) key: Digest,
    /// Key of the step before.
    pub(crate) before: Option<Digest>,
    /// RFC 3339.
    pub(crate) created: String,
    /// What it made; none when no file changed.
    pub(crate) layer: Option<Layer>,
    pub(crate) text: String,
}

/// A layer that a record leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) diff_id: Digest,
    /// None where the cache knows of the layer and does not have it.
    pub(crate) blob: Option<Descriptor>,
    /// The layer is kept as plain bytes, so many; the blob is them compressed for the way.
    pub(crate) plain_bytes: Option<u64>,
}

impl Layer {
    /// As images describe it where it is used; of one that nobody has only its diff ID is known.
    pub(crate) fn described(&self) -> Descriptor {
        match (&self.blob, self.plain_bytes) {
            (Some(blob), None) => blob.clone(),
            (_, bytes) => Descriptor::new(OCI_LAYER, self.diff_id, bytes.unwrap_or(0)),
        }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Config {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    layers: Vec<LayerEntry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    records: Vec<RecordEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LayerEntry {
    #[serde(default)]
    blob: String,
    #[serde(default)]
    parent: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annotations: Option<LayerNotes>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LayerNotes {
    media_type: String,
    #[serde(rename = "diffID")]
    diff_id: String,
    size: u64,
    created_at: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct RecordEntry {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    layers: Vec<ResultEntry>,
    #[serde(default)]
    digest: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<Vec<InputEntry>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    brig: Option<Own>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResultEntry {
    layer: i64,
    #[serde(default)]
    created_at: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct InputEntry {
    link: i64,
}

/// What BuildKit has no place for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Own {
    version: u32,
    created: String,
    #[serde(rename = "diffID", default, skip_serializing_if = "Option::is_none")]
    diff_id: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    plain_bytes: Option<u64>,
    #[serde(default)]
    text: String,
}

const VERSION: u32 = 1;

/// Characters of an instruction that are shared.
const MAX_TEXT: usize = 200;

/// A document to share, and the blobs that go with it.
#[derive(Debug)]
pub(crate) struct Composed {
    pub(crate) config: Vec<u8>,
    /// Each once, with what it is uncompressed as an annotation.
    pub(crate) blobs: Vec<Descriptor>,
}

/// The document for `records`, of which those have their blob with them that say so.
pub(crate) fn compose(records: &[Record]) -> Composed {
    let mut out = Config::default();
    let mut blobs: Vec<Descriptor> = Vec::new();
    let mut places: HashMap<Digest, (usize, i64)> = HashMap::new();
    let mut known: BTreeMap<(Digest, i64), i64> = BTreeMap::new();
    for record in records {
        if places.contains_key(&record.key) {
            continue;
        }
        let before = record.before.and_then(|key| places.get(&key).copied());
        let below = before.map_or(-1, |(_, layer)| layer);
        let mut entry = RecordEntry {
            digest: record.key.to_string(),
            inputs: before.map(|(at, _)| vec![InputEntry { link: number(at) }]).into_iter().collect(),
            brig: Some(Own {
                version: VERSION,
                created: record.created.clone(),
                diff_id: record.layer.as_ref().map(|l| l.diff_id),
                plain_bytes: record.layer.as_ref().and_then(|l| l.plain_bytes),
                text: record.text.chars().take(MAX_TEXT).collect(),
            }),
            ..RecordEntry::default()
        };
        let mut top = below;
        if let Some(Layer { diff_id, blob: Some(blob), .. }) = &record.layer {
            top = *known.entry((blob.digest, below)).or_insert_with(|| {
                out.layers.push(LayerEntry {
                    blob: blob.digest.to_string(),
                    parent: below,
                    annotations: Some(LayerNotes {
                        media_type: blob.media_type.clone(),
                        diff_id: diff_id.to_string(),
                        size: blob.size,
                        created_at: record.created.clone(),
                    }),
                });
                number(out.layers.len() - 1)
            });
            entry.layers.push(ResultEntry { layer: top, created_at: record.created.clone() });
            if blobs.iter().all(|b| b.digest != blob.digest) {
                let mut blob = Descriptor { annotations: BTreeMap::new(), ..blob.clone() };
                blob.annotations.insert(UNCOMPRESSED.into(), diff_id.to_string());
                blobs.push(blob);
            }
        }
        places.insert(record.key, (out.records.len(), top));
        out.records.push(entry);
    }
    let config = serde_json::to_vec(&out).expect("plain strings and numbers");
    Composed { config, blobs }
}

fn number(at: usize) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

/// The records as an image's config carries them: `layers` are its own, bottom first.
pub(crate) fn inline(records: &[Record], layers: &[(Digest, Digest)]) -> Vec<u8> {
    let mut places: HashMap<Digest, usize> = HashMap::new();
    let mut out: Vec<RecordEntry> = Vec::new();
    for record in records {
        if places.contains_key(&record.key) {
            continue;
        }
        let before = record.before.and_then(|key| places.get(&key).copied());
        let at = record.layer.as_ref().and_then(|l| layers.iter().position(|(_, diff)| *diff == l.diff_id));
        places.insert(record.key, out.len());
        out.push(RecordEntry {
            digest: record.key.to_string(),
            inputs: before.map(|at| vec![InputEntry { link: number(at) }]).into_iter().collect(),
            layers: at
                .map(|at| ResultEntry { layer: number(at), created_at: record.created.clone() })
                .into_iter()
                .collect(),
            brig: Some(Own {
                version: VERSION,
                created: record.created.clone(),
                diff_id: record.layer.as_ref().map(|l| l.diff_id),
                plain_bytes: None,
                text: String::new(),
            }),
        });
    }
    serde_json::to_vec(&out).expect("plain strings and numbers")
}

/// What a document of another came to.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) records: Vec<Record>,
    /// Records of another engine, or of a version that is not known.
    pub(crate) foreign: usize,
}

/// Reads a document whose manifest names `blobs`.
pub(crate) fn parse(bytes: &[u8], blobs: &[Descriptor]) -> Result<Parsed, String> {
    let config: Config = serde_json::from_slice(bytes).map_err(|e| format!("not a cache config: {e}"))?;
    let layer = |at: i64| {
        let entry = config.layers.get(usize::try_from(at).ok()?)?;
        let digest: Digest = entry.blob.parse().ok()?;
        let notes = entry.annotations.as_ref()?;
        let blob = blobs.iter().find(|blob| blob.digest == digest)?;
        Some((notes.diff_id.parse::<Digest>().ok()?, blob.clone()))
    };
    records(&config.records, &layer)
}

/// Reads the records of an image's config; `layers` are its own: blob and diff ID, bottom first.
pub(crate) fn parse_inline(bytes: &[u8], layers: &[(Descriptor, Digest)]) -> Result<Parsed, String> {
    let entries: Vec<RecordEntry> =
        serde_json::from_slice(bytes).map_err(|e| format!("not an inline cache: {e}"))?;
    let layer = |at: i64| {
        let (blob, diff_id) = layers.get(usize::try_from(at).ok()?)?;
        Some((*diff_id, blob.clone()))
    };
    records(&entries, &layer)
}

fn records(
    entries: &[RecordEntry],
    layer: &dyn Fn(i64) -> Option<(Digest, Descriptor)>,
) -> Result<Parsed, String> {
    if entries.len() > MAX_RECORDS {
        return Err(format!("{} records, of which at most {MAX_RECORDS} are read", entries.len()));
    }
    let mut out = Parsed::default();
    let keys: Vec<Option<Digest>> = entries.iter().map(|e| e.digest.parse().ok()).collect();
    for (entry, key) in entries.iter().zip(&keys) {
        let (Some(key), Some(own)) = (key, entry.brig.as_ref().filter(|own| own.version == VERSION)) else {
            out.foreign += 1;
            continue;
        };
        // The time becomes a part of images.
        if own.created.len() > 40 || own.created.parse::<jiff::Timestamp>().is_err() {
            out.foreign += 1;
            continue;
        }
        let blob = own.diff_id.and_then(|wanted| {
            let mut found = entry.layers.iter().filter_map(|result| layer(result.layer));
            found.find(|(diff_id, blob)| *diff_id == wanted && is_layer(blob)).map(|(_, blob)| blob)
        });
        let before = entry.inputs.first().and_then(|inputs| inputs.first());
        let before = before.and_then(|input| *keys.get(usize::try_from(input.link).ok()?)?);
        out.records.push(Record {
            key: *key,
            before,
            created: own.created.clone(),
            layer: own.diff_id.map(|diff_id| Layer {
                diff_id,
                plain_bytes: own.plain_bytes.filter(|_| blob.is_some()),
                blob: blob.map(plain),
            }),
            text: own.text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect(),
        });
    }
    Ok(out)
}

/// Types of layers: OCI's, and Docker's for the same.
const TYPES: &[(&str, &str)] = &[
    (OCI_LAYER, "application/vnd.docker.image.rootfs.diff.tar"),
    (OCI_LAYER_GZIP, DOCKER_LAYER_GZIP),
    (OCI_LAYER_ZSTD, "application/vnd.docker.image.rootfs.diff.tar.zstd"),
];

fn is_layer(blob: &Descriptor) -> bool {
    TYPES.iter().any(|(oci, docker)| [*oci, *docker].contains(&blob.media_type.as_str()))
}

/// Docker's type for a layer.
pub(crate) fn docker_type(media_type: &str) -> &str {
    TYPES.iter().find(|(oci, _)| *oci == media_type).map_or(media_type, |(_, docker)| docker)
}

/// As layers of images are described here.
fn plain(blob: Descriptor) -> Descriptor {
    let media_type = blob.media_type.as_str();
    let media_type =
        TYPES.iter().find(|(_, docker)| *docker == media_type).map_or(media_type, |(oci, _)| oci);
    Descriptor::new(media_type, blob.digest, blob.size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn blob(text: &str) -> Descriptor {
        Descriptor::new(OCI_LAYER, digest(text), text.len() as u64)
    }

    fn record(key: &str, before: Option<&str>, layer: Option<(&str, bool)>) -> Record {
        Record {
            key: digest(key),
            before: before.map(digest),
            created: "2026-01-02T03:04:05Z".into(),
            layer: layer.map(|(text, has)| Layer {
                diff_id: digest(text),
                blob: has.then(|| blob(text)),
                plain_bytes: None,
            }),
            text: format!("RUN {key}"),
        }
    }

    #[test]
    fn what_is_composed_is_read_again() {
        let records = vec![
            record("a", None, Some(("one", true))),
            record("b", Some("a"), None),
            record("c", Some("b"), Some(("two", true))),
            record("d", None, Some(("elsewhere", false))),
        ];
        let composed = compose(&records);
        assert_eq!(composed.blobs.len(), 2);
        let parsed = parse(&composed.config, &composed.blobs).expect("good");
        assert_eq!((parsed.records, parsed.foreign), (records.clone(), 0));
        let text: serde_json::Value = serde_json::from_slice(&composed.config).expect("JSON");
        assert_eq!(text["layers"][1]["parent"], 0);
        assert_eq!(text["layers"][0]["parent"], -1);
        assert_eq!(text["records"][2]["inputs"][0][0]["link"], 1);
        // Without its blob a record still tells what the step comes to.
        let parsed = parse(&composed.config, &[]).expect("good");
        assert_eq!(
            parsed.records[0].layer.as_ref().map(|l| (l.diff_id, l.blob.clone())),
            Some((digest("one"), None))
        );
    }

    #[test]
    fn an_images_own_layers_stand_for_themselves() {
        let records = vec![record("a", None, Some(("one", true))), record("d", None, Some(("other", true)))];
        let bytes = inline(&records, &[(digest("base"), digest("base")), (digest("one"), digest("one"))]);
        let layers = [(blob("base"), digest("base")), (blob("one"), digest("one"))];
        let parsed = parse_inline(&bytes, &layers).expect("good");
        let blobs: Vec<bool> =
            parsed.records.iter().map(|r| r.layer.as_ref().is_some_and(|l| l.blob.is_some())).collect();
        assert_eq!(blobs, [true, false]);
    }

    #[test]
    fn strange_documents_do_no_harm() {
        for bad in ["", "{\"records\":{}}", "\u{0}", "{\"layers\":[1]}"] {
            assert!(parse(bad.as_bytes(), &[]).is_err(), "{bad}");
        }
        let read = |text: &str| parse(text.as_bytes(), &[blob("x")]).expect("read");
        // A document of BuildKit's: its keys are none of ours.
        let theirs = r#"{"layers":[{"blob":"sha256:aa","parent":-1}],"records":[
            {"digest":"sha256:7ac12f5e1cbbbd3a2a7b9c1e1d8b3c1e0f0a0b0c0d0e0f101112131415161718","layers":[{"layer":0,"createdAt":"2020-01-01T00:00:00Z"}]},
            {"digest":"random:x","inputs":[[{"link":0,"selector":"sha256:x"}]]}]}"#;
        assert_eq!((read(theirs).records.len(), read(theirs).foreign), (0, 2));
        // Circles, places that do not exist, and a layer that is not what its record says.
        let (key, one, x) = (digest("k"), digest("one"), digest("x"));
        let circle = format!(
            r#"{{"layers":[{{"blob":"{x}","parent":0,"annotations":{{"diffID":"{x}"}}}}],"records":[
            {{"digest":"{key}","inputs":[[{{"link":0}}]],"layers":[{{"layer":0}},{{"layer":-7}},{{"layer":99}}],
              "brig":{{"version":1,"created":"2026-01-01T00:00:00Z","diffID":"{one}"}}}}]}}"#
        );
        let records = read(&circle).records;
        assert_eq!(records[0].layer.as_ref().map(|l| l.blob.clone()), Some(None));
        // Times that are none, versions that are not known.
        for (version, created) in [(1, "yesterday"), (2, "2026-01-01T00:00:00Z")] {
            let text = format!(
                r#"{{"records":[{{"digest":"{key}","brig":{{"version":{version},"created":"{created}"}}}}]}}"#
            );
            assert_eq!((read(&text).records.len(), read(&text).foreign), (0, 1));
        }
        let many = format!("{{\"records\":[{}{{}}]}}", "{},".repeat(MAX_RECORDS));
        assert!(parse(many.as_bytes(), &[]).is_err_and(|e| e.contains("at most")));
    }
}
