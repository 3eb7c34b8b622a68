//! Calls of the OCI runtime's command line.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use monitor_protocol::{Create, ErrorKind};
use rustix::fs::MemfdFlags;
use sys::spawn::{Child, Session, Spec, Status, spawn};

mod words;

/// What a call may take where the daemon said nothing: the kubelet's own bound is 4 minutes.
const TIMEOUT: Duration = Duration::from_secs(240);
/// What is read of a runtime's words.
const WORDS: usize = 16 * 1024;

/// A runtime that runs.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) child: Child,
    deadline: Option<Instant>,
    timed_out: bool,
    log: PathBuf,
    stderr: OwnedFd,
}

/// How a runtime is called.
#[derive(Debug)]
pub(crate) struct Command<'a> {
    /// Of which container.
    pub(crate) create: &'a Create,
    /// The container's directory.
    pub(crate) dir: &'a Path,
    /// Unique among the calls.
    pub(crate) number: u64,
    /// Sub-command, its options and arguments.
    pub(crate) args: Vec<OsString>,
    /// The runtime's program where it is not its file ([`Spec::image`]).
    pub(crate) image: Option<BorrowedFd<'a>>,
    /// `(ours, its number)`; without a 2, its stderr is kept for [`Call::failure`].
    pub(crate) fds: Vec<(BorrowedFd<'a>, i32)>,
    /// In milliseconds; 0: the default.
    pub(crate) timeout_ms: u32,
    /// Whether it must not outlive the monitor: a `create` that nobody waits for would leave a
    /// container that nobody knows. The others end by themselves, and what they did is seen.
    pub(crate) die_with_monitor: bool,
    /// The `oom_score_adj` that the monitor itself was started with: not the monitor's own.
    pub(crate) oom_score_adj: i32,
}

impl Command<'_> {
    pub(crate) fn start(self) -> io::Result<Call> {
        let log = self.dir.join(format!("runtime-{}.log", self.number));
        let stderr = rustix::fs::memfd_create("stderr", MemfdFlags::CLOEXEC)?;
        let mut spec = Spec::new(Path::new(&self.create.runtime));
        spec.args
            .extend(self.create.runtime_args.iter().map(OsString::from));
        spec.args.extend([
            "--log".into(),
            log.clone().into(),
            "--log-format".into(),
            "json".into(),
        ]);
        spec.args.extend(self.args);
        spec.env = self
            .create
            .env
            .iter()
            .filter_map(|variable| variable.split_once('='))
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        spec.cwd = Some(Path::new(&self.create.bundle));
        spec.image = self.image;
        spec.session = Session::Group;
        spec.oom_score_adj = Some(self.oom_score_adj);
        spec.die_with_thread = self.die_with_monitor;
        spec.fds = self.fds;
        if !spec.fds.iter().any(|(_, number)| *number == 2) {
            spec.fds.push((stderr.as_fd(), 2));
        }
        let child = spawn(&spec).map_err(|err| {
            let source = std::error::Error::source(&err).map(ToString::to_string);
            io::Error::other(format!("{err}: {}", source.unwrap_or_default()))
        })?;
        let timeout = match self.timeout_ms {
            0 => TIMEOUT,
            ms => Duration::from_millis(ms.into()),
        };
        let deadline = Instant::now().checked_add(timeout);
        Ok(Call {
            child,
            deadline,
            timed_out: false,
            log,
            stderr,
        })
    }
}

impl Call {
    /// When it is to be ended; `None` once it was.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline.filter(|_| !self.timed_out)
    }

    /// Ends it; its status follows.
    pub(crate) fn time_out(&mut self) {
        self.timed_out = true;
        self.child.kill_group();
    }

    /// Why it failed, in its own words: those of its log, else of its stderr (`words` where the
    /// container's was its own), else its status.
    pub(crate) fn failure(&self, status: Status, words: &[u8]) -> (ErrorKind, String) {
        if self.timed_out {
            return (ErrorKind::TimedOut {}, "runtime timed out".into());
        }
        let log = fs::read(&self.log).unwrap_or_default();
        let log = log
            .get(log.len().saturating_sub(WORDS)..)
            .unwrap_or_default();
        let mut stderr = vec![0; WORDS];
        let n = rustix::io::pread(&self.stderr, &mut stderr, 0).unwrap_or(0);
        stderr.truncate(n);
        stderr.extend_from_slice(words);
        let text = words::from_log(&String::from_utf8_lossy(log))
            .or_else(|| words::from_stderr(&String::from_utf8_lossy(&stderr)))
            .unwrap_or_else(|| format!("runtime ended with {status}"));
        (ErrorKind::Runtime {}, text)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // It is there only if the runtime had something to say.
        let _none = fs::remove_file(&self.log);
    }
}
