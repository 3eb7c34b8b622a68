//! Mounts: overlay by the new mount API or `mount(2)`, bind, tmpfs, and taking them away.

mod id_map;
mod table;

pub use id_map::{attach, id_mapped, let_through, overlay_id_mapped, read_only_copy, try_tmpfs};
pub(crate) use table::unescape;
pub use table::{beneath, holding};

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount,
    mount_bind, mount_bind_recursive, mount_change, mount_remount, move_mount, unmount,
};

/// An overlay file system to mount. `lowers`, `upper` and `work` are relative to `base`.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    /// The directory that the short names are relative to.
    pub base: PathBuf,
    /// From the nearest to the farthest.
    pub lowers: Vec<PathBuf>,
    /// The writable layer and its work directory; none mounts read-only.
    pub upper: Option<(PathBuf, PathBuf)>,
    /// Options of overlay itself: `metacopy` = `on`, `volatile` without a value, `context`.
    pub options: Vec<(String, Option<String>)>,
    /// Options of the mount.
    pub flags: Flags,
}

/// Options of any mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Read-only.
    pub read_only: bool,
    /// No device nodes.
    pub no_dev: bool,
    /// No set-user-ID.
    pub no_suid: bool,
    /// No program starts from it.
    pub no_exec: bool,
}

/// The most bytes of one string that `fsconfig(2)` takes.
const FSCONFIG_STRING: usize = 255;

/// The most bytes of options that `mount(2)` takes: a page, and the smallest page is this.
const MOUNT_DATA: usize = 4096;

/// Mounts `overlay` at `target`: one `lowerdir+` for each lower where the kernel has it (Linux
/// 6.8) and the names fit, else one string of short names relative to `base`, at most a page.
///
/// # Errors
/// Of the calls it makes; `EINVAL` with more than 500 lowers.
pub fn overlay(overlay: &Overlay, target: &Path) -> io::Result<()> {
    let fits =
        |path: &PathBuf| overlay.base.as_os_str().len() + path.as_os_str().len() < FSCONFIG_STRING;
    let upper_fits = overlay
        .upper
        .as_ref()
        .is_none_or(|(upper, work)| fits(upper) && fits(work));
    if has_lowerdir_plus() && upper_fits && overlay.lowers.iter().all(fits) {
        overlay_by_fsopen(overlay, target)
    } else {
        overlay_by_mount(overlay, target)
    }
}

/// Whether overlay takes its lowers one by one (Linux 6.7). Asked of the kernel once: before 6.5, when
/// overlay was not made for these calls yet, it takes any word, and looks at them all in the end.
#[must_use]
pub fn has_lowerdir_plus() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).is_ok_and(|context| {
            fsconfig_set_string(&context, "lowerdir+", "/").is_ok()
                && fsconfig_set_string(&context, "no such option", "/").is_err()
        })
    })
}

fn overlay_by_fsopen(overlay: &Overlay, target: &Path) -> io::Result<()> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "overlay")?;
    for lower in &overlay.lowers {
        fsconfig_set_string(&context, "lowerdir+", overlay.base.join(lower))?;
    }
    if let Some((upper, work)) = &overlay.upper {
        fsconfig_set_string(&context, "upperdir", overlay.base.join(upper))?;
        fsconfig_set_string(&context, "workdir", overlay.base.join(work))?;
    }
    for (key, value) in &overlay.options {
        match value {
            Some(value) => fsconfig_set_string(&context, key, value)?,
            None => fsconfig_set_flag(&context, key)?,
        }
    }
    if overlay.flags.read_only {
        fsconfig_set_flag(&context, "ro")?;
    }
    fsconfig_create(&context)?;
    let tree = fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        overlay.flags.attributes(),
    )?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(&tree, "", CWD, target, flags)?)
}

/// In a thread of its own that has unshared the current directory from the process.
fn overlay_by_mount(overlay: &Overlay, target: &Path) -> io::Result<()> {
    let data = overlay.data()?;
    let work = || -> io::Result<()> {
        unshare_current_directory()?;
        rustix::process::chdir(&overlay.base)?;
        Ok(mount(
            "overlay",
            target,
            "overlay",
            overlay.flags.mount_flags(),
            data.as_c_str(),
        )?)
    };
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("overlay-mount".into())
            .spawn_scoped(scope, work)?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// `unshare(2)` with `CLONE_FS`.
#[allow(unsafe_code, reason = "unshare can break what other threads assume")]
fn unshare_current_directory() -> io::Result<()> {
    // SAFETY: only the file system attributes (current directory, root, umask) of the calling
    // thread, which was made for this, become its own; memory and descriptors stay shared.
    Ok(unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }?)
}

impl Overlay {
    /// The options as `mount(2)` takes them. A comma separates, a colon too: names are short
    /// and ours, so that neither occurs in a path; a value is refused that has a comma outside
    /// of quotes.
    fn data(&self) -> io::Result<CString> {
        let mut data = b"lowerdir=".to_vec();
        for (n, lower) in self.lowers.iter().enumerate() {
            if n > 0 {
                data.push(b':');
            }
            data.extend_from_slice(plain(lower.as_os_str())?);
        }
        if let Some((upper, work)) = &self.upper {
            data.extend_from_slice(b",upperdir=");
            data.extend_from_slice(plain(upper.as_os_str())?);
            data.extend_from_slice(b",workdir=");
            data.extend_from_slice(plain(work.as_os_str())?);
        }
        for (key, value) in &self.options {
            data.push(b',');
            data.extend_from_slice(key.as_bytes());
            if let Some(value) = value {
                // SELinux labels hold commas and are quoted.
                let quoted = format!("=\"{value}\"");
                let bare = format!("={value}");
                let value = if value.contains(',') { quoted } else { bare };
                data.extend_from_slice(value.as_bytes());
            }
        }
        if data.len() >= MOUNT_DATA {
            return Err(rustix::io::Errno::TOOBIG.into());
        }
        CString::new(data).map_err(|_| io::ErrorKind::InvalidInput.into())
    }
}

fn plain(name: &OsStr) -> io::Result<&[u8]> {
    let bytes = name.as_bytes();
    if bytes.iter().any(|byte| matches!(byte, b',' | b':' | b'\\')) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(bytes)
}

impl Flags {
    fn attributes(self) -> MountAttrFlags {
        let mut flags = MountAttrFlags::empty();
        flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, self.read_only);
        flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, self.no_dev);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOSUID, self.no_suid);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, self.no_exec);
        flags
    }

    fn mount_flags(self) -> MountFlags {
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::RDONLY, self.read_only);
        flags.set(MountFlags::NODEV, self.no_dev);
        flags.set(MountFlags::NOSUID, self.no_suid);
        flags.set(MountFlags::NOEXEC, self.no_exec);
        flags
    }
}

/// Mounts what is at `source` at `target` too, with the mounts below it if `recursive`.
///
/// # Errors
/// Of `mount(2)`.
pub fn bind(source: &Path, target: &Path, recursive: bool) -> io::Result<()> {
    if recursive {
        mount_bind_recursive(source, target)?;
    } else {
        mount_bind(source, target)?;
    }
    Ok(())
}

/// Sets the options of the bind mount at `target`.
///
/// # Errors
/// Of `mount(2)`.
pub fn remount_bind(target: &Path, flags: Flags) -> io::Result<()> {
    Ok(mount_remount(
        target,
        MountFlags::BIND | flags.mount_flags(),
        c"",
    )?)
}

/// Mounts a tmpfs of at most `size` bytes whose root has `mode`, all of it with the SELinux label
/// `label`, if that isn't empty.
///
/// # Errors
/// Of `mount(2)`.
pub fn tmpfs(target: &Path, size: u64, mode: u32, flags: Flags, label: &str) -> io::Result<()> {
    let mut data = format!("size={size},mode={mode:o}");
    if !label.is_empty() {
        data += &format!(",context=\"{label}\"");
    }
    let data = CString::new(data)?;
    Ok(mount(
        "tmpfs",
        target,
        "tmpfs",
        flags.mount_flags(),
        data.as_c_str(),
    )?)
}

/// How mounts below a mount point reach other mount namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all.
    Private,
    /// From the peer group to here only.
    Slave,
    /// Both ways.
    Shared,
}

/// Sets how mounts at and, if `recursive`, below `target` propagate.
///
/// # Errors
/// `EINVAL` where `target` is no mount point; else of `mount(2)`.
pub fn set_propagation(target: &Path, to: Propagation, recursive: bool) -> io::Result<()> {
    let mut flags = match to {
        Propagation::Private => MountPropagationFlags::PRIVATE,
        Propagation::Slave => MountPropagationFlags::DOWNSTREAM,
        Propagation::Shared => MountPropagationFlags::SHARED,
    };
    flags.set(MountPropagationFlags::REC, recursive);
    Ok(mount_change(target, flags)?)
}

/// Takes the mount at `target` away as soon as nobody uses it, and its name at once. Never
/// follows a symbolic link.
///
/// # Errors
/// `EINVAL` where `target` is no mount point, `ENOENT`; else of `umount2(2)`.
pub fn unmount_lazily(target: &Path) -> io::Result<()> {
    Ok(unmount(
        target,
        UnmountFlags::DETACH | UnmountFlags::NOFOLLOW,
    )?)
}

/// Takes all mounts at `target` away, whoever uses them; fine if it is no mount point or isn't there.
///
/// # Errors
/// Of `umount2(2)`.
pub fn unmount_all(target: &Path) -> io::Result<()> {
    loop {
        match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes the mount at `target` away if nobody uses it. Never follows a symbolic link.
///
/// # Errors
/// `EBUSY` where it is in use, `EINVAL` where `target` is no mount point; else of `umount2(2)`.
pub fn unmount_idle(target: &Path) -> io::Result<()> {
    Ok(unmount(target, UnmountFlags::NOFOLLOW)?)
}

/// Unmounts what is on the entries of `dir` and removes them, files and empty directories, and
/// `dir`; fine if it isn't there, or somebody else removes it at the same time.
///
/// # Errors
/// Of `umount2(2)`, `unlink(2)` and `rmdir(2)`.
pub fn remove_mount_points(dir: &Path) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    };
    let entries = match std::fs::read_dir(dir) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        // Not asked first: what answers may be a server that is dead.
        unmount_all(&path)?;
        let removed = std::fs::symlink_metadata(&path).and_then(|about| match about.is_dir() {
            true => std::fs::remove_dir(&path),
            false => std::fs::remove_file(&path),
        });
        gone(removed)?;
    }
    gone(std::fs::remove_dir(dir))
}

/// Whether `path` itself is the root of a mount (`statx(2)`, Linux 5.8). `false` where it is
/// missing.
///
/// # Errors
/// Of `statx(2)`.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
    // FUSE is not asked: the program behind it may hang.
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    match statx(CWD, path, flags, StatxFlags::empty()) {
        Ok(found) => Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(false),
        // FUSE, and the program behind it has ended.
        Err(rustix::io::Errno::NOTCONN) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_may_remove_the_same_mount_points() {
        let dir = std::env::temp_dir().join(format!("points-{}", std::process::id()));
        for _ in 0..50 {
            for number in 0..8 {
                std::fs::create_dir_all(dir.join(number.to_string())).unwrap();
            }
            std::thread::scope(|scope| {
                let removers: Vec<_> = (0..4)
                    .map(|_| scope.spawn(|| remove_mount_points(&dir)))
                    .collect();
                for remover in removers {
                    remover.join().unwrap().unwrap();
                }
            });
            assert!(std::fs::symlink_metadata(&dir).is_err());
        }
    }
}
