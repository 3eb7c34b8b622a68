//! Directories in `overlay/staging`: layers on their way in, and what is on its way out.
//!
//! Each holds a `staging.lock` that its owner keeps locked. Whoever can lock it (we when we open
//! the store, peers when they shut theirs down) may remove the directory.
//!
//! `overlay/` is a mount of its own on any machine where a peer ran (see [`crate::open::Home`]),
//! and nothing can be renamed out of a mount: the tar-split of a layer on its way in waits beside
//! those of the others, under a name that has the staging directory's in it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sys::lock::{Kind, LockFile};

use crate::driver;
use crate::error::Context;
use crate::paths::Paths;
use crate::unpack::Hidden;
use crate::{Digest, Error};

const LOCK: &str = "staging.lock";

/// A staging directory of ours. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Staging {
    path: PathBuf,
    tar_split: PathBuf,
    _lock: LockFile,
    left: Arc<AtomicBool>,
}

impl Staging {
    /// For an image's layer on its way in or out.
    pub(crate) fn new(paths: &Paths) -> Result<Self, Error> {
        Self::within(paths, &paths.staging())
    }

    /// For a container's layer on its way out: on the disk that it is on.
    pub(crate) fn for_containers(paths: &Paths) -> Result<Self, Error> {
        Self::within(paths, &staging_of(&paths.home()))
    }

    fn within(paths: &Paths, base: &Path) -> Result<Self, Error> {
        if paths.left().swap(false, Ordering::AcqRel)
            && let Err(error) = sweep(paths)
        {
            paths.left().store(true, Ordering::Release);
            tracing::warn!(%error, "staging still not swept");
        }
        loop {
            let name = &crate::ids::random_hex()[..16];
            let (path, tar_split) = (base.join(name), paths.table("layers").join(waiting(name)));
            // In one call: a peer that sweeps may take it away before a second one.
            fs::DirBuilder::new()
                .mode(0o700)
                .create(&path)
                .at("create", &path)?;
            let lock = path.join(LOCK);
            let file = match LockFile::open(&lock) {
                Ok(file) => file,
                // A peer that sweeps found the directory before it had a lock.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    // Out of descriptors: nothing is in it yet.
                    let _swept_at_the_next_start = fs::remove_dir(&path);
                    return Err(error).at("open", &lock);
                }
            };
            if file.try_lock(Kind::Exclusive).at("lock", &lock)?
                && file.is_linked().at("stat", &lock)?
            {
                return Ok(Self {
                    path,
                    tar_split,
                    _lock: file,
                    left: Arc::clone(paths.left()),
                });
            }
        }
    }

    /// Makes what a layer's directory has, but for what depends on its parent.
    pub(crate) fn make_layer_dirs(&self) -> Result<(), Error> {
        let layer = self.layer();
        driver::make_dir(&layer, 0o700)?;
        driver::make_dir(&self.diff(), driver::ROOT_MODE)?;
        driver::make_dir(&layer.join("work"), 0o700)?;
        driver::make_dir(&layer.join("merged"), 0o700)?;
        driver::make_dir(&self.replaced(), 0o700)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What becomes a layer's directory, as overlay has them.
    pub(crate) fn layer(&self) -> PathBuf {
        self.path.join("dir")
    }

    pub(crate) fn diff(&self) -> PathBuf {
        self.layer().join("diff")
    }

    pub(crate) fn tar_split(&self) -> &Path {
        &self.tar_split
    }

    /// Where files go that a later entry of their archive replaces.
    pub(crate) fn replaced(&self) -> PathBuf {
        self.path.join("replaced")
    }

    /// Moves `path` in here, to be removed with the directory, or removes it where it is on
    /// another mount; it is fine if there is none.
    pub(crate) fn take(&self, path: &Path) -> Result<(), Error> {
        let to = self
            .path
            .join(format!("gone-{}", &crate::ids::random_hex()[..8]));
        match sys::durable::rename_new_volatile(path, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => remove(path),
            other => other.at("rename", path),
        }
    }
}

/// Removes a file or a whole directory; it is fine if there is none.
fn remove(path: &Path) -> Result<(), Error> {
    sys::remove::tree(path).at("remove", path)
}

/// The name of a tar-split that no record refers to yet.
fn waiting(staging: &str) -> String {
    format!(".tmp-{staging}.tar-split.gz")
}

impl Drop for Staging {
    fn drop(&mut self) {
        for removed in [
            fs::remove_file(&self.tar_split),
            sys::remove::tree(&self.path),
        ] {
            if let Err(error) = removed
                && error.kind() != io::ErrorKind::NotFound
            {
                // The next one sweeps it.
                self.left.store(true, Ordering::Release);
                tracing::warn!(path = %self.path.display(), %error, "staging not removed");
            }
        }
    }
}

/// Removes staging directories that no live process owns.
pub(crate) fn sweep(paths: &Paths) -> Result<(), Error> {
    for home in paths.own_homes() {
        sweep_directories(&staging_of(&home))?;
    }
    sweep_tar_splits(paths)
}

/// Where staging directories are in a driver's directory.
pub(crate) fn staging_of(home: &Path) -> PathBuf {
    home.join("staging")
}

fn sweep_directories(base: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(base).at("list", base)? {
        let path = entry.at("list", base)?.path();
        let Ok(lock) = LockFile::open(&path.join(LOCK)) else {
            continue;
        };
        if lock.try_lock(Kind::Exclusive).at("lock", &path)? {
            tracing::info!(path = %path.display(), "removing an abandoned staging directory");
            match remove_abandoned(&path) {
                // Its owner was removing it, too, and has let go of the lock before.
                Err(gone) if gone.kind() == io::ErrorKind::NotFound => {}
                removed => removed.at("remove", &path)?,
            }
        }
    }
    Ok(())
}

/// Removes a staging directory whose lock is held: the lock's file last, since whoever finds none makes
/// one and has the directory.
fn remove_abandoned(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() != LOCK {
            sys::remove::tree(&entry.path())?;
        }
    }
    fs::remove_file(dir.join(LOCK))?;
    match fs::remove_dir(dir) {
        Err(taken) if taken.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        removed => removed,
    }
}

/// Removes waiting tar-splits whose staging directory is gone.
fn sweep_tar_splits(paths: &Paths) -> Result<(), Error> {
    let dir = paths.table("layers");
    for entry in fs::read_dir(&dir).at("list", &dir)? {
        let entry = entry.at("list", &dir)?;
        let name = entry.file_name();
        let staging = name.to_str().and_then(|name| {
            name.strip_prefix(".tmp-")?
                .strip_suffix(".tar-split.gz")
                .filter(|n| n.len() == 16)
        });
        let Some(staging) = staging else { continue };
        // Its owner made the directory before and removes it after the file.
        let homes = paths.own_homes();
        let mut owners = homes.iter().map(|home| staging_of(home).join(staging));
        if owners.all(|owner| fs::symlink_metadata(owner).is_err()) {
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).at("remove", entry.path());
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The users and groups of a layer's files, as its record lists them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owners {
    pub(crate) uids: BTreeSet<u32>,
    pub(crate) gids: BTreeSet<u32>,
}

impl Owners {
    pub(crate) fn add(&mut self, uid: u32, gid: u32) {
        self.uids.insert(uid);
        self.gids.insert(gid);
    }
}

/// An unpacked layer that no record names yet. Dropping it removes it.
#[derive(Debug)]
pub struct StagedLayer {
    pub(crate) staging: Staging,
    pub(crate) diff_id: Digest,
    pub(crate) size: u64,
    pub(crate) owners: Owners,
    /// Whether the archive said what the root directory is like; else it is as the parent's.
    pub(crate) has_root: bool,
    /// What it hides of the layers below, where no marks at its files say it.
    pub(crate) hidden: Hidden,
}

impl StagedLayer {
    /// Digest of the uncompressed archive.
    #[must_use]
    pub fn diff_id(&self) -> &Digest {
        &self.diff_id
    }

    /// Bytes of the uncompressed archive.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }
}
