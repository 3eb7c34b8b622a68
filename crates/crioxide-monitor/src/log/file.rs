//! A container's log file: opened safely, rotated, restarted, found again after a crash.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, Stat};
use rustix::io::Errno;

/// Files of a log's directory that are looked at to find a rotated one.
const CANDIDATES: usize = 1000;

/// An open log.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: OwnedFd,
    /// Restarted beyond this size; never if 0.
    size_max: u64,
}

/// Which file, and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
}

impl LogFile {
    /// Opens the log at `path`, or makes it. What is there must be a regular file, and no symbolic
    /// link.
    pub(crate) fn open(path: &Path, size_max: u64) -> io::Result<Self> {
        let file = open(path, OFlags::CREATE)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            size_max,
        })
    }

    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The file that `path` names now: after a rotation, a new one.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        self.file = open(&self.path, OFlags::CREATE)?;
        Ok(())
    }

    /// Where `length` bytes of records go. A log that would get too large is replaced by an empty
    /// one first, as conmon does; a log that somebody else truncated goes on at its end.
    pub(crate) fn place(&mut self, length: usize) -> io::Result<Place> {
        let place = place(&self.file)?;
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        if self.size_max == 0
            || place.size == 0
            || place.size.saturating_add(length) <= self.size_max
        {
            return Ok(place);
        }
        self.restart()?;
        self::place(&self.file)
    }

    /// Replaces the log by an empty one: who has it open can read the old one to its end.
    fn restart(&mut self) -> io::Result<()> {
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(".tmp");
        let file = open(Path::new(&temporary), OFlags::CREATE | OFlags::TRUNC)?;
        rustix::fs::rename(&temporary, &self.path)?;
        self.file = file;
        Ok(())
    }

    /// The file of a write that wasn't finished: this one, or one that it was rotated to in the
    /// same directory, or none.
    pub(crate) fn find(&self, device: u64, inode: u64) -> io::Result<Option<OwnedFd>> {
        let is_it = |file: &OwnedFd| {
            place(file).is_ok_and(|place| (place.device, place.inode) == (device, inode))
        };
        if is_it(&self.file) {
            return Ok(Some(self.file.try_clone()?));
        }
        let (Some(dir), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Ok(None);
        };
        for entry in fs::read_dir(dir)?.take(CANDIDATES) {
            let entry = entry?;
            if entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(name.as_encoded_bytes())
                && let Ok(file) = open(&entry.path(), OFlags::empty())
                && is_it(&file)
            {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }
}

/// Not for appending: `pwrite(2)` ignores its offset then.
fn open(path: &Path, more: OFlags) -> io::Result<OwnedFd> {
    // NONBLOCK: a FIFO in the log's place must not hold us up until it is refused below.
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | more;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
    let file = rustix::fs::open(path, flags, mode)?;
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
    if kind == rustix::fs::FileType::RegularFile {
        Ok(file)
    } else {
        Err(Errno::INVAL.into())
    }
}

fn place(file: &OwnedFd) -> io::Result<Place> {
    let Stat {
        st_dev,
        st_ino,
        st_size,
        ..
    } = rustix::fs::fstat(file)?;
    let size = u64::try_from(st_size).map_err(io::Error::other)?;
    Ok(Place {
        device: st_dev,
        inode: st_ino,
        size,
    })
}

/// Writes all bytes at an offset.
pub(crate) fn write_at(file: BorrowedFd<'_>, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(file, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                bytes = bytes.get(n..).unwrap_or_default();
                offset = offset.saturating_add(u64::try_from(n).unwrap_or(0));
            }
            Err(Errno::INTR) => {}
            Err(err) => return Err(err.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_regular_file_that_is_no_link_is_a_log() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::os::unix::fs::symlink("/etc/passwd", at("link")).unwrap();
        fs::create_dir(at("directory")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("fifo"),
            rustix::fs::FileType::Fifo,
            Mode::RWXU,
            0,
        )
        .unwrap();
        for (name, good) in [
            ("new", true),
            ("link", false),
            ("directory", false),
            ("fifo", false),
            ("no/where", false),
        ] {
            assert_eq!(LogFile::open(&at(name), 0).is_ok(), good, "{name}");
        }
    }

    #[test]
    fn a_log_beyond_its_size_starts_again_and_a_rotated_one_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(&path, 100).unwrap();
        write_at(log.file(), &[b'x'; 90], 0).unwrap();
        assert_eq!(log.place(10).unwrap().size, 90);
        let old = log.place(0).unwrap();
        assert_eq!(log.place(11).unwrap().size, 0);
        assert!(log.find(old.device, old.inode).unwrap().is_none());

        let before = log.place(0).unwrap();
        rustix::fs::rename(&path, dir.path().join("0.log.20260101-000000")).unwrap();
        log.reopen().unwrap();
        assert_ne!(log.place(0).unwrap().inode, before.inode);
        let found = log.find(before.device, before.inode).unwrap().unwrap();
        assert_eq!(place(&found).unwrap().inode, before.inode);
        assert!(fs::metadata(&path).is_ok());
    }
}
