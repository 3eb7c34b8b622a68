//! The main thread: one loop over requests, children, deadlines and what the log thread tells.
//!
//! Nothing in it waits: a runtime runs as a child whose end comes as SIGCHLD, and its request is
//! answered then. `poll(2)`, since there are few descriptors and their set changes all the time.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use monitor_protocol::{ErrorKind, Event, Exec, FromMonitor, Id, Reply, limits as wire};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Pid;
use sys::seqpacket;
use sys::spawn::Status;

use crate::connection::{Connection, Received};
use crate::container::{Ask, Container, Phase};
use crate::limits;
use crate::log::{Log, Notice};
use crate::notify::Notify;
use crate::options::Options;
use crate::runtime::Call;

mod adopt;
mod children;
mod console;
mod create;
mod delete;
mod exec;
mod exit;
mod notifications;
mod requests;

/// All of the monitor's state but the logs.
#[derive(Debug)]
pub(crate) struct Server {
    options: Options,
    /// What containers and runtimes get as `oom_score_adj`: not the monitor's own.
    oom_score_adj: i32,
    listener: OwnedFd,
    children: OwnedFd,
    log: Log,
    _lock: File,
    connections: Vec<Connection>,
    containers: Vec<Container>,
    calls: Vec<(Call, What)>,
    reopening: Vec<(u64, Ask)>,
    /// Clients whose output is not copied yet, each with what it writes to.
    attaching: Vec<(u64, Ask, Option<OwnedFd>)>,
    /// Names of containers to come whose output goes to systemd's journal, too.
    journaled: VecDeque<(Id, String)>,
    /// Containers to come with what their seccomp filters leave to us, each with its socket.
    notified: VecDeque<(Id, String)>,
    /// Statuses of processes that no container knew when they were reaped.
    unknown: VecDeque<(Pid, Status)>,
    next: u64,
    /// When connections are accepted again, after that failed.
    accepts_at: Option<Instant>,
    quitting: bool,
}

/// What a call of the runtime is for.
#[derive(Debug)]
enum What {
    Create {
        id: Id,
        ask: Ask,
        words: Option<OwnedFd>,
        console: Option<console::Console>,
        /// Whether its processes were restored, and so run.
        restored: bool,
    },
    /// After a `create` that failed: its failure is told after this.
    CleanUp {
        id: Id,
        ask: Ask,
        kind: ErrorKind,
        text: String,
    },
    Start {
        id: Id,
        ask: Ask,
    },
    Exec {
        exec: Exec,
        ask: Ask,
        console: Option<console::Console>,
    },
    Delete {
        id: Id,
    },
}

/// What is ready.
#[derive(Clone, Copy, Debug)]
enum Ready {
    Children,
    Listener,
    Log,
    Connection(u64),
    Process,
    /// What belongs to a container's seccomp filter; `gone`: nothing more will come.
    Seccomp {
        number: u64,
        gone: bool,
    },
}

impl Ready {
    /// What it is by the flags that `poll(2)` told of it.
    fn told(self, flags: PollFlags) -> Option<Self> {
        match self {
            _ if flags.is_empty() => None,
            Self::Seccomp { number, .. } => Some(Self::Seccomp {
                number,
                gone: !flags.contains(PollFlags::IN),
            }),
            other => Some(other),
        }
    }
}

/// What the server is made from.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) options: Options,
    pub(crate) oom_score_adj: i32,
    pub(crate) listener: OwnedFd,
    pub(crate) children: OwnedFd,
    pub(crate) lock: File,
}

impl Server {
    pub(crate) fn new(parts: Parts) -> io::Result<Self> {
        let Parts {
            options,
            oom_score_adj,
            listener,
            children,
            lock,
        } = parts;
        Ok(Self {
            options,
            oom_score_adj,
            listener,
            children,
            log: Log::start()?,
            _lock: lock,
            connections: Vec::new(),
            containers: Vec::new(),
            calls: Vec::new(),
            reopening: Vec::new(),
            attaching: Vec::new(),
            journaled: VecDeque::new(),
            notified: VecDeque::new(),
            unknown: VecDeque::with_capacity(limits::UNKNOWN_STATUSES),
            next: 1,
            accepts_at: None,
            quitting: false,
        })
    }

    pub(crate) fn run(mut self) {
        let mut buffer = vec![0; wire::MESSAGE_BYTES];
        while !self.quitting {
            for ready in self.wait() {
                match ready {
                    Ready::Children => self.reap(),
                    Ready::Listener => self.accept(),
                    Ready::Log => self.hear_log(),
                    Ready::Connection(number) => self.serve(number, &mut buffer),
                    Ready::Process => self.look_at_adopted(),
                    Ready::Seccomp { number, gone } => self.look_at_seccomp(number, gone),
                }
            }
            self.tick();
            self.connections.retain(|connection| !connection.broken);
        }
        self.log.quit();
    }

    fn wait(&self) -> Vec<Ready> {
        let mut fds = Vec::with_capacity(8);
        let mut owners = Vec::with_capacity(8);
        let mut add = |owner, fd, flags| {
            fds.push(PollFd::from_borrowed_fd(fd, flags));
            owners.push(owner);
        };
        let noticed = self.log.noticed();
        add(Ready::Children, self.children.as_fd(), PollFlags::IN);
        if self.accepts_at.is_none() {
            add(Ready::Listener, self.listener.as_fd(), PollFlags::IN);
        }
        add(Ready::Log, noticed.as_fd(), PollFlags::IN);
        for connection in &self.connections {
            let out = if connection.is_waiting() {
                PollFlags::OUT
            } else {
                PollFlags::empty()
            };
            add(
                Ready::Connection(connection.number),
                connection.socket(),
                PollFlags::IN | out,
            );
        }
        for (fd, flags) in self.containers.iter().flat_map(watched) {
            add(Ready::Process, fd, flags);
        }
        let notifies = self.containers.iter().flat_map(|one| &one.notify);
        for (number, fd) in notifies.flat_map(Notify::watched) {
            let gone = false;
            add(Ready::Seccomp { number, gone }, fd, PollFlags::IN);
        }
        let left = self
            .deadline()
            .map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            // Out of memory: nothing to be done but trying again.
            Err(_) => return Vec::new(),
        }
        owners
            .iter()
            .zip(&fds)
            .filter_map(|(owner, fd)| owner.told(fd.revents()))
            .collect()
    }

    fn deadline(&self) -> Option<Instant> {
        let calls = self.calls.iter().filter_map(|(call, _)| call.deadline());
        let containers = self
            .containers
            .iter()
            .filter_map(|container| match &container.phase {
                Phase::Lost { until } => Some(*until),
                Phase::Exiting(exiting) if !container.starting => Some(exiting.until),
                _ => None,
            });
        let notifies = self.containers.iter().flat_map(|one| &one.notify);
        let news = notifies.filter_map(|notify| notify.tell_at);
        calls
            .chain(containers)
            .chain(news)
            .chain(self.accepts_at)
            .min()
    }

    fn tick(&mut self) {
        let now = Instant::now();
        for (call, _) in &mut self.calls {
            if call.deadline().is_some_and(|at| at <= now) {
                call.time_out();
            }
        }
        if self.accepts_at.is_some_and(|at| at <= now) {
            self.accepts_at = None;
        }
        self.give_up_lost(now);
        self.advance_exits(now);
        self.tell_due(now);
    }

    fn accept(&mut self) {
        loop {
            let socket = match seqpacket::accept(self.listener.as_fd()) {
                Ok(Some(socket)) => socket,
                Ok(None) => return,
                Err(_) => {
                    // Out of descriptors: it would be ready for ever.
                    self.accepts_at = Some(Instant::now() + limits::ACCEPT_AGAIN);
                    return;
                }
            };
            let own = rustix::process::geteuid().as_raw();
            let is_ours = seqpacket::peer_uid(socket.as_fd()).is_ok_and(|uid| uid == own);
            if is_ours && self.connections.len() < limits::CONNECTIONS {
                let number = self.next_number();
                self.connections.push(Connection::new(socket, number));
            }
        }
    }

    fn serve(&mut self, number: u64, buffer: &mut [u8]) {
        for _ in 0..limits::REQUESTS {
            let found = self
                .connections
                .iter_mut()
                .find(|connection| connection.number == number);
            let Some(connection) = found else { return };
            connection.flush();
            match connection.receive(buffer) {
                Received::Request(message, fds) => {
                    let ask = Ask {
                        connection: number,
                        number: message.number,
                    };
                    self.request(ask, message.request, fds);
                }
                Received::Nothing => return,
                Received::End => {
                    connection.broken = true;
                    return;
                }
            }
        }
    }

    fn hear_log(&mut self) {
        for notice in self.log.notices() {
            match notice {
                Notice::Added { id, result } => self.log_added(&id, result),
                Notice::Reopened { token, result } => {
                    let found = self.reopening.iter().position(|(known, _)| *known == token);
                    if let Some(at) = found {
                        let (_, ask) = self.reopening.swap_remove(at);
                        self.answer(ask, result.map_err(|err| failed("reopen log", &err)));
                    }
                }
                Notice::Attached { token } => self.attached(token),
                Notice::Drained { id } => self.drained(&id),
            }
        }
    }

    fn reply(&mut self, ask: Ask, reply: Reply, fds: Vec<OwnedFd>) {
        let found = self
            .connections
            .iter_mut()
            .find(|one| one.number == ask.connection);
        // Who asked may be gone; what was done stays done, and `List` tells it.
        if let Some(connection) = found {
            connection.send(
                &FromMonitor::Reply {
                    number: ask.number,
                    reply,
                },
                fds,
            );
        }
    }

    fn answer(&mut self, ask: Ask, result: Result<(), Refusal>) {
        match result {
            Ok(()) => self.reply(ask, Reply::Done {}, Vec::new()),
            Err((kind, text)) => self.reply(ask, Reply::Failed { kind, text }, Vec::new()),
        }
    }

    fn tell(&mut self, event: Event) {
        let message = FromMonitor::Event { event };
        for connection in self
            .connections
            .iter_mut()
            .filter(|connection| connection.hears(1))
        {
            connection.send(&message, Vec::new());
        }
    }

    fn find(&mut self, id: &Id) -> Result<&mut Container, Refusal> {
        let found = self
            .containers
            .iter_mut()
            .find(|container| container.id() == id);
        found.ok_or_else(|| (ErrorKind::NotFound {}, format!("no container {id}")))
    }

    fn next_number(&mut self) -> u64 {
        self.next = self.next.wrapping_add(1);
        self.next
    }
}

/// Why a request is refused.
type Refusal = (ErrorKind, String);

fn failed(doing: &str, err: &io::Error) -> Refusal {
    (ErrorKind::Io {}, format!("{doing}: {err}"))
}

/// Processes that aren't ours to reap: adopted inits, and what is left in a cgroup.
fn watched(container: &Container) -> Vec<(BorrowedFd<'_>, PollFlags)> {
    let init = container.init.as_ref().filter(|init| !init.is_child);
    let init = init.and_then(|init| init.pidfd.as_ref());
    match &container.phase {
        Phase::Created | Phase::Running => init.map(|fd| (fd.as_fd(), PollFlags::IN)),
        // Nothing asked for: only the reaping (POLLHUP) is news.
        Phase::Lost { .. } => init.map(|fd| (fd.as_fd(), PollFlags::empty())),
        Phase::Exiting(exiting) if !exiting.draining => {
            return exiting
                .leftovers
                .iter()
                .map(|fd| (fd.as_fd(), PollFlags::IN))
                .collect();
        }
        _ => None,
    }
    .into_iter()
    .collect()
}
