//! Images mounted in a container beside its own (KEP-4639): each is an overlay of its layers that
//! can't be written, below the bundle's directory, and bound into the container from there.
//!
//! The image is hostile: a sub-path is resolved beneath the mount, links included. What it resolves
//! to stays: nobody can write there.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use sys::beneath::Dir;

use crate::node::Node;
use crate::operations::chain;
use crate::request::{ImageVolume, Mount};
use crate::{ContainerRequest, Error};

/// Directory of the mounts in a bundle.
const DIR: &str = "image-volumes";

/// Finds the images that a request mounts and asks whether they may be used in its namespace; their ids, in
/// the order of the mounts.
pub(crate) async fn find(
    node: &Node,
    request: &ContainerRequest,
    namespace: &str,
) -> Result<Vec<String>, Error> {
    let mut ids = Vec::new();
    for (mount, volume) in wanted(request) {
        if !mount.readonly {
            return Err(Error::Invalid(format!(
                "image mount on {} must be read-only",
                mount.container_path
            )));
        }
        let failed = |text: String| failed(mount, volume, text);
        let found = node.images.find(&volume.image).await?;
        let Some(image) = found else {
            return Err(failed("it is not present: pull it first".to_owned()));
        };
        let meant = if volume.user_specified.is_empty() {
            &volume.image
        } else {
            &volume.user_specified
        };
        node.images
            .allowed(&image, meant, namespace)
            .await
            .map_err(|refused| failed(chain(&refused)))?;
        ids.push(image.id.to_string());
    }
    Ok(ids)
}

/// Mounts images `ids` below the bundle at `bundle`. Blocks.
pub(crate) fn mount(store: &storage::Store, bundle: &Path, ids: &[String]) -> Result<(), Error> {
    for (number, id) in ids.iter().enumerate() {
        let target = place(bundle, number);
        fs::create_dir_all(&target).map_err(Error::io("create", &target))?;
        store.mount_image(&id.parse()?, &target, None)?;
    }
    Ok(())
}

/// Unmounts what [`mount`] mounted; fine if there is nothing. Blocks.
pub(crate) fn unmount(bundle: &Path) -> Result<(), Error> {
    let dir = bundle.join(DIR);
    let entries = match fs::read_dir(&dir) {
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::io("read", &dir))?,
    };
    for entry in entries {
        let path = entry.map_err(Error::io("read", &dir))?.path();
        while sys::mount::is_mount_point(&path).map_err(Error::io("stat", &path))? {
            sys::mount::unmount_lazily(&path).map_err(Error::io("unmount", &path))?;
        }
        fs::remove_dir(&path).map_err(Error::io("remove", &path))?;
    }
    fs::remove_dir(&dir).map_err(Error::io("remove", dir))
}

/// The host path of each image mount of a request, in their order. Blocks.
pub(crate) fn sources(bundle: &Path, request: &ContainerRequest) -> Result<Vec<PathBuf>, Error> {
    wanted(request)
        .enumerate()
        .map(|(number, (mount, volume))| {
            let root = place(bundle, number);
            if volume.sub_path.is_empty() {
                return Ok(root);
            }
            resolve(&root, Path::new(&volume.sub_path)).map_err(|error| {
                failed(
                    mount,
                    volume,
                    format!("sub-path {:?}: {error}", volume.sub_path),
                )
            })
        })
        .collect()
}

fn wanted(request: &ContainerRequest) -> impl Iterator<Item = (&Mount, &ImageVolume)> {
    let mounts = request.mounts.iter();
    mounts.filter_map(|mount| mount.image.as_ref().map(|volume| (mount, volume)))
}

fn place(bundle: &Path, number: usize) -> PathBuf {
    bundle.join(DIR).join(number.to_string())
}

/// Where `path` leads beneath `root`, without links.
fn resolve(root: &Path, path: &Path) -> std::io::Result<PathBuf> {
    let found = Dir::open(root)?.open_in_root(path, OFlags::PATH | OFlags::CLOEXEC, 0)?;
    fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

fn failed(mount: &Mount, volume: &ImageVolume, text: String) -> Error {
    Error::ImageVolume {
        image: volume.image.clone(),
        container_path: mount.container_path.clone(),
        text,
    }
}
