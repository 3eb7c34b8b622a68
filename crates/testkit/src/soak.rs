//! Many pods, one after another and at once: what the kernel, the disk and the daemon still hold
//! afterwards, and what a running pod costs in memory.
#![allow(clippy::print_stdout, reason = "a soak's result is its output")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use cri::v1;
use tokio::task::JoinSet;

use crate::image_maker::ImageMaker;
use crate::node::{Node, Options};
use crate::registry::Registry;
use crate::requests;

mod census;
mod execs;

use census::{Census, Memory};

/// The bridge of all pods; its range is large enough for the pods that run at once.
const BRIDGE: &str = "cxsoak0";

/// Runs `one_by_one` pods in turn, then `at_once` together, each with one container, kills the
/// daemon under the latter, removes all, and prints what was there before and after.
///
/// # Errors
/// A call failed, or something is left.
pub async fn run(one_by_one: u32, at_once: u32) -> Result<()> {
    with_node(async |node, image, addresses| {
        soak(node, image, addresses, one_by_one, at_once).await
    })
    .await
}

/// Runs `in_turn` commands in a container one after another, and `at_once` together.
///
/// # Errors
/// A command failed, or something is left.
pub async fn execs(in_turn: u32, at_once: u32) -> Result<()> {
    with_node(async |node, image, addresses| {
        execs::run(node, image, addresses, in_turn, at_once).await
    })
    .await
}

/// Does `work` with a node that has an image, and whose pods' addresses are kept at a path.
async fn with_node(work: impl AsyncFnOnce(Node, &str, &Path) -> Result<()>) -> Result<()> {
    let directory = tempfile::Builder::new()
        .prefix("crixs-")
        .tempdir_in("/var/tmp")?;
    let registry = Registry::start(directory.path())?;
    registry.push("soak/busybox", "latest", &ImageMaker::busybox().build())?;
    let image = registry.reference("soak/busybox", "latest");
    let addresses = directory.path().join("ipam");
    let node = Node::start(Options {
        insecure: vec![registry.addr().to_string()],
        log_level: "info".to_owned(),
        network: Some(network(&addresses)),
        ..Options::default()
    })
    .await?;
    node.pull(&image).await?;
    let done = Box::pin(work(node, &image, &addresses)).await;
    bridge_down();
    done
}

pub(crate) fn network(addresses: &Path) -> String {
    format!(
        r#"{{"cniVersion":"0.4.0","name":"soak","plugins":[{{"type":"bridge","bridge":"{BRIDGE}","isGateway":true,
        "ipMasq":false,"ipam":{{"type":"host-local","dataDir":"{}","ranges":[[{{"subnet":"10.199.0.0/20"}}]]}}}}]}}"#,
        addresses.display()
    )
}

async fn soak(
    node: Node,
    image: &str,
    addresses: &Path,
    one_by_one: u32,
    at_once: u32,
) -> Result<()> {
    // What is made once, by whatever pod comes first: the bridge, directories, pools.
    let first = start(&node, "first", image).await?;
    node.remove_pod(&first).await?;
    let mut rows = vec![("before", Census::of(&node, addresses)?)];

    let now = Instant::now();
    for number in 0..one_by_one {
        let pod = start(&node, &format!("turn-{number}"), image).await?;
        node.remove_pod(&pod).await?;
    }
    println!("{one_by_one} pods one after another: {:.1?}", now.elapsed());
    rows.push(("after them", Census::of(&node, addresses)?));

    let node = Arc::new(node);
    let now = Instant::now();
    let mut starts = JoinSet::new();
    for number in 0..at_once {
        let (node, image) = (node.clone(), image.to_owned());
        starts.spawn(async move { start(&node, &format!("together-{number}"), &image).await });
    }
    let mut pods = Vec::new();
    while let Some(pod) = starts.join_next().await {
        pods.push(pod??);
    }
    println!(
        "{at_once} pods at once: running after {:.1?}",
        now.elapsed()
    );
    rows.push(("while they run", Census::of(&node, addresses)?));
    println!("a monitor of these: {}", monitors(&node)?);

    let mut node = Arc::into_inner(node).context("all starts have ended")?;
    kill(&mut node, pods.len()).await?;
    rows.push(("daemon killed, new one", Census::of(&node, addresses)?));

    let node = Arc::new(node);
    let now = Instant::now();
    let mut removals = JoinSet::new();
    for pod in pods {
        let node = node.clone();
        removals.spawn(async move { node.remove_pod(&pod).await });
    }
    while let Some(removed) = removals.join_next().await {
        removed??;
    }
    println!("{at_once} pods removed at once: {:.1?}", now.elapsed());
    rows.push(("all removed", Census::of(&node, addresses)?));
    println!("\n{}", census::HEAD);
    rows.iter()
        .for_each(|(name, row)| println!("| {name} {row}"));
    for (name, row) in &rows[1..] {
        if name.contains("removed") || name.contains("after") {
            let difference = row.left_since(&rows[0].1);
            ensure!(difference.is_empty(), "{name}: {difference:?}");
        }
    }
    let node = Arc::into_inner(node).context("all removals have ended")?;
    node.finish().await
}

/// A pod with one container that stays.
async fn start(node: &Node, name: &str, image: &str) -> Result<String> {
    let pod = node.run_pod(name).await.with_context(|| name.to_owned())?;
    let container = requests::container("c", image, &["sleep", "100000"]);
    node.run(&pod, container)
        .await
        .with_context(|| name.to_owned())?;
    Ok(pod)
}

/// Kills the daemon and says when its successor answers.
async fn kill(node: &mut Node, pods: usize) -> Result<()> {
    node.kill_daemon()?;
    let now = Instant::now();
    node.start_daemon().await?;
    let answer = now.elapsed();
    let mut runtime = node.client().runtime();
    let request = v1::ListContainersRequest::default();
    let list = runtime.list_containers(request).await?.into_inner();
    let listed = now.elapsed();
    let running = v1::ContainerState::ContainerRunning as i32;
    let running = list
        .containers
        .iter()
        .filter(|container| container.state == running)
        .count();
    ensure!(running == pods, "{running} of {pods} containers run");
    let id = &list.containers.first().context("a container")?.id;
    ensure!(node.exec(id, &["true"]).await?.exit_code == 0);
    println!(
        "daemon killed with {pods} pods: first answer {answer:.1?} after its start (looked for \
         every 10 ms), all listed as running {listed:.1?}, an exec {:.1?}",
        now.elapsed()
    );
    Ok(())
}

/// Average memory of the node's monitors.
fn monitors(node: &Node) -> Result<Memory> {
    let monitors: BTreeSet<_> = census::processes(node)
        .into_iter()
        .filter(|pid| {
            let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            program.ends_with("crioxide-monitor")
        })
        .collect();
    ensure!(!monitors.is_empty(), "no monitors");
    Memory::average(&monitors)
}

pub(crate) fn bridge_down() {
    let Some(program) = sys::spawn::which("ip", "/usr/sbin:/sbin:/usr/bin:/bin") else {
        return;
    };
    let program = sys::spawn::Program::new(program, std::time::Duration::from_secs(10));
    // There is none if the first pod failed.
    sys::spawn::run(&program.args(["link", "delete", BRIDGE])).ok();
}
