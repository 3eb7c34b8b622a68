//! A pod's logs in one of its own emptyDir volumes, for a container that ships them: where an annotation
//! names the volume, the pod's log directory is mounted on it, to be read, and holds a link
//! `<container>.log` for each container. Nothing of it fails a pod.
//!
//! The bundle directory remembers the mount, from before it is made on. What is unmounted is the log
//! directory alone: a volume may be a mount itself.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use sys::beneath::Dir;
use sys::mount::{self, Flags};

use crate::operations::chain;
use crate::request::PodRequest;
use crate::{ContainerId, Error, selinux};

/// The annotation, by its new and its old name: the volume's name.
const NAMES: [&str; 2] = ["link-logs.crio.io", "io.kubernetes.cri-o.LinkLogs"];
/// Where the kubelet keeps pods' volumes.
const VOLUMES: &str = "/var/lib/kubelet/pods";
/// In a pod's bundle directory: [`Linked`].
const LINKED: &str = "linked-logs.json";
/// Bytes of a volume's name (RFC 1123, as Kubernetes has it).
const NAME_BYTES: usize = 63;

/// The log directory's mount on a volume.
#[derive(Debug, Serialize, Deserialize)]
struct Linked {
    target: PathBuf,
    /// The log directory.
    device: u64,
    inode: u64,
}

impl Linked {
    fn read(bundle: &Path) -> Result<Option<Self>, Error> {
        let path = bundle.join(LINKED);
        let json = match fs::read(&path) {
            Err(none) if none.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(Error::io("read", &path))?,
        };
        let linked = serde_json::from_slice(&json);
        linked
            .map(Some)
            .map_err(|wrong| Error::Internal(format!("{}: {wrong}", path.display())))
    }

    /// Whether the log directory is what shows at its target.
    fn shows(&self) -> bool {
        fs::symlink_metadata(&self.target)
            .is_ok_and(|there| (there.dev(), there.ino()) == (self.device, self.inode))
    }

    fn unmount(&self) -> Result<(), Error> {
        let failed = || Error::io("unmount", &self.target);
        while self.shows() && mount::is_mount_point(&self.target).map_err(failed())? {
            mount::unmount_lazily(&self.target).map_err(failed())?;
        }
        Ok(())
    }
}

/// The volume that the pod's logs shall be in, where its handler allows the annotation.
fn volume<'a>(request: &'a PodRequest, allowed: &[String]) -> Option<&'a str> {
    let mut names = NAMES.iter();
    names.find_map(|name| {
        let volume = request.annotations.get(*name)?;
        spec::annotations::passes(name, allowed).then_some(volume.as_str())
    })
}

/// Mounts the pod's log directory on the volume that its annotation names. Blocks.
pub(crate) fn mount(
    request: &PodRequest,
    allowed: &[String],
    bundle: &Path,
    logs: &Path,
    label: &str,
) {
    let Some(volume) = volume(request, allowed) else {
        return;
    };
    let mounted = try_mount(&request.key.uid, volume, bundle, logs, label);
    // A writable mount is worse than none.
    let mounted = mounted.or_else(|error| unmount(bundle).and(Err(error)));
    if let Err(error) = mounted {
        let (pod, error) = (&request.key.name, chain(&error));
        tracing::warn!(pod, volume, error, "the pod's logs are not linked");
    }
}

fn try_mount(
    uid: &str,
    volume: &str,
    bundle: &Path,
    logs: &Path,
    label: &str,
) -> Result<(), Error> {
    let place = place(uid, volume)?;
    let target = Path::new(VOLUMES).join(&place);
    let volumes = Dir::open(Path::new(VOLUMES)).map_err(Error::io("open", VOLUMES))?;
    let opened = volumes.open_plain(&place, OFlags::PATH | OFlags::DIRECTORY, 0);
    let opened = opened.map_err(Error::io("open", &target))?;
    selinux::label(logs, label)?;
    let about = fs::metadata(logs).map_err(Error::io("stat", logs))?;
    let linked = Linked {
        target,
        device: about.dev(),
        inode: about.ino(),
    };
    let json = serde_json::to_vec(&linked).map_err(|wrong| Error::Internal(wrong.to_string()))?;
    let mark = bundle.join(LINKED);
    sys::durable::replace_volatile(&mark, &json, 0o600).map_err(Error::io("write", mark))?;
    // By its descriptor: what has been looked at.
    let opened = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    let read_only = Flags {
        read_only: true,
        no_suid: true,
        no_dev: true,
        no_exec: true,
    };
    mount::bind(logs, &opened, false)
        .and_then(|()| mount::remount_bind(&linked.target, read_only))
        .map_err(Error::io("mount the pod's logs on", &linked.target))
}

/// A pod's volume, relative to where all are.
fn place(uid: &str, volume: &str) -> Result<PathBuf, Error> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_name = volume.len() <= NAME_BYTES
        && volume.bytes().all(|byte| plain(byte) || byte == b'-')
        && volume.starts_with(|c: char| c != '-')
        && volume.ends_with(|c: char| c != '-');
    let mut parts = Path::new(uid).components();
    let one = matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(_)), None)
    );
    if !is_name || !one {
        return Err(Error::Invalid(format!(
            "{volume:?} of pod {uid:?} is no name of a volume"
        )));
    }
    Ok(Path::new(uid)
        .join("volumes/kubernetes.io~empty-dir")
        .join(volume))
}

/// Takes the mount away; fine if there is none. Blocks.
pub(crate) fn unmount(bundle: &Path) -> Result<(), Error> {
    let Some(linked) = Linked::read(bundle)? else {
        return Ok(());
    };
    linked.unmount()?;
    let mark = bundle.join(LINKED);
    fs::remove_file(&mark).map_err(Error::io("remove", mark))
}

/// The volume that the pod's logs are mounted on. Blocks.
pub(crate) fn place_of(bundle_of_pod: &Path) -> Result<Option<PathBuf>, Error> {
    Ok(Linked::read(bundle_of_pod)?.map(|linked| linked.target))
}

/// Links a container's log in its pod's log directory, where that is mounted on a volume. Blocks.
pub(crate) fn link(bundle_of_pod: &Path, logs: &Path, log: &Path, id: &ContainerId) {
    if fs::symlink_metadata(bundle_of_pod.join(LINKED)).is_err() {
        return;
    }
    // Relative, so that it leads to the log from within the container too.
    let Ok(log) = log.strip_prefix(logs) else {
        return;
    };
    let name = format!("{id}.log");
    if log == Path::new(&name) {
        return;
    }
    let link = logs.join(name);
    if let Err(error) = symlink(log, &link) {
        let (container, error) = (id.as_str(), error.to_string());
        tracing::warn!(container, error, "the container's log is not linked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_one_of_the_pods_own() {
        let good = place("e-1", "logs").unwrap();
        assert_eq!(good, Path::new("e-1/volumes/kubernetes.io~empty-dir/logs"));
        for (uid, volume) in [
            ("..", "logs"),
            ("a/b", "logs"),
            ("/", "logs"),
            ("", "logs"),
            ("e", ""),
            ("e", ".."),
            ("e", "a/b"),
            ("e", "-a"),
            ("e", "a-"),
            ("e", "A"),
        ] {
            assert!(place(uid, volume).is_err(), "{uid} {volume}");
        }
        assert!(place("e", &"a".repeat(64)).is_err());
    }
}
