//! Where things are: below the graph root, the run root, the images' own root where they have one,
//! and below the roots of stores that are only read.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::store::Options;
use crate::table::Files;
use crate::{ContainerId, Driver, ImageId, LayerId};

/// Where things are.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    root: PathBuf,
    run_root: PathBuf,
    /// The graph root, unless images have a root of their own.
    image_root: PathBuf,
    /// Roots that are only read.
    additional: Vec<PathBuf>,
    driver: Driver,
    /// Whether a staging directory of this process's could not be removed, and waits for a sweep.
    left: Arc<AtomicBool>,
}

impl Paths {
    pub(crate) fn new(options: &Options) -> Self {
        let image_root = options.image_root.as_ref().unwrap_or(&options.root);
        let own = |root: &&PathBuf| **root != options.root && *root != image_root;
        Self {
            root: options.root.clone(),
            run_root: options.run_root.clone(),
            image_root: image_root.clone(),
            additional: options.additional.iter().filter(own).cloned().collect(),
            driver: options.driver,
            left: Arc::default(),
        }
    }

    pub(crate) fn left(&self) -> &Arc<AtomicBool> {
        &self.left
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
    pub(crate) fn run_root(&self) -> &Path {
        &self.run_root
    }
    pub(crate) fn image_root(&self) -> &Path {
        &self.image_root
    }
    pub(crate) fn additional(&self) -> &[PathBuf] {
        &self.additional
    }
    /// Whether images have a root of their own.
    pub(crate) fn is_split(&self) -> bool {
        self.image_root != self.root
    }

    pub(crate) fn driver(&self) -> Driver {
        self.driver
    }
    /// The driver's directory: what the names of overlay's mounts are relative to.
    pub(crate) fn home(&self) -> PathBuf {
        self.driver.home(&self.root)
    }
    /// That of images' layers.
    pub(crate) fn image_home(&self) -> PathBuf {
        self.driver.home(&self.image_root)
    }
    /// Both, or the one that is both.
    pub(crate) fn own_homes(&self) -> Vec<PathBuf> {
        let mut homes = vec![self.home()];
        if self.is_split() {
            homes.push(self.image_home());
        }
        homes
    }
    pub(crate) fn staging(&self) -> PathBuf {
        crate::staging::staging_of(&self.image_home())
    }

    /// A layer's files, in whatever root it is.
    pub(crate) fn files(&self, id: &LayerId) -> PathBuf {
        self.driver.files(&self.layer(id))
    }

    /// A layer's directory, in whatever root it is.
    pub(crate) fn layer(&self, id: &LayerId) -> PathBuf {
        let own = self.own_layer(id);
        if self.additional.is_empty() || is_there(&own) {
            return own;
        }
        let others = self.additional.iter();
        let mut others = others.map(|root| self.driver.layer(&self.driver.home(root), id));
        others.find(|path| is_there(path)).unwrap_or(own)
    }
    /// A layer's directory in the roots that may be written.
    pub(crate) fn own_layer(&self, id: &LayerId) -> PathBuf {
        let writable = self.writable_layer(id);
        if !self.is_split() || is_there(&writable) {
            return writable;
        }
        self.image_layer(id)
    }
    /// Where a container's layer goes.
    pub(crate) fn writable_layer(&self, id: &LayerId) -> PathBuf {
        self.driver.layer(&self.home(), id)
    }
    /// Where an image's layer goes.
    pub(crate) fn image_layer(&self, id: &LayerId) -> PathBuf {
        self.driver.layer(&self.image_home(), id)
    }
    /// Where the mounted file system of a container's layer shows.
    pub(crate) fn merged(&self, id: &LayerId) -> PathBuf {
        self.driver.merged(&self.writable_layer(id))
    }
    /// A layer by its short name (`l/…`): relative to [`Self::home`] where it is there.
    pub(crate) fn lower(&self, name: &str) -> PathBuf {
        let here = PathBuf::from(name);
        if (!self.is_split() && self.additional.is_empty()) || is_there(&self.home().join(&here)) {
            return here;
        }
        let roots = std::iter::once(&self.image_root).chain(&self.additional);
        let mut others = roots.map(|root| self.driver.home(root).join(name));
        others.find(|path| is_there(path)).unwrap_or(here)
    }

    /// The directory of a table: `layers`, `images`, `containers`.
    pub(crate) fn table(&self, name: &str) -> PathBuf {
        let root = if name == "images" {
            &self.image_root
        } else {
            &self.root
        };
        self.driver.table(root, name)
    }
    pub(crate) fn run_table(&self, name: &str) -> PathBuf {
        self.driver.table(&self.run_root, name)
    }
    /// A layer's tar-split, wherever it is; one of ours is always below the graph root.
    pub(crate) fn tar_split(&self, id: &LayerId) -> PathBuf {
        self.beside_layers(&format!("{id}.tar-split.gz"))
    }
    /// Big data of a layer that a peer pulled in pieces.
    pub(crate) fn layer_data(&self, id: &LayerId) -> PathBuf {
        self.beside_layers(id.as_str())
    }
    /// A file of a layer of ours beside the layers' table.
    pub(crate) fn own_beside_layers(&self, name: &str) -> PathBuf {
        self.table("layers").join(name)
    }
    fn beside_layers(&self, name: &str) -> PathBuf {
        let own = self.own_beside_layers(name);
        if self.additional.is_empty() || is_there(&own) {
            return own;
        }
        let others = self.additional.iter();
        let mut others = others.map(|root| self.driver.table(root, "layers").join(name));
        others.find(|path| is_there(path)).unwrap_or(own)
    }
    /// An image's directory in the root that may be written.
    pub(crate) fn own_image(&self, id: &ImageId) -> PathBuf {
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
        let image = self
            .is_split()
            .then(|| self.driver.table(&self.image_root, "layers"));
        Files {
            second_lock: image.as_ref().map(|dir| dir.join("layers.lock")),
            image: image.map(|dir| dir.join("layers.json")),
            ..self.table_files("layers", true)
        }
    }
    /// The table of images.
    pub(crate) fn images(&self) -> Files {
        self.table_files("images", false)
    }
    /// The table of containers.
    pub(crate) fn containers(&self) -> Files {
        self.table_files("containers", true)
    }

    fn table_files(&self, name: &str, volatile: bool) -> Files {
        let dir = self.table(name);
        Files {
            lock: dir.join(format!("{name}.lock")),
            second_lock: None,
            stable: dir.join(format!("{name}.json")),
            image: None,
            volatile: volatile.then(|| dir.join(format!("volatile-{name}.json"))),
        }
    }
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}
