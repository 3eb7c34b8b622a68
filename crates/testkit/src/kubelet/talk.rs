//! The streaming calls of the kubelet's server, which it hands on to ours: a command with its exit
//! code, a terminal, a container's first process, a port of the pod.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use streaming::spdy::frame::Frame;
use tokio::time::timeout;

use super::{Kubelet, POD, say};
use crate::streams::{Endpoint, Remote, Spdy, Transport, Trust};

/// How long one of them may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// All of them, over both transports where the kubelet has both.
pub(super) async fn streams(kubelet: &Kubelet) -> Result<()> {
    let trust = kubelet.trust()?;
    for transport in Transport::BEST {
        let name = match transport {
            Transport::Spdy(_) => "SPDY",
            Transport::WebSocket(_) => "WebSocket",
        };
        let now = Instant::now();
        let talked = async {
            exec(kubelet, &trust, transport).await.context("exec")?;
            terminal(kubelet, &trust, transport)
                .await
                .context("a terminal")?;
            attach(kubelet, &trust, transport).await.context("attach")
        };
        let talked = timeout(PATIENCE, talked).await.context("in time")?;
        talked.with_context(|| format!("through the kubelet by {name}"))?;
        say(&format!("exec, a terminal and attach by {name}"), now);
    }
    let now = Instant::now();
    let forwarded = timeout(PATIENCE, forward(kubelet, &trust)).await;
    forwarded
        .context("in time")?
        .context("port-forward through the kubelet")?;
    say("a port of the pod, by SPDY", now);
    Ok(())
}

/// Input to its end, both outputs, and an exit code.
async fn exec(kubelet: &Kubelet, trust: &Trust, transport: Transport) -> Result<()> {
    let command = ["sh", "-c", "cat; echo err >&2; exit 7"];
    let command: String = command.iter().map(|part| argument(part)).collect();
    let path = format!("exec/default/{POD}/main?input=1&output=1&error=1{command}");
    let url = kubelet.url(&path);
    let remote = Remote::connect(Endpoint::secure(&url, trust), transport, &[0, 1, 2]).await?;
    let input = b"typed\n".repeat(20_000);
    let outcome = remote.talk(Some(&input)).await?;
    ensure!(
        outcome.stdout == input,
        "{} bytes of {} came back",
        outcome.stdout.len(),
        input.len()
    );
    ensure!(outcome.stderr == b"err\n", "{:?}", outcome.stderr);
    let code = outcome.code()?;
    ensure!(code == 7, "exit code {code}");
    Ok(())
}

/// A terminal that knows its size.
async fn terminal(kubelet: &Kubelet, trust: &Trust, transport: Transport) -> Result<()> {
    // The size may come after the process.
    let script = "until stty size 2>/dev/null | grep -qv '^0'; do sleep 0.1; done; stty size";
    let command: String = ["sh", "-c", script]
        .iter()
        .map(|part| argument(part))
        .collect();
    let path = format!("exec/default/{POD}/main?input=1&output=1&tty=1{command}");
    let url = kubelet.url(&path);
    let endpoint = Endpoint::secure(&url, trust);
    let mut remote = Remote::connect(endpoint, transport, &[0, 1, 4]).await?;
    let size = br#"{"Width":91,"Height":27}"#;
    remote.writer.send(4, size).await?;
    let outcome = remote.reader.rest().await?;
    let output = String::from_utf8_lossy(&outcome.stdout);
    ensure!(output.trim() == "27 91", "{output:?}");
    ensure!(outcome.code()? == 0, "its exit code");
    Ok(())
}

/// The first process's input and output; the process goes on.
async fn attach(kubelet: &Kubelet, trust: &Trust, transport: Transport) -> Result<()> {
    let path = format!("attach/default/{POD}/talk?input=1&output=1&error=1");
    let url = kubelet.url(&path);
    let endpoint = Endpoint::secure(&url, trust);
    let mut remote = Remote::connect(endpoint, transport, &[0, 1, 2]).await?;
    remote.writer.send(0, b"hear me\n").await?;
    remote.reader.until("hear me").await?;
    Ok(())
}

/// A page of the server in the pod.
async fn forward(kubelet: &Kubelet, trust: &Trust) -> Result<()> {
    let url = kubelet.url(&format!("portForward/default/{POD}"));
    let endpoint = Endpoint::secure(&url, trust);
    let Spdy {
        mut writer,
        mut reader,
    } = Spdy::connect(endpoint, "portforward.k8s.io").await?;
    let headers = |kind| [("streamtype", kind), ("port", "8080"), ("requestid", "0")];
    let error = writer.open(&headers("error")).await?;
    writer.data(error, &[], true).await?;
    let data = writer.open(&headers("data")).await?;
    let asked = b"GET /index.html HTTP/1.0\r\n\r\n";
    writer.data(data, asked, false).await?;
    let mut page = Vec::new();
    loop {
        let (frame, bytes) = reader.next().await?.context("an end")?;
        let Frame::Data { stream, fin, .. } = frame else {
            continue;
        };
        let text = String::from_utf8_lossy(&bytes);
        ensure!(stream == data || bytes.is_empty(), "{text}");
        if stream == data {
            page.extend(bytes);
            if fin {
                break;
            }
        }
    }
    let page = String::from_utf8_lossy(&page);
    ensure!(page.ends_with("\r\n\r\nfine\n"), "{page:?}");
    Ok(())
}

/// One argument of a command, as a part of a query.
fn argument(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let encoded = |byte: u8| match byte {
        byte if plain(&byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    let text: String = text.bytes().map(encoded).collect();
    format!("&command={text}")
}
