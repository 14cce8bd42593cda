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

pub use settings::Attests;

pub(crate) use capture::{Capture, Captured, Material};
pub(crate) use sbom::{Beside, SCAN_CONTEXT, SCAN_STAGE, is_meant};
use settings::SbomAsked;

use crate::error::{During, Error, IoDuring};
use crate::request::Request;
use crate::solve::Solved;
use image::Statement;
use oci::{Digest, Platform, Reference};
use rootdir::RootDir;
use rustix::fs::FileType;
use serde_json::{Value, json};
use sha2::Digest as _;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What statements say in their first line.
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v0.1";

/// What a build was asked for, and what went into it.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    /// Its name, which no other build has.
    invocation: String,
    /// RFC 3339.
    started: String,
    /// Options of the frontend.
    args: BTreeMap<String, String>,
    /// Directories of the client's.
    locals: Vec<String>,
    captured: Captured,
    dockerfile: String,
    dockerfile_name: String,
}

impl Origin {
    /// Of a build that began at `started`.
    pub(crate) fn of(request: &Request, captured: Captured, started: &str, dockerfile: &str) -> Origin {
        let name = &request.dockerfile;
        Origin {
            invocation: engine::ContainerId::random().to_string().chars().take(25).collect(),
            started: started.into(),
            args: request.frontend_args(),
            locals: request.locals.clone(),
            captured,
            dockerfile: dockerfile.into(),
            dockerfile_name: if name.is_empty() { "Dockerfile".into() } else { name.clone() },
        }
    }
}

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
    /// What was asked to be said of this result. Blocking.
    ///
    /// # Errors
    ///
    /// When the files cannot be read; [`Error::Invalid`] when what was asked cannot be said.
    pub fn predicates(&self, asked: &Attests) -> Result<Vec<Predicate>, Error> {
        let mut out = Vec::new();
        if let Some(SbomAsked {}) = &asked.sbom {
            out.extend(sbom::predicates(self)?);
        }
        if let Some(provenance) = &asked.provenance {
            out.push(predicate::provenance(self, provenance)?);
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
        let predicates = self.predicates(asked)?;
        if predicates.is_empty() {
            return Ok(None);
        }
        let subjects: Vec<Subject> = match references {
            [] => vec![Subject { name: "_".into(), digest: *subject }],
            all => all
                .iter()
                .map(|r| Subject { name: image_url("docker", r, platform), digest: *subject })
                .collect(),
        };
        let statements: Vec<Statement> = predicates.iter().map(|p| p.statement(&subjects)).collect();
        self.engine
            .images()
            .compose_attestations(subject, &statements, &self.lease)
            .map(Some)
            .during(|| "keep what is said of the image".into())
    }
}

/// Puts what is to be said of the files below `root` beside them. Blocking.
///
/// # Errors
///
/// When a file cannot be read, or one of that name is there.
pub fn attest_files(root: &RootDir, predicates: &[Predicate]) -> Result<(), Error> {
    let wanted: Vec<&Predicate> = predicates.iter().filter(|p| !p.inline_only).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let subjects = subjects(root)?;
    for predicate in wanted {
        let path = Path::new(&predicate.file_name);
        if root.exists(path).during(|| "look for a file".into())? {
            let message = format!("duplicate attestation path name {}", predicate.file_name);
            return Err(Error::invalid(message));
        }
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        root.write_file_atomic(path, &predicate.statement(&subjects).bytes, mode)
            .during(|| format!("write {}", predicate.file_name))?;
    }
    Ok(())
}

/// All regular files below `root`, by name and digest.
fn subjects(root: &RootDir) -> Result<Vec<Subject>, Error> {
    let mut out = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(dir) = pending.pop() {
        let doing = || format!("read /{}", dir.display());
        let own = if dir.as_os_str().is_empty() { Path::new(".") } else { &dir };
        for name in root.list(own).during(doing)? {
            let path = dir.join(&name);
            let kind = FileType::from_raw_mode(root.symlink_metadata(&path).during(doing)?.st_mode);
            if kind.is_dir() {
                pending.push(path);
            } else if kind.is_file() {
                let mut file = root.open_regular(&path).during(doing)?;
                let mut hasher = sha2::Sha256::new();
                let mut buffer = vec![0; 64 << 10];
                loop {
                    match file.read(&mut buffer).io_during(doing)? {
                        0 => break,
                        n => hasher.update(&buffer[..n]),
                    }
                }
                let digest = Digest::from_sha256(hasher.finalize().into());
                out.push(Subject { name: path.to_string_lossy().into_owned(), digest });
            }
        }
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
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
        let platform =
            Platform { architecture: "amd64".into(), os: "linux".into(), os_version: None, variant: None };
        let check = |text: &str, want: &str| {
            let reference: Reference = text.parse().expect("good");
            assert_eq!(image_url("docker", &reference, &platform), want);
        };
        check("busybox", "pkg:docker/busybox@latest?platform=linux%2Famd64");
        check("a/b:1+x".replace('+', "-").as_str(), "pkg:docker/a/b@1-x?platform=linux%2Famd64");
        check("localhost:5000/a:1", "pkg:docker/localhost:5000/a@1?platform=linux%2Famd64");
    }
}
