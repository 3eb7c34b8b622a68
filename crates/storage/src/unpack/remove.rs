//! Making room: what an earlier entry of the same archive put where a later one wants to be.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{FileType, Mode, OFlags};
use sys::beneath::Dir;

use super::keys::Keys;

/// Takes away files; those whose data the tar-split refers to are moved to a directory.
#[derive(Debug)]
pub(super) struct Remover {
    directory: Dir,
    path: PathBuf,
    /// Positions of the files with data that are where their names say, by real path.
    pub(super) contents: Keys,
    /// What was moved, by position.
    pub(super) moved: Vec<(u64, PathBuf)>,
    count: u64,
}

impl Remover {
    pub(super) fn new(path: PathBuf) -> io::Result<Self> {
        let directory = Dir::open(&path)?;
        Ok(Self {
            directory,
            path,
            contents: Keys::default(),
            moved: Vec::new(),
            count: 0,
        })
    }

    /// Removes `name` in `dir`, whose real path below the root is `real`, with all below it.
    pub(super) fn remove(&mut self, dir: &Dir, real: &[u8], name: &OsStr) -> io::Result<()> {
        if self.remove_file(dir, real, name)? {
            return Ok(());
        }
        // Depth first, each directory listed once; one descriptor for each level, of which a path
        // of `PATH_MAX` bytes has some 2,000 at most.
        let mut levels = vec![self.enter(dir, real, name)?];
        while let Some(level) = levels.last_mut() {
            if let Some(child) = level.directories.pop() {
                let entered = self.enter(&level.dir, &level.path, &child)?;
                levels.push(entered);
                continue;
            }
            let done = levels.pop().expect("the loop's condition");
            levels
                .last()
                .map_or(dir, |level| &level.dir)
                .remove_dir(&done.name)?;
        }
        Ok(())
    }

    /// Opens the directory `name` and removes all files in it.
    fn enter(&mut self, parent: &Dir, real: &[u8], name: &OsStr) -> io::Result<Level> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = Dir::from(rustix::fs::openat(parent, name, flags, Mode::empty())?);
        let path = join(real, name.as_bytes());
        let mut directories = Vec::new();
        for (name, _) in dir.entries()? {
            if !self.remove_file(&dir, &path, &name)? {
                directories.push(name);
            }
        }
        Ok(Level {
            path,
            name: name.to_owned(),
            dir,
            directories,
        })
    }

    /// Removes or moves `name` if it is no directory.
    fn remove_file(&mut self, dir: &Dir, real: &[u8], name: &OsStr) -> io::Result<bool> {
        let Some(stat) = dir.stat(name)? else {
            return Ok(true);
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Ok(false);
        }
        if let Some(position) = self.contents.remove(&join(real, name.as_bytes())) {
            let moved = self.count.to_string();
            self.count += 1;
            dir.rename_new(name, &self.directory, OsStr::new(&moved))?;
            self.moved.push((position, self.path.join(moved)));
        } else {
            dir.remove_file(name)?;
        }
        Ok(true)
    }
}

struct Level {
    path: Vec<u8>,
    name: OsString,
    dir: Dir,
    /// Still to be removed.
    directories: Vec<OsString>,
}

pub(super) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() {
        name.to_vec()
    } else {
        [parent, b"/", name].concat()
    }
}
