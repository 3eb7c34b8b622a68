//! `strace`, attached to a daemon and to whatever it starts: it knows nothing of our own counters.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use sys::spawn::{Child, Session, Spec, spawn};

use super::trace::{Costs, Trace};

/// How long nothing is written before a call's aftermath counts as over. There is no event for
/// "nothing more will come"; the call itself has been answered by then.
const QUIET: Duration = Duration::from_millis(700);
/// How long to wait for it, and for strace.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where strace is, if it is there.
pub(super) fn program() -> Option<PathBuf> {
    sys::spawn::which("strace", &std::env::var("PATH").ok()?)
}

/// An attached strace.
pub(super) struct Observer {
    strace: Child,
    output: PathBuf,
    trace: Trace,
    /// Bytes of the output that were read.
    read: usize,
}

impl Observer {
    /// Attaches to all threads of `pid`; what it says goes to `output`.
    pub(super) async fn attach(strace: &Path, pid: i32, output: &Path) -> Result<Self> {
        let messages_path = output.with_extension("messages");
        let messages = fs::File::create(&messages_path)?;
        let mut spec = Spec::new(strace);
        let calls = "--trace=execve,execveat,clone,clone3,fork,vfork,fsync,fdatasync,syncfs,open,creat,\
                     openat,openat2,rename,renameat,renameat2,link,linkat";
        let arguments = [
            "--follow-forks",
            "--string-limit=256",
            "--signal=none",
            calls,
        ];
        spec.args = arguments.map(Into::into).to_vec();
        spec.args
            .push(format!("--output={}", output.display()).into());
        spec.args.push(format!("--attach={pid}").into());
        spec.session = Session::Group;
        spec.fds = vec![(messages.as_fd(), 2)];
        let mut strace = spawn(&spec).map_err(|error| anyhow::anyhow!("{error}"))?;
        let deadline = Instant::now() + PATIENCE;
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        while !fs::read_to_string(&messages_path)?.contains(" attached") {
            tick.tick().await;
            if let Some(status) = strace.try_wait()? {
                bail!(
                    "strace ended ({status}): {}",
                    fs::read_to_string(&messages_path)?
                );
            }
            ensure!(Instant::now() < deadline, "strace does not attach");
        }
        let threads = fs::read_dir(format!("/proc/{pid}/task"))?;
        let threads = threads
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Ok(Self {
            trace: Trace::new(threads),
            strace,
            output: output.to_owned(),
            read: 0,
        })
    }

    /// Waits until nothing happens any more, and returns what was spent since the last time.
    pub(super) async fn costs_so_far(&mut self, call: &str) -> Result<Costs> {
        let deadline = Instant::now() + PATIENCE;
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        let mut length = fs::metadata(&self.output)?.len();
        let mut since = Instant::now();
        while since.elapsed() < QUIET {
            tick.tick().await;
            ensure!(Instant::now() < deadline, "{call}: it never gets quiet");
            let now = fs::metadata(&self.output)?.len();
            if now != length {
                (length, since) = (now, Instant::now());
            }
        }
        let text = fs::read_to_string(&self.output)?;
        let new = text.get(self.read..).context("strace's output shrank")?;
        self.read = text.len();
        self.trace.heading(call);
        Ok(self.trace.count(new))
    }

    /// Lets everything run free again.
    pub(super) fn detach(&mut self) -> Result<()> {
        self.strace.signal(Signal::TERM)?;
        let ended = self.strace.wait(Some(PATIENCE))?;
        ensure!(ended.is_some(), "strace does not detach");
        Ok(())
    }

    /// What was counted, a line each.
    pub(super) fn counted(&self) -> &str {
        &self.trace.counted
    }
}

impl Drop for Observer {
    /// After a failed test: the kernel detaches what a dying tracer held.
    fn drop(&mut self) {
        self.strace.kill_group();
        self.strace.wait(Some(PATIENCE)).ok();
    }
}
