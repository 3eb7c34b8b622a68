//! Pod sandboxes: network, files, lists.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::Result;
use cri::v1;
use testkit::node::{Node, Options};
use testkit::requests::{container, host_network_pod, pod};

use crate::fixture;

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_one_bridge_reach_each_other() -> Result<()> {
    let f = fixture::node().await?;
    let (one, two) = (f.node.run_pod("one").await?, f.node.run_pod("two").await?);
    let server = [
        "sh",
        "-c",
        "while true; do echo hello | nc -l -p 8080; done",
    ];
    f.node
        .run(&one, container("server", &f.image, &server))
        .await?;
    let status = status(&f.node, &one).await?;
    let ip = status.network.unwrap().ip;
    let script = format!(
        "for i in 1 2 3 4 5 6 7 8 9; do nc -w 2 {ip} 8080 < /dev/null && exit 0; sleep 0.2; done; exit 1"
    );
    let client = f
        .node
        .run(&two, container("client", &f.image, &["sh", "-c", &script]))
        .await?;
    assert_eq!(f.node.exited(&client).await?.exit_code, 0);
    assert!(f.node.log("two", "client")?.contains("hello"));
    f.node.finish().await
}

async fn status(node: &testkit::node::Node, pod: &str) -> Result<v1::PodSandboxStatus> {
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: pod.into(),
        verbose: true,
    };
    Ok(node
        .client()
        .runtime()
        .pod_sandbox_status(request)
        .await?
        .into_inner()
        .status
        .unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_has_its_name_resolver_shm_loopback_and_sysctls() -> Result<()> {
    let f = fixture::node().await?;
    let mut config = pod("files", &f.node.logs());
    config.hostname = "inside".into();
    config.dns_config = Some(v1::DnsConfig {
        servers: vec!["10.9.8.7".into()],
        searches: vec!["x.test".into()],
        options: vec!["ndots:5".into()],
    });
    config.linux.as_mut().unwrap().sysctls = [(
        "net.ipv4.ip_local_port_range".to_owned(),
        "2000 3000".to_owned(),
    )]
    .into();
    let id = f.node.run_pod_config(config).await?;
    let script = "hostname; cat /etc/hostname /etc/resolv.conf; ip addr show lo | grep -c LOOPBACK,UP; \
        cat /proc/sys/net/ipv4/ip_local_port_range; df -k /dev/shm | tail -1; echo shared > /dev/shm/x";
    let first = f
        .node
        .run(&id, container("first", &f.image, &["sh", "-c", script]))
        .await?;
    f.node.exited(&first).await?;
    let log = f.node.log("files", "first")?;
    for wanted in [
        "F inside",
        "nameserver 10.9.8.7",
        "search x.test",
        "options ndots:5",
        "F 1\n",
        "2000\t3000",
        "65536",
    ] {
        assert!(log.contains(wanted), "{wanted:?} is not in\n{log}");
    }
    let second = f
        .node
        .run(&id, container("second", &f.image, &["cat", "/dev/shm/x"]))
        .await?;
    assert_eq!(
        f.node.exited(&second).await?.exit_code,
        0,
        "/dev/shm is the pod's"
    );
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_network_pod_has_no_address_of_its_own() -> Result<()> {
    let f = fixture::node().await?;
    let id = f
        .node
        .run_pod_config(host_network_pod("host", &f.node.logs()))
        .await?;
    assert_eq!(status(&f.node, &id).await?.network.unwrap().ip, "");
    let ctr = f
        .node
        .run(
            &id,
            container("c", &f.image, &["readlink", "/proc/self/ns/net"]),
        )
        .await?;
    f.node.exited(&ctr).await?;
    let own = std::fs::read_link("/proc/self/ns/net")?
        .display()
        .to_string();
    assert!(f.node.log("host", "c")?.contains(&own));
    let hosts = container("hosts", &f.image, &["sleep", "1000"]);
    let hosts = f.node.run(&id, hosts).await?;
    let said = f
        .said(&hosts, "cat /etc/hosts; echo >> /etc/hosts || echo kept")
        .await?;
    let of_node = std::fs::read_to_string("/etc/hosts")?;
    assert_eq!(said, format!("{of_node}kept").trim_matches(['\n', ' ']));
    let mut given = container("given", &f.image, &["sleep", "1000"]);
    let file = f.node.dir.join("hosts");
    std::fs::write(&file, "10.0.0.1 given\n")?;
    given.mounts = vec![v1::Mount {
        container_path: "/etc/hosts".into(),
        host_path: file.display().to_string(),
        ..Default::default()
    }];
    let given = f.node.run(&id, given).await?;
    assert_eq!(f.said(&given, "cat /etc/hosts").await?, "10.0.0.1 given");
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_and_remove_may_be_repeated_and_unknown_ids_are_fine() -> Result<()> {
    let f = fixture::node().await?;
    let id = f.node.run_pod("again").await?;
    let ctr = f
        .node
        .run(&id, container("c", &f.image, &["sleep", "1000"]))
        .await?;
    let client = f.node.client();
    for _ in 0..2 {
        client
            .runtime()
            .stop_pod_sandbox(v1::StopPodSandboxRequest {
                pod_sandbox_id: id.clone(),
            })
            .await?;
        assert_eq!(
            status(&f.node, &id).await?.state,
            v1::PodSandboxState::SandboxNotready as i32
        );
        assert_eq!(
            f.node.status(&ctr).await?.state,
            v1::ContainerState::ContainerExited as i32
        );
    }
    for _ in 0..2 {
        client
            .runtime()
            .remove_container(v1::RemoveContainerRequest {
                container_id: ctr.clone(),
            })
            .await?;
        f.node.remove_pod(&id).await?;
    }
    let gone = status(&f.node, &id).await.unwrap_err();
    assert_eq!(
        gone.downcast::<tonic::Status>()?.code(),
        tonic::Code::NotFound
    );
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_by_id_state_and_labels() -> Result<()> {
    let f = fixture::node().await?;
    let mut ids = Vec::new();
    for name in ["a", "b"] {
        let mut config = pod(name, &f.node.logs());
        config.labels = [("app".to_owned(), name.to_owned())].into();
        ids.push(f.node.run_pod_config(config).await?);
    }
    f.node
        .client()
        .runtime()
        .stop_pod_sandbox(v1::StopPodSandboxRequest {
            pod_sandbox_id: ids[1].clone(),
        })
        .await?;
    let list = |filter: v1::PodSandboxFilter| {
        let client = f.node.client();
        async move {
            let request = v1::ListPodSandboxRequest {
                filter: Some(filter),
            };
            let items = client
                .runtime()
                .list_pod_sandbox(request)
                .await
                .unwrap()
                .into_inner()
                .items;
            items.into_iter().map(|pod| pod.id).collect::<Vec<_>>()
        }
    };
    let ready = v1::PodSandboxStateValue {
        state: v1::PodSandboxState::SandboxReady as i32,
    };
    assert_eq!(
        list(v1::PodSandboxFilter {
            state: Some(ready),
            ..Default::default()
        })
        .await,
        [ids[0].clone()]
    );
    assert_eq!(
        list(v1::PodSandboxFilter {
            id: ids[1][..12].into(),
            ..Default::default()
        })
        .await,
        [ids[1].clone()]
    );
    let label = [("app".to_owned(), "b".to_owned())].into();
    assert_eq!(
        list(v1::PodSandboxFilter {
            label_selector: label,
            ..Default::default()
        })
        .await,
        [ids[1].clone()]
    );
    assert_eq!(list(v1::PodSandboxFilter::default()).await.len(), 2);
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runtime_tells_what_it_is_and_what_is_not_built() -> Result<()> {
    let f = fixture::node().await?;
    let mut runtime = f.node.client().runtime();
    let version = runtime
        .version(v1::VersionRequest::default())
        .await?
        .into_inner();
    assert_eq!(
        (
            version.runtime_name.as_str(),
            version.runtime_api_version.as_str()
        ),
        ("cri-o", "v1")
    );
    let status = runtime
        .status(v1::StatusRequest { verbose: true })
        .await?
        .into_inner();
    assert!(
        status
            .status
            .unwrap()
            .conditions
            .iter()
            .all(|condition| condition.status)
    );
    let told: serde_json::Value = serde_json::from_str(&status.info["config"])?;
    assert_eq!(told["sandboxImage"], "");
    let info: serde_json::Value = serde_json::from_str(&f.node.client().inspect("/info").await?)?;
    let keeper = if testkit::node::systemd() {
        "systemd"
    } else {
        "cgroupfs"
    };
    assert_eq!(info["cgroup_driver"], keeper);
    let config = runtime
        .runtime_config(v1::RuntimeConfigRequest {})
        .await?
        .into_inner();
    assert_eq!(
        config.linux.unwrap().cgroup_driver,
        if testkit::node::systemd() {
            v1::CgroupDriver::Systemd as i32
        } else {
            v1::CgroupDriver::Cgroupfs as i32
        }
    );
    let missing = runtime
        .checkpoint_pod(v1::CheckpointPodRequest::default())
        .await
        .unwrap_err();
    assert_eq!(missing.code(), tonic::Code::Unimplemented);
    assert!(missing.message().contains("not built yet"));
    for (path, wanted) in [
        ("/info", "storage_driver"),
        ("/config", "[crio.runtime]"),
        ("/operations", "[]"),
        ("/pulls", "[]"),
    ] {
        assert!(
            f.node.client().inspect(path).await?.contains(wanted),
            "{path}"
        );
    }
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_may_share_the_processes_of_their_pod() -> Result<()> {
    let f = fixture::node().await?;
    let mut config = pod("shared", &f.node.logs());
    let shared = v1::NamespaceOption {
        pid: v1::NamespaceMode::Pod as i32,
        ..Default::default()
    };
    let security = &mut config.linux.as_mut().unwrap().security_context;
    security.as_mut().unwrap().namespace_options = Some(shared.clone());
    let id = f.node.run_pod_config(config).await?;
    let with = |mut config: v1::ContainerConfig| {
        config.linux.as_mut().unwrap().security_context = Some(v1::LinuxContainerSecurityContext {
            namespace_options: Some(shared.clone()),
            ..Default::default()
        });
        config
    };
    f.node
        .run(&id, with(container("one", &f.image, &["sleep", "4321"])))
        .await?;
    let two = f
        .node
        .run(
            &id,
            with(container("two", &f.image, &["sh", "-c", "ps -o pid,args"])),
        )
        .await?;
    f.node.exited(&two).await?;
    let log = f.node.log("shared", "two")?;
    assert!(
        log.contains("sleep 4321") && log.contains("1 /pause"),
        "{log}"
    );
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: id.clone(),
        verbose: true,
    };
    let mut runtime = f.node.client().runtime();
    let told = runtime.pod_sandbox_status(request).await?.into_inner();
    let told: serde_json::Value = serde_json::from_str(&told.info["info"])?;
    let pause = std::fs::read_to_string(format!("/proc/{}/comm", told["pid"]))?;
    assert_eq!((pause.trim(), &told["image"]), ("pause", &"".into()));
    // What a monitor leaves that is killed while it records the end of the pod's own process.
    let exits = f.node.run_dir.join("exits");
    for id in [&id, &two] {
        std::fs::write(exits.join(format!("{id}.tmp")), "13")?;
    }
    f.node.remove_pod(&id).await?;
    let left: Vec<_> = std::fs::read_dir(&exits)?.collect();
    assert!(left.is_empty(), "{left:?}");
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_pause_image_holds_the_shared_processes() -> Result<()> {
    let directory = tempfile::Builder::new()
        .prefix("crixr-")
        .tempdir_in("/var/tmp")?;
    let registry = testkit::registry::Registry::start(directory.path())?;
    let image =
        testkit::image_maker::ImageMaker::busybox().layer(&[testkit::image_maker::Entry::file(
            "hold",
            0o755,
            "#!/bin/sh\nexec sleep 100000\n",
        )]);
    registry.push("test/pause", "1", &image.build())?;
    let reference = registry.reference("test/pause", "1");
    let f = fixture::with(testkit::node::Options {
        insecure: vec![registry.addr().to_string()],
        config: format!("[crio.image]\npause_image = {reference:?}\npause_command = \"/hold\"\n"),
        ..Default::default()
    })
    .await?;
    let mut config = pod("paused", &f.node.logs());
    let security = v1::LinuxSandboxSecurityContext {
        namespace_options: Some(v1::NamespaceOption {
            pid: v1::NamespaceMode::Pod as i32,
            ..Default::default()
        }),
        ..Default::default()
    };
    config.linux.as_mut().unwrap().security_context = Some(security.clone());
    let request = v1::RunPodSandboxRequest {
        config: Some(config),
        ..Default::default()
    };
    let mut runtime = f.node.client().runtime();
    let pod = runtime
        .run_pod_sandbox(request)
        .await?
        .into_inner()
        .pod_sandbox_id;
    let mut main = container("main", &f.image, &["sh", "-c", "cat /proc/1/cmdline"]);
    main.linux = Some(v1::LinuxContainerConfig {
        security_context: Some(v1::LinuxContainerSecurityContext {
            namespace_options: security.namespace_options,
            ..Default::default()
        }),
        ..Default::default()
    });
    let main = f.node.run(&pod, main).await?;
    assert_eq!(f.node.exited(&main).await?.exit_code, 0);
    assert!(f.node.log("paused", "main")?.contains("sleep\x00100000"));
    f.node.remove_pod(&pod).await?;
    f.node.finish().await
}

/// Limits that the kernel has on the node's side of pods' links: rates of what leaves it.
fn limits() -> Result<String> {
    let program = sys::spawn::Program::new("/usr/sbin/tc", Duration::from_secs(10));
    let output = sys::spawn::run(&program.args(["qdisc", "show"]))
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_are_told_what_they_declare() -> Result<()> {
    let plugins = tempfile::tempdir()?;
    let (plugin, told) = (plugins.path().join("told"), plugins.path().join("in"));
    let result = r#"{"cniVersion":"1.0.0","ips":[{"address":"10.9.9.9/24"}]}"#;
    let script = format!(
        "#!/bin/sh\ncat > {}.$CNI_COMMAND\necho '{result}'\n",
        told.display()
    );
    std::fs::write(&plugin, script)?;
    std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755))?;
    let capabilities = r#"{"cgroupPath":true,"io.kubernetes.cri.pod-annotations":true}"#;
    let network = format!(
        r#"{{"cniVersion":"1.0.0","name":"told","plugins":[{{"type":"told","capabilities":{capabilities}}}]}}"#
    );
    let options = Options {
        plugins: Some(plugins.path().to_owned()),
        network: Some(network),
        ..Options::default()
    };
    let node = Node::start(options).await?;
    let mut config = pod("p", &node.logs());
    config.annotations = [("example.com/net".to_owned(), "blue".to_owned())].into();
    let parent = if testkit::node::systemd() {
        String::new()
    } else {
        format!("{}/kube/pod", node.cgroup())
    };
    config
        .linux
        .as_mut()
        .unwrap()
        .cgroup_parent
        .clone_from(&parent);
    let id = node.run_pod_config(config).await?;
    node.remove_pod(&id).await?;
    for command in ["ADD", "DEL"] {
        let text = std::fs::read(told.with_extension(command))?;
        let given: serde_json::Value = serde_json::from_slice(&text)?;
        let given = &given["runtimeConfig"];
        let annotations = &given["io.kubernetes.cri.pod-annotations"];
        assert_eq!(annotations["example.com/net"], "blue", "{command}");
        let cgroup = given["cgroupPath"].as_str().unwrap_or_default();
        assert!(
            cgroup.starts_with(&node.cgroup()) && cgroup.ends_with(&parent),
            "{command}: {given}"
        );
    }
    node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn annotations_limit_a_pods_bandwidth() -> Result<()> {
    let chained = r#",{"type":"bandwidth","capabilities":{"bandwidth":true}}"#;
    let options = Options {
        chained: chained.into(),
        ..Options::default()
    };
    let node = Node::start(options).await?;
    let with = |name: &str, pairs: &[(&str, &str)]| {
        let mut config = pod(name, &node.logs());
        for (direction, rate) in pairs {
            let key = format!("kubernetes.io/{direction}-bandwidth");
            config.annotations.insert(key, (*rate).to_owned());
        }
        config
    };
    // Figures that no other pod has.
    let limited = with("limited", &[("ingress", "7777k"), ("egress", "3333k")]);
    let limited = node.run_pod_config(limited).await?;
    let there = limits()?;
    for rate in ["rate 7777Kbit", "rate 3333Kbit"] {
        assert!(there.contains(rate), "no {rate} in {there}");
    }
    let wrong = with("wrong", &[("egress", "fast")]);
    let refused = node.run_pod_config(wrong).await.unwrap_err();
    let refused = refused.downcast::<tonic::Status>()?;
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    let text = "failed to parse egress bandwidth";
    assert!(refused.message().contains(text), "{refused}");
    // Nobody reads them in the host's network.
    let mut host = host_network_pod("host", &node.logs());
    let key = "kubernetes.io/egress-bandwidth".to_owned();
    host.annotations.insert(key, "fast".to_owned());
    node.run_pod_config(host).await?;
    node.stop_pod(&limited).await?;
    let left = limits()?;
    assert!(!left.contains("rate 7777Kbit") && !left.contains("rate 3333Kbit"));
    node.finish().await
}
