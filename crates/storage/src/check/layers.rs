//! Layers: their parts, the layers below them, and their files against their archives.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use sys::beneath::Dir;

use super::{Damage, Depth, Findings, Item, attributes};
use crate::error::Context;
use crate::record::LayerRecord;
use crate::{Error, Hasher, LayerId, Store, driver, images, tar_split};

impl Store {
    pub(super) fn check_layers(&self, depth: Depth, findings: &mut Findings) -> Result<(), Error> {
        let layers = self.0.layers.read()?;
        let all = self.all_layers()?;
        // Whoever takes the lock next removes an incomplete one: that is no damage.
        let mut every: Vec<_> = all.stores().flatten().collect();
        let mut seen = HashSet::new();
        every.retain(|layer| !layer.is_incomplete() && seen.insert(&layer.id));
        for layer in &every {
            let item = || {
                let is_ours = layers.get(layer.id.as_str()).is_some();
                let kind = if is_ours {
                    Item::Layer
                } else {
                    Item::ReadOnlyLayer
                };
                kind(layer.id.clone())
            };
            let missing = self.missing_parts(layer)?;
            let is_whole = missing.is_empty();
            for reason in missing {
                findings.add(item(), reason);
            }
            if let Some(parent) = &layer.parent
                && all.get(parent).is_none()
            {
                findings.add(item(), format!("its parent {parent} is missing"));
            }
            if is_whole
                && depth > Depth::Presence
                && !layer.diff_digest.is_empty()
                && let Some(reason) = self.damaged_files(layer, depth)?
            {
                findings.add(item(), reason);
            }
        }
        // From each damaged layer up to all that stand on it.
        loop {
            let above: Vec<_> = every
                .iter()
                .filter(|layer| !findings.has_layer(&layer.id))
                .filter_map(|layer| Some((layer.id.clone(), layer.parent.clone()?)))
                .filter(|(_, parent)| findings.has_layer(parent))
                .collect();
            if above.is_empty() {
                break;
            }
            for (id, parent) in above {
                let is_ours = layers.get(id.as_str()).is_some();
                let item = if is_ours {
                    Item::Layer(id)
                } else {
                    Item::ReadOnlyLayer(id)
                };
                findings.add(item, format!("its parent {parent} is damaged"));
            }
        }
        self.layers_without_record(findings)
    }

    fn missing_parts(&self, layer: &LayerRecord) -> Result<Vec<String>, Error> {
        let dir = self.paths().layer(&layer.id);
        let mut parts = self.driver().parts(&dir, layer.parent.is_some());
        if !layer.diff_digest.is_empty() {
            parts.push(self.paths().tar_split(&layer.id));
        }
        for key in layer.big_data_names() {
            let data = self.paths().layer_data(&layer.id);
            parts.push(data.join(images::file_name(key)?));
        }
        let missing = parts
            .iter()
            .filter(|part| fs::symlink_metadata(part).is_err());
        Ok(missing
            .map(|part| format!("{} is missing", part.display()))
            .collect())
    }

    /// Layers' directories that no record names. Whoever makes one writes its record before, and
    /// holds the lock until both are there.
    fn layers_without_record(&self, findings: &mut Findings) -> Result<(), Error> {
        let layers = self.0.layers.hold()?;
        for home in self.paths().own_homes() {
            let all = self.driver().layers(&home);
            let dir = Dir::open(&all).at("open", &all)?;
            for (name, _) in dir.entries().at("list", &all)? {
                let known = |name: &str| layers.snapshot.get(name).is_some();
                if driver::is_layer_name(&name) && !name.to_str().is_some_and(known) {
                    findings.add(Item::Leftover(all.join(name)), "no record names it");
                }
            }
        }
        Ok(())
    }

    /// Makes a layer's archive again and compares its digest with the record's. `None` if it is
    /// the same.
    ///
    /// # Errors
    /// [`Error::LayerUnknown`]; else as [`Store::images`].
    pub fn check_layer(&self, id: &LayerId) -> Result<Option<Damage>, Error> {
        let layers = self.all_layers()?;
        let layer = layers
            .get(id)
            .ok_or_else(|| Error::LayerUnknown(id.clone()))?;
        let reason = self.damaged_files(layer, Depth::Content)?;
        Ok(reason.map(|reason| Damage {
            item: Item::Layer(id.clone()),
            reason,
        }))
    }

    fn damaged_files(&self, layer: &LayerRecord, depth: Depth) -> Result<Option<String>, Error> {
        let mut hashing = Hashing::default();
        match self.write_layer(&layer.id, &mut hashing) {
            Err(Error::Io { source, .. }) => return Ok(Some(source.to_string())),
            Err(error) => return Err(error),
            Ok(()) => {}
        }
        let digest = hashing.hasher.finish();
        if digest.as_str() != layer.diff_digest {
            return Ok(Some(format!("its archive has the digest {digest}")));
        }
        let size = i64::try_from(hashing.bytes).unwrap_or(i64::MAX);
        if size != layer.diff_size {
            let wanted = layer.diff_size;
            let reason = format!("its archive has {size} bytes and should have {wanted}");
            return Ok(Some(reason));
        }
        if depth < Depth::Attributes {
            return Ok(None);
        }
        attributes::compare(self, layer)
    }

    /// Writes a layer's uncompressed archive, bit by bit as it came.
    ///
    /// # Errors
    /// [`Error::Io`], of kind `InvalidData` where a file has changed.
    pub fn write_layer(&self, id: &LayerId, archive: impl Write) -> Result<(), Error> {
        let files = self.paths().files(id);
        assemble(&self.paths().tar_split(id), &files, archive)
    }
}

/// Writes the archive that a tar-split and a directory of files make.
pub(crate) fn assemble(tar_split: &Path, files: &Path, archive: impl Write) -> Result<(), Error> {
    let tar_split = File::open(tar_split).at("open", tar_split)?;
    let dir = Dir::open(files).at("open", files)?;
    tar_split::assemble(tar_split, &dir, archive).at("assemble", files)
}

#[derive(Default)]
struct Hashing {
    hasher: Hasher,
    bytes: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
