//! Writable layers, walked in the background.
//!
//! Whoever asks waits for the walks that are due, but not for long ([`WAIT`]): a small layer's
//! figure is then of this moment, a large one's comes with the next call. How often a layer is due
//! is `stats::disk`'s.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::Container;
use crate::node::{Node, record_id};

/// How long a caller waits for walks.
const WAIT: Duration = Duration::from_millis(20);

/// Has the layers that are due walked.
pub(crate) async fn refresh(node: &Arc<Node>, containers: &[Arc<Container>]) {
    let statistics = &node.statistics;
    let now = Instant::now();
    let due = containers
        .iter()
        .filter(|container| statistics.layers.due(container.id.as_str(), now));
    let walks: Vec<_> = due
        .map(|container| {
            let (node, container) = (Arc::clone(node), Arc::clone(container));
            statistics.walker.run(move || walk(&node, &container))
        })
        .collect();
    if !walks.is_empty() {
        // The walks go on without us, and tell the cache.
        tokio::time::timeout(WAIT, join_all(walks)).await.ok();
    }
}

fn walk(node: &Node, container: &Container) {
    let started = Instant::now();
    let dir = record_id(container.id.as_str())
        .ok()
        .and_then(|id| node.store.writable_dir(&id).ok().flatten());
    let usage = dir.and_then(|dir| stats::disk::measure(&dir).ok());
    node.statistics
        .layers
        .put(container.id.as_str(), usage, started);
}
