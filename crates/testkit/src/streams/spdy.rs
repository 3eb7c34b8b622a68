//! SPDY, as a client speaks it.

use anyhow::{Result, ensure};
use streaming::spdy::frame::{Frame, Undecodable};
use streaming::spdy::headers::{Headers, Storer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split};

use super::{Endpoint, Socket};

/// A connection whose upgrade was answered.
#[derive(Debug)]
pub struct Spdy {
    /// Its end to write to.
    pub writer: SpdyWriter,
    /// Its end to read from.
    pub reader: SpdyReader,
}

/// Writes frames.
#[derive(Debug)]
pub struct SpdyWriter {
    socket: WriteHalf<Socket>,
    storer: Storer,
    next: u32,
}

/// Reads frames.
#[derive(Debug)]
pub struct SpdyReader {
    socket: ReadHalf<Socket>,
    buffer: Vec<u8>,
}

impl Spdy {
    /// Upgrades, asking for one protocol.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn connect(endpoint: impl Into<Endpoint<'_>>, protocol: &str) -> Result<Self> {
        let headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "SPDY/3.1"),
            ("X-Stream-Protocol-Version", protocol),
        ];
        // The oldest protocol is asked for by silence.
        let headers = if protocol.is_empty() {
            &headers[..2]
        } else {
            &headers[..]
        };
        let (socket, status, text) = super::request(endpoint, headers).await?;
        ensure!(status == 101, "{text}");
        Ok(Self::new(socket))
    }

    fn new(socket: Socket) -> Self {
        let (read, write) = split(socket);
        Self {
            writer: SpdyWriter {
                socket: write,
                storer: Storer::default(),
                next: 1,
            },
            reader: SpdyReader {
                socket: read,
                buffer: Vec::new(),
            },
        }
    }
}

impl SpdyWriter {
    /// Opens a stream and returns its number.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn open(&mut self, headers: &[(&str, &str)]) -> Result<u32> {
        let stream = self.next;
        self.next += 2;
        let block = self
            .storer
            .store(&headers.iter().copied().collect::<Headers>());
        let (fin, frame) = (false, stream);
        let frame = Frame::SynStream {
            stream: frame,
            fin,
            block,
        };
        self.raw(&frame.encode()).await?;
        Ok(stream)
    }

    /// Writes bytes of a stream, in one frame.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn data(&mut self, stream: u32, bytes: &[u8], fin: bool) -> Result<()> {
        let length = bytes.len();
        let head = Frame::Data {
            stream,
            fin,
            length,
        };
        self.raw(&[&head.encode(), bytes].concat()).await
    }

    /// Writes whatever it is.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.socket.write_all(bytes).await?)
    }
}

impl SpdyReader {
    /// The next frame, with its bytes where it has data; `None` at the connection's end.
    ///
    /// # Errors
    /// What comes is no frame.
    pub async fn next(&mut self) -> Result<Option<(Frame, Vec<u8>)>> {
        loop {
            match Frame::decode(&self.buffer) {
                Ok((frame, rest)) => {
                    let length = match &frame {
                        Frame::Data { length, .. } => *length,
                        _ => 0,
                    };
                    if rest.len() >= length {
                        let (bytes, rest) = rest.split_at(length);
                        let (bytes, rest) = (bytes.to_vec(), rest.to_vec());
                        self.buffer = rest;
                        return Ok(Some((frame, bytes)));
                    }
                }
                Err(Undecodable::Incomplete) => {}
                Err(wrong) => return Err(wrong.into()),
            }
            match self.socket.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) => {}
            }
        }
    }
}
