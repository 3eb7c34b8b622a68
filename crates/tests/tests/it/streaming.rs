//! Exec, attach and port forwarding: real containers, clients of our own.

mod hostile;
mod ports;
mod remote;
mod tokens;
mod windows;

use anyhow::Result;
use cri::v1;
use testkit::node::Node;
use testkit::requests::container;

use crate::fixture::{self, Fixture};

/// A container that sleeps, in a pod.
async fn sleeper() -> Result<(Fixture, String)> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod("s").await?;
    let config = container("c", &f.image, &["sleep", "100000"]);
    let id = f.node.run(&pod, config).await?;
    Ok((f, id))
}

/// The URL of an exec; channels are numbered as WebSocket has them.
pub(crate) async fn exec(
    node: &Node,
    id: &str,
    command: &[&str],
    channels: &[u8],
) -> Result<String> {
    let request = v1::ExecRequest {
        container_id: id.to_owned(),
        cmd: command.iter().map(|part| (*part).to_owned()).collect(),
        tty: channels.contains(&4),
        stdin: channels.contains(&0),
        stdout: channels.contains(&1),
        stderr: channels.contains(&2),
    };
    Ok(node
        .client()
        .runtime()
        .exec(request)
        .await?
        .into_inner()
        .url)
}

/// The URL of an attach.
pub(crate) async fn attach(node: &Node, id: &str, channels: &[u8]) -> Result<String> {
    let request = v1::AttachRequest {
        container_id: id.to_owned(),
        tty: channels.contains(&4),
        stdin: channels.contains(&0),
        stdout: channels.contains(&1),
        stderr: channels.contains(&2),
    };
    let answer = node.client().runtime().attach(request).await?;
    Ok(answer.into_inner().url)
}

/// The URL of a port forwarding.
async fn forward(node: &Node, pod: &str, ports: &[i32]) -> Result<String> {
    let request = v1::PortForwardRequest {
        pod_sandbox_id: pod.to_owned(),
        port: ports.to_vec(),
    };
    let answer = node.client().runtime().port_forward(request).await?;
    Ok(answer.into_inner().url)
}

/// Bytes that are not the same twice.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}
