//! RemovePodSandbox: stopped if it runs, its containers removed, then its record.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::stage::step;
use super::{Outcome, act, if_there, remove_container, stop_pod};
use crate::node::Node;
use crate::state::pod::Pod;
use crate::{Error, cgroups};

/// Name of the operation.
pub(crate) const OPERATION: &str = "remove-pod-sandbox";
/// The steps, in order.
pub(crate) const STEPS: &[&str] = &["stop", "containers", "record"];

/// Removes a pod, by force if it runs; fine if there is none.
pub(crate) async fn run(node: &Arc<Node>, id: &str) -> Outcome {
    let Some(pod) = if_there(node.table.load().pod(id))? else {
        return Ok(String::new());
    };
    let subject = pod.id.to_string();
    act(node, OPERATION, subject, "remove", |node| async move {
        remove(&node, &pod).await
    })
    .await
}

async fn remove(node: &Arc<Node>, pod: &Pod) -> Result<(), Error> {
    step(OPERATION, "stop", stop_pod::stop(node, pod, Duration::ZERO)).await?;
    step(OPERATION, "containers", remove_containers(node, pod)).await?;
    step(OPERATION, "record", node.delete_record(pod.id.as_str())).await?;
    node.table.remove_pod(&pod.id);
    node.forget(&pod.id);
    cgroups::remove_pod(node, &pod.made.cgroup_parent).await;
    tracing::info!(pod = pod.id.as_str(), "pod sandbox removed");
    Ok(())
}

async fn remove_containers(node: &Arc<Node>, pod: &Pod) -> Result<(), Error> {
    let snapshot = node.table.load();
    let containers = snapshot.containers_of(&pod.id);
    let removals = containers.map(|container| remove_container::remove(node, container));
    join_all(removals).await.into_iter().collect()
}
