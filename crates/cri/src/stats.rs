//! What pods and containers use, on the wire.

use std::sync::Arc;

use pods::statistics::{ContainerUsage, PodUsage};
use pods::{Container, Pod, Pods};
use stats::figures::{
    At, Cpu, DiskUsage, Interface, Memory, Node, Pressure, Pressures, Stall, Usage,
};
use stats::network;
use tonic::Status;

use crate::errors::status;
use crate::sandboxes::{matches, nanos};
use crate::{containers, sandboxes, v1};

/// Turns figures into messages.
#[derive(Debug)]
pub(crate) struct Wire {
    /// Mount point that writable layers are told to be on.
    layers: Arc<str>,
    node: Node,
}

impl Wire {
    pub(crate) fn new(layers: Arc<str>) -> Self {
        Self {
            layers,
            node: Node::now(),
        }
    }

    /// ContainerStats.
    pub(crate) async fn container(
        &self,
        pods: &Pods,
        id: &str,
    ) -> Result<v1::ContainerStats, Status> {
        let usage = pods.usage_of_container(id).await;
        Ok(self.container_stats(&usage.map_err(|error| status(&error))?))
    }

    /// ListContainerStats.
    pub(crate) async fn containers(
        &self,
        pods: &Pods,
        filter: Option<v1::ContainerStatsFilter>,
    ) -> Vec<v1::ContainerStats> {
        let filter = filter.unwrap_or_default();
        let chosen = |container: &Container| {
            container.id.as_str().starts_with(&filter.id)
                && container.pod.as_str().starts_with(&filter.pod_sandbox_id)
                && matches(filter.label_selector.iter(), &container.request.labels)
        };
        let list = pods.container_usage(chosen).await;
        list.iter()
            .map(|usage| self.container_stats(usage))
            .collect()
    }

    /// PodSandboxStats.
    pub(crate) async fn pod(&self, pods: &Pods, id: &str) -> Result<v1::PodSandboxStats, Status> {
        let pod = pods.snapshot().pod(id).map_err(|error| status(&error))?;
        let list = pods.pod_usage(|other| other.id == pod.id).await;
        Ok(match list.first() {
            Some(usage) => self.pod_stats(usage),
            // One that is stopped uses nothing.
            None => v1::PodSandboxStats {
                attributes: Some(pod_attributes(&pod)),
                ..Default::default()
            },
        })
    }

    /// ListPodSandboxStats.
    pub(crate) async fn pods(
        &self,
        pods: &Pods,
        filter: Option<v1::PodSandboxStatsFilter>,
    ) -> Vec<v1::PodSandboxStats> {
        let filter = filter.unwrap_or_default();
        let chosen = |pod: &Pod| {
            pod.id.as_str().starts_with(&filter.id)
                && matches(filter.label_selector.iter(), &pod.request.labels)
        };
        let list = pods.pod_usage(chosen).await;
        list.iter().map(|usage| self.pod_stats(usage)).collect()
    }

    fn container_stats(&self, usage: &ContainerUsage) -> v1::ContainerStats {
        let container = &usage.container;
        let (at, figures) = (nanos(usage.at), &usage.usage);
        v1::ContainerStats {
            attributes: Some(v1::ContainerAttributes {
                id: container.id.to_string(),
                metadata: containers::metadata(container),
                labels: container.request.labels.clone().into_iter().collect(),
                annotations: container.request.annotations.clone().into_iter().collect(),
            }),
            cpu: cpu(at, figures, usage.nano_cores),
            memory: self.memory(at, figures),
            writable_layer: usage.layer.as_ref().map(|layer| self.layer(layer)),
            swap: figures.memory.as_ref().map(|memory| self.swap(at, memory)),
            io: io(at, &figures.pressure),
        }
    }

    fn pod_stats(&self, usage: &PodUsage) -> v1::PodSandboxStats {
        let (at, figures) = (nanos(usage.at), &usage.usage);
        let linux = v1::LinuxPodSandboxStats {
            cpu: cpu(at, figures, usage.nano_cores),
            memory: self.memory(at, figures),
            network: usage.interfaces.as_ref().map(traffic),
            process: Some(v1::ProcessUsage {
                timestamp: at,
                process_count: value(usage.processes),
            }),
            containers: usage
                .containers
                .iter()
                .map(|container| self.container_stats(container))
                .collect(),
            io: io(at, &figures.pressure),
        };
        v1::PodSandboxStats {
            attributes: Some(pod_attributes(&usage.pod)),
            linux: Some(linux),
            windows: None,
        }
    }

    fn memory(&self, at: i64, figures: &Usage) -> Option<v1::MemoryUsage> {
        let memory = figures.memory.as_ref()?;
        Some(v1::MemoryUsage {
            timestamp: at,
            working_set_bytes: value(memory.working_set),
            available_bytes: value(memory.available(self.node)),
            usage_bytes: value(memory.usage),
            rss_bytes: value(memory.rss),
            page_faults: value(memory.faults),
            major_page_faults: value(memory.major_faults),
            psi: psi(figures.pressure.memory),
        })
    }

    fn swap(&self, at: i64, memory: &Memory) -> v1::SwapUsage {
        v1::SwapUsage {
            timestamp: at,
            swap_available_bytes: value(memory.swap_available(self.node)),
            swap_usage_bytes: value(memory.swap),
        }
    }

    fn layer(&self, layer: &At<DiskUsage>) -> v1::FilesystemUsage {
        v1::FilesystemUsage {
            timestamp: nanos(layer.at),
            fs_id: Some(v1::FilesystemIdentifier {
                mountpoint: self.layers.to_string(),
            }),
            used_bytes: value(layer.value.bytes),
            inodes_used: value(layer.value.inodes),
        }
    }
}

fn pod_attributes(pod: &Pod) -> v1::PodSandboxAttributes {
    v1::PodSandboxAttributes {
        id: pod.id.to_string(),
        metadata: sandboxes::metadata(pod),
        labels: pod.request.labels.clone().into_iter().collect(),
        annotations: pod.request.annotations.clone().into_iter().collect(),
    }
}

fn value(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

fn cpu(at: i64, figures: &Usage, nano_cores: u64) -> Option<v1::CpuUsage> {
    let Cpu { total } = figures.cpu.as_ref()?;
    Some(v1::CpuUsage {
        timestamp: at,
        usage_core_nano_seconds: value(*total),
        usage_nano_cores: value(nano_cores),
        psi: psi(figures.pressure.cpu),
    })
}

fn io(at: i64, pressures: &Pressures) -> Option<v1::IoUsage> {
    let psi = psi(pressures.io)?;
    Some(v1::IoUsage {
        timestamp: at,
        psi: Some(psi),
    })
}

/// The kubelet takes totals in microseconds, as the kernel tells them.
fn psi(pressure: Option<Pressure>) -> Option<v1::PsiStats> {
    let data = |stall: Stall| v1::PsiData {
        total: stall.total,
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    let pressure = pressure?;
    Some(v1::PsiStats {
        full: Some(data(pressure.full)),
        some: Some(data(pressure.some)),
    })
}

/// The default interface apart from the others.
fn traffic(interfaces: &At<Vec<Interface>>) -> v1::NetworkUsage {
    let on_wire = |interface: &Interface| v1::NetworkInterfaceUsage {
        name: interface.name.clone(),
        rx_bytes: value(interface.received.bytes),
        rx_errors: value(interface.received.errors),
        tx_bytes: value(interface.sent.bytes),
        tx_errors: value(interface.sent.errors),
    };
    let (default, others): (Vec<_>, Vec<_>) = interfaces
        .value
        .iter()
        .map(on_wire)
        .partition(|interface| interface.name == network::DEFAULT);
    v1::NetworkUsage {
        timestamp: nanos(interfaces.at),
        default_interface: default.into_iter().next(),
        interfaces: others,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_interface_stands_apart() {
        let interface = |name: &str| Interface {
            name: name.into(),
            ..Interface::default()
        };
        let usage = traffic(&At {
            at: std::time::SystemTime::UNIX_EPOCH,
            value: vec![interface("net1"), interface("eth0")],
        });
        assert_eq!(usage.default_interface.unwrap().name, "eth0");
        assert_eq!(usage.interfaces.len(), 1);
    }
}
