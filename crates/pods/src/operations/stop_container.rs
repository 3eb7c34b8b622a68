//! StopContainer: the stop signal, then SIGKILL.
//!
//! Each call waits for itself, on events and under no lock: a later call with a shorter time-out
//! kills earlier, one with a longer time-out has no effect, and one that waits 24 hours holds
//! nobody up. Once SIGKILL goes out, no command is started in the container any more: until then
//! its preparations for the end may need some.

use std::sync::Arc;
use std::time::Duration;

use super::stage::step;
use super::{Key, Outcome, chain};
use crate::node::Node;
use crate::state::container::{Container, Phase};
use crate::{ContainerId, Error, exits, monitors};

pub(crate) const OPERATION: &str = "stop-container";
/// Its steps.
pub(crate) const STEPS: &[&str] = &["kill"];
/// How long the end may take after SIGKILL, before the caller is told that it is stuck.
const KILL: Duration = Duration::from_secs(60);
/// SIGKILL goes out again while the process is stuck in the kernel.
const AGAIN: Duration = Duration::from_secs(5);

/// Stops a container; fine if it is not running, or not there.
pub(crate) async fn run(node: &Arc<Node>, id: &str, timeout: Duration) -> Outcome {
    let container = match node.table.load().container(id) {
        Ok(container) => container,
        Err(Error::NotFound { .. }) => return Ok(String::new()),
        Err(error) => return Err(Arc::new(error)),
    };
    let key = Key {
        kind: OPERATION,
        subject: format!("{} {timeout:?}", container.id),
    };
    let node = Arc::clone(node);
    let operations = Arc::clone(&node.operations);
    operations
        .run(key, String::new(), |progress| async move {
            progress.at("stop");
            stop(&node, &container, timeout)
                .await
                .map(|()| String::new())
        })
        .await
}

/// Stops a container and waits for its end.
pub(crate) async fn stop(
    node: &Arc<Node>,
    container: &Container,
    timeout: Duration,
) -> Result<(), Error> {
    let id = &container.id;
    if ended(node, id, Duration::ZERO).await {
        return Ok(());
    }
    if node.table.load().container(id.as_str())?.awaits_restore() {
        // Nothing of it runs, and nobody would tell its end.
        exits::exited(node, id, exits::never_ran()).await;
        return Ok(());
    }
    let wire = monitors::wire_id(id.as_str())?;
    let live = node.live(&container.pod);
    let created = matches!(container.phase, Phase::Created { .. });
    if !timeout.is_zero() && !created {
        match live.monitor().await {
            // One that ended in between needs no signal.
            Ok(monitor) => drop(monitor.signal(&wire, container.made.stop_signal).await),
            Err(error) => tracing::warn!(
                container = id.as_str(),
                error = chain(&error),
                "stop signal not sent"
            ),
        }
        if ended(node, id, timeout).await {
            return Ok(());
        }
        tracing::info!(
            container = id.as_str(),
            ?timeout,
            "stop signal ignored, container is killed"
        );
    }
    live.begin_kill(id);
    let mut waited = Duration::ZERO;
    while waited < KILL {
        step(OPERATION, "kill", async {
            // Lost on the way, it goes out again; nothing else would help.
            live.monitor().await?.kill_all(&wire).await.ok();
            Ok(())
        })
        .await?;
        if ended(node, id, AGAIN).await {
            return Ok(());
        }
        waited += AGAIN;
        tracing::warn!(
            container = id.as_str(),
            ?waited,
            "container does not end: a process is stuck in the kernel"
        );
    }
    Err(Error::TimedOut(format!(
        "container {id} did not end within {KILL:?} of SIGKILL"
    )))
}

/// Whether the container ends, or is gone, within `timeout`.
async fn ended(node: &Node, id: &ContainerId, timeout: Duration) -> bool {
    let gone = node
        .table
        .wait_for(|snapshot| match snapshot.containers.get(id) {
            Some(container) => matches!(container.phase, Phase::Exited { .. }).then_some(()),
            None => Some(()),
        });
    tokio::time::timeout(timeout, gone).await.is_ok()
}
