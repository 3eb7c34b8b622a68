//! A layer's directory in `vfs/dir/`, as the vfs driver of containers/storage lays it out: all files of
//! the image up to this layer. For file systems that overlay can't be used on.
//!
//! A layer is unpacked as overlay's difference, like any other, and then applied to a copy of the layer
//! below: unpacking stays parallel, and only building waits for what is below.

use std::path::{Path, PathBuf};

use sys::beneath::Dir;

use super::{ROOT_MODE, Writable, copy, make_dir};
use crate::error::Context;
use crate::paths::Paths;
use crate::{Error, LayerId, StagedLayer};

/// Makes the tree of `parent` with what was unpacked; it is in the directory that is returned.
pub(super) fn build(
    paths: &Paths,
    staged: &StagedLayer,
    parent: Option<&LayerId>,
) -> Result<PathBuf, Error> {
    let (tree, diff) = (staged.staging.path().join("tree"), staged.staging.diff());
    make_dir(&tree, ROOT_MODE)?;
    let to = Dir::open(&tree).at("open", &tree)?;
    if let Some(parent) = parent {
        copy_layer(paths, parent, &to, &tree)?;
    }
    let from = Dir::open(&diff).at("open", &diff)?;
    let root = staged.has_root || parent.is_none();
    copy::apply(&from, &to, root).at("apply a layer in", &tree)?;
    Ok(tree)
}

/// Makes the directory of a writable layer: a copy of its parent.
pub(super) fn make_writable(paths: &Paths, wanted: &Writable<'_>) -> Result<(), Error> {
    let layer = paths.writable_layer(wanted.id);
    make_dir(&layer, ROOT_MODE)?;
    if let Some(parent) = wanted.parent {
        let to = Dir::open(&layer).at("open", &layer)?;
        copy_layer(paths, parent, &to, &layer)?;
    }
    match wanted.label {
        "" => Ok(()),
        label => sys::selinux::relabel(&layer, label).at("label", layer),
    }
}

/// Fills an empty directory with a copy of a tree.
pub(crate) fn copy_whole(from: &Path, to: &Path) -> Result<(), Error> {
    let (source, target) = (
        Dir::open(from).at("open", from)?,
        Dir::open(to).at("open", to)?,
    );
    copy::tree(&source, &target).at("copy to", to)
}

fn copy_layer(paths: &Paths, id: &LayerId, to: &Dir, at: &Path) -> Result<(), Error> {
    let files = paths.files(id);
    let from = Dir::open(&files).at("open", &files)?;
    copy::tree(&from, to).at("copy a layer to", at)
}
