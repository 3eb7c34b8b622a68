//! One unix socket for gRPC and HTTP: told apart by the protocol of a connection and the path of a
//! request.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use cri::v1::image_service_server::{ImageServiceServer, SERVICE_NAME as IMAGES};
use cri::v1::runtime_service_server::{RuntimeServiceServer, SERVICE_NAME as RUNTIME};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{UnixListener, UnixStream};
use tonic::Status;
use tonic::body::Body;
use tower_service::Service as _;

use crate::inspect::Inspect;
use crate::telemetry::calls::{Calls, Ended};

/// What is served.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) runtime: cri::RuntimeService,
    pub(crate) images: cri::ImageService,
    pub(crate) inspect: Inspect,
    /// Where calls are recorded, where somebody wants to know.
    pub(crate) calls: Option<Arc<Calls>>,
    /// Most bytes of a gRPC message that comes in.
    pub(crate) max_receive: usize,
    /// Most bytes of one that goes out.
    pub(crate) max_send: usize,
}

/// Makes the socket; a dead one of an earlier run is replaced.
///
/// # Errors
/// Another daemon answers there.
pub(crate) fn bind(path: &Path) -> Result<UnixListener> {
    let at = || format!("listen on {}", path.display());
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(at)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            bail!("{}: there is something that is no socket", at())
        }
        Ok(_) => {
            if is_served(path) {
                bail!("already existing connection on {}", path.display());
            }
            std::fs::remove_file(path).with_context(at)?;
        }
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(at),
    }
    let socket = UnixListener::bind(path).with_context(at)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).with_context(at)?;
    Ok(socket)
}

/// Whether somebody listens at `path`, and goes on doing so: a child that a killed daemon was just
/// starting has its socket for the moment until it runs its own program.
pub(crate) fn is_served(path: &Path) -> bool {
    const TRIES: u32 = 100;
    const PAUSE: Duration = Duration::from_millis(20);
    for _ in 0..TRIES {
        if std::os::unix::net::UnixStream::connect(path).is_err() {
            return false;
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "nothing tells when a socket is closed"
        )]
        std::thread::sleep(PAUSE);
    }
    true
}

/// When to accept again after that failed: descriptors come back when something ends.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves for ever.
///
/// # Errors
/// The socket can't be accepted from any more.
pub(crate) async fn serve(socket: UnixListener, services: Services) -> Result<()> {
    loop {
        match socket.accept().await {
            Ok((stream, _)) => {
                // A connection is a task of its own; it ends with its client.
                tokio::spawn(connection(stream, services.clone()));
            }
            Err(error) => not_accepted(&error, "gRPC").await,
        }
    }
}

/// Out of descriptors, or a client that is gone already: the next one may do, in a moment.
pub(crate) async fn not_accepted(error: &io::Error, what: &str) {
    tracing::warn!(%error, "connection for {what} not accepted");
    let later = tokio::time::Instant::now() + ACCEPT_AGAIN;
    tokio::time::sleep_until(later).await;
}

async fn connection(stream: UnixStream, services: Services) {
    let service = service_fn(move |request| {
        let services = services.clone();
        async move { Ok::<_, Infallible>(answer(services, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // A flood of resets costs us nothing beyond this (CVE-2023-44487).
    builder.http2().max_pending_accept_reset_streams(Some(100));
    if let Err(error) = builder
        .serve_connection(TokioIo::new(stream), service)
        .await
    {
        tracing::debug!(%error, "connection ended");
    }
}

async fn answer(services: Services, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path();
    let (service, call) = path
        .trim_start_matches('/')
        .split_once('/')
        .unwrap_or_default();
    let record = services
        .calls
        .clone()
        .map(|calls| (calls, call.to_owned(), Instant::now()));
    let answered = match service {
        RUNTIME => {
            RuntimeServiceServer::new(services.runtime)
                .max_decoding_message_size(services.max_receive)
                .max_encoding_message_size(services.max_send)
                .call(request)
                .await
        }
        IMAGES => {
            ImageServiceServer::new(services.images)
                .max_decoding_message_size(services.max_receive)
                .max_encoding_message_size(services.max_send)
                .call(request)
                .await
        }
        other if request.version() == Version::HTTP_2 && is_grpc(&request) => {
            Ok(Status::unimplemented(format!("unknown service {other}")).into_http())
        }
        _ => return inspect(&services.inspect, &request).await,
    };
    let response = match answered {
        Ok(response) => response,
        Err(never) => match never {},
    };
    if let Some((calls, call, started)) = record {
        calls.record(&call, started.elapsed(), failure(&response));
    }
    response
}

/// An error is in the headers; of a stream, if it comes before the first message.
fn failure(response: &Response<Body>) -> Option<Ended<'_>> {
    let header = |name| {
        let value = response.headers().get(name)?;
        value.to_str().ok()
    };
    let code = header("grpc-status").filter(|code| *code != "0")?;
    let message = header("grpc-message").unwrap_or_default();
    Some(Ended { code, message })
}

fn is_grpc(request: &Request<Incoming>) -> bool {
    let kind = request.headers().get(http::header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

async fn inspect(inspect: &Inspect, request: &Request<Incoming>) -> Response<Body> {
    let (status, kind, text) = match *request.method() {
        Method::GET => inspect.answer(request.uri().path()).await,
        _ => (
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain",
            "only GET is possible".to_owned(),
        ),
    };
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static(kind),
    );
    response
}
