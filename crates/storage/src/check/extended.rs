//! Extended attributes of a layer's file against those that its entry sets: capabilities and users' own.
//! Labels are the host's, `trusted.*` is overlay's.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::FileType;
use rustix::io::Errno;
use sys::beneath::Dir;

use crate::force_mask::ATTRIBUTE;
use crate::tar::Entry;
use crate::unpack::may_set;

/// What rootless peers, and those with `force_mask`, keep a file's owner and mode in.
const PEERS: &[u8] = b"user.containers.";

/// Attributes, by their names.
pub(super) type Attributes = BTreeMap<Vec<u8>, Vec<u8>>;

/// Those of a file that an archive can have set, and that which stands for owner and permissions.
pub(super) fn read(dir: &Dir, name: &OsStr) -> io::Result<Attributes> {
    let mut found = Attributes::new();
    for key in dir.xattr_keys(name)? {
        // Gone since it was listed: then it is missing.
        if (may_set(&key) || key == ATTRIBUTE.as_bytes())
            && let Some(value) = dir.xattr(name, OsStr::from_bytes(&key))?
        {
            found.insert(key, value);
        }
    }
    Ok(found)
}

/// Whether files of the directory can have users' attributes: not every file system has them, and an
/// image is unpacked there without.
pub(super) fn are_users_kept(dir: &Dir) -> io::Result<bool> {
    match rustix::fs::fgetxattr(dir, "user.crioxide", &mut [0; 0][..]) {
        Ok(_) | Err(Errno::NODATA) => Ok(true),
        Err(Errno::NOTSUP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The first attribute by which a file of that kind differs from its entry.
pub(super) fn differing(
    entry: &Entry,
    kind: FileType,
    found: &Attributes,
    users_kept: bool,
) -> Option<String> {
    let users_kept = users_kept && matches!(kind, FileType::RegularFile | FileType::Directory);
    let can_be = |key: &[u8]| users_kept || !key.starts_with(b"user.");
    let set = entry.xattrs.iter().filter(|(key, _)| may_set(key));
    let expected: Attributes = set.filter(|(key, _)| can_be(key)).cloned().collect();
    let differs = expected
        .iter()
        .find(|(key, value)| found.get(*key) != Some(*value));
    let added = found
        .keys()
        .find(|key| !expected.contains_key(*key) && !key.starts_with(PEERS));
    let key = differs.map(|(key, _)| key).or(added)?;
    Some(String::from_utf8_lossy(key).into_owned())
}
