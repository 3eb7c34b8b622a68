//! The store: its options, its places on disk and its tables.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::containers::{self, ContainerIndex};
use crate::error::Context;
use crate::images::{self, ImageIndex};
use crate::record::{ContainerRecord, ImageRecord, LayerRecord};
use crate::table::{Files, Rank, Table};
use crate::{ContainerId, Error, ImageId, LayerId, open};

/// Where the store is and how it behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The graph root, `/var/lib/containers/storage` by default.
    pub root: PathBuf,
    /// The run root, `/run/containers/storage` by default; on a file system that a reboot empties.
    pub run_root: PathBuf,
    /// Options of the containers' overlay mounts (`nodev`, `metacopy=on`, …).
    pub mount_options: Vec<String>,
    /// How long to wait for a lock that another process holds.
    pub lock_timeout: Duration,
}

/// A store. Clones share it.
#[derive(Clone, Debug)]
pub struct Store(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) paths: Paths,
    pub(crate) layers: Table<LayerRecord, ()>,
    pub(crate) images: Table<ImageRecord, ImageIndex>,
    pub(crate) containers: Table<ContainerRecord, ContainerIndex>,
    _home: open::Home,
}

/// What the store takes of its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all image layers and images' data, by their records: nothing is walked.
    pub bytes: u64,
    /// Inodes in use on the store's file system, by `statfs(2)`.
    pub inodes: u64,
}

impl Store {
    /// Opens the store at `options.root`, making it where there is none; removes what a killed
    /// process left unfinished and rebuilds volatile tables that a power cut tore.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] where overlay can't be used on that file system.
    pub fn open(options: Options) -> Result<Self, Error> {
        let store = Self::open_as_it_is(options)?;
        open::repair(&store)?;
        Ok(store)
    }

    /// Opens the store as [`Store::open`] does and repairs nothing: for who wants to look at it.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_as_it_is(options: Options) -> Result<Self, Error> {
        let paths = Paths::new(&options);
        open::prepare(&paths)?;
        let home = open::Home::mount(&paths)?;
        let timeout = options.lock_timeout;
        let layers = Table::new(paths.layers(), Rank::Layers, timeout, |_: &[Arc<_>]| ());
        let images = Table::new(paths.images(), Rank::Images, timeout, images::index);
        let at = paths.clone();
        let containers = Table::new(paths.containers(), Rank::Containers, timeout, move |rows| {
            containers::index(&at, rows)
        });
        Ok(Self(Arc::new(Inner {
            options,
            paths,
            layers,
            images,
            containers,
            _home: home,
        })))
    }

    /// The graph root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.0.options.root
    }

    /// The run root.
    #[must_use]
    pub fn run_root(&self) -> &Path {
        &self.0.options.run_root
    }

    /// What the store takes of its disk. No directory is walked: bytes are those of the layers'
    /// archives, without containers' writable layers; inodes are those of the whole file system,
    /// since counting the store's own would take a walk.
    ///
    /// # Errors
    /// As [`Store::images`].
    pub fn usage(&self) -> Result<Usage, Error> {
        let layers = self.0.layers.read()?;
        let layers = layers
            .rows
            .iter()
            .filter(|layer| !layer.volatile && !layer.is_incomplete());
        let images = self.images()?;
        let data = images
            .iter()
            .flat_map(|image| &image.big_data)
            .map(|(_, size)| size);
        let layers = layers.map(|layer| u64::try_from(layer.diff_size).unwrap_or(0));
        let statfs = rustix::fs::statfs(self.root()).at("statfs", self.root())?;
        Ok(Usage {
            bytes: layers.sum::<u64>() + data.sum::<u64>(),
            inodes: statfs.f_files.saturating_sub(statfs.f_ffree),
        })
    }

    pub(crate) fn paths(&self) -> &Paths {
        &self.0.paths
    }
}

/// Where things are.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    root: PathBuf,
    run_root: PathBuf,
}

impl Paths {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            root: options.root.clone(),
            run_root: options.run_root.clone(),
        }
    }
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
    pub(crate) fn run_root(&self) -> &Path {
        &self.run_root
    }
    /// The overlay driver's directory.
    pub(crate) fn overlay(&self) -> PathBuf {
        self.root.join("overlay")
    }
    pub(crate) fn links(&self) -> PathBuf {
        self.root.join("overlay/l")
    }
    pub(crate) fn staging(&self) -> PathBuf {
        self.root.join("overlay/staging")
    }
    pub(crate) fn layer(&self, id: &LayerId) -> PathBuf {
        self.overlay().join(id.as_str())
    }
    /// Where the mounted file system of a layer shows.
    pub(crate) fn merged(&self, id: &LayerId) -> PathBuf {
        self.layer(id).join("merged")
    }
    /// The directory of a table: `layers`, `images`, `containers`.
    pub(crate) fn table(&self, name: &str) -> PathBuf {
        self.root.join(format!("overlay-{name}"))
    }
    pub(crate) fn run_table(&self, name: &str) -> PathBuf {
        self.run_root.join(format!("overlay-{name}"))
    }
    pub(crate) fn tar_split(&self, id: &LayerId) -> PathBuf {
        self.table("layers").join(format!("{id}.tar-split.gz"))
    }
    /// Big data of a layer that a peer pulled in pieces.
    pub(crate) fn layer_data(&self, id: &LayerId) -> PathBuf {
        self.table("layers").join(id.as_str())
    }
    pub(crate) fn image(&self, id: &ImageId) -> PathBuf {
        self.table("images").join(id.as_str())
    }
    pub(crate) fn container(&self, id: &ContainerId) -> PathBuf {
        self.table("containers").join(id.as_str())
    }
    pub(crate) fn run_container(&self, id: &ContainerId) -> PathBuf {
        self.run_table("containers").join(id.as_str())
    }

    /// The table of layers.
    pub(crate) fn layers(&self) -> Files {
        self.files("layers", true)
    }
    /// The table of images.
    pub(crate) fn images(&self) -> Files {
        self.files("images", false)
    }
    /// The table of containers.
    pub(crate) fn containers(&self) -> Files {
        self.files("containers", true)
    }

    fn files(&self, name: &str, volatile: bool) -> Files {
        let dir = self.table(name);
        Files {
            lock: dir.join(format!("{name}.lock")),
            stable: dir.join(format!("{name}.json")),
            volatile: volatile.then(|| dir.join(format!("volatile-{name}.json"))),
        }
    }
}
