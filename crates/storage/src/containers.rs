//! Containers: a volatile record and a writable layer on top of an image's layers.
//!
//! Nothing of a container is synced: after a power cut it does not run, and what it wrote to its
//! root file system was never promised. A copy of its records is kept in its own directory, so
//! that a table that the power cut tore can be made again.

mod create;
mod delete;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Context;
use crate::paths::Paths;
use crate::record::{self, ContainerRecord, LayerRecord};
use crate::table::Half;
use crate::{ContainerId, Error, IdMap, ImageId, LayerId, Store, UserNamespace};

/// A container's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its ID.
    pub id: ContainerId,
    /// Its names, unique in the store.
    pub names: Vec<String>,
    /// The image it was made from; a pod sandbox may have none.
    pub image: Option<ImageId>,
    /// Its writable layer; a pod sandbox may have none.
    pub layer: Option<LayerId>,
    /// Whatever its maker keeps about it (CRI-O and we: JSON with `pod-name`, `pod-id`, …).
    pub metadata: String,
    /// When it was made, nanoseconds since the epoch.
    pub created: i128,
    /// Persistent directory for its files, `overlay-containers/<id>/userdata`.
    pub dir: PathBuf,
    /// The same below the run root: the bundle. A reboot empties it.
    pub run_dir: PathBuf,
}

/// A container to be made.
#[derive(Clone, Debug)]
pub struct NewContainer {
    /// Its ID.
    pub id: ContainerId,
    /// Its names.
    pub names: Vec<String>,
    /// The image whose top layer its writable layer goes on; `None`: no layer.
    pub image: Option<ImageId>,
    /// Whatever its maker keeps about it.
    pub metadata: String,
    /// SELinux label of its mount, empty for none.
    pub mount_label: String,
    /// SELinux label of its processes, empty for none.
    pub process_label: String,
    /// Who owns its files outside of its user namespace, where it has one.
    pub id_map: Option<IdMap>,
}

/// All containers of a snapshot.
pub(crate) struct ContainerIndex {
    list: Arc<[Arc<Container>]>,
    by_id: HashMap<ContainerId, usize>,
}

/// Makes the index from the records.
pub(crate) fn index(paths: &Paths, rows: &[Arc<ContainerRecord>]) -> ContainerIndex {
    let list: Arc<[_]> = rows
        .iter()
        .map(|row| Arc::new(Container::from_record(paths, row)))
        .collect();
    let by_id = list
        .iter()
        .enumerate()
        .map(|(at, row)| (row.id.clone(), at))
        .collect();
    ContainerIndex { list, by_id }
}

impl Container {
    fn from_record(paths: &Paths, record: &ContainerRecord) -> Self {
        Self {
            id: record.id.clone(),
            names: record.names.clone(),
            image: record.image.clone(),
            layer: record.layer.clone(),
            metadata: record.metadata.clone(),
            created: record::nanoseconds(&record.created),
            dir: paths.container(&record.id).join("userdata"),
            run_dir: paths.run_container(&record.id).join("userdata"),
        }
    }
}

impl Store {
    /// All containers, other tools' too.
    ///
    /// # Errors
    /// As [`Store::images`].
    pub fn containers(&self) -> Result<Arc<[Arc<Container>]>, Error> {
        Ok(Arc::clone(&self.0.containers.read()?.view.list))
    }

    /// The container `id`.
    ///
    /// # Errors
    /// [`Error::ContainerUnknown`]; else as [`Store::images`].
    pub fn container(&self, id: &ContainerId) -> Result<Arc<Container>, Error> {
        let containers = self.0.containers.read()?;
        let at = containers.view.by_id.get(id);
        let at = at.ok_or_else(|| Error::ContainerUnknown(id.clone()))?;
        Ok(Arc::clone(&containers.view.list[*at]))
    }

    /// The directory that holds what a container wrote (beside what its image has, where the driver
    /// keeps whole trees); none where it has no layer.
    ///
    /// # Errors
    /// As [`Store::container`].
    pub fn writable_dir(&self, id: &ContainerId) -> Result<Option<PathBuf>, Error> {
        let layer = self.container(id)?.layer.clone();
        Ok(layer.map(|layer| self.paths().files(&layer)))
    }

    /// Replaces a container's metadata.
    ///
    /// # Errors
    /// [`Error::ContainerUnknown`], [`Error::Locked`], [`Error::Io`].
    pub fn set_container_metadata(&self, id: &ContainerId, metadata: &str) -> Result<(), Error> {
        let mut containers = self.0.containers.write()?;
        let row = containers.get_mut(id.as_str());
        let row = row.ok_or_else(|| Error::ContainerUnknown(id.clone()))?;
        row.metadata = metadata.to_owned();
        let row = row.clone();
        let layer = match &row.layer {
            Some(layer) => self.0.layers.read()?.get(layer.as_str()).cloned(),
            None => None,
        };
        if row.half == Half::Volatile {
            Copy::write(self.paths(), &row, layer.as_deref())?;
        }
        containers.save(row.half)
    }

    /// Mounts a container's root file system; it is fine if it is mounted already.
    ///
    /// # Errors
    /// [`Error::ContainerUnknown`], [`Error::NoLayer`], [`Error::Io`].
    pub fn mount(&self, id: &ContainerId) -> Result<PathBuf, Error> {
        self.mount_in(id, None)
    }

    /// As [`Self::mount`], for a container that was made with the map of a user namespace: its
    /// image's files belong to whom the namespace says, and its root can be reached by them.
    ///
    /// # Errors
    /// As [`Self::mount`]; `EINVAL` where the store's file system has no id-mapped mounts.
    pub fn mount_in(
        &self,
        id: &ContainerId,
        users: Option<&UserNamespace>,
    ) -> Result<PathBuf, Error> {
        let containers = self.0.containers.read()?;
        let row = containers.get(id.as_str());
        let row = row.ok_or_else(|| Error::ContainerUnknown(id.clone()))?;
        let layer = row
            .layer
            .as_ref()
            .ok_or_else(|| Error::NoLayer(id.clone()))?;
        self.mount_layer(layer, row.mount_label(), users)
    }

    /// Takes our use off a container's mounted root file system, and unmounts it unless a peer
    /// (`podman mount`) counts as another user; it is fine if it is not mounted.
    ///
    /// # Errors
    /// [`Error::ContainerUnknown`], [`Error::Io`].
    pub fn unmount(&self, id: &ContainerId) -> Result<(), Error> {
        match &self.container(id)?.layer {
            Some(layer) => self.unmount_layer(layer, false),
            None => Ok(()),
        }
    }
}

/// The records of a container as its own directory has them.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Copy {
    pub(crate) container: ContainerRecord,
    pub(crate) layer: Option<LayerRecord>,
}

const COPY: &str = "record.json";

impl Copy {
    /// Writes the copy; its directory exists.
    fn write(
        paths: &Paths,
        container: &ContainerRecord,
        layer: Option<&LayerRecord>,
    ) -> Result<(), Error> {
        let path = paths.container(&container.id).join(COPY);
        let copy = Self {
            container: container.clone(),
            layer: layer.cloned(),
        };
        let json = serde_json::to_vec(&copy).map_err(|source| Error::Damaged {
            path: path.clone(),
            source,
        })?;
        sys::durable::replace_volatile(&path, &json, 0o600).at("write", path)
    }
}

/// All copies that can be read; of the others nothing is known.
pub(crate) fn copies(paths: &Paths) -> Result<Vec<Copy>, Error> {
    let dir = paths.table("containers");
    let mut copies = Vec::new();
    for entry in fs::read_dir(&dir).at("list", &dir)? {
        let path = entry.at("list", &dir)?.path().join(COPY);
        let Ok(json) = fs::read(&path) else { continue };
        match serde_json::from_slice(&json) {
            Ok(copy) => copies.push(copy),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "container's record is lost");
            }
        }
    }
    Ok(copies)
}
