//! Pod sandboxes on the wire.

use std::time::SystemTime;

use pods::request::{PidMode, Shared};
use pods::{Pod, Snapshot};

use crate::checked::mappings_on_wire;
use crate::v1;

/// Nanoseconds since 1970.
pub(crate) fn nanos(at: SystemTime) -> i64 {
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn state(pod: &Pod) -> i32 {
    let state = if pod.ready {
        v1::PodSandboxState::SandboxReady
    } else {
        v1::PodSandboxState::SandboxNotready
    };
    state as i32
}

pub(crate) fn metadata(pod: &Pod) -> Option<v1::PodSandboxMetadata> {
    let key = pod.request.key.clone();
    Some(v1::PodSandboxMetadata {
        name: key.name,
        uid: key.uid,
        namespace: key.namespace,
        attempt: key.attempt,
    })
}

/// Whether all labels wanted are there.
pub(crate) fn matches<'a>(
    mut wanted: impl Iterator<Item = (&'a String, &'a String)>,
    labels: &std::collections::BTreeMap<String, String>,
) -> bool {
    wanted.all(|(key, value)| labels.get(key) == Some(value))
}

/// Pods that match `filter`, newest first.
pub(crate) fn list(snapshot: &Snapshot, filter: &v1::PodSandboxFilter) -> Vec<v1::PodSandbox> {
    let chosen = snapshot.pods.values().filter(|pod| {
        pod.id.as_str().starts_with(&filter.id)
            && filter
                .state
                .as_ref()
                .is_none_or(|wanted| wanted.state == state(pod))
            && matches(filter.label_selector.iter(), &pod.request.labels)
    });
    let mut list: Vec<_> = chosen.map(|pod| item(pod)).collect();
    list.sort_by_key(|pod| std::cmp::Reverse(pod.created_at));
    list
}

fn item(pod: &Pod) -> v1::PodSandbox {
    v1::PodSandbox {
        id: pod.id.to_string(),
        metadata: metadata(pod),
        state: state(pod),
        created_at: nanos(pod.created),
        labels: pod.request.labels.clone().into_iter().collect(),
        annotations: pod.request.annotations.clone().into_iter().collect(),
        runtime_handler: pod.request.runtime_handler.clone(),
    }
}

/// All about a pod.
pub(crate) fn status(pod: &Pod) -> v1::PodSandboxStatus {
    let mut ips = pod.made.ips.iter().map(ToString::to_string);
    let mode = |shared: Shared| match shared {
        Shared::Pod => v1::NamespaceMode::Pod as i32,
        Shared::Host => v1::NamespaceMode::Node as i32,
    };
    let pid = match pod.request.pid {
        PidMode::Pod => v1::NamespaceMode::Pod,
        PidMode::Container => v1::NamespaceMode::Container,
        PidMode::Host => v1::NamespaceMode::Node,
        PidMode::Target(_) => v1::NamespaceMode::Target,
    };
    let options = v1::NamespaceOption {
        network: mode(pod.request.network),
        ipc: mode(pod.request.ipc),
        pid: pid as i32,
        userns_options: pod.request.id_map.map(|map| v1::UserNamespace {
            mode: v1::NamespaceMode::Pod as i32,
            uids: mappings_on_wire(map.users),
            gids: mappings_on_wire(map.groups),
        }),
        ..Default::default()
    };
    v1::PodSandboxStatus {
        id: pod.id.to_string(),
        metadata: metadata(pod),
        state: state(pod),
        created_at: nanos(pod.created),
        network: Some(v1::PodSandboxNetworkStatus {
            ip: ips.next().unwrap_or_default(),
            additional_ips: ips.map(|ip| v1::PodIp { ip }).collect(),
        }),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace {
                options: Some(options),
            }),
        }),
        labels: pod.request.labels.clone().into_iter().collect(),
        annotations: pod.request.annotations.clone().into_iter().collect(),
        runtime_handler: pod.request.runtime_handler.clone(),
    }
}
