//! Removing whole trees that somebody else has filled: containers, archives.
//!
//! `std`'s removal calls itself for each level, and a container may make more levels than a stack has
//! room for. Here directories that are deep are moved up to the top and wait there for their turn, so
//! that stack and descriptors have a bound. Nothing is removed beyond a mount point.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use crate::beneath::Dir;

/// How often a directory is looked through again that somebody else fills meanwhile.
const TRIES: u32 = 1000;
/// Levels that are gone down in a row.
const DEPTH: u32 = 32;

/// Removes a file, a link or a directory with all beneath it; it is fine if there is none. Links are
/// not followed.
///
/// # Errors
/// `EBUSY` or `EXDEV`: something is mounted at or beneath `path`, and what is there stays; `EAGAIN`:
/// somebody else fills it as fast; else of `unlinkat(2)` and `openat2(2)`.
pub fn tree(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(stat) if !stat.is_dir() => return fs::remove_file(path),
        Ok(_) => {}
    }
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::BUSY.into());
    };
    let above = match above.as_os_str().is_empty() {
        true => Path::new("."),
        false => above,
    };
    let parent = Dir::open(above)?;
    for _ in 0..TRIES {
        let Some(top) = enter(parent.as_fd(), name)? else {
            return Ok(());
        };
        empty(&top)?;
        if remove_empty(parent.as_fd(), name)? {
            return Ok(());
        }
    }
    Err(Errno::AGAIN.into())
}

/// Removes all that is in `top`.
fn empty(top: &Dir) -> io::Result<()> {
    let (mut number, mut tries) = (0, 0);
    while tries < TRIES {
        let before = number;
        clear(top, top, 0, &mut number)?;
        if top.entries()?.is_empty() {
            return Ok(());
        }
        tries = if number == before { tries + 1 } else { 0 };
    }
    Err(Errno::AGAIN.into())
}

/// Removes what is in `dir`, but for directories that are too deep: those move to `top`.
fn clear(dir: &Dir, top: &Dir, depth: u32, number: &mut u64) -> io::Result<()> {
    for (name, kind) in dir.entries()? {
        if remove_file(dir.as_fd(), &name, kind)? {
            continue;
        }
        if depth == DEPTH {
            move_up(dir.as_fd(), &name, top.as_fd(), number)?;
            continue;
        }
        if let Some(inner) = enter(dir.as_fd(), &name)? {
            clear(&inner, top, depth + 1, number)?;
        }
        // One that was filled meanwhile is found in the next round.
        remove_empty(dir.as_fd(), &name)?;
    }
    Ok(())
}

/// Opens the directory `name`, which must not be a mount point; `None` where it is gone.
fn enter(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Dir>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    let opened: Result<OwnedFd, Errno> =
        rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve);
    match opened {
        Ok(fd) => Ok(Some(Dir::from(fd))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes `name` unless it is a directory; whether it is gone.
fn remove_file(dir: BorrowedFd<'_>, name: &OsStr, kind: FileType) -> io::Result<bool> {
    if kind == FileType::Directory {
        return Ok(false);
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Removes the directory `name` if it is empty; whether it is gone.
fn remove_empty(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<bool> {
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Moves the directory `name` to `top` under a name that nobody has there.
fn move_up(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    top: BorrowedFd<'_>,
    number: &mut u64,
) -> io::Result<()> {
    loop {
        let new = format!(".removed-{number}");
        *number += 1;
        match rustix::fs::renameat_with(dir, name, top, &new, RenameFlags::NOREPLACE) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_tree_deeper_than_any_stack_goes_and_links_are_not_followed() {
        let base = std::env::temp_dir().join(format!("remove-{}", std::process::id()));
        let top = base.join("top");
        fs::create_dir_all(&top).unwrap();
        fs::write(base.join("kept"), "kept").unwrap();
        symlink(&base, top.join("link")).unwrap();
        // As a container does it: down and down, beyond what a path may have.
        let mut dir = Dir::open(&top).unwrap();
        for level in 0..20_000 {
            if level % 1000 == 0 {
                dir.create("file".as_ref(), 0o600).unwrap();
            }
            dir.make_dir("d".as_ref(), 0o700).unwrap();
            dir = dir.dir_plain(Path::new("d")).unwrap();
        }
        fs::create_dir(top.join(".removed-0")).unwrap();
        drop(dir);
        let small = std::thread::Builder::new().stack_size(64 * 1024);
        let removed = small.spawn({
            let top = top.clone();
            move || tree(&top)
        });
        removed.unwrap().join().unwrap().unwrap();
        assert!(!top.try_exists().unwrap());
        assert_eq!(fs::read_to_string(base.join("kept")).unwrap(), "kept");
        tree(&top).unwrap();
        tree(&base.join("kept")).unwrap();
        fs::remove_dir(base).unwrap();
    }
}
