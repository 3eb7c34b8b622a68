//! What can go wrong with an image, by what a caller can do about it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use storage::Digest;

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate. Causes are in it as text: a pull may have failed in another process
/// ([`crate::worker`]), and nobody decides by them.
#[derive(Clone, Debug, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Error {
    /// What was asked for is no image reference, or a short name that can't be resolved.
    #[error("invalid image reference {reference:?}: {reason}")]
    BadReference {
        /// What was asked for.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The registry has no such image.
    #[error("reading manifest {reference}: {detail}")]
    NotFound {
        /// The reference at the registry that was asked.
        reference: String,
        /// The registry's words, or which platform is missing.
        detail: String,
    },
    /// The registry wants other credentials.
    #[error("access to {reference} denied: {detail}")]
    Unauthorized {
        /// The reference at the registry that was asked.
        reference: String,
        /// The registry's words.
        detail: String,
    },
    /// Files of the node are not the image that they were named as.
    #[error("{location}: {reason}")]
    Local {
        /// Transport and path.
        location: String,
        /// What is wrong with them.
        reason: String,
    },
    /// `registries.conf` blocks the registry.
    #[error("registry {registry} is blocked in {}", file.display())]
    Blocked {
        /// The prefix that blocks.
        registry: String,
        /// The file that it is in.
        file: PathBuf,
    },
    /// The policy does not allow the image.
    #[error(transparent)]
    Refused(#[from] trust::Refused),
    /// There is no policy that could allow it.
    #[error("SignatureValidationFailed: {0}")]
    Policy(String),
    /// The registry can't be reached or does not answer sensibly: try again later.
    #[error("RegistryUnavailable: {registry}: {detail}")]
    RegistryUnavailable {
        /// Its host.
        registry: String,
        /// What was tried and how it failed.
        detail: String,
    },
    /// The registry answered with something else than it should have.
    #[error("{url}: {detail}")]
    Registry {
        /// What was asked.
        url: String,
        /// Status and words.
        detail: String,
    },
    /// The registry sent other bytes than were promised.
    #[error("DigestMismatch: content of {expected} has the digest {actual}")]
    DigestMismatch {
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// A manifest, an index or a configuration is not what the specification allows.
    #[error("{what}: {reason}")]
    BadManifest {
        /// Which one.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A layer is damaged, hostile or of a kind we don't read.
    #[error("layer {layer}: {reason}")]
    BadLayer {
        /// Digest of its blob.
        layer: Digest,
        /// What is wrong with it.
        reason: String,
    },
    /// A layer is encrypted, and no key of the node opens it.
    #[error("layer {layer} is encrypted: {reason}")]
    Encrypted {
        /// Digest of its blob.
        layer: Digest,
        /// What was tried.
        reason: String,
    },
    /// The disk (or a quota) is full.
    #[error("no space left for the image: {0}")]
    NoSpace(String),
    /// The image can't go while a container uses it.
    #[error("image {image} is in use by container {container}")]
    InUse {
        /// The image as it was asked for.
        image: String,
        /// A container that was made from it.
        container: String,
    },
    /// The image or artifact is in an additional store, which is only read.
    #[error("{image} is in an additional store, which is read-only")]
    ReadOnly {
        /// The image or artifact as it was asked for.
        image: String,
    },
    /// Several sources were tried: the last one's error, and what the mirrors said.
    #[error("{last} (Mirrors also failed: [{}])", mirrors.join("; "))]
    Sources {
        /// The error of the source that counts: the registry itself, or the last candidate.
        last: Box<Error>,
        /// The others', by source.
        mirrors: Vec<String>,
    },
    /// A configuration file can't be used.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The store failed.
    #[error("image store: {0}")]
    Storage(String),
    /// The process that was to pull could not be started, or ended without a word.
    #[error("process of the pull: {0}")]
    Worker(String),
    /// The pull came to no end; a defect of ours.
    #[error("the pull ended without a result")]
    Interrupted,
}

impl Error {
    /// The error by which a caller decides: what is in a [`Error::Sources`].
    #[must_use]
    pub fn root(&self) -> &Self {
        match self {
            Self::Sources { last, .. } => last.root(),
            other => other,
        }
    }

    pub(crate) fn bad_manifest(what: impl ToString, reason: impl ToString) -> Self {
        Self::BadManifest {
            what: what.to_string(),
            reason: reason.to_string(),
        }
    }
}

impl From<trust::Error> for Error {
    fn from(error: trust::Error) -> Self {
        Self::Policy(chain(&error))
    }
}

impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Self {
        if error.is_out_of_space() {
            return Self::NoSpace(chain(&error));
        }
        match error {
            storage::Error::ImageInUse { image, container } => Self::InUse {
                image: image.to_string(),
                container: container.to_string(),
            },
            storage::Error::ReadOnly(image) => Self::ReadOnly {
                image: image.to_string(),
            },
            other => Self::Storage(chain(&other)),
        }
    }
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
