//! Stores beside ours that are only read (`additionalimagestores`): their images are listed, found and
//! run, and their layers can have ours on top of them. Nothing in them is ever changed.
//!
//! Where images have a root of their own, the graph root's older images are one of these too; its
//! layers are in our own table.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::images::{self, ImageIndex};
use crate::paths::Paths;
use crate::record::{ImageRecord, LayerRecord};
use crate::table::{ReadOnly, Snapshot};
use crate::{Error, Image, ImageId, LayerId, Store};

/// A store that is only read.
#[derive(Debug)]
pub(crate) struct Additional {
    root: PathBuf,
    layers: Option<ReadOnly<LayerRecord, ()>>,
    images: ReadOnly<ImageRecord, ImageIndex>,
}

impl Additional {
    /// All that `paths` tell of.
    pub(crate) fn all(paths: &Paths, timeout: Duration) -> Vec<Self> {
        let old_images = paths.is_split().then(|| Self {
            root: paths.root().to_owned(),
            layers: None,
            images: images_of(paths.driver().table(paths.root(), "images"), timeout),
        });
        let additional = paths.additional().iter().map(|root| {
            let dir = paths.driver().table(root, "layers");
            let (lock, records) = (dir.join("layers.lock"), dir.join("layers.json"));
            Self {
                root: root.clone(),
                layers: Some(ReadOnly::new(lock, records, timeout, |_: &[Arc<_>]| ())),
                images: images_of(paths.driver().table(root, "images"), timeout),
            }
        });
        old_images.into_iter().chain(additional).collect()
    }
}

fn images_of(dir: PathBuf, timeout: Duration) -> ReadOnly<ImageRecord, ImageIndex> {
    let (lock, records) = (dir.join("images.lock"), dir.join("images.json"));
    ReadOnly::new(lock, records, timeout, |rows: &[Arc<_>]| {
        images::index(rows, true)
    })
}

/// The layers of all stores, ours first.
pub(crate) struct Layers(Vec<Arc<Snapshot<LayerRecord, ()>>>);

impl Layers {
    pub(crate) fn get(&self, id: &LayerId) -> Option<&Arc<LayerRecord>> {
        self.0.iter().find_map(|layers| layers.get(id.as_str()))
    }

    /// The layers of each store.
    pub(crate) fn stores(&self) -> impl Iterator<Item = &[Arc<LayerRecord>]> {
        self.0.iter().map(|layers| layers.rows.as_slice())
    }

    /// The chain of layers from `top` down. It ends at a missing one, and a loop of parents too.
    pub(crate) fn chain<'a>(
        &'a self,
        top: Option<&LayerId>,
    ) -> impl Iterator<Item = &'a Arc<LayerRecord>> {
        let first = top.and_then(|id| self.get(id));
        std::iter::successors(first, |layer| self.get(layer.parent.as_ref()?))
            .take(crate::limits::LOWERS + 1)
    }
}

impl Store {
    pub(crate) fn all_layers(&self) -> Result<Layers, Error> {
        let mut all = vec![self.0.layers.read()?];
        all.extend(self.additional_layers()?.0);
        Ok(Layers(all))
    }

    /// The layers of the stores that are only read: no lock of ours is taken for them.
    pub(crate) fn additional_layers(&self) -> Result<Layers, Error> {
        let tables = self.0.additional.iter();
        let tables = tables.filter_map(|store| store.layers.as_ref());
        tables
            .map(ReadOnly::read)
            .collect::<Result<_, _>>()
            .map(Layers)
    }

    /// Images of the stores that are only read, but for those that `own` has; of two with a name
    /// that which is found by it has it.
    pub(crate) fn with_additional(
        &self,
        own: &Arc<[Arc<Image>]>,
    ) -> Result<Arc<[Arc<Image>]>, Error> {
        if self.0.additional.is_empty() {
            return Ok(Arc::clone(own));
        }
        let mut all = own.to_vec();
        for store in &self.0.additional {
            for image in store.images.read()?.view.list() {
                if all.iter().any(|known| known.id == image.id) {
                    continue;
                }
                let is_taken = |name: &String| all.iter().any(|known| known.names.contains(name));
                if image.names.iter().any(is_taken) {
                    let mut shown = image.as_ref().clone();
                    shown.names.retain(|name| !is_taken(name));
                    all.push(Arc::new(shown));
                } else {
                    all.push(Arc::clone(image));
                }
            }
        }
        Ok(all.into())
    }

    /// The first of the stores that are only read in which `find` finds an image, and that.
    pub(crate) fn find_additional(
        &self,
        find: impl Fn(&ImageIndex) -> Option<Arc<Image>>,
    ) -> Result<Option<Arc<Image>>, Error> {
        for store in &self.0.additional {
            if let Some(image) = find(&store.images.read()?.view) {
                return Ok(Some(image));
            }
        }
        Ok(None)
    }

    /// Top layers of images that are only read. Those of the graph root are in our own table, where
    /// images have a root of their own: they are needed like those of any image of ours.
    pub(crate) fn tops_elsewhere(&self) -> Result<Vec<LayerId>, Error> {
        let mut tops = Vec::new();
        for store in &self.0.additional {
            for record in &store.images.read()?.rows {
                tops.extend(
                    record
                        .top_layer
                        .iter()
                        .chain(&record.mapped_layers)
                        .cloned(),
                );
            }
        }
        Ok(tops)
    }

    /// Records and directories of all images of stores that are only read.
    pub(crate) fn additional_records(&self) -> Result<Vec<(Arc<ImageRecord>, PathBuf)>, Error> {
        let mut all = Vec::new();
        for store in &self.0.additional {
            let dir = self.paths().driver().table(&store.root, "images");
            let images = store.images.read()?;
            let images = images.rows.iter();
            all.extend(images.map(|image| (Arc::clone(image), dir.join(image.id.as_str()))));
        }
        Ok(all)
    }

    /// Record and directory of an image of a store that is only read.
    pub(crate) fn additional_record(
        &self,
        id: &ImageId,
    ) -> Result<Option<(Arc<ImageRecord>, PathBuf)>, Error> {
        for store in &self.0.additional {
            if let Some(record) = store.images.read()?.get(id.as_str()) {
                let dir = self.paths().driver().table(&store.root, "images");
                let dir = dir.join(id.as_str());
                return Ok(Some((Arc::clone(record), dir)));
            }
        }
        Ok(None)
    }
}
