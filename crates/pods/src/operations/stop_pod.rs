//! StopPodSandbox: network, containers, monitor, namespaces, files; then the pod is not ready.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::stage::step;
use super::{Outcome, act, chain, if_there, stop_container};
use crate::node::{Node, blocking};
use crate::state::pod::Pod;
use crate::{Error, files, infra, monitors, namespaces, networking, records};

/// Name of the operation.
pub(crate) const OPERATION: &str = "stop-pod-sandbox";
/// The steps, in order.
pub(crate) const STEPS: &[&str] = &[
    "network",
    "containers",
    "monitor",
    "namespaces",
    "files",
    "state",
];
/// Time between stop signal and SIGKILL: what CRI-O gives the containers of a pod.
const GRACE: Duration = Duration::from_secs(10);

/// Stops a pod; fine if it is stopped, or not there.
pub(crate) async fn run(node: &Arc<Node>, id: &str) -> Outcome {
    let Some(pod) = if_there(node.table.load().pod(id))? else {
        return Ok(String::new());
    };
    let subject = pod.id.to_string();
    act(node, OPERATION, subject, "stop", |node| async move {
        stop(&node, &pod, GRACE).await
    })
    .await
}

/// Stops a pod, each step of which may be repeated. A network that can't be detached does not keep
/// the containers running: it is told at the end, and the repeat tries again.
pub(crate) async fn stop(node: &Arc<Node>, pod: &Pod, grace: Duration) -> Result<(), Error> {
    let detached = step(OPERATION, "network", networking::detach(node, &pod.id)).await;
    if let Err(error) = &detached {
        let error = chain(error);
        tracing::error!(
            pod = pod.id.as_str(),
            error,
            "pod not detached from its network"
        );
    }
    let live = node.live(&pod.id);
    step(OPERATION, "containers", stop_containers(node, pod, grace)).await?;
    // What is being created in the pod ends first, and is stopped too.
    let gate = live.gate.write().await;
    stop_containers(node, pod, Duration::ZERO).await?;
    step(OPERATION, "monitor", async {
        infra::end(node, &pod.id, &pod.made.cgroup_parent).await?;
        monitors::end(node, &pod.id).await
    })
    .await?;
    drop(gate);
    detached?;
    step(OPERATION, "namespaces", namespaces::unpin(node, &pod.id)).await?;
    let unmounted = files::unmount(node, pod.made.files.clone());
    step(OPERATION, "files", unmounted).await?;
    step(OPERATION, "state", not_ready(node, pod)).await
}

/// The pod is not ready: on disk, then for everybody.
async fn not_ready(node: &Arc<Node>, pod: &Pod) -> Result<(), Error> {
    let live = node.live(&pod.id);
    let _states = live.states.lock().await;
    let Ok(current) = node.table.load().pod(pod.id.as_str()) else {
        return Ok(());
    };
    if !current.ready {
        return Ok(());
    }
    let stopped = Pod {
        ready: false,
        ..Pod::clone(&current)
    };
    if let Some(dirs) = node.dirs(pod.id.as_str()).await? {
        let (record, store) = (stopped.clone(), node.store.clone());
        let write = move || {
            let write = || records::write_pod_state(&record, &dirs);
            store.with_room(Error::is_out_of_space, write)
        };
        if let Err(error) = blocking(&node.pools.files, write).await {
            // Seen all the same: nothing of it runs.
            let (pod, error) = (pod.id.as_str(), chain(&error));
            tracing::error!(pod, error, "stop not recorded");
        }
    }
    node.table.put_pod(stopped);
    tracing::info!(pod = pod.id.as_str(), "pod sandbox stopped");
    Ok(())
}

async fn stop_containers(node: &Arc<Node>, pod: &Pod, grace: Duration) -> Result<(), Error> {
    let snapshot = node.table.load();
    let stops = snapshot
        .containers_of(&pod.id)
        .map(|container| stop_container::stop(node, container, grace));
    join_all(stops).await.into_iter().collect()
}
