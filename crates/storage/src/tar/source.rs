//! The bytes of a stream, hashed, counted and bounded.

use std::io::Read;

use crate::{Digest, Error, Hasher};

const BUFFER: usize = 256 << 10;

/// A reader whose bytes are looked at before they are consumed, so that none is copied twice.
pub(crate) struct Source<R> {
    reader: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    at_end: bool,
    hasher: Hasher,
    total: u64,
    limit: u64,
}

impl<R: Read> Source<R> {
    /// Reads at most `limit` bytes from `reader`; more is an error.
    pub(crate) fn new(reader: R, limit: u64) -> Self {
        Self {
            reader,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            at_end: false,
            hasher: Hasher::default(),
            total: 0,
            limit,
        }
    }

    /// Bytes that are there, at least one unless the stream has ended.
    pub(crate) fn peek(&mut self) -> Result<&[u8], Error> {
        if self.start == self.end && !self.at_end {
            self.fill()?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// How many bytes were consumed.
    pub(crate) fn position(&self) -> u64 {
        self.total - (self.end - self.start) as u64
    }

    pub(crate) fn consume(&mut self, bytes: usize) {
        self.start = (self.start + bytes).min(self.end);
    }

    fn fill(&mut self) -> Result<(), Error> {
        let read = loop {
            match self.reader.read(&mut self.buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                other => break other.map_err(Error::Read)?,
            }
        };
        (self.start, self.end, self.at_end) = (0, read, read == 0);
        self.hasher.update(&self.buffer[..read]);
        self.total += read as u64;
        if self.total > self.limit {
            return Err(Error::TooLarge {
                what: "bytes",
                limit: self.limit,
            });
        }
        Ok(())
    }

    /// Digest and number of all bytes. The stream has ended.
    pub(crate) fn finish(self) -> (Digest, u64) {
        debug_assert!(
            self.at_end && self.start == self.end,
            "the stream was read to its end"
        );
        (self.hasher.finish(), self.total)
    }
}
