//! What a monitor is told of a container before it makes or adopts it, and given afterwards.

use std::os::fd::AsFd as _;

use monitor_client::Monitor;

use super::{Adoption, Live, wire_id};
use crate::node::Node;
use crate::operations::chain;
use crate::operations::create_container::runtime_error;
use crate::state::container::Container;
use crate::{Error, seccomp_notifier};

/// Gives a monitor that has adopted a container the listeners of its seccomp filters.
pub(super) async fn give_listeners(
    live: &Live,
    monitor: &Monitor,
    container: &Container,
) -> Result<(), Adoption> {
    let id = wire_id(container.id.as_str())?;
    for listener in live.notifiers.held(&container.id) {
        match monitor.listen(&id, listener.as_fd()).await {
            Err(monitor_client::Error::Lost) => return Err(Adoption::MonitorLost),
            Err(error) => {
                let (container, error) = (id.as_str(), chain(&error));
                tracing::warn!(container, error, "a listener of a seccomp filter is lost");
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Tells a monitor that is about to make or adopt a container where its output goes beside its log, and
/// where its seccomp filters' listeners come.
///
/// # Errors
/// A monitor that knows no listeners; the log is not worth an error.
pub(crate) async fn announce(
    node: &Node,
    monitor: &Monitor,
    container: &Container,
) -> Result<(), Error> {
    announce_log(node, monitor, container).await;
    if container.made.notifier.is_none() {
        return Ok(());
    }
    let socket = seccomp_notifier::socket(node, &container.id);
    let id = wire_id(container.id.as_str())?;
    let told = monitor.notify(&id, &socket.to_string_lossy()).await;
    told.map_err(|error| runtime_error("no seccomp notifier", error))
}

async fn announce_log(node: &Node, monitor: &Monitor, container: &Container) {
    if !node.options.log_to_journald {
        return;
    }
    let announced = async {
        let pod = node.table.load().pod(container.pod.as_str())?;
        let name = container.request.record_name(&pod.request.key);
        let id = wire_id(container.id.as_str())?;
        let told = monitor.log_to_journal(&id, &name).await;
        told.map_err(|error| Error::Monitor(chain(&error)))
    };
    if let Err(error) = announced.await {
        let (container, error) = (container.id.as_str(), chain(&error));
        tracing::warn!(
            container,
            error,
            "the container's output does not go to the journal"
        );
    }
}
