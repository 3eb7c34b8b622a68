//! Requests that tests start from: the smallest that make sense, to be changed field by field.

use cri::v1;

/// A pod in a network of its own, with logs in `logs`.
#[must_use]
pub fn pod(name: &str, logs: &std::path::Path) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        log_directory: logs.join(name).display().to_string(),
        linux: Some(v1::LinuxPodSandboxConfig {
            security_context: Some(security(v1::NamespaceMode::Pod)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The same in the host's network.
#[must_use]
pub fn host_network_pod(name: &str, logs: &std::path::Path) -> v1::PodSandboxConfig {
    let mut config = pod(name, logs);
    if let Some(linux) = &mut config.linux {
        linux.security_context = Some(security(v1::NamespaceMode::Node));
    }
    config
}

/// First id on the node of the users and groups of a pod by [`with_users`].
pub const FIRST_ID: u32 = 300_000;
/// How many they are.
pub const IDS: u32 = 65_536;

/// The mappings of [`with_users`].
#[must_use]
pub fn mappings() -> Vec<v1::IdMapping> {
    vec![v1::IdMapping {
        host_id: FIRST_ID,
        container_id: 0,
        length: IDS,
    }]
}

/// The pod with a user namespace of its own.
#[must_use]
pub fn with_users(mut config: v1::PodSandboxConfig) -> v1::PodSandboxConfig {
    let linux = config.linux.get_or_insert_default();
    let security = linux.security_context.get_or_insert_default();
    let options = security.namespace_options.get_or_insert_default();
    options.userns_options = Some(v1::UserNamespace {
        mode: v1::NamespaceMode::Pod as i32,
        uids: mappings(),
        gids: mappings(),
    });
    config
}

fn security(network: v1::NamespaceMode) -> v1::LinuxSandboxSecurityContext {
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(v1::NamespaceOption {
            network: network as i32,
            pid: v1::NamespaceMode::Container as i32,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A mount of a directory or file of the node.
#[must_use]
pub fn bind(path: &str, of_node: &std::path::Path) -> v1::Mount {
    v1::Mount {
        container_path: path.to_owned(),
        host_path: of_node.display().to_string(),
        ..Default::default()
    }
}

/// A mount of an image's files, or of those in its directory `sub_path`.
#[must_use]
pub fn image_mount(path: &str, image: &str, sub_path: &str) -> v1::Mount {
    v1::Mount {
        container_path: path.to_owned(),
        readonly: true,
        image: Some(v1::ImageSpec {
            image: image.to_owned(),
            user_specified_image: image.to_owned(),
            ..Default::default()
        }),
        image_sub_path: sub_path.to_owned(),
        ..Default::default()
    }
}

/// A container named `name` that runs `command` from `image`.
#[must_use]
pub fn container(name: &str, image: &str, command: &[&str]) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(v1::ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        }),
        command: command.iter().map(|part| (*part).to_owned()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(v1::LinuxContainerConfig::default()),
        ..Default::default()
    }
}
