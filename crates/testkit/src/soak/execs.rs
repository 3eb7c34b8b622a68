//! Many commands in one container, in turn and at once, while other pods start.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::task::JoinSet;

use super::census::{self, Census};
use super::start;
use crate::node::Node;
use crate::requests;

/// Runs `in_turn` commands one after another, then `at_once` together, and meanwhile a pod now and
/// then; prints what was there before and after.
pub(super) async fn run(
    node: Node,
    image: &str,
    addresses: &Path,
    in_turn: u32,
    at_once: u32,
) -> Result<()> {
    let pod = node.run_pod("execs").await?;
    let container = requests::container("main", image, &["sleep", "100000"]);
    let main = node.run(&pod, container).await?;
    command(&node, &main, 0).await?;
    let before = Census::of(&node, addresses)?;

    let node = Arc::new(node);
    let alone = pods(&node, image, "alone", 10).await?;
    let now = Instant::now();
    let others = {
        let (node, image) = (Arc::clone(&node), image.to_owned());
        tokio::spawn(async move { pods(&node, &image, "beside", 10).await })
    };
    for number in 0..in_turn {
        command(&node, &main, number).await?;
    }
    println!("{in_turn} commands in turn: {:.1?}", now.elapsed());
    let beside = others.await??;
    println!("a pod's start, median of ten: alone {alone:.1?}, beside commands {beside:.1?}");
    let after_turns = Census::of(&node, addresses)?;

    let now = Instant::now();
    let mut running = JoinSet::new();
    for number in 0..at_once {
        let (node, main) = (Arc::clone(&node), main.clone());
        running.spawn(async move { command(&node, &main, number).await });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    println!("{at_once} commands at once: {:.1?}", now.elapsed());
    let after = Census::of(&node, addresses)?;
    println!("\n{}", census::HEAD);
    println!("| before {before}\n| after those in turn {after_turns}\n| after all {after}");
    let left = after.left_since(&before);
    ensure!(left.is_empty(), "{left:?}");
    let node = Arc::into_inner(node).context("all commands have ended")?;
    node.remove_pod(&pod).await?;
    node.finish().await
}

/// One command, whose output and exit code must be its own.
async fn command(node: &Node, id: &str, number: u32) -> Result<()> {
    let code = number % 200;
    let script = format!("echo {number}; exit {code}");
    let done = node.exec(id, &["sh", "-c", &script]).await?;
    ensure!(done.exit_code == i32::try_from(code)?, "{number}: {done:?}");
    ensure!(
        done.stdout == format!("{number}\n").into_bytes(),
        "{number}: {done:?}"
    );
    Ok(())
}

/// Starts and removes pods; the median of their starts.
async fn pods(node: &Node, image: &str, name: &str, count: u32) -> Result<Duration> {
    let mut times = Vec::new();
    for number in 0..count {
        let now = Instant::now();
        let pod = start(node, &format!("{name}-{number}"), image).await?;
        times.push(now.elapsed());
        node.remove_pod(&pod).await?;
    }
    times.sort();
    Ok(times.get(times.len() / 2).copied().unwrap_or_default())
}
