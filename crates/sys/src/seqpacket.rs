//! Unix sockets that keep packets apart and carry descriptors, and the stream socket on which a
//! runtime hands over a terminal. `unix(7)`.
//!
//! A socket's address holds 107 bytes. Longer paths are reached through the directory's
//! descriptor: `/proc/self/fd/N/name`.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// Descriptors that fit beside one packet.
pub const DESCRIPTORS: usize = 4;
/// `sun_path` without its NUL.
const ADDRESS: usize = 107;

/// Which kind of socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `SOCK_SEQPACKET`.
    Packets,
    /// `SOCK_STREAM`: what an OCI runtime connects to as its console socket.
    Stream,
}

/// Listens at `path`, replacing a socket that is there; close-on-exec, not blocking.
///
/// # Errors
/// Those of `bind(2)`; `ENOTDIR`/`ENOENT` from the directory.
pub fn listen(path: &Path, kind: Kind) -> io::Result<OwnedFd> {
    let socket = socket(kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(err) => return Err(err.into()),
    }
    with_address(path, |address| rustix::net::bind(&socket, address))?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}

/// Connects to the socket of packets at `path`; close-on-exec, not blocking.
///
/// # Errors
/// `ENOENT`: no socket. `ECONNREFUSED`: nobody listens.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket(Kind::Packets, SocketFlags::CLOEXEC)?;
    with_address(path, |address| rustix::net::connect(&socket, address))?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

/// Accepts a connection if there is one; close-on-exec, not blocking.
///
/// # Errors
/// Those of `accept4(2)`.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    match rustix::net::accept_with(listener, flags) {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
        Err(err) => Err(err.into()),
    }
}

/// The user at the other end, as it was when it connected.
///
/// # Errors
/// Those of `getsockopt(2)`.
pub fn peer_uid(socket: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(rustix::net::sockopt::socket_peercred(socket)?.uid.as_raw())
}

/// Sends one packet with descriptors.
///
/// # Errors
/// `EAGAIN`: the buffer is full. `EPIPE`: the other end is closed (no SIGPIPE is raised).
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::TOOMANYREFS.into());
    }
    let flags = SendFlags::NOSIGNAL;
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags) {
            Ok(n) if n == bytes.len() => return Ok(()),
            Ok(_) => return Err(Errno::MSGSIZE.into()),
            Err(Errno::INTR) => {}
            Err(err) => return Err(err.into()),
        }
    }
}

/// Receives one packet and its descriptors (close-on-exec); 0 bytes: the other end is closed.
///
/// # Errors
/// `EAGAIN`: nothing is there. `EMSGSIZE`: the packet is larger than `buffer`, or had more than
/// [`DESCRIPTORS`] descriptors; it is lost.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let buffers = &mut [IoSliceMut::new(&mut *buffer)];
        match rustix::net::recvmsg(socket, buffers, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(Errno::MSGSIZE.into());
    }
    Ok((received.bytes, fds))
}

/// The path of `name` in `dir` for another process to use as a socket's address: itself where
/// it is short enough, else by way of this process's descriptor.
#[must_use]
pub fn address_for_others(path: &Path, dir: BorrowedFd<'_>) -> PathBuf {
    if path.as_os_str().len() <= ADDRESS {
        return path.to_owned();
    }
    let own = rustix::process::getpid();
    let name = path.file_name().unwrap_or_default();
    PathBuf::from(format!("/proc/{own}/fd/{}", dir.as_raw_fd())).join(name)
}

fn socket(kind: Kind, flags: SocketFlags) -> io::Result<OwnedFd> {
    let kind = match kind {
        Kind::Packets => SocketType::SEQPACKET,
        Kind::Stream => SocketType::STREAM,
    };
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        kind,
        flags,
        None,
    )?)
}

fn with_address(
    path: &Path,
    act: impl FnOnce(&SocketAddrUnix) -> Result<(), Errno>,
) -> io::Result<()> {
    if path.as_os_str().len() <= ADDRESS {
        return Ok(act(&SocketAddrUnix::new(path)?)?);
    }
    let dir = path.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(dir, flags, Mode::empty())?;
    let name = path.file_name().unwrap_or_default();
    let short = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
    Ok(act(&SocketAddrUnix::new(&short)?)?)
}

#[cfg(test)]
mod tests;
