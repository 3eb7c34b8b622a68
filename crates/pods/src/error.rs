//! Why something asked of a pod or container did not happen.

use std::io;
use std::path::PathBuf;

use crate::state::container::IllegalStep;

/// Why something asked of a pod or container did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is none of that id.
    #[error("could not find {what} {id:?}")]
    NotFound {
        /// `pod sandbox` or `container`.
        what: &'static str,
        /// As given.
        id: String,
    },
    /// More than one id begins like that.
    #[error("more than one {what} id begins with {id:?}")]
    Ambiguous {
        /// `pod sandbox` or `container`.
        what: &'static str,
        /// As given.
        id: String,
    },
    /// The request can't be meant.
    #[error("{0}")]
    Invalid(String),
    /// The same name with another request.
    #[error("{0}")]
    AlreadyExists(String),
    /// Not in the state that it would have to be in.
    #[error("{0}")]
    WrongState(String),
    /// A state machine of ours was driven wrongly.
    #[error(transparent)]
    Step(#[from] IllegalStep),
    /// The time given for it is spent.
    #[error("{0}")]
    TimedOut(String),
    /// The node has no network yet.
    #[error("network is not ready: {0}")]
    NetworkNotReady(String),
    /// The image is not on the node.
    #[error("image {0:?} is not present: pull it first")]
    NoImage(String),
    /// An image can't be mounted in a container. The first word is the kubelet's.
    #[error("ImageVolumeMountFailed: image {image:?} on {container_path}: {text}")]
    ImageVolume {
        /// The image, as asked for.
        image: String,
        /// Where it was to be.
        container_path: String,
        /// Why it isn't.
        text: String,
    },
    /// The image may not run, or can't be read.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// The node's CDI spec files don't give what was asked for.
    #[error("CDI device injection failed: {0}")]
    Cdi(String),
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// The network plugins failed.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// The request does not make a spec.
    #[error(transparent)]
    Spec(#[from] spec::Error),
    /// The runtime handler can't be used.
    #[error(transparent)]
    Handler(#[from] runtime::Error),
    /// The monitor could not be reached or could not do it.
    #[error("monitor: {0}")]
    Monitor(String),
    /// The OCI runtime refused; its own words.
    #[error("{doing}: {text}")]
    Runtime {
        /// What it was to do.
        doing: &'static str,
        /// What it said.
        text: String,
    },
    /// systemd could not be reached or refused.
    #[error(transparent)]
    Systemd(#[from] systemd::Error),
    /// A helper program failed.
    #[error("{program}: {text}")]
    Helper {
        /// Which.
        program: &'static str,
        /// What it said.
        text: String,
    },
    /// A system call failed.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A task of ours ended by a panic.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Error {
    /// Whether the disk, or a quota, is exhausted.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Self::Storage(error) => error.is_out_of_space(),
            Self::Io { source, .. } => matches!(source.kind(), StorageFull | QuotaExceeded),
            _ => false,
        }
    }

    /// Whether processes, descriptors or memory are exhausted.
    #[must_use]
    pub fn is_out_of_resources(&self) -> bool {
        use rustix::io::Errno;
        let all = [Errno::AGAIN, Errno::NOMEM, Errno::MFILE, Errno::NFILE];
        let is =
            |error: &io::Error| Errno::from_io_error(error).is_some_and(|of| all.contains(&of));
        match self {
            Self::Storage(storage::Error::Io { source, .. }) | Self::Io { source, .. } => {
                is(source)
            }
            _ => false,
        }
    }

    /// Wraps a failed system call: `map_err(Error::io("read", &path))`.
    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }
}
