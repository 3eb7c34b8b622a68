//! Annotations of a bundle: the names under which CRI-O, hooks and VM runtimes look for them, and
//! which of a pod's own may reach the runtime.

/// Prefix of the annotations that describe a pod or container to hooks and to ourselves.
pub const PREFIX: &str = "io.kubernetes.cri-o.";

/// Names after [`PREFIX`].
pub mod name {
    /// The request's annotations, as JSON.
    pub const ANNOTATIONS: &str = "Annotations";
    /// Id of the container, or of the pod in its own record.
    pub const CONTAINER_ID: &str = "ContainerID";
    /// Name of the storage record.
    pub const CONTAINER_NAME: &str = "ContainerName";
    /// `sandbox` or `container`.
    pub const CONTAINER_TYPE: &str = "ContainerType";
    /// RFC 3339 with nanoseconds.
    pub const CREATED: &str = "Created";
    /// The pod's host name.
    pub const HOST_NAME: &str = "HostName";
    /// The pod's cgroup.
    pub const CGROUP_PARENT: &str = "CgroupParent";
    /// Followed by `.0`, `.1`, …: the pod's addresses.
    pub const IP: &str = "IP";
    /// The pod's namespace options, as JSON.
    pub const NAMESPACE_OPTIONS: &str = "NamespaceOptions";
    /// The seccomp profile's name.
    pub const SECCOMP_PROFILE_PATH: &str = "SeccompProfilePath";
    /// The image as the request names it.
    pub const IMAGE: &str = "Image";
    /// A name of the image.
    pub const IMAGE_NAME: &str = "ImageName";
    /// The image's id.
    pub const IMAGE_REF: &str = "ImageRef";
    /// The image's names by digest, with commas between them.
    pub const IMAGE_REPO_DIGESTS: &str = "ImageRepoDigests";
    /// The name that Kubernetes gives.
    pub const KUBE_NAME: &str = "KubeName";
    /// The pod's port mappings, as JSON.
    pub const PORT_MAPPINGS: &str = "PortMappings";
    /// The request's labels, as JSON.
    pub const LABELS: &str = "Labels";
    /// The log file, or the pod's log directory.
    pub const LOG_PATH: &str = "LogPath";
    /// The request's metadata, as JSON.
    pub const METADATA: &str = "Metadata";
    /// Name of the storage record.
    pub const NAME: &str = "Name";
    /// The Kubernetes namespace.
    pub const NAMESPACE: &str = "Namespace";
    /// Whether the pod may hold privileged containers.
    pub const PRIVILEGED_RUNTIME: &str = "PrivilegedRuntime";
    /// The pod's resolv.conf.
    pub const RESOLV_PATH: &str = "ResolvPath";
    /// The pod's hostname file.
    pub const HOSTNAME_PATH: &str = "HostnamePath";
    /// The pod's id.
    pub const SANDBOX_ID: &str = "SandboxID";
    /// The pod's record name.
    pub const SANDBOX_NAME: &str = "SandboxName";
    /// The pod's /dev/shm.
    pub const SHM_PATH: &str = "ShmPath";
    /// The mounted root.
    pub const MOUNT_POINT: &str = "MountPoint";
    /// The runtime handler asked for.
    pub const RUNTIME_HANDLER: &str = "RuntimeHandler";
    /// Whether the pod is in the host's network.
    pub const HOST_NETWORK: &str = "HostNetwork";
    /// The network plugin's result, as JSON.
    pub const CNI_RESULT: &str = "CNIResult";
    /// Whether the container has a terminal.
    pub const TTY: &str = "TTY";
    /// Whether its standard input is open.
    pub const STDIN: &str = "Stdin";
    /// Whether that ends with the first attach.
    pub const STDIN_ONCE: &str = "StdinOnce";
    /// The container's mounts, as JSON.
    pub const VOLUMES: &str = "Volumes";
}

/// Annotations that steer a runtime or this project: they count only where a handler allows them,
/// so a pod's own are not passed on (CVE-2024-3154, CVE-2023-6476).
const STEERING: &[&str] = &[
    "bundle",
    "org.systemd.property.",
    "org.criu.config",
    "run.oci.",
    "module.wasm.image/",
    "io.kubernetes.cri-o.",
    "io.kubernetes.cri.",
    "io.container.",
    "io.containers.",
    "io.katacontainers.",
];
/// Suffix of the domain whose annotations are features of the runtime.
const FEATURES: &str = ".crio.io";

/// Whether a pod's annotation `key` may be written into a bundle as it is.
#[must_use]
pub fn passes(key: &str, allowed: &[String]) -> bool {
    if allowed.iter().any(|name| key.starts_with(name.as_str())) {
        return true;
    }
    let domain = key.split_once('/').map_or(key, |(domain, _)| domain);
    !domain.ends_with(FEATURES) && !STEERING.iter().any(|prefix| key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steering_annotations_need_leave() {
        for (key, passed) in [
            ("example.com/team", true),
            ("io.kubernetes.pod.terminationGracePeriod", true),
            ("org.systemd.property.ExecStartPre", false),
            ("bundle", false),
            ("run.oci.handler", false),
            ("unified-cgroup.crio.io/web", false),
            ("io.kubernetes.cri-o.userns-mode", false),
        ] {
            assert_eq!(passes(key, &[]), passed, "{key}");
        }
        assert!(passes("run.oci.handler", &["run.oci.handler".into()]));
    }
}
