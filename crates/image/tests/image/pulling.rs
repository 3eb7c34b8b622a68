//! From Debian's registry into a store.

use crioxide_image::{Error, User};
use serde_json::json;
use std::os::unix::fs::MetadataExt as _;

use crate::image_maker::{Compression, Entry, Format, ImageMaker, Index, go_architecture};
use crate::registry::Registry;
use crate::support::Node;

fn maker() -> ImageMaker {
    ImageMaker::new()
        .layer(&[
            Entry::directory("etc", 0o755),
            Entry::file("etc/one", 0o644, "one"),
        ])
        .layer(&[Entry::file("etc/two", 0o600, vec![b'2'; 300_000]).owner(5, 6)])
        .layer(&[
            Entry::whiteout("etc/one"),
            Entry::symlink("link", "etc/two"),
        ])
        .cmd(&["sh"])
        .env("A", "b")
        .user("1000:1000")
}

#[tokio::test]
async fn images_of_all_formats_and_compressions_are_pulled_and_listed() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path()).unwrap();
    for format in [Format::Oci, Format::Docker] {
        for compression in [
            Compression::None,
            Compression::Gzip,
            Compression::Zstd,
            Compression::Bzip2,
            Compression::Xz,
        ] {
            let node = Node::new(&registry.registries_conf());
            let image = maker()
                .format(format)
                .compression(compression)
                .annotation("k", "v")
                .build();
            registry.push("team/app", "v1", &image).unwrap();
            let reference = registry.reference("team/app", "v1");
            let id = node.pull(&reference).await.unwrap();
            assert_eq!(id.as_str(), image.id());

            let listed = node.images.list().await.unwrap();
            let [found] = &listed[..] else {
                panic!("{listed:?}")
            };
            assert_eq!(found.id, id);
            assert_eq!(found.repo_tags, [reference]);
            let by_digest = format!("{}/team/app@{}", registry.addr(), image.digest());
            assert_eq!(found.repo_digests, [by_digest]);
            assert_eq!(found.user, User::Uid(1000));
            assert_eq!(found.annotations.get("k").map(String::as_str), Some("v"));
            assert_eq!(
                (&found.config.cmd, &found.config.env),
                (&vec!["sh".into()], &vec!["A=b".into()])
            );
            assert!(found.size > 300_000, "{}", found.size);
            assert!(!found.pinned);
            assert_eq!(node.leftovers(), Vec::<std::path::PathBuf>::new());
        }
    }
}

#[tokio::test]
async fn a_second_pull_fetches_only_what_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path()).unwrap();
    let node = Node::new(&registry.registries_conf());
    let old = maker().build();
    registry.push("app", "old", &old).unwrap();
    let id = node.pull(&registry.reference("app", "old")).await.unwrap();
    for layer in old.layers() {
        std::fs::remove_file(registry.blob_file(layer.digest())).unwrap();
    }
    assert_eq!(
        node.pull(&registry.reference("app", "old")).await.unwrap(),
        id
    );
    let new = maker().layer(&[Entry::file("new", 0o644, "new")]).build();
    registry.push("other", "new", &new).unwrap();
    for layer in old.layers() {
        std::fs::remove_file(registry.blob_file(layer.digest())).ok();
    }
    node.pull(&registry.reference("other", "new"))
        .await
        .unwrap();
    assert_eq!(node.images.list().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_moved_tag_leaves_the_old_image_its_digest() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path()).unwrap();
    let node = Node::new(&registry.registries_conf());
    let reference = registry.reference("app", "latest");
    let (old, new) = (maker().build(), maker().env("C", "d").build());
    registry.push("app", "latest", &old).unwrap();
    node.pull(&reference).await.unwrap();
    registry.push("app", "latest", &new).unwrap();
    node.pull(&reference).await.unwrap();
    let found = node.images.find(&reference).await.unwrap().unwrap();
    assert_eq!(found.id.as_str(), new.id());
    let dangling = node.images.find(old.id()).await.unwrap().unwrap();
    assert!(dangling.repo_tags.is_empty());
    assert_eq!(
        dangling.repo_digests,
        [format!("{}/app@{}", registry.addr(), old.digest())]
    );
}

#[tokio::test]
async fn images_are_pulled_by_digest_and_found_by_every_name() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path()).unwrap();
    let conf = format!(
        "unqualified-search-registries = [\"{}\"]\n{}",
        registry.addr(),
        registry.registries_conf()
    );
    let node = Node::new(&conf);
    let image = maker().build();
    registry.push("app", "latest", &image).unwrap();
    let (host, digest) = (registry.addr(), image.digest());
    for reference in [
        format!("{host}/app@{digest}"),
        format!("{host}/app:whatever@{digest}"),
        "app".to_owned(),
        format!("app@{digest}"),
    ] {
        let id = node.pull(&reference).await.unwrap();
        assert_eq!(id.as_str(), image.id(), "{reference}");
    }
    for (name, known) in [
        (image.id(), true),
        (&image.id()[..12], true),
        (&image.id()[..3], true),
        (&image.id()[..2], false),
        (&format!("sha256:{}", image.id()), true),
        (&format!("{host}/app"), true),
        (&format!("{host}/app:latest"), true),
        (&format!("{host}/app@{digest}"), true),
        ("app", true),
        ("app:latest", true),
        ("app:v2", false),
        (&format!("{host}/other"), false),
        (&format!("{host}/other@{digest}"), false),
        (&"0".repeat(64), false),
    ] {
        let found = node.images.find(name).await.unwrap();
        assert_eq!(found.is_some(), known, "{name}");
    }
    assert!(matches!(
        node.images.find("/../x").await,
        Err(Error::BadReference { .. })
    ));
}

#[tokio::test]
async fn an_index_gives_the_nodes_image_and_both_digests() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path()).unwrap();
    for format in [Format::Oci, Format::Docker] {
        let node = Node::new(&registry.registries_conf());
        let other = maker().format(format).architecture("s390x").build();
        let ours = maker()
            .format(format)
            .architecture(go_architecture())
            .env("X", "y")
            .build();
        let index = Index::of(format, &[other, ours.clone()]);
        registry.push_index("multi", "v1", &index).unwrap();
        let host = registry.addr();
        let id = node.pull(&registry.reference("multi", "v1")).await.unwrap();
        assert_eq!(id.as_str(), ours.id());
        for digest in [index.digest(), &ours.digest()] {
            let found = node
                .images
                .find(&format!("{host}/multi@{digest}"))
                .await
                .unwrap();
            let found = found.unwrap_or_else(|| panic!("{format:?} {digest}"));
            assert!(
                found
                    .repo_digests
                    .contains(&format!("{host}/multi@{digest}"))
            );
        }
        let by_index = format!("{host}/multi@{}", index.digest());
        assert_eq!(node.pull(&by_index).await.unwrap(), id);
    }
}

#[tokio::test]
async fn an_index_in_an_index_is_followed_and_a_chain_of_them_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path()).unwrap();
    let node = Node::new(&registry.registries_conf());
    let ours = maker().architecture(go_architecture()).build();
    let other = maker().architecture("s390x").build();
    let inner = Index::of(Format::Oci, &[other.clone(), ours.clone()]);
    registry
        .push_index("nested", inner.digest(), &inner)
        .unwrap();
    registry.push("nested", &other.digest(), &other).unwrap();
    let media_type = inner.media_type();
    let (mut digest, mut size) = (inner.digest().to_owned(), inner.manifest().len());
    for depth in 1..=4 {
        // Beside it an image of a platform that is not ours; an index says none.
        let outer = serde_json::json!({"schemaVersion": 2, "mediaType": media_type, "manifests": [
            {"mediaType": other.media_type(), "digest": other.digest(), "size": other.manifest().len(),
                "platform": {"os": "linux", "architecture": "s390x"}},
            {"mediaType": media_type, "digest": digest, "size": size}]});
        let outer = outer.to_string();
        let tag = format!("v{depth}");
        registry
            .push_manifest("nested", &tag, media_type, outer.as_bytes())
            .unwrap();
        (digest, size) = (crate::image_maker::digest(outer.as_bytes()), outer.len());
        let pulled = node.pull(&registry.reference("nested", &tag)).await;
        match depth {
            1 | 2 => assert_eq!(pulled.unwrap().as_str(), ours.id(), "{depth}"),
            _ => {
                let error = pulled.unwrap_err().to_string();
                assert!(error.contains("nested too deeply"), "{depth}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn what_the_registry_lacks_is_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path()).unwrap();
    let node = Node::new(&registry.registries_conf());
    let foreign = maker().architecture("s390x").build();
    registry
        .push_index("multi", "v1", &Index::of(Format::Oci, &[foreign]))
        .unwrap();
    let absent = format!("{}/multi@sha256:{}", registry.addr(), "0".repeat(64));
    for reference in [
        registry.reference("multi", "v2"),
        registry.reference("none", "v1"),
        registry.reference("multi", "v1"),
        absent,
    ] {
        let error = node.pull(&reference).await.unwrap_err();
        assert!(
            matches!(error.root(), Error::NotFound { .. }),
            "{reference}: {error}"
        );
    }
}

#[tokio::test]
async fn a_small_system_is_pulled_whole() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path()).unwrap();
    let node = Node::with(&registry.registries_conf(), |options| {
        options.pinned = vec!["*busybox*".to_owned()];
    });
    let image = ImageMaker::busybox()
        .config("Labels", json!({"a": "b"}))
        .build();
    registry.push("busybox", "1", &image).unwrap();
    node.pull(&registry.reference("busybox", "1"))
        .await
        .unwrap();
    let found = node.images.find(image.id()).await.unwrap().unwrap();
    assert!(found.pinned);
    assert_eq!(found.config.labels.get("a").map(String::as_str), Some("b"));
    let diffs = std::fs::read_dir(node.path("root/overlay"))
        .unwrap()
        .flatten();
    let bin = diffs
        .map(|entry| entry.path().join("diff/bin"))
        .find(|bin| bin.join("sh").is_file())
        .unwrap();
    let inode = |name: &str| std::fs::metadata(bin.join(name)).unwrap().ino();
    assert_eq!(inode("sh"), inode("busybox"), "a hard link stays one");
}
