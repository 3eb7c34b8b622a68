//! Locks on files between processes: open-file-description locks with a time-out.
//!
//! Classic POSIX record locks belong to the process and vanish when *any* descriptor of the file
//! is closed, which no library can prevent. Open-file-description locks (`F_OFD_SETLK`,
//! `fcntl_locking(2)`, Linux 3.15) belong to the descriptor and still conflict with other
//! processes' POSIX locks. They detect no deadlock: whoever takes two has to keep an order.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// The longest pause between two tries for a lock that somebody holds.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Beside other shared holders.
    Shared,
    /// Alone.
    Exclusive,
}

/// Why a lock was not taken.
#[derive(Debug)]
pub enum LockError {
    /// The time was up. `holder` is the process that holds a conflicting POSIX lock; `None` for
    /// one by another open-file-description lock, which the kernel does not tell.
    TimedOut {
        /// Process ID of the holder, where the kernel tells it.
        holder: Option<i32>,
    },
    /// The kernel refused.
    Io(io::Error),
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut { holder: Some(pid) } => write!(f, "lock held by process {pid}"),
            Self::TimedOut { holder: None } => f.write_str("lock held by another process"),
            Self::Io(error) => write!(f, "lock: {error}"),
        }
    }
}

impl std::error::Error for LockError {}

impl From<io::Error> for LockError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// An open lock file. Dropping it releases the lock.
#[derive(Debug)]
pub struct LockFile(File);

impl LockFile {
    /// Opens the lock file `path`, making it with mode 0600 where it is missing.
    ///
    /// # Errors
    /// Of `open(2)`.
    pub fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map(Self)
    }

    /// Opens the lock file `path`, which may be on a read-only file system, for shared locks alone.
    ///
    /// # Errors
    /// `ENOENT` where there is none; else of `open(2)`.
    pub fn open_to_read(path: &Path) -> io::Result<Self> {
        File::open(path).map(Self)
    }

    /// Opens a file that is there, to lock it.
    ///
    /// # Errors
    /// `ENOENT` where there is none; else of `open(2)`.
    pub fn open_existing(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).open(path).map(Self)
    }

    /// Takes the lock if nobody is in the way; says whether it did.
    ///
    /// # Errors
    /// Of `fcntl(2)`, but for a conflict.
    pub fn try_lock(&self, kind: Kind) -> io::Result<bool> {
        match fcntl_lock(&self.0, libc::F_OFD_SETLK, lock_type(kind)) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the lock, waiting at most `timeout`.
    ///
    /// # Errors
    /// [`LockError::TimedOut`] names the holder.
    pub fn lock(&self, kind: Kind, timeout: Duration) -> Result<(), LockError> {
        let deadline = Instant::now() + timeout;
        let mut pause = Duration::from_micros(250);
        while !self.try_lock(kind)? {
            if Instant::now() >= deadline {
                return Err(LockError::TimedOut {
                    holder: self.holder(kind)?,
                });
            }
            // `F_OFD_SETLKW` can only be ended by a signal, and the kernel sends no event when
            // a lock becomes free: a bounded wait has to ask again.
            #[allow(
                clippy::disallowed_methods,
                reason = "no event exists for a freed file lock"
            )]
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Ok(())
    }

    /// Releases the lock and keeps the file open.
    ///
    /// # Errors
    /// Of `fcntl(2)`.
    pub fn unlock(&self) -> io::Result<()> {
        fcntl_lock(&self.0, libc::F_OFD_SETLK, libc::F_UNLCK).map(drop)
    }

    /// The process whose POSIX lock is in the way of `kind`, if the kernel can tell.
    ///
    /// # Errors
    /// Of `fcntl(2)`.
    pub fn holder(&self, kind: Kind) -> io::Result<Option<i32>> {
        let found = fcntl_lock(&self.0, libc::F_OFD_GETLK, lock_type(kind))?;
        let held = i32::from(found.l_type) != libc::F_UNLCK;
        Ok((held && found.l_pid > 0).then_some(found.l_pid))
    }

    /// Reads at most `buffer.len()` bytes from the file's start; says how many there were.
    ///
    /// # Errors
    /// Of `pread(2)`.
    pub fn read_start(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(buffer, 0)
    }

    /// Writes `bytes` at the file's start.
    ///
    /// # Errors
    /// Of `pwrite(2)`.
    pub fn write_start(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, 0)
    }

    /// Whether the file still has a name: a peer that wipes its directory leaves ours without.
    ///
    /// # Errors
    /// Of `fstat(2)`.
    pub fn is_linked(&self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        Ok(self.0.metadata()?.nlink() > 0)
    }
}

impl std::os::fd::AsFd for LockFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn lock_type(kind: Kind) -> libc::c_int {
    match kind {
        Kind::Shared => libc::F_RDLCK,
        Kind::Exclusive => libc::F_WRLCK,
    }
}

/// `fcntl(2)` with a lock over the whole file; the kernel's answer is returned.
#[allow(unsafe_code, reason = "rustix has no open-file-description locks")]
fn fcntl_lock(file: &File, command: libc::c_int, kind: libc::c_int) -> io::Result<libc::flock> {
    let mut lock = libc::flock {
        l_type: libc::c_short::try_from(kind).map_err(|_| io::ErrorKind::InvalidInput)?,
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open for the call's time and `lock` is a whole `struct flock`,
    // which these commands read and write and do not keep.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(lock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exclusive_conflicts_within_one_process_and_names_no_holder() {
        let dir = tempfile();
        let (one, two) = (LockFile::open(&dir).unwrap(), LockFile::open(&dir).unwrap());
        one.lock(Kind::Exclusive, Duration::ZERO).unwrap();
        assert!(!two.try_lock(Kind::Shared).unwrap());
        let error = two
            .lock(Kind::Shared, Duration::from_millis(5))
            .unwrap_err();
        assert!(matches!(error, LockError::TimedOut { holder: None }));
        one.unlock().unwrap();
        two.lock(Kind::Shared, Duration::ZERO).unwrap();
        assert!(one.try_lock(Kind::Shared).unwrap());
        std::fs::remove_file(dir).unwrap();
        assert!(!one.is_linked().unwrap());
    }

    fn tempfile() -> std::path::PathBuf {
        std::env::temp_dir().join(format!("crioxide-lock-{}", std::process::id()))
    }
}
