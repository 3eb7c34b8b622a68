//! Layers on their way into the store, in `overlay/staging`.

use crate::Digest;

/// An unpacked layer that no record names yet. Dropping it removes it.
#[derive(Debug)]
pub struct StagedLayer {
    pub(crate) diff_id: Digest,
    pub(crate) size: u64,
}

impl StagedLayer {
    /// Digest of the uncompressed archive.
    #[must_use]
    pub fn diff_id(&self) -> &Digest {
        &self.diff_id
    }

    /// Bytes of the uncompressed archive.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }
}
