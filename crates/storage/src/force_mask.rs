//! Layers whose files all have the same permissions and are root's (`force_mask`), so that others can read
//! the store, or a file system that knows no owners can have it. What a file should be like is in an
//! attribute that the mount program shows (fuse-overlayfs with `xattr_permissions=2`).

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::{fs, io};

use rustix::fs::XattrFlags;
use serde::{Deserialize, Serialize};

use crate::tar::{Entry, Kind};

/// `uid:gid:mode:type`; the mode is octal.
pub(crate) const ATTRIBUTE: &str = "user.containers.override_stat";
/// Permissions of a directory that its archive has no entry for.
pub(crate) const IMPLIED_MODE: u32 = 0o755;
/// Bytes of an attribute that is copied.
const VALUE_BYTES: usize = 256;

/// Permissions that all files and directories of a layer get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForceMask(u32);

impl ForceMask {
    /// Those of `mode`.
    ///
    /// # Errors
    /// There are other bits in it.
    pub fn new(mode: u32) -> Result<Self, String> {
        if mode & !0o777 == 0 {
            Ok(Self(mode))
        } else {
            Err(format!("{mode:o} has more than permissions"))
        }
    }

    /// Its bits.
    pub(crate) fn mode(self) -> u32 {
        self.0
    }
}

/// What an entry's file should be like.
pub(crate) fn of_entry(entry: &Entry) -> String {
    let (major, minor) = entry.device;
    let kind = match entry.kind {
        Kind::Directory => "dir".to_owned(),
        Kind::Fifo => "pipe".to_owned(),
        Kind::CharacterDevice => format!("char-{major}-{minor}"),
        Kind::BlockDevice => format!("block-{major}-{minor}"),
        Kind::Symlink => "symlink".to_owned(),
        Kind::Regular | Kind::HardLink | Kind::Global => "file".to_owned(),
    };
    format!(
        "{}:{}:{:04o}:{kind}",
        entry.uid,
        entry.gid,
        entry.mode & 0o7777
    )
}

/// The same of a directory that there is no entry for.
pub(crate) fn of_implied() -> String {
    format!("0:0:{IMPLIED_MODE:04o}:dir")
}

/// Has the directory `to`, which is empty, show as `from` shows, or with `mode` where it is on nothing.
pub(crate) fn root_like(
    mask: ForceMask,
    to: &Path,
    from: Option<&Path>,
    mode: u32,
) -> io::Result<()> {
    let value = match from {
        None => format!("0:0:{mode:04o}:dir").into_bytes(),
        Some(from) => match stored(from)? {
            Some(value) => value,
            None => {
                let stat = fs::metadata(from)?;
                let mode = stat.mode() & 0o7777;
                format!("{}:{}:{mode:04o}:dir", stat.uid(), stat.gid()).into_bytes()
            }
        },
    };
    let mode = rustix::fs::Mode::from_raw_mode(mask.0);
    rustix::fs::chmod(to, mode)?;
    Ok(rustix::fs::lsetxattr(
        to,
        ATTRIBUTE,
        &value,
        XattrFlags::empty(),
    )?)
}

/// Has the directory `to` show as `from` shows, where that is told by an attribute.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    match stored(from)? {
        Some(value) => Ok(rustix::fs::lsetxattr(
            to,
            ATTRIBUTE,
            &value,
            XattrFlags::empty(),
        )?),
        None => Ok(()),
    }
}

fn stored(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; VALUE_BYTES];
    match rustix::fs::lgetxattr(path, ATTRIBUTE, &mut value) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::NOTSUP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
