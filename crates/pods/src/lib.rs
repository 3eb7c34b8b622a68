//! The heart: pods and containers, their states, what changes them, and how they are found again.
//!
//! Everything that decides is here, and nothing that touches the kernel directly: that is in the
//! rooms below. Owns `request.json` and `state.json` of each record, the intents on tmpfs and the
//! snapshot that lists read. Knows nothing of gRPC, HTTP or TOML.
//!
//! Invariants: an intent is on tmpfs before a stage acts; a record is on disk before it is seen;
//! an exit is on disk before it is seen; nothing is deleted because nobody asked again.

mod accounts;
pub mod apparmor;
mod bundle;
mod cdi;
pub mod cgroups;
mod checkpoint;
mod default_mounts;
mod devices;
mod error;
mod events;
mod exits;
mod files;
mod handlers;
mod host;
mod id_mapped;
mod ids;
mod image_volumes;
mod infra;
mod linked_logs;
mod monitors;
mod namespaces;
mod networking;
mod node;
mod node_files;
mod oci_hooks;
mod operations;
mod own_volumes;
mod predecessor;
mod pulls;
mod records;
pub mod request;
mod restore;
mod rootfs;
mod seccomp_artifact;
pub mod seccomp_notifier;
pub mod selinux;
mod session;
mod snapshot;
mod stages;
pub mod state;
pub mod statistics;
mod timezone;
mod user_namespaces;

pub use bundle::timestamp;
pub use devices::check_devices;
pub use error::Error;
pub use events::{Event, Happened};
pub use ids::{ContainerId, PodId};
pub use node::{Changing, ImageVolumes, Options, PauseImage, Rooms};
pub use oci_hooks::OciHooks;
pub use operations::Running as RunningOperation;
pub use operations::exec_sync::Executed;
pub use pulls::PullParent;
pub use request::{ContainerRequest, PodRequest};
pub use restore::pod_of_record;
pub use session::{Session, Streams, Terminal};
pub use snapshot::Snapshot;
pub use state::container::Container;
pub use state::pod::Pod;

use std::sync::Arc;
use std::time::Duration;

use node::{Node, blocking};

/// A failure, shared by all callers that joined the operation.
pub type Failure = Arc<Error>;

/// The pods and containers of this node. Clones share them.
#[derive(Debug, Clone)]
pub struct Pods(Arc<Node>);

impl Pods {
    /// Reads the records, so that lists answer, and starts the repairs; operations wait for those.
    ///
    /// # Errors
    /// Records or directories that can't be read at all.
    pub async fn start(options: Options, changing: Changing, rooms: Rooms) -> Result<Self, Error> {
        let node = Arc::new(Node::new(options, changing, rooms)?);
        let reader = Arc::clone(&node);
        let leftovers = blocking(&node.pools.files, move || restore::read(&reader)).await?;
        let repairer = Arc::clone(&node);
        tokio::spawn(async move {
            leftovers.repair(&repairer).await;
            repairer.operations.open();
            operations::owed::settle(repairer).await;
        });
        statistics::collect(&node);
        Ok(Self(node))
    }

    /// Goes on with other options and handlers. Returns the names of handlers that are gone from
    /// the configuration, and that pods use: those keep them, new ones don't get them.
    #[must_use]
    pub fn change(&self, changing: Changing, handlers: runtime::Handlers) -> Vec<String> {
        let pods = self.0.table.load();
        let is_used = |name: &String| pods.pods.values().any(|pod| pod.made.handler == *name);
        let mut gone = self.0.handlers.replace(handlers);
        gone.retain(is_used);
        self.0.changing.store(Arc::new(changing));
        gone
    }

    /// Runs a pod sandbox and returns its id. The repeat of a request returns the same.
    ///
    /// # Errors
    /// As [`Error`] says; nothing of the pod is left then.
    pub async fn run_pod(&self, request: PodRequest) -> Result<String, Failure> {
        operations::run_pod::run(&self.0, request).await
    }

    /// Stops a pod sandbox; fine if it is stopped, or not there.
    ///
    /// # Errors
    /// A step that failed; a repeat goes on from there.
    pub async fn stop_pod(&self, id: &str) -> Result<(), Failure> {
        operations::stop_pod::run(&self.0, id).await.map(drop)
    }

    /// Removes a pod sandbox with its containers; fine if it is not there.
    ///
    /// # Errors
    /// A step that failed; a repeat goes on from there.
    pub async fn remove_pod(&self, id: &str) -> Result<(), Failure> {
        operations::remove_pod::run(&self.0, id).await.map(drop)
    }

    /// Creates a container and returns its id. The repeat of a request returns the same.
    ///
    /// # Errors
    /// As [`Error`] says; nothing of the container is left then.
    pub async fn create_container(
        &self,
        pod: &str,
        request: ContainerRequest,
    ) -> Result<String, Failure> {
        operations::create_container::run(&self.0, pod, request).await
    }

    /// Starts a container that is created; fine if it runs.
    ///
    /// # Errors
    /// [`Error::WrongState`]; [`Error::Runtime`], after which the container has exited.
    pub async fn start_container(&self, id: &str) -> Result<(), Failure> {
        operations::start_container::run(&self.0, id)
            .await
            .map(drop)
    }

    /// Stops a container: its stop signal, and SIGKILL after `timeout`; fine if it is not running.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when not even SIGKILL ends it.
    pub async fn stop_container(&self, id: &str, timeout: Duration) -> Result<(), Failure> {
        operations::stop_container::run(&self.0, id, timeout)
            .await
            .map(drop)
    }

    /// Removes a container, by force if it runs; fine if it is not there.
    ///
    /// # Errors
    /// A step that failed; a repeat goes on from there.
    pub async fn remove_container(&self, id: &str) -> Result<(), Failure> {
        operations::remove_container::run(&self.0, id)
            .await
            .map(drop)
    }

    /// Runs a command in a container and waits for its end; `timeout` zero is none.
    ///
    /// # Errors
    /// [`Error::TimedOut`], after which the command is killed; [`Error::WrongState`].
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<Executed, Failure> {
        operations::exec_sync::run(&self.0, id, command, timeout).await
    }

    /// Starts a command in a running container, for a client.
    ///
    /// # Errors
    /// [`Error::WrongState`]; [`Error::Runtime`] with the runtime's words.
    pub async fn exec(
        &self,
        id: &str,
        command: Vec<String>,
        streams: Streams,
        tty: bool,
    ) -> Result<Session, Failure> {
        session::exec(&self.0, id, command, streams, tty).await
    }

    /// Attaches a client to a container's first process.
    ///
    /// # Errors
    /// [`Error::WrongState`] once it has exited.
    pub async fn attach(&self, id: &str, streams: Streams) -> Result<Session, Failure> {
        session::attach(&self.0, id, streams).await
    }

    /// Connects to a port of a pod's loopback.
    ///
    /// # Errors
    /// [`Error::WrongState`] unless it is ready; [`Error::Io`] where nobody listens.
    pub async fn connect(&self, pod: &str, port: u16) -> Result<tokio::net::TcpStream, Error> {
        session::connect(&self.0, pod, port).await
    }

    /// Has a container's log opened again after a rotation; returns when the new file is there.
    ///
    /// # Errors
    /// [`Error::WrongState`] unless it runs.
    pub async fn reopen_log(&self, id: &str) -> Result<(), Failure> {
        let container = self.snapshot().container(id)?;
        if !matches!(container.phase, state::container::Phase::Running { .. }) {
            return Err(Arc::new(Error::WrongState(format!(
                "container {} is not running",
                container.id
            ))));
        }
        let monitor = self.0.live(&container.pod).monitor().await?;
        let reopened = monitor
            .reopen_log(&monitors::wire_id(container.id.as_str())?)
            .await;
        reopened.map_err(|error| {
            Arc::new(operations::create_container::runtime_error(
                "log not reopened",
                error,
            ))
        })
    }

    /// Changes a container's limits: those that `update` sets; zero and empty leave what is.
    ///
    /// # Errors
    /// [`Error::WrongState`] where it has ended, or uses more memory than it may then have.
    pub async fn update_container(
        &self,
        id: &str,
        update: spec::resources::Request,
    ) -> Result<(), Failure> {
        operations::update_container::run(&self.0, id, update)
            .await
            .map(drop)
    }

    /// Writes a checkpoint of a running container, which runs on, to the file `location`.
    ///
    /// # Errors
    /// [`Error::WrongState`] where it does not run, or checkpoints are off or have no criu;
    /// [`Error::TimedOut`]; [`Error::Runtime`] with criu's words. Nothing is left of it then.
    pub async fn checkpoint_container(
        &self,
        id: &str,
        location: std::path::PathBuf,
        timeout: Option<Duration>,
    ) -> Result<(), Failure> {
        operations::checkpoint_container::run(&self.0, id, location, timeout)
            .await
            .map(drop)
    }

    /// Takes note of what a pod may use.
    ///
    /// # Errors
    /// [`Error::NotFound`]; the record can't be written.
    pub async fn update_pod(&self, id: &str, update: request::PodResources) -> Result<(), Failure> {
        operations::update_pod::run(&self.0, id, update)
            .await
            .map(drop)
    }

    /// What the containers that have not ended use, of those that `chosen` picks.
    pub async fn container_usage(
        &self,
        chosen: impl Fn(&Container) -> bool,
    ) -> Vec<statistics::ContainerUsage> {
        statistics::containers(&self.0, chosen).await
    }

    /// What one container uses; of one that has ended, its writable layer.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`].
    pub async fn usage_of_container(&self, id: &str) -> Result<statistics::ContainerUsage, Error> {
        let container = self.snapshot().container(id)?;
        let usage = statistics::container(&self.0, container).await;
        usage.ok_or_else(|| Error::NotFound {
            what: "container",
            id: id.to_owned(),
        })
    }

    /// What the pods that are ready use, of those that `chosen` picks.
    pub async fn pod_usage(&self, chosen: impl Fn(&Pod) -> bool) -> Vec<statistics::PodUsage> {
        statistics::pods(&self.0, chosen).await
    }

    /// The metrics that are on.
    #[must_use]
    pub fn metrics_selection(&self) -> &stats::metrics::Selection {
        self.0.statistics.selection()
    }

    /// The metrics of all pods.
    pub async fn metrics(&self) -> Vec<statistics::PodMetrics> {
        statistics::metrics(&self.0).await
    }

    /// How many containers have ended for lack of memory since the daemon's start.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        self.0.statistics.oom_kills()
    }

    /// Events for which a subscriber's queue had no room, since the daemon's start.
    #[must_use]
    pub fn dropped_events(&self) -> u64 {
        self.0.table.dropped_events()
    }

    /// How often a pod or container was asked for again while it was being made, by the stage that
    /// its making was at, since the daemon's start.
    #[must_use]
    pub fn stalled(&self) -> std::collections::BTreeMap<String, u64> {
        let mut by_stage = std::collections::BTreeMap::new();
        for ((kind, stage), count) in self.0.operations.joined() {
            if let Some(stage) = stages::of(kind, stage) {
                *by_stage.entry(stage).or_default() += count;
            }
        }
        by_stage
    }

    /// How often the monitor of containers that are there was lost, since the daemon's start.
    #[must_use]
    pub fn monitor_losses(&self) -> Vec<(Arc<Container>, u64)> {
        let snapshot = self.snapshot();
        let losses = self.0.alive();
        let losses = losses.iter().flat_map(|live| live.losses());
        losses
            .filter_map(|(id, count)| Some((snapshot.container(id.as_str()).ok()?, count)))
            .collect()
    }

    /// How often the containers that are there and have a seccomp notifier made forbidden calls, by the
    /// call's name.
    #[must_use]
    pub fn forbidden_syscalls(
        &self,
    ) -> Vec<(Arc<Container>, std::collections::BTreeMap<String, u64>)> {
        let snapshot = self.snapshot();
        let totals = self.0.alive();
        let totals = totals.iter().flat_map(|live| live.notifiers.totals());
        totals
            .filter_map(|(id, counts)| Some((snapshot.container(id.as_str()).ok()?, counts)))
            .collect()
    }

    /// The graph root, which the writable layers are on.
    #[must_use]
    pub fn store_root(&self) -> &std::path::Path {
        self.0.store.root()
    }

    /// How the store keeps layers.
    #[must_use]
    pub fn store_driver(&self) -> storage::Driver {
        self.0.store.driver()
    }

    /// What the writable layers take together, as far as they were walked yet.
    pub async fn layers_usage(&self) -> stats::figures::DiskUsage {
        statistics::layers(&self.0).await
    }

    /// All pods and containers, as they are now. Takes no lock and makes no system call.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.0.table.load()
    }

    /// Subscribes to events: first what has happened last to all that is there, then what happens.
    /// The queue ends when its reader is too slow: then something may have been missed.
    #[must_use]
    pub fn events(&self) -> (Vec<Event>, tokio::sync::mpsc::Receiver<Event>) {
        self.0.table.subscribe()
    }

    /// Waits, for a while, until a container of this id is not being made any more: who saw its
    /// cgroup asks before it is there to be told about.
    pub async fn settled(&self, id: &str) {
        const PATIENCE: Duration = Duration::from_secs(10);
        // Then it is asked about again, as one that is not there.
        tokio::time::timeout(PATIENCE, self.0.table.settled(id))
            .await
            .ok();
    }

    /// The operations that run.
    #[must_use]
    pub fn operations(&self) -> Vec<RunningOperation> {
        self.0.operations.list()
    }

    /// Reference of the image whose command holds shared process namespaces; empty where it is a
    /// program of ours.
    #[must_use]
    pub fn pause_image(&self) -> String {
        let changing = self.0.changing.load();
        let image = changing.pause_image.as_ref();
        image.map_or_else(String::new, |image| image.reference.clone())
    }

    /// The cgroup for the process of an image's pull, where pulls have their own. `cgroup_parent` is
    /// that of the pod that the image is for; empty for none.
    ///
    /// # Errors
    /// [`Error::Invalid`]: no pod has such a parent.
    pub fn pull_place(&self, cgroup_parent: &str) -> Result<Option<Arc<dyn image::Place>>, Error> {
        pulls::place(&self.0, cgroup_parent)
    }

    /// Who keeps the cgroups.
    #[must_use]
    pub fn keeper(&self) -> &cgroups::Keeper {
        &self.0.options.keeper
    }

    /// Whether containers may be checkpointed and restored.
    #[must_use]
    pub fn checkpoints(&self) -> bool {
        self.0.options.checkpoints
    }

    /// The runtime handlers.
    #[must_use]
    pub fn handlers(&self) -> &runtime::Handlers {
        &self.0.handlers
    }

    /// Whether pods may have user namespaces of their own, as far as the kernel is asked.
    pub async fn user_namespaces(&self) -> bool {
        user_namespaces::are_possible(&self.0).await
    }

    /// Whether pods can get a network now, and what is missing where they can't.
    ///
    /// # Errors
    /// [`Error::NetworkNotReady`].
    pub async fn network_status(&self) -> Result<(), Error> {
        let network = Arc::clone(&self.0.network);
        let status = blocking(&self.0.pools.helpers, move || network.status()).await;
        status.map_err(|missing| Error::NetworkNotReady(missing.to_string()))
    }

    /// A container's OCI spec, as it was given to the runtime.
    ///
    /// # Errors
    /// [`Error::NotFound`]; the file can't be read.
    pub async fn spec(&self, id: &str) -> Result<serde_json::Value, Error> {
        let Some(dirs) = self.0.dirs(id).await? else {
            return Err(Error::NotFound {
                what: "container",
                id: id.to_owned(),
            });
        };
        let path = dirs.persistent.join("config.json");
        let read = move || {
            let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
            serde_json::from_slice(&text)
                .map_err(|wrong| Error::Internal(format!("{}: {wrong}", path.display())))
        };
        blocking(&self.0.pools.files, read).await
    }

    /// Reaps what the daemon inherited, to be called on SIGCHLD: inits of containers whose monitor
    /// died, and what else lost its parent.
    pub async fn reap(&self) {
        match sys::reap::orphans() {
            Ok(reaped) if reaped.is_empty() => {}
            Ok(reaped) => {
                let reaped: Vec<_> = reaped
                    .into_iter()
                    .map(|(pid, status)| (pid.as_raw_nonzero().get(), status))
                    .collect();
                monitors::orphans_reaped(&self.0, &reaped).await;
            }
            Err(error) => tracing::warn!(%error, "children not looked at"),
        }
    }

    /// Waits until the repairs of the start are done.
    pub async fn repaired(&self) {
        self.0.operations.opened().await;
    }
}

/// Names of all operations' stages, for the test that fails at each of them: operation, stages.
#[must_use]
pub fn stages() -> Vec<(&'static str, Vec<&'static str>)> {
    use operations::{
        checkpoint_container, create_container, remove_container, remove_pod, run_pod, stage,
        stop_container, stop_pod, update_container,
    };
    let names = |undos: Vec<(&'static str, Option<stage::Undo>)>| {
        undos.into_iter().map(|(name, _)| name).collect()
    };
    vec![
        (run_pod::OPERATION, names(stage::undos(run_pod::PLAN))),
        (
            create_container::OPERATION,
            names(stage::undos(create_container::PLAN)),
        ),
        ("start-container", vec!["start"]),
        (
            update_container::OPERATION,
            update_container::STEPS.to_vec(),
        ),
        (stop_container::OPERATION, stop_container::STEPS.to_vec()),
        (
            checkpoint_container::OPERATION,
            names(stage::undos(checkpoint_container::PLAN)),
        ),
        (
            remove_container::OPERATION,
            remove_container::STEPS.to_vec(),
        ),
        (stop_pod::OPERATION, stop_pod::STEPS.to_vec()),
        (remove_pod::OPERATION, remove_pod::STEPS.to_vec()),
    ]
}
