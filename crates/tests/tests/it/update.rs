//! UpdateContainerResources and UpdatePodSandboxResources: in the kernel, in the status, and after
//! a restart.

use anyhow::{Context as _, Result};
use cri::v1;
use sys::cgroup::Cgroup;
use testkit::node::{Node, Options};
use testkit::requests::container;
use tonic::Code;

use crate::fixture;

async fn update(
    node: &Node,
    id: &str,
    linux: v1::LinuxContainerResources,
) -> Result<(), tonic::Status> {
    let request = v1::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(linux),
        ..Default::default()
    };
    let mut client = node.client().runtime();
    client.update_container_resources(request).await.map(drop)
}

/// Whether the runtime knows what commands begin on (runtime-spec 1.2.1): runc from 1.3 on, of others
/// those that have the word. Debian's runc 1.1 has it too, from the specification's types alone.
fn knows_affinity(node: &Node) -> Result<bool> {
    let path = std::env::var("PATH")?;
    let program = sys::spawn::which(&node.runtime(), &path).context("the runtime")?;
    let said = std::process::Command::new(&program)
        .arg("--version")
        .output()?;
    let said = String::from_utf8(said.stdout)?;
    if let Some(version) = said.strip_prefix("runc version ") {
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
        return Ok((numbers.next().flatten(), numbers.next().flatten()) >= (Some(1), Some(3)));
    }
    let bytes = std::fs::read(program)?;
    let word = b"execCPUAffinity";
    Ok(bytes.windows(word.len()).any(|found| found == word))
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stderr, reason = "a test that is skipped says why")]
async fn commands_begin_on_the_first_processor_of_their_container() -> Result<()> {
    let runtime = std::env::var("CRIOXIDE_TEST_RUNTIME").unwrap_or_else(|_| "runc".into());
    let config = |value: &str| {
        let table = format!("[crio.runtime.runtimes.{runtime}]\n");
        format!("{table}exec_cpu_affinity = {value:?}\n")
    };
    let options = |value: &str| Options {
        config: config(value),
        ..Options::default()
    };
    let refused = fixture::without_image(options("last")).await.err();
    let refused = refused
        .map(|error| format!("{error:#}"))
        .unwrap_or_default();
    assert!(refused.contains("exec_cpu_affinity"), "{refused}");
    let f = fixture::with(options("first")).await?;
    if !knows_affinity(&f.node)? || std::thread::available_parallelism()?.get() < 2 {
        eprintln!("skipped: a runtime that does not know execCPUAffinity, or one processor");
        return f.node.finish().await;
    }
    let pod = f.node.run_pod("affinity").await?;
    let mut config = container("c", &f.image, &["sleep", "1000"]);
    config.linux.as_mut().unwrap().resources = Some(v1::LinuxContainerResources {
        cpuset_cpus: "0-1".into(),
        ..Default::default()
    });
    let id = f.node.run(&pod, config).await?;
    let allowed = async |file: &str| {
        let script = format!("grep Cpus_allowed_list /proc/{file}/status");
        let done = f.node.exec(&id, &["sh", "-c", &script]).await?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        Ok::<_, anyhow::Error>(text.split_whitespace().last().unwrap_or("").to_owned())
    };
    assert_eq!(allowed("1").await?, "0-1", "the container's own process");
    assert_eq!(allowed("self").await?, "0");
    let update = v1::LinuxContainerResources {
        cpuset_cpus: "1".into(),
        ..Default::default()
    };
    self::update(&f.node, &id, update).await?;
    assert_eq!(allowed("self").await?, "1", "the limits in force count");
    f.node.finish().await
}

async fn resources(node: &Node, id: &str) -> Result<v1::LinuxContainerResources> {
    let resources = node.status(id).await?.resources.context("resources")?;
    resources.linux.context("linux")
}

/// A file of a container's cgroup, named for version 1 and 2.
fn file(node: &Node, id: &str, controller: &str, v1: &str, v2: &str) -> Result<String> {
    let ending = if testkit::node::systemd() {
        ".scope"
    } else {
        ""
    };
    let cgroup = Cgroup::at(&format!("{}/crio-{id}{ending}", node.cgroup()))?;
    let path = match cgroup.v1(controller) {
        Some(dir) => dir.join(v1),
        None => cgroup.v2().context("a cgroup")?.join(v2),
    };
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(text.trim().to_owned())
}

fn memory_limit(node: &Node, id: &str) -> Result<String> {
    file(node, id, "memory", "memory.limit_in_bytes", "memory.max")
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_in_the_kernel_and_stay_after_a_restart() -> Result<()> {
    let mut f = fixture::node().await?;
    let sandbox = f.node.run_pod("u").await?;
    let mut config = container("c", &f.image, &["sleep", "1000"]);
    config.linux.as_mut().unwrap().resources = Some(v1::LinuxContainerResources {
        cpu_shares: 512,
        memory_limit_in_bytes: 64 << 20,
        oom_score_adj: 300,
        ..Default::default()
    });
    let id = f.node.run(&sandbox, config).await?;
    let wanted = v1::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 25_000,
        cpuset_cpus: "0".to_owned(),
        memory_limit_in_bytes: 96 << 20,
        oom_score_adj: 500,
        ..Default::default()
    };
    update(&f.node, &id, wanted.clone()).await?;
    assert_eq!(memory_limit(&f.node, &id)?, (96 << 20).to_string());
    let quota = file(&f.node, &id, "cpu", "cpu.cfs_quota_us", "cpu.max")?;
    assert!(quota.starts_with("25000"), "{quota}");
    let cpus = file(&f.node, &id, "cpuset", "cpuset.cpus", "cpuset.cpus")?;
    assert_eq!(cpus, "0");
    let score = f.node.exec(&id, &["cat", "/proc/1/oom_score_adj"]).await?;
    assert_eq!(String::from_utf8_lossy(&score.stdout).trim(), "500");

    let merged = v1::LinuxContainerResources {
        cpu_shares: 512,
        ..wanted
    };
    assert_eq!(resources(&f.node, &id).await?, merged);
    f.node.restart().await?;
    assert_eq!(resources(&f.node, &id).await?, merged, "after a restart");

    // From what is in force, not from what was asked for at first.
    let smaller = v1::LinuxContainerResources {
        memory_limit_in_bytes: 80 << 20,
        ..Default::default()
    };
    update(&f.node, &id, smaller).await?;
    assert_eq!(memory_limit(&f.node, &id)?, (80 << 20).to_string());
    assert_eq!(resources(&f.node, &id).await?.cpu_quota, 25_000);
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_updated_before_it_starts_and_not_after_its_end() -> Result<()> {
    let f = fixture::node().await?;
    let sandbox = f.node.run_pod("u").await?;
    let config = container("c", &f.image, &["true"]);
    let id = f.node.create(&sandbox, config).await?;
    let wanted = v1::LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        ..Default::default()
    };
    update(&f.node, &id, wanted.clone()).await?;
    assert_eq!(memory_limit(&f.node, &id)?, (64 << 20).to_string());
    f.node.start_container(&id).await?;
    f.node.exited(&id).await?;
    let refused = update(&f.node, &id, wanted.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert_eq!(
        resources(&f.node, &id).await?.memory_limit_in_bytes,
        64 << 20,
        "the end keeps them"
    );
    let unknown = update(&f.node, "0000", wanted).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_can_t_be_met_are_refused_and_change_nothing() -> Result<()> {
    let f = fixture::node().await?;
    let sandbox = f.node.run_pod("u").await?;
    let config = container("c", &f.image, &["sleep", "1000"]);
    let id = f.node.run(&sandbox, config).await?;
    let fill = ["dd", "if=/dev/zero", "of=/dev/shm/x", "bs=1M", "count=30"];
    assert_eq!(f.node.exec(&id, &fill).await?.exit_code, 0);
    let before = (memory_limit(&f.node, &id)?, resources(&f.node, &id).await?);
    let memory = |memory_limit_in_bytes, memory_swap_limit_in_bytes| v1::LinuxContainerResources {
        memory_limit_in_bytes,
        memory_swap_limit_in_bytes,
        ..Default::default()
    };
    let cpus = v1::LinuxContainerResources {
        cpuset_cpus: "0-".to_owned(),
        ..Default::default()
    };
    for (wanted, code, why) in [
        (
            memory(20 << 20, 0),
            Code::FailedPrecondition,
            "below what is in use",
        ),
        (memory(4096, 0), Code::InvalidArgument, "below the least"),
        (
            memory(64 << 20, 1 << 20),
            Code::InvalidArgument,
            "swap below memory",
        ),
        (cpus, Code::InvalidArgument, "no list"),
    ] {
        let refused = update(&f.node, &id, wanted).await.unwrap_err();
        assert_eq!(refused.code(), code, "{why}: {refused}");
    }
    let after = (memory_limit(&f.node, &id)?, resources(&f.node, &id).await?);
    assert_eq!(before, after);
    // One that the runtime refuses: no machine has that many processors.
    let wanted = v1::LinuxContainerResources {
        cpuset_cpus: "9999".to_owned(),
        ..Default::default()
    };
    let refused = update(&f.node, &id, wanted).await.unwrap_err();
    assert!(
        refused.message().contains("container update failed"),
        "{refused}"
    );
    assert_eq!(resources(&f.node, &id).await?, before.1);
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pod_may_use_is_kept() -> Result<()> {
    let mut f = fixture::node().await?;
    let sandbox = f.node.run_pod("u").await?;
    let memory = |memory_limit_in_bytes| {
        Some(v1::LinuxContainerResources {
            memory_limit_in_bytes,
            ..Default::default()
        })
    };
    let mut request = v1::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: sandbox.clone(),
        overhead: memory(1 << 20),
        resources: memory(64 << 20),
    };
    let mut client = f.node.client().runtime();
    client.update_pod_sandbox_resources(request.clone()).await?;
    request.overhead = None;
    request.resources = memory(96 << 20);
    client.update_pod_sandbox_resources(request.clone()).await?;
    f.node.restart().await?;
    let status = v1::PodSandboxStatusRequest {
        pod_sandbox_id: sandbox,
        verbose: true,
    };
    let mut client = f.node.client().runtime();
    let status = client.pod_sandbox_status(status).await?.into_inner();
    let info: serde_json::Value = serde_json::from_str(&status.info["info"])?;
    let kept = |part: &str| info["resources"][part]["memory_limit"].as_i64();
    assert_eq!(
        (kept("overhead"), kept("resources")),
        (Some(1 << 20), Some(96 << 20))
    );
    request.pod_sandbox_id = "0000".to_owned();
    let unknown = client.update_pod_sandbox_resources(request).await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
    f.node.finish().await
}
