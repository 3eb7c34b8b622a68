//! Artifacts: pulled as images are, kept beside them.

use std::collections::BTreeMap;
use std::path::Path;

use crioxide_image::{Error, PullRequest};
use serde_json::json;

use crate::fake::{Fake, Reply};
use crate::image_maker::{ArtifactMaker, Entry, ImageMaker, MadeArtifact};
use crate::registry::Registry;
use crate::support::Node;

fn files() -> MadeArtifact {
    ArtifactMaker::new()
        .file("model.bin", vec![b'm'; 300_000])
        .file("conf/model.json", "{}")
        .layer(json!({"org.cncf.model.filepath": "README"}), "read me")
        .layer(json!({}), "without a name")
        .build()
}

fn names(files: &[crioxide_image::ArtifactFile]) -> Vec<&Path> {
    files.iter().map(|file| file.name.as_path()).collect()
}

fn blobs(node: &Node) -> usize {
    let entries = std::fs::read_dir(node.path("root/artifacts/blobs/sha256"));
    entries.map_or(0, Iterator::count)
}

#[tokio::test]
async fn an_artifact_is_pulled_found_by_every_name_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path()).unwrap();
    let node = Node::with(&registry.registries_conf(), |options| {
        options.pinned = vec!["*pinned*".to_owned()];
    });
    let made = files();
    registry.push_artifact("team/files", "v1", &made).unwrap();
    registry.push_artifact("team/pinned", "v1", &made).unwrap();
    let reference = registry.reference("team/files", "v1");
    let id = node.pull(&reference).await.unwrap();
    assert_eq!(id.as_str(), made.id());
    // It is no image, and nothing runs it.
    assert!(node.images.list().await.unwrap().is_empty());
    assert!(node.images.find(&reference).await.unwrap().is_none());
    let by_digest = format!("{}/team/files@{}", registry.addr(), made.digest());
    for name in [&reference, &by_digest, made.id(), &made.id()[..5]] {
        let found = node.images.find_artifact(name).await.unwrap();
        let found = found.unwrap_or_else(|| panic!("{name}"));
        assert_eq!(found.repo_tags, std::slice::from_ref(&reference));
        assert_eq!(found.repo_digests, std::slice::from_ref(&by_digest));
        assert_eq!(found.size, 300_000 + 2 + 7 + 14);
        assert!(!found.pinned);
        let files = found.files().unwrap();
        let expected: Vec<_> = ["model.bin", "conf/model.json", "README"]
            .map(Path::new)
            .into();
        assert_eq!(names(&files), expected);
        assert_eq!(std::fs::read(&files[2].path).unwrap(), b"read me");
    }

    let pinned = registry.reference("team/pinned", "v1");
    node.pull(&pinned).await.unwrap();
    let listed = node.images.artifacts().await.unwrap();
    let [one] = &listed[..] else {
        panic!("{listed:?}")
    };
    assert_eq!(one.repo_tags.len(), 2);
    assert!(one.pinned);

    // A name goes while the other stays, whoever has mounted it.
    let mounted = BTreeMap::from([(made.id().to_owned(), "c".to_owned())]);
    node.images.remove(&pinned, mounted.clone()).await.unwrap();
    let refused = node.images.remove(&reference, mounted.clone()).await;
    assert!(matches!(refused, Err(Error::InUse { .. })), "{refused:?}");
    let refused = node.images.remove(made.id(), mounted).await;
    assert!(matches!(refused, Err(Error::InUse { .. })), "{refused:?}");
    assert_eq!(blobs(&node), 5);
    node.images
        .remove(&reference, BTreeMap::new())
        .await
        .unwrap();
    node.images
        .remove(made.id(), BTreeMap::new())
        .await
        .unwrap();
    assert!(node.images.artifacts().await.unwrap().is_empty());
    assert_eq!(blobs(&node), 0);
}

#[tokio::test]
async fn a_moved_tag_leaves_the_old_artifact_without_a_name_until_it_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path()).unwrap();
    let node = Node::new(&registry.registries_conf());
    let (old, new) = (
        ArtifactMaker::new().file("a", "old").build(),
        ArtifactMaker::new().file("a", "new").build(),
    );
    let reference = registry.reference("files", "v1");
    for made in [&old, &new] {
        registry.push_artifact("files", "v1", made).unwrap();
        assert_eq!(node.pull(&reference).await.unwrap().as_str(), made.id());
    }
    let listed = node.images.artifacts().await.unwrap();
    let tags: Vec<_> = listed
        .iter()
        .map(|one| (one.id.as_str(), one.repo_tags.len()))
        .collect();
    assert_eq!(tags, [(old.id(), 0), (new.id(), 1)]);
    node.images.remove(old.id(), BTreeMap::new()).await.unwrap();
    let found = node
        .images
        .find_artifact(&reference)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found.id.as_str(), new.id());
    assert_eq!(blobs(&node), 3);
}

#[tokio::test]
async fn an_index_gives_an_artifact_and_an_image_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path()).unwrap();
    let node = Node::new(&registry.registries_conf());
    let made = files();
    registry.push_artifact("multi", "one", &made).unwrap();
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{"mediaType": made.media_type(), "digest": made.digest(),
            "size": made.manifest().len()}]});
    let media_type = "application/vnd.oci.image.index.v1+json";
    registry
        .push_manifest("multi", "v1", media_type, index.to_string().as_bytes())
        .unwrap();
    let id = node.pull(&registry.reference("multi", "v1")).await.unwrap();
    assert_eq!(id.as_str(), made.id());

    let image = ImageMaker::new()
        .layer(&[Entry::file("a", 0o644, "a")])
        .build();
    registry.push("image", "v1", &image).unwrap();
    let request = PullRequest {
        reference: registry.reference("image", "v1"),
        artifact: true,
        ..PullRequest::default()
    };
    let error = node.images.pull(request).await.unwrap_err();
    assert!(error.to_string().contains("it is an image"), "{error}");
    assert!(node.images.list().await.unwrap().is_empty());
}

/// A registry of one artifact, one of whose answers is another.
async fn pulled_with(
    made: &MadeArtifact,
    other: (&'static str, u16, Vec<u8>),
    policy: &str,
) -> (Node, Result<String, String>) {
    let (served, other_path) = (made.clone(), other.0);
    let registry = Fake::start(move |asked| {
        if !other_path.is_empty() && asked.path.contains(other_path) {
            return Reply::Full(other.1, Vec::new(), other.2.clone());
        }
        if asked.path.contains("/manifests/") {
            return Reply::ok(served.manifest());
        }
        let blob = served
            .blobs()
            .iter()
            .find(|blob| asked.path.ends_with(blob.digest()));
        blob.map_or(
            Reply::status(if asked.path == "/v2/" { 200 } else { 404 }),
            |blob| Reply::ok(blob.bytes()),
        )
    });
    let node = Node::new(&registry.conf());
    std::fs::write(node.path("policy.json"), policy).unwrap();
    let pulled = node.pull(&registry.reference("files:1")).await;
    let pulled = pulled
        .map(|id| id.to_string())
        .map_err(|error| error.to_string());
    (node, pulled)
}

const ACCEPT: &str = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;

#[tokio::test]
async fn what_fails_is_told_as_it_is_and_leaves_nothing() {
    let made = files();
    let blob: &'static str = Box::leak(made.blobs()[0].digest().to_owned().into_boxed_str());
    let reject = r#"{"default": [{"type": "reject"}]}"#;
    for (name, other, policy, expected) in [
        ("nothing", ("", 0, vec![]), ACCEPT, ""),
        (
            "a registry that is down",
            ("/manifests/", 503, vec![]),
            ACCEPT,
            "RegistryUnavailable",
        ),
        (
            "a blob that is not there",
            (blob, 404, vec![]),
            ACCEPT,
            "404",
        ),
        (
            "another blob",
            (blob, 200, vec![b'x'; 300_000]),
            ACCEPT,
            "DigestMismatch",
        ),
        (
            "a short blob",
            (blob, 200, vec![b'm'; 10]),
            ACCEPT,
            "instead of",
        ),
        (
            "the policy",
            ("", 0, vec![]),
            reject,
            "SignatureValidationFailed",
        ),
    ] {
        let (node, pulled) = pulled_with(&made, other, policy).await;
        if expected.is_empty() {
            assert_eq!(pulled.as_deref(), Ok(made.id()), "{name}");
            continue;
        }
        let error = pulled.unwrap_err();
        assert!(error.contains(expected), "{name}: {error}");
        assert!(node.images.artifacts().await.unwrap().is_empty(), "{name}");
        assert_eq!(blobs(&node), 0, "{name}");
    }
}

#[tokio::test]
async fn files_that_climb_or_collide_are_not_mounted() {
    for (name, made, expected) in [
        (
            "climbing",
            ArtifactMaker::new().file("../../etc/passwd", "x"),
            "not a name",
        ),
        (
            "absolute",
            ArtifactMaker::new().file("/etc/passwd", "x"),
            "not a name",
        ),
        (
            "twice",
            ArtifactMaker::new().file("a", "x").file("./a", "y"),
            "two files",
        ),
    ] {
        let (node, pulled) = pulled_with(&made.build(), ("", 0, vec![]), ACCEPT).await;
        let found = node
            .images
            .find_artifact(&pulled.unwrap())
            .await
            .unwrap()
            .unwrap();
        let error = found.files().unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[tokio::test]
async fn an_additional_store_goes_first_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path()).unwrap();
    let other = Node::new(&registry.registries_conf());
    let (old, new) = (
        ArtifactMaker::new().file("a", "old").build(),
        ArtifactMaker::new().file("a", "new").build(),
    );
    let reference = registry.reference("files", "v1");
    registry.push_artifact("files", "v1", &old).unwrap();
    other.pull(&reference).await.unwrap();
    let node = Node::with(&registry.registries_conf(), |options| {
        options.additional_artifact_stores = vec![other.path("root")];
    });
    registry.push_artifact("files", "v1", &new).unwrap();
    let id = node.pull(&reference).await.unwrap();
    assert_eq!(id.as_str(), old.id());
    assert_eq!(blobs(&node), 0);
    let found = node
        .images
        .find_artifact(&reference)
        .await
        .unwrap()
        .unwrap();
    assert!(found.pinned);
    let refused = node.images.remove(&reference, BTreeMap::new()).await;
    assert!(
        matches!(refused, Err(Error::ReadOnly { .. })),
        "{refused:?}"
    );
    assert_eq!(other.images.artifacts().await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_artifacts_data_is_read_up_to_a_limit_and_by_digest_without_a_registry() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path()).unwrap();
    let node = Node::new(&registry.registries_conf());
    let made = ArtifactMaker::new().layer(json!({}), "profile").build();
    registry.push_artifact("profile", "v1", &made).unwrap();
    let reference = registry.reference("profile", "v1");
    let data = node.images.artifact_data(&reference, "", 7).await.unwrap();
    assert_eq!(data, b"profile");
    let error = node
        .images
        .artifact_data(&reference, "", 6)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("larger"), "{error}");
    let by_digest = format!("{}/profile@{}", registry.addr(), made.digest());
    drop(registry);
    assert!(node.images.artifact_data(&reference, "", 7).await.is_err());
    let data = node.images.artifact_data(&by_digest, "", 7).await.unwrap();
    assert_eq!(data, b"profile");
}
