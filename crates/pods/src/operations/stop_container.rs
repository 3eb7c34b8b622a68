//! StopContainer: the stop signal, then SIGKILL.
//!
//! Each call waits for itself, on events and under no lock: a later call with a shorter time-out
//! kills earlier, one with a longer time-out has no effect, and one that waits 24 hours holds
//! nobody up. Who was paused goes on first: it could not hear anything. Once SIGKILL goes out, no
//! command is started in the container any more: until then its preparations for the end may need
//! some.

use std::convert::Infallible;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::stage::step;
use super::{Outcome, act, chain, if_there};
use crate::monitors::Live;
use crate::node::Node;
use crate::state::container::{Container, Phase};
use crate::{ContainerId, Error, cgroups, exits, monitors};

pub(crate) const OPERATION: &str = "stop-container";
/// Its steps.
pub(crate) const STEPS: &[&str] = &["kill"];
/// How long the end may take after SIGKILL, before the caller is told that it is stuck.
const KILL: Duration = Duration::from_secs(60);
/// The first pause until a process that did not hear its stop signal is looked at again, and the
/// longest.
const DEAF: Duration = Duration::from_millis(5);
const DEAFEST: Duration = Duration::from_millis(500);
/// How long a runtime may take to become the container's program, before it gets the stop signal itself.
const BECOMING: Duration = Duration::from_secs(2);
/// SIGKILL goes out again while the process is stuck in the kernel.
const AGAIN: Duration = Duration::from_secs(5);

/// Stops a container; fine if it is not running, or not there.
pub(crate) async fn run(node: &Arc<Node>, id: &str, timeout: Duration) -> Outcome {
    let Some(container) = if_there(node.table.load().container(id))? else {
        return Ok(String::new());
    };
    let subject = format!("{} {timeout:?}", container.id);
    act(node, OPERATION, subject, "stop", |node| async move {
        stop(&node, &container, timeout).await
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
        // A checkpoint holds them while it keeps the container frozen.
        if let Ok(_updates) = live.updates.try_lock() {
            resume(node, container).await;
        }
        let has_ended = tokio::select! {
            has_ended = ended(node, id, timeout) => has_ended,
            never = ask(node, &live, container, &wire) => match never {},
        };
        if has_ended {
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
        resume(node, container).await;
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
        let stuck = stuck(node, id, waited).await;
        tracing::warn!(container = id.as_str(), "{stuck}");
    }
    Err(Error::TimedOut(format!(
        "container {id} did not end within {KILL:?} of SIGKILL"
    )))
}

/// Lets a container go on that somebody has paused.
async fn resume(node: &Node, container: &Container) {
    if let Err(error) = cgroups::thaw(node, container).await {
        let (container, error) = (container.id.as_str(), chain(&error));
        tracing::warn!(container, error, "container not resumed");
    }
}

/// What keeps a container from ending that was killed, in CRI-O's words.
async fn stuck(node: &Node, id: &ContainerId, waited: Duration) -> String {
    let phase = node.table.load().container(id.as_str());
    let init = phase.ok().and_then(|container| container.phase.init());
    let pid = init.map_or(0, |init| init.pid);
    let read = move || std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let stat = node.pools.files.run(read).await;
    blocked(pid, process_state(&stat), waited, id.as_str())
}

/// The state in `/proc/PID/stat` (`proc_pid_stat(5)`), after the name in brackets, which may hold any.
fn process_state(stat: &[u8]) -> Option<char> {
    let text = String::from_utf8_lossy(stat);
    let (_, behind) = text.rsplit_once(')')?;
    behind.trim_start().chars().next()
}

fn blocked(pid: i32, state: Option<char>, waited: Duration, id: &str) -> String {
    let seconds = waited.as_secs();
    match state {
        Some('D') => format!(
            "Detected process ({pid}) blocked in uninterruptible sleep for more than {seconds} \
             seconds for container {id}"
        ),
        Some(state) => format!(
            "Detected process ({pid}) in state {state} blocked for more than {seconds} seconds for \
             container {id}. One of the child processes might be in uninterruptible sleep."
        ),
        None => format!("Container {id} has not ended {seconds} seconds after SIGKILL"),
    }
}

/// Sends the stop signal; again where it was dropped because there was no handler yet, once there is
/// one. A runtime that has not yet become the program is spared: Go's would end by it, with a code of its
/// own. Never returns.
async fn ask(
    node: &Node,
    live: &Live,
    container: &Container,
    wire: &monitor_client::Id,
) -> Infallible {
    let spare_until = Instant::now() + BECOMING;
    let mut pause = DEAF;
    let mut sent = false;
    loop {
        let ear = ear(node, container).await;
        let spared = ear == Ear::Runtime && Instant::now() < spare_until;
        if ear == Ear::Hears || !(sent || spared) {
            signal(live, container, wire).await;
            sent = true;
        }
        if ear == Ear::Hears {
            std::future::pending::<Infallible>().await;
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "nobody tells when a process has a handler"
        )]
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(DEAFEST);
    }
}

async fn signal(live: &Live, container: &Container, wire: &monitor_client::Id) {
    match live.monitor().await {
        // One that ended in between needs no signal.
        Ok(monitor) => drop(monitor.signal(wire, container.made.stop_signal).await),
        Err(error) => tracing::warn!(
            container = container.id.as_str(),
            error = chain(&error),
            "stop signal not sent"
        ),
    }
}

/// What a stop signal would meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ear {
    /// The runtime that is about to become the container's program, or a program that has no file either.
    Runtime,
    /// A program without a handler.
    Deaf,
    /// One with a handler, or nobody.
    Hears,
}

async fn ear(node: &Node, container: &Container) -> Ear {
    let phase = node.table.load().container(container.id.as_str());
    let init = phase.ok().and_then(|container| container.phase.init());
    let pid = init.and_then(|init| sys::pidfd::of_number(init.pid));
    let (Some(pid), signal) = (pid, container.made.stop_signal) else {
        return Ear::Hears;
    };
    let look = move || {
        // A runtime is run from a sealed copy of itself.
        let program = std::fs::read_link(format!("/proc/{pid}/exe"));
        if program.is_ok_and(|program| program.as_os_str().as_bytes().starts_with(b"/memfd:")) {
            Ear::Runtime
        } else if sys::signal::is_heard(pid, signal).unwrap_or(true) {
            Ear::Hears
        } else {
            Ear::Deaf
        }
    };
    node.pools.files.run(look).await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_stuck_is_told_with_its_state() {
        let waited = Duration::from_secs(5);
        for (stat, text) in [
            (
                &b"7 (a) D (b) D 1 7"[..],
                "Detected process (7) blocked in uninterruptible sleep for more than 5 seconds for container x",
            ),
            (
                b"7 (D) S 1",
                "Detected process (7) in state S blocked for more than 5 seconds for container x. \
                 One of the child processes might be in uninterruptible sleep.",
            ),
            (b"", "Container x has not ended 5 seconds after SIGKILL"),
        ] {
            assert_eq!(blocked(7, process_state(stat), waited, "x"), text);
        }
    }
}
