//! Reading an archive. Only members that we know are taken, only as regular files, each once, and
//! under names that we give; what the others hold is read past.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use ::runtime::checkpoint as format;
use rustix::fs::OFlags;
use storage::{ArchiveReader, ArchiveWriter, Attributes, Member, UnpackLimits};
use sys::beneath::Dir;

use super::{CHANGES, CONFIG, DELETED, DESCRIPTORS, IMAGES, LOG, SPEC};
use crate::{ContainerId, Error, node};

/// Members of an archive (ours: criu writes a dozen files for each process).
const MEMBERS: u64 = 200_000;
/// Bytes of a member that is held in memory (ours).
const HELD: u64 = 64 << 20;

/// Opens an archive, which has to be the daemon's user's and written by nobody else: what criu's
/// images say is what is done.
pub(crate) fn open(path: &Path) -> Result<File, Error> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or(0))
        .open(path);
    let file = match file {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NoImage(path.display().to_string()));
        }
        file => file.map_err(Error::io("open", path))?,
    };
    let about = file.metadata().map_err(Error::io("stat", path))?;
    if !about.is_file() {
        return Err(bad(path, "is not a regular file"));
    }
    if about.uid() != rustix::process::geteuid().as_raw() || about.mode() & 0o022 != 0 {
        return Err(bad(
            path,
            "could be written to by others: it has to be root's, and nobody else's to write",
        ));
    }
    Ok(file)
}

/// What an archive says, beside the files.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    pub(crate) config: format::Config,
    deleted: Vec<String>,
    changes: bool,
    descriptors: bool,
    images: u64,
}

/// Unpacks `archive` (at `path`, for errors) into the new directory `to`.
pub(crate) fn unpack(archive: File, path: &Path, to: &Path) -> Result<Unpacked, Error> {
    make_dir(to)?;
    make_dir(&to.join(IMAGES))?;
    let (root, images) = (open_dir(to)?, open_dir(&to.join(IMAGES))?);
    let limits = UnpackLimits {
        entries: MEMBERS,
        ..UnpackLimits::default()
    };
    let mut reader = ArchiveReader::new(archive, limits);
    let mut taking = Taking {
        path,
        root,
        images,
        seen: Vec::new(),
        unpacked: Unpacked::default(),
    };
    while let Some(member) = reader.next_member()? {
        taking.member(&member, &mut reader)?;
    }
    let Taking { seen, unpacked, .. } = taking;
    if !seen.contains(&CONFIG) || unpacked.images == 0 || !unpacked.descriptors {
        return Err(bad(path, "holds no checkpoint of a container"));
    }
    Ok(unpacked)
}

struct Taking<'a> {
    path: &'a Path,
    root: Dir,
    images: Dir,
    seen: Vec<&'static str>,
    unpacked: Unpacked,
}

impl Taking<'_> {
    fn member(&mut self, member: &Member, reader: &mut ArchiveReader<File>) -> Result<(), Error> {
        const TAKEN: [&str; 6] = [CONFIG, SPEC, CHANGES, DELETED, LOG, IMAGES];
        let known = TAKEN
            .into_iter()
            .find(|name| name.as_bytes() == member.path.as_slice());
        let image = member
            .path
            .strip_prefix(IMAGES.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"/"));
        if let Some(name) = image {
            return self.image(name, member, reader);
        }
        let Some(name) = known else { return Ok(()) };
        if name == IMAGES {
            return match member.directory {
                true => Ok(()),
                false => Err(self.bad(member, "is no directory")),
            };
        }
        if !member.regular {
            return Err(self.bad(member, "is not a regular file"));
        }
        if self.seen.contains(&name) {
            return Err(self.bad(member, "is there twice"));
        }
        self.seen.push(name);
        match name {
            CONFIG => {
                let json = self.hold(member, reader)?;
                self.unpacked.config = format::Config::parse(&json)
                    .map_err(|wrong| bad(self.path, &wrong.to_string()))?;
            }
            DELETED => {
                let json = self.hold(member, reader)?;
                self.unpacked.deleted =
                    format::deleted(&json).map_err(|wrong| bad(self.path, &wrong.to_string()))?;
            }
            CHANGES => {
                let file = self.root.create(CHANGES.as_ref(), 0o600);
                let mut file = file.map_err(Error::io("make", CHANGES))?;
                reader.copy(&mut file)?;
                self.unpacked.changes = true;
            }
            // The old spec and log: nothing of them is taken.
            _ => {}
        }
        Ok(())
    }

    fn image(
        &mut self,
        name: &[u8],
        member: &Member,
        reader: &mut ArchiveReader<File>,
    ) -> Result<(), Error> {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        if !name.iter().all(plain) || name.starts_with(b".") {
            return Err(self.bad(member, "is no name of criu's"));
        }
        if !member.regular {
            return Err(self.bad(member, "is not a regular file"));
        }
        let held = if name == DESCRIPTORS.as_bytes() {
            let json = self.hold(member, reader)?;
            let safe = format::safe_descriptors(&json);
            Some(safe.map_err(|wrong| bad(self.path, &wrong.to_string()))?)
        } else {
            None
        };
        let file = self.images.create(std::ffi::OsStr::from_bytes(name), 0o600);
        let mut file = match file {
            Err(there) if there.kind() == io::ErrorKind::AlreadyExists => {
                return Err(self.bad(member, "is there twice"));
            }
            file => file.map_err(Error::io(
                "make",
                String::from_utf8_lossy(name).into_owned(),
            ))?,
        };
        match held {
            Some(json) => {
                io::Write::write_all(&mut file, &json).map_err(Error::io("write", DESCRIPTORS))?;
                self.unpacked.descriptors = true;
            }
            None => {
                reader.copy(&mut file)?;
                self.unpacked.images += 1;
            }
        }
        Ok(())
    }

    fn hold(&self, member: &Member, reader: &mut ArchiveReader<File>) -> Result<Vec<u8>, Error> {
        if member.size > HELD {
            return Err(self.bad(member, "is too large"));
        }
        let mut bytes = Vec::new();
        reader.copy(&mut bytes)?;
        Ok(bytes)
    }

    fn bad(&self, member: &Member, why: &str) -> Error {
        bad(
            self.path,
            &format!("{:?} {why}", String::from_utf8_lossy(&member.path)),
        )
    }
}

/// Checks criu's images in `images` against what the request gives: no process may be more than that,
/// nor in another cgroup than its container's, and nothing be mounted that the runtime does not give.
pub(crate) fn confine(images: &Path, most: &format::Confinement) -> Result<(), Error> {
    let (mut processes, mut namespaces) = (0, 0);
    for entry in std::fs::read_dir(images).map_err(Error::io("list", images))? {
        let path = entry.map_err(Error::io("list", images))?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let is = |prefix: &str| name.starts_with(prefix) && name.ends_with(".img");
        let (process, cgroups) = (is("core-"), name == "cgroup.img");
        if !process && !cgroups && !is("mountpoints-") {
            continue;
        }
        let mut bytes = Vec::new();
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        let read = file.take(HELD).read_to_end(&mut bytes);
        read.map_err(Error::io("read", &path))?;
        let checked = if process {
            processes += 1;
            format::process(&bytes, most)
        } else if cgroups {
            format::cgroups(&bytes)
        } else {
            namespaces += 1;
            format::mounts(&bytes)
        };
        checked.map_err(|wrong| Error::Invalid(format!("checkpoint archive, {name}: {wrong}")))?;
    }
    if processes > 0 && namespaces == 1 {
        Ok(())
    } else {
        Err(Error::Invalid(
            "checkpoint archive: holds no processes with one mount namespace".to_owned(),
        ))
    }
}

/// Puts an archive's changes of the root file system where the container `id`, which is not mounted
/// yet, keeps its own. They are unpacked as a layer is.
pub(crate) fn fill(
    store: &storage::Store,
    id: &ContainerId,
    from: &Path,
    unpacked: &Unpacked,
) -> Result<(), Error> {
    let mut marks = ArchiveWriter::new(Vec::new());
    for path in &unpacked.deleted {
        let name = format::whiteout(path).map_err(|wrong| Error::Invalid(wrong.to_string()))?;
        marks
            .file(name.as_bytes(), &Attributes::default(), 0, io::empty())
            .map_err(Error::io("write", DELETED))?;
    }
    let limits = UnpackLimits::default();
    let staged = if unpacked.changes {
        let changes = from.join(CHANGES);
        let file = File::open(&changes).map_err(Error::io("open", &changes))?;
        let staged =
            store.unpack_changes(io::Cursor::new(marks.into_inner()).chain(file), limits)?;
        std::fs::remove_file(&changes).map_err(Error::io("remove", changes))?;
        staged
    } else {
        let marks = marks.finish().map_err(Error::io("write", DELETED))?;
        store.unpack_changes(&marks[..], limits)?
    };
    Ok(store.fill(&node::record_id(id.as_str())?, staged)?)
}

fn bad(path: &Path, why: &str) -> Error {
    Error::Invalid(format!("checkpoint archive {}: {why}", path.display()))
}

fn make_dir(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new().mode(0o700).create(path);
    made.map_err(Error::io("make", path))
}

fn open_dir(path: &Path) -> Result<Dir, Error> {
    Dir::open(path).map_err(Error::io("open", path))
}
