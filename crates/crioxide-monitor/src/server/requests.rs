//! Requests: those that are answered at once are done here.

use std::collections::VecDeque;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use monitor_protocol::{ErrorKind, Id, Reply, Request, VERSION};
use rustix::process::{Pid, Signal};
use sys::spawn::Status;

use super::{Refusal, Server, failed};
use crate::container::{Ask, Container, Images};
use crate::limits;
use crate::log::Command;
use crate::stdio;

impl Server {
    pub(super) fn request(&mut self, ask: Ask, request: Request, fds: Vec<OwnedFd>) {
        let done = match request {
            Request::Hello { version } => return self.hello(ask, version),
            Request::List {} => return self.list(ask),
            Request::Attach {
                id,
                stdin,
                stdout,
                stderr,
                // Answered later.
            } => self
                .attach(ask, &id, stdin, [stdout, stderr], fds)
                .err()
                .map(Err),
            Request::Signal { id, signal } => Some(self.signal(&id, signal)),
            Request::KillAll { id } => Some(self.kill_all(&id)),
            Request::KillExec { id, exec } => Some(self.kill_exec(&id, &exec)),
            Request::Resize { id, rows, columns } => Some(self.resize(&id, rows, columns)),
            Request::CloseStdin { id } => Some(self.find(&id).map(|container| {
                container.stdin = None;
            })),
            Request::Forget { id } => Some(self.forget(&id)),
            Request::Journal { id, name } => {
                announce(&mut self.journaled, id, name);
                Some(Ok(()))
            }
            Request::Notify { id, socket } => {
                announce(&mut self.notified, id, socket);
                Some(Ok(()))
            }
            Request::Listen { id } => Some(self.listen(&id, fds)),
            Request::OrphanReaped { pid, code, signal } => {
                self.orphan_reaped(
                    pid,
                    if signal == 0 {
                        Status::Exited(code)
                    } else {
                        Status::Signaled(signal)
                    },
                );
                Some(Ok(()))
            }
            Request::Quit {} => Some(self.quit()),
            // Answered later.
            Request::Create { create } => self.create(ask, create, None, fds).err().map(Err),
            Request::Restore {
                create,
                images: dir,
                work,
            } => {
                let images = Images { dir, work };
                self.create(ask, create, Some(images), fds).err().map(Err)
            }
            Request::Start { id } => self.start(ask, &id).err().map(Err),
            Request::Exec { exec } => self.exec(ask, exec, fds).err().map(Err),
            Request::Delete { id, force } => self.delete(ask, &id, force),
            Request::Adopt { adopt } => self.adopt(ask, adopt, fds).err().map(Err),
            Request::ReopenLog { id } => self.reopen_log(ask, id).err().map(Err),
        };
        if let Some(result) = done {
            self.answer(ask, result);
        }
    }

    fn hello(&mut self, ask: Ask, version: u32) {
        let found = self
            .connections
            .iter_mut()
            .find(|one| one.number == ask.connection);
        if let Some(connection) = found {
            connection.greeted = Some(version);
        }
        let pod = self.options.pod.clone();
        self.reply(
            ask,
            Reply::Hello {
                version: VERSION,
                pid: std::process::id(),
                pod,
            },
            Vec::new(),
        );
        self.tell_again(ask.connection);
    }

    /// Under which name the output of a container that is made now goes to systemd's journal.
    pub(super) fn journal_of(&mut self, id: &Id) -> Option<String> {
        announced(&mut self.journaled, id)
    }

    /// Where the listener of a container that is made now comes.
    pub(super) fn notify_of(&mut self, id: &Id) -> Option<String> {
        announced(&mut self.notified, id)
    }

    fn list(&mut self, ask: Ask) {
        let containers = self.containers.iter().map(Container::info).collect();
        self.reply(ask, Reply::List { containers }, Vec::new());
    }

    fn signal(&mut self, id: &Id, signal: i32) -> Result<(), Refusal> {
        let container = self.find(id)?;
        if !container.has_init() {
            return Err((
                ErrorKind::WrongState {},
                format!("container {id} does not run"),
            ));
        }
        let pidfd = container.init.as_ref().and_then(|init| init.pidfd.as_ref());
        let pidfd = pidfd.ok_or((ErrorKind::WrongState {}, "no process".to_owned()))?;
        sys::pidfd::send_signal(pidfd.as_fd(), signal).map_err(|err| match err.raw_os_error() {
            Some(code) if code == rustix::io::Errno::SRCH.raw_os_error() => (
                ErrorKind::WrongState {},
                format!("container {id} has ended"),
            ),
            Some(code) if code == rustix::io::Errno::INVAL.raw_os_error() => {
                (ErrorKind::BadRequest {}, format!("no signal {signal}"))
            }
            _ => failed("send signal", &err),
        })
    }

    fn kill_all(&mut self, id: &Id) -> Result<(), Refusal> {
        let container = self.find(id)?;
        let Some(init) = container.init.as_ref().filter(|_| container.is_live()) else {
            return Ok(());
        };
        if let Some(pidfd) = &init.pidfd {
            // It may have ended: that is what is wanted.
            let _ended = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
        }
        init.cgroup
            .kill()
            .map(drop)
            .map_err(|err| failed("kill cgroup", &err))
    }

    fn kill_exec(&mut self, id: &Id, exec: &Id) -> Result<(), Refusal> {
        let container = self.find(id)?;
        let found = container.execs.iter().find(|running| running.exec == *exec);
        let running = found.ok_or((ErrorKind::NotFound {}, format!("no exec {exec}")))?;
        // Its number is its own: we have not reaped it.
        if rustix::process::getpgid(Some(running.pid)).is_ok_and(|group| group == running.pid) {
            let _ended = rustix::process::kill_process_group(running.pid, Signal::KILL);
        }
        let _ended = rustix::process::pidfd_send_signal(&running.pidfd, Signal::KILL);
        Ok(())
    }

    fn resize(&mut self, id: &Id, rows: u16, columns: u16) -> Result<(), Refusal> {
        let container = self.find(id)?;
        let terminal = container.terminal.as_ref();
        let terminal = terminal.ok_or((ErrorKind::WrongState {}, "no terminal".to_owned()))?;
        sys::pty::resize(terminal.as_fd(), rows, columns).map_err(|err| failed("resize", &err))
    }

    /// Answered by [`Self::attached`]: who may write before its output is copied would miss what the
    /// container says to that.
    fn attach(
        &mut self,
        ask: Ask,
        id: &Id,
        stdin: bool,
        wanted: [bool; 2],
        fds: Vec<OwnedFd>,
    ) -> Result<(), Refusal> {
        let container = self.find(id)?;
        if !container.has_init() {
            return Err((
                ErrorKind::WrongState {},
                format!("container {id} does not run"),
            ));
        }
        let writer = match &container.terminal {
            _ if !stdin => None,
            Some(terminal) => Some(
                terminal
                    .try_clone()
                    .map_err(|err| failed("duplicate terminal", &err))?,
            ),
            None if container.create.stdin_once && container.stdin.is_none() => None,
            None => stdio::open_stdin(&container.dir).map_err(|err| failed("open stdin", &err))?,
        };
        let mut fds = fds.into_iter();
        let fds = wanted.map(|wanted| if wanted { fds.next() } else { None });
        let token = self.next_number();
        self.attaching.push((token, ask, writer));
        self.log.send(Command::Attach {
            id: id.clone(),
            fds,
            token,
        });
        Ok(())
    }

    /// The output of a client is copied from now on.
    pub(super) fn attached(&mut self, token: u64) {
        let found = self
            .attaching
            .iter()
            .position(|(known, ..)| *known == token);
        if let Some(at) = found {
            let (_, ask, stdin) = self.attaching.swap_remove(at);
            let reply = Reply::Attached {
                stdin: stdin.is_some(),
            };
            self.reply(ask, reply, stdin.into_iter().collect());
        }
    }

    fn reopen_log(&mut self, ask: Ask, id: Id) -> Result<(), Refusal> {
        self.find(&id)?;
        let token = self.next_number();
        self.reopening.push((token, ask));
        self.log.send(Command::Reopen { id, token });
        Ok(())
    }

    fn forget(&mut self, id: &Id) -> Result<(), Refusal> {
        let Ok(container) = self.find(id) else {
            return Ok(());
        };
        if container.is_live() {
            return Err((ErrorKind::WrongState {}, format!("container {id} runs")));
        }
        let dir = container.dir.clone();
        self.remove(id);
        match fs::remove_dir_all(&dir) {
            Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
                Err(failed("remove directory", &err))
            }
            _ => Ok(()),
        }
    }

    /// Drops a container from all lists.
    pub(super) fn remove(&mut self, id: &Id) {
        self.log.send(Command::Remove { id: id.clone() });
        self.containers.retain(|container| container.id() != id);
    }

    fn quit(&mut self) -> Result<(), Refusal> {
        if self.containers.iter().any(Container::is_live) || !self.calls.is_empty() {
            return Err((ErrorKind::WrongState {}, "a container lives".to_owned()));
        }
        self.quitting = true;
        Ok(())
    }

    fn orphan_reaped(&mut self, pid: u32, status: Status) {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid
            && !self.process_ended(pid, status, false)
        {
            self.remember(pid, status);
        }
    }
}

/// Keeps what was said of a container to come.
fn announce(said: &mut VecDeque<(Id, String)>, id: Id, what: String) {
    said.retain(|(known, _)| *known != id);
    if said.len() >= limits::ANNOUNCED {
        said.pop_front();
    }
    said.push_back((id, what));
}

/// Takes what was said of a container that comes now.
fn announced(said: &mut VecDeque<(Id, String)>, id: &Id) -> Option<String> {
    let at = said.iter().position(|(known, _)| known == id)?;
    said.remove(at).map(|(_, what)| what)
}
