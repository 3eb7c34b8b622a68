//! Images: a record in `images.json` and the bytes of manifest, configuration and signatures.

mod big_data;
mod prune;
mod remove;

pub(crate) use big_data::file_name as big_data_name;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use self::big_data::{file_name, read_item};
use crate::record::{self, ImageRecord};
use crate::table::Half;
use crate::{Digest, Error, ImageId, LayerId, Store};

/// An image in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Hexadecimal digest of its configuration.
    pub id: ImageId,
    /// Digest of the manifest it was pulled by first.
    pub digest: Option<Digest>,
    /// Digests of all its manifests, `digest` among them.
    pub digests: Vec<Digest>,
    /// References that name it, fully qualified (`docker.io/library/busybox:latest`).
    pub names: Vec<String>,
    /// References that name it or did, newest first.
    pub names_history: Vec<String>,
    /// Its top layer; an image without any layer has none.
    pub top_layer: Option<LayerId>,
    /// When the image was made (its configuration's `created`), nanoseconds since the epoch.
    pub created: i128,
    /// Keys of its big data, with their sizes.
    pub big_data: Vec<(String, u64)>,
    /// Whatever containers/image keeps about signatures (JSON).
    pub metadata: String,
    /// It is of a store that is only read: it can't be removed.
    pub read_only: bool,
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
    /// JSON of containers/image about the signatures of all its manifests; `{}` without any. It takes
    /// the place of what was there: see [`Store::put_image_with`].
    pub metadata: String,
}

/// What the store has of an image already, read under the lock under which it is changed.
#[derive(Debug)]
pub struct KnownImage<'a> {
    image: &'a Image,
    dir: &'a Path,
}

impl KnownImage<'_> {
    /// Whatever containers/image keeps about signatures (JSON).
    #[must_use]
    pub fn metadata(&self) -> &str {
        &self.image.metadata
    }

    /// An item of it.
    ///
    /// # Errors
    /// [`Error::NoBigData`], [`Error::Io`].
    pub fn item(&self, key: &str) -> Result<Vec<u8>, Error> {
        read_item(self.dir, self.image, key)
    }
}

/// All images of a snapshot, and by name.
pub(crate) struct ImageIndex {
    list: Arc<[Arc<Image>]>,
    by_id: HashMap<ImageId, usize>,
    by_name: HashMap<String, usize>,
}

/// Makes the index from the records.
pub(crate) fn index(rows: &[Arc<ImageRecord>], read_only: bool) -> ImageIndex {
    let shown = |row: &Arc<ImageRecord>| Image {
        read_only,
        ..Image::from(row.as_ref())
    };
    let list: Arc<[_]> = rows.iter().map(|row| Arc::new(shown(row))).collect();
    let by_id = list
        .iter()
        .enumerate()
        .map(|(at, image)| (image.id.clone(), at))
        .collect();
    let names = list.iter().enumerate();
    let names = names.flat_map(|(at, image)| image.names.iter().map(move |n| (n.clone(), at)));
    ImageIndex {
        by_name: names.collect(),
        by_id,
        list,
    }
}

impl ImageIndex {
    pub(crate) fn list(&self) -> &[Arc<Image>] {
        &self.list
    }

    fn by_id(&self, id: &ImageId) -> Option<Arc<Image>> {
        self.by_id.get(id).map(|at| Arc::clone(&self.list[*at]))
    }

    fn by_name(&self, name: &str) -> Option<Arc<Image>> {
        self.by_name.get(name).map(|at| Arc::clone(&self.list[*at]))
    }
}

impl From<&ImageRecord> for Image {
    fn from(record: &ImageRecord) -> Self {
        let digest: Option<Digest> = record.digest.parse().ok();
        let digest = digest.or_else(|| record.big_data.digests.get("manifest")?.parse().ok());
        let mut digests: Vec<Digest> = digest.iter().cloned().collect();
        for (key, of) in &record.big_data.digests {
            if let (true, Ok(of)) = (key.starts_with("manifest"), of.parse())
                && !digests.contains(&of)
            {
                digests.push(of);
            }
        }
        let sizes = &record.big_data.sizes;
        let size = |key| u64::try_from(sizes.get(key).copied().unwrap_or(0)).unwrap_or(0);
        Self {
            id: record.id.clone(),
            digest,
            digests,
            names: record.names.clone(),
            names_history: record.names_history.clone(),
            top_layer: record.top_layer.clone(),
            created: record::nanoseconds(&record.created),
            big_data: record
                .big_data
                .names
                .iter()
                .map(|key| (key.clone(), size(key)))
                .collect(),
            metadata: record.metadata.clone(),
            read_only: false,
        }
    }
}

impl Store {
    /// All images, ours first. Costs one read of 64 bytes while nothing changed, and never waits for a
    /// peer's lock once there was a first answer.
    ///
    /// # Errors
    /// [`Error::Locked`] (at first only), [`Error::Damaged`], [`Error::Io`].
    pub fn images(&self) -> Result<Arc<[Arc<Image>]>, Error> {
        self.with_additional(&self.0.images.read()?.view.list)
    }

    /// The image `id`.
    ///
    /// # Errors
    /// [`Error::ImageUnknown`]; else as [`Store::images`].
    pub fn image(&self, id: &ImageId) -> Result<Arc<Image>, Error> {
        let own = self.0.images.read()?.view.by_id(id);
        let found = match own {
            Some(own) => Some(own),
            None => self.find_additional(|images| images.by_id(id))?,
        };
        found.ok_or_else(|| Error::ImageUnknown(id.to_string()))
    }

    /// The image that `name` (fully qualified) names.
    ///
    /// # Errors
    /// [`Error::ImageUnknown`]; else as [`Store::images`].
    pub fn image_by_name(&self, name: &str) -> Result<Arc<Image>, Error> {
        let own = self.0.images.read()?.view.by_name(name);
        let found = match own {
            Some(own) => Some(own),
            None => self.find_additional(|images| images.by_name(name))?,
        };
        found.ok_or_else(|| Error::ImageUnknown(name.into()))
    }

    /// Bytes of an image: its uncompressed layers, as their records say, and its big data. From
    /// the snapshots: nothing on disk is touched.
    ///
    /// # Errors
    /// As [`Store::image`].
    pub fn image_size(&self, id: &ImageId) -> Result<u64, Error> {
        let image = self.image(id)?;
        let layers = self.all_layers()?;
        let layers: u64 = layers
            .chain(image.top_layer.as_ref())
            .map(|layer| u64::try_from(layer.diff_size).unwrap_or(0))
            .sum();
        Ok(layers + image.big_data.iter().map(|(_, size)| size).sum::<u64>())
    }

    /// Records an image, durably. A name that another image has moves here and stays in that
    /// one's history. If the image is there already, names and items are added.
    ///
    /// # Errors
    /// [`Error::LayerUnknown`] where a peer removed the top layer meanwhile: pull again.
    pub fn put_image(&self, image: NewImage) -> Result<Arc<Image>, Error> {
        self.put_image_with(image, |_, _| Ok(()))
    }

    /// As [`Store::put_image`], with items and metadata that `amend` makes of what is there, with the
    /// table locked: nothing that others add at the same time is lost. An image that only a store has
    /// that is only read is copied first; what can't be copied is not known.
    ///
    /// # Errors
    /// As [`Store::put_image`], and those of `amend`, with which nothing changes.
    pub fn put_image_with(
        &self,
        mut image: NewImage,
        amend: impl FnOnce(&mut NewImage, Option<&KnownImage<'_>>) -> Result<(), Error>,
    ) -> Result<Arc<Image>, Error> {
        let elsewhere = self.additional_layers()?;
        let record_elsewhere = self.additional_record(&image.id)?;
        let layers = self.0.layers.hold()?;
        let is_usable = |id: &LayerId| {
            let own = layers.snapshot.get(id.as_str());
            own.or_else(|| elsewhere.get(id))
                .is_some_and(|layer| !layer.is_incomplete())
        };
        if let Some(top) = &image.top_layer
            && !is_usable(top)
        {
            return Err(Error::LayerUnknown(top.clone()));
        }
        let mut images = self.0.images.write()?;
        let known = images.get(image.id.as_str()).map(AsRef::as_ref).cloned();
        let known = known.or_else(|| self.copied(&record_elsewhere?));
        let dir = self.paths().own_image(&image.id);
        let there = known.as_ref().map(Image::from);
        let there = there.as_ref().map(|image| KnownImage { image, dir: &dir });
        amend(&mut image, there.as_ref())?;
        let mut record = known.unwrap_or_else(|| ImageRecord::new(&image));
        if !record.top_layer.as_ref().is_some_and(is_usable) {
            record.top_layer.clone_from(&image.top_layer);
        }
        record.metadata.clone_from(&image.metadata);
        self.write_big_data(&mut record, &image.big_data)?;
        for row in &mut images.rows {
            if row.names.iter().any(|name| image.names.contains(name)) {
                Arc::make_mut(row)
                    .names
                    .retain(|name| !image.names.contains(name));
            }
        }
        for name in &image.names {
            record.add_name(name);
        }
        match images.get_mut(image.id.as_str()) {
            Some(row) => *row = record,
            None => images.rows.push(Arc::new(record)),
        }
        images.save(Half::Stable)?;
        let snapshot = images.snapshot();
        let at = snapshot.view.by_id[&image.id];
        Ok(Arc::clone(&snapshot.view.list[at]))
    }

    /// A copy of an image that is only read, which there is without it too.
    fn copied(&self, (record, dir): &(Arc<ImageRecord>, PathBuf)) -> Option<ImageRecord> {
        let copied = self.copy_up(record, dir);
        let copied = copied.inspect_err(|error| {
            tracing::warn!(image = %record.id, %error, "an image that is only read can't be copied");
        });
        copied.ok()
    }

    /// Adds a name to an image; one that another image has moves here.
    ///
    /// # Errors
    /// [`Error::ImageUnknown`], [`Error::Locked`], [`Error::Damaged`], [`Error::Io`].
    pub fn tag(&self, id: &ImageId, name: &str) -> Result<(), Error> {
        let elsewhere = self.additional_record(id)?;
        let mut images = self.0.images.write()?;
        if images.get(id.as_str()).is_none() {
            // One that is only read gets a record of ours on its layers, as peers do.
            let Some((record, dir)) = elsewhere else {
                return Err(Error::ImageUnknown(id.to_string()));
            };
            images.rows.push(Arc::new(self.copy_up(&record, &dir)?));
        }
        for row in &mut images.rows {
            if row.id != *id && row.names.iter().any(|known| known == name) {
                Arc::make_mut(row).names.retain(|known| known != name);
            }
        }
        images
            .get_mut(id.as_str())
            .expect("found above")
            .add_name(name);
        images.save(Half::Stable)
    }

    /// Takes `name` from the image that has it, which stays; it is fine if none has it.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] where it is of a store that is only read; [`Error::Locked`], [`Error::Damaged`], [`Error::Io`].
    pub fn untag(&self, name: &str) -> Result<(), Error> {
        self.taking(|| self.untag_once(name))
    }

    fn untag_once(&self, name: &str) -> Result<(), Error> {
        let mut images = self.0.images.write()?;
        let mut changed = false;
        for row in &mut images.rows {
            if row.names.iter().any(|known| known == name) {
                Arc::make_mut(row).names.retain(|known| known != name);
                changed = true;
            }
        }
        if changed {
            return images.save(Half::Stable);
        }
        drop(images);
        match self.find_additional(|images| images.by_name(name))? {
            Some(image) => Err(Error::ReadOnly(image.id.clone())),
            None => Ok(()),
        }
    }
}

impl ImageRecord {
    fn new(image: &NewImage) -> Self {
        Self {
            id: image.id.clone(),
            digest: image
                .digest
                .as_ref()
                .map(Digest::to_string)
                .unwrap_or_default(),
            names: Vec::new(),
            names_history: Vec::new(),
            top_layer: None,
            mapped_layers: Vec::new(),
            metadata: String::new(),
            big_data: record::BigData::default(),
            created: image.created.map_or_else(record::now, record::time),
            other: serde_json::Map::new(),
        }
    }

    /// Adds a name, and to the front of the history.
    fn add_name(&mut self, name: &str) {
        if !self.names.iter().any(|known| known == name) {
            self.names.push(name.to_owned());
        }
        self.names_history.retain(|known| known != name);
        self.names_history.insert(0, name.to_owned());
    }
}
