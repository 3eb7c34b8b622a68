//! Host devices that a container sees.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use spec::oci;

use crate::Error;
use crate::request::Device;

/// Directories of `/dev` that a privileged container has of its own.
const OWN: &[&str] = &[
    "/dev/pts",
    "/dev/shm",
    "/dev/fd",
    "/dev/mqueue",
    "/dev/console",
];

/// Device nodes and the rules that allow them.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    pub(crate) nodes: Vec<oci::Device>,
    pub(crate) rules: Vec<oci::DeviceRule>,
    /// Of those that are added from now on.
    owner: Owner,
}

/// Whom the nodes of requested devices belong to in the container, where not as on the host.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Owner {
    pub(crate) user: Option<u32>,
    pub(crate) group: Option<u32>,
}

/// Looks the requested devices up, those that all containers have, and all of the host's where a
/// container sees everything.
pub(crate) fn resolve(
    additional: &[Device],
    requested: &[Device],
    owner: Owner,
    all: bool,
) -> Result<Devices, Error> {
    let mut devices = Devices::default();
    if all {
        devices.walk(Path::new("/dev"), "/dev", "rwm")?;
    }
    devices.add_each(additional)?;
    devices.owner = owner;
    devices.add_each(requested)?;
    Ok(devices)
}

/// Looks whether devices are there.
///
/// # Errors
/// [`Error::Invalid`], [`Error::Io`].
pub fn check_devices(devices: &[Device]) -> Result<(), Error> {
    Devices::default().add_each(devices)
}

impl Devices {
    fn add_each(&mut self, devices: &[Device]) -> Result<(), Error> {
        devices.iter().try_for_each(|device| self.add_one(device))
    }

    fn add_one(&mut self, device: &Device) -> Result<(), Error> {
        let permissions = if device.permissions.is_empty() {
            "rwm"
        } else {
            &device.permissions
        };
        if permissions.chars().any(|c| !"rwm".contains(c)) {
            return Err(Error::Invalid(format!(
                "permissions {permissions:?} of device {} are not letters of rwm",
                device.host_path
            )));
        }
        let path = Path::new(&device.host_path);
        let metadata = fs::metadata(path).map_err(Error::io("look at device", path))?;
        if metadata.is_dir() {
            self.walk(path, &device.container_path, permissions)
        } else if self.add(&metadata, &device.container_path, permissions) {
            Ok(())
        } else {
            let text = format!("{} is not a device", device.host_path);
            Err(Error::Invalid(text))
        }
    }

    fn walk(&mut self, dir: &Path, container_dir: &str, permissions: &str) -> Result<(), Error> {
        for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
            let entry = entry.map_err(Error::io("read", dir))?;
            let path = entry.path();
            if OWN.iter().any(|own| Path::new(own) == path) {
                continue;
            }
            let target = format!("{container_dir}/{}", entry.file_name().to_string_lossy());
            // A device that went away meanwhile is none. Links are not followed here.
            let Ok(metadata) = fs::symlink_metadata(&path) else {
                continue;
            };
            if metadata.is_dir() {
                self.walk(&path, &target, permissions)?;
            } else {
                self.add(&metadata, &target, permissions);
            }
        }
        Ok(())
    }

    fn add(&mut self, metadata: &fs::Metadata, path: &str, permissions: &str) -> bool {
        let kind = metadata.file_type();
        let kind = if kind.is_block_device() {
            "b"
        } else if kind.is_char_device() {
            "c"
        } else {
            return false;
        };
        let (major, minor) = (
            rustix::fs::major(metadata.rdev()),
            rustix::fs::minor(metadata.rdev()),
        );
        // A device that is asked for by name and comes with all of them is there once.
        self.nodes.retain(|node| node.path != path);
        self.nodes.push(oci::Device {
            path: path.to_owned(),
            kind: kind.to_owned(),
            major: i64::from(major),
            minor: i64::from(minor),
            file_mode: metadata.mode() & 0o777,
            uid: self.owner.user.unwrap_or(metadata.uid()),
            gid: self.owner.group.unwrap_or(metadata.gid()),
        });
        self.rules.push(oci::DeviceRule {
            allow: true,
            kind: kind.to_owned(),
            major: Some(i64::from(major)),
            minor: Some(i64::from(minor)),
            access: permissions.to_owned(),
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(path: &str, permissions: &str) -> Device {
        Device {
            container_path: path.into(),
            host_path: path.into(),
            permissions: permissions.into(),
        }
    }

    #[test]
    fn devices_are_found_with_their_numbers() {
        let resolve = |device| resolve(&[], &[device], Owner::default(), false);
        let found = resolve(device("/dev/null", "rw")).unwrap();
        assert_eq!((found.nodes[0].major, found.nodes[0].minor), (1, 3));
        assert_eq!(found.rules[0].access, "rw");
        assert!(resolve(device("/etc/passwd", "")).is_err());
        assert!(resolve(device("/dev/null", "x")).is_err());
        assert!(resolve(device("/dev/no-such", "")).is_err());
    }

    #[test]
    fn all_devices_are_all_but_the_containers_own() {
        let owner = Owner {
            user: Some(1234),
            group: None,
        };
        let own = [device("/dev/null", "rwm")];
        let all = resolve(&[device("/dev/null", "r")], &own, owner, true).unwrap();
        for (path, user) in [("/dev/null", Some(1234)), ("/dev/zero", None)] {
            let node = all.nodes.iter().find(|node| node.path == path).unwrap();
            let of_host = std::fs::metadata(path).unwrap();
            let user = user.unwrap_or(of_host.uid());
            assert_eq!((node.uid, node.gid), (user, of_host.gid()), "{path}");
        }
        assert_eq!(
            all.nodes
                .iter()
                .filter(|node| node.path == "/dev/null")
                .count(),
            1
        );
        assert!(
            !all.nodes
                .iter()
                .any(|node| node.path.starts_with("/dev/pts/"))
        );
    }
}
