//! Starting a monitor: in a cgroup and a session of its own, ready when it says so.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use monitor_protocol::Id;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use sys::cgroup::Cgroup;
use sys::pool::Pool;
use sys::spawn::{Child, EnterCgroup, Session, Spec};
use tokio::io::Interest;

use crate::connection::watch;
use crate::{Error, Result};

/// The number of the pipe in the monitor on which it says that it is ready.
const READY: i32 = 3;
/// What is kept of its last words.
const LAST_WORDS: usize = 2048;

/// How to start a monitor.
#[derive(Clone, Debug)]
pub struct SpawnOptions {
    /// Its program's file.
    pub program: PathBuf,
    /// Its pod.
    pub pod: Id,
    /// Its directory, on a tmpfs; made with mode 0700.
    pub dir: PathBuf,
    /// Where exit records go; made if it isn't there.
    pub exits_dir: PathBuf,
    /// The cgroup that it is born in, such as `/crio/crio-conmon-ID`; made if it isn't there. In the
    /// hierarchies of version 1 it is moved there in the background: the kernel may take longer for
    /// that than a pod's start takes. If the daemon's service is stopped right then and the monitor
    /// with it, the next daemon starts a successor.
    /// `None`: the daemon's own, for tests only, since a restart of the service empties that.
    pub cgroup: Option<String>,
    /// Its `oom_score_adj`, where the kernel allows it; -1000 is right.
    pub oom_score_adj: i32,
    /// What it may take until it is ready.
    pub timeout: Duration,
}

/// Starts it and waits until it listens.
pub(crate) async fn start(options: SpawnOptions, pool: &Pool) -> Result<Child> {
    let dir = options.dir.clone();
    let (timeout, cgroup) = (options.timeout, options.cgroup.clone());
    let (child, ready) = pool.run(move || start_blocking(&options)).await?;
    if let Some(cgroup) = cgroup {
        enter_v1(cgroup, child.pid(), pool);
    }
    let failed = |source| Error::Io {
        doing: "wait for monitor in",
        path: dir.clone(),
        source,
    };
    let ready = watch(ready, Interest::READABLE).map_err(failed)?;
    let mut byte = [0];
    let wait = ready.async_io(Interest::READABLE, |pipe| {
        rustix::io::read(pipe, &mut byte).map_err(io::Error::from)
    });
    let said = tokio::time::timeout(timeout, wait).await;
    if matches!(said, Ok(Ok(1))) {
        return Ok(child);
    }
    let text = last_words(&dir);
    // By its pidfd, and reaped by the pool's thread: it never became anybody's monitor.
    pool.run(move || end(child)).await;
    Err(Error::NotReady {
        dir,
        after: said.is_err().then_some(timeout),
        text,
    })
}

fn start_blocking(options: &SpawnOptions) -> Result<(Child, OwnedFd)> {
    let at = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io {
            doing,
            path,
            source,
        }
    };
    for dir in [&options.dir, &options.exits_dir] {
        fs::create_dir_all(dir).map_err(at("make", dir))?;
    }
    rustix::fs::chmod(&options.dir, Mode::RWXU)
        .map_err(|err| at("protect", &options.dir)(err.into()))?;
    let cgroup = options.cgroup.as_deref().map(enter).transpose()?;
    let (ready, said) = pipe_with(PipeFlags::CLOEXEC)
        .map_err(|err| at("make pipe for", &options.dir)(err.into()))?;
    rustix::fs::fcntl_setfl(&ready, OFlags::NONBLOCK)
        .map_err(|err| at("make pipe for", &options.dir)(err.into()))?;
    let words = words_file(&options.dir);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let errors = rustix::fs::open(&words, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|err| at("open", &words)(err.into()))?;
    let mut spec = Spec::new(&options.program);
    spec.args = vec![
        "--pod".into(),
        options.pod.as_str().into(),
        "--dir".into(),
        options.dir.clone().into(),
        "--exits-dir".into(),
        options.exits_dir.clone().into(),
        "--ready-fd".into(),
        READY.to_string().into(),
    ];
    spec.session = Session::Own;
    spec.cwd = Some(Path::new("/"));
    spec.cgroup = cgroup.as_ref();
    spec.oom_score_adj = Some(options.oom_score_adj);
    spec.fds = vec![(errors.as_fd(), 2), (said.as_fd(), READY)];
    let child = sys::spawn::spawn(&spec).map_err(Error::Spawn)?;
    Ok((child, ready))
}

/// Moves a process into its cgroups of version 1, in the background.
pub(crate) fn enter_v1(path: String, pid: Pid, pool: &Pool) {
    let enter = move || {
        let entered = Cgroup::at(&path).and_then(|cgroup| match cgroup.has_v1() {
            true => cgroup.enter(pid),
            false => Ok(()),
        });
        match entered {
            // It, or its pod, is gone already.
            Err(gone)
                if gone.kind() == io::ErrorKind::NotFound
                    || gone.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {}
            Err(error) => tracing::warn!(path, %error, "a monitor is not in all of its cgroups"),
            Ok(()) => {}
        }
    };
    // It runs to its end though nobody waits for it.
    drop(pool.run(enter));
}

fn enter(path: &str) -> Result<EnterCgroup> {
    let made = || -> io::Result<EnterCgroup> {
        let cgroup = Cgroup::at(path)?;
        cgroup.make()?;
        cgroup.without_v1().entry()
    };
    made().map_err(|source| Error::Io {
        doing: "make cgroup",
        path: path.into(),
        source,
    })
}

/// Where the monitor's standard error goes: silent but when it can't come up.
fn words_file(dir: &Path) -> PathBuf {
    dir.join("monitor.err")
}

fn last_words(dir: &Path) -> String {
    let bytes = fs::read(words_file(dir)).unwrap_or_default();
    let end = bytes
        .get(bytes.len().saturating_sub(LAST_WORDS)..)
        .unwrap_or_default();
    String::from_utf8_lossy(end).trim().to_owned()
}

fn end(mut child: Child) {
    child.kill_group();
    // It was sent SIGKILL: nothing but the kernel holds it up.
    let _status = child.wait(Some(Duration::from_secs(5)));
}
