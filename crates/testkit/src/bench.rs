//! Times the calls of a pod's life against one or more CRI runtimes, in turns, so that what else
//! the machine does meets all of them alike.
#![allow(clippy::print_stdout, reason = "a benchmark's result is its output")]

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
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

/// A runtime to measure: `NAME=SOCKET=IMAGE`, where the image has a `sleep` and a `true`.
#[derive(Debug, Clone)]
pub struct Target {
    name: String,
    socket: PathBuf,
    image: String,
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.splitn(3, '=');
        let mut part = || parts.next().filter(|part| !part.is_empty());
        let wrong = "want NAME=SOCKET=IMAGE";
        Ok(Self {
            name: part().context(wrong)?.to_owned(),
            socket: part().context(wrong)?.into(),
            image: part().context(wrong)?.to_owned(),
        })
    }
}

/// A pod's network.
#[derive(Debug, Clone, Copy)]
enum Network {
    Host,
    Cni,
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Host => "host network",
            Self::Cni => "CNI network",
        })
    }
}

/// Runs `rounds` pods per network and target after one that is not counted, and prints a table
/// per network: median and 95th percentile in milliseconds, and the median as a multiple of the
/// first target's. Pods' logs go to `logs`, which the runtimes must see under the same name.
///
/// # Errors
/// Any call that failed, with the target's name. Its pod stays.
pub async fn run(targets: &[Target], rounds: usize, logs: &Path) -> Result<()> {
    ensure!(rounds > 0, "no rounds");
    let mut clients = Vec::new();
    for target in targets {
        let client = Client::connect(&target.socket).await?;
        pull(&client, &target.image)
            .await
            .with_context(|| format!("{}: pull", target.name))?;
        clients.push(client);
    }
    for network in [Network::Host, Network::Cni] {
        let mut samples = vec![vec![Vec::new(); CALLS.len()]; targets.len()];
        for round in 0..=rounds {
            for ((target, client), samples) in targets.iter().zip(&clients).zip(&mut samples) {
                let name = format!("bench-{round}");
                let times = Box::pin(live(client, &target.image, network, &name, logs))
                    .await
                    .with_context(|| format!("{}, {network}", target.name))?;
                if round > 0 {
                    samples
                        .iter_mut()
                        .zip(times)
                        .for_each(|(all, time)| all.push(time));
                }
            }
        }
        table(network, targets, samples);
    }
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
    network: Network,
    name: &str,
    logs: &Path,
) -> Result<[Duration; CALLS.len()]> {
    let config = match network {
        Network::Host => requests::host_network_pod(name, logs),
        Network::Cni => requests::pod(name, logs),
    };
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

fn table(network: Network, targets: &[Target], mut samples: Vec<Vec<Vec<Duration>>>) {
    samples.iter_mut().flatten().for_each(|all| all.sort());
    let names = targets.iter().map(|target| format!(" {} |", target.name));
    println!(
        "\n| {network}, ms: median / p95 |{}",
        names.collect::<String>()
    );
    println!("|---|{}", "---:|".repeat(targets.len()));
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
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let times: Vec<_> = (1..=20).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 50), 10.0);
        assert_eq!(percentile(&times, 95), 19.0);
        assert_eq!(percentile(&times[..1], 95), 1.0);
    }

    #[test]
    fn targets_have_three_parts() {
        let target: Target = "a=/s=h:1/i:t".parse().expect("three parts");
        assert_eq!(target.name, "a");
        assert_eq!(target.socket, Path::new("/s"));
        assert_eq!(target.image, "h:1/i:t");
        assert!("a=/s".parse::<Target>().is_err());
    }
}
