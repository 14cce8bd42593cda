//! `~/.docker/config.json`: registry credentials and who keeps them, detach keys, default formats.

use crate::credentials;
use crate::error::{Error, Result};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// The key under which Docker Hub's credentials are kept.
pub(crate) const HUB: &str = "https://index.docker.io/v1/";
/// Largest file.
const MAX_FILE: u64 = 16 << 20;

/// The file's content; empty where there is none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Config {
    path: PathBuf,
    content: Map<String, Value>,
}

/// A registry's user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) identity_token: String,
}

impl Config {
    /// Reads `config.json` of `directory`, else of `$DOCKER_CONFIG`, else of `~/.docker`.
    pub(crate) fn read(directory: Option<PathBuf>) -> Result<Config> {
        let named = || std::env::var_os("DOCKER_CONFIG").filter(|d| !d.is_empty()).map(PathBuf::from);
        let directory = match directory.or_else(named) {
            Some(directory) => directory,
            None => PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".docker"),
        };
        let path = directory.join("config.json");
        let failed = |source| Error::File { doing: "read", path: path.clone(), source };
        match std::fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Config { path, ..Config::default() });
            }
            Err(e) => return Err(failed(e)),
            Ok(metadata) if metadata.len() > MAX_FILE => {
                return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
            }
            Ok(_) => {}
        }
        let text = std::fs::read_to_string(&path).map_err(failed)?;
        if text.trim().is_empty() {
            return Ok(Config { path, ..Config::default() });
        }
        let content = serde_json::from_str(&text).map_err(|e| failed(e.into()))?;
        Ok(Config { path, content })
    }

    /// A setting that is text.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        self.content.get(key).and_then(Value::as_str).filter(|t| !t.is_empty()).map(str::to_string)
    }

    /// Keeps a setting that is text; empty forgets it.
    pub(crate) fn set_text(&mut self, key: &str, value: &str) -> Result<()> {
        match value {
            "" => drop(self.content.remove(key)),
            text => drop(self.content.insert(key.to_string(), text.into())),
        }
        self.write()
    }

    /// The header for a request that makes the daemon talk to `host`; none without credentials.
    pub(crate) async fn registry_auth(&self, host: &str) -> Result<Option<String>> {
        let server = server_key(host);
        Ok(self.credentials(server).await?.map(|c| auth_header(&c, server)))
    }

    /// `X-Registry-Config`, for builds: base64 of the credentials of all registries that are known; none without some.
    pub(crate) async fn registry_config(&self) -> Result<Option<String>> {
        let mut document = serde_json::Map::new();
        let named = self.content.get("auths").and_then(Value::as_object);
        let helped = self.content.get("credHelpers").and_then(Value::as_object);
        for server in named.into_iter().chain(helped).flat_map(|map| map.keys()) {
            if let Some(c) = self.credentials(server).await? {
                let entry = match c.identity_token.as_str() {
                    "" => json!({"username": c.user, "password": c.password, "serveraddress": server}),
                    token => json!({"username": c.user, "identitytoken": token, "serveraddress": server}),
                };
                document.insert(server.clone(), entry);
            }
        }
        Ok((!document.is_empty()).then(|| URL_SAFE.encode(Value::Object(document).to_string())))
    }

    /// Credentials of `server`, from its helper, the general helper, or the file.
    pub(crate) async fn credentials(&self, server: &str) -> Result<Option<Credentials>> {
        match self.helper(server) {
            Some(helper) => credentials::get(helper, server).await,
            None => Ok(self.stored(server)),
        }
    }

    fn stored(&self, server: &str) -> Option<Credentials> {
        let auths = self.content.get("auths")?.as_object()?;
        let entry = auths
            .get(server)
            .or_else(|| auths.iter().find(|(key, _)| bare(key) == bare(server)).map(|(_, entry)| entry))?;
        let get = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_string();
        let decoded = STANDARD.decode(get("auth")).ok().and_then(|b| String::from_utf8(b).ok());
        let (user, password) = match decoded.as_deref().and_then(|d| d.split_once(':')) {
            Some((user, password)) => (user.to_string(), password.trim_end_matches('\0').to_string()),
            None => (get("username"), get("password")),
        };
        let credentials = Credentials { user, password, identity_token: get("identitytoken") };
        (credentials != Credentials::default()).then_some(credentials)
    }

    /// The helper that keeps the credentials of `server`: its own, else the general one.
    fn helper(&self, server: &str) -> Option<&str> {
        let own = self.content.get("credHelpers").and_then(|h| h.get(server)).and_then(Value::as_str);
        let general = self.content.get("credsStore").and_then(Value::as_str);
        own.or(general).filter(|helper| !helper.is_empty())
    }

    /// Keeps credentials with their helper, else in the file. Says whether they lie in the file for all who can read it.
    pub(crate) async fn store(&mut self, server: &str, credentials: &Credentials) -> Result<bool> {
        let mut entry = json!({});
        let helper = self.helper(server).map(str::to_string);
        if let Some(helper) = &helper {
            credentials::store(helper, server, credentials).await?;
        } else if credentials.identity_token.is_empty() {
            entry =
                json!({"auth": STANDARD.encode(format!("{}:{}", credentials.user, credentials.password))});
        } else {
            let auth = STANDARD.encode(format!("{}:", credentials.user));
            entry = json!({"auth": auth, "identitytoken": credentials.identity_token});
        }
        let auths = self.content.entry("auths").or_insert_with(|| json!({}));
        if !auths.is_object() {
            *auths = json!({});
        }
        // An empty entry says that there is a login, also where a helper has it.
        auths[server] = entry;
        self.write()?;
        Ok(helper.is_none())
    }

    /// Forgets credentials, those under older names of the server too. Returns whether there were any.
    pub(crate) async fn erase(&mut self, server: &str) -> Result<bool> {
        let mut known = false;
        if let Some(helper) = self.helper(server).map(str::to_string) {
            known = credentials::erase(&helper, server).await?;
        }
        let Some(auths) = self.content.get_mut("auths").and_then(Value::as_object_mut) else {
            return Ok(known);
        };
        let before = auths.len();
        auths.retain(|key, _| key != server && bare(key) != bare(server));
        if auths.len() == before {
            return Ok(known);
        }
        self.write()?;
        Ok(true)
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Written beside, then renamed, readable by its owner only from the first byte on.
    fn write(&self) -> Result<()> {
        let failed = |source| Error::File { doing: "write", path: self.path.clone(), source };
        let directory = self.path.parent().unwrap_or(std::path::Path::new("."));
        std::fs::create_dir_all(directory).map_err(failed)?;
        let temporary = self.path.with_extension(format!("json.{}", std::process::id()));
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let written = options.open(&temporary).and_then(|mut file| {
            let mut text = serde_json::to_vec_pretty(&self.content)?;
            text.push(b'\n');
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &self.path)
        });
        if written.is_err() {
            drop(std::fs::remove_file(&temporary));
        }
        written.map_err(failed)
    }
}

/// The host in a key of `auths`, which may be a URL.
fn bare(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    key.split('/').next().unwrap_or(key)
}

/// The key of a registry: its host, or Docker Hub's historical address.
pub(crate) fn server_key(host: &str) -> &str {
    match host {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" | "" => HUB,
        other => other,
    }
}

/// `X-Registry-Auth`: base64url of JSON.
pub(crate) fn auth_header(credentials: &Credentials, server: &str) -> String {
    let document = match credentials.identity_token.as_str() {
        "" => {
            json!({"username": credentials.user, "password": credentials.password, "serveraddress": server})
        }
        token => json!({"username": credentials.user, "identitytoken": token, "serveraddress": server}),
    };
    URL_SAFE.encode(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn credentials_are_kept_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sub/config.json");
        let mut config = Config { path: path.clone(), ..Config::default() };
        let credentials = Credentials { user: "u".into(), password: "p:w".into(), ..Credentials::default() };
        assert!(config.store("r.example:5000", &credentials).await.unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(config.stored("r.example:5000"), Some(credentials));
        assert_eq!(config.stored("other"), None);
        assert!(config.erase("r.example:5000").await.unwrap());
        assert!(!config.erase("r.example:5000").await.unwrap());
    }

    #[test]
    fn keys_with_a_scheme_are_found() {
        let content = json!({"auths": {"https://r.example/v2/": {"auth": "dTpw"}}});
        let config = Config { content: content.as_object().unwrap().clone(), ..Config::default() };
        assert_eq!(config.stored("r.example").unwrap().user, "u");
        assert_eq!(server_key("docker.io"), HUB);
    }
}
