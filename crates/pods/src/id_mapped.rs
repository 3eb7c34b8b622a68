//! Host paths that a container in a user namespace shows with the owners that the namespace gives
//! them: each is mounted with the namespace's map, and bound into the container from there. These
//! mounts are beneath no directory that anybody removes whole. The kernel does it, so that every runtime can: those of Debian 12 and 13
//! don't know id-mapped mounts.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use spec::mounts::Propagation;
use storage::UserNamespace;

use crate::bundle::host_source;
use crate::node::Node;
use crate::request::Mount;
use crate::{ContainerId, Error};

/// Mounts those of a request's mounts that show something with a map. Blocks.
pub(crate) fn mount(
    node: &Node,
    id: &ContainerId,
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
        if mount.propagation == Propagation::Bidirectional {
            return Err(Error::Invalid(format!(
                "the mount on {} is id-mapped: what is mounted in it can't reach the node",
                mount.container_path
            )));
        }
        let (source, target) = (host_source(node, mount)?, place(node, id, number));
        let tree = sys::mount::id_mapped(&source, users.namespace.as_fd(), true)
            .map_err(Error::io("make an id-mapped mount of", &source))?;
        make_place(&source, &target).map_err(Error::io("create", &target))?;
        sys::mount::attach(tree.as_fd(), &target).map_err(Error::io("mount on", target))?;
    }
    Ok(())
}

/// Where the mount with that number in its request is to be found.
pub(crate) fn place(node: &Node, id: &ContainerId, number: usize) -> PathBuf {
    dir(node, id).join(number.to_string())
}

/// The directory of a container's.
pub(crate) fn dir(node: &Node, id: &ContainerId) -> PathBuf {
    all(node).join(id.as_str())
}

fn all(node: &Node) -> PathBuf {
    node.options.run_dir.join("id-mapped")
}

/// A mount point for `source`: a file or a directory as it is one.
fn make_place(source: &Path, target: &Path) -> std::io::Result<()> {
    fs::create_dir_all(target.with_file_name(""))?;
    match source.metadata()?.is_dir() {
        true => fs::create_dir(target),
        false => fs::File::create_new(target).map(drop),
    }
}

/// Unmounts what is in a container's directory; fine if there is none. Blocks.
pub(crate) fn unmount(dir: &Path) -> Result<(), Error> {
    sys::mount::remove_mount_points(dir).map_err(Error::io("unmount what is in", dir))
}

/// Unmounts what containers have left that are no more. Blocks.
pub(crate) fn sweep(node: &Node) {
    let snapshot = node.table.load();
    let entries = fs::read_dir(all(node)).into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| ContainerId::parse(entry.file_name().to_str()?));
    for id in ids.filter(|id| snapshot.container(id.as_str()).is_err()) {
        if let Err(error) = unmount(&dir(node, &id)) {
            tracing::warn!(container = id.as_str(), %error, "id-mapped volumes not unmounted");
        }
    }
}
