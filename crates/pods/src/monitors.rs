//! Pods' monitors, as the daemon keeps them: started, listened to, replaced when they die.
//!
//! One supervising task per pod turns what a monitor tells into state. When a monitor is lost, a
//! successor adopts the pod's containers; callers that need the monitor wait for it meanwhile.

use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use monitor_client::{
    Adopt, AdoptedDescriptors, AttachTo, Create, Event, Events, Id, Monitor, SpawnOptions,
};
use sys::spawn::Status;

use crate::node::{Node, blocking};
use crate::operations::chain;
use crate::operations::intent::Subject;
use crate::operations::run_pod::Run;
use crate::operations::stage::Doing;
use crate::records::Dirs;
use crate::state::container::{Container, Init, Phase};
use crate::{ContainerId, Error, PodId, cgroups, exits, handlers, infra, seccomp_notifier};

mod announce;
mod live;

pub(crate) use announce::announce;
use announce::give_listeners;
pub(crate) use live::{Kept, Live, lock};

/// How long a monitor may take to be ready.
const READY: Duration = Duration::from_secs(30);
/// Score that keeps the OOM killer away.
const OOM_SCORE: i64 = -1000;
/// How long a process may take to end after SIGKILL before its cgroup is left to a later try.
const ENDING: Duration = Duration::from_secs(10);
/// How many successors in a row may fail before the pod is given up.
const ATTEMPTS: u32 = 5;

/// The monitor's form of an id.
pub(crate) fn wire_id(id: &str) -> Result<Id, Error> {
    Id::try_from(id).map_err(|wrong| Error::Internal(format!("{id}: {wrong}")))
}

/// Directory of a pod's monitor.
pub(crate) fn dir(node: &Node, pod: &PodId) -> PathBuf {
    node.options.run_dir.join("monitors").join(pod.as_str())
}

/// The stage `monitor`.
pub(crate) async fn start(run: &Run) -> Result<(), Error> {
    let live = run.node.live(&run.id);
    let spawned = spawn(&run.node, &run.id).await;
    let (monitor, events) = spawned.inspect_err(|_| drop(live.close()))?;
    live.monitor.send_replace(Some(monitor));
    supervise(&run.node, &run.id, live, events);
    Ok(())
}

async fn spawn(node: &Node, pod: &PodId) -> Result<(Monitor, Events), Error> {
    let options = SpawnOptions {
        program: node.options.monitor.clone(),
        pod: wire_id(pod.as_str())?,
        dir: dir(node, pod),
        exits_dir: node.options.exits_dir.clone(),
        // systemd moves it: it makes no cgroup where others already are.
        cgroup: (!node.options.keeper.is_systemd()).then(|| node.options.keeper.monitor(pod)),
        oom_score_adj: i32::try_from(node.host.oom_score(OOM_SCORE)).unwrap_or(0),
        timeout: READY,
    };
    let (monitor, events) = Monitor::spawn(options, &node.pools.helpers)
        .await
        .map_err(|error| Error::Monitor(chain(&error)))?;
    let adopted = node.options.keeper.adopt_monitor(pod, monitor.pid()).await;
    if let Err(error) = adopted {
        // It would end with the daemon's service.
        monitor.quit().await.ok();
        return Err(error);
    }
    Ok((monitor, events))
}

/// Connects to the monitor of a pod that an earlier daemon started, or starts a successor, and
/// takes what happened meanwhile.
pub(crate) async fn resume(node: &Arc<Node>, pod: &PodId) -> Result<(), Error> {
    let live = node.live(pod);
    for container in node.table.load().containers_of(pod) {
        seccomp_notifier::resume(node, &live, container);
    }
    let events = match take_over(node, pod, &live).await {
        Ok(events) => events,
        Err(error) => {
            tracing::warn!(
                pod = pod.as_str(),
                error = chain(&error),
                "monitor not taken over"
            );
            succeed_at_last(node, pod, &live).await?
        }
    };
    supervise(node, pod, live, events);
    Ok(())
}

async fn take_over(node: &Arc<Node>, pod: &PodId, live: &Live) -> Result<Events, Error> {
    let connected = Monitor::connect(&dir(node, pod)).await;
    let (monitor, events) = connected.map_err(|error| Error::Monitor(chain(&error)))?;
    catch_up(node, pod, live, &monitor).await?;
    hold(node, pod, live, &monitor).await?;
    if !node.options.keeper.is_systemd() {
        // Its first daemon may have been killed before it had.
        monitor.enter_v1(node.options.keeper.monitor(pod), &node.pools.helpers);
    }
    live.monitor.send_replace(Some(monitor));
    Ok(events)
}

/// Keeps what a successor of the monitor will need, of containers that an earlier daemon made.
async fn hold(node: &Node, pod: &PodId, live: &Live, monitor: &Monitor) -> Result<(), Error> {
    for container in node.table.load().containers_of(pod) {
        let Some(init) = container.phase.init() else {
            continue;
        };
        let pid = sys::pidfd::of_number(init.pid);
        // One that has ended meanwhile needs nothing: its end is about to be told.
        let pidfd = pid.and_then(|pid| sys::pidfd::open_checked(pid, init.start_time).ok());
        let id = wire_id(container.id.as_str())?;
        // Pipes have names; a terminal lives as long as somebody has its master open.
        let terminal = if container.made.terminal {
            let master = AttachTo {
                stdin: true,
                ..AttachTo::default()
            };
            monitor.attach(&id, master).await.unwrap_or_default()
        } else {
            None
        };
        live.keep(
            &container.id,
            Kept {
                pidfd,
                terminal,
                output: monitor.hold_output(&id),
                ..Kept::default()
            },
        );
    }
    Ok(())
}

/// Starts successors until one lives long enough to take the pod over.
async fn succeed_at_last(node: &Arc<Node>, pod: &PodId, live: &Live) -> Result<Events, Error> {
    let mut attempt = 1;
    loop {
        match succeed(node, pod, live).await {
            Err(error) if attempt < ATTEMPTS => {
                let error = chain(&error);
                tracing::error!(
                    pod = pod.as_str(),
                    error,
                    attempt,
                    "no successor of the monitor"
                );
                attempt += 1;
            }
            ended => return ended,
        }
    }
}

/// Takes what a monitor that lived on knows: exits, and containers that it lost or never had.
async fn catch_up(
    node: &Arc<Node>,
    pod: &PodId,
    live: &Live,
    monitor: &Monitor,
) -> Result<(), Error> {
    let known = monitor
        .list()
        .await
        .map_err(|error| Error::Monitor(chain(&error)))?;
    if !known.iter().any(|info| info.id.as_str() == pod.as_str()) {
        adopt_infra(node, pod, monitor).await?;
    }
    for container in node.table.load().containers_of(pod) {
        if matches!(container.phase, Phase::Exited { .. }) {
            continue;
        }
        match known
            .iter()
            .find(|info| info.id.as_str() == container.id.as_str())
        {
            Some(info) => match &info.state {
                monitor_client::State::Exited { exit } => {
                    exits::exited(node, &container.id, exits::from_wire(exit)).await
                }
                monitor_client::State::Running {}
                    if matches!(container.phase, Phase::Created { .. }) =>
                {
                    let init = Init {
                        pid: i32::try_from(info.pid).unwrap_or(0),
                        start_time: info.start_time,
                    };
                    exits::found_running(node, &container.id, init).await;
                }
                _ => {}
            },
            // Its start makes it known to the monitor.
            None if container.awaits_restore() => {}
            // A daemon that died while a successor was adopting did not get as far as this one.
            None => adopt_or_lose(node, live, monitor, container).await?,
        }
    }
    Ok(())
}

/// Starts a successor and has it adopt the pod's containers.
async fn succeed(node: &Arc<Node>, pod: &PodId, live: &Live) -> Result<Events, Error> {
    let (monitor, events) = spawn(node, pod).await?;
    adopt_infra(node, pod, &monitor).await?;
    for container in node.table.load().containers_of(pod) {
        if matches!(container.phase, Phase::Exited { .. }) || container.awaits_restore() {
            continue;
        }
        adopt_or_lose(node, live, &monitor, container).await?;
    }
    tracing::warn!(
        pod = pod.as_str(),
        pid = monitor.pid(),
        "a successor of the monitor took over"
    );
    live.monitor.send_replace(Some(monitor));
    Ok(events)
}

/// Gives the process of a shared process namespace to a successor.
async fn adopt_infra(node: &Node, pod: &PodId, monitor: &Monitor) -> Result<(), Error> {
    let Ok(pod) = node.table.load().pod(pod.as_str()) else {
        return Ok(());
    };
    let Some(init) = pod.made.infra else {
        return Ok(());
    };
    let adopt = Adopt {
        create: infra::message(&pod.id, &handlers::to_watch(node, &pod), &pod.made.files)?,
        pid: u32::try_from(init.pid).unwrap_or(0),
        start_time: init.start_time,
        started: true,
        pidfd: false,
        terminal: false,
        stdin: false,
    };
    let adopted = monitor.adopt(adopt, AdoptedDescriptors::default()).await;
    adopted
        .map(drop)
        .map_err(|error| Error::Monitor(chain(&error)))
}

/// Gives a container to a monitor that does not have it. One that can't be adopted has ended.
async fn adopt_or_lose(
    node: &Arc<Node>,
    live: &Live,
    monitor: &Monitor,
    container: &Container,
) -> Result<(), Error> {
    match adopt(node, live, monitor, container).await {
        Ok(()) => Ok(()),
        // It died as well: the next one adopts.
        Err(Adoption::MonitorLost) => Err(Error::Monitor("lost".to_owned())),
        Err(Adoption::NotTried(error)) => {
            let (id, error) = (container.id.as_str(), chain(&error));
            tracing::error!(container = id, error, "container without a monitor");
            Ok(())
        }
        Err(Adoption::Failed(error)) => {
            let (id, error) = (container.id.as_str(), chain(&error));
            tracing::error!(container = id, error, "container not adopted");
            exits::lost(node, container).await;
            Ok(())
        }
    }
}

/// Why a successor did not take a container over.
enum Adoption {
    MonitorLost,
    /// The monitor was not asked, which says nothing of the container.
    NotTried(Error),
    Failed(Error),
}

impl From<Error> for Adoption {
    fn from(error: Error) -> Self {
        Self::NotTried(error)
    }
}

async fn adopt(
    node: &Arc<Node>,
    live: &Live,
    monitor: &Monitor,
    container: &Container,
) -> Result<(), Adoption> {
    let Some(init) = container.phase.init() else {
        return Ok(());
    };
    let dirs = node.dirs(container.id.as_str()).await?;
    let no_record = || Adoption::Failed(Error::Internal("no record".to_owned()));
    let dirs = dirs.ok_or_else(no_record)?;
    let pod = node.table.load().pod(container.pod.as_str())?;
    let handler = handlers::to_watch(node, &pod);
    let adopt = Adopt {
        create: create_message(node, container, &handler, &dirs)?,
        pid: u32::try_from(init.pid).unwrap_or(0),
        start_time: init.start_time,
        started: matches!(container.phase, Phase::Running { .. }),
        pidfd: false,
        terminal: false,
        stdin: false,
    };
    // Taken out for the call, so that no lock is held over it.
    let mut kept = lock(&live.kept).remove(&container.id).unwrap_or_default();
    if kept.output.pipes() == 0 {
        kept.output = monitor.hold_output(&adopt.create.id);
    }
    let descriptors = AdoptedDescriptors {
        pidfd: kept.pidfd.as_ref().map(|fd| fd.as_fd()),
        terminal: kept.terminal.as_ref().map(|fd| fd.as_fd()),
        stdin: kept.stdin.as_ref().map(|fd| fd.as_fd()),
    };
    if let Err(error) = announce(node, monitor, container).await {
        let (container, error) = (container.id.as_str(), chain(&error));
        tracing::warn!(container, error, "no more forbidden syscalls are told");
    }
    let adopted = monitor.adopt(adopt, descriptors).await;
    live.keep(&container.id, kept);
    match adopted {
        Ok(_) => give_listeners(live, monitor, container).await,
        Err(monitor_client::Error::Lost) => Err(Adoption::MonitorLost),
        Err(error) => Err(Adoption::Failed(Error::Monitor(chain(&error)))),
    }
}

/// The environment of a runtime.
pub(crate) fn environment() -> Vec<String> {
    vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()]
}

/// What the monitor needs to make a container, or to take it over.
pub(crate) fn create_message(
    node: &Node,
    container: &Container,
    handler: &runtime::Handler,
    dirs: &Dirs,
) -> Result<Create, Error> {
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    Ok(Create {
        id: wire_id(container.id.as_str())?,
        bundle: text(&dirs.bundle),
        runtime: text(&handler.config.path),
        runtime_args: handler.global_arguments(),
        create_args: handler.create_arguments(),
        env: environment(),
        log_path: container.made.log_path.clone(),
        log_size_max: node.options.log_size_max,
        tty: container.request.tty,
        stdin: container.request.stdin,
        stdin_once: container.request.stdin_once,
        persist_dir: text(&dirs.persistent),
        pid_file: text(&dirs.bundle.join("pidfile")),
        timeout_ms: u32::try_from(handler.config.create_timeout.as_millis()).unwrap_or(u32::MAX),
        auto_delete: true,
    })
}

/// Listens to a monitor for as long as its pod is alive. The one place where it becomes a task.
fn supervise(node: &Arc<Node>, pod: &PodId, live: Arc<Live>, events: Events) {
    let (node, pod) = (Arc::clone(node), pod.clone());
    tokio::spawn(async move {
        let mut events = events;
        loop {
            listen(&node, &live, &mut events).await;
            live.monitor.send_replace(None);
            if live.closing.load(Ordering::Acquire) {
                return;
            }
            tracing::warn!(pod = pod.as_str(), "monitor lost");
            live.monitor_lost(node.table.load().containers_of(&pod));
            match succeed_at_last(&node, &pod, &live).await {
                Ok(next) => events = next,
                Err(error) => {
                    let error = chain(&error);
                    tracing::error!(pod = pod.as_str(), error, "the pod sandbox has no monitor");
                    return;
                }
            }
        }
    });
}

async fn listen(node: &Arc<Node>, live: &Live, events: &mut Events) {
    while let Some(event) = events.recv().await {
        match event {
            Event::Exited(exit) => match ContainerId::parse(exit.id.as_str()) {
                Some(id) => exits::exited(node, &id, exits::from_wire(&exit)).await,
                None => tracing::error!(
                    id = exit.id.as_str(),
                    "the monitor tells of an unknown container"
                ),
            },
            Event::ExecExited { exec, status, .. } => {
                if let Some(expected) = lock(&live.execs).remove(exec.as_str()) {
                    // Whoever asked may have gone away.
                    expected.tell.send(status).ok();
                }
            }
            Event::Listening { id, listener } => {
                if let Some(id) = ContainerId::parse(id.as_str()) {
                    live.notifiers.hold(&id, listener);
                }
            }
            Event::Forbidden {
                id,
                arch,
                number,
                count,
            } => {
                if let Some(id) = ContainerId::parse(id.as_str()) {
                    seccomp_notifier::forbidden(node, live, &id, (arch, number), count);
                }
            }
            Event::Lost { .. } => return,
        }
    }
}

/// Tells all monitors what the daemon reaped in their place.
pub(crate) async fn orphans_reaped(node: &Node, reaped: &[(i32, Status)]) {
    for live in node.alive() {
        for (pid, status) in reaped {
            live.exec_reaped(*pid, *status);
        }
        let Some(monitor) = live.monitor_now() else {
            continue;
        };
        for (pid, status) in reaped {
            // A monitor that is lost meanwhile finds the status by the pidfd.
            monitor
                .orphan_reaped(u32::try_from(*pid).unwrap_or(0), *status)
                .await
                .ok();
        }
    }
}

/// Ends a pod's monitor.
pub(crate) fn undo<'a>(node: &'a Node, subject: &'a Subject) -> Doing<'a> {
    Box::pin(end(node, &subject.pod))
}

/// Ends a pod's monitor and removes its cgroup and files, and the exit record of the pod's own process,
/// which nobody reads; fine if there is none.
pub(crate) async fn end(node: &Node, pod: &PodId) -> Result<(), Error> {
    let live = node.live(pod);
    let dir = dir(node, pod);
    let monitor = match live.close() {
        Some(monitor) => Some(monitor),
        None => Monitor::connect(&dir)
            .await
            .ok()
            .map(|(monitor, _)| monitor),
    };
    if let Some(monitor) = monitor {
        delete_all(pod, &monitor).await;
        // One that has a container left is killed with its cgroup.
        monitor.quit().await.ok();
    }
    cgroups::remove(node, node.options.keeper.monitor(pod)).await?;
    blocking(&node.pools.mounts, move || remove_dir(&dir)).await?;
    // Not before its writer's end.
    exits::remove_record(node, pod.as_str()).await
}

/// Has the runtime forget all containers of a monitor, or waits until it has: what it is just doing
/// would end with the monitor's cgroup.
async fn delete_all(pod: &PodId, monitor: &Monitor) {
    // A monitor that is lost has none that can be asked for.
    let containers = monitor.list().await.unwrap_or_default();
    let deletions = containers.iter().map(|info| monitor.delete(&info.id, true));
    for error in join_all(deletions)
        .await
        .into_iter()
        .filter_map(Result::err)
    {
        tracing::warn!(
            pod = pod.as_str(),
            error = chain(&error),
            "runtime keeps a container"
        );
    }
}

fn remove_dir(dir: &std::path::Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(dir) {
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(Error::io("remove", dir)),
    }
}

/// Kills what is left in a cgroup of ours, waits for its end and removes the cgroup. Blocks.
pub(crate) fn remove_cgroup(path: &str) -> Result<(), Error> {
    let cgroup = sys::cgroup::Cgroup::at(path).map_err(Error::io("find cgroup", path))?;
    let processes = cgroup
        .processes()
        .map_err(Error::io("look into cgroup", path))?;
    // One that is gone already has no descriptor and needs none.
    let processes: Vec<_> = processes
        .into_iter()
        .filter_map(|pid| sys::pidfd::open(pid).ok())
        .collect();
    cgroup.kill().map_err(Error::io("kill cgroup", path))?;
    for process in processes {
        sys::pidfd::wait_ended(process.as_fd(), Some(ENDING))
            .map_err(Error::io("wait for cgroup", path))?;
    }
    cgroup
        .remove_when_empty(ENDING)
        .map_err(Error::io("remove cgroup", path))
}

/// Removes a cgroup that nothing is in any more; whether it was there and is gone.
pub(crate) fn remove_empty_cgroup(path: &str) -> bool {
    let mut removed = false;
    if let Ok(cgroup) = sys::cgroup::Cgroup::at(path) {
        for dir in cgroup.paths() {
            // Busy, or gone already: both are fine.
            removed |= std::fs::remove_dir(dir).is_ok();
        }
    }
    removed
}
