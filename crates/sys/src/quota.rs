//! Project quotas: how much all files of a project take of their file system, and how much they may
//! (`quotactl(2)`). The commands are XFS's (`linux/dqblk_xfs.h`), which the kernel translates for ext4.
//! A directory gives its project to what is made in it where it is told to (`ioctl_xfs_fsgetxattr(2)`).
//!
//! The file system is named by any descriptor of it (`quotactl_fd(2)`, Linux 5.14): no device node is
//! needed.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, Setter, opcode};

/// `Q_XSETQLIM`, `Q_XGETQUOTA` and `Q_XGETQSTATV` of projects: `QCMD(XQM_CMD(n), PRJQUOTA)`.
const GET_QUOTA: u32 = command(3);
const SET_LIMITS: u32 = command(4);
const GET_STATE: u32 = command(8);

const fn command(number: u32) -> u32 {
    const PROJECT: u32 = 2;
    ((0x58 << 8) + number) << 8 | PROJECT
}

/// Bytes of a "basic block", whatever the file system's own blocks are.
const BLOCK: u64 = 512;

/// What a project may take; 0 is as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes allocated for its files, in steps of 512.
    pub bytes: u64,
    /// Its inodes.
    pub inodes: u64,
}

impl Limits {
    /// Whether there is any.
    #[must_use]
    pub fn is_any(self) -> bool {
        self != Self::default()
    }
}

/// What a project takes, and may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Bytes allocated for its files.
    pub bytes: u64,
    /// Its inodes.
    pub inodes: u64,
    /// More it may not take.
    pub limits: Limits,
}

/// Whether a file system counts what projects take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// It counts.
    pub counted: bool,
    /// It refuses what is beyond a limit.
    pub enforced: bool,
}

/// `struct fs_quota_statv`, version 1.
#[repr(C)]
struct QuotaState {
    version: i8,
    pad: u8,
    flags: u16,
    in_core: u32,
    /// Three times an inode, blocks and extents.
    files: [[u64; 3]; 3],
    limits_and_room: [u64; 11],
}

/// `struct fs_disk_quota`.
#[repr(C)]
#[derive(Default)]
struct DiskQuota {
    version: i8,
    flags: i8,
    fields: u16,
    id: u32,
    blocks_hard: u64,
    blocks_soft: u64,
    inodes_hard: u64,
    inodes_soft: u64,
    blocks: u64,
    inodes: u64,
    timers_and_warnings: [u32; 4],
    realtime: [u64; 3],
    realtime_timers: [u32; 2],
    pad: [u8; 8],
}

const _: () = assert!(size_of::<DiskQuota>() == 112);

/// Whether the file system of `fs` counts what projects take, and enforces their limits.
///
/// # Errors
/// `ENOSYS`: it has no quotas, or the kernel is older than 5.14. `EPERM`: without `CAP_SYS_ADMIN`.
pub fn state(fs: BorrowedFd<'_>) -> io::Result<State> {
    /// `FS_QUOTA_PDQ_ACCT` and `FS_QUOTA_PDQ_ENFD`.
    const COUNTED: u16 = 1 << 4;
    const ENFORCED: u16 = 1 << 5;
    let mut state = QuotaState {
        version: 1,
        pad: 0,
        flags: 0,
        in_core: 0,
        files: [[0; 3]; 3],
        limits_and_room: [0; 11],
    };
    quotactl(fs, GET_STATE, 0, &mut state)?;
    Ok(State {
        counted: state.flags & COUNTED != 0,
        enforced: state.flags & ENFORCED != 0,
    })
}

/// What `project` takes of the file system of `fs`; all zero for one that never was.
///
/// # Errors
/// As [`state`]; `ESRCH` where projects are not counted.
pub fn get(fs: BorrowedFd<'_>, project: u32) -> io::Result<Quota> {
    let mut quota = DiskQuota::default();
    match quotactl(fs, GET_QUOTA, project, &mut quota) {
        // XFS, of one that has no file and no limit.
        Err(Errno::NOENT) => return Ok(Quota::default()),
        other => other?,
    }
    Ok(Quota {
        bytes: quota.blocks.saturating_mul(BLOCK),
        inodes: quota.inodes,
        limits: Limits {
            bytes: quota.blocks_hard.saturating_mul(BLOCK),
            inodes: quota.inodes_hard,
        },
    })
}

/// Sets what `project` may take of the file system of `fs`, in place of what it might before.
///
/// # Errors
/// As [`get`].
pub fn limit(fs: BorrowedFd<'_>, project: u32, limits: Limits) -> io::Result<()> {
    /// `FS_DQ_{ISOFT,IHARD,BSOFT,BHARD}`: the fields that count. A limit of zero is none.
    const FIELDS: u16 = 0b1111;
    /// `FS_PROJ_QUOTA`.
    const PROJECT: i8 = 1 << 1;
    let blocks = limits.bytes.div_ceil(BLOCK);
    let mut quota = DiskQuota {
        version: 1,
        flags: PROJECT,
        fields: FIELDS,
        id: project,
        blocks_hard: blocks,
        blocks_soft: blocks,
        inodes_hard: limits.inodes,
        inodes_soft: limits.inodes,
        ..DiskQuota::default()
    };
    Ok(quotactl(fs, SET_LIMITS, project, &mut quota)?)
}

/// `arg` is the structure that the command names.
#[allow(unsafe_code, reason = "rustix has no quotactl_fd")]
fn quotactl<T>(fs: BorrowedFd<'_>, command: u32, id: u32, arg: &mut T) -> Result<(), Errno> {
    // SAFETY: `arg` is valid for reads and writes of the whole structure that the kernel reads or writes
    // for the commands of this module, and it keeps no pointer to it.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            fs.as_raw_fd(),
            command,
            id,
            std::ptr::from_mut(arg),
        )
    };
    if rc == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
}

/// `struct fsxattr`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    pad: [u8; 8],
}

/// `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR`.
const GET_ATTRIBUTES: Opcode = opcode::read::<Attributes>(b'X', 31);
const SET_ATTRIBUTES: Opcode = opcode::write::<Attributes>(b'X', 32);
/// `FS_XFLAG_PROJINHERIT`: what is made in this directory has its project, and so has this flag what is
/// a directory.
const INHERIT: u32 = 0x200;

/// The project of an open file or directory; 0 is none.
///
/// # Errors
/// `ENOTTY`, `EOPNOTSUPP`: its file system has no projects.
pub fn project(file: impl AsFd) -> io::Result<u32> {
    Ok(attributes(file.as_fd())?.project)
}

/// Gives `project` to a directory, and to all that will be made in it.
///
/// # Errors
/// As [`project`]; `EDQUOT`, `ENOSPC` where the project may not have one more inode.
pub fn give_project(dir: impl AsFd, project: u32) -> io::Result<()> {
    let dir = dir.as_fd();
    let mut attributes = attributes(dir)?;
    attributes.project = project;
    attributes.flags |= INHERIT;
    set_attributes(dir, attributes)
}

/// Has a directory not give its project any more to what will be made in it.
///
/// # Errors
/// As [`project`].
pub fn keep_project(dir: impl AsFd) -> io::Result<()> {
    let dir = dir.as_fd();
    let mut attributes = attributes(dir)?;
    if attributes.flags & INHERIT == 0 {
        return Ok(());
    }
    attributes.flags &= !INHERIT;
    set_attributes(dir, attributes)
}

#[allow(unsafe_code, reason = "rustix knows the call, and not this request")]
fn attributes(file: BorrowedFd<'_>) -> io::Result<Attributes> {
    // SAFETY: the request writes one `struct fsxattr`, which is plain integers.
    let getter = unsafe { Getter::<GET_ATTRIBUTES, Attributes>::new() };
    // SAFETY: as above; nothing of this process changes.
    Ok(unsafe { rustix::ioctl::ioctl(file, getter) }?)
}

#[allow(unsafe_code, reason = "rustix knows the call, and not this request")]
fn set_attributes(file: BorrowedFd<'_>, attributes: Attributes) -> io::Result<()> {
    // SAFETY: the request reads one `struct fsxattr`.
    let setter = unsafe { Setter::<SET_ATTRIBUTES, Attributes>::new(attributes) };
    // SAFETY: as above; nothing of this process changes.
    Ok(unsafe { rustix::ioctl::ioctl(file, setter) }?)
}
