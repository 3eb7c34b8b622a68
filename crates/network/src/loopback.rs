//! Brings a pod's loopback interface up, by netlink from a thread that enters the namespace and
//! ends: it saves a plugin's start per pod.

use std::fs::File;
use std::io;
use std::path::Path;
use std::thread;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::thread::LinkNameSpaceType;

/// Sets `lo` in the namespace at `netns` up. Up already is fine.
pub(crate) fn up(netns: &Path) -> io::Result<()> {
    let netns = File::open(netns)?;
    thread::Builder::new()
        .name("loopback".to_owned())
        .stack_size(64 * 1024)
        .spawn(move || {
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&netns),
                Some(LinkNameSpaceType::Network),
            )?;
            set_up()
        })?
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the loopback thread panicked")))
}

/// `rtnetlink(7)`: one RTM_NEWLINK with IFF_UP for interface 1, which `lo` is in every namespace.
fn set_up() -> io::Result<()> {
    const LENGTH: u32 = 32;
    const RTM_NEWLINK: u16 = 16;
    const REQUEST_AND_ACK: u16 = 1 | 4;
    const IFF_UP: u32 = 1;
    let mut message = Vec::with_capacity(32);
    message.extend(LENGTH.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(REQUEST_AND_ACK.to_ne_bytes());
    message.extend(1u32.to_ne_bytes()); // sequence
    message.extend(0u32.to_ne_bytes()); // port: the kernel's choice
    message.extend([0; 4]); // family, padding, type
    message.extend(1i32.to_ne_bytes()); // index
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes()); // which flags change

    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None, // NETLINK_ROUTE is 0
    )?;
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0u8; 256];
    let (length, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    let code = answer
        .get(16..20)
        .filter(|_| length >= 20)
        .and_then(|code| code.try_into().ok())
        .map(i32::from_ne_bytes)
        .ok_or_else(|| io::Error::other("short answer from netlink"))?;
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(-code))
    }
}
