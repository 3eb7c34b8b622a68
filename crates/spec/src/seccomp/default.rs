//! The built-in profile.
//!
//! Three answers: what ordinary programs need is allowed; what is known and dangerous fails with
//! EPERM; what is unknown to us fails with ENOSYS, so that a C library falls back to an older call
//! instead of giving up. Calls that serve one capability are allowed with that capability.

use super::{Surroundings, native_architectures};
use crate::oci::{Seccomp, Syscall, SyscallArg};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const ALLOW: &str = "SCMP_ACT_ALLOW";
const ERRNO: &str = "SCMP_ACT_ERRNO";

/// Files and directories.
const FILES: &str = "access chdir chmod chown chown32 close close_range creat dup dup2 dup3 \
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait \
    epoll_wait_old eventfd eventfd2 faccessat faccessat2 fadvise64 fadvise64_64 fallocate fchdir \
    fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr \
    flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate \
    ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat inotify_add_watch \
    inotify_init inotify_init1 inotify_rm_watch ioctl lchown lchown32 lgetxattr link linkat \
    listxattr listxattrat llistxattr lremovexattr lseek _llseek lsetxattr lstat lstat64 memfd_create \
    mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 pipe pipe2 poll \
    ppoll ppoll_time64 pread64 preadv preadv2 pselect6 pselect6_time64 pwrite64 pwritev pwritev2 \
    read readahead readlink readlinkat readv removexattr removexattrat rename renameat renameat2 \
    rmdir select _newselect sendfile sendfile64 setxattr setxattrat signalfd signalfd4 splice stat \
    stat64 statfs statfs64 statmount listmount statx symlink symlinkat sync sync_file_range \
    sync_file_range2 arm_sync_file_range syncfs tee truncate truncate64 umask uname unlink unlinkat \
    utime utimensat utimensat_time64 utimes vmsplice write writev copy_file_range cachestat \
    landlock_create_ruleset landlock_add_rule landlock_restrict_self";

/// Processes, threads, signals, credentials.
const PROCESSES: &str = "alarm arch_prctl capget capset execve execveat exit exit_group fork \
    futex futex_time64 futex_wait futex_waitv futex_wake futex_requeue get_robust_list \
    get_thread_area getcpu getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 \
    getitimer getpgid getpgrp getpid getppid getpriority getresgid getresgid32 getresuid \
    getresuid32 getrlimit getrusage getsid gettid getuid getuid32 ioprio_get ioprio_set kill \
    membarrier nanosleep pause pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall rseq \
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend \
    rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max \
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler \
    sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr \
    sched_setparam sched_setscheduler sched_yield seccomp set_robust_list set_thread_area \
    set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 \
    setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 \
    setreuid setreuid32 setrlimit setsid setuid setuid32 sigaction sigaltstack signal sigpending \
    sigprocmask sigreturn sigsuspend sysinfo tgkill time times tkill ugetrlimit vfork wait4 waitid \
    waitpid set_tls breakpoint cacheflush riscv_flush_icache swapcontext subpage_prot \
    s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr process_mrelease rseq_slice_yield \
    map_shadow_stack riscv_hwprobe uretprobe uprobe";

/// Memory, clocks, randomness.
const MEMORY: &str = "brk clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 \
    clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 adjtimex getrandom \
    gettimeofday madvise mincore mlock mlock2 mlockall mmap mmap2 mprotect mremap mseal msync \
    munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_madvise remap_file_pages \
    memfd_secret timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 \
    timer_settime timer_settime64 timerfd timerfd_create timerfd_gettime timerfd_gettime64 \
    timerfd_settime timerfd_settime64 set_mempolicy_home_node io_submit io_cancel io_destroy \
    io_getevents io_pgetevents io_pgetevents_time64 io_setup";

/// Sockets and System V and POSIX communication.
const COMMUNICATION: &str = "accept accept4 bind connect getpeername getsockname getsockopt ipc \
    listen mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend \
    mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd recv recvfrom recvmmsg \
    recvmmsg_time64 recvmsg semctl semget semop semtimedop semtimedop_time64 send sendmmsg sendmsg \
    sendto setsockopt shmat shmctl shmdt shmget shutdown socketcall socketpair";

/// Known, and refused with EPERM where no capability below allows them.
const REFUSED: &str = "acct bdflush bpf clone create_module delete_module fanotify_init \
    finit_module fsconfig fsmount fsopen fspick get_kernel_syms get_mempolicy init_module iopl \
    ioperm io_uring_enter io_uring_register io_uring_setup kcmp kexec_file_load kexec_load keyctl \
    add_key request_key lookup_dcookie mbind migrate_pages modify_ldt mount mount_setattr move_mount \
    move_pages nfsservctl open_by_handle_at open_tree perf_event_open personality pidfd_getfd \
    pivot_root process_vm_readv process_vm_writev ptrace query_module quotactl quotactl_fd reboot \
    set_mempolicy setdomainname sethostname setns settimeofday clock_settime clock_settime64 stime \
    swapoff swapon sysfs _sysctl syslog umount umount2 unshare uselib userfaultfd ustat vhangup vm86 \
    vm86old chroot socket";

/// Calls that a capability opens.
const WITH_CAPABILITY: &[(&str, &str)] = &[
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount \
         mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname \
         sethostname setns umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot kexec_load kexec_file_load"),
    ("CAP_SYS_CHROOT", "chroot"),
    (
        "CAP_SYS_MODULE",
        "delete_module init_module finit_module query_module",
    ),
    ("CAP_SYS_PACCT", "acct"),
    (
        "CAP_SYS_PTRACE",
        "kcmp pidfd_getfd process_vm_readv process_vm_writev ptrace",
    ),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    (
        "CAP_SYS_TIME",
        "settimeofday stime clock_settime clock_settime64",
    ),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    (
        "CAP_SYS_NICE",
        "get_mempolicy mbind set_mempolicy migrate_pages move_pages",
    ),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// `CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET` (clone(2)).
const NEW_NAMESPACES: u64 = 0x7E02_0000;
/// `AF_VSOCK` (vsock(7)) is not namespaced; `AF_ALG` (38) is fine. Everything else is allowed.
const AF_VSOCK: u64 = 40;
/// Values of personality(2) that only change what a program is told.
const HARMLESS_PERSONALITIES: &[u64] = &[0x0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];

pub(super) fn filter(surroundings: Surroundings) -> Seccomp {
    let opened: Vec<&str> = WITH_CAPABILITY
        .iter()
        .filter(|(capability, _)| surroundings.bounding.has(capability))
        .flat_map(|(_, calls)| calls.split_whitespace())
        .collect();
    let mut syscalls: Vec<Syscall> = [FILES, PROCESSES, MEMORY, COMMUNICATION]
        .map(|calls| rule(ALLOW, None, calls.split_whitespace()))
        .into();
    // ptrace itself is harmless to others since Linux 4.8, where it can't evade a filter any more.
    if surroundings.kernel >= (4, 8) {
        syscalls.push(rule(
            ALLOW,
            None,
            ["ptrace", "process_vm_readv", "process_vm_writev"],
        ));
    }
    syscalls.extend(
        HARMLESS_PERSONALITIES
            .iter()
            .map(|value| personality(*value)),
    );
    syscalls.push(Syscall {
        args: vec![arg(0, AF_VSOCK, 0, "SCMP_CMP_NE")],
        ..rule(ALLOW, None, ["socket"])
    });
    if cfg!(target_arch = "x86_64") {
        syscalls.push(rule(ALLOW, None, ["modify_ldt"]));
    }
    if !opened.is_empty() {
        syscalls.push(rule(ALLOW, None, opened.iter().copied()));
    }
    if !opened.contains(&"clone") {
        let flags = if cfg!(target_arch = "s390x") { 1 } else { 0 };
        let args = vec![arg(flags, NEW_NAMESPACES, 0, "SCMP_CMP_MASKED_EQ")];
        syscalls.push(Syscall {
            args,
            ..rule(ALLOW, None, ["clone"])
        });
        // Its flags are in memory, out of a filter's sight: callers fall back to clone.
        syscalls.push(rule(ERRNO, Some(ENOSYS), ["clone3"]));
    }
    // A rule of the same call with conditions and one without can't stand side by side.
    let partly = ["clone", "personality", "socket"];
    let already: Vec<String> = syscalls
        .iter()
        .flat_map(|rule| rule.names.clone())
        .collect();
    let refused = REFUSED.split_whitespace();
    let refused =
        refused.filter(|call| !partly.contains(call) && !already.iter().any(|name| name == call));
    syscalls.push(rule(ERRNO, Some(EPERM), refused));
    Seccomp {
        default_action: ERRNO.to_owned(),
        default_errno_ret: Some(ENOSYS),
        architectures: native_architectures()
            .iter()
            .map(|name| (*name).to_owned())
            .collect(),
        flags: Vec::new(),
        listener_path: String::new(),
        syscalls,
    }
}

fn rule<'a>(action: &str, errno: Option<u32>, names: impl IntoIterator<Item = &'a str>) -> Syscall {
    let names = names.into_iter().map(str::to_owned).collect();
    Syscall {
        names,
        action: action.to_owned(),
        errno_ret: errno,
        args: Vec::new(),
    }
}

fn personality(value: u64) -> Syscall {
    Syscall {
        args: vec![arg(0, value, 0, "SCMP_CMP_EQ")],
        ..rule(ALLOW, None, ["personality"])
    }
}

fn arg(index: u32, value: u64, value_two: u64, op: &str) -> SyscallArg {
    SyscallArg {
        index,
        value,
        value_two,
        op: op.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capabilities::Set;

    fn answer(call: &str, capabilities: &[&str]) -> Option<(String, Option<u32>)> {
        let bounding = Set::parse(capabilities).unwrap();
        let filter = filter(Surroundings {
            bounding,
            kernel: (6, 1),
        });
        let rule = filter
            .syscalls
            .iter()
            .find(|rule| rule.args.is_empty() && rule.names.iter().any(|name| name == call));
        rule.map(|rule| (rule.action.clone(), rule.errno_ret))
    }

    #[test]
    fn dangerous_calls_need_their_capability() {
        for (_, calls) in WITH_CAPABILITY {
            for call in calls
                .split_whitespace()
                .filter(|call| !["clone", "clone3"].contains(call))
            {
                let without = answer(call, &["CHOWN"]);
                let harmless = ["ptrace", "process_vm_readv", "process_vm_writev"].contains(&call);
                assert_eq!(
                    without,
                    Some(if harmless {
                        (ALLOW.into(), None)
                    } else {
                        (ERRNO.into(), Some(EPERM))
                    }),
                    "{call}"
                );
            }
        }
        assert_eq!(answer("mount", &["SYS_ADMIN"]), Some((ALLOW.into(), None)));
        assert_eq!(answer("clone3", &[]), Some((ERRNO.into(), Some(ENOSYS))));
        assert_eq!(answer("clone3", &["SYS_ADMIN"]), Some((ALLOW.into(), None)));
    }

    #[test]
    fn no_call_has_two_unconditional_answers() {
        for capabilities in [&[][..], &["SYS_ADMIN", "BPF", "PERFMON"], &["ALL"]] {
            let filter = filter(Surroundings {
                bounding: Set::parse(capabilities).unwrap(),
                kernel: (6, 1),
            });
            let rules = filter.syscalls.iter().filter(|rule| rule.args.is_empty());
            let mut allowed: Vec<_> = rules
                .clone()
                .filter(|rule| rule.action == ALLOW)
                .flat_map(|rule| &rule.names)
                .collect();
            let refused: Vec<_> = rules
                .filter(|rule| rule.action == ERRNO)
                .flat_map(|rule| &rule.names)
                .collect();
            allowed.dedup();
            assert!(
                allowed.iter().all(|name| !refused.contains(name)),
                "{capabilities:?}"
            );
        }
    }
}
