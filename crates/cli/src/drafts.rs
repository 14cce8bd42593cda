//! Manifest lists that are being put together, before they are pushed: a file for each in the client's configuration
//! directory. `docs/formats/manifest-drafts.md` describes them.

use crate::error::{Error, Result};
use crate::http::QUERY;
use oci::{Descriptor, Reference};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Version of the format.
const VERSION: u32 = 1;
/// Largest file. A list of a thousand manifests has some 300 KiB.
const MAX_FILE: u64 = 16 << 20;

/// A list that is being put together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Draft {
    version: u32,
    pub(crate) entries: Vec<Entry>,
}

/// One manifest of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// As it was named, with the registry's host.
    pub(crate) reference: String,
    pub(crate) descriptor: Descriptor,
    /// As the list will say it; more than [`oci::Platform`] knows.
    pub(crate) platform: Value,
}

impl Default for Draft {
    fn default() -> Draft {
        Draft { version: VERSION, entries: Vec::new() }
    }
}

/// The drafts of one user.
#[derive(Debug)]
pub(crate) struct Drafts {
    directory: PathBuf,
}

impl Drafts {
    /// The drafts beside the configuration file `config`.
    pub(crate) fn beside(config: &Path) -> Drafts {
        let directory = config.parent().unwrap_or(Path::new(".")).join("brig/manifests");
        Drafts { directory }
    }

    fn path(&self, list: &Reference) -> PathBuf {
        let name = list.to_string();
        self.directory.join(percent_encoding::utf8_percent_encode(&name, QUERY).to_string() + ".json")
    }

    /// The draft of that name, where there is one.
    ///
    /// # Errors
    ///
    /// For a file of a newer version and one that cannot be read.
    pub(crate) fn get(&self, list: &Reference) -> Result<Option<Draft>> {
        let path = self.path(list);
        let failed = |source| Error::File { doing: "read", path: path.clone(), source };
        match std::fs::metadata(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
            Ok(metadata) if metadata.len() > MAX_FILE => return Err(failed(ErrorKind::FileTooLarge.into())),
            Ok(_) => {}
        }
        let bytes = std::fs::read(&path).map_err(failed)?;
        let draft: Draft = serde_json::from_slice(&bytes).map_err(|e| failed(e.into()))?;
        match draft.version {
            VERSION => Ok(Some(draft)),
            newer => {
                let what = format!("{} has version {newer}, this program knows {VERSION}", path.display());
                Err(Error::Unsupported(what))
            }
        }
    }

    /// Keeps a draft in place of what was there.
    pub(crate) fn put(&self, list: &Reference, draft: &Draft) -> Result<()> {
        let path = self.path(list);
        let failed = |source| Error::File { doing: "write", path: path.clone(), source };
        std::fs::create_dir_all(&self.directory).map_err(failed)?;
        let temporary = path.with_extension(format!("json.{}", std::process::id()));
        let written = serde_json::to_vec_pretty(draft)
            .map_err(std::io::Error::from)
            .and_then(|text| std::fs::write(&temporary, text))
            .and_then(|()| std::fs::rename(&temporary, &path));
        if written.is_err() {
            drop(std::fs::remove_file(&temporary));
        }
        written.map_err(failed)
    }

    /// Removes a draft. Says whether there was one.
    pub(crate) fn remove(&self, list: &Reference) -> Result<bool> {
        let path = self.path(list);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(source) => Err(Error::File { doing: "remove", path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::Digest;
    use oci::image::media_type::OCI_MANIFEST;

    #[test]
    fn drafts_are_kept_and_newer_ones_refused() {
        let directory = tempfile::tempdir().unwrap();
        let drafts = Drafts::beside(&directory.path().join("config.json"));
        let list: Reference = "r.example:5000/a/b:1".parse().unwrap();
        assert_eq!(drafts.get(&list).unwrap(), None);
        let entry = Entry {
            reference: "r.example:5000/a/c:1".into(),
            descriptor: Descriptor::new(OCI_MANIFEST, Digest::of(b"x"), 1),
            platform: serde_json::json!({"os": "linux", "architecture": "arm", "os.features": ["a"]}),
        };
        let draft = Draft { entries: vec![entry], ..Draft::default() };
        drafts.put(&list, &draft).unwrap();
        assert_eq!(drafts.get(&list).unwrap(), Some(draft.clone()));
        drafts.put(&list, &Draft { version: 2, ..draft }).unwrap();
        assert!(drafts.get(&list).unwrap_err().to_string().contains("version 2"));
        assert!(drafts.remove(&list).unwrap() && !drafts.remove(&list).unwrap());
    }

    /// As the first release wrote it.
    #[test]
    fn the_first_format_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let drafts = Drafts::beside(&directory.path().join("config.json"));
        let list: Reference = "x:1".parse().unwrap();
        std::fs::create_dir_all(directory.path().join("brig/manifests")).unwrap();
        let path = directory.path().join("brig/manifests/docker.io%2Flibrary%2Fx%3A1.json");
        std::fs::write(&path, include_str!("drafts/sample-1.json")).unwrap();
        let draft = drafts.get(&list).unwrap().unwrap();
        assert_eq!(draft.entries[0].platform["architecture"], "amd64");
        assert_eq!(draft.entries[0].descriptor.size, 525);
    }
}
