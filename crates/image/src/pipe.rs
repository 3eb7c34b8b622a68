//! A bounded pipe of bytes between two threads: one inflates, the other unpacks. Buffers go
//! round, so that a pull of any size needs a few.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

const BUFFER: usize = 256 << 10;
const DEPTH: usize = 4;

/// The end that is written to. Dropped without [`Writer::end`], its reader gets an error.
#[derive(Debug)]
pub(crate) struct Writer {
    full: SyncSender<Option<Vec<u8>>>,
    empty: Receiver<Vec<u8>>,
}

/// The end that is read from.
#[derive(Debug)]
pub(crate) struct Reader {
    full: Receiver<Option<Vec<u8>>>,
    empty: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
    ended: bool,
}

/// Why copying stopped.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// The source failed.
    Source(io::Error),
    /// The reader has gone.
    Closed,
}

/// Makes a pipe.
pub(crate) fn pipe() -> (Writer, Reader) {
    let (full, to_read) = sync_channel(DEPTH);
    let (empty, to_write) = sync_channel(DEPTH + 2);
    let writer = Writer {
        full,
        empty: to_write,
    };
    (
        writer,
        Reader {
            full: to_read,
            empty,
            current: Vec::new(),
            position: 0,
            ended: false,
        },
    )
}

impl Writer {
    /// Writes all that `source` has.
    pub(crate) fn copy(&self, mut source: impl Read) -> Result<(), Stopped> {
        loop {
            let mut buffer = self.empty.try_recv().unwrap_or_default();
            buffer.resize(BUFFER, 0);
            let length = fill(&mut source, &mut buffer).map_err(Stopped::Source)?;
            if length == 0 {
                return Ok(());
            }
            buffer.truncate(length);
            self.full.send(Some(buffer)).map_err(|_| Stopped::Closed)?;
        }
    }

    /// To write piece by piece.
    pub(crate) fn filling(&self) -> Filling<'_> {
        Filling {
            writer: self,
            buffer: Vec::new(),
        }
    }

    /// Ends the stream: all of it was good.
    pub(crate) fn end(self) -> Result<(), Stopped> {
        self.full.send(None).map_err(|_| Stopped::Closed)
    }
}

/// Collects small pieces; what it has when it is dropped is lost.
#[derive(Debug)]
pub(crate) struct Filling<'a> {
    writer: &'a Writer,
    buffer: Vec<u8>,
}

impl Filling<'_> {
    /// Passes on what is left.
    pub(crate) fn finish(mut self) -> Result<(), Stopped> {
        self.pass()
    }

    fn pass(&mut self) -> Result<(), Stopped> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let mut next = self.writer.empty.try_recv().unwrap_or_default();
        next.clear();
        let full = std::mem::replace(&mut self.buffer, next);
        let sent = self.writer.full.send(Some(full));
        sent.map_err(|_| Stopped::Closed)
    }
}

impl io::Write for Filling<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = BUFFER - self.buffer.len();
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.buffer.extend_from_slice(taken);
        if self.buffer.len() == BUFFER {
            let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
            self.pass().map_err(closed)?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.position == self.current.len() {
            if self.ended {
                return Ok(0);
            }
            let next = match self.full.recv() {
                Ok(next) => next,
                Err(_) => return Err(io::Error::other("the stream was cut")),
            };
            self.ended = next.is_none();
            let used = std::mem::replace(&mut self.current, next.unwrap_or_default());
            self.position = 0;
            if used.capacity() > 0 {
                // With the writer gone, or enough buffers on their way, it is freed instead.
                let _spare = self.empty.try_send(used);
            }
        }
        let rest = self.current.get(self.position..).unwrap_or_default();
        let length = rest.len().min(into.len());
        into[..length].copy_from_slice(&rest[..length]);
        self.position += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_in_order_and_a_cut_is_no_end() {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let (writer, mut reader) = pipe();
        let sent = bytes.clone();
        let thread = std::thread::spawn(move || {
            writer.copy(&sent[..]).unwrap();
            writer.end().unwrap();
        });
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        thread.join().unwrap();
        assert!(read == bytes);

        // The same in small pieces.
        let (writer, mut reader) = pipe();
        let sent = bytes.clone();
        let thread = std::thread::spawn(move || {
            let mut filling = writer.filling();
            for piece in sent.chunks(1013) {
                io::Write::write_all(&mut filling, piece).unwrap();
            }
            filling.finish().unwrap();
            writer.end().unwrap();
        });
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        thread.join().unwrap();
        assert!(read == bytes);

        let (writer, mut reader) = pipe();
        writer.copy(&b"half"[..]).unwrap();
        drop(writer);
        assert!(reader.read_to_end(&mut Vec::new()).is_err());

        let (writer, reader) = pipe();
        drop(reader);
        assert!(matches!(writer.copy(&b"x"[..]), Err(Stopped::Closed)));
    }
}
