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
