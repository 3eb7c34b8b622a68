//! One connection: requests go out, a task of its own hands replies and events to who waits.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use monitor_protocol::{Exit, FromMonitor, Id, Reply, Request, ToMonitor, limits};
use sys::seqpacket;
use sys::spawn::{Child, Status};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::{Error, Result};

/// How long a monitor of ours that closed its connection may take to become a zombie.
const REAP: Duration = Duration::from_secs(5);

/// What the monitor tells unasked.
#[derive(Clone, Debug)]
pub enum Event {
    /// A container's init has ended; its exit record is written.
    Exited(Exit),
    /// An exec's process has ended.
    ExecExited {
        /// The container.
        id: Id,
        /// The exec.
        exec: Id,
        /// How.
        status: Status,
    },
    /// A seccomp filter in a container has a listener. Told again on each connection.
    Listening {
        /// The container.
        id: Id,
        /// To be kept for a successor of the monitor ([`Monitor::listen`](crate::Monitor::listen)).
        listener: Arc<OwnedFd>,
    },
    /// A container's processes made a call that its filter forbids. Told again on each connection.
    Forbidden {
        /// The container.
        id: Id,
        /// Whose numbers the call's is of, an `AUDIT_ARCH_*` of `linux/audit.h`.
        arch: u32,
        /// The system call.
        number: i32,
        /// How often it was made since the monitor has the container.
        count: u64,
    },
    /// The connection is closed; nothing follows. `status` is that of the monitor where it was
    /// our child and has ended.
    Lost {
        /// How the monitor ended.
        status: Option<Status>,
    },
}

/// The events of one monitor, in their order.
pub type Events = mpsc::UnboundedReceiver<Event>;

/// A reply with its descriptors.
pub(crate) type Answer = (Reply, Vec<OwnedFd>);

type Waiting = HashMap<u32, oneshot::Sender<Answer>>;

/// Closed when dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    socket: AsyncFd<OwnedFd>,
    next: AtomicU32,
    /// `None` once the connection is lost.
    waiting: Mutex<Option<Waiting>>,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Connection {
    /// Connects to the monitor that listens in `dir`; `child` if it is ours to reap.
    pub(crate) fn open(dir: &Path, child: Option<Child>) -> Result<(Self, Events)> {
        let path = socket_path(dir);
        let failed = |source| Error::Io {
            doing: "connect to",
            path: path.clone(),
            source,
        };
        let socket = seqpacket::connect(&path).map_err(failed)?;
        let shared = Arc::new(Shared {
            socket: watch(socket, Interest::READABLE | Interest::WRITABLE).map_err(failed)?,
            next: AtomicU32::new(1),
            waiting: Mutex::new(Some(HashMap::new())),
        });
        let (sender, events) = mpsc::unbounded_channel();
        // Owned by this connection, and aborted with it.
        let reader = tokio::spawn(read(Arc::clone(&shared), child, sender));
        Ok((Self { shared, reader }, events))
    }

    /// Asks, and waits for the answer; other requests may be on their way at the same time.
    pub(crate) async fn ask(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<Answer> {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed).max(1);
        let bytes = ToMonitor { number, request }
            .encode()
            .map_err(Error::TooLarge)?;
        let (sender, answer) = oneshot::channel();
        self.shared
            .waiting()
            .as_mut()
            .ok_or(Error::Lost)?
            .insert(number, sender);
        let send = |socket: &OwnedFd| seqpacket::send(socket.as_fd(), &bytes, fds);
        let sent = self.shared.socket.async_io(Interest::WRITABLE, send).await;
        if sent.is_err() {
            if let Some(waiting) = self.shared.waiting().as_mut() {
                waiting.remove(&number);
            }
            return Err(Error::Lost);
        }
        match answer.await.map_err(|_closed| Error::Lost)? {
            (Reply::Failed { kind, text }, _) => Err(Error::Refused { kind, text }),
            answer => Ok(answer),
        }
    }
}

/// Where the monitor of a directory listens.
pub(crate) fn socket_path(dir: &Path) -> PathBuf {
    dir.join("monitor.sock")
}

async fn read(shared: Arc<Shared>, child: Option<Child>, events: mpsc::UnboundedSender<Event>) {
    let mut buffer = vec![0; limits::MESSAGE_BYTES];
    while let Ok(Some((message, fds))) = receive(&shared.socket, &mut buffer).await {
        match message {
            FromMonitor::Reply { number, reply } => {
                let waiter = shared
                    .waiting()
                    .as_mut()
                    .and_then(|all| all.remove(&number));
                // Nobody waits if the request's future was dropped: so are the descriptors.
                if let Some(waiter) = waiter {
                    let _dropped = waiter.send((reply, fds));
                }
            }
            FromMonitor::Event { event } => {
                // Nobody listens if the receiver was dropped: the caller's decision.
                if let Some(event) = translate(event, fds) {
                    let _dropped = events.send(event);
                }
            }
        }
    }
    // Whoever waits for an answer learns that none will come.
    drop(shared.waiting().take());
    let status = match child {
        Some(child) => reap(child).await,
        None => None,
    };
    let _dropped = events.send(Event::Lost { status });
}

/// `None` where the descriptor is missing that the event is about.
fn translate(event: monitor_protocol::Event, fds: Vec<OwnedFd>) -> Option<Event> {
    Some(match event {
        monitor_protocol::Event::Exited { exit } => Event::Exited(exit),
        monitor_protocol::Event::Listening { id } => Event::Listening {
            id,
            listener: Arc::new(fds.into_iter().next()?),
        },
        monitor_protocol::Event::Forbidden {
            id,
            arch,
            number,
            count,
        } => Event::Forbidden {
            id,
            arch,
            number,
            count,
        },
        monitor_protocol::Event::ExecExited {
            id,
            exec,
            code,
            signal,
        } => Event::ExecExited {
            id,
            exec,
            status: if signal == 0 {
                Status::Exited(code)
            } else {
                Status::Signaled(signal)
            },
        },
    })
}

/// `None` at the end of the connection.
async fn receive(
    socket: &AsyncFd<OwnedFd>,
    buffer: &mut [u8],
) -> io::Result<Option<(FromMonitor, Vec<OwnedFd>)>> {
    loop {
        let mut ready = socket.readable().await?;
        match ready.try_io(|socket| seqpacket::receive(socket.as_fd(), buffer)) {
            Ok(Ok((0, _))) => return Ok(None),
            Ok(Ok((n, fds))) => {
                let bytes = buffer.get(..n).unwrap_or_default();
                let message = FromMonitor::decode(bytes).map_err(io::Error::other)?;
                return Ok(Some((message, fds)));
            }
            Ok(Err(err)) => return Err(err),
            Err(_would_block) => {}
        }
    }
}

/// Has the runtime wait for a descriptor.
#[allow(
    deprecated,
    reason = "tokio deprecates it for types that close or swap their descriptor; an OwnedFd in an \
              AsyncFd does neither, and the replacement is unsafe, which is sys's alone"
)]
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}

/// The status of a monitor that was our child. One that closed its connection and lives on is
/// left to the orphan reaper.
async fn reap(mut child: Child) -> Option<Status> {
    let pidfd = child.pidfd().try_clone_to_owned().ok()?;
    let pidfd = watch(pidfd, Interest::READABLE).ok()?;
    let ended = tokio::time::timeout(REAP, pidfd.readable()).await;
    ended.is_ok().then(|| child.try_wait().ok().flatten())?
}
