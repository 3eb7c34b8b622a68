//! Sessions: what a client at the streaming server is joined to. Streams go by descriptor between a
//! process and us.

mod attach;
mod exec;
mod port;
mod streams;

use std::fmt;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Error, monitors};

pub(crate) use attach::attach;
pub(crate) use exec::exec;
pub(crate) use port::connect;

/// Which streams a session has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    /// Input.
    pub stdin: bool,
    /// Output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

/// A process's streams, those that were asked for and are there, and its end. What is dropped is
/// closed; the process goes on.
pub struct Session {
    /// Its input.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Its output; with a terminal, all of it, and an error at the end.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Its standard error.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Its terminal, if it has one.
    pub terminal: Option<Terminal>,
    /// Its end: its exit code, or `None` where that is lost.
    pub ended: BoxFuture<'static, Option<i32>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("terminal", &self.terminal)
            .finish_non_exhaustive()
    }
}

/// A terminal that may be resized.
#[derive(Debug, Clone)]
pub struct Terminal(Kind);

#[derive(Debug, Clone)]
enum Kind {
    /// Of a process of the session's own: its master.
    Own(Arc<OwnedFd>),
    /// Of a container, whose monitor has the master.
    Container {
        live: Arc<monitors::Live>,
        id: monitor_client::Id,
    },
}

impl Terminal {
    /// Sets its size, in characters.
    ///
    /// # Errors
    /// It is gone.
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<(), Error> {
        match &self.0 {
            Kind::Own(master) => sys::pty::resize(master.as_fd(), rows, columns)
                .map_err(Error::io("resize", "terminal")),
            Kind::Container { live, id } => {
                let monitor = live.monitor().await?;
                let resized = monitor.resize(id, rows, columns).await;
                resized.map_err(|error| Error::Monitor(error.to_string()))
            }
        }
    }
}
