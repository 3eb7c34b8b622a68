//! What a caller asks for, checked: behind the door nobody checks again. These are also the
//! durable records of pods and containers, so they change by adding fields with defaults only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use spec::mounts::Propagation;
pub use storage::{IdMap, IdRange};

/// What makes a pod unique. The order is that of the record's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodKey {
    /// Name.
    pub name: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Unique id that Kubernetes gave.
    pub uid: String,
    /// Counts the sandboxes of one pod.
    pub attempt: u32,
}

impl PodKey {
    /// Name of the pod's record in the store, as CRI-O forms it.
    #[must_use]
    pub fn record_name(&self) -> String {
        format!(
            "k8s_{}_{}_{}_{}",
            self.name, self.namespace, self.uid, self.attempt
        )
    }
}

/// Whether a pod's containers share a namespace with the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shared {
    /// They share one of the pod's own.
    #[default]
    Pod,
    /// They are in the host's.
    Host,
}

/// Whose processes a container sees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// Those of the pod.
    Pod,
    /// Its own.
    #[default]
    Container,
    /// All of the host.
    Host,
    /// Those of the container with this id.
    Target(String),
}

/// Lines of resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

/// Transport of a port mapping.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of the node that leads to one of the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// Transport.
    pub protocol: Protocol,
    /// Port in the pod.
    pub container_port: u16,
    /// Port on the node; 0 maps nothing.
    pub host_port: u16,
    /// Address on the node; empty for all.
    pub host_ip: String,
}

/// What a pod may use, as the kubelet tells it. Kept for whoever asks: the pod's cgroup is the
/// kubelet's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodResources {
    /// What the pod takes beside its containers.
    pub overhead: Option<spec::resources::Request>,
    /// The sum of its containers.
    pub resources: Option<spec::resources::Request>,
}

/// A pod sandbox to be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRequest {
    /// What makes it unique.
    pub key: PodKey,
    /// Host name as sent; empty to take one from the id.
    pub hostname: String,
    /// Directory of its containers' logs, absolute; empty for the default.
    pub log_directory: String,
    /// Name resolution; the node's where there is none.
    pub dns: Option<Dns>,
    /// Ports.
    pub port_mappings: Vec<PortMapping>,
    /// Labels, returned as they came.
    pub labels: BTreeMap<String, String>,
    /// Annotations, returned as they came.
    pub annotations: BTreeMap<String, String>,
    /// Parent of its containers' cgroups; empty for the default.
    pub cgroup_parent: String,
    /// Sysctls, checked.
    pub sysctls: BTreeMap<String, String>,
    /// Network namespace.
    pub network: Shared,
    /// IPC namespace.
    pub ipc: Shared,
    /// Process namespace of its containers, where they don't say otherwise.
    pub pid: PidMode,
    /// Whether privileged containers may run in it.
    pub privileged: bool,
    /// Runtime handler as sent; empty for the default.
    pub runtime_handler: String,
    /// What it may use.
    #[serde(default)]
    pub resources: PodResources,
    /// What of its SELinux label it names.
    #[serde(default, skip_serializing_if = "spec::selinux::Request::is_empty")]
    pub selinux: spec::selinux::Request,
    /// Users and groups of its user namespace; that of the node where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_map: Option<IdMap>,
}

/// A seccomp or AppArmor profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// Nothing was said.
    #[default]
    Unset,
    /// The runtime's default one.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// A file or a loaded profile of the node.
    Localhost(String),
}

/// Files of an image shown in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageVolume {
    /// The image as the caller refers to it.
    pub image: String,
    /// The name that the user wrote; empty if not told.
    pub user_specified: String,
    /// Directory of the image that is shown; all of it if empty.
    pub sub_path: String,
}

/// A host path, or an image, shown in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Path in the container, absolute.
    pub container_path: String,
    /// Path on the host, absolute; empty for an image.
    pub host_path: String,
    /// The image, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageVolume>,
    /// Whether it can't be written.
    pub readonly: bool,
    /// Whether that goes for mounts beneath it too.
    pub recursive_readonly: bool,
    /// Whether it is to get the container's label.
    pub selinux_relabel: bool,
    /// Propagation.
    pub propagation: Propagation,
    /// Who owns what is shown, where that is mapped: as in the pod's user namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_map: Option<IdMap>,
}

/// A host device shown in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Path in the container.
    pub container_path: String,
    /// Path on the host.
    pub host_path: String,
    /// Letters of `rwm`.
    pub permissions: String,
}

/// A container to be created in a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRequest {
    /// Name, unique in the pod with [`Self::attempt`].
    pub name: String,
    /// Counts the restarts.
    pub attempt: u32,
    /// Image as the caller refers to it.
    pub image: String,
    /// What the pod's author wrote for it; empty if not told.
    pub user_specified_image: String,
    /// Replaces the image's entrypoint.
    pub command: Vec<String>,
    /// Replaces the image's command.
    pub args: Vec<String>,
    /// Working directory; empty for the image's.
    pub working_dir: String,
    /// Environment: name and value.
    pub envs: Vec<(String, Vec<u8>)>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Devices.
    pub devices: Vec<Device>,
    /// Qualified names of CDI devices; annotations may ask for more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cdi_devices: Vec<String>,
    /// Labels, returned as they came.
    pub labels: BTreeMap<String, String>,
    /// Annotations, returned as they came.
    pub annotations: BTreeMap<String, String>,
    /// Log file beneath the pod's log directory; empty for none given.
    pub log_path: String,
    /// Whether standard input is kept open.
    pub stdin: bool,
    /// Whether it ends with the first attach.
    pub stdin_once: bool,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Limits.
    pub resources: spec::resources::Request,
    /// Capabilities.
    pub capabilities: spec::capabilities::Request,
    /// Sees the host.
    pub privileged: bool,
    /// Process namespace.
    pub pid: PidMode,
    /// User and groups.
    pub user: spec::user::Request,
    /// Whether its root can't be written.
    pub readonly_rootfs: bool,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// Paths that read as nothing, beside the default ones; `None` for those alone, empty for none.
    pub masked_paths: Option<Vec<String>>,
    /// Paths that can't be written; `None` for the default.
    pub readonly_paths: Option<Vec<String>>,
    /// Seccomp profile.
    pub seccomp: Profile,
    /// AppArmor profile.
    pub apparmor: Profile,
    /// What of its SELinux label it names.
    #[serde(default, skip_serializing_if = "spec::selinux::Request::is_empty")]
    pub selinux: spec::selinux::Request,
    /// Stop signal by name or number; empty for the image's.
    pub stop_signal: String,
    /// Users and groups of the pod's user namespace, where the caller tells them again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_map: Option<IdMap>,
}

impl ContainerRequest {
    /// Name of the container's record in the store, as CRI-O forms it.
    #[must_use]
    pub fn record_name(&self, pod: &PodKey) -> String {
        format!(
            "k8s_{}_{}_{}_{}_{}",
            self.name, pod.name, pod.namespace, pod.uid, self.attempt
        )
    }
}
