//! Files that are replaced whole: readers see the old bytes or the new ones, never a mixture.
//!
//! *Durable* means that the bytes and the name outlive a power cut once the call is back (the
//! file is synced before its name, the directory after). *Volatile* means atomic towards other
//! processes only: after a power cut the file may be old, new, or (not on ext4) empty.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, RenameFlags};

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Begin of the names under which files are written; then the real name, the writer's pid and a number.
const PREFIX: &str = ".tmp-";

/// Replaces `path` by `bytes` with `mode`, durably.
///
/// # Errors
/// Of the calls it makes; the old file is then still there.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = Temporary::write(path, bytes, mode, true)?;
    temporary.rename(path, RenameFlags::empty())?;
    sync_parent(path)
}

/// Replaces `path` by `bytes` with `mode` without waiting for any disk.
///
/// # Errors
/// Of the calls it makes; the old file is then still there.
pub fn replace_volatile(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    Temporary::write(path, bytes, mode, false)?.rename(path, RenameFlags::empty())
}

/// Makes `path` with `bytes` and `mode`, durably.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] where there is such a file: it stays as it is.
pub fn create_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = Temporary::write(path, bytes, mode, true)?;
    temporary.rename(path, RenameFlags::NOREPLACE)?;
    sync_parent(path)
}

/// Replaces several files in `dir`, durably: each is synced, then all get their names, then the
/// directory is synced once.
///
/// # Errors
/// Of the calls it makes; each file is then the old one or the new one.
pub fn replace_all(dir: &Path, files: &[(String, &[u8])], mode: u32) -> io::Result<()> {
    let mut written = Vec::with_capacity(files.len());
    for (name, bytes) in files {
        let path = dir.join(name);
        written.push((Temporary::write(&path, bytes, mode, true)?, path));
    }
    for (temporary, path) in written {
        temporary.rename(&path, RenameFlags::empty())?;
    }
    sync_dir(dir)
}

/// Renames `from` to `to`, replacing it, and waits for neither directory.
///
/// # Errors
/// Of `rename(2)`.
pub fn rename_volatile(from: &Path, to: &Path) -> io::Result<()> {
    Ok(rustix::fs::renameat(CWD, from, CWD, to)?)
}

/// Renames `from` to `to` where `to` does not exist, and waits for neither directory.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`]; else of `renameat2(2)`.
pub fn rename_new_volatile(from: &Path, to: &Path) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(
        CWD,
        from,
        CWD,
        to,
        RenameFlags::NOREPLACE,
    )?)
}

/// Renames `from` to `to`, replacing it, durably. What `from` holds is not synced.
///
/// # Errors
/// Of the calls it makes.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    rename_volatile(from, to)?;
    sync_parent(to)?;
    if from.parent() == to.parent() {
        Ok(())
    } else {
        sync_parent(from)
    }
}

/// Makes the names in directory `path` durable.
///
/// # Errors
/// Of `open(2)` and `fsync(2)`.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes everything durable that was written to the file system of `file` (`syncfs(2)`). Since
/// Linux 5.8 it reports errors of writing back.
///
/// # Errors
/// Of `syncfs(2)`.
pub fn sync_filesystem(file: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::syncfs(file)?)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    sync_dir(parent(path))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Removes what processes that were killed have left in `dir` of files that they were replacing; fine if
/// `dir` isn't there. Other processes' are left alone while those live.
///
/// # Errors
/// Of `readdir(3)` and `unlink(2)`.
pub fn sweep(dir: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().and_then(writer).is_none_or(lives) {
            continue;
        }
        match std::fs::remove_file(entry.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Who writes the file of that name, if it is a temporary one.
fn writer(name: &str) -> Option<u32> {
    let mut parts = name.strip_prefix(PREFIX)?.rsplitn(3, '-');
    let _count: u64 = parts.next()?.parse().ok()?;
    let pid = parts.next()?.parse().ok()?;
    parts.next().map(|_| pid)
}

fn lives(pid: u32) -> bool {
    let there = Path::new("/proc").join(pid.to_string()).try_exists();
    there.unwrap_or(true)
}

/// A file under a name of its own that is removed unless it gets its real one.
struct Temporary(PathBuf);

impl Temporary {
    fn write(path: &Path, bytes: &[u8], mode: u32, sync: bool) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let temporary = Self(parent(path).join(temporary_name(name)));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary.0)?;
        file.write_all(bytes)?;
        if sync {
            file.sync_all()?;
        }
        Ok(temporary)
    }

    fn rename(mut self, to: &Path, flags: RenameFlags) -> io::Result<()> {
        rustix::fs::renameat_with(CWD, &self.0, CWD, to, flags)?;
        self.0 = PathBuf::new();
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            // The error that brought us here is the one worth telling.
            #[allow(
                clippy::let_underscore_must_use,
                reason = "clean-up after another error"
            )]
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

fn temporary_name(name: &OsStr) -> OsString {
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let mut temporary = OsString::from(PREFIX);
    temporary.push(name);
    temporary.push(format!("-{}-{count}", std::process::id()));
    temporary
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_a_killed_writer_left_is_removed() {
        let dir = std::env::temp_dir().join(format!("crioxide-sweep-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        // No process has such a pid (proc_sys_kernel(5), pid_max).
        let dead = ".tmp-a-b-4194305-7".to_owned();
        let ours = format!(".tmp-a-{}-7", std::process::id());
        let kept = [ours, ".tmp-0123.tar-split.gz".into(), "a-4194305-7".into()];
        for name in kept.iter().chain([&dead]) {
            fs::write(dir.join(name), "").unwrap();
        }
        sweep(&dir).unwrap();
        assert!(!dir.join(dead).try_exists().unwrap());
        assert!(kept.iter().all(|name| dir.join(name).is_file()));
        fs::remove_dir_all(&dir).unwrap();
        sweep(&dir).unwrap();
    }

    #[test]
    fn files_are_replaced_whole_and_new_ones_never_replace() {
        let dir = std::env::temp_dir().join(format!("crioxide-durable-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let path = dir.join("file");
        create_new(&path, b"one", 0o600).unwrap();
        let again = create_new(&path, b"two", 0o600).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        replace(&path, b"three", 0o640).unwrap();
        replace_volatile(&path, b"four", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"four");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        rename(&path, &dir.join("other")).unwrap();
        assert_eq!(
            fs::read_dir(&dir).unwrap().count(),
            1,
            "no temporary file stays"
        );
        fs::remove_dir_all(&dir).unwrap();
    }
}
