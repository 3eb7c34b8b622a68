//! `clone3(2)` with `CLONE_INTO_CGROUP`: a child that is in its cgroup from its first instruction.
//!
//! Moving a process takes a lock against all forks of the system, for which the kernel may first
//! wait for a grace period (`cgroup_threadgroup_rwsem`): 4 to 16 ms. Being born there does not.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::Pid;

use super::Plan;

/// `CLONE_INTO_CGROUP` of `linux/sched.h`; libc's is of a type that can't hold it.
#[cfg(target_arch = "x86_64")]
const INTO_CGROUP: u64 = 1 << 33;

/// Whether the kernel does not know the call, or what we want of it (before Linux 5.7), or somebody
/// hides it from us: then the child has to move.
pub(super) fn is_unknown(error: &io::Error) -> bool {
    let unknown = [Errno::NOSYS, Errno::INVAL, Errno::TOOBIG];
    unknown
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// As [`super::clone`], in a cgroup of version 2 from its directory.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn clone(_plan: &mut Plan, _cgroup: &OwnedFd) -> io::Result<(Pid, OwnedFd)> {
    Err(Errno::NOSYS.into())
}

/// As [`super::clone`], in a cgroup of version 2 from its directory.
#[cfg(target_arch = "x86_64")]
#[allow(
    unsafe_code,
    reason = "no library has clone3, and a child on a stack of its own can't return from a function"
)]
pub(super) fn clone(plan: &mut Plan, cgroup: &OwnedFd) -> io::Result<(Pid, OwnedFd)> {
    use std::ffi::{c_int, c_void};
    use std::os::fd::{AsRawFd as _, FromRawFd as _};

    let mut stack = vec![0u128; super::STACK / size_of::<u128>()];
    let flags = [libc::CLONE_VM, libc::CLONE_VFORK, libc::CLONE_PIDFD];
    let flags = flags.iter().fold(INTO_CGROUP, |all, flag| {
        all | u64::from(flag.unsigned_abs())
    });
    let mut pidfd: c_int = -1;
    let arguments = Arguments {
        flags,
        pidfd: (&raw mut pidfd).addr() as u64,
        exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
        stack: stack.as_mut_ptr().expose_provenance() as u64,
        stack_size: super::STACK as u64,
        cgroup: u64::try_from(cgroup.as_raw_fd()).unwrap_or(u64::MAX),
        ..Arguments::default()
    };
    let entry: extern "C" fn(*mut c_void) -> c_int = super::in_child;
    let blocked = super::block_signals();
    let result: i64;
    // SAFETY: the stack is 16-byte aligned, as is its size, and outlives the child's use of it
    // (CLONE_VFORK: this thread stands still until execve or _exit), as do `plan` and `arguments`;
    // `pidfd` is where the kernel stores the descriptor. The child touches no register or stack of
    // ours: it calls `in_child`, which does not return, on its own stack. The kernel keeps all
    // registers but rax, rcx and r11.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") &raw const arguments,
            in("rsi") size_of::<Arguments>(),
            in("r12") std::ptr::from_mut(plan),
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    super::restore_signals(&blocked);
    match i32::try_from(result).ok().and_then(crate::pidfd::of_number) {
        Some(child) => {
            // SAFETY: the kernel has just made this descriptor for us (close-on-exec, always).
            Ok((child, unsafe { OwnedFd::from_raw_fd(pidfd) }))
        }
        _ => {
            let errno = i32::try_from(result.saturating_neg()).unwrap_or(libc::EINVAL);
            Err(io::Error::from_raw_os_error(errno))
        }
    }
}

/// `struct clone_args` of `linux/sched.h`, as of Linux 5.7.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Default)]
#[repr(C, align(8))]
struct Arguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}
