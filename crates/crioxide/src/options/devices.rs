//! `additional_devices`: devices that all containers have.

use anyhow::Result;
use config::Settings;
use pods::request::Device;

/// Reads the list of `host[:container[:permissions]]`; the devices have to be there.
pub(super) fn additional(settings: &Settings) -> Result<Vec<Device>> {
    let (section, key) = ("crio.runtime", "additional_devices");
    let list = settings.list(section, key).iter();
    let devices: Result<Vec<_>, String> = list
        .filter(|text| !text.is_empty())
        .map(|text| parse(text))
        .collect();
    let devices = devices.map_err(|text| settings.wrong(section, key, text))?;
    pods::check_devices(&devices)
        .map_err(|error| settings.wrong(section, key, error.to_string()))?;
    Ok(devices)
}

/// The second field is a path or permissions, as with CRI-O.
fn parse(text: &str) -> Result<Device, String> {
    let fields: Vec<&str> = text.split(':').collect();
    let (host, container, permissions) = match fields[..] {
        [host] => (host, host, ""),
        [host, container] if container.starts_with('/') => (host, container, ""),
        [host, permissions] => (host, host, permissions),
        [host, container, permissions] => (host, container, permissions),
        _ => return Err(format!("{text:?} is not host[:container[:permissions]]")),
    };
    if !container.starts_with("/dev/") || container.split('/').any(|part| part == "..") {
        return Err(format!("{text:?}: {container:?} is not in /dev"));
    }
    Ok(Device {
        host_path: host.to_owned(),
        container_path: container.to_owned(),
        permissions: permissions.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_paths_and_permissions() {
        for (text, expected) in [
            ("/dev/fuse", Some(("/dev/fuse", "/dev/fuse", ""))),
            ("/dev/fuse:r", Some(("/dev/fuse", "/dev/fuse", "r"))),
            ("/dev/fuse:/dev/f", Some(("/dev/fuse", "/dev/f", ""))),
            ("/dev/fuse:/dev/f:rw", Some(("/dev/fuse", "/dev/f", "rw"))),
            ("/dev/fuse:/dev/f:rw:x", None),
            ("/dev/fuse:/etc/f", None),
            ("/dev/fuse:/dev/../etc/f", None),
        ] {
            let parsed = parse(text).ok();
            let parsed = parsed.as_ref().map(|device| {
                let Device {
                    host_path,
                    container_path,
                    permissions,
                } = device;
                (
                    host_path.as_str(),
                    container_path.as_str(),
                    permissions.as_str(),
                )
            });
            assert_eq!(parsed, expected, "{text}");
        }
    }
}
