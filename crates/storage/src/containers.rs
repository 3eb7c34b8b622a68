//! Containers: a volatile record and a writable layer on top of an image's layers.

use std::path::PathBuf;
use std::sync::Arc;

use crate::{ContainerId, Error, ImageId, LayerId, Store};

/// A container's record.
#[derive(Clone, Debug)]
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
}

impl Store {
    /// Makes a container's record, writable layer and directories. If there is one of that ID it
    /// is returned as it is. Nothing is synced: after a power cut it may be gone.
    ///
    /// # Errors
    /// [`Error::NameInUse`], [`Error::ImageUnknown`].
    pub fn create_container(&self, container: NewContainer) -> Result<Arc<Container>, Error> {
        unimplemented!("{container:?}")
    }

    /// Mounts a container's root file system; it is fine if it is mounted already.
    ///
    /// # Errors
    /// [`Error::ContainerUnknown`], [`Error::NoLayer`], [`Error::Io`].
    pub fn mount(&self, id: &ContainerId) -> Result<PathBuf, Error> {
        unimplemented!("{id}")
    }

    /// Unmounts a container's root file system; it is fine if it is not mounted.
    ///
    /// # Errors
    /// [`Error::ContainerUnknown`], [`Error::Io`].
    pub fn unmount(&self, id: &ContainerId) -> Result<(), Error> {
        unimplemented!("{id}")
    }

    /// Removes a container with its layer, mount and directories; it is fine if there is none.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Io`].
    pub fn delete_container(&self, id: &ContainerId) -> Result<(), Error> {
        unimplemented!("{id}")
    }

    /// All containers, other tools' too.
    ///
    /// # Errors
    /// As [`Store::images`].
    pub fn containers(&self) -> Result<Arc<[Arc<Container>]>, Error> {
        unimplemented!()
    }

    /// The container `id`.
    ///
    /// # Errors
    /// [`Error::ContainerUnknown`]; else as [`Store::images`].
    pub fn container(&self, id: &ContainerId) -> Result<Arc<Container>, Error> {
        unimplemented!("{id}")
    }

    /// Replaces a container's metadata.
    ///
    /// # Errors
    /// [`Error::ContainerUnknown`], [`Error::Locked`], [`Error::Io`].
    pub fn set_container_metadata(&self, id: &ContainerId, metadata: &str) -> Result<(), Error> {
        unimplemented!("{id} {metadata}")
    }
}
