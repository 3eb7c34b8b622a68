//! RunPodSandbox: (record → files) ∥ (namespaces → network) → infra → state, all ∥ monitor, → publish.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use super::intent::Subject;
use super::stage::{Plan, Stage, perform};
use super::{Key, Outcome, Progress};
use crate::node::{Node, blocking};
use crate::request::Shared;
use crate::state::container::Init;
use crate::state::pod::{Made, Pod};
use crate::{
    Error, PodId, PodRequest, files, infra, monitors, namespaces, networking, records, selinux,
    user_namespaces,
};

/// Name of the operation.
pub(crate) const OPERATION: &str = "run-pod-sandbox";

/// What a run knows and finds out.
pub(crate) struct Run {
    pub(crate) node: Arc<Node>,
    pub(crate) id: PodId,
    pub(crate) request: Arc<PodRequest>,
    pub(crate) created: SystemTime,
    pub(crate) hostname: String,
    pub(crate) log_directory: PathBuf,
    /// Its own from the beginning on: a reload may take it out of the configuration.
    pub(crate) handler: Arc<runtime::Handler>,
    pub(crate) cgroup_parent: String,
    /// SELinux labels.
    pub(crate) selinux: spec::selinux::Labels,
    /// The rates that its annotations ask for.
    pub(crate) bandwidth: Option<network::Bandwidth>,
    /// Persistent directory and bundle directory of the pod's record.
    pub(crate) dirs: OnceLock<records::Dirs>,
    pub(crate) attachment: OnceLock<network::Attachment>,
    /// The process that holds a shared process namespace, where one is needed.
    pub(crate) infra: OnceLock<Init>,
}

/// The stages.
pub(crate) const PLAN: &Plan<Run> = &[
    Stage {
        name: "record",
        after: &[],
        act: |run| Box::pin(record(run)),
        undo: Some(records::undo_pod),
    },
    // The longest on cgroup v1, where entering a cgroup may wait for a grace period of the kernel.
    Stage {
        name: "monitor",
        after: &[],
        act: |run| Box::pin(monitors::start(run)),
        undo: Some(monitors::undo),
    },
    Stage {
        name: "namespaces",
        after: &[],
        act: |run| Box::pin(namespaces::pin(run)),
        undo: Some(namespaces::undo),
    },
    Stage {
        name: "network",
        after: &["namespaces"],
        act: |run| Box::pin(networking::attach(run)),
        undo: Some(networking::undo),
    },
    Stage {
        name: "files",
        after: &["record"],
        act: |run| Box::pin(files::make(run)),
        undo: Some(files::undo),
    },
    Stage {
        name: "infra",
        after: &["network", "files"],
        act: |run| Box::pin(infra::start(run)),
        undo: Some(infra::undo),
    },
    Stage {
        name: "state",
        after: &["infra"],
        act: |run| Box::pin(write(run)),
        // A successor of a killed daemon has read it from disk: before it was published, too.
        undo: Some(unpublish),
    },
    Stage {
        name: "publish",
        after: &["state", "monitor"],
        act: |run| Box::pin(publish(run)),
        // By the undo of its state.
        undo: None,
    },
];

/// Runs a pod, or joins or finds the one that the same request made.
pub(crate) async fn run(node: &Arc<Node>, request: PodRequest) -> Outcome {
    let no_pause = node.options.pause.is_none() && node.changing.load().pause_image.is_none();
    if infra::is_needed(&request) && no_pause {
        return Err(Arc::new(Error::Invalid(
            "a process namespace shared by the pod needs the pause program".to_owned(),
        )));
    }
    let key = Key {
        kind: OPERATION,
        subject: request.key.record_name(),
    };
    let fingerprint = records::fingerprint(&request);
    let node = Arc::clone(node);
    let operations = Arc::clone(&node.operations);
    operations
        .run(key, fingerprint, |progress| work(node, request, progress))
        .await
}

/// Refuses a user namespace where there can be none: never less isolation than was asked for.
async fn has_user_namespaces(node: &Arc<Node>, handler: &runtime::Handler) -> Result<(), Error> {
    let refused = if !user_namespaces::are_possible(node).await {
        "this node's kernel or file system has no id-mapped mounts".to_owned()
    } else if !handler.features.user_namespaces {
        format!("runtime handler {} has none", handler.config.name)
    } else {
        return Ok(());
    };
    Err(Error::Invalid(format!("user namespace: {refused}")))
}

async fn work(
    node: Arc<Node>,
    request: PodRequest,
    progress: Arc<Progress>,
) -> Result<String, Error> {
    if let Some(pod) = node.table.load().pod_by_key(&request.key) {
        return if *pod.request == request && pod.ready {
            Ok(pod.id.to_string())
        } else {
            let name = request.key.record_name();
            Err(Error::AlreadyExists(format!(
                "pod sandbox {name} exists with another configuration as {}",
                pod.id
            )))
        };
    }
    let handler = node.handlers.get(&request.runtime_handler)?;
    if request.id_map.is_some() {
        has_user_namespaces(&node, &handler).await?;
    }
    let id = PodId::random();
    let request = Arc::new(request);
    let run = Run {
        selinux: selinux::of_pod(&node, &request).await?,
        hostname: hostname(&request, &id)?,
        log_directory: node.log_directory(&request)?,
        handler,
        cgroup_parent: node.options.keeper.parent(&request.cgroup_parent)?,
        bandwidth: networking::bandwidth(&request)?,
        node: Arc::clone(&node),
        id: id.clone(),
        request,
        created: SystemTime::now(),
        dirs: OnceLock::new(),
        attachment: OnceLock::new(),
        infra: OnceLock::new(),
    };
    let subject = Subject {
        operation: OPERATION.to_owned(),
        pod: id.clone(),
        container: None,
        cgroup_parent: run.cgroup_parent.clone(),
        archive: None,
    };
    perform(&node, &subject, &progress, &run, PLAN).await?;
    tracing::info!(
        pod = id.as_str(),
        name = run.request.key.record_name(),
        "pod sandbox runs"
    );
    Ok(id.to_string())
}

/// The host name: as asked, the node's in the host's network, else the id's first digits.
fn hostname(request: &PodRequest, id: &PodId) -> Result<String, Error> {
    let name = if !request.hostname.is_empty() {
        request.hostname.clone()
    } else if request.network == Shared::Host {
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned()
    } else {
        id.as_str().chars().take(12).collect()
    };
    if spec::process::is_host_name(&name) {
        Ok(name)
    } else {
        Err(Error::Invalid(format!("host name {name:?} is not valid")))
    }
}

async fn record(run: &Run) -> Result<(), Error> {
    let store = run.node.store.clone();
    let new = records::pod_record(run)?;
    let made = blocking(&run.node.pools.storage, move || store.create_container(new)).await?;
    let dirs = records::Dirs {
        persistent: made.dir.clone(),
        bundle: made.run_dir.clone(),
    };
    run.dirs
        .set(dirs)
        .map_err(|_| Error::Internal("a stage ran twice".to_owned()))
}

impl Run {
    pub(crate) fn dirs(&self) -> &records::Dirs {
        self.dirs.get().expect("the record stage comes first")
    }

    fn pod(&self) -> Pod {
        Pod {
            id: self.id.clone(),
            request: Arc::clone(&self.request),
            made: Arc::new(self.made()),
            resources: Arc::new(self.request.resources.clone()),
            created: self.created,
            ready: true,
            handler: Some(Arc::clone(&self.handler)),
        }
    }

    fn made(&self) -> Made {
        let attachment = self.attachment.get();
        let pins = namespaces::Pins::of(&self.node, &self.id, &self.request);
        Made {
            hostname: self.hostname.clone(),
            log_directory: self.log_directory.clone(),
            cgroup_parent: self.cgroup_parent.clone(),
            handler: self.handler.config.name.clone(),
            handler_config: Some(self.handler.config.clone()),
            ips: attachment
                .map(|attachment| attachment.ips.clone())
                .unwrap_or_default(),
            netns: pins.network,
            ipcns: pins.ipc,
            utsns: pins.uts,
            userns: pins.user,
            cni_result: attachment
                .and_then(|attachment| attachment.result.clone())
                .unwrap_or_default(),
            files: self.dirs().bundle.clone(),
            infra: self.infra.get().copied(),
            selinux: self.selinux.clone(),
        }
    }
}

async fn write(run: &Run) -> Result<(), Error> {
    let (pod, dirs) = (run.pod(), run.dirs().clone());
    blocking(&run.node.pools.files, move || {
        records::write_pod(&pod, &dirs)
    })
    .await
}

async fn publish(run: &Run) -> Result<(), Error> {
    run.node.table.put_pod(run.pod());
    Ok(())
}

fn unpublish<'a>(node: &'a Node, subject: &'a Subject) -> super::stage::Doing<'a> {
    Box::pin(async move {
        node.table.remove_pod(&subject.pod);
        Ok(())
    })
}
