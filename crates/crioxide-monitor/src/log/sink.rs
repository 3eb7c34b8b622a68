//! A client that follows a container's output.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;

/// What waits for a client before its container's writers are held back.
const HELD_BYTES: usize = 256 * 1024;
/// How long a client may take nothing before it is dropped.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where output is copied to. A slow client holds the container's writers back, as a slow reader
/// of a pipe would; one that has stopped reading is dropped.
#[derive(Debug)]
pub(crate) struct Sink {
    fd: OwnedFd,
    waiting: Vec<u8>,
    stuck_since: Option<Instant>,
}

impl Sink {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Ok(Self {
            fd,
            waiting: Vec::new(),
            stuck_since: None,
        })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Copies bytes; false: the client is gone.
    pub(crate) fn put(&mut self, bytes: &[u8], now: Instant) -> bool {
        self.waiting.extend_from_slice(bytes);
        self.flush(now)
    }

    /// Writes what waits; false: the client is gone, or takes nothing for too long.
    pub(crate) fn flush(&mut self, now: Instant) -> bool {
        let mut written = 0;
        let alive = loop {
            let Some(rest) = self.waiting.get(written..).filter(|rest| !rest.is_empty()) else {
                break true;
            };
            match rustix::io::write(&self.fd, rest) {
                Ok(n) => written += n,
                Err(Errno::AGAIN) => break true,
                Err(Errno::INTR) => {}
                Err(_closed) => break false,
            }
        };
        self.waiting.drain(..written);
        if self.waiting.is_empty() {
            self.waiting = Vec::new();
            self.stuck_since = None;
        } else if written > 0 || self.stuck_since.is_none() {
            self.stuck_since = Some(now);
        }
        alive && self.deadline().is_none_or(|at| now < at)
    }

    /// When it is dropped, if it takes nothing until then.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.stuck_since
            .and_then(|since| since.checked_add(PATIENCE))
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether nothing more should be read for it.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= HELD_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_stops_reading_is_held_for_and_then_dropped() {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let mut sink = Sink::new(write).unwrap();
        let start = Instant::now();
        assert!(sink.put(&[1; 1000], start));
        assert!(sink.is_idle());
        while !sink.is_full() {
            assert!(sink.put(&[1; 10_000], start));
        }
        assert!(sink.flush(start + PATIENCE / 2));
        // It reads again: the patience starts anew.
        let mut buffer = vec![0; 65_536];
        assert!(rustix::io::read(&read, &mut buffer).unwrap() > 0);
        assert!(sink.flush(start + PATIENCE));
        assert!(sink.flush(start + PATIENCE + PATIENCE / 2));
        assert!(!sink.flush(start + 2 * PATIENCE));
        drop(read);
        assert!(!sink.flush(start));
    }
}
