//! The runtime's `delete`: after an exit, off everybody's path, or when it is asked for.

use monitor_protocol::{ErrorKind, Id};
use std::os::fd::AsFd;
use sys::spawn::Status;

use super::{Refusal, Server, What, failed};
use crate::container::{Ask, Deletion};
use crate::limits;
use crate::runtime::{Call, Command};

impl Server {
    /// `None`: answered later.
    pub(super) fn delete(&mut self, ask: Ask, id: &Id, force: bool) -> Option<Result<(), Refusal>> {
        let Ok(container) = self.find(id) else {
            return Some(Ok(()));
        };
        match &mut container.deletion {
            Deletion::Done => return Some(Ok(())),
            Deletion::Running { waiting } => {
                waiting.push(ask);
                return None;
            }
            Deletion::Not => {}
        }
        if container.is_live() && !force {
            return Some(Err((
                ErrorKind::WrongState {},
                format!("container {id} runs"),
            )));
        }
        match self.begin_delete(id, vec![ask]) {
            Ok(()) => None,
            Err(refusal) => Some(Err(refusal)),
        }
    }

    pub(super) fn begin_delete(&mut self, id: &Id, waiting: Vec<Ask>) -> Result<(), Refusal> {
        let call = self.call_delete(id, limits::DELETE_MS)?;
        self.calls.push((call, What::Delete { id: id.clone() }));
        self.find(id)?.deletion = Deletion::Running { waiting };
        Ok(())
    }

    /// With `--force` it is fine if there is nothing, and kills what runs.
    pub(super) fn call_delete(&mut self, id: &Id, timeout_ms: u32) -> Result<Call, Refusal> {
        let (number, oom_score_adj) = (self.next_number(), self.oom_score_adj);
        let container = self.find(id)?;
        let (create, dir) = (&container.create, &container.dir);
        let args = vec!["delete".into(), "--force".into(), id.as_str().into()];
        Command {
            create,
            dir,
            number,
            args,
            image: container.runtime.as_ref().map(AsFd::as_fd),
            fds: Vec::new(),
            timeout_ms,
            die_with_monitor: false,
            oom_score_adj,
        }
        .start()
        .map_err(|err| failed("start runtime", &err))
    }

    pub(super) fn delete_ended(&mut self, call: &Call, status: Status, id: &Id) {
        let result = if status.success() {
            Ok(())
        } else {
            match call.failure(status, &[]) {
                (_, text) if is_absent(&text) => Ok(()),
                refusal => Err(refusal),
            }
        };
        let Ok(container) = self.find(id) else { return };
        let after = if result.is_ok() {
            Deletion::Done
        } else {
            Deletion::Not
        };
        let before = std::mem::replace(&mut container.deletion, after);
        if let Deletion::Running { waiting } = before {
            for ask in waiting {
                self.answer(ask, result.clone());
            }
        }
    }
}

/// How runtimes say that there is no such container: runc, then crun.
fn is_absent(text: &str) -> bool {
    text.contains("does not exist") || text.contains("No such file or directory")
}
