//! Has the kernel forget UDP connections to a port of the node, by netlink: an old one would go on
//! to where it went, past new rules, for as long as packets come.

use std::io;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Forgets all UDP connections that were begun to `port`. None is fine, and so is a kernel without
/// connection tracking. Kernels that can't select by port (before 5.18) keep them.
pub(super) fn forget_udp(ipv6: bool, port: u16) -> io::Result<()> {
    let netfilter = rustix::net::netlink::NETFILTER;
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netfilter),
    );
    let socket = match socket {
        Err(Errno::PROTONOSUPPORT) => return Ok(()),
        socket => socket?,
    };
    rustix::net::send(&socket, &message(ipv6, port), SendFlags::empty())?;
    let mut answer = [0u8; 512];
    let (length, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    let code = answer
        .get(16..20)
        .filter(|_| length >= 20)
        .and_then(|code| code.try_into().ok())
        .map(i32::from_ne_bytes)
        .ok_or_else(|| io::Error::other("short answer from netlink"))?;
    if code == 0 {
        return Ok(());
    }
    match Errno::from_raw_os_error(-code) {
        Errno::NOENT | Errno::OPNOTSUPP | Errno::INVAL => Ok(()),
        error => Err(error.into()),
    }
}

/// `IPCTNL_MSG_CT_DELETE` with a tuple and the filter that says which parts of it count
/// (`linux/netfilter/nfnetlink_conntrack.h`).
fn message(ipv6: bool, port: u16) -> Vec<u8> {
    const CONNTRACK_DELETE: u16 = 1 << 8 | 2;
    const REQUEST_AND_ACK: u16 = 1 | 4;
    const NESTED: u16 = 1 << 15;
    const TUPLE_ORIG: u16 = 1;
    const FILTER: u16 = 25;
    const TUPLE_PROTO: u16 = 2;
    const PROTO_NUM: u16 = 1;
    const PROTO_DST_PORT: u16 = 3;
    const ORIG_FLAGS: u16 = 1;
    const NUM_COUNTS: u32 = 1 << 3;
    const DST_PORT_COUNTS: u32 = 1 << 5;
    const UDP: u8 = 17;
    const INET: u8 = 2;
    const INET6: u8 = 10;

    let number = attribute(PROTO_NUM, &[UDP]);
    let destination = attribute(PROTO_DST_PORT, &port.to_be_bytes());
    let proto = attribute(TUPLE_PROTO | NESTED, &[number, destination].concat());
    let counts = (NUM_COUNTS | DST_PORT_COUNTS).to_ne_bytes();
    let body = [
        // nfgenmsg: family, version, resource.
        vec![if ipv6 { INET6 } else { INET }, 0, 0, 0],
        attribute(TUPLE_ORIG | NESTED, &proto),
        attribute(FILTER | NESTED, &attribute(ORIG_FLAGS, &counts)),
    ]
    .concat();
    let mut message = Vec::new();
    message.extend(u32::try_from(16 + body.len()).unwrap_or(0).to_ne_bytes());
    message.extend(CONNTRACK_DELETE.to_ne_bytes());
    message.extend(REQUEST_AND_ACK.to_ne_bytes());
    message.extend(1u32.to_ne_bytes()); // sequence
    message.extend(0u32.to_ne_bytes()); // port: the kernel's choice
    message.extend(body);
    message
}

/// An attribute: length, type, value, and zeros up to a multiple of four.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(u16::try_from(4 + value.len()).unwrap_or(0).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
