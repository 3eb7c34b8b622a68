//! Gzip streams, for tar-split files only: what a registry sends is `image`'s to inflate.
//!
//! zlib-rs is used directly, as there: no second wrapper around the same code.

use std::io::{self, Read, Write};

use zlib_rs::{Deflate, DeflateFlush, Inflate, InflateFlush, Status};

/// 32 KiB of window, and 16 to ask for gzip's header and trailer instead of zlib's.
const GZIP_WINDOW: u8 = 15 + 16;
/// The fastest: a tar-split is written while a pull waits, and is mostly zeros.
const LEVEL: i32 = 1;
const BUFFER: usize = 64 << 10;

/// Compresses what is written to it.
pub(crate) struct GzipWriter<W> {
    deflate: Deflate,
    output: Box<[u8]>,
    inner: W,
}

impl<W: Write> GzipWriter<W> {
    pub(crate) fn new(inner: W) -> Self {
        let output = vec![0; BUFFER].into_boxed_slice();
        Self {
            deflate: Deflate::new(LEVEL, true, GZIP_WINDOW),
            output,
            inner,
        }
    }

    /// Ends the stream.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        while self.step(&[], DeflateFlush::Finish)?.1 != Status::StreamEnd {}
        self.inner.flush()?;
        Ok(self.inner)
    }

    fn step(&mut self, input: &[u8], flush: DeflateFlush) -> io::Result<(usize, Status)> {
        let (taken, made) = (self.deflate.total_in(), self.deflate.total_out());
        let status = self
            .deflate
            .compress(input, &mut self.output, flush)
            .map_err(|error| io::Error::other(error.as_str()))?;
        let made = advanced(made, self.deflate.total_out());
        self.inner.write_all(&self.output[..made])?;
        Ok((advanced(taken, self.deflate.total_in()), status))
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, input: &[u8]) -> io::Result<usize> {
        loop {
            let (taken, _) = self.step(input, DeflateFlush::NoFlush)?;
            if taken > 0 || input.is_empty() {
                return Ok(taken);
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Decompresses one gzip member, or several after each other.
pub(crate) struct GzipReader<R> {
    inflate: Inflate,
    input: Box<[u8]>,
    start: usize,
    end: usize,
    member_open: bool,
    inner: R,
}

impl<R: Read> GzipReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inflate: Inflate::new(true, GZIP_WINDOW),
            input: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            member_open: false,
            inner,
        }
    }
}

impl<R: Read> Read for GzipReader<R> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        if output.is_empty() {
            return Ok(0);
        }
        loop {
            if self.start == self.end {
                self.end = self.inner.read(&mut self.input)?;
                self.start = 0;
                if self.end == 0 {
                    let whole = !self.member_open;
                    return if whole {
                        Ok(0)
                    } else {
                        Err(io::ErrorKind::UnexpectedEof.into())
                    };
                }
            }
            if !self.member_open {
                self.inflate = Inflate::new(true, GZIP_WINDOW);
                self.member_open = true;
            }
            let (taken, made) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self
                .inflate
                .decompress(
                    &self.input[self.start..self.end],
                    output,
                    InflateFlush::NoFlush,
                )
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.as_str()))?;
            self.start += advanced(taken, self.inflate.total_in());
            self.member_open = status != Status::StreamEnd;
            let made = advanced(made, self.inflate.total_out());
            if made > 0 {
                return Ok(made);
            }
        }
    }
}

/// How far a total went in one call, which is at most a buffer's size.
fn advanced(before: u64, after: u64) -> usize {
    usize::try_from(after - before).expect("no call goes farther than its buffer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for size in [0_usize, 1, 1000, 300_000] {
            let bytes: Vec<u8> = (0..size).map(|n| (n * n / 7).to_le_bytes()[0]).collect();
            let mut writer = GzipWriter::new(Vec::new());
            writer.write_all(&bytes).unwrap();
            let gzip = writer.finish().unwrap();
            assert_eq!(&gzip[..2], [0x1f, 0x8b]);
            let mut read = Vec::new();
            GzipReader::new(gzip.as_slice())
                .read_to_end(&mut read)
                .unwrap();
            assert_eq!(read, bytes);
            let twice = [gzip.as_slice(), gzip.as_slice()].concat();
            read.clear();
            GzipReader::new(twice.as_slice())
                .read_to_end(&mut read)
                .unwrap();
            assert_eq!(read.len(), 2 * size);
            assert!(
                GzipReader::new(&gzip[..gzip.len() - 1])
                    .read_to_end(&mut read)
                    .is_err()
            );
        }
    }
}
