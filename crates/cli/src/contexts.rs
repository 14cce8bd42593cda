//! Contexts: daemons by name, kept as docker keeps them, so that either program sees the other's.
//!
//! ```text
//! ~/.docker/contexts/meta/SHA256-OF-NAME/meta.json            name, description, endpoint
//! ~/.docker/contexts/tls/SHA256-OF-NAME/docker/{ca,cert,key}.pem
//! ```

use crate::error::{Error, Result};
use crate::host::Endpoint;
use crate::tls;
use serde_json::{Map, Value, json};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The context that is made of the environment.
pub(crate) const DEFAULT: &str = "default";
/// The files of TLS, as they are called in the store.
pub(crate) const FILES: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];
/// Largest metadata and certificate that is read.
const MAX_FILE: u64 = 1 << 20;

/// Files of TLS by their names in the store.
pub(crate) type Material = Vec<(&'static str, Vec<u8>)>;

/// Where contexts are kept.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    root: PathBuf,
}

/// One context.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) description: String,
    /// The daemon's address.
    pub(crate) host: String,
    /// Whoever answers is believed.
    pub(crate) skip_verify: bool,
    /// The whole document: what others keep there stays.
    document: Map<String, Value>,
}

impl Stored {
    /// One without a name for the daemon at `host`.
    pub(crate) fn at(host: String, skip_verify: bool) -> Stored {
        Stored { host, skip_verify, ..Stored::default() }
    }

    fn read(bytes: &[u8]) -> Option<Stored> {
        let Ok(Value::Object(document)) = serde_json::from_slice(bytes) else { return None };
        let endpoint = document.get("Endpoints").and_then(|e| e.get("docker"));
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_string();
        Some(Stored {
            name: text(document.get("Name")),
            description: text(document.get("Metadata").and_then(|m| m.get("Description"))),
            host: text(endpoint.and_then(|e| e.get("Host"))),
            skip_verify: endpoint
                .and_then(|e| e.get("SkipTLSVerify"))
                .and_then(Value::as_bool)
                .unwrap_or(false),
            document,
        })
    }

    /// The document, as it is kept and shown.
    pub(crate) fn document(&self) -> Value {
        let mut document = Value::Object(self.document.clone());
        document["Name"] = self.name.clone().into();
        if !document["Metadata"].is_object() {
            document["Metadata"] = json!({});
        }
        match self.description.as_str() {
            "" => drop(document["Metadata"].as_object_mut().and_then(|m| m.remove("Description"))),
            text => document["Metadata"]["Description"] = text.into(),
        }
        if !document["Endpoints"].is_object() {
            document["Endpoints"] = json!({});
        }
        document["Endpoints"]["docker"] = json!({"Host": self.host, "SkipTLSVerify": self.skip_verify});
        document
    }
}

impl Store {
    /// The store beside the configuration.
    pub(crate) fn beside(config_file: &Path) -> Store {
        Store { root: config_file.with_file_name("contexts") }
    }

    /// The directory with the document of `name`.
    pub(crate) fn meta_dir(&self, name: &str) -> PathBuf {
        self.root.join("meta").join(id(name))
    }

    /// The directory with the files of TLS of `name`.
    pub(crate) fn tls_dir(&self, name: &str) -> PathBuf {
        self.root.join("tls").join(id(name))
    }

    /// Those that there are, by name; without the default one.
    pub(crate) fn list(&self) -> Result<Vec<Stored>> {
        let path = self.root.join("meta");
        let entries = match std::fs::read_dir(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|source| Error::File { doing: "read", path: path.clone(), source })?,
        };
        let mut found: Vec<Stored> = entries
            .filter_map(|entry| read_small(&entry.ok()?.path().join("meta.json")).ok())
            .filter_map(|bytes| Stored::read(&bytes))
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// The context called `name`.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] in docker's words.
    pub(crate) fn get(&self, name: &str) -> Result<Stored> {
        check_name(name)?;
        let path = self.meta_dir(name).join("meta.json");
        let bytes = read_small(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::Missing(format!(
                "context {name:?}: context not found: open {}: no such file or directory",
                path.display()
            )),
            _ => Error::File { doing: "read", path: path.clone(), source: e },
        })?;
        Stored::read(&bytes)
            .ok_or_else(|| Error::Usage(format!("context {name:?}: {} is no context", path.display())))
    }

    /// The files of TLS that `name` has.
    pub(crate) fn material(&self, name: &str) -> Vec<&'static str> {
        let directory = self.tls_dir(name).join("docker");
        FILES.into_iter().filter(|file| directory.join(file).is_file()).collect()
    }

    /// What `name`'s endpoint connects to.
    pub(crate) fn endpoint(&self, stored: &Stored) -> Result<Endpoint> {
        let endpoint = Endpoint::parse(&stored.host)?;
        let material = self.material(&stored.name);
        let Endpoint::Tcp(address) = endpoint else { return Ok(endpoint) };
        if material.is_empty() && !stored.skip_verify {
            return Ok(Endpoint::Tcp(address));
        }
        let directory = self.tls_dir(&stored.name).join("docker");
        let file = |name: &'static str| material.contains(&name).then(|| directory.join(name));
        let files = tls::Files {
            ca: file("ca.pem"),
            identity: file("cert.pem").zip(file("key.pem")),
            verifies: !stored.skip_verify,
        };
        Ok(Endpoint::Tls(address, files))
    }

    /// Writes the document; `files` replace what was there where some are given.
    pub(crate) fn put(&self, stored: &Stored, files: Option<&[(&str, Vec<u8>)]>) -> Result<()> {
        check_name(&stored.name)?;
        if let Some(files) = files {
            let directory = self.tls_dir(&stored.name).join("docker");
            remove(&directory)?;
            for (name, bytes) in files {
                write(&directory.join(name), bytes)?;
            }
        }
        // The document is last: what it names is there.
        write(&self.meta_dir(&stored.name).join("meta.json"), stored.document().to_string().as_bytes())
    }

    /// Forgets `name`.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        remove(&self.meta_dir(name))?;
        remove(&self.tls_dir(name))
    }

    /// The files of TLS of `name` with their content.
    pub(crate) fn files(&self, name: &str) -> Result<Material> {
        let directory = self.tls_dir(name).join("docker");
        let read = |file: &'static str| read_named(&directory.join(file)).map(|bytes| (file, bytes));
        self.material(name).into_iter().map(read).collect()
    }
}

/// Reads a file that a user names.
pub(crate) fn read_named(path: &Path) -> Result<Vec<u8>> {
    read_small(path).map_err(|source| Error::File { doing: "read", path: path.into(), source })
}

fn read_small(path: &Path) -> std::io::Result<Vec<u8>> {
    if std::fs::metadata(path)?.len() > MAX_FILE {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    std::fs::read(path)
}

/// A document of a context from elsewhere, renamed.
pub(crate) fn import(bytes: &[u8], name: &str) -> Result<Stored> {
    let stored = Stored::read(bytes).ok_or_else(|| Error::Usage("meta.json is no context".into()))?;
    Ok(Stored { name: name.to_string(), ..stored })
}

/// Docker's rule for names.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let usual = |c: char| c.is_ascii_alphanumeric() || "_.+-".contains(c);
    match name {
        "" => Err(Error::Usage("context name cannot be empty".into())),
        DEFAULT => Err(Error::Usage("\"default\" is a reserved context name".into())),
        _ if name.len() < 2
            || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
            || !name.chars().all(usual) =>
        {
            Err(Error::Usage(format!(
                "context name {name:?} is invalid, names are validated against regexp \"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$\""
            )))
        }
        _ => Ok(()),
    }
}

/// Names become directories by their digest, so that no name can be a path.
fn id(name: &str) -> String {
    oci::Digest::of(name.as_bytes()).hex().to_string()
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::File { doing: "remove", path: path.into(), source: e })
        }
        _ => Ok(()),
    }
}

/// Keys are among these files: nobody else reads them.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |source| Error::File { doing: "write", path: path.into(), source };
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    });
    if written.is_err() {
        drop(std::fs::remove_file(&temporary));
    }
    written.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_keep_in_a_context_stays() {
        let text = r#"{"Name":"a1","Metadata":{"Description":"d","x":1},"Endpoints":{"kubernetes":{},"docker":{"Host":"tcp://h:1","SkipTLSVerify":true}}}"#;
        let mut stored = Stored::read(text.as_bytes()).unwrap();
        assert_eq!(
            (stored.host.as_str(), stored.skip_verify, stored.description.as_str()),
            ("tcp://h:1", true, "d")
        );
        stored.description.clear();
        let document = stored.document();
        assert_eq!(document["Metadata"], json!({"x": 1}));
        assert!(document["Endpoints"]["kubernetes"].is_object());
    }

    #[test]
    fn names() {
        for name in ["", "default", "a", "../x", "-x", "a b"] {
            assert!(check_name(name).is_err(), "{name}");
        }
        check_name("my-host.2+x_").unwrap();
    }

    #[test]
    fn a_context_is_kept_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::beside(&directory.path().join("config.json"));
        assert!(store.list().unwrap().is_empty());
        let stored = Stored { name: "one".into(), host: "tcp://h:2376".into(), ..Stored::default() };
        store.put(&stored, Some(&[("ca.pem", b"x".to_vec())])).unwrap();
        assert_eq!(store.get("one").unwrap().host, "tcp://h:2376");
        let Endpoint::Tls(_, files) = store.endpoint(&stored).unwrap() else { panic!("a CA means TLS") };
        assert!(files.verifies && files.ca.is_some() && files.identity.is_none());
        store.put(&stored, Some(&[])).unwrap();
        assert_eq!(store.endpoint(&stored).unwrap(), Endpoint::Tcp("h:2376".into()));
        store.remove("one").unwrap();
        assert!(store.get("one").unwrap_err().to_string().contains("context not found"));
    }
}
