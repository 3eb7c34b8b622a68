//! The child between `clone` and `execve`.
//!
//! It shares the parent's memory (`CLONE_VM`), and the calling thread stands still until
//! `execve` or `_exit` (`CLONE_VFORK`). So: everything is allocated beforehand, the child only
//! makes system calls, and all signals are blocked until their handlers are back to the default.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use rustix::process::Pid;

use super::{Child, Session, Spec, registry};

mod into_cgroup;

/// The child's stack: a few system calls deep.
const STACK: usize = 64 * 1024;

/// What the child reads; `stage` and `errno` are what it writes.
struct Plan {
    program: *const c_char,
    /// A copy of the program, moved above every target; -1: none.
    image: RawFd,
    argv: *const *const c_char,
    envp: *const *const c_char,
    cwd: *const c_char,
    cgroups: *const RawFd,
    cgroup_count: usize,
    /// Sources, replaced by high duplicates, and targets.
    fds: *mut (RawFd, RawFd),
    fd_count: usize,
    /// Above every target.
    high: RawFd,
    session: Session,
    die_with_thread: bool,
    oom: *const c_char,
    oom_len: usize,
    stage: *const c_char,
    errno: c_int,
}

/// Starts the program; the error names the system call that failed.
pub(super) fn start(spec: &Spec<'_>) -> Result<Child, (&'static str, io::Error)> {
    let strings = Strings::new(spec).map_err(|err| ("argument", err))?;
    let mut fds: Vec<(RawFd, RawFd)> = spec
        .fds
        .iter()
        .map(|(ours, its)| (ours.as_raw_fd(), *its))
        .collect();
    let null = open_null(&fds).map_err(|err| ("open /dev/null", err))?;
    if let Some(null) = &null {
        for target in 0..=2 {
            if !fds.iter().any(|(_, its)| *its == target) {
                fds.push((null.as_raw_fd(), target));
            }
        }
    }
    let mut cgroups: Vec<RawFd> = spec
        .cgroup
        .iter()
        .flat_map(|cgroup| cgroup.procs.iter().map(AsRawFd::as_raw_fd))
        .collect();
    let born_in = spec.cgroup.and_then(|cgroup| cgroup.born_in.as_ref());
    let high = fds
        .iter()
        .map(|(_, its)| its.saturating_add(1))
        .max()
        .unwrap_or(3)
        .max(3);
    let oom = spec.oom_score_adj.map(|score| score.to_string());
    let oom = oom.as_deref().unwrap_or("");
    let mut plan = Plan {
        program: strings.program.as_ptr(),
        image: spec.image.map_or(-1, |image| image.as_raw_fd()),
        argv: strings.argv.as_ptr(),
        envp: strings.envp.as_ptr(),
        cwd: strings.cwd.as_ref().map_or(ptr::null(), |dir| dir.as_ptr()),
        cgroups: cgroups.as_ptr(),
        cgroup_count: cgroups.len(),
        fds: fds.as_mut_ptr(),
        fd_count: fds.len(),
        high,
        session: spec.session,
        die_with_thread: spec.die_with_thread,
        oom: oom.as_ptr().cast(),
        oom_len: oom.len(),
        stage: ptr::null(),
        errno: 0,
    };
    let _gate = registry::making();
    let cloned = match born_in {
        Some(cgroup) => into_cgroup::clone(&mut plan, cgroup),
        None => clone(&mut plan),
    };
    // Kept open until the child has used it.
    let _procs;
    let cloned = match (cloned, born_in) {
        (Err(err), Some(cgroup)) if into_cgroup::is_unknown(&err) => {
            let procs = open_procs(cgroup).map_err(|err| ("open cgroup.procs", err))?;
            cgroups.push(procs.as_raw_fd());
            _procs = procs;
            (plan.cgroups, plan.cgroup_count) = (cgroups.as_ptr(), cgroups.len());
            clone(&mut plan)
        }
        (cloned, _) => cloned,
    };
    let (pid, pidfd) = cloned.map_err(|err| ("clone", err))?;
    registry::add(pid);
    let mut child = Child {
        pid,
        pidfd,
        status: None,
    };
    if plan.stage.is_null() {
        return Ok(child);
    }
    // It wrote why and is gone. The gate is ours already: take the status directly.
    let reaped = crate::reap::wait_pidfd_blocking(child.pidfd.as_raw_fd());
    child.reaped(reaped.ok().flatten().unwrap_or(super::Status::Exited(127)));
    Err((
        stage_name(plan.stage),
        io::Error::from_raw_os_error(plan.errno),
    ))
}

fn open_null(fds: &[(RawFd, RawFd)]) -> io::Result<Option<OwnedFd>> {
    if (0..=2).all(|target| fds.iter().any(|(_, its)| *its == target)) {
        return Ok(None);
    }
    crate::null::open().map(Some)
}

fn open_procs(cgroup: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
    let none = rustix::fs::Mode::empty();
    Ok(rustix::fs::openat(cgroup, "cgroup.procs", flags, none)?)
}

/// C strings and the arrays of pointers to them.
struct Strings {
    program: CString,
    cwd: Option<CString>,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    _owned: Vec<CString>,
}

impl Strings {
    fn new(spec: &Spec<'_>) -> io::Result<Self> {
        let program = CString::new(spec.path.as_os_str().as_bytes())?;
        let cwd = spec
            .cwd
            .map(|dir| CString::new(dir.as_os_str().as_bytes()))
            .transpose()?;
        let mut owned = Vec::with_capacity(spec.args.len().saturating_add(spec.env.len()));
        let mut argv = vec![program.as_ptr()];
        for arg in &spec.args {
            let arg = CString::new(arg.as_bytes())?;
            argv.push(arg.as_ptr());
            owned.push(arg);
        }
        argv.push(ptr::null());
        let mut envp = Vec::with_capacity(spec.env.len().saturating_add(1));
        for (name, value) in &spec.env {
            let variable = CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())?;
            envp.push(variable.as_ptr());
            owned.push(variable);
        }
        envp.push(ptr::null());
        Ok(Self {
            program,
            cwd,
            argv,
            envp,
            _owned: owned,
        })
    }
}

#[allow(
    unsafe_code,
    reason = "std forks, which copies the daemon's page tables, and gives no pidfd"
)]
fn clone(plan: &mut Plan) -> io::Result<(Pid, OwnedFd)> {
    let mut stack = vec![0u128; STACK / size_of::<u128>()];
    let top = stack.as_mut_ptr_range().end.cast::<c_void>();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let mut pidfd: c_int = -1;
    let blocked = block_signals();
    // SAFETY: `top` is the 16-byte aligned end of a stack that outlives the child's use of it
    // (CLONE_VFORK: this thread stands still until execve or _exit), as does `plan`; `pidfd` is
    // where CLONE_PIDFD stores its descriptor.
    let pid = unsafe {
        libc::clone(
            in_child,
            top,
            flags,
            ptr::from_mut(plan).cast::<c_void>(),
            &raw mut pidfd,
        )
    };
    let failed = io::Error::last_os_error();
    restore_signals(&blocked);
    match crate::pidfd::of_number(pid) {
        Some(child) => {
            // SAFETY: the kernel has just made this descriptor for us (close-on-exec, always).
            Ok((child, unsafe { OwnedFd::from_raw_fd(pidfd) }))
        }
        _ => Err(failed),
    }
}

#[allow(unsafe_code, reason = "rustix keeps signal masks out of its API")]
fn block_signals() -> libc::sigset_t {
    // SAFETY: a sigset_t is plain bits; sigfillset sets them all.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    let mut old = all;
    // SAFETY: writes to the set it is given only.
    unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: both sets are valid; the calling thread's mask changes, nothing else.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old) };
    old
}

#[allow(unsafe_code, reason = "rustix keeps signal masks out of its API")]
fn restore_signals(old: &libc::sigset_t) {
    // SAFETY: the set is valid; no old mask is asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old, ptr::null_mut()) };
}

fn stage_name(stage: *const c_char) -> &'static str {
    #[allow(unsafe_code, reason = "a literal's address written by the child")]
    // SAFETY: the child stores pointers to NUL-terminated literals only.
    let name = unsafe { CStr::from_ptr::<'static>(stage) };
    name.to_str().unwrap_or("child")
}

#[allow(
    unsafe_code,
    reason = "runs between clone and execve: system calls only"
)]
extern "C" fn in_child(arg: *mut c_void) -> c_int {
    // SAFETY: `arg` is the parent's Plan; the parent does not run before we exec or exit.
    let plan = unsafe { &mut *arg.cast::<Plan>() };
    let failed = prepare(plan);
    plan.errno = errno();
    plan.stage = failed.as_ptr();
    // SAFETY: ends the child without running anything of the parent's (no destructors, atexit).
    unsafe { libc::_exit(127) }
}

#[allow(unsafe_code, reason = "errno of the calling thread")]
#[allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "the address and its content"
)]
fn errno() -> c_int {
    // SAFETY: always a valid pointer for the running thread.
    unsafe { *libc::__errno_location() }
}

/// Does not return if all goes well; else the failed call's name, its error in errno.
#[allow(
    unsafe_code,
    reason = "runs between clone and execve: system calls only"
)]
#[allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "one array access and its system call"
)]
fn prepare(plan: &mut Plan) -> &'static CStr {
    default_signals();
    match plan.session {
        Session::Same => {}
        // SAFETY: plain system calls without pointers.
        Session::Group => unsafe {
            if libc::setpgid(0, 0) != 0 {
                return c"setpgid";
            }
        },
        // SAFETY: as above.
        Session::Own => unsafe {
            if libc::setsid() < 0 {
                return c"setsid";
            }
        },
    }
    if plan.die_with_thread {
        // SAFETY: plain system call without pointers. Whoever started us stands still, so it
        // can't have ended before this.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
    }
    for at in 0..plan.cgroup_count {
        // SAFETY: `at` is within the parent's array; the buffer is a literal.
        if unsafe { libc::write(*plan.cgroups.add(at), c"0".as_ptr().cast(), 1) } != 1 {
            return c"enter cgroup";
        }
    }
    if plan.oom_len > 0 {
        set_oom_score(plan);
    }
    if !plan.cwd.is_null() {
        // SAFETY: a NUL-terminated string of the parent's.
        if unsafe { libc::chdir(plan.cwd) } != 0 {
            return c"chdir";
        }
    }
    if let Err(stage) = move_fds(plan) {
        return stage;
    }
    if plan.image >= 0 {
        let (empty, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
        // SAFETY: as below, and a literal. It returns only if the copy can't be run.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                plan.image,
                empty,
                plan.argv,
                plan.envp,
                flags,
            )
        };
    }
    // SAFETY: NUL-terminated strings and NULL-terminated arrays of the parent's.
    unsafe { libc::execve(plan.program, plan.argv, plan.envp) };
    c"execve"
}

/// Ignored signals would stay ignored over execve, blocked ones blocked.
#[allow(
    unsafe_code,
    reason = "runs between clone and execve: system calls only"
)]
fn default_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL takes no handler; EINVAL for KILL, STOP and libc's own is fine.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: a sigset_t is plain bits, all zero is the empty set.
    let none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is valid; no old mask is asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) };
}

/// Not being allowed is no failure: the inherited score stays.
#[allow(
    unsafe_code,
    reason = "runs between clone and execve: system calls only"
)]
fn set_oom_score(plan: &Plan) {
    let flags = libc::O_WRONLY | libc::O_CLOEXEC;
    // SAFETY: a NUL-terminated literal.
    let file = unsafe { libc::open(c"/proc/self/oom_score_adj".as_ptr(), flags) };
    if file >= 0 {
        // SAFETY: `oom` has `oom_len` bytes.
        unsafe { libc::write(file, plan.oom.cast(), plan.oom_len) };
        // SAFETY: ours, opened above.
        unsafe { libc::close(file) };
    }
}

/// Moves all sources above every target first, so that no target overwrites a source.
#[allow(
    unsafe_code,
    reason = "runs between clone and execve: system calls only"
)]
#[allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "one array access each"
)]
fn move_fds(plan: &mut Plan) -> Result<(), &'static CStr> {
    for at in 0..plan.fd_count {
        // SAFETY: within the parent's array, which nobody else uses now.
        let pair = unsafe { &mut *plan.fds.add(at) };
        // SAFETY: plain system call on descriptors.
        pair.0 = unsafe { libc::fcntl(pair.0, libc::F_DUPFD_CLOEXEC, plan.high) };
        if pair.0 < 0 {
            return Err(c"fcntl");
        }
    }
    if plan.image >= 0 {
        // SAFETY: plain system call on descriptors. Failing leaves -1: the file is run then.
        plan.image = unsafe { libc::fcntl(plan.image, libc::F_DUPFD_CLOEXEC, plan.high) };
    }
    for at in 0..plan.fd_count {
        // SAFETY: as above.
        let pair = unsafe { &*plan.fds.add(at) };
        // SAFETY: plain system call on descriptors; the copy has no close-on-exec.
        if unsafe { libc::dup2(pair.0, pair.1) } < 0 {
            return Err(c"dup2");
        }
    }
    // Whatever else was opened without close-on-exec. Linux 5.11; without it, our own
    // descriptors are close-on-exec anyway.
    let above = plan.high.unsigned_abs();
    let flags = 4u32; // CLOSE_RANGE_CLOEXEC
    // SAFETY: plain system call without pointers.
    unsafe { libc::syscall(libc::SYS_close_range, above, u32::MAX, flags) };
    Ok(())
}
