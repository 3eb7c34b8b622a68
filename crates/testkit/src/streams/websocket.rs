//! WebSocket, as a client speaks it.

use anyhow::{Context as _, Result};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::{Endpoint, Socket};

/// A connection.
pub type WebSocket = WebSocketStream<Socket>;

/// Connects, asking for one protocol.
///
/// # Errors
/// The server refuses, or agrees on something else.
pub async fn websocket(endpoint: impl Into<Endpoint<'_>>, protocol: &str) -> Result<WebSocket> {
    let endpoint = endpoint.into();
    let (host, path) = endpoint.parts()?;
    let mut request = format!("ws://{host}{path}").into_client_request()?;
    if !protocol.is_empty() {
        let protocol = protocol.parse()?;
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", protocol);
    }
    let socket = endpoint.dial().await?;
    let connected = tokio_tungstenite::client_async(request, socket).await;
    let (socket, _answer) = connected.context("upgrade to WebSocket")?;
    Ok(socket)
}
