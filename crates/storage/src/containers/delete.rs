//! Removing a container.

use std::sync::Arc;

use crate::error::Context;
use crate::staging::Staging;
use crate::{ContainerId, Error, Store, open};

impl Store {
    /// Removes a container with its layer, mount and directories; it is fine if there is none.
    /// The layer goes before the record: what is left after a crash can be deleted again.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Io`].
    pub fn delete_container(&self, id: &ContainerId) -> Result<(), Error> {
        self.taking(|| self.delete_container_once(id))
    }

    fn delete_container_once(&self, id: &ContainerId) -> Result<(), Error> {
        let trash = Staging::for_containers(self.paths())?;
        let mut layers = self.write_layers()?;
        let mut containers = self.0.containers.write()?;
        let row = containers.get(id.as_str()).map(Arc::clone);
        if let Some(layer) = row.as_ref().and_then(|row| row.layer.as_ref()) {
            drop(containers);
            self.unmount_layer(layer, true)?;
            if let Some(row) = layers.get_mut(layer.as_str()) {
                row.mark_incomplete();
                let half = row.half;
                layers.save(half)?;
                sys::fault::point("storage.container.marked").at("delete", self.paths().root())?;
                open::remove_incomplete(self.paths(), &mut layers, &trash)?;
            }
            containers = self.0.containers.write()?;
        }
        if let Some(row) = row {
            containers.rows.retain(|row| row.id != *id);
            containers.save(row.half)?;
        }
        trash.take(&self.paths().container(id))?;
        let run_dir = self.paths().run_container(id);
        // What is mounted in it is never gone into: it is taken away, or stays.
        if sys::remove::tree(&run_dir).is_ok() {
            return Ok(());
        }
        for point in sys::mount::beneath(&run_dir).at("find mounts in", &run_dir)? {
            sys::mount::unmount_all(&point).at("unmount", &point)?;
        }
        sys::remove::tree(&run_dir).at("remove", run_dir)
    }
}
