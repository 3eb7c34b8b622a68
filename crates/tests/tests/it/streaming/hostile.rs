//! Clients that mean harm, with a token that is good.

use anyhow::Result;
use streaming::limits;
use streaming::spdy::frame::Frame;
use testkit::streams::Spdy;

use super::{exec, forward, sleeper};
use crate::fixture::Fixture;

/// Resident memory of the daemon, in kB.
fn resident(f: &Fixture) -> u64 {
    let pid = f.node.daemon_pid().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

/// Reads until the server has closed the connection.
async fn closed(spdy: &mut Spdy) -> Result<()> {
    while spdy.reader.next().await?.is_some() {}
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_lie_end_their_connection() -> Result<()> {
    let (f, id) = sleeper().await?;
    let block = |stream: u32, block: &[u8]| {
        Frame::SynStream {
            stream,
            fin: false,
            block: block.to_vec(),
        }
        .encode()
    };
    // Zeros without end, deflated: a stored zlib head and a run of fixed codes.
    let bomb = [&[0x78, 0x01, 0xec, 0xc1, 0x01, 0x01][..], &[0xff; 16_000]].concat();
    for (what, bytes) in [
        ("another version", vec![0x80, 2, 0, 1, 0, 0, 0, 0]),
        (
            "a long control frame",
            vec![0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff],
        ),
        (
            "an even stream",
            block(2, &[0x78, 1, 0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0]),
        ),
        ("a damaged block", block(1, b"nonsense")),
        ("a bomb", block(1, &bomb)),
        (
            "many headers",
            block(1, &[0x78, 1, 0, 4, 0, 0xfb, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ),
        ("data on stream 0", vec![0, 0, 0, 0, 0, 0, 0, 1, 7]),
    ] {
        let url = exec(&f.node, &id, &["true"], &[1]).await?;
        let mut spdy = Spdy::connect(&url, "v4.channel.k8s.io").await?;
        spdy.writer.raw(&bytes).await?;
        let end = tokio::time::timeout(limits::FAREWELL / 2, closed(&mut spdy));
        end.await
            .unwrap_or_else(|_| panic!("{what} is not refused"))?;
    }
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_cost_no_memory() -> Result<()> {
    let (f, id) = sleeper().await?;
    let before = resident(&f);
    let mut held = Vec::new();
    // Input that nobody takes, settings, pings whose answers nobody reads, streams.
    for flood in ["input", "settings", "pings", "streams"] {
        let mut spdy = if flood == "streams" {
            let pod = f.node.status(&id).await?;
            drop(pod);
            let pod = f.node.run_pod("flooded").await?;
            Spdy::connect(&forward(&f.node, &pod, &[]).await?, "portforward.k8s.io").await?
        } else {
            let url = exec(&f.node, &id, &["sleep", "1000"], &[0]).await?;
            Spdy::connect(&url, "v4.channel.k8s.io").await?
        };
        spdy.writer.open(&[("streamtype", "error")]).await?;
        let stdin = spdy.writer.open(&[("streamtype", "stdin")]).await?;
        let frame = match flood {
            "input" => {
                let (fin, length) = (false, 30_000);
                let head = Frame::Data {
                    stream: stdin,
                    fin,
                    length,
                };
                [head.encode(), vec![7; length]].concat()
            }
            "settings" => Frame::Settings {
                initial_window: None,
            }
            .encode()
            .repeat(1000),
            _ => Frame::Ping(1).encode().repeat(1000),
        };
        let sending = async {
            for number in 0..3000_u32 {
                if flood == "streams" {
                    let id = number.to_string();
                    let headers = [("streamtype", "error"), ("requestid", id.as_str())];
                    spdy.writer.open(&headers).await?;
                } else {
                    spdy.writer.raw(&frame).await?;
                }
            }
            Ok::<_, anyhow::Error>(())
        };
        // What is not taken stays with us: then time runs out here.
        tokio::time::timeout(std::time::Duration::from_secs(3), sending)
            .await
            .ok();
        held.push(spdy);
    }
    let grown = resident(&f).saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} kB more");
    drop(held);
    f.node.finish().await
}
