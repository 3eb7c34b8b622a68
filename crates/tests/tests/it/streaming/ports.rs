//! Port forwarding into a pod.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener};
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use futures_util::{SinkExt as _, StreamExt as _};
use streaming::spdy::frame::Frame;
use sys::namespace::{self, Kind};
use testkit::node::Node;
use testkit::streams::{Spdy, websocket};
use tokio_tungstenite::tungstenite::Message;

use super::{forward, noise};
use crate::fixture;

/// A server inside of a pod that sends back what it gets; on the loopback address given.
fn echo(node: &Node, pod: &str, address: &str) -> Result<u16> {
    let path = node.run_dir.join("ns/netns").join(pod);
    let network = namespace::open(&path)?;
    // A socket stays where it was made.
    let listener = namespace::within(network.as_fd(), Kind::Net, || {
        TcpListener::bind((address, 0))
    })??;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                let mut buffer = vec![0; 65536];
                loop {
                    match socket.read(&mut buffer) {
                        Ok(0) | Err(_) => break,
                        Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                    }
                }
                socket.write_all(&bytes).ok();
                socket.shutdown(Shutdown::Write).ok();
            });
        }
    });
    Ok(port)
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_go_through_one() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod("p").await?;
    let ports = [
        echo(&f.node, &pod, "127.0.0.1")?,
        echo(&f.node, &pod, "::1")?,
    ];
    let url = forward(&f.node, &pod, &[]).await?;
    let Spdy {
        mut writer,
        mut reader,
    } = Spdy::connect(&url, "portforward.k8s.io").await?;
    let bytes = noise(300_000);
    let mut streams = std::collections::HashMap::new();
    for number in 0..20_usize {
        let (id, port) = (number.to_string(), ports[number % 2].to_string());
        let headers = |kind| [("streamtype", kind), ("port", &*port), ("requestid", &*id)];
        let error = writer.open(&headers("error")).await?;
        writer.data(error, &[], true).await?;
        let data = writer.open(&headers("data")).await?;
        streams.insert(data, Vec::new());
    }
    let ids: Vec<_> = streams.keys().copied().collect();
    let sending = async {
        for piece in bytes.chunks(30_000) {
            for stream in &ids {
                writer.data(*stream, piece, false).await?;
            }
        }
        for stream in &ids {
            writer.data(*stream, &[], true).await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let receiving = async {
        let mut ended = 0;
        while ended < 20 {
            let (frame, bytes) = reader.next().await?.context("an end")?;
            if let Frame::Data { stream, fin, .. } = frame {
                let data = streams.get_mut(&stream);
                ended += usize::from(fin && data.is_some());
                match data {
                    Some(data) => data.extend(bytes),
                    None => anyhow::ensure!(bytes.is_empty(), String::from_utf8(bytes)?),
                }
            }
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::try_join!(sending, receiving)?;
    assert!(streams.values().all(|got| *got == bytes));
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_on_which_nobody_listens_is_told() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod("p").await?;
    let url = forward(&f.node, &pod, &[]).await?;
    let Spdy {
        mut writer,
        mut reader,
    } = Spdy::connect(&url, "portforward.k8s.io").await?;
    for (id, port, text) in [("1", "99", "Connection refused"), ("2", "x", "no port")] {
        let headers = |kind| [("streamtype", kind), ("port", port), ("requestid", id)];
        let error = writer.open(&headers("error")).await?;
        writer.open(&headers("data")).await?;
        let told = loop {
            match reader.next().await?.context("an end")? {
                (Frame::Data { stream, .. }, bytes) if stream == error => break bytes,
                _ => {}
            }
        };
        let told = String::from_utf8(told)?;
        assert!(told.contains(text), "{told}");
    }
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket_channels_carry_ports_that_were_named() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod("p").await?;
    let path = f.node.run_dir.join("ns/netns").join(&pod);
    let network = namespace::open(&path)?;
    let listener = namespace::within(network.as_fd(), Kind::Net, || {
        TcpListener::bind(("127.0.0.1", 0))
    })??;
    let port = listener.local_addr()?.port();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut bytes = [0; 4];
        socket.read_exact(&mut bytes).unwrap();
        bytes.reverse();
        socket.write_all(&bytes).unwrap();
    });
    let url = forward(&f.node, &pod, &[99, port.into()]).await?;
    let mut socket = websocket(&url, "v4.channel.k8s.io").await?;
    socket
        .send(Message::Binary(b"\x02ping".to_vec().into()))
        .await?;
    let mut channels = vec![Vec::new(); 4];
    while let Some(Ok(Message::Binary(message))) = socket.next().await {
        let (channel, bytes) = message.split_first().context("a channel")?;
        channels[usize::from(*channel)].extend_from_slice(bytes);
    }
    server.join().unwrap();
    let [low, high] = port.to_le_bytes();
    assert_eq!(channels[0], [99, 0]);
    assert!(String::from_utf8_lossy(&channels[1][2..]).contains("Connection refused"));
    assert_eq!(channels[2], [&[low, high], &b"gnip"[..]].concat());
    assert_eq!(channels[3], [low, high]);
    f.node.finish().await
}
