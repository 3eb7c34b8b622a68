//! UpdatePodSandboxResources: what the kubelet tells of a pod's resources is kept. The pod's
//! cgroup is the kubelet's own, so there is nothing to change in the kernel.

use std::sync::Arc;

use super::{Outcome, act};
use crate::node::{Node, blocking};
use crate::request::PodResources;
use crate::state::pod::Pod;
use crate::{Error, records};

const OPERATION: &str = "update-pod-sandbox";

/// Keeps what a pod may use; what `update` leaves out stays.
pub(crate) async fn run(node: &Arc<Node>, id: &str, update: PodResources) -> Outcome {
    let pod = node.table.load().pod(id)?;
    let subject = format!("{} {}", pod.id, records::fingerprint(&update));
    act(node, OPERATION, subject, "state", |node| async move {
        keep(&node, &pod, update).await
    })
    .await
}

async fn keep(node: &Node, pod: &Pod, update: PodResources) -> Result<(), Error> {
    let live = node.live(&pod.id);
    let _states = live.states.lock().await;
    let current = node.table.load().pod(pod.id.as_str())?;
    let old = PodResources::clone(&current.resources);
    let updated = Pod {
        resources: Arc::new(PodResources {
            overhead: update.overhead.or(old.overhead),
            resources: update.resources.or(old.resources),
        }),
        ..Pod::clone(&current)
    };
    if let Some(dirs) = node.dirs(pod.id.as_str()).await? {
        let record = updated.clone();
        let write = move || records::write_pod_state(&record, &dirs);
        blocking(&node.pools.files, write).await?;
    }
    node.table.allow(&updated.id, updated.resources);
    Ok(())
}
