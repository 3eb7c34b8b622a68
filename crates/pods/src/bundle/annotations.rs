//! What a bundle says of its container to hooks, to CRI-O and to ourselves.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::json;
use spec::annotations::{self, name};
use spec::mounts::Propagation;
use spec::oci;

use super::Ingredients;
use crate::files;
use crate::request::{Mount, PidMode, Profile, Shared};
use crate::state::pod::Pod;

/// A time as RFC 3339 has it, in UTC; empty where that can't be.
#[must_use]
pub fn timestamp(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at)
        .map(|at| at.to_string())
        .unwrap_or_default()
}

type Annotations = BTreeMap<String, String>;

fn put(annotations: &mut Annotations, key: &str, value: impl Into<String>) {
    annotations.insert(format!("{}{key}", annotations::PREFIX), value.into());
}

pub(super) fn container_annotations(from: &Ingredients, allowed: &[String]) -> Annotations {
    let (request, pod) = (&from.request, &from.pod);
    let own = request.annotations.iter().chain(&pod.request.annotations);
    let own = own.chain(&request.labels);
    let own = own.filter(|(key, _)| annotations::passes(key, allowed));
    let mut all: Annotations = own
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let record = request.record_name(&pod.request.key);
    let volumes: Vec<_> = request.mounts.iter().map(volume).collect();
    let seccomp = match &request.seccomp {
        _ if request.privileged => "Unconfined",
        Profile::Unset | Profile::Unconfined => "Unconfined",
        Profile::RuntimeDefault => "RuntimeDefault",
        Profile::Localhost(path) => path,
    };
    for (key, value) in [
        (name::ANNOTATIONS, json!(request.annotations).to_string()),
        (name::LABELS, json!(request.labels).to_string()),
        (
            name::METADATA,
            json!({"name": request.name, "attempt": request.attempt}).to_string(),
        ),
        (name::CONTAINER_ID, from.id.to_string()),
        (name::CONTAINER_NAME, record.clone()),
        (name::CONTAINER_TYPE, "container".to_owned()),
        (name::CREATED, timestamp(from.created)),
        (name::IMAGE, request.image.clone()),
        (name::IMAGE_NAME, from.image_name.clone()),
        (name::IMAGE_REF, from.image_id.clone()),
        (name::IMAGE_REPO_DIGESTS, from.repo_digests.join(",")),
        (name::KUBE_NAME, pod.request.key.name.clone()),
        (name::LOG_PATH, from.log_path.clone()),
        (name::MOUNT_POINT, from.root.display().to_string()),
        (name::NAME, record),
        (name::NAMESPACE, pod.request.key.namespace.clone()),
        (
            name::RESOLV_PATH,
            pod.made
                .files
                .join(files::RESOLV_CONF)
                .display()
                .to_string(),
        ),
        (name::SANDBOX_ID, pod.id.to_string()),
        (name::SANDBOX_NAME, pod.request.key.record_name()),
        (name::SECCOMP_PROFILE_PATH, seccomp.to_owned()),
        (name::STDIN, request.stdin.to_string()),
        (name::STDIN_ONCE, request.stdin_once.to_string()),
        (name::TTY, request.tty.to_string()),
        (name::VOLUMES, json!(volumes).to_string()),
    ] {
        put(&mut all, key, value);
    }
    for (number, ip) in pod.made.ips.iter().enumerate() {
        put(&mut all, &format!("{}.{number}", name::IP), ip.to_string());
    }
    if !from.image.stop_signal.is_empty() {
        let key = "org.opencontainers.image.stopSignal".to_owned();
        all.insert(key, from.image.stop_signal.clone());
    }
    all.insert("io.container.manager".to_owned(), "cri-o".to_owned());
    all
}

/// A mount, as CRI-O tells it.
fn volume(mount: &Mount) -> serde_json::Value {
    let mut told = json!({
        "container_path": mount.container_path,
        "host_path": mount.host_path,
        "readonly": mount.readonly,
        "recursive_read_only": mount.recursive_readonly,
        "propagation": match mount.propagation {
            Propagation::Private => 0,
            Propagation::HostToContainer => 1,
            Propagation::Bidirectional => 2,
        },
        "selinux_relabel": mount.selinux_relabel,
    });
    if let Some(image) = &mount.image {
        told["image"] = json!({"image": image.image, "user_specified_image": image.user_specified});
    }
    told
}

/// A pod's `config.json`: nothing runs it; CRI-O and hooks read its annotations.
pub(crate) fn pod_config(pod: &Pod) -> oci::Spec {
    let (request, made) = (&pod.request, &pod.made);
    let own = request.annotations.iter().chain(&request.labels);
    let mut all: Annotations = own
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let network = if request.network == Shared::Host {
        2
    } else {
        0
    };
    let ipc = if request.ipc == Shared::Host { 2 } else { 0 };
    let pid = match request.pid {
        PidMode::Pod => 0,
        PidMode::Container | PidMode::Target(_) => 1,
        PidMode::Host => 2,
    };
    for (key, value) in [
        (name::ANNOTATIONS, json!(request.annotations).to_string()),
        (name::LABELS, json!(request.labels).to_string()),
        (name::METADATA, json!({"name": request.key.name, "uid": request.key.uid, "namespace": request.key.namespace, "attempt": request.key.attempt}).to_string()),
        (name::CONTAINER_ID, pod.id.to_string()),
        (name::CONTAINER_NAME, format!("k8s_POD_{}_{}_{}_{}", request.key.name, request.key.namespace, request.key.uid, request.key.attempt)),
        (name::CONTAINER_TYPE, "sandbox".to_owned()),
        (name::CREATED, timestamp(pod.created)),
        (name::HOST_NAME, made.hostname.clone()),
        (name::CGROUP_PARENT, made.cgroup_parent.clone()),
        (name::NAMESPACE_OPTIONS, json!({"network": network, "pid": pid, "ipc": ipc}).to_string()),
        (name::KUBE_NAME, request.key.name.clone()),
        (name::PORT_MAPPINGS, json!(request.port_mappings).to_string()),
        (name::LOG_PATH, made.log_directory.display().to_string()),
        (name::NAME, request.key.record_name()),
        (name::NAMESPACE, request.key.namespace.clone()),
        (name::PRIVILEGED_RUNTIME, request.privileged.to_string()),
        (name::RESOLV_PATH, made.files.join(files::RESOLV_CONF).display().to_string()),
        (name::HOSTNAME_PATH, made.files.join(files::HOSTNAME).display().to_string()),
        (name::SANDBOX_ID, pod.id.to_string()),
        (name::SANDBOX_NAME, request.key.record_name()),
        (name::SHM_PATH, made.files.join(files::SHM).display().to_string()),
        (name::RUNTIME_HANDLER, request.runtime_handler.clone()),
        (name::HOST_NETWORK, (request.network == Shared::Host).to_string()),
        (name::CNI_RESULT, made.cni_result.clone()),
    ] {
        put(&mut all, key, value);
    }
    for (number, ip) in made.ips.iter().enumerate() {
        put(&mut all, &format!("{}.{number}", name::IP), ip.to_string());
    }
    all.insert("io.container.manager".to_owned(), "cri-o".to_owned());
    all.insert("spoofed.crio.io".to_owned(), "true".to_owned());
    // By these people find a pod's namespaces.
    let joined = [
        ("network", &made.netns),
        ("ipc", &made.ipcns),
        ("uts", &made.utsns),
        ("user", &made.userns),
    ];
    let namespaces = joined.into_iter().filter_map(|(kind, pin)| {
        let path = Some(pin.clone()?);
        let kind = kind.to_owned();
        Some(oci::Namespace { kind, path })
    });
    oci::Spec {
        oci_version: "1.0.2".to_owned(),
        hostname: made.hostname.clone(),
        annotations: all,
        linux: Some(oci::Linux {
            namespaces: namespaces.collect(),
            ..oci::Linux::default()
        }),
        ..oci::Spec::default()
    }
}

/// Annotations of the process that holds a pod's shared process namespace.
pub(crate) fn infra_annotations(pod: &crate::PodId) -> Annotations {
    let mut all = Annotations::new();
    put(&mut all, name::CONTAINER_TYPE, "sandbox");
    put(&mut all, name::CONTAINER_ID, pod.as_str());
    put(&mut all, name::SANDBOX_ID, pod.as_str());
    all
}
