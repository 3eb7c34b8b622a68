//! The end of a container: what is left of it is killed, its output read to the end, its record
//! written, then it is told.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use monitor_protocol::{Event, Exit, Id};
use rustix::process::{Pid, Signal};
use sys::cgroup::Cgroup;
use sys::spawn::Status;

use super::Server;
use crate::container::{Container, Deletion, Exiting, Init, Phase, raw};
use crate::limits;
use crate::log::{self, Command};
use crate::record;

impl Server {
    /// Takes the status of a container's init.
    pub(super) fn init_ended(&mut self, at: usize, status: Status, reason: &str) {
        let Some(container) = self.containers.get_mut(at) else {
            return;
        };
        let signal = if let Status::Signaled(signal) = status {
            signal
        } else {
            0
        };
        let none = Cgroup::default();
        let cgroup = container.init.as_ref().map_or(&none, |init| &init.cgroup);
        // Now: the counters go with the cgroup.
        let oom_killed = was_oom_killed(container.init.as_ref(), signal);
        let exit = Exit {
            id: container.id().clone(),
            pid: container.init.as_ref().map_or(0, |init| raw(init.pid)),
            code: status.code(),
            signal,
            oom_killed,
            finished_ns: log::now_ns(),
            reason: reason.to_owned(),
        };
        let leftovers = kill_leftovers(cgroup);
        let until = soon(limits::LEFTOVERS);
        container.phase = Phase::Exiting(Exiting {
            exit,
            leftovers,
            until,
            draining: false,
            drained: false,
        });
        if oom_killed {
            // Accounted for: it is no other container's.
            let others = self.containers.iter_mut();
            for init in others.filter_map(|container| container.init.as_mut()) {
                init.oom_kills_above = init.cgroup.oom_kills_above();
            }
        }
        self.advance_exits(Instant::now());
    }

    /// Goes on with every exit as far as it can.
    pub(super) fn advance_exits(&mut self, now: Instant) {
        for at in 0..self.containers.len() {
            let Some(container) = self.containers.get_mut(at) else {
                break;
            };
            let Phase::Exiting(exiting) = &mut container.phase else {
                continue;
            };
            if container.starting {
                continue;
            }
            exiting.leftovers.retain(|process| !has_ended(process));
            if !exiting.draining && (exiting.leftovers.is_empty() || exiting.until <= now) {
                exiting.draining = true;
                exiting.until = soon(limits::DRAIN);
                let id = exiting.exit.id.clone();
                self.log.send(Command::Drain { id });
            } else if exiting.drained || (exiting.draining && exiting.until <= now) {
                self.finish_exit(at);
            }
        }
    }

    pub(super) fn drained(&mut self, id: &Id) {
        if let Ok(Container {
            phase: Phase::Exiting(exiting),
            ..
        }) = self.find(id)
        {
            exiting.drained = true;
        }
    }

    fn finish_exit(&mut self, at: usize) {
        let Some(container) = self.containers.get_mut(at) else {
            return;
        };
        let Phase::Exiting(exiting) = &container.phase else {
            return;
        };
        let exit = exiting.exit.clone();
        if let Some(notify) = &mut container.notify {
            notify.close();
        }
        self.tell_forbidden(at);
        let Some(container) = self.containers.get_mut(at) else {
            return;
        };
        // A tmpfs that is full: the event and `List` tell it all the same.
        let _lost = record::write(&self.options.exits_dir, &exit);
        container.phase = Phase::Exited(exit.clone());
        container.terminal = None;
        container.stdin = None;
        // A deletion that was asked for, and that killed it, is not begun again: its askers wait.
        let auto_delete = container.create.auto_delete && container.deletion == Deletion::Not;
        let id = container.id().clone();
        let persist_dir = container.create.persist_dir.clone();
        let heard = self.connections.iter().any(|one| one.hears(1));
        if !heard && !persist_dir.is_empty() {
            record::write_persistent(persist_dir.into(), &exit);
        }
        self.tell(Event::Exited { exit });
        if auto_delete {
            // What can't be started now is done when the daemon asks for it.
            let _later = self.begin_delete(&id, Vec::new());
        }
    }
}

impl Container {
    /// Whether `pid` is its init, of which the end is news; `was_child`: of ours.
    pub(super) fn awaits(&self, pid: Pid, was_child: bool) -> bool {
        let waits = self.has_init() || matches!(self.phase, Phase::Lost { .. });
        waits
            && self
                .init
                .as_ref()
                .is_some_and(|init| init.pid == pid && init.is_child == was_child)
    }
}

/// Whether memory was what it ended for. systemd removes a scope with its last process, at times
/// before we look: then it is a SIGKILL, and one more kill for memory in the pod, that tell.
fn was_oom_killed(init: Option<&Init>, signal: i32) -> bool {
    let Some(init) = init else { return false };
    match init.cgroup.oom_kills() {
        Some(kills) => kills > 0,
        None => {
            signal == Signal::KILL.as_raw() && init.cgroup.oom_kills_above() > init.oom_kills_above
        }
    }
}

/// In a container that shares its host's process numbers, others survive the init.
fn kill_leftovers(cgroup: &Cgroup) -> Vec<OwnedFd> {
    let killed = cgroup.kill().unwrap_or_default();
    let open = |pid: &Pid| sys::pidfd::open(*pid).ok();
    killed
        .iter()
        .filter_map(open)
        .filter(|process| !has_ended(process))
        .collect()
}

fn has_ended(process: &OwnedFd) -> bool {
    sys::pidfd::wait_ended(process.as_fd(), Some(Duration::ZERO)).unwrap_or(true)
}

pub(super) fn soon(after: Duration) -> Instant {
    Instant::now()
        .checked_add(after)
        .unwrap_or_else(Instant::now)
}
