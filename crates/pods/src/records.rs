//! Records of pods and containers on disk.
//!
//! In the persistent directory of each, beside CRI-O's files: `request.json` (what was asked and
//! made: written once and synced before the caller gets an answer) and `state.json` (what changes:
//! replaced by rename; synced when a container has exited, before anybody sees it). `config.json`
//! with its annotations is there for CRI-O and for hooks.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::node::Node;
use crate::operations::intent::Subject;
use crate::operations::run_pod::Run;
use crate::operations::stage::Doing;
use crate::request::PodResources;
use crate::state::container::{Container, Made as ContainerMade, NOBODY, Phase, SECCOMP_KILLED};
use crate::state::pod::{Made as PodMade, Pod};
use crate::{ContainerId, ContainerRequest, Error, PodId, PodRequest, node};

const REQUEST: &str = "request.json";
const STATE: &str = "state.json";
const CONFIG: &str = "config.json";

/// Directories of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dirs {
    /// Kept across a reboot.
    pub(crate) persistent: PathBuf,
    /// The bundle, on tmpfs.
    pub(crate) bundle: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct PodFile {
    id: PodId,
    created: SystemTime,
    request: PodRequest,
    made: PodMade,
}

#[derive(Debug, Serialize, Deserialize)]
struct PodState {
    ready: bool,
    /// Where they were updated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resources: Option<PodResources>,
}

impl PodState {
    fn of(pod: &Pod) -> Self {
        let updated = *pod.resources != pod.request.resources;
        Self {
            ready: pod.ready,
            resources: updated.then(|| PodResources::clone(&pod.resources)),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct ContainerFile {
    id: ContainerId,
    pod: PodId,
    created: SystemTime,
    request: ContainerRequest,
    made: ContainerMade,
}

/// `state.json`: our phase, and CRI-O's fields beside it.
#[derive(Debug, Serialize, Deserialize)]
struct ContainerState {
    phase: Phase,
    /// Limits in force, where they were updated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limits: Option<spec::resources::Request>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checkpointed: Option<SystemTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    condemned: Option<String>,
    #[serde(flatten)]
    for_crio: serde_json::Value,
}

/// Whether a record is one of ours, as far as it came.
pub(crate) fn is_ours(dirs: &Dirs) -> bool {
    dirs.persistent.join(REQUEST).try_exists().unwrap_or(true)
}

/// What makes two requests equal.
pub(crate) fn fingerprint<T: Serialize>(request: &T) -> String {
    serde_json::to_string(request).unwrap_or_default()
}

/// The store's record of a pod to be.
pub(crate) fn pod_record(run: &Run) -> Result<storage::NewContainer, Error> {
    let key = &run.request.key;
    let metadata = json!({
        "pod-name": key.record_name(),
        "pod-id": run.id.as_str(),
        "name": format!("k8s_POD_{}_{}_{}_{}", key.name, key.namespace, key.uid, key.attempt),
        "metadata-name": key.name,
        "uid": key.uid,
        "namespace": key.namespace,
        "attempt": key.attempt,
        "created-at": seconds(run.created),
        "pod": true,
        "privileged": run.request.privileged,
    });
    Ok(storage::NewContainer {
        id: node::record_id(run.id.as_str())?,
        names: vec![
            format!(
                "k8s_POD_{}_{}_{}_{}",
                key.name, key.namespace, key.uid, key.attempt
            ),
            key.record_name(),
        ],
        image: None,
        metadata: metadata.to_string(),
        mount_label: run.selinux.mount.clone(),
        process_label: run.selinux.process.clone(),
        id_map: None,
    })
}

/// Removes a pod's record.
pub(crate) fn undo_pod<'a>(node: &'a Node, subject: &'a Subject) -> Doing<'a> {
    Box::pin(node.delete_record(subject.pod.as_str()))
}

/// Seconds since 1970.
pub(crate) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// Writes a pod's record, synced.
pub(crate) fn write_pod(pod: &Pod, dirs: &Dirs) -> Result<(), Error> {
    let file = PodFile {
        id: pod.id.clone(),
        created: pod.created,
        request: PodRequest::clone(&pod.request),
        made: PodMade::clone(&pod.made),
    };
    volatile(&dirs.persistent.join(STATE), &PodState::of(pod))?;
    durable_pair(dirs, &crate::bundle::pod_config(pod), &file)
}

/// Replaces a pod's state, synced: a pod that was stopped stays so.
pub(crate) fn write_pod_state(pod: &Pod, dirs: &Dirs) -> Result<(), Error> {
    durable(&dirs.persistent.join(STATE), &PodState::of(pod))
}

/// Reads a pod's record; `None` where it never was whole. Its handler is not looked for.
pub(crate) fn read_pod(dirs: &Dirs) -> Result<Option<Pod>, Error> {
    let Some(file) = read::<PodFile>(&dirs.persistent.join(REQUEST))? else {
        return Ok(None);
    };
    let state = read::<PodState>(&dirs.persistent.join(STATE))?;
    let (ready, updated) = state.map_or((false, None), |state| (state.ready, state.resources));
    Ok(Some(Pod {
        id: file.id,
        resources: Arc::new(updated.unwrap_or_else(|| file.request.resources.clone())),
        request: Arc::new(file.request),
        made: Arc::new(file.made),
        created: file.created,
        ready,
        handler: None,
    }))
}

/// Writes a container's record, synced.
pub(crate) fn write_container(
    container: &NewRecord,
    dirs: &Dirs,
    config: &spec::oci::Spec,
) -> Result<(), Error> {
    durable_pair(dirs, config, &container.0)
}

/// A container's record before there is a process.
#[derive(Debug)]
pub(crate) struct NewRecord(ContainerFile);

impl NewRecord {
    pub(crate) fn new(
        id: ContainerId,
        pod: PodId,
        created: SystemTime,
        request: ContainerRequest,
        made: ContainerMade,
    ) -> Self {
        Self(ContainerFile {
            id,
            pod,
            created,
            request,
            made,
        })
    }
}

/// Replaces a container's state: synced once it has exited. Before that a reboot makes an end of
/// it anyway.
pub(crate) fn write_state(container: &Container, dirs: &Dirs) -> Result<(), Error> {
    let path = dirs.persistent.join(STATE);
    let state = ContainerState {
        phase: container.phase.clone(),
        limits: (*container.limits != container.request.resources)
            .then(|| spec::resources::Request::clone(&container.limits)),
        checkpointed: container.checkpointed,
        condemned: container.condemned.clone(),
        for_crio: for_crio(container, dirs),
    };
    match container.phase {
        Phase::Exited { .. } => durable(&path, &state),
        Phase::Created { .. } | Phase::Running { .. } => volatile(&path, &state),
    }
}

/// The fields under which CRI-O keeps a container's state.
fn for_crio(container: &Container, dirs: &Dirs) -> serde_json::Value {
    let time = |at: SystemTime| {
        jiff::Timestamp::try_from(at)
            .map(|at| at.to_string())
            .unwrap_or_default()
    };
    let init = container.phase.init();
    let mut fields = json!({
        "ociVersion": "1.0.0",
        "id": container.id.as_str(),
        "status": if matches!(container.phase, Phase::Exited { .. }) { "stopped" } else { container.phase.name() },
        "bundle": dirs.bundle,
        "created": time(container.created),
        "pid": init.map(|init| init.pid),
        "initPid": init.map(|init| init.pid),
        "initStartTime": init.map(|init| init.start_time.to_string()),
    });
    let mut set = |name: &str, value: serde_json::Value| fields[name] = value;
    match &container.phase {
        Phase::Created { .. } => {}
        Phase::Running { started, .. } => set("started", time(*started).into()),
        Phase::Exited { started, exit } => {
            if let Some(started) = started {
                set("started", time(*started).into());
            }
            set("finished", time(exit.finished).into());
            set("exitCode", exit.code.into());
            set("oomKilled", exit.oom_killed.into());
            let seccomp_killed = exit.reason.as_deref() == Some(SECCOMP_KILLED);
            set("seccompKilled", seccomp_killed.into());
            set("error", exit.message.clone().into());
        }
    }
    fields
}

/// Whether a container's making got as far as its state.
pub(crate) fn has_state(dirs: &Dirs) -> bool {
    dirs.persistent.join(STATE).try_exists().unwrap_or(false)
}

/// Reads a container's record; `None` where it never was whole. One without a state had no
/// process yet.
pub(crate) fn read_container(dirs: &Dirs) -> Result<Option<Container>, Error> {
    let Some(file) = read::<ContainerFile>(&dirs.persistent.join(REQUEST))? else {
        return Ok(None);
    };
    let state = read::<ContainerState>(&dirs.persistent.join(STATE))?;
    let nobody = Phase::Created { init: NOBODY };
    let (phase, updated, checkpointed, condemned) =
        state.map_or((nobody, None, None, None), |state| {
            let noted = (state.checkpointed, state.condemned);
            (state.phase, state.limits, noted.0, noted.1)
        });
    Ok(Some(Container {
        id: file.id,
        pod: file.pod,
        limits: Arc::new(updated.unwrap_or_else(|| file.request.resources.clone())),
        request: Arc::new(file.request),
        made: Arc::new(file.made),
        created: file.created,
        checkpointed,
        condemned,
        phase,
    }))
}

fn text<T: Serialize>(path: &Path, value: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value)
        .map_err(|wrong| Error::Internal(format!("{}: {wrong}", path.display())))
}

fn durable<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    sys::durable::replace(path, &text(path, value)?, 0o600).map_err(Error::io("write", path))
}

/// Writes a record's two files, the request last: it says that the record is whole. One wait for
/// the directory serves both.
fn durable_pair(
    dirs: &Dirs,
    config: &spec::oci::Spec,
    request: &impl Serialize,
) -> Result<(), Error> {
    let dir = &dirs.persistent;
    let (config, request) = (
        text(&dir.join(CONFIG), config)?,
        text(&dir.join(REQUEST), request)?,
    );
    let files = [
        (CONFIG.to_owned(), &*config),
        (REQUEST.to_owned(), &*request),
    ];
    sys::durable::replace_all(dir, &files, 0o600).map_err(Error::io("write a record in", dir))
}

fn volatile<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    sys::durable::replace_volatile(path, &text(path, value)?, 0o600)
        .map_err(Error::io("write", path))
}

/// `None` for a file that is not there or, after a power cut, torn.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)
            .inspect_err(
                |wrong| tracing::warn!(path = %path.display(), %wrong, "a record is damaged"),
            )
            .ok()),
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::io("read", path)(source)),
    }
}
