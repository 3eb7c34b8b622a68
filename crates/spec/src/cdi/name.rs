//! Names of kinds and devices, and the annotations that ask for devices.

use std::collections::BTreeMap;

/// How the keys of annotations begin that ask for devices.
pub const ANNOTATION_PREFIX: &str = "cdi.k8s.io/";

/// Whether it is `vendor.com/class=name`.
#[must_use]
pub fn is_qualified(device: &str) -> bool {
    device
        .split_once('=')
        .is_some_and(|(kind, name)| check_kind(kind).is_ok() && check_device(name).is_ok())
}

/// The devices that a container's annotations ask for, in the order of the keys.
///
/// # Errors
/// One that is no qualified name, in the words of the field.
pub fn from_annotations(annotations: &BTreeMap<String, String>) -> Result<Vec<String>, String> {
    let mut devices = Vec::new();
    let asking = annotations
        .iter()
        .filter(|(key, _)| key.starts_with(ANNOTATION_PREFIX));
    for (_, value) in asking {
        for device in value.split(',') {
            if !is_qualified(device) {
                return Err(format!("invalid CDI device name {device:?}"));
            }
            devices.push(device.to_owned());
        }
    }
    Ok(devices)
}

/// `vendor/class`; both begin with a letter.
pub(super) fn check_kind(kind: &str) -> Result<(), String> {
    let Some((vendor, class)) = kind.split_once('/') else {
        return Err(format!("invalid kind {kind:?}"));
    };
    for (name, what) in [(vendor, "vendor"), (class, "class")] {
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !is_name(name, "_-.") {
            return Err(format!("invalid {what} {name:?}"));
        }
    }
    Ok(())
}

pub(super) fn check_device(name: &str) -> Result<(), String> {
    if is_name(name, "_-.:") {
        Ok(())
    } else {
        Err(format!("invalid device name {name:?}"))
    }
}

/// Letters and digits, and between them those of `also`.
fn is_name(name: &str, also: &str) -> bool {
    let outside = |c: char| c.is_ascii_alphanumeric();
    name.starts_with(outside)
        && name.ends_with(outside)
        && name.chars().all(|c| outside(c) || also.contains(c))
}
