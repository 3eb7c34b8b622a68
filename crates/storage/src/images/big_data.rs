//! Items beside an image's record, in files that are named after their keys.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::Context;
use crate::record::{BigData, ImageRecord};
use crate::{Digest, Error, Image, ImageId, Store, driver, limits};

impl Store {
    /// An item of an image: its manifest, its configuration.
    ///
    /// # Errors
    /// [`Error::NoBigData`], [`Error::ImageUnknown`], [`Error::Io`].
    pub fn big_data(&self, id: &ImageId, key: &str) -> Result<Vec<u8>, Error> {
        let image = self.image(id)?;
        let dir = if image.read_only {
            self.additional_record(id)?.map(|(_, dir)| dir)
        } else {
            None
        };
        let dir = dir.unwrap_or_else(|| self.paths().own_image(id));
        read_item(&dir, &image, key)
    }

    /// Writes items durably and enters them in the record, which the caller saves afterwards.
    pub(super) fn write_big_data(
        &self,
        record: &mut ImageRecord,
        items: &[(String, Vec<u8>)],
    ) -> Result<(), Error> {
        let dir = self.paths().own_image(&record.id);
        driver::make_dirs(&dir, 0o700)?;
        let mut files = Vec::with_capacity(items.len());
        for (key, bytes) in items {
            if bytes.len() as u64 > limits::BIG_DATA_BYTES {
                let limit = limits::BIG_DATA_BYTES;
                return Err(Error::TooLarge {
                    what: "bytes of an image's item",
                    limit,
                });
            }
            files.push((file_name(key)?, bytes.as_slice()));
            record.big_data.enter(key, bytes);
        }
        sys::durable::replace_all(&dir, &files, 0o600).at("write", &dir)?;
        let parent = self.paths().table("images");
        sys::durable::sync_dir(&parent).at("sync", parent)
    }
}

/// Reads an item of an image whose items are in `dir`.
pub(crate) fn read_item(dir: &Path, image: &Image, key: &str) -> Result<Vec<u8>, Error> {
    let absent = || Error::NoBigData {
        image: image.id.clone(),
        key: key.to_owned(),
    };
    if !image.big_data.iter().any(|(known, _)| known == key) {
        return Err(absent());
    }
    let path = dir.join(file_name(key)?);
    let mut bytes = Vec::new();
    match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(absent()),
        file => {
            let file = file.at("open", &path)?;
            file.take(limits::BIG_DATA_BYTES)
                .read_to_end(&mut bytes)
                .at("read", &path)?;
            Ok(bytes)
        }
    }
}

impl Store {
    /// A record of ours, without names, for an image whose items are in `dir`, a directory of a
    /// store that is only read. The caller saves it.
    pub(super) fn copy_up(&self, record: &ImageRecord, dir: &Path) -> Result<ImageRecord, Error> {
        let mut items = Vec::new();
        for key in &record.big_data.names {
            let path = dir.join(file_name(key)?);
            let mut bytes = Vec::new();
            let file = File::open(&path).at("open", &path)?;
            file.take(limits::BIG_DATA_BYTES + 1)
                .read_to_end(&mut bytes)
                .at("read", &path)?;
            items.push((key.clone(), bytes));
        }
        let mut copy = ImageRecord {
            names: Vec::new(),
            ..record.clone()
        };
        self.write_big_data(&mut copy, &items)?;
        Ok(copy)
    }
}

impl BigData {
    fn enter(&mut self, key: &str, bytes: &[u8]) {
        if !self.names.iter().any(|known| known == key) {
            self.names.push(key.to_owned());
        }
        self.sizes.insert(
            key.to_owned(),
            i64::try_from(bytes.len()).unwrap_or(i64::MAX),
        );
        self.digests
            .insert(key.to_owned(), Digest::of(bytes).to_string());
    }
}

/// The name of a key's file: the key itself if it is plain, else `=` and base64.
pub(crate) fn file_name(key: &str) -> Result<String, Error> {
    let plain = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'z' | b'.');
    let name = if key.bytes().all(plain) {
        key.to_owned()
    } else {
        format!("={}", STANDARD.encode(key))
    };
    // Base64 has a slash for some texts, which peers can't store either; a key of dots climbs.
    let bad =
        name.contains('/') || name.len() > limits::NAME_BYTES || matches!(key, "" | "." | "..");
    if bad {
        Err(Error::Invalid {
            what: "big data key",
            value: key.to_owned(),
        })
    } else {
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_names_as_with_peers() {
        for (key, name) in [
            ("manifest", Some("manifest")),
            ("manifest-sha256:0f", Some("=bWFuaWZlc3Qtc2hhMjU2OjBm")),
            ("Big", Some("=Qmln")),
            ("..", None),
            ("", None),
            ("ab?", None),
        ] {
            assert_eq!(file_name(key).ok().as_deref(), name, "{key}");
        }
    }
}
