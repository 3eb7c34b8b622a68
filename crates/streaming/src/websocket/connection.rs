//! A WebSocket connection: messages from and to a socket, channels for a session.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::time::Duration;

use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message as Wire};

use super::{Message, Protocol};
use crate::channel::{Feed, Incoming, Outgoing, Output, Queue, Room, incoming, queue};
use crate::conversation::{self, Activity, Ended};
use crate::limits;

/// Takes over a socket whose upgrade was answered.
pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(socket: S) -> WebSocketStream<S> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(limits::MESSAGE_BYTES))
        .max_frame_size(Some(limits::MESSAGE_BYTES))
        // Written when flushed, not before.
        .read_buffer_size(limits::PIECE_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * limits::PIECE_BYTES);
    WebSocketStream::from_raw_socket(socket, Role::Server, Some(config)).await
}

/// The channels of a connection.
#[derive(Debug)]
pub(crate) struct Channels {
    incoming: HashMap<u8, Incoming>,
    queue: Queue,
}

impl Channels {
    /// The way in of a channel that was asked for; there once.
    pub(crate) fn take(&mut self, channel: u8) -> Option<Incoming> {
        self.incoming.remove(&channel)
    }

    /// The way out of a channel.
    pub(crate) fn outgoing(&self, channel: u8) -> Outgoing {
        Outgoing::new(channel.into(), &self.queue)
    }
}

/// Talks over `socket` until `session` ends, or the client goes. What comes in on another channel
/// than `listen` names is dropped.
pub(crate) async fn run<S, F>(
    socket: WebSocketStream<S>,
    protocol: Protocol,
    listen: impl IntoIterator<Item = u8>,
    idle: Duration,
    session: impl FnOnce(Channels) -> F,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = ()>,
{
    let activity = Activity::new(idle);
    let (write, read) = socket.split();
    let (queue, outputs) = queue();
    let room = Room::new(limits::HELD_BYTES);
    let (mut feeds, mut ways) = (HashMap::new(), HashMap::new());
    for channel in listen {
        let (feed, way) = incoming(&room);
        feeds.insert(channel, feed);
        ways.insert(channel, way);
    }
    let channels = Channels {
        incoming: ways,
        queue: queue.clone(),
    };
    let reader = async {
        if let Err(error) = read_all(read, protocol, feeds, &activity).await {
            tracing::debug!(%error, "WebSocket connection ended");
        }
    };
    let writer = write_all(write, protocol, outputs, &activity);
    conversation::run(reader, writer, session(channels), queue, &activity).await
}

async fn read_all(
    mut socket: impl Stream<Item = Result<Wire, Error>> + Unpin,
    protocol: Protocol,
    mut feeds: HashMap<u8, Feed>,
    activity: &Activity,
) -> io::Result<()> {
    while let Some(message) = socket.next().await {
        let bytes = match message.map_err(io::Error::other)? {
            Wire::Binary(bytes) => bytes,
            Wire::Text(text) => text.into(),
            // Answered by the library.
            Wire::Ping(_) => {
                activity.note();
                continue;
            }
            // What answers our own pings keeps nobody alive.
            Wire::Pong(_) | Wire::Frame(_) => continue,
            Wire::Close(_) => return Ok(()),
        };
        activity.note();
        match protocol.decode(&bytes).map_err(io::Error::other)? {
            Message::Data(channel, bytes) => {
                if let Some(feed) = feeds.get(&channel) {
                    feed.push(&bytes).await;
                }
            }
            Message::End(channel) => {
                if let Some(feed) = feeds.remove(&channel) {
                    feed.end();
                }
            }
        }
    }
    Ok(())
}

async fn write_all(
    mut socket: impl Sink<Wire, Error = Error> + Unpin,
    protocol: Protocol,
    mut outputs: mpsc::Receiver<Output>,
    activity: &Activity,
) -> io::Result<()> {
    loop {
        let output = tokio::select! {
            biased;
            Some(output) = outputs.recv() => output,
            () = tokio::time::sleep_until(tokio::time::Instant::now() + limits::KEEPALIVE) => {
                socket.send(Wire::Ping(Vec::new().into())).await.map_err(io::Error::other)?;
                continue;
            }
        };
        match output {
            Output::Data { stream, bytes } => {
                activity.note();
                let message = protocol.encode(u8::try_from(stream).unwrap_or(u8::MAX), &bytes);
                socket
                    .send(wire(protocol, message))
                    .await
                    .map_err(io::Error::other)?;
            }
            // No protocol has a word for it in this direction.
            Output::End { .. } => {}
            Output::Finish => {
                let close = CloseFrame {
                    code: CloseCode::Normal,
                    reason: "".into(),
                };
                let closed = socket.send(Wire::Close(Some(close))).await;
                return closed.map_err(io::Error::other);
            }
        }
    }
}

fn wire(protocol: Protocol, message: Vec<u8>) -> Wire {
    if protocol.is_text() {
        // ASCII: a digit and base64.
        Wire::Text(String::from_utf8_lossy(&message).into_owned().into())
    } else {
        Wire::Binary(message.into())
    }
}
