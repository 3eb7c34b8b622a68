//! The log thread's loop.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc;
use std::time::Instant;

use monitor_protocol::Id;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::journal::Scratch;
use super::source::{Shared, Source};
use super::{Command, Notice, Outbox, clear};

/// All of the thread's state. It uses `poll(2)`: a pod has few streams, and which of them are
/// wanted changes all the time.
#[derive(Debug)]
pub(super) struct Worker {
    commands: mpsc::Receiver<Command>,
    wake: OwnedFd,
    outbox: Outbox,
    sources: Vec<Source>,
    shared: Shared,
}

/// What a descriptor that is ready belongs to.
#[derive(Clone, Copy, Debug)]
enum Ready {
    Stream { source: usize, stream: usize },
    Sinks { source: usize },
}

impl Worker {
    pub(super) fn new(
        commands: mpsc::Receiver<Command>,
        wake: OwnedFd,
        outbox: Outbox,
    ) -> io::Result<Self> {
        let mut seed = [0; 8];
        let random = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let random = rustix::fs::open("/dev/urandom", random, rustix::fs::Mode::empty())?;
        rustix::io::read(random, &mut seed)?;
        let shared = Shared {
            scratch: Scratch::new()?,
            probe: u64::from_ne_bytes(seed),
            out: Vec::new(),
        };
        Ok(Self {
            commands,
            wake,
            outbox,
            sources: Vec::new(),
            shared,
        })
    }

    pub(super) fn run(mut self) {
        let mut ready = VecDeque::new();
        loop {
            if !self.wait(&mut ready) {
                return;
            }
            while let Some(ready) = ready.pop_front() {
                match ready {
                    Ready::Stream { source, stream } => {
                        if let Some(source) = self.sources.get_mut(source) {
                            source.read(stream, &mut self.shared);
                        }
                    }
                    Ready::Sinks { source } => {
                        if let Some(source) = self.sources.get_mut(source) {
                            source.flush_sinks();
                        }
                    }
                }
            }
            self.tick();
        }
    }

    /// Waits for a command or a stream; commands are done at once. False: the end.
    fn wait(&mut self, ready: &mut VecDeque<Ready>) -> bool {
        let mut fds: Vec<PollFd<'_>> =
            vec![PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN)];
        let mut owners = Vec::new();
        for (at, source) in self.sources.iter().enumerate() {
            for (index, stream) in source.streams.iter().enumerate() {
                if source.wants(stream) && !source.draining {
                    push(&mut fds, stream.fd(), PollFlags::IN);
                    owners.push(Ready::Stream {
                        source: at,
                        stream: index,
                    });
                }
                for sink in stream.sinks.iter().filter(|sink| !sink.is_idle()) {
                    push(&mut fds, sink.fd(), PollFlags::OUT);
                    owners.push(Ready::Sinks { source: at });
                }
            }
        }
        let deadline = self.sources.iter().filter_map(Source::deadline).min();
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            // Out of memory: nothing to be done but trying again.
            Err(_) => return true,
        }
        let mut events = fds.iter().map(|fd| !fd.revents().is_empty());
        let woken = events.next().unwrap_or(false);
        ready.extend(
            owners
                .into_iter()
                .zip(events)
                .filter(|(_, ready)| *ready)
                .map(|(owner, _)| owner),
        );
        drop(fds);
        if woken {
            clear(&self.wake);
            // What was ready is ready again, if its container is still there.
            ready.clear();
            while let Ok(command) = self.commands.try_recv() {
                if !self.act(command) {
                    return false;
                }
            }
        }
        true
    }

    fn act(&mut self, command: Command) -> bool {
        match command {
            Command::Add(output) => {
                let id = output.id.clone();
                let result = Source::open(output).map(|source| self.sources.push(source));
                self.outbox.send(Notice::Added { id, result });
            }
            Command::Begin { id, terminal } => {
                if let Some(source) = find(&mut self.sources, &id) {
                    // Without its journal a terminal can't be read: its output is lost, the
                    // container isn't.
                    let _lost = source.begin(terminal, &mut self.shared);
                }
            }
            Command::Reopen { id, token } => {
                let result = match find(&mut self.sources, &id) {
                    Some(source) => source.reopen(&mut self.shared),
                    None => Err(io::ErrorKind::NotFound.into()),
                };
                self.outbox.send(Notice::Reopened { token, result });
            }
            Command::Attach { id, fds, token } => {
                if let Some(source) = find(&mut self.sources, &id) {
                    for (at, fd) in fds.into_iter().enumerate() {
                        if let Some(fd) = fd {
                            source.attach(at, fd);
                        }
                    }
                }
                self.outbox.send(Notice::Attached { token });
            }
            Command::Drain { id } => match find(&mut self.sources, &id) {
                // Done, and told, with all else that is due.
                Some(source) => source.draining = true,
                None => self.outbox.send(Notice::Drained { id }),
            },
            Command::Remove { id } => self.sources.retain(|source| source.id != id),
            Command::Quit => return false,
        }
        true
    }

    fn tick(&mut self) {
        for source in &mut self.sources {
            source.tick(&mut self.shared);
            if source.drain(&mut self.shared) {
                self.outbox.send(Notice::Drained {
                    id: source.id.clone(),
                });
            }
            source.close_sinks();
        }
    }
}

fn find<'a>(sources: &'a mut [Source], id: &Id) -> Option<&'a mut Source> {
    sources.iter_mut().find(|source| source.id == *id)
}

fn push<'a>(fds: &mut Vec<PollFd<'a>>, fd: BorrowedFd<'a>, flags: PollFlags) {
    fds.push(PollFd::from_borrowed_fd(fd, flags));
}
