//! Registries that only a proxy reaches.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use testkit::node::Options;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::fixture;

/// What a proxy was asked: the heads of requests.
type Asked = Arc<Mutex<Vec<String>>>;

/// One connection: whatever host is asked for is the registry.
async fn pass(mut client: TcpStream, registry: SocketAddr, asked: Asked) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut server = TcpStream::connect(registry).await?;
    if text.starts_with("CONNECT ") {
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    } else {
        server.write_all(&head).await?;
    }
    asked.lock().unwrap().push(text);
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn images_come_through_the_proxies_of_the_environment() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let proxy = format!("http://user:secret@{}", listener.local_addr()?);
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let options = Options {
        env: vec![
            variable("HTTP_PROXY", &proxy),
            variable("HTTPS_PROXY", &proxy),
            variable("NO_PROXY", "10.0.0.0/8,*.direct.test"),
        ],
        insecure: vec!["registry.test".into(), "a.direct.test".into()],
        ..Options::default()
    };
    // Nobody answers there yet: the registry on this host is reached directly.
    let f = fixture::with(options).await?;
    let (asked, registry) = (Asked::default(), f.registry.addr());
    let log = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            // One that ends in between is the client's.
            tokio::spawn(pass(client, registry, Arc::clone(&log)));
        }
    });
    assert!(asked.lock().unwrap().is_empty());
    f.node.pull("registry.test/test/busybox:latest").await?;
    let heads = std::mem::take(&mut *asked.lock().unwrap());
    for begin in ["CONNECT registry.test:443 ", "GET http://registry.test/v2/"] {
        let mut found = heads
            .iter()
            .filter(|head| head.starts_with(begin))
            .peekable();
        found
            .peek()
            .with_context(|| format!("no {begin} in {heads:?}"))?;
        let told = "\r\nproxy-authorization: basic dxnlcjpzzwnyzxq=\r\n";
        assert!(
            found.all(|head| head.to_ascii_lowercase().contains(told)),
            "{heads:?}"
        );
    }
    let direct = f.node.pull("a.direct.test/test/busybox:latest").await;
    let direct = direct.unwrap_err().downcast::<tonic::Status>()?;
    assert_eq!(direct.code(), tonic::Code::Unavailable, "{direct}");
    assert!(asked.lock().unwrap().is_empty());
    f.node.finish().await
}
