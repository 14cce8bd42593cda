//! `os/architecture[/variant]`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Why text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform {text:?}: want os/architecture or os/architecture/variant")]
pub struct ParsePlatformError {
    pub text: String,
}

impl errors::HasKind for ParsePlatformError {
    fn kind(&self) -> errors::Kind {
        errors::Kind::InvalidArgument
    }
}

/// What an image runs on. Names are Go's (`amd64`, `arm64`).
///
/// Spec: image-spec, image-index.md, "platform".
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    pub architecture: String,
    pub os: String,
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// The platform this program was built for.
    pub fn host() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Platform { architecture: architecture.into(), os: "linux".into(), os_version: None, variant: None }
    }

    /// Whether an image for `self` runs where `wanted` is asked for. `arm64` and `arm64/v8` are the same.
    pub fn satisfies(&self, wanted: &Platform) -> bool {
        fn variant(p: &Platform) -> Option<&str> {
            match (p.architecture.as_str(), p.variant.as_deref()) {
                ("arm64", Some("v8")) | (_, Some("")) => None,
                (_, v) => v,
            }
        }
        self.os == wanted.os
            && self.architecture == wanted.architecture
            && (variant(wanted).is_none() || variant(self) == variant(wanted))
    }
}

impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Platform, ParsePlatformError> {
        let error = || ParsePlatformError { text: text.chars().take(128).collect() };
        let parts: Vec<&str> = text.split('/').collect();
        let word = |s: &&str| {
            !s.is_empty()
                && s.len() <= 32
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        if !parts.iter().all(word) {
            return Err(error());
        }
        let architecture = |name: &str| match name {
            "x86_64" | "x86-64" => "amd64".to_string(),
            "aarch64" => "arm64".to_string(),
            other => other.to_ascii_lowercase(),
        };
        match parts.as_slice() {
            ["linux"] => Ok(Platform::host()),
            [arch] => Ok(Platform {
                architecture: architecture(arch),
                os: "linux".into(),
                os_version: None,
                variant: None,
            }),
            [os, arch] => Ok(Platform {
                architecture: architecture(arch),
                os: os.to_ascii_lowercase(),
                os_version: None,
                variant: None,
            }),
            [os, arch, variant] => Ok(Platform {
                architecture: architecture(arch),
                os: os.to_ascii_lowercase(),
                os_version: None,
                variant: Some(variant.to_ascii_lowercase()),
            }),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}
