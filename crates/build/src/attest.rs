//! What is said of an image besides the image: how it was built (SLSA provenance) and what is in it (SPDX), as in-toto
//! statements.
//!
//! A statement has the time of its build and a name of it, so an index with provenance is another each time, while the
//! image's own manifest in it stays what it was.

mod capture;
mod packages;
mod predicate;
mod sbom;
mod settings;

pub use capture::Material;
pub use settings::{Attests, ProvenanceAsked, SbomAsked, Version};

pub(crate) use capture::Capture;

use crate::error::{During, Error};
use crate::solve::Solved;
use image::Statement;
use oci::{Digest, Platform, Reference};
use serde_json::{Value, json};

/// What statements say in their first line.
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v0.1";

/// Something that a statement is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    pub name: String,
    pub digest: Digest,
}

/// What is said, before it is known of what.
#[derive(Debug, Clone, PartialEq)]
pub struct Predicate {
    pub predicate_type: &'static str,
    /// How it is called as a file.
    pub file_name: String,
    /// Only for images, not beside files.
    pub inline_only: bool,
    pub body: Value,
}

impl Predicate {
    /// The statement about `subjects`.
    pub fn statement(&self, subjects: &[Subject]) -> Statement {
        let subjects: Vec<Value> = subjects
            .iter()
            .map(|s| json!({ "name": s.name, "digest": { "sha256": s.digest.hex() } }))
            .collect();
        let statement = json!({
            "_type": STATEMENT_TYPE,
            "predicateType": self.predicate_type,
            "subject": subjects,
            "predicate": self.body,
        });
        let bytes = serde_json::to_vec_pretty(&statement).expect("plain strings and numbers");
        Statement { predicate_type: self.predicate_type.into(), bytes }
    }
}

impl Solved {
    /// What was asked to be said of this result, for `platform`. Blocking.
    ///
    /// # Errors
    ///
    /// When the files cannot be read; [`Error::Invalid`] when what was asked cannot be said.
    pub fn predicates(&self, asked: &Attests, platform: &Platform) -> Result<Vec<Predicate>, Error> {
        let mut out = Vec::new();
        if let Some(SbomAsked {}) = &asked.sbom {
            out.push(sbom::predicate(self)?);
        }
        if let Some(provenance) = &asked.provenance {
            out.push(predicate::provenance(self, provenance, platform)?);
        }
        Ok(out)
    }

    /// Puts what is said of the manifest `subject`, which has these names, beside it in the content store. None when
    /// nothing is. Blocking.
    ///
    /// # Errors
    ///
    /// As [`Solved::predicates`].
    pub fn attest(
        &self,
        asked: &Attests,
        platform: &Platform,
        subject: &Digest,
        references: &[Reference],
    ) -> Result<Option<oci::Descriptor>, Error> {
        let predicates = self.predicates(asked, platform)?;
        if predicates.is_empty() {
            return Ok(None);
        }
        let subjects: Vec<Subject> = match references {
            [] => vec![Subject { name: "_".into(), digest: *subject }],
            all => all.iter().map(|r| Subject { name: image_url("docker", r, platform), digest: *subject }).collect(),
        };
        let statements: Vec<Statement> = predicates.iter().map(|p| p.statement(&subjects)).collect();
        self.engine
            .images()
            .compose_attestations(subject, &statements, &self.lease)
            .map(Some)
            .during(|| "keep what is said of the image".into())
    }
}

/// A package URL of an image.
pub(crate) fn image_url(kind: &str, reference: &Reference, platform: &Platform) -> String {
    let familiar = reference.familiar_name();
    let path: Vec<String> = familiar.split('/').map(escaped).collect();
    let mut out = format!("pkg:{kind}/{}", path.join("/"));
    if let Some(tag) = reference.tag() {
        out.push_str(&format!("@{}", escaped(tag)));
    } else if reference.digest().is_none() {
        out.push_str("@latest");
    }
    let mut qualifiers = Vec::new();
    if let Some(digest) = reference.digest() {
        qualifiers.push(format!("digest={}", escaped(&digest.to_string())));
    }
    qualifiers.push(format!("platform={}", escaped(&platform.to_string())));
    format!("{out}?{}", qualifiers.join("&"))
}

/// As package URLs have it: what is no letter, digit or one of `.-_~:` by its bytes.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b".-_~:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_images() {
        let platform = Platform { architecture: "amd64".into(), os: "linux".into(), os_version: None, variant: None };
        let check = |text: &str, want: &str| {
            let reference: Reference = text.parse().expect("good");
            assert_eq!(image_url("docker", &reference, &platform), want);
        };
        check("busybox", "pkg:docker/busybox@latest?platform=linux%2Famd64");
        check("a/b:1+x".replace('+', "-").as_str(), "pkg:docker/a/b@1-x?platform=linux%2Famd64");
        check("localhost:5000/a:1", "pkg:docker/localhost:5000/a@1?platform=linux%2Famd64");
    }
}
