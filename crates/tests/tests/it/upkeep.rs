//! Damage, reboots and upgrades: `crioxide check`, `crioxide wipe`, and what the daemon does about
//! them when it starts.

use std::fs;
use std::io::Seek as _;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cri::v1;
use sys::spawn::{Session, Spec, spawn};
use testkit::node::{Node, Options, binary};
use testkit::requests::container;

use crate::fixture::{self, Fixture};

/// Runs a sub-command with the node's configuration: whether it succeeded, and all its output.
fn command(node: &Node, arguments: &[&str]) -> Result<(bool, String)> {
    let mut output = tempfile::tempfile()?;
    let program = binary("crioxide")?;
    let mut spec = Spec::new(&program);
    spec.args = node.arguments().into_iter().map(Into::into).collect();
    spec.args.extend(arguments.iter().map(Into::into));
    let storage_conf = node.dir.join("storage.conf");
    spec.env = vec![("CONTAINERS_STORAGE_CONF".into(), storage_conf.into())];
    spec.session = Session::Group;
    spec.fds = vec![(output.as_fd(), 1), (output.as_fd(), 2)];
    let mut child = spawn(&spec)?;
    let status = child.wait(Some(Duration::from_secs(120)))?;
    let status = status.context("the sub-command does not end")?;
    output.rewind()?;
    Ok((status.success(), std::io::read_to_string(output)?))
}

/// A file of the image's only layer, below the store.
fn file_of_image(node: &Node, name: &str) -> Result<PathBuf> {
    let overlay = node.storage().join("overlay");
    for layer in fs::read_dir(overlay)? {
        let path = layer?.path();
        // A base layer is an image's; a writable one has what is below in `lower`.
        if path.join("empty").is_dir() && path.join("diff").join(name).is_file() {
            return Ok(path.join("diff").join(name));
        }
    }
    anyhow::bail!("no layer has {name}")
}

async fn images(node: &Node) -> Result<usize> {
    let request = v1::ListImagesRequest::default();
    let answer = node.client().images().list_images(request).await?;
    Ok(answer.into_inner().images.len())
}

async fn pods(node: &Node) -> Result<usize> {
    let request = v1::ListPodSandboxRequest::default();
    let answer = node.client().runtime().list_pod_sandbox(request).await?;
    Ok(answer.into_inner().items.len())
}

fn records(node: &Node) -> Result<String> {
    let path = "overlay-containers/volatile-containers.json";
    Ok(fs::read_to_string(node.storage().join(path))?)
}

async fn exited_once(f: &Fixture, pod: &str) -> Result<()> {
    let config = container("once", &f.image, &["true"]);
    let once = f.node.run(pod, config).await?;
    assert_eq!(f.node.exited(&once).await?.exit_code, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_found_and_the_image_repaired_by_pulling_it_again() -> Result<()> {
    let mut f = fixture::node().await?;
    let pod = f.node.run_pod("checked").await?;
    exited_once(&f, &pod).await?;
    f.node.stop_daemon()?;
    let (fine, text) = command(&f.node, &["check"])?;
    assert!(fine, "{text}");

    let file = file_of_image(&f.node, "bin/busybox")?;
    let mut bytes = fs::read(&file)?;
    bytes[1000] ^= 1;
    fs::write(&file, bytes)?;
    let (fine, text) = command(&f.node, &["check", "--quick"])?;
    assert!(!fine && text.contains("busybox has changed"), "{text}");
    assert!(
        text.contains("1 image errors, 0 read-only image errors, 1 container errors"),
        "{text}"
    );
    // Without --force the container stays, and with it what it needs.
    let (fine, text) = command(&f.node, &["check", "--repair"])?;
    assert!(!fine && text.contains("is in use by container"), "{text}");
    let (fine, text) = command(&f.node, &["check", "--repair", "--force"])?;
    assert!(fine, "{text}");
    let (fine, text) = command(&f.node, &["check"])?;
    assert!(fine, "{text}");

    f.node.start_daemon().await?;
    assert_eq!((images(&f.node).await?, pods(&f.node).await?), (0, 1));
    f.node.pull(&f.image).await?;
    exited_once(&f, &pod).await?;
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_pod_has_no_record_is_found_and_removed() -> Result<()> {
    let mut f = fixture::node().await?;
    let pod = f.node.run_pod("whole").await?;
    let config = container("stray", &f.image, &["true"]);
    let stray = f.node.run(&pod, config).await?;
    f.node.exited(&stray).await?;
    let request = v1::StopPodSandboxRequest {
        pod_sandbox_id: pod.clone(),
    };
    f.node.client().runtime().stop_pod_sandbox(request).await?;
    f.node.stop_daemon()?;
    let path = f
        .node
        .storage()
        .join("overlay-containers/volatile-containers.json");
    let mut rows: Vec<serde_json::Value> = serde_json::from_slice(&fs::read(&path)?)?;
    rows.retain(|row| row["id"] != pod.as_str());
    fs::write(&path, serde_json::to_vec(&rows)?)?;
    let (fine, text) = command(&f.node, &["check", "--quick"])?;
    let told = format!("container {stray}: its pod {pod} has no record");
    assert!(!fine && text.contains(&told), "{text}");
    assert!(
        text.contains(&format!("{pod}: no record names it")),
        "{text}"
    );
    let (fine, text) = command(&f.node, &["check", "--repair", "--force"])?;
    assert!(fine, "{text}");
    assert_eq!(records(&f.node)?, "[]");
    f.node.start_daemon().await?;
    assert_eq!((images(&f.node).await?, pods(&f.node).await?), (1, 0));
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_can_t_be_repaired_is_removed_where_somebody_says_so() -> Result<()> {
    let mut f = fixture::node().await?;
    let pod = f.node.run_pod("lost").await?;
    exited_once(&f, &pod).await?;
    let request = v1::StopPodSandboxRequest {
        pod_sandbox_id: pod,
    };
    f.node.client().runtime().stop_pod_sandbox(request).await?;
    f.node.stop_daemon()?;
    fs::write(file_of_image(&f.node, "bin/busybox")?, "nothing of it")?;
    // Its container stays without --force, so the image can't go.
    let (fine, text) = command(&f.node, &["check", "--repair", "--wipe"])?;
    assert!(fine && text.contains("the store is removed"), "{text}");
    assert!(!f.node.storage().exists());
    f.node.start_daemon().await?;
    assert_eq!((images(&f.node).await?, pods(&f.node).await?), (0, 0));
    f.node.pull(&f.image).await?;
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_a_kill_broke_don_t_keep_the_daemon_from_starting() -> Result<()> {
    let mut f = fixture::node().await?;
    let pod = f.node.run_pod("survives").await?;
    let config = container("runs", &f.image, &["sleep", "1000"]);
    let runs = f.node.run(&pod, config).await?;
    let broken = f.registry.reference("test/broken", "1");
    let image = testkit::image_maker::ImageMaker::busybox()
        .layer(&[testkit::image_maker::Entry::file("mark", 0o644, "x")])
        .build();
    f.registry.push("test/broken", "1", &image)?;
    f.node.pull(&broken).await?;
    f.node.kill_daemon()?;
    let path = f.node.storage().join("overlay-images/images.json");
    let json = fs::read_to_string(&path)?;
    fs::write(&path, &json[..json.len() - 5])?;
    let (fine, text) = command(&f.node, &["check"])?;
    assert!(!fine && text.contains("images.json"), "{text}");
    f.node.start_daemon().await?;
    // The record that was cut is lost, the one before it and the container are not.
    assert_eq!(images(&f.node).await?, 1);
    let status = f.node.status(&runs).await?;
    assert_eq!(status.state, v1::ContainerState::ContainerRunning as i32);
    f.node.pull(&broken).await?;
    f.node.finish().await
}

/// A node whose daemon leaves wiping to the sub-command, with a pod and a container that has run.
async fn to_be_wiped() -> Result<(Fixture, String)> {
    let options = Options {
        config: "[crio]\ninternal_wipe = false\n".into(),
        ..Options::default()
    };
    let f = fixture::with(options).await?;
    let pod = f.node.run_pod("wiped").await?;
    exited_once(&f, &pod).await?;
    Ok((f, pod))
}

#[tokio::test(flavor = "multi_thread")]
async fn wipe_removes_containers_after_a_reboot_and_images_after_an_upgrade() -> Result<()> {
    let (mut f, pod) = to_be_wiped().await?;
    let (fine, text) = command(&f.node, &["wipe", "--force"])?;
    assert!(!fine && text.contains("stop it first"), "{text}");
    f.node.stop_daemon()?;
    let before = records(&f.node)?;
    assert!(before.contains(&pod));
    // Same boot, same version: nothing.
    let (fine, text) = command(&f.node, &["wipe"])?;
    assert!(fine && records(&f.node)? == before, "{text}");

    f.node.start_daemon().await?;
    f.node
        .client()
        .runtime()
        .stop_pod_sandbox(v1::StopPodSandboxRequest {
            pod_sandbox_id: pod.clone(),
        })
        .await?;
    f.node.stop_daemon()?;
    let version = f.node.run_dir.join("version");
    fs::remove_file(&version)?;
    let (fine, text) = command(&f.node, &["wipe"])?;
    assert!(fine, "{text}");
    assert_eq!(records(&f.node)?, "[]");
    f.node.start_daemon().await?;
    assert_eq!((images(&f.node).await?, pods(&f.node).await?), (1, 0));

    // An upgrade: the images that containers used go too.
    let pod = f.node.run_pod("again").await?;
    exited_once(&f, &pod).await?;
    f.node
        .client()
        .runtime()
        .stop_pod_sandbox(v1::StopPodSandboxRequest {
            pod_sandbox_id: pod,
        })
        .await?;
    f.node.stop_daemon()?;
    fs::write(&version, "\"1.35.9\"")?;
    fs::write(f.node.dir.join("version"), "\"1.35.9\"")?;
    let (fine, text) = command(&f.node, &["wipe"])?;
    assert!(fine, "{text}");
    f.node.start_daemon().await?;
    assert_eq!((images(&f.node).await?, pods(&f.node).await?), (0, 0));
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn wipe_keeps_what_runs() -> Result<()> {
    let (mut f, pod) = to_be_wiped().await?;
    let config = container("runs", &f.image, &["sleep", "1000"]);
    let runs = f.node.run(&pod, config).await?;
    f.node.stop_daemon()?;
    let (fine, text) = command(&f.node, &["wipe", "--force"])?;
    assert!(!fine && text.contains("its pod runs"), "{text}");
    assert!(records(&f.node)?.contains(&runs));
    f.node.start_daemon().await?;
    let status = f.node.status(&runs).await?;
    assert_eq!(status.state, v1::ContainerState::ContainerRunning as i32);
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn wipe_removes_the_store_after_a_reboot_that_was_no_clean_shutdown() -> Result<()> {
    let (mut f, pod) = to_be_wiped().await?;
    f.node
        .client()
        .runtime()
        .stop_pod_sandbox(v1::StopPodSandboxRequest {
            pod_sandbox_id: pod,
        })
        .await?;
    f.node.stop_daemon()?;
    fs::remove_file(f.node.dir.join("clean.shutdown"))?;
    // The same boot: a daemon that was killed, and no more.
    let (fine, text) = command(&f.node, &["wipe"])?;
    assert!(fine && f.node.storage().join("overlay").is_dir(), "{text}");
    fs::remove_file(f.node.run_dir.join("version"))?;
    let (fine, text) = command(&f.node, &["wipe"])?;
    assert!(fine, "{text}");
    let layers = f.node.storage().join("overlay-layers/layers.json");
    assert!(!layers.exists(), "{text}");
    assert!(f.node.run_dir.join("crio/crio-wipe-done").is_file());
    f.node.start_daemon().await?;
    assert_eq!((images(&f.node).await?, pods(&f.node).await?), (0, 0));
    f.node.pull(&f.image).await?;
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_wipes_pods_after_a_reboot_where_somebody_says_so() -> Result<()> {
    let options = Options {
        config: "[crio]\ninternal_wipe = true\n".into(),
        ..Options::default()
    };
    let mut f = fixture::with(options).await?;
    let pod = f.node.run_pod("wiped").await?;
    exited_once(&f, &pod).await?;
    f.node.restart().await?;
    assert_eq!(pods(&f.node).await?, 1, "the same boot");
    f.node.reboot().await?;
    assert_eq!((images(&f.node).await?, pods(&f.node).await?), (1, 0));
    let pod = f.node.run_pod("next").await?;
    exited_once(&f, &pod).await?;
    // An upgrade in the same boot: CRI-O removes pods too.
    f.node.stop_daemon()?;
    fs::write(f.node.dir.join("version"), "\"1.34.0\"")?;
    f.node.start_daemon().await?;
    assert_eq!((images(&f.node).await?, pods(&f.node).await?), (0, 0));
    f.node.finish().await
}
