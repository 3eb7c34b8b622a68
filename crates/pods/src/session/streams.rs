//! Descriptors as async streams.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::fs::OFlags;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::oneshot;

use crate::Error;

/// Reads from a pipe.
pub(super) fn reader(fd: OwnedFd) -> Result<Box<dyn AsyncRead + Send + Unpin>, Error> {
    let receiver = nonblocking(&fd).and_then(|()| Receiver::from_owned_fd_unchecked(fd));
    Ok(Box::new(receiver.map_err(Error::io("watch", "stream"))?))
}

/// Reads from a terminal, to its end.
pub(super) fn terminal_reader(fd: OwnedFd) -> Result<Box<dyn AsyncRead + Send + Unpin>, Error> {
    let receiver = nonblocking(&fd).and_then(|()| Receiver::from_owned_fd_unchecked(fd));
    let receiver = receiver.map_err(Error::io("watch", "terminal"))?;
    Ok(Box::new(Master(receiver)))
}

/// A terminal's master, whose end counts when it is told twice ([`sys::pty::read_to_its_end`]).
#[derive(Debug)]
struct Master(Receiver);

impl AsyncRead for Master {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(context, buffer) {
            Poll::Ready(Err(error)) if sys::pty::is_end(&error) => {
                Pin::new(&mut self.0).poll_read(context, buffer)
            }
            other => other,
        }
    }
}

/// Writes to a pipe or a terminal.
pub(super) fn writer(fd: OwnedFd) -> Result<Sender, Error> {
    let sender = nonblocking(&fd).and_then(|()| Sender::from_owned_fd_unchecked(fd));
    sender.map_err(Error::io("watch", "stream"))
}

fn nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?)
}

/// A writer whose end is told to somebody, after it is closed.
#[derive(Debug)]
pub(super) struct Told {
    // Closed first: fields are dropped in their order.
    writer: Sender,
    _teller: oneshot::Sender<()>,
}

impl Told {
    /// The receiver is woken at the end, by an error.
    pub(super) fn new(writer: Sender) -> (Self, oneshot::Receiver<()>) {
        let (teller, told) = oneshot::channel();
        (
            Self {
                writer,
                _teller: teller,
            },
            told,
        )
    }
}

impl AsyncWrite for Told {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(context)
    }
}
