//! A CRI client over a unix socket.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use cri::v1::image_service_client::ImageServiceClient;
use cri::v1::runtime_service_client::RuntimeServiceClient;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tonic::body::Body;
use tower_service::Service;

/// Largest answer that is taken.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// One connection, as tonic's generated clients want it.
#[derive(Debug, Clone)]
pub struct Connection(http2::SendRequest<Body>);

impl Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// Calls of pods and containers.
pub type RuntimeClient = RuntimeServiceClient<Connection>;
/// Calls of images.
pub type ImageClient = ImageServiceClient<Connection>;

/// A client of the daemon at a socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    connection: Connection,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nobody answers there.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .await
            .with_context(|| format!("connect to {}", socket.display()))?;
        let (send, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        // Ends with the last clone of `send`; its error reaches whoever has a call under way.
        tokio::spawn(connection);
        Ok(Self {
            socket: socket.to_owned(),
            connection: Connection(send),
        })
    }

    /// The service of pods and containers.
    #[must_use]
    pub fn runtime(&self) -> RuntimeClient {
        let origin = Uri::from_static("http://localhost");
        RuntimeServiceClient::with_origin(self.connection.clone(), origin)
            .max_decoding_message_size(MAX_ANSWER)
    }

    /// The service of images.
    #[must_use]
    pub fn images(&self) -> ImageClient {
        let origin = Uri::from_static("http://localhost");
        ImageServiceClient::with_origin(self.connection.clone(), origin)
            .max_decoding_message_size(MAX_ANSWER)
    }

    /// A GET of an inspect endpoint: the body's text.
    ///
    /// # Errors
    /// The connection fails, or the answer is not 200.
    pub async fn inspect(&self, path: &str) -> Result<String> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get(path)
            .header("host", "localhost")
            .body(Empty::<Bytes>::new())?;
        let response = send.send_request(request).await?;
        anyhow::ensure!(
            response.status().is_success(),
            "GET {path}: {}",
            response.status()
        );
        let body = response.into_body().collect().await?.to_bytes();
        Ok(String::from_utf8(body.to_vec())?)
    }
}
