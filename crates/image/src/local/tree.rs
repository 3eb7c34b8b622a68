//! A bundle's files: a directory, or a tar that is read by an index of its members. Whoever made
//! them may be hostile: no path leaves the directory, nothing but regular files is opened.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{Mode, OFlags};
use storage::{ArchiveReader, Compression, Link, UnpackLimits};
use sys::beneath::Dir;

use crate::decompress;
use crate::limits;

/// The reason in words: the caller knows which bundle it is.
pub(super) type Result<T> = std::result::Result<T, String>;

/// The files.
#[derive(Debug)]
pub(super) enum Tree {
    Directory(Dir),
    Archive {
        file: Arc<File>,
        members: HashMap<PathBuf, Place>,
    },
}

/// What a member of an archive is.
#[derive(Debug)]
pub(super) enum Place {
    Data { offset: u64, size: u64 },
    Link(PathBuf),
}

/// A stretch of a file.
pub(super) struct Section {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Tree {
    pub(super) fn directory(path: &Path) -> Result<Self> {
        let opened = Dir::open(path);
        opened
            .map(Self::Directory)
            .map_err(|error| error.to_string())
    }

    /// Reads an archive's index. One that is compressed is laid out first, in a file without a name.
    pub(super) fn archive(path: &Path, limits: UnpackLimits, temporary: &Path) -> Result<Self> {
        let words = |error: io::Error| error.to_string();
        let file = File::open(path).map_err(words)?;
        if !file.metadata().map_err(words)?.is_file() {
            return Err("not a regular file".to_owned());
        }
        let file = plain(file, limits, temporary).map_err(words)?;
        let members = index(&file, limits)?;
        Ok(Self::Archive {
            file: Arc::new(file),
            members,
        })
    }

    /// Opens a file of the bundle.
    pub(super) fn open(&self, path: &str) -> Result<Section> {
        self.find(path)?.ok_or_else(|| {
            let why = match self {
                Self::Directory(_) => "no such file",
                Self::Archive { .. } => "not in the archive",
            };
            why.to_owned()
        })
    }

    /// The same; `None` where it is not there.
    fn find(&self, path: &str) -> Result<Option<Section>> {
        match self {
            Self::Directory(dir) => {
                // A FIFO must not keep us.
                let flags = OFlags::RDONLY | OFlags::NONBLOCK;
                let opened = match dir.open_beneath(Path::new(path), flags, 0) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    opened => opened.map_err(|error| error.to_string())?,
                };
                let file = File::from(opened);
                let about = file.metadata().map_err(|error| error.to_string())?;
                if !about.is_file() {
                    return Err("not a regular file".to_owned());
                }
                Ok(Some(Section {
                    file: Arc::new(file),
                    offset: 0,
                    left: about.len(),
                }))
            }
            Self::Archive { file, members } => {
                let found = place(members, Path::new(path))?;
                Ok(found.map(|(offset, left)| Section {
                    file: Arc::clone(file),
                    offset,
                    left,
                }))
            }
        }
    }

    /// Reads a small file of the bundle.
    pub(super) fn bytes(&self, path: &str, limit: usize) -> Result<Bytes> {
        let section = self.open(path);
        let read = section.and_then(|section| section.bytes(limit));
        read.map_err(|reason| format!("{path}: {reason}"))
    }

    /// The same; `None` where it is not there.
    pub(super) fn bytes_if_there(&self, path: &str, limit: usize) -> Result<Option<Bytes>> {
        let section = self.find(path);
        let read = section.and_then(|found| found.map(|it| it.bytes(limit)).transpose());
        read.map_err(|reason| format!("{path}: {reason}"))
    }
}

impl Section {
    /// Bytes that are left.
    pub(super) fn size(&self) -> u64 {
        self.left
    }

    fn bytes(self, limit: usize) -> Result<Bytes> {
        if self.left > limit as u64 {
            return Err(format!("larger than {limit} bytes"));
        }
        let mut bytes = Vec::new();
        let read = self.take(limit as u64).read_to_end(&mut bytes);
        read.map_err(|error| error.to_string())?;
        Ok(bytes.into())
    }
}

impl Read for Section {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let wanted = into.len().min(left);
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.file.read_at(&mut into[..wanted], self.offset)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

/// The file itself, or what it holds where it is compressed.
fn plain(mut file: File, limits: UnpackLimits, temporary: &Path) -> io::Result<File> {
    let mut buffered = BufReader::with_capacity(limits::HTTP_BUFFER_BYTES, &file);
    let compression = decompress::by_magic(buffered.fill_buf()?);
    if matches!(compression, Compression::None) {
        file.seek(SeekFrom::Start(0))?;
        return Ok(file);
    }
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let unnamed = rustix::fs::open(temporary, flags, Mode::RUSR | Mode::WUSR)?;
    let mut unnamed = File::from(unnamed);
    let mut content = decompress::reader(compression, buffered)?.take(limits.bytes + 1);
    if io::copy(&mut content, &mut unnamed)? > limits.bytes {
        let text = format!("holds more than {} bytes", limits.bytes);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    unnamed.seek(SeekFrom::Start(0))?;
    Ok(unnamed)
}

fn index(file: &File, limits: UnpackLimits) -> Result<HashMap<PathBuf, Place>> {
    let mut archive = ArchiveReader::new(
        file,
        UnpackLimits {
            entries: limits::ARCHIVE_MEMBERS,
            ..limits
        },
    );
    let mut members = HashMap::new();
    while let Some(member) = archive.next_member().map_err(|error| error.to_string())? {
        let path = as_path(&member.path);
        let place = match member.link {
            Some(Link::Hard(target)) => Place::Link(normal(Path::new(""), &as_path(&target))?),
            Some(Link::Symbolic(target)) => {
                let beside = path.parent().unwrap_or(Path::new(""));
                // One that leads elsewhere is nobody's layer: only who follows it minds.
                match normal(beside, &as_path(&target)) {
                    Ok(target) => Place::Link(target),
                    Err(_) => continue,
                }
            }
            None if member.regular => Place::Data {
                offset: member.offset,
                size: member.size,
            },
            None => continue,
        };
        members.insert(path, place);
    }
    Ok(members)
}

fn as_path(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(bytes).into()
}

/// A path from the archive's root without `.` and `..`.
fn normal(beside: &Path, path: &Path) -> Result<PathBuf> {
    let mut normal = beside.to_owned();
    for part in path.components() {
        match part {
            Component::Normal(name) => normal.push(name),
            Component::CurDir => {}
            Component::ParentDir if normal.pop() => {}
            _ => return Err(format!("{} leads out of the archive", path.display())),
        }
    }
    Ok(normal)
}

fn place(members: &HashMap<PathBuf, Place>, path: &Path) -> Result<Option<(u64, u64)>> {
    let mut path = normal(Path::new(""), path)?;
    for _ in 0..limits::ARCHIVE_LINKS {
        match members.get(&path) {
            Some(Place::Data { offset, size }) => return Ok(Some((*offset, *size))),
            Some(Place::Link(target)) => path.clone_from(target),
            None => return Ok(None),
        }
    }
    Err("too many links".to_owned())
}
