//! Sessions in which nothing happens.

use std::time::Duration;

use streaming::Options;
use streaming::spdy::frame::Frame;
use streaming::spdy::headers::{Headers, Storer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::{promise, serve, streaming};

#[tokio::test]
async fn a_silent_session_is_closed_and_one_with_pings_is_not() {
    const IDLE: Duration = Duration::from_millis(500);
    let promises = serve(Options {
        address: "127.0.0.1:0".parse().unwrap(),
        idle: IDLE,
        tls: None,
    });
    let promises = promises.await;
    let (host, path) = promise(&promises);
    let began = Instant::now();
    let mut socket = TcpStream::connect(host).await.unwrap();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut storer = Storer::default();
    for (stream, kind) in [(1, "error"), (3, "stdin")] {
        let block = storer.store(&Headers::from_iter([("streamtype", kind)]));
        let fin = false;
        let frame = Frame::SynStream { stream, fin, block };
        socket.write_all(&frame.encode()).await.unwrap();
    }
    // Longer than the bound, with less than the bound between them.
    let mut answers = Vec::new();
    for _ in 0..8 {
        socket.write_all(&Frame::Ping(1).encode()).await.unwrap();
        let quiet = timeout(IDLE / 4, socket.read_buf(&mut answers)).await;
        assert!(!matches!(quiet, Ok(Ok(0))), "closed in spite of pings");
        timeout(IDLE / 4, std::future::pending::<()>()).await.ok();
    }
    assert!(began.elapsed() > IDLE);
    let end = timeout(20 * IDLE, socket.read_to_end(&mut answers)).await;
    end.expect("closed when nothing happens").unwrap();
    assert!(answers.ends_with(&Frame::Ping(1).encode()), "{answers:?}");
}
