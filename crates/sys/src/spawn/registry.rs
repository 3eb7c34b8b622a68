//! Which children are somebody's: see the lock rule in [`super`].

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustix::process::Pid;

use super::Status;

/// Shared by whoever makes or reaps a child of its own, exclusive for the orphan reaper.
static GATE: RwLock<()> = RwLock::new(());
/// Few enough (one monitor per pod, plus what runs just now) for a plain list.
static CHILDREN: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

fn children() -> MutexGuard<'static, Vec<Pid>> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Held while a child is made, until [`add`].
pub(super) fn making() -> RwLockReadGuard<'static, ()> {
    GATE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Held while orphans are looked for.
pub(crate) fn scanning() -> RwLockWriteGuard<'static, ()> {
    GATE.write().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn add(pid: Pid) {
    children().push(pid);
}

pub(super) fn forget(pid: Pid) {
    children().retain(|known| *known != pid);
}

pub(crate) fn is_known(pid: Pid) -> bool {
    children().contains(&pid)
}

/// Reaps the child of `pidfd` if it has ended, and forgets it in the same breath: its number may
/// be another process's at once.
pub(super) fn reap(pid: Pid, pidfd: &OwnedFd) -> io::Result<Option<Status>> {
    let _gate = making();
    let found = crate::reap::wait_pidfd(pidfd.as_fd().as_raw_fd())?;
    if found.is_some() {
        forget(pid);
    }
    Ok(found)
}
