//! Reaping: statuses of children, and those of orphans that a subreaper inherits.
//!
//! The daemon is a subreaper: when a monitor dies, the init processes of its containers become
//! the daemon's children, and the exit code that they leave is the container's.

use std::fs;
use std::io;
use std::os::fd::RawFd;

use rustix::process::Pid;

use crate::spawn::{Status, registry};

/// Makes this process the parent of whatever descendant loses its own.
/// `prctl(2)`, `PR_SET_CHILD_SUBREAPER`.
///
/// # Errors
/// None known on Linux ≥ 3.4.
#[allow(
    unsafe_code,
    reason = "rustix takes a pid where the kernel takes a flag"
)]
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: no pointers; an attribute of the process is set.
    let rc = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Reaps the zombies among our children that nobody registered ([`crate::spawn`]). To be called
/// on SIGCHLD; returns at once.
///
/// # Errors
/// If `/proc` can't be read.
pub fn orphans() -> io::Result<Vec<(Pid, Status)>> {
    let _gate = registry::scanning();
    let mut reaped = Vec::new();
    for pid in children()? {
        if !registry::is_known(pid)
            && let Some(status) = wait_pid(pid.as_raw_nonzero().get()).ok().flatten()
        {
            reaped.push((pid, status));
        }
    }
    Ok(reaped)
}

/// Reaps the child `pid` if it is one and has ended.
#[must_use]
pub fn one(pid: Pid) -> Option<Status> {
    wait_pid(pid.as_raw_nonzero().get()).ok().flatten()
}

/// Our children: those of every thread. `proc_pid_children(5)`.
fn children() -> io::Result<Vec<Pid>> {
    let mut pids = Vec::new();
    for task in fs::read_dir("/proc/self/task")? {
        // A thread that ended meanwhile has handed its children to another one, which is read
        // after it or at the next SIGCHLD.
        let Ok(text) = fs::read_to_string(task?.path().join("children")) else {
            continue;
        };
        pids.extend(
            text.split_ascii_whitespace()
                .filter_map(|n| crate::pidfd::of_number(n.parse().ok()?)),
        );
    }
    Ok(pids)
}

fn wait_pid(pid: i32) -> io::Result<Option<Status>> {
    found(wait(libc::P_PID, pid.unsigned_abs(), libc::WNOHANG))
}

/// `waitid(2)` with `P_PIDFD`, Linux 5.4.
pub(crate) fn wait_pidfd(pidfd: RawFd) -> io::Result<Option<Status>> {
    found(wait(libc::P_PIDFD, pidfd.unsigned_abs(), libc::WNOHANG))
}

pub(crate) fn wait_pidfd_blocking(pidfd: RawFd) -> io::Result<Option<Status>> {
    found(wait(libc::P_PIDFD, pidfd.unsigned_abs(), 0))
}

fn found(waited: io::Result<Option<(i32, Status)>>) -> io::Result<Option<Status>> {
    Ok(waited?.map(|(_, status)| status))
}

#[allow(unsafe_code, reason = "rustix hides the pid that waitid found")]
fn wait(kind: libc::idtype_t, id: libc::id_t, flags: i32) -> io::Result<Option<(i32, Status)>> {
    // SAFETY: a siginfo_t is plain data.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: `info` is valid for writes.
        let rc = unsafe { libc::waitid(kind, id, &raw mut info, libc::WEXITED | flags) };
        if rc == 0 {
            break;
        }
        let err = io::Error::last_os_error();
        if err.kind() != io::ErrorKind::Interrupted {
            return Err(err);
        }
    }
    // SAFETY: waitid filled the fields of SIGCHLD, or left the zeros for "none yet".
    let pid = unsafe { info.si_pid() };
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    let status = match info.si_code {
        libc::CLD_EXITED => Status::Exited(status),
        _ => Status::Signaled(status),
    };
    Ok(Some((pid, status)))
}
