//! Why a request got no good answer.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use monitor_protocol::{DecodeError, ErrorKind};

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a request got no good answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The monitor did the right thing: it refused, or its runtime failed.
    #[error("{text}")]
    Refused {
        /// What kind of failure.
        kind: ErrorKind,
        /// What happened; the runtime's own words where it was the runtime.
        text: String,
    },
    /// The connection is closed: the monitor died, before or after it did what was asked.
    #[error("monitor lost")]
    Lost,
    /// The monitor could not be started.
    #[error("start monitor")]
    Spawn(#[source] sys::spawn::Error),
    /// A monitor was started and did not come up in time, or ended at once.
    #[error("monitor of {} {}: {text}", dir.display(), how_it_failed(*after))]
    NotReady {
        /// Its directory.
        dir: PathBuf,
        /// What it was given, where it lived as long.
        after: Option<Duration>,
        /// What it wrote to its standard error.
        text: String,
    },
    /// A request that fits no message.
    #[error("encode request")]
    TooLarge(#[source] DecodeError),
    /// An answer that doesn't belong to the request.
    #[error("unexpected answer to {request}")]
    Unexpected {
        /// The request.
        request: &'static str,
    },
    /// A system call failed.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Its error.
        source: io::Error,
    },
}

fn how_it_failed(after: Option<Duration>) -> String {
    match after {
        Some(after) => format!("is not ready after {after:?}"),
        None => "ended at once".to_owned(),
    }
}
