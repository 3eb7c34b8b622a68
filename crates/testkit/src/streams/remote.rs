//! Exec and attach from the client's side, over either transport.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use streaming::spdy::frame::Frame;
use streaming::websocket::message::{self, Protocol};
use tokio_tungstenite::tungstenite::Message;

use super::{Endpoint, Spdy, SpdyReader, SpdyWriter, WebSocket, websocket};

/// How to speak: a transport and a protocol over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// SPDY, with one of the `channel.k8s.io`; empty for the oldest.
    Spdy(&'static str),
    /// WebSocket, likewise.
    WebSocket(&'static str),
}

impl Transport {
    /// The best of each.
    pub const BEST: [Self; 2] = [
        Self::Spdy("v4.channel.k8s.io"),
        Self::WebSocket("v5.channel.k8s.io"),
    ];
}

/// A process and its client. Channels are numbered as WebSocket has them: 0 stdin, 1 stdout,
/// 2 stderr, 3 the status, 4 the terminal's size.
#[derive(Debug)]
pub struct Remote {
    /// Its end to write to.
    pub writer: RemoteWriter,
    /// Its end to read from.
    pub reader: RemoteReader,
}

/// Writes to a process.
#[derive(Debug)]
pub enum RemoteWriter {
    /// By SPDY.
    Spdy(SpdyWriter, HashMap<u8, u32>),
    /// By WebSocket.
    WebSocket(SplitSink<WebSocket, Message>, Protocol),
}

/// Reads from a process.
#[derive(Debug)]
pub enum RemoteReader {
    /// By SPDY.
    Spdy(SpdyReader, HashMap<u32, u8>),
    /// By WebSocket.
    WebSocket(SplitStream<WebSocket>, Protocol),
}

/// All that a session said.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// The status, as it came.
    pub status: Vec<u8>,
}

impl Outcome {
    /// The exit code that the status tells.
    ///
    /// # Errors
    /// It is no status of a process's end.
    pub fn code(&self) -> Result<i32> {
        let text = String::from_utf8_lossy(&self.status);
        let status: Value =
            serde_json::from_slice(&self.status).with_context(|| text.to_string())?;
        if status["status"] == "Success" {
            return Ok(0);
        }
        let code = status["details"]["causes"][0]["message"].as_str();
        let code = code.filter(|_| status["reason"] == "NonZeroExitCode");
        Ok(code.with_context(|| text.to_string())?.parse()?)
    }
}

const NAMES: [(u8, &str); 5] = [
    (3, "error"),
    (0, "stdin"),
    (1, "stdout"),
    (2, "stderr"),
    (4, "resize"),
];

impl Remote {
    /// Claims a session; `channels` are those that were asked for, the status always.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn connect(
        endpoint: impl Into<Endpoint<'_>>,
        transport: Transport,
        channels: &[u8],
    ) -> Result<Self> {
        match transport {
            Transport::WebSocket(name) => {
                let socket = websocket(endpoint, name).await?;
                let protocol = message::choose(message::REMOTE, [name]).context("a protocol")?;
                let (write, read) = socket.split();
                Ok(Self {
                    writer: RemoteWriter::WebSocket(write, protocol),
                    reader: RemoteReader::WebSocket(read, protocol),
                })
            }
            Transport::Spdy(name) => {
                let Spdy { mut writer, reader } = Spdy::connect(endpoint, name).await?;
                let mut streams = HashMap::new();
                for (channel, name) in NAMES {
                    if channel == 3 || channels.contains(&channel) {
                        streams.insert(channel, writer.open(&[("streamtype", name)]).await?);
                    }
                }
                let back = streams
                    .iter()
                    .map(|(channel, id)| (*id, *channel))
                    .collect();
                Ok(Self {
                    writer: RemoteWriter::Spdy(writer, streams),
                    reader: RemoteReader::Spdy(reader, back),
                })
            }
        }
    }

    /// Sends input to its end, and reads all that comes.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn talk(mut self, input: Option<&[u8]>) -> Result<Outcome> {
        let send = async {
            if let Some(input) = input {
                for piece in input.chunks(30_000) {
                    // A process that ends at once needs no input.
                    if self.writer.send(0, piece).await.is_err() {
                        return;
                    }
                }
                self.writer.end(0).await.ok();
            }
        };
        let ((), outcome) = tokio::join!(send, self.reader.rest());
        outcome
    }
}

impl RemoteWriter {
    /// Sends bytes on a channel.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn send(&mut self, channel: u8, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Spdy(writer, streams) => {
                let stream = *streams.get(&channel).context("a stream")?;
                writer.data(stream, bytes, false).await
            }
            Self::WebSocket(socket, protocol) => {
                let message = protocol.encode(channel, bytes);
                let message = if protocol.is_text() {
                    Message::Text(String::from_utf8(message)?.into())
                } else {
                    Message::Binary(message.into())
                };
                Ok(socket.send(message).await?)
            }
        }
    }

    /// Ends a channel; WebSocket has a way only since version 5.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn end(&mut self, channel: u8) -> Result<()> {
        match self {
            Self::Spdy(writer, streams) => {
                let stream = *streams.get(&channel).context("a stream")?;
                writer.data(stream, &[], true).await
            }
            Self::WebSocket(socket, _) => Ok(socket
                .send(Message::Binary(vec![255, channel].into()))
                .await?),
        }
    }
}

impl RemoteReader {
    /// What comes next, and on which channel; `None` when all was said.
    ///
    /// # Errors
    /// What comes makes no sense.
    pub async fn next(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        match self {
            Self::Spdy(reader, channels) => loop {
                match reader.next().await? {
                    None => return Ok(None),
                    Some((Frame::Data { stream, fin, .. }, bytes)) => {
                        let channel = *channels.get(&stream).context("a stream")?;
                        if channel == 3 && fin {
                            return Ok(None);
                        }
                        return Ok(Some((channel, bytes)));
                    }
                    Some(_) => {}
                }
            },
            Self::WebSocket(socket, protocol) => loop {
                let bytes = match socket.next().await {
                    Some(Ok(Message::Binary(bytes))) => bytes,
                    Some(Ok(Message::Text(text))) => text.into(),
                    None | Some(Ok(Message::Close(_))) => return Ok(None),
                    Some(other) => {
                        other?;
                        continue;
                    }
                };
                return match protocol.decode(&bytes)? {
                    message::Message::Data(channel, bytes) => {
                        Ok(Some((channel, bytes.into_owned())))
                    }
                    message::Message::End(_) => continue,
                };
            },
        }
    }

    /// Reads all that comes.
    ///
    /// # Errors
    /// What comes makes no sense.
    pub async fn rest(&mut self) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        while let Some((channel, bytes)) = self.next().await? {
            match channel {
                1 => outcome.stdout.extend(bytes),
                2 => outcome.stderr.extend(bytes),
                3 => outcome.status.extend(bytes),
                _ => {}
            }
        }
        Ok(outcome)
    }

    /// Reads output until it ends with `text`, and returns it.
    ///
    /// # Errors
    /// It ends before.
    pub async fn until(&mut self, text: &str) -> Result<String> {
        let mut output = Vec::new();
        while !String::from_utf8_lossy(&output).trim_end().ends_with(text) {
            let (_, bytes) = self
                .next()
                .await?
                .with_context(|| format!("an end before {text:?}"))?;
            output.extend(bytes);
        }
        Ok(String::from_utf8_lossy(&output).into_owned())
    }
}
