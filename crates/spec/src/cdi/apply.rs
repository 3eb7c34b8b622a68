//! Edits, made to a container's spec.

use std::path::Path;

use super::{DeviceNode, Edits, Mount};
use crate::oci;

/// What `permissions` are that allow nothing.
pub(super) const NO_PERMISSIONS: &str = "none";
/// Mode of a device that nobody tells one for, as the runtimes have it.
const MODE: u32 = 0o666;

/// A device node of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostDevice {
    /// `c`, `b`, or `p` for a FIFO.
    pub kind: &'static str,
    /// Major number.
    pub major: i64,
    /// Minor number.
    pub minor: i64,
    /// Permission bits.
    pub mode: u32,
}

impl Edits {
    /// Makes the edits; `look` finds out about a device node of the host.
    ///
    /// # Errors
    /// A device that the file does not tell all of is not on the host or is another there; or the
    /// edits need an OCI runtime specification that we do not write.
    pub fn apply(
        &self,
        spec: &mut oci::Spec,
        mut look: impl FnMut(&Path) -> Result<HostDevice, String>,
    ) -> Result<(), String> {
        if !self.net_devices.is_empty() {
            return Err("network devices need an OCI runtime specification 1.3.0".to_owned());
        }
        let user = match &mut spec.process {
            Some(process) => {
                for pair in &self.env {
                    set_variable(&mut process.env, pair);
                }
                add_groups(&mut process.user.additional_gids, &self.additional_gids);
                process.user.clone()
            }
            None => oci::User::default(),
        };
        let linux = spec.linux.get_or_insert_default();
        for node in &self.device_nodes {
            let device = node.complete(&user, &mut look)?;
            let rules = &mut linux.resources.get_or_insert_default().devices;
            rules.extend(node.rule(&device));
            linux.devices.retain(|there| there.path != device.path);
            linux.devices.push(device);
        }
        if let Some(rdt) = &self.intel_rdt {
            if rdt.schemata.is_some() || rdt.enable_monitoring {
                let text = "schemata and monitoring of RDT need an OCI runtime specification 1.3.0";
                return Err(text.to_owned());
            }
            linux.intel_rdt = Some(oci::IntelRdt {
                clos_id: rdt.clos_id.clone(),
                l3_cache_schema: rdt.l3_cache_schema.clone(),
                mem_bw_schema: rdt.mem_bw_schema.clone(),
                enable_cmt: rdt.enable_cmt,
                enable_mbm: rdt.enable_mbm,
            });
        }
        let maps_users = linux.namespaces.iter().any(|one| one.kind == "user");
        for mount in &self.mounts {
            spec.mounts
                .retain(|there| there.destination != mount.container_path);
            spec.mounts.push(mount.resolve(maps_users));
        }
        if !self.mounts.is_empty() {
            // What is beneath another mount has to come after it.
            spec.mounts
                .sort_by_key(|mount| Path::new(&mount.destination).components().count());
        }
        for hook in &self.hooks {
            let hooks = spec.hooks.get_or_insert_default();
            let stage = hooks
                .stage(&hook.hook_name)
                .ok_or_else(|| format!("unknown hook name {:?}", hook.hook_name))?;
            stage.push(oci::Hook {
                path: hook.path.clone(),
                args: hook.args.clone(),
                env: hook.env.clone(),
                timeout: hook.timeout,
            });
        }
        Ok(())
    }
}

/// A variable that is there gets the new value in its place.
fn set_variable(env: &mut Vec<String>, pair: &str) {
    let name = |pair: &str| pair.split_once('=').map(|(name, _)| name.to_owned());
    match env.iter_mut().find(|there| name(there) == name(pair)) {
        Some(there) => pair.clone_into(there),
        None => env.push(pair.to_owned()),
    }
}

fn add_groups(there: &mut Vec<u32>, more: &[u32]) {
    for gid in more.iter().filter(|gid| **gid != 0) {
        if !there.contains(gid) {
            there.push(*gid);
        }
    }
}

impl DeviceNode {
    /// The device with what the file leaves to the host's node. One that is told whole need not be
    /// on the host.
    fn complete(
        &self,
        user: &oci::User,
        look: &mut impl FnMut(&Path) -> Result<HostDevice, String>,
    ) -> Result<oci::Device, String> {
        // An unbuffered character device is a character device (mknod(1)).
        let kind = if self.kind == "u" { "c" } else { &self.kind };
        let whole = !kind.is_empty() && (self.major != 0 || kind == "p");
        let path = if self.host_path.is_empty() {
            &self.path
        } else {
            &self.host_path
        };
        let mut device = oci::Device {
            path: self.path.clone(),
            kind: kind.to_owned(),
            major: self.major,
            minor: self.minor,
            file_mode: self.file_mode.unwrap_or(MODE),
            uid: self.uid.unwrap_or(user.uid),
            gid: self.gid.unwrap_or(user.gid),
        };
        let host = match look(Path::new(path)) {
            Ok(host) => host,
            Err(_) if whole => return Ok(device),
            Err(why) => return Err(format!("failed to stat CDI host device {path:?}: {why}")),
        };
        if self.file_mode.is_none() {
            device.file_mode = host.mode;
        }
        if whole {
            return Ok(device);
        }
        if device.kind.is_empty() {
            host.kind.clone_into(&mut device.kind);
        } else if device.kind != host.kind {
            return Err(format!(
                "CDI device ({:?}, {path:?}), host type mismatch ({}, {})",
                self.path, device.kind, host.kind
            ));
        }
        if device.kind != "p" && device.major == 0 {
            (device.major, device.minor) = (host.major, host.minor);
        }
        Ok(device)
    }

    /// The rule that lets the container use it; cgroups know nothing of FIFOs. What nothing allows is
    /// denied: a rule that allows nothing is an error to runc (1.1).
    fn rule(&self, device: &oci::Device) -> Option<oci::DeviceRule> {
        (device.kind != "p" && self.permissions != NO_PERMISSIONS).then(|| oci::DeviceRule {
            allow: true,
            kind: device.kind.clone(),
            major: Some(device.major),
            minor: Some(device.minor),
            access: match self.permissions.as_str() {
                "" => "rwm".to_owned(),
                letters => letters.to_owned(),
            },
        })
    }
}

impl Mount {
    /// In a user namespace what is bound gets the container's ids, unless the file has an opinion.
    pub(super) fn resolve(&self, maps_users: bool) -> oci::Mount {
        let has = |option: &str| self.options.iter().any(|there| there == option);
        let binds = has("bind") || has("rbind");
        let mut options = self.options.clone();
        let mapped = has("idmap") || has("ridmap");
        if maps_users && !mapped && (binds || self.kind == "bind") {
            let option = if has("rbind") { "ridmap" } else { "idmap" };
            options.push(option.to_owned());
        }
        oci::Mount {
            destination: self.container_path.clone(),
            // The type of a bind mount says nothing, but runtimes want one.
            kind: if self.kind.is_empty() && binds {
                "bind".to_owned()
            } else {
                self.kind.clone()
            },
            source: self.host_path.clone(),
            options,
        }
    }
}
