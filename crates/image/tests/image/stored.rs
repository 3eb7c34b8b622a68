//! Images in other stores of the node: ours, and those that skopeo of a Debian 13 tree makes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crioxide_image::Error;
use serde_json::json;

use crate::image_maker::{Compression, Entry, ImageMaker, MadeImage};
use crate::loading::load;
use crate::registry::Registry;
use crate::signatures_by_tools::{in_tree, tree};
use crate::signer::Gpg;
use crate::support::Node;

fn made(compression: Compression) -> MadeImage {
    ImageMaker::new()
        .compression(compression)
        .layer(&[
            Entry::directory("d", 0o755),
            Entry::file("d/a", 0o4755, "a"),
            Entry::symlink("l", "d/a"),
        ])
        .layer(&[Entry::file("b", 0o644, vec![b'b'; 700_000])])
        .build()
}

/// Every file beneath a directory, with what would show that it was written.
fn state(dir: &Path) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let of = fs::symlink_metadata(&path).unwrap();
            if of.is_dir() {
                waiting.push(path.clone());
            }
            found.insert(path, (of.size(), of.mtime(), of.mtime_nsec()));
        }
    }
    found
}

#[tokio::test]
async fn an_image_of_another_store_is_loaded_as_it_was_pulled_there() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path()).unwrap();
    let (other, node) = (Node::new(&registry.registries_conf()), Node::new(""));
    let image = made(Compression::Gzip);
    registry.push("team/app", "v1", &image).unwrap();
    let reference = registry.reference("team/app", "v1");
    other.pull(&reference).await.unwrap();
    let root = other.path("root");
    let before = state(&root);
    let store = format!("containers-storage:[overlay@{}]", root.display());
    let by_digest = format!("{}/team/app@{}", registry.addr(), image.digest());
    for (which, given, names) in [
        (reference.clone(), &[][..], vec![reference.clone()]),
        (by_digest.clone(), &[], vec![by_digest]),
        (format!("@{}", image.id()), &[], vec![reference.clone()]),
        (
            image.id()[..12].to_owned(),
            &["a.io/x:1"],
            vec!["a.io/x:1".to_owned()],
        ),
        (
            format!("{reference}@{}", image.id()),
            &[],
            vec![reference.clone()],
        ),
    ] {
        let loaded = load(&node, &format!("{store}{which}"), given).await;
        let loaded = loaded.unwrap_or_else(|error| panic!("{which}: {error}"));
        assert_eq!(loaded.id.as_str(), image.id(), "{which}");
        assert_eq!(loaded.names, names, "{which}");
    }
    assert_eq!(state(&root), before, "the other store was written");
    let id = image.id().parse().unwrap();
    for key in [
        "manifest".to_owned(),
        format!("manifest-{}", image.digest()),
    ] {
        assert_eq!(node.store.big_data(&id, &key).unwrap(), image.manifest());
    }
    let everything = storage::CheckOptions {
        depth: storage::Depth::Attributes,
        unreferenced: None,
    };
    assert_eq!(node.store.check(&everything).unwrap(), []);
    // A record without a diff ID does no harm: the configuration has it.
    let records = root.join("overlay-layers/layers.json");
    let text = fs::read_to_string(&records).unwrap();
    assert!(text.contains("\"diff-digest\""));
    fs::write(&records, text.replace("\"diff-digest\"", "\"nobodys\"")).unwrap();
    let fresh = Node::new("");
    load(&fresh, &format!("{store}{reference}"), &[])
        .await
        .unwrap();
    assert_eq!(fresh.store.check(&everything).unwrap(), []);
    // Layers that are there already are not copied again.
    let layers = || fs::read_dir(node.path("root/overlay")).unwrap().count();
    let before = layers();
    load(&node, &format!("{store}{reference}"), &[])
        .await
        .unwrap();
    assert_eq!(layers(), before);
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
}

#[tokio::test]
async fn what_another_store_lacks_or_has_changed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path()).unwrap();
    let (other, node) = (Node::new(&registry.registries_conf()), Node::new(""));
    let image = made(Compression::Zstd);
    registry.push("app", "v1", &image).unwrap();
    let reference = registry.reference("app", "v1");
    other.pull(&reference).await.unwrap();
    let root = other.path("root").display().to_string();
    for (location, words) in [
        (format!("[overlay@{root}]a.io/b:1"), "no image"),
        (format!("[overlay@{root}]{reference}@0123"), "no image"),
        (
            format!("[vfs@{root}]{reference}"),
            "no images of the driver vfs",
        ),
        (
            format!("[overlay@{root}/absent]{reference}"),
            "no images of the driver",
        ),
    ] {
        let error = load(&node, &format!("containers-storage:{location}"), &[]).await;
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Local { .. }), "{location}: {error}");
        assert!(error.to_string().contains(words), "{location}: {error}");
    }
    let location = format!("containers-storage:[overlay@{root}]{reference}");
    let config: serde_json::Value = serde_json::from_slice(image.config().bytes()).unwrap();
    let bottom = config["rootfs"]["diff_ids"][0].as_str().unwrap();
    let bottom = bottom.parse().unwrap();
    let layer = other.store.layer_for(&bottom, None).unwrap().unwrap();
    let file = other
        .path("root/overlay")
        .join(layer.as_str())
        .join("diff/d/a");
    fs::write(&file, "x").unwrap();
    let error = load(&node, &location, &[]).await.unwrap_err();
    assert!(matches!(error, Error::Local { .. }), "{error}");
    fs::remove_file(&file).unwrap();
    let error = load(&node, &location, &[]).await.unwrap_err();
    assert!(matches!(error, Error::Local { .. }), "{error}");
    assert!(node.images.list().await.unwrap().is_empty());
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
    // A pod never means another store.
    let pulled = node.pull(&location).await.unwrap_err();
    assert!(matches!(*pulled, Error::BadReference { .. }), "{pulled}");
}

#[tokio::test]
async fn the_policy_decides_by_store_name_and_the_signatures_there() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path()).unwrap();
    let (other, node) = (Node::new(&registry.registries_conf()), Node::new(""));
    let gpg = Gpg::new().unwrap();
    for user in ["signer@x.io", "other@x.io"] {
        gpg.key(user, "ed25519", "never").unwrap();
        fs::write(node.path(user), gpg.export(user).unwrap()).unwrap();
    }
    let signed = made(Compression::Gzip);
    let plain = ImageMaker::new()
        .layer(&[Entry::file("p", 0o644, "plain")])
        .build();
    let lookaside = other.path("lookaside");
    other.set_sources(&format!("lookaside: file://{}", lookaside.display()));
    for (name, image) in [("signed", &signed), ("plain", &plain)] {
        registry.push(name, "v1", image).unwrap();
    }
    let name = registry.reference("signed", "v1");
    let place = lookaside.join(format!("signed@{}", signed.digest().replace(':', "=")));
    fs::create_dir_all(&place).unwrap();
    let signature = gpg.sign_image("signer@x.io", &name, &signed.digest());
    fs::write(place.join("signature-1"), signature.unwrap()).unwrap();
    other.pull(&name).await.unwrap();
    other
        .pull(&registry.reference("plain", "v1"))
        .await
        .unwrap();
    let root = other
        .path("root")
        .canonicalize()
        .unwrap()
        .display()
        .to_string();
    let accept = || json!([{"type": "insecureAcceptAnything"}]);
    let by = |user: &str| json!([{"type": "signedBy", "keyType": "GPGKeys", "keyPath": node.path(user)}]);
    let set = |scope: &str, wanted: serde_json::Value| {
        let policy = json!({"default": [{"type": "reject"}],
            "transports": {"containers-storage": {scope: wanted}}});
        fs::write(&node.options.policy, policy.to_string()).unwrap();
    };
    let host = registry.addr();
    let (store, driverless) = (format!("[overlay@{root}]"), format!("[{root}]"));
    for (scope, wanted, which, words) in [
        (store.clone(), accept(), "plain", ""),
        (driverless, accept(), "plain", ""),
        (format!("{store}{host}/plain"), accept(), "plain", ""),
        (format!("{store}{host}"), accept(), "signed", ""),
        (
            format!("{store}{host}/plain"),
            accept(),
            "signed",
            "rejected by policy",
        ),
        (
            "[overlay@/elsewhere]".to_owned(),
            accept(),
            "plain",
            "rejected by policy",
        ),
        (store.clone(), by("signer@x.io"), "signed", ""),
        (
            store.clone(),
            by("signer@x.io"),
            "plain",
            "no signature exists",
        ),
        (store.clone(), by("other@x.io"), "signed", "does not name"),
    ] {
        set(&scope, wanted);
        let location = format!("containers-storage:{store}{host}/{which}:v1");
        let loaded = load(&node, &location, &[]).await.map(drop);
        match (loaded, words) {
            (Ok(()), "") => {}
            (Err(Error::Refused(why)), words) if !words.is_empty() => {
                assert!(why.to_string().contains(words), "{scope} {which}: {why}");
            }
            (loaded, _) => panic!("{scope} {which}: {loaded:?}, and not {words:?}"),
        }
    }
    // By its ID it has no name that a signature could be for.
    set(&store, by("signer@x.io"));
    let location = format!("containers-storage:{store}@{}", signed.id());
    let error = load(&node, &location, &[]).await.unwrap_err();
    assert!(error.to_string().contains("has no name here"), "{error}");
    // What was kept there is kept here.
    node.set_policy(by("signer@x.io"));
    let found = node.images.find(&name).await.unwrap().unwrap();
    node.images.allowed(&found, &name, "").await.unwrap();
    node.set_policy(by("other@x.io"));
    node.images.allowed(&found, &name, "").await.unwrap_err();
}

#[tokio::test]
async fn images_of_skopeos_stores_of_both_drivers_are_loaded() {
    if tree().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path()).unwrap();
    let (node, gpg) = (Node::new(&registry.registries_conf()), Gpg::new().unwrap());
    let image = made(Compression::Gzip);
    registry.push("app", "v1", &image).unwrap();
    let accept = json!({"default": [{"type": "insecureAcceptAnything"}]});
    fs::write(node.path("peer.json"), accept.to_string()).unwrap();
    fs::create_dir(node.path("registries.d")).unwrap();
    for driver in ["overlay", "vfs"] {
        let script = format!(
            "skopeo copy --src-tls-verify=false docker://$R/app:v1 \
             \"containers-storage:[{driver}@$D/by-{driver}+$D/run-{driver}]localhost/{driver}:1\""
        );
        let (fine, text) = in_tree(&node, &registry, &gpg, &script);
        assert!(fine, "{driver}: {text}");
        let root = node.path(&format!("by-{driver}"));
        let location = format!(
            "containers-storage:[{driver}@{}]localhost/{driver}:1",
            root.display()
        );
        let (target, before) = (Node::new(""), state(&root));
        let loaded = load(&target, &location, &[]).await.unwrap();
        assert_eq!(loaded.id.as_str(), image.id(), "{driver}");
        assert_eq!(loaded.names, [format!("localhost/{driver}:1")]);
        let everything = storage::CheckOptions {
            depth: storage::Depth::Attributes,
            unreferenced: None,
        };
        assert_eq!(target.store.check(&everything).unwrap(), [], "{driver}");
        assert_eq!(state(&root), before, "{driver}: its store was written");
    }
}
