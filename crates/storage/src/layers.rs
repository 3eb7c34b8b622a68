//! Layers of images: finding one again and committing a new one.

use crate::{Digest, Error, LayerId, StagedLayer, Store};

/// How a layer's blob was compressed (the numbers are those in `layers.json`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None = 0,
    /// bzip2.
    Bzip2 = 1,
    /// gzip.
    Gzip = 2,
    /// xz.
    Xz = 3,
    /// Zstandard, with or without chunks.
    Zstd = 4,
}

/// What is known of a layer besides its content.
#[derive(Clone, Debug)]
pub struct NewLayer {
    /// The layer below.
    pub parent: Option<LayerId>,
    /// The diff ID that the image's configuration promises.
    pub diff_id: Digest,
    /// Digest of the blob as it came.
    pub compressed_digest: Option<Digest>,
    /// Bytes of the blob as it came.
    pub compressed_size: Option<u64>,
    /// How the blob was compressed.
    pub compression: Compression,
}

impl Store {
    /// A layer with that content on top of `parent`, if the store has one: no need to fetch it.
    ///
    /// # Errors
    /// As [`Store::images`].
    pub fn layer_for(
        &self,
        diff_id: &Digest,
        parent: Option<&LayerId>,
    ) -> Result<Option<LayerId>, Error> {
        unimplemented!("{diff_id} {parent:?}")
    }

    /// Makes an unpacked layer one of the store's, durably: its data is synced, then recorded.
    /// Of several that commit the same layer one wins, and all get its ID.
    ///
    /// # Errors
    /// [`Error::DiffIdMismatch`]; [`Error::LayerUnknown`] where a peer removed the parent.
    pub fn commit_layer(&self, staged: StagedLayer, layer: NewLayer) -> Result<LayerId, Error> {
        unimplemented!("{staged:?} {layer:?}")
    }
}
