//! A container's records in systemd's journal, beside its log, with the fields that conmon gives them.
//!
//! The journal is a copy: a line that it does not take in time is lost there, and how many were is said
//! once it takes some again. A container never waits for it longer than that once.
//! Source: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use monitor_protocol::Id;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::format::{FULL, STAMP};

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// How long the journal may take to make room (ours).
const PATIENCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
/// Characters of an ID that is told to people.
const SHORT_ID: usize = 12;

/// The levels of syslog(3) that are given.
const ERROR: u8 = b'3';
const WARNING: u8 = b'4';
const INFORMATION: u8 = b'6';

/// One container's way into the journal.
#[derive(Debug)]
pub(super) struct Journald {
    socket: OwnedFd,
    address: SocketAddrUnix,
    id: Id,
    name: String,
    /// Whether the last record of stdout, of stderr, was a part of a line.
    within: [bool; 2],
    /// Lines that the journal did not take.
    lost: u64,
    message: Vec<u8>,
}

impl Journald {
    /// For the container `id` with the name `name`.
    pub(super) fn new(id: Id, name: String) -> io::Result<Self> {
        Self::at(Path::new(SOCKET), id, name)
    }

    fn at(path: &Path, id: Id, name: String) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        Ok(Self {
            socket,
            address: SocketAddrUnix::new(path)?,
            id,
            name,
            within: [false; 2],
            lost: 0,
            message: Vec::new(),
        })
    }

    /// Copies records, as the log has them, of `stream`.
    pub(super) fn put(&mut self, records: &[u8], stream: &str) {
        let is_error = stream == "stderr";
        // Time, blank, stream, blank, tag, blank.
        let (tag_at, text_at) = (STAMP + stream.len() + 2, STAMP + stream.len() + 4);
        for record in records.split(|byte| *byte == b'\n') {
            let (Some(tag), Some(text)) = (record.get(tag_at), record.get(text_at..)) else {
                continue;
            };
            let full = *tag == FULL;
            let priority = if is_error { ERROR } else { INFORMATION };
            let begins = self.within.get(usize::from(is_error)) == Some(&false);
            let (priority, text) = match level(text) {
                Some((level, text)) if begins => (level, text),
                _ => (priority, text),
            };
            if let Some(within) = self.within.get_mut(usize::from(is_error)) {
                *within = !full;
            }
            self.send(text, priority, full);
        }
    }

    fn send(&mut self, text: &[u8], priority: u8, full: bool) {
        if self.lost > 0 {
            let told = format!("{} lines before are missing here", self.lost);
            if !self.write(told.as_bytes(), WARNING, true) {
                self.lost = self.lost.saturating_add(1);
                return;
            }
            self.lost = 0;
        }
        if !self.write(text, priority, full) {
            self.lost = 1;
        }
    }

    /// Whether the journal has taken an entry.
    fn write(&mut self, text: &[u8], priority: u8, full: bool) -> bool {
        let mut message = std::mem::take(&mut self.message);
        message.clear();
        let id = self.id.as_str();
        field(&mut message, "MESSAGE", text);
        field(&mut message, "PRIORITY", &[priority]);
        field(&mut message, "CONTAINER_ID_FULL", id.as_bytes());
        let short = id.get(..SHORT_ID).unwrap_or(id);
        field(&mut message, "CONTAINER_ID", short.as_bytes());
        field(&mut message, "CONTAINER_NAME", self.name.as_bytes());
        field(&mut message, "SYSLOG_IDENTIFIER", self.name.as_bytes());
        if !full {
            field(&mut message, "CONTAINER_PARTIAL_MESSAGE", b"true");
        }
        // Who has lost a line has waited before.
        let taken =
            self.try_send(&message) || self.lost == 0 && self.room() && self.try_send(&message);
        self.message = message;
        taken
    }

    /// A socket that is connected can be waited with for the other end's room; the journal may come late
    /// and again.
    fn try_send(&self, message: &[u8]) -> bool {
        let mut connected = false;
        loop {
            match rustix::net::send(&self.socket, message, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                Err(Errno::NOTCONN | Errno::DESTADDRREQ | Errno::CONNREFUSED) if !connected => {
                    if rustix::net::connect(&self.socket, &self.address).is_err() {
                        return false;
                    }
                    connected = true;
                }
                sent => return sent.is_ok(),
            }
        }
    }

    /// Waits for the journal to make room; false where there is none, or nobody.
    fn room(&self) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(
            self.socket.as_fd(),
            PollFlags::OUT,
        )];
        matches!(poll(&mut fds, Some(&PATIENCE)), Ok(1..))
    }
}

/// Appends a field in the form that takes any bytes.
fn field(message: &mut Vec<u8>, name: &str, value: &[u8]) {
    message.extend_from_slice(name.as_bytes());
    message.push(b'\n');
    let length = u64::try_from(value.len()).unwrap_or(0);
    message.extend_from_slice(&length.to_le_bytes());
    message.extend_from_slice(value);
    message.push(b'\n');
}

/// The level that a line begins with (`<N>`, sd-daemon(3)), and the rest.
fn level(text: &[u8]) -> Option<(u8, &[u8])> {
    match text {
        [b'<', level @ b'0'..=b'7', b'>', rest @ ..] => Some((*level, rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::log::format::{format, stamp};

    /// The fields of an entry, as `NAME=value`.
    fn entry(mut bytes: &[u8]) -> Vec<String> {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
            let name = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let (length, rest) = bytes[end + 1..].split_first_chunk().unwrap();
            let length = usize::try_from(u64::from_le_bytes(*length)).unwrap();
            let value = String::from_utf8_lossy(&rest[..length]);
            fields.push(format!("{name}={value}"));
            assert_eq!(rest[length], b'\n');
            bytes = &rest[length + 1..];
        }
        fields
    }

    fn received(journal: &UnixDatagram) -> Vec<String> {
        let mut buffer = vec![0; 65_536];
        let length = journal.recv(&mut buffer).unwrap();
        entry(&buffer[..length])
    }

    fn records(text: &str, stream: &str) -> Vec<u8> {
        let mut out = Vec::new();
        format(
            text.as_bytes(),
            stream,
            &stamp(0),
            true,
            usize::MAX,
            &mut out,
        );
        out
    }

    #[test]
    fn records_are_entries_with_conmons_fields() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let id = Id::try_from("0123456789abcdef").unwrap();
        let mut to = Journald::at(&path, id, "k8s_c_p".into()).unwrap();
        to.put(
            &records("hello\n<4>careful\n<9>no level", "stdout"),
            "stdout",
        );
        to.put(&records("<2>bad\n", "stderr"), "stderr");
        to.put(&records("<2>more\n", "stdout"), "stdout");
        let told = |text: &str, level: u8, partial: bool| {
            let mut fields = vec![
                format!("MESSAGE={text}"),
                format!("PRIORITY={level}"),
                "CONTAINER_ID_FULL=0123456789abcdef".to_owned(),
                "CONTAINER_ID=0123456789ab".to_owned(),
                "CONTAINER_NAME=k8s_c_p".to_owned(),
                "SYSLOG_IDENTIFIER=k8s_c_p".to_owned(),
            ];
            if partial {
                fields.push("CONTAINER_PARTIAL_MESSAGE=true".to_owned());
            }
            fields
        };
        for (text, level, partial) in [
            ("hello", 6, false),
            ("careful", 4, false),
            ("<9>no level", 6, true),
            ("bad", 2, false),
            // Within a line it is no level.
            ("<2>more", 6, false),
        ] {
            assert_eq!(received(&journal), told(text, level, partial));
        }
    }

    #[test]
    fn what_the_journal_does_not_take_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let mut to = Journald::at(&path, Id::default(), "c".into()).unwrap();
        to.put(&records("a\nb\n", "stdout"), "stdout");
        let journal = UnixDatagram::bind(&path).unwrap();
        let lines = "x\n".repeat(5000);
        to.put(&records(&lines, "stdout"), "stdout");
        assert_eq!(
            received(&journal)[0],
            "MESSAGE=2 lines before are missing here"
        );
        journal.set_nonblocking(true).unwrap();
        let mut taken = 0;
        let mut buffer = [0; 1024];
        while journal.recv(&mut buffer).is_ok() {
            taken += 1;
        }
        assert!(taken < 5000, "the kernel holds fewer");
        to.put(&records("last\n", "stdout"), "stdout");
        let lost = format!("MESSAGE={} lines before are missing here", 5000 - taken);
        assert_eq!(received(&journal)[0], lost);
        assert_eq!(received(&journal)[0], "MESSAGE=last");
    }
}
