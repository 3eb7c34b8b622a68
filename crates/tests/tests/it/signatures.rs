//! Signed images, from the kubelet's side: what is refused and in which words.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use testkit::image_maker::ImageMaker;
use testkit::node::Options;
use testkit::requests::container;
use testkit::signer::Gpg;
use tonic::{Code, Status};

use crate::fixture::{self, Fixture};

const SIGNER: &str = "signer@x.io";

/// Replaces the node's policy by one that asks for this user's signature of everything.
fn ask_for(f: &Fixture, gpg: &Gpg, user: &str) -> Result<()> {
    let keys = f.node.dir.join(format!("{user}.gpg"));
    std::fs::write(&keys, gpg.export(user)?)?;
    let policy = format!(
        r#"{{"default": [{{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "{}"}}]}}"#,
        keys.display()
    );
    Ok(std::fs::write(f.node.dir.join("policy.json"), policy)?)
}

/// The status behind an error of a call.
fn refused<T: std::fmt::Debug>(call: Result<T>, words: &str) -> Result<()> {
    let error = call.err().context("the call is not refused")?;
    let status: &Status = error.downcast_ref().context("an error of gRPC")?;
    ensure!(status.code() == Code::FailedPrecondition, "{status:?}");
    ensure!(
        status.message().starts_with("SignatureValidationFailed: "),
        "{status:?}"
    );
    ensure!(status.message().contains(words), "{status:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_and_run_only_as_long_as_its_signature_is_asked_for() -> Result<()> {
    let f = fixture::without_image(Options::default()).await?;
    let gpg = Gpg::new()?;
    gpg.key(SIGNER, "ed25519", "never")?;
    gpg.key("other@x.io", "ed25519", "never")?;
    let lookaside: PathBuf = f.node.dir.join("lookaside");
    std::fs::create_dir_all(f.node.dir.join("registries.d"))?;
    let sources = format!(
        "default-docker:\n  lookaside: file://{}\n",
        lookaside.display()
    );
    std::fs::write(f.node.dir.join("registries.d/test.yaml"), sources)?;
    ask_for(&f, &gpg, SIGNER)?;
    refused(
        f.node.pull(&f.image).await,
        "a signature was required, but no signature exists",
    )?;

    let digest = ImageMaker::busybox().build().digest();
    let place = lookaside.join(format!("test/busybox@{}", digest.replace(':', "=")));
    std::fs::create_dir_all(&place)?;
    let by_other = gpg.sign_image("other@x.io", &f.image, &digest)?;
    std::fs::write(place.join("signature-1"), by_other)?;
    refused(
        f.node.pull(&f.image).await,
        "which the policy does not name",
    )?;
    std::fs::write(
        place.join("signature-2"),
        gpg.sign_image(SIGNER, &f.image, &digest)?,
    )?;
    let id = f.node.pull(&f.image).await?;

    let pod = f.node.run_pod("signed").await?;
    for (name, image) in [("by-name", &f.image), ("by-id", &id)] {
        let container = f.node.run(&pod, container(name, image, &["true"])).await?;
        ensure!(f.node.exited(&container).await?.exit_code == 0, "{name}");
    }
    // The policy changes while the image is there: nothing new is made of it.
    gpg.key("third@x.io", "ed25519", "never")?;
    ask_for(&f, &gpg, "third@x.io")?;
    for (name, image) in [("late-name", &f.image), ("late-id", &id)] {
        let made = f.node.create(&pod, container(name, image, &["true"])).await;
        refused(made, "which the policy does not name")?;
    }
    ask_for(&f, &gpg, "other@x.io")?;
    f.node
        .create(&pod, container("other", &f.image, &["true"]))
        .await?;
    f.node.remove_pod(&pod).await?;
    f.node.finish().await
}
