//! Containers of a monitor that died.
//!
//! Their FIFOs are opened by name, their journals finished. Their inits aren't our children: the
//! exit status comes from the daemon, where it became their parent ([`Request::OrphanReaped`]), or
//! from the kernel by a pidfd that was opened before the end (Linux 6.15), else it is 137.
//!
//! [`Request::OrphanReaped`]: monitor_protocol::Request::OrphanReaped

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use monitor_protocol::{Adopt, ErrorKind, Exit, Id, Reply};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal};
use sys::spawn::Status;

use super::create::cgroup_file;
use super::exit::soon;
use super::{Refusal, Server, failed};
use crate::container::{Adopting, Ask, Container, Init, Phase};
use crate::limits;
use crate::log::{self, Command};
use crate::record;
use crate::stdio;

/// The reason of an exit whose status nobody could tell.
const LOST: &str = "monitor lost";

impl Server {
    /// First stage: the log thread opens log and journals.
    pub(super) fn adopt(
        &mut self,
        ask: Ask,
        adopt: Adopt,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Refusal> {
        let create = adopt.create.clone();
        if self.find(&create.id).is_ok() {
            return Err((
                ErrorKind::Exists {},
                format!("container {} is there", create.id),
            ));
        }
        let mut fds = fds.into_iter();
        let mut next = |there: bool| if there { fds.next() } else { None };
        let (pidfd, terminal, stdin) = (next(adopt.pidfd), next(adopt.terminal), next(adopt.stdin));
        let dir = stdio::container_dir(&self.options.dir, &create.id);
        fs::create_dir_all(&dir).map_err(|err| failed("make directory", &err))?;
        // Without its FIFOs and its init there is nothing to be read any more.
        let pipes = if create.tty {
            None
        } else {
            stdio::open_outputs(&dir)
                .ok()
                .or_else(|| outputs_of_process(adopt.pid))
        };
        let output = log::Output {
            id: create.id.clone(),
            dir: dir.clone(),
            log: create.log_path.clone().into(),
            size_max: create.log_size_max,
            journal: self.journal_of(&create.id),
            pipes,
        };
        // Without it commands of exec fail, and its own listener does as well.
        let notify = self.notify(&create.id).unwrap_or_default();
        let phase = Phase::Adopting(Box::new(Adopting { ask, adopt, pidfd }));
        let mut container = Container::new(create, dir, phase);
        container.terminal = terminal;
        container.stdin = stdin;
        container.notify = notify;
        self.containers.push(container);
        self.log.send(Command::Add(output));
        Ok(())
    }

    /// Second stage: what has become of its init?
    pub(super) fn adopt_with_log(&mut self, id: &Id, result: io::Result<()>) {
        let exits_dir = self.options.exits_dir.clone();
        let Some(at) = self
            .containers
            .iter()
            .position(|container| container.id() == id)
        else {
            return;
        };
        let Some(container) = self.containers.get_mut(at) else {
            return;
        };
        let before = std::mem::replace(&mut container.phase, Phase::Created);
        let Phase::Adopting(adopting) = before else {
            return;
        };
        let Adopting { ask, adopt, pidfd } = *adopting;
        if let Err(err) = result {
            self.remove(id);
            return self.answer(ask, Err(failed("open log", &err)));
        }
        let terminal = container
            .terminal
            .as_ref()
            .and_then(|terminal| terminal.try_clone().ok());
        container.init = find_init(&adopt, pidfd, &container.dir);
        container.phase = match (record::read(&exits_dir, id), &container.init) {
            (Ok(Some(exit)), _) => Phase::Exited(exit),
            (_, None) if adopt.pid == 0 => Phase::Exited(never_created(id)),
            (_, Some(init)) if !init.has_ended() && adopt.started => Phase::Running,
            (_, Some(init)) if !init.has_ended() => Phase::Created,
            _ => Phase::Lost {
                until: soon(limits::LOST),
            },
        };
        self.log.send(Command::Begin {
            id: id.clone(),
            terminal,
        });
        if matches!(container.phase, Phase::Exited(_)) {
            self.log.send(Command::Drain { id: id.clone() });
        }
        let info = container.info();
        self.reply(ask, Reply::Adopted { info }, Vec::new());
        let pid = i32::try_from(adopt.pid).ok().and_then(Pid::from_raw);
        if let Some(status) = pid.and_then(|pid| self.recall(pid)) {
            if self.containers.get(at).is_some_and(Container::is_live) {
                self.init_ended(at, status, "");
            }
        } else {
            self.look_at_adopted();
        }
    }

    /// Looks whether inits that aren't our children have ended, and what the kernel tells.
    pub(super) fn look_at_adopted(&mut self) {
        for at in 0..self.containers.len() {
            let Some(container) = self.containers.get_mut(at) else {
                break;
            };
            let Some(init) = container.init.as_ref().filter(|init| !init.is_child) else {
                continue;
            };
            let Some(pidfd) = &init.pidfd else { continue };
            let waits = container.has_init() || matches!(container.phase, Phase::Lost { .. });
            if !waits || !init.has_ended() {
                continue;
            }
            if let Some(status) = sys::pidfd::exit_status(pidfd.as_fd()) {
                self.init_ended(at, status, "");
            } else if container.has_init() {
                container.phase = Phase::Lost {
                    until: soon(limits::LOST),
                };
            }
        }
    }

    /// Ends the wait for statuses that nobody can tell.
    pub(super) fn give_up_lost(&mut self, now: Instant) {
        for at in 0..self.containers.len() {
            let phase = self.containers.get(at).map(|container| &container.phase);
            if let Some(Phase::Lost { until }) = phase
                && *until <= now
            {
                self.init_ended(at, Status::Signaled(Signal::KILL.as_raw()), LOST);
            }
        }
    }
}

impl Init {
    fn has_ended(&self) -> bool {
        self.pidfd.as_ref().is_none_or(|pidfd| {
            sys::pidfd::wait_ended(pidfd.as_fd(), Some(Duration::ZERO)).unwrap_or(true)
        })
    }
}

fn find_init(adopt: &Adopt, pidfd: Option<OwnedFd>, dir: &Path) -> Option<Init> {
    let pid = i32::try_from(adopt.pid).ok().and_then(Pid::from_raw)?;
    let start_time = adopt.start_time;
    let pidfd = pidfd.or_else(|| sys::pidfd::open_checked(pid, start_time).ok());
    let cgroup = fs::read_to_string(cgroup_file(dir)).and_then(|text| sys::cgroup::of_text(&text));
    let cgroup = cgroup.unwrap_or_default().named(adopt.create.id.as_str());
    Some(Init {
        pid,
        start_time,
        pidfd,
        is_child: false,
        oom_kills_above: cgroup.oom_kills_above(),
        cgroup,
    })
}

/// By way of the init's own descriptors, where the names are gone. Its program may have closed
/// or replaced them: only pipes are taken.
fn outputs_of_process(pid: u32) -> Option<[OwnedFd; 2]> {
    let open = |number: u32| {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(format!("/proc/{pid}/fd/{number}"), flags, Mode::empty()).ok()?;
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&fd).ok()?.st_mode);
        (kind == rustix::fs::FileType::Fifo).then_some(fd)
    };
    if pid == 0 {
        None
    } else {
        Some([open(1)?, open(2)?])
    }
}

fn never_created(id: &Id) -> Exit {
    Exit {
        id: id.clone(),
        pid: 0,
        code: 137,
        signal: 9,
        oom_killed: false,
        finished_ns: log::now_ns(),
        reason: "never created".into(),
    }
}
