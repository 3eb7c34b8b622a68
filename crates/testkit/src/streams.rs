//! A client of the streaming server: exec, attach and port forwarding by SPDY and by WebSocket.

mod remote;
mod spdy;
mod websocket;

pub use remote::{Outcome, Remote, RemoteReader, RemoteWriter, Transport};
pub use spdy::{Spdy, SpdyReader, SpdyWriter};
pub use websocket::{WebSocket, websocket};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// `HOST:PORT` and the path of a URL.
///
/// # Errors
/// It is none.
pub fn parts(url: &str) -> Result<(&str, &str)> {
    let rest = url.split_once("://").context("a URL")?.1;
    let at = rest.find('/').context("a URL with a path")?;
    Ok(rest.split_at(at))
}

/// Sends a request without a body and reads the head of the answer: its status and its text.
///
/// # Errors
/// The connection fails.
pub async fn request(url: &str, headers: &[(&str, &str)]) -> Result<(TcpStream, u16, String)> {
    let (host, path) = parts(url)?;
    let mut socket = TcpStream::connect(host).await?;
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
