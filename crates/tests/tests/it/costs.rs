//! What each call costs, counted by `strace` and compared with the figures that are checked in:
//! a change of them is to be meant. `CRIOXIDE_WRITE_COSTS=1` writes `costs.tsv` anew.

use std::fmt::Write as _;
use std::future::Future;
use std::path::Path;

use anyhow::{Context as _, Result};
use cri::v1;
use testkit::node::Node;
use testkit::requests;

use crate::fixture;

mod observer;
mod trace;

use observer::Observer;
use trace::Costs;

#[tokio::test(flavor = "multi_thread")]
async fn calls_cost_what_the_file_says() -> Result<()> {
    let Some(strace) = observer::program() else {
        println!("skipped: no strace (scripts/setup installs it)");
        return Ok(());
    };
    let f = fixture::node().await?;
    // The first pod makes directories, the bridge and what is read once.
    life(&f.node, &f.image, Network::Cni, &mut Uncounted).await?;
    let pid = f.node.daemon_pid().context("a daemon")?;
    let mut observer = Observer::attach(&strace, pid, &f.node.dir.join("strace")).await?;
    let mut seen = String::from(HEAD);
    for network in [Network::Host, Network::Cni] {
        let mut counted = Counted {
            observer: &mut observer,
            costs: Vec::new(),
        };
        life(&f.node, &f.image, network, &mut counted).await?;
        for (call, costs) in counted.costs {
            let Costs {
                spawns,
                syncs,
                files,
                renames,
            } = costs;
            writeln!(
                seen,
                "{call} ({network:?})\t{spawns}\t{syncs}\t{files}\t{renames}"
            )?;
        }
    }
    observer.detach()?;
    if std::env::var_os("CRIOXIDE_WRITE_COSTS").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/costs.tsv");
        std::fs::write(path, &seen)?;
        return f.node.finish().await;
    }
    let said = include_str!("costs.tsv");
    assert!(
        seen == said,
        "costs.tsv says\n{said}\nand seen was\n{seen}\nIf that is meant, CRIOXIDE_WRITE_COSTS=1 \
         writes it. What was counted:\n{}",
        observer.counted()
    );
    f.node.finish().await
}

const HEAD: &str = "\
# What one call costs, in the daemon and the monitor: programs started (not what runtimes, plugins
# and pinns start in turn), syncs (fsync, fdatasync, syncfs), files opened with O_CREAT, and renames.
# Left out: lock files, which are opened as often as somebody looks, and files in /proc and /sys.
# Counted by strace (tests/it/costs.rs), on a node that has had a pod, with a debug build.
# CRIOXIDE_WRITE_COSTS=1 cargo test -p crioxide-tests costs writes this file.
# call\tspawns\tsyncs\tfiles\trenames
";

#[derive(Debug, Clone, Copy)]
enum Network {
    Host,
    Cni,
}

/// Runs one call, and what it sets off, between two looks.
trait Count {
    async fn call<T>(&mut self, name: &'static str, call: impl Future<Output = T>) -> Result<T>;
}

struct Uncounted;

impl Count for Uncounted {
    async fn call<T>(&mut self, _: &'static str, call: impl Future<Output = T>) -> Result<T> {
        Ok(call.await)
    }
}

struct Counted<'a> {
    observer: &'a mut Observer,
    costs: Vec<(&'static str, Costs)>,
}

impl Count for Counted<'_> {
    async fn call<T>(&mut self, name: &'static str, call: impl Future<Output = T>) -> Result<T> {
        // What the last call set off counts for that one: here it is over.
        let answer = call.await;
        let costs = self.observer.costs_so_far(name).await?;
        self.costs.push((name, costs));
        Ok(answer)
    }
}

/// A pod with a container, from its start to its removal.
async fn life(node: &Node, image: &str, network: Network, count: &mut impl Count) -> Result<()> {
    let config = match network {
        Network::Host => requests::host_network_pod("costs", &node.logs()),
        Network::Cni => requests::pod("costs", &node.logs()),
    };
    let call = node.run_pod_config(config);
    let pod_sandbox_id = count.call("RunPodSandbox", call).await??;
    let call = node.create(
        &pod_sandbox_id,
        requests::container("c", image, &["sleep", "1000"]),
    );
    let container_id = count.call("CreateContainer", call).await??;
    let call = node.start_container(&container_id);
    count.call("StartContainer", call).await??;
    let call = node.exec(&container_id, &["true"]);
    let exec = count.call("ExecSync", call).await??;
    assert_eq!(exec.exit_code, 0);
    let mut runtime = node.client().runtime();
    let call = runtime.list_container_stats(v1::ListContainerStatsRequest::default());
    let stats = count.call("ListContainerStats", call).await??;
    assert_eq!(stats.into_inner().stats.len(), 1);
    let call = runtime.list_pod_sandbox_stats(v1::ListPodSandboxStatsRequest::default());
    count.call("ListPodSandboxStats", call).await??;
    let request = v1::UpdateContainerResourcesRequest {
        container_id: container_id.clone(),
        linux: Some(v1::LinuxContainerResources {
            memory_limit_in_bytes: 64 << 20,
            ..Default::default()
        }),
        ..Default::default()
    };
    let call = runtime.update_container_resources(request);
    count.call("UpdateContainerResources", call).await??;
    let request = v1::StopContainerRequest {
        container_id: container_id.clone(),
        timeout: 0,
    };
    let call = runtime.stop_container(request);
    count.call("StopContainer", call).await??;
    let call = runtime.remove_container(v1::RemoveContainerRequest { container_id });
    count.call("RemoveContainer", call).await??;
    let request = v1::StopPodSandboxRequest {
        pod_sandbox_id: pod_sandbox_id.clone(),
    };
    let call = runtime.stop_pod_sandbox(request);
    count.call("StopPodSandbox", call).await??;
    let call = runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id });
    count.call("RemovePodSandbox", call).await??;
    Ok(())
}
