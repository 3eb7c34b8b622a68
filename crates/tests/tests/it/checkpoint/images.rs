//! Images that are checkpoints: an archive's members as a layer.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use cri::v1;
use testkit::image_maker::{Entry, ImageMaker, archive};
use testkit::requests::container;
use testkit::signer::Gpg;
use tonic::{Code, Status};

use super::{COUNT, archives, available, checkpoint, counted, refused_without_criu, told};
use crate::fixture::{self, Fixture};
use crate::signatures::{SIGNER, ask_for, look_aside, place, refused};

const CHECKPOINT: &str = "io.kubernetes.cri-o.annotations.checkpoint.name";
const NAME: &str = "test/checkpoint";

/// Pushes an image that says it is a checkpoint; its reference and digest.
fn push(f: &Fixture, tag: &str, layer: Vec<u8>) -> Result<(String, String)> {
    let image = ImageMaker::new()
        .archive(layer)
        .annotation(CHECKPOINT, "c")
        .build();
    f.registry.push(NAME, tag, &image)?;
    Ok((f.registry.reference(NAME, tag), image.digest()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_goes_on_from_an_image_whose_signature_is_asked_for() -> Result<()> {
    let mut f = fixture::node().await?;
    if !available(&f.node) {
        return refused_without_criu(f).await;
    }
    let tar = archives(&f.node)?.join("c.tar");
    let pod = f.node.run_pod("old").await?;
    let config = container("c", &f.image, &["sh", "-c", COUNT]);
    let id = f.node.run(&pod, config).await?;
    counted(&f.node, "old", 3).await?;
    checkpoint(&f.node, &id, &tar, 0)
        .await
        .with_context(|| f.node.log_tail())?;
    let before = counted(&f.node, "old", 0).await?;
    f.node.remove_pod(&pod).await?;

    let (reference, digest) = push(&f, "v1", fs::read(&tar)?)?;
    let id = f.node.pull(&reference).await?;
    let pod = f.node.run_pod("new").await?;
    // As the kubelet asks: by ID, and beside it what the pod's author wrote.
    let mut config = container("c", &id, &[]);
    let meant = config.image.as_mut().context("an image")?;
    meant.user_specified_image.clone_from(&reference);
    let unsigned = f.node.create(&pod, config.clone()).await.unwrap_err();
    let status: &Status = unsigned.downcast_ref().context("an error of gRPC")?;
    ensure!(status.code() == Code::FailedPrecondition, "{status:?}");
    ensure!(status.message().contains("is a checkpoint"), "{status:?}");

    let gpg = Gpg::new()?;
    gpg.key(SIGNER, "ed25519", "never")?;
    look_aside(&f)?;
    ask_for(&f, &gpg, SIGNER)?;
    let nothing = "no signature exists";
    refused(f.node.create(&pod, config.clone()).await, nothing)?;
    fs::write(
        place(&f, NAME, &digest)?,
        gpg.sign_image(SIGNER, &reference, &digest)?,
    )?;
    f.node.pull(&reference).await?;
    // So is the image that it was made on.
    refused(f.node.create(&pod, config.clone()).await, nothing)?;
    let base = ImageMaker::busybox().build().digest();
    fs::write(
        place(&f, "test/busybox", &base)?,
        gpg.sign_image(SIGNER, &f.image, &base)?,
    )?;
    let base = f.node.pull(&f.image).await?;

    let made = f
        .node
        .create(&pod, config.clone())
        .await
        .with_context(|| f.node.log_tail())?;
    ensure!(
        f.node.create(&pod, config).await? == made,
        "a repeat finds it"
    );
    ensure!(told(&f.node, &made).await?.1, "it is restored");
    let status = f.node.status(&made).await?;
    ensure!(status.image_id == base, "{status:?}");
    // Nothing of the checkpoint is needed any more.
    let request = v1::RemoveImageRequest {
        image: Some(v1::ImageSpec {
            image: reference,
            ..Default::default()
        }),
    };
    f.node.client().images().remove_image(request).await?;
    f.node.restart().await?;
    f.node
        .start_container(&made)
        .await
        .with_context(|| f.node.log_tail())?;
    let first = counted(&f.node, "new", 0).await?;
    counted(&f.node, "new", first + 3).await?;
    let log = f.node.log("new", "c")?;
    ensure!(!log.contains(" count 1\n"), "it began again: {log}");
    ensure!(first <= before + 40, "{before}, then {first}");
    f.node.remove_pod(&pod).await?;
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_no_whole_checkpoint_is_refused_and_leaves_nothing() -> Result<()> {
    let f = fixture::node().await?;
    if !available(&f.node) {
        return refused_without_criu(f).await;
    }
    let gpg = Gpg::new()?;
    gpg.key(SIGNER, "ed25519", "never")?;
    look_aside(&f)?;
    let pod = f.node.run_pod("p").await?;
    let image = f.node.pull(&f.image).await?;
    let config = |of: &str| serde_json::json!({"id": "c", "rootfsImageRef": of}).to_string();
    let dump = |text: String| Entry::file("config.dump", 0o600, text);
    let cases = [
        // An image like any other, which has no command.
        ("nothing", vec![Entry::file("file", 0o600, "x")], "command"),
        (
            "nameless",
            vec![dump(config(""))],
            "names no image that it was made on",
        ),
        ("dangling", vec![dump(config(&"0".repeat(64)))], "not"),
        (
            "link",
            vec![Entry::symlink("config.dump", "/etc/passwd")],
            "command",
        ),
        (
            "linked-images",
            vec![dump(config(&image)), Entry::symlink("checkpoint", "/etc")],
            "is no directory",
        ),
        (
            "empty",
            vec![dump(config(&image)), Entry::directory("checkpoint", 0o700)],
            "holds no checkpoint",
        ),
    ];
    let sign = |name: &str, reference: &str, digest: &str| -> Result<()> {
        let signature = gpg.sign_image(SIGNER, reference, digest)?;
        Ok(fs::write(place(&f, name, digest)?, signature)?)
    };
    ask_for(&f, &gpg, SIGNER)?;
    let base = ImageMaker::busybox().build().digest();
    sign("test/busybox", &f.image, &base)?;
    f.node.pull(&f.image).await?;
    for (tag, entries, words) in cases {
        let (reference, digest) = push(&f, tag, archive(&entries))?;
        sign(NAME, &reference, &digest)?;
        f.node.pull(&reference).await?;
        let made = f.node.create(&pod, container(tag, &reference, &[])).await;
        let error = made.err().context(tag)?;
        let text = format!("{error:#}");
        ensure!(text.contains(words), "{tag}: {text}");
    }
    f.node.remove_pod(&pod).await?;
    f.node.finish().await
}
