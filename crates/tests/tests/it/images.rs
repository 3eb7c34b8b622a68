//! Images: pulled, listed, removed.

use anyhow::Result;
use cri::v1;
use testkit::image_maker::{Format, ImageMaker};
use testkit::node::Options;
use testkit::requests::container;

use crate::fixture;

fn spec(image: &str) -> Option<v1::ImageSpec> {
    Some(v1::ImageSpec {
        image: image.to_owned(),
        ..Default::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_listed_and_removed() -> Result<()> {
    let f = fixture::without_image(Options::default()).await?;
    f.registry.push(
        "test/docker",
        "v2",
        &ImageMaker::busybox()
            .env("FORMAT", "docker")
            .format(Format::Docker)
            .build(),
    )?;
    let docker = f.image.replace("busybox:latest", "docker:v2");
    for image in [&f.image, &docker] {
        let id = f.node.pull(image).await?;
        assert_eq!(f.node.pull(image).await?, id, "a repeat gives the same");
        let found = f.node.image_status(image, true).await?;
        let image_found = found.image.unwrap();
        assert_eq!(
            (image_found.id.as_str(), &image_found.repo_tags[..]),
            (id.as_str(), std::slice::from_ref(image))
        );
        assert!(image_found.size > 100_000 && image_found.repo_digests[0].contains("@sha256:"));
        assert!(found.info["info"].contains("imageSpec"));
    }
    let list = f.node.images().await?;
    assert_eq!(list.len(), 2);
    let usage = f
        .node
        .client()
        .images()
        .image_fs_info(v1::ImageFsInfoRequest {})
        .await?
        .into_inner();
    assert!(usage.image_filesystems[0].used_bytes.unwrap().value > 100_000);
    for _ in 0..2 {
        for image in [&f.image, &docker] {
            f.node
                .client()
                .images()
                .remove_image(v1::RemoveImageRequest { image: spec(image) })
                .await?;
            let request = v1::ImageStatusRequest {
                image: spec(image),
                verbose: false,
            };
            assert!(
                f.node
                    .client()
                    .images()
                    .image_status(request)
                    .await?
                    .into_inner()
                    .image
                    .is_none()
            );
        }
    }
    assert_eq!(
        std::fs::read_dir(f.node.storage().join("overlay/l"))?.count(),
        0,
        "no layer is left"
    );
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_in_use_stays() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod("use").await?;
    let id = f
        .node
        .run(&pod, container("c", &f.image, &["sleep", "1000"]))
        .await?;
    let remove = v1::RemoveImageRequest {
        image: spec(&f.image),
    };
    let refused = f
        .node
        .client()
        .images()
        .remove_image(remove.clone())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
    assert_eq!(f.node.exec(&id, &["true"]).await?.exit_code, 0);
    f.node.remove_pod(&pod).await?;
    f.node.client().images().remove_image(remove).await?;
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_crioctl_loads_is_listed_and_runs() -> Result<()> {
    let f = fixture::without_image(Options::default()).await?;
    let image = ImageMaker::busybox().build();
    let files = f.node.dir.join("files");
    std::fs::create_dir(&files)?;
    std::fs::write(files.join("version"), "Directory Transport Version: 1.1\n")?;
    std::fs::write(files.join("manifest.json"), image.manifest())?;
    for part in image.layers().iter().chain([image.config()]) {
        let name = part.digest().trim_start_matches("sha256:");
        std::fs::write(files.join(name), part.bytes())?;
    }
    let load = |source: &str, name: &str| -> Result<sys::spawn::Output> {
        let crioctl = testkit::node::binary("crioctl")?;
        let program = sys::spawn::Program::new(crioctl, std::time::Duration::from_secs(60));
        let program = program
            .arg("--socket")
            .arg(f.node.socket())
            .args(["load", source, "--name", name]);
        Ok(sys::spawn::run(&sys::spawn::Program {
            env: std::env::vars_os().collect(),
            ..program
        })?)
    };
    let source = format!("dir:{}", files.display());
    let loaded = load(&source, "localhost/loaded:1")?;
    let said = String::from_utf8_lossy(&loaded.stdout).into_owned();
    assert_eq!(
        said,
        format!("{} localhost/loaded:1\n", image.id()),
        "{loaded:?}"
    );
    let pod = f.node.run_pod("loaded").await?;
    let config = container("main", "localhost/loaded:1", &["true"]);
    let id = f.node.run(&pod, config).await?;
    assert_eq!(f.node.exited(&id).await?.exit_code, 0);
    f.node.remove_pod(&pod).await?;
    let refused = load("dir:/nonexistent", "localhost/none:1")?;
    assert!(!refused.status.success());
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(words.contains("No such file"), "{words}");
    f.node.finish().await
}
