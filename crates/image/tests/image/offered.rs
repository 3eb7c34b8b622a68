//! Layers that an additional layer store offers are not fetched. The store is one of plain directories.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crioxide_image::{Credentials, Error, PullRequest};
use serde_json::{Value, json};
use storage::{Digest, LayerStore};

use crate::fake::{self, Fake, Reply};
use crate::image_maker::{Blob, Entry, ImageMaker};
use crate::support::Node;

const STARGZ: &str = "containerd.io/snapshot/stargz/toc.digest";

/// A registry with an image of two layers, the upper one with these annotations and without a blob
/// unless `whole`; its configuration's digest.
fn registry(annotations: Value, whole: bool) -> (Fake, Digest) {
    let made = ImageMaker::new()
        .layer(&[Entry::file("open", 0o644, "open")])
        .layer(&[Entry::file("lazy", 0o644, "as it is in the registry")])
        .build();
    let mut manifest: Value = serde_json::from_slice(made.manifest()).unwrap();
    manifest["layers"][1]["annotations"] = annotations;
    let config = manifest["config"]["digest"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let layer = made.layers()[1].digest().to_owned();
    let manifest = Blob::new(manifest.to_string().into_bytes());
    let registry = Fake::start(move |asked| match asked.path.as_str() {
        path if path.contains("/manifests/") => Reply::ok(manifest.bytes()),
        path if path.ends_with(&layer) && !whole => Reply::status(404),
        _ => fake::image(&made, asked),
    });
    (registry, config)
}

/// Offers a layer that has the file `lazy`.
fn offer(dir: &Path, toc: &Digest) {
    let dir = dir.join(toc.as_str());
    fs::create_dir_all(dir.join("diff")).unwrap();
    fs::write(dir.join("diff/lazy"), "as it is offered").unwrap();
    fs::write(dir.join("blob"), "").unwrap();
    fs::write(dir.join("info"), json!({"toc-digest": toc}).to_string()).unwrap();
}

fn node(registry: &Fake, dir: &Path, by_reference: bool) -> Node {
    let path = dir.to_owned();
    let stores = vec![LayerStore { path, by_reference }];
    Node::with_layer_stores(&registry.conf(), |_| {}, stores)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offered_layer_is_not_fetched_and_its_image_is_another() {
    let offers = tempfile::tempdir().unwrap();
    let toc = Digest::of(b"table of contents");
    let (registry, config) = registry(json!({STARGZ: toc}), false);
    let reference = registry.reference("image:1");
    offer(&offers.path().join(STANDARD.encode(&reference)), &toc);
    let node = node(&registry, offers.path(), true);
    let id = node.pull(&reference).await.unwrap();
    let text = format!("@With TOC:{}||{toc}|", config.hex());
    assert_eq!(id.as_str(), Digest::of(text.as_bytes()).hex());
    let image = node.store.image(&id).unwrap();
    let target = tempfile::tempdir().unwrap();
    let shown = node
        .store
        .mount_image(&id, target.path(), Default::default());
    let read = fs::read_to_string(target.path().join("lazy"));
    sys::mount::unmount_lazily(target.path()).unwrap();
    shown.unwrap();
    assert_eq!(read.unwrap(), "as it is offered");
    let listed = node.images.list().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].repo_tags, std::slice::from_ref(&reference));
    // What is there is used again, also where it is not offered any more.
    sys::durable::rename_volatile(offers.path(), &offers.path().with_extension("gone")).unwrap();
    assert_eq!(node.pull(&reference).await.unwrap(), id);
    assert_eq!(node.store.image(&id).unwrap().top_layer, image.top_layer);
    sys::durable::rename_volatile(&offers.path().with_extension("gone"), offers.path()).unwrap();
    assert_eq!(node.leftovers(), [] as [std::path::PathBuf; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_offered_for_it_is_fetched_and_checked() {
    let offers = tempfile::tempdir().unwrap();
    let toc = Digest::of(b"table of contents");
    offer(offers.path(), &toc);
    let chunked = "io.github.containers.zstd-chunked.manifest-checksum";
    for annotations in [
        json!({}),
        json!({STARGZ: Digest::of(b"another")}),
        json!({STARGZ: "../../etc"}),
        // Which of the two it is nobody can say.
        json!({STARGZ: toc, chunked: toc}),
    ] {
        let (registry, config) = registry(annotations.clone(), true);
        let node = node(&registry, offers.path(), false);
        let id = node.pull(&registry.reference("image:1")).await.unwrap();
        assert_eq!(id.as_str(), config.hex(), "{annotations}");
        // The same image with a layer that is offered is another one, which takes nothing from this.
        let files = node.store.image_files(&id).unwrap();
        assert!(files.is_none(), "it has two layers");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offered_layer_stands_for_no_other_image() {
    let offers = tempfile::tempdir().unwrap();
    let toc = Digest::of(b"table of contents");
    offer(offers.path(), &toc);
    let (lazy, config) = registry(json!({STARGZ: toc}), false);
    let (whole, same) = registry(json!({}), true);
    assert_eq!(config, same);
    let mirrors = [lazy.conf(), whole.conf()].concat();
    let stores = vec![LayerStore {
        path: offers.path().to_owned(),
        by_reference: false,
    }];
    let node = Node::with_layer_stores(&mirrors, |_| {}, stores);
    let first = node.pull(&lazy.reference("image:1")).await.unwrap();
    let second = node.pull(&whole.reference("image:1")).await.unwrap();
    assert_eq!(second.as_str(), config.hex());
    assert_ne!(first, second);
    let tops = [&first, &second].map(|id| node.store.image(id).unwrap().top_layer.clone());
    assert_ne!(tops[0], tops[1]);
    // Of the image with the offered layer the manifest is the one that names it.
    node.set_policy(json!([{"type": "reject"}]));
    let error = node.pull(&lazy.reference("image:1")).await.unwrap_err();
    assert!(matches!(error.root(), Error::Refused { .. }), "{error}");
}

/// A program that keeps what it is told, one line a call, and then ends like this.
fn helper(dir: &Path, end: &str) -> String {
    let (path, told) = (dir.join("helper"), dir.join("told"));
    let script = format!(
        "#!/bin/sh\ncat >> {0}\necho >> {0}\n{end}\n",
        told.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_is_told_what_the_registry_that_is_used_is_shown() {
    let offers = tempfile::tempdir().unwrap();
    let toc = Digest::of(b"table of contents");
    offer(offers.path(), &toc);
    for (end, mirrored) in [
        ("exit 0", false),
        ("echo no >&2; exit 3", false),
        ("exit 0", true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (registry, _) = registry(json!({STARGZ: toc}), false);
        let helper = helper(dir.path(), end);
        let (host, path) = (registry.host(), offers.path().to_owned());
        let conf = match mirrored {
            false => registry.conf(),
            true => format!(
                "[[registry]]\nprefix = \"main.test\"\nlocation = \"127.0.0.1:1\"\n\
                 [[registry.mirror]]\nlocation = \"{host}\"\ninsecure = true\n"
            ),
        };
        let conf = format!("additional-layer-store-auth-helper = \"{helper}\"\n{conf}");
        let stores = vec![LayerStore {
            path,
            by_reference: false,
        }];
        let node = Node::with_layer_stores(&conf, |_| {}, stores);
        let image = match mirrored {
            false => registry.reference("image:1"),
            true => "main.test/image:1".to_owned(),
        };
        let request = PullRequest {
            reference: image,
            credentials: Credentials::from_request("joe", "sesame", "", "", "").unwrap(),
            ..PullRequest::default()
        };
        // A program that fails keeps nobody from the layer.
        node.images.pull(request.clone()).await.unwrap();
        // Nothing is asked for the second time.
        node.images.pull(request).await.unwrap();
        let told = fs::read_to_string(dir.path().join("told")).unwrap();
        let shown = match mirrored {
            false => json!({"username": "joe", "password": "sesame"}),
            // The request's are for the registry that it names.
            true => json!({}),
        };
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(told, json!({registry.reference("image:1"): shown}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_is_not_told_where_no_store_is_asked() {
    let (dir, offers) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (registry, _) = registry(json!({}), true);
    let helper = helper(dir.path(), "exit 0");
    let conf = format!(
        "additional-layer-store-auth-helper = \"{helper}\"\n{}",
        registry.conf()
    );
    let path = offers.path().to_owned();
    let stores = vec![LayerStore {
        path,
        by_reference: false,
    }];
    let node = Node::with_layer_stores(&conf, |_| {}, stores);
    node.pull(&registry.reference("image:1")).await.unwrap();
    assert!(!dir.path().join("told").try_exists().unwrap());
}
