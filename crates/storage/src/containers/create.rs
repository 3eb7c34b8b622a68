//! Making a container.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Container, Copy, NewContainer};
use crate::driver::Copied;
use crate::error::Context;
use crate::record::{self, BigData, ContainerRecord, LayerRecord};
use crate::staging::Staging;
use crate::table::{Half, Writing};
use crate::{Error, LayerId, Store, driver, open};

impl Store {
    /// Makes a container's record, writable layer and directories. If there is one of that ID it
    /// is returned as it is. Nothing is synced: after a power cut it may be gone.
    ///
    /// # Errors
    /// [`Error::NameInUse`], [`Error::ImageUnknown`], [`Error::LayerUnknown`].
    pub fn create_container(&self, container: NewContainer) -> Result<Arc<Container>, Error> {
        if let Ok(there) = self.container(&container.id) {
            return Ok(there);
        }
        let elsewhere = self.additional_layers()?;
        let top = self.top_of(&container)?;
        let copied = match &top {
            Some(parent) => self.copy(parent.as_ref(), &container.mount_label)?,
            None => None,
        };
        let mut layers = self.write_layers()?;
        if self.top_of(&container)? != top {
            // Another image has its ID now.
            let image = container.image.as_ref().map(ToString::to_string);
            return Err(Error::ImageUnknown(image.unwrap_or_default()));
        }
        let mut containers = self.0.containers.write()?;
        if containers.get(container.id.as_str()).is_some() {
            drop(containers);
            return self.container(&container.id);
        }
        for name in &container.names {
            let holder = containers.rows.iter().find(|row| row.names.contains(name));
            if let Some(holder) = holder {
                return Err(Error::NameInUse {
                    name: name.clone(),
                    holder: holder.id.clone(),
                });
            }
        }
        let layer = match top {
            Some(Some(parent))
                if layers.get(parent.as_str()).is_none() && elsewhere.get(&parent).is_none() =>
            {
                return Err(Error::LayerUnknown(parent));
            }
            Some(parent) => Some(self.create_writable(&mut layers, parent, copied, &container)?),
            None => None,
        };
        let row = container_record(&container, layer.as_ref().map(|layer| layer.id.clone()));
        let mut record = || {
            self.make_container_dirs(&row)?;
            Copy::write(self.paths(), &row, layer.as_ref())?;
            sys::fault::point("storage.container.layered").at("make", self.paths().root())?;
            containers.rows.push(Arc::new(row.clone()));
            containers.save(Half::Volatile)
        };
        if let Err(error) = record() {
            if let Some(layer) = &layer {
                self.undo_layer(&mut layers, &layer.id);
            }
            return Err(error);
        }
        Ok(Arc::new(Container::from_record(self.paths(), &row)))
    }

    /// The layer that the container's goes on; `None` inside for an image without any.
    fn top_of(&self, container: &NewContainer) -> Result<Option<Option<LayerId>>, Error> {
        match &container.image {
            Some(image) => Ok(Some(self.image(image)?.top_layer.clone())),
            None => Ok(None),
        }
    }

    fn copy(&self, parent: Option<&LayerId>, label: &str) -> Result<Option<Copied>, Error> {
        let copied = self.driver().copy(self.paths(), parent, label);
        copied.map_err(|error| match (error, parent) {
            // A peer removed it while it was copied.
            (Error::Io { source, .. }, Some(parent))
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Error::LayerUnknown(parent.clone())
            }
            (error, _) => error,
        })
    }

    fn create_writable(
        &self,
        layers: &mut Writing<'_, LayerRecord, ()>,
        parent: Option<LayerId>,
        copied: Option<Copied>,
        container: &NewContainer,
    ) -> Result<LayerRecord, Error> {
        let id = LayerId::random();
        let record = LayerRecord {
            mount_label: container.mount_label.clone(),
            half: Half::Volatile,
            other: id_maps(container),
            ..LayerRecord::new(id.clone(), parent.clone())
        };
        layers.rows.push(Arc::new(record));
        layers.save(Half::Volatile)?;
        let wanted = driver::Writable {
            id: &id,
            parent: parent.as_ref(),
            map: container.id_map,
            copied,
            mask: self.0.options.force_mask,
            quotas: self.0.quotas.as_ref(),
        };
        let made = self.driver().make_writable(self.paths(), &wanted);
        let made = made.and_then(|()| {
            layers
                .get_mut(id.as_str())
                .expect("pushed above")
                .mark_complete();
            layers.save(Half::Volatile)
        });
        if let Err(error) = made {
            self.undo_layer(layers, &id);
            return Err(error);
        }
        Ok(layers
            .get(id.as_str())
            .expect("pushed above")
            .as_ref()
            .clone())
    }

    /// Removes a layer that was just made. What fails here the next holder of the lock removes.
    fn undo_layer(&self, layers: &mut Writing<'_, LayerRecord, ()>, id: &LayerId) {
        if let Some(row) = layers.get_mut(id.as_str()) {
            row.mark_incomplete();
        }
        let undone = Staging::for_containers(self.paths())
            .and_then(|trash| open::remove_incomplete(self.paths(), layers, &trash));
        if let Err(error) = undone {
            tracing::warn!(layer = %id, %error, "writable layer not removed");
        }
    }

    fn make_container_dirs(&self, row: &ContainerRecord) -> Result<(), Error> {
        for dir in [
            self.paths().container(&row.id),
            self.paths().run_container(&row.id),
        ] {
            driver::make_dirs(&dir.join("userdata"), 0o700)?;
        }
        Ok(())
    }
}

fn container_record(container: &NewContainer, layer: Option<LayerId>) -> ContainerRecord {
    let mut names: Vec<String> = Vec::new();
    for name in &container.names {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let mut flags = Map::new();
    flags.insert("MountLabel".into(), container.mount_label.clone().into());
    flags.insert(
        "ProcessLabel".into(),
        container.process_label.clone().into(),
    );
    flags.insert("Volatile".into(), Value::Bool(true));
    ContainerRecord {
        id: container.id.clone(),
        names,
        image: container.image.clone(),
        layer,
        metadata: container.metadata.clone(),
        big_data: BigData::default(),
        created: record::now(),
        flags,
        other: id_maps(container),
        half: Half::Volatile,
    }
}

/// `uidmap` and `gidmap` of a container in a user namespace.
fn id_maps(container: &NewContainer) -> Map<String, Value> {
    let Some(map) = container.id_map else {
        return Map::new();
    };
    [("uidmap", map.users), ("gidmap", map.groups)]
        .map(|(key, range)| (key.to_owned(), range.to_json()))
        .into_iter()
        .collect()
}
