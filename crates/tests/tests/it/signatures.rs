//! Signed images, from the kubelet's side: what is refused and in which words.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use cri::v1;
use testkit::image_maker::{ArtifactMaker, ImageMaker};
use testkit::node::Options;
use testkit::requests::container;
use testkit::signer::Gpg;
use tonic::{Code, Status};

use crate::fixture::{self, Fixture};

pub(crate) const SIGNER: &str = "signer@x.io";

/// Replaces the node's policy by one that asks for this user's signature of everything.
pub(crate) fn ask_for(f: &Fixture, gpg: &Gpg, user: &str) -> Result<()> {
    let keys = f.node.dir.join(format!("{user}.gpg"));
    std::fs::write(&keys, gpg.export(user)?)?;
    let policy = format!(
        r#"{{"default": [{{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "{}"}}]}}"#,
        keys.display()
    );
    Ok(std::fs::write(f.node.dir.join("policy.json"), policy)?)
}

/// The status behind an error of a call.
pub(crate) fn refused<T: std::fmt::Debug>(call: Result<T>, words: &str) -> Result<()> {
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

const PROFILE: &str = "seccomp-profile.kubernetes.cri-o.io";

/// Has the node look for signatures in a directory of its own, which is given.
pub(crate) fn look_aside(f: &Fixture) -> Result<PathBuf> {
    let lookaside = f.node.dir.join("lookaside");
    std::fs::create_dir_all(f.node.dir.join("registries.d"))?;
    let sources = format!(
        "default-docker:\n  lookaside: file://{}\n",
        lookaside.display()
    );
    std::fs::write(f.node.dir.join("registries.d/test.yaml"), sources)?;
    Ok(lookaside)
}

/// Where the lookaside of a node has the first signature of a manifest.
pub(crate) fn place(f: &Fixture, name: &str, digest: &str) -> Result<PathBuf> {
    let digest = digest.replace(':', "=");
    let dir = f.node.dir.join(format!("lookaside/{name}@{digest}"));
    std::fs::create_dir_all(&dir)?;
    Ok(dir.join("signature-1"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_is_mounted_and_a_profile_obeyed_only_with_a_signature() -> Result<()> {
    let runtime = std::env::var("CRIOXIDE_TEST_RUNTIME").unwrap_or_else(|_| "runc".to_owned());
    let f = fixture::without_image(Options {
        config: format!(
            "[crio.runtime.runtimes.{runtime}]\nallowed_annotations = [\"{PROFILE}\"]\n"
        ),
        ..Options::default()
    })
    .await?;
    let gpg = Gpg::new()?;
    gpg.key(SIGNER, "ed25519", "never")?;
    let lookaside = look_aside(&f)?;
    let image = ImageMaker::busybox().build().digest();
    std::fs::write(
        place(&f, "test/busybox", &image)?,
        gpg.sign_image(SIGNER, &f.image, &image)?,
    )?;
    let files = ArtifactMaker::new().file("note", "signed").build();
    let no_mkdir = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]});
    let profile = ArtifactMaker::new()
        .config_type("application/vnd.cncf.seccomp-profile.config.v1+json")
        .file("profile.json", no_mkdir.to_string())
        .build();
    let mut named = Vec::new();
    for (name, made) in [("test/files", &files), ("test/profile", &profile)] {
        f.registry.push_artifact(name, "v1", made)?;
        let reference = f.registry.reference(name, "v1");
        // For another's sake: nobody asks for a signature yet.
        f.node.pull(&reference).await?;
        named.push((name, reference, made.digest().to_owned()));
    }
    f.node.pull(&f.image).await?;
    ask_for(&f, &gpg, SIGNER)?;

    let mut config = testkit::requests::pod("signed", &f.node.logs());
    let by_digest = format!("{}/test/profile@{}", f.registry.addr(), profile.digest());
    config
        .annotations
        .insert(format!("{PROFILE}/obeys"), by_digest);
    let pod = f.node.run_pod_config(config).await?;
    let sleep = |name: &str| container(name, &f.image, &["sleep", "1000"]);
    let mounting = |name: &str| {
        let mut config = sleep(name);
        config.mounts.push(v1::Mount {
            container_path: "/files".into(),
            readonly: true,
            image: Some(v1::ImageSpec {
                image: named[0].1.clone(),
                user_specified_image: named[0].1.clone(),
                ..Default::default()
            }),
            ..Default::default()
        });
        config
    };
    for config in [mounting("mounts"), sleep("obeys")] {
        let error = f
            .node
            .create(&pod, config)
            .await
            .err()
            .context("it is unsigned")?;
        let text = format!("{error:#}");
        ensure!(text.contains("SignatureValidationFailed: "), "{text}");
        ensure!(text.contains("no signature exists"), "{text}");
    }
    for (name, reference, digest) in &named {
        std::fs::write(
            place(&f, name, digest)?,
            gpg.sign_image(SIGNER, reference, digest)?,
        )?;
        f.node.pull(reference).await?;
    }
    std::fs::remove_dir_all(lookaside)?;
    let mounts = f.node.run(&pod, mounting("mounts")).await?;
    let seen = f.node.exec(&mounts, &["cat", "/files/note"]).await?;
    ensure!(seen.stdout == b"signed", "{seen:?}");
    let obeys = f.node.run(&pod, sleep("obeys")).await?;
    let denied = f.node.exec(&obeys, &["mkdir", "/made"]).await?;
    ensure!(denied.exit_code != 0, "{denied:?}");
    f.node.remove_pod(&pod).await?;
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_and_run_only_as_long_as_its_signature_is_asked_for() -> Result<()> {
    let f = fixture::without_image(Options::default()).await?;
    let gpg = Gpg::new()?;
    gpg.key(SIGNER, "ed25519", "never")?;
    gpg.key("other@x.io", "ed25519", "never")?;
    look_aside(&f)?;
    ask_for(&f, &gpg, SIGNER)?;
    refused(
        f.node.pull(&f.image).await,
        "a signature was required, but no signature exists",
    )?;

    let digest = ImageMaker::busybox().build().digest();
    let first = place(&f, "test/busybox", &digest)?;
    let by_other = gpg.sign_image("other@x.io", &f.image, &digest)?;
    std::fs::write(&first, by_other)?;
    refused(
        f.node.pull(&f.image).await,
        "which the policy does not name",
    )?;
    std::fs::write(
        first.with_file_name("signature-2"),
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
