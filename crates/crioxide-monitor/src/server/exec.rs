//! Exec: a process in a container. Its bytes don't pass through here.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use monitor_protocol::{ErrorKind, Event, Exec, Id, Reply};
use sys::spawn::Status;

use super::console::Console;
use super::create::read_pid;
use super::{Refusal, Server, What, failed};
use crate::container::{Ask, Phase, RunningExec, raw};
use crate::runtime::{Call, Command};

impl Server {
    pub(super) fn exec(&mut self, ask: Ask, exec: Exec, fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        let (number, oom_score_adj) = (self.next_number(), self.oom_score_adj);
        let under_way = self.calls.iter().any(|(_, what)| {
            matches!(what, What::Exec { exec: other, .. } if other.id == exec.id && other.exec == exec.exec)
        });
        let container = self.find(&exec.id)?;
        if !matches!(container.phase, Phase::Running) {
            return Err((
                ErrorKind::WrongState {},
                format!("container {} does not run", exec.id),
            ));
        }
        if under_way
            || container
                .execs
                .iter()
                .any(|running| running.exec == exec.exec)
        {
            return Err((ErrorKind::Exists {}, format!("exec {} is there", exec.exec)));
        }
        if !exec.tty && fds.len() != 3 {
            return Err((
                ErrorKind::BadRequest {},
                "exec without its three descriptors".into(),
            ));
        }
        let mut args: Vec<OsString> = [
            "exec",
            "--detach",
            "--process",
            &exec.process,
            "--pid-file",
            &exec.pid_file,
        ]
        .map(Into::into)
        .into();
        let console = if exec.tty {
            let console = Console::new(&container.dir, &format!("exec-{number}.sock"))
                .map_err(|err| failed("listen for terminal", &err))?;
            args.extend(["--console-socket".into(), console.address().into()]);
            Some(console)
        } else {
            None
        };
        args.extend(exec.exec_args.iter().map(OsString::from));
        args.push(exec.id.as_str().into());
        let ends = if exec.tty {
            Vec::new()
        } else {
            fds.iter().map(AsFd::as_fd).zip(0..).collect()
        };
        let command = Command {
            create: &container.create,
            dir: &container.dir,
            number,
            args,
            image: container.runtime.as_ref().map(AsFd::as_fd),
            fds: ends,
            timeout_ms: exec.timeout_ms,
            die_with_monitor: false,
            oom_score_adj,
        };
        let call = command
            .start()
            .map_err(|err| failed("start runtime", &err))?;
        self.calls.push((call, What::Exec { exec, ask, console }));
        Ok(())
    }

    pub(super) fn exec_ended(
        &mut self,
        call: &Call,
        status: Status,
        exec: Exec,
        ask: Ask,
        console: Option<Console>,
    ) {
        let started = if status.success() {
            self.take_exec(&exec, console.as_ref())
                .map_err(|err| failed("find the exec's process", &err))
        } else {
            Err(call.failure(status, &[]))
        };
        match started {
            Ok((reply, fds)) => self.reply(ask, reply, fds),
            Err(refusal) => self.answer(ask, Err(refusal)),
        }
    }

    fn take_exec(
        &mut self,
        exec: &Exec,
        console: Option<&Console>,
    ) -> io::Result<(Reply, Vec<OwnedFd>)> {
        let pid = read_pid(&exec.pid_file)?;
        let pidfd = sys::pidfd::open(pid)?;
        let mut fds = vec![pidfd.try_clone()?];
        if let Some(console) = console {
            fds.push(console.take()?);
        }
        let Ok(container) = self.find(&exec.id) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        container.execs.push(RunningExec {
            exec: exec.exec.clone(),
            pid,
            pidfd,
        });
        Ok((
            Reply::ExecStarted {
                pid: raw(pid),
                terminal: console.is_some(),
            },
            fds,
        ))
    }

    pub(super) fn exec_exited(&mut self, id: Id, exec: Id, status: Status) {
        let signal = if let Status::Signaled(signal) = status {
            signal
        } else {
            0
        };
        self.tell(Event::ExecExited {
            id,
            exec,
            code: status.code(),
            signal,
        });
    }
}
