//! Writable layers, walked in the background where the file system does not count what they take.
//!
//! Whoever asks waits for the walks that are due, but not for long ([`WAIT`]): a small layer's
//! figure is then of this moment, a large one's comes with the next call. How often a layer is due
//! is `stats::disk`'s.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use stats::figures::DiskUsage;

use crate::Container;
use crate::node::{Node, record_id};

/// How long a caller waits for walks.
const WAIT: Duration = Duration::from_millis(20);

/// Has the layers that are due counted or walked.
pub(crate) async fn refresh(node: &Arc<Node>, containers: &[Arc<Container>]) {
    let statistics = &node.statistics;
    let now = Instant::now();
    let due = containers
        .iter()
        .filter(|container| statistics.layers.due(container.id.as_str(), now));
    let walks: Vec<_> = due
        .map(|container| {
            let (node, container) = (Arc::clone(node), Arc::clone(container));
            statistics.walker.run(move || measure(&node, &container))
        })
        .collect();
    if !walks.is_empty() {
        // The walks go on without us, and tell the cache.
        tokio::time::timeout(WAIT, join_all(walks)).await.ok();
    }
}

fn measure(node: &Node, container: &Container) {
    let layers = &node.statistics.layers;
    let started = Instant::now();
    let id = record_id(container.id.as_str()).ok();
    let counted = id.as_ref().and_then(|id| node.store.quota(id).ok()?);
    if let Some(quota) = counted {
        let usage = DiskUsage {
            bytes: quota.bytes,
            inodes: quota.inodes,
        };
        layers.put(container.id.as_str(), Some(usage), None);
        return;
    }
    let dir = id.and_then(|id| node.store.writable_dir(&id).ok()?);
    let usage = dir.and_then(|dir| stats::disk::measure(&dir).ok());
    layers.put(container.id.as_str(), usage, Some(started));
}
