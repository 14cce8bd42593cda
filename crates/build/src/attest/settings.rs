//! `--attest`, `--provenance` and `--sbom`, as clients hand them on: a kind and attributes.

use crate::error::Error;
use std::collections::BTreeMap;

/// What is to be said of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attests {
    pub(crate) provenance: Option<ProvenanceAsked>,
    pub(crate) sbom: Option<SbomAsked>,
}

/// How it was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProvenanceAsked {
    /// With arguments, the Dockerfile and all steps.
    pub(crate) is_max: bool,
    pub(crate) version: Version,
    pub(crate) builder_id: String,
    pub(crate) is_reproducible: bool,
    pub(crate) inline_only: bool,
    pub(crate) file_name: String,
    /// Fails where not all that went in is known.
    pub(crate) needs_complete: bool,
}

/// Of SLSA's document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V02,
    V1,
}

/// What is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SbomAsked {}

/// Provenance without further wishes.
impl Default for ProvenanceAsked {
    fn default() -> ProvenanceAsked {
        ProvenanceAsked {
            is_max: true,
            version: Version::V1,
            builder_id: String::new(),
            is_reproducible: false,
            inline_only: false,
            file_name: "provenance.json".into(),
            needs_complete: false,
        }
    }
}

impl Attests {
    /// Reads attributes by kind: `mode=max,version=v1`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for what is wrong; [`Error::Unsupported`], by name, for what this version does not know.
    pub fn parse(all: &BTreeMap<String, String>) -> Result<Attests, Error> {
        let mut out = Attests::default();
        for (kind, text) in all {
            let fields = fields(text);
            if fields.iter().any(|(key, value)| key == "disabled" && flag(key, value).unwrap_or(false)) {
                continue;
            }
            match kind.to_lowercase().as_str() {
                "provenance" => out.provenance = Some(provenance(&fields)?),
                "sbom" => {
                    for (key, value) in &fields {
                        match key.as_str() {
                            "disabled" => drop(flag(key, value)?),
                            "generator" if value.is_empty() => {}
                            "generator" => {
                                return Err(Error::unsupported(format!(
                                    "the SBOM generator {value} (brig has its own)"
                                )));
                            }
                            _ => return Err(Error::unsupported(format!("the SBOM parameter {key}={value}"))),
                        }
                    }
                    out.sbom = Some(SbomAsked {});
                }
                other => return Err(Error::invalid(format!("unknown attestation type {other:?}"))),
            }
        }
        Ok(out)
    }

    /// Only what clients ask for without being told to, of images alone.
    pub fn is_by_default(&self) -> bool {
        self.sbom.is_none() && self.provenance.as_ref().is_some_and(|p| p.inline_only)
    }

    /// The packages are to be listed.
    pub(crate) fn has_packages(&self) -> bool {
        self.sbom.is_some()
    }

    /// Nothing is to be said.
    pub fn is_empty(&self) -> bool {
        self.provenance.is_none() && self.sbom.is_none()
    }
}

fn provenance(fields: &[(String, String)]) -> Result<ProvenanceAsked, Error> {
    let mut out = ProvenanceAsked::default();
    for (key, value) in fields {
        match (key.as_str(), value.as_str()) {
            ("mode", "max" | "full") => out.is_max = true,
            ("mode", "min") => out.is_max = false,
            ("mode", other) => return Err(Error::invalid(format!("invalid mode {other:?}"))),
            ("version", "v1") => out.version = Version::V1,
            ("version", "v0.2") => out.version = Version::V02,
            ("version", other) => {
                return Err(Error::invalid(format!("invalid provenance SLSA version: {other}")));
            }
            ("builder-id", id) => out.builder_id = id.into(),
            ("reproducible", value) => out.is_reproducible = flag(key, value)?,
            ("inline-only", value) => out.inline_only = flag(key, value)?,
            ("complete-materials", value) => out.needs_complete = flag(key, value)?,
            ("filename", name) if !name.is_empty() && !name.contains('/') && name != "." && name != ".." => {
                out.file_name = name.into();
            }
            ("disabled", value) => drop(flag(key, value)?),
            ("capture-usage", value) if !flag(key, value)? => {}
            _ => return Err(Error::unsupported(format!("the provenance parameter {key}={value}"))),
        }
    }
    Ok(out)
}

/// Fields of a line of CSV; a field in quotes may hold commas.
fn fields(text: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let (mut field, mut quoted) = (String::new(), false);
    for c in text.chars().chain([',']) {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => {
                let whole = std::mem::take(&mut field);
                let (key, value) = whole.split_once('=').unwrap_or((&whole, ""));
                if !key.is_empty() {
                    out.push((key.to_string(), value.to_string()));
                }
            }
            c => field.push(c),
        }
    }
    out
}

fn flag(key: &str, value: &str) -> Result<bool, Error> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Error::invalid(format!("failed to parse {key} flag {value:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Attests, Error> {
        Attests::parse(&pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
    }

    #[test]
    fn what_is_asked_is_read_and_strange_things_refused_by_name() {
        let asked = parse(&[("provenance", "mode=min,inline-only=true,version=v0.2"), ("sbom", "")]).unwrap();
        let provenance = asked.provenance.unwrap();
        assert!(!provenance.is_max && provenance.inline_only && asked.sbom.is_some());
        assert_eq!(provenance.version, Version::V02);
        assert!(parse(&[("provenance", "disabled=true"), ("sbom", "disabled=true")]).unwrap().is_empty());
        let id = parse(&[("provenance", "\"builder-id=a,b\"")]).unwrap().provenance.unwrap().builder_id;
        assert_eq!(id, "a,b");
        for (kind, text, word) in [
            ("provenance", "mode=most", "most"),
            ("provenance", "version=v3", "v3"),
            ("provenance", "capture-usage=true", "capture-usage"),
            ("provenance", "filename=../x", "filename"),
            ("provenance", "x", "x="),
            ("sbom", "generator=docker/scanner", "docker/scanner"),
            ("vex", "", "vex"),
        ] {
            let error = errors::chain(&parse(&[(kind, text)]).expect_err(word));
            assert!(error.contains(word), "{error}");
        }
    }
}
