//! A blob on its way to the thread that decodes it: pieces through a bounded channel from the
//! network, or from a file, hashed as they are taken.

use std::io::{self, BufRead, Read};

use aws_lc_rs::digest::{Context, SHA256, SHA512};
use bytes::{Buf, Bytes};
use storage::Digest;
use tokio::sync::mpsc;

use crate::limits;

/// The sending end, on the async side. Dropped without [`PieceSender::end`], the reader gets an
/// error: a cut download is never the end of a blob.
#[derive(Debug)]
pub(crate) struct PieceSender(mpsc::Sender<Option<Bytes>>);

/// The reading end, on a pool's thread.
pub(crate) struct PieceReader {
    pieces: Pieces,
    current: Bytes,
    ended: bool,
    hash: Context,
    expected: Digest,
}

enum Pieces {
    /// As the network brings them; `None` is the end.
    Channel(mpsc::Receiver<Option<Bytes>>),
    /// A file of the node.
    File(Box<dyn Read + Send>),
}

/// The reader has gone: it failed, and says why itself.
#[derive(Debug)]
pub(crate) struct ReaderGone;

/// Makes a channel for the blob with that digest.
pub(crate) fn channel(expected: &Digest) -> (PieceSender, PieceReader) {
    let (sender, pieces) = mpsc::channel(limits::PIECES);
    (
        PieceSender(sender),
        PieceReader::new(Pieces::Channel(pieces), expected),
    )
}

/// A blob with that digest that is read from a file.
pub(crate) fn of_file(file: impl Read + Send + 'static, expected: &Digest) -> PieceReader {
    PieceReader::new(Pieces::File(Box::new(file)), expected)
}

fn hash_of(digest: &Digest) -> Context {
    Context::new(if digest.algorithm() == "sha512" {
        &SHA512
    } else {
        &SHA256
    })
}

/// A digest in the making, and the one that it is to be.
pub(crate) struct Hash(Context, Digest);

impl Hash {
    pub(crate) fn like(expected: &Digest) -> Self {
        Self(hash_of(expected), expected.clone())
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn compare(self) -> Result<(), Digest> {
        compare(self.0, &self.1)
    }
}

/// Computes the digest of `bytes` with the algorithm of `like` and compares.
pub(crate) fn verify(bytes: &[u8], like: &Digest) -> Result<(), Digest> {
    let mut hash = hash_of(like);
    hash.update(bytes);
    compare(hash, like)
}

fn compare(hash: Context, expected: &Digest) -> Result<(), Digest> {
    let mut text = format!("{}:", expected.algorithm());
    for byte in hash.finish().as_ref() {
        text.push_str(&format!("{byte:02x}"));
    }
    let actual: Digest = text
        .parse()
        .expect("a digest of the same algorithm is well formed");
    if actual == *expected {
        Ok(())
    } else {
        Err(actual)
    }
}

impl PieceSender {
    /// Passes one piece on; waits while the reader has enough.
    pub(crate) async fn send(&self, piece: Bytes) -> Result<(), ReaderGone> {
        self.0.send(Some(piece)).await.map_err(|_| ReaderGone)
    }

    /// Whether the reader has taken all that was sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.capacity() == self.0.max_capacity()
    }

    /// Says that the blob is complete.
    pub(crate) async fn end(self) -> Result<(), ReaderGone> {
        self.0.send(None).await.map_err(|_| ReaderGone)
    }
}

impl PieceReader {
    fn new(pieces: Pieces, expected: &Digest) -> Self {
        Self {
            pieces,
            current: Bytes::new(),
            ended: false,
            hash: hash_of(expected),
            expected: expected.clone(),
        }
    }

    /// At least `wanted` bytes of the beginning, unless the blob is shorter.
    pub(crate) fn peek(&mut self, wanted: usize) -> io::Result<&[u8]> {
        while self.current.len() < wanted && !self.ended {
            let before = std::mem::take(&mut self.current);
            self.next()?;
            if !before.is_empty() {
                self.current = [before, std::mem::take(&mut self.current)].concat().into();
            }
        }
        Ok(&self.current)
    }

    /// Reads what is left and compares the digest of all.
    pub(crate) fn verify(mut self) -> io::Result<Result<(), Digest>> {
        while !self.ended {
            self.next()?;
        }
        Ok(compare(self.hash, &self.expected))
    }

    fn next(&mut self) -> io::Result<()> {
        let piece = match &mut self.pieces {
            Pieces::Channel(pieces) => pieces.blocking_recv(),
            Pieces::File(file) => Some(piece_of(file)?),
        };
        match piece {
            Some(Some(piece)) => {
                self.hash.update(&piece);
                self.current = piece;
                Ok(())
            }
            Some(None) => {
                (self.ended, self.current) = (true, Bytes::new());
                Ok(())
            }
            None => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the download failed",
            )),
        }
    }
}

fn piece_of(file: &mut impl Read) -> io::Result<Option<Bytes>> {
    let mut piece = Vec::new();
    file.take(limits::HTTP_BUFFER_BYTES as u64)
        .read_to_end(&mut piece)?;
    Ok((!piece.is_empty()).then(|| piece.into()))
}

impl BufRead for PieceReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() && !self.ended {
            self.next()?;
        }
        Ok(&self.current)
    }

    fn consume(&mut self, amount: usize) {
        self.current.advance(amount);
    }
}

impl Read for PieceReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(into.len());
        into[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}
