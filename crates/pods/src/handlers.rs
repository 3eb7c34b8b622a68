//! The runtime handler of a pod: the configured one of its name, else the one that it was run with,
//! which its record keeps. New pods get configured ones only.

use std::sync::Arc;
use std::time::Duration;

use runtime::Handler;
use sys::spawn::{self, Program};

use crate::node::{Node, blocking};
use crate::operations::chain;
use crate::state::pod::{Made, Pod};
use crate::{Container, Error};

/// What the runtime may take to forget a container.
const DELETE: Duration = Duration::from_secs(60);

/// A pod's handler.
///
/// # Errors
/// It is not configured any more, and the pod does not have it: an older daemon ran the pod.
pub(crate) fn of(node: &Node, pod: &Pod) -> Result<Arc<Handler>, Error> {
    let configured = node.handlers.get(&pod.made.handler);
    configured.or_else(|unknown| pod.handler.clone().ok_or(unknown.into()))
}

/// The handler of a container's pod.
///
/// # Errors
/// As [`of`] says; the pod is gone.
pub(crate) fn of_container(node: &Node, container: &Container) -> Result<Arc<Handler>, Error> {
    of(node, &*node.table.load().pod(container.pod.as_str())?)
}

/// A pod's handler as a monitor needs it to watch a process that is there: also without a runtime.
pub(crate) fn to_watch(node: &Node, pod: &Pod) -> Arc<Handler> {
    of(node, pod).unwrap_or_else(|error| {
        let (pod, handler) = (pod.id.as_str(), &pod.made.handler);
        let error = chain(&error);
        tracing::error!(
            pod,
            error,
            "a pod without its runtime handler is watched only"
        );
        Arc::new(Handler::unknown(handler))
    })
}

/// Has the runtime forget a container whose monitor can't: it died before it had, or was never ours.
///
/// # Errors
/// The program can't be run. That it has no such container is fine.
pub(crate) async fn delete(node: &Node, handler: &Handler, id: &str) -> Result<(), Error> {
    let program = Program::new(&handler.config.path, DELETE)
        .args(handler.global_arguments())
        .args(["delete", "--force", id]);
    let deleted = blocking(&node.pools.helpers, move || spawn::run(&program)).await;
    deleted.map(drop).map_err(|error| Error::Runtime {
        doing: "container delete failed",
        text: chain(&error),
    })
}

/// Whether the runtime still has a container, by its directory.
pub(crate) async fn knows(node: &Node, handler: &Handler, id: &str) -> bool {
    let root = handler.config.root.clone();
    if root.as_os_str().is_empty() {
        return false;
    }
    let dir = root.join(id);
    blocking(&node.pools.files, move || dir.try_exists().unwrap_or(true)).await
}

/// Handlers that pods' records keep and new pods can't have any more.
#[derive(Debug, Default)]
pub(crate) struct Recorded(Vec<Arc<Handler>>);

impl Recorded {
    /// The handler that a pod was run with; warns once of each that is not configured. Blocks.
    pub(crate) fn find(&mut self, node: &Node, made: &Made) -> Option<Arc<Handler>> {
        if let Ok(configured) = node.handlers.get(&made.handler) {
            return Some(configured);
        }
        let config = made.handler_config.as_ref()?;
        if let Some(known) = self.0.iter().find(|known| known.config == *config) {
            return Some(Arc::clone(known));
        }
        tracing::warn!(
            handler = config.name,
            "runtime handler can't be used any more, and stays for the pods that use it"
        );
        let handler = Arc::new(Handler::recorded(config.clone()));
        self.0.push(Arc::clone(&handler));
        Some(handler)
    }
}
