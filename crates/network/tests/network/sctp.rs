//! SCTP by hand, as far as an association's first two packets (RFC 9260, 3.3.2 and 3.3.3): the
//! kernel here has connection tracking of it and no sockets. They go by raw sockets.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const TAG: u32 = 0x0102_0304;
/// Source ports, each for one association: the kernel remembers where an earlier one went.
static SOURCE: AtomicU16 = AtomicU16::new(40_000);

/// A raw socket. It is no UDP socket; the calls are the same.
pub(crate) fn socket(v6: bool) -> UdpSocket {
    let family = if v6 {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let kind = SocketType::RAW;
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, Some(ipproto::SCTP));
    UdpSocket::from(socket.unwrap())
}

/// Answers what comes for `port`, for ever.
pub(crate) fn answer(socket: &UdpSocket, port: u16) {
    let mut buffer = [0; 256];
    while let Ok((length, mut from)) = socket.recv_from(&mut buffer) {
        let Some((source, to, INIT)) = parse(&buffer[..length], from) else {
            continue;
        };
        if to == port {
            from.set_port(0);
            let packet = packet(port, source, TAG, INIT_ACK);
            socket.send_to(&packet, from).ok();
        }
    }
}

/// Whether the beginning of an association is answered, from the port that was asked.
pub(crate) fn ask(to: SocketAddr, patience: Duration) -> bool {
    let socket = socket(to.is_ipv6());
    let source = SOURCE.fetch_add(1, Ordering::Relaxed);
    socket.set_read_timeout(Some(patience)).unwrap();
    let mut address = to;
    address.set_port(0);
    let sent = socket.send_to(&packet(source, to.port(), 0, INIT), address);
    if sent.is_err() {
        return false;
    }
    let end = Instant::now() + patience;
    let mut buffer = [0; 256];
    while Instant::now() < end {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            return false;
        };
        if parse(&buffer[..length], from) == Some((to.port(), source, INIT_ACK)) {
            return from.ip() == to.ip();
        }
    }
    false
}

/// Source port, destination port and kind of the first chunk. IPv4 comes with its head.
fn parse(bytes: &[u8], from: SocketAddr) -> Option<(u16, u16, u8)> {
    let head = if from.is_ipv4() {
        usize::from(bytes.first()? & 15) * 4
    } else {
        0
    };
    let [a, b, c, d, ..] = *bytes.get(head..)? else {
        return None;
    };
    let ports = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    Some((ports.0, ports.1, *bytes.get(head + 12)?))
}

fn packet(from: u16, to: u16, tag: u32, kind: u8) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(from.to_be_bytes());
    packet.extend(to.to_be_bytes());
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend([kind, 0, 0, 20]);
    packet.extend(TAG.to_be_bytes());
    packet.extend(65_535_u32.to_be_bytes());
    packet.extend([0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = crc32c(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

/// RFC 9260, appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |sum: u32, byte: &u8| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            sum >> 1 ^ if sum & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    };
    !bytes.iter().fold(!0, step)
}

#[test]
fn the_checksum_is_that_of_the_rfcs_vector() {
    // RFC 3720, B.4.
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
}
