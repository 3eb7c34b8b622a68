//! StartContainer: created → running, by the runtime's `start`, or by `restore` where the container
//! comes from a checkpoint.

use std::sync::Arc;
use std::time::SystemTime;

use super::create_container::runtime_error;
use super::stage::fault;
use super::{Outcome, act, chain};
use crate::monitors::Live;
use crate::node::{Node, blocking};
use crate::state::container::{Container, Exit, Init, NOBODY, Phase};
use crate::{Error, checkpoint, exits, handlers, monitors, records};

const OPERATION: &str = "start-container";
/// Exit code of a container that could not be started.
const NOT_STARTED: i32 = 128;

/// Starts a container. One that runs already was started by the same request before.
pub(crate) async fn run(node: &Arc<Node>, id: &str) -> Outcome {
    let container = node.table.load().container(id)?;
    let subject = container.id.to_string();
    act(node, OPERATION, subject, "start", |node| async move {
        work(&node, &container).await
    })
    .await
}

async fn work(node: &Arc<Node>, container: &Container) -> Result<(), Error> {
    let live = node.live(&container.pod);
    let _gate = live.gate.read().await;
    let container = node.table.load().container(container.id.as_str())?;
    match container.phase {
        Phase::Created { .. } => {}
        Phase::Running { .. } => return Ok(()),
        Phase::Exited { .. } => {
            return Err(Error::WrongState(format!(
                "container {} is not in created state: it has exited",
                container.id
            )));
        }
    }
    fault(OPERATION, "start", "before")?;
    let monitor = live.monitor().await?;
    let started = SystemTime::now();
    let begun = if container.awaits_restore() {
        restore(node, &container, &live, &monitor).await
    } else {
        start(&container, &monitor).await
    };
    let init = match begun {
        Ok(init) => init,
        Err(error) => {
            give_up(node, &container, &monitor, &error).await;
            return Err(error);
        }
    };
    fault(OPERATION, "start", "after")?;
    let _states = live.states.lock().await;
    if let Some(Ok(running)) = node
        .table
        .step(&container.id, |phase| phase.runs(init, started))
    {
        if let Phase::Exited { .. } = running.phase {
            // Stopped while it was being restored: its processes must not go on.
            let id = monitors::wire_id(container.id.as_str())?;
            monitor.kill_all(&id).await.ok();
        }
        if let Some(dirs) = node.dirs(container.id.as_str()).await? {
            let record = Container::clone(&running);
            let written = blocking(&node.pools.files, move || {
                records::write_state(&record, &dirs)
            })
            .await;
            if let Err(error) = written {
                // It runs all the same; the next start of the daemon asks the monitor.
                tracing::error!(
                    container = container.id.as_str(),
                    error = chain(&error),
                    "start not recorded"
                );
            }
        }
        tracing::info!(container = container.id.as_str(), "container started");
    }
    Ok(())
}

async fn start(container: &Container, monitor: &monitor_client::Monitor) -> Result<Init, Error> {
    let id = monitors::wire_id(container.id.as_str())?;
    let started = monitor.start(&id).await;
    started.map_err(|error| runtime_error("container start failed", error))?;
    Ok(container.phase.init().unwrap_or(NOBODY))
}

/// Has the runtime restore the container's processes.
async fn restore(
    node: &Arc<Node>,
    container: &Container,
    live: &Live,
    monitor: &monitor_client::Monitor,
) -> Result<Init, Error> {
    let dirs = node.dirs(container.id.as_str()).await?;
    let dirs = dirs.ok_or_else(|| Error::Internal("no record".to_owned()))?;
    let handler = handlers::of_container(node, container)?;
    let mut message = monitors::create_message(node, container, &handler, &dirs)?;
    let from = checkpoint::restore_dir(&dirs.persistent);
    let (dir, cgroup) = (from.clone(), container.made.cgroup.clone());
    let told = move || checkpoint::tell_criu_of_cgroup(&dir, &cgroup);
    message.env.extend(blocking(&node.pools.files, told).await?);
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let images = text(&checkpoint::images_dir(&from));
    monitors::announce(node, monitor, container).await?;
    let made = monitor.restore(message, images, text(&from), None).await;
    let made = match made {
        Ok(made) => made,
        Err(error) => {
            let error = runtime_error("container restore failed", error);
            let log = from.join("restore.log");
            let worded = move || checkpoint::with_crius_words(error, &log);
            return Err(blocking(&node.pools.files, worded).await);
        }
    };
    let init = live.take(&container.id, made)?;
    // A process's memory is in it, and it may be large. What stays goes with the container.
    let removed = blocking(&node.pools.files, move || checkpoint::remove_dir(&from)).await;
    if let Err(error) = removed {
        tracing::warn!(
            container = container.id.as_str(),
            error = chain(&error),
            "criu's files not removed"
        );
    }
    Ok(init)
}

/// A container that can't be started has ended: it must not stay created.
async fn give_up(
    node: &Arc<Node>,
    container: &Container,
    monitor: &monitor_client::Monitor,
    error: &Error,
) {
    if let Ok(id) = monitors::wire_id(container.id.as_str()) {
        // Its end is what counts, and that is told by an event or recorded here.
        monitor.kill_all(&id).await.ok();
        monitor.delete(&id, true).await.ok();
    }
    let exit = Exit {
        code: NOT_STARTED,
        finished: SystemTime::now(),
        oom_killed: false,
        message: chain(error),
        reason: Some("StartError".to_owned()),
    };
    exits::exited(node, &container.id, exit).await;
}
