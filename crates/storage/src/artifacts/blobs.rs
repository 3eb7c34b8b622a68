//! Blobs: files that get their names when they are whole and on disk.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::error::Context;
use crate::{Digest, Error};

/// A blob that is being written; it has no name and goes with its descriptor.
#[derive(Debug)]
pub struct BlobWriter {
    file: File,
    dir: PathBuf,
    size: u64,
}

/// A blob that is whole and on disk, but has no name yet.
#[derive(Debug)]
pub struct StagedBlob {
    file: File,
    digest: Digest,
    size: u64,
}

impl BlobWriter {
    pub(super) fn new(dir: &Path) -> Result<Self, Error> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(dir, flags, Mode::from_raw_mode(0o644)).at("write in", dir)?;
        // A container's user reads it, whatever our mask is.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644)).at("write in", dir)?;
        Ok(Self {
            file: file.into(),
            dir: dir.to_owned(),
            size: 0,
        })
    }

    /// Syncs it. That it has the digest is the caller's promise.
    ///
    /// # Errors
    /// Of `fsync(2)`.
    pub fn finish(self, digest: &Digest) -> Result<StagedBlob, Error> {
        self.file.sync_all().at("sync in", &self.dir)?;
        Ok(StagedBlob {
            file: self.file,
            digest: digest.clone(),
            size: self.size,
        })
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl StagedBlob {
    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Gives it its name in `dir`; a peer may have been there first.
    pub(super) fn link(&self, dir: &Path) -> Result<(), Error> {
        let path = dir.join(self.digest.hex());
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let link = || rustix::fs::linkat(CWD, own.as_str(), CWD, &path, AtFlags::SYMLINK_FOLLOW);
        match link() {
            Err(rustix::io::Errno::EXIST) => {
                let there = fs::symlink_metadata(&path).at("stat", &path)?;
                if there.is_file() && there.len() == self.size {
                    return Ok(());
                }
                // A power cut tore a peer's.
                fs::remove_file(&path).at("remove", &path)?;
                link().at("link", &path)
            }
            linked => linked.at("link", &path),
        }
    }
}

/// A file's bytes, at most `limit`.
pub(super) fn read(file: File, limit: u64, path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .at("read", path)?;
    if bytes.len() as u64 > limit {
        return Err(Error::TooLarge {
            what: "bytes of an artifact's manifest or index",
            limit,
        });
    }
    Ok(bytes)
}
