//! What containers' layers take, and may take, of their disk: a project of its own for each, where the file
//! system counts projects (XFS, ext4). As with containers/storage, a layer's directory has the project
//! and gives it to all that is made in it; images' layers have none.
//!
//! Nothing is written down about projects but at the directories themselves. One that the kernel counts
//! no file of is free, whoever had it: so peers on the same store, and another store on the same file
//! system, never get the same one, and what a restart forgets does not matter. A limit is taken back
//! before the layer goes, and set anew with each project.

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use sys::beneath::Dir;
use sys::quota::{self, Limits, Quota};

use crate::error::Context;
use crate::paths::Paths;
use crate::{ContainerId, Driver, Error, Store};

/// `statfs(2)`'s name of ext4, which lets `CAP_SYS_RESOURCE` go beyond a limit.
const EXT4: rustix::fs::FsWord = 0xEF53;
/// First project that containers/storage uses, and how many it leaves to each store.
const FIRST: u64 = 10_000;
const EACH: u64 = 10_000;

/// The projects of a store's containers.
#[derive(Debug)]
pub(crate) struct Quotas {
    limits: Limits,
    /// The project that all of them are above.
    base: u32,
    /// Where to look for a free one.
    next: AtomicU32,
}

impl Quotas {
    /// Projects of the store's own disk; `None` where it counts none, and no limit is wanted.
    pub(crate) fn open(
        paths: &Paths,
        limits: Limits,
        by_program: bool,
    ) -> Result<Option<Self>, Error> {
        let home = paths.home();
        let unsuitable = |reason: &str| Error::Unsuitable {
            path: home.clone(),
            reason: format!("overlay.size and overlay.inodes are not supported: {reason}"),
        };
        if paths.driver() != Driver::Overlay {
            return match limits.is_any() {
                true => Err(unsuitable("they are for the driver overlay")),
                false => Ok(None),
            };
        }
        let system = rustix::fs::statfs(&home).at("statfs", &home)?;
        if by_program && limits.is_any() && system.f_type == EXT4 {
            return Err(unsuitable(
                "ext4 has no limits for a mount_program, which writes with all rights",
            ));
        }
        match Self::of(&home, limits) {
            Ok(quotas) => Ok(Some(quotas)),
            Err(error) if limits.is_any() => Err(unsuitable(&format!(
                "Filesystem does not support Project Quota: {error}"
            ))),
            Err(error) => {
                tracing::debug!(path = %home.display(), %error, "containers' layers are not counted");
                Ok(None)
            }
        }
    }

    fn of(home: &Path, limits: Limits) -> io::Result<Self> {
        let dir = Dir::open(home)?;
        let state = quota::state(dir.as_fd())?;
        if !state.counted {
            return Err(io::Error::other("mount it with the option prjquota"));
        }
        if limits.is_any() && !state.enforced {
            return Err(io::Error::other("it counts and does not enforce"));
        }
        let base = match quota::project(&dir)? {
            0 => range(rustix::fs::fstat(&dir)?.st_ino),
            given => given,
        };
        // Else what is made for images would be counted as the administrator's.
        quota::keep_project(&dir)?;
        Ok(Self {
            limits,
            base,
            next: AtomicU32::new(base),
        })
    }

    /// Gives an empty directory a project of its own, with the store's limits. The caller holds the lock
    /// under which layers are made.
    pub(crate) fn assign(&self, layer: &Path) -> Result<(), Error> {
        let dir = Dir::open(layer).at("open", layer)?;
        let project = self.free(&dir).at("find a project for", layer)?;
        quota::limit(dir.as_fd(), project, self.limits).at("limit", layer)?;
        quota::give_project(&dir, project).at("set the project of", layer)
    }

    /// A project that has no file.
    fn free(&self, dir: &Dir) -> io::Result<u32> {
        loop {
            let last = self.next.load(Ordering::Relaxed);
            let project = last.checked_add(1).unwrap_or(self.base.saturating_add(1));
            self.next.store(project, Ordering::Relaxed);
            if quota::get(dir.as_fd(), project)?.inodes == 0 {
                return Ok(project);
            }
        }
    }
}

/// The project below those of the store in the directory with that inode: as containers/storage has it,
/// so that both stay among the same ones.
fn range(inode: u64) -> u32 {
    let project = FIRST + inode.wrapping_mul(EACH) % (u64::from(u32::MAX) - EACH);
    u32::try_from(project).unwrap_or(u32::MAX)
}

/// The project of a container's layer, which `home` has.
fn project_of(home: &Path, layer: &Dir) -> io::Result<Option<u32>> {
    match quota::project(layer)? {
        0 => Ok(None),
        // What an administrator gave to all of the store is nobody's own.
        project => Ok((quota::project(&Dir::open(home)?)? != project).then_some(project)),
    }
}

/// Takes back the limits of the layer in that directory, if it has any: it is about to go.
pub(crate) fn release(home: &Path, layer: &Path) {
    let released = Dir::open(layer).and_then(|dir| match project_of(home, &dir)? {
        Some(project) => quota::limit(dir.as_fd(), project, Limits::default()),
        None => Ok(()),
    });
    match released {
        Ok(()) => {}
        // The layer must go all the same, and most file systems have no projects.
        Err(error) => tracing::trace!(path = %layer.display(), %error, "limits not taken back"),
    }
}

impl Store {
    /// What a container's layer takes of its disk, with the directories that overlay needs, and what
    /// it may take, without a walk: `None` where the file system does not count it.
    ///
    /// # Errors
    /// As [`Store::container`].
    pub fn quota(&self, id: &ContainerId) -> Result<Option<Quota>, Error> {
        let layer = self.container(id)?.layer.clone();
        let (Some(_), Some(layer)) = (&self.0.quotas, layer) else {
            return Ok(None);
        };
        let (home, layer) = (self.paths().home(), self.paths().writable_layer(&layer));
        let dir = Dir::open(&layer).at("open", &layer)?;
        let project = project_of(&home, &dir).at("find the project of", &layer)?;
        let project = project.map(|project| quota::get(dir.as_fd(), project));
        project.transpose().at("count", layer)
    }

    /// Refuses a container whose layer takes more than it may.
    pub(crate) fn is_within_quota(&self, id: &ContainerId) -> Result<(), Error> {
        let Some(quota) = self.quota(id)? else {
            return Ok(());
        };
        let beyond = |taken: u64, limit: u64| limit > 0 && taken > limit;
        if beyond(quota.bytes, quota.limits.bytes) || beyond(quota.inodes, quota.limits.inodes) {
            let full: io::Result<()> = Err(io::ErrorKind::QuotaExceeded.into());
            return full.at("fill the layer of", id.as_str());
        }
        Ok(())
    }

    /// Has what will be made in `dir` count as a container's. What is to be moved into its layer has to:
    /// the kernel moves nothing into a directory that would give it another project.
    pub(crate) fn count_as(&self, id: &ContainerId, dir: &Path) -> Result<(), Error> {
        let layer = self.container(id)?.layer.clone();
        let (Some(_), Some(layer)) = (&self.0.quotas, layer) else {
            return Ok(());
        };
        let layer = self.paths().writable_layer(&layer);
        let of = Dir::open(&layer).and_then(|layer| quota::project(&layer));
        match of.at("find the project of", layer)? {
            0 => Ok(()),
            project => Dir::open(dir)
                .and_then(|dir| quota::give_project(&dir, project))
                .at("set the project of", dir),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_containers_storage() {
        for (inode, project) in [
            (0, 10_000),
            (1, 20_000),
            (128, 1_290_000),
            (429_495, 4_294_960_000),
            (429_496, 12_705),
            (1_234_567_890_123, 250_011_595),
        ] {
            assert_eq!(range(inode), project, "{inode}");
        }
    }
}
