//! Annotations of what a build makes: of manifests, of an index, and of what names them.
//!
//! Clients of BuildKit write `annotation[-manifest|-index|-manifest-descriptor|-index-descriptor][[platform]].key=value` among the
//! options of an output, people `[manifest|index|manifest-descriptor|index-descriptor[,...]][[platform]]:key=value`.

use crate::error::Error;
use std::collections::BTreeMap;

/// Annotations by what they are of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    /// What, for which platform (all where there is none), key, value.
    all: Vec<(Of, Option<String>, String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Manifest,
    ManifestDescriptor,
    Index,
    IndexDescriptor,
}

impl Of {
    fn parse(text: &str) -> Option<Of> {
        Some(match text {
            "" | "manifest" => Of::Manifest,
            "manifest-descriptor" => Of::ManifestDescriptor,
            "index" => Of::Index,
            "index-descriptor" => Of::IndexDescriptor,
            _ => return None,
        })
    }
}

/// A name, and a platform in brackets behind it.
fn platform_of(text: &str) -> Option<(&str, Option<String>)> {
    match text.split_once('[') {
        Some((name, platform)) => Some((name, Some(platform.strip_suffix(']')?.to_string()))),
        None => Some((text, None)),
    }
}

impl Annotations {
    /// Takes an option of an output; `rest` is its name behind `annotation`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for what is of nothing.
    pub fn option(&mut self, rest: &str, whole: &str, value: &str) -> Result<(), Error> {
        let wrong = || Error::invalid(format!("invalid annotation {whole:?}"));
        let (head, key) = rest.split_once('.').ok_or_else(wrong)?;
        let (kind, platform) = platform_of(head).ok_or_else(wrong)?;
        let of = match kind {
            "" => Of::Manifest,
            kind => kind.strip_prefix('-').and_then(Of::parse).ok_or_else(wrong)?,
        };
        self.all.push((of, platform, key.to_string(), value.to_string()));
        Ok(())
    }

    /// Takes the value of a flag.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for what is no key and value, or of nothing.
    pub fn flag(&mut self, text: &str) -> Result<(), Error> {
        let wrong = || Error::invalid(format!("invalid annotation {text:?}: want [type:]key=value"));
        let (name, value) = text.split_once('=').ok_or_else(wrong)?;
        let (kinds, key) = name.split_once(':').unwrap_or(("", name));
        let (kinds, platform) = platform_of(kinds).ok_or_else(wrong)?;
        if key.is_empty() {
            return Err(wrong());
        }
        for kind in kinds.split(',') {
            let of = Of::parse(kind).ok_or_else(wrong)?;
            self.all.push((of, platform.clone(), key.to_string(), value.to_string()));
        }
        Ok(())
    }

    fn of(&self, of: Of, platform: &str) -> BTreeMap<String, String> {
        self.all
            .iter()
            .filter(|(own, wanted, ..)| *own == of && wanted.as_ref().is_none_or(|w| w == platform))
            .map(|(_, _, key, value)| (key.clone(), value.clone()))
            .collect()
    }

    pub(crate) fn manifest(&self, platform: &str) -> BTreeMap<String, String> {
        self.of(Of::Manifest, platform)
    }

    pub(crate) fn manifest_descriptor(&self, platform: &str) -> BTreeMap<String, String> {
        self.of(Of::ManifestDescriptor, platform)
    }

    pub(crate) fn index(&self) -> BTreeMap<String, String> {
        self.of(Of::Index, "")
    }

    pub(crate) fn index_descriptor(&self) -> BTreeMap<String, String> {
        self.of(Of::IndexDescriptor, "")
    }

    /// An image without an index cannot have what is of one.
    pub(crate) fn refuse_index(&self) -> Result<(), Error> {
        if self.all.iter().any(|(of, ..)| *of != Of::Manifest) {
            return Err(Error::invalid("index annotations not supported for single platform export"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(all: &Annotations) {
        assert_eq!(all.manifest("linux/amd64").keys().collect::<Vec<_>>(), ["a.b"]);
        assert_eq!(all.manifest("linux/arm64").len(), 2);
        assert_eq!((all.index().len(), all.manifest_descriptor("x").len()), (1, 1));
        assert_eq!(all.index_descriptor()["f"], "5=6");
        assert!(all.refuse_index().is_err());
    }

    #[test]
    fn annotations_go_where_they_belong() {
        let mut all = Annotations::default();
        for (key, value) in [
            ("annotation.a.b", "1"),
            ("annotation-manifest[linux/arm64].c", "2"),
            ("annotation-index.d", "3"),
            ("annotation-manifest-descriptor.e", "4"),
            ("annotation-index-descriptor.f", "5=6"),
        ] {
            all.option(&key["annotation".len()..], key, value).expect("good");
        }
        check(&all);
        assert!(all.option("-strange.x", "annotation-strange.x", "1").is_err());

        let mut all = Annotations::default();
        for text in
            ["a.b=1", "manifest[linux/arm64]:c=2", "index,manifest-descriptor:d=3", "index-descriptor:f=5=6"]
        {
            all.flag(text).expect("good");
        }
        check(&all);
        for bad in ["a", "strange:a=b", "index:=b", "manifest[linux:a=b"] {
            assert!(all.flag(bad).is_err(), "{bad}");
        }
    }
}
