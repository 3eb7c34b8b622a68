//! Mounted layers: the overlay mounts themselves, and the count of their users that peers share
//! with us (`mountpoints.json` below the run root).

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sys::lock::{Kind, LockFile};
use sys::mount::{self, Flags, Overlay};

use crate::error::Context;
use crate::table::{self, LastWriter, Order, Rank};
use crate::{Driver, Error, ImageId, LayerId, Store, UserNamespace, driver};

mod program;
mod whole;

pub(crate) use self::program::tell_peers;

/// A mounted layer.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct MountPoint {
    id: LayerId,
    path: PathBuf,
    count: i64,
}

/// How an image's files are shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct View<'a> {
    /// The directory that takes what is written; nothing can be without one.
    pub changes: Option<&'a Path>,
    /// Who says whom the files belong to, in place of the image. Not with the driver vfs.
    pub users: Option<&'a UserNamespace>,
    /// SELinux label of all files; empty for their own. With the driver vfs, files that can't be
    /// written keep the store's.
    pub label: &'a str,
}

/// The table of mounts, locked.
struct MountPoints {
    lock: LockFile,
    _order: Order,
    path: PathBuf,
    lock_path: PathBuf,
    rows: Vec<MountPoint>,
}

impl MountPoints {
    fn lock(store: &Store) -> Result<Self, Error> {
        let dir = store.paths().run_table("layers");
        let lock_path = dir.join("mountpoints.lock");
        let path = dir.join("mountpoints.json");
        let timeout = store.0.options.lock_timeout;
        let (lock, order) = table::take(&lock_path, Rank::MountPoints, Kind::Exclusive, timeout)?;
        let rows = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => {
                let json = read.at("read", &path)?;
                let rows: Option<Vec<MountPoint>> = if json.is_empty() {
                    None
                } else {
                    serde_json::from_slice(&json).map_err(|source| Error::Damaged {
                        path: path.clone(),
                        source,
                    })?
                };
                rows.unwrap_or_default()
            }
        };
        Ok(Self {
            lock,
            _order: order,
            path,
            lock_path,
            rows,
        })
    }

    fn count(&self, id: &LayerId) -> i64 {
        self.rows
            .iter()
            .find(|row| row.id == *id)
            .map_or(0, |row| row.count)
    }

    /// Sets the count of a layer's users and writes the table.
    fn set(&mut self, id: &LayerId, path: PathBuf, count: i64) -> Result<(), Error> {
        self.rows.retain(|row| row.id != *id);
        if count > 0 {
            self.rows.push(MountPoint {
                id: id.clone(),
                path,
                count,
            });
        }
        self.lock
            .write_start(LastWriter::new().as_bytes())
            .at("write", &self.lock_path)?;
        let json = serde_json::to_vec(&self.rows).map_err(|source| Error::Damaged {
            path: self.path.clone(),
            source,
        })?;
        sys::durable::replace_volatile(&self.path, &json, 0o600).at("write", &self.path)
    }
}

impl Store {
    /// Mounts a writable layer and counts one user. One that is mounted stays as it is: we count
    /// once, however often we are asked. Takes no lock that an unpacking peer holds.
    pub(crate) fn mount_layer(
        &self,
        id: &LayerId,
        label: &str,
        users: Option<&UserNamespace>,
    ) -> Result<PathBuf, Error> {
        self.reach_offered(id)?;
        let merged = self.paths().merged(id);
        let turn = self.turn(id)?;
        let points = MountPoints::lock(self)?;
        let mut mounted = mount::is_mount_point(&merged).at("stat", &merged)?;
        let counted = points.count(id) > 0;
        // The program may take its time, or hang: who wants another layer does not wait for it.
        let points = match turn {
            Some(_) => {
                drop(points);
                None
            }
            None => Some(points),
        };
        if mounted && program::is_dead(&merged).at("ask the mount program of", &merged)? {
            mount::unmount_lazily(&merged).at("unmount", &merged)?;
            mounted = false;
        }
        if mounted && counted {
            return Ok(merged);
        }
        if !mounted {
            match self.driver() {
                Driver::Overlay => self.mount_overlay(id, label, users)?,
                Driver::Vfs => whole::mount(&merged, users)?,
            }
        }
        let mut points = match points {
            Some(points) => points,
            None => MountPoints::lock(self)?,
        };
        points.set(id, merged.clone(), 1)?;
        Ok(merged)
    }

    /// Takes one user off a mounted layer, all with `force`, and unmounts it after the last. It
    /// is fine if it is not mounted.
    pub(crate) fn unmount_layer(&self, id: &LayerId, force: bool) -> Result<(), Error> {
        let merged = self.paths().merged(id);
        let _turn = self.turn(id)?;
        let mut points = MountPoints::lock(self)?;
        let count = points.count(id);
        if count > 1 && !force {
            return points.set(id, merged, count - 1);
        }
        // More than one may be on top of each other if a peer lost count.
        while mount::is_mount_point(&merged).at("stat", &merged)? {
            mount::unmount_lazily(&merged).at("unmount", &merged)?;
        }
        if count > 0 {
            points.set(id, merged, 0)
        } else {
            Ok(())
        }
    }

    /// Where a program mounts, who is at a layer: one at a time, since the table of mounts is not locked
    /// meanwhile. Of our processes, that is: a peer mounts no layer of ours of its own accord. Taken
    /// before any lock of [`table`] but that of layers, and never with another layer's.
    fn turn(&self, id: &LayerId) -> Result<Option<LockFile>, Error> {
        if self.driver() != Driver::Overlay || self.0.options.mount_program.is_none() {
            return Ok(None);
        }
        // A file that each layer has, and nobody locks.
        let link = self.paths().layer(id).join("link");
        let lock = match LockFile::open_existing(&link) {
            // There is no layer, which others say better.
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => return Ok(None),
            lock => lock.at("open", &link)?,
        };
        table::wait(&lock, &link, Kind::Exclusive, self.0.options.lock_timeout)?;
        Ok(Some(lock))
    }

    /// Mounts an image's files on `target`, an empty directory of the caller's, who unmounts it, and
    /// keeps the image from being removed until then.
    ///
    /// # Errors
    /// [`Error::ImageUnknown`]; the mount fails.
    pub fn mount_image(&self, id: &ImageId, target: &Path, view: View<'_>) -> Result<(), Error> {
        let paths = self.paths();
        let top = &self.top_layer(id)?;
        if self.driver() == Driver::Vfs {
            return whole::mount_image(&paths.files(top), target, view);
        }
        self.reach_offered(top)?;
        // Short where it can be: all names together have to fit into a page on older kernels.
        let layer = paths.layer(top);
        let layer = layer.strip_prefix(paths.home()).unwrap_or(&layer);
        let mut lowers = vec![layer.join("diff")];
        let below = driver::lowers(paths, top)?;
        if below.is_empty() {
            // An overlay that is only read wants two layers at least.
            lowers.push(layer.join("empty"));
        }
        lowers.extend(below.iter().map(|name| paths.lower(name)));
        let View {
            changes,
            users,
            label,
        } = view;
        let upper = match changes {
            None => None,
            Some(dir) => {
                let (upper, work) = (dir.join("diff"), dir.join("work"));
                fs::create_dir_all(&upper).at("create", &upper)?;
                fs::create_dir_all(&work).at("create", &work)?;
                if let Some(users) = users {
                    driver::chown(&upper, users.map.root())?;
                }
                Some((upper, work))
            }
        };
        let (flags, mut options) = self.mount_options();
        if !label.is_empty() {
            options.push(("context".into(), Some(label.into())));
        }
        let overlay = Overlay {
            base: paths.home(),
            lowers,
            upper,
            options,
            flags,
        };
        self.mount_one(&overlay, users, target)
            .at("mount image on", target)
    }

    /// Where the files of an image of one layer are, to be read without a mount; `None` of another one.
    /// Nothing there may be changed, and its links lead anywhere.
    ///
    /// # Errors
    /// [`Error::ImageUnknown`].
    pub fn image_files(&self, id: &ImageId) -> Result<Option<PathBuf>, Error> {
        let paths = self.paths();
        let top = &self.top_layer(id)?;
        if !self.driver().keeps_whole_trees() && !driver::lowers(paths, top)?.is_empty() {
            return Ok(None);
        }
        Ok(Some(paths.files(top)))
    }

    fn top_layer(&self, id: &ImageId) -> Result<LayerId, Error> {
        let top = self.image(id)?.top_layer.clone();
        top.ok_or_else(|| Error::ImageUnknown(id.to_string()))
    }

    fn mount_overlay(
        &self,
        id: &LayerId,
        label: &str,
        users: Option<&UserNamespace>,
    ) -> Result<(), Error> {
        let paths = self.paths();
        let layer = PathBuf::from(id.as_str());
        let lowers = driver::lowers(paths, id)?;
        let lowers = if lowers.is_empty() {
            vec![layer.join("empty")]
        } else {
            lowers.iter().map(|name| paths.lower(name)).collect()
        };
        let (flags, mut options) = self.mount_options();
        if !label.is_empty() {
            options.push(("context".into(), Some(label.into())));
        }
        if self.0.options.volatile {
            options.push(("volatile".into(), None));
        }
        let overlay = Overlay {
            base: paths.home(),
            lowers,
            upper: Some((layer.join("diff"), layer.join("work"))),
            options,
            flags,
        };
        let merged = paths.merged(id);
        if fs::symlink_metadata(&merged).is_err() {
            driver::make_dir(&merged, 0o700)?;
        }
        // A volatile overlay leaves this behind, so that nobody trusts the layer after a crash.
        // Nobody does: containers don't outlive a boot.
        let incompat = paths.writable_layer(id).join("work/work/incompat");
        match fs::remove_dir_all(&incompat) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).at("remove", incompat);
            }
            _ => {}
        }
        self.mount_with_fallback(overlay, users, &merged)
            .at("mount overlay on", &merged)?;
        match users {
            // The runtime looks for it as the namespace's root.
            Some(_) => {
                let layer = paths.writable_layer(id);
                mount::let_through(&layer).at("let users through", layer)
            }
            None => Ok(()),
        }
    }

    fn mount_options(&self) -> (Flags, Vec<(String, Option<String>)>) {
        let mut flags = Flags::default();
        let mut options = Vec::new();
        for option in &self.0.options.mount_options {
            match option.trim() {
                "" | "rw" | "dev" | "suid" | "exec" | "volatile" => {}
                "nodev" => flags.no_dev = true,
                "nosuid" => flags.no_suid = true,
                "noexec" => flags.no_exec = true,
                option => match option.split_once('=') {
                    Some((key, value)) => options.push((key.to_owned(), Some(value.to_owned()))),
                    None => options.push((option.to_owned(), None)),
                },
            }
        }
        (flags, options)
    }

    /// With the owners that a user namespace gives to the files of lower layers.
    fn mount_one(
        &self,
        overlay: &Overlay,
        users: Option<&UserNamespace>,
        target: &Path,
    ) -> io::Result<()> {
        let options = &self.0.options;
        match (&options.mount_program, users) {
            (Some(program), None) => {
                program::mount(program, overlay, options.force_mask.is_some(), target)
            }
            (Some(_), Some(_)) => {
                let text = "a mount program and a user namespace don't go together";
                Err(io::Error::new(io::ErrorKind::Unsupported, text))
            }
            (None, Some(users)) => {
                mount::overlay_id_mapped(overlay, users.namespace.as_fd(), target)
            }
            (None, None) => mount::overlay(overlay, target),
        }
    }

    /// Without `volatile` on a kernel before 5.10.
    fn mount_with_fallback(
        &self,
        mut overlay: Overlay,
        users: Option<&UserNamespace>,
        merged: &Path,
    ) -> io::Result<()> {
        match self.mount_one(&overlay, users, merged) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                overlay.options.retain(|(key, _)| key != "volatile");
                self.mount_one(&overlay, users, merged)
            }
            other => other,
        }
    }
}
