//! The store: its options, its places on disk and its tables.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::additional::Additional;
use crate::containers::{self, ContainerIndex};
use crate::error::Context;
use crate::images::{self, ImageIndex};
use crate::layer_stores::{LayerStore, LayerStores};
use crate::paths::Paths;
use crate::quota::Quotas;
use crate::record::{ContainerRecord, ImageRecord, LayerRecord};
use crate::reserve::Reserve;
use crate::table::{Rank, Table};
use crate::{Driver, Error, ForceMask, QuotaLimits, open};

/// Where the store is and how it behaves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Options {
    /// The graph root, `/var/lib/containers/storage` by default.
    pub root: PathBuf,
    /// The run root, `/run/containers/storage` by default; on a file system that a reboot empties.
    pub run_root: PathBuf,
    /// How layers are kept.
    pub driver: Driver,
    /// A root of images and their layers; `None`: they are in the graph root.
    pub image_root: Option<PathBuf>,
    /// Roots of further stores, which are only read.
    pub additional: Vec<PathBuf>,
    /// Directories in which layers are offered that need not be fetched. With the driver overlay only.
    pub layer_stores: Vec<LayerStore>,
    /// Options of the containers' overlay mounts (`nodev`, `metacopy=on`, …).
    pub mount_options: Vec<String>,
    /// Whether containers' mounts are volatile: nothing of them is synced.
    pub volatile: bool,
    /// Whether the driver's directory is mounted onto itself, as peers do.
    pub mount_home: bool,
    /// Mounts overlays in place of the kernel, as fuse-overlayfs does.
    pub mount_program: Option<PathBuf>,
    /// Whether owners that can't be given to layers' files are left out.
    pub ignore_chown_errors: bool,
    /// Permissions of all files of layers; the mount program shows others. Without one there are no
    /// containers then.
    pub force_mask: Option<ForceMask>,
    /// What each container's layer may take of its disk. Not told to a process that only pulls.
    #[serde(skip)]
    pub quota: QuotaLimits,
    /// How long to wait for a lock that another process holds.
    pub lock_timeout: Duration,
}

impl Options {
    /// A store at those roots that is like any other.
    #[must_use]
    pub fn new(root: PathBuf, run_root: PathBuf) -> Self {
        Self {
            root,
            run_root,
            driver: Driver::default(),
            image_root: None,
            additional: Vec::new(),
            layer_stores: Vec::new(),
            mount_options: Vec::new(),
            volatile: true,
            mount_home: true,
            mount_program: None,
            ignore_chown_errors: false,
            force_mask: None,
            quota: QuotaLimits::default(),
            lock_timeout: Duration::from_secs(60),
        }
    }
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
    pub(crate) additional: Vec<Additional>,
    pub(crate) layer_stores: LayerStores,
    pub(crate) reserve: Reserve,
    /// Where the file system counts what containers' layers take.
    pub(crate) quotas: Option<Quotas>,
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
    /// [`Error::Unsuitable`] where overlay, or a limit, can't be used on that file system.
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
        open::prepare(&paths, options.mount_program.is_some())?;
        let quotas = Quotas::open(&paths, options.quota, options.mount_program.is_some())?;
        let home = open::Home::mount(&paths, options.mount_home)?;
        let timeout = options.lock_timeout;
        let layers = Table::new(paths.layers(), Rank::Layers, timeout, |_: &[Arc<_>]| ());
        let images = Table::new(
            paths.images(),
            Rank::Images,
            timeout,
            |rows: &[Arc<_>]| images::index(rows, false),
        );
        let at = paths.clone();
        let containers = Table::new(paths.containers(), Rank::Containers, timeout, move |rows| {
            containers::index(&at, rows)
        });
        let additional = Additional::all(&paths, timeout);
        let mut roots = vec![paths.root(), paths.image_root()];
        roots.dedup();
        let reserve = Reserve::take(roots.into_iter());
        Ok(Self(Arc::new(Inner {
            layer_stores: LayerStores::new(options.layer_stores.clone()),
            options,
            additional,
            reserve,
            paths,
            layers,
            images,
            containers,
            quotas,
            _home: home,
        })))
    }

    /// Removes what killed processes left unfinished since it was opened. What is in work stays.
    ///
    /// # Errors
    /// Something can't be removed, or a lock is held for too long.
    pub fn sweep(&self) -> Result<(), Error> {
        open::sweep(self.paths())?;
        // Whoever takes the lock removes layers that are marked incomplete.
        self.write_layers().map(drop)
    }

    /// What it was opened with.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// The graph root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.0.options.root
    }

    /// The root of images and their layers: the graph root, unless they have their own.
    #[must_use]
    pub fn image_root(&self) -> &Path {
        self.0.paths.image_root()
    }

    /// How its layers are kept.
    #[must_use]
    pub fn driver(&self) -> Driver {
        self.0.paths.driver()
    }

    /// Whether containers' files can belong to whom a user namespace says.
    #[must_use]
    pub fn maps_users(&self) -> bool {
        self.driver() == Driver::Overlay && self.0.options.mount_program.is_none()
    }

    /// The run root.
    #[must_use]
    pub fn run_root(&self) -> &Path {
        &self.0.options.run_root
    }

    /// What images take of the disk that they are on. No directory is walked: bytes are those of the layers'
    /// archives (where layers are whole trees, of all that are in each), without containers' writable
    /// layers; inodes are those of the whole file system, since counting the store's own would take a
    /// walk.
    ///
    /// # Errors
    /// As [`Store::images`].
    pub fn usage(&self) -> Result<Usage, Error> {
        let layers = self.0.layers.read()?;
        let layers = layers
            .rows
            .iter()
            .filter(|layer| !layer.is_writable() && !layer.is_incomplete());
        let images = self.images()?;
        let data = images
            .iter()
            .filter(|image| !image.read_only)
            .flat_map(|image| &image.big_data)
            .map(|(_, size)| size);
        let size = |layer: &LayerRecord| u64::try_from(layer.diff_size).unwrap_or(0);
        let whole = self.driver().keeps_whole_trees().then(|| self.all_layers());
        let whole = whole.transpose()?;
        let layers = layers.map(|layer| match &whole {
            None => size(layer),
            Some(all) => all.chain(Some(&layer.id)).map(|layer| size(layer)).sum(),
        });
        let statfs = rustix::fs::statfs(self.image_root()).at("statfs", self.image_root())?;
        Ok(Usage {
            bytes: layers.sum::<u64>() + data.sum::<u64>(),
            inodes: statfs.f_files.saturating_sub(statfs.f_ffree),
        })
    }

    pub(crate) fn paths(&self) -> &Paths {
        &self.0.paths
    }
}
