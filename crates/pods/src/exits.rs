//! What happens when a container has ended: its state goes to disk, then everybody sees it, then
//! its root is unmounted.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::node::{Node, blocking};
use crate::operations::{chain, create_container};
use crate::state::container::{Container, Exit, Init, Phase};
use crate::{ContainerId, Error, monitors, records};

/// Exit code of a container of which nothing is known: what the field uses for it.
const UNKNOWN: i32 = 255;

/// The monitor's words for an exit in ours. A record of conmon's has no time.
pub(crate) fn from_wire(exit: &monitor_client::Exit) -> Exit {
    Exit {
        code: exit.code,
        finished: match exit.finished_ns {
            0 => SystemTime::now(),
            since => SystemTime::UNIX_EPOCH + Duration::from_nanos(since),
        },
        oom_killed: exit.oom_killed,
        message: exit.reason.clone(),
        reason: None,
    }
}

/// The end of a container whose processes were never restored: as of one that was killed.
pub(crate) fn never_ran() -> Exit {
    Exit {
        code: 137,
        finished: SystemTime::now(),
        oom_killed: false,
        message: "stopped before it was restored".to_owned(),
        reason: None,
    }
}

/// A container has ended. Told again, it is ignored.
pub(crate) async fn exited(node: &Arc<Node>, id: &ContainerId, exit: Exit) {
    let Ok(container) = node.table.load().container(id.as_str()) else {
        return;
    };
    let live = node.live(&container.pod);
    let states = live.states.lock().await;
    let Ok(container) = node.table.load().container(id.as_str()) else {
        return;
    };
    let Ok(phase) = container.phase.exited(container.explained(exit)) else {
        return;
    };
    let ended = Container {
        phase,
        ..Container::clone(&container)
    };
    live.drop_kept(id);
    if let Err(error) = persist(node, &ended).await {
        // Seen all the same: a pod that can't be stopped because the disk is full is worse.
        tracing::error!(
            container = id.as_str(),
            error = chain(&error),
            "exit not recorded"
        );
    }
    if let Phase::Exited { exit, .. } = &ended.phase {
        if exit.oom_killed {
            node.statistics.oom_killed();
        }
        let (container, code) = (id.as_str(), exit.code);
        tracing::info!(
            container,
            code,
            reason = exit.reason(),
            message = exit.message,
            "container exited"
        );
    }
    let phase = ended.phase.clone();
    node.table.step(id, |_| Ok(phase));
    drop(states);
    if let Err(error) = create_container::unmount(node, id).await {
        tracing::warn!(
            container = id.as_str(),
            error = chain(&error),
            "root not unmounted"
        );
    }
}

/// Replaces a container's state on disk; fine if it has no record any more.
pub(crate) async fn persist(node: &Node, container: &Container) -> Result<(), Error> {
    let Some(dirs) = node.dirs(container.id.as_str()).await? else {
        return Ok(());
    };
    let (container, store) = (container.clone(), node.store.clone());
    let write = move || {
        let write = || records::write_state(&container, &dirs);
        store.with_room(Error::is_out_of_space, write)
    };
    blocking(&node.pools.files, write).await
}

/// A monitor tells that a container runs of which the record says that it was only created: the
/// daemon died between start and record.
pub(crate) async fn found_running(node: &Arc<Node>, id: &ContainerId, init: Init) {
    let Some(Ok(container)) = node
        .table
        .step(id, |phase| phase.runs(init, SystemTime::now()))
    else {
        return;
    };
    if let Err(error) = persist(node, &container).await {
        tracing::error!(
            container = id.as_str(),
            error = chain(&error),
            "start not recorded"
        );
    }
}

/// Nobody knows a container any more: what its exit record says, else that it is unknown.
pub(crate) async fn lost(node: &Arc<Node>, container: &Container) {
    let exit = recorded(node, &container.id).await.unwrap_or_else(|| Exit {
        code: UNKNOWN,
        finished: SystemTime::now(),
        oom_killed: false,
        message: "its end was not seen".to_owned(),
        reason: Some("Unknown".to_owned()),
    });
    exited(node, &container.id, exit).await;
}

/// The exit record that a monitor left on tmpfs, or in the persistent directory.
pub(crate) async fn recorded(node: &Node, id: &ContainerId) -> Option<Exit> {
    let volatile = node.options.exits_dir.join(id.as_str());
    let persistent = node
        .dirs(id.as_str())
        .await
        .ok()?
        .map(|dirs| dirs.persistent.join("exit"));
    let wire = monitors::wire_id(id.as_str()).ok()?;
    let read = move || {
        let bytes = std::fs::read(volatile)
            .or_else(|_| std::fs::read(persistent.unwrap_or_default()))
            .ok()?;
        let exit = monitor_client::Exit::from_record(&wire, &bytes)?;
        Some(from_wire(&exit))
    };
    blocking(&node.pools.files, read).await
}

/// Removes the exit record of a container or of a pod's own process, and what is left of one whose
/// writer was killed.
pub(crate) async fn remove_record(node: &Node, id: &str) -> Result<(), Error> {
    let record = node.options.exits_dir.join(id);
    let mut unfinished = record.clone().into_os_string();
    unfinished.push(monitor_client::Exit::TEMPORARY);
    let remove = move || {
        for path in [record, unfinished.into()] {
            match std::fs::remove_file(&path) {
                Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed.map_err(Error::io("remove", path))?,
            }
        }
        Ok(())
    };
    blocking(&node.pools.files, remove).await
}
