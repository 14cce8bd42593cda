//! TLS for clients from other machines: our certificate, and the authority whose certificates they must show.

use errors::{Kind, Report};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// What the flags say about TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Speak TLS.
    pub(crate) is_on: bool,
    /// Clients must show a certificate of `ca`.
    pub(crate) verifies: bool,
    pub(crate) ca: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// Reads the files. None where TLS is not asked for.
pub(crate) fn acceptor(tls: &Tls) -> Result<Option<TlsAcceptor>, Report> {
    if !tls.is_on {
        return Ok(None);
    }
    let fail = |what: &str, path: &Path, e: &dyn std::fmt::Display| Report {
        kind: Kind::InvalidArgument,
        links: vec![format!("read the {what} {}", path.display()), e.to_string()],
    };
    let certificates = |what: &str, path: &Path| -> Result<Vec<CertificateDer<'static>>, Report> {
        let found = CertificateDer::pem_file_iter(path).map_err(|e| fail(what, path, &e))?;
        let found = found.collect::<Result<Vec<_>, _>>().map_err(|e| fail(what, path, &e))?;
        if found.is_empty() {
            return Err(fail(what, path, &"it holds no certificate"));
        }
        Ok(found)
    };
    let setup = |e: &dyn std::fmt::Display| Report::new(Kind::InvalidArgument, format!("set up TLS: {e}"));
    let chain = certificates("certificate", &tls.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|e| fail("key", &tls.key, &e))?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| setup(&e))?;
    let builder = if tls.verifies {
        let mut roots = RootCertStore::empty();
        for certificate in certificates("authority", &tls.ca)? {
            roots.add(certificate).map_err(|e| fail("authority", &tls.ca, &e))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        builder.with_client_cert_verifier(verifier.build().map_err(|e| setup(&e))?)
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|e| setup(&e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}
