//! Every operation, failed and killed at every stage: the retry succeeds and nothing is left.

use anyhow::{Context as _, Result};
use testkit::node::{Node, Options};
use testkit::requests::{self, container};

use crate::{checkpoint, fixture};

/// The memory limit that an update sets.
const LIMIT: i64 = 96 << 20;

/// Operations that make or unmake more where a pod has a user namespace of its own.
const OF_USERS: [&str; 4] = [
    "run-pod-sandbox",
    "create-container",
    "remove-container",
    "stop-pod-sandbox",
];

/// One fault: where, and what happens there.
#[derive(Debug, Clone)]
struct Fault {
    operation: &'static str,
    point: String,
    action: &'static str,
    /// Whether the pod has a user namespace, and its container an id-mapped volume.
    users: bool,
}

fn all() -> Vec<Fault> {
    let mut all = Vec::new();
    for (operation, stages) in pods::stages() {
        for stage in stages {
            for when in ["before", "after"] {
                for action in ["fail", "kill"] {
                    for users in [false, true] {
                        all.push(Fault {
                            operation,
                            point: format!("{operation}.{stage}.{when}"),
                            action,
                            users,
                        });
                    }
                }
            }
        }
    }
    all.retain(|fault| !fault.users || OF_USERS.contains(&fault.operation));
    all
}

/// All of them if asked, else some, others on each day.
fn sample() -> Vec<Fault> {
    let all = all();
    if std::env::var_os("CRIOXIDE_ALL_FAULTS").is_some() {
        return all;
    }
    const ONE_IN: u64 = 3;
    let day = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        / 86400;
    all.into_iter()
        .zip(0u64..)
        .filter(|(_, number)| (number + day).is_multiple_of(ONE_IN))
        .map(|(fault, _)| fault)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stage_may_fail_or_be_the_last() -> Result<()> {
    let f = fixture::with(Options {
        log_level: "info".into(),
        ..Options::default()
    })
    .await?;
    let (mut node, image) = (f.node, f.image);
    let mut sample = sample();
    if !checkpoint::available(&node) {
        eprintln!(
            "skipped: checkpoint-container, since there is no criu for {}",
            node.runtime()
        );
        sample.retain(|fault| fault.operation != "checkpoint-container");
    }
    for fault in &sample {
        one(&mut node, &image, fault)
            .await
            .with_context(|| format!("{fault:?}\n{}", node.log_tail()))?;
    }
    node.finish().await
}

/// Brings a pod as far as the operation needs, meets the fault, repeats, and takes the pod away.
async fn one(node: &mut Node, image: &str, fault: &Fault) -> Result<()> {
    let volume = node.dir.join("volume");
    let mounts = match fault.users {
        true => vec![cri::v1::Mount {
            container_path: "/volume".into(),
            host_path: volume.display().to_string(),
            uid_mappings: requests::mappings(),
            gid_mappings: requests::mappings(),
            ..Default::default()
        }],
        false => Vec::new(),
    };
    let config = || cri::v1::ContainerConfig {
        mounts: mounts.clone(),
        // An init that ignores SIGTERM would cost the whole grace period each time.
        stop_signal: cri::v1::Signal::Sigkill as i32,
        // A sleep alone would be ended by criu, which interrupts it.
        ..container("c", image, &["sh", "-c", "while true; do sleep 1; done"])
    };
    let order = [
        "run-pod-sandbox",
        "create-container",
        "start-container",
        "update-container",
        "checkpoint-container",
        "stop-container",
        "remove-container",
        "stop-pod-sandbox",
        "remove-pod-sandbox",
    ];
    let before = order
        .iter()
        .take_while(|operation| **operation != fault.operation)
        .copied()
        .collect::<Vec<_>>();
    let (mut pod, mut id) = (String::new(), String::new());
    if before.contains(&"run-pod-sandbox") {
        pod = run_pod(node, fault).await?;
    }
    if before.contains(&"create-container") {
        id = node.create(&pod, config()).await?;
    }
    if before.contains(&"start-container") {
        node.start_container(&id).await?;
    }
    node.set_faults(&format!("{}={}", fault.point, fault.action));
    node.restart().await?;
    let first = call(node, fault, &pod, &id, config()).await;
    if fault.action == "kill" {
        anyhow::ensure!(first.is_err(), "the daemon died and still answered");
        node.daemon_died()?;
        node.set_faults("");
        node.start_daemon().await?;
    } else {
        node.set_faults("");
    }
    // A start that failed has ended the container; everything else can be repeated.
    let started = fault.operation == "start-container" && fault.action == "fail";
    if !started {
        call(node, fault, &pod, &id, config())
            .await
            .context("the retry")?;
    }
    if fault.operation == "update-container" {
        let resources = node.status(&id).await?.resources;
        let linux = resources.and_then(|resources| resources.linux);
        let limit = linux.map(|linux| linux.memory_limit_in_bytes);
        anyhow::ensure!(limit == Some(LIMIT), "limited to {limit:?}");
        let read =
            "cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max";
        let read = node.exec(&id, &["sh", "-c", read]).await?;
        let limit = String::from_utf8_lossy(&read.stdout);
        anyhow::ensure!(limit.trim() == LIMIT.to_string(), "the kernel has {limit}");
    }
    if fault.operation == "checkpoint-container" {
        checkpoint::only_in(&checkpoint::archives(node)?, &["c.tar"])?;
        // It stands still no longer.
        anyhow::ensure!(node.exec(&id, &["true"]).await?.exit_code == 0);
    }
    let pods = node
        .client()
        .runtime()
        .list_pod_sandbox(cri::v1::ListPodSandboxRequest::default())
        .await?
        .into_inner()
        .items;
    for pod in pods {
        node.remove_pod(&pod.id).await.context("the end")?;
    }
    node.restart().await?;
    let left: Vec<_> = testkit::audit::left(node)
        .into_iter()
        .filter(|line| !is_daemons(line))
        .collect();
    anyhow::ensure!(left.is_empty(), "left: {}", left.join("\n"));
    Ok(())
}

/// The daemon's own process is not a leak while it runs.
fn is_daemons(line: &str) -> bool {
    line.starts_with("process ") && line.contains("/crioxide ")
}

async fn run_pod(node: &Node, fault: &Fault) -> Result<String> {
    let pod = requests::pod("f", &node.logs());
    let pod = match fault.users {
        true => requests::with_users(pod),
        false => pod,
    };
    node.run_pod_config(pod).await
}

async fn call(
    node: &Node,
    fault: &Fault,
    pod: &str,
    id: &str,
    config: cri::v1::ContainerConfig,
) -> Result<()> {
    let mut runtime = node.client().runtime();
    let (pod_sandbox_id, container_id) = (pod.to_owned(), id.to_owned());
    match fault.operation {
        "run-pod-sandbox" => run_pod(node, fault).await.map(drop),
        "create-container" => node.create(pod, config).await.map(drop),
        "start-container" => node.start_container(id).await,
        "update-container" => {
            let linux = cri::v1::LinuxContainerResources {
                memory_limit_in_bytes: LIMIT,
                ..Default::default()
            };
            let request = cri::v1::UpdateContainerResourcesRequest {
                container_id,
                linux: Some(linux),
                ..Default::default()
            };
            runtime.update_container_resources(request).await?;
            Ok(())
        }
        "stop-container" => {
            let timeout = 0;
            runtime
                .stop_container(cri::v1::StopContainerRequest {
                    container_id,
                    timeout,
                })
                .await?;
            Ok(())
        }
        "checkpoint-container" => {
            let location = checkpoint::archives(node)?.join("c.tar");
            Ok(checkpoint::checkpoint(node, id, &location, 0).await?)
        }
        "remove-container" => {
            runtime
                .remove_container(cri::v1::RemoveContainerRequest { container_id })
                .await?;
            Ok(())
        }
        "stop-pod-sandbox" => {
            runtime
                .stop_pod_sandbox(cri::v1::StopPodSandboxRequest { pod_sandbox_id })
                .await?;
            Ok(())
        }
        "remove-pod-sandbox" => node.remove_pod(pod).await,
        other => anyhow::bail!("no call for {other}"),
    }
}
