//! The option `timezone`: a container's `/etc/localtime`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::bundle::Ingredients;
use crate::rootfs::Rootfs;

/// Gives the container the zone of the file `zone`: by a link to the image's own file of the same
/// path, where it has one, else by a copy of the node's that is to be mounted. Nothing where the
/// request mounts something there.
pub(crate) fn set(
    rootfs: &Rootfs,
    from: &Ingredients,
    zone: Option<&Path>,
) -> Result<Option<(&'static str, PathBuf)>, Error> {
    let mut mounts = from.request.mounts.iter();
    let asked = mounts.any(|mount| {
        let place = mount.container_path.trim_end_matches('/');
        place == "/etc/localtime" || place == "/etc"
    });
    let Some(zone) = zone.filter(|_| !asked) else {
        return Ok(None);
    };
    // What the image has may be a link, over whose target nothing is to be mounted.
    if rootfs.link_zone(zone)? {
        return Ok(None);
    }
    let copy = from.bundle.join("localtime");
    fs::copy(zone, &copy).map_err(Error::io("copy time zone", zone))?;
    Ok(Some(("/etc/localtime", copy)))
}
