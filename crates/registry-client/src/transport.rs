//! One request to a registry: scheme, redirects, credentials, repetitions.
//!
//! ```text
//! request            repeats after network errors, 429 and 5xx
//!   once             answers one authentication challenge
//!     follow         follows redirects; credentials stay at the registry's own origin
//!       exchange     one HTTP request
//! ```

use crate::answer::header;
use crate::challenge::{self, Challenge};
use crate::connect::Connector;
use crate::error::Answer;
use crate::policy::Policy;
use crate::proxy::Proxies;
use crate::send::{Payload, SendBody};
use crate::tls::{HostTls, Tls};
use crate::token::{self, Tokens};
use crate::url::{Authority, Scheme, Url};
use crate::{Auth, Config, Error};
use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, HOST, LOCATION, PROXY_AUTHORIZATION, USER_AGENT, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// Most redirects on the way to one answer, as many as Go's client follows.
const MAX_REDIRECTS: usize = 10;
/// How long we believe that an insecure host speaks TLS or does not, after it has last answered well.
const SCHEME_LIFETIME: Duration = Duration::from_secs(60);
/// How long a mirror that does not answer is left alone.
const MIRROR_REST: Duration = Duration::from_secs(60);
/// How long an unused connection stays open, as long as Go's client keeps one.
const POOL_IDLE: Duration = Duration::from_secs(90);

/// Where a registry is found.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) authority: Authority,
    /// `None`: TLS, or plain HTTP where the policy allows it and TLS fails.
    pub(crate) scheme: Option<Scheme>,
    /// Before `/v2/`; empty or starting with `/`.
    pub(crate) prefix: String,
    /// `prefix` stands in place of `/v2` and not before it.
    pub(crate) override_path: bool,
    /// The registry that a mirror of several is asked about, for its `ns` parameter.
    pub(crate) namespace: Option<String>,
    /// Sent along to this endpoint and nowhere else.
    pub(crate) headers: HeaderMap,
    /// Asked once and anonymously, in the hope to spare the registry itself.
    pub(crate) mirror: bool,
}

impl Endpoint {
    /// A registry at its usual place.
    pub(crate) fn registry(authority: Authority) -> Endpoint {
        Endpoint {
            authority,
            scheme: None,
            prefix: String::new(),
            override_path: false,
            namespace: None,
            headers: HeaderMap::new(),
            mirror: false,
        }
    }
}

/// A request below `/v2/`.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    /// For the origin that the request is meant for, not for where it redirects to.
    pub(crate) own_headers: HeaderMap,
    /// What a token must allow; empty for none, several separated by blanks.
    pub(crate) scope: String,
    pub(crate) payload: Payload,
}

/// A success, or the registry's refusal.
pub(crate) type Reply = Result<Response<Incoming>, Answer>;

/// Carries requests. Shared by all clones of a client.
#[derive(Debug)]
pub(crate) struct Transport {
    pub(crate) config: Config,
    pub(crate) policy: Arc<Policy>,
    http: legacy::Client<Connector, SendBody>,
    connector: Connector,
    user_agent: HeaderValue,
    schemes: Mutex<HashMap<Authority, (Scheme, Instant)>>,
    tokens: Tokens,
    /// Mirrors that did not answer, and when.
    silent: Mutex<HashMap<Authority, Instant>>,
}

impl Transport {
    pub(crate) fn new(config: Config) -> Result<Transport, Error> {
        let policy = Arc::new(Policy::new(&config.insecure)?);
        let connector = Connector {
            tls: Arc::new(Tls::new(config.certs_dirs.clone())),
            policy: Arc::clone(&policy),
            proxies: Arc::new(Proxies::new(&config.proxy)?),
            timeout: config.timeouts.connect,
        };
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .build(connector.clone());
        let user_agent = HeaderValue::from_str(&config.user_agent).map_err(|_| Error::Config {
            what: format!("user agent {:?}", config.user_agent),
            reason: "not the value of a header".into(),
        })?;
        Ok(Transport {
            config,
            policy,
            http,
            connector,
            user_agent,
            schemes: Mutex::default(),
            tokens: Tokens::default(),
            silent: Mutex::default(),
        })
    }

    /// Sets the TLS rules of a host, as a `hosts.toml` says them.
    pub(crate) fn set_tls(&self, authority: &Authority, rules: HostTls) {
        self.connector.tls.set_rules(authority, rules);
    }

    /// Whether a mirror did not answer a short while ago.
    pub(crate) fn is_silent(&self, mirror: &Endpoint) -> bool {
        let silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.get(&mirror.authority).is_some_and(|since| since.elapsed() < MIRROR_REST)
    }

    /// Leaves a mirror alone for a while. There are no more of them than configured.
    pub(crate) fn set_silent(&self, mirror: &Endpoint) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.insert(mirror.authority.clone(), Instant::now());
    }

    /// Sends `request`, again and again after temporary failures, up to the configured number of repetitions. That
    /// no connection can be had counts as permanent.
    pub(crate) async fn request(
        &self,
        endpoint: &Endpoint,
        request: &Request,
        auth: &Auth,
    ) -> Result<Reply, Error> {
        let mut failures = 0;
        loop {
            let reply = self.once(endpoint, request, auth).await;
            let asked = match &reply {
                Ok(Err(answer)) if answer.is_temporary() => answer.retry_after(),
                Err(Error::Network { .. } | Error::Timeout { .. }) => None,
                _ => return reply,
            };
            failures += 1;
            if failures > self.config.max_retries || self.is_too_long(asked) {
                return reply;
            }
            sleep(self.pause(failures, asked)).await;
        }
    }

    /// How long to wait after so many failures: doubling, between half and whole at random, at least what the
    /// registry asked for, and never more than the configured longest pause; see [`Transport::is_too_long`].
    pub(crate) fn pause(&self, failures: u32, asked: Option<Duration>) -> Duration {
        let timeouts = &self.config.timeouts;
        let doubled = timeouts.backoff.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let longest = doubled.min(timeouts.max_backoff);
        // Two keyed hashes are as random as jitter needs.
        let random = RandomState::new().hash_one(failures) % 1000;
        let jittered = longest / 2 + longest.mul_f64(random as f64 / 2000.0);
        jittered.max(asked.unwrap_or_default()).min(timeouts.max_backoff)
    }

    /// Whether the registry asks to be left alone for longer than anyone should wait without a word.
    pub(crate) fn is_too_long(&self, asked: Option<Duration>) -> bool {
        asked.is_some_and(|asked| asked > self.config.timeouts.max_backoff)
    }

    /// Sends `request` once, or twice when the first answer is an authentication challenge.
    pub(crate) async fn once(
        &self,
        endpoint: &Endpoint,
        request: &Request,
        auth: &Auth,
    ) -> Result<Reply, Error> {
        let url = self.url(endpoint, &request.path).await?;
        if endpoint.headers.is_empty() {
            return self.once_at(&url, request, auth).await;
        }
        let request = Request { own_headers: endpoint.headers.clone(), ..request.clone() };
        self.once_at(&url, &request, auth).await
    }

    /// As [`Transport::once`], at a URL that the registry gave; `request.path` is not used.
    pub(crate) async fn once_at(&self, url: &Url, request: &Request, auth: &Auth) -> Result<Reply, Error> {
        let known = match auth {
            Auth::RegistryToken(token) => Some(token::bearer(token, url)?),
            _ => self.tokens.get(url, &request.scope, auth),
        };
        let (response, last) = self.follow(url, request, known).await?;
        let challenged = response.status() == StatusCode::UNAUTHORIZED
            // Elsewhere than at the registry itself, nobody gets to ask for credentials.
            && last.same_origin(url)
            && !matches!(auth, Auth::RegistryToken(_))
            && response.headers().contains_key(WWW_AUTHENTICATE);
        if !challenged {
            return Ok(self.reply(response).await);
        }
        let header = match self.answer_challenge(url, response.headers(), &request.scope, auth).await? {
            Ok(header) => header,
            Err(answer) => return Ok(Err(answer)),
        };
        let (response, _) = self.follow(url, request, Some(header)).await?;
        Ok(self.reply(response).await)
    }

    /// The absolute URL of `path` at `endpoint`.
    pub(crate) async fn url(&self, endpoint: &Endpoint, path: &str) -> Result<Url, Error> {
        let below = path.strip_prefix("/v2").filter(|_| endpoint.override_path).unwrap_or(path);
        let path = format!("{}{below}", endpoint.prefix);
        let mut secure = Url::new(Scheme::Https, endpoint.authority.clone(), path);
        if let Some(namespace) = &endpoint.namespace {
            secure.push_query("ns", namespace);
        }
        if let Some(scheme) = endpoint.scheme {
            return Ok(Url { scheme, ..secure });
        }
        if !self.policy.is_insecure(&endpoint.authority) {
            return Ok(secure);
        }
        let known = self.schemes().get(&endpoint.authority).copied();
        if let Some((scheme, since)) = known
            && since.elapsed() < SCHEME_LIFETIME
        {
            return Ok(Url { scheme, ..secure });
        }
        let scheme = self.connector.probe(&secure).await;
        let scheme = scheme.map_err(|source| Error::Connect { what: format!("GET {secure}"), source })?;
        self.schemes().insert(endpoint.authority.clone(), (scheme, Instant::now()));
        Ok(Url { scheme, ..secure })
    }

    /// Finds the header that answers the challenge in `headers`, and keeps it for later requests.
    pub(crate) async fn answer_challenge(
        &self,
        url: &Url,
        headers: &HeaderMap,
        scope: &str,
        auth: &Auth,
    ) -> Result<Result<HeaderValue, Answer>, Error> {
        let host = url.authority.to_string();
        let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let header = match challenge::choose(values) {
            None => {
                let reason = "neither Bearer nor Basic".to_string();
                return Err(Error::ChallengeRefused { host, reason });
            }
            Some(Challenge::Basic) => token::basic(url, auth, &self.policy)?,
            Some(Challenge::Bearer { realm, service }) => {
                let want = token::Want { realm: &realm, service: service.as_deref(), scope, offline: false };
                match token::fetch(self, url, want, auth).await? {
                    Ok(token) => {
                        self.tokens.put(url, scope, auth, &token);
                        return Ok(Ok(token.header));
                    }
                    Err(answer) => return Ok(Err(answer)),
                }
            }
        };
        self.tokens.put(url, scope, auth, &token::Token::lasting(header.clone()));
        Ok(Ok(header))
    }

    /// Sends `request` to `url` and follows redirects; also says where the answer came from.
    pub(crate) async fn follow(
        &self,
        url: &Url,
        request: &Request,
        authorization: Option<HeaderValue>,
    ) -> Result<(Response<Incoming>, Url), Error> {
        let refused = |reason| Error::RedirectRefused { host: url.authority.to_string(), reason };
        let mut at = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut headers = request.headers.clone();
            if at.same_origin(url) {
                headers.extend(request.own_headers.clone());
            }
            if let Some(authorization) = &authorization
                && at.same_origin(url)
            {
                headers.insert(AUTHORIZATION, authorization.clone());
            }
            let response = self.exchange(&request.method, &at, headers, request.payload.open()).await?;
            let status = response.status().as_u16();
            if !matches!(status, 301 | 302 | 303 | 307 | 308) {
                return Ok((response, at));
            }
            // Only these two say that the same request is wanted elsewhere.
            if !matches!(request.method, Method::GET | Method::HEAD) && !matches!(status, 307 | 308) {
                return Err(refused(format!("status {status} in answer to {}", request.method)));
            }
            let location = header(response.headers(), LOCATION.as_str()).unwrap_or_default();
            let next = at.join(location).ok_or_else(|| refused("it names no http or https URL".into()))?;
            // What may be asked at all may be asked for another path.
            if !next.same_origin(url) {
                self.policy.check_target(&url.authority, &next).map_err(refused)?;
            }
            at = next;
        }
        Err(refused(format!("more than {MAX_REDIRECTS} in a row")))
    }

    /// One HTTP request to one URL.
    pub(crate) async fn exchange(
        &self,
        method: &Method,
        url: &Url,
        headers: HeaderMap,
        body: SendBody,
    ) -> Result<Response<Incoming>, Error> {
        let what = || format!("{method} {url}");
        let malformed = || Error::Malformed { what: what(), reason: "not a URL".into() };
        let (sent, length) = (body.counter(), body.length());
        let mut request = http::Request::new(body);
        *request.method_mut() = method.clone();
        *request.uri_mut() = url.to_uri().ok_or_else(malformed)?;
        *request.headers_mut() = headers;
        request.headers_mut().insert(USER_AGENT, self.user_agent.clone());
        let host = HeaderValue::from_str(&url.authority.to_string()).map_err(|_| malformed())?;
        request.headers_mut().insert(HOST, host);
        if url.scheme == Scheme::Http
            && let Some(proxy) = self.connector.proxies.choose(url)
            && let Some(authorization) = &proxy.authorization
        {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            // Said also where it is 0: there are servers that answer 411 else.
            request.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        // Connecting has a limit of its own and comes first.
        let limit = self.config.timeouts.connect + self.config.timeouts.response;
        let mut response = std::pin::pin!(self.http.request(request));
        let mut seen = sent.load(Ordering::Relaxed);
        loop {
            match timeout(limit, &mut response).await {
                Ok(Ok(response)) => {
                    if response.status().is_success() {
                        self.keep_scheme(url);
                    }
                    return Ok(response);
                }
                Ok(Err(error)) => return Err(network(what(), &error)),
                // A large body may take its time as long as it moves.
                Err(_) => match sent.load(Ordering::Relaxed) {
                    now if now == seen => return Err(Error::Timeout { what: what(), after: limit }),
                    now => seen = now,
                },
            }
        }
    }

    /// An insecure host that answers well need not be tried again for the other scheme before long. A refusal says nothing:
    /// one that has learnt TLS refuses plain HTTP by an answer.
    fn keep_scheme(&self, url: &Url) {
        if let Some((scheme, since)) = self.schemes().get_mut(&url.authority)
            && *scheme == url.scheme
        {
            *since = Instant::now();
        }
    }

    async fn reply(&self, response: Response<Incoming>) -> Reply {
        if response.status().is_success() {
            return Ok(response);
        }
        Err(Answer::read(response, self.config.timeouts.idle).await)
    }

    fn schemes(&self) -> std::sync::MutexGuard<'_, HashMap<Authority, (Scheme, Instant)>> {
        self.schemes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Separates "no connection" from "it broke", and keeps the words of the innermost cause.
fn network(what: String, error: &legacy::Error) -> Error {
    use std::error::Error as _;
    let cause = error.source();
    let text = cause.map_or_else(|| error.to_string(), errors::chain);
    if error.is_connect() {
        let kind = cause.and_then(|c| c.downcast_ref::<io::Error>()).map(io::Error::kind);
        return Error::Connect { what, source: io::Error::new(kind.unwrap_or(io::ErrorKind::Other), text) };
    }
    Error::Network { what, source: io::Error::other(text) }
}
