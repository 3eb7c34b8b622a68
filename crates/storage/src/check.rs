//! Whether the store is whole, and what is done where it is not.
//!
//! Three depths. *Presence*: that what the records name is there, and nothing else. *Content*: that a
//! layer's files still make the archive they came from, and that images' items have their digests.
//! *Attributes*: that owners, permissions, times and names in a layer are those of its archive.
//!
//! What uses something damaged is damaged. Repairing is removing: an image can be pulled again.

mod attributes;
mod extended;
mod layers;
mod repair;
mod tables;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::layers::assemble;
pub use self::repair::RepairContainers;
#[cfg(feature = "fuzzing")]
pub(crate) use self::tables::records as salvaged;
pub use self::tables::{check_tables, salvage_tables};
use crate::error::Context;
use crate::record::BigData;
use crate::{ContainerId, Digest, Error, ImageId, LayerId, Store, images};

/// Something that is not as its record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// What is damaged.
    pub item: Item,
    /// What is wrong with it.
    pub reason: String,
}

/// What can be damaged.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Item {
    /// A file of records.
    Table(PathBuf),
    /// A layer.
    Layer(LayerId),
    /// An image.
    Image(ImageId),
    /// A layer of a store that is only read: nothing here can repair it.
    ReadOnlyLayer(LayerId),
    /// An image of such a store.
    ReadOnlyImage(ImageId),
    /// A container.
    Container(ContainerId),
    /// A file or directory that no record names.
    Leftover(PathBuf),
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(path) => write!(f, "records {}", path.display()),
            Self::Layer(id) => write!(f, "layer {id}"),
            Self::Image(id) => write!(f, "image {id}"),
            Self::ReadOnlyLayer(id) => write!(f, "read-only layer {id}"),
            Self::ReadOnlyImage(id) => write!(f, "read-only image {id}"),
            Self::Container(id) => write!(f, "container {id}"),
            Self::Leftover(path) => write!(f, "left over: {}", path.display()),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.item, self.reason)
    }
}

/// How closely it is looked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Reads no file's content.
    #[default]
    Presence,
    /// Reads all of it.
    Content,
    /// Beyond that, compares every file with its entry in the layer's archive.
    Attributes,
}

/// What is looked for.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// How closely.
    pub depth: Depth,
    /// Image layers that nothing has needed for so long count as damage; `None`: none do. A pull
    /// commits layers before their image, so it has to be longer than any pull.
    pub unreferenced: Option<Duration>,
}

/// What was found so far, in the order of the items.
#[derive(Debug, Default)]
struct Findings(BTreeMap<Item, Vec<String>>);

impl Findings {
    fn add(&mut self, item: Item, reason: impl Into<String>) {
        self.0.entry(item).or_default().push(reason.into());
    }

    fn has_layer(&self, id: &LayerId) -> bool {
        self.0.contains_key(&Item::Layer(id.clone()))
            || self.0.contains_key(&Item::ReadOnlyLayer(id.clone()))
    }

    fn has_image(&self, id: &ImageId) -> bool {
        self.0.contains_key(&Item::Image(id.clone()))
            || self.0.contains_key(&Item::ReadOnlyImage(id.clone()))
    }

    fn into_damages(self) -> Vec<Damage> {
        let items = self.0.into_iter();
        let damages = items.flat_map(|(item, reasons)| {
            reasons.into_iter().map(move |reason| Damage {
                item: item.clone(),
                reason,
            })
        });
        damages.collect()
    }
}

impl Store {
    /// Looks for damage. Holds no lock while it reads layers: what is removed or made meanwhile is
    /// not told as damage.
    ///
    /// # Errors
    /// As [`Store::images`].
    pub fn check(&self, options: &CheckOptions) -> Result<Vec<Damage>, Error> {
        let mut findings = Findings::default();
        self.check_layers(options.depth, &mut findings)?;
        self.check_images(options.depth, &mut findings)?;
        self.check_containers(&mut findings)?;
        if let Some(age) = options.unreferenced {
            for id in self.unreferenced_layers(age)? {
                findings.add(Item::Layer(id), "nothing refers to it");
            }
        }
        self.check_leftovers(&mut findings)?;
        self.forget_gone(&mut findings)?;
        Ok(findings.into_damages())
    }

    fn check_images(&self, depth: Depth, findings: &mut Findings) -> Result<(), Error> {
        let layers = self.all_layers()?;
        let own = self.0.images.read()?;
        let own = own.rows.iter().map(|image| {
            let dir = self.paths().own_image(&image.id);
            (Arc::clone(image), dir, Item::Image(image.id.clone()))
        });
        let others = self.additional_records()?.into_iter();
        let others = others.map(|(image, dir)| {
            let item = Item::ReadOnlyImage(image.id.clone());
            (image, dir, item)
        });
        for (image, dir, item) in own.chain(others) {
            let item = || item.clone();
            for reason in damaged_data(&dir, &image.big_data, depth)? {
                findings.add(item(), reason);
            }
            for top in image.top_layer.iter().chain(&image.mapped_layers) {
                if layers.get(top).is_none() {
                    findings.add(item(), format!("its layer {top} is missing"));
                } else if findings.has_layer(top) {
                    findings.add(item(), format!("its layer {top} is damaged"));
                }
            }
        }
        Ok(())
    }

    fn check_containers(&self, findings: &mut Findings) -> Result<(), Error> {
        let layers = self.all_layers()?;
        let images = self.images()?;
        for container in &self.0.containers.read()?.rows {
            let item = || Item::Container(container.id.clone());
            let dir = self.paths().container(&container.id);
            for reason in damaged_data(&dir, &container.big_data, Depth::Presence)? {
                findings.add(item(), reason);
            }
            if let Some(image) = &container.image {
                if !images.iter().any(|known| known.id == *image) {
                    findings.add(item(), format!("its image {image} is missing"));
                } else if findings.has_image(image) {
                    findings.add(item(), format!("its image {image} is damaged"));
                }
            }
            if let Some(layer) = &container.layer {
                if layers.get(layer).is_none() {
                    findings.add(item(), format!("its layer {layer} is missing"));
                } else if findings.has_layer(layer) {
                    findings.add(item(), format!("its layer {layer} is damaged"));
                }
            }
        }
        Ok(())
    }

    /// Directories of images and containers without a record. Their makers write the record before
    /// they release the lock that is held here.
    fn check_leftovers(&self, findings: &mut Findings) -> Result<(), Error> {
        let images = self.0.images.hold()?;
        let known: HashSet<&str> = images.snapshot.rows.iter().map(|i| i.id.as_str()).collect();
        leftovers(&self.paths().table("images"), &known, findings)?;
        let containers = self.0.containers.hold()?;
        let rows = containers.snapshot.rows.iter();
        let known: HashSet<&str> = rows.map(|row| row.id.as_str()).collect();
        leftovers(&self.paths().table("containers"), &known, findings)
    }

    /// Forgets what was found of things that somebody has removed meanwhile.
    fn forget_gone(&self, findings: &mut Findings) -> Result<(), Error> {
        let layers = self.0.layers.read()?;
        let all_layers = self.all_layers()?;
        let images = self.0.images.read()?;
        let all_images = self.images()?;
        let containers = self.0.containers.read()?;
        findings.0.retain(|item, _| match item {
            Item::Layer(id) => layers.get(id.as_str()).is_some(),
            Item::Image(id) => images.get(id.as_str()).is_some(),
            Item::ReadOnlyLayer(id) => all_layers.get(id).is_some(),
            Item::ReadOnlyImage(id) => all_images.iter().any(|image| image.id == *id),
            Item::Container(id) => containers.get(id.as_str()).is_some(),
            Item::Leftover(path) => fs::symlink_metadata(path).is_ok(),
            Item::Table(_) => true,
        });
        Ok(())
    }
}

/// What is wrong with items beside a record.
fn damaged_data(dir: &Path, data: &BigData, depth: Depth) -> Result<Vec<String>, Error> {
    let mut reasons = Vec::new();
    for key in &data.names {
        let path = dir.join(images::file_name(key)?);
        let size = data.sizes.get(key).copied().unwrap_or(0);
        match fs::metadata(&path) {
            Err(error) => reasons.push(format!("item {key:?}: {error}")),
            Ok(found) if i64::try_from(found.len()) != Ok(size) => {
                let found = found.len();
                reasons.push(format!(
                    "item {key:?} has {found} bytes and should have {size}"
                ));
            }
            Ok(_) if depth > Depth::Presence => {
                let wanted = data
                    .digests
                    .get(key)
                    .map(String::as_str)
                    .unwrap_or_default();
                let found = Digest::of(&fs::read(&path).at("read", &path)?);
                if wanted.starts_with("sha256:") && found.as_str() != wanted {
                    reasons.push(format!("item {key:?} has the digest {found}"));
                }
            }
            Ok(_) => {}
        }
    }
    Ok(reasons)
}

/// Directories in `dir` that are named like IDs and not `known`.
fn leftovers(dir: &Path, known: &HashSet<&str>, findings: &mut Findings) -> Result<(), Error> {
    for entry in fs::read_dir(dir).at("list", dir)? {
        let entry = entry.at("list", dir)?;
        let name = entry.file_name();
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let is_known = name.to_str().is_some_and(|name| known.contains(name));
        if is_directory && !is_known && crate::driver::is_layer_name(&name) {
            findings.add(Item::Leftover(entry.path()), "no record names it");
        }
    }
    Ok(())
}
