//! A SPDY connection: frames from and to a socket, streams for a session.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::flow::{Flow, Overflow};
use super::frame::{Frame, Undecodable, status};
use super::headers::{Headers, Inflater, Storer};
use crate::channel::{Feed, Incoming, Outgoing, Output, Queue, Room, incoming, queue};
use crate::conversation::{self, Activity, Ended};
use crate::limits;

/// Bytes after which a client is told that they were taken.
const WINDOW_STEP: usize = 32 * 1024;

/// A stream that the client opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) stream: u32,
    pub(crate) headers: Headers,
    pub(crate) incoming: Incoming,
    pub(crate) outgoing: Outgoing,
    /// Its place among the connection's [`limits::STREAMS`].
    _slot: OwnedSemaphorePermit,
}

/// What the reader has the writer say.
#[derive(Debug)]
enum Control {
    Accept(u32),
    Say(Frame),
}

/// Talks over `socket` until `session` ends, or the client goes. The session is given the streams
/// as they are opened.
pub(crate) async fn run<S, F>(
    socket: S,
    held: usize,
    idle: Duration,
    session: impl FnOnce(mpsc::Receiver<Opened>) -> F,
) -> Ended
where
    S: AsyncRead + AsyncWrite,
    F: Future<Output = ()>,
{
    let activity = Activity::new(idle);
    let (read, write) = split(socket);
    let (queue, outputs) = queue();
    let (controls, said) = mpsc::channel(limits::CONTROLS_OUT);
    let (opened, streams) = mpsc::channel(limits::STREAMS);
    let reader = Reader {
        socket: read,
        buffer: BytesMut::new(),
        streams: HashMap::new(),
        last: 0,
        inflater: Inflater::default(),
        room: Room::new(held),
        slots: Arc::new(Semaphore::new(limits::STREAMS)),
        opened,
        queue: queue.clone(),
        controls,
        flow: Arc::default(),
        untold: 0,
        activity: &activity,
    };
    let reader = async {
        if let Err(error) = reader.run().await {
            tracing::debug!(%error, "SPDY connection ended");
        }
    };
    let writer = write_all(write, outputs, said, &activity);
    conversation::run(reader, writer, session(streams), queue, &activity).await
}

struct Reader<'a, R> {
    socket: R,
    buffer: BytesMut,
    streams: HashMap<u32, Stream>,
    /// The stream that was opened last.
    last: u32,
    inflater: Inflater,
    room: Room,
    slots: Arc<Semaphore>,
    opened: mpsc::Sender<Opened>,
    queue: Queue,
    controls: mpsc::Sender<Control>,
    flow: Arc<Flow>,
    /// Bytes of all streams that the client was not told to be taken.
    untold: usize,
    activity: &'a Activity,
}

struct Stream {
    feed: Feed,
    /// Bytes that the client was not told to be taken.
    untold: usize,
}

impl<R: AsyncRead + Unpin> Reader<'_, R> {
    async fn run(mut self) -> io::Result<()> {
        let wrong = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        loop {
            let frame = match Frame::decode(&self.buffer) {
                Ok((frame, rest)) => {
                    let taken = self.buffer.len() - rest.len();
                    self.buffer.advance(taken);
                    frame
                }
                Err(Undecodable::Incomplete) => {
                    if self.fill().await? == 0 {
                        return Ok(());
                    }
                    continue;
                }
                Err(Undecodable::Wrong(why)) => return Err(wrong(why.to_owned())),
            };
            // What answers our own pings keeps nobody alive.
            if !matches!(frame, Frame::Ping(id) if id & 1 == 0) {
                self.activity.note();
            }
            match frame {
                Frame::SynStream { stream, fin, block } => {
                    let headers = self.inflate(&block)?;
                    if stream & 1 == 0 || stream <= self.last {
                        return Err(wrong(format!("stream {stream} after {}", self.last)));
                    }
                    self.last = stream;
                    self.open(stream, fin, headers).await;
                }
                // Their headers say nothing, but are in the one context.
                Frame::SynReply { stream, fin, block } | Frame::Headers { stream, fin, block } => {
                    self.inflate(&block)?;
                    if fin {
                        self.end(stream);
                    }
                }
                Frame::Reset { stream, .. } => drop(self.streams.remove(&stream)),
                Frame::Ping(id) if id & 1 == 1 => self.say(Frame::Ping(id)).await,
                Frame::Data {
                    stream,
                    fin,
                    length,
                } => {
                    self.data(stream, length).await?;
                    if fin {
                        self.end(stream);
                    }
                }
                Frame::Settings {
                    initial_window: Some(window),
                } => {
                    let set = self.flow.settings(window);
                    set.map_err(|_| wrong("a window of more than 31 bits".to_owned()))?;
                }
                Frame::WindowUpdate { stream, delta } => self.update(stream, delta).await?,
                Frame::Ping(_)
                | Frame::GoAway { .. }
                | Frame::Settings {
                    initial_window: None,
                }
                | Frame::Unknown(_) => {}
            }
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(2 * limits::PIECE_BYTES);
        self.socket.read_buf(&mut self.buffer).await
    }

    fn inflate(&mut self, block: &[u8]) -> io::Result<Headers> {
        let inflated = self.inflater.inflate(block);
        let headers = inflated.and_then(|block| Headers::parse(&block));
        headers.map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad))
    }

    async fn open(&mut self, stream: u32, fin: bool, headers: Headers) {
        if self.streams.len() >= limits::STREAMS {
            self.streams.retain(|_, stream| !stream.feed.is_closed());
        }
        let refuse = Frame::Reset {
            stream,
            status: status::REFUSED_STREAM,
        };
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            return self.say(refuse).await;
        };
        if self.streams.len() >= limits::STREAMS || self.opened.is_closed() {
            return self.say(refuse).await;
        }
        let (feed, incoming) = incoming(&self.room);
        let opened = Opened {
            stream,
            headers,
            incoming,
            outgoing: Outgoing::windowed(stream, &self.queue, self.flow.open(stream)),
            _slot: slot,
        };
        // Before the session can say anything on it. There is a place for every slot.
        self.controls.send(Control::Accept(stream)).await.ok();
        self.opened.try_send(opened).ok();
        if fin {
            feed.end();
        } else {
            self.streams.insert(stream, Stream { feed, untold: 0 });
        }
    }

    async fn update(&mut self, stream: u32, delta: u32) -> io::Result<()> {
        match self.flow.update(stream, delta) {
            Ok(()) => Ok(()),
            Err(Overflow) if stream == 0 => {
                let text = "a window of more than 31 bits";
                Err(io::Error::new(io::ErrorKind::InvalidData, text))
            }
            Err(Overflow) => {
                drop(self.streams.remove(&stream));
                let status = status::FLOW_CONTROL_ERROR;
                self.say(Frame::Reset { stream, status }).await;
                Ok(())
            }
        }
    }

    fn end(&mut self, stream: u32) {
        if let Some(stream) = self.streams.remove(&stream) {
            stream.feed.end();
        }
    }

    /// Hands on a data frame's payload as it comes, whatever its length.
    async fn data(&mut self, stream: u32, mut length: usize) -> io::Result<()> {
        while length > 0 {
            if self.buffer.is_empty() && self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let piece = length.min(self.buffer.len()).min(limits::PIECE_BYTES);
            let bytes = self.buffer.split_to(piece);
            length -= piece;
            self.activity.note();
            self.untold += piece;
            if self.untold >= WINDOW_STEP {
                let delta = u32::try_from(std::mem::take(&mut self.untold)).unwrap_or(0);
                self.say(Frame::WindowUpdate { stream: 0, delta }).await;
            }
            // One that has ended, or was refused: nobody minds.
            let Some(open) = self.streams.get_mut(&stream) else {
                continue;
            };
            open.feed.push(&bytes).await;
            open.untold += piece;
            if open.untold >= WINDOW_STEP {
                let delta = u32::try_from(std::mem::take(&mut open.untold)).unwrap_or(0);
                self.say(Frame::WindowUpdate { stream, delta }).await;
            }
        }
        Ok(())
    }

    /// Waits while the client does not read: its flood is its own.
    async fn say(&mut self, frame: Frame) {
        // At the end nobody writes any more.
        self.controls.send(Control::Say(frame)).await.ok();
    }
}

async fn write_all<W: AsyncWrite + Unpin>(
    mut socket: W,
    mut outputs: mpsc::Receiver<Output>,
    mut controls: mpsc::Receiver<Control>,
    activity: &Activity,
) -> io::Result<()> {
    let (mut storer, mut ping) = (Storer::default(), 2);
    loop {
        let next = tokio::select! {
            biased;
            Some(control) = controls.recv() => Ok(control),
            Some(output) = outputs.recv() => Err(output),
            () = tokio::time::sleep_until(tokio::time::Instant::now() + limits::KEEPALIVE) => {
                let frame = Frame::Ping(ping);
                ping = if ping > u32::MAX / 2 { 2 } else { ping + 2 };
                Ok(Control::Say(frame))
            }
        };
        match next {
            Ok(Control::Accept(stream)) => {
                let (fin, block) = (false, storer.store(&Headers::default()));
                let frame = Frame::SynReply { stream, fin, block };
                socket.write_all(&frame.encode()).await?;
            }
            Ok(Control::Say(frame)) => socket.write_all(&frame.encode()).await?,
            Err(Output::Data { stream, bytes }) => {
                activity.note();
                let head = Frame::Data {
                    stream,
                    fin: false,
                    length: bytes.len(),
                };
                // One write, so that TLS makes one record of it.
                socket
                    .write_all(&[&head.encode(), &bytes[..]].concat())
                    .await?;
            }
            Err(Output::End { stream }) => {
                let (fin, length) = (true, 0);
                let frame = Frame::Data {
                    stream,
                    fin,
                    length,
                };
                socket.write_all(&frame.encode()).await?;
            }
            Err(Output::Finish) => return socket.flush().await,
        }
        if outputs.is_empty() {
            socket.flush().await?;
        }
    }
}
