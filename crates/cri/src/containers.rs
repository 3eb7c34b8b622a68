//! Containers on the wire.

use pods::state::container::Phase;
use pods::{Container, Snapshot};
use spec::mounts::Propagation;

use crate::checked::mappings_on_wire;
use crate::sandboxes::{matches, nanos};
use crate::v1;

fn state(container: &Container) -> i32 {
    let state = match container.phase {
        Phase::Created { .. } => v1::ContainerState::ContainerCreated,
        Phase::Running { .. } => v1::ContainerState::ContainerRunning,
        Phase::Exited { .. } => v1::ContainerState::ContainerExited,
    };
    state as i32
}

pub(crate) fn metadata(container: &Container) -> Option<v1::ContainerMetadata> {
    Some(v1::ContainerMetadata {
        name: container.request.name.clone(),
        attempt: container.request.attempt,
    })
}

fn image(container: &Container) -> Option<v1::ImageSpec> {
    Some(v1::ImageSpec {
        image: container.request.image.clone(),
        user_specified_image: container.request.user_specified_image.clone(),
        ..Default::default()
    })
}

/// Containers that match `filter`, newest first.
pub(crate) fn list(snapshot: &Snapshot, filter: &v1::ContainerFilter) -> Vec<v1::Container> {
    let chosen = snapshot.containers.values().filter(|container| {
        container.id.as_str().starts_with(&filter.id)
            && container.pod.as_str().starts_with(&filter.pod_sandbox_id)
            && filter
                .state
                .as_ref()
                .is_none_or(|wanted| wanted.state == state(container))
            && matches(filter.label_selector.iter(), &container.request.labels)
    });
    let mut list: Vec<_> = chosen.map(|container| item(container)).collect();
    list.sort_by_key(|container| std::cmp::Reverse(container.created_at));
    list
}

/// When the last checkpoint of a container was made, or the one that it was restored from; the first of
/// all times, as Go has it, where there is none.
pub(crate) fn checkpointed_at(container: &Container) -> String {
    const NEVER: &str = "0001-01-01T00:00:00Z";
    let own = container.checkpointed.map(pods::timestamp);
    let restored = container.made.restored.as_ref();
    let restored = restored.map(|from| from.checkpointed.clone());
    own.or(restored).unwrap_or_else(|| NEVER.to_owned())
}

fn item(container: &Container) -> v1::Container {
    v1::Container {
        id: container.id.to_string(),
        pod_sandbox_id: container.pod.to_string(),
        metadata: metadata(container),
        image: image(container),
        image_ref: container.made.image_id.clone(),
        state: state(container),
        created_at: nanos(container.created),
        labels: container.request.labels.clone().into_iter().collect(),
        annotations: container.request.annotations.clone().into_iter().collect(),
        image_id: container.made.image_id.clone(),
    }
}

/// All about a container.
pub(crate) fn status(container: &Container) -> v1::ContainerStatus {
    let (request, made) = (&container.request, &container.made);
    let mut status = v1::ContainerStatus {
        id: container.id.to_string(),
        metadata: metadata(container),
        state: state(container),
        created_at: nanos(container.created),
        image: image(container),
        image_ref: made.image_ref.clone(),
        image_id: made.image_id.clone(),
        labels: request.labels.clone().into_iter().collect(),
        annotations: request.annotations.clone().into_iter().collect(),
        mounts: mounts(request, &made.image_volumes),
        log_path: made.log_path.clone(),
        resources: Some(v1::ContainerResources {
            linux: Some(resources(&container.limits)),
            windows: None,
        }),
        user: Some(v1::ContainerUser {
            linux: Some(v1::LinuxContainerUser {
                uid: made.user.uid.into(),
                gid: made.user.gid.into(),
                supplemental_groups: made
                    .user
                    .additional_gids
                    .iter()
                    .map(|gid| (*gid).into())
                    .collect(),
            }),
        }),
        stop_signal: signal(made.stop_signal) as i32,
        ..Default::default()
    };
    match &container.phase {
        Phase::Created { .. } => {}
        Phase::Running { started, .. } => status.started_at = nanos(*started),
        Phase::Exited { started, exit } => {
            status.started_at = started.map_or(0, nanos);
            status.finished_at = nanos(exit.finished);
            status.exit_code = exit.code;
            status.reason = exit.reason().to_owned();
            status.message = exit.message.clone();
        }
    }
    status
}

/// The mounts of a request; `images` are the ids of those that are images, in their order.
fn mounts(request: &pods::ContainerRequest, images: &[String]) -> Vec<v1::Mount> {
    let mut images = images.iter();
    let on_wire = |asked: &pods::request::Mount| {
        let mut shown = mount(asked);
        if let Some(volume) = &asked.image {
            shown.image = Some(v1::ImageSpec {
                image: volume.image.clone(),
                user_specified_image: volume.user_specified.clone(),
                image_ref: images.next().cloned().unwrap_or_default(),
                ..Default::default()
            });
            shown.image_sub_path.clone_from(&volume.sub_path);
        }
        shown
    };
    request.mounts.iter().map(on_wire).collect()
}

fn mount(mount: &pods::request::Mount) -> v1::Mount {
    let propagation = match mount.propagation {
        Propagation::Private => v1::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => v1::MountPropagation::PropagationBidirectional,
    };
    v1::Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        readonly: mount.readonly,
        recursive_read_only: mount.recursive_readonly,
        selinux_relabel: mount.selinux_relabel,
        propagation: propagation as i32,
        uid_mappings: mappings(mount.id_map.map(|map| map.users)),
        gid_mappings: mappings(mount.id_map.map(|map| map.groups)),
        ..Default::default()
    }
}

fn mappings(range: Option<pods::request::IdRange>) -> Vec<v1::IdMapping> {
    range.map(mappings_on_wire).unwrap_or_default()
}

fn resources(from: &spec::resources::Request) -> v1::LinuxContainerResources {
    let hugepages = from.hugepage_limits.iter();
    v1::LinuxContainerResources {
        cpu_period: from.cpu_period,
        cpu_quota: from.cpu_quota,
        cpu_shares: from.cpu_shares,
        memory_limit_in_bytes: from.memory_limit,
        oom_score_adj: from.oom_score_adj,
        cpuset_cpus: from.cpuset_cpus.clone(),
        cpuset_mems: from.cpuset_mems.clone(),
        hugepage_limits: hugepages
            .map(|(page_size, limit)| v1::HugepageLimit {
                page_size: page_size.clone(),
                limit: *limit,
            })
            .collect(),
        unified: from.unified.clone().into_iter().collect(),
        memory_swap_limit_in_bytes: from.memory_swap_limit,
    }
}

/// The wire's number of a signal, by the kernel's.
fn signal(number: i32) -> v1::Signal {
    let all = (1..=65).filter_map(|wire| v1::Signal::try_from(wire).ok());
    let of = |signal: &v1::Signal| {
        let name = signal
            .as_str_name()
            .trim_start_matches("SIGNAL_")
            .replace("PLUS", "+")
            .replace("MINUS", "-");
        spec::process::stop_signal(&name).ok() == Some(number)
    };
    all.into_iter()
        .find(of)
        .unwrap_or(v1::Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_the_wires_numbers() {
        for (number, wanted) in [
            (15, v1::Signal::Sigterm),
            (9, v1::Signal::Sigkill),
            (37, v1::Signal::Sigrtminplus3),
            (0, v1::Signal::RuntimeDefault),
        ] {
            assert_eq!(signal(number), wanted, "{number}");
        }
    }
}
