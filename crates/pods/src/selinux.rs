//! SELinux: which labels a pod and its containers get, and what of the node is labelled for them.
//!
//! Each pod has a level of its own, two categories that no other pod or container has, unless its
//! request names one: with the same type, pods can't reach each other's files. It is in the pod's record, so that a restart knows it.

use std::collections::HashSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use spec::selinux::{Defaults, Labels, MAX_FILE_BYTES, Request, free_level};

use crate::node::{Node, blocking};
use crate::request::{Mount, PidMode, Shared};
use crate::state::pod::Pod;
use crate::{ContainerRequest, Error, PodRequest, Snapshot};

/// The type of processes that nothing is denied: what they see is not labelled for them.
const SUPER_PRIVILEGED: &str = "spc_t";
/// By these a pod wants volumes left as they are that have the label at their top.
const TRY_SKIP: [&str; 2] = [
    "io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel",
    "try-skip-volume-selinux-label.crio.io",
];
/// Directories of the node that are never labelled for a container, as with CRI-O.
const NODES_OWN: &[&str] = &[
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
    "/var/log",
];

/// SELinux on this node.
#[derive(Debug, Clone, Default)]
pub struct SeLinux(Option<Arc<On>>);

#[derive(Debug, Clone)]
struct On {
    defaults: Defaults,
    /// Whether processes in the host's network have no label (`hostnetwork_disable_selinux`).
    host_network_without: bool,
}

impl SeLinux {
    /// Looks at the kernel and the policy; off where `wanted` says so.
    #[must_use]
    pub fn start(wanted: bool, host_network_without: bool) -> Self {
        if !wanted || !sys::selinux::is_enabled() {
            return Self(None);
        }
        let path = sys::selinux::container_contexts();
        let defaults = read(&path).ok().and_then(|text| Defaults::parse(&text));
        if defaults.is_none() {
            let path = path.display().to_string();
            tracing::warn!(
                path,
                "the policy has no labels for containers: they get none"
            );
        }
        let on = defaults.map(|defaults| On {
            defaults,
            host_network_without,
        });
        Self(on.map(Arc::new))
    }

    /// Gives the directory of pods' monitors the label of containers' files: the pipes in it are
    /// their standard output. Blocks.
    pub(crate) fn label_monitors(&self, dir: &Path) -> Result<(), Error> {
        match &self.0 {
            Some(on) => label(dir, &on.defaults.file.to_string()),
            None => Ok(()),
        }
    }
}

/// Labels of a new pod.
///
/// # Errors
/// [`Error::Invalid`]: the policy doesn't know what the request names.
pub(crate) async fn of_pod(node: &Arc<Node>, request: &Arc<PodRequest>) -> Result<Labels, Error> {
    let Some(on) = node.selinux.0.clone() else {
        return Ok(Labels::default());
    };
    let (pods, request) = (node.table.load(), Arc::clone(request));
    blocking(&node.pools.files, move || on.of_pod(&request, &pods)).await
}

/// Labels of a new container: its pod's, but for what it names itself.
///
/// # Errors
/// As [`of_pod`].
pub(crate) async fn of_container(
    node: &Arc<Node>,
    pod: &Arc<Pod>,
    request: &ContainerRequest,
) -> Result<Labels, Error> {
    let Some(on) = node.selinux.0.clone() else {
        return Ok(Labels::default());
    };
    let (pods, pod, request) = (node.table.load(), Arc::clone(pod), request.clone());
    let work = move || on.of_container(&request, &pod, &pods);
    blocking(&node.pools.files, work).await
}

impl On {
    fn of_pod(&self, request: &PodRequest, pods: &Snapshot) -> Result<Labels, Error> {
        let mut labels = Labels::of(&self.defaults, &request.selinux, &level(pods));
        if request.privileged || request.pid == PidMode::Host || request.ipc == Shared::Host {
            labels.process.clear();
            labels.mount.clear();
        }
        self.finished(labels, request.network)
    }

    fn of_container(
        &self,
        request: &ContainerRequest,
        pod: &Pod,
        pods: &Snapshot,
    ) -> Result<Labels, Error> {
        if request.pid == PidMode::Host || pod.request.ipc == Shared::Host {
            return Ok(Labels::default());
        }
        let asked = request.selinux.or(&pod.made.selinux.as_request());
        let mut labels = Labels::of(&self.defaults, &asked, &level(pods));
        if request.privileged {
            labels.process.clear();
        }
        self.finished(labels, pod.request.network)
    }

    fn finished(&self, mut labels: Labels, network: Shared) -> Result<Labels, Error> {
        if network == Shared::Host && self.host_network_without {
            labels.process.clear();
        }
        for label in [&labels.process, &labels.mount] {
            let known = sys::selinux::is_valid(label)
                .map_err(Error::io("ask the kernel about a label", "/sys/fs/selinux"));
            if !label.is_empty() && !known? {
                let text = format!("SELinux label {label:?} is not one of this node's policy");
                return Err(Error::Invalid(text));
            }
        }
        Ok(labels)
    }
}

/// The policy's file, up to a bound.
fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let bound = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX);
    let file = std::fs::File::open(path)?;
    file.take(bound).read_to_string(&mut text)?;
    Ok(text)
}

/// A level that none of the pods has.
fn level(pods: &Snapshot) -> String {
    let pods_of = pods.pods.values().map(|pod| &pod.made.selinux.level);
    let containers = pods.containers.values();
    let own = containers.map(|container| &container.made.selinux.level);
    let taken: HashSet<String> = pods_of.chain(own).cloned().collect();
    free_level(&taken, || u32::from_ne_bytes(sys::random::bytes()))
}

/// Labels a file or directory of ours; nothing for an empty label. Blocks.
pub(crate) fn label(path: &Path, label: &str) -> Result<(), Error> {
    match label {
        "" => Ok(()),
        label => sys::selinux::set_label(path, label).map_err(Error::io("label", path)),
    }
}

/// Where a program of ours is mounted from in a container whose files have `label`: a process that is
/// confined can't begin with the node's own, but with a copy in its bundle.
pub(crate) fn place_of_program(program: &Path, bundle: &Path, label: &str) -> PathBuf {
    match (label, program.file_name()) {
        ("", _) | (_, None) => program.to_owned(),
        (_, Some(name)) => bundle.join(name),
    }
}

/// Makes that copy, where it is one. Blocks.
pub(crate) fn program(program: &Path, bundle: &Path, label: &str) -> Result<PathBuf, Error> {
    let place = place_of_program(program, bundle, label);
    if place != program {
        std::fs::copy(program, &place).map_err(Error::io("copy", program))?;
        self::label(&place, label)?;
    }
    Ok(place)
}

/// Labels a volume and all beneath it, where the request wants that. Blocks.
///
/// # Errors
/// [`Error::Invalid`]: it is a directory of the node's own.
pub(crate) fn label_volume(
    source: &Path,
    mount: &Mount,
    request: &ContainerRequest,
    pod: &Pod,
    labels: &Labels,
    allowed: &[String],
) -> Result<(), Error> {
    let asked: &Request = &request.selinux.or(&pod.request.selinux);
    if !mount.selinux_relabel || labels.mount.is_empty() || asked.kind == SUPER_PRIVILEGED {
        return Ok(());
    }
    let failed = Error::io("label", source);
    let place = source
        .canonicalize()
        .map_err(Error::io("resolve", source))?;
    if NODES_OWN.iter().any(|own| place == Path::new(own)) {
        let text = format!("SELinux relabeling of {} is not allowed", place.display());
        return Err(Error::Invalid(text));
    }
    let set = |key: &&str| {
        pod.request
            .annotations
            .get(*key)
            .is_some_and(|on| on == "true")
    };
    let skips = |key: &&str| set(key) && spec::annotations::passes(key, allowed);
    let result = match TRY_SKIP.iter().any(skips) {
        true => sys::selinux::has_label(&place, &labels.mount).and_then(|has| match has {
            true => Ok(()),
            false => sys::selinux::relabel(&place, &labels.mount),
        }),
        false => sys::selinux::relabel(&place, &labels.mount),
    };
    result.map_err(failed)
}
