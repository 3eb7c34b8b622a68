//! Removing images, and the layers that nothing else uses.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;

use crate::error::Context;
use crate::record::{ContainerRecord, ImageRecord, LayerRecord};
use crate::staging::Staging;
use crate::table::{Half, Writing};
use crate::{Error, ImageId, LayerId, Store, open};

impl Store {
    /// Removes an image and those of its layers that nothing else uses. Their files are deleted
    /// after the locks are released.
    ///
    /// # Errors
    /// [`Error::ImageInUse`] names a container; [`Error::ReadOnly`], [`Error::ImageUnknown`].
    pub fn remove_image(&self, id: &ImageId) -> Result<(), Error> {
        // What is left to be done where the disk was full after the record was gone.
        let left = RefCell::new(None);
        self.taking(|| match left.take() {
            None => self.remove_image_once(id, &left),
            Some(unused) => self
                .remove_unreferenced(|layer| unused.contains(&layer.id))
                .map(drop),
        })
    }

    fn remove_image_once(
        &self,
        id: &ImageId,
        left: &RefCell<Option<Vec<LayerId>>>,
    ) -> Result<(), Error> {
        let absent = match self.additional_record(id)? {
            Some(_) => Error::ReadOnly(id.clone()),
            None => Error::ImageUnknown(id.to_string()),
        };
        let elsewhere = self.tops_elsewhere()?;
        let trash = Staging::new(self.paths())?;
        let mut layers = self.write_layers()?;
        let mut images = self.0.images.write()?;
        let image = images.get(id.as_str()).map(Arc::clone).ok_or(absent)?;
        let containers = self.0.containers.hold()?;
        let rows = &containers.snapshot.rows;
        if let Some(container) = rows.iter().find(|row| row.image.as_ref() == Some(id)) {
            let container = container.id.clone();
            return Err(Error::ImageInUse {
                image: id.clone(),
                container,
            });
        }
        images.rows.retain(|row| row.id != *id);
        let unused = unused(&layers, &images.rows, rows, &image, &elsewhere);
        // The record goes first: an image without layers would be worse than layers without one.
        images.save(Half::Stable)?;
        left.replace(Some(unused.clone()));
        trash.take(&self.paths().own_image(id))?;
        sys::fault::point("storage.image.unrecorded").at("remove", self.paths().own_image(id))?;
        // Nobody can come to use the layers while their own lock is held, and mounts' lock comes
        // before these two.
        drop((images, containers));
        self.take_layers(&mut layers, &unused, &trash)
    }

    /// Marks layers, moves them away, and takes their records out of the table.
    pub(super) fn take_layers(
        &self,
        layers: &mut Writing<'_, LayerRecord, ()>,
        ids: &[LayerId],
        trash: &Staging,
    ) -> Result<(), Error> {
        if ids.is_empty() {
            return Ok(());
        }
        for id in ids {
            if let Some(row) = layers.get_mut(id.as_str()) {
                row.mark_incomplete();
            }
        }
        for half in Half::ALL {
            let in_half = |id: &&LayerId| {
                let row = layers.get(id.as_str());
                row.is_some_and(|row| row.half == half)
            };
            if ids.iter().any(|id| in_half(&id)) {
                layers.save(half)?;
            }
        }
        for id in ids {
            self.unmount_layer(id, true)?;
        }
        open::remove_incomplete(self.paths(), layers, trash)
    }
}

/// The layers of `image`, from its top down to the first that something else needs.
fn unused(
    layers: &Writing<'_, LayerRecord, ()>,
    images: &[Arc<ImageRecord>],
    containers: &[Arc<ContainerRecord>],
    image: &ImageRecord,
    elsewhere: &[LayerId],
) -> Vec<LayerId> {
    let mut needed: HashSet<&LayerId> = elsewhere.iter().collect();
    needed.extend(
        images
            .iter()
            .flat_map(|image| image.top_layer.iter().chain(&image.mapped_layers)),
    );
    needed.extend(
        containers
            .iter()
            .filter_map(|container| container.layer.as_ref()),
    );
    let mut going: Vec<LayerId> = Vec::new();
    for top in image.top_layer.iter().chain(&image.mapped_layers) {
        let mut next = Some(top);
        while let Some(id) = next {
            let has_child = layers
                .rows
                .iter()
                .any(|row| row.parent.as_ref() == Some(id) && !going.contains(&row.id));
            let Some(row) = layers.get(id.as_str()) else {
                break;
            };
            if needed.contains(id) || has_child || going.contains(id) {
                break;
            }
            going.push(id.clone());
            next = row.parent.as_ref();
        }
    }
    going
}
