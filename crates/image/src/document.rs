//! Manifests, indexes and configs, read strictly: what two readers would understand differently is refused.
//!
//! Spec: image-spec, manifest.md, image-index.md, config.md; CVE-2021-41190 for documents that are two things at once.

use crate::Error;
use oci::image::{ImageConfig, Index, MAX_CONFIG, MAX_LAYERS, MAX_MANIFEST, Manifest, media_type};
use oci::{Descriptor, Digest, Platform};
use serde::de::DeserializeOwned;

/// Most manifests in one index. The largest public ones have about fifty.
const MAX_MANIFESTS: usize = 10_000;

/// Reads an index whose descriptor says `digest` and `media_type`.
pub fn parse_index(bytes: &[u8], digest: &Digest, media_type: &str) -> Result<Index, Error> {
    let invalid = |reason: String| Error::Document { document: "index", digest: *digest, reason };
    let index: Index = parse(bytes, MAX_MANIFEST, &["layers", "config", "fsLayers"]).map_err(invalid)?;
    check_version(index.schema_version).map_err(invalid)?;
    check_type(index.media_type.as_deref(), media_type).map_err(invalid)?;
    if index.manifests.len() > MAX_MANIFESTS {
        return Err(invalid(format!("it has more than {MAX_MANIFESTS} manifests")));
    }
    Ok(index)
}

/// Reads a manifest whose descriptor says `digest` and `media_type`.
pub fn parse_manifest(bytes: &[u8], digest: &Digest, media_type: &str) -> Result<Manifest, Error> {
    let invalid = |reason: String| Error::Document { document: "manifest", digest: *digest, reason };
    let manifest: Manifest = parse(bytes, MAX_MANIFEST, &["manifests", "fsLayers"]).map_err(invalid)?;
    check_version(manifest.schema_version).map_err(invalid)?;
    check_type(manifest.media_type.as_deref(), media_type).map_err(invalid)?;
    if manifest.layers.len() > MAX_LAYERS {
        return Err(invalid(format!("it has {} layers, more than {MAX_LAYERS}", manifest.layers.len())));
    }
    if manifest.config.size > MAX_CONFIG as u64 {
        return Err(invalid(format!(
            "its config has {} bytes, more than {MAX_CONFIG}",
            manifest.config.size
        )));
    }
    let config_type = manifest.config.media_type.as_str();
    if !media_type::is_image_config(config_type) {
        return Err(Error::NotAnImage { digest: *digest, media_type: shorten(config_type) });
    }
    match manifest.layers.iter().find(|layer| !media_type::is_tar_layer(&layer.media_type)) {
        Some(layer) => Err(Error::LayerType { digest: layer.digest, media_type: shorten(&layer.media_type) }),
        None => Ok(manifest),
    }
}

/// Reads a manifest of anything, image or not: only what every manifest has is checked.
pub(crate) fn parse_any_manifest(bytes: &[u8], digest: &Digest) -> Result<Manifest, Error> {
    let invalid = |reason: String| Error::Document { document: "manifest", digest: *digest, reason };
    let manifest: Manifest = parse(bytes, MAX_MANIFEST, &["manifests", "fsLayers"]).map_err(invalid)?;
    check_version(manifest.schema_version).map_err(invalid)?;
    Ok(manifest)
}

/// Reads a config with digest `digest`.
pub fn parse_config(bytes: &[u8], digest: &Digest) -> Result<ImageConfig, Error> {
    let invalid = |reason: String| Error::Document { document: "image config", digest: *digest, reason };
    let config: ImageConfig = parse(bytes, MAX_CONFIG, &[]).map_err(invalid)?;
    if config.rootfs.kind != "layers" {
        return Err(invalid(format!(
            "its rootfs is of type {:?}, not \"layers\"",
            shorten(&config.rootfs.kind)
        )));
    }
    let layers = config.rootfs.diff_ids.len();
    if layers > MAX_LAYERS {
        return Err(invalid(format!("it has {layers} layers, more than {MAX_LAYERS}")));
    }
    let described = config.history.iter().filter(|step| !step.empty_layer).count();
    if described > layers {
        return Err(invalid(format!("its history speaks of {described} layers, it has {layers}")));
    }
    Ok(config)
}

/// The manifest of `index` for `wanted`: the first that fits, one of exactly the wanted variant before others.
///
/// Entries without a platform fit nothing, but for one that is the only one; neither do attestations, whose platform is
/// `unknown`.
pub fn choose<'a>(index: &'a Index, wanted: &Platform) -> Result<&'a Descriptor, Error> {
    let fitting = || {
        index.manifests.iter().filter(|entry| {
            let readable =
                media_type::is_manifest(&entry.media_type) || media_type::is_index(&entry.media_type);
            readable && entry.platform.as_ref().is_some_and(|platform| platform.satisfies(wanted))
        })
    };
    let exact = fitting()
        .find(|entry| entry.platform.as_ref().is_some_and(|platform| platform.variant == wanted.variant));
    let only = || match index.manifests.as_slice() {
        [only] if only.platform.is_none() => Some(only),
        _ => None,
    };
    let found = exact.or_else(|| fitting().next()).or_else(only);
    found.ok_or_else(|| Error::NoPlatform { platform: wanted.clone() })
}

/// The chain IDs of a config's layers, bottom first.
pub fn chain_ids(config: &ImageConfig) -> Vec<Digest> {
    let mut parent = None;
    let link = |diff_id: &Digest| {
        let chain_id = Digest::chain(parent, *diff_id);
        parent = Some(chain_id);
        chain_id
    };
    config.rootfs.diff_ids.iter().map(link).collect()
}

/// serde_json refuses nesting beyond 128 levels and, for fields that it knows, a second one of the same name.
fn parse<T: DeserializeOwned>(bytes: &[u8], max: usize, foreign: &[&str]) -> Result<T, String> {
    if bytes.len() > max {
        return Err(format!("it has {} bytes, more than {max}", bytes.len()));
    }
    let fields: Fields = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if let Some(field) = fields.0.iter().find(|field| foreign.contains(&field.as_str())) {
        return Err(format!("the field {field:?} belongs to another kind of document"));
    }
    serde_json::from_slice(bytes).map_err(|e| e.to_string())
}

/// The names of the fields of an object.
struct Fields(Vec<String>);

impl<'de> serde::Deserialize<'de> for Fields {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Fields, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Fields;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut names = Vec::new();
                while let Some((name, serde::de::IgnoredAny)) = map.next_entry::<String, _>()? {
                    // Go's reader takes the last of two and ignores case; ours would refuse, or not see it.
                    if names.iter().any(|known: &String| known.eq_ignore_ascii_case(&name)) {
                        return Err(serde::de::Error::custom(format_args!("duplicate field {name:?}")));
                    }
                    names.push(name);
                    if names.len() > MAX_FIELDS {
                        return Err(serde::de::Error::custom("too many fields"));
                    }
                }
                Ok(Fields(names))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// Most fields at the top of a document; the specifications know about twenty.
const MAX_FIELDS: usize = 256;

fn check_version(version: u32) -> Result<(), String> {
    match version {
        2 => Ok(()),
        other => Err(format!("its schemaVersion is {other}, not 2")),
    }
}

fn check_type(own: Option<&str>, promised: &str) -> Result<(), String> {
    match own {
        Some(own) if own != promised => {
            Err(format!("it says that it is {:?}, its descriptor says {promised:?}", shorten(own)))
        }
        _ => Ok(()),
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digest(n: u8) -> Digest {
        Digest::of(&[n])
    }

    fn manifest() -> String {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{}","size":7}},
                "layers":[{{"mediaType":"{}","digest":"{}","size":8,"urls":["https://x"]}}],"annotations":{{"a":"b"}}}}"#,
            media_type::OCI_MANIFEST,
            media_type::OCI_CONFIG,
            digest(1),
            media_type::OCI_LAYER_GZIP,
            digest(2)
        )
    }

    fn index() -> String {
        format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{}","size":9,
                "platform":{{"os":"linux","architecture":"arm64","variant":"v8"}}}}]}}"#,
            media_type::OCI_MANIFEST,
            digest(3)
        )
    }

    fn config() -> String {
        format!(
            r#"{{"os":"linux","architecture":"amd64","config":{{"Cmd":["sh"],"Env":null,"Labels":{{"a":"b"}}}},
                "rootfs":{{"type":"layers","diff_ids":["{}"]}},"history":[{{"created_by":"x"}}]}}"#,
            digest(4)
        )
    }

    /// Reads `bytes` as each document. What is accepted keeps the limits.
    fn read_all(bytes: &[u8]) {
        let id = digest(0);
        if let Ok(manifest) = parse_manifest(bytes, &id, media_type::OCI_MANIFEST) {
            assert!(manifest.layers.len() <= MAX_LAYERS && manifest.config.size <= MAX_CONFIG as u64);
        }
        if let Ok(index) = parse_index(bytes, &id, media_type::OCI_INDEX) {
            assert!(index.manifests.len() <= MAX_MANIFESTS);
            drop(choose(&index, &Platform::host()));
        }
        if let Ok(config) = parse_config(bytes, &id) {
            assert_eq!(chain_ids(&config).len(), config.rootfs.diff_ids.len());
        }
        drop(parse_any_manifest(bytes, &id));
    }

    #[test]
    fn the_samples_are_read() {
        let id = digest(0);
        parse_manifest(manifest().as_bytes(), &id, media_type::OCI_MANIFEST).unwrap();
        parse_index(index().as_bytes(), &id, media_type::OCI_INDEX).unwrap();
        parse_config(config().as_bytes(), &id).unwrap();
    }

    proptest! {
        #[test]
        fn bent_documents_are_read_or_refused(
            which in 0usize..3,
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..12),
        ) {
            let mut bytes = [manifest(), index(), config()][which].clone().into_bytes();
            for (at, byte, how) in edits {
                let at = at.index(bytes.len());
                match how {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    _ => drop(bytes.remove(at)),
                }
            }
            read_all(&bytes);
        }

        #[test]
        fn swapped_values_are_read_or_refused(
            which in 0usize..3,
            from in r#"("[a-zA-Z]{1,10}"|[0-9]{1,2}|\[|\{|null)"#,
            to in r#"(-1|1e400|null|\[\[\[\[|\{\}|"\\u0000"|18446744073709551616|"sha256:")"#,
        ) {
            let text = [manifest(), index(), config()][which].clone();
            read_all(text.replace(&from, &to).as_bytes());
            read_all(text.replacen(&from, &to, 1).as_bytes());
        }
    }
}
