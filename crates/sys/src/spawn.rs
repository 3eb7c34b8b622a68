//! Starting programs: the one place of the project that does.
//!
//! A child is made by `clone(CLONE_VM | CLONE_VFORK | CLONE_PIDFD)`, as `posix_spawn(3)` does it:
//! no page table is copied, however large the daemon is, and the pidfd comes without a race. The
//! environment is empty unless it is given, standard streams are `/dev/null` unless they are
//! mapped, every other descriptor is closed, signal dispositions and mask are the default.
//!
//! Every child is *registered* from before it exists until it is reaped, so that the orphan
//! reaper ([`crate::reap`]) of a subreaper never takes its status. Lock: [`registry`]'s gate is
//! held shared over clone and over reap, and exclusively by the orphan reaper's scan.
//!
//! [`run`] is for programs that end: it blocks, with a time-out and a bound on the output.
//! [`spawn`] is for those that stay.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal};

mod clone;
pub(crate) mod registry;
mod run;

pub use run::run;

static SPAWNS: AtomicU64 = AtomicU64::new(0);

/// How many programs this process has started: the figure that cost tests compare.
#[must_use]
pub fn count() -> u64 {
    SPAWNS.load(Ordering::Relaxed)
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It ended by itself, with this code.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
}

impl Status {
    /// Whether it ended by itself with code 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Exited(0)
    }

    /// The code a shell would show: 128 + the signal where one ended it.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(signal) => signal.saturating_add(128),
        }
    }

    /// From the status word of `wait(2)`.
    #[must_use]
    pub fn from_wait(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signaled(libc::WTERMSIG(status))
        } else {
            Self::Exited(libc::WEXITSTATUS(status))
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signaled(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// The way into a cgroup. Made by [`crate::cgroup::Cgroup::entry`].
#[derive(Debug)]
pub struct EnterCgroup {
    /// Directory of version 2: a child is born in it (`CLONE_INTO_CGROUP`), which waits for nothing.
    pub(crate) born_in: Option<OwnedFd>,
    /// `cgroup.procs` of version 1, one of each hierarchy: a child writes itself into them before it
    /// runs its program. Such a move may wait for a grace period of the kernel: 4 to 16 ms.
    pub(crate) procs: Vec<OwnedFd>,
}

/// A program that is run to its end by [`run`].
#[derive(Debug)]
pub struct Program {
    /// The program's file; no search in `PATH` (see [`which`]).
    pub path: PathBuf,
    /// Arguments, without the program's name.
    pub args: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// What it reads from its standard input.
    pub stdin: Vec<u8>,
    /// Where it starts; the caller's directory if `None`.
    pub cwd: Option<PathBuf>,
    /// After this, its whole process group is killed.
    pub timeout: Duration,
    /// Bytes kept of stdout, and as many of stderr. More is read and dropped.
    pub output_limit: usize,
    /// The cgroup it is born in; the caller's if `None`.
    pub cgroup: Option<EnterCgroup>,
    /// Further descriptors: `(ours, its number)`.
    pub fds: Vec<(OwnedFd, RawFd)>,
}

impl Program {
    /// A program without arguments, environment and input; 1 MiB of output.
    pub fn new(path: impl Into<PathBuf>, timeout: Duration) -> Self {
        Self {
            path: path.into(),
            args: Vec::new(),
            env: Vec::new(),
            stdin: Vec::new(),
            cwd: None,
            timeout,
            output_limit: 1 << 20,
            cgroup: None,
            fds: Vec::new(),
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds a variable to the environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets what it reads from its standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }
}

/// How a [`Program`] ended and what it wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Exit code or signal.
    pub status: Status,
    /// Its standard output, up to the limit.
    pub stdout: Vec<u8>,
    /// Its standard error, up to the limit.
    pub stderr: Vec<u8>,
    /// Whether something beyond the limit was dropped.
    pub truncated: bool,
}

/// Why a program did not run to its end.
#[derive(Debug)]
pub enum Error {
    /// It never ran: `stage` says what failed (`execve`: no such program, or not executable).
    Start {
        /// The program's file.
        program: PathBuf,
        /// The system call that failed.
        stage: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// It ran for longer than allowed and was killed.
    TimedOut {
        /// The program's file.
        program: PathBuf,
        /// What it was allowed.
        after: Duration,
        /// What it had written to stdout.
        stdout: Vec<u8>,
        /// What it had written to stderr.
        stderr: Vec<u8>,
    },
    /// Talking to it failed.
    Io {
        /// The program's file.
        program: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// Its error.
        source: io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { program, stage, .. } => {
                write!(f, "start {} ({stage})", program.display())
            }
            Self::TimedOut { program, after, .. } => {
                write!(f, "{} timed out after {after:?}", program.display())
            }
            Self::Io { program, doing, .. } => write!(f, "{doing} {}", program.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start { source, .. } | Self::Io { source, .. } => Some(source),
            Self::TimedOut { .. } => None,
        }
    }
}

/// Whose process group and session a child of [`spawn`] gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Session {
    /// The caller's.
    #[default]
    Same,
    /// A process group of its own.
    Group,
    /// A session of its own: no terminal, no job control signals.
    Own,
}

/// A program for [`spawn`].
#[derive(Clone, Debug)]
pub struct Spec<'a> {
    /// The program's file; no search in `PATH`.
    pub path: &'a Path,
    /// What is run in the file's place: a copy of it ([`crate::sealed::program`]). Where the kernel
    /// refuses to run the copy, the file is run.
    pub image: Option<BorrowedFd<'a>>,
    /// Arguments, without the program's name.
    pub args: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Where it starts; the caller's directory if `None`.
    pub cwd: Option<&'a Path>,
    /// `(ours, its number)`. Of 0, 1 and 2, those not named are `/dev/null`.
    pub fds: Vec<(BorrowedFd<'a>, RawFd)>,
    /// The cgroup it is born in; the caller's if `None`.
    pub cgroup: Option<&'a EnterCgroup>,
    /// Its session and process group.
    pub session: Session,
    /// Its `oom_score_adj`, where the kernel allows it (else the caller's).
    pub oom_score_adj: Option<i32>,
    /// Whether it gets SIGKILL when the *thread* that starts it ends (`PR_SET_PDEATHSIG`): for a
    /// thread that lives as long as its process.
    pub die_with_thread: bool,
}

impl<'a> Spec<'a> {
    /// A program without arguments, environment and descriptors, in the caller's session.
    #[must_use]
    pub fn new(path: &'a Path) -> Self {
        Self {
            path,
            image: None,
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            fds: Vec::new(),
            cgroup: None,
            session: Session::Same,
            oom_score_adj: None,
            die_with_thread: false,
        }
    }
}

/// Starts a program that stays, and returns once it runs (its `execve` has succeeded).
///
/// # Errors
/// [`Error::Start`] with the stage that failed.
pub fn spawn(spec: &Spec<'_>) -> Result<Child, Error> {
    let child = clone::start(spec).map_err(|(stage, source)| Error::Start {
        program: spec.path.to_owned(),
        stage,
        source,
    })?;
    SPAWNS.fetch_add(1, Ordering::Relaxed);
    Ok(child)
}

/// A child process that is ours to wait for. Dropping it unreaped leaves it running and hands it
/// to the orphan reaper.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    status: Option<Status>,
}

impl Child {
    /// Its process id; stays its own until it is waited for.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its pidfd: readable once it has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// `ESRCH`: it has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(rustix::process::pidfd_send_signal(&self.pidfd, signal)?)
    }

    /// Sends SIGKILL to it and to the process group that it leads ([`Session::Group`] and
    /// [`Session::Own`] only).
    pub fn kill_group(&self) {
        if self.status.is_none() {
            // Both fail only if there is nothing left to kill.
            let _gone = rustix::process::kill_process_group(self.pid, Signal::KILL);
            let _gone = self.signal(Signal::KILL);
        }
    }

    /// Its status if it has ended; reaps it.
    ///
    /// # Errors
    /// `ECHILD`: something else reaped it.
    pub fn try_wait(&mut self) -> io::Result<Option<Status>> {
        if self.status.is_none() {
            self.status = registry::reap(self.pid, &self.pidfd)?;
        }
        Ok(self.status)
    }

    /// Waits for its end, for `timeout` at most; `None` if it still runs then.
    ///
    /// # Errors
    /// `ECHILD`: something else reaped it.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Option<Status>> {
        if self.status.is_some() {
            return Ok(self.status);
        }
        crate::pidfd::wait_ended(self.pidfd.as_fd(), timeout)?;
        self.try_wait()
    }

    fn reaped(&mut self, status: Status) {
        self.status = Some(status);
        registry::forget(self.pid);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.status.is_none() {
            registry::forget(self.pid);
        }
    }
}

/// Takes a descriptor that our parent left us under a number. To be called once per number, at
/// the start, before anything else opens descriptors.
///
/// # Errors
/// `EBADF`: there is none. `EINVAL`: a standard stream.
#[allow(
    unsafe_code,
    reason = "a number from the command line becomes a descriptor"
)]
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    if number <= 2 {
        return Err(rustix::io::Errno::INVAL.into());
    }
    // SAFETY: plain system call; a wrong number is an error of the kernel's.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::FD_CLOEXEC != 0 {
        // Descriptors of our own are close-on-exec, those that we inherit can't be.
        return Err(rustix::io::Errno::BADF.into());
    }
    // SAFETY: plain system call.
    unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    // SAFETY: open, and not one of ours (above): our parent's, left for us to own.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Looks an executable up in the directories of `path_var` (`a:b:c`); a name with a slash is
/// taken as it is.
#[must_use]
pub fn which(name: &str, path_var: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name));
    }
    path_var
        .split(':')
        .filter(|dir| dir.starts_with('/'))
        .map(|dir| Path::new(dir).join(name))
        .find(|file| {
            file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
        })
}

#[cfg(test)]
mod tests;
