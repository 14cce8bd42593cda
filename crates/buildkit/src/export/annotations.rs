//! `annotation[-manifest|-index|-manifest-descriptor|-index-descriptor][[platform]].key=value` of image outputs.

use crate::rpc::Reply;
use std::collections::BTreeMap;
use tonic::Status;

/// Annotations by what they are of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Annotations {
    /// What, for which platform (all where there is none), key, value.
    all: Vec<(Of, Option<String>, String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Manifest,
    ManifestDescriptor,
    Index,
}

impl Annotations {
    /// Takes one; `rest` is the option's name behind `annotation`.
    pub(crate) fn add(&mut self, rest: &str, whole: &str, value: &str) -> Reply<()> {
        let wrong = || Status::invalid_argument(format!("invalid annotation {whole:?}"));
        let (head, key) = rest.split_once('.').ok_or_else(wrong)?;
        let (kind, platform) = match head.split_once('[') {
            Some((kind, platform)) => (kind, Some(platform.strip_suffix(']').ok_or_else(wrong)?.to_string())),
            None => (head, None),
        };
        let of = match kind {
            "" | "-manifest" => Of::Manifest,
            "-manifest-descriptor" => Of::ManifestDescriptor,
            "-index" => Of::Index,
            "-index-descriptor" => {
                return Err(Status::unimplemented(format!(
                    "{whole:?} is not supported by this version of brig"
                )));
            }
            _ => return Err(wrong()),
        };
        self.all.push((of, platform, key.to_string(), value.to_string()));
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

    /// An image without an index cannot have what is of one.
    pub(crate) fn refuse_index(&self) -> Reply<()> {
        if self.all.iter().any(|(of, ..)| *of != Of::Manifest) {
            return Err(Status::invalid_argument(
                "index annotations not supported for single platform export",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_go_where_they_belong() {
        let mut all = Annotations::default();
        for (key, value) in [
            ("annotation.a.b", "1"),
            ("annotation-manifest[linux/arm64].c", "2"),
            ("annotation-index.d", "3"),
            ("annotation-manifest-descriptor.e", "4"),
        ] {
            all.add(&key["annotation".len()..], key, value).expect("good");
        }
        assert_eq!(all.manifest("linux/amd64").keys().collect::<Vec<_>>(), ["a.b"]);
        assert_eq!(all.manifest("linux/arm64").len(), 2);
        assert_eq!((all.index().len(), all.manifest_descriptor("x").len()), (1, 1));
        assert!(all.refuse_index().is_err());
        assert!(all.add("-strange.x", "annotation-strange.x", "1").is_err());
    }
}
