//! Containers with a terminal.

use anyhow::{Context as _, Result, ensure};
use cri::v1;
use serde_json::json;
use testkit::image_maker::ImageMaker;
use testkit::requests::container;
use testkit::streams::{Remote, Transport};
use tonic::Code;

use super::{archives, available, checkpoint, counted, refused_without_criu, restored};
use crate::fixture::{self, Fixture};
use crate::streaming::attach;

/// Counts in its memory, tells what it is typed, and its terminal's size.
const TALK: &str = "n=0; while true; do n=$((n+1)); echo count $n; \
    if read -t 1 line; then echo got $line, $(stty size); fi; done";

fn with_terminal(mut config: v1::ContainerConfig) -> v1::ContainerConfig {
    (config.tty, config.stdin) = (true, true);
    config
}

/// Sets the terminal's size and types a word, again and again, until the container's log has both: the
/// two take different ways.
async fn talk(f: &Fixture, pod: &str, id: &str, word: &str) -> Result<()> {
    let channels = [0, 1, 4];
    let url = attach(&f.node, id, &channels).await?;
    let mut remote = Remote::connect(&url, Transport::BEST[0], &channels).await?;
    let size = br#"{"Width":101,"Height":33}"#;
    remote.writer.send(4, size).await?;
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(200));
    for _ in 0..100 {
        tick.tick().await;
        let line = format!("{word}\r");
        remote.writer.send(0, line.as_bytes()).await?;
        let log = f.node.log(pod, "c").unwrap_or_default();
        if log.contains(&format!("got {word}, 33 101")) {
            return Ok(());
        }
    }
    anyhow::bail!("{word}: {}", f.node.log(pod, "c").unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_goes_on_in_another_pod() -> Result<()> {
    let mut f = fixture::node().await?;
    if !available(&f.node) {
        return refused_without_criu(f).await;
    }
    let archive = archives(&f.node)?.join("c.tar");
    // Neither image nor request names a command for what is restored.
    let image = ImageMaker::busybox().config("Cmd", json!([]));
    f.registry.push("test/plain", "1", &image.build())?;
    let image = f.registry.reference("test/plain", "1");
    f.node.pull(&image).await?;
    let pod = f.node.run_pod("old").await?;
    let config = with_terminal(container("c", &image, &["sh", "-c", TALK]));
    let id = f.node.run(&pod, config).await?;
    talk(&f, "old", &id, "before").await?;
    checkpoint(&f.node, &id, &archive, 0)
        .await
        .with_context(|| f.node.log_tail())?;
    talk(&f, "old", &id, "after").await.context("it runs on")?;
    let last = counted(&f.node, "old", 0).await?;
    f.node.remove_pod(&pod).await?;

    // Without a terminal it is refused, and nothing is left of it.
    let pod = f.node.run_pod("new").await?;
    let mut other = restored(&archive, &image);
    other.metadata.as_mut().unwrap().name = "without".to_owned();
    let refused = f.node.create(&pod, other).await.unwrap_err();
    let refused = refused.downcast::<tonic::Status>()?;
    ensure!(refused.code() == Code::InvalidArgument, "{refused}");
    ensure!(refused.message().contains("had a terminal"), "{refused}");

    let config = with_terminal(restored(&archive, &image));
    let id = f.node.create(&pod, config).await?;
    f.node
        .start_container(&id)
        .await
        .with_context(|| f.node.log_tail())?;
    let first = counted(&f.node, "new", 0).await?;
    ensure!(1 < first && first <= last + 20, "{last}, then {first}");
    talk(&f, "new", &id, "again").await?;
    // The terminal outlives the daemon.
    f.node.restart().await?;
    talk(&f, "new", &id, "still").await?;
    f.node.stop_pod(&pod).await?;
    f.node.finish().await
}
