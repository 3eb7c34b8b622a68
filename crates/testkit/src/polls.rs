//! What a poll of statistics costs with many pods: each call timed, none from a cache.
#![allow(clippy::print_stdout, reason = "figures are its output")]

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cri::v1;

use crate::image_maker::ImageMaker;
use crate::node::{Node, Options};
use crate::registry::Registry;
use crate::{requests, soak};

/// Runs `pods` pods with one container each and `exited` that have ended, and times `rounds` polls
/// of each kind.
///
/// # Errors
/// A call failed.
pub async fn run(pods: u32, exited: u32, rounds: u32) -> Result<()> {
    let directory = tempfile::Builder::new()
        .prefix("crixp-")
        .tempdir_in("/var/tmp")?;
    let registry = Registry::start(directory.path())?;
    registry.push("polls/busybox", "latest", &ImageMaker::busybox().build())?;
    let node = Node::start(Options {
        insecure: vec![registry.addr().to_string()],
        log_level: "info".to_owned(),
        network: Some(soak::network(&directory.path().join("ipam"))),
        config: "[crio.stats]\nincluded_pod_metrics = [\"all\"]\n".to_owned(),
        ..Options::default()
    })
    .await?;
    let image = registry.reference("polls/busybox", "latest");
    node.pull(&image).await?;
    let polled = Box::pin(polls(&node, &image, (pods, exited), rounds)).await;
    let ended = node.finish().await;
    soak::bridge_down();
    polled.and(ended)
}

async fn polls(node: &Node, image: &str, (pods, exited): (u32, u32), rounds: u32) -> Result<()> {
    for number in 0..pods {
        let name = format!("poll-{number}");
        let mut config = requests::pod(&name, &node.logs());
        // As the kubelet does it: a cgroup for each pod.
        if let Some(linux) = &mut config.linux {
            linux.cgroup_parent = format!("{}/pod{number}", node.cgroup());
        }
        let pod = node.run_pod_config(config).await?;
        let container = requests::container("c", image, &["sleep", "100000"]);
        node.run(&pod, container).await?;
    }
    let pod = node.run_pod("ended").await?;
    for number in 0..exited {
        let container = requests::container(&format!("c{number}"), image, &["true"]);
        node.run(&pod, container).await?;
    }
    node.client()
        .runtime()
        .stop_pod_sandbox(v1::StopPodSandboxRequest {
            pod_sandbox_id: pod,
        })
        .await?;
    println!("{pods} pods with one container each, {exited} exited containers, {rounds} polls:");
    let runtime = || node.client().runtime();
    let count = usize::try_from(pods)?;
    timed(node, "ListContainerStats", rounds, || async {
        let request = v1::ListContainerStatsRequest::default();
        let answer = runtime().list_container_stats(request).await?;
        ensure!(answer.into_inner().stats.len() >= count);
        Ok(())
    })
    .await?;
    timed(node, "ListPodSandbox", rounds, || async {
        let request = v1::ListPodSandboxRequest::default();
        runtime().list_pod_sandbox(request).await?;
        Ok(())
    })
    .await?;
    timed(node, "ListPodSandboxStats", rounds, || async {
        let request = v1::ListPodSandboxStatsRequest::default();
        let answer = runtime().list_pod_sandbox_stats(request).await?;
        ensure!(answer.into_inner().stats.len() >= count);
        Ok(())
    })
    .await?;
    timed(
        node,
        "ListPodSandboxMetrics, all groups",
        rounds,
        || async {
            let request = v1::ListPodSandboxMetricsRequest {};
            let answer = runtime().list_pod_sandbox_metrics(request).await?;
            ensure!(answer.into_inner().pod_metrics.len() >= count);
            Ok(())
        },
    )
    .await?;
    timed(node, "ListContainers", rounds, || async {
        let request = v1::ListContainersRequest::default();
        runtime().list_containers(request).await?;
        Ok(())
    })
    .await?;
    timed(node, "ImageFsInfo", rounds, || async {
        let mut images = node.client().images();
        images.image_fs_info(v1::ImageFsInfoRequest {}).await?;
        Ok(())
    })
    .await
}

async fn timed<F>(node: &Node, name: &str, rounds: u32, call: impl Fn() -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    // As often as it takes to see what a client that polls sees, and not the daemon's other work.
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let mut times = Vec::new();
    let before = processor_time(node)?;
    for _ in 0..rounds.max(1) {
        tick.tick().await;
        let now = Instant::now();
        call().await?;
        times.push(now.elapsed());
    }
    let used = processor_time(node)?.saturating_sub(before) / rounds.max(1);
    let first = times[0];
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1000.0;
    println!(
        "  {name:<36} median {:>7.2} ms, p95 {:>7.2} ms, first {:>7.2} ms; the daemon's processor time {:>6.2} ms",
        at(50),
        at(95),
        first.as_secs_f64() * 1000.0,
        used.as_secs_f64() * 1000.0
    );
    Ok(())
}

/// What the daemon has used so far; wall clock time depends on what else the machine does.
fn processor_time(node: &Node) -> Result<Duration> {
    /// `proc_pid_stat(5)` counts in this.
    const TICK: Duration = Duration::from_millis(10);
    let pid = node.daemon_pid().context("a daemon")?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("a name in brackets")?;
    let times = fields.split_ascii_whitespace().skip(11).take(2);
    let ticks = times.map(str::parse::<u32>).sum::<Result<u32, _>>()?;
    Ok(TICK * ticks)
}
