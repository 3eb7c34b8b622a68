//! CreateContainer: layer → archive → mount → bundle → record ∥ runtime → state.
//!
//! A container that is restored from a checkpoint gets its changes from the archive, and no process
//! yet: the start restores those that it had.

mod bundle;
mod from_checkpoint;
mod image;

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use serde_json::json;

use self::bundle::{log_path, make_bundle};
use self::image::{Image, image};
use super::intent::Subject;
use super::stage::{Doing, Plan, Stage, perform};
use super::{Key, Outcome, Progress, chain};
use crate::checkpoint::Place;
use crate::image_volumes::Volume;
use crate::monitors::{self, Live};
use crate::node::{Node, blocking, record_id};
use crate::records::{self, Dirs, NewRecord};
use crate::state::container::{Container, Init, Made, NOBODY, Phase, Restored};
use crate::state::pod::Pod;
use crate::{
    ContainerId, ContainerRequest, Error, cgroups, exits, handlers, id_mapped, image_volumes,
    linked_logs, namespaces, seccomp_artifact, seccomp_notifier, selinux,
};

/// Name of the operation.
pub(crate) const OPERATION: &str = "create-container";

/// What a creation knows and finds out.
pub(crate) struct Create {
    node: Arc<Node>,
    live: Arc<Live>,
    pod: Arc<Pod>,
    id: ContainerId,
    request: ContainerRequest,
    image: Image,
    /// Images and artifacts mounted beside it.
    image_volumes: Vec<Volume>,
    /// A seccomp profile that came as an artifact.
    seccomp: Option<Vec<u8>>,
    /// SELinux labels.
    selinux: spec::selinux::Labels,
    created: SystemTime,
    log_path: String,
    /// What it is restored from.
    checkpoint: Option<Place>,
    restored: OnceLock<Restored>,
    dirs: OnceLock<Dirs>,
    root: OnceLock<std::path::PathBuf>,
    built: OnceLock<(spec::oci::Spec, Made)>,
    /// The runtime's program where it is not its file.
    runtime: OnceLock<Option<Arc<OwnedFd>>>,
    init: OnceLock<Init>,
}

/// The stages.
pub(crate) const PLAN: &Plan<Create> = &[
    Stage {
        name: "layer",
        after: &[],
        act: |create| Box::pin(layer(create)),
        undo: Some(undo_layer),
    },
    Stage {
        name: "archive",
        after: &["layer"],
        act: |create| Box::pin(from_checkpoint::unpack(create)),
        // It is in the layer and its record's directory.
        undo: None,
    },
    Stage {
        name: "mount",
        after: &["archive"],
        act: |create| Box::pin(mount(create)),
        undo: Some(undo_mount),
    },
    Stage {
        name: "bundle",
        after: &["mount"],
        act: |create| Box::pin(make_bundle(create)),
        undo: None,
    },
    Stage {
        name: "record",
        after: &["bundle"],
        act: |create| Box::pin(record(create)),
        undo: None,
    },
    Stage {
        name: "runtime",
        after: &["bundle"],
        act: |create| Box::pin(make(create)),
        undo: Some(undo_make),
    },
    Stage {
        name: "state",
        after: &["record", "runtime"],
        act: |create| Box::pin(publish(create)),
        undo: Some(unpublish),
    },
];

/// Creates a container, or joins or finds the one that the same request made.
pub(crate) async fn run(node: &Arc<Node>, pod: &str, request: ContainerRequest) -> Outcome {
    let pod = node.table.load().pod(pod)?;
    let subject = format!("{}/{}_{}", pod.id, request.name, request.attempt);
    let key = Key {
        kind: OPERATION,
        subject,
    };
    let fingerprint = records::fingerprint(&request);
    let node = Arc::clone(node);
    let operations = Arc::clone(&node.operations);
    operations
        .run(key, fingerprint, |progress| {
            work(node, pod, request, progress)
        })
        .await
}

async fn work(
    node: Arc<Node>,
    pod: Arc<Pod>,
    request: ContainerRequest,
    progress: Arc<Progress>,
) -> Result<String, Error> {
    let live = node.live(&pod.id);
    let _gate = live.gate.read().await;
    let snapshot = node.table.load();
    let pod = snapshot.pod(pod.id.as_str())?;
    let of_name = |container: &&Arc<Container>| {
        container.request.name == request.name && container.request.attempt == request.attempt
    };
    if let Some(there) = snapshot.containers_of(&pod.id).find(of_name) {
        return if *there.request == request {
            Ok(there.id.to_string())
        } else {
            let name = request.record_name(&pod.request.key);
            Err(Error::AlreadyExists(format!(
                "container {name} exists with another configuration as {}",
                there.id
            )))
        };
    }
    if !pod.ready {
        return Err(Error::WrongState(format!(
            "pod sandbox {} is not ready",
            pod.id
        )));
    }
    if request.privileged && !pod.request.privileged {
        return Err(Error::Invalid(
            "a privileged container can't be created in a pod sandbox that is not privileged"
                .to_owned(),
        ));
    }
    if request.id_map.is_some() && request.id_map != pod.request.id_map {
        return Err(Error::Invalid(
            "the container's user namespace is not that of its pod sandbox".to_owned(),
        ));
    }
    let namespace = &pod.request.key.namespace;
    let (image, checkpoint) = image(&node, &pod, &request).await?;
    let seccomp = seccomp_artifact::profile(&node, &pod, &request, &image.annotations).await?;
    let id = ContainerId::random();
    let create = Create {
        selinux: selinux::of_container(&node, &pod, &request).await?,
        checkpoint,
        restored: OnceLock::new(),
        log_path: log_path(&pod, &id, &request)?,
        image,
        seccomp,
        image_volumes: image_volumes::find(&node, &request, namespace).await?,
        live: Arc::clone(&live),
        id,
        created: SystemTime::now(),
        dirs: OnceLock::new(),
        root: OnceLock::new(),
        built: OnceLock::new(),
        runtime: OnceLock::new(),
        init: OnceLock::new(),
        node: Arc::clone(&node),
        pod,
        request,
    };
    let subject = Subject {
        operation: OPERATION.to_owned(),
        pod: create.pod.id.clone(),
        container: Some(create.id.clone()),
        cgroup_parent: create.pod.made.cgroup_parent.clone(),
        archive: None,
    };
    let _announced = node.table.announce(&create.id);
    perform(&node, &subject, &progress, &create, PLAN).await?;
    let (container, name) = (
        create.id.as_str(),
        create.request.record_name(&create.pod.request.key),
    );
    tracing::info!(
        container,
        name,
        image = create.image.name,
        "container created"
    );
    Ok(create.id.to_string())
}

impl Create {
    fn dirs(&self) -> &Dirs {
        self.dirs.get().expect("the layer stage comes first")
    }

    fn built(&self) -> &(spec::oci::Spec, Made) {
        self.built.get().expect("the bundle stage comes first")
    }

    fn container(&self, init: Init) -> Container {
        Container {
            id: self.id.clone(),
            pod: self.pod.id.clone(),
            request: Arc::new(self.request.clone()),
            made: Arc::new(self.built().1.clone()),
            limits: Arc::new(self.request.resources.clone()),
            created: self.created,
            checkpointed: None,
            condemned: None,
            phase: Phase::Created { init },
        }
    }
}

fn once<T>(cell: &OnceLock<T>, value: T) -> Result<(), Error> {
    cell.set(value)
        .map_err(|_| Error::Internal("a stage ran twice".to_owned()))
}

async fn layer(create: &Create) -> Result<(), Error> {
    let key = &create.pod.request.key;
    let name = create.request.record_name(key);
    let metadata = json!({
        "pod-name": key.record_name(),
        "pod-id": create.pod.id.as_str(),
        "image-name": create.image.name,
        "image-id": create.image.id,
        "name": name,
        "metadata-name": create.request.name,
        "attempt": create.request.attempt,
        "created-at": records::seconds(create.created),
        "privileged": create.request.privileged,
    });
    let new = storage::NewContainer {
        id: record_id(create.id.as_str())?,
        names: vec![name],
        image: Some(create.image.id.parse()?),
        metadata: metadata.to_string(),
        mount_label: create.selinux.mount.clone(),
        process_label: create.selinux.process.clone(),
        id_map: create.pod.request.id_map,
    };
    let store = create.node.store.clone();
    let made = blocking(&create.node.pools.storage, move || {
        store.create_container(new)
    })
    .await?;
    once(
        &create.dirs,
        Dirs {
            persistent: made.dir.clone(),
            bundle: made.run_dir.clone(),
        },
    )
}

fn container_id(subject: &Subject) -> Result<&ContainerId, Error> {
    subject
        .container
        .as_ref()
        .ok_or_else(|| Error::Internal("an intent without its container".to_owned()))
}

fn undo_layer<'a>(node: &'a Node, subject: &'a Subject) -> Doing<'a> {
    Box::pin(async move { node.delete_record(container_id(subject)?.as_str()).await })
}

async fn mount(create: &Create) -> Result<(), Error> {
    let (node, id) = (Arc::clone(&create.node), create.id.clone());
    let (bundle, volumes) = (create.dirs().bundle.clone(), create.image_volumes.clone());
    let (pod, mounts) = (Arc::clone(&create.pod), create.request.mounts.clone());
    let label = create.selinux.mount.clone();
    let mount = move || {
        let users = namespaces::users(&pod.request, pod.made.userns.as_deref())?;
        let users = users.as_ref();
        let view = storage::View {
            users,
            label: &label,
            ..storage::View::default()
        };
        image_volumes::mount(&node.store, &bundle, &volumes, view)?;
        id_mapped::mount(&node, &id, &mounts, users)?;
        Ok::<_, Error>(node.store.mount_in(&record_id(id.as_str())?, users)?)
    };
    let root = blocking(&create.node.pools.storage, mount).await?;
    once(&create.root, root)
}

fn undo_mount<'a>(node: &'a Node, subject: &'a Subject) -> Doing<'a> {
    Box::pin(async move { unmount(node, container_id(subject)?).await })
}

/// Unmounts a container's root and the images and host paths in it, each even where another could not
/// be; fine if they are not mounted.
pub(crate) async fn unmount(node: &Node, id: &ContainerId) -> Result<(), Error> {
    let (store, record) = (node.store.clone(), record_id(id.as_str())?);
    let mapped = id_mapped::dir(node, id);
    let unmount = move || {
        let mapped = id_mapped::unmount(&mapped);
        let bundle = match store.container(&record) {
            Err(storage::Error::ContainerUnknown(_)) => return mapped,
            found => found?.run_dir.clone(),
        };
        let images = image_volumes::unmount(&bundle);
        let root = store.unmount(&record);
        mapped.and(images)?;
        Ok(root?)
    };
    blocking(&node.pools.storage, unmount).await
}

async fn record(create: &Create) -> Result<(), Error> {
    let (config, made) = create.built().clone();
    let record = NewRecord::new(
        create.id.clone(),
        create.pod.id.clone(),
        create.created,
        create.request.clone(),
        made,
    );
    let dirs = create.dirs().clone();
    let write = move || records::write_container(&record, &dirs, &config);
    blocking(&create.node.pools.files, write).await
}

async fn make(create: &Create) -> Result<(), Error> {
    if create.checkpoint.is_some() {
        // Its start has the runtime restore its processes.
        return once(&create.init, NOBODY);
    }
    let (node, container) = (&create.node, create.container(NOBODY));
    let handler = handlers::of_container(node, &container)?;
    let message = monitors::create_message(node, &container, &handler, create.dirs())?;
    let monitor = create.live.monitor().await?;
    if let Some(action) = container.made.notifier {
        create.live.notifiers.expect(&create.id, action, false);
    }
    monitors::announce(node, &monitor, &container).await?;
    let runtime = create.runtime.get().and_then(Option::as_ref);
    let made = monitor
        .create(message, runtime.map(|image| image.as_fd()))
        .await
        .map_err(|error| runtime_error("container create failed", error))?;
    once(&create.init, create.live.take(&create.id, made)?)
}

/// An error of the monitor, with the runtime's own words where it was the runtime.
pub(crate) fn runtime_error(doing: &'static str, error: monitor_client::Error) -> Error {
    use monitor_client::{Error as Lost, ErrorKind};
    match error {
        Lost::Refused {
            kind: ErrorKind::TimedOut {},
            text,
        } => Error::TimedOut(format!("{doing}: {text}")),
        Lost::Refused {
            kind: ErrorKind::WrongState {},
            text,
        } => Error::WrongState(text),
        Lost::Refused { text, .. } => Error::Runtime { doing, text },
        other => Error::Monitor(chain(&other)),
    }
}

fn undo_make<'a>(node: &'a Node, subject: &'a Subject) -> Doing<'a> {
    Box::pin(async move {
        let id = container_id(subject)?;
        let live = node.live(&subject.pod);
        live.forget(id);
        if let Ok(monitor) = live.monitor().await {
            let id = monitors::wire_id(id.as_str())?;
            // A container that the monitor never had is fine; what it can't delete, the cgroup's end does.
            monitor.delete(&id, true).await.ok();
            monitor.forget(&id).await.ok();
        }
        seccomp_notifier::remove_socket(node, id).await?;
        let keeper = &node.options.keeper;
        cgroups::remove(node, keeper.container(&subject.cgroup_parent, id.as_str())).await?;
        exits::remove_record(node, id.as_str()).await
    })
}

async fn publish(create: &Create) -> Result<(), Error> {
    let init = create
        .init
        .get()
        .copied()
        .ok_or_else(|| Error::Internal("no process was made".to_owned()))?;
    let container = create.container(init);
    let (record, dirs) = (container.clone(), create.dirs().clone());
    let pod = Arc::clone(&create.pod);
    blocking(&create.node.pools.files, move || {
        records::write_state(&record, &dirs)?;
        let log = Path::new(&record.made.log_path);
        linked_logs::link(&pod.made.files, &pod.made.log_directory, log, &record.id);
        Ok::<_, Error>(())
    })
    .await?;
    create.node.table.put_container(container);
    // An end that was told before anybody could know the container left its record.
    if let Some(exit) = exits::recorded(&create.node, &create.id).await {
        exits::exited(&create.node, &create.id, exit).await;
    }
    Ok(())
}

fn unpublish<'a>(node: &'a Node, subject: &'a Subject) -> Doing<'a> {
    Box::pin(async move {
        node.table.remove_container(container_id(subject)?);
        Ok(())
    })
}
