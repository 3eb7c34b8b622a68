//! Images mounted in a container beside its own (KEP-4639): each is an overlay of its layers that
//! can't be written, below the bundle's directory, and bound into the container from there. Of an
//! artifact each file is bound by itself into the directory that the mount names.
//!
//! The image is hostile: a sub-path is resolved beneath the mount, links included. What it resolves
//! to stays: nobody can write there.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use image::{Artifact, ArtifactFile};
use rustix::fs::OFlags;
use sys::beneath::Dir;

use crate::node::Node;
use crate::node::blocking;
use crate::operations::chain;
use crate::request::{ImageVolume, Mount};
use crate::{ContainerRequest, Error};

/// Directory of the mounts in a bundle.
const DIR: &str = "image-volumes";

/// What a mount shows.
#[derive(Debug, Clone)]
pub(crate) enum Volume {
    /// The image with that id.
    Image(String),
    /// Files of the artifact with that id.
    Artifact {
        /// The digits of its manifest's digest.
        id: String,
        /// Those beneath the mount's sub-path, by their names there.
        files: Vec<ArtifactFile>,
    },
}

impl Volume {
    /// The image's or the artifact's id.
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Image(id) | Self::Artifact { id, .. } => id,
        }
    }
}

/// Finds the images and artifacts that a request mounts and asks whether they may be used in its
/// namespace; in the order of the mounts.
pub(crate) async fn find(
    node: &Node,
    request: &ContainerRequest,
    namespace: &str,
) -> Result<Vec<Volume>, Error> {
    let mut volumes = Vec::new();
    for (mount, volume) in wanted(request) {
        if !mount.readonly {
            return Err(Error::Invalid(format!(
                "image mount on {} must be read-only",
                mount.container_path
            )));
        }
        let failed = |text: String| failed(mount, volume, text);
        let meant = if volume.user_specified.is_empty() {
            &volume.image
        } else {
            &volume.user_specified
        };
        if node.options.artifact_mounts
            && let Some(artifact) = node.images.find_artifact(&volume.image).await?
        {
            let allowed = node.images.artifact_allowed(&artifact, meant, namespace);
            allowed.await.map_err(|refused| failed(chain(&refused)))?;
            let (id, sub_path) = (artifact.id.to_string(), volume.sub_path.clone());
            let select = move || Ok::<_, Error>(files(&artifact, Path::new(&sub_path)));
            let files = blocking(&node.pools.storage, select)
                .await?
                .map_err(failed)?;
            volumes.push(Volume::Artifact { id, files });
            continue;
        }
        let found = node.images.find(&volume.image).await?;
        let Some(image) = found else {
            return Err(failed("it is not present: pull it first".to_owned()));
        };
        node.images
            .allowed(&image, meant, namespace)
            .await
            .map_err(|refused| failed(chain(&refused)))?;
        volumes.push(Volume::Image(image.id.to_string()));
    }
    Ok(volumes)
}

/// The files of an artifact beneath `sub_path`, by their names there. Blocks.
fn files(artifact: &Artifact, sub_path: &Path) -> Result<Vec<ArtifactFile>, String> {
    let files = artifact.files().map_err(|error| chain(&error))?;
    beneath(files, sub_path)
}

fn beneath(mut files: Vec<ArtifactFile>, sub_path: &Path) -> Result<Vec<ArtifactFile>, String> {
    let all = files.len();
    let sub_path = sub_path.strip_prefix(".").unwrap_or(sub_path);
    files.retain_mut(|file| match file.name.strip_prefix(sub_path) {
        Ok(name) if name != Path::new("") => {
            file.name = name.to_owned();
            true
        }
        _ => false,
    });
    match files.is_empty() {
        true if all == 0 => Err("none of its files has a name".to_owned()),
        true => Err(format!("it has no directory {sub_path:?}")),
        false => Ok(files),
    }
}

/// Mounts the images of `volumes` below the bundle at `bundle`. Blocks.
pub(crate) fn mount(
    store: &storage::Store,
    bundle: &Path,
    volumes: &[Volume],
    view: storage::View<'_>,
) -> Result<(), Error> {
    for (number, volume) in volumes.iter().enumerate() {
        let Volume::Image(id) = volume else { continue };
        let target = place(bundle, number);
        fs::create_dir_all(&target).map_err(Error::io("create", &target))?;
        store.mount_image(&id.parse()?, &target, view)?;
    }
    Ok(())
}

/// Unmounts what [`mount`] mounted; fine if there is nothing. Blocks.
pub(crate) fn unmount(bundle: &Path) -> Result<(), Error> {
    let dir = bundle.join(DIR);
    sys::mount::remove_mount_points(&dir).map_err(Error::io("unmount what is in", dir))
}

/// What each image mount of a request binds, in their order: paths in the container and on the
/// host. Blocks.
pub(crate) fn sources(
    bundle: &Path,
    request: &ContainerRequest,
    volumes: &[Volume],
) -> Result<Vec<Vec<(String, PathBuf)>>, Error> {
    wanted(request)
        .zip(volumes)
        .enumerate()
        .map(|(number, ((mount, volume), found))| {
            if let Volume::Artifact { files, .. } = found {
                let dir = Path::new(&mount.container_path);
                let binds = files.iter().map(|file| {
                    let path = dir.join(&file.name).to_string_lossy().into_owned();
                    (path, file.path.clone())
                });
                return Ok(binds.collect());
            }
            let whole = |path| vec![(mount.container_path.clone(), path)];
            let root = place(bundle, number);
            if volume.sub_path.is_empty() {
                return Ok(whole(root));
            }
            let path = resolve(&root, Path::new(&volume.sub_path)).map_err(|error| {
                failed(
                    mount,
                    volume,
                    format!("sub-path {:?}: {error}", volume.sub_path),
                )
            })?;
            Ok(whole(path))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sub_path_is_a_directory_of_the_artifact() {
        let file = |name: &str| ArtifactFile {
            name: name.into(),
            path: "/blob".into(),
        };
        let all = vec![
            file("a"),
            file("dir/b"),
            file("dir/deep/c"),
            file("directory/d"),
        ];
        for (sub_path, names) in [
            ("", Some(vec!["a", "dir/b", "dir/deep/c", "directory/d"])),
            (".", Some(vec!["a", "dir/b", "dir/deep/c", "directory/d"])),
            ("dir", Some(vec!["b", "deep/c"])),
            ("dir/deep/", Some(vec!["c"])),
            ("a", None),
            ("absent", None),
        ] {
            let found = beneath(all.clone(), Path::new(sub_path));
            let found = found
                .ok()
                .map(|files| files.into_iter().map(|file| file.name).collect::<Vec<_>>());
            let names = names.map(|names| names.into_iter().map(PathBuf::from).collect());
            assert_eq!(found, names, "{sub_path:?}");
        }
    }
}
