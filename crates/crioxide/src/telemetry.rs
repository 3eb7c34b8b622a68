//! The Prometheus endpoint: `[crio.metrics]`, with CRI-O's names.
//!
//! The text format is a dozen lines to write, and the summaries with quantiles that CRI-O's
//! dashboards read are in no small client library: so there is none. What costs anything is read
//! when somebody scrapes.

pub(crate) mod calls;
mod compression;
mod exposition;
mod figures;
mod process;
mod selection;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use config::Settings;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use image::Images;
use pods::Pods;
use streaming::{Tls, TlsOptions};
use sys::pool::Pool;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Semaphore, watch};

use calls::Calls;
use figures::Sources;
use selection::Selection;

use crate::serve::not_accepted;

/// Connections that are served at once; more wait.
const CONNECTIONS: usize = 32;
/// How long a connection may be silent; scrapers come again every minute at least.
const SILENCE: Duration = Duration::from_secs(120);
/// What a TLS handshake may take.
const GREETING: Duration = Duration::from_secs(10);
/// The text format, version 0.0.4.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Where metrics are served, checked.
#[derive(Debug)]
pub(crate) struct Options {
    address: (String, u16),
    /// A unix socket beside it.
    pub(crate) socket: Option<PathBuf>,
    tls: Option<TlsOptions>,
    selection: Selection,
    default_runtime: watch::Receiver<Arc<str>>,
}

/// Reads `[crio.metrics]`; `None` where it is off.
///
/// # Errors
/// A value that is wrong.
pub(crate) fn options(
    settings: &Settings,
    default_runtime: watch::Receiver<Arc<str>>,
) -> Result<Option<Options>> {
    let section = "crio.metrics";
    if !settings.bool(section, "enable_metrics") {
        return Ok(None);
    }
    let port = settings.integer(section, "metrics_port");
    let port = u16::try_from(port)
        .map_err(|_| settings.wrong(section, "metrics_port", format!("{port} is no port")))?;
    let selection = Selection::parse(settings.list(section, "metrics_collectors"))
        .map_err(|wrong| settings.wrong(section, "metrics_collectors", wrong))?;
    let socket = settings.path(section, "metrics_socket");
    Ok(Some(Options {
        address: (settings.text(section, "metrics_host").to_owned(), port),
        socket: Some(socket).filter(|socket| !socket.as_os_str().is_empty()),
        tls: tls(settings)?,
        selection,
        default_runtime,
    }))
}

/// With a certificate and its key the address speaks TLS; the socket never does.
fn tls(settings: &Settings) -> Result<Option<TlsOptions>> {
    let file = |key: &str| {
        let path = settings.path("crio.metrics", key);
        Some(path).filter(|path| !path.as_os_str().is_empty())
    };
    let (certificate, key) = match (file("metrics_cert"), file("metrics_key")) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) => return Ok(None),
        _ => bail!("metrics_cert and metrics_key belong together: one of them is not set"),
    };
    Ok(Some(TlsOptions {
        certificate,
        key,
        client_ca: None,
        minimum: crate::streams::minimum(settings)?,
        ciphers: settings.list("crio.api", "tls_cipher_suites").to_vec(),
    }))
}

/// What is served.
#[derive(Debug)]
struct Endpoint {
    sources: Sources,
    tls: Option<Tls>,
    connections: Semaphore,
    /// Reads of `/proc`.
    pool: Pool,
    scrapes: AtomicU64,
    in_flight: AtomicU64,
}

/// Serves metrics until the daemon ends, and returns where calls are to be recorded.
///
/// # Errors
/// The address or the socket can't be bound; certificates can't be used.
pub(crate) async fn start(options: Options, pods: Pods, images: Arc<Images>) -> Result<Arc<Calls>> {
    let calls = Arc::new(Calls::default());
    let pool = Pool::new("metrics", 1);
    let tls = match options.tls {
        Some(tls) => {
            let loaded = pool.run(move || load(tls)).await;
            Some(loaded.context("certificate of the metrics endpoint")?)
        }
        None => None,
    };
    let endpoint = Arc::new(Endpoint {
        sources: Sources {
            calls: Arc::clone(&calls),
            pods,
            images,
            selection: options.selection,
            default_runtime: options.default_runtime,
        },
        tls,
        connections: Semaphore::new(CONNECTIONS),
        pool,
        scrapes: AtomicU64::new(0),
        in_flight: AtomicU64::new(0),
    });
    let (host, port) = &options.address;
    let listener = TcpListener::bind((host.as_str(), *port))
        .await
        .with_context(|| format!("serve metrics on {host}:{port}"))?;
    tracing::info!(address = %listener.local_addr()?, "metrics are served");
    let on_socket = match &options.socket {
        Some(path) => Some(crate::serve::bind(path)?),
        None => None,
    };
    // Both end with the daemon.
    if let Some(socket) = on_socket {
        tokio::spawn(accept_unix(socket, Arc::clone(&endpoint)));
    }
    tokio::spawn(accept_tcp(listener, endpoint));
    Ok(calls)
}

/// With a pair of our own where there is none.
fn load(options: TlsOptions) -> Result<Tls, streaming::TlsError> {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy();
    let (certificate, key) = (&options.certificate, &options.key);
    if streaming::make_certificate_if_missing(certificate, key, &name)? {
        let path = certificate.display();
        tracing::info!(%path, "a self-signed certificate was made for metrics");
    }
    Tls::load(options)
}

async fn accept_tcp(listener: TcpListener, endpoint: Arc<Endpoint>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(greet(stream, Arc::clone(&endpoint)))),
            Err(error) => not_accepted(&error, "metrics").await,
        }
    }
}

async fn greet(stream: TcpStream, endpoint: Arc<Endpoint>) {
    let Some(tls) = endpoint.tls.clone() else {
        return connection(stream, endpoint).await;
    };
    let greeting = async { tls.acceptor().await.accept(stream).await };
    match tokio::time::timeout(GREETING, greeting).await {
        Ok(Ok(stream)) => connection(stream, endpoint).await,
        Ok(Err(error)) => tracing::debug!(%error, "no TLS with a scraper"),
        Err(_) => tracing::debug!("a scraper does not finish its TLS handshake"),
    }
}

async fn accept_unix(listener: UnixListener, endpoint: Arc<Endpoint>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, Arc::clone(&endpoint)))),
            Err(error) => not_accepted(&error, "metrics").await,
        }
    }
}

async fn connection<S>(stream: S, endpoint: Arc<Endpoint>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(_turn) = endpoint.connections.acquire().await else {
        return;
    };
    let service = service_fn(|request| {
        let endpoint = Arc::clone(&endpoint);
        async move { Ok::<_, Infallible>(answer(&endpoint, &request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    // One that says nothing must not hold a place for ever.
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(SILENCE);
    let served = builder.serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "connection for metrics ended");
    }
}

async fn answer(endpoint: &Arc<Endpoint>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return response(
            StatusCode::NOT_FOUND,
            "metrics are at /metrics\n".to_owned(),
        );
    }
    if request.method() != Method::GET {
        let text = "only GET is possible\n".to_owned();
        return response(StatusCode::METHOD_NOT_ALLOWED, text);
    }
    let gzip = compression::is_wanted(request.headers());
    endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
    let sources = endpoint.sources.clone();
    let mut text = endpoint.pool.run(move || sources.read()).await;
    // As the Go client counts: this one is under way, and not done.
    let in_flight = endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
    let done = endpoint.scrapes.fetch_add(1, Ordering::Relaxed);
    figures::scrapes(&mut text, in_flight, done);
    let text = text.finish();
    let packed = if gzip {
        let text = text.clone();
        endpoint.pool.run(move || compression::gzip(&text)).await
    } else {
        None
    };
    let Some(packed) = packed else {
        return response(StatusCode::OK, text);
    };
    let mut response = response(StatusCode::OK, packed);
    let encoding = http::HeaderValue::from_static("gzip");
    response
        .headers_mut()
        .insert(header::CONTENT_ENCODING, encoding);
    response
}

fn response(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static(TEXT);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
