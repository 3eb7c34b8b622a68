//! The process that holds a process namespace for all containers of a pod, only where a pod asks
//! for a shared one: a tiny static one of our own in an empty read-only root, or the command of the
//! pause image that somebody configured, in that image.

use std::os::fd::AsFd as _;
use std::path::Path;

use monitor_client::Create;
use spec::container::{Namespace, Namespaces, Parts};
use spec::mounts::{self, Bind};
use spec::{capabilities::Set, oci, seccomp};

use crate::monitors::{self, wire_id};
use crate::node::{Node, PauseImage, blocking};
use crate::operations::chain;
use crate::operations::create_container::runtime_error;
use crate::operations::intent::Subject;
use crate::operations::run_pod::Run;
use crate::operations::stage::Doing;
use crate::request::{PidMode, PodRequest};
use crate::state::container::Init;
use crate::{Error, PodId, cgroups, namespaces, selinux};

/// User of the process: nobody's.
const USER: u32 = 65535;
/// Score of a process whose end would be that of all others.
const OOM_SCORE: i64 = -998;

/// Whether a pod has such a process.
pub(crate) fn is_needed(request: &PodRequest) -> bool {
    request.pid == PidMode::Pod
}

/// The stage `infra`.
pub(crate) async fn start(run: &Run) -> Result<(), Error> {
    if !is_needed(&run.request) {
        return Ok(());
    }
    // A change meanwhile is for the next pod.
    let changing = run.node.changing.load_full();
    let spec = build(run, changing.pause_image.as_ref())?;
    let dir = run.dirs().bundle.clone();
    let (map, label) = (run.request.id_map, run.selinux.mount.clone());
    let program = run.node.options.pause.clone();
    blocking(&run.node.pools.files, move || {
        write(&dir, &spec, map)?;
        if let Some(program) = program {
            selinux::program(&program, &dir, &label)?;
        }
        selinux::label(&dir.join(ROOT), &label)
    })
    .await?;
    if let Some(image) = &changing.pause_image {
        mount_image(run, image).await?;
    }
    let create = message(&run.id, &run.handler, &run.dirs().bundle)?;
    let id = create.id.clone();
    let monitor = run.node.live(&run.id).monitor().await?;
    let failed = |error| runtime_error("pod process not created", error);
    let image = run.handler.image.clone();
    let image = run.node.pools.files.run(move || image.get()).await;
    let made = monitor
        .create(create, image.as_ref().map(|image| image.as_fd()))
        .await
        .map_err(failed)?;
    monitor.start(&id).await.map_err(failed)?;
    let pid = i32::try_from(made.pid).map_err(|_| Error::Internal(format!("pid {}", made.pid)))?;
    let init = Init {
        pid,
        start_time: made.start_time,
    };
    run.infra
        .set(init)
        .map_err(|_| Error::Internal("a stage ran twice".to_owned()))
}

/// Mounts the configured pause image as the process's root; pulls it where it is missing.
async fn mount_image(run: &Run, pause: &PauseImage) -> Result<(), Error> {
    let images = &run.node.images;
    let image = match images.find(&pause.reference).await? {
        Some(image) => image.id,
        None => {
            let request = image::PullRequest {
                reference: pause.reference.clone(),
                auth_file: pause.auth_file.clone(),
                ..image::PullRequest::default()
            };
            let pulled = images.pull(request).await;
            pulled.map_err(|error| Error::Internal(format!("pause image: {}", chain(&error))))?
        }
    };
    let (store, dir) = (run.node.store.clone(), run.dirs().bundle.clone());
    let (request, label) = (run.request.clone(), run.selinux.mount.clone());
    let pin = namespaces::Pins::of(&run.node, &run.id, &request).user;
    let mount = move || {
        let users = namespaces::users(&request, pin.as_deref())?;
        let (root, changes) = (dir.join(ROOT), dir.join(CHANGES));
        let view = storage::View {
            changes: Some(&changes),
            users: users.as_ref(),
            label: &label,
        };
        Ok(store.mount_image(&image, &root, view)?)
    };
    blocking(&run.node.pools.storage, mount).await
}

/// Nobody, unless a user namespace has no such user: then its root.
fn user(request: &PodRequest) -> oci::User {
    let is_mapped = |map: storage::IdMap| map.outside(USER, USER).is_some();
    let id = match request.id_map.is_none_or(is_mapped) {
        true => USER,
        false => 0,
    };
    oci::User {
        uid: id,
        gid: id,
        additional_gids: Vec::new(),
    }
}

fn build(run: &Run, image: Option<&PauseImage>) -> Result<oci::Spec, Error> {
    let (node, pins) = (
        &run.node,
        namespaces::Pins::of(&run.node, &run.id, &run.request),
    );
    let (args, binds) = match (image, &node.options.pause) {
        (Some(pause), _) => (vec![pause.command.clone()], Vec::new()),
        (None, Some(pause)) => {
            let bind = Bind {
                destination: "/pause".to_owned(),
                source: selinux::place_of_program(pause, &run.dirs().bundle, &run.selinux.mount),
                readonly: true,
                ..Bind::default()
            };
            (vec!["/pause".to_owned()], vec![bind])
        }
        (None, None) => return Err(Error::Internal("no pause program".to_owned())),
    };
    let request = mounts::Request {
        readonly_root: true,
        host_ipc: true,
        host_sysfs: run.request.id_map.is_some() && pins.network.is_none(),
        binds: binds.clone(),
        ..mounts::Request::default()
    };
    let join = |pin: Option<_>| pin.map_or(Namespace::Host, Namespace::Join);
    let surroundings = seccomp::Surroundings {
        bounding: Set::default(),
        kernel: node.host.kernel,
    };
    Ok(spec::container::build(Parts {
        oci_version: run.handler.features.oci_version.clone(),
        process: oci::Process {
            user: user(&run.request),
            args,
            cwd: "/".to_owned(),
            capabilities: Some(oci::Capabilities::default()),
            no_new_privileges: true,
            selinux_label: run.selinux.process.clone(),
            oom_score_adj: Some(node.host.oom_score(OOM_SCORE)),
            ..oci::Process::default()
        },
        root: oci::Root {
            path: run.dirs().bundle.join(ROOT),
            readonly: true,
        },
        hostname: String::new(),
        mounts: mounts::resolve(&request)?,
        binds,
        namespaces: Namespaces {
            pid: Namespace::New,
            network: join(pins.network),
            ipc: join(pins.ipc),
            uts: join(pins.uts),
            user: join(pins.user),
            cgroup: Namespace::Host,
        },
        id_maps: run.request.id_map.map(crate::bundle::id_maps),
        cgroups_path: node
            .options
            .keeper
            .for_runtime(&run.cgroup_parent, run.id.as_str()),
        resources: oci::Resources::default(),
        devices: Vec::new(),
        device_rules: Vec::new(),
        privileged: false,
        mount_label: run.selinux.mount.clone(),
        seccomp: Some(seccomp::default_filter(surroundings)),
        masked_paths: None,
        masked_on_node: node.host.masked.clone(),
        readonly_paths: None,
        annotations: crate::bundle::infra_annotations(&run.id),
    }))
}

/// Name of the root in the bundle, empty at first: the runtime makes the mount points in it.
const ROOT: &str = "root";
/// Name of the directory that takes what is written to a pause image's root.
const CHANGES: &str = "root-changes";

fn write(dir: &Path, spec: &oci::Spec, map: Option<storage::IdMap>) -> Result<(), Error> {
    let root = dir.join(ROOT);
    std::fs::create_dir_all(&root).map_err(Error::io("create", &root))?;
    if let Some(map) = map {
        let (user, group) = map.root();
        std::os::unix::fs::chown(&root, Some(user), Some(group))
            .map_err(Error::io("give away", &root))?;
        sys::mount::let_through(dir).map_err(Error::io("let users through", dir))?;
    }
    let text = serde_json::to_vec(spec).map_err(|wrong| Error::Internal(wrong.to_string()))?;
    let path = dir.join("config.json");
    // On tmpfs, read by the runtime at once: nothing is synced.
    sys::durable::replace_volatile(&path, &text, 0o600).map_err(Error::io("write", path))
}

/// What the monitor needs to make the process, or to take it over.
pub(crate) fn message(
    pod: &PodId,
    handler: &runtime::Handler,
    bundle: &Path,
) -> Result<Create, Error> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    Ok(Create {
        id: wire_id(pod.as_str())?,
        bundle: text(bundle),
        runtime: text(&handler.config.path),
        runtime_args: handler.global_arguments(),
        create_args: handler.create_arguments(),
        env: monitors::environment(),
        pid_file: text(&bundle.join("pidfile")),
        timeout_ms: u32::try_from(handler.config.create_timeout.as_millis()).unwrap_or(u32::MAX),
        auto_delete: true,
        ..Create::default()
    })
}

/// Ends a pod's process.
pub(crate) fn undo<'a>(node: &'a Node, subject: &'a Subject) -> Doing<'a> {
    Box::pin(end(node, &subject.pod, &subject.cgroup_parent))
}

/// Ends a pod's process and removes what is left of it; fine if there is none. Its exit record goes with
/// the monitor, which may be about to write it.
pub(crate) async fn end(node: &Node, pod: &PodId, cgroup_parent: &str) -> Result<(), Error> {
    if let Some(monitor) = node.live(pod).monitor_now() {
        let id = wire_id(pod.as_str())?;
        // One that the monitor never had is fine; what it can't delete, the cgroup's end does.
        monitor.delete(&id, true).await.ok();
        monitor.forget(&id).await.ok();
    }
    let keeper = &node.options.keeper;
    cgroups::remove(node, keeper.container(cgroup_parent, pod.as_str())).await?;
    let root = node.dirs(pod.as_str()).await?;
    let root = root.map(|dirs| dirs.bundle.join(ROOT));
    let remove = move || {
        if let Some(root) = root {
            while sys::mount::is_mount_point(&root).map_err(Error::io("stat", &root))? {
                sys::mount::unmount_lazily(&root).map_err(Error::io("unmount", &root))?;
            }
        }
        Ok(())
    };
    blocking(&node.pools.mounts, remove).await
}
