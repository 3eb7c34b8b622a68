//! A way to a registry on which large answers stop until it is opened.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Bytes that a connection is answered with before it stops.
const FREE: u64 = 256 << 10;

/// The way, of any number of connections.
pub(super) struct Gate {
    /// Where it begins.
    pub(super) addr: SocketAddr,
    is_open: watch::Sender<bool>,
}

impl Gate {
    /// Leads to the registry at that address.
    pub(super) async fn start(registry: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let gate = Self {
            addr: listener.local_addr()?,
            is_open: watch::Sender::new(false),
        };
        let is_open = gate.is_open.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // One that ends in between is the client's.
                tokio::spawn(pass(client, registry, is_open.clone()));
            }
        });
        Ok(gate)
    }

    /// Lets everything through from now on.
    pub(super) fn open(&self) {
        self.is_open.send_replace(true);
    }
}

async fn pass(
    client: TcpStream,
    registry: SocketAddr,
    mut is_open: watch::Receiver<bool>,
) -> io::Result<()> {
    let server = TcpStream::connect(registry).await?;
    let (mut asks, mut to_client) = client.into_split();
    let (mut answers, mut to_server) = server.into_split();
    let ask = copy(&mut asks, &mut to_server);
    let answer = async {
        copy(&mut (&mut answers).take(FREE), &mut to_client).await?;
        // The test has ended.
        is_open
            .wait_for(|open| *open)
            .await
            .map_err(io::Error::other)?;
        copy(&mut answers, &mut to_client).await
    };
    tokio::select! {
        ended = ask => ended?,
        ended = answer => ended?,
    };
    Ok(())
}
