//! Signals of a process that handles them in its event loop.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

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

/// Reads what a [`descriptor`] holds, so that it is no longer readable.
pub fn clear(descriptor: BorrowedFd<'_>) {
    let mut buffer = [0u8; size_of::<libc::signalfd_siginfo>()];
    while rustix::io::read(descriptor, &mut buffer).is_ok_and(|n| n > 0) {}
}
