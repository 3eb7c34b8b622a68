//! Checkpoints of containers: an archive of a container's processes, as criu keeps them, and of what
//! they changed on disk, in the form of CRI-O's and podman's, and what is taken from one.
//!
//! **Stdio.** Ours are FIFOs outside of the container; how they become what every runtime restores is
//! told in `runtime::checkpoint`.
//!
//! **An archive is hostile.** What a restored container may see and be comes from the request:
//! mounts, devices, annotations, the user of its commands, and the name of its image
//! (`user_specified_image`). Taken from the archive are criu's images, the changes of the root file
//! system, as from a layer, and the time. criu's images hold credentials, cgroups and mounts, and criu obeys
//! them: they are held against what the request gives (`runtime::checkpoint`, `confine`). That is no
//! fence around criu, so an archive also has to be a file of ours that nobody else may write to.
//!
//! **An image that is a checkpoint** says so by an annotation and has the archive's members as its
//! layer. A pod's author can have any image pulled, so this one is restored only where the policy asks
//! for its signature. It names the image it was made on by ID; that one has to be here, and has to be
//! allowed by its own names.

mod pack;
mod unpack;

use std::fmt;
use std::path::{Path, PathBuf};

pub(crate) use self::pack::{Pack, make_work_dir, pack, remove_dir};
pub(crate) use self::unpack::{config, confine, fill, unpack};
use crate::node::Node;
use crate::{ContainerRequest, Error};

/// Directory of criu's images, in an archive and while it is made.
const IMAGES: &str = "checkpoint";
const CONFIG: &str = "config.dump";
const SPEC: &str = "spec.dump";
const CHANGES: &str = "rootfs-diff.tar";
const DELETED: &str = "deleted.files";
const DUMP_LOG: &str = "dump.log";
/// Names a file of options to criu, whoever starts it.
pub(crate) const CONFIG_VARIABLE: &str = "CRIU_CONFIG_FILE";
const STATS: &str = "stats-dump";
const BIND_MOUNTS: &str = "bind.mounts";
const LOG: &str = "io.kubernetes.cri-o.LogPath";
/// Bytes of criu's log that are looked at (ours: its end says what failed).
const LOG_BYTES: usize = 64 * 1024;
/// In criu's images: where stdio was connected to.
const DESCRIPTORS: &str = "descriptors.json";

/// Where a checkpoint is made, in the container's persistent directory.
pub(crate) fn work_dir(persistent: &Path) -> PathBuf {
    persistent.join("checkpointing")
}

/// What a container is restored from, in its persistent directory.
pub(crate) fn restore_dir(persistent: &Path) -> PathBuf {
    persistent.join("restoring")
}

/// criu's images in a directory of ours.
pub(crate) fn images_dir(dir: &Path) -> PathBuf {
    dir.join(IMAGES)
}

/// Where a checkpoint is.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// In an archive of the node.
    Archive(PathBuf),
    /// In the layer of an image.
    Image(storage::ImageId),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Archive(path) => write!(f, "checkpoint archive {}", path.display()),
            Self::Image(id) => write!(f, "checkpoint image {id}"),
        }
    }
}

/// The archive that a request asks to restore: its image is a path.
pub(crate) fn archive(request: &ContainerRequest) -> Option<Place> {
    let image = Path::new(&request.image);
    image
        .is_absolute()
        .then(|| Place::Archive(image.to_owned()))
}

/// The image that a container is restored on from an archive: the request names it, never the archive.
pub(crate) fn base_image(request: &ContainerRequest) -> Result<&str, Error> {
    let named = &request.user_specified_image;
    if named.is_empty() || Path::new(named).is_absolute() {
        return Err(Error::Invalid(format!(
            "{} is restored on the image that the request names in user_specified_image, and that names none",
            request.image
        )));
    }
    Ok(named)
}

/// Whether containers can be checkpointed and restored here. Looks for criu: blocks.
pub(crate) fn available(node: &Node) -> Result<(), Error> {
    if !node.options.checkpoints {
        return Err(Error::WrongState(
            "checkpoint and restore are off: enable_criu_support is false".to_owned(),
        ));
    }
    // A runtime finds criu by its own PATH.
    let path = crate::monitors::environment();
    let path = path.iter().find_map(|line| line.strip_prefix("PATH="));
    match sys::spawn::which("criu", path.unwrap_or_default()) {
        Some(_) => Ok(()),
        None => Err(Error::WrongState(
            "checkpoint and restore need criu, which is not in PATH".to_owned(),
        )),
    }
}

/// Tells criu, by a file in `dir`, of the cgroup that is to be in place of the one in its images, and
/// returns the variable that names the file. crun tells it too, and runc from 1.2 on. Without it
/// criu makes the old container's cgroup again, and all processes are in it: beyond the new one's
/// limits, and left behind. With version 1 every runtime tells it, a path for each hierarchy. Blocks.
pub(crate) fn tell_criu_of_cgroup(dir: &Path, cgroup: &str) -> Result<Option<String>, Error> {
    let its = sys::cgroup::Cgroup::at(cgroup).map_err(Error::io("find cgroup", cgroup))?;
    if its.has_v1() {
        return Ok(None);
    }
    // A line of the file is split at white space.
    if cgroup.contains(|of: char| of.is_whitespace() || of.is_control()) {
        return Err(Error::Invalid(format!(
            "criu can't be told to restore into the cgroup {cgroup:?}: its path holds white space"
        )));
    }
    let file = dir.join("criu.conf");
    std::fs::write(&file, format!("cgroup-root {cgroup}\n")).map_err(Error::io("write", &file))?;
    Ok(Some(format!("{CONFIG_VARIABLE}={}", file.display())))
}

/// A failed runtime only points to criu's log, which is about to be removed: its errors are added.
pub(crate) fn with_crius_words(error: Error, log: &Path) -> Error {
    let Error::Runtime { doing, text } = error else {
        return error;
    };
    let log = std::fs::read(log).unwrap_or_default();
    let log = String::from_utf8_lossy(
        log.get(log.len().saturating_sub(LOG_BYTES)..)
            .unwrap_or(&log),
    );
    let errors: Vec<_> = log
        .lines()
        .filter_map(|line| line.split_once("Error ").map(|(_, words)| words.trim()))
        // Of a kernel that refuses more descriptors, on every run.
        .filter(|words| !words.contains("RLIMIT_NOFILE"))
        .take(3)
        .collect();
    Error::Runtime {
        doing,
        text: format!("{text}: {}", errors.join("; ")),
    }
}
