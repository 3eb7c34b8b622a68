//! RemoveContainer: its process, its files, its record; that last, so that a repeat finds it.

use std::sync::Arc;
use std::time::Duration;

use super::stage::step;
use super::{Outcome, act, create_container, if_there, stop_container};
use crate::node::Node;
use crate::state::container::Container;
use crate::{Error, cgroups, exits, handlers, monitors, seccomp_notifier};

/// Name of the operation.
pub(crate) const OPERATION: &str = "remove-container";
/// The steps, in order.
pub(crate) const STEPS: &[&str] = &["stop", "runtime", "mount", "record"];

/// Removes a container, by force if it runs; fine if there is none.
pub(crate) async fn run(node: &Arc<Node>, id: &str) -> Outcome {
    let Some(container) = if_there(node.table.load().container(id))? else {
        return Ok(String::new());
    };
    let subject = container.id.to_string();
    act(node, OPERATION, subject, "remove", |node| async move {
        remove(&node, &container).await
    })
    .await
}

/// Removes a container, each step of which may be repeated.
pub(crate) async fn remove(node: &Arc<Node>, container: &Container) -> Result<(), Error> {
    let id = &container.id;
    step(
        OPERATION,
        "stop",
        stop_container::stop(node, container, Duration::ZERO),
    )
    .await?;
    step(OPERATION, "runtime", forget(node, container)).await?;
    step(OPERATION, "mount", create_container::unmount(node, id)).await?;
    step(OPERATION, "record", async {
        exits::remove_record(node, id.as_str()).await?;
        node.delete_record(id.as_str()).await
    })
    .await?;
    node.live(&container.pod).forget(id);
    node.table.remove_container(id);
    tracing::info!(container = id.as_str(), "container removed");
    Ok(())
}

/// Has the runtime and the monitor forget a container, and removes its cgroup.
async fn forget(node: &Arc<Node>, container: &Container) -> Result<(), Error> {
    if let Some(monitor) = node.live(&container.pod).monitor_now() {
        let wire = monitors::wire_id(container.id.as_str())?;
        let failed = |error| create_container::runtime_error("container delete failed", error);
        monitor
            .delete(&wire, true)
            .await
            .or_else(unknown_is_fine)
            .map_err(failed)?;
        monitor
            .forget(&wire)
            .await
            .or_else(unknown_is_fine)
            .map_err(failed)?;
    }
    // A monitor that died just after the end had not come to it.
    if let Ok(handler) = handlers::of_container(node, container)
        && handlers::knows(node, &handler, container.id.as_str()).await
    {
        handlers::delete(node, &handler, container.id.as_str()).await?;
    }
    if container.made.notifier.is_some() {
        seccomp_notifier::remove_socket(node, &container.id).await?;
    }
    cgroups::remove(node, container.made.cgroup.clone()).await
}

fn unknown_is_fine(error: monitor_client::Error) -> Result<(), monitor_client::Error> {
    use monitor_client::{Error, ErrorKind};
    match error {
        Error::Refused {
            kind: ErrorKind::NotFound {},
            ..
        }
        | Error::Lost => Ok(()),
        other => Err(other),
    }
}
