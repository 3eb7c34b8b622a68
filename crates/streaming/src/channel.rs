//! What a session has of its connection, whichever protocol that speaks: ways in and ways out.
//!
//! Both are bounded, in bytes on the way in and in pieces on the way out. Where a bound is reached,
//! whoever has more waits: a process behind a slow client, or a client before a slow process.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::limits;
use crate::spdy::flow::Window;

/// What a session says, in its order.
#[derive(Debug)]
pub(crate) enum Output {
    /// Bytes of a stream.
    Data { stream: u32, bytes: Bytes },
    /// A stream's end.
    End { stream: u32 },
    /// All is said.
    Finish,
}

/// Outputs on their way to the connection's writer.
pub(crate) type Queue = mpsc::Sender<Output>;

/// Makes a queue for a connection.
pub(crate) fn queue() -> (Queue, mpsc::Receiver<Output>) {
    mpsc::channel(limits::PIECES_OUT)
}

/// The way out of one stream.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    stream: u32,
    queue: Queue,
    /// What the client lets us send, where the protocol has such a thing.
    window: Option<Arc<Window>>,
}

/// The connection is gone.
#[derive(Debug)]
pub(crate) struct Gone;

impl Outgoing {
    pub(crate) fn new(stream: u32, queue: &Queue) -> Self {
        let (queue, window) = (queue.clone(), None);
        Self {
            stream,
            queue,
            window,
        }
    }

    /// One that obeys a window.
    pub(crate) fn windowed(stream: u32, queue: &Queue, window: Arc<Window>) -> Self {
        let window = Some(window);
        Self {
            window,
            ..Self::new(stream, queue)
        }
    }

    /// Waits while the client is slow.
    pub(crate) async fn write(&self, mut bytes: Bytes) -> Result<(), Gone> {
        let stream = self.stream;
        loop {
            let length = match &self.window {
                Some(window) => window.take(bytes.len()).await,
                None => bytes.len(),
            };
            let piece = bytes.split_to(length.min(bytes.len()));
            let output = Output::Data {
                stream,
                bytes: piece,
            };
            self.queue.send(output).await.map_err(|_| Gone)?;
            if bytes.is_empty() {
                return Ok(());
            }
        }
    }

    /// Tells the stream's end.
    pub(crate) async fn end(self) {
        let stream = self.stream;
        // With the connection gone it has ended.
        self.queue.send(Output::End { stream }).await.ok();
    }
}

/// Room for what came in and was not taken.
#[derive(Debug, Clone)]
pub(crate) struct Room(Arc<Semaphore>);

impl Room {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }
}

#[derive(Debug)]
enum Piece {
    Data(Bytes, OwnedSemaphorePermit),
    End,
}

/// The connection's end of a way in. Dropped without [`Feed::end`], the stream was cut.
#[derive(Debug)]
pub(crate) struct Feed {
    pieces: mpsc::UnboundedSender<Piece>,
    room: Room,
}

/// The session's end of a way in.
#[derive(Debug)]
pub(crate) struct Incoming(mpsc::UnboundedReceiver<Piece>);

/// What comes in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// Bytes.
    Data(Bytes),
    /// The stream's end: the client has said all.
    End,
    /// The stream was reset.
    Cut,
}

/// Makes a way in.
pub(crate) fn incoming(room: &Room) -> (Feed, Incoming) {
    let (pieces, taken) = mpsc::unbounded_channel();
    let room = room.clone();
    (Feed { pieces, room }, Incoming(taken))
}

impl Feed {
    /// Hands bytes on, of which nobody may want any more. Waits while there is no room.
    pub(crate) async fn push(&self, bytes: &[u8]) {
        for bytes in bytes.chunks(limits::PIECE_BYTES) {
            if self.pieces.is_closed() {
                return;
            }
            let cost = bytes.len().max(limits::PIECE_LEAST);
            let cost = u32::try_from(cost).unwrap_or(u32::MAX);
            let room = Arc::clone(&self.room.0).acquire_many_owned(cost);
            // Given up where the taker goes: others hold what there is.
            let room = tokio::select! {
                room = room => room,
                () = self.pieces.closed() => return,
            };
            let Ok(room) = room else { return };
            // Copied: a slice of the connection's buffer would keep all of it.
            let piece = Piece::Data(Bytes::copy_from_slice(bytes), room);
            self.pieces.send(piece).ok();
        }
    }

    /// Tells the stream's end.
    pub(crate) fn end(self) {
        // Nobody may wait for it any more.
        self.pieces.send(Piece::End).ok();
    }

    /// Whether nobody takes what comes in.
    pub(crate) fn is_closed(&self) -> bool {
        self.pieces.is_closed()
    }
}

impl Incoming {
    /// The next of what comes in.
    pub(crate) async fn next(&mut self) -> Input {
        match self.0.recv().await {
            Some(Piece::Data(bytes, _room)) => Input::Data(bytes),
            Some(Piece::End) => Input::End,
            None => Input::Cut,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_taker_holds_the_feeder_back() {
        let room = Room::new(2 * limits::PIECE_BYTES);
        let (feed, mut taken) = incoming(&room);
        let bytes = vec![7; 3 * limits::PIECE_BYTES];
        let mut pushing = Box::pin(feed.push(&bytes));
        tokio::select! {
            biased;
            () = &mut pushing => panic!("there was no room"),
            () = tokio::task::yield_now() => {}
        }
        let piece = Input::Data(vec![7; limits::PIECE_BYTES].into());
        assert_eq!(taken.next().await, piece);
        pushing.await;
        feed.end();
        assert_eq!(taken.next().await, piece);
        assert_eq!(taken.next().await, piece);
        assert_eq!(taken.next().await, Input::End);
    }

    #[tokio::test]
    async fn what_nobody_takes_holds_nobody_back() {
        let room = Room::new(limits::PIECE_BYTES);
        let (feed, taken) = incoming(&room);
        let bytes = vec![7; 2 * limits::PIECE_BYTES];
        let mut pushing = Box::pin(feed.push(&bytes));
        tokio::select! {
            biased;
            () = &mut pushing => panic!("there was no room"),
            () = tokio::task::yield_now() => {}
        }
        drop(taken);
        pushing.await;
        assert!(feed.is_closed());
        assert_eq!(room.0.available_permits(), limits::PIECE_BYTES);
    }

    #[tokio::test]
    async fn a_cut_is_no_end() {
        let (feed, mut taken) = incoming(&Room::new(limits::PIECE_BYTES));
        feed.push(b"x").await;
        drop(feed);
        assert_eq!(taken.next().await, Input::Data(Bytes::from_static(b"x")));
        assert_eq!(taken.next().await, Input::Cut);
    }
}
