//! Signals of a process that handles them in its event loop.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Pid;

/// Ignores a signal in this process. Children of [`crate::spawn`] get its default back.
///
/// # Errors
/// `EINVAL`: no such signal, or one that can't be ignored.
#[allow(unsafe_code, reason = "rustix leaves signal dispositions to libc")]
pub fn ignore(signal: i32) -> io::Result<()> {
    // SAFETY: SIG_IGN runs no code of ours.
    let old = unsafe { libc::signal(signal, libc::SIG_IGN) };
    if old == libc::SIG_ERR {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Blocks a signal in the calling thread and all that it starts later, and returns a descriptor
/// (close-on-exec, not blocking) that becomes readable when it comes. `signalfd(2)`.
///
/// # Errors
/// Those of `signalfd(2)`.
#[allow(unsafe_code, reason = "rustix leaves signal masks to libc")]
pub fn descriptor(signal: i32) -> io::Result<OwnedFd> {
    // SAFETY: a sigset_t is plain bits, all zero is the empty set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is valid.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    // SAFETY: `set` is valid; no old mask is asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    // SAFETY: `set` is valid; a new descriptor is made.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether a process has a handler for a signal, or keeps it to wait for it. What the first process
/// of a process namespace has neither for, the kernel drops (`pid_namespaces(7)`).
///
/// # Errors
/// `ENOENT`, `ESRCH`: there is no such process. `EINVAL`: no such signal.
pub fn is_heard(pid: Pid, signal: i32) -> io::Result<bool> {
    let bit = u32::try_from(signal)
        .ok()
        .and_then(|signal| 1_u64.checked_shl(signal.checked_sub(1)?))
        .ok_or(rustix::io::Errno::INVAL)?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let is_in = |name: &str| {
        let mask = status.lines().find_map(|line| line.strip_prefix(name));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask & bit != 0)
    };
    Ok(is_in("SigCgt:") || is_in("SigBlk:"))
}

/// Reads what a [`descriptor`] holds, so that it is no longer readable.
pub fn clear(descriptor: BorrowedFd<'_>) {
    let mut buffer = [0u8; size_of::<libc::signalfd_siginfo>()];
    while rustix::io::read(descriptor, &mut buffer).is_ok_and(|n| n > 0) {}
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::spawn::{Spec, spawn};

    #[test]
    fn a_handler_is_seen_once_it_is_there() {
        let mut spec = Spec::new(Path::new("/bin/sh"));
        spec.args = ["-c", "trap : TERM; while :; do :; done"]
            .map(Into::into)
            .into();
        let mut child = spawn(&spec).unwrap();
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while !is_heard(child.pid(), 15).unwrap() {
            assert!(std::time::Instant::now() < end, "no handler");
            std::thread::yield_now();
        }
        assert!(!is_heard(child.pid(), 10).unwrap());
        assert!(is_heard(child.pid(), 65).is_err() && is_heard(child.pid(), 0).is_err());
        child.signal(rustix::process::Signal::KILL).unwrap();
        child.wait(Some(Duration::from_secs(10))).unwrap();
    }
}
