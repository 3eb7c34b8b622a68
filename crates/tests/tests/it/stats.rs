//! Statistics and metrics: figures that move as what they tell of does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result};
use cri::v1;
use futures_util::StreamExt as _;
use testkit::node::{Node, Options};
use testkit::requests::{container, host_network_pod, pod};

use crate::fixture;

/// Repeats a reading until it shows what is wanted: counters and caches move in their own time.
async fn until<T, F>(node: &Node, what: &str, mut read: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..300 {
        tick.tick().await;
        if let Some(found) = read().await? {
            return Ok(found);
        }
    }
    anyhow::bail!("never seen: {what}\n{}", node.log_tail())
}

async fn stats(node: &Node, id: &str) -> Result<v1::ContainerStats> {
    let request = v1::ContainerStatsRequest {
        container_id: id.to_owned(),
    };
    let answer = node.client().runtime().container_stats(request).await?;
    answer.into_inner().stats.context("stats")
}

async fn pod_stats(node: &Node, id: &str) -> Result<v1::LinuxPodSandboxStats> {
    let request = v1::PodSandboxStatsRequest {
        pod_sandbox_id: id.to_owned(),
    };
    let answer = node.client().runtime().pod_sandbox_stats(request).await?;
    let stats = answer.into_inner().stats.context("stats")?;
    stats.linux.context("linux")
}

async fn list(node: &Node, filter: v1::ContainerStatsFilter) -> Result<Vec<v1::ContainerStats>> {
    let request = v1::ListContainerStatsRequest {
        filter: Some(filter),
    };
    let answer = node
        .client()
        .runtime()
        .list_container_stats(request)
        .await?;
    Ok(answer.into_inner().stats)
}

fn value(value: Option<v1::UInt64Value>) -> u64 {
    value.map_or(0, |value| value.value)
}

fn ids<'a>(list: impl IntoIterator<Item = &'a v1::ContainerStats>) -> BTreeSet<String> {
    let attributes = list.into_iter().map(|one| one.attributes.clone().unwrap());
    attributes.map(|attributes| attributes.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn processor_and_memory_figures_move() -> Result<()> {
    let f = fixture::node().await?;
    let sandbox = f.node.run_pod("busy").await?;
    let burner = ["sh", "-c", "while true; do :; done"];
    let mut limited = container("burner", &f.image, &burner);
    limited.linux.as_mut().unwrap().resources = Some(v1::LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        ..Default::default()
    });
    let burner = f.node.run(&sandbox, limited).await?;
    let idle = container("idle", &f.image, &["sleep", "1000"]);
    let idle = f.node.run(&sandbox, idle).await?;

    let first = stats(&f.node, &burner).await?;
    let cpu = first.cpu.context("cpu")?;
    assert_eq!(
        value(cpu.usage_nano_cores),
        0,
        "nothing to compare with yet"
    );
    let cores = until(&f.node, "processor use", || async {
        let cpu = stats(&f.node, &burner).await?.cpu.context("cpu")?;
        let cores = value(cpu.usage_nano_cores);
        Ok((cores > 50_000_000).then_some(cores))
    })
    .await?;
    assert!(cores < 1_500_000_000, "one loop is one processor: {cores}");
    let later = stats(&f.node, &burner).await?;
    assert!(value(later.cpu.unwrap().usage_core_nano_seconds) > value(cpu.usage_core_nano_seconds));

    let memory = later.memory.context("memory")?;
    let (usage, working_set) = (value(memory.usage_bytes), value(memory.working_set_bytes));
    assert!(usage > 0 && working_set > 0 && working_set <= usage);
    assert!(value(memory.rss_bytes) > 0 && value(memory.page_faults) > 0);
    assert_eq!(
        value(memory.available_bytes),
        (64 << 20) - working_set,
        "as far as the limit"
    );
    let unlimited = stats(&f.node, &idle).await?.memory.context("memory")?;
    assert!(value(unlimited.available_bytes) > 64 << 20, "the node's");

    // 20 MB in a tmpfs are the container's memory.
    let fill = ["dd", "if=/dev/zero", "of=/dev/shm/x", "bs=1M", "count=20"];
    assert_eq!(f.node.exec(&burner, &fill).await?.exit_code, 0);
    let filled = stats(&f.node, &burner).await?.memory.context("memory")?;
    let grown = value(filled.usage_bytes).saturating_sub(usage);
    assert!(grown > 19 << 20, "{grown}");

    let pod = pod_stats(&f.node, &sandbox).await?;
    assert_eq!(ids(&pod.containers), [burner, idle].into());
    assert!(value(pod.process.context("processes")?.process_count) >= 2);
    let total = value(pod.cpu.context("cpu")?.usage_core_nano_seconds);
    let parts = pod.containers.iter();
    let parts = parts.map(|one| value(one.cpu.unwrap().usage_core_nano_seconds));
    let parts = parts.sum::<u64>();
    if testkit::node::systemd() {
        // Its slice is a cgroup of its own, with the monitor's scope in it.
        assert!(total >= parts, "{total} {parts}");
    } else {
        assert_eq!(total, parts, "a pod without a cgroup of its own");
    }
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_own_cgroup_is_what_is_told() -> Result<()> {
    let f = fixture::node().await?;
    let mut config = pod("own", &f.node.logs());
    let linux = config.linux.as_mut().unwrap();
    linux.cgroup_parent = if testkit::node::systemd() {
        format!("{}-podown.slice", f.node.name)
    } else {
        format!("{}/podown", f.node.cgroup())
    };
    let sandbox = f.node.run_pod_config(config).await?;
    let script = ["sh", "-c", "sleep 1000 & sleep 1000 & wait"];
    f.node
        .run(&sandbox, container("c", &f.image, &script))
        .await?;
    let pod = until(&f.node, "three processes", || async {
        let pod = pod_stats(&f.node, &sandbox).await?;
        let count = value(pod.process.unwrap().process_count);
        Ok((count == 3).then_some(pod))
    })
    .await?;
    let memory = value(pod.memory.context("memory")?.usage_bytes);
    let part = pod.containers.first().context("the container")?;
    let part = value(part.memory.unwrap().usage_bytes);
    assert!(part > 0 && memory >= part, "{memory} {part}");
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_writable_layer_grows() -> Result<()> {
    let f = fixture::node().await?;
    let sandbox = f.node.run_pod("disk").await?;
    let id = f
        .node
        .run(&sandbox, container("c", &f.image, &["sleep", "1000"]))
        .await?;
    let before = until(&f.node, "a first figure", || async {
        Ok(stats(&f.node, &id).await?.writable_layer)
    })
    .await?;
    assert!(before.fs_id.is_some() && before.timestamp > 0);
    let write = "dd if=/dev/zero of=/big bs=1M count=5; touch /a /b /c";
    assert_eq!(f.node.exec(&id, &["sh", "-c", write]).await?.exit_code, 0);
    let after = until(&f.node, "a larger layer", || async {
        let layer = stats(&f.node, &id).await?.writable_layer.unwrap();
        Ok((layer.timestamp > before.timestamp).then_some(layer))
    })
    .await?;
    let grown = value(after.used_bytes) - value(before.used_bytes);
    assert!((5 << 20..6 << 20).contains(&grown), "{grown}");
    assert_eq!(value(after.inodes_used) - value(before.inodes_used), 4);

    let mut images = f.node.client().images();
    let info = images.image_fs_info(v1::ImageFsInfoRequest {}).await?;
    let info = info.into_inner();
    let (image, layers) = (&info.image_filesystems[0], &info.container_filesystems[0]);
    assert!(value(image.used_bytes) > 0);
    assert_eq!(value(layers.used_bytes), value(after.used_bytes));
    assert_eq!(after.fs_id, layers.fs_id);
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn network_counters_move_with_a_ping() -> Result<()> {
    let f = fixture::node().await?;
    let sandbox = f.node.run_pod("net").await?;
    let host = host_network_pod("host", &f.node.logs());
    let host = f.node.run_pod_config(host).await?;
    let before = pod_stats(&f.node, &sandbox).await?;
    let before = before.network.context("a pod without containers has one")?;
    let before = before.default_interface.context("eth0")?;
    assert_eq!(before.name, "eth0");
    // The node's ranges have sixteen addresses, of which the bridge has the first.
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: sandbox.clone(),
        verbose: false,
    };
    let status = f
        .node
        .client()
        .runtime()
        .pod_sandbox_status(request)
        .await?;
    let ip = status.into_inner().status.unwrap().network.unwrap().ip;
    let mut octets = ip.parse::<std::net::Ipv4Addr>()?.octets();
    octets[3] = octets[3] & 0xf0 | 1;
    let bridge = std::net::Ipv4Addr::from(octets).to_string();
    let mut config = container("c", &f.image, &["sleep", "1000"]);
    config.linux.as_mut().unwrap().security_context = Some(v1::LinuxContainerSecurityContext {
        capabilities: Some(v1::Capability {
            add_capabilities: vec!["NET_RAW".to_owned()],
            ..Default::default()
        }),
        ..Default::default()
    });
    let id = f.node.run(&sandbox, config).await?;
    let ping = ["ping", "-c", "3", "-i", "0.1", &bridge];
    let pinged = f.node.exec(&id, &ping).await?;
    assert_eq!(pinged.exit_code, 0, "{pinged:?}");
    let after = pod_stats(&f.node, &sandbox).await?.network.unwrap();
    let after = after.default_interface.unwrap();
    let sent = value(after.tx_bytes) - value(before.tx_bytes);
    let received = value(after.rx_bytes) - value(before.rx_bytes);
    assert!(sent >= 3 * 98 && received >= 3 * 98, "{sent} {received}");
    assert!(
        pod_stats(&f.node, &host).await?.network.is_none(),
        "the host's traffic is not the pod's"
    );
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_pick_and_streams_tell_the_same() -> Result<()> {
    let f = fixture::node().await?;
    let (mut containers, mut pods) = (Vec::new(), Vec::new());
    for name in ["a", "b"] {
        let mut config = pod(name, &f.node.logs());
        config.labels = [("pod".to_owned(), name.to_owned())].into();
        let sandbox = f.node.run_pod_config(config).await?;
        let mut config = container("c", &f.image, &["sleep", "1000"]);
        config.labels = [("app".to_owned(), name.to_owned())].into();
        containers.push(f.node.run(&sandbox, config).await?);
        pods.push(sandbox);
    }
    let done = container("done", &f.image, &["true"]);
    let done = f.node.run(&pods[0], done).await?;
    f.node.exited(&done).await?;

    let all: BTreeSet<_> = containers.iter().cloned().collect();
    let first: BTreeSet<_> = [containers[0].clone()].into();
    let labels = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    for (filter, wanted) in [
        (v1::ContainerStatsFilter::default(), &all),
        (
            v1::ContainerStatsFilter {
                id: containers[0][..20].to_owned(),
                ..Default::default()
            },
            &first,
        ),
        (
            v1::ContainerStatsFilter {
                pod_sandbox_id: pods[0].clone(),
                ..Default::default()
            },
            &first,
        ),
        (
            v1::ContainerStatsFilter {
                label_selector: labels("app", "a"),
                ..Default::default()
            },
            &first,
        ),
        (
            v1::ContainerStatsFilter {
                label_selector: labels("app", "none"),
                ..Default::default()
            },
            &BTreeSet::new(),
        ),
    ] {
        let request = v1::StreamContainerStatsRequest {
            filter: Some(filter.clone()),
        };
        assert_eq!(
            &ids(&list(&f.node, filter.clone()).await?),
            wanted,
            "{filter:?}"
        );
        let mut client = f.node.client().runtime();
        let stream = client.stream_container_stats(request).await?;
        let messages: Vec<_> = stream.into_inner().collect().await;
        let streamed = messages
            .into_iter()
            .flat_map(|message| message.unwrap().container_stats);
        assert_eq!(&ids(&streamed.collect::<Vec<_>>()), wanted, "{filter:?}");
    }
    let filter = v1::PodSandboxStatsFilter {
        id: String::new(),
        label_selector: labels("pod", "b"),
    };
    let request = v1::ListPodSandboxStatsRequest {
        filter: Some(filter.clone()),
    };
    let mut client = f.node.client().runtime();
    let listed = client.list_pod_sandbox_stats(request).await?.into_inner();
    let id = |one: &v1::PodSandboxStats| one.attributes.clone().unwrap().id;
    assert_eq!(
        listed.stats.iter().map(id).collect::<Vec<_>>(),
        [pods[1].clone()]
    );
    let request = v1::StreamPodSandboxStatsRequest {
        filter: Some(filter),
    };
    let stream = client.stream_pod_sandbox_stats(request).await?.into_inner();
    let streamed: Vec<_> = stream.map(|message| message.unwrap()).collect().await;
    let streamed = streamed.iter().flat_map(|one| &one.pod_sandbox_stats);
    assert_eq!(streamed.map(id).collect::<Vec<_>>(), [pods[1].clone()]);

    let missing = stats(&f.node, "0000").await.unwrap_err();
    let code = missing.downcast_ref::<tonic::Status>().unwrap().code();
    assert_eq!(code, tonic::Code::NotFound);
    let ended = stats(&f.node, &done).await?;
    assert!(ended.attributes.is_some() && ended.cpu.is_none());
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_keep_to_their_descriptors() -> Result<()> {
    let config = "[crio.stats]\nincluded_pod_metrics = [\"all\"]\n".to_owned();
    let f = fixture::with(Options {
        config,
        ..Options::default()
    })
    .await?;
    let sandbox = f.node.run_pod("m").await?;
    let mut config = container("c", &f.image, &["sleep", "1000"]);
    config.linux.as_mut().unwrap().resources = Some(v1::LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        cpu_period: 100_000,
        cpu_quota: 50_000,
        ..Default::default()
    });
    let id = f.node.run(&sandbox, config).await?;
    let mut client = f.node.client().runtime();
    let request = v1::ListMetricDescriptorsRequest {};
    let descriptors = client.list_metric_descriptors(request).await?.into_inner();
    let keys: BTreeMap<_, _> = descriptors
        .descriptors
        .into_iter()
        .map(|descriptor| (descriptor.name, descriptor.label_keys))
        .collect();
    assert_eq!(keys.len(), 56);

    let request = v1::ListPodSandboxMetricsRequest {};
    let listed = client.list_pod_sandbox_metrics(request).await?.into_inner();
    let request = v1::StreamPodSandboxMetricsRequest {};
    let stream = client.stream_pod_sandbox_metrics(request).await?;
    let streamed: Vec<_> = stream.into_inner().collect().await;
    assert_eq!(streamed.len(), 1);
    let [pod] = &listed.pod_metrics[..] else {
        panic!("one pod: {listed:?}")
    };
    assert_eq!(pod.pod_sandbox_id, sandbox);
    let of_containers = pod.container_metrics.iter().flat_map(|one| &one.metrics);
    let mut seen = BTreeMap::new();
    for metric in pod.metrics.iter().chain(of_containers) {
        let labels = keys.get(&metric.name).context(metric.name.clone())?;
        assert_eq!(metric.label_values.len(), labels.len(), "{metric:?}");
        let of = |label: &str| {
            let at = labels.iter().position(|key| key == label).unwrap();
            metric.label_values[at].as_str()
        };
        assert_eq!((of("namespace"), of("pod")), ("default", "m"));
        assert!(metric.timestamp > 0 && metric.value.is_some());
        seen.insert(metric.name.as_str(), value(metric.value));
    }
    for (name, wanted) in [
        ("container_spec_memory_limit_bytes", 64 << 20),
        ("container_spec_cpu_quota", 50_000),
        ("container_processes", 1),
        ("container_oom_events_total", 0),
    ] {
        assert_eq!(seen.get(name), Some(&wanted), "{name}");
    }
    for name in [
        "container_last_seen",
        "container_memory_working_set_bytes",
        "container_network_receive_bytes_total",
        "container_file_descriptors",
        "container_fs_limit_bytes",
        "container_start_time_seconds",
    ] {
        assert!(
            seen.get(name).is_some_and(|value| *value > 0),
            "{name}: {seen:?}"
        );
    }
    let container = &pod.container_metrics[0];
    assert_eq!(container.container_id, id);
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_groups_that_are_named_are_told() -> Result<()> {
    let config = "[crio.stats]\nincluded_pod_metrics = [\"oom\"]\n".to_owned();
    let f = fixture::with(Options {
        config,
        ..Options::default()
    })
    .await?;
    let sandbox = f.node.run_pod("m").await?;
    f.node
        .run(&sandbox, container("c", &f.image, &["sleep", "1000"]))
        .await?;
    let mut client = f.node.client().runtime();
    let request = v1::ListPodSandboxMetricsRequest {};
    let listed = client.list_pod_sandbox_metrics(request).await?.into_inner();
    let metrics = &listed.pod_metrics[0].container_metrics[0].metrics;
    let names: Vec<_> = metrics.iter().map(|metric| metric.name.as_str()).collect();
    assert_eq!(names, ["container_last_seen", "container_oom_events_total"]);
    assert!(listed.pod_metrics[0].metrics.is_empty());
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_period_answers_are_of_the_last_collection() -> Result<()> {
    let config = "[crio.stats]\ncollection_period = 1\n".to_owned();
    let f = fixture::with(Options {
        config,
        ..Options::default()
    })
    .await?;
    let sandbox = f.node.run_pod("p").await?;
    let id = f
        .node
        .run(&sandbox, container("c", &f.image, &["sleep", "1000"]))
        .await?;
    let filter = v1::ContainerStatsFilter::default;
    let at = |one: &v1::ContainerStats| one.cpu.as_ref().unwrap().timestamp;
    let first = until(&f.node, "the container collected", || async {
        Ok(list(&f.node, filter()).await?.pop())
    })
    .await?;
    assert_eq!(first.attributes.as_ref().unwrap().id, id);
    let mut times = BTreeSet::from([at(&first)]);
    let calls = 20;
    for _ in 0..calls {
        times.extend(list(&f.node, filter()).await?.iter().map(at));
    }
    assert!(times.len() < calls, "answers share a collection: {times:?}");
    until(&f.node, "the next collection", || async {
        let now = list(&f.node, filter()).await?;
        Ok(now.iter().any(|one| at(one) > at(&first)).then_some(()))
    })
    .await?;
    f.node.remove_pod(&sandbox).await?;
    assert!(list(&f.node, filter()).await?.is_empty(), "gone is gone");
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_without_memory_left_is_oom_killed() -> Result<()> {
    let f = fixture::node().await?;
    let sandbox = f.node.run_pod("oom").await?;
    let mut config = container(
        "c",
        &f.image,
        &["dd", "if=/dev/zero", "of=/dev/null", "bs=200M"],
    );
    config.linux.as_mut().unwrap().resources = Some(v1::LinuxContainerResources {
        memory_limit_in_bytes: 32 << 20,
        ..Default::default()
    });
    let id = f.node.run(&sandbox, config).await?;
    let status = f.node.exited(&id).await?;
    assert_eq!(
        (status.exit_code, status.reason.as_str()),
        (137, "OOMKilled"),
        "{status:?}"
    );
    f.node.finish().await
}
