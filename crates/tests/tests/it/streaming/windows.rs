//! A client of SPDY that has windows and means them.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use streaming::spdy::frame::Frame;
use testkit::streams::{Spdy, SpdyReader};

use super::{exec, noise, sleeper};

/// How long nothing may come before nothing is coming.
const SILENCE: Duration = Duration::from_millis(500);
/// How long what has to come may take, on a machine that starts programs slowly.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes that come on a stream, until `wanted` are there and nothing does for a while, or the stream
/// ends; whether it ended.
async fn until_silence(reader: &mut SpdyReader, of: u32, wanted: usize) -> Result<(usize, bool)> {
    let mut count = 0;
    loop {
        let patience = if count < wanted { PATIENCE } else { SILENCE };
        let Ok(next) = tokio::time::timeout(patience, reader.next()).await else {
            return Ok((count, false));
        };
        let (frame, bytes) = next?.context("an end of the connection")?;
        if let Frame::Data { stream, fin, .. } = frame
            && stream == of
        {
            count += bytes.len();
            if fin {
                return Ok((count, true));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_sent_than_a_client_has_a_window_for() -> Result<()> {
    let (f, id) = sleeper().await?;
    let url = exec(&f.node, &id, &["head", "-c", "300000", "/dev/zero"], &[1]).await?;
    let Spdy {
        mut writer,
        mut reader,
    } = Spdy::connect(&url, "v4.channel.k8s.io").await?;
    let initial_window = Some(1000);
    writer
        .raw(&Frame::Settings { initial_window }.encode())
        .await?;
    writer.open(&[("streamtype", "error")]).await?;
    let stdout = writer.open(&[("streamtype", "stdout")]).await?;
    let (first, ended) = until_silence(&mut reader, stdout, 1000).await?;
    assert_eq!((first, ended), (1000, false), "its initial window");

    let update = |stream, delta| Frame::WindowUpdate { stream, delta }.encode();
    writer.raw(&update(stdout, 500)).await?;
    let (more, ended) = until_silence(&mut reader, stdout, 500).await?;
    assert_eq!((more, ended), (500, false), "what it takes more");

    // The connection's own window, from when the client has one.
    writer.raw(&update(0, 1500)).await?;
    writer.raw(&update(stdout, 1_000_000)).await?;
    let (more, ended) = until_silence(&mut reader, stdout, 65_536).await?;
    assert_eq!((more, ended), (65_536, false), "all of the connection's");
    writer.raw(&update(0, 1_000_000)).await?;
    let rest = 300_000 - 1500 - 65_536;
    let (last, ended) = until_silence(&mut reader, stdout, usize::MAX).await?;
    assert_eq!((last, ended), (rest, true), "all, and its end");
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_obeys_windows_can_send_everything() -> Result<()> {
    let (f, id) = sleeper().await?;
    let url = exec(&f.node, &id, &["wc", "-c"], &[0, 1]).await?;
    let Spdy {
        mut writer,
        mut reader,
    } = Spdy::connect(&url, "v4.channel.k8s.io").await?;
    writer.open(&[("streamtype", "error")]).await?;
    let stdin = writer.open(&[("streamtype", "stdin")]).await?;
    let stdout = writer.open(&[("streamtype", "stdout")]).await?;
    let bytes = noise(500_000);
    let mut windows = HashMap::from([(0, 65_536_usize), (stdin, 65_536)]);
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let room = windows[&0].min(windows[&stdin]).min(rest.len());
        if room > 0 {
            let (piece, after) = rest.split_at(room);
            writer.data(stdin, piece, after.is_empty()).await?;
            windows.values_mut().for_each(|window| *window -= room);
            rest = after;
            continue;
        }
        let next = tokio::time::timeout(Duration::from_secs(20), reader.next()).await;
        let (frame, _) = next.context("no update of a window")??.context("an end")?;
        if let Frame::WindowUpdate { stream, delta } = frame
            && let Some(window) = windows.get_mut(&stream)
        {
            *window += usize::try_from(delta)?;
            ensure!(*window <= 65_536, "more than was sent");
        }
    }
    let mut told = Vec::new();
    while let Some((frame, bytes)) = reader.next().await? {
        if matches!(frame, Frame::Data { stream, .. } if stream == stdout) {
            told.extend(bytes);
        }
    }
    assert_eq!(String::from_utf8(told)?.trim(), "500000");
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_of_too_many_bits_ends_its_stream_or_the_connection() -> Result<()> {
    let (f, id) = sleeper().await?;
    for stream in [1, 0] {
        let url = exec(&f.node, &id, &["sleep", "100"], &[1]).await?;
        let Spdy {
            mut writer,
            mut reader,
        } = Spdy::connect(&url, "v4.channel.k8s.io").await?;
        writer.open(&[("streamtype", "error")]).await?;
        writer.open(&[("streamtype", "stdout")]).await?;
        let delta = 0x7fff_ffff;
        writer
            .raw(&Frame::WindowUpdate { stream, delta }.encode())
            .await?;
        let reset = loop {
            match reader.next().await? {
                Some((Frame::Reset { stream, status }, _)) => break Some((stream, status)),
                Some(_) => {}
                None => break None,
            }
        };
        assert_eq!(reset, (stream == 1).then_some((1, 7)));
    }
    f.node.finish().await
}
