//! Removing the whole store, with what other tools keep in it.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::error::Context;
use crate::{Error, Store};

impl Store {
    /// Removes every container, image and layer, and then whatever is left in the graph root.
    /// Without `force` not while a container's root file system is mounted.
    ///
    /// # Errors
    /// [`Error::ContainerInUse`], and nothing was removed; [`Error::Io`].
    pub fn remove_all(self, force: bool) -> Result<(), Error> {
        if !force {
            for container in self.containers()?.iter() {
                if self.is_mounted(&container.id)? {
                    return Err(Error::ContainerInUse(container.id.clone()));
                }
            }
        }
        if let Err(error) = self.remove_records() {
            // That it is damaged is why somebody wants it gone.
            tracing::warn!(%error, "store not emptied record by record");
        }
        let root = self.root().to_owned();
        drop(self);
        let mut mounts = sys::mount::beneath(&root).at("look for mounts below", &root)?;
        mounts.sort_by_key(|mount| std::cmp::Reverse(mount.components().count()));
        for mount in mounts {
            sys::mount::unmount_lazily(&mount).at("unmount", &mount)?;
        }
        empty(&root)
    }

    fn remove_records(&self) -> Result<(), Error> {
        for container in self.containers()?.iter() {
            self.delete_container(&container.id)?;
        }
        for image in self.images()?.iter() {
            self.remove_image(&image.id)?;
        }
        self.prune_layers(Duration::ZERO).map(drop)
    }
}

/// Removes what is in `root`, and `root` itself unless a file system is mounted there.
fn empty(root: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(root).at("list", root)? {
        let entry = entry.at("list", root)?;
        let path = entry.path();
        let removed = match entry.file_type() {
            Ok(kind) if kind.is_dir() => sys::remove::tree(&path),
            Ok(_) => fs::remove_file(&path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).at("remove", path);
            }
            _ => {}
        }
    }
    match fs::remove_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
        removed => removed.at("remove", root),
    }
}
