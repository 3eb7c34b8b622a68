//! A layer's directory in `vfs/dir/`, as the vfs driver of containers/storage lays it out: all files of
//! the image up to this layer. For file systems that overlay can't be used on.
//!
//! A layer is unpacked as a difference, like any other, but for overlay's marks of what it hides, which are
//! remembered; it is then applied to a copy of the layer below: unpacking stays parallel, and only
//! building waits for what is below.

use std::io;
use std::path::{Path, PathBuf};

use sys::beneath::Dir;

use super::{ROOT_MODE, Writable, copy, make_dir};
use crate::error::Context;
use crate::paths::Paths;
use crate::staging::Staging;
use crate::{Error, LayerId, StagedLayer};

/// Makes the tree of `parent` with what was unpacked; it is in the directory that is returned.
pub(super) fn build(
    paths: &Paths,
    staged: &StagedLayer,
    parent: Option<&LayerId>,
) -> Result<PathBuf, Error> {
    let (tree, diff) = (tree_of(&staged.staging), staged.staging.diff());
    make_dir(&tree, ROOT_MODE)?;
    let to = Dir::open(&tree).at("open", &tree)?;
    if let Some(parent) = parent {
        copy_layer(paths, parent, &to, &tree)?;
    }
    let from = Dir::open(&diff).at("open", &diff)?;
    let root = staged.has_root || parent.is_none();
    copy::apply(&from, &to, root, &staged.hidden).at("apply a layer in", &tree)?;
    Ok(tree)
}

/// A copy of an image's topmost layer, in a staging directory: what will be a container's. It takes long,
/// so that no lock is held.
pub(super) fn copy(paths: &Paths, parent: Option<&LayerId>, label: &str) -> Result<Copied, Error> {
    let staging = Staging::for_containers(paths)?;
    let tree = tree_of(&staging);
    make_dir(&tree, ROOT_MODE)?;
    let of = parent.map(|parent| {
        let to = Dir::open(&tree).at("open", &tree)?;
        copy_layer(paths, parent, &to, &tree)
    });
    if !label.is_empty() {
        sys::selinux::relabel(&tree, label).at("label", &tree)?;
    }
    Ok(Copied {
        staging,
        parent: parent.cloned(),
        of: of.transpose()?,
    })
}

/// A copy of a layer that no record names yet. Dropping it removes it.
pub(crate) struct Copied {
    staging: Staging,
    parent: Option<LayerId>,
    /// What was copied. It is kept open: its inode is nobody else's until then.
    of: Option<Dir>,
}

/// Makes the directory of a writable layer of a copy; the caller's lock keeps the parent from going.
pub(super) fn make_writable(paths: &Paths, wanted: &Writable<'_>) -> Result<(), Error> {
    let layer = paths.writable_layer(wanted.id);
    let copied = wanted.copied.as_ref().filter(|copied| {
        // A peer may have taken the parent away, and made it again, while it was copied.
        let is_it = |(of, id): (&Dir, &LayerId)| is_at(of, &paths.files(id)).unwrap_or(false);
        copied.parent.as_ref() == wanted.parent
            && copied
                .of
                .as_ref()
                .zip(copied.parent.as_ref())
                .is_none_or(is_it)
    });
    let copied =
        copied.ok_or_else(|| Error::LayerUnknown(wanted.parent.unwrap_or(wanted.id).clone()))?;
    let tree = tree_of(&copied.staging);
    sys::durable::rename_new_volatile(&tree, &layer).at("rename", tree)
}

fn tree_of(staging: &Staging) -> PathBuf {
    staging.path().join("tree")
}

/// Whether a directory that is open is the one at a path.
fn is_at(dir: &Dir, path: &Path) -> io::Result<bool> {
    let (there, open) = (rustix::fs::stat(path)?, rustix::fs::fstat(dir)?);
    Ok((there.st_dev, there.st_ino) == (open.st_dev, open.st_ino))
}

/// Fills an empty directory with a copy of a tree.
pub(crate) fn copy_whole(from: &Path, to: &Path) -> Result<(), Error> {
    let (source, target) = (
        Dir::open(from).at("open", from)?,
        Dir::open(to).at("open", to)?,
    );
    copy::tree(&source, &target).at("copy to", to)
}

/// Copies a layer's files; their directory.
fn copy_layer(paths: &Paths, id: &LayerId, to: &Dir, at: &Path) -> Result<Dir, Error> {
    let files = paths.files(id);
    let from = Dir::open(&files).at("open", &files)?;
    copy::tree(&from, to).at("copy a layer to", at)?;
    Ok(from)
}
