//! File systems that are full, the store's, a boot's, the logs': clear errors, nothing half done or lost, and
//! a way out.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use cri::v1;
use tempfile::TempDir;
use testkit::image_maker::{Entry, ImageMaker};
use testkit::node::{Node, Options};
use testkit::requests::{self, bind, container};
use tonic::Code;

use crate::fixture::{self, Fixture};
use crate::restart::monitor;

/// A small file system until it is dropped.
struct Small(TempDir);

impl Small {
    fn new(bytes: u64) -> Result<Self> {
        let small = Self(
            tempfile::Builder::new()
                .prefix("crixs-")
                .tempdir_in("/var/tmp")?,
        );
        sys::mount::tmpfs(small.path(), bytes, 0o755, sys::mount::Flags::default(), "")?;
        Ok(small)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        sys::mount::unmount_all(self.path()).unwrap();
    }
}

/// A file system on a directory until it is dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        sys::mount::unmount_all(&self.0).unwrap();
    }
}

/// Bytes that are free.
fn free(path: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// Takes all that is free; gone with the file that is returned.
fn fill(path: &Path) -> Result<File> {
    let mut file = tempfile::tempfile_in(path)?;
    let block = [b'x'; 4096];
    while file.write_all(&block).is_ok() {}
    ensure!(free(path)? == 0, "something is left");
    Ok(file)
}

fn code(error: anyhow::Error) -> Code {
    let status = error.downcast::<tonic::Status>().unwrap();
    assert!(status.message().contains("No space left"), "{status}");
    status.code()
}

async fn containers(node: &Node) -> Result<usize> {
    let request = v1::ListContainersRequest::default();
    let listed = node.client().runtime().list_containers(request).await?;
    Ok(listed.into_inner().containers.len())
}

/// Directories of records that the store has.
fn records(small: &Small) -> Result<usize> {
    let entries = fs::read_dir(small.path().join("store/overlay-containers"))?;
    let directories =
        entries.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().is_dir()));
    Ok(directories.count())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_is_told_and_has_a_way_out() -> Result<()> {
    let small = Small::new(48 << 20)?;
    let options = Options {
        config: format!("[crio]\nroot = {:?}\n", small.path().join("store")),
        ..Options::default()
    };
    let f = fixture::with(options).await?;
    let before = free(small.path())?;

    // More than there is room for: nothing of it stays.
    let large = Entry::file("large", 0o644, vec![b'x'; 64 << 20]);
    f.registry.push(
        "test/large",
        "1",
        &ImageMaker::busybox().layer(&[large]).build(),
    )?;
    let large = f.registry.reference("test/large", "1");
    assert_eq!(
        code(f.node.pull(&large).await.unwrap_err()),
        Code::ResourceExhausted
    );
    assert_eq!(f.node.images().await?.len(), 1);
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    while free(small.path())? + (64 << 10) < before {
        tick.tick().await;
    }

    let other = ImageMaker::busybox().layer(&[Entry::file("other", 0o644, vec![b'y'; 1 << 20])]);
    f.registry.push("test/other", "1", &other.build())?;
    let other = f.registry.reference("test/other", "1");
    f.node.pull(&other).await?;
    let pod = f.node.run_pod("p").await?;
    let script = "trap 'exit 7' TERM; while true; do sleep 0.1; done";
    let runs = container("runs", &f.image, &["sh", "-c", script]);
    let runs = f.node.run(&pod, runs).await?;
    let other_pod = f.node.run_pod("other").await?;
    let filled = fill(small.path())?;
    let refused = f
        .node
        .create(&pod, container("c", &f.image, &["true"]))
        .await;
    assert_eq!(code(refused.unwrap_err()), Code::ResourceExhausted);
    let refused = f.node.run_pod("q").await;
    assert_eq!(code(refused.unwrap_err()), Code::ResourceExhausted);
    assert_eq!((containers(&f.node).await?, records(&small)?), (1, 3));

    // What takes away needs no room: an end is told, and what is removed is gone.
    let stop = v1::StopContainerRequest {
        container_id: runs.clone(),
        timeout: 10,
    };
    f.node.client().runtime().stop_container(stop).await?;
    assert_eq!(f.node.status(&runs).await?.exit_code, 7);
    let remove = v1::RemoveContainerRequest { container_id: runs };
    f.node.client().runtime().remove_container(remove).await?;
    f.node.stop_pod(&other_pod).await?;
    f.node.remove_pod(&other_pod).await?;
    assert_eq!((containers(&f.node).await?, records(&small)?), (0, 1));
    let spec = v1::ImageSpec {
        image: other.clone(),
        ..Default::default()
    };
    let request = v1::RemoveImageRequest { image: Some(spec) };
    f.node.client().images().remove_image(request).await?;
    assert_eq!(f.node.images().await?.len(), 1);
    ensure!(free(small.path())? >= 1 << 20, "the image's room is free");
    drop(filled);

    // Then all is as before.
    f.node.pull(&other).await?;
    let again = f.node.run(&pod, container("c", &other, &["true"])).await?;
    assert_eq!(f.node.exited(&again).await?.exit_code, 0);
    f.node.finish().await?;
    assert_eq!(records(&small)?, 0);
    Ok(())
}

/// A node whose files of a boot are on a small file system; to be kept as long as the node.
async fn with_small_run(bytes: u64) -> Result<(Fixture, Mounted)> {
    let mut f = fixture::node().await?;
    f.node.stop_daemon()?;
    let mounted = Mounted(f.node.run_dir.clone());
    sys::mount::tmpfs(&mounted.0, bytes, 0o755, sys::mount::Flags::default(), "")?;
    f.node.start_daemon().await?;
    Ok((f, mounted))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_run_directory_is_told_and_has_a_way_out() -> Result<()> {
    let (mut f, mounted) = with_small_run(8 << 20).await?;
    let pod = f.node.run_pod("p").await?;
    let script = "trap 'exit 7' TERM; while true; do sleep 0.1; done";
    let runs = container("runs", &f.image, &["sh", "-c", script]);
    let runs = f.node.run(&pod, runs).await?;
    let go = f.node.dir.join("go");
    let waits = |name: &str| {
        let script = "while [ ! -e /go/$0 ]; do sleep 0.1; done; exit 5";
        let mut config = container(name, &f.image, &["sh", "-c", script, name]);
        config.mounts = vec![bind("/go", &go)];
        config
    };
    fs::create_dir(&go)?;
    let ends = f.node.run(&pod, waits("ends")).await?;
    let unseen = f.node.run(&pod, waits("unseen")).await?;
    let other = f.node.run_pod("other").await?;
    let filled = fill(&mounted.0)?;
    let config = container("c", &f.image, &["true"]);
    let refused = f.node.create(&pod, config).await.unwrap_err();
    assert_eq!(code(refused), Code::ResourceExhausted);
    let refused = f.node.run_pod("q").await.unwrap_err();
    assert_eq!(code(refused), Code::ResourceExhausted);
    let refused = f.node.exec(&runs, &["true"]).await.unwrap_err();
    assert_eq!(code(refused), Code::ResourceExhausted);
    assert_eq!(containers(&f.node).await?, 3);

    // Ends are told, also one of which the daemon did not hear.
    fs::write(go.join("ends"), "")?;
    assert_eq!(f.node.exited(&ends).await?.exit_code, 5);
    f.node.kill_daemon()?;
    fs::write(go.join("unseen"), "")?;
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let record = f.node.storage().join("overlay-containers").join(&unseen);
    for _ in 0..400 {
        tick.tick().await;
        if record.join("userdata/exit").try_exists()? {
            break;
        }
    }
    f.node.start_daemon().await?;
    assert_eq!(f.node.exited(&unseen).await?.exit_code, 5);

    // What takes away needs no room.
    let stop = v1::StopContainerRequest {
        container_id: runs.clone(),
        timeout: 10,
    };
    f.node.client().runtime().stop_container(stop).await?;
    assert_eq!(f.node.status(&runs).await?.exit_code, 7);
    let remove = v1::RemoveContainerRequest { container_id: runs };
    f.node.client().runtime().remove_container(remove).await?;
    f.node.stop_pod(&other).await?;
    f.node.remove_pod(&other).await?;
    assert_eq!(containers(&f.node).await?, 2);
    drop(filled);

    // Then all is as before.
    let config = container("c", &f.image, &["true"]);
    let again = f.node.run(&pod, config).await?;
    assert_eq!(f.node.exited(&again).await?.exit_code, 0);
    f.node.remove_pod(&pod).await?;
    f.node.stop_daemon()?;
    drop(mounted);
    f.node.start_daemon().await?;
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_directory_stops_a_container_and_costs_no_line() -> Result<()> {
    let f = fixture::node().await?;
    let small = Small::new(1 << 20)?;
    let mut config = requests::pod("p", &f.node.logs());
    config.log_directory = small.path().display().to_string();
    let pod = f.node.run_pod_config(config).await?;
    let go = f.node.dir.join("go");
    fs::create_dir(&go)?;
    let script = "i=0; while [ ! -e /go/now ]; do echo line $i; i=$((i+1)); \
                  [ $((i%10)) = 0 ] && sleep 0.01; done; echo total $i; exit 3";
    let mut config = container("c", &f.image, &["sh", "-c", script]);
    config.mounts = vec![bind("/go", &go)];
    let id = f.node.run(&pod, config).await?;
    let log = small.path().join("c.log");
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    let mut grows_beyond = async |size: u64| {
        for _ in 0..500 {
            tick.tick().await;
            if fs::metadata(&log).is_ok_and(|log| log.len() > size) {
                return Ok(());
            }
        }
        anyhow::bail!("the log stays as it is: {}", f.node.log_tail())
    };
    grows_beyond(0).await?;
    let filled = fill(small.path())?;
    // Its last page takes some more.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let size = fs::metadata(&log)?.len();
    // The successor has what the dead one had read and could not write.
    let old = monitor(&f.node, &pod, None).await;
    rustix::process::kill_process(old, rustix::process::Signal::KILL)?;
    monitor(&f.node, &pod, Some(old)).await;
    assert_eq!(f.node.exec(&id, &["true"]).await?.exit_code, 0);
    assert_eq!(fs::metadata(&log)?.len(), size);
    drop(filled);
    grows_beyond(size + 1000).await?;
    fs::write(go.join("now"), "")?;
    let ended = f.node.exited(&id).await?;
    assert_eq!(ended.exit_code, 3, "{ended:?}");
    let log = fs::read_to_string(&log)?;
    let texts = log.lines().map(|line| line.splitn(4, ' ').nth(3));
    let mut said: Vec<_> = texts.map(Option::unwrap_or_default).collect();
    let total = said.pop();
    let wanted: Vec<_> = (0..said.len()).map(|n| format!("line {n}")).collect();
    ensure!(said == wanted, "a line is lost or doubled");
    assert_eq!(total, Some(&*format!("total {}", said.len())));
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_became_read_only_can_be_stopped_on_and_comes_back() -> Result<()> {
    let small = Small::new(48 << 20)?;
    let options = Options {
        config: format!("[crio]\nroot = {:?}\n", small.path().join("store")),
        ..Options::default()
    };
    let mut f = fixture::with(options).await?;
    let remount = |how: &str| -> Result<()> {
        let mut mount = std::process::Command::new("mount");
        let mount = mount
            .args(["-o", &format!("remount,{how}")])
            .arg(small.path());
        ensure!(mount.status()?.success(), "remount {how}");
        Ok(())
    };
    let pod = f.node.run_pod("p").await?;
    let script = "trap 'exit 7' TERM; while true; do sleep 0.1; done";
    let runs = container("runs", &f.image, &["sh", "-c", script]);
    let runs = f.node.run(&pod, runs).await?;
    let ends = container("ends", &f.image, &["sh", "-c", "sleep 2; exit 5"]);
    let ends = f.node.run(&pod, ends).await?;
    let other = f.node.run_pod("other").await?;
    remount("ro")?;
    let refused = |error: anyhow::Error| {
        let text = format!("{error:#}");
        ensure!(text.contains("Read-only file system"), "{text}");
        Ok(())
    };
    let config = container("c", &f.image, &["true"]);
    refused(f.node.create(&pod, config).await.unwrap_err())?;
    refused(f.node.run_pod("q").await.unwrap_err())?;
    refused(f.node.pull(&f.image).await.unwrap_err())?;
    assert_eq!(f.node.exec(&runs, &["true"]).await?.exit_code, 0);
    assert_eq!(f.node.exited(&ends).await?.exit_code, 5);
    let stop = v1::StopContainerRequest {
        container_id: runs.clone(),
        timeout: 10,
    };
    f.node.client().runtime().stop_container(stop).await?;
    assert_eq!(f.node.status(&runs).await?.exit_code, 7);
    f.node.stop_pod(&other).await?;
    refused(f.node.remove_pod(&other).await.unwrap_err())?;
    f.node.kill_daemon()?;
    refused(f.node.start_daemon().await.unwrap_err())?;

    remount("rw")?;
    f.node.start_daemon().await?;
    assert_eq!(f.node.exited(&runs).await?.exit_code, 7);
    assert_eq!(f.node.exited(&ends).await?.exit_code, 5);
    let config = container("c", &f.image, &["true"]);
    let again = f.node.run(&pod, config).await?;
    assert_eq!(f.node.exited(&again).await?.exit_code, 0);
    f.node.finish().await?;
    assert_eq!(records(&small)?, 0);
    Ok(())
}
