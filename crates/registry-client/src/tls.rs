//! TLS rules by host: the system's certificate authorities, those of `certs.d`, client certificates, and no
//! verification where the configuration says so.

use crate::policy::Policy;
use crate::url::Authority;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};

/// Most hosts whose TLS rules are kept; beyond, all are read again.
const MAX_HOSTS: usize = 256;

/// Makes and keeps the TLS rules of each host.
#[derive(Debug)]
pub(crate) struct Tls {
    certs_dirs: Vec<PathBuf>,
    provider: Arc<CryptoProvider>,
    system_roots: OnceLock<RootCertStore>,
    hosts: Mutex<HashMap<Authority, (Stamp, Arc<ClientConfig>)>>,
    rules: Mutex<HashMap<Authority, HostTls>>,
}

/// The files that the rules of a host were read from, as they were then: when each was changed last, and its length.
type Stamp = Vec<(PathBuf, Option<(SystemTime, u64)>)>;

/// What a `hosts.toml` says of a host, besides what lies beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostTls {
    /// Files with certificate authorities.
    pub(crate) roots: Vec<PathBuf>,
    /// Files with a client certificate and its key; the last one counts.
    pub(crate) client: Vec<(PathBuf, PathBuf)>,
    pub(crate) skip_verify: bool,
}

impl Tls {
    pub(crate) fn new(certs_dirs: Vec<PathBuf>) -> Tls {
        Tls {
            certs_dirs,
            provider: Arc::new(ring::default_provider()),
            system_roots: OnceLock::new(),
            hosts: Mutex::default(),
            rules: Mutex::default(),
        }
    }

    /// Sets the further rules of a host. The next connection goes by them.
    pub(crate) fn set_rules(&self, authority: &Authority, new: HostTls) {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if rules.get(authority).map_or(new == HostTls::default(), |known| *known == new) {
            return;
        }
        if rules.len() >= MAX_HOSTS {
            rules.clear();
        }
        rules.insert(authority.clone(), new);
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).remove(authority);
    }

    /// The rules for `authority`. Reads files the first time, and when they have changed: blocks.
    pub(crate) fn for_host(&self, authority: &Authority, policy: &Policy) -> io::Result<Arc<ClientConfig>> {
        let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner).get(authority).cloned();
        let rules = rules.unwrap_or_default();
        // Looked at before they are read: what changes meanwhile is read again next time.
        let stamp = self.stamp(authority, &rules);
        if let Some((read, config)) = self.hosts.lock().unwrap_or_else(PoisonError::into_inner).get(authority)
            && *read == stamp
        {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.read(authority, policy, &rules)?);
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= MAX_HOSTS {
            hosts.clear();
        }
        hosts.insert(authority.clone(), (stamp, Arc::clone(&config)));
        Ok(config)
    }

    fn stamp(&self, authority: &Authority, rules: &HostTls) -> Stamp {
        let below = self.certs_dirs.iter().flat_map(|dir| std::fs::read_dir(dir.join(authority.to_string())));
        let mut paths: Vec<PathBuf> = below.flatten().flatten().map(|entry| entry.path()).collect();
        paths.extend(rules.roots.iter().cloned());
        paths.extend(rules.client.iter().flat_map(|(cert, key)| [cert.clone(), key.clone()]));
        paths.sort();
        let stamped = paths.into_iter().map(|path| {
            let metadata = std::fs::metadata(&path).ok();
            let state = metadata.and_then(|metadata| Some((metadata.modified().ok()?, metadata.len())));
            (path, state)
        });
        stamped.collect()
    }

    fn read(&self, authority: &Authority, policy: &Policy, rules: &HostTls) -> io::Result<ClientConfig> {
        let mut files = HostFiles::read(&self.certs_dirs, authority)?;
        for path in &rules.roots {
            files.roots.extend(certificates(path)?);
        }
        for (cert, key) in &rules.client {
            let key = PrivateKeyDer::from_pem_file(key).map_err(|e| at(key, e))?;
            files.client = Some((certificates(cert)?, key));
        }
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let builder = if policy.is_insecure(authority) || rules.skip_verify {
            let verifier = Unverified(self.provider.signature_verification_algorithms);
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        } else {
            let mut roots = self.system_roots.get_or_init(system_roots).clone();
            for root in files.roots {
                roots.add(root).map_err(io::Error::other)?;
            }
            builder.with_root_certificates(roots)
        };
        let mut config = match files.client {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(io::Error::other)?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn system_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "system certificate authorities");
    }
    let mut store = RootCertStore::empty();
    // The system's bundle may hold certificates that webpki cannot read; they are of no use to us.
    let (added, ignored) = store.add_parsable_certificates(found.certs);
    tracing::debug!(added, ignored, "system certificate authorities");
    store
}

/// What `certs.d/<host>/` holds.
#[derive(Default)]
struct HostFiles {
    roots: Vec<CertificateDer<'static>>,
    client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl HostFiles {
    /// `authority` is a checked name without slashes and empty labels, so it stays below the directories.
    fn read(dirs: &[PathBuf], authority: &Authority) -> io::Result<HostFiles> {
        let mut out = HostFiles::default();
        for dir in dirs.iter().map(|dir| dir.join(authority.to_string())) {
            let entries = match std::fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(at(&dir, error)),
            };
            let mut paths = entries.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
            paths.sort();
            for path in paths {
                match path.extension().and_then(|e| e.to_str()) {
                    Some("crt") => out.roots.extend(certificates(&path)?),
                    Some("cert") => {
                        let key = path.with_extension("key");
                        let key = PrivateKeyDer::from_pem_file(&key).map_err(|e| at(&key, e))?;
                        out.client = Some((certificates(&path)?, key));
                    }
                    _ => {}
                }
            }
        }
        Ok(out)
    }
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    read().map_err(|error| at(path, error))
}

fn at(path: &Path, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("read {path:?}: {error}"))
}

/// Accepts any certificate, for hosts listed as insecure. Still checks that the peer holds the certificate's key.
#[derive(Debug)]
struct Unverified(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
