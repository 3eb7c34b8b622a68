//! Pods with user namespaces of their own.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

use anyhow::{Context as _, Result};
use cri::v1;
use testkit::image_maker::{Entry, ImageMaker};
use testkit::node::Options;
use testkit::requests::{self, FIRST_ID as FIRST, IDS as COUNT, container, mappings, with_users};
use tonic::Code;

use crate::fixture::{self, Fixture};
use crate::peers;

fn pod(f: &Fixture, name: &str) -> v1::PodSandboxConfig {
    with_users(requests::pod(name, &f.node.logs()))
}

/// Words of a line.
fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn root_is_somebody_else_outside_and_its_files_are_its_own() -> Result<()> {
    let f = fixture::without_image(Default::default()).await?;
    let image = ImageMaker::busybox().layer(&[
        Entry::directory("srv", 0o755),
        Entry::directory("srv/data", 0o755),
        Entry::file("srv/data/of-root", 0o600, "secret"),
    ]);
    f.registry.push("test/own", "latest", &image.build())?;
    let image = f.registry.reference("test/own", "latest");
    f.node.pull(&image).await?;

    let features = f.node.client().runtime();
    let status = features
        .clone()
        .status(v1::StatusRequest::default())
        .await?;
    let status = status.into_inner();
    for handler in &status.runtime_handlers {
        let features = handler.features.as_ref().context("no features")?;
        assert!(features.user_namespaces, "{handler:?}");
    }
    assert!(
        status
            .features
            .context("none")?
            .user_namespaces_host_network
    );

    let pod = f.node.run_pod_config(pod(&f, "users")).await?;
    let script = "echo out; echo again >/dev/stdout; id -u; sleep 1000";
    let mut config = container("own", &image, &["sh", "-c", script]);
    config.working_dir = "/made/here".into();
    let id = f.node.run(&pod, config).await?;

    let map = format!("0 {FIRST} {COUNT}");
    for file in ["uid_map", "gid_map"] {
        let seen = f.said(&id, &format!("cat /proc/self/{file}")).await?;
        assert_eq!(words(&seen), words(&map));
    }
    // The image's files are root's, what is written is, and so are what we made for it.
    let script = "cat /srv/data/of-root; echo; echo mine >/srv/data/new; chown 7:8 /srv/data/new; \
                  stat -c %u:%g /srv/data/of-root /srv/data/new /made/here /etc/resolv.conf \
                  /etc/hostname /dev/shm / ; touch /dev/shm/x /made/here/x; hostname >/dev/null";
    let seen = f.said(&id, script).await?;
    assert_eq!(
        words(&seen),
        ["secret", "0:0", "7:8", "0:0", "0:0", "0:0", "0:0", "0:0"]
    );
    let seen = f.said(&id, "echo by-name >/dev/stdout").await?;
    assert_eq!(seen, "by-name");
    // Outside they are somebody else's.
    let pid = f.pid(&id).await?;
    let stat = fs::metadata(format!("/proc/{pid}/root/srv/data/new"))?;
    assert_eq!((stat.uid(), stat.gid()), (FIRST + 7, FIRST + 8));
    assert_eq!(fs::metadata(format!("/proc/{pid}"))?.uid(), FIRST);
    let owner = |kind| fs::read_link(format!("/proc/{pid}/ns/{kind}"));
    assert_ne!(owner("user")?, fs::read_link("/proc/self/ns/user")?);

    let request = v1::PodSandboxStatusRequest {
        pod_sandbox_id: pod.clone(),
        verbose: false,
    };
    let status = f
        .node
        .client()
        .runtime()
        .pod_sandbox_status(request)
        .await?;
    let status = status.into_inner().status.context("no status")?;
    let options = status.linux.and_then(|linux| linux.namespaces?.options);
    let users = options.and_then(|options| options.userns_options);
    assert_eq!(users.context("not told")?.uids, mappings());

    if peers::tree().is_some() {
        let check = "podman system check 2>&1; podman ps --external --all --no-trunc";
        let check = peers::peer(&f.node, check).await?;
        assert!(
            !check.contains("error") && !check.contains("damage"),
            "{check}"
        );
        assert!(check.contains(&id), "{check}");
    }
    let log = f.node.logs().join("users/own.log");
    let log = fs::read_to_string(log)?;
    assert!(log.contains(" F out") && log.contains(" F again"), "{log}");
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_have_the_owners_that_the_namespace_gives_them() -> Result<()> {
    let f = fixture::node().await?;
    let volumes = tempfile::Builder::new()
        .prefix("crixv-")
        .tempdir_in("/var/tmp")?;
    let volume = volumes.path().join("volume");
    fs::create_dir(&volume)?;
    fs::write(volume.join("file"), "of 1234")?;
    fs::set_permissions(volume.join("file"), fs::Permissions::from_mode(0o600))?;
    chown(volume.join("file"), Some(1234), Some(4321))?;
    fs::write(volumes.path().join("single"), "one file")?;

    let pod = f.node.run_pod_config(pod(&f, "volumes")).await?;
    let mut config = container("reads", &f.image, &["sleep", "1000"]);
    let mounted = |host: &str, path: &str, mapped: bool| v1::Mount {
        container_path: path.into(),
        host_path: volumes.path().join(host).display().to_string(),
        uid_mappings: mapped.then(mappings).unwrap_or_default(),
        gid_mappings: mapped.then(mappings).unwrap_or_default(),
        ..Default::default()
    };
    config.mounts = vec![
        mounted("volume", "/mapped", true),
        mounted("volume", "/plain", false),
        mounted("single", "/single", true),
        requests::image_mount("/image", &f.image, ""),
    ];
    let id = f.node.run(&pod, config.clone()).await?;
    let script = "stat -c %u:%g /mapped/file /plain/file /single /image/bin/busybox; \
                  cat /mapped/file; echo more >/mapped/new";
    let seen = f.said(&id, script).await?;
    let nobody = "65534:65534";
    assert_eq!(
        words(&seen),
        ["1234:4321", nobody, "0:0", "0:0", "of", "1234"]
    );
    // What the container's root writes is root's on disk.
    assert_eq!(fs::metadata(volume.join("new"))?.uid(), 0);

    let request = v1::ContainerStatusRequest {
        container_id: id.clone(),
        verbose: false,
    };
    let status = f.node.client().runtime().container_status(request).await?;
    let status = status.into_inner().status.context("no status")?;
    assert_eq!(status.mounts[0].uid_mappings, mappings());

    // Another map than the pod's, and one in a pod without.
    let mut other = config.clone();
    other.metadata = container("other", "", &[]).metadata;
    other.mounts[0].uid_mappings[0].host_id = 1;
    let refused = f.node.run(&pod, other).await.unwrap_err();
    assert_eq!(code(&refused), Some(Code::InvalidArgument), "{refused:#}");
    let plain = f.node.run_pod("plain").await?;
    config.metadata = container("mapped", "", &[]).metadata;
    let refused = f.node.run(&plain, config).await.unwrap_err();
    assert_eq!(code(&refused), Some(Code::InvalidArgument), "{refused:#}");
    f.node.finish().await
}

fn code(error: &anyhow::Error) -> Option<Code> {
    Some(error.downcast_ref::<tonic::Status>()?.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_the_namespace_does_not_have_is_refused() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod_config(pod(&f, "few")).await?;
    let mut config = container("beyond", &f.image, &["true"]);
    let security = v1::LinuxContainerSecurityContext {
        run_as_user: Some(v1::Int64Value {
            value: i64::from(COUNT),
        }),
        ..Default::default()
    };
    config.linux = Some(v1::LinuxContainerConfig {
        security_context: Some(security),
        ..Default::default()
    });
    let refused = f.node.run(&pod, config.clone()).await.unwrap_err();
    assert_eq!(code(&refused), Some(Code::InvalidArgument), "{refused:#}");
    // The last one is there, and has an entry.
    config.command = ["sh", "-c", "id -u; sleep 1000"].map(String::from).to_vec();
    let security = config
        .linux
        .as_mut()
        .and_then(|linux| linux.security_context.as_mut());
    security.context("set above")?.run_as_user = Some(v1::Int64Value { value: 65_535 });
    let id = f.node.run(&pod, config).await?;
    assert_eq!(f.said(&id, "id -u").await?, "65535");
    let entry = f.said(&id, "grep -c :65535: /etc/passwd").await?;
    assert_eq!(entry, "1");
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_shared_within_and_the_hosts_network_is_possible() -> Result<()> {
    let f = fixture::node().await?;
    // A process namespace of the pod's, held by the pause program.
    let mut shared = pod(&f, "shared");
    let linux = shared.linux.get_or_insert_default();
    linux.sysctls = [("net.ipv4.ping_group_range", "0 2147483647")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let security = linux.security_context.get_or_insert_default();
    let options = security.namespace_options.get_or_insert_default();
    options.pid = v1::NamespaceMode::Pod as i32;
    let shared = f.node.run_pod_config(shared).await?;
    let mut config = container("one", &f.image, &["sleep", "1000"]);
    let of_pod = v1::NamespaceOption {
        pid: v1::NamespaceMode::Pod as i32,
        ..Default::default()
    };
    config.linux = Some(v1::LinuxContainerConfig {
        security_context: Some(v1::LinuxContainerSecurityContext {
            namespace_options: Some(of_pod),
            ..Default::default()
        }),
        ..Default::default()
    });
    let id = f.node.run(&shared, config).await?;
    let first = f.said(&id, "cat /proc/1/comm").await?;
    assert_eq!(first, "pause");
    let range = f
        .said(&id, "cat /proc/sys/net/ipv4/ping_group_range")
        .await?;
    assert_eq!(words(&range), ["0", &(COUNT - 1).to_string()]);

    let host = with_users(requests::host_network_pod("host", &f.node.logs()));
    let host = f.node.run_pod_config(host).await?;
    let config = container("sees", &f.image, &["sleep", "1000"]);
    let id = f.node.run(&host, config).await?;
    let map = f
        .said(&id, "cat /proc/self/uid_map; ls /sys/class/net | wc -l")
        .await?;
    let interfaces = fs::read_dir("/sys/class/net")?.count().to_string();
    let first = FIRST.to_string();
    assert_eq!(words(&map), ["0", &first, &COUNT.to_string(), &interfaces]);
    let written = f
        .said(
            &id,
            "! touch /sys/kernel/x && ! echo 1 >/sys/kernel/profiling",
        )
        .await;
    written?;
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_map_is_known_after_a_restart() -> Result<()> {
    let mut f = fixture::node().await?;
    let pod = f.node.run_pod_config(pod(&f, "stays")).await?;
    f.node.kill_daemon()?;
    f.node.start_daemon().await?;
    let id = f
        .node
        .run(&pod, container("later", &f.image, &["sleep", "1000"]))
        .await?;
    let seen = f
        .said(&id, "cat /proc/self/uid_map; stat -c %u /bin/busybox")
        .await?;
    let (first, count) = (FIRST.to_string(), COUNT.to_string());
    assert_eq!(words(&seen), ["0", &first, &count, "0"]);
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_for_a_pod_with_its_own_users() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod_config(pod(&f, "limited")).await?;
    let mut config = container("limited", &f.image, &["sleep", "1000"]);
    let limit = 64 << 20;
    config.linux = Some(v1::LinuxContainerConfig {
        resources: Some(v1::LinuxContainerResources {
            memory_limit_in_bytes: limit,
            ..Default::default()
        }),
        ..Default::default()
    });
    let id = f.node.run(&pod, config).await?;
    let pid = f.pid(&id).await?;
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let (v1, v2) = (":memory:", "0::");
    let (path, file) = match cgroups.lines().find_map(|line| line.split_once(v1)) {
        Some((_, path)) => (
            format!("/sys/fs/cgroup/memory{path}"),
            "memory.limit_in_bytes",
        ),
        None => {
            let path = cgroups.lines().find_map(|line| line.strip_prefix(v2));
            (
                format!("/sys/fs/cgroup{}", path.context("no cgroup")?),
                "memory.max",
            )
        }
    };
    let set = fs::read_to_string(format!("{path}/{file}"))?;
    assert_eq!(set.trim(), limit.to_string());
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_driver_vfs_there_are_none() -> Result<()> {
    let f = fixture::with(Options {
        storage_conf: "[storage]\ndriver = \"vfs\"\n".to_owned(),
        ..Options::default()
    })
    .await?;
    let mut runtime = f.node.client().runtime();
    let status = runtime.status(v1::StatusRequest::default()).await?;
    let handlers = status.into_inner().runtime_handlers;
    let told = handlers.iter().filter_map(|handler| handler.features);
    assert!(told.into_iter().all(|features| !features.user_namespaces));
    let refused = f.node.run_pod_config(pod(&f, "whole")).await.unwrap_err();
    assert_eq!(code(&refused), Some(Code::InvalidArgument), "{refused:#}");
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_mounted_in_a_volume_stays_when_its_container_goes() -> Result<()> {
    let f = fixture::node().await?;
    // A volume that shares its mounts with others, as all do on a node with systemd, and one in it.
    let volumes = tempfile::Builder::new()
        .prefix("crixv-")
        .tempdir_in("/var/tmp")?;
    let (outer, inner) = (
        volumes.path().join("outer"),
        volumes.path().join("outer/in"),
    );
    fs::create_dir(&outer)?;
    let flags = sys::mount::Flags::default();
    sys::mount::tmpfs(&outer, 1 << 20, 0o755, flags, "")?;
    sys::mount::set_propagation(&outer, sys::mount::Propagation::Shared, false)?;
    fs::create_dir(&inner)?;
    sys::mount::tmpfs(&inner, 1 << 20, 0o755, flags, "")?;
    fs::write(inner.join("file"), "kept")?;
    let seen = async {
        let pod = f.node.run_pod_config(pod(&f, "shared")).await?;
        let mut config = container("reads", &f.image, &["sleep", "1000"]);
        config.mounts.push(v1::Mount {
            container_path: "/volume".into(),
            host_path: outer.display().to_string(),
            uid_mappings: mappings(),
            gid_mappings: mappings(),
            ..Default::default()
        });
        let id = f.node.run(&pod, config).await?;
        let seen = f.said(&id, "cat /volume/in/file").await?;
        f.node.remove_pod(&pod).await?;
        Ok::<_, anyhow::Error>(seen)
    };
    let seen = seen.await;
    let kept = fs::read_to_string(inner.join("file"));
    sys::mount::unmount_all(&inner)?;
    sys::mount::unmount_all(&outer)?;
    assert_eq!(seen?, "kept");
    assert_eq!(kept?, "kept");
    f.node.finish().await
}
