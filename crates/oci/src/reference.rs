//! `host/repository:tag@digest`, with Docker's short forms.

use crate::Digest;
use std::fmt;
use std::str::FromStr;

/// Docker's name for its registry when a reference names none.
pub const DEFAULT_HOST: &str = "docker.io";
/// The tag meant when a reference names neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
/// Longest repository name, host included. Spec: distribution reference grammar.
const MAX_NAME: usize = 255;
/// Longest tag. Spec: distribution-spec, "Pulling manifests".
const MAX_TAG: usize = 128;

/// Why text is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid reference format: {reason}")]
pub struct ParseReferenceError {
    pub reason: &'static str,
}

impl errors::HasKind for ParseReferenceError {
    fn kind(&self) -> errors::Kind {
        errors::Kind::InvalidArgument
    }
}

/// A normalised image reference: `host` and `repository` always, then a tag, a digest, or both.
///
/// `busybox` is `docker.io/library/busybox:latest`. Printing gives the full form, [`Reference::familiar`] the one
/// Docker shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Registry host with optional port, `docker.io` for Docker Hub.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Repository below the host, `library/` included.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if named.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if named.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// `host/repository`, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// The name as Docker shows it: without `docker.io/` and `library/`, where it is read as the same without them.
    pub fn familiar_name(&self) -> String {
        if self.host != DEFAULT_HOST {
            return self.name();
        }
        let short = match self.repository.strip_prefix("library/") {
            Some(name) if !name.contains('/') => name,
            _ => &self.repository,
        };
        let is_same = split_name(short)
            .is_ok_and(|(host, repository)| host == self.host && repository == self.repository);
        if is_same { short.to_string() } else { self.name() }
    }

    /// The whole reference as Docker shows it.
    pub fn familiar(&self) -> String {
        let mut out = self.familiar_name();
        if let Some(tag) = &self.tag {
            out.push(':');
            out.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            out.push('@');
            out.push_str(&digest.to_string());
        }
        out
    }

    /// The same repository with this tag and no digest.
    pub fn with_tag(&self, tag: &str) -> Result<Reference, ParseReferenceError> {
        check_tag(tag)?;
        Ok(Reference { tag: Some(tag.to_string()), digest: None, ..self.clone() })
    }

    /// The same repository with this digest and no tag.
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// Adds the tag `latest` where neither tag nor digest is named.
    pub fn with_default_tag(self) -> Reference {
        if self.tag.is_none() && self.digest.is_none() {
            return Reference { tag: Some(DEFAULT_TAG.to_string()), ..self };
        }
        self
    }
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    /// Parses without adding `latest`; see [`Reference::with_default_tag`].
    fn from_str(text: &str) -> Result<Reference, ParseReferenceError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest.parse().map_err(|_| ParseReferenceError { reason: "invalid digest" })?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        // A colon after the last slash starts the tag; before it, it belongs to the host's port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        let (host, repository) = split_name(name)?;
        check_host(host)?;
        check_repository(&repository)?;
        if host.len() + 1 + repository.len() > MAX_NAME {
            return Err(ParseReferenceError {
                reason: "repository name must not be more than 255 characters",
            });
        }
        Ok(Reference { host: host.to_string(), repository, tag: tag.map(str::to_string), digest })
    }
}

/// Host and repository of a name as people write it, neither checked.
fn split_name(name: &str) -> Result<(&str, String), ParseReferenceError> {
    if name.is_empty() {
        return Err(ParseReferenceError { reason: "empty repository name" });
    }
    if name.len() == 64 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err(ParseReferenceError { reason: "repository name cannot be 64 hexadecimal digits" });
    }
    let (host, repository) = match name.split_once('/') {
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':'])
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest.to_string())
        }
        _ => (DEFAULT_HOST, name.to_string()),
    };
    let host = if host == "index.docker.io" { DEFAULT_HOST } else { host };
    let repository = if host == DEFAULT_HOST && !repository.contains('/') {
        format!("library/{repository}")
    } else {
        repository
    };
    Ok((host, repository))
}

fn check_tag(tag: &str) -> Result<(), ParseReferenceError> {
    let mut bytes = tag.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    let rest = bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if first && rest && tag.len() <= MAX_TAG {
        return Ok(());
    }
    Err(ParseReferenceError { reason: "invalid tag" })
}

fn check_host(host: &str) -> Result<(), ParseReferenceError> {
    let error = ParseReferenceError { reason: "invalid registry host" };
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(error.clone())?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| error.clone())?;
            (None, port.strip_prefix(':'))
        }
        None => match host.split_once(':') {
            Some((name, port)) => (Some(name), Some(port)),
            None => (Some(host), None),
        },
    };
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let port_ok = port.is_none_or(|p| p.parse::<u16>().is_ok());
    if name.is_none_or(|n| n.split('.').all(label)) && port_ok {
        return Ok(());
    }
    Err(error)
}

fn check_repository(repository: &str) -> Result<(), ParseReferenceError> {
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(ParseReferenceError { reason: "repository name must be lowercase" });
    }
    if repository.split('/').all(is_path_component) {
        return Ok(());
    }
    Err(ParseReferenceError { reason: "invalid repository name" })
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`. Spec: distribution-spec, "Pulling manifests".
fn is_path_component(component: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().copied().is_some_and(alnum) || !bytes.last().copied().is_some_and(alnum) {
        return false;
    }
    component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .filter(|s| !s.is_empty())
        .all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, full: &str, familiar: &str) {
        let reference: Reference = input.parse().unwrap();
        assert_eq!(reference.to_string(), full);
        assert_eq!(reference.familiar(), familiar);
    }

    #[test]
    fn short_forms_are_filled_in() {
        check("busybox", "docker.io/library/busybox", "busybox");
        check("busybox:1", "docker.io/library/busybox:1", "busybox:1");
        check("a/b", "docker.io/a/b", "a/b");
        check("index.docker.io/library/x", "docker.io/library/x", "x");
        check("localhost/x", "localhost/x", "localhost/x");
        check("127.0.0.1:5000/a/b:t", "127.0.0.1:5000/a/b:t", "127.0.0.1:5000/a/b:t");
        check("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a");
        check("x--y/z__w.v", "docker.io/x--y/z__w.v", "x--y/z__w.v");
        // What would be read as another is not shortened.
        check("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b");
        check("docker.io/localhost/x", "docker.io/localhost/x", "docker.io/localhost/x");
        check("docker.io/quay.io/x", "docker.io/quay.io/x", "docker.io/quay.io/x");
    }

    #[test]
    fn refuses() {
        for text in [
            "",
            ":",
            "A",
            "a:",
            "a:-x",
            "a//b",
            "/a",
            "a/",
            "../a",
            "a b",
            "a@sha256:00",
            "-x",
            "a._b",
            "x:70000/y",
            "ho st.x/y",
            "a___b",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
        assert!("a".repeat(64).parse::<Reference>().is_err());
    }

    #[test]
    fn latest_is_added_only_where_nothing_is_named() {
        let get = |t: &str| t.parse::<Reference>().unwrap().with_default_tag().familiar();
        assert_eq!(get("a"), "a:latest");
        assert_eq!(get("a:1"), "a:1");
        let pinned = format!("a@{}", Digest::of(b""));
        assert_eq!(get(&pinned), pinned);
    }

    proptest::proptest! {
        /// What is read is written so that it is read again as the same, and nothing makes the reader panic.
        #[test]
        fn any_text_is_a_reference_or_none(
            text in r"([a-zA-Z0-9.:_/@-]{0,40}|[a-z0-9]{1,8}(\.[a-z]{2,3})?(:[0-9]{1,5})?(/[a-z0-9._-]{1,10}){0,3}(:[\w.-]{1,10})?|.{0,30})"
        ) {
            if let Ok(reference) = text.parse::<Reference>() {
                let again: Reference = reference.to_string().parse().unwrap();
                proptest::prop_assert_eq!(&again, &reference);
                let familiar: Reference = reference.familiar().parse().unwrap();
                proptest::prop_assert_eq!(&familiar, &reference);
                let whole = reference.with_default_tag();
                proptest::prop_assert!(whole.tag().is_some() || whole.digest().is_some());
            }
        }
    }
}
