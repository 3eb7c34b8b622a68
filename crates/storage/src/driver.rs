//! How layers are kept: as differences that the kernel's overlay puts together, or each as a whole tree.
//! The one place that knows of both; all that differs between them is a method of [`Driver`].

mod copy;
mod overlay;
mod vfs;

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub(crate) use self::overlay::{link, lowers};
pub(crate) use self::vfs::{Copied, copy_whole};
use serde::{Deserialize, Serialize};

use crate::error::Context;
use crate::paths::Paths;
use crate::quota::Quotas;
use crate::{Error, ForceMask, IdMap, LayerId, StagedLayer};

/// Permissions of the root of a layer whose archive has no entry for it, and no parent.
pub(crate) const ROOT_MODE: u32 = 0o555;

/// What keeps a store's layers; its name is part of the names of the store's directories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Driver {
    /// A directory of differences per layer.
    #[default]
    Overlay,
    /// A directory of all files per layer.
    Vfs,
}

impl Driver {
    const ALL: [Self; 2] = [Self::Overlay, Self::Vfs];

    /// Its name in `storage.conf`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Vfs => "vfs",
        }
    }

    /// Its directory below a root.
    pub(crate) fn home(self, root: &Path) -> PathBuf {
        root.join(self.name())
    }

    /// The directory of a table (`layers`, `images`, `containers`) below a root.
    pub(crate) fn table(self, root: &Path, table: &str) -> PathBuf {
        root.join(format!("{}-{table}", self.name()))
    }

    /// What in a home has layers, by their IDs.
    pub(crate) fn layers(self, home: &Path) -> PathBuf {
        match self {
            Self::Overlay => home.to_owned(),
            Self::Vfs => home.join("dir"),
        }
    }

    /// The directory of a layer in a home.
    pub(crate) fn layer(self, home: &Path, id: &LayerId) -> PathBuf {
        self.layers(home).join(id.as_str())
    }

    /// Where in a layer's directory its files are.
    pub(crate) fn files(self, layer: &Path) -> PathBuf {
        match self {
            Self::Overlay => layer.join("diff"),
            Self::Vfs => layer.to_owned(),
        }
    }

    /// Where a container's layer shows when it is mounted.
    pub(crate) fn merged(self, layer: &Path) -> PathBuf {
        match self {
            Self::Overlay => layer.join("merged"),
            Self::Vfs => layer.to_owned(),
        }
    }

    /// Whether a layer's directory has the files of those below, too.
    pub(crate) fn keeps_whole_trees(self) -> bool {
        self == Self::Vfs
    }

    /// Directories in a home that are synced when a layer comes.
    pub(crate) fn directories(self, home: &Path) -> Vec<PathBuf> {
        match self {
            Self::Overlay => vec![home.to_owned(), home.join("l")],
            Self::Vfs => vec![home.join("dir")],
        }
    }

    /// Makes a home.
    pub(crate) fn prepare(self, home: &Path) -> Result<(), Error> {
        make_dirs(home, 0o700)?;
        match self {
            Self::Overlay => make_dirs(&home.join("l"), 0o755),
            Self::Vfs => make_dirs(&home.join("dir"), 0o700),
        }
    }

    /// Parts that a layer's directory must have.
    pub(crate) fn parts(self, layer: &Path, has_parent: bool) -> Vec<PathBuf> {
        match self {
            Self::Overlay => overlay::parts(layer, has_parent),
            Self::Vfs => vec![layer.to_owned()],
        }
    }

    /// Makes what was unpacked a layer on top of `parent`; what is to be the layer's directory is that
    /// which is returned.
    pub(crate) fn build(
        self,
        paths: &Paths,
        staged: &StagedLayer,
        parent: Option<&LayerId>,
    ) -> Result<PathBuf, Error> {
        match self {
            Self::Overlay => overlay::build(paths, staged, parent),
            Self::Vfs => vfs::build(paths, staged, parent),
        }
    }

    /// Tells a home of a layer that is where it belongs.
    pub(crate) fn placed(self, home: &Path, id: &LayerId) -> Result<(), Error> {
        match self {
            Self::Overlay => overlay::name(home, id),
            Self::Vfs => Ok(()),
        }
    }

    /// What takes long of making a writable layer, so that no lock is to be held: the copy of its parent, with
    /// the SELinux label of its files, where layers are whole trees.
    pub(crate) fn copy(
        self,
        paths: &Paths,
        parent: Option<&LayerId>,
        label: &str,
    ) -> Result<Option<Copied>, Error> {
        match self {
            Self::Overlay => Ok(None),
            Self::Vfs => vfs::copy(paths, parent, label).map(Some),
        }
    }

    /// Makes the directory of a writable layer.
    pub(crate) fn make_writable(self, paths: &Paths, layer: &Writable<'_>) -> Result<(), Error> {
        match self {
            Self::Overlay => overlay::make_writable(paths, layer),
            Self::Vfs => vfs::make_writable(paths, layer),
        }
    }

    /// Takes back [`Driver::placed`] of the layer in that directory.
    pub(crate) fn forget(self, layer: &Path) -> Result<(), Error> {
        match self {
            Self::Overlay => overlay::remove_link(layer),
            Self::Vfs => Ok(()),
        }
    }

    /// Makes again what a power cut took of what homes know of these layers.
    pub(crate) fn repair(
        self,
        paths: &Paths,
        ids: impl Iterator<Item = LayerId>,
    ) -> Result<(), Error> {
        match self {
            Self::Overlay => overlay::repair_links(paths, ids),
            Self::Vfs => Ok(()),
        }
    }
}

/// A writable layer that is to be made.
pub(crate) struct Writable<'a> {
    pub(crate) id: &'a LayerId,
    /// The image's layer that it goes on.
    pub(crate) parent: Option<&'a LayerId>,
    /// Who owns its files in a user namespace.
    pub(crate) map: Option<IdMap>,
    /// What [`Driver::copy`] made for it.
    pub(crate) copied: Option<Copied>,
    /// Permissions of all files.
    pub(crate) mask: Option<ForceMask>,
    /// Who counts what it takes.
    pub(crate) quotas: Option<&'a Quotas>,
}

impl FromStr for Driver {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|driver| driver.name() == name);
        known.ok_or_else(|| format!("{name:?} is neither overlay nor vfs"))
    }
}

/// Gives `path` away.
pub(crate) fn chown(path: &Path, (user, group): (u32, u32)) -> Result<(), Error> {
    std::os::unix::fs::chown(path, Some(user), Some(group)).at("chown", path)
}

/// Makes a directory with exactly `mode`.
pub(crate) fn make_dir(path: &Path, mode: u32) -> Result<(), Error> {
    DirBuilder::new().mode(mode).create(path).at("make", path)?;
    set_mode(path, mode)
}

/// Makes a directory and those above it, with `mode` where it was missing.
pub(crate) fn make_dirs(path: &Path, mode: u32) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .at("make", path)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, Permissions::from_mode(mode)).at("set permissions of", path)
}

/// Whether a name among layers can be a layer's: the drivers' own are not 64 digits.
pub(crate) fn is_layer_name(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        name.len() == 64 && name.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
    })
}
