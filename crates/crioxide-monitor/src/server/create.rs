//! Create, restore and start: stdio, log, the runtime's `create` or `restore`, its `start`.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use monitor_protocol::{Create, ErrorKind, Id, Reply};
use rustix::process::Pid;
use sys::cgroup::Cgroup;
use sys::spawn::Status;

use super::console::Console;
use super::{Refusal, Server, What, failed};
use crate::container::{Ask, Container, Creating, Images, Init, Phase, raw};
use crate::limits;
use crate::log;
use crate::runtime::{Call, Command};
use crate::stdio;

/// What a `create` or `restore` that has ended leads to.
pub(super) struct Ended {
    pub(super) ask: Ask,
    /// What the container is then.
    pub(super) phase: Phase,
}

impl Server {
    /// First stage: directory, FIFOs; then the log thread opens the log.
    pub(super) fn create(
        &mut self,
        ask: Ask,
        create: Create,
        images: Option<Images>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Refusal> {
        if self.find(&create.id).is_ok() {
            return Err((
                ErrorKind::Exists {},
                format!("container {} is there", create.id),
            ));
        }
        check(&create)?;
        let dir = stdio::container_dir(&self.options.dir, &create.id);
        let made = self.make_stdio(&dir, &create);
        let (ends, output, stdin) = made.map_err(|err| {
            // Whatever was made of it.
            let _nothing = fs::remove_dir_all(&dir);
            failed("make stdio", &err)
        })?;
        let notify = self.notify(&create.id).map_err(|err| {
            let _nothing = fs::remove_dir_all(&dir);
            failed("listen for seccomp filters", &err)
        })?;
        let words = output
            .pipes
            .as_ref()
            .and_then(|[_, stderr]| stderr.try_clone().ok());
        let phase = Phase::Creating(Creating {
            ask,
            ends,
            words,
            images,
        });
        let mut container = Container::new(create, dir, phase);
        container.stdin = stdin;
        container.notify = notify;
        container.runtime = fds.into_iter().next();
        self.containers.push(container);
        self.log.send(log::Command::Add(output));
        Ok(())
    }

    fn make_stdio(
        &mut self,
        dir: &Path,
        create: &Create,
    ) -> io::Result<(Option<stdio::ContainerEnds>, log::Output, Option<OwnedFd>)> {
        fs::create_dir_all(self.options.dir.join("containers"))?;
        // The names of the FIFOs are nobody else's to open.
        fs::DirBuilder::new().mode(0o700).create(dir)?;
        let (ends, pipes, stdin) = if create.tty {
            (None, None, None)
        } else {
            let (theirs, ours) = stdio::make(dir, create)?;
            (Some(theirs), Some(ours.outputs), ours.stdin)
        };
        let output = log::Output {
            id: create.id.clone(),
            dir: dir.to_owned(),
            log: create.log_path.clone().into(),
            size_max: create.log_size_max,
            journal: self.journal_of(&create.id),
            pipes,
        };
        Ok((ends, output, stdin))
    }

    /// Second stage: the log is open, or not.
    pub(super) fn log_added(&mut self, id: &Id, result: io::Result<()>) {
        let Ok(container) = self.find(id) else { return };
        match &mut container.phase {
            Phase::Adopting(_) => self.adopt_with_log(id, result),
            Phase::Creating(creating) => {
                let ask = creating.ask;
                let (ends, words, images) = (
                    creating.ends.take(),
                    creating.words.take(),
                    creating.images.take(),
                );
                let creating = Creating {
                    ask,
                    ends,
                    words,
                    images,
                };
                let called = result
                    .map_err(|err| failed("open log", &err))
                    .and_then(|()| self.call_create(id, creating));
                if let Err((kind, text)) = called {
                    self.cleaned_up(id, ask, kind, text);
                }
            }
            _ => {}
        }
    }

    fn call_create(&mut self, id: &Id, creating: Creating) -> Result<(), Refusal> {
        let Creating {
            ask,
            ends,
            words,
            images,
        } = creating;
        let (number, oom_score_adj) = (self.next_number(), self.oom_score_adj);
        let container = self.find(id)?;
        let create = &container.create;
        let mut args: Vec<OsString> = match &images {
            None => vec!["create".into()],
            // criu connects the processes to the runtime's own stdio, as `create` does.
            Some(Images { dir, work }) => ["restore", "--detach", "--image-path", dir]
                .into_iter()
                .chain(["--work-path", work])
                .map(Into::into)
                .collect(),
        };
        let common = ["--bundle", &create.bundle, "--pid-file", &create.pid_file];
        args.extend(common.map(OsString::from));
        let console = if create.tty {
            let console = Console::new(&container.dir, "console.sock")
                .map_err(|err| failed("listen for terminal", &err))?;
            args.extend(["--console-socket".into(), console.address().into()]);
            Some(console)
        } else {
            None
        };
        args.extend(create.create_args.iter().map(OsString::from));
        args.push(id.as_str().into());
        let mut fds = Vec::new();
        if let Some(ends) = &ends {
            fds.extend(ends.stdin.as_ref().map(|fd| (fd.as_fd(), 0)));
            fds.extend([(ends.stdout.as_fd(), 1), (ends.stderr.as_fd(), 2)]);
        }
        let timeout_ms = create.timeout_ms;
        let dir = &container.dir;
        let command = Command {
            create,
            dir,
            number,
            args,
            image: container.runtime.as_ref().map(AsFd::as_fd),
            fds,
            timeout_ms,
            die_with_monitor: true,
            oom_score_adj,
        };
        let call = command
            .start()
            .map_err(|err| failed("start runtime", &err))?;
        self.calls.push((
            call,
            What::Create {
                id: id.clone(),
                ask,
                words,
                console,
                restored: images.is_some(),
            },
        ));
        Ok(())
    }

    /// Third stage: the runtime's `create` or `restore` has ended.
    pub(super) fn create_ended(
        &mut self,
        call: &Call,
        status: Status,
        id: Id,
        ended: Ended,
        words: Option<OwnedFd>,
        console: Option<Console>,
    ) {
        let Ended { ask, phase } = ended;
        let created = if status.success() {
            self.take_init(&id, phase, console.as_ref())
        } else {
            let words = words.as_ref().map(stdio::read_words).unwrap_or_default();
            Err(call.failure(status, &words))
        };
        match created {
            Ok((reply, fds)) => self.reply(ask, reply, fds),
            Err((kind, text)) => self.clean_up(id, ask, kind, text),
        }
    }

    fn take_init(
        &mut self,
        id: &Id,
        phase: Phase,
        console: Option<&Console>,
    ) -> Result<(Reply, Vec<OwnedFd>), Refusal> {
        let container = self.find(id)?;
        let terminal = console
            .map(Console::take)
            .transpose()
            .map_err(|err| failed("take terminal", &err))?;
        let pid =
            read_pid(&container.create.pid_file).map_err(|err| failed("read pid file", &err))?;
        let opened = || -> io::Result<_> {
            // Not reaped yet, so that its number is its own even if it has ended.
            let pidfd = sys::pidfd::open(pid)?;
            let start_time = sys::pidfd::start_time(pid)?;
            let cgroup = keep_cgroup(pid, &container.dir)?.named(id.as_str());
            let mut fds = vec![pidfd.try_clone()?];
            fds.extend(terminal.as_ref().map(OwnedFd::try_clone).transpose()?);
            fds.extend(
                container
                    .stdin
                    .as_ref()
                    .map(OwnedFd::try_clone)
                    .transpose()?,
            );
            let for_log = terminal.as_ref().map(OwnedFd::try_clone).transpose()?;
            Ok((
                Init {
                    pid,
                    start_time,
                    pidfd: Some(pidfd),
                    is_child: true,
                    oom_kills_above: cgroup.oom_kills_above(),
                    cgroup,
                },
                fds,
                for_log,
            ))
        };
        let (init, fds, for_log) =
            opened().map_err(|err| failed("find the container's process", &err))?;
        let reply = Reply::Created {
            pid: raw(pid),
            start_time: init.start_time,
            terminal: terminal.is_some(),
            stdin: container.stdin.is_some(),
        };
        container.terminal = terminal;
        container.init = Some(init);
        container.phase = phase;
        self.log.send(log::Command::Begin {
            id: id.clone(),
            terminal: for_log,
        });
        Ok((reply, fds))
    }

    /// A `create` has failed: whatever the runtime left of it is removed, then it is told.
    fn clean_up(&mut self, id: Id, ask: Ask, kind: ErrorKind, text: String) {
        match self.call_delete(&id, limits::DELETE_MS) {
            Ok(call) => self.calls.push((
                call,
                What::CleanUp {
                    id,
                    ask,
                    kind,
                    text,
                },
            )),
            Err(_) => self.cleaned_up(&id, ask, kind, text),
        }
    }

    pub(super) fn cleaned_up(&mut self, id: &Id, ask: Ask, kind: ErrorKind, text: String) {
        if let Ok(container) = self.find(id) {
            // On a tmpfs, in a directory of ours.
            let _gone = fs::remove_dir_all(&container.dir);
        }
        self.remove(id);
        self.answer(ask, Err((kind, text)));
    }

    pub(super) fn start(&mut self, ask: Ask, id: &Id) -> Result<(), Refusal> {
        let (number, oom_score_adj) = (self.next_number(), self.oom_score_adj);
        let container = self.find(id)?;
        if container.starting || !matches!(container.phase, Phase::Created) {
            return Err((
                ErrorKind::WrongState {},
                format!("container {id} is not created"),
            ));
        }
        let (create, dir) = (&container.create, &container.dir);
        let args = vec!["start".into(), id.as_str().into()];
        let timeout_ms = create.timeout_ms;
        let command = Command {
            create,
            dir,
            number,
            args,
            image: container.runtime.as_ref().map(AsFd::as_fd),
            fds: Vec::new(),
            timeout_ms,
            die_with_monitor: false,
            oom_score_adj,
        };
        let call = command
            .start()
            .map_err(|err| failed("start runtime", &err))?;
        container.starting = true;
        self.calls.push((
            call,
            What::Start {
                id: id.clone(),
                ask,
            },
        ));
        Ok(())
    }

    pub(super) fn start_ended(&mut self, call: &Call, status: Status, id: &Id, ask: Ask) {
        if let Ok(container) = self.find(id) {
            container.starting = false;
            if status.success() && matches!(container.phase, Phase::Created) {
                container.phase = Phase::Running;
            }
        }
        let result = if status.success() {
            Ok(())
        } else {
            Err(call.failure(status, &[]))
        };
        self.answer(ask, result);
    }
}

/// The cgroups of a container's init, also kept for a successor that comes after its end.
fn keep_cgroup(pid: Pid, dir: &Path) -> io::Result<Cgroup> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    fs::write(cgroup_file(dir), &text)?;
    sys::cgroup::of_text(&text)
}

pub(super) fn cgroup_file(dir: &Path) -> PathBuf {
    dir.join("cgroup")
}

/// What the daemon must not get wrong.
fn check(create: &Create) -> Result<(), Refusal> {
    let Create {
        bundle,
        runtime,
        pid_file,
        log_path,
        persist_dir,
        ..
    } = create;
    for (name, path, needed) in [
        ("bundle", bundle, true),
        ("runtime", runtime, true),
        ("pid file", pid_file, true),
        ("log", log_path, false),
        ("persistent directory", persist_dir, false),
    ] {
        if !(path.starts_with('/') || path.is_empty() && !needed) {
            return Err((
                ErrorKind::BadRequest {},
                format!("{name} is not absolute: {path:?}"),
            ));
        }
    }
    Ok(())
}

/// The number that a runtime has written.
pub(super) fn read_pid(file: &str) -> io::Result<Pid> {
    let text = fs::read_to_string(file)?;
    let pid = text
        .trim()
        .parse()
        .ok()
        .filter(|pid| *pid > 0)
        .and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::other(format!("{file} holds no process number")))
}
