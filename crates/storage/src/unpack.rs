//! From an uncompressed tar stream to a directory that overlay can use.

use std::io::Read;

use crate::{Error, StagedLayer, Store, limits};

/// How much a layer may hold.
#[derive(Clone, Copy, Debug)]
pub struct UnpackLimits {
    /// Bytes of the uncompressed archive, and of the files it makes.
    pub bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self {
            bytes: limits::LAYER_BYTES,
            entries: limits::ENTRIES,
        }
    }
}

impl Store {
    /// Unpacks an uncompressed tar stream (to its very end, past the archive's) into a staging
    /// directory, computing its digest. Takes no lock.
    ///
    /// # Errors
    /// [`Error::Read`] with the reader's own error, [`Error::Archive`], [`Error::TooLarge`],
    /// [`Error::Io`]. Nothing stays on disk then.
    pub fn unpack(&self, tar: impl Read, limits: UnpackLimits) -> Result<StagedLayer, Error> {
        drop(tar);
        unimplemented!("{limits:?}")
    }
}
