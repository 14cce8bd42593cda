//! Whom a client trusts, and who it says it is.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// Files for servers with an `https` address, in PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of the authorities that servers are trusted by; None for those of the system.
    pub authorities: Option<PathBuf>,
    /// This client's certificate and its key, for servers that ask for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// What they say, read when it is needed first.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    files: Tls,
    config: OnceLock<Arc<ClientConfig>>,
}

impl Trust {
    pub(crate) fn new(files: Tls) -> Trust {
        Trust { files, config: OnceLock::new() }
    }

    pub(crate) fn for_host(&self, host: &str) -> io::Result<(Arc<ClientConfig>, ServerName<'static>)> {
        let config = match self.config.get() {
            Some(config) => config.clone(),
            None => {
                let made = Arc::new(self.read()?);
                self.config.get_or_init(|| made).clone()
            }
        };
        Ok((config, ServerName::try_from(host.to_string()).map_err(io::Error::other)?))
    }

    fn read(&self) -> io::Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        match &self.files.authorities {
            Some(path) => {
                for certificate in certificates(path)? {
                    roots
                        .add(certificate)
                        .map_err(|e| io::Error::other(format!("{}: {e}", path.display())))?;
                }
            }
            None => {
                // The system's bundle may hold certificates that cannot be read; they are of no use to us.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots);
        match &self.files.identity {
            None => Ok(builder.with_no_client_auth()),
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                let key = PrivateKeyDer::from_pem_file(key).map_err(|e| at(key, &e))?;
                builder.with_client_auth_cert(chain, key).map_err(io::Error::other)
            }
        }
    }
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| at(path, &e))
}

fn at(path: &Path, error: &pem::Error) -> io::Error {
    io::Error::other(format!("read {}: {error}", path.display()))
}
