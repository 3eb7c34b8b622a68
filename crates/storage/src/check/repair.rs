//! Removing what is damaged.

use std::collections::HashSet;
use std::path::Path;

use super::{Damage, Item};
use crate::error::Context;
use crate::staging::Staging;
use crate::{ContainerId, Error, LayerId, Store, open};

/// Which damaged containers are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairContainers {
    /// None.
    Keep,
    /// Those whose root file system is not mounted: they don't run.
    Unmounted,
    /// All. Processes of theirs that run lose their root file system.
    All,
}

impl Store {
    /// Removes what `damages` tells of and nothing whole needs: containers as `containers` says,
    /// images, then layers. Returns what could not be removed, and why.
    ///
    /// # Errors
    /// As [`Store::open`]; nothing was removed then.
    pub fn repair(
        &self,
        damages: &[Damage],
        containers: RepairContainers,
    ) -> Result<Vec<Error>, Error> {
        open::repair(self)?;
        let items: HashSet<&Item> = damages.iter().map(|damage| &damage.item).collect();
        let mut failed = Vec::new();
        for item in &items {
            if let Item::Container(id) = item
                && self.is_removable(id, containers)?
                && let Err(error) = self.delete_container(id)
            {
                failed.push(error);
            }
        }
        for item in &items {
            let Item::Image(id) = item else { continue };
            match self.remove_image(id) {
                Ok(()) | Err(Error::ImageUnknown(_)) => {}
                Err(error) => failed.push(error),
            }
        }
        let is_damaged = |id: &LayerId| items.contains(&Item::Layer(id.clone()));
        if let Err(error) = self.remove_unreferenced(|layer| is_damaged(&layer.id)) {
            failed.push(error);
        }
        let left = self.0.layers.read()?;
        let left = left.rows.iter().filter(|layer| is_damaged(&layer.id));
        failed.extend(left.map(|layer| Error::LayerInUse(layer.id.clone())));
        for item in &items {
            if let Item::Leftover(path) = item
                && let Err(error) = self.remove_leftover(path)
            {
                failed.push(error);
            }
        }
        Ok(failed)
    }

    /// Whether a container's root file system is mounted: it runs, or did when its host last knew.
    ///
    /// # Errors
    /// As [`Store::container`].
    pub fn is_mounted(&self, id: &ContainerId) -> Result<bool, Error> {
        let Some(layer) = self.container(id)?.layer.clone() else {
            return Ok(false);
        };
        let merged = self.paths().merged(&layer);
        match sys::mount::is_mount_point(&merged) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            found => found.at("stat", merged),
        }
    }

    fn is_removable(&self, id: &ContainerId, which: RepairContainers) -> Result<bool, Error> {
        match which {
            RepairContainers::Keep => Ok(false),
            RepairContainers::All => Ok(true),
            RepairContainers::Unmounted => match self.is_mounted(id) {
                Err(Error::ContainerUnknown(_)) => Ok(false),
                mounted => Ok(!mounted?),
            },
        }
    }

    /// Removes a directory of an image or container that has still no record. Layers' directories
    /// are removed when the store is opened.
    fn remove_leftover(&self, path: &Path) -> Result<(), Error> {
        let name = path.file_name().and_then(|name| name.to_str());
        let (Some(name), Some(dir)) = (name, path.parent()) else {
            return Ok(());
        };
        let trash = Staging::new(self.paths())?;
        if dir == self.paths().table("images") {
            let images = self.0.images.write()?;
            if images.get(name).is_none() {
                trash.take(path)?;
            }
        } else if dir == self.paths().table("containers") {
            let containers = self.0.containers.write()?;
            if containers.get(name).is_none() {
                trash.take(path)?;
            }
        }
        Ok(())
    }
}
