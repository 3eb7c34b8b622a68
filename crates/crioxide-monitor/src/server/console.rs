//! The socket on which a runtime hands over the master of a terminal.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use sys::seqpacket::{self, Kind};

/// Listens until dropped.
#[derive(Debug)]
pub(super) struct Console {
    listener: OwnedFd,
    path: PathBuf,
    dir: OwnedFd,
}

impl Console {
    pub(super) fn new(dir: &Path, name: &str) -> io::Result<Self> {
        let path = dir.join(name);
        let listener = seqpacket::listen(&path, Kind::Stream)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(dir, flags, Mode::empty())?;
        Ok(Self {
            listener,
            path,
            dir,
        })
    }

    /// What the runtime is given as `--console-socket`.
    pub(super) fn address(&self) -> PathBuf {
        seqpacket::address_for_others(&self.path, self.dir.as_fd())
    }

    /// The master, after the runtime has ended.
    pub(super) fn take(&self) -> io::Result<OwnedFd> {
        sys::pty::receive_master(self.listener.as_fd())?
            .ok_or_else(|| io::Error::other("the runtime has sent no terminal"))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // The directory may be gone already.
        let _gone = fs::remove_file(&self.path);
    }
}
