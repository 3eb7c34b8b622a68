//! Host paths that a container in a user namespace shows with the owners that the namespace gives
//! them: each is mounted below the bundle's directory with the namespace's map, and bound into the
//! container from there. The kernel does it, so that every runtime can: those of Debian 12 and 13
//! don't know id-mapped mounts.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use storage::UserNamespace;

use crate::Error;
use crate::bundle::host_source;
use crate::node::Node;
use crate::request::Mount;

/// Directory of the mounts in a bundle.
const DIR: &str = "id-mapped";

/// Mounts those of a request's mounts that show something with a map. Blocks.
pub(crate) fn mount(
    node: &Node,
    bundle: &Path,
    mounts: &[Mount],
    users: Option<&UserNamespace>,
) -> Result<(), Error> {
    for (number, mount) in mounts.iter().enumerate() {
        if mount.id_map.is_none() || mount.image.is_some() {
            continue;
        }
        if mount.id_map != users.map(|users| users.map) {
            return Err(Error::Invalid(format!(
                "the id mappings of the mount on {} are not those of its pod's user namespace",
                mount.container_path
            )));
        }
        let Some(users) = users else { continue };
        let (source, target) = (host_source(node, mount)?, place(bundle, number));
        let tree = sys::mount::id_mapped(&source, users.namespace.as_fd(), true)
            .map_err(Error::io("make an id-mapped mount of", &source))?;
        make_place(&source, &target).map_err(Error::io("create", &target))?;
        sys::mount::attach(tree.as_fd(), &target).map_err(Error::io("mount on", target))?;
    }
    Ok(())
}

/// Where the mount with that number in its request is to be found.
pub(crate) fn place(bundle: &Path, number: usize) -> PathBuf {
    bundle.join(DIR).join(number.to_string())
}

/// A mount point for `source`: a file or a directory as it is one.
fn make_place(source: &Path, target: &Path) -> std::io::Result<()> {
    fs::create_dir_all(target.with_file_name(""))?;
    match source.metadata()?.is_dir() {
        true => fs::create_dir(target),
        false => fs::File::create_new(target).map(drop),
    }
}

/// Unmounts what [`mount`] mounted; fine if there is nothing. Blocks.
pub(crate) fn unmount(bundle: &Path) -> Result<(), Error> {
    let dir = bundle.join(DIR);
    sys::mount::remove_mount_points(&dir).map_err(Error::io("unmount what is in", dir))
}
