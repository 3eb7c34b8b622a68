//! What a layer hides of those below: whiteouts and opaque directories, kept as overlay keeps them, or
//! remembered where layers are whole trees. Those need no marks, and a file system may refuse them: overlay
//! takes no such device, and `trusted` attributes are not everywhere.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{FileType, Stat, XattrFlags};
use sys::beneath::{Dir, makedev};

use super::extract::failed;
use super::remove::join;
use crate::tar::{Entry, Kind};
use crate::{Driver, Error, limits};

/// `trusted.overlay.opaque` = `y`: nothing of the lower layers shows in this directory.
const OPAQUE: (&str, &[u8]) = ("trusted.overlay.opaque", b"y");
/// Bytes that a remembered path takes beside its own.
const REMEMBERED_BYTES: usize = 64;

/// Paths below the root of which nothing shows that the layers below have there; empty for all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hidden {
    paths: BTreeSet<Vec<u8>>,
    bytes: usize,
}

impl Hidden {
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.paths
            .iter()
            .map(|path| Path::new(OsStr::from_bytes(path)))
    }

    fn insert(&mut self, path: Vec<u8>) -> Result<(), Error> {
        let more = path.len() + REMEMBERED_BYTES;
        if self.bytes + more > limits::HIDDEN_PATH_BYTES {
            let limit = limits::HIDDEN_PATH_BYTES as u64;
            return Err(Error::TooLarge {
                what: "bytes of removed files' paths",
                limit,
            });
        }
        if self.paths.insert(path) {
            self.bytes += more;
        }
        Ok(())
    }

    fn remove(&mut self, path: &[u8]) -> bool {
        let removed = self.paths.remove(path);
        if removed {
            self.bytes -= path.len() + REMEMBERED_BYTES;
        }
        removed
    }

    /// Forgets a path and all beneath it.
    fn remove_tree(&mut self, path: &[u8]) {
        self.remove(path);
        // In the order of bytes, what is beneath begins with the slash and ends before its successor.
        let (first, end) = (join(path, b""), [path, b"0"].concat());
        let beneath: Vec<_> = self.paths.range(first..end).cloned().collect();
        for path in beneath {
            self.remove(&path);
        }
    }
}

/// How a layer being unpacked keeps them.
#[derive(Debug)]
pub(super) enum Marks {
    /// At the files, as overlay wants them.
    AtFiles,
    Remembered(Hidden),
}

impl Marks {
    /// Those that the driver wants.
    pub(super) fn of(driver: Driver) -> Self {
        if driver.keeps_whole_trees() {
            Self::Remembered(Hidden::default())
        } else {
            Self::AtFiles
        }
    }

    /// Hides what the layers below have as `name` in `dir`, whose real path is `parent`. Nothing is there
    /// in this layer.
    pub(super) fn hide(
        &mut self,
        entry: &Entry,
        dir: &Dir,
        parent: &[u8],
        name: &OsStr,
    ) -> Result<(), Error> {
        match self {
            Self::AtFiles => dir
                .make_node(name, FileType::CharacterDevice, 0, makedev(0, 0))
                .map_err(|error| failed(entry, error)),
            Self::Remembered(hidden) => hidden.insert(join(parent, name.as_bytes())),
        }
    }

    /// Hides what the layers below have in `dir`, a directory of this layer at `path`.
    pub(super) fn hide_in(&mut self, entry: &Entry, dir: &Dir, path: Vec<u8>) -> Result<(), Error> {
        match self {
            Self::AtFiles => {
                let (key, value) = OPAQUE;
                rustix::fs::fsetxattr(dir, key, value, XattrFlags::empty())
                    .map_err(|error| failed(entry, error.into()))
            }
            Self::Remembered(hidden) => hidden.insert(path),
        }
    }

    /// Takes back all that is hidden at `path` and beneath, where `there` is in this layer. Whether nothing
    /// was, and that path is hidden.
    pub(super) fn forget(&mut self, path: &[u8], there: Option<&Stat>) -> bool {
        match (self, there) {
            // The mark goes with its file.
            (Self::AtFiles, Some(stat)) => {
                FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
                    && stat.st_rdev == 0
            }
            (Self::AtFiles, None) => false,
            (Self::Remembered(hidden), Some(_)) => {
                hidden.remove_tree(path);
                false
            }
            (Self::Remembered(hidden), None) => hidden.remove(path),
        }
    }

    /// Whether an entry is overlay's own mark, which is remembered and not made.
    pub(super) fn are_instead_of(&self, entry: &Entry) -> bool {
        let mark = entry.kind == Kind::CharacterDevice && entry.device == (0, 0);
        mark && matches!(self, Self::Remembered(_))
    }

    pub(super) fn into_hidden(self) -> Hidden {
        match self {
            Self::AtFiles => Hidden::default(),
            Self::Remembered(hidden) => hidden,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_forgotten_with_all_beneath_and_nothing_beside() {
        let mut hidden = Hidden::default();
        for path in ["a", "a/b", "a/b/c", "a.b", "a/", "ab", "b/a", "", "a0"] {
            hidden.insert(path.as_bytes().to_vec()).unwrap();
            hidden.insert(path.as_bytes().to_vec()).unwrap();
        }
        hidden.remove_tree(b"a");
        let left: Vec<_> = hidden.paths().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(left, ["", "a.b", "a0", "ab", "b/a"]);
        let bytes: usize = left.iter().map(|path| path.len() + REMEMBERED_BYTES).sum();
        assert_eq!(hidden.bytes, bytes);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut hidden = Hidden::default();
        let long = |n: usize| format!("{n:04000}").into_bytes();
        let most = limits::HIDDEN_PATH_BYTES / (4000 + REMEMBERED_BYTES);
        for n in 0..most {
            hidden.insert(long(n)).unwrap();
        }
        let error = hidden.insert(long(most)).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    }
}
