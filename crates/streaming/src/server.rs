//! The server: a listener, the tokens it has promised, a task per connection.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::backend::{Attach, Backend, Exec, Forward};
use crate::conversation::Ended;
use crate::session::forward::Target;
use crate::session::{StatusForm, forward, remote};
use crate::tls::{self, Tls};
use crate::tokens::{Tokens, TooMany};
use crate::upgrade::{self, Carrier, Refused};
use crate::{limits, spdy, websocket};

/// Where and how it is served.
#[derive(Debug, Clone)]
pub struct Options {
    /// Address to listen on.
    pub address: SocketAddr,
    /// How long a session may be silent.
    pub idle: Duration,
    /// TLS, where it is wanted.
    pub tls: Option<tls::Options>,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address can't be had.
    #[error("listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// There is no TLS.
    #[error("TLS of the streaming server")]
    Tls(#[from] tls::Error),
}

/// A session that a client may claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    /// A process of its own.
    Exec(Exec),
    /// A container's first process.
    Attach(Attach),
    /// Ports.
    Forward(Forward),
}

impl Session {
    /// Its name in a URL.
    fn kind(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::Forward(_) => "portforward",
        }
    }
}

/// Promises sessions. Clones promise for the same server.
#[derive(Debug, Clone)]
pub struct Promises {
    base: Arc<str>,
    tokens: Arc<Mutex<Tokens<Session>>>,
}

impl Promises {
    /// The URL under which the session can be had, once and within a minute.
    ///
    /// # Errors
    /// Too many were promised and not claimed.
    pub fn promise(&self, session: Session) -> Result<String, TooMany> {
        let kind = session.kind();
        let token = lock(&self.tokens).give(session, Instant::now())?;
        Ok(format!("{}/{kind}/{token}", self.base))
    }

    fn claim(&self, kind: &str, token: &str) -> Option<Session> {
        let session = lock(&self.tokens).take(token, Instant::now());
        session.filter(|session| session.kind() == kind)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    tls: Option<Tls>,
    idle: Duration,
    promises: Promises,
}

impl Server {
    /// Listens, and reads the certificates. Blocks for as long as a file takes.
    ///
    /// # Errors
    /// The address is taken; the certificates are no good.
    pub async fn bind(options: Options) -> Result<Self, Error> {
        let tls = options.tls.map(Tls::load).transpose()?;
        let address = options.address;
        let failed = |source| Error::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let mut bound = listener.local_addr().map_err(failed)?;
        if bound.ip().is_unspecified() {
            bound.set_ip(reachable(bound.ip()));
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let promises = Promises {
            base: format!("{scheme}://{bound}").into(),
            tokens: Arc::default(),
        };
        Ok(Self {
            listener,
            tls,
            idle: options.idle,
            promises,
        })
    }

    /// Where sessions are promised.
    #[must_use]
    pub fn promises(&self) -> Promises {
        self.promises.clone()
    }

    /// Serves for ever.
    pub async fn serve(self, backend: Arc<dyn Backend>) {
        let strangers = Arc::new(Semaphore::new(limits::STRANGERS));
        loop {
            // Those that wait for a place wait in the kernel, which bounds them.
            let Ok(place) = Arc::clone(&strangers).acquire_owned().await else {
                return;
            };
            let socket = match self.listener.accept().await {
                Ok((socket, _)) => socket,
                Err(error) => {
                    // Out of descriptors, or a client that is gone already: the next one may do.
                    tracing::warn!(%error, "streaming connection not accepted");
                    let later = tokio::time::Instant::now() + limits::ACCEPT_AGAIN;
                    tokio::time::sleep_until(later).await;
                    continue;
                }
            };
            let connection = Connection {
                promises: self.promises.clone(),
                backend: Arc::clone(&backend),
                idle: self.idle,
            };
            let tls = self.tls.clone();
            // A connection is a task of its own; it ends with its client or its session.
            tokio::spawn(async move {
                if let Some(claimed) = connection.greet(socket, tls).await {
                    drop(place);
                    claimed.await;
                }
            });
        }
    }
}

/// The address by which this machine is reached: that of the way out, else itself.
fn reachable(unspecified: IpAddr) -> IpAddr {
    // Addresses of documentation. Nothing is sent: connecting a datagram socket picks a source.
    let (any, far, own): (IpAddr, &str, IpAddr) = match unspecified {
        IpAddr::V4(any) => (any.into(), "192.0.2.1:9", Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(any) => (any.into(), "[2001:db8::1]:9", Ipv6Addr::LOCALHOST.into()),
    };
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(far)?;
        socket.local_addr()
    });
    source.map_or(own, |source| source.ip())
}

/// What a connection needs.
#[derive(Debug, Clone)]
struct Connection {
    promises: Promises,
    backend: Arc<dyn Backend>,
    idle: Duration,
}

/// A session that was claimed, on an upgraded connection.
type Claimed = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
type Upgrade = (hyper::upgrade::OnUpgrade, Session, Carrier);

impl Connection {
    /// From the connection to the upgrade, which is not given much time.
    async fn greet(self, socket: TcpStream, tls: Option<Tls>) -> Option<Claimed> {
        // Keystrokes don't wait for each other.
        socket.set_nodelay(true).ok();
        let greeting = async {
            match tls {
                None => self.answer(socket).await,
                Some(tls) => match tls.acceptor().await.accept(socket).await {
                    Ok(socket) => self.answer(socket).await,
                    Err(error) => {
                        tracing::debug!(%error, "no TLS with a streaming client");
                        None
                    }
                },
            }
        };
        let (upgrade, session, carrier) = timeout(limits::GREETING, greeting).await.ok()??;
        let upgraded = upgrade.await.ok()?;
        let socket = TokioIo::new(upgraded);
        let kind = session.kind();
        #[expect(clippy::large_futures, reason = "it is in a box already")]
        Some(Box::pin(async move {
            let ended = self.run(socket, session, carrier).await;
            tracing::debug!(kind, ?ended, "streaming session ended");
        }))
    }

    async fn answer<S>(&self, socket: S) -> Option<Upgrade>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let claimed = Mutex::new(None);
        let service = service_fn(|mut request| {
            let answer = match self.claim(&request) {
                Ok((session, carrier, answer)) => {
                    let upgrade = hyper::upgrade::on(&mut request);
                    *lock(&claimed) = Some((upgrade, session, carrier));
                    answer
                }
                Err(refused) => refused.response(),
            };
            async { Ok::<_, Infallible>(answer) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits::GREETING)
            .max_buf_size(limits::REQUEST_BYTES)
            .serve_connection(TokioIo::new(socket), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "streaming connection ended");
        }
        claimed.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn claim(
        &self,
        request: &http::Request<hyper::body::Incoming>,
    ) -> Result<
        (
            Session,
            Carrier,
            http::Response<http_body_util::Full<bytes::Bytes>>,
        ),
        Refused,
    > {
        let (kind, token) = upgrade::token(request)?;
        let session = self.promises.claim(kind, token);
        let session = session.ok_or_else(upgrade::unknown)?;
        let (carrier, answer) = upgrade::agree(request.headers(), &session)?;
        Ok((session, carrier, answer))
    }

    async fn run<S>(self, socket: S, session: Session, carrier: Carrier) -> Ended
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (wanted, start) = match session {
            Session::Forward(forward) => return self.forward(socket, forward, carrier).await,
            Session::Exec(exec) => (exec.wanted, self.starting(move |b| b.exec(exec))),
            Session::Attach(attach) => (attach.wanted, self.starting(move |b| b.attach(attach))),
        };
        match carrier {
            Carrier::WebSocket(protocol) => {
                let socket = websocket::connection::accept(socket).await;
                let form = if protocol.status {
                    StatusForm::Json
                } else {
                    StatusForm::Text
                };
                let listen = remote::channels(wanted);
                websocket::connection::run(
                    socket,
                    protocol,
                    listen,
                    self.idle,
                    |channels| async move {
                        let streams = remote::Streams::of_channels(channels, wanted, form);
                        streams.greet().await;
                        remote::run(streams, start).await;
                    },
                )
                .await
            }
            Carrier::Spdy { form, resizes } => {
                spdy::connection::run(socket, limits::HELD_BYTES, self.idle, |opened| async move {
                    match remote::Streams::of_opened(opened, wanted, form, resizes).await {
                        Some(streams) => remote::run(streams, start).await,
                        None => tracing::debug!("a client did not open its streams"),
                    }
                })
                .await
            }
            // Agreed on for ports only.
            Carrier::Tunnel => Ended::Gone,
        }
    }

    /// Asks the backend not before the future is awaited: the client's streams come first.
    fn starting<F>(
        &self,
        ask: F,
    ) -> futures_util::future::BoxFuture<'static, Result<crate::Process, crate::Refusal>>
    where
        F: FnOnce(
                &dyn Backend,
            ) -> futures_util::future::BoxFuture<
                'static,
                Result<crate::Process, crate::Refusal>,
            > + Send
            + 'static,
    {
        let backend = Arc::clone(&self.backend);
        Box::pin(async move { ask(&*backend).await })
    }

    async fn forward<S>(self, socket: S, forward: Forward, carrier: Carrier) -> Ended
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let target = Target {
            backend: self.backend,
            pod: forward.pod,
        };
        let (held, idle) = (limits::FORWARD_HELD_BYTES, self.idle);
        match carrier {
            Carrier::Spdy { .. } => {
                let session = |opened| forward::over_streams(opened, target);
                spdy::connection::run(socket, held, idle, session).await
            }
            Carrier::Tunnel => {
                let socket = websocket::connection::accept(socket).await;
                let (inner, outer) = duplex(limits::PIECE_BYTES);
                let session = |opened| forward::over_streams(opened, target);
                let inner = spdy::connection::run(inner, held, idle, session);
                let (ended, ()) = tokio::join!(inner, websocket::tunnel::run(socket, outer));
                ended
            }
            Carrier::WebSocket(protocol) => {
                let socket = websocket::connection::accept(socket).await;
                let ports = forward.ports;
                let data = (0..=u8::MAX).step_by(2).take(ports.len());
                let session = |channels| forward::over_channels(channels, target, ports);
                websocket::connection::run(socket, protocol, data, idle, session).await
            }
        }
    }
}
