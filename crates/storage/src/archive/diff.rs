//! What a container changed, from its writable layer and back: a tar of what is there, and a list of
//! what is not there any more, as CRI-O and podman keep it in a checkpoint.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags, Stat};
use sys::beneath::Dir;

use super::write::{ArchiveWriter, Attributes};
use crate::error::Context;
use crate::{ContainerId, Error, StagedLayer, Store};

/// What overlay itself keeps at a file.
const OVERLAY: &[u8] = b"trusted.overlay.";
const OPAQUE: &str = "trusted.overlay.opaque";
/// Stands in a tar of changes for "nothing of the image shows in this directory" (image-spec).
const OPAQUE_MARK: &[u8] = b".wh..wh..opq";

/// What a container changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Members of the tar.
    pub members: u64,
    /// Paths that the image has and the container has not, absolute.
    pub deleted: Vec<String>,
}

impl Store {
    /// Writes what a container changed as a tar to `to`, without the paths in `skip` (relative):
    /// what is mounted there is not the container's. Its processes should stand still meanwhile.
    ///
    /// # Errors
    /// [`Error::ContainerUnknown`], [`Error::NoLayer`], [`Error::Io`].
    pub fn export_changes<W: Write>(
        &self,
        id: &ContainerId,
        skip: &[PathBuf],
        to: W,
    ) -> Result<(Diff, W), Error> {
        let upper = self.upper(id)?;
        if self.0.options.mount_program.is_some() && self.is_mounted(id)? {
            // A program may have written less than it took.
            let merged = self.mount(id)?;
            let root = File::open(&merged).at("open", &merged)?;
            sys::durable::sync_filesystem(&root).at("sync", &merged)?;
        }
        let mut export = Export {
            root: Dir::open(&upper).at("open", &upper)?,
            upper,
            skip,
            writer: ArchiveWriter::new(to),
            diff: Diff::default(),
            links: HashMap::new(),
        };
        export.directory(Path::new(""))?;
        let to = export.writer.finish().at("write", "a tar of changes")?;
        Ok((export.diff, to))
    }

    /// Puts what was unpacked where a container that was not mounted yet keeps its changes.
    ///
    /// # Errors
    /// [`Error::ContainerUnknown`], [`Error::NoLayer`], [`Error::Io`]; `ENOTEMPTY` where it has
    /// changes already.
    pub fn fill(&self, id: &ContainerId, changes: StagedLayer) -> Result<(), Error> {
        let upper = self.upper(id)?;
        let diff = changes.staging.diff();
        if !changes.has_root {
            let like = fs::metadata(&upper).at("stat", &upper)?;
            use std::os::unix::fs::MetadataExt as _;
            std::os::unix::fs::chown(&diff, Some(like.uid()), Some(like.gid()))
                .at("give to its owner", &diff)?;
            fs::set_permissions(&diff, like.permissions()).at("set permissions of", &diff)?;
        }
        // Takes the place of an empty directory in one step.
        rustix::fs::rename(&diff, &upper).at("rename", &diff)
    }

    /// Where a container's changes are, and they alone.
    fn upper(&self, id: &ContainerId) -> Result<PathBuf, Error> {
        let upper = self.writable_dir(id)?;
        let upper = upper.ok_or_else(|| Error::NoLayer(id.clone()))?;
        let reason = if self.driver().keeps_whole_trees() {
            "its driver can't tell what a container has changed"
        } else if self.0.options.force_mask.is_some() {
            "with force_mask its files have others' owners and permissions"
        } else {
            return Ok(upper);
        };
        Err(Error::Unsuitable {
            path: upper,
            reason: reason.to_owned(),
        })
    }
}

struct Export<'a, W> {
    root: Dir,
    upper: PathBuf,
    skip: &'a [PathBuf],
    writer: ArchiveWriter<W>,
    diff: Diff,
    /// First name of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> Export<'_, W> {
    /// Writes what is in the directory `path`, itself first.
    fn directory(&mut self, path: &Path) -> Result<(), Error> {
        let mut waiting = vec![path.to_owned()];
        while let Some(path) = waiting.pop() {
            let at = self.upper.join(&path);
            let here = if path.as_os_str().is_empty() {
                Path::new(".")
            } else {
                &path
            };
            let dir = self.root.dir_plain(here).at("open", &at)?;
            let mut entries = dir.entries().at("list", &at)?;
            entries.sort_by(|one, other| one.0.cmp(&other.0));
            for (name, _) in entries {
                let path = path.join(&name);
                let skipped = self.skip.contains(&path);
                if self.member(&dir, &name, &path, skipped)? {
                    waiting.push(path);
                }
            }
        }
        Ok(())
    }

    /// Writes one member; whether it is a directory, whose members follow.
    fn member(
        &mut self,
        dir: &Dir,
        name: &OsStr,
        path: &Path,
        skipped: bool,
    ) -> Result<bool, Error> {
        let at = self.upper.join(path);
        let stat = dir.stat(name).at("stat", &at)?;
        let Some(stat) = stat else { return Ok(false) };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if skipped && kind != FileType::Directory {
            return Ok(false);
        }
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            self.diff
                .deleted
                .push(format!("/{}", path.to_string_lossy()));
            return Ok(false);
        }
        let inside = PathBuf::from(format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd())).join(name);
        let of = attributes(&stat, &inside).at("read attributes of", &at)?;
        let written = path.as_os_str().as_bytes();
        let made = match kind {
            FileType::Directory => self.writer.directory(written, &of),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, name, Vec::new()).at("read", &at)?;
                self.writer.symlink(written, &of, target.as_bytes())
            }
            FileType::RegularFile => return self.file(dir, name, path, &stat, &of).map(|()| false),
            FileType::Fifo => self.writer.special(written, &of, b'6', (0, 0)),
            FileType::CharacterDevice => self.writer.special(written, &of, b'3', number(&stat)),
            FileType::BlockDevice => self.writer.special(written, &of, b'4', number(&stat)),
            // A socket is made again by who listens on it.
            _ => return Ok(false),
        };
        made.at("write", &at)?;
        self.diff.members += 1;
        if kind == FileType::Directory && is_opaque(&inside) {
            let mark = path.join(OsStr::from_bytes(OPAQUE_MARK));
            let none = Attributes::default();
            self.writer
                .file(mark.as_os_str().as_bytes(), &none, 0, &b""[..])
                .at("write", &at)?;
        }
        Ok(kind == FileType::Directory)
    }

    fn file(
        &mut self,
        dir: &Dir,
        name: &OsStr,
        path: &Path,
        stat: &Stat,
        of: &Attributes,
    ) -> Result<(), Error> {
        let (at, written) = (self.upper.join(path), path.as_os_str().as_bytes());
        self.diff.members += 1;
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key) {
                return self.writer.hard_link(written, of, first).at("write", &at);
            }
            self.links.insert(key, written.to_vec());
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = dir.open_plain(Path::new(name), flags, 0).at("open", &at)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.writer
            .file(written, of, size, File::from(file))
            .at("write", &at)
    }
}

fn number(stat: &Stat) -> (u32, u32) {
    (
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev),
    )
}

/// Owner, permissions, time and attributes of a file at `path`, which is not followed.
fn attributes(stat: &Stat, path: &Path) -> std::io::Result<Attributes> {
    let mut xattrs = Vec::new();
    for key in keys(path)? {
        if key.starts_with(OVERLAY) {
            continue;
        }
        let mut value = Vec::with_capacity(crate::limits::XATTR_BYTES);
        let name = OsStr::from_bytes(&key);
        match rustix::fs::lgetxattr(path, name, rustix::buffer::spare_capacity(&mut value)) {
            Ok(_) => xattrs.push((key, value)),
            // Gone since it was listed.
            Err(rustix::io::Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Attributes {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: stat.st_mtime,
        xattrs,
    })
}

fn keys(path: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    let mut list = Vec::with_capacity(crate::limits::XATTR_BYTES);
    match rustix::fs::llistxattr(path, rustix::buffer::spare_capacity(&mut list)) {
        Ok(_) => {}
        Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    }
    let keys = list
        .split(|byte| *byte == 0)
        .filter(|key| !key.is_empty())
        .map(<[u8]>::to_vec);
    Ok(keys.collect())
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 1];
    rustix::fs::lgetxattr(path, OPAQUE, &mut value).is_ok_and(|length| length == 1)
        && value == *b"y"
}
