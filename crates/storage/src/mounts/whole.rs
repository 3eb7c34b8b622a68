//! Mounts of layers that are whole trees. A container's is mounted onto itself, so that a mount tells
//! that it is in use, as with overlay.

use std::fs;
use std::path::Path;

use sys::mount::{self, Flags, Propagation};

use crate::error::Context;
use crate::{Error, driver};

/// Mounts a container's layer onto itself.
pub(super) fn mount(layer: &Path) -> Result<(), Error> {
    mount::bind(layer, layer, false).at("mount", layer)?;
    mount::set_propagation(layer, Propagation::Private, false).at("mount", layer)
}

/// Mounts an image's files on `target`, only to be read; with `changes` a copy there, to be written.
pub(super) fn mount_image(
    files: &Path,
    target: &Path,
    changes: Option<&Path>,
) -> Result<(), Error> {
    let Some(changes) = changes else {
        mount::bind(files, target, false).at("mount image on", target)?;
        let flags = Flags {
            read_only: true,
            ..Flags::default()
        };
        return mount::remount_bind(target, flags).at("mount image on", target);
    };
    let copy = changes.join("diff");
    fs::create_dir_all(&copy).at("create", &copy)?;
    driver::copy_whole(files, &copy)?;
    mount::bind(&copy, target, false).at("mount image on", target)
}
