//! Exec and attach: a process and a client, joined by up to five streams.

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::size::Sizes;
use super::status::{Form, Status};
use crate::backend::{End, Input as Stdin, Output as Source, Process, Refusal, Resize, Wanted};
use crate::channel::{Incoming, Input, Outgoing};
use crate::limits;
use crate::spdy::connection::Opened;
use crate::websocket::connection::Channels;

/// The client's end of it.
#[derive(Debug)]
pub(crate) struct Streams {
    stdin: Option<Incoming>,
    stdout: Option<Outgoing>,
    stderr: Option<Outgoing>,
    error: Outgoing,
    resize: Option<Incoming>,
    form: Form,
}

/// Channels that a client may send on.
pub(crate) fn channels(wanted: Wanted) -> impl Iterator<Item = u8> {
    let stdin = wanted.stdin.then_some(0);
    stdin.into_iter().chain(wanted.tty.then_some(4))
}

impl Streams {
    /// The channels of a WebSocket.
    pub(crate) fn of_channels(mut channels: Channels, wanted: Wanted, form: Form) -> Self {
        Self {
            stdin: channels.take(0),
            stdout: wanted.stdout.then(|| channels.outgoing(1)),
            stderr: wanted.stderr.then(|| channels.outgoing(2)),
            error: channels.outgoing(3),
            resize: channels.take(4),
            form,
        }
    }

    /// Says that the connection stands, by a message with nothing in it: WebSocket clients wait for
    /// a first one.
    pub(crate) async fn greet(&self) {
        let first = self.stdout.as_ref().or(self.stderr.as_ref());
        // A client that is gone already is noticed by the connection.
        first.unwrap_or(&self.error).write(Bytes::new()).await.ok();
    }

    /// The streams that a SPDY client opens: waits until all that are wanted are there. `None` if
    /// that takes too long.
    pub(crate) async fn of_opened(
        mut opened: mpsc::Receiver<Opened>,
        wanted: Wanted,
        form: Form,
        resizes: bool,
    ) -> Option<Self> {
        let missing = |stream: &Option<Opened>, wanted: bool| wanted && stream.is_none();
        let (mut stdin, mut stdout, mut stderr, mut error, mut resize) =
            (None, None, None, None, None);
        let all = async {
            while missing(&error, true)
                || missing(&stdin, wanted.stdin)
                || missing(&stdout, wanted.stdout)
                || missing(&stderr, wanted.stderr)
                || missing(&resize, wanted.tty && resizes)
            {
                let stream = opened.recv().await?;
                // One that nobody has asked for is left alone.
                match stream.headers.get("streamtype") {
                    Some("error") => error = Some(stream),
                    Some("stdin") => stdin = Some(stream),
                    Some("stdout") => stdout = Some(stream),
                    Some("stderr") => stderr = Some(stream),
                    Some("resize") => resize = Some(stream),
                    _ => {}
                }
            }
            Some(())
        };
        timeout(limits::CREATION, all).await.ok().flatten()?;
        let outgoing = |stream: Option<Opened>, wanted: bool| {
            stream.filter(|_| wanted).map(|stream| stream.outgoing)
        };
        Some(Self {
            stdin: stdin.filter(|_| wanted.stdin).map(|stream| stream.incoming),
            stdout: outgoing(stdout, wanted.stdout),
            stderr: outgoing(stderr, wanted.stderr),
            error: error?.outgoing,
            resize: resize.map(|stream| stream.incoming),
            form,
        })
    }
}

/// Starts the process and joins it to the client until it has ended and all is told. Dropped, it
/// closes the process's streams; the process goes on or not, as it likes.
pub(crate) async fn run(streams: Streams, start: BoxFuture<'static, Result<Process, Refusal>>) {
    let Streams {
        stdin,
        stdout,
        stderr,
        error,
        resize,
        form,
    } = streams;
    let status = match start.await {
        Ok(process) => {
            let (tell, told) = watch::channel(false);
            let attached = process.attached;
            let has_output = process.stdout.is_some() || process.stderr.is_some();
            let outputs = async {
                tokio::join!(
                    copy(process.stdout, stdout, told.clone()),
                    copy(process.stderr, stderr, told.clone())
                );
            };
            let ended = async {
                let end = process.ended.await;
                tell.send_replace(true);
                end
            };
            let end = wait(ended, outputs, attached && has_output);
            let inputs = async {
                tokio::join!(feed(stdin, process.stdin), set_size(resize, process.resize));
                std::future::pending().await
            };
            let end: End = tokio::select! { end = end => end, end = inputs => end };
            match end {
                // A container's own end is no failure of attaching to it.
                End::Exited(_) if attached => Status::success(),
                end => Status::of(&end),
            }
        }
        Err(refusal) => {
            for stream in [stdout, stderr].into_iter().flatten() {
                stream.end().await;
            }
            Status::refused(&refusal)
        }
    };
    let status = status.to_bytes(form);
    if !status.is_empty() && error.write(status.into()).await.is_err() {
        return;
    }
    error.end().await;
}

/// Waits for a process's end and that of its output; only for the latter's where `either` says so.
async fn wait(
    ended: impl Future<Output = End>,
    outputs: impl Future<Output = ()>,
    either: bool,
) -> End {
    tokio::pin!(outputs, ended);
    let end = tokio::select! {
        end = &mut ended => Some(end),
        () = &mut outputs => None,
    };
    match end {
        Some(end) => {
            outputs.await;
            end
        }
        None if either => End::Exited(0),
        None => ended.await,
    }
}

/// Copies output to its end, or, after the process's, until it pauses. What no client wants is read
/// all the same: a terminal that is full stops its process.
async fn copy(source: Option<Source>, to: Option<Outgoing>, mut told: watch::Receiver<bool>) {
    let mut buffer = BytesMut::new();
    let mut source = source;
    while let Some(open) = &mut source {
        buffer.reserve(limits::PIECE_BYTES);
        let pause = async {
            // An error means that the session is being dropped.
            told.wait_for(|ended| *ended).await.ok();
            tokio::time::sleep_until(tokio::time::Instant::now() + limits::DRAIN).await;
        };
        let read = tokio::select! {
            biased;
            read = open.read_buf(&mut buffer) => read,
            () = pause => break,
        };
        // A terminal that nobody has open any more is an error, and an end.
        if matches!(read, Ok(0) | Err(_)) {
            break;
        }
        let bytes = buffer.split().freeze();
        if let Some(to) = &to
            && to.write(bytes).await.is_err()
        {
            return;
        }
    }
    if let Some(to) = to {
        to.end().await;
    }
}

/// Copies input until the client ends it. What a process does not want is read and dropped, so
/// that a client that sends it all the same is not stuck.
async fn feed(from: Option<Incoming>, to: Option<Stdin>) {
    let (Some(mut from), mut to) = (from, to) else {
        return;
    };
    loop {
        let bytes = match from.next().await {
            Input::Data(bytes) => bytes,
            Input::End | Input::Cut => break,
        };
        if let Some(open) = &mut to
            && open.write_all(&bytes).await.is_err()
        {
            to = None;
        }
    }
    if let Some(mut to) = to {
        // It is closed in any case.
        to.shutdown().await.ok();
    }
}

async fn set_size(from: Option<Incoming>, resize: Option<Resize>) {
    let (Some(mut from), Some(resize)) = (from, resize) else {
        return;
    };
    let mut sizes = Sizes::default();
    while let Input::Data(bytes) = from.next().await {
        if let Some(size) = sizes.push(&bytes) {
            resize(size).await;
        }
    }
}
