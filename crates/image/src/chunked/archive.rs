//! A layer's archive, put together as it is read.

use std::fs::File;
use std::io::{self, BufRead as _, Cursor, Read, Take};

use storage::{ArchivePart, Store, archive_parts};
use zstd::stream::read::Decoder;

use super::{Plan, Source, Span};
use crate::blob::PieceReader;
use crate::limits;

type Parts = Box<dyn Iterator<Item = io::Result<ArchivePart>> + Send>;

/// Reads as the archive would.
pub(crate) struct Archive {
    store: Store,
    parts: Parts,
    files: std::vec::IntoIter<(u64, Source)>,
    spans: std::vec::IntoIter<Span>,
    current: Current,
    /// Bytes that the current part still owes.
    owed: u64,
    /// The spans one after another, while no file is read from them.
    blob: Option<PieceReader>,
    /// Where in the blob that is, and the end of the span.
    at: Span,
}

enum Current {
    Bytes(Cursor<Vec<u8>>),
    Local(File),
    /// One file's part of the blob.
    Remote(Decoder<'static, Take<PieceReader>>),
}

impl Archive {
    /// `blob` gives the plan's spans one after another.
    pub(crate) fn new(plan: Plan, store: Store, blob: PieceReader) -> io::Result<Self> {
        let mut tar_split = Decoder::with_buffer(Cursor::new(plan.tar_split))?;
        tar_split.window_log_max(limits::ZSTD_WINDOW_LOG)?;
        let parts = archive_parts(tar_split.take(limits::TAR_SPLIT_BYTES));
        Ok(Self {
            store,
            parts: Box::new(parts),
            files: plan.files.into_iter(),
            spans: plan.spans.into_iter(),
            current: Current::Bytes(Cursor::default()),
            owed: 0,
            blob: Some(blob),
            at: Span { start: 0, end: 0 },
        })
    }

    /// Goes on to the next part; `false` at the end.
    fn next(&mut self) -> io::Result<bool> {
        self.leave()?;
        let Some(part) = self.parts.next().transpose()? else {
            return Ok(false);
        };
        match part {
            ArchivePart::Bytes(bytes) => {
                self.owed = bytes.len() as u64;
                self.current = Current::Bytes(Cursor::new(bytes));
            }
            ArchivePart::File { size, .. } => {
                let planned = self.files.next().filter(|(planned, _)| *planned == size);
                let (_, source) = planned.ok_or_else(|| invalid("the tar-split has changed"))?;
                self.owed = size;
                self.current = match source {
                    Source::Layer(layer, name) => {
                        let file = self.store.layer_file(&layer, &name, size);
                        let file = file.map_err(io::Error::other)?;
                        Current::Local(file.ok_or_else(|| invalid("a layer's file is gone"))?)
                    }
                    Source::Blob(span) => Current::Remote(self.open(span)?),
                };
            }
        }
        Ok(true)
    }

    /// Takes back what a file was read from; all of its part has to be used up.
    fn leave(&mut self) -> io::Result<()> {
        let empty = Current::Bytes(Cursor::default());
        let Current::Remote(mut decoder) = std::mem::replace(&mut self.current, empty) else {
            return Ok(());
        };
        if decoder.read(&mut [0])? != 0 {
            return Err(invalid("a file is longer than it should be"));
        }
        let part = decoder.finish();
        if part.limit() > 0 {
            return Err(invalid("a file's part of the blob is longer than the file"));
        }
        self.blob = Some(part.into_inner());
        Ok(())
    }

    fn open(&mut self, span: Span) -> io::Result<Decoder<'static, Take<PieceReader>>> {
        let gone = || invalid("a part of the blob is read twice");
        let mut blob = self.blob.take().ok_or_else(gone)?;
        while self.at.end < span.end {
            // What is left of the last one was a gap's, or is nothing.
            skip(&mut blob, self.at.length())?;
            self.at = self.spans.next().ok_or_else(gone)?;
        }
        let gap = span.start.checked_sub(self.at.start).ok_or_else(gone)?;
        skip(&mut blob, gap)?;
        self.at.start = span.end;
        let mut decoder = Decoder::with_buffer(blob.take(span.length()))?;
        decoder.window_log_max(limits::ZSTD_WINDOW_LOG)?;
        Ok(decoder)
    }
}

fn skip(blob: &mut PieceReader, mut length: u64) -> io::Result<()> {
    while length > 0 {
        let piece = blob.fill_buf()?.len();
        if piece == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let taken = piece.min(usize::try_from(length).unwrap_or(usize::MAX));
        blob.consume(taken);
        length -= taken as u64;
    }
    Ok(())
}

impl Read for Archive {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        while self.owed == 0 {
            if !self.next()? {
                return Ok(0);
            }
        }
        let most = into
            .len()
            .min(usize::try_from(self.owed).unwrap_or(usize::MAX));
        let into = &mut into[..most];
        let read = match &mut self.current {
            Current::Bytes(bytes) => bytes.read(into)?,
            Current::Local(file) => file.read(into)?,
            Current::Remote(decoder) => decoder.read(into)?,
        };
        if read == 0 {
            return Err(invalid("a file is shorter than it should be"));
        }
        self.owed -= read as u64;
        Ok(read)
    }
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
