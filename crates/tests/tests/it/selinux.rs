//! SELinux labels, where the kernel and its policy have them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use cri::v1;
use testkit::requests::{self, container};
use tonic::Code;

use crate::fixture::{self, Fixture};

/// Whether labels can be tested here; says why not.
#[expect(clippy::print_stderr, reason = "a skipped test says why")]
fn is_there() -> bool {
    let there = sys::selinux::is_enabled() && sys::selinux::container_contexts().is_file();
    if !there {
        eprintln!("skipped: no SELinux in this kernel, or its policy has no labels for containers");
    }
    there
}

/// Type and level of a container's processes.
async fn own(f: &Fixture, id: &str) -> Result<(String, String)> {
    let label = f.said(id, "cat /proc/self/attr/current").await?;
    let mut parts = label.splitn(4, ':').skip(2).map(str::to_owned);
    let kind = parts.next().with_context(|| label.clone())?;
    Ok((kind, parts.next().with_context(|| label.clone())?))
}

fn on_disk(path: &Path) -> Result<String> {
    let label = sys::selinux::label(path)?.context("no label")?;
    Ok(String::from_utf8_lossy(&label)
        .trim_end_matches('\0')
        .to_owned())
}

fn with_options(mut config: v1::ContainerConfig, kind: &str, level: &str) -> v1::ContainerConfig {
    let linux = config.linux.get_or_insert_default();
    let security = linux.security_context.get_or_insert_default();
    security.selinux_options = Some(v1::SeLinuxOption {
        r#type: kind.into(),
        level: level.into(),
        ..Default::default()
    });
    config
}

fn code(error: &anyhow::Error) -> Option<Code> {
    Some(error.downcast_ref::<tonic::Status>()?.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_apart_and_their_containers_together() -> Result<()> {
    if !is_there() {
        return Ok(());
    }
    let mut f = fixture::node().await?;
    let (one, two) = (f.node.run_pod("one").await?, f.node.run_pod("two").await?);
    let script = "echo heard; sleep 1000";
    let sleeper = |name: &str| container(name, &f.image, &["sh", "-c", script]);
    let first = f.node.run(&one, sleeper("first")).await?;
    let other = f.node.run(&two, sleeper("other")).await?;
    let (kind, level) = own(&f, &first).await?;
    assert_eq!(kind, "container_t");
    assert!(level.starts_with("s0:c"), "{level}");
    assert_ne!(own(&f, &other).await?.1, level);
    // What it sees and makes is labelled for it, the pod's files too.
    let script = "touch /made /dev/shm/made && cat /etc/hostname /etc/resolv.conf >/dev/null";
    f.said(&first, script).await?;
    let root = PathBuf::from(format!("/proc/{}/root", f.pid(&first).await?));
    for path in ["made", "dev/shm/made", "etc/hostname", "etc/resolv.conf"] {
        let label = on_disk(&root.join(path))?;
        let wanted = format!(":container_file_t:{level}");
        assert!(label.ends_with(&wanted), "{path}: {label}");
    }
    assert!(f.node.log("one", "first")?.contains("heard"));

    // The pod's level is in its record.
    f.node.kill_daemon()?;
    f.node.start_daemon().await?;
    let sleeper = container("second", &f.image, &["sleep", "1000"]);
    let second = f.node.run(&one, sleeper).await?;
    assert_eq!(own(&f, &second).await?.1, level);
    let third = f.node.run_pod("three").await?;
    let sleeper = container("third", &f.image, &["sleep", "1000"]);
    let third = f.node.run(&third, sleeper).await?;
    assert_ne!(own(&f, &third).await?.1, level);
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_names_parts_of_its_label() -> Result<()> {
    if !is_there() {
        return Ok(());
    }
    let f = fixture::node().await?;
    let mut pod = requests::pod("named", &f.node.logs());
    let linux = pod.linux.get_or_insert_default();
    let security = linux.security_context.get_or_insert_default();
    security.selinux_options = Some(v1::SeLinuxOption {
        level: "s0:c5,c6".into(),
        ..Default::default()
    });
    let pod = f.node.run_pod_config(pod).await?;
    let sleeper = |name: &str| container(name, &f.image, &["sleep", "1000"]);
    let plain = f.node.run(&pod, sleeper("plain")).await?;
    assert_eq!(
        own(&f, &plain).await?,
        ("container_t".into(), "s0:c5,c6".into())
    );
    let named = with_options(sleeper("named"), "spc_t", "");
    let named = f.node.run(&pod, named).await?;
    assert_eq!(own(&f, &named).await?, ("spc_t".into(), "s0:c5,c6".into()));

    for (number, (kind, level)) in [("no_such_t", ""), ("a:b", ""), ("", "s0:nonsense")]
        .into_iter()
        .enumerate()
    {
        let config = with_options(sleeper(&format!("bad-{number}")), kind, level);
        let refused = f.node.create(&pod, config).await.unwrap_err();
        assert_eq!(code(&refused), Some(Code::InvalidArgument), "{refused:#}");
    }

    // With the host's processes there is no separation.
    let mut host = requests::pod("host", &f.node.logs());
    let linux = host.linux.get_or_insert_default();
    let security = linux.security_context.get_or_insert_default();
    let options = security.namespace_options.get_or_insert_default();
    options.pid = v1::NamespaceMode::Node as i32;
    let namespaces = Some(options.clone());
    let host = f.node.run_pod_config(host).await?;
    let mut config = sleeper("sees");
    config.linux = Some(v1::LinuxContainerConfig {
        security_context: Some(v1::LinuxContainerSecurityContext {
            namespace_options: namespaces,
            ..Default::default()
        }),
        ..Default::default()
    });
    let sees = f.node.run(&host, config).await?;
    assert_ne!(own(&f, &sees).await?.0, "container_t");
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_labelled_where_it_is_wished() -> Result<()> {
    if !is_there() {
        return Ok(());
    }
    let f = fixture::node().await?;
    let volumes = tempfile::Builder::new()
        .prefix("crixv-")
        .tempdir_in("/var/tmp")?;
    for name in ["wished", "plain"] {
        fs::create_dir_all(volumes.path().join(name).join("deep"))?;
        fs::write(volumes.path().join(name).join("deep/file"), "text")?;
    }
    std::os::unix::fs::symlink("/etc/shadow", volumes.path().join("wished/link"))?;
    let before = on_disk(Path::new("/etc/shadow"))?;
    let mount = |name: &str, relabel: bool| v1::Mount {
        container_path: format!("/{name}"),
        host_path: volumes.path().join(name).display().to_string(),
        selinux_relabel: relabel,
        ..Default::default()
    };
    let pod = f.node.run_pod("volumes").await?;
    let mut config = container("reads", &f.image, &["sleep", "1000"]);
    config.mounts = vec![
        mount("wished", true),
        mount("plain", false),
        requests::image_mount("/image", &f.image, ""),
    ];
    let id = f.node.run(&pod, config.clone()).await?;
    let level = own(&f, &id).await?.1;
    assert_eq!(f.said(&id, "cat /wished/deep/file").await?, "text");
    f.said(&id, "cat /image/bin/busybox >/dev/null").await?;
    let enforcing = fs::read_to_string("/sys/fs/selinux/enforce")?.trim() == "1";
    let denied = f.node.exec(&id, &["cat", "/plain/deep/file"]).await?;
    assert_eq!(denied.exit_code != 0, enforcing, "what is not labelled");
    for path in ["wished", "wished/deep", "wished/deep/file"] {
        let label = on_disk(&volumes.path().join(path))?;
        assert!(
            label.ends_with(&format!(":container_file_t:{level}")),
            "{path}: {label}"
        );
    }
    assert_eq!(
        on_disk(Path::new("/etc/shadow"))?,
        before,
        "a link was followed"
    );

    config.metadata = container("usr", "", &[]).metadata;
    config.mounts = vec![v1::Mount {
        container_path: "/node".into(),
        host_path: "/usr".into(),
        selinux_relabel: true,
        ..Default::default()
    }];
    let refused = f.node.create(&pod, config).await.unwrap_err();
    assert_eq!(code(&refused), Some(Code::InvalidArgument), "{refused:#}");
    f.node.finish().await
}
