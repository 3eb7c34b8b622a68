//! Another store of the node, to take images out of it. It is only read: neither a lock file nor a
//! directory is made there, and no mount.
//!
//! Of its layers the archives are made again from the tar-split, as for any peer that copies them.

use std::collections::HashSet;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::check::assemble;
use crate::images::{self, ImageIndex, read_item};
use crate::record::{ImageRecord, LayerRecord};
use crate::table::ReadOnly;
use crate::{Digest, Driver, Error, Image, LayerId, limits};

/// A store that is only read.
pub struct OtherStore {
    root: PathBuf,
    driver: Driver,
    layers: ReadOnly<LayerRecord, ()>,
    images: ReadOnly<ImageRecord, ImageIndex>,
}

impl OtherStore {
    /// The store of that driver beneath `root`.
    ///
    /// # Errors
    /// [`Error::Unsuitable`]: there is none.
    pub fn open(root: &Path, driver: Driver, lock_timeout: Duration) -> Result<Self, Error> {
        let table = |name: &str| driver.table(root, name);
        if !table("images").join("images.json").is_file() {
            return Err(Error::Unsuitable {
                path: root.to_owned(),
                reason: format!("it has no images of the driver {}", driver.name()),
            });
        }
        let lock = |name: &str| table(name).join(format!("{name}.lock"));
        let records = |name: &str| table(name).join(format!("{name}.json"));
        let layers = ReadOnly::new(
            lock("layers"),
            records("layers"),
            lock_timeout,
            |_: &[Arc<_>]| (),
        );
        let images = ReadOnly::new(
            lock("images"),
            records("images"),
            lock_timeout,
            |rows: &[Arc<_>]| images::index(rows, true),
        );
        Ok(Self {
            root: root.to_owned(),
            driver,
            layers,
            images,
        })
    }

    /// Its images.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Damaged`], [`Error::Io`].
    pub fn images(&self) -> Result<Vec<Arc<Image>>, Error> {
        Ok(self.images.read()?.view.list().to_vec())
    }

    /// An item of an image of it.
    ///
    /// # Errors
    /// [`Error::NoBigData`], [`Error::Io`].
    pub fn big_data(&self, image: &Image, key: &str) -> Result<Vec<u8>, Error> {
        let dir = self.table("images").join(image.id.as_str());
        read_item(&dir, image, key)
    }

    /// An image's layers from the lowest up, each with its diff ID where its record has one.
    ///
    /// # Errors
    /// [`Error::LayerUnknown`]: one is not in this store; else as [`OtherStore::images`].
    pub fn layers(&self, image: &Image) -> Result<Vec<(Option<Digest>, LayerId)>, Error> {
        let layers = self.layers.read()?;
        let (mut chain, mut seen) = (Vec::new(), HashSet::new());
        let mut next = image.top_layer.clone();
        while let Some(id) = next {
            let layer = layers.get(id.as_str());
            // A loop of parents has an end, too.
            let fresh = seen.insert(id.clone()) && chain.len() < limits::LOWERS;
            let layer = layer.filter(|_| fresh).ok_or(Error::LayerUnknown(id))?;
            next = layer.parent.clone();
            chain.push((layer.diff_digest.parse().ok(), layer.id.clone()));
        }
        chain.reverse();
        Ok(chain)
    }

    /// Writes a layer's uncompressed archive, bit by bit as it came.
    ///
    /// # Errors
    /// [`Error::Io`], of kind `InvalidData` where a file has changed.
    pub fn write_layer(&self, id: &LayerId, archive: impl Write) -> Result<(), Error> {
        let tar_split = self.table("layers").join(format!("{id}.tar-split.gz"));
        let layer = self.driver.layer(&self.driver.home(&self.root), id);
        assemble(&tar_split, &self.driver.files(&layer), archive)
    }

    fn table(&self, name: &str) -> PathBuf {
        self.driver.table(&self.root, name)
    }
}

impl fmt::Debug for OtherStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtherStore")
            .field("root", &self.root)
            .field("driver", &self.driver)
            .finish_non_exhaustive()
    }
}
