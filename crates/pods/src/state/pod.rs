//! A pod sandbox's states: it is ready, and then it is not.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::request::PodResources;
use crate::state::container::Init;
use crate::{PodId, PodRequest};

/// A pod sandbox as it is. Immutable: a change makes a new value in the snapshot.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its id.
    pub id: PodId,
    /// What was asked for.
    pub request: Arc<PodRequest>,
    /// What came out of it.
    pub made: Arc<Made>,
    /// What it may use, as last told.
    pub resources: Arc<PodResources>,
    /// When it was created.
    pub created: SystemTime,
    /// Whether its namespaces and network are there.
    pub ready: bool,
    /// The handler that it was run with, also if that is not configured any more; none where an
    /// older daemon ran the pod and kept no more than its name.
    pub handler: Option<Arc<runtime::Handler>>,
}

/// What running a pod settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Host name in force.
    pub hostname: String,
    /// Directory of logs, absolute.
    pub log_directory: PathBuf,
    /// Parent of its containers' cgroups.
    pub cgroup_parent: String,
    /// Name of the handler in force.
    pub handler: String,
    /// That handler's configuration; none in the records of older daemons.
    #[serde(default)]
    pub handler_config: Option<runtime::Config>,
    /// Addresses, the primary one first; none in the host's network.
    pub ips: Vec<IpAddr>,
    /// Pinned network namespace; none in the host's network.
    pub netns: Option<PathBuf>,
    /// Pinned IPC namespace; none where it is the host's.
    pub ipcns: Option<PathBuf>,
    /// Pinned UTS namespace; none where it is the host's.
    pub utsns: Option<PathBuf>,
    /// Pinned user namespace; none where it is the host's.
    #[serde(default)]
    pub userns: Option<PathBuf>,
    /// The network plugins' result, as JSON; empty in the host's network.
    pub cni_result: String,
    /// Where its files are: resolv.conf, hostname, shm.
    pub files: PathBuf,
    /// The process that holds a shared process namespace, where there is one.
    #[serde(default)]
    pub infra: Option<Init>,
    /// SELinux labels.
    #[serde(default)]
    pub selinux: spec::selinux::Labels,
}
