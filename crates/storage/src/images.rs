//! Images: a record in `images.json` and the bytes of manifest, configuration and signatures.

use std::sync::Arc;

use crate::{Digest, Error, ImageId, LayerId, Store};

/// An image in the store.
#[derive(Clone, Debug)]
pub struct Image {
    /// Hexadecimal digest of its configuration.
    pub id: ImageId,
    /// Digest of the manifest it was pulled by first.
    pub digest: Option<Digest>,
    /// Digests of all its manifests, `digest` among them.
    pub digests: Vec<Digest>,
    /// References that name it, fully qualified (`docker.io/library/busybox:latest`).
    pub names: Vec<String>,
    /// References that name it or did.
    pub names_history: Vec<String>,
    /// Its top layer; an image without any layer has none.
    pub top_layer: Option<LayerId>,
    /// When the image was made (its configuration's `created`), nanoseconds since the epoch.
    pub created: i128,
    /// Keys of its big data, with their sizes.
    pub big_data: Vec<(String, u64)>,
    /// Whatever containers/image keeps about signatures (JSON).
    pub metadata: String,
}

/// An image to be recorded. Its layers are committed already.
#[derive(Clone, Debug)]
pub struct NewImage {
    /// Hexadecimal digest of its configuration.
    pub id: ImageId,
    /// References that name it from now on; they are taken from other images.
    pub names: Vec<String>,
    /// Digest of the manifest; the manifest's bytes are in `big_data` under `manifest`.
    pub digest: Option<Digest>,
    /// Its top layer.
    pub top_layer: Option<LayerId>,
    /// When the image was made, nanoseconds since the epoch; `None` for now.
    pub created: Option<i128>,
    /// Items by key: `manifest` (what other tools read), `manifest-<digest>` for this and for the
    /// index it came from, the configuration under its digest, `signature-<hex>` where there are
    /// signatures.
    pub big_data: Vec<(String, Vec<u8>)>,
    /// JSON of containers/image about signatures; `{}` without any.
    pub metadata: String,
}

impl Store {
    /// All images. Costs one read of 64 bytes while nothing changed, and never waits for a
    /// peer's lock once there was a first answer.
    ///
    /// # Errors
    /// [`Error::Locked`] (at first only), [`Error::Damaged`], [`Error::Io`].
    pub fn images(&self) -> Result<Arc<[Arc<Image>]>, Error> {
        unimplemented!()
    }

    /// The image `id`.
    ///
    /// # Errors
    /// [`Error::ImageUnknown`]; else as [`Store::images`].
    pub fn image(&self, id: &ImageId) -> Result<Arc<Image>, Error> {
        unimplemented!("{id}")
    }

    /// The image that `name` (fully qualified) names.
    ///
    /// # Errors
    /// [`Error::ImageUnknown`]; else as [`Store::images`].
    pub fn image_by_name(&self, name: &str) -> Result<Arc<Image>, Error> {
        unimplemented!("{name}")
    }

    /// An item of an image: its manifest, its configuration.
    ///
    /// # Errors
    /// [`Error::NoBigData`], [`Error::ImageUnknown`], [`Error::Io`].
    pub fn big_data(&self, id: &ImageId, key: &str) -> Result<Vec<u8>, Error> {
        unimplemented!("{id} {key}")
    }

    /// Bytes of an image: its uncompressed layers, as their records say, and its big data.
    ///
    /// # Errors
    /// As [`Store::image`].
    pub fn image_size(&self, id: &ImageId) -> Result<u64, Error> {
        unimplemented!("{id}")
    }

    /// Records an image, durably. A name that another image has moves here and stays in that
    /// one's history. If the image is there already, names, manifests and signatures are added.
    ///
    /// # Errors
    /// [`Error::LayerUnknown`] where a peer removed the top layer meanwhile: pull again.
    pub fn put_image(&self, image: NewImage) -> Result<Arc<Image>, Error> {
        unimplemented!("{image:?}")
    }

    /// Takes `name` from the image that has it, which stays; it is fine if none has it.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Damaged`], [`Error::Io`].
    pub fn untag(&self, name: &str) -> Result<(), Error> {
        unimplemented!("{name}")
    }

    /// Removes an image and those of its layers that nothing else uses.
    ///
    /// # Errors
    /// [`Error::ImageInUse`] names a container; [`Error::ImageUnknown`].
    pub fn remove_image(&self, id: &ImageId) -> Result<(), Error> {
        unimplemented!("{id}")
    }
}
