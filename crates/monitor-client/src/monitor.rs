//! A monitor, as the daemon sees it: one method per request.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use monitor_protocol::{
    Adopt, ContainerInfo, Create, ErrorKind, Exec, Id, Reply, Request, VERSION,
};
use rustix::fs::{Mode, OFlags};
use sys::pool::Pool;
use sys::spawn::Status;

use crate::connection::{Connection, Events, socket_path};
use crate::{Error, Result, SpawnOptions, spawn};

/// A connection to a pod's monitor. Clones share it; it is closed with the last one, and the
/// monitor lives on. All methods may be called at the same time, and a future of one may be
/// dropped: what it asked for happens all the same.
#[derive(Clone, Debug)]
pub struct Monitor {
    connection: Arc<Connection>,
    dir: PathBuf,
    pid: u32,
    version: u32,
}

/// A container that [`Monitor::create`] made. The descriptors are to be kept: a successor of the
/// monitor needs them ([`Monitor::adopt`]).
#[derive(Debug)]
pub struct Created {
    /// Its init.
    pub pid: u32,
    /// When its init started, in ticks since boot: with the pid, its identity.
    pub start_time: u64,
    /// Its init.
    pub pidfd: OwnedFd,
    /// The master of its terminal, where it has one.
    pub terminal: Option<OwnedFd>,
    /// The writing end of its stdin, where that can be closed.
    pub stdin: Option<OwnedFd>,
    /// Its output, held ([`Monitor::hold_output`]); to be dropped once it has exited.
    pub output: HeldOutput,
}

/// The pipes of a container's output, open but never read: what a container writes and nobody
/// has read is gone once nobody has its pipe open, which would be so when it ends between the
/// death of its monitor and the successor.
#[derive(Debug, Default)]
pub struct HeldOutput(Vec<OwnedFd>);

impl HeldOutput {
    /// How many pipes are held: none with a terminal.
    #[must_use]
    pub fn pipes(&self) -> usize {
        self.0.len()
    }
}

/// A process that [`Monitor::exec`] started.
#[derive(Debug)]
pub struct ExecStarted {
    /// The process.
    pub pid: u32,
    /// The process; readable once it has ended.
    pub pidfd: OwnedFd,
    /// The master of its terminal, where it has one: input, output and size are the caller's.
    pub terminal: Option<OwnedFd>,
}

impl ExecStarted {
    /// Waits for the process's end, which is seen here also where its monitor is lost.
    ///
    /// # Errors
    /// It can't be watched.
    pub async fn ended(&self) -> std::io::Result<()> {
        let pidfd = self.pidfd.try_clone()?;
        let pidfd = crate::connection::watch(pidfd, tokio::io::Interest::READABLE)?;
        pidfd.readable().await.map(drop)
    }
}

/// Where [`Monitor::attach`] copies a container's output to: pipes or sockets.
#[derive(Debug, Default)]
pub struct AttachTo {
    /// Whether stdin is wanted.
    pub stdin: bool,
    /// Where stdout goes; of a container with a terminal, all its output.
    pub stdout: Option<OwnedFd>,
    /// Where stderr goes.
    pub stderr: Option<OwnedFd>,
}

/// What the caller kept of a container for a successor of its monitor.
#[derive(Debug, Default)]
pub struct AdoptedDescriptors<'a> {
    /// Its init; one that was opened before the init ended can tell its exit code.
    pub pidfd: Option<BorrowedFd<'a>>,
    /// The master of its terminal. Without it the terminal is gone, and so is its output.
    pub terminal: Option<BorrowedFd<'a>>,
    /// The writing end of its stdin.
    pub stdin: Option<BorrowedFd<'a>>,
}

impl Monitor {
    /// Starts a monitor and connects to it. `pool` runs what blocks.
    ///
    /// # Errors
    /// [`Error::Spawn`], [`Error::NotReady`], and those of [`Monitor::connect`].
    pub async fn spawn(options: SpawnOptions, pool: &Pool) -> Result<(Self, Events)> {
        let dir = options.dir.clone();
        let child = spawn::start(options, pool).await?;
        let (connection, events) = Connection::open(&dir, Some(child))?;
        Self::hello(connection, dir)
            .await
            .map(|monitor| (monitor, events))
    }

    /// Connects to the monitor that lives in `dir`.
    ///
    /// # Errors
    /// [`Error::Io`] with `ENOENT` or `ECONNREFUSED` if none does.
    pub async fn connect(dir: &Path) -> Result<(Self, Events)> {
        let (connection, events) = Connection::open(dir, None)?;
        Self::hello(connection, dir.to_owned())
            .await
            .map(|monitor| (monitor, events))
    }

    /// Moves it into its cgroup in the hierarchies of version 1, in the background, where it is not
    /// there yet: for one that an earlier daemon started.
    pub fn enter_v1(&self, cgroup: String, pool: &Pool) {
        if let Some(pid) = i32::try_from(self.pid())
            .ok()
            .and_then(sys::pidfd::of_number)
        {
            spawn::enter_v1(cgroup, pid, pool);
        }
    }

    async fn hello(connection: Connection, dir: PathBuf) -> Result<Self> {
        match connection
            .ask(Request::Hello { version: VERSION }, &[])
            .await?
        {
            (Reply::Hello { pid, version, .. }, _) => Ok(Self {
                connection: Arc::new(connection),
                dir,
                pid,
                version,
            }),
            _ => Err(Error::Unexpected { request: "hello" }),
        }
    }

    /// The monitor's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The monitor's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the monitor listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        socket_path(&self.dir)
    }

    /// Makes a container: its stdio, and its init, which waits for [`Monitor::start`]. `runtime` is
    /// a sealed copy of the runtime's program, where there is one.
    ///
    /// # Errors
    /// [`Error::Refused`] with the runtime's words; nothing of it is left then.
    pub async fn create(&self, create: Create, runtime: Option<BorrowedFd<'_>>) -> Result<Created> {
        let id = create.id.clone();
        self.make(id, Request::Create { create }, runtime).await
    }

    /// Has the output of a container that is about to be made or adopted go to systemd's journal, too.
    ///
    /// # Errors
    /// [`Error::Refused`] by an earlier daemon's monitor.
    pub async fn log_to_journal(&self, id: &Id, name: &str) -> Result<()> {
        self.knows(3, "knows no journal")?;
        let (id, name) = (id.clone(), name.to_owned());
        self.done("journal", Request::Journal { id, name }, &[])
            .await
    }

    /// Has the monitor refuse and count the calls that the seccomp filter of a container, which is about to
    /// be made or adopted, leaves to a listener: [`Event::Forbidden`](crate::Event::Forbidden) tells them.
    /// `socket` is the `listenerPath` of its `config.json`.
    ///
    /// # Errors
    /// [`Error::Refused`] by an earlier daemon's monitor.
    pub async fn notify(&self, id: &Id, socket: &str) -> Result<()> {
        self.knows(4, "has no seccomp notifier: make a new pod")?;
        let (id, socket) = (id.clone(), socket.to_owned());
        self.done("notify", Request::Notify { id, socket }, &[])
            .await
    }

    /// Gives a listener of a container that was adopted, kept of
    /// [`Event::Listening`](crate::Event::Listening).
    ///
    /// # Errors
    /// [`Error::Refused`]: there is no such container, or it was not announced by [`Monitor::notify`].
    pub async fn listen(&self, id: &Id, listener: BorrowedFd<'_>) -> Result<()> {
        let request = Request::Listen { id: id.clone() };
        self.done("listen", request, &[listener]).await
    }

    /// Refuses what came with a later version of the messages than the monitor's.
    fn knows(&self, since: u32, or_else: &str) -> Result<()> {
        if self.version >= since {
            return Ok(());
        }
        Err(Error::Refused {
            kind: ErrorKind::WrongState {},
            text: format!("the pod's monitor is of an earlier version, which {or_else}"),
        })
    }

    /// Makes a container of processes that criu kept in `images`: they run at once. Its log is in
    /// `work`, and nothing of the container is left if it fails.
    ///
    /// # Errors
    /// [`Error::Refused`] with the runtime's words, or where an earlier daemon's monitor can't.
    pub async fn restore(
        &self,
        create: Create,
        images: String,
        work: String,
        runtime: Option<BorrowedFd<'_>>,
    ) -> Result<Created> {
        self.knows(2, "can't restore: make a new pod")?;
        let id = create.id.clone();
        let request = Request::Restore {
            create,
            images,
            work,
        };
        self.make(id, request, runtime).await
    }

    async fn make(
        &self,
        id: Id,
        request: Request,
        runtime: Option<BorrowedFd<'_>>,
    ) -> Result<Created> {
        let (reply, fds) = self.connection.ask(request, runtime.as_slice()).await?;
        let Reply::Created {
            pid,
            start_time,
            terminal,
            stdin,
        } = reply
        else {
            return Err(Error::Unexpected { request: "create" });
        };
        let missing = || Error::Unexpected { request: "create" };
        let mut fds = fds.into_iter();
        Ok(Created {
            pid,
            start_time,
            pidfd: fds.next().ok_or_else(missing)?,
            terminal: if terminal {
                Some(fds.next().ok_or_else(missing)?)
            } else {
                None
            },
            stdin: if stdin {
                Some(fds.next().ok_or_else(missing)?)
            } else {
                None
            },
            output: self.hold_output(&id),
        })
    }

    /// Holds a container's output against the death of its monitor: to be called for every live
    /// container after [`Monitor::connect`]. Takes no time: the pipes are on a tmpfs.
    #[must_use]
    pub fn hold_output(&self, id: &Id) -> HeldOutput {
        let dir = self.dir.join("containers").join(id.as_str());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |name: &str| rustix::fs::open(dir.join(name), flags, Mode::empty()).ok();
        HeldOutput(["stdout", "stderr"].into_iter().filter_map(open).collect())
    }

    /// Lets a container's init run its program.
    ///
    /// # Errors
    /// [`Error::Refused`] with the runtime's words.
    pub async fn start(&self, id: &Id) -> Result<()> {
        self.done("start", Request::Start { id: id.clone() }, &[])
            .await
    }

    /// Sends a container's init a signal.
    ///
    /// # Errors
    /// [`Error::Refused`]: not found, or in the wrong state (it has ended).
    pub async fn signal(&self, id: &Id, signal: i32) -> Result<()> {
        self.done(
            "signal",
            Request::Signal {
                id: id.clone(),
                signal,
            },
            &[],
        )
        .await
    }

    /// Sends SIGKILL to everything in a container's cgroup. Its end is told by
    /// [`Event::Exited`](crate::Event::Exited).
    ///
    /// # Errors
    /// [`Error::Refused`]: not found.
    pub async fn kill_all(&self, id: &Id) -> Result<()> {
        self.done("kill all", Request::KillAll { id: id.clone() }, &[])
            .await
    }

    /// Runs a process in a container: with a terminal, or with `stdio`, its stdin, stdout and
    /// stderr.
    ///
    /// # Errors
    /// [`Error::Refused`] with the runtime's words.
    pub async fn exec(
        &self,
        exec: Exec,
        stdio: Option<[BorrowedFd<'_>; 3]>,
    ) -> Result<ExecStarted> {
        let fds = stdio.as_ref().map_or(&[][..], |fds| &fds[..]);
        let (reply, fds) = self.connection.ask(Request::Exec { exec }, fds).await?;
        let Reply::ExecStarted { pid, terminal } = reply else {
            return Err(Error::Unexpected { request: "exec" });
        };
        let missing = || Error::Unexpected { request: "exec" };
        let mut fds = fds.into_iter();
        Ok(ExecStarted {
            pid,
            pidfd: fds.next().ok_or_else(missing)?,
            terminal: if terminal {
                Some(fds.next().ok_or_else(missing)?)
            } else {
                None
            },
        })
    }

    /// Sends SIGKILL to an exec's process and its process group.
    ///
    /// # Errors
    /// [`Error::Refused`]: not found (it has ended).
    pub async fn kill_exec(&self, id: &Id, exec: &Id) -> Result<()> {
        let request = Request::KillExec {
            id: id.clone(),
            exec: exec.clone(),
        };
        self.done("kill exec", request, &[]).await
    }

    /// Opens a container's log anew, after its rotation.
    ///
    /// # Errors
    /// [`Error::Refused`]: not found, or the file can't be opened.
    pub async fn reopen_log(&self, id: &Id) -> Result<()> {
        self.done("reopen log", Request::ReopenLog { id: id.clone() }, &[])
            .await
    }

    /// Sets the size of a container's terminal.
    ///
    /// # Errors
    /// [`Error::Refused`]: not found, or it has none.
    pub async fn resize(&self, id: &Id, rows: u16, columns: u16) -> Result<()> {
        self.done(
            "resize",
            Request::Resize {
                id: id.clone(),
                rows,
                columns,
            },
            &[],
        )
        .await
    }

    /// Copies a container's output to descriptors from now on, until its end or until they are
    /// closed at their other end. Returns where its stdin is written to (its terminal's master, or
    /// a pipe that doesn't block), if it is wanted and open.
    ///
    /// # Errors
    /// [`Error::Refused`]: not found, or it has ended.
    pub async fn attach(&self, id: &Id, to: AttachTo) -> Result<Option<OwnedFd>> {
        let request = Request::Attach {
            id: id.clone(),
            stdin: to.stdin,
            stdout: to.stdout.is_some(),
            stderr: to.stderr.is_some(),
        };
        let fds: Vec<BorrowedFd<'_>> = [&to.stdout, &to.stderr]
            .into_iter()
            .flatten()
            .map(AsFd::as_fd)
            .collect();
        match self.connection.ask(request, &fds).await? {
            (Reply::Attached { stdin: true }, fds) => Ok(fds.into_iter().next()),
            (Reply::Attached { stdin: false }, _) => Ok(None),
            _ => Err(Error::Unexpected { request: "attach" }),
        }
    }

    /// Closes the monitor's writing end of a container's stdin. The container sees its end once
    /// the caller's own ([`Created::stdin`] and [`Monitor::attach`]) are closed as well.
    ///
    /// # Errors
    /// [`Error::Refused`]: not found.
    pub async fn close_stdin(&self, id: &Id) -> Result<()> {
        self.done("close stdin", Request::CloseStdin { id: id.clone() }, &[])
            .await
    }

    /// Removes what the runtime keeps of a container. Repeating it is fine.
    ///
    /// # Errors
    /// [`Error::Refused`]: it runs and `force` is false, or the runtime's words.
    pub async fn delete(&self, id: &Id, force: bool) -> Result<()> {
        self.done(
            "delete",
            Request::Delete {
                id: id.clone(),
                force,
            },
            &[],
        )
        .await
    }

    /// Forgets a container that has exited, and its files in the monitor's directory. Repeating
    /// it is fine.
    ///
    /// # Errors
    /// [`Error::Refused`]: it runs.
    pub async fn forget(&self, id: &Id) -> Result<()> {
        self.done("forget", Request::Forget { id: id.clone() }, &[])
            .await
    }

    /// All containers of the monitor: what happened while nobody was connected.
    ///
    /// # Errors
    /// [`Error::Lost`] only.
    pub async fn list(&self) -> Result<Vec<ContainerInfo>> {
        match self.connection.ask(Request::List {}, &[]).await? {
            (Reply::List { containers }, _) => Ok(containers),
            _ => Err(Error::Unexpected { request: "list" }),
        }
    }

    /// Gives a container of a monitor that died to this one. Which descriptors are there is taken
    /// from `descriptors`, not from `adopt`.
    ///
    /// # Errors
    /// [`Error::Refused`]: it is known already, or its files are missing.
    pub async fn adopt(
        &self,
        mut adopt: Adopt,
        descriptors: AdoptedDescriptors<'_>,
    ) -> Result<ContainerInfo> {
        adopt.pidfd = descriptors.pidfd.is_some();
        adopt.terminal = descriptors.terminal.is_some();
        adopt.stdin = descriptors.stdin.is_some();
        let fds: Vec<BorrowedFd<'_>> = [descriptors.pidfd, descriptors.terminal, descriptors.stdin]
            .into_iter()
            .flatten()
            .collect();
        match self.connection.ask(Request::Adopt { adopt }, &fds).await? {
            (Reply::Adopted { info }, _) => Ok(info),
            _ => Err(Error::Unexpected { request: "adopt" }),
        }
    }

    /// Tells the status of a process that `sys::reap::orphans` reaped: it may be the init of a
    /// container that the monitor adopted.
    ///
    /// # Errors
    /// [`Error::Lost`] only.
    pub async fn orphan_reaped(&self, pid: u32, status: Status) -> Result<()> {
        let (code, signal) = match status {
            Status::Exited(code) => (code, 0),
            Status::Signaled(signal) => (0, signal),
        };
        self.done(
            "orphan reaped",
            Request::OrphanReaped { pid, code, signal },
            &[],
        )
        .await
    }

    /// Ends the monitor. [`Event::Lost`](crate::Event::Lost) follows.
    ///
    /// # Errors
    /// [`Error::Refused`] with `WrongState`: a container lives.
    pub async fn quit(&self) -> Result<()> {
        self.done("quit", Request::Quit {}, &[]).await
    }

    async fn done(
        &self,
        name: &'static str,
        request: Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<()> {
        match self.connection.ask(request, fds).await? {
            (Reply::Done {}, _) => Ok(()),
            _ => Err(Error::Unexpected { request: name }),
        }
    }
}
