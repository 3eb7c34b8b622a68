//! SPDY inside of WebSocket: binary messages are pieces of one stream of bytes each way.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, split,
};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::limits;

/// Copies between messages and bytes until one side ends.
pub(crate) async fn run<S>(socket: WebSocketStream<S>, bytes: DuplexStream)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut outward, mut inward) = socket.split();
    let (mut read, mut write) = split(bytes);
    let inside = async {
        while let Some(Ok(message)) = inward.next().await {
            let piece = match message {
                Message::Binary(piece) => piece,
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
                Message::Text(_) | Message::Close(_) => break,
            };
            if write.write_all(&piece).await.is_err() {
                break;
            }
        }
        // The inner connection sees its end, and ends.
        write.shutdown().await.ok();
    };
    let outside = async {
        let mut buffer = vec![0; limits::PIECE_BYTES];
        loop {
            let count = match read.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            };
            let piece = buffer.get(..count).unwrap_or_default().to_vec();
            if outward.send(Message::Binary(piece.into())).await.is_err() {
                return;
            }
        }
        // Told to a client that may be gone.
        outward.close().await.ok();
    };
    // A client that does not close in time is closed; one that closes has the inner connection end,
    // whose last words may still be under way.
    tokio::pin!(inside, outside);
    tokio::select! {
        () = &mut inside => outside.await,
        () = &mut outside => {
            tokio::time::timeout(limits::FAREWELL, inside).await.ok();
        }
    }
}
