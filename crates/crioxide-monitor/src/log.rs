//! The log thread: takes what containers write and puts it into their logs.
//!
//! A thread of its own, so that a stalled disk holds back the writers of this pod, but never
//! reaping, signals or requests. The main thread gives it [`Command`]s and hears [`Notice`]s.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;

use monitor_protocol::Id;
use rustix::event::{EventfdFlags, eventfd};

mod file;
mod format;
mod journal;
mod journald;
mod sink;
mod source;
mod worker;

pub(crate) use source::now_ns;

/// What is fuzzed.
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing {
    pub(crate) use super::format::{LINE, format, stamp};
    pub(crate) use super::journal::{HALF, HEADER, Journal, LAYOUT, VERSION, Write};
}

/// Stack of the log thread.
const STACK: usize = 128 * 1024;

/// A container's output: where it comes from, where it goes.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) id: Id,
    /// Where its journals are.
    pub(crate) dir: PathBuf,
    /// No log where empty.
    pub(crate) log: PathBuf,
    pub(crate) size_max: u64,
    /// The name under which its output goes to systemd's journal, too.
    pub(crate) journal: Option<String>,
    /// Pipes of stdout and stderr; none with a terminal.
    pub(crate) pipes: Option<[OwnedFd; 2]>,
}

/// What the main thread asks for.
#[derive(Debug)]
pub(crate) enum Command {
    /// Opens a container's log and journals; answered by [`Notice::Added`]. Nothing is read yet.
    Add(Output),
    /// Begins to read, with the terminal if there is one. A predecessor's work is finished first.
    Begin { id: Id, terminal: Option<OwnedFd> },
    /// Opens the log anew; answered by [`Notice::Reopened`].
    Reopen { id: Id, token: u64 },
    /// Copies the output of stdout and stderr to descriptors; answered by [`Notice::Attached`].
    Attach {
        id: Id,
        fds: [Option<OwnedFd>; 2],
        token: u64,
    },
    /// The container has ended: reads to the end, writes all; answered by [`Notice::Drained`].
    Drain { id: Id },
    /// Forgets it.
    Remove { id: Id },
    /// Ends the thread.
    Quit,
}

/// What the log thread tells.
#[derive(Debug)]
pub(crate) enum Notice {
    Added { id: Id, result: io::Result<()> },
    Reopened { token: u64, result: io::Result<()> },
    Attached { token: u64 },
    Drained { id: Id },
}

/// The main thread's end.
#[derive(Debug)]
pub(crate) struct Log {
    commands: mpsc::Sender<Command>,
    wake: OwnedFd,
    notices: mpsc::Receiver<Notice>,
    noticed: OwnedFd,
    thread: Option<thread::JoinHandle<()>>,
}

impl Log {
    pub(crate) fn start() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let (wake, noticed) = (eventfd(0, flags)?, eventfd(0, flags)?);
        let (commands, receiver) = mpsc::channel();
        let (sender, notices) = mpsc::channel();
        let outbox = Outbox {
            sender,
            noticed: noticed.try_clone()?,
        };
        let worker = worker::Worker::new(receiver, wake.try_clone()?, outbox)?;
        let thread = thread::Builder::new()
            .name("log".into())
            .stack_size(STACK)
            .spawn(|| worker.run())?;
        Ok(Self {
            commands,
            wake,
            notices,
            noticed,
            thread: Some(thread),
        })
    }

    pub(crate) fn send(&self, command: Command) {
        // Fails only if the thread is gone, and that ends the process (panic = abort).
        let _gone = self.commands.send(command);
        signal(&self.wake);
    }

    /// Readable when there are notices.
    pub(crate) fn noticed(&self) -> impl AsFd + '_ {
        self.noticed.as_fd()
    }

    pub(crate) fn notices(&self) -> Vec<Notice> {
        clear(&self.noticed);
        self.notices.try_iter().collect()
    }

    pub(crate) fn quit(mut self) {
        self.send(Command::Quit);
        if let Some(thread) = self.thread.take() {
            // A panic has ended the process already.
            let _ended = thread.join();
        }
    }
}

/// The log thread's end.
#[derive(Debug)]
struct Outbox {
    sender: mpsc::Sender<Notice>,
    noticed: OwnedFd,
}

impl Outbox {
    fn send(&self, notice: Notice) {
        // Fails only at the very end, when nobody listens any more.
        let _gone = self.sender.send(notice);
        signal(&self.noticed);
    }
}

fn signal(event: &OwnedFd) {
    // Fails only if the counter is full: then it is signalled.
    let _full = rustix::io::write(event, &1u64.to_ne_bytes());
}

fn clear(event: &OwnedFd) {
    let mut buffer = [0; 8];
    // Fails only if it isn't signalled.
    let _empty = rustix::io::read(event, &mut buffer);
}
