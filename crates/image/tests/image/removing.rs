//! Removing images and names.

use std::collections::BTreeMap;

use crioxide_image::Error;
use storage::NewContainer;

use crate::image_maker::{Entry, ImageMaker, MadeImage};
use crate::registry::Registry;
use crate::support::Node;

async fn node_with(registry: &Registry, names: &[&str]) -> (Node, MadeImage) {
    let node = Node::new(&registry.registries_conf());
    let image = ImageMaker::new()
        .layer(&[Entry::file("a", 0o644, "a")])
        .build();
    for name in names {
        registry.push(name, "1", &image).unwrap();
        node.pull(&registry.reference(name, "1")).await.unwrap();
    }
    (node, image)
}

#[tokio::test]
async fn a_name_goes_alone_and_the_last_takes_the_image_along() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path()).unwrap();
    let (node, image) = node_with(&registry, &["one", "two"]).await;
    node.images
        .remove(&registry.reference("one", "1"), BTreeMap::new())
        .await
        .unwrap();
    let left = node.images.find(image.id()).await.unwrap().unwrap();
    assert_eq!(left.repo_tags, [registry.reference("two", "1")]);
    node.images
        .remove(&registry.reference("one", "1"), BTreeMap::new())
        .await
        .unwrap();
    assert!(node.images.find(image.id()).await.unwrap().is_some());
    let by_digest = format!("{}/two@{}", registry.addr(), image.digest());
    node.images
        .remove(&by_digest, BTreeMap::new())
        .await
        .unwrap();
    assert!(node.images.list().await.unwrap().is_empty());
    assert_eq!(node.leftovers(), Vec::<std::path::PathBuf>::new());
    node.images
        .remove(&by_digest, BTreeMap::new())
        .await
        .unwrap();
}

#[tokio::test]
async fn an_id_takes_all_names() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path()).unwrap();
    let (node, image) = node_with(&registry, &["one", "two"]).await;
    node.images
        .remove(image.id(), BTreeMap::new())
        .await
        .unwrap();
    assert!(node.images.list().await.unwrap().is_empty());
    node.images
        .remove(image.id(), BTreeMap::new())
        .await
        .unwrap();
}

#[tokio::test]
async fn an_image_in_use_stays_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path()).unwrap();
    let (node, image) = node_with(&registry, &["one"]).await;
    let container = NewContainer {
        id: "c0ffee".parse().unwrap(),
        names: vec!["c".to_owned()],
        image: Some(image.id().parse().unwrap()),
        metadata: String::new(),
        mount_label: String::new(),
        process_label: String::new(),
        id_map: None,
    };
    node.store.create_container(container).unwrap();
    for name in [image.id().to_owned(), registry.reference("one", "1")] {
        let error = node
            .images
            .remove(&name, BTreeMap::new())
            .await
            .unwrap_err();
        assert!(matches!(error, Error::InUse { .. }), "{error}");
    }
    let left = node.images.find(image.id()).await.unwrap().unwrap();
    assert_eq!(left.repo_tags.len(), 1);
}
