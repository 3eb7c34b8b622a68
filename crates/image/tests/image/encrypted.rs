//! Encrypted layers. Their keys are unwrapped by a program here; the tests of the whole have skopeo
//! wrap them for key files.

use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crioxide_image::Error;
use serde_json::{Value, json};

use crate::fake::{self, Fake, Reply};
use crate::image_maker::{Blob, Compression, Entry, ImageMaker};
use crate::support::Node;

const KEY: [u8; 32] = [5; 32];
const NONCE: [u8; 16] = [6; 16];

/// As ocicrypt encrypts: the ciphertext and its HMAC.
fn encrypt(plain: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let cipher = EncryptingKey::ctr(UnboundCipherKey::new(&AES_256, &KEY).unwrap()).unwrap();
    let mut bytes = plain.to_vec();
    let context = EncryptionContext::Iv128((&NONCE).into());
    cipher.less_safe_encrypt(&mut bytes, context).unwrap();
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &KEY), &bytes);
    (bytes, mac.as_ref().to_vec())
}

/// A registry with an image of two layers, the upper one encrypted and then changed by `damage`.
fn registry(compression: Compression, damage: impl Fn(&mut Vec<u8>)) -> (Fake, String) {
    let made = ImageMaker::new()
        .compression(compression)
        .layer(&[Entry::file("open", 0o644, "open")])
        .layer(&[Entry::file("secret", 0o644, vec![b's'; 300_000])])
        .build();
    let (mut bytes, mac) = encrypt(made.layers()[1].bytes());
    damage(&mut bytes);
    let blob = Blob::new(bytes);
    let mut manifest: Value = serde_json::from_slice(made.manifest()).unwrap();
    let layer = &mut manifest["layers"][1];
    let media_type = format!("{}+encrypted", layer["mediaType"].as_str().unwrap());
    let open = json!({"cipher": "AES_256_CTR_HMAC_SHA256", "hmac": STANDARD.encode(mac)});
    *layer = json!({"mediaType": media_type, "digest": blob.digest(), "size": blob.bytes().len(),
        "annotations": {"org.opencontainers.image.enc.keys.provider.test": STANDARD.encode("wrapped"),
            "org.opencontainers.image.enc.pubopts": STANDARD.encode(open.to_string())}});
    let manifest = manifest.to_string().into_bytes();
    let digest = Blob::new(manifest.clone()).digest().to_owned();
    let registry = Fake::start(move |asked| match asked.path.as_str() {
        path if path.contains("/manifests/") => Reply::ok(manifest.clone()),
        path if path.ends_with(blob.digest()) => Reply::ok(blob.bytes()),
        _ => fake::image(&made, asked),
    });
    (registry, digest)
}

/// A node with a program that unwraps keys.
fn node(registry: &Fake) -> Node {
    let options = json!({"symkey": STANDARD.encode(KEY),
        "cipheroptions": {"nonce": STANDARD.encode(NONCE)}});
    let answer = json!({"keyunwrapresults": {"optsdata": STANDARD.encode(options.to_string())}});
    let script = format!("cat >/dev/null; echo '{answer}'");
    let config =
        json!({"key-providers": {"test": {"cmd": {"path": "/bin/sh", "args": ["-c", script]}}}});
    Node::with(&registry.conf(), |options| {
        let path = options.policy.with_file_name("providers.json");
        std::fs::write(&path, config.to_string()).unwrap();
        options.key_providers = Some(path);
    })
}

#[tokio::test]
async fn an_encrypted_layer_is_stored_as_what_it_was() {
    for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
        let (registry, digest) = registry(compression, |_| ());
        let node = node(&registry);
        let reference = registry.reference("app:1");
        let id = node.pull(&reference).await.unwrap();
        // Again, with all layers there.
        assert_eq!(node.pull(&reference).await.unwrap(), id);
        let by_digest = format!("{}@{digest}", reference.trim_end_matches(":1"));
        let found = node.images.find(&by_digest).await.unwrap();
        assert_eq!(
            found.map(|image| image.id),
            Some(id.clone()),
            "{compression:?}"
        );
        let manifest = node.store.big_data(&id, "manifest").unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let layer = &manifest["layers"][1];
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar");
        assert_eq!(layer["annotations"], Value::Null);
        assert!(node.leftovers().is_empty());
    }
}

#[tokio::test]
async fn what_was_changed_or_has_no_key_is_refused() {
    for at in [0, 1000, 300_000] {
        let (registry, _) = registry(Compression::None, |bytes| bytes[at] ^= 1);
        let node = node(&registry);
        let error = node.pull(&registry.reference("app:1")).await.unwrap_err();
        assert!(matches!(*error, Error::BadLayer { .. }), "{at}: {error}");
        assert!(node.images.list().await.unwrap().is_empty());
        assert!(node.leftovers().is_empty(), "{at}");
    }
    let (registry, _) = registry(Compression::Gzip, |_| ());
    let node = Node::new(&registry.conf());
    let error = node.pull(&registry.reference("app:1")).await.unwrap_err();
    assert!(matches!(*error, Error::Encrypted { .. }), "{error}");
}
