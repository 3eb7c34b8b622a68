//! CDI spec files: what a vendor's device needs of a container (container-device-interface,
//! SPEC.md, versions 0.3.0 to 1.1.0).
//!
//! [`SpecFile::parse`] takes a file apart, [`Edits::apply`] changes a container's spec. Where the
//! files are, and which of two that have the same device counts, the caller knows.
//!
//! Written here: the public crate brings a JSON schema validator, a command line, regular
//! expressions and the archived `serde_yaml` into the daemon, for a format of thirty fields.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod apply;
mod name;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

pub use self::apply::HostDevice;
pub use self::name::{ANNOTATION_PREFIX, from_annotations, is_qualified};
use crate::limits;

/// Versions that are known, oldest first.
const VERSIONS: &[&str] = &[
    "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0",
];

/// How a file is written; its name's ending tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `.json`
    Json,
    /// `.yaml`
    Yaml,
}

/// A file: the devices of one kind. Whatever is in it is as its version has it.
#[derive(Debug, Clone, PartialEq)]
pub struct SpecFile {
    kind: String,
    edits: Edits,
    devices: BTreeMap<String, Edits>,
}

impl SpecFile {
    /// Takes a file apart.
    ///
    /// # Errors
    /// What is wrong with it, for the log: it is not in the format, has an unknown field, uses what
    /// its version does not have, or names nothing.
    pub fn parse(bytes: &[u8], format: Format) -> Result<Self, String> {
        if bytes.len() > limits::CDI_FILE_BYTES {
            return Err(format!("larger than {} bytes", limits::CDI_FILE_BYTES));
        }
        let raw: Raw = match format {
            Format::Json => serde_json::from_slice(bytes).map_err(|wrong| wrong.to_string())?,
            Format::Yaml => {
                let text = std::str::from_utf8(bytes).map_err(|wrong| wrong.to_string())?;
                // Vendors write modes as `0660`, which YAML 1.1, and so Go's reader, has octal.
                let options = serde_saphyr::options! {
                    legacy_octal_numbers: true,
                    with_snippet: false,
                };
                serde_saphyr::from_str_with_options(text, options)
                    .map_err(|wrong| wrong.to_string())?
            }
        };
        raw.check()
    }

    /// Qualified names of its devices, `vendor.com/class=name`.
    pub fn devices(&self) -> impl Iterator<Item = String> {
        self.devices
            .keys()
            .map(|name| format!("{}={name}", self.kind))
    }

    /// What every container gets that has any of its devices.
    #[must_use]
    pub fn edits(&self) -> &Edits {
        &self.edits
    }

    /// What a container gets that has the device of this qualified name.
    #[must_use]
    pub fn device(&self, qualified: &str) -> Option<&Edits> {
        let (kind, name) = qualified.split_once('=')?;
        self.devices.get(name).filter(|_| kind == self.kind)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    cdi_version: String,
    kind: String,
    #[serde(default, deserialize_with = "or_default")]
    annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    devices: Vec<RawDevice>,
    #[serde(default, deserialize_with = "or_default")]
    container_edits: Edits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawDevice {
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    container_edits: Edits,
}

/// Changes of a container's spec.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Edits {
    #[serde(deserialize_with = "or_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    device_nodes: Vec<DeviceNode>,
    #[serde(deserialize_with = "or_default")]
    net_devices: Vec<NetDevice>,
    #[serde(deserialize_with = "or_default")]
    hooks: Vec<Hook>,
    #[serde(deserialize_with = "or_default")]
    mounts: Vec<Mount>,
    intel_rdt: Option<IntelRdt>,
    // The specification's example spells it with capitals.
    #[serde(alias = "additionalGIDs", deserialize_with = "or_default")]
    additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct DeviceNode {
    path: String,
    host_path: String,
    #[serde(rename = "type")]
    kind: String,
    major: i64,
    minor: i64,
    file_mode: Option<u32>,
    permissions: String,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct NetDevice {
    host_interface_name: String,
    name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Hook {
    hook_name: String,
    path: String,
    #[serde(deserialize_with = "or_default")]
    args: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    env: Vec<String>,
    timeout: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Mount {
    host_path: String,
    container_path: String,
    #[serde(deserialize_with = "or_default")]
    options: Vec<String>,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct IntelRdt {
    #[serde(rename = "closID")]
    clos_id: String,
    l3_cache_schema: String,
    mem_bw_schema: String,
    schemata: Option<Vec<String>>,
    enable_monitoring: bool,
    // Until 1.0.0.
    #[serde(rename = "enableCMT")]
    enable_cmt: bool,
    #[serde(rename = "enableMBM")]
    enable_mbm: bool,
}

/// Go writes an empty list as `null`, and a key of YAML without a value is one.
fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Raw {
    fn check(self) -> Result<SpecFile, String> {
        let version = self.cdi_version.trim_start_matches('v');
        let Some(version) = VERSIONS.iter().position(|known| *known == version) else {
            return Err(format!("invalid version {:?}", self.cdi_version));
        };
        let needed = self.needed();
        if version < needed {
            let needed = VERSIONS.get(needed).unwrap_or(&"");
            return Err(format!("the spec version must be at least v{needed}"));
        }
        name::check_kind(&self.kind)?;
        self.container_edits.check()?;
        if self.devices.is_empty() {
            return Err("no devices".to_owned());
        }
        let mut devices = BTreeMap::new();
        for device in self.devices {
            name::check_device(&device.name)?;
            let wrong = |reason| format!("device {:?}: {reason}", device.name);
            if device.container_edits == Edits::default() {
                return Err(wrong("empty device edits".to_owned()));
            }
            device.container_edits.check().map_err(wrong)?;
            let twice = format!("multiple devices {:?}", device.name);
            if devices
                .insert(device.name, device.container_edits)
                .is_some()
            {
                return Err(twice);
            }
        }
        Ok(SpecFile {
            kind: self.kind,
            edits: self.container_edits,
            devices,
        })
    }

    /// The oldest version that has everything that it uses, as an index of [`VERSIONS`].
    fn needed(&self) -> usize {
        let own = std::iter::once(&self.container_edits);
        let edits = own.chain(self.devices.iter().map(|device| &device.container_edits));
        let by_edits = edits.map(Edits::needed).max().unwrap_or(0);
        let annotated = |device: &RawDevice| !device.annotations.is_empty();
        let dotted = |kind: &str| {
            kind.split_once('/')
                .is_some_and(|(_, class)| class.contains('.'))
        };
        let by_digit = |device: &RawDevice| device.name.starts_with(|c: char| c.is_ascii_digit());
        let annotated = !self.annotations.is_empty() || self.devices.iter().any(annotated);
        let own = if annotated || dotted(&self.kind) {
            since("0.6.0")
        } else if self.devices.iter().any(by_digit) {
            since("0.5.0")
        } else {
            0
        };
        own.max(by_edits)
    }
}

fn since(version: &str) -> usize {
    VERSIONS
        .iter()
        .position(|known| *known == version)
        .unwrap_or(VERSIONS.len())
}

impl Edits {
    fn needed(&self) -> usize {
        let newer = |rdt: &IntelRdt| rdt.schemata.is_some() || rdt.enable_monitoring;
        if !self.net_devices.is_empty() || self.intel_rdt.as_ref().is_some_and(newer) {
            since("1.1.0")
        } else if self.intel_rdt.is_some() || !self.additional_gids.is_empty() {
            since("0.7.0")
        } else if self
            .device_nodes
            .iter()
            .any(|node| !node.host_path.is_empty())
        {
            since("0.5.0")
        } else if self.mounts.iter().any(|mount| !mount.kind.is_empty()) {
            since("0.4.0")
        } else {
            0
        }
    }

    fn check(&self) -> Result<(), String> {
        environment(&self.env)?;
        self.device_nodes.iter().try_for_each(DeviceNode::check)?;
        self.hooks.iter().try_for_each(Hook::check)?;
        for mount in &self.mounts {
            for (path, whose) in [
                (&mount.host_path, "host"),
                (&mount.container_path, "container"),
            ] {
                if path.is_empty() {
                    return Err(format!("invalid mount, empty {whose} path"));
                }
            }
        }
        if let Some(rdt) = &self.intel_rdt {
            rdt.check()?;
        }
        let (mut host, mut inside) = (BTreeSet::new(), BTreeSet::new());
        for device in &self.net_devices {
            let names = [&device.host_interface_name, &device.name];
            if names.iter().any(|name| name.is_empty()) {
                return Err("invalid net device, empty name".to_owned());
            }
            if !host.insert(&device.host_interface_name) || !inside.insert(&device.name) {
                return Err(format!("net device {:?} comes twice", device.name));
            }
        }
        Ok(())
    }
}

impl DeviceNode {
    fn check(&self) -> Result<(), String> {
        if self.path.is_empty() {
            return Err("invalid (empty) device path".to_owned());
        }
        if !matches!(self.kind.as_str(), "" | "b" | "c" | "u" | "p") {
            return Err(format!(
                "device {:?}: invalid type {:?}",
                self.path, self.kind
            ));
        }
        let letters = self
            .permissions
            .chars()
            .all(|letter| "rwm".contains(letter));
        if self.permissions != apply::NO_PERMISSIONS && !letters {
            let permissions = &self.permissions;
            return Err(format!(
                "device {:?}: invalid permissions {permissions:?}",
                self.path
            ));
        }
        Ok(())
    }
}

impl Hook {
    fn check(&self) -> Result<(), String> {
        let wrong = |reason: &str| Err(format!("invalid hook {:?}: {reason}", self.hook_name));
        if crate::oci::Hooks::default()
            .stage(&self.hook_name)
            .is_none()
        {
            return Err(format!("invalid hook name {:?}", self.hook_name));
        }
        if !self.path.starts_with('/') {
            return wrong("its path is not absolute");
        }
        if self.timeout.is_some_and(|seconds| seconds <= 0) {
            return wrong("its timeout is not greater than zero");
        }
        environment(&self.env)
    }
}

impl IntelRdt {
    fn check(&self) -> Result<(), String> {
        let id = self.clos_id.as_str();
        // A name of a directory; the root's own is "/".
        let bad = id.len() >= 4096 || matches!(id, "." | "..") || id.contains(['/', '\n']);
        if id != "/" && bad {
            return Err("invalid closID".to_owned());
        }
        Ok(())
    }
}

fn environment(pairs: &[String]) -> Result<(), String> {
    let bad = |pair: &&String| pair.find('=').is_none_or(|at| at == 0);
    match pairs.iter().find(bad) {
        Some(pair) => Err(format!("invalid environment variable {pair:?}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
