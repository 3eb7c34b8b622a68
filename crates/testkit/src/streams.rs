//! A client of the streaming server: exec, attach and port forwarding by SPDY and by WebSocket.

mod endpoint;
mod remote;
mod spdy;
mod websocket;

pub use endpoint::{Endpoint, Socket, Trust};
pub use remote::{Outcome, Remote, RemoteReader, RemoteWriter, Transport};
pub use spdy::{Spdy, SpdyReader, SpdyWriter};
pub use websocket::{WebSocket, websocket};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Sends a request without a body and reads the head of the answer: its status and its text.
///
/// # Errors
/// The connection fails.
pub async fn request(
    endpoint: impl Into<Endpoint<'_>>,
    headers: &[(&str, &str)],
) -> Result<(Socket, u16, String)> {
    let endpoint = endpoint.into();
    let (host, path) = endpoint.parts()?;
    let mut socket = endpoint.dial().await?;
    let headers: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
    socket.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        // What follows belongs to somebody else.
        answer.push(socket.read_u8().await.context("an answer")?);
    }
    let answer = String::from_utf8(answer)?;
    let status = answer.split(' ').nth(1).context("a status")?.parse()?;
    Ok((socket, status, answer))
}
