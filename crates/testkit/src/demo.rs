//! The demo: from an image reference to an exit code, with the time that each step took.
#![allow(clippy::print_stdout, reason = "a demo talks to its user")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use cri::v1;

use crate::image_maker::ImageMaker;
use crate::node::{Node, Options};
use crate::registry::Registry;
use crate::{progress, requests};

/// Prints how long a step took.
fn step<T>(name: &str, since: Instant, value: T) -> T {
    let took: Duration = since.elapsed();
    println!("  {:<42} {:>8.1} ms", name, took.as_secs_f64() * 1000.0);
    value
}

/// Runs the demo; with `keep` everything stays until the user ends it.
///
/// # Errors
/// Any step that failed, with the end of the daemon's log.
pub async fn run(image: Option<String>, keep: bool) -> Result<()> {
    let directory = tempfile::Builder::new()
        .prefix("crixd-")
        .tempdir_in("/var/tmp")?;
    let (registry, image) = match image {
        Some(image) => (None, image),
        None => {
            println!("An image from this distribution's busybox, in a registry on loopback:");
            let now = Instant::now();
            let registry = Registry::start(directory.path())?;
            registry.push("demo/busybox", "latest", &ImageMaker::busybox().build())?;
            step("registry started, image made and pushed", now, ());
            let name = format!("{}/demo/busybox:latest", registry.addr());
            (Some(registry), name)
        }
    };
    println!("A daemon under a root of its own:");
    let now = Instant::now();
    let insecure = registry
        .iter()
        .map(|registry| registry.addr().to_string())
        .collect();
    let node = Node::start(Options {
        insecure,
        log_level: "info".to_owned(),
        ..Options::default()
    })
    .await?;
    step("crioxide started", now, ());
    let shown = show(&node, &image).await.with_context(|| node.log_tail());
    if keep && shown.is_ok() {
        println!("\nLeft running, as you asked. Look at it with\n");
        println!(
            "  crictl --runtime-endpoint unix://{} ps -a\n",
            node.socket().display()
        );
        println!(
            "Its files are in {} and {}. Ctrl-C ends it and cleans up.",
            node.dir.display(),
            node.run_dir.display()
        );
        tokio::signal::ctrl_c().await?;
        println!();
    }
    println!("Cleaning up:");
    let now = Instant::now();
    node.finish().await?;
    step("pods removed, daemon ended, nothing left", now, ());
    drop(registry);
    shown
}

async fn show(node: &Node, image: &str) -> Result<()> {
    println!("Pull {image}:");
    let now = Instant::now();
    let id = progress::pull(&node.client(), image).await?;
    step("PullImage", now, ());
    println!("  image {id}");
    println!("A pod in a network of its own, with two containers:");
    let now = Instant::now();
    let pod = step("RunPodSandbox", now, node.run_pod("demo").await?);
    let first = [
        "sh",
        "-c",
        "echo hello from the first container; sleep 1; exit 3",
    ];
    let second = [
        "sh",
        "-c",
        "echo the second one listens; hostname; exec sleep 1000",
    ];
    let mut ids = Vec::new();
    for (name, command) in [("first", first), ("second", second)] {
        let now = Instant::now();
        let id = node
            .create(&pod, requests::container(name, image, &command))
            .await?;
        step(&format!("CreateContainer {name}"), now, ());
        let now = Instant::now();
        node.start_container(&id).await?;
        step(&format!("StartContainer {name}"), now, ());
        ids.push(id);
    }
    let [first, second] = &ids[..] else {
        return Ok(());
    };
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: pod.clone(),
        verbose: false,
    };
    let status = node
        .client()
        .runtime()
        .pod_sandbox_status(request)
        .await?
        .into_inner()
        .status
        .context("a status")?;
    println!("  its address is {}", status.network.unwrap_or_default().ip);
    let now = Instant::now();
    let exec = node
        .exec(second, &["sh", "-c", "echo from an exec as user $(id -u)"])
        .await?;
    step("ExecSync", now, ());
    print!("  it said: {}", String::from_utf8_lossy(&exec.stdout));
    let now = Instant::now();
    let exited = node.exited(first).await?;
    step("the first container ended by itself", now, ());
    println!("  exit code {} ({})", exited.exit_code, exited.reason);
    let now = Instant::now();
    let request = v1::StopContainerRequest {
        container_id: second.clone(),
        timeout: 1,
    };
    node.client().runtime().stop_container(request).await?;
    step("StopContainer second (sleep ignores SIGTERM)", now, ());
    let exited = node.status(second).await?;
    println!("  exit code {} ({})", exited.exit_code, exited.reason);
    for name in ["first", "second"] {
        println!("Log of {name}:");
        node.log("demo", name)?
            .lines()
            .for_each(|line| println!("  {line}"));
    }
    Ok(())
}
