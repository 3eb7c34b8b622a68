//! The volumes that an image declares for itself: `image_volumes`.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};

use spec::mounts::Bind;
use spec::oci;

use crate::Error;
use crate::bundle::Ingredients;
use crate::node::{ImageVolumes, Node};
use crate::rootfs::Rootfs;

/// Where volumes that are mounted are, in the container's bundle: they end with it.
const DIR: &str = "volumes";

/// Makes the image's volumes; what is to be mounted for them. A mount of the request's at the same
/// place goes before.
pub(crate) fn make(
    node: &Node,
    from: &Ingredients,
    rootfs: &Rootfs,
    user: &oci::User,
) -> Result<Vec<Bind>, Error> {
    let mut binds = Vec::new();
    for (number, volume) in from.image.volumes.iter().enumerate() {
        let Some(destination) = normal(volume) else {
            continue;
        };
        let asked = from.request.mounts.iter();
        let mut asked = asked.filter_map(|mount| normal(&mount.container_path));
        if asked.any(|path| path == destination) {
            continue;
        }
        match node.options.image_volumes {
            ImageVolumes::Ignore => {}
            ImageVolumes::Mkdir => rootfs.make_dir(&destination, Some(user))?,
            ImageVolumes::Bind => binds.push(Bind {
                destination,
                source: directory(&from.bundle, number, rootfs, &from.selinux.mount)?,
                ..Bind::default()
            }),
        }
    }
    Ok(binds)
}

fn directory(bundle: &Path, number: usize, rootfs: &Rootfs, label: &str) -> Result<PathBuf, Error> {
    let path = bundle.join(DIR).join(number.to_string());
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&path)
        .map_err(Error::io("create", &path))?;
    let (user, group) = rootfs.outside(0, 0)?;
    std::os::unix::fs::chown(&path, Some(user), Some(group))
        .map_err(Error::io("give away", &path))?;
    crate::selinux::label(&path, label)?;
    Ok(path)
}

/// The path from the root, without what climbs; `None` for the root itself.
fn normal(path: &str) -> Option<String> {
    let mut clean = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    let clean = clean.into_os_string().into_string().ok()?;
    (clean != "/").then_some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_stay_beneath_the_root() {
        for (declared, path) in [
            ("/data", Some("/data")),
            ("data//x/", Some("/data/x")),
            ("/../../etc/./x", Some("/etc/x")),
            ("/a/../..", None),
            ("", None),
        ] {
            assert_eq!(normal(declared).as_deref(), path, "{declared:?}");
        }
    }
}
