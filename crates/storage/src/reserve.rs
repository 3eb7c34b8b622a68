//! Room that is kept for taking things away. On a disk that is full nothing could be removed: the
//! tables that say so are replaced by new files, and what is removed is moved to a new directory
//! first.
//!
//! It is a file, `crioxide.reserve`, in each root of the store that we write to. Where a file system
//! takes no room in advance (`fallocate(2)`) there is none.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, fstat, ftruncate};

use crate::{Error, Store};

const NAME: &str = "crioxide.reserve";
/// Bytes: tables of some hundred images and containers, twice, and directories.
const BYTES: u64 = 1 << 20;

/// The files.
#[derive(Debug)]
pub(crate) struct Reserve(Vec<PathBuf>);

impl Reserve {
    /// Takes the room where it is not taken yet. That there is none left for it is no error.
    pub(crate) fn take<'a>(roots: impl Iterator<Item = &'a Path>) -> Self {
        let reserve = Self(roots.map(|root| root.join(NAME)).collect());
        reserve.fill();
        reserve
    }

    fn fill(&self) {
        for path in &self.0 {
            if let Err(error) = fill(path) {
                let path = path.display();
                tracing::debug!(%path, %error, "no room kept for a full disk");
            }
        }
    }

    fn free(&self) {
        for path in &self.0 {
            if let Err(error) = open(path).and_then(|file| Ok(ftruncate(file, 0)?)) {
                let path = path.display();
                tracing::warn!(%path, %error, "room that was kept for a full disk is not free");
            }
        }
    }
}

fn open(path: &Path) -> io::Result<std::os::fd::OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?)
}

fn fill(path: &Path) -> io::Result<()> {
    let file = open(path)?;
    let blocks = u64::try_from(fstat(&file)?.st_blocks).unwrap_or(0);
    // `stat(2)`: blocks of 512 bytes, whatever the file system's are.
    if blocks.saturating_mul(512) >= BYTES {
        return Ok(());
    }
    let filled = fallocate(&file, FallocateFlags::empty(), 0, BYTES);
    if filled.is_err() {
        // What there was of it may be what somebody else needs.
        ftruncate(&file, 0)?;
    }
    Ok(filled?)
}

impl Store {
    /// Does what takes something away; where the disk is full, which `is_full` tells, a second time
    /// with the room that is kept for it.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn with_room<T, E>(
        &self,
        is_full: impl Fn(&E) -> bool,
        work: impl Fn() -> Result<T, E>,
    ) -> Result<T, E> {
        match work() {
            Err(error) if is_full(&error) => {
                self.0.reserve.free();
                let done = work();
                self.0.reserve.fill();
                done
            }
            done => done,
        }
    }

    /// The same for work of the store itself.
    pub(crate) fn taking<T>(&self, work: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
        self.with_room(Error::is_out_of_space, work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_once_and_free_when_it_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        let taken = |name: &str| {
            let found = std::fs::metadata(dir.path().join(name));
            found.map_or(0, |found| {
                std::os::unix::fs::MetadataExt::blocks(&found) * 512
            })
        };
        let reserve = Reserve::take([dir.path(), Path::new("/no/such")].into_iter());
        assert!(taken(NAME) >= BYTES);
        reserve.free();
        assert_eq!(taken(NAME), 0);
        Reserve::take([dir.path()].into_iter());
        assert!(taken(NAME) >= BYTES);
    }
}
