//! The credentials a client sends along, as Docker's `X-Registry-Auth` carries them.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use std::fmt;

/// Longest `X-Registry-Auth` that we decode. Cloud providers' tokens reach a few KiB.
const MAX_HEADER: usize = 64 << 10;

/// Who asks. Printing with `{:?}` shows the kind and the user, never a secret.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub enum Auth {
    /// Nobody.
    #[default]
    Anonymous,
    /// User and password, or user and access token.
    Basic { username: String, password: String },
    /// A refresh token that a token server exchanges for access tokens.
    IdentityToken(String),
    /// A bearer token sent to the registry as it is.
    RegistryToken(String),
}

/// What a client sends to `POST /auth` or in `X-Registry-Auth`: credentials and the registry they are for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Login {
    pub auth: Auth,
    /// The registry as the client wrote it, for example `https://index.docker.io/v1/`; [`Client::check_login`]
    /// takes it as it is.
    ///
    /// [`Client::check_login`]: crate::Client::check_login
    pub server_address: Option<String>,
}

/// Why credentials could not be read. Does not repeat them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid registry credentials: {reason}")]
pub struct InvalidAuth {
    pub reason: &'static str,
}

impl errors::HasKind for InvalidAuth {
    fn kind(&self) -> errors::Kind {
        errors::Kind::InvalidArgument
    }
}

impl Auth {
    /// Reads the value of an `X-Registry-Auth` header: base64 (either alphabet, padded or not) of a JSON object.
    /// An empty value and an empty object are [`Auth::Anonymous`].
    ///
    /// # Errors
    ///
    /// [`InvalidAuth`] when the value is not that.
    pub fn from_header(value: &str) -> Result<Auth, InvalidAuth> {
        let value = value.trim();
        if value.is_empty() {
            return Ok(Auth::Anonymous);
        }
        if value.len() > MAX_HEADER {
            return Err(InvalidAuth { reason: "longer than 64 KiB" });
        }
        Ok(Login::from_json(&decode(value).ok_or(InvalidAuth { reason: "not base64" })?)?.auth)
    }

    /// Whether there is nothing to prove with.
    pub fn is_anonymous(&self) -> bool {
        *self == Auth::Anonymous
    }
}

impl Login {
    /// Reads the JSON object of `POST /auth`, Docker's `AuthConfig`. A registry token wins over an identity token,
    /// which wins over user and password.
    ///
    /// # Errors
    ///
    /// [`InvalidAuth`] when it is not such an object.
    pub fn from_json(json: &[u8]) -> Result<Login, InvalidAuth> {
        let invalid = InvalidAuth { reason: "not a JSON object of strings" };
        // Go clients send null for what they have not.
        if !json.trim_ascii_start().starts_with(b"{") && json.trim_ascii() != b"null" {
            return Err(invalid);
        }
        let wire: Option<AuthConfig> = serde_json::from_slice(json).map_err(|_| invalid)?;
        let wire = wire.unwrap_or_default();
        let set = |field: Option<String>| field.filter(|text| !text.is_empty());
        let server_address = set(wire.serveraddress);
        if let Some(token) = set(wire.registrytoken) {
            return Ok(Login { auth: Auth::RegistryToken(token), server_address });
        }
        if let Some(token) = set(wire.identitytoken) {
            return Ok(Login { auth: Auth::IdentityToken(token), server_address });
        }
        if let Some(username) = set(wire.username) {
            let password = wire.password.unwrap_or_default();
            return Ok(Login { auth: Auth::Basic { username, password }, server_address });
        }
        let Some(pair) = set(wire.auth) else {
            return Ok(Login { auth: Auth::Anonymous, server_address });
        };
        let pair = decode(&pair).and_then(|bytes| String::from_utf8(bytes).ok());
        let Some((username, password)) = pair.as_deref().and_then(|pair| pair.split_once(':')) else {
            return Err(InvalidAuth { reason: "`auth` is not base64 of user:password" });
        };
        let auth = Auth::Basic { username: username.into(), password: password.trim_matches('\0').into() };
        Ok(Login { auth, server_address })
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Auth::Anonymous => f.write_str("Anonymous"),
            Auth::Basic { username, .. } => write!(f, "Basic({username:?})"),
            Auth::IdentityToken(_) => f.write_str("IdentityToken"),
            Auth::RegistryToken(_) => f.write_str("RegistryToken"),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AuthConfig {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
    serveraddress: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let url_safe = GeneralPurpose::new(&alphabet::URL_SAFE, config);
    let standard = GeneralPurpose::new(&alphabet::STANDARD, config);
    url_safe.decode(text).or_else(|_| standard.decode(text)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD};

    fn check(json: &str, expected: Auth) {
        for engine in [&BASE64_STANDARD, &BASE64_URL_SAFE, &BASE64_URL_SAFE_NO_PAD] {
            assert_eq!(Auth::from_header(&engine.encode(json)), Ok(expected.clone()), "{json}");
        }
    }

    fn basic(username: &str, password: &str) -> Auth {
        Auth::Basic { username: username.into(), password: password.into() }
    }

    #[test]
    fn reads_what_clients_send() {
        check("{}", Auth::Anonymous);
        check("null", Auth::Anonymous);
        check(r#"{"username":"","password":"","auth":"","email":""}"#, Auth::Anonymous);
        check(r#"{"username":"u","password":"p~~?>"}"#, basic("u", "p~~?>"));
        check(r#"{"auth":"dTpwOnE="}"#, basic("u", "p:q"));
        check(r#"{"username":"<token>","identitytoken":"i"}"#, Auth::IdentityToken("i".into()));
        check(r#"{"username":"u","registrytoken":"r","serveraddress":"x"}"#, Auth::RegistryToken("r".into()));
        assert_eq!(Auth::from_header(""), Ok(Auth::Anonymous));
    }

    #[test]
    fn refuses_the_rest() {
        for text in ["*", "YQ==", "W10=", "eyJ1c2VybmFtZSI6MX0=", &"A".repeat(MAX_HEADER + 4)] {
            assert!(Auth::from_header(text).is_err(), "{text:.20}");
        }
        assert!(Login::from_json(br#"{"auth":"dQ=="}"#).is_err());
    }

    #[test]
    fn debug_shows_no_secret() {
        let all = [
            basic("u", "s3cret"),
            Auth::IdentityToken("s3cret".into()),
            Auth::RegistryToken("s3cret".into()),
        ];
        assert!(!format!("{all:?}").contains("s3cret"));
    }
}
