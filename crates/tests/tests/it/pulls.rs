//! A daemon that dies in a pull, anywhere: the next one has nothing of it left but whole layers, which
//! the retry uses.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cri::v1;
use storage::{CheckOptions, Depth, Store};
use testkit::image_maker::{Compression, Entry, ImageMaker};
use testkit::node::Node;

use crate::fixture::{self, Fixture};

/// Where a pull can be made to die.
pub(crate) const POINTS: [&str; 5] = [
    "image.pull.unpacked",
    "image.pull.layers",
    "storage.layer.synced",
    "storage.layer.recorded",
    "storage.layer.placed",
];

/// A node that has pulled nothing, and an image of two small layers and a large one.
async fn before() -> Result<(Fixture, String)> {
    let f = fixture::without_image(testkit::node::Options::default()).await?;
    let large: Vec<u8> = (0..6_u32 << 20).flat_map(u32::to_le_bytes).collect();
    let image = ImageMaker::busybox()
        .compression(Compression::None)
        .layer(&[Entry::file("small", 0o644, "small")])
        .layer(&[Entry::file("large", 0o644, large)])
        .build();
    f.registry.push("test/pulled", "1", &image)?;
    let name = f.registry.reference("test/pulled", "1");
    Ok((f, name))
}

/// Names in a directory of the store.
fn names(node: &Node, dir: &str) -> Result<Vec<String>> {
    let path = node.storage().join(dir);
    let entries = fs::read_dir(&path).with_context(|| path.display().to_string())?;
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Fails on anything in the store that is neither whole nor recorded.
pub(crate) fn nothing_is_left(node: &Node, when: &str) -> Result<()> {
    // The daemon may still be removing what it found: that goes by the same directory, and by files that
    // wait beside those of layers, after it.
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let mut waiting = names(node, "overlay/staging")?;
        let files = names(node, "overlay-layers")?;
        waiting.extend(files.into_iter().filter(|name| name.starts_with(".tmp-")));
        if waiting.is_empty() {
            break;
        }
        ensure!(Instant::now() < end, "{when}: there is {waiting:?}");
        std::thread::yield_now();
    }
    let files = names(node, "overlay-layers")?;
    let records = fs::read_to_string(node.storage().join("overlay-layers/layers.json"));
    let records = records.unwrap_or_default();
    for file in &files {
        let layer = file.strip_suffix(".tar-split.gz");
        ensure!(
            layer.is_none_or(|layer| records.contains(layer)),
            "{when}: {file} is nobody's"
        );
    }
    ensure!(!records.contains("incomplete"), "{when}: {records}");
    let options = storage::Options::new(node.storage(), Path::new(&node.run_dir).join("storage"));
    let store = Store::open_as_it_is(options)?;
    let damages = store.check(&CheckOptions {
        depth: Depth::Attributes,
        unreferenced: None,
    })?;
    ensure!(damages.is_empty(), "{when}: {damages:?}");
    Ok(())
}

/// The pull is repeated and the image removed: then no layer is left at all.
async fn retry_and_remove(f: Fixture, image: &str, when: &str) -> Result<()> {
    f.node.pull(image).await.context(when.to_owned())?;
    let spec = v1::ImageSpec {
        image: image.to_owned(),
        ..Default::default()
    };
    let request = v1::RemoveImageRequest { image: Some(spec) };
    f.node.client().images().remove_image(request).await?;
    let layers = names(&f.node, "overlay")?;
    let layers: Vec<_> = layers.iter().filter(|name| name.len() == 64).collect();
    ensure!(layers.is_empty(), "{when}: {layers:?}");
    nothing_is_left(&f.node, when)?;
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_killed_at_any_point_leaves_nothing() -> Result<()> {
    for point in POINTS {
        let (mut f, image) = before().await?;
        f.node.set_faults(&format!("{point}=kill"));
        f.node.restart().await?;
        ensure!(
            f.node.pull(&image).await.is_err(),
            "{point} was not reached"
        );
        f.node.daemon_died()?;
        f.node.set_faults("");
        f.node.start_daemon().await?;
        nothing_is_left(&f.node, point)?;
        retry_and_remove(f, &image, point).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_killed_at_any_time_leaves_nothing() -> Result<()> {
    for wait in [0, 10, 40, 120, 300] {
        let when = format!("{wait} ms after the first byte");
        let (mut f, image) = before().await?;
        let client = f.node.client();
        let spec = v1::ImageSpec {
            image: image.clone(),
            ..Default::default()
        };
        let request = v1::PullImageRequest {
            image: Some(spec),
            ..Default::default()
        };
        let pull = tokio::spawn(async move { client.images().pull_image(request).await });
        let staging = f.node.storage().join("overlay/staging");
        while fs::read_dir(&staging)?.next().is_none() && !pull.is_finished() {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(wait)).await;
        f.node.kill_daemon()?;
        let pulled = pull.await?;
        ensure!(wait > 0 || pulled.is_err(), "{when}: the pull was over");
        f.node.start_daemon().await?;
        nothing_is_left(&f.node, &when)?;
        retry_and_remove(f, &image, &when).await?;
    }
    Ok(())
}
