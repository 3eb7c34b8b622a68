//! Metrics of pods and containers.

use std::sync::Arc;
use std::time::SystemTime;

use stats::metrics::{self, FileSystem, Group, Limits, Metric};

use super::{Statistics, layers, living, networks};
use crate::node::{Node, blocking};
use crate::{Container, Pod};

/// The metrics of a pod.
#[derive(Debug, Clone)]
pub struct PodMetrics {
    /// The pod.
    pub pod: Arc<Pod>,
    /// When they were read.
    pub at: SystemTime,
    /// Those of the pod as a whole: its network.
    pub metrics: Vec<Metric>,
    /// Those of its containers.
    pub containers: Vec<ContainerMetrics>,
}

/// The metrics of a container.
#[derive(Debug, Clone)]
pub struct ContainerMetrics {
    /// The container.
    pub container: Arc<Container>,
    /// When they were read.
    pub at: SystemTime,
    /// Its metrics.
    pub metrics: Vec<Metric>,
}

/// Reads the metrics that are on, of all pods.
pub(super) async fn read(node: &Arc<Node>) -> Vec<PodMetrics> {
    let list = living(&node.table.load(), |_| true);
    let selection = node.statistics.selection();
    if selection.has(Group::Disk) {
        let containers = list.iter().flat_map(|(_, containers)| containers);
        layers::refresh(node, &containers.cloned().collect::<Vec<_>>()).await;
    }
    let interfaces = if selection.has(Group::Network) {
        networks(node, &list).await
    } else {
        vec![None; list.len()]
    };
    let (statistics, root) = (Arc::clone(&node.statistics), node.store.root().to_owned());
    let read = move || {
        let file_system = file_system(&root);
        let pods = list.into_iter().zip(interfaces);
        let pods = pods.map(|((pod, containers), interfaces)| {
            let network = interfaces.map(|interfaces| metrics::network(&interfaces.value));
            PodMetrics {
                pod,
                at: SystemTime::now(),
                metrics: network.unwrap_or_default(),
                containers: containers
                    .into_iter()
                    .map(|container| statistics.container_metrics(container, file_system))
                    .collect(),
            }
        });
        pods.collect()
    };
    blocking(&node.statistics.pool, read).await
}

impl Statistics {
    fn container_metrics(
        &self,
        container: Arc<Container>,
        file_system: Option<FileSystem>,
    ) -> ContainerMetrics {
        let limits = &container.limits;
        let subject = metrics::Container {
            cgroup: container.made.cgroup.clone(),
            init: container.phase.init().map(|init| init.pid),
            created: Some(container.created),
            limits: Limits {
                memory: limits.memory_limit,
                memory_swap: limits.memory_swap_limit,
                cpu_period: limits.cpu_period,
                cpu_quota: limits.cpu_quota,
                cpu_shares: limits.cpu_shares,
            },
            disk: self
                .layers
                .get(container.id.as_str())
                .map(|figure| figure.value),
            file_system,
        };
        ContainerMetrics {
            at: SystemTime::now(),
            metrics: metrics::container(&self.reader, &subject, self.selection()),
            container,
        }
    }
}

/// The file system that the writable layers are on.
fn file_system(root: &std::path::Path) -> Option<FileSystem> {
    let statfs = rustix::fs::statvfs(root).ok()?;
    Some(FileSystem {
        bytes: statfs.f_blocks.saturating_mul(statfs.f_frsize),
        inodes: statfs.f_files,
        inodes_free: statfs.f_ffree,
    })
}
