//! Images mounted in a container beside its own.

use anyhow::Result;
use cri::v1;
use testkit::image_maker::{Entry, ImageMaker};
use testkit::requests::{self, container};
use tonic::Code;

use crate::fixture::{self, Fixture};

/// A node with a second image that holds data, a link in it that climbs, and a program.
async fn fixture() -> Result<(Fixture, String)> {
    let f = fixture::node().await?;
    let image = ImageMaker::busybox().layer(&[
        Entry::directory("data", 0o755),
        Entry::file("data/file", 0o644, "from the image"),
        Entry::symlink("climbs", "../../../../etc"),
        Entry::symlink("inside", "/data"),
    ]);
    f.registry.push("test/data", "latest", &image.build())?;
    let data = f.registry.reference("test/data", "latest");
    f.node.pull(&data).await?;
    Ok((f, data))
}

fn with_volume(f: &Fixture, name: &str, data: &str, sub_path: &str) -> v1::ContainerConfig {
    let mut config = container(name, &f.image, &["sleep", "1000"]);
    config
        .mounts
        .push(requests::image_mount("/volume", data, sub_path));
    config
}

async fn exec(f: &Fixture, id: &str, script: &str) -> Result<v1::ExecSyncResponse> {
    let request = v1::ExecSyncRequest {
        container_id: id.into(),
        cmd: ["sh", "-c", script].map(String::from).to_vec(),
        timeout: 20,
    };
    Ok(f.node
        .client()
        .runtime()
        .exec_sync(request)
        .await?
        .into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_mounted_whole_or_in_part_and_stays_until_it_is_free() -> Result<()> {
    let (f, data) = fixture().await?;
    let pod = f.node.run_pod("volumes").await?;
    let whole = f
        .node
        .run(&pod, with_volume(&f, "whole", &data, ""))
        .await?;
    let seen = exec(&f, &whole, "cat /volume/data/file && /volume/bin/true").await?;
    assert_eq!((seen.exit_code, &*seen.stdout), (0, &b"from the image"[..]));
    let written = exec(&f, &whole, "touch /volume/x").await?;
    assert_ne!(written.exit_code, 0);
    for (name, sub_path) in [("part", "data"), ("link", "inside")] {
        let part = f
            .node
            .run(&pod, with_volume(&f, name, &data, sub_path))
            .await?;
        let seen = exec(&f, &part, "cat /volume/file").await?;
        assert_eq!(seen.stdout, b"from the image", "{sub_path}");
    }
    // A link that climbs stays in the image: its own /etc, not the node's.
    let link = f
        .node
        .run(&pod, with_volume(&f, "climbs", &data, "climbs"))
        .await?;
    let seen = exec(&f, &link, "cat /volume/passwd").await?;
    assert!(String::from_utf8_lossy(&seen.stdout).contains("user:x:1000"));

    let mut images = f.node.client().images();
    let spec = v1::ImageSpec {
        image: data.clone(),
        ..Default::default()
    };
    let id = images
        .image_status(v1::ImageStatusRequest {
            image: Some(spec.clone()),
            verbose: false,
        })
        .await?
        .into_inner()
        .image
        .unwrap()
        .id;
    let request = v1::ContainerStatusRequest {
        container_id: whole.clone(),
        verbose: false,
    };
    let mut runtime = f.node.client().runtime();
    let status = runtime.container_status(request).await?.into_inner();
    let mount = &status.status.unwrap().mounts[0];
    assert_eq!(mount.image.as_ref().unwrap().image_ref, id);

    let remove = v1::RemoveImageRequest { image: Some(spec) };
    let refused = images.remove_image(remove.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    f.node.remove_pod(&pod).await?;
    images.remove_image(remove).await?;
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_may_mount_one_image_at_once_and_none_takes_it_from_the_others() -> Result<()> {
    let (f, data) = fixture().await?;
    let pod = f.node.run_pod("volumes").await?;
    let names: Vec<_> = (0..6).map(|number| format!("c{number}")).collect();
    let mut created = tokio::task::JoinSet::new();
    for name in names {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod.clone(),
            config: Some(with_volume(&f, &name, &data, "data")),
            sandbox_config: None,
        };
        let mut runtime = f.node.client().runtime();
        created.spawn(async move { runtime.create_container(request).await });
    }
    let mut ids = Vec::new();
    while let Some(created) = created.join_next().await {
        ids.push(created??.into_inner().container_id);
    }
    for id in &ids {
        f.node.start_container(id).await?;
    }
    while let Some(id) = ids.pop() {
        assert_eq!(f.said(&id, "cat /volume/file").await?, "from the image");
        let request = v1::RemoveContainerRequest { container_id: id };
        f.node.client().runtime().remove_container(request).await?;
    }
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cant_be_mounted_is_told_in_the_kubelets_words() -> Result<()> {
    let (f, data) = fixture().await?;
    let pod = f.node.run_pod("volumes").await?;
    let create = |config: v1::ContainerConfig| {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod.clone(),
            config: Some(config),
            sandbox_config: None,
        };
        let mut runtime = f.node.client().runtime();
        async move { runtime.create_container(request).await.unwrap_err() }
    };
    let absent = create(with_volume(&f, "absent", "localhost/none:1", "")).await;
    assert!(
        absent.message().starts_with("ImageVolumeMountFailed"),
        "{absent}"
    );
    let sub_path = create(with_volume(&f, "sub-path", &data, "none")).await;
    assert!(
        sub_path.message().starts_with("ImageVolumeMountFailed"),
        "{sub_path}"
    );
    let mut writable = with_volume(&f, "writable", &data, "");
    writable.mounts[0].readonly = false;
    assert_eq!(create(writable).await.code(), Code::InvalidArgument);
    f.node.finish().await
}
