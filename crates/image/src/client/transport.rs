//! Connections: TLS with the node's certificates and those of `certs.d`, proxies from the
//! environment.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Uri};
use http_body_util::Full;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sys::pool::Pool;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::error::{Error, Result};
use crate::limits;
use crate::options::Options;

mod insecure;
mod proxies;

use proxies::Proxies;

pub(super) type HttpClient =
    hyper_util::client::legacy::Client<HttpsConnector<Connector>, Full<Bytes>>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One HTTP client per host: each has its own certificates.
pub(super) struct Transport {
    certs_dirs: Vec<PathBuf>,
    connector: Connector,
    files: Pool,
    roots: Arc<OnceLock<Arc<RootCertStore>>>,
    clients: Mutex<HashMap<(String, bool), HttpClient>>,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("certs_dirs", &self.certs_dirs)
            .finish_non_exhaustive()
    }
}

impl Transport {
    pub(super) fn new(options: &Options, files: Pool) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(options.connect_timeout));
        Self {
            certs_dirs: options.certs_dirs.clone(),
            connector: Connector {
                tcp,
                proxies: Arc::new(Proxies::from_env()),
            },
            files,
            roots: Arc::default(),
            clients: Mutex::default(),
        }
    }

    /// What a proxy is to be shown that gets a request as it is; a tunnel is asked for by itself.
    pub(super) fn proxy_authorization(&self, url: &Uri) -> Option<HeaderValue> {
        if url.scheme_str() == Some("https") {
            return None;
        }
        self.connector.proxies.intercept(url)?.basic_auth().cloned()
    }

    /// The client for a URL's host.
    pub(super) async fn client(&self, url: &Uri, insecure: bool) -> Result<HttpClient> {
        const HOSTS: usize = 64;
        let host = url.authority().map(ToString::to_string).unwrap_or_default();
        let key = (host.clone(), insecure);
        if let Some(client) = self
            .clients
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
        {
            return Ok(client.clone());
        }
        let (dirs, roots) = (self.certs_dirs.clone(), Arc::clone(&self.roots));
        let tls = self
            .files
            .run(move || tls_config(&dirs, &roots, &host, insecure))
            .await?;
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(self.connector.clone());
        let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_timer(TokioTimer::new())
            .http1_max_buf_size(limits::HTTP_BUFFER_BYTES)
            .build(https);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= HOSTS {
            // Redirects may name any number of hosts. What is in use lives on.
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

fn tls_config(
    dirs: &[PathBuf],
    roots: &OnceLock<Arc<RootCertStore>>,
    host: &str,
    insecure: bool,
) -> Result<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions");
    let own = Certificates::of(dirs, host)?;
    let builder = if insecure {
        builder
            .dangerous()
            .with_custom_certificate_verifier(insecure::any(provider))
    } else {
        let node = roots.get_or_init(|| Arc::new(node_roots()));
        let mut roots = RootCertStore::clone(node);
        for certificate in own.authorities {
            roots.add(certificate).map_err(|error| Error::Config {
                path: own.directory.clone(),
                reason: error.to_string(),
            })?;
        }
        builder.with_root_certificates(roots)
    };
    match own.client {
        None => Ok(builder.with_no_client_auth()),
        Some((chain, key)) => {
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| Error::Config {
                    path: own.directory.clone(),
                    reason: error.to_string(),
                })
        }
    }
}

/// The node's certificate store. What can't be parsed is left out, as everybody does.
fn node_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "reading the node's certificates");
    }
    roots.add_parsable_certificates(found.certs);
    roots
}

/// What is in `certs.d/<host>`: `*.crt` are authorities, `*.cert` and `*.key` of the same name a
/// client's.
#[derive(Debug, Default)]
struct Certificates {
    directory: PathBuf,
    authorities: Vec<CertificateDer<'static>>,
    client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Certificates {
    fn of(dirs: &[PathBuf], host: &str) -> Result<Self> {
        // A host is no path.
        if host.is_empty() || host.starts_with('.') || host.contains('/') {
            return Ok(Self::default());
        }
        for dir in dirs {
            let directory = dir.join(host);
            match std::fs::read_dir(&directory) {
                Ok(entries) => {
                    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
                    files.sort();
                    return Self::read(directory, &files);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(Error::Config {
                        path: directory,
                        reason: error.to_string(),
                    });
                }
            }
        }
        Ok(Self::default())
    }

    fn read(directory: PathBuf, files: &[PathBuf]) -> Result<Self> {
        let mut found = Self {
            directory,
            ..Self::default()
        };
        for file in files {
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => found.authorities.extend(certificates(file)?),
                Some("cert") => {
                    let key = file.with_extension("key");
                    let key =
                        PrivateKeyDer::from_pem_file(&key).map_err(|error| Error::Config {
                            path: key,
                            reason: error.to_string(),
                        })?;
                    found.client = Some((certificates(file)?, key));
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| Error::Config {
            path: file.to_owned(),
            reason: error.to_string(),
        })
}

/// Connects directly, or through the proxy that the environment names for a URL.
#[derive(Clone)]
pub(super) struct Connector {
    tcp: HttpConnector,
    proxies: Arc<Proxies>,
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let mut tcp = self.tcp.clone();
        let Some(proxy) = self.proxies.intercept(&url) else {
            let connecting = tcp.call(url);
            return Box::pin(async {
                Ok(Stream {
                    io: connecting.await?,
                    proxied: false,
                })
            });
        };
        if proxy.uri().scheme_str() != Some("http") {
            let proxy = proxy.uri().authority().map(ToString::to_string);
            let text = format!(
                "proxy {}: only http proxies are spoken to",
                proxy.unwrap_or_default()
            );
            return Box::pin(async { Err(text.into()) });
        }
        if url.scheme_str() != Some("https") {
            let connecting = tcp.call(proxy.uri().clone());
            return Box::pin(async {
                Ok(Stream {
                    io: connecting.await?,
                    proxied: true,
                })
            });
        }
        let mut tunnel = Tunnel::new(proxy.uri().clone(), tcp);
        if let Some(authorization) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(authorization.clone());
        }
        let connecting = tunnel.call(url);
        Box::pin(async {
            Ok(Stream {
                io: connecting.await?,
                proxied: false,
            })
        })
    }
}

/// A connection that knows whether requests on it name the whole URL, as a plain proxy wants.
pub(super) struct Stream {
    io: TokioIo<TcpStream>,
    proxied: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.proxied)
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, into)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
