//! Putting entries on disk, beneath the layer's root and nowhere else.
//!
//! Parents are resolved by `openat2(2)`: without symbolic links at first, and where the archive
//! itself made one, as if the layer were the root. The last component is never followed.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::FileType;
use sys::beneath::{Dir, makedev};

use super::How;
use super::attributes::{Rules, timestamps};
use super::marks::{Hidden, Marks};
use super::path::{EntryPath, Wanted};
use super::remove::{Remover, join};
use crate::error::Context;
use crate::tar::{Entry, Kind, Time};
use crate::{Error, limits};

const NO_TARGET: &str = "hard link to a file that is not in this layer";

/// A layer's directory being filled.
pub(super) struct Extractor {
    root: Rc<Dir>,
    root_path: PathBuf,
    remover: Remover,
    marks: Marks,
    rules: Rules,
    /// The last parent: most entries are beside each other.
    cached: Option<Rc<Parent>>,
    /// Times of directories, set last: what is made in them changes them.
    directories: Vec<(Vec<u8>, Time, Time)>,
    directory_bytes: usize,
    has_root: bool,
    /// Real path of the file placed last.
    last_file: Vec<u8>,
}

/// A directory that entries are put into.
struct Parent {
    /// As the archive names it.
    path: Vec<u8>,
    /// Where it really is below the root.
    real: Vec<u8>,
    dir: Dir,
}

/// What an entry has become.
pub(super) enum Placed {
    /// A regular file, open and empty.
    File {
        file: File,
        /// No symbolic link on the way: its name in the archive is its path.
        plain: bool,
    },
    /// Anything that takes no data.
    Other,
}

impl Placed {
    pub(super) fn is_where_it_says(&self) -> bool {
        matches!(self, Self::File { plain: true, .. })
    }
}

impl Extractor {
    pub(super) fn new(diff: &Path, replaced: &Path, how: How) -> Result<Self, Error> {
        Ok(Self {
            root: Rc::new(Dir::open(diff).at("open", diff)?),
            root_path: diff.to_owned(),
            remover: Remover::new(replaced.to_owned()).at("open", replaced)?,
            marks: how.marks,
            rules: how.rules,
            cached: None,
            directories: Vec::new(),
            directory_bytes: 0,
            has_root: false,
            last_file: Vec::new(),
        })
    }

    /// Makes what the entry asks for, but for a file's data and everything's attributes.
    pub(super) fn place(&mut self, entry: &Entry, path: &EntryPath) -> Result<Placed, Error> {
        match path.wanted() {
            Wanted::Nothing => Ok(Placed::Other),
            Wanted::Root if entry.kind == Kind::Directory => Ok(Placed::Other),
            Wanted::Root => Err(entry.bad("the root has to be a directory")),
            Wanted::Opaque(directory) => {
                let parent = self.parent(entry, directory)?;
                self.marks
                    .hide_in(entry, &parent.dir, parent.real.clone())?;
                Ok(Placed::Other)
            }
            Wanted::Whiteout { parent, name } => {
                self.whiteout(entry, parent, OsStr::from_bytes(name))?;
                Ok(Placed::Other)
            }
            Wanted::Entry { parent, name } => self.make(entry, parent, OsStr::from_bytes(name)),
        }
    }

    /// Remembers that the file placed last is at `position` of the tar-split.
    pub(super) fn remember(&mut self, position: u64) {
        self.remover.contents.insert(&self.last_file, position);
    }

    /// Gives the entry its owner, permissions, attributes and times. Returns what was moved out
    /// of its way: positions in the tar-split, and where their files are now.
    pub(super) fn complete(
        &mut self,
        entry: &Entry,
        path: &EntryPath,
        placed: Placed,
    ) -> Result<Vec<(u64, PathBuf)>, Error> {
        match (path.wanted(), placed, entry.kind) {
            _ if self.marks.are_instead_of(entry) => {}
            (Wanted::Root, _, _) => self.complete_root(entry)?,
            (Wanted::Entry { .. }, Placed::File { file, .. }, _) => {
                self.rules
                    .file(entry, &file)
                    .map_err(|error| failed(entry, error))?;
            }
            (Wanted::Entry { .. }, Placed::Other, Kind::HardLink) => {}
            (Wanted::Entry { .. }, Placed::Other, _) => self.complete_other(entry, path)?,
            _ => {}
        }
        Ok(std::mem::take(&mut self.remover.moved))
    }

    /// Sets the times of directories. Says whether the archive had an entry for the root, and what is
    /// hidden and has no mark at a file.
    pub(super) fn finish(self) -> Result<(bool, Hidden), Error> {
        if !self.has_root {
            let done = self.rules.implied_root(&self.root);
            done.at("set permissions of", &self.root_path)?;
        }
        for (path, accessed, modified) in self.directories {
            let path = Path::new(OsStr::from_bytes(&path));
            // A later entry may have put something else there.
            let Ok(dir) = self.root.dir_plain(path) else {
                continue;
            };
            let times = timestamps(accessed, modified);
            rustix::fs::futimens(&dir, &times).at("set times of", self.root_path.join(path))?;
        }
        self.rules.finish();
        Ok((self.has_root, self.marks.into_hidden()))
    }

    fn make(&mut self, entry: &Entry, parent: &[u8], name: &OsStr) -> Result<Placed, Error> {
        let parent = self.parent(entry, parent)?;
        let there = parent
            .dir
            .stat(name)
            .map_err(|error| failed(entry, error))?;
        if let Some(stat) = &there {
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::Directory && entry.kind == Kind::Directory {
                return Ok(Placed::Other);
            }
            if entry.kind == Kind::HardLink && self.is_same(entry, &parent, stat)? {
                return Ok(Placed::Other);
            }
            self.cached = None;
            self.remover
                .remove(&parent.dir, &parent.real, name)
                .map_err(|error| failed(entry, error))?;
        }
        let path = join(&parent.real, name.as_bytes());
        let was_whiteout = self.marks.forget(&path, there.as_ref());
        if self.marks.are_instead_of(entry) {
            self.marks.hide(entry, &parent.dir, &parent.real, name)?;
            return Ok(Placed::Other);
        }
        let placed = self.make_new(entry, &parent, name)?;
        if was_whiteout && entry.kind == Kind::Directory {
            // A whiteout before the directory: only what this layer has in it shows.
            self.hide_in(entry, path)?;
        }
        Ok(placed)
    }

    fn make_new(&mut self, entry: &Entry, parent: &Parent, name: &OsStr) -> Result<Placed, Error> {
        let mode = entry.mode & 0o777;
        let dir = &parent.dir;
        let made = match self.rules.kind(entry) {
            Kind::Regular if entry.kind != Kind::Regular => dir.create(name, 0o600).map(drop),
            Kind::Regular => {
                let file = dir
                    .create(name, 0o600)
                    .map_err(|error| failed(entry, error))?;
                self.last_file = join(&parent.real, name.as_bytes());
                return Ok(Placed::File {
                    file,
                    plain: parent.path == parent.real,
                });
            }
            Kind::HardLink => return self.hard_link(entry, parent, name),
            Kind::Directory => dir.make_dir(name, mode),
            Kind::Symlink => dir.make_symlink(name, OsStr::from_bytes(&entry.link)),
            Kind::CharacterDevice => {
                dir.make_node(name, FileType::CharacterDevice, mode, dev(entry))
            }
            Kind::BlockDevice => dir.make_node(name, FileType::BlockDevice, mode, dev(entry)),
            Kind::Fifo => dir.make_node(name, FileType::Fifo, mode, 0),
            Kind::Global => Ok(()),
        };
        made.map_err(|error| failed(entry, error))?;
        Ok(Placed::Other)
    }

    fn hard_link(&mut self, entry: &Entry, parent: &Parent, name: &OsStr) -> Result<Placed, Error> {
        let (directory, target) = self.link_target(entry)?;
        let target = OsStr::from_bytes(&target);
        parent
            .dir
            .make_link(name, &directory.dir, target)
            .map_err(|error| {
                if error.kind() == io::ErrorKind::NotFound {
                    entry.bad(NO_TARGET)
                } else {
                    failed(entry, error)
                }
            })?;
        Ok(Placed::Other)
    }

    fn link_target(&mut self, entry: &Entry) -> Result<(Rc<Parent>, Vec<u8>), Error> {
        let target = EntryPath::parse(&entry.link)
            .map_err(|reason| entry.bad(&format!("hard link's target: {reason}")))?;
        let Wanted::Entry { parent, name } = target.wanted() else {
            return Err(entry.bad("hard link to the root or a whiteout"));
        };
        match self.existing(entry, parent) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(entry.bad(NO_TARGET))
            }
            directory => Ok((directory?, name.to_vec())),
        }
    }

    /// Whether a hard link would replace the very file it is to link to.
    fn is_same(
        &mut self,
        entry: &Entry,
        parent: &Parent,
        stat: &rustix::fs::Stat,
    ) -> Result<bool, Error> {
        let (directory, name) = self.link_target(entry)?;
        let target = directory
            .dir
            .stat(OsStr::from_bytes(&name))
            .map_err(|e| failed(entry, e))?;
        debug_assert!(parent.path.len() <= limits::PATH_BYTES);
        Ok(target.is_some_and(|target| target.st_ino == stat.st_ino))
    }

    /// A whiteout is about lower layers. What this layer has under the name stays: a directory
    /// becomes opaque, anything else hides the lower one anyway.
    fn whiteout(&mut self, entry: &Entry, parent: &[u8], name: &OsStr) -> Result<(), Error> {
        let parent = self.parent(entry, parent)?;
        let there = parent
            .dir
            .stat(name)
            .map_err(|error| failed(entry, error))?;
        let Some(stat) = there else {
            return self.marks.hide(entry, &parent.dir, &parent.real, name);
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(());
        }
        let path = join(&parent.real, name.as_bytes());
        self.hide_in(entry, path)
    }

    /// Makes a directory of this layer, by its real path, opaque.
    fn hide_in(&mut self, entry: &Entry, path: Vec<u8>) -> Result<(), Error> {
        let dir = self.root.dir_plain(Path::new(OsStr::from_bytes(&path)));
        let dir = dir.map_err(|error| failed(entry, error))?;
        self.marks.hide_in(entry, &dir, path)
    }

    /// The directory `path`, made where it is missing.
    fn parent(&mut self, entry: &Entry, path: &[u8]) -> Result<Rc<Parent>, Error> {
        match self.existing(entry, path) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let mut done = 0;
        let mut parent = self.existing(entry, b"")?;
        while done < path.len() {
            let rest = &path[done..];
            let skip = usize::from(done > 0);
            let end = rest[skip..].iter().position(|byte| *byte == b'/');
            let end = end.map_or(path.len(), |slash| done + skip + slash);
            let name = OsStr::from_bytes(&path[done + skip..end]);
            match self.existing(entry, &path[..end]) {
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    let made = parent.dir.make_dir(name, 0o700);
                    made.and_then(|()| self.rules.implied(&parent.dir, name))
                        .map_err(|_| entry.bad("a parent is a symbolic link to nowhere"))?;
                    parent = self.existing(entry, &path[..end])?;
                }
                other => parent = other?,
            }
            done = end;
        }
        Ok(parent)
    }

    fn existing(&mut self, entry: &Entry, path: &[u8]) -> Result<Rc<Parent>, Error> {
        if let Some(cached) = &self.cached
            && cached.path == path
        {
            return Ok(Rc::clone(cached));
        }
        let as_path = Path::new(OsStr::from_bytes(path));
        let (dir, real) = match self.root.dir_plain(as_path) {
            Ok(dir) => (dir, path.to_vec()),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                let dir = self
                    .root
                    .dir_in_root(as_path)
                    .map_err(|error| failed(entry, error))?;
                let real = self.real_path(&dir).map_err(|error| failed(entry, error))?;
                (dir, real)
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(entry.bad("a parent is not a directory"));
            }
            Err(error) => return Err(failed(entry, error)),
        };
        let parent = Rc::new(Parent {
            path: path.to_vec(),
            real,
            dir,
        });
        self.cached = Some(Rc::clone(&parent));
        Ok(parent)
    }

    /// Where a directory really is, relative to the root.
    fn real_path(&self, dir: &Dir) -> io::Result<Vec<u8>> {
        use std::os::fd::AsFd;
        let of = |dir: &Dir| {
            let path = format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd());
            std::fs::read_link(path).map(|path| path.into_os_string().into_vec())
        };
        let (root, path) = (of(&self.root)?, of(dir)?);
        let rest = path
            .strip_prefix(root.as_slice())
            .ok_or(io::ErrorKind::InvalidInput)?;
        Ok(rest.strip_prefix(b"/").unwrap_or(rest).to_vec())
    }

    fn complete_root(&mut self, entry: &Entry) -> Result<(), Error> {
        self.has_root = true;
        self.rules
            .open(entry, &*self.root)
            .map_err(|error| failed(entry, error))?;
        self.remember_times(entry, Vec::new())
    }

    fn complete_other(&mut self, entry: &Entry, path: &EntryPath) -> Result<(), Error> {
        let (parent, name) = path.split();
        let parent = self.existing(entry, parent)?;
        let name = OsStr::from_bytes(name);
        if entry.kind == Kind::Directory {
            self.remember_times(entry, join(&parent.real, name.as_bytes()))?;
        }
        self.rules
            .named(entry, &parent.dir, name)
            .map_err(|error| failed(entry, error))
    }

    fn remember_times(&mut self, entry: &Entry, path: Vec<u8>) -> Result<(), Error> {
        self.directory_bytes += path.len() + REMEMBERED_BYTES;
        if self.directory_bytes > limits::DIRECTORY_PATH_BYTES {
            let limit = limits::DIRECTORY_PATH_BYTES as u64;
            return Err(Error::TooLarge {
                what: "bytes of directories' paths",
                limit,
            });
        }
        let accessed = entry.accessed.unwrap_or(entry.modified);
        self.directories.push((path, accessed, entry.modified));
        Ok(())
    }
}

/// Bytes that a remembered directory takes beside its path, the allocation's own included.
const REMEMBERED_BYTES: usize = 96;

fn dev(entry: &Entry) -> sys::beneath::Dev {
    makedev(entry.device.0, entry.device.1)
}

pub(super) fn failed(entry: &Entry, source: io::Error) -> Error {
    let path = PathBuf::from(OsStr::from_bytes(&entry.name));
    Error::Io {
        doing: "unpack",
        path,
        source,
    }
}
