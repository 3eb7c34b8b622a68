//! Namespaces: made by a process that then ends, kept by pins (bind mounts of `/proc/PID/ns/…`).
//!
//! Making them needs a single-threaded process of its own: a user namespace can't be entered by a
//! threaded one, and the others have to be made inside it to belong to it (`user_namespaces(7)`).

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::process::Pid;

/// A kind of namespace that can be pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Host and domain name.
    Uts,
    /// System V IPC, POSIX message queues.
    Ipc,
    /// Network.
    Net,
    /// Users and capabilities.
    User,
    /// Cgroup root.
    Cgroup,
    /// Mounts.
    Mount,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::User,
        Self::Uts,
        Self::Ipc,
        Self::Net,
        Self::Cgroup,
        Self::Mount,
    ];

    /// Its name in `/proc/PID/ns`.
    #[must_use]
    pub fn proc_name(self) -> &'static str {
        match self {
            Self::Uts => "uts",
            Self::Ipc => "ipc",
            Self::Net => "net",
            Self::User => "user",
            Self::Cgroup => "cgroup",
            Self::Mount => "mnt",
        }
    }

    /// The directory of its pins beneath the one for all.
    #[must_use]
    pub fn dir_name(self) -> &'static str {
        match self {
            Self::Uts => "utsns",
            Self::Ipc => "ipcns",
            Self::Net => "netns",
            Self::User => "userns",
            Self::Cgroup => "cgroupns",
            Self::Mount => "mntns",
        }
    }

    fn flag(self) -> i32 {
        match self {
            Self::Uts => libc::CLONE_NEWUTS,
            Self::Ipc => libc::CLONE_NEWIPC,
            Self::Net => libc::CLONE_NEWNET,
            Self::User => libc::CLONE_NEWUSER,
            Self::Cgroup => libc::CLONE_NEWCGROUP,
            Self::Mount => libc::CLONE_NEWNS,
        }
    }

    /// The namespace of a process.
    #[must_use]
    pub fn of(self, pid: Pid) -> PathBuf {
        PathBuf::from(format!("/proc/{pid}/ns/{}", self.proc_name()))
    }
}

/// Moves the calling thread into new namespaces. `unshare(2)`.
///
/// # Errors
/// `EINVAL`: a user or mount namespace in a threaded process. `EPERM`, `ENOSPC` (too many).
#[allow(
    unsafe_code,
    reason = "rustix's own is unsafe for the sake of flags that aren't used here"
)]
pub fn unshare(kinds: &[Kind]) -> io::Result<()> {
    let flags = kinds.iter().fold(0, |flags, kind| flags | kind.flag());
    // SAFETY: no CLONE_FILES or CLONE_VM among the flags, so no descriptor changes its meaning.
    let rc = unsafe { libc::unshare(flags) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Moves the calling thread into a namespace. `setns(2)`.
///
/// # Errors
/// `EINVAL`: it is of another kind. `EPERM`.
#[allow(unsafe_code, reason = "one call for every kind")]
pub fn enter(namespace: BorrowedFd<'_>, kind: Kind) -> io::Result<()> {
    // SAFETY: plain system call on a descriptor; the kernel checks the kind.
    let rc = unsafe { libc::setns(namespace.as_raw_fd(), kind.flag()) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Does `work` inside of a namespace, on a thread of its own that ends afterwards: no other thread
/// is ever in a foreign one. Waits for it.
///
/// # Errors
/// Those of [`enter`], and that of having no more threads.
///
/// # Panics
/// Where `work` does.
pub fn within<T: Send>(
    namespace: BorrowedFd<'_>,
    kind: Kind,
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let inside = std::thread::Builder::new()
            .name("inside".to_owned())
            .spawn_scoped(scope, || enter(namespace, kind).map(|()| work()))?;
        inside
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Opens a namespace by its pin or its name in `/proc`.
///
/// # Errors
/// Those of `open(2)`.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// The user namespace that owns a namespace. `ioctl_ns(2)`, `NS_GET_USERNS`.
///
/// # Errors
/// `EPERM`: it is outside the caller's.
#[allow(unsafe_code, reason = "rustix has no ioctl_ns")]
pub fn owner(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    const NS_GET_USERNS: u32 = 0xb701;
    // SAFETY: a request without an argument; it returns a descriptor.
    let fd = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS as _) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us (close-on-exec).
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins `namespace` (a path in `/proc`) at `pin`, a file that must not be there; directories are
/// made. Nothing is left if it fails.
///
/// # Errors
/// `EEXIST`: it is there. `EINVAL` for a mount namespace: `pin` is on a shared mount.
pub fn pin(namespace: &Path, pin: &Path) -> io::Result<()> {
    if let Some(dir) = pin.parent() {
        fs::create_dir_all(dir)?;
    }
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    drop(rustix::fs::open(pin, flags, Mode::empty())?);
    rustix::mount::mount_bind(namespace, pin).map_err(|err| {
        // Ours, made above, with nothing mounted on it.
        let _gone = fs::remove_file(pin);
        io::Error::from(err)
    })
}

/// Removes a pin, and with it the namespace once nobody is in it; fine if it isn't there.
///
/// # Errors
/// Those of `umount2(2)` and `unlink(2)`.
pub fn unpin(pin: &Path) -> io::Result<()> {
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    loop {
        match rustix::mount::unmount(pin, flags) {
            // Once more: a pin may have been mounted over.
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(err) => return Err(err.into()),
        }
    }
    match rustix::fs::unlink(pin) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(err) => Err(err.into()),
    }
}

/// Makes `dir` a mount of its own that shares nothing: pins of mount namespaces need it.
///
/// # Errors
/// Those of `mount(2)`.
pub fn make_private_mount(dir: &Path) -> io::Result<()> {
    rustix::mount::mount_bind(dir, dir)?;
    rustix::mount::mount_change(dir, MountPropagationFlags::PRIVATE)?;
    Ok(())
}

/// Stops mounts of the calling thread's namespace from reaching the one it was copied from.
///
/// # Errors
/// Those of `mount(2)`.
pub fn make_root_slave() -> io::Result<()> {
    let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change("/", flags)?)
}

/// Writes the ID maps of a process in a new user namespace: lines `inside outside count`.
///
/// # Errors
/// `EPERM`: mapped already, or not ours to map. `EINVAL`: overlapping or empty.
pub fn map_ids(pid: Pid, users: &str, groups: &str) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/uid_map"), users)?;
    fs::write(format!("/proc/{pid}/gid_map"), groups)
}

/// Becomes root of the user namespace that the calling process is in.
///
/// # Errors
/// `EINVAL`: 0 isn't mapped.
#[allow(unsafe_code, reason = "rustix changes the calling thread only")]
pub fn become_root() -> io::Result<()> {
    // SAFETY: plain system calls without pointers.
    let done = unsafe { libc::setgroups(0, std::ptr::null()) } == 0;
    // SAFETY: as above.
    let done = done && unsafe { libc::setresgid(0, 0, 0) } == 0;
    // SAFETY: as above.
    let done = done && unsafe { libc::setresuid(0, 0, 0) } == 0;
    if done {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets the host name of the calling thread's UTS namespace.
///
/// # Errors
/// `EINVAL`: longer than 64 bytes.
pub fn set_hostname(name: &str) -> io::Result<()> {
    Ok(rustix::system::sethostname(name.as_bytes())?)
}

/// Sets the loopback interface of the calling thread's network namespace up. `netdevice(7)`.
///
/// # Errors
/// `EPERM`.
#[allow(unsafe_code, reason = "rustix has no interface flags")]
pub fn loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    // SAFETY: an ifreq is plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    let up = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(io::Error::other)?;
    request.ifr_ifru.ifru_flags = up;
    // SAFETY: a request with name and flags, as SIOCSIFFLAGS reads it.
    let rc = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Runs `work` in a child that ends with it, and gives its pid to `meanwhile`; for programs with
/// a single thread, where a fork is a whole copy. `work` must end by itself once `meanwhile` has
/// returned, also with an error (it waits for pipes of `meanwhile`'s, which are closed then): it is
/// not killed, for it may be saying just now why it failed. Returns what `meanwhile` returns once the child
/// has ended well.
///
/// # Errors
/// `EBUSY`: this process has more threads. Else what `meanwhile` returned, or that the child ended
/// badly (it has said why on its stderr).
#[allow(unsafe_code, reason = "fork")]
pub fn in_child<T>(
    work: impl FnOnce() -> io::Result<()>,
    meanwhile: impl FnOnce(Pid) -> io::Result<T>,
) -> io::Result<T> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(Errno::BUSY.into());
    }
    // SAFETY: this process has one thread, so the child's memory is in no half-changed state.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let code = match work() {
            Ok(()) => 0,
            Err(err) => {
                use std::io::Write;
                let _unheard = writeln!(io::stderr(), "{err}");
                1
            }
        };
        // SAFETY: ends the child without the parent's destructors.
        unsafe { libc::_exit(code) };
    }
    let Some(child) = crate::pidfd::of_number(pid) else {
        return Err(io::Error::last_os_error());
    };
    let result = meanwhile(child);
    let status = rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty())?;
    let well = status.is_some_and(|(_, status)| status.exit_status() == Some(0));
    let value = result?;
    if well {
        Ok(value)
    } else {
        Err(io::Error::other("child failed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_exclusive_and_its_removal_idempotent() {
        let dir = std::env::temp_dir().join(format!("pin-{}", std::process::id()));
        let pin = dir.join("utsns/x");
        let own = Kind::Uts.of(rustix::process::getpid());
        super::pin(&own, &pin).unwrap();
        assert_eq!(
            super::pin(&own, &pin).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        open(&pin).unwrap();
        unpin(&pin).unwrap();
        unpin(&pin).unwrap();
        assert!(!pin.try_exists().unwrap());
        super::pin(Path::new("/proc/self/ns/nonsense"), &pin).unwrap_err();
        assert!(!pin.try_exists().unwrap());
        fs::remove_dir_all(dir).unwrap();
    }
}
