//! `Authorization` headers: made from credentials, or fetched from a token server, and kept while they last.
//!
//! Where secrets may go: to the registry's own origin, and to the token server that it names, both over TLS, or over
//! plain HTTP where the configuration (or loopback) allows it. A registry cannot send them anywhere else: realms on
//! this machine or link are refused unless the registry is there too, and token servers cannot redirect.
//!
//! Spec: distribution docs, "Token Authentication Specification" and "OAuth2 Token Authentication".

use crate::answer::collect;
use crate::error::Answer;
use crate::policy::Policy;
use crate::send::SendBody;
use crate::transport::Transport;
use crate::url::{Url, form};
use crate::{Auth, Error};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest answer of a token server. Tokens with many scopes reach some 10 KiB.
const MAX_TOKEN: u64 = 256 << 10;
/// Shortest life of a token, and the one it has when the server does not say. Spec: "expires_in".
const SHORTEST: u64 = 60;
/// Longest life we believe in.
const LONGEST: u64 = 3600;
/// A token about to expire is not used any more.
const MARGIN: Duration = Duration::from_secs(5);
/// Most tokens kept.
const MAX_KEPT: usize = 1024;
/// How we name ourselves to token servers.
const CLIENT_ID: &str = "brig";

/// Headers that worked, by origin, scope and credentials.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Mutex<HashMap<Key, (HeaderValue, Instant)>>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    origin: String,
    scope: String,
    auth: Auth,
}

impl Key {
    fn new(url: &Url, scope: &str, auth: &Auth) -> Key {
        Key { origin: url.origin(), scope: scope.to_string(), auth: auth.clone() }
    }
}

impl Tokens {
    pub(crate) fn get(&self, url: &Url, scope: &str, auth: &Auth) -> Option<HeaderValue> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (header, expires) = kept.get(&Key::new(url, scope, auth))?;
        (*expires > Instant::now()).then(|| header.clone())
    }

    pub(crate) fn put(&self, url: &Url, scope: &str, auth: &Auth, token: &Token) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if kept.len() >= MAX_KEPT {
            kept.retain(|_, (_, expires)| *expires > now);
        }
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(Key::new(url, scope, auth), (token.header.clone(), now + token.lifetime));
    }
}

/// A header and how long to use it.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) header: HeaderValue,
    pub(crate) lifetime: Duration,
    /// The refresh token that came along.
    pub(crate) refresh: Option<String>,
}

impl Token {
    pub(crate) fn lasting(header: HeaderValue) -> Token {
        Token { header, lifetime: Duration::from_secs(LONGEST), refresh: None }
    }
}

/// What a token is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Want<'a> {
    pub(crate) realm: &'a str,
    pub(crate) service: Option<&'a str>,
    pub(crate) scope: &'a str,
    /// Also ask for a refresh token.
    pub(crate) offline: bool,
}

/// `Authorization: Bearer` for a token that goes to the registry as it is.
pub(crate) fn bearer(token: &str, url: &Url) -> Result<HeaderValue, Error> {
    secret(format!("Bearer {token}"), url)
}

/// `Authorization: Basic` for the registry at `url`.
pub(crate) fn basic(url: &Url, auth: &Auth, policy: &Policy) -> Result<HeaderValue, Error> {
    let host = url.authority.to_string();
    match auth {
        Auth::Basic { username, password } if policy.may_carry_secrets(url) => {
            secret(format!("Basic {}", BASE64_STANDARD.encode(format!("{username}:{password}"))), url)
        }
        Auth::Basic { .. } => {
            Err(Error::ChallengeRefused { host, reason: "it would send a password over plain HTTP".into() })
        }
        // Docker's words.
        _ => Err(Error::NoCredentials { host, reason: "no basic auth credentials" }),
    }
}

fn secret(value: String, url: &Url) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_maybe_shared(Bytes::from(value)).map_err(|_| Error::NoCredentials {
        host: url.authority.to_string(),
        reason: "the token holds characters that no header can",
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Fetches a token for the registry at `registry`. The inner error is a refusal by the token server that says
/// nothing about the credentials.
pub(crate) async fn fetch(
    transport: &Transport,
    registry: &Url,
    want: Want<'_>,
    auth: &Auth,
) -> Result<Result<Token, Answer>, Error> {
    let host = registry.authority.to_string();
    let refused = |reason: String| Error::ChallengeRefused { host: host.clone(), reason };
    let realm = Url::parse(want.realm)
        .ok_or_else(|| refused("its token realm is no http or https URL without user".into()))?;
    let policy = &transport.policy;
    policy
        .check_target(&registry.authority, &realm)
        .map_err(|reason| refused(format!("token realm {reason}")))?;
    if !auth.is_anonymous() && !policy.may_carry_secrets(&realm) {
        return Err(refused(format!("it would send credentials to {realm} over plain HTTP")));
    }
    let (method, url, headers, body) = token_request(&realm, want, auth, policy)?;
    let response = transport.exchange(&method, &url, headers, SendBody::whole(body)).await?;
    let status = response.status();
    let idle = transport.config.timeouts.idle;
    if status.is_redirection() {
        return Err(refused(format!("token realm {realm} redirects")));
    }
    if !status.is_success() {
        let source = Answer::read(response, idle).await;
        let wrong =
            status.as_u16() == 401 || (status.as_u16() == 400 && matches!(auth, Auth::IdentityToken(_)));
        if wrong && !auth.is_anonymous() {
            return Err(Error::Login { host, source: with_code(source) });
        }
        return Ok(Err(source));
    }
    let what = format!("token from {realm}");
    let body = collect(response.into_body(), MAX_TOKEN, &what, idle).await?;
    parse(&body, &realm).map(Ok).map_err(|reason| Error::Malformed { what, reason })
}

type Parts = (Method, Url, HeaderMap, Bytes);

fn token_request(realm: &Url, want: Want<'_>, auth: &Auth, policy: &Policy) -> Result<Parts, Error> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    let mut url = realm.clone();
    if let Auth::IdentityToken(token) = auth {
        let mut fields = vec![form("grant_type", "refresh_token"), form("client_id", CLIENT_ID)];
        fields.extend(want.service.map(|service| form("service", service)));
        if !want.scope.is_empty() {
            fields.push(form("scope", want.scope));
        }
        fields.push(form("refresh_token", token));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        return Ok((Method::POST, url, headers, Bytes::from(fields.join("&"))));
    }
    if let Some(service) = want.service {
        url.push_query("service", service);
    }
    // Each in a parameter of its own, as older token servers want it.
    for scope in want.scope.split_whitespace() {
        url.push_query("scope", scope);
    }
    if let Auth::Basic { username, .. } = auth {
        url.push_query("account", username);
        headers.insert(AUTHORIZATION, basic(realm, auth, policy)?);
    }
    if want.offline {
        url.push_query("client_id", CLIENT_ID);
        url.push_query("offline_token", "true");
    }
    Ok((Method::GET, url, headers, Bytes::new()))
}

/// Gives a refusal of credentials the code that registries use, so that it reads as Docker's does.
fn with_code(mut answer: Answer) -> Answer {
    if answer.code.is_empty() {
        answer.code = "UNAUTHORIZED".into();
    }
    if answer.message.is_empty() {
        answer.message = "authentication required".into();
    }
    answer
}

fn parse(body: &[u8], realm: &Url) -> Result<Token, String> {
    let wire: Wire =
        serde_json::from_slice(body).map_err(|error| format!("not a token document: {error}"))?;
    let token = [wire.token, wire.access_token].into_iter().flatten().find(|token| !token.is_empty());
    let token = token.ok_or_else(|| "it holds no token".to_string())?;
    let header = bearer(&token, realm).map_err(|error| error.to_string())?;
    let seconds = wire.expires_in.as_ref().and_then(serde_json::Value::as_u64).unwrap_or(SHORTEST);
    let lifetime = Duration::from_secs(seconds.clamp(SHORTEST, LONGEST)) - MARGIN;
    Ok(Token { header, lifetime, refresh: wire.refresh_token.filter(|token| !token.is_empty()) })
}

#[derive(Deserialize)]
struct Wire {
    token: Option<String>,
    access_token: Option<String>,
    refresh_token: Option<String>,
    /// Some servers send a string or a fraction.
    expires_in: Option<serde_json::Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn realm() -> Url {
        Url::parse("https://auth.example/token").unwrap()
    }

    #[test]
    fn tokens_are_read_and_their_life_is_bounded() {
        let check = |json: &str, header: &str, seconds| {
            let token = parse(json.as_bytes(), &realm()).unwrap();
            assert_eq!(
                (token.header.to_str().unwrap(), token.lifetime.as_secs()),
                (header, seconds),
                "{json}"
            );
        };
        check(r#"{"token":"a"}"#, "Bearer a", 55);
        check(r#"{"token":"","access_token":"b","expires_in":300}"#, "Bearer b", 295);
        check(r#"{"token":"a","expires_in":18446744073709551615}"#, "Bearer a", 3595);
        check(r#"{"token":"a","expires_in":-1}"#, "Bearer a", 55);
        check(r#"{"token":"a","expires_in":"x","issued_at":7}"#, "Bearer a", 55);
        for bad in ["", "[]", "{}", r#"{"token":1}"#, r#"{"token":"a\r\nX: y"}"#] {
            assert!(parse(bad.as_bytes(), &realm()).is_err(), "{bad}");
        }
    }

    #[test]
    fn requests_hold_what_they_must() {
        let policy = Policy::new(&[]).unwrap();
        let want = Want { realm: "", service: Some("r & s"), scope: "repository:a/b:pull", offline: false };
        let make = |auth: &Auth| {
            let (method, url, headers, body) = token_request(&realm(), want, auth, &policy).unwrap();
            let authorization = headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap().to_string());
            let body = String::from_utf8(body.to_vec()).unwrap();
            (method, url.to_uri().unwrap().to_string(), authorization, body)
        };
        let query = "https://auth.example/token?service=r%20%26%20s&scope=repository%3Aa%2Fb%3Apull";
        assert_eq!(make(&Auth::Anonymous), (Method::GET, query.to_string(), None, String::new()));
        let basic = Auth::Basic { username: "u".into(), password: "p".into() };
        let expected =
            (Method::GET, format!("{query}&account=u"), Some("Basic dTpw".to_string()), String::new());
        assert_eq!(make(&basic), expected);
        let (method, url, authorization, body) = make(&Auth::IdentityToken("i&".into()));
        assert_eq!((method, url.as_str(), authorization), (Method::POST, "https://auth.example/token", None));
        assert!(body.contains("refresh_token=i%26") && body.contains("grant_type=refresh_token"), "{body}");
    }

    #[test]
    fn tokens_are_kept_by_origin_scope_and_credentials() {
        let tokens = Tokens::default();
        let url = |text: &str| Url::parse(text).unwrap();
        let token = Token::lasting(HeaderValue::from_static("Bearer a"));
        let user = Auth::Basic { username: "u".into(), password: "p".into() };
        tokens.put(&url("https://r/v2/a"), "s", &user, &token);
        assert!(tokens.get(&url("https://r:443/v2/b"), "s", &user).is_some());
        assert!(tokens.get(&url("http://r/v2/a"), "s", &user).is_none());
        assert!(tokens.get(&url("https://r:5000/v2/a"), "s", &user).is_none());
        assert!(tokens.get(&url("https://r/v2/a"), "t", &user).is_none());
        assert!(tokens.get(&url("https://r/v2/a"), "s", &Auth::Anonymous).is_none());
        let old = Token { lifetime: Duration::ZERO, ..token };
        tokens.put(&url("https://r/v2/a"), "s", &user, &old);
        assert!(tokens.get(&url("https://r/v2/a"), "s", &user).is_none());
    }
}
