//! Where a client of streams connects to: by TCP, or by TLS with a certificate that it knows.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A connection, whatever it goes by.
pub type Socket = Box<dyn Both>;

/// Both directions of a connection.
pub trait Both: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Both for T {}

/// A URL, and whom to trust behind it.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint<'a> {
    url: &'a str,
    trust: Option<&'a Trust>,
}

impl<'a> From<&'a str> for Endpoint<'a> {
    fn from(url: &'a str) -> Self {
        Self { url, trust: None }
    }
}

impl<'a> From<&'a String> for Endpoint<'a> {
    fn from(url: &'a String) -> Self {
        Self::from(url.as_str())
    }
}

impl<'a> Endpoint<'a> {
    /// A URL of a server with a certificate that this one trusts.
    #[must_use]
    pub fn secure(url: &'a str, trust: &'a Trust) -> Self {
        let trust = Some(trust);
        Self { url, trust }
    }

    /// `HOST:PORT` and the path of the URL.
    pub(super) fn parts(self) -> Result<(&'a str, &'a str)> {
        let rest = self.url.split_once("://").context("a URL")?.1;
        let at = rest.find('/').context("a URL with a path")?;
        Ok(rest.split_at(at))
    }

    /// Connects.
    pub(super) async fn dial(self) -> Result<Socket> {
        let socket = TcpStream::connect(self.parts()?.0).await?;
        let Some(trust) = self.trust else {
            return Ok(Box::new(socket));
        };
        let name = trust.name.clone();
        let secure = trust.connector.connect(name, socket).await;
        Ok(Box::new(secure.context("TLS")?))
    }
}

/// A server's name and the certificates that it is known by.
#[derive(Clone)]
pub struct Trust {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trust").field(&self.name).finish()
    }
}

impl Trust {
    /// Trusts what the certificates in a PEM file have signed, where it is for `name`.
    ///
    /// # Errors
    /// There are none.
    pub fn file(path: &Path, name: &str) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path).context("certificates")? {
            roots.add(certificate?)?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned())?;
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Self { connector, name })
    }
}
