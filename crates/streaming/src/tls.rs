//! TLS for this server and for that of metrics: certificates that may be replaced while it serves.
//!
//! Files are looked at when a connection comes, not watched: whoever connects after a replacement
//! gets the new certificate, and an idle server costs nothing.

mod ciphers;
mod self_signed;

pub use self_signed::make_if_missing;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, version};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sys::pool::Pool;
use tokio_rustls::TlsAcceptor;

/// Files and what is allowed.
#[derive(Debug, Clone)]
pub struct Options {
    /// Certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Who signs clients' certificates, PEM; clients need one then.
    pub client_ca: Option<PathBuf>,
    /// The oldest version.
    pub minimum: Version,
    /// Names of the cipher suites of TLS 1.2, as Go and IANA spell them; all good ones if empty.
    pub ciphers: Vec<String>,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 1.2
    Tls12,
    /// 1.3
    Tls13,
}

impl std::str::FromStr for Version {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "" | "VersionTLS12" => Ok(Self::Tls12),
            "VersionTLS13" => Ok(Self::Tls13),
            other => Err(Error::Version(other.to_owned())),
        }
    }
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not a version that is served.
    #[error("{0:?} is none of VersionTLS12 and VersionTLS13")]
    Version(String),
    /// Not a cipher suite.
    #[error("{0:?} is no cipher suite")]
    Cipher(String),
    /// All the suites that are named are too weak for this library.
    #[error("none of the cipher suites can be used")]
    NoCipher,
    /// A file can't be read, or isn't what it should be.
    #[error("read {}: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The files don't fit together.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// TLS with the certificates of now.
#[derive(Debug, Clone)]
pub struct Tls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: Options,
    provider: Arc<CryptoProvider>,
    current: Mutex<(Vec<Stamp>, Arc<ServerConfig>)>,
    /// Reads files.
    pool: Pool,
}

/// What changes when a file is replaced or written: device, inode, size, time of change.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl Tls {
    /// Reads everything once. Blocks.
    ///
    /// # Errors
    /// Files that can't be read, or don't fit together.
    pub fn load(options: Options) -> Result<Self, Error> {
        let provider = CryptoProvider {
            cipher_suites: ciphers::choose(&options.ciphers)?,
            ..aws_lc_rs::default_provider()
        };
        let provider = Arc::new(provider);
        let stamps = stamps(&options);
        let config = read(&options, &provider)?;
        Ok(Self(Arc::new(Inner {
            options,
            provider,
            current: Mutex::new((stamps, Arc::new(config))),
            pool: Pool::new("tls", 1),
        })))
    }

    /// For the next connection. Where new files can't be used, the old ones go on.
    #[must_use]
    pub async fn acceptor(&self) -> TlsAcceptor {
        let inner = Arc::clone(&self.0);
        self.0.pool.run(move || inner.current().into()).await
    }
}

impl Inner {
    fn current(&self) -> Arc<ServerConfig> {
        let stamps = stamps(&self.options);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != stamps {
            match read(&self.options, &self.provider) {
                Ok(config) => {
                    tracing::info!("certificates read again");
                    current.1 = Arc::new(config);
                }
                Err(error) => tracing::warn!(%error, "new certificates can't be used"),
            }
            // Not tried again until something changes again.
            current.0 = stamps;
        }
        Arc::clone(&current.1)
    }
}

fn stamps(options: &Options) -> Vec<Stamp> {
    let files = [
        Some(&options.certificate),
        Some(&options.key),
        options.client_ca.as_ref(),
    ];
    let stamp = |path: &PathBuf| {
        // The target of a link: that is how the kubelet replaces secrets.
        let found = fs::metadata(path).ok()?;
        Some((
            found.dev(),
            found.ino(),
            found.size(),
            found.ctime(),
            found.ctime_nsec(),
        ))
    };
    files.into_iter().flatten().map(stamp).collect()
}

fn read(options: &Options, provider: &Arc<CryptoProvider>) -> Result<ServerConfig, Error> {
    let versions: &[_] = match options.minimum {
        Version::Tls12 => &[&version::TLS12, &version::TLS13],
        Version::Tls13 => &[&version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)?;
    let builder = match &options.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate)?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
            let verifier = verifier.build().map_err(|error| wrong(path, &error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::from_pem_file(&options.key);
    let key = key.map_err(|error| wrong(&options.key, &error))?;
    let mut config = builder.with_single_cert(certificates(&options.certificate)?, key)?;
    // An upgrade needs HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates: Vec<_> = certificates.map_err(|error| wrong(path, &error))?;
    if certificates.is_empty() {
        let error = io::Error::other("no certificate in it");
        return Err(wrong(path, &error));
    }
    Ok(certificates)
}

fn wrong(path: &Path, error: &dyn std::error::Error) -> Error {
    Error::File {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}
