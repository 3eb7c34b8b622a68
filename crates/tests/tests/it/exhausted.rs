//! A daemon that may open no more files: clear errors, no busy loop, and all is well when it may again.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use testkit::node::Node;
use testkit::requests::container;
use tokio::net::UnixStream;
use tonic::Code;

use crate::fixture;

fn limit(node: &Node, most: impl FnOnce(u64) -> u64) -> Result<Rlimit> {
    let pid = node.daemon_pid().context("no daemon")?;
    let open = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    let current = Some(most(u64::try_from(open)?));
    let limit = Rlimit {
        current,
        maximum: rustix::process::getrlimit(Resource::Nofile).maximum,
    };
    Ok(prlimit(Pid::from_raw(pid), Resource::Nofile, limit)?)
}

/// Waits until what could not be undone is undone.
async fn undone(node: &Node) -> Result<()> {
    let intents = node.run_dir.join("crio/operations");
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..300 {
        tick.tick().await;
        if fs::read_dir(&intents)?.next().is_none() {
            return Ok(());
        }
    }
    anyhow::bail!("still not undone: {}", node.log_tail())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_descriptors_is_told_and_ends_nothing() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod("p").await?;
    let config = container("runs", &f.image, &["sleep", "1000"]);
    let runs = f.node.run(&pod, config).await?;
    let before = limit(&f.node, |open| open + 1)?;
    let refused = f.node.run_pod("q").await.unwrap_err();
    // By whichever of its stages comes first.
    let refused = refused.downcast::<tonic::Status>()?;
    ensure!(
        refused.message().contains("Too many open files"),
        "{refused}"
    );
    let exec = f.node.exec(&runs, &["true"]).await.unwrap_err();
    let exec = exec.downcast::<tonic::Status>()?;
    assert_eq!(exec.code(), Code::ResourceExhausted, "{exec}");

    // Clients that can't be accepted wait, and cost nothing.
    let pid = f.node.daemon_pid().context("no daemon")?;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(UnixStream::connect(f.node.socket()).await?);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    // A busy loop has nothing else among the last sixty lines.
    let log = f.node.log_tail();
    let tries = log.matches("not accepted").count();
    ensure!(
        (1..40).contains(&tries),
        "{tries} tries in two seconds: {log}"
    );
    drop(clients);

    prlimit(Pid::from_raw(pid), Resource::Nofile, before)?;
    undone(&f.node).await?;
    assert_eq!(f.node.exec(&runs, &["true"]).await?.exit_code, 0);
    f.node.run_pod("q").await?;
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_finds_no_descriptor_leaves_nothing() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod("p").await?;
    let (mut made, mut refused) = (0, 0);
    for more in (0..30).step_by(3) {
        let before = limit(&f.node, |open| open + more)?;
        let name = format!("c{more}");
        let config = container(&name, &f.image, &["sleep", "1000"]);
        let created = f.node.create(&pod, config).await;
        let started = match &created {
            Ok(id) => f.node.start_container(id).await.is_ok(),
            Err(_) => false,
        };
        let other = f.node.run_pod(&format!("p{more}")).await;
        let pid = f.node.daemon_pid().context("no daemon")?;
        prlimit(Pid::from_raw(pid), Resource::Nofile, before)?;
        undone(&f.node).await?;
        for well in [started, other.is_ok()] {
            *(if well { &mut made } else { &mut refused }) += 1;
        }
    }
    ensure!(made > 0 && refused > 0, "{made} made, {refused} refused");
    f.node.finish().await
}
