//! Terminals: received from a runtime, resized.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::termios::Winsize;

use crate::seqpacket;

/// Takes the master of a terminal from a runtime that has connected to the console socket
/// (runtime-spec's de facto protocol: one message, one descriptor). `None` if none has.
///
/// # Errors
/// Those of `accept4(2)` and `recvmsg(2)`; `EAGAIN`: connected, nothing sent.
pub fn receive_master(listener: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    use std::os::fd::AsFd;
    let Some(connection) = seqpacket::accept(listener)? else {
        return Ok(None);
    };
    // The message is the terminal's name: of no use here, the bytes beyond may be cut off.
    let (_, fds) = seqpacket::receive(connection.as_fd(), &mut [0; 4096])?;
    Ok(fds.into_iter().next())
}

/// What a reader of a terminal's master does with a read's result, by calling `read` again after an
/// error: the end of a terminal is told by `EIO`, and for the first time it may be told too early. The
/// kernel looks for bytes on their way, then whether the other side is closed; what was written and
/// closed in between is there only for the next read.
///
/// # Errors
/// Those of `read`, the second time.
pub fn read_to_its_end(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    match read() {
        Err(error) if is_end(&error) => read(),
        other => other,
    }
}

/// Whether a read's error says that nobody has the other side of a terminal open.
#[must_use]
pub fn is_end(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// Sets the size of a terminal; its foreground process group gets SIGWINCH.
///
/// # Errors
/// `ENOTTY`: it is none.
pub fn resize(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}
