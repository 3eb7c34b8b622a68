//! Mounts of layers that are whole trees. A container's is mounted onto itself, so that a mount tells
//! that it is in use, as with overlay.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;

use sys::mount::{self, Flags, Propagation};

use super::View;
use crate::error::Context;
use crate::{Error, UserNamespace, driver};

/// Mounts a container's layer onto itself. Its files are its own: a label is put on them.
pub(super) fn mount(layer: &Path, label: &str, users: Option<&UserNamespace>) -> Result<(), Error> {
    if !label.is_empty() {
        sys::selinux::relabel(layer, label).at("label", layer)?;
    }
    bind(layer, layer, users)?;
    mount::set_propagation(layer, Propagation::Private, false).at("mount", layer)
}

/// Shows a tree, with the owners that a user namespace says.
fn bind(files: &Path, target: &Path, users: Option<&UserNamespace>) -> Result<(), Error> {
    let mounted = match users {
        None => mount::bind(files, target, false),
        Some(users) => mount::id_mapped(files, users.namespace.as_fd(), false)
            .and_then(|tree| mount::attach(tree.as_fd(), target)),
    };
    mounted.at("mount on", target)
}

/// Mounts an image's files on `target`, only to be read; with a directory for changes a copy there, to
/// be written.
pub(super) fn mount_image(files: &Path, target: &Path, view: View<'_>) -> Result<(), Error> {
    let Some(changes) = view.changes else {
        bind(files, target, view.users)?;
        let flags = Flags {
            read_only: true,
            ..Flags::default()
        };
        return mount::remount_bind(target, flags).at("mount image on", target);
    };
    let copy = changes.join("diff");
    fs::create_dir_all(&copy).at("create", &copy)?;
    driver::copy_whole(files, &copy)?;
    bind(&copy, target, view.users)
}
