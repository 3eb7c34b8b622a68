//! Stores as `storage.conf` describes them: read-only ones beside the daemon's, a root of its own for
//! images, one without overlay.

use std::fs;

use anyhow::Result;
use cri::v1;
use testkit::image_maker::{Entry, ImageMaker};
use testkit::node::{Node, Options};
use testkit::requests::{self, container};

use crate::fixture;
use crate::peers::{peer, tree};

async fn images(node: &Node) -> Result<Vec<v1::Image>> {
    let request = v1::ListImagesRequest::default();
    let answer = node.client().images().list_images(request).await?;
    Ok(answer.into_inner().images)
}

fn mountpoint(usage: &[v1::FilesystemUsage]) -> &str {
    let id = usage[0].fs_id.as_ref().unwrap();
    &id.mountpoint
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_a_read_only_store_runs_and_can_t_be_removed() -> Result<()> {
    // The store of a node that has ended is what the other one has beside its own.
    let mut first = fixture::node().await?;
    first.node.stop_daemon()?;
    let root = first.node.storage();
    let before = fs::read(root.join("overlay-images/images.json"))?;
    let storage_conf = format!(
        "[storage.options]\nadditionalimagestores = [{:?}]\n[storage.options.overlay]\nmountopt = \"nodev\"\nnew = 1\n",
        root
    );
    let options = Options {
        storage_conf,
        insecure: vec![first.registry.addr().to_string()],
        ..Options::default()
    };
    let node = Node::start(options).await?;
    assert!(
        node.log_tail().contains("storage.options.overlay.new"),
        "an unknown key is told"
    );
    let listed = images(&node).await?;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].repo_tags, [first.image.clone()]);
    assert!(listed[0].pinned, "the kubelet is not to try to remove it");

    let pod = node.run_pod("beside").await?;
    let script = "echo here; echo x > /bin/new";
    let config = container("runs", &first.image, &["sh", "-c", script]);
    let runs = node.run(&pod, config).await?;
    assert_eq!(node.exited(&runs).await?.exit_code, 0);
    assert!(node.log("beside", "runs")?.contains("here"));

    let spec = v1::ImageSpec {
        image: first.image.clone(),
        ..Default::default()
    };
    let request = v1::RemoveImageRequest { image: Some(spec) };
    let refused = node
        .client()
        .images()
        .remove_image(request)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("read-only"), "{refused}");

    // An image on top of it: its layers are not fetched again, and ours can be removed.
    let mark = Entry::file("mark", 0o644, "mark\n");
    let image = ImageMaker::busybox().layer(&[mark]).build();
    first.registry.push("test/upper", "1", &image)?;
    let upper = first.registry.reference("test/upper", "1");
    node.pull(&upper).await?;
    let layers = fs::read_to_string(node.storage().join("overlay-layers/layers.json"))?;
    assert_eq!(
        layers.matches("diff-digest\":\"").count(),
        2,
        "one layer: {layers}"
    );
    let reads = node
        .run(&pod, container("reads", &upper, &["cat", "/mark"]))
        .await?;
    assert_eq!(node.exited(&reads).await?.exit_code, 0);
    assert!(node.log("beside", "reads")?.contains("mark"));
    node.remove_pod(&pod).await?;
    let spec = v1::ImageSpec {
        image: upper,
        ..Default::default()
    };
    let request = v1::RemoveImageRequest { image: Some(spec) };
    node.client().images().remove_image(request).await?;
    assert_eq!(images(&node).await?.len(), 1);
    node.finish().await?;
    assert_eq!(fs::read(root.join("overlay-images/images.json"))?, before);
    first.node.start_daemon().await?;
    first.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn images_have_a_root_of_their_own_and_both_file_systems_are_told() -> Result<()> {
    let dir = tempfile::Builder::new()
        .prefix("crixi-")
        .tempdir_in("/var/tmp")?;
    let root = dir.path().join("images");
    let options = Options {
        storage_conf: format!("[storage]\nimagestore = {root:?}\n"),
        ..Options::default()
    };
    let mut f = fixture::with(options).await?;
    assert!(root.join("overlay-images/images.json").is_file());
    let pod = f.node.run_pod("split").await?;
    let config = container("runs", &f.image, &["sh", "-c", "echo x > /new; sleep 1000"]);
    let runs = f.node.run(&pod, config).await?;
    let request = v1::ImageFsInfoRequest {};
    let info = f
        .node
        .client()
        .images()
        .image_fs_info(request)
        .await?
        .into_inner();
    assert_eq!(
        mountpoint(&info.image_filesystems),
        root.join("overlay-images").to_str().unwrap()
    );
    let containers = f.node.storage().join("overlay-containers");
    assert_eq!(
        mountpoint(&info.container_filesystems),
        containers.to_str().unwrap()
    );
    f.node.restart().await?;
    let status = f.node.status(&runs).await?;
    assert_eq!(status.state, v1::ContainerState::ContainerRunning as i32);
    f.node.remove_pod(&pod).await?;
    let spec = v1::ImageSpec {
        image: f.image.clone(),
        ..Default::default()
    };
    let request = v1::RemoveImageRequest { image: Some(spec) };
    f.node.client().images().remove_image(request).await?;
    let layers = fs::read_dir(root.join("overlay"))?;
    let layers = layers.filter(|entry| {
        entry
            .as_ref()
            .is_ok_and(|entry| entry.file_name().len() == 64)
    });
    assert_eq!(layers.count(), 0);
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_driver_vfs_containers_run_and_podman_has_the_same_store() -> Result<()> {
    let mut f = fixture::with(Options {
        storage_conf: "[storage]\ndriver = \"vfs\"\n".to_owned(),
        ..Options::default()
    })
    .await?;
    let info = f.node.client().inspect("/info").await?;
    assert!(info.contains(r#""storage_driver":"vfs""#), "{info}");
    let upper = ImageMaker::busybox()
        .layer(&[
            Entry::file("mark", 0o644, "mark\n"),
            Entry::directory("volume", 0o755),
        ])
        .build();
    f.registry.push("test/upper", "1", &upper)?;
    let reference = f.registry.reference("test/upper", "1");
    f.node.pull(&reference).await?;
    let layers = f.node.storage().join("vfs/dir");
    assert_eq!(fs::read_dir(&layers)?.count(), 2, "a layer of each");

    let pod = f.node.run_pod("whole").await?;
    let script = "cat /mark /image/mark; echo mine > /mark; sleep 1000";
    let mut config = container("runs", &reference, &["sh", "-c", script]);
    config
        .mounts
        .push(requests::image_mount("/image", &reference, ""));
    let runs = f.node.run(&pod, config).await?;
    let script = "until test \"$(cat /mark)\" = mine; do usleep 10000; done; cat /image/mark";
    let seen = f.node.exec(&runs, &["sh", "-c", script]).await?;
    assert_eq!(seen.stdout, b"mark\n", "the image is as it was");
    let other = container("other", &reference, &["cat", "/mark"]);
    let other = f.node.run(&pod, other).await?;
    assert_eq!(f.node.exited(&other).await?.exit_code, 0);
    assert!(f.node.log("whole", "other")?.contains("mark"));
    f.node.restart().await?;
    let status = f.node.status(&runs).await?;
    assert_eq!(status.state, v1::ContainerState::ContainerRunning as i32);
    let seen = f.node.exec(&runs, &["cat", "/mark"]).await?;
    assert_eq!(seen.stdout, b"mine\n");
    let mut calls = f.node.client().images();
    let usage = calls.image_fs_info(v1::ImageFsInfoRequest {}).await?;
    let usage = usage.into_inner();
    let images = f.node.storage().join("vfs-images");
    assert_eq!(
        mountpoint(&usage.image_filesystems),
        images.to_str().unwrap()
    );

    if tree().is_some() {
        let script = format!(
            "podman run --rm --network none --cgroups disabled --security-opt seccomp=unconfined \
               {reference} cat /mark
             podman system check
             command skopeo copy -q $(store {reference}) dir:/tmp/out
             command skopeo copy -q dir:/tmp/out $(store localhost/theirs:1)"
        );
        let said = peer(&f.node, &script).await?;
        assert!(said.contains("mark"), "{said}");
        let theirs = container("theirs", "localhost/theirs:1", &["cat", "/mark"]);
        let theirs = f.node.run(&pod, theirs).await?;
        assert_eq!(f.node.exited(&theirs).await?.exit_code, 0);
    }
    f.node.remove_pod(&pod).await?;
    for image in images_of(&f.node).await? {
        let image = Some(v1::ImageSpec {
            image,
            ..Default::default()
        });
        let request = v1::RemoveImageRequest { image };
        f.node.client().images().remove_image(request).await?;
    }
    assert_eq!(fs::read_dir(&layers)?.count(), 0);
    assert!(!f.node.storage().join("overlay").try_exists()?);
    f.node.finish().await
}

async fn images_of(node: &Node) -> Result<Vec<String>> {
    let listed = images(node).await?;
    Ok(listed.into_iter().map(|image| image.id).collect())
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stdout, reason = "a skipped test says why")]
async fn a_program_mounts_the_roots_of_containers() -> Result<()> {
    let program = "/usr/bin/fuse-overlayfs";
    if !fs::exists(program)? || !fs::exists("/dev/fuse")? {
        println!("skipped: no {program}, or no /dev/fuse");
        return Ok(());
    }
    let mut f = fixture::with(Options {
        storage_conf: format!("[storage.options.overlay]\nmount_program = {program:?}\n"),
        ..Options::default()
    })
    .await?;
    let pod = f.node.run_pod("program").await?;
    let config = container("runs", &f.image, &["sh", "-c", "echo x > /new; sleep 1000"]);
    let runs = f.node.run(&pod, config).await?;
    let root = f.said(&runs, "grep ' / / ' /proc/self/mountinfo").await?;
    assert!(root.contains("fuse.fuse-overlayfs"), "{root}");
    f.node.kill_daemon()?;
    f.node.start_daemon().await?;
    let script = "cat /new; rm /bin/vi; ls /bin/vi 2>&1 || echo gone";
    let said = f.said(&runs, script).await?;
    assert!(said.starts_with('x') && said.ends_with("gone"), "{said}");
    let config = container("second", &f.image, &["ls", "/bin/vi"]);
    let second = f.node.run(&pod, config).await?;
    assert_eq!(f.node.exited(&second).await?.exit_code, 0);
    f.node.remove_pod(&pod).await?;
    f.node.finish().await
}
