//! A start after anything: what is on disk is the truth.
//!
//! [`read`] fills the snapshot from the records, so that lists are served at once. [`Leftovers`]
//! are collected before anything new is made; [`Leftovers::repair`] then connects to the monitors,
//! takes what happened meanwhile, undoes what a killed daemon had begun, and frees what a reboot or
//! a crash left behind. Operations wait for that, lists don't.

use std::collections::BTreeSet;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use crate::node::{Node, blocking};
use crate::operations::intent::{self, Unfinished};
use crate::operations::{chain, create_container, owed, run_pod};
use crate::records::{self, Dirs};
use crate::state::container::Phase;
use crate::state::pod::Pod;
use crate::{
    ContainerId, Error, PodId, exits, handlers, id_mapped, monitors, namespaces, networking,
    predecessor, pulls, seccomp_notifier,
};

/// What an earlier daemon left, as it was found at the start.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    unfinished: Vec<Unfinished>,
    /// Records of ours that never became whole.
    records: Vec<String>,
    /// What CRI-O left.
    of_crio: Vec<predecessor::Left>,
    /// Pods that have a pin or a monitor's directory.
    traces: BTreeSet<PodId>,
    /// Records of cgroups of pulls.
    pulls: Vec<PathBuf>,
}

/// What a record of the store is.
enum Kind {
    Pod,
    Container,
    /// Another tool's: left alone.
    Foreign,
}

/// Reads all records into the snapshot, and collects what is left over. Blocks.
pub(crate) fn read(node: &Node) -> Result<Leftovers, Error> {
    for dir in [
        node.intents(),
        node.options.run_dir.join("monitors"),
        pulls::dir(node),
        node.options.exits_dir.clone(),
    ] {
        std::fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        sys::durable::sweep(&dir).map_err(Error::io("sweep", dir))?;
    }
    let listeners = seccomp_notifier::dir(node);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&listeners)
        .map_err(Error::io("create", &listeners))?;
    node.selinux
        .label_monitors(&node.options.run_dir.join("monitors"))?;
    let mut leftovers = Leftovers {
        unfinished: intent::unfinished(&node.intents())?,
        traces: namespaces::pinned(node)
            .into_iter()
            .chain(watched(node))
            .collect(),
        pulls: pulls::recorded(node)?,
        ..Leftovers::default()
    };
    let mut recorded = handlers::Recorded::default();
    for record in node.store.containers()?.iter() {
        let dirs = Dirs {
            persistent: record.dir.clone(),
            bundle: record.run_dir.clone(),
        };
        let whole = match kind(&record.metadata) {
            Kind::Foreign => continue,
            Kind::Pod => records::read_pod(&dirs)?.map(|mut pod| {
                pod.handler = recorded.find(node, &pod.made);
                node.table.put_pod(pod)
            }),
            Kind::Container => records::read_container(&dirs)?.and_then(|container| {
                let had_process = container.phase.init().is_none_or(|init| init.pid != 0);
                let waits = container.awaits_restore() && records::has_state(&dirs);
                (had_process || waits).then(|| node.table.put_container(container))
            }),
        };
        if whole.is_none() {
            match predecessor::read(node, record.id.as_str(), &dirs) {
                Some(left) => leftovers.of_crio.push(left),
                None => leftovers.records.push(record.id.to_string()),
            }
        }
    }
    Ok(leftovers)
}

/// The pod that a container's record in the store belongs to, its own if it is a pod's; `None` for
/// another tool's record. A record is ours, or CRI-O's, if it names a pod.
#[must_use]
pub fn pod_of_record(metadata: &str) -> Option<String> {
    let metadata: serde_json::Value = serde_json::from_str(metadata).ok()?;
    let text = |key: &str| metadata[key].as_str().filter(|text| !text.is_empty());
    text("pod-name")?;
    text("pod-id").map(str::to_owned)
}

fn kind(metadata: &str) -> Kind {
    if pod_of_record(metadata).is_none() {
        return Kind::Foreign;
    }
    let metadata: serde_json::Value = serde_json::from_str(metadata).unwrap_or_default();
    if metadata["pod"] == true {
        Kind::Pod
    } else {
        Kind::Container
    }
}

/// Pods that have a monitor's directory.
fn watched(node: &Node) -> Vec<PodId> {
    let entries = std::fs::read_dir(node.options.run_dir.join("monitors"))
        .into_iter()
        .flatten();
    entries
        .filter_map(|entry| PodId::parse(entry.ok()?.file_name().to_str()?))
        .collect()
}

impl Leftovers {
    /// Brings record and kernel together. Goes on past any failure: each is logged.
    pub(crate) async fn repair(self, node: &Arc<Node>) {
        let begun: Vec<_> = self.unfinished.iter().map(subject_of).collect();
        for unfinished in self.unfinished {
            undo(node, unfinished).await;
        }
        predecessor::end(node, self.of_crio).await;
        let snapshot = node.table.load();
        for pod in snapshot.pods.values() {
            resume(node, pod).await;
        }
        for record in self.records.iter().filter(|id| !begun.contains(id)) {
            tracing::warn!(record, "a record that never became whole is removed");
            log("record not removed", node.delete_record(record).await);
        }
        for container in snapshot
            .containers
            .values()
            .filter(|container| !snapshot.pods.contains_key(&container.pod))
        {
            tracing::warn!(
                container = container.id.as_str(),
                "a container without its pod is removed"
            );
            exits::lost(node, container).await;
            log(
                "container not removed",
                crate::operations::remove_container::remove(node, container).await,
            );
        }
        for pod in self
            .traces
            .iter()
            .filter(|pod| !snapshot.pods.contains_key(pod))
        {
            tracing::warn!(
                pod = pod.as_str(),
                "traces of a pod that is gone are removed"
            );
            log("network not detached", networking::detach(node, pod).await);
            log("monitor not ended", monitors::end(node, pod).await);
            log(
                "namespaces not unpinned",
                namespaces::unpin(node, pod).await,
            );
            node.forget(pod);
        }
        pulls::clear(node, &self.pulls).await;
        let sweeper = Arc::clone(node);
        blocking(&node.pools.mounts, move || id_mapped::sweep(&sweeper)).await;
        collect_networks(node).await;
    }
}

/// Id of the record that an operation is about.
fn subject_of(unfinished: &Unfinished) -> String {
    let subject = &unfinished.subject;
    let id = subject.container.as_ref().map(ContainerId::as_str);
    id.unwrap_or(subject.pod.as_str()).to_owned()
}

fn log(what: &str, result: Result<(), Error>) {
    if let Err(error) = result {
        tracing::error!(error = chain(&error), "{what}");
    }
}

/// Undoes an operation that a killed daemon had not ended. One whose last stage had acted is
/// undone too: its caller never got an answer, and asks again.
async fn undo(node: &Arc<Node>, unfinished: Unfinished) {
    let subject = &unfinished.subject;
    let (operation, pod) = (subject.operation.as_str(), subject.pod.clone());
    tracing::warn!(
        operation,
        pod = pod.as_str(),
        stages = unfinished.stages.join(" "),
        "an unfinished operation is undone"
    );
    if operation == create_container::OPERATION {
        // Its monitor may hold the container.
        log("monitor not found", monitors::resume(node, &pod).await);
    }
    let is_pod = operation == run_pod::OPERATION;
    if !owed::undo(node, &unfinished).await {
        node.owed.add(unfinished);
    }
    if is_pod {
        node.forget(&pod);
    }
}

/// Connects to a pod's monitor, or finds that the pod did not survive.
async fn resume(node: &Arc<Node>, pod: &Pod) {
    let alive = pod.ready && {
        let pod = pod.clone();
        blocking(&node.pools.mounts, move || survived(&pod)).await
    };
    if alive {
        if node.live(&pod.id).monitor_now().is_none() {
            log("monitor not resumed", monitors::resume(node, &pod.id).await);
        }
        return;
    }
    for container in node.table.load().containers_of(&pod.id) {
        if !matches!(container.phase, Phase::Exited { .. }) {
            exits::lost(node, container).await;
        }
    }
    if !pod.ready {
        return;
    }
    tracing::warn!(
        pod = pod.id.as_str(),
        "pod sandbox did not survive: not ready"
    );
    log(
        "network not detached",
        networking::detach(node, &pod.id).await,
    );
    log("monitor not ended", monitors::end(node, &pod.id).await);
    log(
        "namespaces not unpinned",
        namespaces::unpin(node, &pod.id).await,
    );
    let ended = Pod {
        ready: false,
        ..pod.clone()
    };
    if let Ok(Some(dirs)) = node.dirs(pod.id.as_str()).await {
        let record = ended.clone();
        log(
            "state not written",
            blocking(&node.pools.files, move || {
                records::write_pod_state(&record, &dirs)
            })
            .await,
        );
    }
    node.table.put_pod(ended);
}

/// Whether what a pod has on tmpfs and in the kernel is still there. Blocks.
fn survived(pod: &Pod) -> bool {
    let files = pod
        .made
        .files
        .join(crate::files::HOSTNAME)
        .try_exists()
        .unwrap_or(false);
    let made = &pod.made;
    let pins = [&made.netns, &made.ipcns, &made.utsns, &made.userns]
        .into_iter()
        .flatten();
    files
        && pins
            .into_iter()
            .all(|pin| sys::mount::is_mount_point(pin).unwrap_or(false))
}

/// Frees what network plugins hold for pods that are gone.
async fn collect_networks(node: &Arc<Node>) {
    let ready: Vec<String> = node
        .table
        .load()
        .pods
        .values()
        .filter(|pod| pod.ready)
        .map(|pod| pod.id.to_string())
        .collect();
    log(
        "host ports not brought back",
        networking::reconcile_ports(node, ready.clone()).await,
    );
    let network = Arc::clone(&node.network);
    let collected = blocking(&node.pools.helpers, move || {
        network.gc(&ready, networking::DEL_TIMEOUT)
    })
    .await;
    match collected {
        Ok(collected) => tracing::debug!(?collected, "networks collected"),
        Err(error) => tracing::warn!(error = chain(&error), "networks not collected"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_tools_records_are_foreign() {
        for (metadata, ours) in [
            ("", false),
            ("{}", false),
            (r#"{"image-name":"x","name":"podman"}"#, false),
            (r#"{"pod-name":"","pod-id":"x"}"#, false),
            (r#"{"pod-name":"p","pod-id":"x"}"#, true),
        ] {
            assert_eq!(!matches!(kind(metadata), Kind::Foreign), ours, "{metadata}");
        }
    }
}
