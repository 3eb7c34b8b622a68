//! StartContainer: created → running.

use std::sync::Arc;
use std::time::SystemTime;

use super::create_container::runtime_error;
use super::stage::fault;
use super::{Key, Outcome, chain};
use crate::node::{Node, blocking};
use crate::state::container::{Container, Exit, Phase};
use crate::{Error, exits, monitors, records};

const OPERATION: &str = "start-container";
/// Exit code of a container that could not be started.
const NOT_STARTED: i32 = 128;

/// Starts a container. One that runs already was started by the same request before.
pub(crate) async fn run(node: &Arc<Node>, id: &str) -> Outcome {
    let container = node.table.load().container(id)?;
    let key = Key {
        kind: OPERATION,
        subject: container.id.to_string(),
    };
    let node = Arc::clone(node);
    let operations = Arc::clone(&node.operations);
    operations
        .run(key, String::new(), |progress| async move {
            progress.at("start");
            work(&node, &container).await.map(|()| String::new())
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
    if let Err(error) = monitor
        .start(&monitors::wire_id(container.id.as_str())?)
        .await
    {
        let error = runtime_error("container start failed", error);
        give_up(node, &container, &monitor, &error).await;
        return Err(error);
    }
    fault(OPERATION, "start", "after")?;
    let _states = live.states.lock().await;
    if let Some(Ok(running)) = node
        .table
        .step(&container.id, |phase| phase.started(started))
    {
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
