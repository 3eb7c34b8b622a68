//! What all operations share: the rooms below, the state, and what may block where.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use sys::pool::Pool;

use crate::apparmor::AppArmor;
use crate::cgroups::Keeper;
use crate::monitors::Live;
use crate::oci_hooks::OciHooks;
use crate::operations::Operations;
use crate::operations::owed::Owed;
use crate::pulls::PullParent;
use crate::records::Dirs;
use crate::request::Device;
use crate::selinux::SeLinux;
use crate::snapshot::Table;
use crate::statistics::{self, Statistics};
use crate::{Error, PodId, PodRequest};

/// An image whose command holds a pod's processes.
#[derive(Debug, Clone)]
pub struct PauseImage {
    /// Its reference (`pause_image`).
    pub reference: String,
    /// The command (`pause_command`).
    pub command: String,
    /// Credentials for its pull (`pause_image_auth_file`).
    pub auth_file: Option<PathBuf>,
}

/// How pods and containers are made on this node.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory on tmpfs for what a reboot may discard, `/run/crio` as a rule.
    pub run_dir: PathBuf,
    /// Directory of exit records.
    pub exits_dir: PathBuf,
    /// Directory of namespace pins.
    pub namespaces_dir: PathBuf,
    /// Log directory of pods that name none.
    pub log_dir: PathBuf,
    /// The `pinns` program.
    pub pinns: PathBuf,
    /// The monitor program.
    pub monitor: PathBuf,
    /// The pause program, where it is there.
    pub pause: Option<PathBuf>,
    /// The program that decodes variables in a container, where it is there.
    pub decode_env: Option<PathBuf>,
    /// Who keeps the cgroups, and where.
    pub keeper: Keeper,
    /// Beneath what image pulls get cgroups, with a process each; `None`: this process pulls.
    pub pull_parent: Option<PullParent>,
    /// Names of capabilities that containers have by default.
    pub default_capabilities: Vec<String>,
    /// Whether capabilities are inheritable too.
    pub inheritable_capabilities: bool,
    /// Environment of all containers, `NAME=value`.
    pub default_env: Vec<String>,
    /// Sysctls of all pods.
    pub default_sysctls: BTreeMap<String, String>,
    /// Resource limits of all containers.
    pub ulimits: Vec<spec::oci::Rlimit>,
    /// Most processes of a container; 0 for no limit.
    pub pids_limit: i64,
    /// Size at which a log starts again, in bytes; 0 for none.
    pub log_size_max: u64,
    /// Whether what containers write goes to systemd's journal, too.
    pub log_to_journald: bool,
    /// Whether roots are read-only with writable temporary directories.
    pub read_only: bool,
    /// `mounts.conf`, mounts of all containers; empty for the usual places.
    pub default_mounts_file: PathBuf,
    /// Missing bind mount sources that are an error and not created.
    pub absent_sources_rejected: Vec<PathBuf>,
    /// Whether requested devices belong to the user and group that the request names
    /// (`device_ownership_from_security_context`).
    pub device_ownership: bool,
    /// Devices of all containers; a request's goes before the one at its place.
    pub additional_devices: Vec<Device>,
    /// Put before bind mount sources, for a daemon in a container.
    pub bind_mount_prefix: PathBuf,
    /// Time between stop signal and SIGKILL where the caller gives none.
    pub stop_timeout: Duration,
    /// Statistics and metrics.
    pub statistics: statistics::Options,
    /// Whether ports of the node lead to pods by rules of ours.
    pub host_ports: bool,
    /// Whether containers may be checkpointed and restored (`enable_criu_support`).
    pub checkpoints: bool,
    /// What is done for the volumes that an image declares.
    pub image_volumes: ImageVolumes,
    /// Whether image mounts show artifacts too (`oci_artifact_mount_support`).
    pub artifact_mounts: bool,
    /// File of the time zone that containers have; that of their image if `None`.
    pub timezone: Option<PathBuf>,
}

/// Options that may change while the daemon runs; what is there already keeps what it has.
#[derive(Debug, Clone)]
pub struct Changing {
    /// The image whose command holds a pod's processes in place of the pause program, where somebody
    /// configured one.
    pub pause_image: Option<PauseImage>,
    /// Default seccomp profile in place of the built-in one.
    pub seccomp_profile: Option<PathBuf>,
    /// Seccomp profile of privileged containers.
    pub privileged_seccomp_profile: Option<PathBuf>,
    /// Directories of CDI spec files; a later one goes before an earlier.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// AppArmor on this node.
    pub apparmor: AppArmor,
}

/// What is done for the volumes that an image declares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ImageVolumes {
    /// A directory of the container's user is made where there is none.
    #[default]
    Mkdir,
    /// An empty directory outside of the container's layer is mounted there.
    Bind,
    /// Nothing.
    Ignore,
}

/// Pools of blocking work, so that a hung volume exhausts its own only.
#[derive(Debug)]
pub(crate) struct Pools {
    /// The store's tables, layers and overlay mounts.
    pub(crate) storage: Pool,
    /// Other mounts, pins and what is read in containers' roots.
    pub(crate) mounts: Pool,
    /// Records and logs.
    pub(crate) files: Pool,
    /// Programs that are run to their end: plugins and pinns.
    pub(crate) helpers: Pool,
}

impl Default for Pools {
    fn default() -> Self {
        Self {
            storage: Pool::new("storage", 8),
            mounts: Pool::new("mounts", 8),
            files: Pool::new("files", 4),
            helpers: Pool::new("helpers", 16),
        }
    }
}

/// The rooms below.
#[derive(Debug)]
pub struct Rooms {
    /// Images, layers and writable layers.
    pub store: storage::Store,
    /// Images by name.
    pub images: Arc<image::Images>,
    /// Pod networks.
    pub network: network::Network,
    /// Ports of the node that lead to pods.
    pub host_ports: network::HostPorts,
    /// Runtime handlers.
    pub handlers: runtime::Handlers,
    /// SELinux on this node.
    pub selinux: SeLinux,
    /// Hooks of the node's hook files.
    pub hooks: OciHooks,
}

/// What all operations share.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) options: Options,
    pub(crate) changing: ArcSwap<Changing>,
    pub(crate) store: storage::Store,
    pub(crate) images: Arc<image::Images>,
    pub(crate) network: Arc<network::Network>,
    pub(crate) host_ports: Arc<network::HostPorts>,
    pub(crate) handlers: runtime::Handlers,
    pub(crate) selinux: SeLinux,
    pub(crate) hooks: OciHooks,
    pub(crate) host: crate::host::Host,
    pub(crate) pools: Pools,
    pub(crate) table: Table,
    pub(crate) operations: Arc<Operations>,
    /// What is left of operations that could not be undone.
    pub(crate) owed: Owed,
    pub(crate) statistics: Arc<Statistics>,
    /// Whether user namespaces are possible here, once it was asked.
    pub(crate) user_namespaces: tokio::sync::OnceCell<()>,
    live: Mutex<HashMap<PodId, Arc<Live>>>,
}

impl Node {
    pub(crate) fn new(options: Options, changing: Changing, rooms: Rooms) -> Result<Self, Error> {
        let statistics = Statistics::new(options.statistics.clone())?;
        Ok(Self {
            options,
            changing: ArcSwap::from_pointee(changing),
            statistics: Arc::new(statistics),
            store: rooms.store,
            images: rooms.images,
            network: Arc::new(rooms.network),
            host_ports: Arc::new(rooms.host_ports),
            handlers: rooms.handlers,
            selinux: rooms.selinux,
            hooks: rooms.hooks,
            host: crate::host::Host::look()?,
            pools: Pools::default(),
            table: Table::new(crate::Snapshot::default()),
            operations: Arc::default(),
            owed: Owed::default(),
            user_namespaces: tokio::sync::OnceCell::new(),
            live: Mutex::default(),
        })
    }

    /// Directory of intents.
    pub(crate) fn intents(&self) -> PathBuf {
        self.options.run_dir.join("operations")
    }

    /// What is alive of a pod.
    pub(crate) fn live(&self, id: &PodId) -> Arc<Live> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(live.entry(id.clone()).or_default())
    }

    /// Pods of which something is alive.
    pub(crate) fn alive(&self) -> Vec<Arc<Live>> {
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Forgets what was alive of a pod.
    pub(crate) fn forget(&self, id: &PodId) {
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
    }

    /// Directories of a pod's or container's record; `None` when there is no record.
    pub(crate) async fn dirs(&self, id: &str) -> Result<Option<Dirs>, Error> {
        let (store, id) = (self.store.clone(), record_id(id)?);
        match blocking(&self.pools.storage, move || store.container(&id)).await {
            Ok(record) => Ok(Some(Dirs {
                persistent: record.dir.clone(),
                bundle: record.run_dir.clone(),
            })),
            Err(storage::Error::ContainerUnknown(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the store's record of a pod or container with its layer and directories.
    pub(crate) async fn delete_record(&self, id: &str) -> Result<(), Error> {
        let (store, id) = (self.store.clone(), record_id(id)?);
        Ok(blocking(&self.pools.storage, move || store.delete_container(&id)).await?)
    }

    /// A pod's log directory: the one it names, else one of its own beneath the default.
    pub(crate) fn log_directory(&self, request: &PodRequest) -> Result<PathBuf, Error> {
        if request.log_directory.is_empty() {
            return Ok(self.options.log_dir.join(request.key.record_name()));
        }
        let dir = PathBuf::from(&request.log_directory);
        if dir.is_absolute() {
            Ok(dir)
        } else {
            Err(Error::Invalid(format!(
                "log directory {dir:?} is not absolute"
            )))
        }
    }
}

/// The store's form of an id.
pub(crate) fn record_id(id: &str) -> Result<storage::ContainerId, Error> {
    Ok(id.parse::<storage::ContainerId>()?)
}

/// Runs blocking work on a pool and waits for it.
pub(crate) async fn blocking<T: Send + 'static>(
    pool: &Pool,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    pool.run(work).await
}
