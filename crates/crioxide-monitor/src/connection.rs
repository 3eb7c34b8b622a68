//! A connection of the daemon: packets in, packets out, none waited for.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use monitor_protocol::{FromMonitor, ToMonitor};
use sys::seqpacket;

/// Packets that wait for a daemon that doesn't read; beyond, it is dropped.
const WAITING: usize = 256;

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    /// Tells connections apart whose place was taken over.
    pub(crate) number: u64,
    /// The version of who said Hello: then it hears events.
    pub(crate) greeted: Option<u32>,
    waiting: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    pub(crate) broken: bool,
}

/// What came in.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one at a time, and gone at once")]
pub(crate) enum Received {
    Request(ToMonitor, Vec<OwnedFd>),
    Nothing,
    /// Closed, or not one of ours.
    End,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd, number: u64) -> Self {
        Self {
            socket,
            number,
            greeted: None,
            waiting: VecDeque::new(),
            broken: false,
        }
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(crate) fn receive(&self, buffer: &mut [u8]) -> Received {
        match seqpacket::receive(self.socket.as_fd(), buffer) {
            Ok((0, _)) => Received::End,
            Ok((n, fds)) => match ToMonitor::decode(buffer.get(..n).unwrap_or_default()) {
                Ok(message) => Received::Request(message, fds),
                Err(_) => Received::End,
            },
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => Received::Nothing,
            Err(_) => Received::End,
        }
    }

    /// Sends a packet, or keeps it until there is room.
    pub(crate) fn send(&mut self, message: &FromMonitor, fds: Vec<OwnedFd>) {
        match message.encode() {
            Ok(bytes) if self.waiting.len() < WAITING => {
                self.waiting.push_back((bytes, fds));
                self.flush();
            }
            _ => self.broken = true,
        }
    }

    pub(crate) fn flush(&mut self) {
        while let Some((bytes, fds)) = self.waiting.front() {
            let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match seqpacket::send(self.socket.as_fd(), bytes, &borrowed) {
                Ok(()) => drop(self.waiting.pop_front()),
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.broken = true;
                    return;
                }
            }
        }
    }

    /// Whether it hears events that came with `version`.
    pub(crate) fn hears(&self, version: u32) -> bool {
        !self.broken && self.greeted.is_some_and(|known| known >= version)
    }

    /// Whether there is room for what can be told later as well.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.len() < WAITING / 4
    }

    /// Whether something waits for room.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}
