//! What can go wrong in the store, by what a caller can do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::{ContainerId, Digest, ImageId, LayerId};

/// An error of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store can't be where it was asked to be.
    #[error("the overlay store can't be in {}: {reason}", path.display())]
    Unsuitable {
        /// The graph root.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Another process kept a lock for longer than the options allow to wait.
    #[error("{} is locked{}", path.display(), holder.map(|pid| format!(" by process {pid}")).unwrap_or_default())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The process that holds it, where the kernel tells it.
        holder: Option<i32>,
    },
    /// No such image.
    #[error("image not known: {0}")]
    ImageUnknown(String),
    /// No such layer.
    #[error("layer not known: {0}")]
    LayerUnknown(LayerId),
    /// No such container.
    #[error("container not known: {0}")]
    ContainerUnknown(ContainerId),
    /// The container has no layer, so there is nothing to mount.
    #[error("container {0} has no writable layer")]
    NoLayer(ContainerId),
    /// The image has no such item.
    #[error("image {image} has no item {key:?}")]
    NoBigData {
        /// The image.
        image: ImageId,
        /// The key asked for.
        key: String,
    },
    /// An artifact's blob is not there.
    #[error("artifact's blob {0} is missing")]
    NoBlob(Digest),
    /// The image can't go while a container uses it.
    #[error("image {image} is in use by container {container}")]
    ImageInUse {
        /// The image.
        image: ImageId,
        /// A container that was made from it.
        container: ContainerId,
    },
    /// The image is of a store that is only read.
    #[error("image {0} is in a read-only store")]
    ReadOnly(ImageId),
    /// The layer can't go while something uses it.
    #[error("layer {0} is in use")]
    LayerInUse(LayerId),
    /// The store can't go while a container's root file system is mounted.
    #[error("container {0} is in use")]
    ContainerInUse(ContainerId),
    /// The name belongs to another container.
    #[error("the container name {name:?} is already in use by {holder}")]
    NameInUse {
        /// The name.
        name: String,
        /// Who has it.
        holder: ContainerId,
    },
    /// A layer's bytes have another digest than the image's configuration promises.
    #[error("layer has the diff ID {actual} and should have {expected}")]
    DiffIdMismatch {
        /// What the configuration says.
        expected: Digest,
        /// What was unpacked.
        actual: Digest,
    },
    /// An ID or key can't be a file's name.
    #[error("invalid {what}: {value:?}")]
    Invalid {
        /// What it was to be.
        what: &'static str,
        /// What came.
        value: String,
    },
    /// The layer's archive is damaged, hostile or of a kind we don't read.
    #[error("layer archive, entry {entry:?}: {reason}")]
    Archive {
        /// Name of the entry it is about, or of the one before.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The layer's archive is larger than the limits allow.
    #[error("layer archive exceeds {limit} {what}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much may be.
        limit: u64,
    },
    /// Reading the layer failed: the source is the reader's own error.
    #[error("reading the layer")]
    Read(#[source] io::Error),
    /// A JSON file of the store can't be read.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// A file of the store failed us.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    /// Whether the disk (or a quota, or the number of inodes) is exhausted.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        let (Self::Io { source, .. } | Self::Read(source)) = self else {
            return false;
        };
        matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }
}

/// Says what was done to which path when a call failed.
pub(crate) trait Context<T> {
    fn at(self, doing: &'static str, path: impl AsRef<Path>) -> Result<T, Error>;
}

impl<T> Context<T> for io::Result<T> {
    fn at(self, doing: &'static str, path: impl AsRef<Path>) -> Result<T, Error> {
        self.map_err(|source| Error::Io {
            doing,
            path: path.as_ref().to_owned(),
            source,
        })
    }
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn at(self, doing: &'static str, path: impl AsRef<Path>) -> Result<T, Error> {
        self.map_err(io::Error::from).at(doing, path)
    }
}
