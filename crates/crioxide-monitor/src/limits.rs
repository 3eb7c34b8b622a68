//! Bounds and times of the monitor's own. All are ours.

use std::time::Duration;

/// Connections at a time: the daemon's, one of its successor, one to look with.
pub(crate) const CONNECTIONS: usize = 8;
/// When to accept again after that failed.
pub(crate) const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Requests of one connection in a row, before the others get their turn.
pub(crate) const REQUESTS: usize = 16;
/// Containers that were announced and are not made (yet).
pub(crate) const ANNOUNCED: usize = 64;
/// Statuses of reaped processes that nobody knew (yet).
pub(crate) const UNKNOWN_STATUSES: usize = 64;
/// How long the processes that were left in a container's cgroup may take to die.
pub(crate) const LEFTOVERS: Duration = Duration::from_secs(2);
/// How long an exit waits for its last output to be written. The output is written all the same,
/// later; a stalled disk must not hide an exit.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);
/// How long a lost exit status is waited for, until it is 137, "monitor lost".
pub(crate) const LOST: Duration = Duration::from_secs(5);
/// What a `delete` may take.
pub(crate) const DELETE_MS: u32 = 60_000;
/// How long a predecessor that was killed may take to end.
pub(crate) const PREDECESSOR: Duration = Duration::from_secs(10);
/// Seccomp filters' listeners of one container: one, and one more for each exec that runs. Calls of those
/// beyond get the kernel's own answer.
pub(crate) const LISTENERS: usize = 128;
/// Runtimes that are handing over a listener.
pub(crate) const SENDERS: usize = 64;
/// Bytes that a runtime may say beside a listener: the container's state, with its annotations.
pub(crate) const STATE_BYTES: usize = 1 << 20;
/// Different forbidden calls of one container: more than there are system calls of two architectures.
pub(crate) const FORBIDDEN: usize = 1024;
/// Between two times that forbidden calls of one container are told, however many there are.
pub(crate) const NEWS: Duration = Duration::from_millis(200);
