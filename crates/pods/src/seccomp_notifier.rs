//! The seccomp notifier: what a container's seccomp profile forbids is counted and logged, and ends the
//! container where that is asked for.
//!
//! An annotation of the pod asks for it, where the pod's handler allows it. The rules of the profile that
//! forbid something then leave it to a listener, which the pod's monitor holds: it refuses each call at once
//! and tells how often each was made. A daemon that comes later is told all of it again, so nothing is
//! missed while there is none. We hold the listeners as well, for the monitor's successor.
//!
//! With the value `stop` the container is stopped once it has made no forbidden call for a while after one.
//! That this is so is in its record before, so that its end has its reason whoever sees it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use spec::oci;
use tokio::sync::watch;

use crate::monitors::Live;
use crate::node::{Node, blocking};
use crate::operations::{chain, if_there, stop_container};
use crate::state::container::{Container, Phase};
use crate::{ContainerId, Error, exits};

mod notifiers;

pub(crate) use notifiers::Notifiers;

/// The annotation, by its new and its old name.
const NAMES: [&str; 2] = [
    "seccomp-notifier-action.crio.io",
    "io.kubernetes.cri-o.seccompNotifierAction",
];
/// Its value that has containers stopped; every other one counts.
const STOP: &str = "stop";
/// How long after its last forbidden call a container is stopped (CRI-O).
const PATIENCE: Duration = Duration::from_secs(5);
/// `sun_path` without its NUL (unix(7)).
const ADDRESS: usize = 107;

/// What is done about forbidden calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// They are counted and logged.
    Log,
    /// The container is stopped, too.
    Stop,
}

/// What the pod's annotation asks for, where its handler allows it.
pub(crate) fn action(annotations: &BTreeMap<String, String>, allowed: &[String]) -> Option<Action> {
    let mut names = NAMES.iter();
    names.find_map(|name| {
        let value = annotations.get(*name)?;
        spec::annotations::passes(name, allowed).then_some(match value.as_str() {
            STOP => Action::Stop,
            _ => Action::Log,
        })
    })
}

/// Has a container's filter leave what it forbids to a listener. Whether it does: a filter that forbids
/// nothing by name has none.
///
/// # Errors
/// [`Error::Invalid`]: the run directory's path is too long.
pub(crate) fn inject(
    node: &Node,
    id: &ContainerId,
    filter: &mut oci::Seccomp,
) -> Result<bool, Error> {
    let socket = socket(node, id);
    if socket.as_os_str().len() > ADDRESS {
        return Err(Error::Invalid(format!(
            "no seccomp notifier: {} is too long for a socket",
            socket.display()
        )));
    }
    Ok(spec::seccomp::notify(filter, &socket.to_string_lossy()))
}

/// Where runtimes hand over listeners.
pub(crate) fn dir(node: &Node) -> PathBuf {
    node.options.run_dir.join("seccomp")
}

/// Where runtimes hand over the listeners of one container.
pub(crate) fn socket(node: &Node, id: &ContainerId) -> PathBuf {
    dir(node).join(id.as_str())
}

/// Removes the socket that a monitor which was killed has left; fine if there is none.
pub(crate) async fn remove_socket(node: &Node, id: &ContainerId) -> Result<(), Error> {
    let path = socket(node, id);
    let remove = move || match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", path)(error))
        }
        _ => Ok(()),
    };
    blocking(&node.pools.files, remove).await
}

/// The monitor tells how often a container has made a call.
pub(crate) fn forbidden(
    node: &Arc<Node>,
    live: &Live,
    id: &ContainerId,
    (arch, number): (u32, i32),
    count: u64,
) {
    let new = live.notifiers.count(id, (arch, number), count);
    if new == 0 {
        return;
    }
    let syscall = spec::seccomp::syscall_name(arch, number);
    let container = id.as_str();
    tracing::info!(container, syscall, count = new, "seccomp blocked a syscall");
    if let Some(further) = live.notifiers.put_off(id) {
        let (node, id) = (Arc::clone(node), id.clone());
        // Ends with the container, whose end drops the other side.
        tokio::spawn(async move {
            if quiet(further).await {
                stop(&node, &id).await;
            }
        });
    }
}

/// Waits until nothing has been told for a while; false if the container has ended before.
async fn quiet(mut further: watch::Receiver<()>) -> bool {
    loop {
        match tokio::time::timeout(PATIENCE, further.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return false,
            Err(_) => return true,
        }
    }
}

/// A container of an earlier daemon: what its monitor tells counts, and a stop that was begun is done.
pub(crate) fn resume(node: &Arc<Node>, live: &Live, container: &Container) {
    let Some(action) = container.made.notifier else {
        return;
    };
    let has_ended = matches!(container.phase, Phase::Exited { .. });
    live.notifiers.expect(&container.id, action, has_ended);
    if container.condemned.is_some() && !has_ended {
        let (node, id) = (Arc::clone(node), container.id.clone());
        // Waits with all operations for the repairs, and ends as each does.
        tokio::spawn(async move { stop(&node, &id).await });
    }
}

async fn stop(node: &Arc<Node>, id: &ContainerId) {
    let stopped = async {
        condemn(node, id).await?;
        stop_container::run(node, id.as_str(), Duration::ZERO).await
    };
    if let Err(error) = stopped.await {
        let (container, error) = (id.as_str(), chain(&*error));
        tracing::error!(
            container,
            error,
            "container not stopped for its forbidden syscalls"
        );
    }
}

/// Puts into a container's record what will be said of its end.
async fn condemn(node: &Arc<Node>, id: &ContainerId) -> Result<(), Error> {
    let Some(container) = if_there(node.table.load().container(id.as_str()))? else {
        return Ok(());
    };
    let live = node.live(&container.pod);
    let _states = live.states.lock().await;
    let container = node.table.load().container(id.as_str())?;
    if container.condemned.is_some() || matches!(container.phase, Phase::Exited { .. }) {
        return Ok(());
    }
    let totals = live.notifiers.totals();
    let totals = totals.into_iter().find(|(known, _)| known == id);
    let reason = reason(&totals.map(|(_, totals)| totals).unwrap_or_default());
    tracing::info!(
        container = id.as_str(),
        reason,
        "container is stopped for its forbidden syscalls"
    );
    let condemned = Container {
        condemned: Some(reason.clone()),
        ..Container::clone(&container)
    };
    if let Err(error) = exits::persist(node, &condemned).await {
        // It is stopped all the same: what would be missed is the reason, after a restart just now.
        tracing::error!(
            container = id.as_str(),
            error = chain(&error),
            "stop not recorded"
        );
    }
    node.table.condemn(id, reason);
    Ok(())
}

/// CRI-O's words.
fn reason(totals: &BTreeMap<String, u64>) -> String {
    let calls = totals
        .iter()
        .map(|(call, count)| format!("{call} ({count}x)"));
    let calls: Vec<_> = calls.collect();
    format!("Used forbidden syscalls: {}", calls.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotation_counts_where_it_is_allowed() {
        let [new, old] = NAMES;
        let annotations = |list: &[(&str, &str)]| {
            let list = list.iter();
            list.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect::<BTreeMap<_, _>>()
        };
        for (there, allowed, meant) in [
            (&[(new, "stop")][..], &[new][..], Some(Action::Stop)),
            (&[(old, "stop")], &[old], Some(Action::Stop)),
            (&[(new, "log")], &[new], Some(Action::Log)),
            (&[(new, "")], &[new], Some(Action::Log)),
            (&[(new, "Stop")], &[new], Some(Action::Log)),
            (
                &[(new, "log"), (old, "stop")],
                &[new, old],
                Some(Action::Log),
            ),
            (&[(new, "stop"), (old, "log")], &[old], Some(Action::Log)),
            (&[(new, "stop")], &[], None),
            (&[(new, "stop")], &[old], None),
            (&[], &[new, old], None),
        ] {
            let allowed: Vec<String> = allowed.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(action(&annotations(there), &allowed), meant, "{there:?}");
        }
    }

    #[test]
    fn the_reason_names_the_calls_in_order() {
        let totals = [("swapon".to_owned(), 1), ("chroot".to_owned(), 2)];
        assert_eq!(
            reason(&totals.into()),
            "Used forbidden syscalls: chroot (2x), swapon (1x)"
        );
    }
}
