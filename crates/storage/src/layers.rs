//! Layers of images: finding one again and committing a new one.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::error::Context;
use crate::record::LayerRecord;
use crate::staging::Staging;
use crate::table::{Half, Writing};
use crate::{Digest, Error, LayerId, StagedLayer, Store, open};

/// How a layer's blob was compressed (the numbers are those in `layers.json`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None = 0,
    /// bzip2.
    Bzip2 = 1,
    /// gzip.
    Gzip = 2,
    /// xz.
    Xz = 3,
    /// Zstandard, with or without chunks.
    Zstd = 4,
}

/// What is known of a layer besides its content.
#[derive(Clone, Debug)]
pub struct NewLayer {
    /// The layer below.
    pub parent: Option<LayerId>,
    /// The diff ID that the image's configuration promises.
    pub diff_id: Digest,
    /// Digest of the blob as it came.
    pub compressed_digest: Option<Digest>,
    /// Bytes of the blob as it came.
    pub compressed_size: Option<u64>,
    /// How the blob was compressed.
    pub compression: Compression,
}

impl Store {
    /// A layer with that content on top of `parent`, if the store has one: no need to fetch it.
    ///
    /// # Errors
    /// As [`Store::images`].
    pub fn layer_for(
        &self,
        diff_id: &Digest,
        parent: Option<&LayerId>,
    ) -> Result<Option<LayerId>, Error> {
        let layers = self.all_layers()?;
        let derived = LayerId::derived(parent, diff_id);
        Ok(layers
            .stores()
            .find_map(|rows| find(rows, &derived, diff_id, parent)))
    }

    /// Makes an unpacked layer one of the store's, durably: its data is synced, then recorded.
    /// Of several that commit the same layer one wins, and all get its ID.
    ///
    /// # Errors
    /// [`Error::DiffIdMismatch`]; [`Error::LayerUnknown`] where a peer removed the parent.
    pub fn commit_layer(&self, staged: StagedLayer, layer: NewLayer) -> Result<LayerId, Error> {
        if staged.diff_id != layer.diff_id {
            let StagedLayer {
                diff_id: actual, ..
            } = staged;
            return Err(Error::DiffIdMismatch {
                expected: layer.diff_id,
                actual,
            });
        }
        let parent = layer.parent.as_ref();
        if let Some(id) = self.layer_for(&layer.diff_id, parent)? {
            return Ok(id);
        }
        let paths = self.paths();
        // Before the lock: the parent's directory never changes, and if a peer removes it the
        // record of the parent is found missing below.
        let built = paths.driver().build(paths, &staged, parent);
        let built = built.map_err(|error| match (error, parent) {
            (Error::Io { source, .. }, Some(parent))
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Error::LayerUnknown(parent.clone())
            }
            (error, _) => error,
        })?;
        sync(staged.staging.path())?;
        if paths.is_split() {
            sync(staged.staging.tar_split())?;
        }
        sys::fault::point("storage.layer.synced").at("commit", staged.staging.path())?;
        self.record_layer(&staged, &layer, &built)
    }

    /// Bytes of a layer's uncompressed archive, as its record says.
    ///
    /// # Errors
    /// [`Error::LayerUnknown`]; else as [`Store::images`].
    pub fn layer_size(&self, id: &LayerId) -> Result<u64, Error> {
        let layers = self.all_layers()?;
        let layer = layers
            .get(id)
            .ok_or_else(|| Error::LayerUnknown(id.clone()))?;
        Ok(u64::try_from(layer.diff_size).unwrap_or(0))
    }

    fn record_layer(
        &self,
        staged: &StagedLayer,
        layer: &NewLayer,
        built: &Path,
    ) -> Result<LayerId, Error> {
        let elsewhere = self.additional_layers()?;
        let layers = self.write_layers()?;
        let parent = layer.parent.as_ref();
        if let Some(parent) = parent
            && layers.get(parent.as_str()).is_none()
            && elsewhere.get(parent).is_none()
        {
            return Err(Error::LayerUnknown(parent.clone()));
        }
        let derived = LayerId::derived(parent, &layer.diff_id);
        if let Some(id) = find(&layers.rows, &derived, &layer.diff_id, parent) {
            return Ok(id);
        }
        let taken = layers.get(derived.as_str()).is_some();
        let id = if taken { LayerId::random() } else { derived };
        let record = record(&id, staged, layer);
        let archive = Some(staged.staging.tar_split());
        self.put_layer(layers, record, &staged.staging, built, archive)
    }

    /// Records a layer and moves what is `built` to where it belongs, with the tar-split of its archive.
    pub(crate) fn put_layer(
        &self,
        mut layers: Writing<'_, LayerRecord, ()>,
        record: LayerRecord,
        staging: &Staging,
        built: &Path,
        tar_split: Option<&Path>,
    ) -> Result<LayerId, Error> {
        let paths = self.paths();
        let id = record.id.clone();
        // Below the graph root also where images have a root of their own: current peers read both
        // files, podman 5.4 that one alone.
        let half = Half::Stable;
        let (place, home) = (paths.image_layer(&id), paths.image_home());
        layers.rows.push(Arc::new(record));
        layers.save(half)?;
        sys::fault::point("storage.layer.recorded").at("commit", &place)?;
        let mut put = || {
            // Nobody owns a directory of that name: the record would say so.
            staging.take(&place)?;
            rename(built, &place)?;
            if let Some(tar_split) = tar_split {
                let to = paths.own_beside_layers(&format!("{id}.tar-split.gz"));
                rename(tar_split, &to)?;
            }
            paths.driver().placed(&home, &id)?;
            let mut changed = paths.driver().directories(&home);
            changed.push(paths.table("layers"));
            for dir in changed {
                sys::durable::sync_dir(&dir).at("sync", dir)?;
            }
            sys::fault::point("storage.layer.placed").at("commit", &place)?;
            layers
                .get_mut(id.as_str())
                .expect("pushed above")
                .mark_complete();
            layers.save(half)
        };
        if let Err(error) = put() {
            // What the record marks as incomplete anybody may remove, and we right now.
            layers
                .get_mut(id.as_str())
                .expect("pushed above")
                .mark_incomplete();
            if let Err(undo) = open::remove_incomplete(paths, &mut layers, staging) {
                tracing::warn!(layer = %id, error = %undo, "incomplete layer not removed");
            }
            return Err(error);
        }
        Ok(id)
    }

    /// The table of layers, to be changed, without incomplete ones.
    pub(crate) fn write_layers(&self) -> Result<Writing<'_, LayerRecord, ()>, Error> {
        let mut layers = self.0.layers.write()?;
        if layers.rows.iter().any(|row| row.is_incomplete()) {
            let trash = Staging::new(self.paths())?;
            open::remove_incomplete(self.paths(), &mut layers, &trash)?;
        }
        Ok(layers)
    }
}

/// Syncs a staged layer. One call for the file system: a layer has thousands of files.
pub(crate) fn sync(path: &Path) -> Result<(), Error> {
    let dir = fs::File::open(path).at("open", path)?;
    sys::durable::sync_filesystem(&dir).at("sync", path)
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    sys::durable::rename_volatile(from, to).at("rename", from)
}

fn record(id: &LayerId, staged: &StagedLayer, layer: &NewLayer) -> LayerRecord {
    let digest =
        |digest: &Option<Digest>| digest.as_ref().map(Digest::to_string).unwrap_or_default();
    let size = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
    LayerRecord {
        compressed_digest: digest(&layer.compressed_digest),
        compressed_size: layer.compressed_size.map_or(0, size),
        diff_digest: staged.diff_id.to_string(),
        diff_size: size(staged.size),
        compression: layer.compression as i64,
        uidset: staged.owners.uids.iter().copied().collect(),
        gidset: staged.owners.gids.iter().copied().collect(),
        ..LayerRecord::new(id.clone(), layer.parent.clone())
    }
}

/// A usable layer of that content on `parent`: the derived ID's if it is one.
fn find(
    rows: &[Arc<LayerRecord>],
    derived: &LayerId,
    diff_id: &Digest,
    parent: Option<&LayerId>,
) -> Option<LayerId> {
    let fits = |row: &&Arc<LayerRecord>| {
        row.diff_digest == diff_id.as_str()
            && row.parent.as_ref() == parent
            && !row.is_incomplete()
            && !row.is_writable()
            && !row.is_mapped()
    };
    let mut fitting = rows.iter().filter(fits);
    let first = fitting.next()?;
    let same = std::iter::once(first)
        .chain(fitting)
        .find(|row| row.id == *derived);
    Some(same.unwrap_or(first).id.clone())
}
