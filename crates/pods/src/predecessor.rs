//! CRI-O's own pods, where it was stopped and we take its place: conmon watches them, and their records
//! say less than ours. They are ended as a node's shutdown ends them, and taken away with all that
//! belongs to them; the kubelet makes them anew. To leave them running would run them twice.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::Signal;
use spec::annotations::{PREFIX, name};
use spec::oci;
use sys::cgroup::Cgroup;

use crate::node::{Node, blocking};
use crate::operations::chain;
use crate::records::{self, Dirs};
use crate::{Error, PodId, cgroups, handlers, monitors, networking};

/// Between stop signal and SIGKILL: what CRI-O gives the containers of a pod.
const GRACE: Duration = Duration::from_secs(10);
/// Where a runtime writes the number of a container's first process (conmon's `-p`).
const PID_FILE: &str = "pidfile";

/// A container of CRI-O's, or the process of a pod itself.
#[derive(Debug)]
pub(crate) struct Left {
    id: String,
    pod: Option<PodId>,
    bundle: PathBuf,
    cgroup: String,
    handler: String,
    /// What its namespaces are pinned by.
    pins: Vec<PathBuf>,
}

/// What a record of CRI-O's that has no file of ours is about, as far as a bundle says it. Blocks.
pub(crate) fn read(node: &Node, id: &str, dirs: &Dirs) -> Option<Left> {
    if records::is_ours(dirs) {
        return None;
    }
    let spec = fs::read(dirs.bundle.join("config.json")).ok()?;
    let spec: oci::Spec = serde_json::from_slice(&spec).ok()?;
    let said = |key: &str| spec.annotations.get(&format!("{PREFIX}{key}"));
    let is_pod = said(name::CONTAINER_TYPE)? == "sandbox";
    let linux = spec.linux.as_ref()?;
    let pinned = |path: &PathBuf| path.starts_with(&node.options.namespaces_dir);
    let paths = linux.namespaces.iter().filter_map(|one| one.path.clone());
    Some(Left {
        id: id.to_owned(),
        pod: PodId::parse(id).filter(|_| is_pod),
        bundle: dirs.bundle.clone(),
        cgroup: cgroup(&linux.cgroups_path, id)?,
        handler: said(name::RUNTIME_HANDLER).cloned().unwrap_or_default(),
        pins: paths.filter(pinned).filter(|_| is_pod).collect(),
    })
}

/// Path of the cgroup that a runtime was told by `SLICE:PREFIX:NAME` or as a path; of no other name than
/// a container's, since all that is in it is killed.
fn cgroup(told: &str, id: &str) -> Option<String> {
    let name = format!("crio-{id}");
    let path = match told.split(':').collect::<Vec<_>>()[..] {
        [slice, "crio", of] if of == id => format!("{}/{name}.scope", cgroups::of_pod(slice)),
        [path] if Path::new(path).file_name()? == name.as_str() => path.to_owned(),
        _ => return None,
    };
    (!path.split('/').any(|part| part == "..")).then_some(path)
}

/// Ends them all, containers before the pods that they are in.
pub(crate) async fn end(node: &Arc<Node>, mut all: Vec<Left>) {
    if all.is_empty() {
        return;
    }
    all.sort_by_key(|left| left.pod.is_some());
    tracing::warn!(
        records = all.len(),
        "there are pods of CRI-O: what runs of them is ended, and the kubelet makes them anew"
    );
    // A pod's own process has nothing to end well.
    let containers = all.iter().filter(|left| left.pod.is_none());
    join_all(containers.map(|left| stopped(node, left))).await;
    for left in &all {
        if let Err(error) = take_away(node, left).await {
            let (id, error) = (left.id.as_str(), chain(&error));
            tracing::error!(id, error, "not all of a pod of CRI-O is gone");
        }
    }
}

/// Asks a container to stop, and waits a while for that.
async fn stopped(node: &Node, left: &Left) {
    let (file, cgroup) = (left.bundle.join(PID_FILE), left.cgroup.clone());
    let stop = move || {
        let pid = fs::read_to_string(file).ok()?.trim().parse().ok()?;
        let pidfd = sys::pidfd::open(sys::pidfd::of_number(pid)?).ok()?;
        // The number may be another's by now.
        let processes = Cgroup::at(&cgroup).ok()?.processes().ok()?;
        processes.iter().find(|one| one.as_raw_pid() == pid)?;
        rustix::process::pidfd_send_signal(&pidfd, Signal::TERM).ok()?;
        Some(pidfd)
    };
    let Some(pidfd) = blocking(&node.pools.mounts, stop).await else {
        return;
    };
    tracing::info!(id = left.id, "a container of CRI-O is asked to stop");
    let until = Instant::now() + GRACE;
    let wait = move || sys::pidfd::wait_ended(pidfd.as_fd(), Some(until - Instant::now()));
    blocking(&node.pools.helpers, wait).await.ok();
}

async fn take_away(node: &Arc<Node>, left: &Left) -> Result<(), Error> {
    cgroups::remove(node, left.cgroup.clone()).await?;
    forget(node, left).await;
    if let Some(pod) = &left.pod {
        let netns = left.pins.iter().find(|pin| kind(pin) == Some("netns"));
        networking::detach_from(node, pod, netns.cloned()).await?;
    }
    let (pins, parent) = (left.pins.clone(), left.cgroup.clone());
    let conmon = Path::new(&parent).with_file_name(format!("crio-conmon-{}", left.id));
    let unpin = move || {
        // It ends with its container.
        monitors::remove_empty_cgroup(&conmon.to_string_lossy());
        pins.into_iter()
            .try_for_each(|pin| sys::namespace::unpin(&pin).map_err(Error::io("unpin", pin)))
    };
    blocking(&node.pools.mounts, unpin).await?;
    node.delete_record(&left.id).await
}

/// Which kind of namespace a pin is of, by its directory.
fn kind(pin: &Path) -> Option<&str> {
    pin.parent()?.file_name()?.to_str()
}

/// Has the runtime forget a container; fine if it has no longer.
async fn forget(node: &Node, left: &Left) {
    let Ok(handler) = node.handlers.get(&left.handler) else {
        return;
    };
    if let Err(error) = handlers::delete(node, &handler, &left.id).await {
        let (id, error) = (left.id.as_str(), chain(&error));
        tracing::warn!(
            id,
            error,
            "the runtime has not forgotten a container of CRI-O"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_containers_own_cgroup_is_one() {
        let id = "a".repeat(64);
        let path = |told: &str| cgroup(told, &id);
        let plain = format!("/kubepods/pod1/crio-{id}");
        assert_eq!(path(&plain), Some(plain.clone()));
        let scope = format!("/kubepods.slice/kubepods-pod1.slice/crio-{id}.scope");
        let told = format!("kubepods-pod1.slice:crio:{id}");
        assert_eq!(path(&told), Some(scope));
        for wrong in [
            "",
            "/",
            "/kubepods",
            "a.slice:crio:b",
            &format!("a.slice:libpod:{id}"),
            &format!("/../crio-{id}"),
        ] {
            assert_eq!(path(wrong), None, "{wrong}");
        }
    }
}
