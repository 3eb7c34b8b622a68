//! Port forwarding: a connection to a port as a pod's own processes reach it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use sys::namespace::{self, Kind};
use tokio::net::{TcpSocket, TcpStream};

use crate::node::{Node, blocking};
use crate::{Error, PodId};

/// How long a server inside a pod may take to accept.
const CONNECT: Duration = Duration::from_secs(30);

/// Connects to a port of a pod's loopback, by IPv4 and else by IPv6.
pub(crate) async fn connect(node: &Node, pod: &str, port: u16) -> Result<TcpStream, Error> {
    let pod = node.table.load().pod(pod)?;
    if !pod.ready {
        return Err(Error::WrongState(format!(
            "pod sandbox {} is not ready",
            pod.id
        )));
    }
    let network = pod.made.netns.as_deref();
    let mut failed = None;
    for address in [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::from(Ipv6Addr::LOCALHOST),
    ] {
        match try_one(node, network, SocketAddr::new(address, port)).await {
            Ok(stream) => return Ok(stream),
            // What is told is why the first one failed: many pods have no IPv6.
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Err(failed.unwrap_or_else(|| gone(&pod.id)))
}

fn gone(pod: &PodId) -> Error {
    Error::Internal(format!("pod {pod} has no loopback address"))
}

async fn try_one(node: &Node, network: Option<&Path>, to: SocketAddr) -> Result<TcpStream, Error> {
    let family = if to.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = match network {
        None => make(family),
        Some(path) => {
            // A socket stays in the network namespace that it was made in: connecting, which may
            // take its time, needs no thread.
            let path = path.to_owned();
            let make = move || {
                let network = namespace::open(&path)?;
                namespace::within(network.as_fd(), Kind::Net, || make(family))?
            };
            blocking(&node.pools.helpers, make).await
        }
    };
    let doing = |source| Error::io("connect to", to.to_string())(source);
    let socket = TcpSocket::from_std_stream(socket.map_err(doing)?.into());
    let connected = tokio::time::timeout(CONNECT, socket.connect(to)).await;
    let stream = connected
        .map_err(|_| Error::TimedOut(format!("connect to {to}: no answer")))?
        .map_err(doing)?;
    // What comes in pieces goes on in pieces.
    stream.set_nodelay(true).map_err(doing)?;
    Ok(stream)
}

fn make(family: AddressFamily) -> std::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(
        family,
        SocketType::STREAM,
        flags,
        None,
    )?)
}
