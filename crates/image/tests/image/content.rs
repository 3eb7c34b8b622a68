//! Images that are not what they say.

use crioxide_image::Error;
use serde_json::{Value, json};

use crate::fake::{self, Fake, Reply};
use crate::image_maker::{Blob, Compression, Entry, ImageMaker, MadeImage, compress, digest};
use crate::support::Node;

fn maker() -> ImageMaker {
    ImageMaker::new()
        .layer(&[Entry::file("a", 0o644, "a")])
        .layer(&[Entry::file("b", 0o644, vec![b'b'; 100_000])])
}

/// Pulls an image whose blobs and manifest were changed; nothing of it may stay.
async fn refused(made: &MadeImage, manifest: Vec<u8>, swap: Option<(String, Vec<u8>)>) -> String {
    let served = made.clone();
    let registry = Fake::start(move |asked| match &swap {
        Some((path, bytes)) if asked.path.ends_with(path.as_str()) => Reply::ok(bytes.clone()),
        _ if asked.path.contains("/manifests/") => Reply::ok(manifest.clone()),
        _ => fake::image(&served, asked),
    });
    let node = Node::new(&registry.conf());
    let error = node.pull(&registry.reference("app:1")).await.unwrap_err();
    assert!(node.images.list().await.unwrap().is_empty());
    assert!(node.leftovers().is_empty(), "{:?}", node.leftovers());
    error.to_string()
}

fn manifest(made: &MadeImage, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut manifest: Value = serde_json::from_slice(made.manifest()).unwrap();
    change(&mut manifest);
    manifest.to_string().into_bytes()
}

#[tokio::test]
async fn blobs_with_another_digest_or_size_are_refused() {
    let made = maker().build();
    let (layer, config) = (&made.layers()[1], made.config());
    let good = made.manifest().to_vec();
    let other = compress(
        &maker().build().layers()[0].bytes()[..10],
        Compression::Gzip,
    );
    let mut same_size = layer.bytes().to_vec();
    *same_size.last_mut().unwrap() ^= 1;
    let longer = [layer.bytes(), &[0; 9]].concat();
    let mut other_config = config.bytes().to_vec();
    other_config.extend(b" ");
    for (name, blob, bytes, expected) in [
        ("another blob", layer, other, "instead of"),
        ("a flipped bit", layer, same_size, "DigestMismatch"),
        ("more bytes", layer, longer, "more"),
        (
            "another configuration",
            config,
            other_config,
            "DigestMismatch",
        ),
    ] {
        let text = refused(&made, good.clone(), Some((blob.digest().to_owned(), bytes))).await;
        assert!(text.contains(expected), "{name}: {text}");
    }
}

#[tokio::test]
async fn manifests_that_lie_are_refused() {
    let made = maker().build();
    let fewer = manifest(&made, |manifest| {
        manifest["layers"].as_array_mut().unwrap().pop();
    });
    let both = manifest(&made, |manifest| manifest["manifests"] = json!([]));
    let climbing = manifest(&made, |manifest| {
        manifest["layers"][0]["digest"] = json!("sha256:../../../../etc/passwd");
    });
    let swapped = manifest(&made, |manifest| {
        manifest["layers"].as_array_mut().unwrap().reverse()
    });
    let schema1 = json!({"schemaVersion": 1, "fsLayers": []})
        .to_string()
        .into_bytes();
    let artifact = manifest(&made, |manifest| {
        manifest["config"]["mediaType"] = json!("x/helm");
        manifest["mediaType"] = json!("application/vnd.docker.distribution.manifest.v2+json");
    });
    let nested = json!({"schemaVersion": 2, "manifests": [{"digest": digest(b"x"), "size": 1}]});
    let huge = format!("{{\"schemaVersion\":2,\"x\":\"{}\"}}", "x".repeat(5 << 20)).into_bytes();
    for (name, manifest, expected) in [
        (
            "fewer layers than diff IDs",
            fewer,
            "1 layers, but 2 diff IDs",
        ),
        ("index and image", both, "image and index at once"),
        ("a digest that climbs", climbing, "digest"),
        ("layers in another order", swapped, "diff ID"),
        ("schema 1", schema1, "schema 1 is not supported"),
        ("an artifact in docker's form", artifact, "not an image"),
        (
            "an index of itself",
            nested.to_string().into_bytes(),
            "DigestMismatch",
        ),
        ("five megabytes", huge, "more than 4194304 bytes"),
        ("no JSON", b"<html>".to_vec(), "not a JSON object"),
    ] {
        let text = refused(&made, manifest, None).await;
        assert!(text.contains(expected), "{name}: {text}");
    }
}

#[tokio::test]
async fn an_old_manifest_is_named_also_where_its_digest_is_asked_for() {
    let schema1 = json!({"schemaVersion": 1, "fsLayers": [], "signatures": []});
    let registry = Fake::start(move |asked| match asked.path.contains("/manifests/") {
        true => Reply::ok(schema1.to_string()),
        false => Reply::ok(""),
    });
    let node = Node::new(&registry.conf());
    let by_digest = format!("{}/app@{}", registry.host(), digest(b"what was signed"));
    let error = node.pull(&by_digest).await.unwrap_err().to_string();
    assert!(error.contains("schema 1 is not supported"), "{error}");
}

/// An image whose only layer is this blob, with this uncompressed content promised.
fn with_layer(blob: &Blob, diff_id: &str) -> (MadeImage, Vec<u8>, Vec<u8>) {
    let made = ImageMaker::new().build();
    let config = json!({"os": "linux", "architecture": "amd64", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
    let config = config.to_string().into_bytes();
    let manifest = manifest(&made, |manifest| {
        manifest["config"]["digest"] = json!(digest(&config));
        manifest["config"]["size"] = json!(config.len());
        manifest["layers"] = json!([{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": blob.digest(), "size": blob.bytes().len()}]);
    });
    (made, manifest, config)
}

#[tokio::test]
async fn layers_that_are_damaged_in_themselves_are_refused() {
    let tar = crate::image_maker::archive(&[Entry::file("a", 0o644, vec![b'a'; 100_000])]);
    let gzip = compress(&tar, Compression::Gzip);
    let zstd = compress(&tar, Compression::Zstd);
    let climbing =
        crate::image_maker::archive(&[Entry::file("../../../../../etc/evil", 0o644, "x")]);
    for (name, bytes, diff_id) in [
        (
            "garbage after gzip",
            [&gzip[..], b"garbage"].concat(),
            digest(&tar),
        ),
        (
            "garbage after zstd",
            [&zstd[..], b"garbage"].concat(),
            digest(&tar),
        ),
        ("cut gzip", gzip[..gzip.len() / 2].to_vec(), digest(&tar)),
        ("cut zstd", zstd[..zstd.len() / 2].to_vec(), digest(&tar)),
        (
            "cut tar",
            compress(&tar[..tar.len() / 2], Compression::Gzip),
            digest(&tar[..tar.len() / 2]),
        ),
        ("no tar", vec![b'x'; 5000], digest(&vec![b'x'; 5000])),
        ("xz", b"\xfd7zXZ\0whatever".to_vec(), digest(b"")),
        ("another diff ID", gzip.clone(), digest(b"other")),
    ] {
        let blob = Blob::new(bytes);
        let (made, manifest, config) = with_layer(&blob, &diff_id);
        let (layer, bytes) = (blob.digest().to_owned(), blob.bytes().to_vec());
        let config_path = digest(&config);
        let registry = Fake::start(move |asked| match asked.path.as_str() {
            path if path.contains("/manifests/") => Reply::ok(manifest.clone()),
            path if path.ends_with(&config_path) => Reply::ok(config.clone()),
            path if path.ends_with(&layer) => Reply::ok(bytes.clone()),
            _ => fake::image(&made, asked),
        });
        let node = Node::new(&registry.conf());
        let error = node.pull(&registry.reference("app:1")).await.unwrap_err();
        assert!(matches!(*error, Error::BadLayer { .. }), "{name}: {error}");
        assert!(node.leftovers().is_empty(), "{name}");
        assert!(node.images.list().await.unwrap().is_empty());
    }
    // What climbs stays beneath the layer or is refused; it never arrives.
    let blob = Blob::new(compress(&climbing, Compression::Gzip));
    let (made, manifest, config) = with_layer(&blob, &digest(&climbing));
    let config_path = digest(&config);
    let registry = Fake::start(move |asked| match asked.path.as_str() {
        path if path.contains("/manifests/") => Reply::ok(manifest.clone()),
        path if path.ends_with(&config_path) => Reply::ok(config.clone()),
        path if path.ends_with(blob.digest()) => Reply::ok(blob.bytes()),
        _ => fake::image(&made, asked),
    });
    let node = Node::new(&registry.conf());
    let outcome = node.pull(&registry.reference("app:1")).await;
    assert!(!std::fs::exists("/etc/evil").unwrap(), "{outcome:?}");
}

/// The lowest layer is one of those that registries may not distribute; is it there all the same?
async fn foreign_layer(media_type: &'static str, there: bool) -> Result<(), String> {
    let made = maker().build();
    let layer = made.layers()[0].digest().to_owned();
    let manifest = manifest(&made, |manifest| {
        manifest["layers"][0]["mediaType"] = json!(media_type);
        manifest["layers"][0]["urls"] = json!(["http://127.0.0.1:1/layer"]);
    });
    let registry = Fake::start(move |asked| match asked.path.as_str() {
        path if path.contains("/manifests/") => Reply::ok(manifest.clone()),
        path if path.ends_with(&layer) && !there => Reply::status(404),
        _ => fake::image(&made, asked),
    });
    let node = Node::new(&registry.conf());
    let pulled = node.pull(&registry.reference("app:1")).await;
    assert!(node.leftovers().is_empty());
    match pulled {
        Ok(_) => Ok(()),
        Err(error) => {
            assert!(matches!(error.root(), Error::BadLayer { .. }), "{error}");
            Err(error.to_string())
        }
    }
}

#[tokio::test]
async fn a_layer_that_is_not_distributed_is_taken_from_the_registry_or_refused() {
    for media_type in [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ] {
        foreign_layer(media_type, true).await.unwrap();
        let refused = foreign_layer(media_type, false).await.unwrap_err();
        assert!(refused.contains("are not followed"), "{refused}");
    }
}

#[tokio::test]
async fn a_bomb_of_any_compression_is_defused() {
    let zeros = vec![0; 8 << 20];
    for compression in [
        Compression::Gzip,
        Compression::Zstd,
        Compression::Bzip2,
        Compression::Xz,
    ] {
        let made = ImageMaker::new()
            .compression(compression)
            .layer(&[Entry::file("zeros", 0o644, zeros.clone())])
            .build();
        assert!(made.layers()[0].bytes().len() < 100_000);
        let served = made.clone();
        let registry = Fake::start(move |asked| fake::image(&served, asked));
        let node = Node::with(&registry.conf(), |options| {
            options.unpack_limits.bytes = 1 << 20;
        });
        let error = node.pull(&registry.reference("app:1")).await.unwrap_err();
        assert!(matches!(*error, Error::BadLayer { .. }), "{error}");
        assert!(
            error.to_string().contains("1048576"),
            "{compression:?}: {error}"
        );
        assert!(node.leftovers().is_empty());
    }
}

#[tokio::test]
async fn layers_that_never_end_or_are_too_many_are_refused() {
    let made = maker().build();
    let (served, endless) = (made.clone(), made.layers()[1].digest().to_owned());
    let registry = Fake::start(move |asked| match asked.path.ends_with(&endless) {
        true => Reply::Endless,
        false => fake::image(&served, asked),
    });
    let node = Node::new(&registry.conf());
    let error = node.pull(&registry.reference("app:1")).await.unwrap_err();
    assert!(matches!(*error, Error::BadLayer { .. }), "{error}");
    assert!(error.to_string().contains("more"), "{error}");
    assert!(node.leftovers().is_empty());
    let many = |count: usize| {
        manifest(&made, |manifest| {
            let layer = manifest["layers"][0].clone();
            manifest["layers"] = json!(vec![layer; count]);
        })
    };
    let text = refused(&made, many(501), None).await;
    assert!(text.contains("more than 500 layers"), "{text}");
    // So many are a matter of the configuration.
    let text = refused(&made, many(500), None).await;
    assert!(text.contains("500 layers, but 2 diff IDs"), "{text}");
    let large = manifest(&made, |manifest| {
        manifest["layers"][0]["size"] = json!(u64::MAX);
    });
    let text = refused(&made, large, None).await;
    assert!(text.contains("larger than allowed"), "{text}");
}
