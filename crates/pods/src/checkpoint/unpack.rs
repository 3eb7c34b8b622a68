//! Reading an archive, or the layer of an image that holds the same. Only members that we know are
//! taken, only as regular files, each once, and under names that we give; what the others hold is read
//! past.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use ::runtime::checkpoint as format;
use rustix::fs::{FileType, OFlags};
use storage::{ArchiveReader, ArchiveWriter, Attributes, Member, UnpackLimits};
use sys::beneath::Dir;

use super::{CHANGES, CONFIG, DELETED, DESCRIPTORS, IMAGES, LOG, Place, SPEC};
use crate::{ContainerId, Error, node};

/// Members of an archive (ours: criu writes a dozen files for each process).
const MEMBERS: u64 = 200_000;
/// Bytes of a member that is held in memory (ours).
const HELD: u64 = 64 << 20;

/// Opens an archive, which has to be the daemon's user's and written by nobody else: what criu's
/// images say is what is done.
fn open(path: &Path) -> Result<File, Error> {
    let place = Place::Archive(path.to_owned());
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
        return Err(bad(&place, "is not a regular file"));
    }
    if about.uid() != rustix::process::geteuid().as_raw() || about.mode() & 0o022 != 0 {
        return Err(bad(
            &place,
            "could be written to by others: it has to be root's, and nobody else's to write",
        ));
    }
    Ok(file)
}

/// What an archive says, beside the files.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    pub(crate) config: format::Config,
    /// What the container ran.
    pub(crate) process: format::Process,
    deleted: Vec<String>,
    changes: bool,
    descriptors: bool,
    images: u64,
}

/// Unpacks the checkpoint at `place` into the new directory `to`.
pub(crate) fn unpack(store: &storage::Store, place: &Place, to: &Path) -> Result<Unpacked, Error> {
    make_dir(to)?;
    make_dir(&to.join(IMAGES))?;
    let (root, images) = (open_dir(to)?, open_dir(&to.join(IMAGES))?);
    let mut taking = Taking {
        place,
        root,
        images,
        seen: Vec::new(),
        unpacked: Unpacked::default(),
    };
    match place {
        Place::Archive(path) => taking.archive(open(path)?)?,
        Place::Image(id) => {
            let missing = || bad(place, "has more than one layer");
            taking.layer(&open_dir(&store.image_files(id)?.ok_or_else(missing)?)?)?;
        }
    }
    let Taking { seen, unpacked, .. } = taking;
    if !seen.contains(&CONFIG) || unpacked.images == 0 || !unpacked.descriptors {
        return Err(bad(place, "holds no checkpoint of a container"));
    }
    Ok(unpacked)
}

/// What the checkpoint in an image says about its container; `None` where the image has none.
pub(crate) fn config(
    store: &storage::Store,
    image: &storage::ImageId,
) -> Result<Option<format::Config>, Error> {
    let place = Place::Image(image.clone());
    let Some(layer) = store.image_files(image)? else {
        return Ok(None);
    };
    let layer = open_dir(&layer)?;
    let Some((member, mut file @ Some(_))) = member_of(&layer, CONFIG)? else {
        return Ok(None);
    };
    let json = hold(&place, &member, &mut file)?;
    let config = format::Config::parse(&json);
    config
        .map(Some)
        .map_err(|wrong| bad(&place, &wrong.to_string()))
}

/// The data of a member.
trait Data {
    fn copy(&mut self, to: &mut dyn Write) -> Result<(), Error>;
}

impl<R: Read> Data for ArchiveReader<R> {
    fn copy(&mut self, mut to: &mut dyn Write) -> Result<(), Error> {
        Ok(Self::copy(self, &mut to).map(drop)?)
    }
}

impl Data for Option<File> {
    fn copy(&mut self, to: &mut dyn Write) -> Result<(), Error> {
        let Some(file) = self else { return Ok(()) };
        let copied = io::copy(file, to);
        copied.map(drop).map_err(Error::io("copy", "a checkpoint"))
    }
}

/// A file or directory of a layer as an archive's member, if it is there. Only a regular file is
/// opened: opening a device may do something.
fn member_of(layer: &Dir, path: &str) -> Result<Option<(Member, Option<File>)>, Error> {
    let failed = |error| Error::io("open", path.to_owned())(error);
    let (dir, name) = match path.split_once('/') {
        Some((dir, name)) => (Some(layer.dir_plain(dir.as_ref()).map_err(failed)?), name),
        None => (None, path),
    };
    let dir = dir.as_ref().unwrap_or(layer);
    let Some(stat) = dir.stat(name.as_ref()).map_err(failed)? else {
        return Ok(None);
    };
    let kind = FileType::from_raw_mode(stat.st_mode);
    let file = if kind.is_file() {
        let opened = dir.open_plain(name.as_ref(), OFlags::RDONLY, 0);
        Some(File::from(opened.map_err(failed)?))
    } else {
        None
    };
    let member = Member {
        path: path.into(),
        regular: file.is_some(),
        directory: kind.is_dir(),
        link: None,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        offset: 0,
    };
    Ok(Some((member, file)))
}

/// A member's data, in memory.
fn hold(place: &Place, member: &Member, data: &mut dyn Data) -> Result<Vec<u8>, Error> {
    if member.size > HELD {
        return Err(bad_member(place, member, "is too large"));
    }
    let mut bytes = Vec::new();
    data.copy(&mut bytes)?;
    Ok(bytes)
}

struct Taking<'a> {
    place: &'a Place,
    root: Dir,
    images: Dir,
    seen: Vec<&'static str>,
    unpacked: Unpacked,
}

/// The members that are known, beside criu's images.
const TAKEN: [&str; 6] = [CONFIG, SPEC, CHANGES, DELETED, LOG, IMAGES];

impl Taking<'_> {
    fn archive(&mut self, archive: File) -> Result<(), Error> {
        let limits = UnpackLimits {
            entries: MEMBERS,
            ..UnpackLimits::default()
        };
        let mut reader = ArchiveReader::new(archive, limits);
        while let Some(member) = reader.next_member()? {
            self.member(&member, &mut reader)?;
        }
        Ok(())
    }

    fn layer(&mut self, layer: &Dir) -> Result<(), Error> {
        let mut directory = false;
        for name in TAKEN {
            if let Some((member, mut file)) = member_of(layer, name)? {
                self.member(&member, &mut file)?;
                directory |= name == IMAGES;
            }
        }
        if !directory {
            return Ok(());
        }
        let images = layer.dir_plain(IMAGES.as_ref());
        let entries = images.and_then(|dir| dir.entries());
        for (name, _) in entries.map_err(Error::io("list", IMAGES))? {
            // criu's names are ASCII, and nothing else is taken.
            let path = format!("{IMAGES}/{}", name.to_string_lossy());
            if let Some((member, mut file)) = member_of(layer, &path)? {
                self.member(&member, &mut file)?;
            }
        }
        Ok(())
    }

    fn member(&mut self, member: &Member, data: &mut dyn Data) -> Result<(), Error> {
        let known = TAKEN
            .into_iter()
            .find(|name| name.as_bytes() == member.path.as_slice());
        let image = member
            .path
            .strip_prefix(IMAGES.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"/"));
        if let Some(name) = image {
            return self.image(name, member, data);
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
                let json = hold(self.place, member, data)?;
                self.unpacked.config = format::Config::parse(&json)
                    .map_err(|wrong| bad(self.place, &wrong.to_string()))?;
            }
            // Nothing else of the old spec is taken.
            SPEC => {
                let json = hold(self.place, member, data)?;
                self.unpacked.process = format::Process::of_spec(&json)
                    .map_err(|wrong| bad(self.place, &wrong.to_string()))?;
            }
            DELETED => {
                let json = hold(self.place, member, data)?;
                self.unpacked.deleted =
                    format::deleted(&json).map_err(|wrong| bad(self.place, &wrong.to_string()))?;
            }
            CHANGES => {
                let file = self.root.create(CHANGES.as_ref(), 0o600);
                let mut file = file.map_err(Error::io("make", CHANGES))?;
                data.copy(&mut file)?;
                self.unpacked.changes = true;
            }
            // The old log: nothing of it is taken.
            _ => {}
        }
        Ok(())
    }

    fn image(&mut self, name: &[u8], member: &Member, data: &mut dyn Data) -> Result<(), Error> {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        if !name.iter().all(plain) || name.starts_with(b".") {
            return Err(self.bad(member, "is no name of criu's"));
        }
        if !member.regular {
            return Err(self.bad(member, "is not a regular file"));
        }
        let held = if name == DESCRIPTORS.as_bytes() {
            let json = hold(self.place, member, data)?;
            let safe = format::safe_descriptors(&json);
            Some(safe.map_err(|wrong| bad(self.place, &wrong.to_string()))?)
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
                data.copy(&mut file)?;
                self.unpacked.images += 1;
            }
        }
        Ok(())
    }

    fn bad(&self, member: &Member, why: &str) -> Error {
        bad_member(self.place, member, why)
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
    let id = node::record_id(id.as_str())?;
    let staged = if unpacked.changes {
        let changes = from.join(CHANGES);
        let file = File::open(&changes).map_err(Error::io("open", &changes))?;
        let staged =
            store.unpack_changes(&id, io::Cursor::new(marks.into_inner()).chain(file), limits)?;
        std::fs::remove_file(&changes).map_err(Error::io("remove", changes))?;
        staged
    } else {
        let marks = marks.finish().map_err(Error::io("write", DELETED))?;
        store.unpack_changes(&id, &marks[..], limits)?
    };
    Ok(store.fill(&id, staged)?)
}

fn bad(place: &Place, why: &str) -> Error {
    Error::Invalid(format!("{place}: {why}"))
}

fn bad_member(place: &Place, member: &Member, why: &str) -> Error {
    let name = String::from_utf8_lossy(&member.path);
    bad(place, &format!("{name:?} {why}"))
}

fn make_dir(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new().mode(0o700).create(path);
    made.map_err(Error::io("make", path))
}

fn open_dir(path: &Path) -> Result<Dir, Error> {
    Dir::open(path).map_err(Error::io("open", path))
}
