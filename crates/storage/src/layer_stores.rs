//! Additional layer stores: directories in which a program of the node (`stargz-store`) offers layers that
//! need not be fetched. A layer is named by the digest of its table of contents (TOC), and below the
//! reference of its image where the store wants that:
//! `PATH[/BASE64(REFERENCE)]/TOC-DIGEST/{diff,info,blob,use}`.
//!
//! Such a layer's directory in our store has `additionallayer`, which holds the offered directory's path,
//! and `diff` is a link to what is offered there, as containers/storage has it. Its record has no diff ID,
//! since nobody has read its archive: it is identified by its TOC, it is never taken for a layer that was
//! unpacked, and neither is an image that has one (see [`image_id`]).
//!
//! The store is told of each user: by making `use` in the layer's directory, which it denies with ENOENT, and
//! by removing the directory, likewise. One that does not count takes both as what they are: no file
//! stays, and no directory with something in it goes.
//!
//! A file system of another program may never answer. Whatever touches it waits on a thread of a small
//! pool, for a bounded time.

use std::fs::{self, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{FileType, OFlags};
use serde::{Deserialize, Serialize};
use sys::beneath::Dir;
use sys::pool::Pool;

use crate::error::Context;
use crate::patience::patiently;
use crate::record::LayerRecord;
use crate::staging::Staging;
use crate::{Digest, Driver, Error, ImageId, LayerId, Store, driver, limits};

mod info;

use self::info::Info;
#[cfg(feature = "fuzzing")]
pub(crate) use self::info::fuzz;

/// How long a store may take to answer: it may have to ask a registry.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to hear that a layer is not used any more, while others wait for a lock.
const FAREWELL: Duration = Duration::from_secs(1);
/// For how long stores are not asked for layers after one did not answer.
const SILENCE: Duration = Duration::from_secs(60);
/// The file that holds an offered layer's directory.
const POINTER: &str = "additionallayer";

/// The threads that wait for answers.
static POOL: LazyLock<Pool> = LazyLock::new(|| Pool::new("layer-stores", 8));

/// A directory in which layers are offered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerStore {
    /// The directory.
    pub path: PathBuf,
    /// Whether a layer is below its image's reference.
    pub by_reference: bool,
}

/// The stores, and whether they answer.
#[derive(Debug, Default)]
pub(crate) struct LayerStores {
    pub(crate) stores: Vec<LayerStore>,
    silent_since: Mutex<Option<Instant>>,
}

/// A layer that a store offers, and that it knows to be used. Dropping it tells otherwise.
#[derive(Debug)]
pub struct OfferedLayer {
    dir: PathBuf,
    toc: Digest,
    info: Info,
    stays: bool,
}

impl Drop for OfferedLayer {
    fn drop(&mut self) {
        if !self.stays {
            // Whoever drops it may be one who must not wait.
            drop(release(&self.dir));
        }
    }
}

impl LayerStores {
    pub(crate) fn new(stores: Vec<LayerStore>) -> Self {
        Self {
            stores,
            silent_since: Mutex::default(),
        }
    }

    fn are_silent(&self) -> bool {
        let since = self.silent_since.lock();
        let since = since.unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() < SILENCE)
    }

    fn be_silent(&self) {
        let since = self.silent_since.lock();
        *since.unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

impl Store {
    /// Whether there are stores that may offer layers.
    #[must_use]
    pub fn has_layer_stores(&self) -> bool {
        !self.0.layer_stores.stores.is_empty()
    }

    /// The layer with that table of contents that a store offers for an image of that name. What is
    /// wrong with a store is logged: the layer can be fetched.
    #[must_use]
    pub fn offered_layer(&self, toc: &Digest, reference: &str) -> Option<OfferedLayer> {
        let stores = &self.0.layer_stores;
        for store in &stores.stores {
            if stores.are_silent() {
                return None;
            }
            let below = match store.by_reference {
                true => PathBuf::from(STANDARD.encode(reference)).join(toc.as_str()),
                false => PathBuf::from(toc.as_str()),
            };
            let dir = store.path.join(&below);
            let (root, wanted) = (store.path.clone(), toc.clone());
            match patiently(&POOL, PATIENCE, move || look(&root, &below, &wanted)) {
                Ok(Some(info)) => {
                    return Some(OfferedLayer {
                        dir,
                        toc: toc.clone(),
                        info,
                        stays: false,
                    });
                }
                Ok(None) => {}
                Err(error) => {
                    if error.kind() == io::ErrorKind::TimedOut {
                        stores.be_silent();
                    }
                    tracing::warn!(path = %dir.display(), %error, "no layer of this additional layer store");
                }
            }
        }
        None
    }

    /// A layer with that table of contents on `parent`, if the store has one that was made for this
    /// diff ID.
    ///
    /// # Errors
    /// As [`Store::images`].
    pub fn layer_for_toc(
        &self,
        toc: &Digest,
        diff_id: &Digest,
        parent: Option<&LayerId>,
    ) -> Result<Option<LayerId>, Error> {
        let layers = self.all_layers()?;
        let mut rows = layers.stores().flatten();
        let row = rows.find(|row| row.is_offered(toc, diff_id, parent));
        Ok(row.map(|row| row.id.clone()))
    }

    /// Makes an offered layer one of the store's on top of `parent`. Its files stay where they are.
    ///
    /// # Errors
    /// [`Error::LayerUnknown`] where a peer removed the parent.
    pub fn commit_offered(
        &self,
        mut offered: OfferedLayer,
        diff_id: &Digest,
        parent: Option<&LayerId>,
    ) -> Result<LayerId, Error> {
        if let Some(id) = self.layer_for_toc(&offered.toc, diff_id, parent)? {
            return Ok(id);
        }
        let paths = self.paths();
        let staging = Staging::new(paths)?;
        let layer = staging.layer();
        driver::make_dir(&layer, 0o700)?;
        driver::link(paths, &layer, parent)?;
        for name in ["work", "merged"] {
            driver::make_dir(&layer.join(name), 0o700)?;
        }
        let pointer = layer.join(POINTER);
        fs::write(&pointer, path_text(&offered.dir)?).at("write", pointer)?;
        let diff = layer.join("diff");
        symlink(offered.dir.join("diff"), &diff).at("make", diff)?;
        crate::layers::sync(staging.path())?;
        let elsewhere = self.additional_layers()?;
        let layers = self.write_layers()?;
        if let Some(parent) = parent
            && layers.get(parent.as_str()).is_none()
            && elsewhere.get(parent).is_none()
        {
            return Err(Error::LayerUnknown(parent.clone()));
        }
        let mut rows = layers.rows.iter();
        if let Some(row) = rows.find(|row| row.is_offered(&offered.toc, diff_id, parent)) {
            return Ok(row.id.clone());
        }
        let derived = LayerId::by_toc(parent, &offered.toc);
        let taken = layers.get(derived.as_str()).is_some();
        let id = if taken { LayerId::random() } else { derived };
        let mut record = LayerRecord {
            toc_digest: offered.toc.to_string(),
            diff_size: offered.info.size,
            compressed_size: offered.info.compressed_size,
            compression: offered.info.compression,
            ..LayerRecord::new(id, parent.cloned())
        };
        record.expect_diff_id(diff_id);
        let id = self.put_layer(layers, record, &staging, &layer, None)?;
        offered.stays = true;
        Ok(id)
    }

    /// The tables of contents by which an image's layers are identified, of the lowest layer first; `None`
    /// for a layer whose archive was read.
    ///
    /// # Errors
    /// As [`Store::images`].
    pub fn layer_tocs(&self, top: Option<&LayerId>) -> Result<Vec<Option<Digest>>, Error> {
        let layers = self.all_layers()?;
        let mut tocs: Vec<_> = layers.chain(top).map(|layer| layer.toc()).collect();
        tocs.reverse();
        Ok(tocs)
    }

    /// Waits, for a bounded time, until what is offered of a layer and those below it can be read, so
    /// that a mount does not wait for ever.
    pub(crate) fn reach_offered(&self, top: &LayerId) -> Result<(), Error> {
        if self.driver() != Driver::Overlay {
            return Ok(());
        }
        let layers = self.all_layers()?;
        for layer in layers.chain(Some(top)) {
            if !layer.toc_digest.is_empty() {
                metadata(&self.paths().files(&layer.id))?;
            }
        }
        Ok(())
    }
}

/// The ID of an image of that configuration, of whose layers those are identified by their tables of
/// contents: nobody has seen that these layers are what the configuration says, so that it is not
/// the image that has the configuration's digest for its ID (containers/image, `computeID`).
#[must_use]
pub fn image_id(config: &Digest, tocs: &[Option<Digest>]) -> Option<ImageId> {
    if tocs.iter().all(Option::is_none) {
        return config.hex().parse().ok();
    }
    let mut text = format!("@With TOC:{}|", config.hex());
    for toc in tocs {
        text.push_str(toc.as_ref().map_or("", Digest::as_str));
        text.push('|');
    }
    Digest::of(text.as_bytes()).hex().parse().ok()
}

/// Of what is at `path`, or behind it where it is a link into an additional layer store.
pub(crate) fn metadata(path: &Path) -> Result<Metadata, Error> {
    let own = fs::symlink_metadata(path).at("stat", path)?;
    if !own.is_symlink() {
        return Ok(own);
    }
    let target = fs::read_link(path).at("read", path)?;
    let asked = target.clone();
    let found = patiently(&POOL, PATIENCE, move || match asked.is_absolute() {
        true => fs::symlink_metadata(asked),
        false => Err(io::Error::other("the link is not absolute")),
    });
    let is_dir = |found: Metadata| match found.is_dir() {
        true => Ok(found),
        false => Err(io::Error::from(io::ErrorKind::NotADirectory)),
    };
    found
        .and_then(is_dir)
        .at("ask the additional layer store for", target)
}

/// Tells a store that the layer in that directory of ours, if it is one of it, is not used any more.
pub(crate) fn forget(layer: &Path) {
    match fs::read(layer.join(POINTER)) {
        Ok(path) => {
            use std::os::unix::ffi::OsStringExt as _;
            let told = release(&PathBuf::from(std::ffi::OsString::from_vec(path)));
            if told.is_some_and(|told| told.recv_timeout(FAREWELL).is_err()) {
                tracing::warn!(path = %layer.display(), "its additional layer store does not answer");
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(path = %layer.display(), %error, "its additional layer store is not known");
        }
    }
}

/// Says that a layer is not used any more; there is a word from what is returned once the store knows.
fn release(dir: &Path) -> Option<mpsc::Receiver<()>> {
    if !dir.is_absolute() {
        return None;
    }
    let dir = dir.to_owned();
    let (tell, told) = mpsc::sync_channel(1);
    drop(POOL.run(move || {
        match fs::remove_dir(&dir) {
            // What a store that counts says.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            answer => {
                tracing::debug!(path = %dir.display(), ?answer, "an additional layer store that does not count");
            }
        }
        let _nobody_waits = tell.send(());
    }));
    Some(told)
}

/// Looks for a layer of that table of contents in the directory `below` a store's, and tells the store
/// that it is used. Nothing is followed.
fn look(root: &Path, below: &Path, toc: &Digest) -> io::Result<Option<Info>> {
    let dir = match Dir::open(root)?.dir_plain(below) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        dir => dir?,
    };
    for (name, kind) in [
        ("diff", FileType::Directory),
        ("info", FileType::RegularFile),
        ("blob", FileType::RegularFile),
    ] {
        let Some(stat) = dir.stat(name.as_ref())? else {
            return Ok(None);
        };
        if FileType::from_raw_mode(stat.st_mode) != kind {
            return Err(io::Error::other(format!("{name} is of a wrong kind")));
        }
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = fs::File::from(dir.open_plain("info".as_ref(), flags, 0)?);
    let mut bytes = Vec::new();
    file.take(limits::OFFERED_INFO_BYTES + 1)
        .read_to_end(&mut bytes)?;
    let info = Info::parse(&bytes, toc).map_err(io::Error::other)?;
    match dir.create("use".as_ref(), 0o644) {
        Ok(_) => dir.remove_file("use".as_ref())?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::debug!(%error, "an additional layer store that does not count"),
    }
    Ok(Some(info))
}

fn path_text(path: &Path) -> Result<&str, Error> {
    path.to_str().ok_or_else(|| Error::Invalid {
        what: "path of an additional layer store",
        value: path.display().to_string(),
    })
}
