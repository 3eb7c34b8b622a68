//! A container, as the monitor knows it.
//!
//! ```text
//!  Create ─► Creating ─► Created ─► Running ─► Exiting ─► Exited ─► (forgotten)
//!  Adopt ──► Adopting ──┴───────────┴────────► Lost ──┘      ▲
//!                └───────────────────────────────────────────┘ it had an exit record
//! ```
//! One that is restored goes from Creating to Running: its processes run at once.
//! Lost: the init of an adopted container has ended, and its status has not been found yet.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Instant;

use monitor_protocol::{Adopt, ContainerInfo, Create, Exit, Id, State};
use rustix::process::Pid;
use sys::cgroup::Cgroup;

use crate::notify::Notify;
use crate::stdio::ContainerEnds;

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// The connection's number.
    pub(crate) connection: u64,
    /// The request's number.
    pub(crate) number: u32,
}

#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) create: Create,
    pub(crate) dir: PathBuf,
    pub(crate) phase: Phase,
    pub(crate) init: Option<Init>,
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) stdin: Option<OwnedFd>,
    /// A copy of the runtime's program to be run in its place.
    pub(crate) runtime: Option<OwnedFd>,
    pub(crate) execs: Vec<RunningExec>,
    /// A `start` of the runtime runs: the exit is told after its end.
    pub(crate) starting: bool,
    pub(crate) deletion: Deletion,
    /// What its seccomp filter leaves to us.
    pub(crate) notify: Option<Notify>,
}

#[derive(Debug)]
pub(crate) enum Phase {
    Creating(Creating),
    Adopting(Box<Adopting>),
    Created,
    Running,
    Lost { until: Instant },
    Exiting(Exiting),
    Exited(Exit),
}

/// What is kept until the runtime was called.
#[derive(Debug)]
pub(crate) struct Creating {
    pub(crate) ask: Ask,
    pub(crate) ends: Option<ContainerEnds>,
    /// The container's stderr, to read the words of a runtime that failed from.
    pub(crate) words: Option<OwnedFd>,
    /// Where its processes come from, if they are restored.
    pub(crate) images: Option<Images>,
}

/// Processes to be restored.
#[derive(Debug)]
pub(crate) struct Images {
    /// Where criu's images of them are.
    pub(crate) dir: String,
    /// Where criu writes its log.
    pub(crate) work: String,
}

#[derive(Debug)]
pub(crate) struct Adopting {
    pub(crate) ask: Ask,
    pub(crate) adopt: Adopt,
    pub(crate) pidfd: Option<OwnedFd>,
}

/// A container's first process.
#[derive(Debug)]
pub(crate) struct Init {
    pub(crate) pid: Pid,
    pub(crate) start_time: u64,
    pub(crate) pidfd: Option<OwnedFd>,
    /// Whether it is ours to reap.
    pub(crate) is_child: bool,
    /// Only where the cgroup has the container's name.
    pub(crate) cgroup: Cgroup,
    /// Kills for memory in its parent that are not the container's.
    pub(crate) oom_kills_above: u64,
}

#[derive(Debug)]
pub(crate) struct Exiting {
    pub(crate) exit: Exit,
    /// Killed, not yet ended.
    pub(crate) leftovers: Vec<OwnedFd>,
    /// When not to wait any longer.
    pub(crate) until: Instant,
    pub(crate) draining: bool,
    pub(crate) drained: bool,
}

#[derive(Debug)]
pub(crate) struct RunningExec {
    pub(crate) exec: Id,
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
}

/// Whether the runtime's own records of it are gone.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Deletion {
    #[default]
    Not,
    Running {
        waiting: Vec<Ask>,
    },
    Done,
}

impl Container {
    pub(crate) fn new(create: Create, dir: PathBuf, phase: Phase) -> Self {
        Self {
            create,
            dir,
            phase,
            init: None,
            terminal: None,
            stdin: None,
            runtime: None,
            execs: Vec::new(),
            starting: false,
            deletion: Deletion::default(),
            notify: None,
        }
    }

    pub(crate) fn id(&self) -> &Id {
        &self.create.id
    }

    pub(crate) fn is_live(&self) -> bool {
        !matches!(self.phase, Phase::Exited(_))
    }

    /// Whether its init may be sent signals.
    pub(crate) fn has_init(&self) -> bool {
        matches!(self.phase, Phase::Created | Phase::Running)
    }

    pub(crate) fn info(&self) -> ContainerInfo {
        let state = match &self.phase {
            Phase::Creating(_) | Phase::Adopting(_) => State::Creating {},
            Phase::Created => State::Created {},
            Phase::Running => State::Running {},
            Phase::Lost { .. } | Phase::Exiting(_) => State::Exiting {},
            Phase::Exited(exit) => State::Exited { exit: exit.clone() },
        };
        ContainerInfo {
            id: self.id().clone(),
            state,
            pid: self.init.as_ref().map_or(0, |init| raw(init.pid)),
            start_time: self.init.as_ref().map_or(0, |init| init.start_time),
            execs: self.execs.iter().map(|exec| exec.exec.clone()).collect(),
        }
    }
}

/// A process's number on the wire.
pub(crate) fn raw(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}
