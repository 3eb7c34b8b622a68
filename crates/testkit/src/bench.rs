//! Times the calls of a pod's life against one or more CRI runtimes, in turns, so that what else
//! the machine does meets all of them alike.
#![allow(clippy::print_stdout, reason = "a benchmark's result is its output")]

use std::future::Future;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result, ensure};
use cri::v1;

use crate::client::Client;
use crate::requests;

/// What is timed, in the order of a pod's life. `POD_READY` is the sum of the first three.
const CALLS: [&str; 9] = [
    "RunPodSandbox",
    "CreateContainer",
    "StartContainer",
    POD_READY,
    "ExecSync",
    "StopContainer",
    "RemoveContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
];
const POD_READY: &str = "pod ready";

/// A runtime to measure: `SOCKET=IMAGE`, where the image has a `sleep` and a `true`.
#[derive(Debug, Clone)]
struct Peer {
    socket: PathBuf,
    image: String,
}

impl FromStr for Peer {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (socket, image) = text.split_once('=').context("want SOCKET=IMAGE")?;
        ensure!(!socket.is_empty() && !image.is_empty(), "want SOCKET=IMAGE");
        Ok(Self {
            socket: socket.into(),
            image: image.to_owned(),
        })
    }
}

/// Runs `rounds` pods with each of `peers` (`SOCKET=IMAGE`), in turns and after one that is not
/// counted, and prints a table: median and 95th percentile in milliseconds, and the median as a
/// multiple of the first peer's. Logs go below `/var/tmp`, which the runtimes must see.
///
/// # Errors
/// Any call that failed, with the peer's socket. Its pod stays.
pub async fn run(peers: &[String], rounds: u32, host_network: bool) -> Result<()> {
    ensure!(rounds > 0, "no rounds");
    let peers: Vec<Peer> = peers
        .iter()
        .map(|peer| peer.parse())
        .collect::<Result<_>>()?;
    let logs = tempfile::Builder::new()
        .prefix("crixb-")
        .tempdir_in("/var/tmp")?;
    let mut clients = Vec::new();
    for peer in &peers {
        let client = Client::connect(&peer.socket).await?;
        pull(&client, &peer.image)
            .await
            .with_context(|| format!("{}: pull", peer.socket.display()))?;
        clients.push(client);
    }
    let mut samples = vec![vec![Vec::new(); CALLS.len()]; peers.len()];
    for round in 0..=rounds {
        let name = format!("bench-{round}");
        let config = if host_network {
            requests::host_network_pod(&name, logs.path())
        } else {
            requests::pod(&name, logs.path())
        };
        for ((peer, client), samples) in peers.iter().zip(&clients).zip(&mut samples) {
            let times = Box::pin(live(client, &peer.image, config.clone()))
                .await
                .with_context(|| peer.socket.display().to_string())?;
            if round > 0 {
                samples
                    .iter_mut()
                    .zip(times)
                    .for_each(|(all, time)| all.push(time));
            }
        }
    }
    table(host_network, &peers, samples);
    Ok(())
}

async fn pull(client: &Client, image: &str) -> Result<()> {
    let request = v1::PullImageRequest {
        image: Some(v1::ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    client.images().pull_image(request).await?;
    Ok(())
}

/// One pod from its start to its removal: how long each of [`CALLS`] took.
async fn live(
    client: &Client,
    image: &str,
    config: v1::PodSandboxConfig,
) -> Result<[Duration; CALLS.len()]> {
    // As the kubelet does.
    std::fs::create_dir_all(&config.log_directory)?;
    let mut runtime = client.runtime();
    let request = v1::RunPodSandboxRequest {
        config: Some(config.clone()),
        ..Default::default()
    };
    let (run, pod) = timed(runtime.run_pod_sandbox(request)).await?;
    let pod_sandbox_id = pod.into_inner().pod_sandbox_id;
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: pod_sandbox_id.clone(),
        config: Some(requests::container("c", image, &["sleep", "1000"])),
        sandbox_config: Some(config),
    };
    let (create, container) = timed(runtime.create_container(request)).await?;
    let container_id = container.into_inner().container_id;
    let request = v1::StartContainerRequest {
        container_id: container_id.clone(),
    };
    let (start, _) = timed(runtime.start_container(request)).await?;
    let request = v1::ExecSyncRequest {
        container_id: container_id.clone(),
        cmd: vec!["true".to_owned()],
        timeout: 60,
    };
    let (exec, answer) = timed(runtime.exec_sync(request)).await?;
    ensure!(answer.into_inner().exit_code == 0, "the exec failed");
    let request = v1::StopContainerRequest {
        container_id: container_id.clone(),
        timeout: 0,
    };
    let (stop, _) = timed(runtime.stop_container(request)).await?;
    let request = v1::RemoveContainerRequest { container_id };
    let (remove, _) = timed(runtime.remove_container(request)).await?;
    let request = v1::StopPodSandboxRequest {
        pod_sandbox_id: pod_sandbox_id.clone(),
    };
    let (stop_pod, _) = timed(runtime.stop_pod_sandbox(request)).await?;
    let request = v1::RemovePodSandboxRequest { pod_sandbox_id };
    let (remove_pod, _) = timed(runtime.remove_pod_sandbox(request)).await?;
    let ready = run + create + start;
    Ok([
        run, create, start, ready, exec, stop, remove, stop_pod, remove_pod,
    ])
}

async fn timed<T>(
    call: impl Future<Output = Result<T, tonic::Status>>,
) -> Result<(Duration, T), tonic::Status> {
    let now = Instant::now();
    let answer = call.await?;
    Ok((now.elapsed(), answer))
}

fn table(host_network: bool, peers: &[Peer], mut samples: Vec<Vec<Vec<Duration>>>) {
    samples.iter_mut().flatten().for_each(|all| all.sort());
    let network = if host_network { "host network" } else { "CNI" };
    let names = peers
        .iter()
        .map(|peer| format!(" {} |", peer.socket.display()));
    println!(
        "| {network}, ms: median / p95 |{}",
        names.collect::<String>()
    );
    println!("|---|{}", "---:|".repeat(peers.len()));
    for (call, name) in CALLS.iter().enumerate() {
        print!("| {name} |");
        let mut first = None;
        for times in samples.iter().map(|samples| &samples[call]) {
            let median = percentile(times, 50);
            print!(" {median:.1} / {:.1}", percentile(times, 95));
            match first {
                None => first = Some(median),
                Some(first) => print!(" ({:.2}×)", median / first),
            }
            print!(" |");
        }
        println!();
    }
}

/// The nearest-rank percentile of sorted times, in milliseconds.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1].as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let times: Vec<_> = (1..=20).map(Duration::from_millis).collect();
        assert!((percentile(&times, 50) - 10.0).abs() < 1e-9);
        assert!((percentile(&times, 95) - 19.0).abs() < 1e-9);
        assert!((percentile(&times[..1], 95) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn peers_have_two_parts() {
        let peer: Peer = "/s=h:1/i:t".parse().expect("two parts");
        assert_eq!(peer.socket, Path::new("/s"));
        assert_eq!(peer.image, "h:1/i:t");
        assert!("/s".parse::<Peer>().is_err());
        assert!("/s=".parse::<Peer>().is_err());
    }
}
