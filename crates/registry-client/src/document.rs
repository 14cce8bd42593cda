//! Manifests and indexes: told apart by one rule, and checked so that no two readers can see two things in one
//! document (CVE-2021-41190).

use crate::answer::printable;
use oci::image::{Index, Manifest, media_type};
use oci::{Descriptor, Platform};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Docker's first manifest formats.
const SCHEMA1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];
/// All that we read, for `Accept`.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// What a manifest document is.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Index),
    Manifest(Box<Manifest>),
}

/// Why it is none.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Schema1,
    /// A type that we do not read.
    Unknown(String),
    Malformed(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

/// The media type of a document: what it says of itself, else what it came as, else what it looks like. Refuses it
/// when these contradict each other.
pub(crate) fn identify(content_type: Option<&str>, body: &[u8]) -> Result<String, Refusal> {
    let came_as =
        content_type.map(|text| text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    let came_as = came_as.filter(|text| text.starts_with("application/vnd."));
    if came_as.as_deref().is_some_and(|text| SCHEMA1.contains(&text)) {
        return Err(Refusal::Schema1);
    }
    let outline: Outline = serde_json::from_slice(body)
        .map_err(|error| Refusal::Malformed(format!("not a manifest: {error}")))?;
    if outline.schema_version == Some(1) || outline.fs_layers.is_some() {
        return Err(Refusal::Schema1);
    }
    let looks_like = match (outline.manifests.is_some(), outline.layers.is_some() || outline.config.is_some())
    {
        (true, false) => media_type::OCI_INDEX,
        (false, true) => media_type::OCI_MANIFEST,
        (true, true) => return Err(Refusal::Malformed("both an index and a manifest".into())),
        (false, false) => return Err(Refusal::Malformed("neither an index nor a manifest".into())),
    };
    if let (Some(says), Some(came_as)) = (&outline.media_type, &came_as)
        && says != came_as
    {
        let (says, came_as) = (printable(says), printable(came_as));
        return Err(Refusal::Malformed(format!("came as {came_as}, but says it is {says}")));
    }
    let is = outline.media_type.or(came_as).unwrap_or_else(|| looks_like.to_string());
    if !media_type::is_index(&is) && !media_type::is_manifest(&is) {
        return Err(Refusal::Unknown(printable(&is)));
    }
    if media_type::is_index(&is) != media_type::is_index(looks_like) {
        return Err(Refusal::Malformed(format!("says it is {is}, but looks like {looks_like}")));
    }
    Ok(is)
}

/// Reads a document whose descriptor says it has this type.
pub(crate) fn read(media_type: &str, body: &[u8]) -> Result<Document, Refusal> {
    let malformed = |error: serde_json::Error| Refusal::Malformed(error.to_string());
    if media_type::is_index(&identify(Some(media_type), body)?) {
        return serde_json::from_slice(body).map(Document::Index).map_err(malformed);
    }
    serde_json::from_slice(body).map(Box::new).map(Document::Manifest).map_err(malformed)
}

/// The entry of `index` for `wanted`: exactly this platform before one that also runs here, earlier before later;
/// then one that names no platform, when it is the only entry.
pub(crate) fn choose<'a>(index: &'a Index, wanted: &Platform) -> Option<&'a Descriptor> {
    let usable = |entry: &&Descriptor| {
        media_type::is_index(&entry.media_type) || media_type::is_manifest(&entry.media_type)
    };
    let find = |fits: &dyn Fn(&Platform) -> bool| {
        index.manifests.iter().filter(usable).find(|entry| entry.platform.as_ref().is_some_and(fits))
    };
    find(&|platform| platform == wanted)
        .or_else(|| find(&|platform| platform.satisfies(wanted) && platform.variant.is_none()))
        .or_else(|| find(&|platform| platform.satisfies(wanted)))
        .or_else(|| match index.manifests.as_slice() {
            [only] if only.platform.is_none() && usable(&only) => Some(only),
            _ => None,
        })
}

/// The platforms of `index`, for a message; attestations and the like (`unknown/unknown`) are left out.
pub(crate) fn platforms(index: &Index) -> String {
    const SHOWN: usize = 20;
    let all: Vec<String> = index
        .manifests
        .iter()
        .filter_map(|entry| entry.platform.as_ref())
        .filter(|platform| platform.os != "unknown")
        .map(|platform| printable(&platform.to_string()))
        .collect();
    match all.len() {
        0 => "none".to_string(),
        n if n > SHOWN => format!("{} and {} more", all[..SHOWN].join(", "), n - SHOWN),
        _ => all.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::Digest;

    const INDEX: &str = media_type::OCI_INDEX;
    const MANIFEST: &str = media_type::DOCKER_MANIFEST;

    #[test]
    fn documents_are_told_apart() {
        let check = |came_as: Option<&str>, body: &str, expected: Result<&str, &str>| {
            let result = identify(came_as, body.as_bytes());
            match expected {
                Ok(media_type) => assert_eq!(result.as_deref(), Ok(media_type), "{body}"),
                Err(word) => assert!(format!("{:?}", result.unwrap_err()).contains(word), "{body}"),
            }
        };
        let says_manifest = format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","layers":[]}}"#);
        let says_index = format!(r#"{{"mediaType":"{INDEX}","manifests":[]}}"#);
        check(Some(MANIFEST), &says_manifest, Ok(MANIFEST));
        check(Some(&format!("{MANIFEST}; charset=utf-8")), &says_manifest, Ok(MANIFEST));
        check(Some("application/json"), &says_manifest, Ok(MANIFEST));
        check(None, r#"{"manifests":[]}"#, Ok(INDEX));
        check(None, r#"{"config":{},"layers":[]}"#, Ok(media_type::OCI_MANIFEST));
        check(Some(INDEX), &says_manifest, Err("came as"));
        check(Some(MANIFEST), &says_index, Err("came as"));
        check(None, &format!(r#"{{"mediaType":"{INDEX}","layers":[]}}"#), Err("looks like"));
        check(None, r#"{"manifests":[],"layers":[]}"#, Err("both"));
        check(None, r#"{"mediaType":"application/vnd.x","layers":[]}"#, Err("Unknown"));
        check(None, r#"{"layers":[],"layers":[]}"#, Err("duplicate"));
        check(None, r#"{"mediaType":"a\u001b[2J","layers":[]}"#, Err("a [2J"));
        check(Some(SCHEMA1[1]), "{}", Err("Schema1"));
        check(None, r#"{"schemaVersion":1,"fsLayers":[]}"#, Err("Schema1"));
        for bad in ["", "[]", "{}", "null", "\u{0}", "<html>"] {
            check(Some(INDEX), bad, Err("Malformed"));
        }
        check(None, &"[".repeat(100_000), Err("Malformed"));
    }

    #[test]
    fn platforms_are_chosen() {
        let index = |platforms: &[&str]| Index {
            schema_version: 2,
            media_type: None,
            manifests: platforms
                .iter()
                .map(|text| {
                    let platform = text.parse().ok();
                    Descriptor { platform, ..Descriptor::new(MANIFEST, Digest::of(text.as_bytes()), 1) }
                })
                .collect(),
            annotations: Default::default(),
        };
        let check = |entries: &[&str], wanted: &str, expected: Option<&str>| {
            let index = index(entries);
            let got = choose(&index, &wanted.parse().unwrap()).map(|entry| entry.digest);
            assert_eq!(got, expected.map(|text| Digest::of(text.as_bytes())), "{wanted} of {entries:?}");
        };
        let all = ["windows/amd64", "linux/arm/v6", "linux/arm/v7", "linux/amd64", "unknown/unknown"];
        check(&all, "linux/amd64", Some("linux/amd64"));
        check(&all, "linux/arm/v7", Some("linux/arm/v7"));
        check(&all, "linux/arm", Some("linux/arm/v6"));
        check(&all, "linux/s390x", None);
        check(&["linux/amd64/v3", "linux/amd64"], "linux/amd64", Some("linux/amd64"));
        check(&["linux/arm64/v8"], "linux/arm64", Some("linux/arm64/v8"));
        check(&["?"], "linux/amd64", Some("?"));
        check(&["?", "!"], "linux/amd64", None);
        check(&[], "linux/amd64", None);
        assert_eq!(super::platforms(&index(&all)), "windows/amd64, linux/arm/v6, linux/arm/v7, linux/amd64");
    }
}
