//! Id-mapped mounts (`mount_setattr(2)`, Linux 5.12): files of somebody else's owners, shown with
//! those that a user namespace gives them.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, fsconfig_create, fsmount, fsopen, mount_change, move_mount, open_tree,
};
use rustix::thread::UnshareFlags;

use super::{Flags, Overlay, overlay, tmpfs};

/// Bytes of the tmpfs that holds mount points: directories take none of them.
const PLACE_BYTES: u64 = 1 << 20;

/// `struct mount_attr` of `mount_setattr(2)`.
#[derive(Default)]
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// A copy of the mount at `source`, attached nowhere yet, on which `namespace` (a user namespace)
/// says who owns what: an owner `n` on disk is shown as the id that `n` has outside of it. With the
/// mounts beneath it if `recursive`; those keep their owners. What is mounted beneath `source` later
/// shows in the copy too; nothing that happens to the copy, its end above all, reaches `source`.
///
/// # Errors
/// `EINVAL`: the file system can't (overlay, NFS before Linux 6.9), or is id-mapped already;
/// `EPERM`: the namespace is the first one; else of `open_tree(2)`.
pub fn id_mapped(source: &Path, namespace: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    let tree = open_tree(CWD, source, flags)?;
    let slave = MountAttr {
        propagation: libc::MS_SLAVE,
        ..MountAttr::default()
    };
    set_attributes(tree.as_fd(), libc::AT_RECURSIVE, &slave)?;
    set_id_map(tree.as_fd(), namespace)?;
    Ok(tree)
}

/// A copy of the mount at `source`, attached nowhere, by which nothing of it can be changed (Linux 5.12).
///
/// # Errors
/// `ENOSYS`: an older kernel; else of `open_tree(2)`.
pub fn read_only_copy(source: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, source, flags)?;
    let read_only = MountAttr {
        set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()),
        ..MountAttr::default()
    };
    set_attributes(tree.as_fd(), 0, &read_only)?;
    Ok(tree)
}

/// Whether a tmpfs can be id-mapped (Linux 6.3): makes one, attached nowhere, and tries.
///
/// # Errors
/// `EINVAL`: it can't; else as [`id_mapped`].
pub fn try_tmpfs(namespace: BorrowedFd<'_>) -> io::Result<()> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let tree = fsmount(&context, flags, MountAttrFlags::empty())?;
    set_id_map(tree.as_fd(), namespace)
}

fn set_id_map(tree: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let mapped = MountAttr {
        set: MOUNT_ATTR_IDMAP,
        user_namespace: u64::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?,
        ..MountAttr::default()
    };
    set_attributes(tree, 0, &mapped)
}

#[allow(unsafe_code, reason = "rustix has no mount_setattr")]
fn set_attributes(
    tree: BorrowedFd<'_>,
    flags: libc::c_int,
    attributes: &MountAttr,
) -> io::Result<()> {
    // SAFETY: an empty path with AT_EMPTY_PATH, and a structure of the size that is passed, which
    // the kernel only reads.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttr>(),
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Puts a copy that [`id_mapped`] made at `target`.
///
/// # Errors
/// Of `move_mount(2)`.
pub fn attach(tree: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(tree, "", CWD, target, flags)?)
}

/// Lets everybody through the directories from `dir` up to `/` who knows names in them: a runtime
/// looks for a root as the root of a user namespace, who is nobody in particular outside.
///
/// # Errors
/// Of `stat(2)` and `chmod(2)`.
pub fn let_through(dir: &Path) -> io::Result<()> {
    const SEARCH: u32 = 0o111;
    for dir in dir.ancestors() {
        let mode = fs::metadata(dir)?.mode() & 0o7777;
        if mode & SEARCH != SEARCH {
            fs::set_permissions(dir, fs::Permissions::from_mode(mode | SEARCH))?;
        }
    }
    Ok(())
}

/// As [`overlay`], with lowers whose owners are those that the user namespace `namespace` gives
/// them (Linux 5.19). The upper directory is not mapped.
///
/// Overlay takes only lowers that are mounted, so the mapped copies are, in a mount namespace that
/// ends with the thread that made it: whenever this process dies, none is left.
///
/// # Errors
/// As [`overlay`] and [`id_mapped`].
pub fn overlay_id_mapped(
    wanted: &Overlay,
    namespace: BorrowedFd<'_>,
    target: &Path,
) -> io::Result<()> {
    let made = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("id-mapped-overlay".into())
            .spawn_scoped(scope, || detached(wanted, namespace, target))?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    attach(made.as_fd(), target)
}

/// The overlay, mounted nowhere; `place` is a directory for mount points. Leaves the calling thread
/// in a mount namespace of its own.
fn detached(wanted: &Overlay, namespace: BorrowedFd<'_>, place: &Path) -> io::Result<OwnedFd> {
    unshare_mounts()?;
    tmpfs(place, PLACE_BYTES, 0o700, Flags::default(), "")?;
    let mut lowers = Vec::with_capacity(wanted.lowers.len());
    for (number, lower) in wanted.lowers.iter().enumerate() {
        let tree = id_mapped(&wanted.base.join(lower), namespace, false)?;
        let name = PathBuf::from(number.to_string());
        fs::create_dir(place.join(&name))?;
        attach(tree.as_fd(), &place.join(&name))?;
        lowers.push(name);
    }
    let merged = place.join("merged");
    fs::create_dir(&merged)?;
    let absolute = |path: &PathBuf| wanted.base.join(path);
    let mapped = Overlay {
        base: place.to_owned(),
        lowers,
        upper: wanted
            .upper
            .as_ref()
            .map(|(upper, work)| (absolute(upper), absolute(work))),
        ..wanted.clone()
    };
    overlay(&mapped, &merged)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, &merged, flags)?)
}

/// Gives the calling thread a mount namespace of its own, from which nothing reaches others.
#[allow(unsafe_code, reason = "unshare can break what other threads assume")]
fn unshare_mounts() -> io::Result<()> {
    // SAFETY: only the mounts and, with them, the file system attributes of the calling thread,
    // which was made for this, become its own; memory and descriptors stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(mount_change("/", flags)?)
}
