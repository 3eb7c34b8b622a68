//! What is alive of one pod: its monitor, and what a successor of it will need.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use monitor_client::{Created, HeldOutput, Monitor};
use sys::spawn::Status;
use tokio::sync::{RwLock, oneshot, watch};

use super::READY;
use crate::seccomp_notifier::Notifiers;
use crate::state::container::{Container, Init, Phase};
use crate::{ContainerId, Error};

/// What is alive of a pod, and lives in memory only.
#[derive(Debug)]
pub(crate) struct Live {
    pub(super) monitor: watch::Sender<Option<Monitor>>,
    /// The pod is being stopped: a monitor that ends is not replaced.
    pub(super) closing: AtomicBool,
    pub(super) kept: Mutex<HashMap<ContainerId, Kept>>,
    pub(super) execs: Mutex<HashMap<String, Expected>>,
    /// How often a container lost its monitor.
    losses: Mutex<HashMap<ContainerId, u64>>,
    /// Containers that are being killed and have not ended.
    killed: Mutex<HashSet<ContainerId>>,
    /// Containers with a seccomp notifier.
    pub(crate) notifiers: Notifiers,
    /// Held shared by what makes or starts a container, and whole by what ends the pod.
    pub(crate) gate: RwLock<()>,
    /// Held while a container's state goes to disk and then to everybody: the news of a start and
    /// that of an end come side by side.
    pub(crate) states: tokio::sync::Mutex<()>,
    /// Held while limits are changed: each change starts from what the one before left. It may
    /// wait for an OCI runtime, for which an end must not; taken before [`Self::states`].
    pub(crate) updates: tokio::sync::Mutex<()>,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            monitor: watch::Sender::new(None),
            closing: AtomicBool::new(false),
            kept: Mutex::default(),
            execs: Mutex::default(),
            losses: Mutex::default(),
            killed: Mutex::default(),
            notifiers: Notifiers::default(),
            gate: RwLock::default(),
            states: tokio::sync::Mutex::default(),
            updates: tokio::sync::Mutex::default(),
        }
    }
}

/// Descriptors of a container that a successor of its monitor needs.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) pidfd: Option<OwnedFd>,
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) stdin: Option<OwnedFd>,
    /// Its output's pipes: what nobody has read is gone once nobody has them open.
    pub(crate) output: HeldOutput,
}

impl Live {
    /// The monitor; waits while it, or a successor, is being started.
    pub(crate) async fn monitor(&self) -> Result<Monitor, Error> {
        let closing = || self.closing.load(Ordering::Acquire);
        let mut there = self.monitor.subscribe();
        let wait = there.wait_for(|monitor| monitor.is_some() || closing());
        let monitor = match tokio::time::timeout(READY, wait).await {
            Ok(Ok(monitor)) => monitor.clone(),
            Ok(Err(_)) | Err(_) => None,
        };
        match monitor {
            _ if closing() => Err(Error::WrongState("the pod sandbox is not ready".to_owned())),
            Some(monitor) => Ok(monitor),
            None => Err(Error::Monitor("there is none".to_owned())),
        }
    }

    /// There will be no monitor: who waits for one is told, and later callers too.
    pub(super) fn close(&self) -> Option<Monitor> {
        self.closing.store(true, Ordering::Release);
        self.monitor.send_replace(None)
    }

    /// The monitor if it is there now.
    pub(crate) fn monitor_now(&self) -> Option<Monitor> {
        self.monitor.borrow().clone()
    }

    /// Keeps what came with a container that a monitor has just made.
    ///
    /// # Errors
    /// A pid that is none.
    pub(crate) fn take(&self, id: &ContainerId, made: Created) -> Result<Init, Error> {
        let pid = i32::try_from(made.pid);
        let pid = pid.map_err(|_| Error::Internal(format!("pid {}", made.pid)))?;
        let kept = Kept {
            pidfd: Some(made.pidfd),
            terminal: made.terminal,
            stdin: made.stdin,
            output: made.output,
        };
        self.keep(id, kept);
        Ok(Init {
            pid,
            start_time: made.start_time,
        })
    }

    pub(crate) fn keep(&self, id: &ContainerId, kept: Kept) {
        lock(&self.kept).insert(id.clone(), kept);
    }

    /// Forgets what is kept of a container that has ended, or never was.
    pub(crate) fn drop_kept(&self, id: &ContainerId) {
        lock(&self.kept).remove(id);
        lock(&self.killed).remove(id);
        self.notifiers.ended(id);
    }

    /// Forgets a container altogether.
    pub(crate) fn forget(&self, id: &ContainerId) {
        self.drop_kept(id);
        self.notifiers.forget(id);
    }

    /// How often each container lost its monitor.
    pub(crate) fn losses(&self) -> Vec<(ContainerId, u64)> {
        let losses = lock(&self.losses);
        losses
            .iter()
            .map(|(id, count)| (id.clone(), *count))
            .collect()
    }

    /// Notes the loss of the monitor, for the containers that have not ended.
    pub(super) fn monitor_lost<'a>(&self, containers: impl Iterator<Item = &'a Arc<Container>>) {
        self.notifiers.monitor_lost();
        let mut losses = lock(&self.losses);
        for container in containers {
            if !matches!(container.phase, Phase::Exited { .. }) {
                *losses.entry(container.id.clone()).or_default() += 1;
            }
        }
    }

    /// From here on nothing may be started in the container.
    pub(crate) fn begin_kill(&self, id: &ContainerId) {
        lock(&self.killed).insert(id.clone());
    }

    /// Fails once a container is being killed.
    pub(crate) fn check_not_killed(&self, id: &ContainerId) -> Result<(), Error> {
        if lock(&self.killed).contains(id) {
            let text = format!("cannot start exec: container {id} is being killed");
            return Err(Error::WrongState(text));
        }
        Ok(())
    }

    /// Closes the end of a container's stdin that is held for a successor of its monitor.
    pub(crate) fn close_stdin(&self, id: &ContainerId) {
        if let Some(kept) = lock(&self.kept).get_mut(id) {
            kept.stdin = None;
        }
    }

    /// Told when the exec `id` has ended.
    pub(crate) fn expect_exec(&self, id: &str) -> oneshot::Receiver<Status> {
        let (tell, told) = oneshot::channel();
        let expected = Expected { pid: None, tell };
        lock(&self.execs).insert(id.to_owned(), expected);
        told
    }

    /// Notes which process an exec is: if its monitor dies, the daemon may be the one that reaps it.
    pub(crate) fn exec_runs(&self, id: &str, pid: u32) {
        if let Some(expected) = lock(&self.execs).get_mut(id) {
            expected.pid = i32::try_from(pid).ok();
        }
    }

    /// Tells the end of an exec that the daemon reaped.
    pub(super) fn exec_reaped(&self, pid: i32, status: Status) {
        let mut execs = lock(&self.execs);
        let id = execs.iter().find(|(_, exec)| exec.pid == Some(pid));
        if let Some(id) = id.map(|(id, _)| id.clone())
            && let Some(expected) = execs.remove(&id)
        {
            // Whoever asked may have gone away.
            expected.tell.send(status).ok();
        }
    }

    pub(crate) fn forget_exec(&self, id: &str) {
        lock(&self.execs).remove(id);
    }
}

/// An exec whose end somebody waits for.
#[derive(Debug)]
pub(super) struct Expected {
    /// The process, once it is known.
    pid: Option<i32>,
    pub(super) tell: oneshot::Sender<Status>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
