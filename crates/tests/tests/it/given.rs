//! What a container is given beside its process: devices, annotations of its bundle, a log.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use anyhow::Result;
use cri::v1;
use serde_json::json;
use testkit::image_maker::ImageMaker;
use testkit::node::Options;
use testkit::requests::container;

use crate::fixture;

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_given_to_all_and_belong_to_whom_the_request_names() -> Result<()> {
    let options = Options {
        config: "[crio.runtime]\ndevice_ownership_from_security_context = true\n\
                 additional_devices = [\"/dev/kmsg:/dev/given:r\", \"/dev/zero:/dev/mine\"]\n"
            .into(),
        ..Options::default()
    };
    let f = fixture::with(options).await?;
    let pod = f.node.run_pod("p").await?;
    let mut config = container("c", &f.image, &["sleep", "1000"]);
    config.devices = vec![v1::Device {
        container_path: "/dev/mine".into(),
        host_path: "/dev/full".into(),
        permissions: "rw".into(),
    }];
    let linux = config.linux.get_or_insert_default();
    linux.security_context = Some(v1::LinuxContainerSecurityContext {
        run_as_user: Some(v1::Int64Value { value: 1234 }),
        run_as_group: Some(v1::Int64Value { value: 77 }),
        ..Default::default()
    });
    let id = f.node.run(&pod, config).await?;
    let said = f
        .said(&id, "stat -c '%n %u %g %t,%T' /dev/given /dev/mine")
        .await?;
    assert_eq!(said, "/dev/given 0 0 1,b\n/dev/mine 1234 77 1,7");
    // Root may write to the node, and the cgroup says no.
    let root = container("root", &f.image, &["sleep", "1000"]);
    let root = f.node.run(&pod, root).await?;
    let write =
        "test -w /dev/given && echo writable; echo x 2>/dev/null > /dev/given || echo refused";
    assert_eq!(f.said(&root, write).await?, "writable\nrefused");
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_find_what_crio_tells_of_a_container() -> Result<()> {
    let f = fixture::node().await?;
    let image = ImageMaker::busybox().config("StopSignal", json!("SIGUSR1"));
    f.registry.push("test/signal", "1", &image.build())?;
    let image = f.registry.reference("test/signal", "1");
    f.node.pull(&image).await?;
    let pod = f.node.run_pod("p").await?;
    let mut config = container("c", &image, &["sleep", "1000"]);
    let label = ("io.kubernetes.pod.name".to_owned(), "p".to_owned());
    // One that would steer the runtime is nobody's to give.
    let steering = ("run.oci.handler".to_owned(), "x".to_owned());
    config.labels = [label, steering].into();
    config.mounts = vec![v1::Mount {
        container_path: "/m".into(),
        host_path: f.node.dir.join("m").display().to_string(),
        readonly: true,
        ..Default::default()
    }];
    let id = f.node.run(&pod, config).await?;
    let request = v1::ContainerStatusRequest {
        container_id: id.clone(),
        verbose: true,
    };
    let mut runtime = f.node.client().runtime();
    let told = runtime.container_status(request).await?.into_inner();
    let told: serde_json::Value = serde_json::from_str(&told.info["info"])?;
    let told = &told["runtimeSpec"]["annotations"];
    let of_crio = |name: &str| told[format!("io.kubernetes.cri-o.{name}")].as_str();
    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: pod.clone(),
        verbose: false,
    };
    let status = runtime.pod_sandbox_status(request).await?.into_inner();
    let ip = status
        .status
        .and_then(|status| status.network)
        .map(|network| network.ip);
    for (name, value) in [
        ("ContainerType", "container"),
        ("SandboxID", &pod),
        ("Image", &image),
        ("SeccompProfilePath", "Unconfined"),
        ("IP.0", &ip.unwrap_or_default()),
    ] {
        assert_eq!(of_crio(name), Some(value), "{name}");
    }
    let volumes: serde_json::Value = serde_json::from_str(of_crio("Volumes").unwrap_or_default())?;
    let volume = json!([{"container_path": "/m", "host_path": f.node.dir.join("m"), "readonly": true,
        "recursive_read_only": false, "propagation": 0, "selinux_relabel": false}]);
    assert_eq!(volumes, volume);
    assert_eq!(told["org.opencontainers.image.stopSignal"], "SIGUSR1");
    assert_eq!(told["io.kubernetes.pod.name"], "p");
    assert_eq!(told["run.oci.handler"], serde_json::Value::Null);
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_a_name_has_the_containers() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod("p").await?;
    let mut config = container("c", &f.image, &["echo", "said"]);
    config.log_path.clear();
    let id = f.node.run(&pod, config).await?;
    let status = f.node.exited(&id).await?;
    let log = f.node.logs().join(format!("p/{id}.log"));
    assert_eq!(status.log_path, log.display().to_string());
    let line = std::fs::read_to_string(log)?;
    assert!(line.ends_with(" stdout F said\n"), "{line}");
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_null_device_stays_the_nodes() -> Result<()> {
    let f = fixture::node().await?;
    let of_node = || {
        let found = std::fs::metadata("/dev/null")?;
        anyhow::Ok((found.uid(), found.gid(), found.mode()))
    };
    let before = of_node()?;
    let pod = f.node.run_pod("null").await?;
    // Its standard input, and that of a command, are what nobody gave it.
    let take = "chmod 0700 /proc/self/fd/0; stat -L -c %F /proc/self/fd/0; exec sleep 1000";
    let mut config = container("c", &f.image, &["sh", "-c", take]);
    config.linux.get_or_insert_default().security_context =
        Some(v1::LinuxContainerSecurityContext {
            run_as_user: Some(v1::Int64Value { value: 1234 }),
            ..Default::default()
        });
    let id = f.node.run(&pod, config).await?;
    let take = take.replace("exec sleep 1000", "cat");
    let said = f.node.exec(&id, &["sh", "-c", &take]).await?;
    assert_eq!(said.exit_code, 0);
    assert_eq!(String::from_utf8(said.stdout)?, "character special file\n");
    assert_eq!(of_node()?, before);
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn verbose_answers_and_inspection_have_cri_os_fields() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod("p").await?;
    let config = container("c", &f.image, &["sleep", "1000"]);
    let id = f.node.run(&pod, config).await?;
    let mut runtime = f.node.client().runtime();
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text);

    let answer = runtime.status(v1::StatusRequest { verbose: true }).await?;
    let told = json(&answer.into_inner().info["config"])?;
    assert_eq!(
        told["crio"]["ContainerExitsDir"],
        json!(f.node.run_dir.join("exits"))
    );
    assert_eq!(
        told["crio"]["Runtimes"][f.node.runtime()]["RuntimeType"],
        "oci"
    );

    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: pod,
        verbose: true,
    };
    let answer = runtime.pod_sandbox_status(request).await?.into_inner();
    let told = json(&answer.info["info"])?;
    let namespaces = told["runtimeSpec"]["linux"]["namespaces"].as_array();
    let network = namespaces
        .into_iter()
        .flatten()
        .find(|one| one["type"] == "network");
    let path = network
        .and_then(|one| one["path"].as_str())
        .unwrap_or_default();
    assert!(fs::exists(path)?, "{told}");

    let answer = f.node.image_status(&f.image, true).await?;
    let told = json(&answer.info["info"])?;
    assert_eq!(told["imageSpec"]["rootfs"]["type"], "layers", "{told}");
    let image = answer.image.unwrap_or_default();
    assert_eq!((image.uid, &*image.username), (None, ""));

    let told = json(
        &f.node
            .client()
            .inspect(&format!("/containers/{id}"))
            .await?,
    )?;
    let of_crio =
        |name: &str| told["crio_annotations"][format!("io.kubernetes.cri-o.{name}")].clone();
    assert_eq!(of_crio("ContainerType"), "container");
    assert_eq!(of_crio("ImageRepoDigests"), image.repo_digests.join(","));
    assert_eq!(f.said(&id, "echo $TERM").await?, "xterm");
    f.node.finish().await
}
