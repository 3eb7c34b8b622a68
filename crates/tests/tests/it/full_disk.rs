//! A store on a disk that is full: clear errors, nothing half done, and a way out.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use cri::v1;
use tempfile::TempDir;
use testkit::image_maker::{Entry, ImageMaker};
use testkit::node::{Node, Options};
use testkit::requests::container;
use tonic::Code;

use crate::fixture;

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

    /// Bytes that are free.
    fn free(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(self.path())?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Takes all that is free; gone with the file that is returned.
    fn fill(&self) -> Result<File> {
        let mut file = tempfile::tempfile_in(self.path())?;
        let block = [b'x'; 4096];
        while file.write_all(&block).is_ok() {}
        ensure!(self.free()? == 0, "something is left");
        Ok(file)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        sys::mount::unmount_all(self.path()).unwrap();
    }
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
    let before = small.free()?;

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
    while small.free()? + (64 << 10) < before {
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
    let filled = small.fill()?;
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
    ensure!(small.free()? >= 1 << 20, "the image's room is free");
    drop(filled);

    // Then all is as before.
    f.node.pull(&other).await?;
    let again = f.node.run(&pod, container("c", &other, &["true"])).await?;
    assert_eq!(f.node.exited(&again).await?.exit_code, 0);
    f.node.finish().await?;
    assert_eq!(records(&small)?, 0);
    Ok(())
}
