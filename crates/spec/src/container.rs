//! A container's spec, put together from parts that are already checked and resolved.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::mounts::Bind;
use crate::oci;

/// Where a namespace of a container comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Namespace {
    /// A new one.
    New,
    /// The one at this path.
    Join(PathBuf),
    /// The host's.
    Host,
}

/// The namespaces of a container.
#[derive(Debug, Clone)]
pub struct Namespaces {
    /// Processes.
    pub pid: Namespace,
    /// Network.
    pub network: Namespace,
    /// System V IPC.
    pub ipc: Namespace,
    /// Host name.
    pub uts: Namespace,
    /// Cgroup root.
    pub cgroup: Namespace,
    /// Users and groups.
    pub user: Namespace,
}

/// Everything that a container's spec is made of.
#[derive(Debug)]
pub struct Parts {
    /// Version that the handler understands.
    pub oci_version: String,
    /// The first process.
    pub process: oci::Process,
    /// The mounted root.
    pub root: oci::Root,
    /// Host name; empty in the host's UTS namespace.
    pub hostname: String,
    /// Mounts, resolved.
    pub mounts: Vec<oci::Mount>,
    /// The request's bind mounts, for the root's propagation.
    pub binds: Vec<Bind>,
    /// Namespaces.
    pub namespaces: Namespaces,
    /// Users and groups of the user namespace, where it isn't the host's.
    pub id_maps: Option<[oci::IdMapping; 2]>,
    /// Path of the cgroup.
    pub cgroups_path: String,
    /// Limits; device rules are added here.
    pub resources: oci::Resources,
    /// Devices beside the default ones.
    pub devices: Vec<oci::Device>,
    /// Rules for [`Self::devices`].
    pub device_rules: Vec<oci::DeviceRule>,
    /// Sees all devices, and no path is masked.
    pub privileged: bool,
    /// SELinux label of its files, empty for none.
    pub mount_label: String,
    /// Filter; `None` is unconfined.
    pub seccomp: Option<oci::Seccomp>,
    /// Paths that read as nothing, beside the default ones; `None` for those alone. An empty list is
    /// for no masked path at all.
    pub masked_paths: Option<Vec<String>>,
    /// Default masked paths whose names are not the same on every node.
    pub masked_on_node: Vec<String>,
    /// Paths that can't be written; `None` for the default.
    pub readonly_paths: Option<Vec<String>>,
    /// Annotations of the bundle.
    pub annotations: BTreeMap<String, String>,
}

/// Paths hidden by default: the kernel's secrets and knobs that no namespace covers.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/dev/block",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];
/// Paths that can't be written by default.
const READONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Builds the spec.
#[must_use]
pub fn build(parts: Parts) -> oci::Spec {
    let Parts {
        privileged,
        mut resources,
        ..
    } = parts;
    resources.devices = device_rules(privileged, parts.device_rules);
    let readonly_paths = match parts.readonly_paths {
        _ if privileged => Vec::new(),
        Some(paths) => paths,
        None => READONLY.iter().map(|path| (*path).to_owned()).collect(),
    };
    let masked_paths = match parts.masked_paths {
        _ if privileged => Vec::new(),
        Some(none) if none.is_empty() => none,
        given => masked(given.unwrap_or_default(), parts.masked_on_node),
    };
    oci::Spec {
        oci_version: parts.oci_version,
        process: Some(parts.process),
        root: Some(parts.root),
        hostname: parts.hostname,
        mounts: parts.mounts,
        hooks: None,
        annotations: parts.annotations,
        linux: Some(oci::Linux {
            namespaces: namespaces(parts.namespaces),
            uid_mappings: parts.id_maps.map(|[users, _]| users).into_iter().collect(),
            gid_mappings: parts
                .id_maps
                .map(|[_, groups]| groups)
                .into_iter()
                .collect(),
            devices: parts.devices,
            cgroups_path: parts.cgroups_path,
            resources: Some(resources),
            rootfs_propagation: crate::mounts::root_propagation(&parts.binds).to_owned(),
            seccomp: parts.seccomp,
            intel_rdt: None,
            sysctl: BTreeMap::new(),
            mount_label: parts.mount_label,
            masked_paths,
            readonly_paths,
        }),
    }
}

/// What a request masks and the defaults, each once: a caller's list may be older than a leak that
/// they cover.
fn masked(given: Vec<String>, on_node: Vec<String>) -> Vec<String> {
    let mut paths: Vec<String> = MASKED.iter().map(|path| (*path).to_owned()).collect();
    paths.extend(on_node);
    paths.extend(given);
    paths.sort_unstable();
    paths.dedup();
    paths
}

fn namespaces(from: Namespaces) -> Vec<oci::Namespace> {
    let all = [
        ("pid", from.pid),
        ("network", from.network),
        ("ipc", from.ipc),
        ("uts", from.uts),
        ("mount", Namespace::New),
        ("cgroup", from.cgroup),
        ("user", from.user),
    ];
    let all = all.into_iter().filter_map(|(kind, from)| {
        let path = match from {
            Namespace::New => None,
            Namespace::Join(path) => Some(path),
            Namespace::Host => return None,
        };
        Some(oci::Namespace {
            kind: kind.to_owned(),
            path,
        })
    });
    all.collect()
}

/// Nothing but the standard devices, which runtimes add themselves, and what is given.
fn device_rules(privileged: bool, given: Vec<oci::DeviceRule>) -> Vec<oci::DeviceRule> {
    let all = oci::DeviceRule {
        allow: privileged,
        access: "rwm".to_owned(),
        ..Default::default()
    };
    std::iter::once(all).chain(given).collect()
}
