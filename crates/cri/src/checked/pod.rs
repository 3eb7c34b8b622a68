//! RunPodSandboxRequest.

use pods::PodRequest;
use pods::request::{Dns, PodKey, PodResources, PortMapping, Protocol, Shared};
use spec::sysctl;
use tonic::Status;

use super::id_map::user_namespace;
use super::{invalid, name, pid_mode, required, shared};
use crate::v1;

/// Checks a request. Sysctls that would reach the host are left out, as CRI-O does.
pub(crate) fn pod(request: v1::RunPodSandboxRequest) -> Result<PodRequest, Status> {
    let config = required("config", request.config)?;
    let metadata = required("config.metadata", config.metadata)?;
    let linux = config.linux.unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let namespaces = security.namespace_options.unwrap_or_default();
    let network = shared("namespace_options.network", namespaces.network)?;
    let ipc = shared("namespace_options.ipc", namespaces.ipc)?;
    let host = sysctl::HostNamespaces {
        network: network == Shared::Host,
        ipc: ipc == Shared::Host,
    };
    let sysctls =
        sysctl::check(&linux.sysctls, host).map_err(|wrong| invalid("linux.sysctls", wrong))?;
    if !sysctls.skipped.is_empty() {
        tracing::warn!(
            pod = metadata.name,
            sysctls = sysctls.skipped.join(" "),
            "sysctls of a host namespace are skipped"
        );
    }
    let dns = config.dns_config.map(dns).transpose()?;
    Ok(PodRequest {
        key: PodKey {
            name: name("config.metadata.name", metadata.name)?,
            namespace: name("config.metadata.namespace", metadata.namespace)?,
            uid: name("config.metadata.uid", metadata.uid)?,
            attempt: metadata.attempt,
        },
        hostname: config.hostname,
        log_directory: config.log_directory,
        dns,
        port_mappings: config
            .port_mappings
            .into_iter()
            .map(port_mapping)
            .collect::<Result<_, _>>()?,
        labels: config.labels.into_iter().collect(),
        annotations: config.annotations.into_iter().collect(),
        cgroup_parent: linux.cgroup_parent,
        sysctls: sysctls.set,
        network,
        ipc,
        pid: pid_mode(&namespaces)?,
        privileged: security.privileged,
        runtime_handler: request.runtime_handler,
        resources: resources(linux.overhead, linux.resources),
        id_map: user_namespace(&namespaces)?,
        selinux: super::selinux(security.selinux_options)?,
    })
}

/// What the pod takes itself, and what it may take with its containers.
pub(crate) fn resources(
    overhead: Option<v1::LinuxContainerResources>,
    resources: Option<v1::LinuxContainerResources>,
) -> PodResources {
    PodResources {
        overhead: overhead.map(super::resources),
        resources: resources.map(super::resources),
    }
}

/// Lines of resolv.conf must stay lines.
fn dns(config: v1::DnsConfig) -> Result<Dns, Status> {
    let all = config
        .servers
        .iter()
        .chain(&config.searches)
        .chain(&config.options);
    for text in all {
        if text.chars().any(char::is_control) {
            return Err(invalid(
                "config.dns_config",
                format!("{text:?} holds a control character"),
            ));
        }
    }
    Ok(Dns {
        servers: config.servers,
        searches: config.searches,
        options: config.options,
    })
}

fn port_mapping(mapping: v1::PortMapping) -> Result<PortMapping, Status> {
    let port = |field: &str, port: i32| {
        u16::try_from(port).map_err(|_| invalid(field, format!("{port} is no port")))
    };
    let protocol = match v1::Protocol::try_from(mapping.protocol) {
        Ok(v1::Protocol::Tcp) => Protocol::Tcp,
        Ok(v1::Protocol::Udp) => Protocol::Udp,
        Ok(v1::Protocol::Sctp) => Protocol::Sctp,
        Err(_) => {
            return Err(invalid(
                "port_mappings.protocol",
                format!("{} is no protocol", mapping.protocol),
            ));
        }
    };
    let host_ip = mapping.host_ip;
    if !host_ip.is_empty() && host_ip.parse::<std::net::IpAddr>().is_err() {
        return Err(invalid(
            "port_mappings.host_ip",
            format!("{host_ip:?} is no address"),
        ));
    }
    Ok(PortMapping {
        protocol,
        container_port: port("port_mappings.container_port", mapping.container_port)?,
        host_port: port("port_mappings.host_port", mapping.host_port)?,
        host_ip,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(change: impl FnOnce(&mut v1::PodSandboxConfig)) -> Result<PodRequest, Status> {
        let metadata = v1::PodSandboxMetadata {
            name: "p".into(),
            uid: "u".into(),
            namespace: "n".into(),
            attempt: 1,
        };
        let mut config = v1::PodSandboxConfig {
            metadata: Some(metadata),
            ..Default::default()
        };
        change(&mut config);
        pod(v1::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: String::new(),
        })
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(
            request(|config| config.metadata = None)
                .unwrap_err()
                .message(),
            "config.metadata: is missing"
        );
        let no_uid = request(|config| config.metadata.as_mut().unwrap().uid.clear());
        assert_eq!(
            no_uid.unwrap_err().message(),
            "config.metadata.uid: is empty"
        );
        assert!(request(|config| config.metadata.as_mut().unwrap().name = "../x".into()).is_err());
        assert!(request(|_| ()).is_ok());
    }

    #[test]
    fn resolv_conf_gets_no_extra_lines() {
        let dns = v1::DnsConfig {
            servers: vec!["1.1.1.1\noptions x".into()],
            ..Default::default()
        };
        assert!(request(|config| config.dns_config = Some(dns)).is_err());
    }

    #[test]
    fn ports_are_ports() {
        for (port, good) in [(0, true), (65535, true), (65536, false), (-1, false)] {
            let mapping = v1::PortMapping {
                host_port: port,
                ..Default::default()
            };
            assert_eq!(
                request(|config| config.port_mappings = vec![mapping]).is_ok(),
                good,
                "{port}"
            );
        }
    }
}
