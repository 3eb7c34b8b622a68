//! Whether the store is whole: that what its records name is there, and that a layer's files
//! still make the archive they came from.

use std::fs::{self, File};
use std::io::{self, Write};

use sys::beneath::Dir;

use crate::error::Context;
use crate::{Error, Hasher, LayerId, Store, images, tar_split};

/// Something that is not as its record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// `layer …`, `image …` or `container …`.
    pub what: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Store {
    /// Looks whether everything is there that the records name. Reads no file's content.
    ///
    /// # Errors
    /// As [`Store::images`].
    pub fn check_quick(&self) -> Result<Vec<Damage>, Error> {
        let mut damages = Vec::new();
        let mut missing = |what: String, reason: String| damages.push(Damage { what, reason });
        let layers = self.0.layers.read()?;
        for layer in layers.rows.iter().filter(|layer| !layer.is_incomplete()) {
            let dir = self.paths().layer(&layer.id);
            let mut parts = vec![dir.join("diff"), dir.join("link")];
            parts.push(dir.join(if layer.parent.is_some() {
                "lower"
            } else {
                "empty"
            }));
            if !layer.diff_digest.is_empty() {
                parts.push(self.paths().tar_split(&layer.id));
            }
            for part in parts
                .iter()
                .filter(|part| fs::symlink_metadata(part).is_err())
            {
                missing(
                    format!("layer {}", layer.id),
                    format!("{} is missing", part.display()),
                );
            }
            if let Some(parent) = &layer.parent
                && layers.get(parent.as_str()).is_none()
            {
                missing(
                    format!("layer {}", layer.id),
                    format!("its parent {parent} is missing"),
                );
            }
        }
        for image in self.images()?.iter() {
            for (key, size) in &image.big_data {
                let path = self.paths().image(&image.id).join(images::file_name(key)?);
                if fs::metadata(&path).map(|found| found.len()).ok() != Some(*size) {
                    missing(
                        format!("image {}", image.id),
                        format!("item {key:?} is damaged"),
                    );
                }
            }
            if let Some(top) = &image.top_layer
                && layers.get(top.as_str()).is_none()
            {
                missing(
                    format!("image {}", image.id),
                    format!("its layer {top} is missing"),
                );
            }
        }
        Ok(damages)
    }

    /// Makes a layer's archive again and compares its digest with the record's. `None` if it is
    /// the same.
    ///
    /// # Errors
    /// [`Error::LayerUnknown`]; else as [`Store::images`].
    pub fn check_layer(&self, id: &LayerId) -> Result<Option<Damage>, Error> {
        let layers = self.0.layers.read()?;
        let layer = layers
            .get(id.as_str())
            .ok_or_else(|| Error::LayerUnknown(id.clone()))?;
        let mut hashing = Hashing::default();
        let reason = match self.write_layer(id, &mut hashing) {
            Err(Error::Io { source, .. }) => Some(source.to_string()),
            Err(error) => return Err(error),
            Ok(()) => {
                let digest = hashing.0.finish();
                let same = digest.as_str() == layer.diff_digest;
                (!same).then(|| format!("its archive has digest {digest}"))
            }
        };
        Ok(reason.map(|reason| Damage {
            what: format!("layer {id}"),
            reason,
        }))
    }

    /// Writes a layer's uncompressed archive, bit by bit as it came.
    ///
    /// # Errors
    /// [`Error::Io`], of kind `InvalidData` where a file has changed.
    pub fn write_layer(&self, id: &LayerId, archive: impl Write) -> Result<(), Error> {
        let path = self.paths().tar_split(id);
        let tar_split = File::open(&path).at("open", &path)?;
        let diff = self.paths().layer(id).join("diff");
        let dir = Dir::open(&diff).at("open", &diff)?;
        tar_split::assemble(tar_split, &dir, archive).at("assemble", diff)
    }
}

#[derive(Default)]
struct Hashing(Hasher);

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
