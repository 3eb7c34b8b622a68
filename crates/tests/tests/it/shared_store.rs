//! The store of a running daemon, used by podman and skopeo of a Debian 13 tree at the same time.
//! For as long as `CRIOXIDE_SHARED_SECONDS` says (fifteen if it doesn't) all three pull, run and
//! remove; afterwards podman's own check must find nothing.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testkit::image_maker::{Entry, ImageMaker};
use testkit::requests::container;

use crate::fixture::{self, Fixture};
use crate::peers::{peer, tree};

/// Pulls, runs and removes until the time is up; how often.
async fn ours(f: &Fixture, until: Instant) -> Result<u32> {
    let mut rounds = 0;
    while Instant::now() < until {
        let image = f.registry.reference("test/ours", &(rounds % 3).to_string());
        f.node.pull(&image).await?;
        let name = format!("ours-{rounds}");
        let pod = f.node.run_pod(&name).await?;
        let main = f
            .node
            .run(&pod, container("main", &image, &["cat", "/mark"]))
            .await?;
        ensure!(f.node.exited(&main).await?.exit_code == 0, "{name}");
        ensure!(f.node.log(&name, "main")?.contains("mark"), "{name}");
        f.node.remove_pod(&pod).await?;
        let spec = cri::v1::ImageSpec {
            image,
            ..Default::default()
        };
        let request = cri::v1::RemoveImageRequest { image: Some(spec) };
        f.node.client().images().remove_image(request).await?;
        rounds += 1;
    }
    Ok(rounds)
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_skopeo_and_we_write_at_once() -> Result<()> {
    let Some(_tree) = tree() else {
        return Ok(());
    };
    let seconds = std::env::var("CRIOXIDE_SHARED_SECONDS").ok();
    let seconds = seconds.and_then(|text| text.parse().ok()).unwrap_or(15);
    let f = fixture::node().await?;
    // All share the base layer; each has one of its own.
    for name in ["ours", "podman", "skopeo"] {
        for tag in 0..3 {
            let mark = Entry::file("mark", 0o644, format!("mark of {name} {tag}\n"));
            let image = ImageMaker::busybox().layer(&[mark]).build();
            f.registry
                .push(&format!("test/{name}"), &tag.to_string(), &image)?;
        }
    }
    let addr = f.registry.addr();
    let podman = format!(
        r#"end=$(( $(date +%s) + {seconds} )); n=0
while [ $(date +%s) -lt $end ]; do
    image={addr}/test/podman:$((n % 3))
    podman pull -q --tls-verify=false $image >/dev/null
    podman run --rm --network none --cgroups disabled --security-opt seccomp=unconfined $image cat /mark
    podman images -q >/dev/null
    podman rmi -f $image >/dev/null
    n=$((n + 1))
done; echo "rounds=$n""#
    );
    let skopeo = format!(
        r#"end=$(( $(date +%s) + {seconds} )); n=0
while [ $(date +%s) -lt $end ]; do
    skopeo copy -q --src-tls-verify=false docker://{addr}/test/skopeo:$((n % 3)) $(store localhost/skopeo:$n)
    [ $n -lt 2 ] || skopeo delete $(store localhost/skopeo:$((n - 2)))
    n=$((n + 1))
done; echo "rounds=$n""#
    );
    let until = Instant::now() + Duration::from_secs(seconds);
    let (ours, podman, skopeo) = tokio::join!(
        ours(&f, until),
        peer(&f.node, &podman),
        peer(&f.node, &skopeo),
    );
    let (ours, podman, skopeo) = (ours?, podman?, skopeo?);
    let last = |text: &str| text.lines().last().unwrap_or_default().to_owned();
    eprintln!(
        "ours {ours}, podman {}, skopeo {}",
        last(&podman),
        last(&skopeo)
    );
    ensure!(ours > 0);
    let check = peer(
        &f.node,
        "podman system check 2>&1; podman images -q | wc -l",
    )
    .await?;
    ensure!(
        !check.contains("error") && !check.contains("damage"),
        "{check}"
    );
    // What skopeo left, we list.
    let mut images = f.node.client().images();
    let listed = images
        .list_images(cri::v1::ListImagesRequest::default())
        .await?
        .into_inner()
        .images;
    let by_skopeo = |image: &cri::v1::Image| {
        image
            .repo_tags
            .iter()
            .any(|tag| tag.starts_with("localhost/skopeo"))
    };
    ensure!(listed.iter().any(by_skopeo), "{listed:?}");
    f.node.finish().await
}
