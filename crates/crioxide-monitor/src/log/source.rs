//! One container's output in the log thread: streams, log, clients.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use monitor_protocol::Id;

use super::Output;
use super::file::{LogFile, write_at};
use super::format::{format, stamp};
use super::journal::{Journal, Kind, Scratch, Write};
use super::journald::Journald;
use super::sink::Sink;

/// Records that are written at once.
const WRITE_BYTES: usize = 64 * 1024;
/// An unfinished line becomes a partial record after this, so that a prompt is seen.
const FLUSH_AFTER: Duration = Duration::from_secs(1);
/// How often a write that failed is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Reads of one stream in a row, before the others get their turn.
const READS: usize = 16;

/// What the streams of all containers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) scratch: Scratch,
    /// Bits that no container knows.
    pub(super) probe: u64,
    /// Records on their way to a log.
    pub(super) out: Vec<u8>,
}

impl Shared {
    fn next_probe(&mut self) -> u64 {
        // A walk through all values from a random start: odd increments do.
        self.probe = self.probe.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.probe.rotate_left(23) ^ self.probe
    }
}

/// A container.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) id: Id,
    dir: PathBuf,
    log: Option<LogFile>,
    /// Where the log's records are copied to.
    copy: Option<Journald>,
    pub(super) streams: Vec<Stream>,
    begun: bool,
    pub(super) draining: bool,
    drained: bool,
    retry_at: Option<Instant>,
}

/// One stream of a container.
#[derive(Debug)]
pub(super) struct Stream {
    name: &'static str,
    kind: Kind,
    fd: OwnedFd,
    journal: Journal,
    pub(super) sinks: Vec<Sink>,
    flush_at: Option<Instant>,
    /// A terminal that nobody has open any more.
    ended: bool,
}

impl Stream {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Source {
    pub(super) fn open(output: Output) -> io::Result<Self> {
        let log = if output.log.as_os_str().is_empty() {
            None
        } else {
            Some(LogFile::open(&output.log, output.size_max)?)
        };
        let id = output.id.clone();
        // A container without its copy is better than none.
        let copy = output.journal.and_then(|name| Journald::new(id, name).ok());
        let mut source = Self {
            id: output.id,
            dir: output.dir,
            log,
            copy,
            streams: Vec::new(),
            begun: false,
            draining: false,
            drained: false,
            retry_at: None,
        };
        for (name, fd) in ["stdout", "stderr"]
            .into_iter()
            .zip(output.pipes.into_iter().flatten())
        {
            source.add_stream(name, Kind::Pipe, fd)?;
        }
        Ok(source)
    }

    fn add_stream(&mut self, name: &'static str, kind: Kind, fd: OwnedFd) -> io::Result<()> {
        let journal = Journal::open(&self.dir.join(format!("{name}.journal")))?;
        let sinks = Vec::new();
        self.streams.push(Stream {
            name,
            kind,
            fd,
            journal,
            sinks,
            flush_at: None,
            ended: false,
        });
        Ok(())
    }

    /// Begins to read; what a predecessor left is written first.
    pub(super) fn begin(
        &mut self,
        terminal: Option<OwnedFd>,
        shared: &mut Shared,
    ) -> io::Result<()> {
        if let Some(terminal) = terminal {
            let flags = rustix::fs::fcntl_getfl(&terminal)?;
            rustix::fs::fcntl_setfl(&terminal, flags | rustix::fs::OFlags::NONBLOCK)?;
            self.add_stream("stdout", Kind::Terminal, terminal)?;
        }
        self.begun = true;
        self.write_all(shared);
        Ok(())
    }

    /// Whether a stream should be read from now.
    pub(super) fn wants(&self, stream: &Stream) -> bool {
        self.begun
            && self.retry_at.is_none()
            && !stream.ended
            && !stream.sinks.iter().any(Sink::is_full)
    }

    /// Reads a stream and logs what it gives; whether there may be more.
    pub(super) fn read(&mut self, at: usize, shared: &mut Shared) -> bool {
        for _ in 0..READS {
            if !self
                .streams
                .get(at)
                .is_some_and(|stream| self.wants(stream))
            {
                return false;
            }
            if !self.read_once(at, shared) {
                return false;
            }
            self.write(at, false, shared);
        }
        true
    }

    fn read_once(&mut self, at: usize, shared: &mut Shared) -> bool {
        let probe = shared.next_probe();
        let Some(stream) = self.streams.get_mut(at) else {
            return false;
        };
        match stream
            .journal
            .read(stream.fd.as_fd(), stream.kind, probe, &shared.scratch)
        {
            Ok([]) => false,
            Ok(bytes) => {
                let now = Instant::now();
                stream.sinks.retain_mut(|sink| sink.put(bytes, now));
                true
            }
            // EIO: the last process has closed the terminal. Nothing else is to be expected, and
            // trying again and again would help nobody.
            Err(_) => {
                stream.ended = true;
                false
            }
        }
    }

    /// Writes what is pending in all streams. An unfinished write comes first, whosesoever it is:
    /// it has its place in the file, and nothing else may take it.
    pub(super) fn write_all(&mut self, shared: &mut Shared) {
        self.retry_at = None;
        if let Some(log) = &mut self.log {
            for stream in &mut self.streams {
                if finish_write(stream, log, self.copy.as_mut(), &mut shared.out).is_err() {
                    self.retry_at = Instant::now().checked_add(RETRY_AFTER);
                    return;
                }
            }
        }
        for at in 0..self.streams.len() {
            self.write(at, self.draining, shared);
        }
    }

    /// Writes a stream's complete lines, with `flush` also what follows them.
    fn write(&mut self, at: usize, flush: bool, shared: &mut Shared) {
        let Self {
            log,
            copy,
            streams,
            retry_at,
            ..
        } = self;
        let Some(stream) = streams.get_mut(at) else {
            return;
        };
        let Some(log) = log else {
            let all = stream.journal.pending().len();
            stream.journal.consume(all);
            return;
        };
        // One stream's unfinished write must be the file's last one: no other may pass it.
        if retry_at.is_some() {
            return;
        }
        let written = write_records(stream, log, copy.as_mut(), flush, &mut shared.out);
        let now = Instant::now();
        if written.is_err() {
            *retry_at = now.checked_add(RETRY_AFTER);
        }
        let tail = !stream.journal.pending().is_empty();
        stream.flush_at = if tail {
            now.checked_add(FLUSH_AFTER)
        } else {
            None
        };
    }

    /// Opens the log anew. A write that had failed in the old file is undone there and done in
    /// the new one: rotation is what frees a full disk.
    pub(super) fn reopen(&mut self, shared: &mut Shared) -> io::Result<()> {
        let Some(log) = &mut self.log else {
            return Ok(());
        };
        for stream in &mut self.streams {
            if let Some(write) = stream.journal.unfinished()
                && finish_write(stream, log, self.copy.as_mut(), &mut shared.out).is_err()
            {
                if let Some(file) = log.find(write.device, write.inode)? {
                    rustix::fs::ftruncate(file, write.offset)?;
                }
                stream.journal.consume(0);
            }
        }
        log.reopen()?;
        self.write_all(shared);
        Ok(())
    }

    /// Adds a client of a stream; of one that isn't there, it is closed at once.
    pub(super) fn attach(&mut self, at: usize, fd: OwnedFd) {
        if let Some(stream) = self.streams.get_mut(at)
            && let Ok(sink) = Sink::new(fd)
        {
            stream.sinks.push(sink);
        }
    }

    pub(super) fn flush_sinks(&mut self) {
        let now = Instant::now();
        for stream in &mut self.streams {
            stream.sinks.retain_mut(|sink| sink.flush(now));
        }
    }

    /// Goes on reading all that is there; true once, when everything is written. A write that
    /// failed interrupts it until it was tried again.
    pub(super) fn drain(&mut self, shared: &mut Shared) -> bool {
        if !self.draining || self.drained || self.retry_at.is_some() {
            return false;
        }
        for at in 0..self.streams.len() {
            // No client's slowness delays the end: what it has not read, waits for it.
            while self.retry_at.is_none()
                && self.streams.get(at).is_some_and(|stream| !stream.ended)
                && self.read_once(at, shared)
            {
                self.write(at, false, shared);
            }
            self.write(at, true, shared);
        }
        self.drained = self.retry_at.is_none();
        self.drained
    }

    /// Closes clients that have got everything, once there is no more.
    pub(super) fn close_sinks(&mut self) {
        for stream in &mut self.streams {
            if self.drained {
                stream.sinks.retain(|sink| !sink.is_idle());
            }
        }
    }

    /// When something is to be done although nothing happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let flushes = self.streams.iter().filter_map(|stream| stream.flush_at);
        let sinks = self
            .streams
            .iter()
            .flat_map(|stream| &stream.sinks)
            .filter_map(Sink::deadline);
        let flushes = flushes.filter(|_| self.retry_at.is_none() && self.begun);
        flushes.chain(sinks).chain(self.retry_at).min()
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, shared: &mut Shared) {
        let now = Instant::now();
        self.flush_sinks();
        if self.retry_at.is_some_and(|at| at <= now) {
            self.write_all(shared);
        }
        for at in 0..self.streams.len() {
            let due = self.streams.get(at).and_then(|stream| stream.flush_at);
            if self.begun && due.is_some_and(|due| due <= now) {
                self.write(at, true, shared);
            }
        }
    }
}

/// Writes what a predecessor, or a write that failed, left unfinished.
fn finish_write(
    stream: &mut Stream,
    log: &mut LogFile,
    copy: Option<&mut Journald>,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    let Some(write) = stream.journal.unfinished() else {
        return Ok(());
    };
    let Some(file) = log.find(write.device, write.inode)? else {
        // The file is gone, and what was in it: the records go to the new one.
        stream.journal.consume(0);
        return Ok(());
    };
    out.clear();
    let range = stream
        .journal
        .pending()
        .get(..write.consumed)
        .unwrap_or_default();
    format(
        range,
        stream.name,
        &stamp(write.time),
        true,
        usize::MAX,
        out,
    );
    write_at(file.as_fd(), out, write.offset)?;
    // Perhaps for the second time: that is better than never.
    if let Some(copy) = copy {
        copy.put(out, stream.name);
    }
    stream.journal.consume(write.consumed);
    Ok(())
}

fn write_records(
    stream: &mut Stream,
    log: &mut LogFile,
    mut copy: Option<&mut Journald>,
    flush: bool,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    loop {
        out.clear();
        let time = now_ns();
        let consumed = format(
            stream.journal.pending(),
            stream.name,
            &stamp(time),
            flush,
            WRITE_BYTES,
            out,
        );
        if consumed == 0 {
            return Ok(());
        }
        let place = log.place(out.len())?;
        stream.journal.begin(Write {
            time,
            device: place.device,
            inode: place.inode,
            offset: place.size,
            consumed,
        });
        write_at(log.file(), out, place.size)?;
        if let Some(copy) = copy.as_deref_mut() {
            copy.put(out, stream.name);
        }
        stream.journal.consume(consumed);
    }
}

/// Nanoseconds since 1970.
pub(crate) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}
