//! Files of layers that another layer may be made of: which layer has a table of contents
//! (zstd:chunked's), and one file of a layer. And the parts of an archive, as a tar-split tells them.
//!
//! A table of contents is a stranger's word: whoever uses a file of it checks the file's digest.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::OFlags;
use sys::beneath::Dir;

use crate::error::Context;
use crate::images::big_data_name;
use crate::record::Record as _;
use crate::table::Half;
use crate::tar_split::{FILE, Line, SEGMENT};
use crate::unpack::EntryPath;
use crate::{Error, LayerId, Store, driver, limits};

/// Where we keep a layer's table of contents. Peers don't read it: it was not held against the layer.
const OWN: &str = "crioxide.toc";
/// Where containers/storage keeps that of a layer that it pulled in parts.
const THEIRS: &str = "zstd-chunked-manifest";

impl Store {
    /// Keeps the table of contents of a layer, for later pulls. Losing it costs bytes only, so it is
    /// not synced.
    ///
    /// # Errors
    /// [`Error::LayerUnknown`] where the layer was removed meanwhile; [`Error::Io`].
    pub fn put_layer_toc(&self, id: &LayerId, toc: &[u8]) -> Result<(), Error> {
        // Nobody removes the layer meanwhile, so its directory is not left behind.
        let layers = self.0.layers.hold()?;
        if layers.snapshot.get(id.as_str()).is_none() {
            return Err(Error::LayerUnknown(id.clone()));
        }
        let dir = self.paths().layer_data(id);
        driver::make_dirs(&dir, 0o700)?;
        let path = dir.join(OWN);
        sys::durable::replace_volatile(&path, toc, 0o600).at("write", path)
    }

    /// The layers that have a table of contents.
    ///
    /// # Errors
    /// As [`Store::images`].
    pub fn layers_with_toc(&self) -> Result<Vec<LayerId>, Error> {
        let layers = self.0.layers.read()?;
        let mut found = Vec::new();
        for layer in layers
            .rows
            .iter()
            .filter(|row| row.half() != Half::Volatile && !row.is_incomplete())
        {
            for path in self.tocs(&layer.id)? {
                if path.try_exists().at("stat", &path)? {
                    found.push(layer.id.clone());
                    break;
                }
            }
        }
        Ok(found)
    }

    /// The table of contents of a layer, if it has one.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Io`].
    pub fn layer_toc(&self, id: &LayerId) -> Result<Option<Vec<u8>>, Error> {
        for path in self.tocs(id)? {
            let file = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file.at("open", &path)?,
            };
            let (mut bytes, limit) = (Vec::new(), limits::TOC_BYTES);
            let mut file = file.take(limit + 1);
            file.read_to_end(&mut bytes).at("read", &path)?;
            if bytes.len() as u64 > limit {
                let what = "bytes of a table of contents";
                return Err(Error::TooLarge { what, limit });
            }
            return Ok(Some(bytes));
        }
        Ok(None)
    }

    fn tocs(&self, id: &LayerId) -> Result<[PathBuf; 2], Error> {
        let dir = self.paths().layer_data(id);
        Ok([dir.join(OWN), dir.join(big_data_name(THEIRS)?)])
    }

    /// Opens the regular file `name` of `size` bytes in a layer; `None` if it is not there.
    ///
    /// # Errors
    /// [`Error::Io`] where the layer is not there.
    pub fn layer_file(&self, id: &LayerId, name: &[u8], size: u64) -> Result<Option<File>, Error> {
        let diff = self.paths().files(id);
        let dir = Dir::open(&diff).at("open", &diff)?;
        let Ok(path) = EntryPath::parse(name) else {
            return Ok(None);
        };
        // A FIFO must not hold us up.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let Ok(file) = dir.open_plain(path.as_path(), flags, 0) else {
            return Ok(None);
        };
        let file = File::from(file);
        let of = file.metadata().at("stat", &diff)?;
        Ok((of.is_file() && of.len() == size).then_some(file))
    }
}

/// A part of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchivePart {
    /// Bytes of its own: headers, padding.
    Bytes(Vec<u8>),
    /// So many bytes of the file of that name.
    File {
        /// The name as it stands in the header.
        name: Vec<u8>,
        /// Never 0.
        size: u64,
    },
}

/// The parts of the archive that a tar-split describes, which is not compressed here.
///
/// # Errors
/// Each item: of reading, or `InvalidData`.
pub fn archive_parts(tar_split: impl Read) -> impl Iterator<Item = io::Result<ArchivePart>> {
    let mut reader = BufReader::with_capacity(64 << 10, tar_split);
    let mut line = Vec::new();
    let mut next = move || -> io::Result<Option<ArchivePart>> {
        loop {
            line.clear();
            let mut limited = (&mut reader).take(limits::TAR_SPLIT_LINE_BYTES);
            match limited.read_until(b'\n', &mut line)? {
                0 => return Ok(None),
                _ if !line.ends_with(b"\n") => return Err(invalid("a line has no end")),
                _ => {}
            }
            let parsed: Line = serde_json::from_slice(&line)?;
            match parsed.kind {
                SEGMENT => {
                    let bytes = STANDARD.decode(parsed.payload.unwrap_or_default());
                    return Ok(Some(ArchivePart::Bytes(bytes.map_err(invalid)?)));
                }
                FILE if parsed.size == 0 => {}
                FILE => {
                    let (name, size) = (parsed.name()?, parsed.size);
                    return Ok(Some(ArchivePart::File { name, size }));
                }
                other => return Err(invalid(format!("line of type {other}"))),
            }
        }
    };
    std::iter::from_fn(move || next().transpose())
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_told_in_order_and_what_is_malformed_is_an_error() {
        let text = concat!(
            r#"{"type":2,"payload":"aGVhZA==","position":0}"#,
            "\n",
            r#"{"type":1,"name":"a","size":3,"payload":"AAAAAAAAAAA=","position":1}"#,
            "\n",
            r#"{"type":1,"name":"empty","payload":null,"position":2}"#,
            "\n",
            r#"{"type":1,"name_raw":"/w==","size":1,"payload":"","position":3}"#,
            "\n",
        );
        let parts: Vec<_> = archive_parts(text.as_bytes()).map(Result::unwrap).collect();
        let file = |name: &[u8], size| ArchivePart::File {
            name: name.to_vec(),
            size,
        };
        assert_eq!(
            parts,
            [
                ArchivePart::Bytes(b"head".to_vec()),
                file(b"a", 3),
                file(b"\xff", 1)
            ]
        );
        for bad in [
            "{}",
            "{}\n",
            "{\"type\":9,\"position\":0}\n",
            "{\"type\":2,\"payload\":\"%\",\"position\":0}\n",
        ] {
            let mut parts = archive_parts(bad.as_bytes());
            assert!(parts.next().is_some_and(|part| part.is_err()), "{bad:?}");
        }
    }
}
