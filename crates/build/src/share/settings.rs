//! `--cache-from` and `--cache-to`, as all clients write them: a type and attributes.

use super::store::BlobStore;
use crate::error::Error;
use archive::Compression;
use oci::{Digest, Reference};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A cache to use.
#[derive(Debug, Clone)]
pub struct CacheFrom {
    /// As the client named it.
    pub name: String,
    pub place: CachePlace,
}

/// Where a cache is.
#[derive(Debug, Clone)]
pub enum CachePlace {
    /// At a registry; of an image's own cache also here.
    Registry(Reference),
    /// With the client; the digest of its manifest.
    Store { store: Arc<dyn BlobStore>, manifest: Digest },
}

/// A cache to make.
#[derive(Debug, Clone)]
pub struct CacheTo {
    /// None: in the image's config.
    pub place: Option<CacheTarget>,
    /// All layers, not only those of the image.
    pub is_max: bool,
    /// A failure does not fail the build.
    pub ignore_error: bool,
    pub(crate) is_manifest: bool,
    pub(crate) is_oci: bool,
    /// For the way; layers that are plain, or all.
    pub(crate) compression: Option<Compression>,
    pub(crate) force_compression: bool,
}

/// Where a cache goes.
#[derive(Debug, Clone)]
pub enum CacheTarget {
    Registry(Reference),
    Store { name: String, store: Arc<dyn BlobStore> },
}

/// Makes the store of a client's that is named so.
pub type CacheSettings<'a> = &'a dyn Fn(&str) -> Result<Arc<dyn BlobStore>, Error>;

fn reference(attributes: &BTreeMap<String, String>, what: &str) -> Result<Reference, Error> {
    let text = attributes.get("ref").map(String::as_str).unwrap_or_default();
    if text.is_empty() {
        return Err(Error::invalid(format!("{what} requires ref")));
    }
    let parsed: Result<Reference, _> = text.parse();
    parsed
        .map(Reference::with_default_tag)
        .map_err(|e| Error::invalid(format!("failed to parse cache reference {text:?}: {e}")))
}

fn flag(key: &str, value: &str) -> Result<bool, Error> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Error::invalid(format!("failed to parse {key}: invalid boolean {value:?}"))),
    }
}

fn refused(what: &str, key: &str, value: &str) -> Error {
    Error::unsupported(format!("the {what} option {key}={value}"))
}

impl CacheFrom {
    /// Reads `kind` and its attributes.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for what is wrong; [`Error::Unsupported`], by name, for what this version does not know.
    pub fn parse(
        kind: &str,
        attributes: &BTreeMap<String, String>,
        store: CacheSettings<'_>,
    ) -> Result<CacheFrom, Error> {
        let what = "cache import";
        match kind {
            "registry" => {
                for (key, value) in attributes {
                    match key.as_str() {
                        "ref" => {}
                        "registry.insecure" if !flag(key, value)? => {}
                        _ => return Err(refused(what, key, value)),
                    }
                }
                let reference = reference(attributes, "registry cache importer")?;
                Ok(CacheFrom { name: reference.familiar(), place: CachePlace::Registry(reference) })
            }
            "local" => {
                for (key, value) in attributes {
                    if !["src", "digest", "tag"].contains(&key.as_str()) {
                        return Err(refused(what, key, value));
                    }
                }
                let src = attributes
                    .get("src")
                    .ok_or_else(|| Error::invalid("local cache importer requires src"))?;
                let digest = attributes
                    .get("digest")
                    .ok_or_else(|| Error::invalid("local cache importer requires explicit digest"))?;
                let manifest = digest
                    .parse()
                    .map_err(|e| Error::invalid(format!("failed to parse cache digest {digest:?}: {e}")))?;
                let store = store(src)?;
                Ok(CacheFrom { name: src.clone(), place: CachePlace::Store { store, manifest } })
            }
            other => Err(Error::unsupported(format!("the cache importer {other:?}"))),
        }
    }

    /// The cache of an image or of a repository's tag.
    ///
    /// # Errors
    ///
    /// When it is no reference.
    pub fn image(name: &str) -> Result<CacheFrom, Error> {
        let nowhere = |_: &str| Err(Error::invalid("no store"));
        CacheFrom::parse("registry", &[("ref".to_string(), name.to_string())].into(), &nowhere)
    }
}

impl CacheTo {
    /// Reads `kind` and its attributes.
    ///
    /// # Errors
    ///
    /// As [`CacheFrom::parse`].
    pub fn parse(
        kind: &str,
        attributes: &BTreeMap<String, String>,
        store: CacheSettings<'_>,
    ) -> Result<CacheTo, Error> {
        let what = "cache export";
        if !matches!(kind, "registry" | "local" | "inline") {
            return Err(Error::unsupported(format!("the cache exporter {kind:?}")));
        }
        let mut out = CacheTo {
            place: None,
            is_max: false,
            ignore_error: false,
            is_manifest: true,
            is_oci: true,
            compression: None,
            force_compression: false,
        };
        let mut said_manifest = false;
        for (key, value) in attributes {
            match (key.as_str(), kind) {
                ("ref", "registry") | ("dest" | "tag" | "reset", "local") => {}
                ("registry.insecure", "registry") if !flag(key, value)? => {}
                ("mode", _) => match value.as_str() {
                    "min" => {}
                    "max" => out.is_max = true,
                    other => return Err(Error::invalid(format!("invalid cache mode {other:?}"))),
                },
                ("ignore-error", _) => out.ignore_error = flag(key, value)?,
                ("image-manifest", "registry" | "local") => {
                    out.is_manifest = flag(key, value)?;
                    said_manifest = true;
                }
                ("oci-mediatypes", "registry" | "local") => out.is_oci = flag(key, value)?,
                ("compression", "registry" | "local") => {
                    out.compression = Some(match value.as_str() {
                        "uncompressed" => Compression::None,
                        "gzip" => Compression::Gzip,
                        "zstd" => Compression::Zstd,
                        _ => return Err(refused(what, key, value)),
                    });
                }
                ("force-compression", "registry" | "local") => out.force_compression = flag(key, value)?,
                _ => return Err(refused(what, key, value)),
            }
        }
        if !out.is_oci && !said_manifest {
            out.is_manifest = false;
        }
        if !out.is_oci && out.is_manifest {
            return Err(Error::invalid(
                "invalid configuration for remote cache, OCI mediatypes are required for image-manifest cache format",
            ));
        }
        out.place = match kind {
            "inline" => None,
            "registry" => Some(CacheTarget::Registry(reference(attributes, "registry cache exporter")?)),
            "local" => {
                let dest = attributes
                    .get("dest")
                    .ok_or_else(|| Error::invalid("local cache exporter requires dest"))?;
                Some(CacheTarget::Store { name: dest.clone(), store: store(dest)? })
            }
            other => return Err(Error::unsupported(format!("the cache exporter {other:?}"))),
        };
        Ok(out)
    }

    /// What clients are told that is done.
    pub fn doing(&self) -> &'static str {
        match self.place {
            None => "exporting inline cache",
            Some(CacheTarget::Registry(_)) => "exporting cache to registry",
            Some(CacheTarget::Store { .. }) => "exporting cache to client directory",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_and_strange_ones_refused_by_name() {
        let nowhere = |_: &str| Err(Error::invalid("no store here"));
        let attributes = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
        };
        let to = |kind: &str, pairs: &[(&str, &str)]| CacheTo::parse(kind, &attributes(pairs), &nowhere);
        let from = |kind: &str, pairs: &[(&str, &str)]| CacheFrom::parse(kind, &attributes(pairs), &nowhere);
        let good =
            to("registry", &[("ref", "a.example/b"), ("mode", "max"), ("compression", "zstd")]).unwrap();
        assert!(good.is_max && good.is_manifest && good.is_oci);
        assert!(!to("registry", &[("ref", "a.example/b"), ("oci-mediatypes", "false")]).unwrap().is_manifest);
        assert!(to("inline", &[("mode", "max")]).unwrap().place.is_none());
        assert_eq!(from("registry", &[("ref", "a.example/b")]).unwrap().name, "a.example/b:latest");
        let refused = |e: Error| errors::chain(&e);
        for (kind, pairs, word) in [
            ("registry", &[][..], "requires ref"),
            ("registry", &[("ref", "A B")], "A B"),
            ("registry", &[("ref", "a"), ("compression", "estargz")], "estargz"),
            ("registry", &[("ref", "a"), ("compression-level", "3")], "compression-level"),
            ("registry", &[("ref", "a"), ("registry.insecure", "true")], "registry.insecure"),
            ("registry", &[("ref", "a"), ("mode", "most")], "most"),
            ("registry", &[("ref", "a"), ("oci-mediatypes", "0"), ("image-manifest", "1")], "OCI mediatypes"),
            ("local", &[], "requires dest"),
            ("local", &[("dest", "d")], "no store here"),
            ("gha", &[], "gha"),
            ("inline", &[("ref", "x")], "ref"),
        ] {
            let text = refused(to(kind, pairs).expect_err(word));
            assert!(text.contains(word), "{text}");
        }
        for (kind, pairs, word) in [
            ("registry", &[("ref", "a"), ("mode", "max")][..], "mode"),
            ("local", &[("src", "d")], "explicit digest"),
            ("local", &[("src", "d"), ("digest", "md5:1")], "md5"),
            ("s3", &[], "s3"),
        ] {
            let text = refused(from(kind, pairs).expect_err(word));
            assert!(text.contains(word), "{text}");
        }
    }
}
