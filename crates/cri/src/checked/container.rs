//! CreateContainerRequest.

use pods::ContainerRequest;
use pods::request::{Device, ImageVolume, Mount};
use spec::mounts::Propagation;
use spec::{capabilities, resources as limits, user};
use tonic::Status;

use super::id_map::{mapped, user_namespace};
use super::{apparmor, invalid, name, not_empty, pid_mode, profile, required};
use crate::v1;

/// Checks a request.
pub(crate) fn container(config: Option<v1::ContainerConfig>) -> Result<ContainerRequest, Status> {
    let config = required("config", config)?;
    let metadata = required("config.metadata", config.metadata)?;
    let image = required("config.image", config.image)?;
    let linux = config.linux.unwrap_or_default();
    let told = linux.security_context.is_some();
    let security = linux.security_context.unwrap_or_default();
    if security.run_as_group.is_some()
        && security.run_as_user.is_none()
        && security.run_as_username.is_empty()
    {
        return Err(invalid(
            "config.linux.security_context.run_as_group",
            "user group is specified without user or username",
        ));
    }
    let namespaces = security.namespace_options.clone().unwrap_or_default();
    let given = security.capabilities.clone().unwrap_or_default();
    Ok(ContainerRequest {
        name: name("config.metadata.name", metadata.name)?,
        attempt: metadata.attempt,
        image: not_empty("config.image.image", image.image)?,
        user_specified_image: image.user_specified_image,
        command: config.command,
        args: config.args,
        working_dir: config.working_dir,
        envs: config
            .envs
            .into_iter()
            .map(|env| (env.key, env.value))
            .collect(),
        mounts: config
            .mounts
            .into_iter()
            .map(mount)
            .collect::<Result<_, _>>()?,
        devices: config
            .devices
            .into_iter()
            .map(device)
            .collect::<Result<_, _>>()?,
        cdi_devices: config
            .cdi_devices
            .into_iter()
            .map(|device| not_empty("config.CDI_devices.name", device.name))
            .collect::<Result<_, _>>()?,
        labels: config.labels.into_iter().collect(),
        annotations: config.annotations.into_iter().collect(),
        log_path: config.log_path,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        resources: linux.resources.map(resources).unwrap_or_default(),
        capabilities: capabilities::Request {
            add: given.add_capabilities,
            drop: given.drop_capabilities,
            ambient: given.add_ambient_capabilities,
        },
        privileged: security.privileged,
        // Without a security context there are no namespace options: then its own processes.
        pid: if security.namespace_options.is_some() {
            pid_mode(&namespaces)?
        } else {
            Default::default()
        },
        user: user::Request {
            uid: security.run_as_user.map(|id| id.value),
            gid: security.run_as_group.map(|id| id.value),
            name: security.run_as_username,
            groups: security.supplemental_groups,
            policy: match v1::SupplementalGroupsPolicy::try_from(
                security.supplemental_groups_policy,
            ) {
                Ok(v1::SupplementalGroupsPolicy::Merge) => user::GroupsPolicy::Merge,
                Ok(v1::SupplementalGroupsPolicy::Strict) => user::GroupsPolicy::Strict,
                Err(_) => return Err(invalid("supplemental_groups_policy", "is no policy")),
            },
        },
        readonly_rootfs: security.readonly_rootfs,
        no_new_privs: security.no_new_privs,
        masked_paths: told.then_some(security.masked_paths),
        readonly_paths: told.then_some(security.readonly_paths),
        seccomp: profile(
            "seccomp",
            security.seccomp.as_ref(),
            &security.seccomp_profile_path,
        )?,
        apparmor: apparmor(security.apparmor.as_ref(), &security.apparmor_profile)?,
        stop_signal: stop_signal(config.stop_signal)?,
        id_map: user_namespace(&namespaces)?,
        selinux: super::selinux(security.selinux_options)?,
    })
}

/// Limits, as numbers of which zero is "not set".
pub(crate) fn resources(from: v1::LinuxContainerResources) -> limits::Request {
    limits::Request {
        cpu_period: from.cpu_period,
        cpu_quota: from.cpu_quota,
        cpu_shares: from.cpu_shares,
        cpuset_cpus: from.cpuset_cpus,
        cpuset_mems: from.cpuset_mems,
        memory_limit: from.memory_limit_in_bytes,
        memory_swap_limit: from.memory_swap_limit_in_bytes,
        oom_score_adj: from.oom_score_adj,
        hugepage_limits: from
            .hugepage_limits
            .into_iter()
            .map(|limit| (limit.page_size, limit.limit))
            .collect(),
        unified: from.unified.into_iter().collect(),
    }
}

fn mount(mount: v1::Mount) -> Result<Mount, Status> {
    let image = mount.image.filter(|image| !image.image.is_empty());
    let id_map = mapped(
        "config.mounts.uidMappings",
        &mount.uid_mappings,
        &mount.gid_mappings,
    )?;
    let container_path = not_empty("config.mounts.container_path", mount.container_path)?;
    let image = image.map(|image| ImageVolume {
        image: image.image,
        user_specified: image.user_specified_image,
        sub_path: mount.image_sub_path,
    });
    let host_path = match image {
        Some(_) if !mount.host_path.is_empty() => {
            return Err(invalid(
                "config.mounts.host_path",
                "must be empty beside an image",
            ));
        }
        Some(_) => String::new(),
        None => not_empty("config.mounts.host_path", mount.host_path)?,
    };
    for path in [&container_path, &host_path] {
        if path.contains('\0') {
            return Err(invalid(
                "config.mounts",
                format!("{path:?} holds a NUL byte"),
            ));
        }
    }
    let propagation = match v1::MountPropagation::try_from(mount.propagation) {
        Ok(v1::MountPropagation::PropagationPrivate) => Propagation::Private,
        Ok(v1::MountPropagation::PropagationHostToContainer) => Propagation::HostToContainer,
        Ok(v1::MountPropagation::PropagationBidirectional) => Propagation::Bidirectional,
        Err(_) => {
            return Err(invalid(
                "config.mounts.propagation",
                format!("{} is none", mount.propagation),
            ));
        }
    };
    Ok(Mount {
        container_path,
        host_path,
        image,
        readonly: mount.readonly,
        recursive_readonly: mount.recursive_read_only,
        selinux_relabel: mount.selinux_relabel,
        propagation,
        id_map,
    })
}

fn device(device: v1::Device) -> Result<Device, Status> {
    Ok(Device {
        container_path: not_empty("config.devices.container_path", device.container_path)?,
        host_path: not_empty("config.devices.host_path", device.host_path)?,
        permissions: device.permissions,
    })
}

/// `SIGNAL_SIGRTMINPLUS3` → `RTMIN+3`; nothing where the image decides.
fn stop_signal(signal: i32) -> Result<String, Status> {
    let signal = v1::Signal::try_from(signal)
        .map_err(|_| invalid("config.stop_signal", format!("{signal} is no signal")))?;
    let name = signal
        .as_str_name()
        .trim_start_matches("SIGNAL_")
        .trim_start_matches("SIG");
    Ok(match name {
        "RUNTIME_DEFAULT" => String::new(),
        "CLD" => "CHLD".to_owned(),
        "IOT" => "ABRT".to_owned(),
        "POLL" => "IO".to_owned(),
        name => name.replace("PLUS", "+").replace("MINUS", "-"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_of_the_wire_is_one() {
        for number in 1..=65 {
            let name = stop_signal(number).unwrap();
            assert!(spec::process::stop_signal(&name).is_ok(), "{number} {name}");
        }
        assert_eq!(stop_signal(0).unwrap(), "");
        assert_eq!(stop_signal(38).unwrap(), "RTMIN+3");
        assert!(stop_signal(66).is_err());
    }

    #[test]
    fn mounts_that_make_no_sense_are_refused() {
        let base = || v1::Mount {
            container_path: "/a".into(),
            host_path: "/b".into(),
            ..Default::default()
        };
        let image = Some(v1::ImageSpec {
            image: "x".into(),
            ..Default::default()
        });
        assert!(
            mount(v1::Mount { image, ..base() }).is_err(),
            "image and host path"
        );
        assert!(
            mount(v1::Mount {
                uid_mappings: vec![v1::IdMapping::default()],
                ..base()
            })
            .is_err()
        );
        assert!(mount(base()).is_ok());
        assert!(
            mount(v1::Mount {
                host_path: String::new(),
                ..base()
            })
            .is_err()
        );
    }
}
