//! Where a restored container's processes are.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use cri::v1;
use sys::cgroup::Cgroup;
use testkit::node::Node;
use testkit::requests::container;

use super::{COUNT, archives, available, checkpoint, counted, refused_without_criu, restored};
use crate::fixture::{self, Fixture};

const LIMIT: i64 = 96 << 20;

/// Path of a container's cgroup.
fn path(node: &Node, id: &str) -> String {
    let ending = if testkit::node::systemd() {
        ".scope"
    } else {
        ""
    };
    format!("{}/crio-{id}{ending}", node.cgroup())
}

/// The processes of a container, by their process namespace, each with its `/proc/PID/cgroup`.
async fn processes(f: &Fixture, id: &str) -> Result<Vec<String>> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let init = namespace(&f.pid(id).await?.to_string()).context("its init")?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let pid = entry?.file_name().to_string_lossy().into_owned();
        if pid.parse::<u32>().is_ok() && namespace(&pid).as_ref() == Some(&init) {
            // Its loop's `sleep` may have ended meanwhile.
            found.extend(fs::read_to_string(format!("/proc/{pid}/cgroup")).ok());
        }
    }
    Ok(found)
}

/// That all lines that matter of a `/proc/PID/cgroup` say `path`, or the cgroup in it that crun makes
/// beneath a scope: the line of version 2 where it is alone, else those of hierarchies with limits.
fn is_in(text: &str, path: &str) -> bool {
    let limits = |line: &&str| {
        let controllers = line.split(':').nth(1).unwrap_or_default();
        text.lines().count() == 1
            || controllers
                .split(',')
                .any(|name| ["memory", "pids", "cpu"].contains(&name))
    };
    let its_own = |line: &str| {
        let found = line.splitn(3, ':').nth(2).unwrap_or_default();
        let beneath = found.strip_prefix(path);
        beneath.is_some_and(|rest| ["", "/container"].contains(&rest))
    };
    let mut lines = text.lines().filter(limits).peekable();
    lines.peek().is_some() && lines.all(its_own)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_processes_are_in_the_new_containers_cgroup_and_the_old_one_is_gone() -> Result<()> {
    let f = fixture::node().await?;
    if !available(&f.node) {
        return refused_without_criu(f).await;
    }
    let limited = |mut config: v1::ContainerConfig| {
        config.linux.as_mut().unwrap().resources = Some(v1::LinuxContainerResources {
            memory_limit_in_bytes: LIMIT,
            ..Default::default()
        });
        config
    };
    let archive = archives(&f.node)?.join("c.tar");
    // Two that never end and were not started by each other, beside the one that counts.
    let script =
        format!("(while true; do sleep 1; done) & sh -c 'while true; do sleep 1; done' & {COUNT}");
    let pod = f.node.run_pod("old").await?;
    let config = limited(container("c", &f.image, &["sh", "-c", &script]));
    let old = f.node.run(&pod, config).await?;
    counted(&f.node, "old", 3).await?;
    ensure!(processes(&f, &old).await?.len() >= 3, "{script}");
    checkpoint(&f.node, &old, &archive, 0)
        .await
        .with_context(|| f.node.log_tail())?;
    let before = path(&f.node, &old);
    f.node.remove_pod(&pod).await?;

    let pod = f.node.run_pod("new").await?;
    let config = limited(restored(&archive, &f.image));
    let id = f.node.create(&pod, config).await?;
    f.node
        .start_container(&id)
        .await
        .with_context(|| f.node.log_tail())?;
    let first = counted(&f.node, "new", 0).await?;
    counted(&f.node, "new", first + 2).await?;
    let wanted = path(&f.node, &id);
    let texts = processes(&f, &id).await?;
    ensure!(texts.len() >= 3, "{texts:?}");
    for text in &texts {
        ensure!(is_in(text, &wanted), "not in {wanted}: {text}");
    }
    let left: Vec<_> = Cgroup::at(&before)?
        .paths()
        .filter(|dir| dir.exists())
        .map(ToOwned::to_owned)
        .collect();
    ensure!(left.is_empty(), "criu has made {left:?} again");
    let cgroup = Cgroup::at(&wanted)?;
    let limit = match cgroup.v1("memory") {
        Some(dir) => dir.join("memory.limit_in_bytes"),
        None => cgroup.v2().context("a cgroup")?.join("memory.max"),
    };
    let limit = fs::read_to_string(limit)?;
    ensure!(limit.trim() == LIMIT.to_string(), "{limit}");
    if !cgroup.has_v1() {
        // In a namespace of cgroups whose root it is.
        let shown = f.node.exec(&id, &["cat", "/proc/1/cgroup"]).await?;
        ensure!(shown.stdout == b"0::/\n", "{shown:?}");
    }
    f.node.finish().await
}

/// A privileged container may make cgroups beneath its own (on version 2, where it has a namespace).
#[tokio::test(flavor = "multi_thread")]
async fn cgroups_that_a_container_made_are_beneath_the_new_one() -> Result<()> {
    let f = fixture::node().await?;
    if !available(&f.node) {
        return refused_without_criu(f).await;
    }
    if Cgroup::at(&f.node.cgroup())?.has_v1() {
        return skipped(f).await;
    }
    let privileged = |mut config: v1::ContainerConfig| {
        let security = v1::LinuxContainerSecurityContext {
            privileged: true,
            ..Default::default()
        };
        config.linux.as_mut().unwrap().security_context = Some(security);
        config
    };
    let archive = archives(&f.node)?.join("c.tar");
    let script = format!(
        "mkdir /sys/fs/cgroup/inner && echo $$ > /sys/fs/cgroup/inner/cgroup.procs; {COUNT}"
    );
    let mut pods = f.node.placed(testkit::requests::pod("old", &f.node.logs()));
    pods.linux.as_mut().unwrap().security_context = Some(v1::LinuxSandboxSecurityContext {
        privileged: true,
        ..Default::default()
    });
    let pod = f.node.run_pod_config(pods.clone()).await?;
    let config = privileged(container("c", &f.image, &["sh", "-c", &script]));
    let old = f.node.run(&pod, config).await?;
    counted(&f.node, "old", 3).await?;
    checkpoint(&f.node, &old, &archive, 0)
        .await
        .with_context(|| f.node.log_tail())?;
    let before = path(&f.node, &old);
    f.node.remove_pod(&pod).await?;

    pods.metadata.as_mut().unwrap().attempt = 1;
    let pod = f.node.run_pod_config(pods).await?;
    let config = privileged(restored(&archive, &f.image));
    let id = f.node.create(&pod, config).await?;
    f.node
        .start_container(&id)
        .await
        .with_context(|| f.node.log_tail())?;
    let first = counted(&f.node, "old", 0).await?;
    counted(&f.node, "old", first + 2).await?;
    let own = path(&f.node, &id);
    // With cgroupfs crun puts the first process, once it is restored, where it puts that of others.
    let beneath: &[&str] = match f.node.runtime().contains("crun") {
        true => &["", "/inner", "/container/inner"],
        false => &["/inner"],
    };
    let texts = processes(&f, &id).await?;
    for text in &texts {
        let found = text.trim_end().strip_prefix("0::");
        let rest = found.and_then(|found| found.strip_prefix(own.as_str()));
        ensure!(
            rest.is_some_and(|rest| beneath.contains(&rest)),
            "not in {own}: {text}"
        );
    }
    ensure!(!texts.is_empty());
    let old = Cgroup::at(&before)?;
    ensure!(
        !old.paths().any(std::path::Path::exists),
        "{before} is there again"
    );
    f.node.finish().await
}

#[allow(clippy::print_stderr, reason = "a test that is skipped says why")]
async fn skipped(f: Fixture) -> Result<()> {
    eprintln!("skipped: cgroups of version 1, in which a container makes none");
    f.node.finish().await
}
