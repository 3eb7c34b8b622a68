//! What plugins are told about a pod.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::bandwidth::Bandwidth;
use crate::error::{Error, Result};
use crate::limits;

/// A pod to attach or detach. To detach, the `id` (and `netns`, where it still exists) is enough:
/// the rest comes from the cache.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    /// The sandbox's id: CNI's container id.
    pub id: String,
    /// Its Kubernetes name.
    pub name: String,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its Kubernetes uid.
    pub uid: String,
    /// Its pinned network namespace; `None` to detach what has none any more (after a reboot).
    pub netns: Option<PathBuf>,
    /// Ports of the node that lead to it, for plugins with `portMappings`.
    pub port_mappings: Vec<PortMapping>,
    /// Its rates, for plugins with `bandwidth`.
    pub bandwidth: Option<Bandwidth>,
    /// Its cgroup, for plugins with `cgroupPath`.
    pub cgroup_path: Option<String>,
    /// Its annotations, for plugins with `io.kubernetes.cri.pod-annotations`.
    pub annotations: BTreeMap<String, String>,
}

/// One port of the node that leads to a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The node's port.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
    /// The transport.
    pub protocol: Protocol,
    /// The node's address that it is for; all if `None`.
    #[serde(
        rename = "hostIP",
        serialize_with = "address_or_empty",
        deserialize_with = "empty_or_address"
    )]
    pub host_ip: Option<IpAddr>,
}

/// A transport with ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

impl Protocol {
    /// Its name in rules.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl Pod {
    /// Checks what becomes part of a file name or of `CNI_ARGS`.
    pub(crate) fn check(&self) -> Result<()> {
        if !is_container_id(&self.id) {
            return Err(Error::BadPod(format!("{:?} is no container id", self.id)));
        }
        for (what, value) in [
            ("name", &self.name),
            ("namespace", &self.namespace),
            ("uid", &self.uid),
        ] {
            if value.contains([';', '=', '\0', '\n']) {
                return Err(Error::BadPod(format!(
                    "{what} {value:?} can't be passed to a plugin"
                )));
            }
        }
        Ok(())
    }

    /// `CNI_ARGS`, in the order that CRI-O uses.
    pub(crate) fn cni_args(&self) -> Vec<(String, String)> {
        [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", self.namespace.as_str()),
            ("K8S_POD_NAME", self.name.as_str()),
            ("K8S_POD_INFRA_CONTAINER_ID", self.id.as_str()),
            ("K8S_POD_UID", self.uid.as_str()),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// What there is for plugins that declare the capability of that name.
    pub(crate) fn capability_args(&self) -> Map<String, Value> {
        let mut args = Map::new();
        // Port 0 of the node is no mapping; portmap would refuse it, in DEL as well.
        let mapped: Vec<_> = self
            .port_mappings
            .iter()
            .filter(|port| port.host_port != 0)
            .collect();
        if !mapped.is_empty() {
            args.insert("portMappings".to_owned(), json!(mapped));
        }
        if let Some(bandwidth) = self.bandwidth {
            args.insert("bandwidth".to_owned(), json!(bandwidth));
        }
        if let Some(cgroup) = &self.cgroup_path {
            args.insert("cgroupPath".to_owned(), json!(cgroup));
        }
        if !self.annotations.is_empty() {
            args.insert(
                "io.kubernetes.cri.pod-annotations".to_owned(),
                json!(self.annotations),
            );
        }
        args
    }
}

/// CNI specification, "Parameters": starts alphanumeric, then alphanumerics, `_`, `.`, `-`.
pub(crate) fn is_container_id(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= 128
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// What the kernel takes as an interface's name and CNI as `CNI_IFNAME`.
pub(crate) fn is_interface_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= limits::INTERFACE_NAME_BYTES
        && text != "."
        && text != ".."
        && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
}

#[allow(clippy::ref_option, reason = "serde passes a reference to the field")]
fn address_or_empty<S: serde::Serializer>(
    address: &Option<IpAddr>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    match address {
        Some(address) => serializer.collect_str(address),
        None => serializer.serialize_str(""),
    }
}

fn empty_or_address<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<IpAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_would_leave_the_cache_directory_are_refused() {
        for (id, good) in [
            ("0a1b", true),
            ("a_b.c-d", true),
            ("", false),
            ("../x", false),
            ("-a", false),
            ("a/b", false),
        ] {
            assert_eq!(is_container_id(id), good, "{id:?}");
        }
    }

    #[test]
    fn a_name_cannot_smuggle_arguments() {
        let pod = Pod {
            id: "a".into(),
            name: "x;IP=1.2.3.4".into(),
            ..Pod::default()
        };
        assert!(pod.check().is_err());
    }

    #[test]
    fn port_mappings_have_the_words_that_portmap_reads() {
        let mapping = PortMapping {
            host_port: 8080,
            container_port: 80,
            protocol: Protocol::Udp,
            host_ip: None,
        };
        let value = json!({"hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": ""});
        assert_eq!(serde_json::to_value(&mapping).unwrap(), value);
        assert_eq!(
            serde_json::from_value::<PortMapping>(value).unwrap(),
            mapping
        );
    }
}
