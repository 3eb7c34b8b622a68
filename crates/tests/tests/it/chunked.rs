//! zstd:chunked images that skopeo of a Debian 13 tree made: of the second only what the first does
//! not have is fetched, and nobody can tell.

use anyhow::{Context as _, Result, ensure};
use cri::v1;
use testkit::image_maker::{Compression, Entry, ImageMaker};
use testkit::requests::container;

use crate::fixture;
use crate::peers::{peer, tree};

/// Bytes that no compression makes smaller.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

/// A layer of a hundred files, `changed` of which are other ones.
fn layer(changed: u64) -> Vec<Entry> {
    let mut entries = vec![Entry::directory("data", 0o755)];
    for number in 0..100 {
        let seed = if number < changed {
            number + 1000
        } else {
            number + 1
        };
        entries.push(Entry::file(
            &format!("data/{number}"),
            0o644,
            noise(seed, 50_000),
        ));
    }
    entries.push(Entry::file("data/empty", 0o600, ""));
    entries.push(Entry::symlink("data/link", "1"));
    entries
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_second_image_only_the_other_files_are_fetched() -> Result<()> {
    if tree().is_none() {
        eprintln!(
            "skipped: CRIOXIDE_DEBIAN13 names no Debian 13 tree (scripts/in-debian13 makes one)"
        );
        return Ok(());
    }
    let f = fixture::node().await?;
    let mut script = String::new();
    for (tag, changed) in [("one", 0), ("two", 5)] {
        let image = ImageMaker::new()
            .compression(Compression::None)
            .layer(&layer(changed))
            .build();
        f.registry.push("plain", tag, &image)?;
        script.push_str(&format!(
            "skopeo copy --src-tls-verify=false --dest-tls-verify=false \
             --dest-compress-format zstd:chunked docker://{} docker://{}\n",
            f.registry.reference("plain", tag),
            f.registry.reference("chunked", tag),
        ));
    }
    peer(&f.node, &script).await?;
    let (one, two) = (
        f.registry.reference("chunked", "one"),
        f.registry.reference("chunked", "two"),
    );
    f.node.pull(&one).await?;
    let id = f.node.pull(&two).await?;
    let log = std::fs::read_to_string(f.node.dir.join("crioxide.log"))?;
    let told = log
        .lines()
        .find(|line| line.contains("parts of the layer are there"));
    let bytes = told.and_then(|line| {
        line.split("bytes=")
            .nth(1)?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    });
    let bytes: u64 = bytes.with_context(|| format!("{told:?}"))?;
    ensure!(
        (250_000..400_000).contains(&bytes),
        "{bytes} of 5 MB were fetched"
    );
    ensure!(
        !log.contains("the layer is fetched whole"),
        "a layer was not suitable"
    );

    let pod = f.node.run_pod("chunked").await?;
    let script =
        "cd /volume/data && sha256sum 0 4 5 99 | cut -c1-64; ls -l empty link | cut -c1-10";
    let mut main = container("main", &f.image, &["sh", "-c", script]);
    main.mounts.push(v1::Mount {
        container_path: "/volume".into(),
        readonly: true,
        image: Some(v1::ImageSpec {
            image: id,
            ..Default::default()
        }),
        ..Default::default()
    });
    let main = f.node.run(&pod, main).await?;
    f.node.exited(&main).await?;
    let log = f.node.log("chunked", "main")?;
    for seed in [1000, 1004, 6, 100] {
        let digest = testkit::image_maker::digest(&noise(seed, 50_000));
        let digest = digest.trim_start_matches("sha256:");
        ensure!(log.contains(digest), "{seed}: {log}");
    }
    f.node.remove_pod(&pod).await?;
    peer(
        &f.node,
        &format!(
            "podman system check
             skopeo copy $(store {two}) dir:/tmp/out && rm -r /tmp/out
             podman rmi {one} {two}
             podman system check"
        ),
    )
    .await?;
    // What we kept beside the layers went with them.
    for entry in std::fs::read_dir(f.node.storage().join("overlay-layers"))? {
        let entry = entry?;
        let is_left = entry.file_type()?.is_dir();
        ensure!(!is_left, "{} is left", entry.path().display());
    }
    f.node.finish().await
}
