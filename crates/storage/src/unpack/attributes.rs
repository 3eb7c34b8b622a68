//! Owners, permissions, attributes and times of what was unpacked, or what stands for them.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{Gid, Mode, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use sys::beneath::{Dir, Timespec};

use crate::force_mask::{self, ForceMask};
use crate::limits;
use crate::store::Options;
use crate::tar::{Entry, Kind, Time};

/// What files get of what their entries say.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Whether an owner that can't be given is left out.
    ignore_chown_errors: bool,
    /// Permissions of all files; owners and permissions of their entries are in an attribute then.
    mask: Option<ForceMask>,
    /// How many have not got their owner.
    without_owner: u64,
}

impl Rules {
    pub(super) fn of(options: &Options) -> Self {
        Self {
            ignore_chown_errors: options.ignore_chown_errors,
            mask: options.force_mask,
            without_owner: 0,
        }
    }

    /// What kind of file an entry makes.
    pub(super) fn kind(&self, entry: &Entry) -> Kind {
        match entry.kind {
            Kind::CharacterDevice | Kind::BlockDevice | Kind::Fifo if self.mask.is_some() => {
                Kind::Regular
            }
            kind => kind,
        }
    }

    /// Completes a regular file. The order matters: a new owner takes set-user-ID bits and file
    /// capabilities away.
    pub(super) fn file(&mut self, entry: &Entry, file: &File) -> io::Result<()> {
        self.open(entry, file)?;
        let accessed = entry.accessed.unwrap_or(entry.modified);
        Ok(rustix::fs::futimens(
            file,
            &timestamps(accessed, entry.modified),
        )?)
    }

    /// Completes what is open, but for its times.
    pub(super) fn open(&mut self, entry: &Entry, file: impl AsFd) -> io::Result<()> {
        if self.mask.is_none() {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            let given = rustix::fs::fchown(&file, Some(uid), Some(gid));
            self.owned(given.map_err(io::Error::from))?;
        }
        let mode = self.mask.map_or(entry.mode, ForceMask::mode);
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        for (key, value) in xattrs(entry)? {
            let set = rustix::fs::fsetxattr(&file, key, value, XattrFlags::empty());
            tolerate(key, set.map_err(io::Error::from))?;
        }
        if self.mask.is_some() {
            let (key, value) = (force_mask::ATTRIBUTE, force_mask::of_entry(entry));
            rustix::fs::fsetxattr(&file, key, value.as_bytes(), XattrFlags::empty())?;
        }
        Ok(())
    }

    /// Completes what is `name` in `dir`, but for a directory's times.
    pub(super) fn named(&mut self, entry: &Entry, dir: &Dir, name: &OsStr) -> io::Result<()> {
        if self.mask.is_none() {
            self.owned(dir.set_owner(name, entry.uid, entry.gid))?;
        }
        if entry.kind != Kind::Symlink {
            dir.set_mode(name, self.mask.map_or(entry.mode, ForceMask::mode))?;
        }
        for (key, value) in xattrs(entry)? {
            tolerate(key, dir.set_xattr(name, OsStr::from_bytes(key), value))?;
        }
        if self.mask.is_some() && entry.kind != Kind::Symlink {
            let (key, value) = (force_mask::ATTRIBUTE, force_mask::of_entry(entry));
            dir.set_xattr(name, OsStr::new(key), value.as_bytes())?;
        }
        if entry.kind == Kind::Directory {
            return Ok(());
        }
        let accessed = entry.accessed.unwrap_or(entry.modified);
        dir.set_times(name, timespec(accessed), timespec(entry.modified))
    }

    /// Completes a directory that no entry is for, and maybe one will be.
    pub(super) fn implied(&self, dir: &Dir, name: &OsStr) -> io::Result<()> {
        let Some(mask) = self.mask else {
            return dir.set_mode(name, force_mask::IMPLIED_MODE);
        };
        dir.set_mode(name, mask.mode())?;
        let key = OsStr::new(force_mask::ATTRIBUTE);
        dir.set_xattr(name, key, force_mask::of_implied().as_bytes())
    }

    /// Completes the root directory that no entry is for.
    pub(super) fn implied_root(&self, root: &Dir) -> io::Result<()> {
        let Some(mask) = self.mask else {
            return Ok(());
        };
        rustix::fs::fchmod(root, Mode::from_raw_mode(mask.mode()))?;
        let (key, value) = (force_mask::ATTRIBUTE, force_mask::of_implied());
        Ok(rustix::fs::fsetxattr(
            root,
            key,
            value.as_bytes(),
            XattrFlags::empty(),
        )?)
    }

    /// An owner that a user namespace or the file system can't have is left out where that is wished.
    fn owned(&mut self, given: io::Result<()>) -> io::Result<()> {
        let impossible = |error: &io::Error| {
            let known = [Errno::PERM, Errno::INVAL, Errno::OVERFLOW, Errno::NOTSUP];
            known
                .iter()
                .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
        };
        match given {
            Err(error) if self.ignore_chown_errors && impossible(&error) => {
                self.without_owner += 1;
                Ok(())
            }
            other => other,
        }
    }

    /// Tells of what was left out.
    pub(super) fn finish(&self) {
        if self.without_owner > 0 {
            let files = self.without_owner;
            tracing::warn!(files, "files have not got the owners that their layer says");
        }
    }
}

/// Whether an archive may set this extended attribute: capabilities and users' own. `trusted.*` is how
/// overlay itself keeps whiteouts and redirects, labels are the host's to give, and what stands for owners
/// and permissions is ours.
pub(crate) fn may_set(key: &[u8]) -> bool {
    let users = key.starts_with(b"user.") && !key.starts_with(b"user.overlay.");
    let users = users && key != force_mask::ATTRIBUTE.as_bytes();
    (users || key == b"security.capability") && !key.contains(&0)
}

fn xattrs(entry: &Entry) -> io::Result<impl Iterator<Item = (&[u8], &[u8])>> {
    if entry.xattrs.len() > limits::XATTRS {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "too many extended attributes",
        ));
    }
    let allowed = entry.xattrs.iter().filter(|(key, _)| may_set(key));
    Ok(allowed.map(|(key, value)| (key.as_slice(), value.as_slice())))
}

/// A user's attribute that the file system (or the kind of file) can't have is left out, as peers
/// do; a capability is not.
pub(crate) fn tolerate(key: &[u8], set: io::Result<()>) -> io::Result<()> {
    match set {
        Err(error)
            if key.starts_with(b"user.")
                && matches!(
                    error.kind(),
                    io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
                ) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn timespec((tv_sec, tv_nsec): Time) -> Timespec {
    Timespec { tv_sec, tv_nsec }
}

pub(super) fn timestamps(accessed: Time, modified: Time) -> Timestamps {
    Timestamps {
        last_access: timespec(accessed),
        last_modification: timespec(modified),
    }
}
