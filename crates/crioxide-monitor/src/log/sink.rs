//! A client that follows a container's output.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;

/// What waits for a client before its container's writers are held back.
const HELD_BYTES: usize = 256 * 1024;
/// How long a client may be behind before it is looked at how much it has taken.
const PATIENCE: Duration = Duration::from_secs(10);
/// What it must have taken in that time.
const LEAST_BYTES: usize = 1024 * 1024;

/// Where output is copied to. A client that is behind holds the container's writers back, as a
/// reader of a pipe would; one that does so and takes less than 100 KiB a second is dropped, so
/// that nobody's slowness stops a container.
#[derive(Debug)]
pub(crate) struct Sink {
    fd: OwnedFd,
    waiting: Vec<u8>,
    /// While something waits: since when it is watched, and what it has taken since.
    behind: Option<(Instant, usize)>,
}

impl Sink {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Ok(Self {
            fd,
            waiting: Vec::new(),
            behind: None,
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

    /// Writes what waits; false: the client is gone, or too slow.
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
            self.behind = None;
            return alive;
        }
        let (since, taken) = self.behind.unwrap_or((now, 0));
        let taken = taken.saturating_add(written);
        let due = now.saturating_duration_since(since) >= PATIENCE;
        self.behind = Some(if due { (now, 0) } else { (since, taken) });
        alive && (!due || taken >= LEAST_BYTES)
    }

    /// When it is looked at how much it has taken.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.behind
            .and_then(|(since, _)| since.checked_add(PATIENCE))
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

    fn full(start: Instant) -> (OwnedFd, Sink) {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let mut sink = Sink::new(write).unwrap();
        assert!(sink.put(&[1; 1000], start));
        assert!(sink.is_idle());
        while !sink.is_full() {
            assert!(sink.put(&[1; 10_000], start));
        }
        (read, sink)
    }

    #[test]
    fn a_client_that_stops_reading_or_only_sips_is_dropped() {
        let start = Instant::now();
        let (read, mut sink) = full(start);
        assert!(sink.flush(start + PATIENCE / 2));
        let mut buffer = vec![0; 65_536];
        assert!(rustix::io::read(&read, &mut buffer).unwrap() > 0);
        assert!(sink.flush(start + PATIENCE / 2));
        assert!(!sink.flush(start + PATIENCE), "64 KiB are a sip");
        drop(read);
        assert!(!sink.flush(start), "it is gone");
    }

    #[test]
    fn a_client_that_is_behind_but_reads_stays() {
        let start = Instant::now();
        let (read, mut sink) = full(start);
        let mut buffer = vec![0; 65_536];
        let mut taken = 0;
        while taken < 2 * LEAST_BYTES {
            taken += rustix::io::read(&read, &mut buffer).unwrap();
            assert!(sink.put(&[1; 65_536], start + PATIENCE / 2));
        }
        assert!(!sink.is_idle());
        assert!(sink.flush(start + PATIENCE));
        assert!(!sink.flush(start + 2 * PATIENCE), "then it stopped");
    }
}
