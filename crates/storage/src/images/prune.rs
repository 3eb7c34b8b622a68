//! Layers that nothing refers to: what a pull or a container's making left behind that died
//! between the layer's record and the other's.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::record::{self, LayerRecord};
use crate::staging::Staging;
use crate::{Error, LayerId, Store};

impl Store {
    /// Removes image layers that no image, container or other layer has needed for `age`; says how
    /// many. A pull, ours or a peer's, commits layers before the image that refers to them: `age`
    /// has to be longer than any pull.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Damaged`], [`Error::Io`].
    pub fn prune_layers(&self, age: Duration) -> Result<usize, Error> {
        let before = before(age);
        self.remove_unreferenced(|layer| {
            !layer.is_writable() && record::nanoseconds(&layer.created) <= before
        })
    }

    /// Removes writable layers without a container. Their makers, peers too, hold the lock of the
    /// layers until they have written the container's record, so nobody is making one.
    pub(crate) fn prune_writable(&self) -> Result<usize, Error> {
        self.remove_unreferenced(LayerRecord::is_writable)
    }

    /// Image layers that [`Store::prune_layers`] would remove.
    pub(crate) fn unreferenced_layers(&self, age: Duration) -> Result<Vec<LayerId>, Error> {
        let layers = self.0.layers.hold()?;
        let before = before(age);
        self.unreferenced(&layers.snapshot.rows, |layer| {
            !layer.is_writable() && record::nanoseconds(&layer.created) <= before
        })
    }

    /// Removes the layers that `may_go` and nothing refers to; says how many.
    pub(crate) fn remove_unreferenced(
        &self,
        may_go: impl Fn(&LayerRecord) -> bool,
    ) -> Result<usize, Error> {
        // Emptied after the lock's end.
        let trash;
        let mut layers = self.write_layers()?;
        let going = self.unreferenced(&layers.rows, may_go)?;
        if going.is_empty() {
            return Ok(0);
        }
        trash = Staging::new(self.paths())?;
        for id in &going {
            tracing::info!(layer = %id, "removing a layer that nothing refers to");
        }
        self.take_layers(&mut layers, &going, &trash)?;
        Ok(going.len())
    }

    /// Those of `rows`, whose lock is held, that `may_go` and neither an image nor a container nor
    /// a layer that stays refers to.
    fn unreferenced(
        &self,
        rows: &[Arc<LayerRecord>],
        may_go: impl Fn(&LayerRecord) -> bool,
    ) -> Result<Vec<LayerId>, Error> {
        let elsewhere = self.tops_elsewhere()?;
        let images = self.0.images.hold()?;
        let containers = self.0.containers.hold()?;
        let mut needed: HashSet<&LayerId> = elsewhere.iter().collect();
        for image in &images.snapshot.rows {
            needed.extend(image.top_layer.iter().chain(&image.mapped_layers));
        }
        let containers = containers.snapshot.rows.iter();
        needed.extend(containers.filter_map(|row| row.layer.as_ref()));
        let mut going: Vec<LayerId> = Vec::new();
        loop {
            let parents: HashSet<&LayerId> = rows
                .iter()
                .filter(|row| !going.contains(&row.id))
                .filter_map(|row| row.parent.as_ref())
                .collect();
            let more: Vec<LayerId> = rows
                .iter()
                .filter(|row| row.names.is_empty() && may_go(row))
                .map(|row| &row.id)
                .filter(|id| !needed.contains(id) && !parents.contains(id))
                .filter(|id| !going.contains(id))
                .cloned()
                .collect();
            if more.is_empty() {
                return Ok(going);
            }
            going.extend(more);
        }
    }
}

/// The time, in nanoseconds since the epoch, that was `age` ago.
fn before(age: Duration) -> i128 {
    let nanoseconds = i128::try_from(age.as_nanos()).unwrap_or(i128::MAX);
    record::nanoseconds(&record::now()).saturating_sub(nanoseconds)
}
