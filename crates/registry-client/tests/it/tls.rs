//! Whose certificates are believed (T-TLS-1). The server listens on 0.0.0.0, which reaches this machine and, unlike
//! loopback, is not exempt from verification.

use crate::server::{Image, Server};
use errors::{HasKind as _, Kind};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use registry_client::{Auth, Client, Config, Error};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

pub(crate) const HOST: &str = "0.0.0.0";

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
    der: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        Authority { pem: cert.pem(), der: cert.der().clone(), issuer: Issuer::new(params, key) }
    }

    fn issue(&self, name: &str, expired: bool) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_string()]).unwrap();
        if expired {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A TLS server of this authority; with `clients`, it wants certificates of that authority.
    pub(crate) fn acceptor(&self, name: &str, expired: bool, clients: Option<&Authority>) -> TlsAcceptor {
        let (cert, key) = self.issue(name, expired);
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.der.clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        TlsAcceptor::from(Arc::new(builder.with_single_cert(vec![cert.der().clone()], key).unwrap()))
    }
}

async fn serve(host: &str, acceptor: Option<TlsAcceptor>) -> Server {
    let image = Image::new(&[b"x"]);
    Server::start_at(host, acceptor, move |request| image.answer(request)).await
}

/// Writes a file into `certs.d` for the server.
fn put(certs: &Path, server: &Server, name: &str, text: &str) {
    let dir = certs.join(&server.address);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(name), text).unwrap();
}

async fn resolve(server: &Server, config: Config) -> Result<(), Error> {
    let client = Client::new(Config { max_retries: 0, ..config }).unwrap();
    let auth = Auth::RegistryToken("s3cret".into());
    client.resolve(&server.reference("r:1"), &auth).await.map(drop)
}

fn with_certs(certs: &Path) -> Config {
    Config { certs_dirs: vec![certs.to_path_buf()], ..Config::default() }
}

fn check_refused(server: &Server, result: Result<(), Error>) {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{}", errors::chain(&error));
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(errors::chain(&error).contains(&server.address), "{}", errors::chain(&error));
    assert!(server.seen().is_empty(), "nothing was sent");
}

#[tokio::test]
async fn certificates_are_checked_against_the_hosts_authorities() {
    let (authority, other) = (Authority::new(), Authority::new());
    let certs = tempfile::tempdir().unwrap();
    let server = serve(HOST, Some(authority.acceptor(HOST, false, None))).await;
    check_refused(&server, resolve(&server, Config::default()).await);
    put(certs.path(), &server, "ca.crt", &other.pem);
    check_refused(&server, resolve(&server, with_certs(certs.path())).await);
    put(certs.path(), &server, "ca2.crt", &authority.pem);
    resolve(&server, with_certs(certs.path())).await.unwrap();
    assert_eq!(server.seen()[0].header("authorization"), Some("Bearer s3cret"));
}

/// As Docker's: nobody restarts a daemon because a certificate was renewed.
#[tokio::test]
async fn certificates_may_come_and_change_while_the_client_lives() {
    let (authority, other) = (Authority::new(), Authority::new());
    let certs = tempfile::tempdir().unwrap();
    let server = serve(HOST, Some(authority.acceptor(HOST, false, None))).await;
    let client = Client::new(Config { max_retries: 0, ..with_certs(certs.path()) }).unwrap();
    let resolve = || async {
        let found = client.resolve(&server.reference("r:1"), &Auth::Anonymous).await;
        found.map(drop)
    };
    check_refused(&server, resolve().await);
    put(certs.path(), &server, "ca.crt", &other.pem);
    check_refused(&server, resolve().await);
    put(certs.path(), &server, "ca.crt", &format!("{}{}", other.pem, authority.pem));
    resolve().await.unwrap();
    std::fs::remove_file(certs.path().join(&server.address).join("ca.crt")).unwrap();
    resolve().await.unwrap_err();
}

#[tokio::test]
async fn wrong_names_and_old_certificates_are_refused() {
    let authority = Authority::new();
    for (name, expired) in [("192.0.2.1", false), ("registry.example", false), (HOST, true)] {
        let certs = tempfile::tempdir().unwrap();
        let server = serve(HOST, Some(authority.acceptor(name, expired, None))).await;
        put(certs.path(), &server, "ca.crt", &authority.pem);
        check_refused(&server, resolve(&server, with_certs(certs.path())).await);
    }
}

#[tokio::test]
async fn plain_http_is_never_tried_where_it_is_not_allowed() {
    let server = serve(HOST, None).await;
    check_refused(&server, resolve(&server, Config::default()).await);
    let insecure = Config { insecure: vec![server.address.clone()], ..Config::default() };
    resolve(&server, insecure).await.unwrap();
}

#[tokio::test]
async fn insecure_hosts_and_loopback_may_show_any_certificate() {
    let authority = Authority::new();
    let server = serve(HOST, Some(authority.acceptor("x.example", true, None))).await;
    resolve(&server, Config { insecure: vec![HOST.into()], ..Config::default() }).await.unwrap();
    let server = serve("127.0.0.1", Some(authority.acceptor("x.example", false, None))).await;
    resolve(&server, Config::default()).await.unwrap();
}

#[tokio::test]
async fn client_certificates_are_shown() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let certs = tempfile::tempdir().unwrap();
    let server = serve(HOST, Some(authority.acceptor(HOST, false, Some(&clients)))).await;
    put(certs.path(), &server, "ca.crt", &authority.pem);
    resolve(&server, with_certs(certs.path())).await.unwrap_err();
    assert!(server.seen().is_empty());
    let (cert, key) = clients.issue("client", false);
    put(certs.path(), &server, "client.cert", &cert.pem());
    put(certs.path(), &server, "client.key", &key.serialize_pem());
    resolve(&server, with_certs(certs.path())).await.unwrap();
}
