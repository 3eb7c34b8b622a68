//! What makes a stream lossless over `kill -9`: its bytes live in a file on tmpfs that is mapped
//! into memory, beside a journal of what is about to happen to them.
//!
//! One word, [`STATE`], is the whole truth; it is replaced in one store. It says which half of
//! the bytes is in use, which range of it is read and not yet logged (`start..end`), how many
//! bytes a read is about to add (`intent`), and whether records of the range are being written.
//!
//! **Read.** The pipe has `n` bytes and we are its only reader, so reading `n` bytes returns `n`
//! at once, and isn't torn by a signal. Before it, `intent = n` is stored and the place where the
//! bytes will go starts with a *probe*. A successor that finds an intent looks at it: the probe is
//! there still, so nothing was read; or it isn't, so all `n` bytes are there. The probe is random
//! if `n` ≥ 8. For fewer bytes from a pipe it is the complement of the first byte, peeked at by
//! `tee(2)`; from a terminal, which has no tee, 0xFF, which no text contains. The pages are touched
//! first, so that no page fault can be interrupted by the kill and leave half a copy.
//!
//! **Write.** Time, file, offset and number of bytes are stored, then the state says "writing".
//! A successor writes the same records (see [`super::format`]) at the same offset.
//!
//! **Consume.** `start` moves. When the room behind `end` gets small, the rest is copied to the
//! other half, and the same store of the state switches over.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::pipe::SpliceFlags;
use sys::mapping::Mapping;

use super::format::LINE;

/// Words in front: one page.
pub(crate) const HEADER: usize = 4096;
/// Bytes of one half: a line that waits for its end, and as much again.
pub(crate) const HALF: usize = 2 * LINE;
/// When less room is left behind `end`, the rest moves to the other half.
const LITTLE_ROOM: usize = HALF / 2;
const PAGE: usize = 4096;

const STATE: usize = 0;
const PROBE: usize = 1;
const TIME: usize = 2;
const DEVICE: usize = 3;
const INODE: usize = 4;
const OFFSET: usize = 5;
const CONSUMED: usize = 6;
pub(crate) const VERSION: usize = 7;
/// Of this layout: another one is refused rather than misread.
pub(crate) const LAYOUT: u64 = 1;

/// The unpacked [`STATE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    second_half: bool,
    writing: bool,
    start: usize,
    end: usize,
    intent: usize,
}

const BITS: u32 = 20;
const MASK: u64 = (1 << BITS) - 1;

impl State {
    fn pack(self) -> u64 {
        let field = |value: usize| u64::try_from(value).unwrap_or(0) & MASK;
        field(self.start)
            | field(self.end) << BITS
            | field(self.intent) << (2 * BITS)
            | u64::from(self.writing) << (3 * BITS)
            | u64::from(self.second_half) << (3 * BITS + 1)
    }

    /// A state that was never stored by us (a damaged file) is an empty one.
    fn unpack(word: u64) -> Self {
        let field = |shift: u32| usize::try_from(word >> shift & MASK).unwrap_or(0);
        let state = Self {
            second_half: word >> (3 * BITS + 1) & 1 == 1,
            writing: word >> (3 * BITS) & 1 == 1,
            start: field(0),
            end: field(BITS),
            intent: field(2 * BITS),
        };
        let sane = state.start <= state.end && state.end + state.intent <= HALF;
        if sane { state } else { Self::unpack(0) }
    }
}

/// Where records are being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    /// The records' time, in nanoseconds since 1970.
    pub(crate) time: u64,
    /// The log file.
    pub(crate) device: u64,
    /// The log file.
    pub(crate) inode: u64,
    /// Where in it.
    pub(crate) offset: u64,
    /// Of how many bytes of the stream.
    pub(crate) consumed: usize,
}

/// What a stream is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Pipe,
    Terminal,
}

/// A stream's bytes between its pipe and its log.
#[derive(Debug)]
pub(crate) struct Journal {
    mapping: Mapping,
}

impl Journal {
    /// Opens the journal at `path`, or makes it; what a predecessor was about to read is settled.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut journal = Self {
            mapping: Mapping::open(path, HEADER, 2 * HALF)?,
        };
        let (words, _) = journal.mapping.split();
        match word(words, VERSION).load(Ordering::Acquire) {
            0 => word(words, VERSION).store(LAYOUT, Ordering::Release),
            LAYOUT => {}
            other => return Err(io::Error::other(format!("journal of layout {other}"))),
        }
        journal.settle_read();
        Ok(journal)
    }

    /// What was read and isn't logged.
    pub(crate) fn pending(&mut self) -> &[u8] {
        let (words, bytes) = self.mapping.split();
        let state = load(words);
        half(bytes, state.second_half)
            .get(state.start..state.end)
            .unwrap_or_default()
    }

    /// What was being written when a predecessor died, or when writing failed.
    pub(crate) fn unfinished(&mut self) -> Option<Write> {
        let (words, _) = self.mapping.split();
        let state = load(words);
        let consumed = usize::try_from(word(words, CONSUMED).load(Ordering::Acquire)).ok()?;
        let sane = state.writing && consumed <= state.end - state.start;
        sane.then(|| Write {
            time: word(words, TIME).load(Ordering::Acquire),
            device: word(words, DEVICE).load(Ordering::Acquire),
            inode: word(words, INODE).load(Ordering::Acquire),
            offset: word(words, OFFSET).load(Ordering::Acquire),
            consumed,
        })
    }

    /// Reads what the pipe or terminal holds, as far as there is room; returns the bytes that are
    /// new, none if there was nothing. `scratch` is a pipe of our own.
    pub(crate) fn read(
        &mut self,
        from: BorrowedFd<'_>,
        kind: Kind,
        probe: u64,
        scratch: &Scratch,
    ) -> io::Result<&[u8]> {
        let (words, bytes) = self.mapping.split();
        let mut state = load(words);
        let queued = rustix::io::ioctl_fionread(from)?;
        let n = usize::try_from(queued)
            .unwrap_or(HALF)
            .min(HALF - state.end);
        // With nothing queued, a read still tells the end of a terminal.
        let ask = n.max(usize::from(kind == Kind::Terminal && state.end < HALF));
        if ask == 0 {
            return Ok(&[]);
        }
        let place = half(bytes, state.second_half)
            .get_mut(state.end..state.end + ask)
            .ok_or(Errno::NOBUFS)?;
        let probe = match kind {
            Kind::Pipe if ask < 8 => u64::from(!scratch.peek(from)?),
            Kind::Terminal if ask < 8 => u64::MAX,
            _ => probe,
        };
        touch(place);
        put_probe(place, probe, kind);
        word(words, PROBE).store(probe, Ordering::Release);
        state.intent = ask;
        store(words, state);
        let got = match kind {
            Kind::Pipe => read(from, place),
            Kind::Terminal => sys::pty::read_to_its_end(|| read(from, place)),
        };
        // Fewer than promised only if the container reads its own output.
        let read = got.as_ref().map_or(0, |n| *n);
        let before = state.end;
        state.intent = 0;
        state.end += read;
        store(words, state);
        got?;
        Ok(half(bytes, state.second_half)
            .get(before..state.end)
            .unwrap_or_default())
    }

    /// Says that records of pending bytes are about to be written.
    pub(crate) fn begin(&mut self, write: Write) {
        let (words, _) = self.mapping.split();
        let mut state = load(words);
        let consumed = u64::try_from(write.consumed).unwrap_or(0);
        // Not while the state says "writing" of another one.
        state.writing = false;
        store(words, state);
        for (at, value) in [
            (TIME, write.time),
            (DEVICE, write.device),
            (INODE, write.inode),
            (OFFSET, write.offset),
            (CONSUMED, consumed),
        ] {
            word(words, at).store(value, Ordering::Release);
        }
        state.writing = true;
        store(words, state);
    }

    /// Forgets the first `consumed` pending bytes: their records are written.
    pub(crate) fn consume(&mut self, consumed: usize) {
        let (words, bytes) = self.mapping.split();
        let mut state = load(words);
        state.writing = false;
        state.start = (state.start + consumed).min(state.end);
        if state.start == state.end {
            (state.start, state.end) = (0, 0);
        } else if HALF - state.end < LITTLE_ROOM && state.start > 0 {
            let (first, second) = bytes.split_at_mut(HALF);
            let (from, to) = if state.second_half {
                (second, first)
            } else {
                (first, second)
            };
            let rest = from.get(state.start..state.end).unwrap_or_default();
            if let Some(place) = to.get_mut(..rest.len()) {
                place.copy_from_slice(rest);
            }
            state.end -= state.start;
            state.start = 0;
            state.second_half = !state.second_half;
        }
        store(words, state);
    }

    /// Whether a predecessor's read happened: see the probe, above.
    fn settle_read(&mut self) {
        let (words, bytes) = self.mapping.split();
        let mut state = load(words);
        let probe = word(words, PROBE).load(Ordering::Acquire).to_le_bytes();
        let place = half(bytes, state.second_half)
            .get(state.end..state.end + state.intent)
            .unwrap_or_default();
        // Of a short read from a pipe, only the first byte is known to differ.
        let short_pipe = place.len() < 8 && probe.get(1..) == Some(&[0; 7]);
        let compared = if short_pipe { 1 } else { place.len().min(8) };
        if place.get(..compared) != probe.get(..compared) {
            state.end += state.intent;
        }
        state.intent = 0;
        store(words, state);
    }
}

/// A pipe of our own to peek at another one's first byte with.
#[derive(Debug)]
pub(crate) struct Scratch {
    read: std::os::fd::OwnedFd,
    write: std::os::fd::OwnedFd,
}

impl Scratch {
    pub(crate) fn new() -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        Ok(Self { read, write })
    }

    /// The first byte in a pipe that isn't empty.
    fn peek(&self, pipe: BorrowedFd<'_>) -> io::Result<u8> {
        let mut byte = [0];
        if rustix::pipe::tee(pipe, &self.write, 1, SpliceFlags::NONBLOCK)? == 1 {
            rustix::io::read(&self.read, &mut byte)?;
        }
        Ok(byte[0])
    }
}

fn read(from: BorrowedFd<'_>, place: &mut [u8]) -> io::Result<usize> {
    match rustix::io::read(from, place) {
        Ok(n) => Ok(n),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(err) => Err(err.into()),
    }
}

/// Has all pages of a place in the page table, writable.
fn touch(place: &mut [u8]) {
    for page in place.chunks_mut(PAGE) {
        for byte in [page.len() - 1, 0] {
            if let Some(byte) = page.get_mut(byte) {
                *byte = std::hint::black_box(*byte);
            }
        }
    }
}

fn put_probe(place: &mut [u8], probe: u64, kind: Kind) {
    let probe = probe.to_le_bytes();
    let length = match kind {
        Kind::Pipe if place.len() < 8 => 1,
        _ => place.len().min(8),
    };
    for (to, from) in place.iter_mut().zip(probe).take(length) {
        *to = from;
    }
}

fn half(bytes: &mut [u8], second: bool) -> &mut [u8] {
    let (one, two) = bytes.split_at_mut(HALF);
    if second { two } else { one }
}

fn word(words: &[AtomicU64], at: usize) -> &AtomicU64 {
    words
        .get(at)
        .expect("the header is larger than the journal")
}

fn load(words: &[AtomicU64]) -> State {
    State::unpack(word(words, STATE).load(Ordering::Acquire))
}

/// The bytes before, the state after: Release keeps the compiler from exchanging them, and a
/// process's death keeps the order in which it stored.
fn store(words: &[AtomicU64], state: State) {
    word(words, STATE).store(state.pack(), Ordering::SeqCst);
}

#[cfg(test)]
mod tests;
