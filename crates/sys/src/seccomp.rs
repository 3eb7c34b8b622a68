//! System calls that a process's seccomp filter leaves to somebody else, who holds the filter's listener:
//! `seccomp_unotify(2)`, Linux 5.0. The caller waits until its call is answered; once nobody has the
//! listener open, the kernel answers with `ENOSYS`.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::OnceLock;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, opcode};

/// `SECCOMP_IOCTL_NOTIF_RECV` and `SECCOMP_IOCTL_NOTIF_SEND`.
const RECEIVE: Opcode = opcode::read_write::<libc::seccomp_notif>(b'!', 0);
const SEND: Opcode = opcode::read_write::<libc::seccomp_notif_resp>(b'!', 1);
/// Bytes for either structure of a later kernel, which may be longer than ours: it reads and writes all of
/// its own.
const ROOM: usize = 512;

/// A call that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Its number at its listener, for [`refuse`].
    pub id: u64,
    /// Whose numbers the call's is of, an `AUDIT_ARCH_*` of `linux/audit.h`.
    pub arch: u32,
    /// The system call.
    pub number: i32,
}

/// A structure of ours, and what a later kernel has behind it.
#[repr(C)]
struct Roomy<T> {
    known: T,
    beyond: [u8; ROOM],
}

/// Whether a descriptor is a filter's listener, by the kernel's name for them.
#[must_use]
pub fn is_listener(fd: BorrowedFd<'_>) -> bool {
    let name = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    name.is_ok_and(|name| name.as_os_str() == "anon_inode:seccomp notify")
}

/// Whether a filter's last process has ended. Told since Linux 5.8.
#[must_use]
pub fn is_over(listener: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(listener, PollFlags::empty())];
    let polled = poll(&mut fds, Some(&Timespec::default()));
    polled.is_ok() && fds.iter().any(|fd| fd.revents().contains(PollFlags::HUP))
}

/// Takes the next call that waits. Only after `poll(2)` has told `POLLIN`: else it may wait for one.
///
/// # Errors
/// `ENOENT`, `EINTR`: none waits any more, its caller was interrupted. Others: the listener is of no more
/// use.
#[allow(
    unsafe_code,
    reason = "the structure that an ioctl fills is said by hand"
)]
pub fn receive(listener: BorrowedFd<'_>) -> io::Result<Notification> {
    check_sizes()?;
    // Zero, or the kernel refuses it.
    let mut call = Roomy {
        known: libc::seccomp_notif {
            id: 0,
            pid: 0,
            flags: 0,
            data: libc::seccomp_data {
                nr: 0,
                arch: 0,
                instruction_pointer: 0,
                args: [0; 6],
            },
        },
        beyond: [0; ROOM],
    };
    // SAFETY: the kernel reads and writes its own `struct seccomp_notif`, which is not longer than `call`
    // (`check_sizes`) and made of plain integers.
    let updater = unsafe { Updater::<RECEIVE, _>::new(&mut call) };
    // SAFETY: `updater` has the operation's structure.
    unsafe { rustix::ioctl::ioctl(listener, updater) }?;
    Ok(Notification {
        id: call.known.id,
        arch: call.known.data.arch,
        number: call.known.data.nr,
    })
}

/// Answers a call that waits with an error: the kernel does not run it.
///
/// # Errors
/// `ENOENT`: it waits no more. That it still does need not be asked before (`SECCOMP_IOCTL_NOTIF_ID_VALID`):
/// nothing was read of its process.
#[allow(
    unsafe_code,
    reason = "the structure that an ioctl reads is said by hand"
)]
pub fn refuse(listener: BorrowedFd<'_>, id: u64, errno: Errno) -> io::Result<()> {
    check_sizes()?;
    let mut answer = Roomy {
        known: libc::seccomp_notif_resp {
            id,
            val: 0,
            error: -errno.raw_os_error(),
            flags: 0,
        },
        beyond: [0; ROOM],
    };
    // SAFETY: the kernel reads its own `struct seccomp_notif_resp`, which is not longer than `answer`
    // (`check_sizes`) and made of plain integers.
    let updater = unsafe { Updater::<SEND, _>::new(&mut answer) };
    // SAFETY: `updater` has the operation's structure.
    Ok(unsafe { rustix::ioctl::ioctl(listener, updater) }?)
}

/// The kernel's structures fit in ours.
fn check_sizes() -> io::Result<()> {
    static FIT: OnceLock<bool> = OnceLock::new();
    let fit = || {
        sizes().is_ok_and(|sizes| {
            usize::from(sizes.seccomp_notif.max(sizes.seccomp_notif_resp)) <= ROOM
        })
    };
    match FIT.get_or_init(fit) {
        true => Ok(()),
        false => Err(Errno::NOTSUP.into()),
    }
}

/// `SECCOMP_GET_NOTIF_SIZES` of `seccomp(2)`.
#[allow(unsafe_code, reason = "rustix has no seccomp(2)")]
fn sizes() -> io::Result<libc::seccomp_notif_sizes> {
    let mut sizes = libc::seccomp_notif_sizes {
        seccomp_notif: 0,
        seccomp_notif_resp: 0,
        seccomp_data: 0,
    };
    // SAFETY: the operation writes this structure, which outlives the call, and nothing else.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_NOTIF_SIZES,
            0,
            &raw mut sizes,
        )
    };
    match rc {
        0 => Ok(sizes),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn the_kernels_structures_are_known() {
        let sizes = sizes().unwrap();
        assert_eq!(
            usize::from(sizes.seccomp_notif),
            size_of::<libc::seccomp_notif>()
        );
        assert_eq!(
            usize::from(sizes.seccomp_notif_resp),
            size_of::<libc::seccomp_notif_resp>()
        );
        assert!(check_sizes().is_ok());
    }

    #[test]
    fn what_is_no_listener_is_told_apart_and_refused() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(!is_listener(file.as_fd()));
        assert!(!is_over(file.as_fd()));
        assert!(receive(file.as_fd()).is_err());
        assert!(refuse(file.as_fd(), 1, Errno::NOSYS).is_err());
    }
}
