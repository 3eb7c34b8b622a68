//! The store: its options, its parts and how it is opened.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::Error;

/// Where the store is and how it behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The graph root, `/var/lib/containers/storage` by default.
    pub root: PathBuf,
    /// The run root, `/run/containers/storage` by default; on a file system that a reboot empties.
    pub run_root: PathBuf,
    /// Options of the containers' overlay mounts (`nodev`, `metacopy=on`, …).
    pub mount_options: Vec<String>,
    /// How long to wait for a lock that another process holds.
    pub lock_timeout: Duration,
}

/// A store. Clones share it.
#[derive(Clone, Debug)]
pub struct Store(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: Options,
}

/// What the store takes of its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all image layers and images' data, by their records: nothing is walked.
    pub bytes: u64,
    /// Inodes in use on the store's file system, by `statfs(2)`.
    pub inodes: u64,
}

impl Store {
    /// Opens the store at `options.root`, making it where there is none; removes what a killed
    /// process left unfinished and rebuilds volatile tables that a power cut tore.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] where overlay can't be used on that file system.
    pub fn open(options: Options) -> Result<Self, Error> {
        Ok(Self(Arc::new(Inner { options })))
    }

    /// The graph root.
    #[must_use]
    pub fn root(&self) -> &std::path::Path {
        &self.0.options.root
    }

    /// What the store takes of its disk. No directory is walked.
    ///
    /// # Errors
    /// As [`Store::images`].
    pub fn usage(&self) -> Result<Usage, Error> {
        unimplemented!()
    }
}
