//! Mounts of layers that are whole trees. A container's is mounted onto itself, so that a mount tells
//! that it is in use, as with overlay.
//!
//! There are none with other owners: a path to such a tree would lead everybody of the node to the
//! trees of all images beside it, programs with set-user-ID included.

use std::fs;
use std::path::Path;

use sys::mount::{self, Flags, Propagation};

use super::View;
use crate::error::Context;
use crate::{Error, UserNamespace, driver};

/// Mounts a container's layer onto itself.
pub(super) fn mount(layer: &Path, users: Option<&UserNamespace>) -> Result<(), Error> {
    refuse(users)?;
    mount::bind(layer, layer, false).at("mount", layer)?;
    mount::set_propagation(layer, Propagation::Private, false).at("mount", layer)
}

fn refuse(users: Option<&UserNamespace>) -> Result<(), Error> {
    match users {
        None => Ok(()),
        Some(users) => Err(Error::Invalid {
            what: "user namespace with the driver vfs",
            value: format!("{:?}", users.map),
        }),
    }
}

/// Mounts an image's files on `target`, only to be read; with a directory for changes a copy there, to
/// be written.
pub(super) fn mount_image(files: &Path, target: &Path, view: View<'_>) -> Result<(), Error> {
    refuse(view.users)?;
    let Some(changes) = view.changes else {
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
    if !view.label.is_empty() {
        sys::selinux::relabel(&copy, view.label).at("label", &copy)?;
    }
    mount::bind(&copy, target, false).at("mount image on", target)
}
