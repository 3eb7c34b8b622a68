//! Port forwarding: per connection of the client's a pair of ways, one for bytes and one for what
//! went wrong.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::backend::Backend;
use crate::channel::{Incoming, Input, Outgoing};
use crate::limits;
use crate::spdy::connection::Opened;
use crate::websocket::connection::Channels;

/// The port inside of which pod.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) pod: String,
}

/// Forwards what a SPDY client opens streams for, until it goes. A pair are the streams with the
/// header `streamtype` `data` and `error` and the same `requestid`.
pub(crate) async fn over_streams(mut opened: mpsc::Receiver<Opened>, target: Target) {
    let mut halves: HashMap<String, (Opened, Instant)> = HashMap::new();
    let mut pairs = FuturesUnordered::new();
    loop {
        let oldest = halves.values().map(|(_, end)| *end).min();
        tokio::select! {
            stream = opened.recv() => {
                let Some(stream) = stream else { return };
                let Some(id) = request_id(&stream) else { continue };
                match halves.remove(&id) {
                    Some((other, _)) => pairs.extend(pair(other, stream, &target)),
                    None => {
                        halves.insert(id, (stream, Instant::now() + limits::CREATION));
                    }
                }
            }
            Some(()) = pairs.next() => {}
            () = sleep_until(oldest.unwrap_or_else(Instant::now)), if oldest.is_some() => {
                let now = Instant::now();
                halves.retain(|_, (_, end)| *end > now);
            }
        }
    }
}

/// What ties two streams together: a client that gives no id opens the error stream first, and the
/// data stream's number is the next one.
fn request_id(stream: &Opened) -> Option<String> {
    match (
        stream.headers.get("requestid"),
        stream.headers.get("streamtype")?,
    ) {
        (Some(id), "data" | "error") => Some(id.to_owned()),
        (None, "error") => Some(stream.stream.to_string()),
        (None, "data") => Some(stream.stream.checked_sub(2)?.to_string()),
        _ => None,
    }
}

/// `None` of two that don't match: both are dropped.
fn pair(one: Opened, other: Opened, target: &Target) -> Option<impl Future<Output = ()> + use<>> {
    let kind = |stream: &Opened| stream.headers.get("streamtype").map(str::to_owned);
    let (data, error) = match (kind(&one).as_deref(), kind(&other).as_deref()) {
        (Some("data"), Some("error")) => (one, other),
        (Some("error"), Some("data")) => (other, one),
        _ => return None,
    };
    let port = data.headers.get("port").and_then(|port| port.parse().ok());
    let target = target.clone();
    Some(async move {
        let Opened {
            incoming, outgoing, ..
        } = data;
        match port {
            Some(port) if port != 0 => {
                forward(&target, port, incoming, outgoing, error.outgoing).await;
            }
            _ => fail(outgoing, error.outgoing, "no port is named".to_owned()).await,
        }
    })
}

/// Forwards ports that were named before, over two channels each, until all are done.
pub(crate) async fn over_channels(mut channels: Channels, target: Target, ports: Vec<u16>) {
    let forwards = FuturesUnordered::new();
    for (channel, port) in (0_u8..).step_by(2).zip(ports) {
        let (data, error) = (channels.outgoing(channel), channels.outgoing(channel | 1));
        let Some(incoming) = channels.take(channel) else {
            continue;
        };
        // Which port it is, so that a client need not count.
        let number = port.to_le_bytes();
        for way in [&data, &error] {
            if way.write(number.to_vec().into()).await.is_err() {
                return;
            }
        }
        forwards.push(forward(&target, port, incoming, data, error));
    }
    forwards.collect::<()>().await;
}

async fn forward(target: &Target, port: u16, incoming: Incoming, data: Outgoing, error: Outgoing) {
    let socket = match target.backend.connect(&target.pod, port).await {
        Ok(socket) => socket,
        Err(refusal) => {
            let text = format!(
                "error forwarding port {port} to pod {}: {refusal}",
                target.pod
            );
            return fail(data, error, text).await;
        }
    };
    let (read, write) = socket.into_split();
    let down = async {
        match receive(read, &data).await {
            Ok(()) => {}
            Err(lost) => {
                let text = format!("error forwarding port {port} to pod {}: {lost}", target.pod);
                // With the connection gone nobody is there to be told.
                error.write(text.into()).await.ok();
            }
        }
        // The client waits for both.
        data.end().await;
        error.end().await;
    };
    tokio::pin!(down);
    let up = send(incoming, write);
    tokio::select! {
        sent = up => match sent {
            // The pod may still have something to say.
            Sent::All => down.await,
            Sent::Cut => {}
        },
        // As CRI-O has it: with the pod's last word all is over, and what still comes is dropped.
        () = &mut down => {}
    }
}

async fn fail(data: Outgoing, error: Outgoing, text: String) {
    tracing::debug!(text, "port not forwarded");
    if error.write(text.into()).await.is_ok() {
        error.end().await;
        data.end().await;
    }
}

enum Sent {
    /// The client has said all, or the pod does not listen any more.
    All,
    /// The client has given it up.
    Cut,
}

async fn send(mut from: Incoming, mut to: OwnedWriteHalf) -> Sent {
    loop {
        match from.next().await {
            Input::Data(bytes) => {
                if to.write_all(&bytes).await.is_err() {
                    return Sent::All;
                }
            }
            Input::End => {
                // The pod sees it, or is gone.
                to.shutdown().await.ok();
                return Sent::All;
            }
            Input::Cut => return Sent::Cut,
        }
    }
}

async fn receive(mut from: OwnedReadHalf, to: &Outgoing) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(limits::PIECE_BYTES);
        if from.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        if to.write(buffer.split().freeze()).await.is_err() {
            return Ok(());
        }
    }
}
