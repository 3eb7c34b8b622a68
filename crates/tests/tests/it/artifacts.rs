//! OCI artifacts: among the images, mounted in containers, and as seccomp profiles.

use anyhow::{Context as _, Result, ensure};
use cri::v1;
use testkit::image_maker::{ArtifactMaker, ImageMaker, MadeArtifact};
use testkit::node::Options;
use testkit::requests::container;
use tonic::Code;

use crate::fixture::{self, Fixture};
use crate::peers::{peer, tree};

fn files() -> MadeArtifact {
    ArtifactMaker::new()
        .file("model.bin", "weights")
        .file("conf/model.json", "{}")
        .file("run", "#!/bin/sh\necho ran\n")
        .build()
}

fn spec(image: &str) -> Option<v1::ImageSpec> {
    Some(v1::ImageSpec {
        image: image.to_owned(),
        user_specified_image: image.to_owned(),
        ..Default::default()
    })
}

fn with_artifact(f: &Fixture, name: &str, artifact: &str, sub_path: &str) -> v1::ContainerConfig {
    let mut config = container(name, &f.image, &["sleep", "1000"]);
    config.mounts.push(v1::Mount {
        container_path: "/models".into(),
        readonly: true,
        image: spec(artifact),
        image_sub_path: sub_path.into(),
        ..Default::default()
    });
    config
}

async fn refused(f: &Fixture, pod: &str, config: v1::ContainerConfig) -> tonic::Status {
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: pod.to_owned(),
        config: Some(config),
        sandbox_config: None,
    };
    let mut runtime = f.node.client().runtime();
    runtime.create_container(request).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_is_listed_mounted_and_removed_when_nobody_has_it() -> Result<()> {
    let mut f = fixture::node().await?;
    let made = files();
    f.registry.push_artifact("test/files", "v1", &made)?;
    let reference = f.registry.reference("test/files", "v1");
    let id = f.node.pull(&reference).await?;
    assert_eq!(id, made.id());
    let listed = f.node.images().await?;
    assert_eq!(listed.len(), 2);
    let mut images = f.node.client().images();
    for name in [reference.as_str(), id.as_str()] {
        let request = v1::ImageStatusRequest {
            image: spec(name),
            verbose: true,
        };
        let status = images.image_status(request).await?.into_inner();
        let image = status.image.unwrap();
        assert_eq!(
            (&image.id, &image.repo_tags),
            (&id, &vec![reference.clone()])
        );
        let filter = v1::ImageFilter { image: spec(name) };
        let request = v1::ListImagesRequest {
            filter: Some(filter),
        };
        let found = images.list_images(request).await?.into_inner().images;
        assert_eq!(found, [image]);
    }

    let pod = f.node.run_pod("artifacts").await?;
    let whole = f
        .node
        .run(&pod, with_artifact(&f, "whole", &id, ""))
        .await?;
    let seen = f
        .node
        .exec(
            &whole,
            &["cat", "/models/model.bin", "/models/conf/model.json"],
        )
        .await?;
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "weights{}");
    for script in [
        "echo x > /models/model.bin",
        "rm /models/model.bin",
        // Its files are no programs.
        "/models/run",
    ] {
        let tried = f.node.exec(&whole, &["sh", "-c", script]).await?;
        assert_ne!(tried.exit_code, 0, "{script}");
    }
    let part = with_artifact(&f, "part", &reference, "conf");
    let part = f.node.run(&pod, part).await?;
    let seen = f
        .node
        .exec(&part, &["sh", "-c", "cd /models && echo *"])
        .await?;
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "model.json\n");
    let status = f.node.status(&part).await?;
    assert_eq!(status.mounts[0].image.as_ref().unwrap().image_ref, id);

    let absent = refused(&f, &pod, with_artifact(&f, "absent", &id, "none")).await;
    assert!(
        absent.message().starts_with("ImageVolumeMountFailed"),
        "{absent}"
    );
    let run = refused(&f, &pod, container("run", &reference, &["sh"])).await;
    assert_eq!(run.code(), Code::NotFound, "{run}");

    // In use, also for a daemon that has just started.
    f.node.kill_daemon()?;
    f.node.start_daemon().await?;
    let mut images = f.node.client().images();
    let remove = v1::RemoveImageRequest {
        image: spec(&reference),
    };
    let used = images.remove_image(remove.clone()).await.unwrap_err();
    assert_eq!(used.code(), Code::FailedPrecondition, "{used}");
    f.node.remove_pod(&pod).await?;
    images.remove_image(remove.clone()).await?;
    images.remove_image(remove).await?;
    assert_eq!(f.node.images().await?.len(), 1);
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn artifact_mounts_can_be_switched_off() -> Result<()> {
    let f = fixture::with(Options {
        config: "[crio.image]\noci_artifact_mount_support = false\n".into(),
        ..Options::default()
    })
    .await?;
    f.registry.push_artifact("test/files", "v1", &files())?;
    let id = f
        .node
        .pull(&f.registry.reference("test/files", "v1"))
        .await?;
    let pod = f.node.run_pod("artifacts").await?;
    let error = refused(&f, &pod, with_artifact(&f, "off", &id, "")).await;
    assert!(
        error.message().starts_with("ImageVolumeMountFailed"),
        "{error}"
    );
    f.node.finish().await
}

const NAME: &str = "seccomp-profile.kubernetes.cri-o.io";

/// A profile under which no directory is made, or another call is not.
fn profile(calls: &[&str]) -> MadeArtifact {
    let text = serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": calls, "action": "SCMP_ACT_ERRNO"}]});
    ArtifactMaker::new()
        .config_type("application/vnd.cncf.seccomp-profile.config.v1+json")
        .file("profile.json", text.to_string())
        .build()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seccomp_profile_comes_as_an_artifact_where_the_handler_allows_it() -> Result<()> {
    let runtime = std::env::var("CRIOXIDE_TEST_RUNTIME").unwrap_or_else(|_| "runc".to_owned());
    let f = fixture::with(Options {
        config: format!(
            "[crio.runtime.runtimes.{runtime}]\nallowed_annotations = [\"{NAME}\"]\n\
             [crio.runtime.runtimes.strict]\nruntime_path = \"/usr/bin/{runtime}\"\n"
        ),
        ..Options::default()
    })
    .await?;
    let push = |tag: &str, made: MadeArtifact| -> Result<String> {
        f.registry.push_artifact("test/seccomp", tag, &made)?;
        Ok(f.registry.reference("test/seccomp", tag))
    };
    let no_mkdir = push("mkdir", profile(&["mkdir", "mkdirat"]))?;
    let no_link = push("link", profile(&["symlink", "symlinkat"]))?;
    let broken = push(
        "broken",
        ArtifactMaker::new().file("x", "no profile").build(),
    )?;
    let labelled = ImageMaker::busybox()
        .env("LABELLED", "1")
        .annotation(NAME, &no_link)
        .build();
    f.registry.push("test/labelled", "v1", &labelled)?;
    let labelled = f.registry.reference("test/labelled", "v1");
    f.node.pull(&labelled).await?;

    let mut config = testkit::requests::pod("seccomp", &f.node.logs());
    config
        .annotations
        .insert(format!("{NAME}/web"), no_mkdir.clone());
    config.annotations.insert(format!("{NAME}/bad"), broken);
    let pod = f.node.run_pod_config(config.clone()).await?;
    let denied = async |id: &str| -> Result<(bool, bool)> {
        let mkdir = f.node.exec(id, &["mkdir", "/made"]).await?;
        let link = f.node.exec(id, &["ln", "-s", "/made", "/linked"]).await?;
        Ok((mkdir.exit_code != 0, link.exit_code != 0))
    };
    let sleep = |name: &str, image: &str| container(name, image, &["sleep", "1000"]);
    let web = f.node.run(&pod, sleep("web", &labelled)).await?;
    assert_eq!(denied(&web).await?, (true, false), "the pod's own word");
    let other = f.node.run(&pod, sleep("other", &labelled)).await?;
    assert_eq!(denied(&other).await?, (false, true), "the image's word");
    let plain = f.node.run(&pod, sleep("plain", &f.image)).await?;
    assert_eq!(denied(&plain).await?, (false, false), "nobody's word");
    let mut own = sleep("web", &f.image);
    let metadata = own.metadata.as_mut().unwrap();
    metadata.attempt = 1;
    let linux = own.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().seccomp = Some(v1::SecurityProfile::default());
    let own = f.node.run(&pod, own).await?;
    assert_eq!(
        denied(&own).await?,
        (false, false),
        "the security context's word"
    );
    let error = refused(&f, &pod, sleep("bad", &f.image)).await;
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    f.node.remove_pod(&pod).await?;

    // A handler that does not allow it.
    config.metadata.as_mut().unwrap().attempt = 1;
    let request = v1::RunPodSandboxRequest {
        config: Some(f.node.placed(config)),
        runtime_handler: "strict".into(),
    };
    let mut runtime = f.node.client().runtime();
    let pod = runtime
        .run_pod_sandbox(request)
        .await?
        .into_inner()
        .pod_sandbox_id;
    let web = f.node.run(&pod, sleep("web", &labelled)).await?;
    assert_eq!(denied(&web).await?, (false, false));
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_and_we_share_artifacts() -> Result<()> {
    if tree().is_none() {
        eprintln!(
            "skipped: CRIOXIDE_DEBIAN13 names no Debian 13 tree (scripts/in-debian13 makes one)"
        );
        return Ok(());
    }
    let f = fixture::node().await?;
    f.registry.push_artifact("test/files", "v1", &files())?;
    let reference = f.registry.reference("test/files", "v1");
    let id = f.node.pull(&reference).await?;
    let script = format!(
        "podman artifact inspect {reference}
         echo ours > /tmp/note && podman artifact add localhost/test/note:1 /tmp/note
         podman artifact ls --format '{{{{.Repository}}}}'"
    );
    let said = peer(&f.node, &script).await?;
    ensure!(
        said.contains("model.bin") && said.contains("test/note"),
        "{said}"
    );
    let listed = f.node.images().await?;
    let theirs = listed
        .iter()
        .find(|image| image.repo_tags == ["localhost/test/note:1"]);
    let theirs = theirs
        .context("podman's artifact is not listed")?
        .id
        .clone();
    let pod = f.node.run_pod("artifacts").await?;
    let main = f
        .node
        .run(&pod, with_artifact(&f, "main", &theirs, ""))
        .await?;
    let seen = f.node.exec(&main, &["cat", "/models/note"]).await?;
    ensure!(seen.stdout == b"ours\n", "{seen:?}");
    f.node.remove_pod(&pod).await?;
    let remove = v1::RemoveImageRequest { image: spec(&id) };
    f.node.client().images().remove_image(remove).await?;
    peer(
        &f.node,
        "podman artifact rm localhost/test/note:1; test -z \"$(podman artifact ls -n -q)\"",
    )
    .await?;
    ensure!(f.node.images().await?.len() == 1);
    // What can't be read does not hide the images.
    std::fs::write(f.node.storage().join("artifacts/index.json"), "{")?;
    ensure!(f.node.images().await?.len() == 1);
    f.node.finish().await
}
