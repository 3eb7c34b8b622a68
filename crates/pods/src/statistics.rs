//! What pods and containers use, on demand or from the last collection.
//!
//! Asked for, cgroups are read then and there, on a pool of its own; with a collection period a
//! task reads them in that rhythm and answers come from what it read last. Writable layers are
//! walked in the background either way ([`layers`]).

mod layers;
mod metrics;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use futures_util::future::{join, join_all};
use stats::cgroup::Reader;
use stats::disk::Cache;
use stats::figures::{At, DiskUsage, Usage};
use stats::metrics::Selection;
use stats::network::Interfaces;
use stats::rate::Rates;
use sys::pool::Pool;
use tokio::time::{Interval, MissedTickBehavior};

use crate::node::{Node, blocking};
use crate::state::container::Phase;
use crate::{Container, Error, Pod, Snapshot};

pub use metrics::{ContainerMetrics, PodMetrics};

/// Threads that read cgroups.
const THREADS: usize = 2;
/// Least that a thread is woken for: some milliseconds' work.
const PART: usize = 32;

/// What is collected, and when.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Time between collections of statistics; zero: on demand.
    pub period: Duration,
    /// Time between collections of metrics; zero: on demand.
    pub metrics_period: Duration,
    /// Metrics that are on.
    pub selection: Selection,
}

/// What a container uses.
#[derive(Debug, Clone)]
pub struct ContainerUsage {
    /// The container.
    pub container: Arc<Container>,
    /// When its cgroup was read.
    pub at: SystemTime,
    /// What its cgroup tells.
    pub usage: Usage,
    /// Nanoseconds of processor time per second, since the sample before.
    pub nano_cores: u64,
    /// What its writable layer takes, and when that was so.
    pub layer: Option<At<DiskUsage>>,
}

/// What a pod uses.
#[derive(Debug, Clone)]
pub struct PodUsage {
    /// The pod.
    pub pod: Arc<Pod>,
    /// When its cgroup was read.
    pub at: SystemTime,
    /// What its cgroup tells; the sum of its containers where it has none of its own.
    pub usage: Usage,
    /// Nanoseconds of processor time per second, since the sample before.
    pub nano_cores: u64,
    /// Its network interfaces; none in the host's network.
    pub interfaces: Interfaces,
    /// How many processes it has.
    pub processes: u64,
    /// Its containers that have not ended.
    pub containers: Vec<ContainerUsage>,
}

/// What is kept between readings.
#[derive(Debug)]
pub(crate) struct Statistics {
    options: Options,
    reader: Reader,
    rates: Rates,
    layers: Cache,
    /// Reads cgroups.
    pool: Pool,
    /// Walks layers, one at a time.
    walker: Pool,
    /// Containers that ended for lack of memory.
    oom_kills: AtomicU64,
    collected: ArcSwapOption<Vec<PodUsage>>,
    collected_metrics: ArcSwapOption<Vec<PodMetrics>>,
}

impl Statistics {
    pub(crate) fn new(options: Options) -> Result<Self, Error> {
        let mountinfo = "/proc/self/mountinfo";
        Ok(Self {
            options,
            reader: Reader::new().map_err(Error::io("read", mountinfo))?,
            rates: Rates::default(),
            layers: Cache::default(),
            pool: Pool::new("statistics", THREADS),
            walker: Pool::new("layers", 1),
            oom_kills: AtomicU64::new(0),
            collected: ArcSwapOption::empty(),
            collected_metrics: ArcSwapOption::empty(),
        })
    }

    /// The metrics that are on.
    pub(crate) fn selection(&self) -> &Selection {
        &self.options.selection
    }

    /// A container has ended for lack of memory.
    pub(crate) fn oom_killed(&self) {
        self.oom_kills.fetch_add(1, Ordering::Relaxed);
    }

    /// How many have, since the start.
    pub(crate) fn oom_kills(&self) -> u64 {
        self.oom_kills.load(Ordering::Relaxed)
    }

    /// Memory that a container uses now.
    pub(crate) fn memory_usage(&self, container: &Container) -> Option<u64> {
        self.reader.memory_usage(&container.made.cgroup)
    }

    /// Numbers of a container's processes.
    pub(crate) fn processes(&self, container: &Container) -> Vec<i32> {
        self.reader.processes(&container.made.cgroup)
    }

    fn read_container(&self, container: Arc<Container>) -> ContainerUsage {
        let usage = if alive(&container) {
            self.reader.usage(&container.made.cgroup)
        } else {
            Usage::default()
        };
        let id = container.id.as_str();
        ContainerUsage {
            at: SystemTime::now(),
            nano_cores: self.rate(id, &usage),
            usage,
            layer: self.layers.get(id),
            container,
        }
    }

    fn read_pod(
        &self,
        pod: Arc<Pod>,
        containers: &[Arc<Container>],
        interfaces: Interfaces,
    ) -> PodUsage {
        let containers: Vec<_> = containers
            .iter()
            .map(|container| self.read_container(Arc::clone(container)))
            .collect();
        let (usage, processes) = match own_cgroup(&pod) {
            Some(cgroup) => (
                self.reader.usage(&cgroup),
                self.reader.processes(&cgroup).len(),
            ),
            None => (
                containers
                    .iter()
                    .fold(Usage::default(), |sum, one| sum.plus(&one.usage)),
                containers
                    .iter()
                    .map(|one| self.reader.processes(&one.container.made.cgroup).len())
                    .sum(),
            ),
        };
        PodUsage {
            at: SystemTime::now(),
            nano_cores: self.rate(pod.id.as_str(), &usage),
            pod,
            usage,
            interfaces,
            processes: u64::try_from(processes).unwrap_or(0),
            containers,
        }
    }

    fn rate(&self, id: &str, usage: &Usage) -> u64 {
        let cpu = usage.cpu.as_ref();
        cpu.map_or(0, |cpu| self.rates.of(id, Instant::now(), cpu.total))
    }

    fn forget_what_is_gone(&self, snapshot: &Snapshot) {
        let containers = snapshot.containers.keys().map(crate::ContainerId::as_str);
        let pods = snapshot.pods.keys().map(crate::PodId::as_str);
        let there: HashSet<_> = containers.chain(pods).collect();
        self.layers.retain(|id| there.contains(id));
        self.rates.retain(|id| there.contains(id));
    }
}

/// What those of `chosen` use.
pub(crate) async fn containers(
    node: &Arc<Node>,
    chosen: impl Fn(&Container) -> bool,
) -> Vec<ContainerUsage> {
    let snapshot = node.table.load();
    if let Some(collected) = node.statistics.collected.load_full() {
        let containers = collected.iter().flat_map(|pod| &pod.containers);
        let there = containers
            .filter(|usage| snapshot.containers.contains_key(&usage.container.id))
            .filter(|usage| chosen(&usage.container));
        return there.cloned().collect();
    }
    let list = snapshot.containers.values();
    let list: Vec<_> = list
        .filter(|container| alive(container) && chosen(container))
        .cloned()
        .collect();
    read_containers(node, list).await
}

/// What one container uses, ended or not.
pub(crate) async fn container(
    node: &Arc<Node>,
    container: Arc<Container>,
) -> Option<ContainerUsage> {
    let id = container.id.clone();
    let collected = containers(node, |other| other.id == id).await;
    match collected.into_iter().next() {
        Some(usage) => Some(usage),
        None => read_containers(node, vec![container]).await.pop(),
    }
}

async fn read_containers(node: &Arc<Node>, list: Vec<Arc<Container>>) -> Vec<ContainerUsage> {
    layers::refresh(node, &list).await;
    shared_out(node, list, Statistics::read_container).await
}

/// What those of `chosen` use.
pub(crate) async fn pods(node: &Arc<Node>, chosen: impl Fn(&Pod) -> bool) -> Vec<PodUsage> {
    let snapshot = node.table.load();
    if let Some(collected) = node.statistics.collected.load_full() {
        let there = collected
            .iter()
            .filter(|usage| snapshot.pods.contains_key(&usage.pod.id))
            .filter(|usage| chosen(&usage.pod));
        return there.cloned().collect();
    }
    read_pods(node, &snapshot, chosen).await
}

async fn read_pods(
    node: &Arc<Node>,
    snapshot: &Snapshot,
    chosen: impl Fn(&Pod) -> bool,
) -> Vec<PodUsage> {
    let list = living(snapshot, chosen);
    let containers = list.iter().flat_map(|(_, containers)| containers);
    let containers: Vec<_> = containers.cloned().collect();
    let networks = networks(node, &list);
    let (interfaces, ()) = join(networks, layers::refresh(node, &containers)).await;
    let each = list.into_iter().zip(interfaces).collect();
    shared_out(node, each, |statistics, ((pod, containers), interfaces)| {
        statistics.read_pod(pod, &containers, interfaces)
    })
    .await
}

/// Has the pool's threads read a part each, and puts the parts together.
async fn shared_out<T: Send + 'static, U: Send + 'static>(
    node: &Arc<Node>,
    mut list: Vec<T>,
    read: fn(&Statistics, T) -> U,
) -> Vec<U> {
    node.statistics.forget_what_is_gone(&node.table.load());
    let size = list.len().div_ceil(THREADS).max(PART);
    let mut parts = Vec::new();
    while !list.is_empty() {
        let rest = list.split_off(list.len().min(size));
        let part = std::mem::replace(&mut list, rest);
        let statistics = Arc::clone(&node.statistics);
        let work = move || -> Vec<U> {
            let each = part.into_iter();
            each.map(|one| read(&statistics, one)).collect()
        };
        parts.push(node.statistics.pool.run(work));
    }
    join_all(parts).await.into_iter().flatten().collect()
}

/// Pods and those of their containers that have not ended. A pod that was stopped has nothing
/// left to tell of.
fn living(
    snapshot: &Snapshot,
    chosen: impl Fn(&Pod) -> bool,
) -> Vec<(Arc<Pod>, Vec<Arc<Container>>)> {
    let mut list: Vec<_> = snapshot
        .pods
        .values()
        .filter(|pod| pod.ready && chosen(pod))
        .map(|pod| (Arc::clone(pod), Vec::new()))
        .collect();
    for container in snapshot.containers.values().filter(|one| alive(one)) {
        // The list has the order of the ids.
        let at = list.binary_search_by(|(pod, _)| pod.id.cmp(&container.pod));
        if let Some((_, containers)) = at.ok().and_then(|at| list.get_mut(at)) {
            containers.push(Arc::clone(container));
        }
    }
    list
}

/// The interfaces of pods, in their order.
async fn networks(node: &Arc<Node>, list: &[(Arc<Pod>, Vec<Arc<Container>>)]) -> Vec<Interfaces> {
    let pins: Vec<_> = list.iter().map(|(pod, _)| pod.made.netns.clone()).collect();
    let read = move || {
        let mut read = stats::network::interfaces(pins.iter().flatten().cloned().collect());
        let mut read = read.drain(..);
        let each = pins.iter().map(|pin| match pin {
            Some(_) => read.next().flatten(),
            None => None,
        });
        each.collect()
    };
    blocking(&node.statistics.pool, read).await
}

/// The cgroup that is the pod's alone: the kubelet makes one for each and names it. Pods that
/// name none share a parent.
fn own_cgroup(pod: &Pod) -> Option<String> {
    let named = !pod.request.cgroup_parent.is_empty();
    named.then(|| crate::cgroups::of_pod(&pod.made.cgroup_parent))
}

fn alive(container: &Container) -> bool {
    !matches!(container.phase, Phase::Exited { .. })
}

/// Starts the collections that have a period.
pub(crate) fn collect(node: &Arc<Node>) {
    let options = &node.statistics.options;
    if !options.period.is_zero() {
        let (node, period) = (Arc::clone(node), options.period);
        // Ends with the daemon.
        tokio::spawn(async move {
            let mut tick = ticks(period);
            loop {
                tick.tick().await;
                let read = read_pods(&node, &node.table.load(), |_| true).await;
                node.statistics.collected.store(Some(Arc::new(read)));
            }
        });
    }
    if !options.metrics_period.is_zero() {
        let (node, period) = (Arc::clone(node), options.metrics_period);
        tokio::spawn(async move {
            let mut tick = ticks(period);
            loop {
                tick.tick().await;
                let read = metrics::read(&node).await;
                let read = Some(Arc::new(read));
                node.statistics.collected_metrics.store(read);
            }
        });
    }
}

/// A collection that takes longer than its period is not made up for.
fn ticks(period: Duration) -> Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// What all writable layers take together, as far as they were walked yet.
pub(crate) async fn layers(node: &Arc<Node>) -> DiskUsage {
    let containers: Vec<_> = node.table.load().containers.values().cloned().collect();
    layers::refresh(node, &containers).await;
    node.statistics.layers.sum()
}

/// The metrics of all pods.
pub(crate) async fn metrics(node: &Arc<Node>) -> Vec<PodMetrics> {
    match node.statistics.collected_metrics.load_full() {
        Some(collected) => {
            let snapshot = node.table.load();
            let there = collected
                .iter()
                .filter(|pod| snapshot.pods.contains_key(&pod.pod.id));
            there.cloned().collect()
        }
        None => metrics::read(node).await,
    }
}
