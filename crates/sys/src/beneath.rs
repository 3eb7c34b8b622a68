//! Files beneath a directory descriptor: `openat2(2)` (Linux 5.6) and the `*at` calls.
//!
//! A path from outside is only ever resolved by [`Dir::open_in_root`] (symbolic links and `..`
//! stay inside, as in a chroot), [`Dir::open_beneath`] (leaving it is an error) or
//! [`Dir::open_plain`] (no symbolic link at all). The other methods take *one* component, never
//! follow it, and refuse anything with a slash.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Timestamps, Uid,
    XattrFlags,
};

pub use rustix::fs::{Dev, Timespec, makedev};

/// How often a resolution is tried again that another process's rename disturbed (`EAGAIN`).
const TRIES: u32 = 32;
/// Bytes of one extended attribute, and of all names of a file's (the kernel's `XATTR_SIZE_MAX` and
/// `XATTR_LIST_MAX`).
const XATTR_BYTES: usize = 64 << 10;
const XATTR_LIST_BYTES: usize = 64 << 10;

/// A directory to resolve beneath.
#[derive(Debug)]
pub struct Dir(OwnedFd);

impl Dir {
    /// Opens the directory `path`, which the caller trusts.
    ///
    /// # Errors
    /// Of `open(2)`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Opens `path` as if this directory were `/`.
    ///
    /// # Errors
    /// `ELOOP` for a magic link; else of `openat2(2)`.
    pub fn open_in_root(&self, path: &Path, flags: OFlags, mode: u32) -> io::Result<OwnedFd> {
        self.resolve(path, flags, mode, ResolveFlags::IN_ROOT)
    }

    /// Opens `path`, which may hold symbolic links that stay beneath this directory.
    ///
    /// # Errors
    /// `EXDEV` where the path leaves the directory; else of `openat2(2)`.
    pub fn open_beneath(&self, path: &Path, flags: OFlags, mode: u32) -> io::Result<OwnedFd> {
        self.resolve(path, flags, mode, ResolveFlags::BENEATH)
    }

    /// Opens `path`, no component of which may be a symbolic link.
    ///
    /// # Errors
    /// `ELOOP` at a symbolic link, `EXDEV` where the path leaves; else of `openat2(2)`.
    pub fn open_plain(&self, path: &Path, flags: OFlags, mode: u32) -> io::Result<OwnedFd> {
        self.resolve(
            path,
            flags,
            mode,
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )
    }

    /// Opens the directory `path` as if this directory were `/`.
    ///
    /// # Errors
    /// As [`Dir::open_in_root`].
    pub fn dir_in_root(&self, path: &Path) -> io::Result<Self> {
        self.open_in_root(path, OFlags::RDONLY | OFlags::DIRECTORY, 0)
            .map(Self)
    }

    /// Opens the directory `path`, no component of which may be a symbolic link.
    ///
    /// # Errors
    /// As [`Dir::open_plain`].
    pub fn dir_plain(&self, path: &Path) -> io::Result<Self> {
        self.open_plain(path, OFlags::RDONLY | OFlags::DIRECTORY, 0)
            .map(Self)
    }

    fn resolve(
        &self,
        path: &Path,
        flags: OFlags,
        mode: u32,
        resolve: ResolveFlags,
    ) -> io::Result<OwnedFd> {
        let path = if path == Path::new("") {
            Path::new(".")
        } else {
            path
        };
        let resolve = resolve | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode);
        let mut tries = 0;
        loop {
            match rustix::fs::openat2(&self.0, path, flags, mode, resolve) {
                Err(rustix::io::Errno::AGAIN) if tries < TRIES => tries += 1,
                Err(error) => return Err(error.into()),
                Ok(file) => return Ok(file),
            }
        }
    }

    /// Makes the regular file `name` with `mode` (before the umask), open for reading and writing.
    ///
    /// # Errors
    /// `EEXIST`; else of `openat(2)`.
    pub fn create(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode);
        Ok(rustix::fs::openat(&self.0, component(name)?, flags, mode)?.into())
    }

    /// Makes the directory `name` with `mode` (before the umask).
    ///
    /// # Errors
    /// `EEXIST`; else of `mkdirat(2)`.
    pub fn make_dir(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(
            &self.0,
            component(name)?,
            Mode::from_raw_mode(mode),
        )?)
    }

    /// Makes the device node, FIFO or socket `name` with `mode` (before the umask).
    ///
    /// # Errors
    /// `EPERM` for a device without `CAP_MKNOD`; else of `mknodat(2)`.
    pub fn make_node(&self, name: &OsStr, kind: FileType, mode: u32, dev: Dev) -> io::Result<()> {
        let mode = Mode::from_raw_mode(mode);
        Ok(rustix::fs::mknodat(
            &self.0,
            component(name)?,
            kind,
            mode,
            dev,
        )?)
    }

    /// Makes the symbolic link `name` with the text `target`.
    ///
    /// # Errors
    /// Of `symlinkat(2)`.
    pub fn make_symlink(&self, name: &OsStr, target: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, &self.0, component(name)?)?)
    }

    /// Makes `name` a hard link to `from_name` in `from`, which is not followed.
    ///
    /// # Errors
    /// Of `linkat(2)`.
    pub fn make_link(&self, name: &OsStr, from: &Self, from_name: &OsStr) -> io::Result<()> {
        let (from_name, name) = (component(from_name)?, component(name)?);
        Ok(rustix::fs::linkat(
            &from.0,
            from_name,
            &self.0,
            name,
            AtFlags::empty(),
        )?)
    }

    /// Renames `name` to `to_name` in `to`; replaces nothing.
    ///
    /// # Errors
    /// `EEXIST`; else of `renameat2(2)`.
    pub fn rename_new(&self, name: &OsStr, to: &Self, to_name: &OsStr) -> io::Result<()> {
        let (name, to_name) = (component(name)?, component(to_name)?);
        Ok(rustix::fs::renameat_with(
            &self.0,
            name,
            &to.0,
            to_name,
            RenameFlags::NOREPLACE,
        )?)
    }

    /// Removes the file `name`.
    ///
    /// # Errors
    /// `EISDIR`; else of `unlinkat(2)`.
    pub fn remove_file(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(
            &self.0,
            component(name)?,
            AtFlags::empty(),
        )?)
    }

    /// Removes the empty directory `name`.
    ///
    /// # Errors
    /// `ENOTEMPTY`; else of `unlinkat(2)`.
    pub fn remove_dir(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(
            &self.0,
            component(name)?,
            AtFlags::REMOVEDIR,
        )?)
    }

    /// What `name` is; `None` where there is nothing of that name.
    ///
    /// # Errors
    /// Of `fstatat(2)`.
    pub fn stat(&self, name: &OsStr) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(&self.0, component(name)?, AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT) => Ok(None),
            other => Ok(Some(other?)),
        }
    }

    /// The text of the symbolic link `name`.
    ///
    /// # Errors
    /// `EINVAL` where it is none; else of `readlinkat(2)`.
    pub fn read_link(&self, name: &OsStr) -> io::Result<std::ffi::OsString> {
        let text = rustix::fs::readlinkat(&self.0, component(name)?, Vec::new())?;
        Ok(std::os::unix::ffi::OsStringExt::from_vec(text.into_bytes()))
    }

    /// Gives `name` the owner `uid`:`gid`. Clears set-user-ID bits and file capabilities.
    ///
    /// # Errors
    /// Of `fchownat(2)`.
    pub fn set_owner(&self, name: &OsStr, uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::chownat(
            &self.0,
            component(name)?,
            Some(uid),
            Some(gid),
            flags,
        )?)
    }

    /// Gives `name`, which must not be a symbolic link, the permissions `mode`.
    ///
    /// # Errors
    /// Of `fchmodat(2)`, which would follow a link: the caller has made `name` itself.
    pub fn set_mode(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        let mode = Mode::from_raw_mode(mode);
        Ok(rustix::fs::chmodat(
            &self.0,
            component(name)?,
            mode,
            AtFlags::empty(),
        )?)
    }

    /// Gives `name` its times of access and modification.
    ///
    /// # Errors
    /// Of `utimensat(2)`.
    pub fn set_times(
        &self,
        name: &OsStr,
        accessed: Timespec,
        modified: Timespec,
    ) -> io::Result<()> {
        let times = Timestamps {
            last_access: accessed,
            last_modification: modified,
        };
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::utimensat(
            &self.0,
            component(name)?,
            &times,
            flags,
        )?)
    }

    /// Gives `name` the extended attribute `key`. Through `/proc/self/fd`, since `setxattrat(2)`
    /// is of Linux 6.13.
    ///
    /// # Errors
    /// `ENOTSUP` where the file system has none; else of `lsetxattr(2)`.
    pub fn set_xattr(&self, name: &OsStr, key: &OsStr, value: &[u8]) -> io::Result<()> {
        let path = self.by_descriptor(name)?;
        Ok(rustix::fs::lsetxattr(
            path.as_slice(),
            key,
            value,
            XattrFlags::empty(),
        )?)
    }

    /// The extended attributes of `name`; none where the file system has none.
    ///
    /// # Errors
    /// Of `llistxattr(2)`.
    pub fn xattr_keys(&self, name: &OsStr) -> io::Result<Vec<Vec<u8>>> {
        let path = self.by_descriptor(name)?;
        let mut keys = Vec::with_capacity(XATTR_LIST_BYTES);
        let buffer = rustix::buffer::spare_capacity(&mut keys);
        match rustix::fs::llistxattr(path.as_slice(), buffer) {
            Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
            listed => listed?,
        };
        let keys = keys.split(|byte| *byte == 0);
        Ok(keys
            .filter(|key| !key.is_empty())
            .map(<[u8]>::to_vec)
            .collect())
    }

    /// The value of an extended attribute of `name`; `None` where it has no such.
    ///
    /// # Errors
    /// `ENOTSUP` where the file system has none of this kind; else of `lgetxattr(2)`.
    pub fn xattr(&self, name: &OsStr, key: &OsStr) -> io::Result<Option<Vec<u8>>> {
        let path = self.by_descriptor(name)?;
        let mut value = Vec::with_capacity(XATTR_BYTES);
        let buffer = rustix::buffer::spare_capacity(&mut value);
        match rustix::fs::lgetxattr(path.as_slice(), key, buffer) {
            Err(rustix::io::Errno::NODATA) => Ok(None),
            got => got.map(|_| Some(value)).map_err(io::Error::from),
        }
    }

    fn by_descriptor(&self, name: &OsStr) -> io::Result<Vec<u8>> {
        let mut path = format!("/proc/self/fd/{}/", self.0.as_raw_fd()).into_bytes();
        path.extend_from_slice(component(name)?.as_bytes());
        Ok(path)
    }

    /// Names and kinds of what is in this directory, without `.` and `..`.
    ///
    /// # Errors
    /// Of `getdents64(2)`.
    pub fn entries(&self) -> io::Result<Vec<(std::ffi::OsString, FileType)>> {
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                entries.push((OsStr::from_bytes(name).to_owned(), entry.file_type()));
            }
        }
        Ok(entries)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Dir {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

/// One component of a path: not empty, not `.` or `..`, without a slash.
fn component(name: &OsStr) -> io::Result<&OsStr> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_outside_is_reached() {
        let base = std::env::temp_dir().join(format!("crioxide-beneath-{}", std::process::id()));
        fs::create_dir_all(base.join("root/etc")).unwrap();
        fs::write(base.join("secret"), "out").unwrap();
        fs::write(base.join("root/secret"), "in").unwrap();
        symlink("/secret", base.join("root/absolute")).unwrap();
        symlink("../../../secret", base.join("root/etc/climbing")).unwrap();
        symlink("/proc/self/root", base.join("root/magic")).unwrap();
        let root = Dir::open(&base.join("root")).unwrap();
        let read = |fd: OwnedFd| io::read_to_string(File::from(fd)).unwrap();
        for path in ["absolute", "etc/climbing", "../secret", "/secret"] {
            let fd = root
                .open_in_root(Path::new(path), OFlags::RDONLY, 0)
                .unwrap();
            assert_eq!(read(fd), "in", "{path}");
            assert!(
                root.open_beneath(Path::new(path), OFlags::RDONLY, 0)
                    .is_err(),
                "{path}"
            );
            assert!(
                root.open_plain(Path::new(path), OFlags::RDONLY, 0).is_err(),
                "{path}"
            );
        }
        assert!(root.dir_in_root(Path::new("magic")).is_err());
        assert!(root.create(OsStr::new("../made"), 0o600).is_err());
        fs::remove_dir_all(base).unwrap();
    }
}
