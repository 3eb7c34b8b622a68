//! Process descriptors: opened for the right process, waited for, asked for its exit code.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::spawn::Status;

/// A number as a process's, if it can be one: rustix takes it for granted that none is negative.
#[must_use]
pub fn of_number(number: i32) -> Option<Pid> {
    Some(number)
        .filter(|number| *number > 0)
        .and_then(Pid::from_raw)
}

/// Opens the process `pid`. `pidfd_open(2)`, Linux 5.3.
///
/// # Errors
/// `ESRCH`: there is none.
pub fn open(pid: Pid) -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Opens the process `pid` if it is the one that started at `start_time` ([`start_time`]).
///
/// # Errors
/// `ESRCH`: there is none, or its number is another's now.
pub fn open_checked(pid: Pid, start_time: u64) -> io::Result<OwnedFd> {
    let pidfd = open(pid)?;
    // In this order: whatever has the number now is what `pidfd` is, or that has ended.
    if self::start_time(pid)? == start_time {
        Ok(pidfd)
    } else {
        Err(Errno::SRCH.into())
    }
}

/// When the process started, in clock ticks since boot: with the pid, its identity.
/// `proc_pid_stat(5)`, field 22.
///
/// # Errors
/// `ENOENT` or `ESRCH`: there is no such process.
pub fn start_time(pid: Pid) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may contain anything: count from its end.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name
        .split_ascii_whitespace()
        .nth(19)
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::other("bad /proc/PID/stat"))
}

/// Sends a signal, also a real-time one.
///
/// # Errors
/// `ESRCH`: it has ended. `EINVAL`: no such signal.
#[allow(unsafe_code, reason = "rustix's Signal refuses real-time signals")]
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    if let Some(signal) = Signal::from_named_raw(signal) {
        return Ok(rustix::process::pidfd_send_signal(pidfd, signal)?);
    }
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null info is what `kill(2)` would send; no other pointer.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            info,
            0u32,
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Waits until the process has ended, for `timeout` at most; whether it has.
///
/// # Errors
/// Those of `poll(2)`.
pub fn wait_ended(pidfd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
    wait_for(pidfd, PollFlags::IN, timeout)
}

/// Waits until the process has been reaped as well (POLLHUP): only then is [`exit_status`] there.
///
/// # Errors
/// Those of `poll(2)`.
pub fn wait_reaped(pidfd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
    // Asking for nothing: POLLHUP is reported unasked, POLLIN would end the wait too early.
    wait_for(pidfd, PollFlags::empty(), timeout)
}

fn wait_for(
    pidfd: BorrowedFd<'_>,
    flags: PollFlags,
    timeout: Option<Duration>,
) -> io::Result<bool> {
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let timespec = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(
            &mut [PollFd::from_borrowed_fd(pidfd, flags)],
            timespec.as_ref(),
        ) {
            Ok(n) => return Ok(n > 0),
            Err(Errno::INTR) => {}
            Err(err) => return Err(err.into()),
        }
    }
}

/// The exit status of a process that somebody else reaped. `PIDFD_GET_INFO` with
/// `PIDFD_INFO_EXIT`, Linux 6.15, on a descriptor opened before the process was reaped.
///
/// `None`: it runs, isn't reaped yet ([`wait_reaped`]), or the kernel can't tell.
#[allow(unsafe_code, reason = "rustix has no PIDFD_GET_INFO")]
#[must_use]
pub fn exit_status(pidfd: BorrowedFd<'_>) -> Option<Status> {
    // SAFETY: plain integers.
    let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
    info.mask = u64::from(libc::PIDFD_INFO_EXIT);
    // SAFETY: the request's number carries the size of `info`, which is valid for writes.
    let rc = unsafe { libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) };
    (rc == 0 && info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0)
        .then(|| Status::from_wait(info.exit_code))
}

#[cfg(test)]
mod tests;
