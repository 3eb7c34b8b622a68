//! A layer's directory in `overlay/`, as the overlay driver of containers/storage lays it out.
//!
//! `diff` (the files), `link` (the layer's short name, under which `l/` has a symbolic link to
//! `../<id>/diff`), `lower` (the short names of all below, nearest first; a base layer has a
//! directory `empty` instead), `work` and `merged`.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{ROOT_MODE, Writable, chown, make_dir, set_mode};
use crate::error::Context;
use crate::paths::Paths;
use crate::{Error, LayerId, StagedLayer, force_mask, layer_stores, limits};

const LINK_LENGTH: usize = 26;

/// A layer's short name in `l/`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Link(String);

impl Link {
    /// 26 letters and digits of base 32: 130 bits, so nobody has it yet.
    fn random() -> Self {
        const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        let bytes = crate::ids::random_bytes::<LINK_LENGTH>();
        Self(
            bytes
                .iter()
                .map(|byte| char::from(ALPHABET[usize::from(byte & 31)]))
                .collect(),
        )
    }

    fn read(layer: &Path) -> Result<Self, Error> {
        let path = layer.join("link");
        let link = read_short(&path)?;
        let good = |c: u8| c.is_ascii_uppercase() || c.is_ascii_digit();
        if link.len() == LINK_LENGTH && link.bytes().all(good) {
            Ok(Self(link))
        } else {
            Err(Error::Invalid {
                what: "short layer name",
                value: link,
            })
        }
    }

    fn as_str(&self) -> &str {
        &self.0
    }
}

/// The short names of the layers below `id`, nearest first: what `lower` holds.
pub(crate) fn lowers(paths: &Paths, id: &LayerId) -> Result<Vec<String>, Error> {
    let path = paths.layer(id).join("lower");
    let text = match read_short(&path) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => String::new(),
        other => other?,
    };
    let lowers: Vec<String> = text
        .split(':')
        .filter(|lower| !lower.is_empty())
        .map(str::to_owned)
        .collect();
    let good = |lower: &String| {
        lower
            .strip_prefix("l/")
            .is_some_and(|link| !link.is_empty() && link.bytes().all(|c| c.is_ascii_alphanumeric()))
    };
    if lowers.len() > limits::LOWERS || !lowers.iter().all(good) {
        return Err(Error::Invalid {
            what: "list of lower layers",
            value: text,
        });
    }
    Ok(lowers)
}

/// Writes `link` and `lower` (or makes `empty`) in `layer`, a directory that is to be a layer's
/// on top of `parent`, and returns how many layers are below.
fn write_links(
    paths: &Paths,
    layer: &Path,
    link: &Link,
    parent: Option<&LayerId>,
) -> Result<(), Error> {
    write_new(&layer.join("link"), link.as_str())?;
    let Some(parent) = parent else {
        return make_dir(&layer.join("empty"), 0o700);
    };
    let mut lower = format!("l/{}", Link::read(&paths.layer(parent))?.as_str());
    let below = lowers(paths, parent)?;
    if below.len() + 1 > limits::LOWERS {
        let limit = limits::LOWERS as u64;
        return Err(Error::TooLarge {
            what: "layers on top of each other",
            limit,
        });
    }
    for name in below {
        lower.push(':');
        lower.push_str(&name);
    }
    write_new(&layer.join("lower"), &lower)
}

/// Makes the short name `link` of layer `id` in the driver's directory `overlay`.
fn make_link(overlay: &Path, link: &Link, id: &LayerId) -> Result<(), Error> {
    let path = overlay.join("l").join(link.as_str());
    std::os::unix::fs::symlink(format!("../{id}/diff"), &path).at("make", path)
}

/// Makes short names again that a power cut took: `lower` files refer to them.
pub(super) fn repair_links(paths: &Paths, ids: impl Iterator<Item = LayerId>) -> Result<(), Error> {
    for id in ids {
        let layer = paths.own_layer(&id);
        let (Ok(link), Some(overlay)) = (Link::read(&layer), layer.parent()) else {
            continue;
        };
        match make_link(overlay, &link, &id) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
    }
    Ok(())
}

/// Removes the short name of the layer in directory `layer`, if it has one.
pub(super) fn remove_link(layer: &Path) -> Result<(), Error> {
    let (Ok(link), Some(overlay)) = (Link::read(layer), layer.parent()) else {
        return Ok(());
    };
    let path = overlay.join("l").join(link.as_str());
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.at("remove", path),
    }
}

/// Gives the root `diff` owner and permissions of the root of `parent`.
fn root_like_parent(paths: &Paths, diff: &Path, parent: &LayerId) -> Result<(), Error> {
    let stat = root_of(paths, parent)?;
    chown(diff, (stat.uid(), stat.gid()))?;
    set_mode(diff, stat.mode() & 0o7777)?;
    force_mask::copy(&paths.layer(parent).join("diff"), diff).at("set attributes of", diff)
}

fn root_of(paths: &Paths, layer: &LayerId) -> Result<fs::Metadata, Error> {
    layer_stores::metadata(&paths.layer(layer).join("diff"))
}

/// Makes the directory of a writable layer on top of its parent. With a map, what the layer's root
/// belongs to inside of the user namespace is what its parent's belongs to on disk.
pub(super) fn make_writable(paths: &Paths, wanted: &Writable<'_>) -> Result<(), Error> {
    let (id, parent) = (wanted.id, wanted.parent);
    let layer = paths.writable_layer(id);
    make_dir(&layer, 0o700)?;
    if let Some(quotas) = wanted.quotas {
        quotas.assign(&layer)?;
    }
    let diff = layer.join("diff");
    make_dir(&diff, ROOT_MODE)?;
    match (wanted.mask, parent) {
        (Some(mask), parent) => {
            let from = parent.map(|parent| paths.layer(parent).join("diff"));
            force_mask::root_like(mask, &diff, from.as_deref(), ROOT_MODE).at("set", &diff)?;
        }
        (None, Some(parent)) => root_like_parent(paths, &diff, parent)?,
        (None, None) => {}
    }
    let link = Link::random();
    write_links(paths, &layer, &link, parent)?;
    if let Some(map) = wanted.map {
        let stat = parent.map(|parent| root_of(paths, parent)).transpose()?;
        let (user, group) = stat.map_or((0, 0), |stat| (stat.uid(), stat.gid()));
        chown(&diff, map.outside(user, group).unwrap_or(map.root()))?;
    }
    make_dir(&layer.join("work"), 0o700)?;
    make_dir(&layer.join("merged"), 0o700)?;
    make_link(&paths.home(), &link, id)
}

/// Parts that a layer's directory must have.
pub(super) fn parts(layer: &Path, has_parent: bool) -> Vec<PathBuf> {
    let below = if has_parent { "lower" } else { "empty" };
    ["diff", "link", below]
        .iter()
        .map(|part| layer.join(part))
        .collect()
}

/// Makes what was unpacked a layer on top of `parent`; it is in the directory that is returned.
pub(super) fn build(
    paths: &Paths,
    staged: &StagedLayer,
    parent: Option<&LayerId>,
) -> Result<PathBuf, Error> {
    let layer = staged.staging.layer();
    write_links(paths, &layer, &Link::random(), parent)?;
    if let (false, Some(parent)) = (staged.has_root, parent) {
        root_like_parent(paths, &staged.staging.diff(), parent)?;
    }
    Ok(layer)
}

/// Names a layer that is to be in directory `layer`, and those below it.
pub(crate) fn link(paths: &Paths, layer: &Path, parent: Option<&LayerId>) -> Result<(), Error> {
    write_links(paths, layer, &Link::random(), parent)
}

/// Makes a layer, which is where it belongs, known by its short name.
pub(super) fn name(overlay: &Path, id: &LayerId) -> Result<(), Error> {
    let link = Link::read(&overlay.join(id.as_str()))?;
    make_link(overlay, &link, id)
}

fn write_new(path: &Path, text: &str) -> Result<(), Error> {
    use std::io::Write;
    let mut file = fs::File::create_new(path).at("make", path)?;
    file.write_all(text.as_bytes()).at("write", path)
}

fn read_short(path: &Path) -> Result<String, Error> {
    let mut text = String::new();
    let file = fs::File::open(path).at("open", path)?;
    file.take(limits::LOWER_FILE_BYTES)
        .read_to_string(&mut text)
        .at("read", path)?;
    Ok(text)
}
