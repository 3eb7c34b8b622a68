//! Reading and preparing a container's root, which is the image's and hostile: everything is
//! resolved beneath its descriptor.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags, fstat};
use spec::{oci, user};
use storage::IdMap;
use sys::beneath::Dir;

use crate::Error;

/// A container's mounted root.
#[derive(Debug)]
pub(crate) struct Rootfs {
    path: PathBuf,
    dir: Dir,
    /// Who owns its files outside of the pod's user namespace, where there is one.
    map: Option<IdMap>,
}

/// A file of the root.
#[derive(Debug, Default)]
pub(crate) struct Read {
    pub(crate) bytes: Vec<u8>,
    /// Its permissions.
    pub(crate) mode: u32,
    /// Its user and group, outside of a user namespace.
    pub(crate) owner: (u32, u32),
}

impl Rootfs {
    pub(crate) fn open(path: &Path, map: Option<IdMap>) -> Result<Self, Error> {
        let dir = Dir::open(path).map_err(Error::io("open", path))?;
        Ok(Self {
            path: path.to_owned(),
            dir,
            map,
        })
    }

    /// Owner outside of the pod's user namespace of what belongs to a user and a group inside.
    pub(crate) fn outside(&self, user: u32, group: u32) -> Result<(u32, u32), Error> {
        let Some(map) = self.map else {
            return Ok((user, group));
        };
        map.outside(user, group).ok_or_else(|| {
            Error::Invalid(format!(
                "user {user} or group {group} is not in the pod's user namespace"
            ))
        })
    }

    /// User and groups of a request, by the image's account files.
    pub(crate) fn user(&self, request: &user::Request, image: &str) -> Result<oci::User, Error> {
        let passwd = self.read("etc/passwd")?.unwrap_or_default();
        let group = self.read("etc/group")?.unwrap_or_default();
        let user = user::resolve(
            request,
            image,
            user::Accounts {
                passwd: &passwd.bytes,
                group: &group.bytes,
            },
        )?;
        for group in std::iter::once(&user.gid).chain(&user.additional_gids) {
            self.outside(user.uid, *group)?;
        }
        Ok(user)
    }

    /// A file, its bytes up to [`user::MAX_FILE_BYTES`]; `None` where there is no such regular file.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Read>, Error> {
        let at = || self.path.join(name);
        // NONBLOCK: the image may hold a FIFO of that name.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match self.dir.open_in_root(Path::new(name), flags, 0) {
            Ok(file) => file,
            Err(missing) if is_absent(&missing) => return Ok(None),
            Err(error) => return Err(Error::io("open", at())(error)),
        };
        let stat = fstat(&file).map_err(|error| Error::io("look at", at())(error.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let bound = u64::try_from(user::MAX_FILE_BYTES).unwrap_or(u64::MAX);
        let mut bytes = Vec::new();
        File::from(file)
            .take(bound)
            .read_to_end(&mut bytes)
            .map_err(Error::io("read", at()))?;
        Ok(Some(Read {
            bytes,
            mode: stat.st_mode & 0o7777,
            owner: (stat.st_uid, stat.st_gid),
        }))
    }

    /// Makes the directory `path` (normal, absolute) with those above it, where it is missing; what
    /// is made is given to `owner`, else to root.
    pub(crate) fn make_dir(&self, path: &str, owner: Option<&oci::User>) -> Result<(), Error> {
        let (uid, gid) = owner.map_or((0, 0), |owner| (owner.uid, owner.gid));
        let owner = self.outside(uid, gid)?;
        let mut above = PathBuf::from(".");
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let dir = self
                .dir
                .dir_in_root(&above)
                .map_err(Error::io("open", self.path.join(&above)))?;
            above.push(part);
            match dir.make_dir(part.as_ref(), 0o755) {
                Ok(()) => {
                    if owner != (0, 0) {
                        dir.set_owner(part.as_ref(), owner.0, owner.1)
                            .map_err(Error::io("give away", self.path.join(&above)))?;
                    }
                }
                Err(there) if there.kind() == std::io::ErrorKind::AlreadyExists => {}
                // A read-only file system of an image volume, or the like: the runtime says so.
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }
}

impl Rootfs {
    /// Takes `/etc/localtime` away and makes it a link to `zone` (localtime(5)) where there is a file
    /// of that path; whether there is.
    pub(crate) fn link_zone(&self, zone: &Path) -> Result<bool, Error> {
        let name = "localtime".as_ref();
        let failed = |doing| Error::io(doing, self.path.join("etc/localtime"));
        let etc = match self.dir.dir_in_root(Path::new("etc")) {
            Ok(etc) => etc,
            Err(missing) if is_absent(&missing) => return Ok(false),
            Err(error) => return Err(failed("open")(error)),
        };
        match etc.remove_file(name) {
            Err(error) if !is_absent(&error) => return Err(failed("remove")(error)),
            _ => {}
        }
        let inside = zone.strip_prefix("/").unwrap_or(zone);
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match self.dir.open_in_root(inside, flags, 0) {
            Ok(_) => {}
            Err(missing) if is_absent(&missing) => return Ok(false),
            Err(error) => return Err(failed("look for")(error)),
        }
        let target = Path::new("..").join(inside);
        etc.make_symlink(name, target.as_os_str())
            .map_err(failed("link"))?;
        Ok(true)
    }
}

fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
        || error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}
