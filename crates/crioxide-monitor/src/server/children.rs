//! Children: the end of a runtime, of an init, of an exec, of anything that was left to us.

use rustix::process::Pid;
use sys::spawn::Status;

use super::{Server, What};
use crate::container::Phase;
use crate::limits;

impl Server {
    /// Reaps what has ended. The order matters: when a runtime has ended, the process that it
    /// left is ours, and may be a zombie already. Its number must stay its own until it was read
    /// from the pid file and opened. So runtimes come first, and unknown processes wait as long
    /// as a runtime runs that may be leaving one.
    pub(super) fn reap(&mut self) {
        sys::signal::clear(std::os::fd::AsFd::as_fd(&self.children));
        self.reap_calls();
        self.reap_known();
        let leaving =
            |(_, what): &(_, What)| matches!(what, What::Create { .. } | What::Exec { .. });
        if self.calls.iter().any(leaving) {
            return;
        }
        for (pid, status) in sys::reap::orphans().unwrap_or_default() {
            if !self.process_ended(pid, status, true) {
                self.remember(pid, status);
            }
        }
    }

    fn reap_calls(&mut self) {
        let mut at = 0;
        while let Some((call, _)) = self.calls.get_mut(at) {
            match call.child.try_wait() {
                Ok(None) => at += 1,
                Ok(Some(status)) => {
                    let (call, what) = self.calls.remove(at);
                    self.call_ended(call, what, status);
                }
                Err(_stolen) => {
                    let (call, what) = self.calls.remove(at);
                    self.call_ended(call, what, Status::Exited(255));
                }
            }
        }
    }

    fn call_ended(&mut self, call: crate::runtime::Call, what: What, status: Status) {
        match what {
            What::Create {
                id,
                ask,
                words,
                console,
                restored,
            } => {
                let phase = if restored {
                    Phase::Running
                } else {
                    Phase::Created
                };
                let created = super::create::Ended { ask, phase };
                self.create_ended(&call, status, id, created, words, console);
            }
            What::CleanUp {
                id,
                ask,
                kind,
                text,
            } => self.cleaned_up(&id, ask, kind, text),
            What::Start { id, ask } => self.start_ended(&call, status, &id, ask),
            What::Exec { exec, ask, console } => self.exec_ended(&call, status, exec, ask, console),
            What::Delete { id } => self.delete_ended(&call, status, &id),
        }
    }

    fn reap_known(&mut self) {
        let inits = self.containers.iter().filter_map(|container| {
            container
                .init
                .as_ref()
                .filter(|init| init.is_child && container.has_init())
        });
        let execs = self
            .containers
            .iter()
            .flat_map(|container| &container.execs);
        let pids: Vec<Pid> = inits
            .map(|init| init.pid)
            .chain(execs.map(|exec| exec.pid))
            .collect();
        for pid in pids {
            if let Some(status) = sys::reap::one(pid) {
                self.process_ended(pid, status, true);
            }
        }
    }

    /// Takes the status of a process; false if no container knows it.
    pub(super) fn process_ended(&mut self, pid: Pid, status: Status, was_child: bool) -> bool {
        for at in 0..self.containers.len() {
            let Some(container) = self.containers.get_mut(at) else {
                break;
            };
            if container.awaits(pid, was_child) {
                self.init_ended(at, status, "");
                return true;
            }
            if let Some(exec) = container.execs.iter().position(|exec| exec.pid == pid) {
                let exec = container.execs.swap_remove(exec);
                let id = container.id().clone();
                self.exec_exited(id, exec.exec, status);
                return true;
            }
        }
        false
    }

    pub(super) fn remember(&mut self, pid: Pid, status: Status) {
        if self.unknown.len() >= limits::UNKNOWN_STATUSES {
            self.unknown.pop_front();
        }
        self.unknown.push_back((pid, status));
    }

    /// The status of a process that was reaped before anybody knew it.
    pub(super) fn recall(&mut self, pid: Pid) -> Option<Status> {
        let at = self.unknown.iter().rposition(|(known, _)| *known == pid)?;
        self.unknown.remove(at).map(|(_, status)| status)
    }
}
