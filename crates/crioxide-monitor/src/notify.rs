//! What a container's seccomp filters leave to us: the calls that its profile forbids, where somebody wants
//! to know of them.
//!
//! The runtime connects to a socket once for each filter that it loads, which is one for the container and
//! one for each exec, and hands over the filter's listener (runtime-spec, config-linux.md "The Container
//! Process State"). Each call is refused at once and counted, whether a daemon is there or not.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

use rustix::io::Errno;
use sys::seqpacket::{self, Kind};

use crate::limits;

/// What a forbidden call is answered with, whatever its profile says: as CRI-O does, and as the kernel does
/// once nobody holds the listener.
const REFUSED: Errno = Errno::NOSYS;

/// Of one container.
#[derive(Debug)]
pub(crate) struct Notify {
    path: PathBuf,
    watched: Vec<Watched>,
    counts: Vec<Count>,
    /// When what is new of the counts is told.
    pub(crate) tell_at: Option<Instant>,
    told_at: Option<Instant>,
}

#[derive(Debug)]
struct Watched {
    number: u64,
    fd: OwnedFd,
    what: What,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    /// Where runtimes connect.
    Socket,
    /// A runtime, which may say this many bytes more.
    Sender { left: usize },
    /// A filter's listener.
    Listener,
}

/// How often a call was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) arch: u32,
    pub(crate) number: i32,
    pub(crate) count: u64,
    /// Whether the daemon was told.
    told: bool,
}

impl Notify {
    /// Listens at `path`, replacing what is there.
    pub(crate) fn listen(path: PathBuf, number: u64) -> io::Result<Self> {
        let fd = seqpacket::listen(&path, Kind::Stream)?;
        let what = What::Socket;
        Ok(Self {
            path,
            watched: vec![Watched { number, fd, what }],
            counts: Vec::new(),
            tell_at: None,
            told_at: None,
        })
    }

    /// What `poll(2)` is to look at, by its number.
    pub(crate) fn watched(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        self.watched.iter().map(|one| (one.number, one.fd.as_fd()))
    }

    /// The filters' listeners.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = &OwnedFd> {
        let listeners = |one: &&Watched| one.what == What::Listener;
        self.watched.iter().filter(listeners).map(|one| &one.fd)
    }

    /// Adds a filter's listener; whether it is one, and there is room.
    pub(crate) fn add(&mut self, number: u64, fd: OwnedFd) -> bool {
        let what = What::Listener;
        let taken =
            sys::seccomp::is_listener(fd.as_fd()) && self.listeners().count() < limits::LISTENERS;
        if taken {
            self.watched.push(Watched { number, fd, what });
        }
        taken
    }

    /// Goes on with what is ready. Returns connections and listeners that came: [`Self::connected`] and
    /// [`Self::add`] take them.
    pub(crate) fn ready(&mut self, number: u64, gone: bool) -> Came {
        let Some(at) = self.watched.iter().position(|one| one.number == number) else {
            return Came::Nothing;
        };
        let Some(one) = self.watched.get_mut(at) else {
            return Came::Nothing;
        };
        let (came, is_over) = match &mut one.what {
            What::Socket => return accept(one.fd.as_fd()).map_or(Came::Nothing, Came::Sender),
            What::Sender { left } => read(one.fd.as_fd(), left),
            What::Listener => match answer(one.fd.as_fd(), gone) {
                Ok(call) => (call.map_or(Came::Nothing, Came::Call), false),
                Err(_) => (Came::Nothing, true),
            },
        };
        if is_over {
            self.watched.swap_remove(at);
        }
        came
    }

    /// Adds a runtime's connection.
    pub(crate) fn connected(&mut self, number: u64, fd: OwnedFd) {
        let senders = |one: &&Watched| matches!(one.what, What::Sender { .. });
        if self.watched.iter().filter(senders).count() < limits::SENDERS {
            let left = limits::STATE_BYTES;
            let what = What::Sender { left };
            self.watched.push(Watched { number, fd, what });
        }
    }

    /// Counts a call; it is told soon.
    pub(crate) fn count(&mut self, arch: u32, number: i32) {
        let known = |one: &&mut Count| (one.arch, one.number) == (arch, number);
        if let Some(count) = self.counts.iter_mut().find(known) {
            count.count = count.count.saturating_add(1);
            count.told = false;
        } else if self.counts.len() < limits::FORBIDDEN {
            self.counts.push(Count {
                arch,
                number,
                count: 1,
                told: false,
            });
        } else {
            return;
        }
        self.tell_soon();
    }

    /// Has all counts told, to a daemon that knows none.
    pub(crate) fn tell_again(&mut self) {
        for count in &mut self.counts {
            count.told = false;
            self.tell_at = Some(Instant::now());
        }
    }

    /// Has what is new told: now, or when it is time again.
    fn tell_soon(&mut self) {
        let now = Instant::now();
        let next = self.told_at.and_then(|told| told.checked_add(limits::NEWS));
        self.tell_at.get_or_insert(next.unwrap_or(now).max(now));
    }

    /// Takes the next count that is to be told; after the last there is nothing to tell for a while.
    pub(crate) fn news(&mut self) -> Option<Count> {
        let next = self.counts.iter_mut().find(|count| !count.told);
        match next {
            Some(count) => {
                count.told = true;
                Some(*count)
            }
            None => {
                self.tell_at = None;
                self.told_at = Some(Instant::now());
                None
            }
        }
    }

    /// Has the rest told later.
    pub(crate) fn put_off(&mut self) {
        self.tell_at = Instant::now().checked_add(limits::NEWS);
    }

    /// The container has ended: only its counts are kept.
    pub(crate) fn close(&mut self) {
        if !self.watched.is_empty() {
            self.watched.clear();
            // The daemon's directory may be gone already.
            let _gone = fs::remove_file(&self.path);
        }
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        self.close();
    }
}

/// What came of something that was ready.
#[derive(Debug)]
pub(crate) enum Came {
    Nothing,
    /// A runtime connected.
    Sender(OwnedFd),
    /// A runtime handed over descriptors.
    Listeners(Vec<OwnedFd>),
    /// A forbidden call was made, and refused.
    Call(sys::seccomp::Notification),
}

fn accept(socket: BorrowedFd<'_>) -> Option<OwnedFd> {
    let connection = seqpacket::accept(socket).ok()??;
    let own = rustix::process::geteuid().as_raw();
    let is_ours = seqpacket::peer_uid(connection.as_fd()).is_ok_and(|uid| uid == own);
    is_ours.then_some(connection)
}

/// Reads what a runtime says; whether that was all. What it says is the container's state, which is known:
/// the descriptors beside it tell themselves what they are.
fn read(sender: BorrowedFd<'_>, left: &mut usize) -> (Came, bool) {
    match seqpacket::receive(sender, &mut [0; 4096]) {
        Ok((0, _)) => (Came::Nothing, true),
        Ok((n, fds)) => {
            *left = left.saturating_sub(n);
            (Came::Listeners(fds), *left == 0)
        }
        Err(err) => (Came::Nothing, err.kind() != io::ErrorKind::WouldBlock),
    }
}

/// Refuses the next call of a filter.
///
/// # Errors
/// No more will come: the filter's last process has ended.
fn answer(listener: BorrowedFd<'_>, gone: bool) -> io::Result<Option<sys::seccomp::Notification>> {
    if gone {
        return Err(Errno::NOTCONN.into());
    }
    let passed = [Errno::NOENT, Errno::INTR].map(|errno| Some(errno.raw_os_error()));
    let call = match sys::seccomp::receive(listener) {
        // Its caller was interrupted or has ended, and may call again.
        Err(err) if passed.contains(&err.raw_os_error()) => return Ok(None),
        call => call?,
    };
    match sys::seccomp::refuse(listener, call.id, REFUSED) {
        Err(err) if !passed.contains(&err.raw_os_error()) => Err(err),
        // It was called in any case.
        _ => Ok(Some(call)),
    }
}
