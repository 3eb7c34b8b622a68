//! Trees copied whole, and differences applied to them.
//!
//! What is in a layer is a stranger's: no path is followed through a symbolic link, and directories are
//! entered one after another, however deep they are.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags, SeekFrom, Stat, Timespec};
use rustix::io::Errno;
use sys::beneath::Dir;

use crate::unpack::{Hidden, may_set, tolerate};

/// Copies all that is in `from` into `to`, an empty directory, which gets owner, permissions, attributes
/// and times of `from`. Hard links stay such; bytes are shared where the file system can.
pub(super) fn tree(from: &Dir, to: &Dir) -> io::Result<()> {
    let mut links: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let mut times = Times::default();
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let (source, target) = (from.dir_plain(&path)?, to.dir_plain(&path)?);
        times.remember(&source, &path)?;
        for (name, _) in source.entries()? {
            let Some(stat) = source.stat(&name)? else {
                continue;
            };
            let kind = FileType::from_raw_mode(stat.st_mode);
            let at = path.join(&name);
            if kind == FileType::Directory {
                target.make_dir(&name, 0o700)?;
                attributes(&source, &name, &stat, &target)?;
                waiting.push(at);
                continue;
            }
            if stat.st_nlink > 1 {
                let known = (stat.st_dev, stat.st_ino);
                if let Some(first) = links.get(&known) {
                    link(to, first, &target, &name)?;
                    continue;
                }
                links.insert(known, at);
            }
            file(&source, &name, &stat, &target)?;
            attributes(&source, &name, &stat, &target)?;
            target.set_times(&name, accessed(&stat), modified(&stat))?;
        }
    }
    root(from, to)?;
    times.set(to)
}

/// Applies a difference to a tree, taking its files away, once what it hides is gone. The tree's root gets
/// what `diff`'s has if `with_root`.
pub(super) fn apply(diff: &Dir, to: &Dir, with_root: bool, hidden: &Hidden) -> io::Result<()> {
    for path in hidden.paths() {
        hide(to, path)?;
    }
    let mut times = Times::default();
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let (source, target) = (diff.dir_plain(&path)?, to.dir_plain(&path)?);
        if with_root || path != Path::new("") {
            times.remember(&source, &path)?;
        }
        for (name, _) in source.entries()? {
            let Some(stat) = source.stat(&name)? else {
                continue;
            };
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind != FileType::Directory {
                remove(&target, &name)?;
                source.rename_new(&name, &target, &name)?;
                continue;
            }
            let there = target.stat(&name)?;
            let there = there.map(|stat| FileType::from_raw_mode(stat.st_mode));
            if there != Some(FileType::Directory) {
                remove(&target, &name)?;
                target.make_dir(&name, 0o700)?;
            }
            attributes(&source, &name, &stat, &target)?;
            waiting.push(path.join(&name));
        }
    }
    if with_root {
        root(diff, to)?;
    }
    times.set(to)
}

/// Times of directories, which are set when nothing is made in them any more.
#[derive(Default)]
struct Times(Vec<(PathBuf, Timespec, Timespec)>);

impl Times {
    fn remember(&mut self, dir: &Dir, path: &Path) -> io::Result<()> {
        let stat = rustix::fs::fstat(dir)?;
        self.0
            .push((path.to_owned(), accessed(&stat), modified(&stat)));
        Ok(())
    }

    fn set(self, root: &Dir) -> io::Result<()> {
        for (path, last_access, last_modification) in self.0 {
            let dir = root.dir_plain(&path)?;
            let times = rustix::fs::Timestamps {
                last_access,
                last_modification,
            };
            rustix::fs::futimens(&dir, &times)?;
        }
        Ok(())
    }
}

/// Makes a file of the same kind and content.
fn file(from: &Dir, name: &OsStr, stat: &Stat, to: &Dir) -> io::Result<()> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
            let source = File::from(from.open_plain(Path::new(name), flags, 0)?);
            let target = to.create(name, 0o600)?;
            match rustix::fs::ioctl_ficlone(&target, &source) {
                Ok(()) => Ok(()),
                Err(_) => content(&source, &target),
            }
        }
        FileType::Symlink => to.make_symlink(name, &from.read_link(name)?),
        kind => to.make_node(name, kind, 0o600, stat.st_rdev),
    }
}

/// Copies a file's data into an empty one. Holes stay holes: a small layer may have a file that is larger
/// than the disk. Where the file system doesn't tell them, all is data.
fn content(mut source: &File, mut target: &File) -> io::Result<()> {
    let mut at = 0;
    loop {
        let start = match rustix::fs::seek(source, SeekFrom::Data(at)) {
            // No data behind it.
            Err(Errno::NXIO) => break,
            start => start?,
        };
        let end = rustix::fs::seek(source, SeekFrom::Hole(start))?;
        rustix::fs::seek(source, SeekFrom::Start(start))?;
        rustix::fs::seek(target, SeekFrom::Start(start))?;
        let length = end.saturating_sub(start);
        if io::copy(&mut source.by_ref().take(length), &mut target)? < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at = end;
    }
    target.set_len(source.metadata()?.len())
}

/// Gives `name` in `to` owner, permissions and extended attributes of the same name in `from`.
fn attributes(from: &Dir, name: &OsStr, stat: &Stat, to: &Dir) -> io::Result<()> {
    to.set_owner(name, stat.st_uid, stat.st_gid)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        to.set_mode(name, stat.st_mode & 0o7777)?;
    }
    for key in from.xattr_keys(name)? {
        let key = OsString::from(OsStr::from_bytes(&key));
        if may_set(key.as_bytes())
            && let Some(value) = from.xattr(name, &key)?
        {
            tolerate(key.as_bytes(), to.set_xattr(name, &key, &value))?;
        }
    }
    Ok(())
}

/// The same for the directories themselves.
fn root(from: &Dir, to: &Dir) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(stat.st_uid),
        rustix::fs::Gid::from_raw(stat.st_gid),
    );
    rustix::fs::fchown(to, Some(uid), Some(gid))?;
    rustix::fs::fchmod(to, rustix::fs::Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    Ok(())
}

/// One more name, in `to`, for what is at `first` in the tree `root`.
fn link(root: &Dir, first: &Path, to: &Dir, name: &OsStr) -> io::Result<()> {
    let parent = root.dir_plain(first.parent().unwrap_or(Path::new("")))?;
    let first = first.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    to.make_link(name, &parent, first)
}

/// Removes whatever has that name, with all in it.
fn remove(dir: &Dir, name: &OsStr) -> io::Result<()> {
    let Some(stat) = dir.stat(name)? else {
        return Ok(());
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return dir.remove_file(name);
    }
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd()));
    path.push(name);
    sys::remove::tree(&path)
}

/// Removes what is at `path` in the tree `root`; of the root itself, all that is in it.
fn hide(root: &Dir, path: &Path) -> io::Result<()> {
    let Some(name) = path.file_name() else {
        let all = root.entries()?;
        return all.iter().try_for_each(|(name, _)| remove(root, name));
    };
    match root.dir_plain(path.parent().unwrap_or(Path::new(""))) {
        Ok(dir) => remove(&dir, name),
        // The difference has a directory there, which takes the place of what is in the way.
        Err(error) if !is_in_the_way(&error) => Err(error),
        Err(_) => Ok(()),
    }
}

/// Whether a path ends early: at nothing, at a file, at a symbolic link.
fn is_in_the_way(error: &io::Error) -> bool {
    let kind = error.kind();
    matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

fn accessed(stat: &Stat) -> Timespec {
    time(stat.st_atime, stat.st_atime_nsec)
}

fn modified(stat: &Stat) -> Timespec {
    time(stat.st_mtime, stat.st_mtime_nsec)
}

fn time(tv_sec: i64, nanoseconds: u64) -> Timespec {
    Timespec {
        tv_sec,
        tv_nsec: nanoseconds.try_into().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    use super::*;

    /// Larger than what a disk may well have, and as large as a layer's file can be.
    const LARGE: u64 = 256 << 30;

    #[test]
    fn holes_are_copied_as_holes() {
        let dir = tempfile::tempdir().unwrap();
        let block = vec![7; 64 << 10];
        for (name, size, data) in [
            ("all", LARGE, &[][..]),
            ("middle", LARGE, &[1 << 30, 3 << 30]),
            ("end", LARGE, &[LARGE - block.len() as u64]),
            ("begin", block.len() as u64 + 5, &[0]),
            ("none", 0, &[]),
        ] {
            let source = File::create_new(dir.path().join(name)).unwrap();
            source.set_len(size).unwrap();
            for at in data {
                source.write_all_at(&block, *at).unwrap();
            }
            let copy = dir.path().join(format!("{name}-copy"));
            let target = File::create_new(&copy).unwrap();
            let source = File::open(dir.path().join(name)).unwrap();
            content(&source, &target).unwrap();
            let copied = target.metadata().unwrap();
            assert_eq!(copied.len(), size, "{name}");
            let most = 512 * copied.blocks();
            assert!(most <= (data.len() as u64 + 1) << 17, "{name}: {most}");
            let copy = File::open(copy).unwrap();
            for at in data {
                let mut found = vec![0; block.len()];
                copy.read_exact_at(&mut found, *at).unwrap();
                assert_eq!(found, block, "{name} at {at}");
            }
        }
    }
}
