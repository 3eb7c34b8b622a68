//! Images that must be signed by somebody: what is refused at the pull.

use std::fs;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crioxide_image::Error;
use serde_json::{Value, json};

use crate::image_maker::{Entry, Format, ImageMaker, Index, MadeImage, go_architecture};
use crate::registry::Registry;
use crate::signer::{Gpg, payload};
use crate::support::Node;

mod artifacts;
mod certified;
mod files;
mod kept;
mod of_registry;
mod places;

const SIGNER: &str = "signer@x.io";
const OTHER: &str = "other@x.io";

fn image(content: &str) -> MadeImage {
    ImageMaker::new()
        .layer(&[Entry::file("a", 0o644, content)])
        .build()
}

/// A registry, a node and two keys; the policy wants signatures of [`SIGNER`]'s, in a lookaside on
/// disk.
struct Signing {
    registry: Registry,
    node: Node,
    gpg: Gpg,
    _dir: tempfile::TempDir,
}

impl Signing {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::start(dir.path()).unwrap();
        let gpg = Gpg::new().unwrap();
        for user in [SIGNER, OTHER] {
            gpg.key(user, "ed25519", "never").unwrap();
        }
        let node = Node::new(&registry.registries_conf());
        let signing = Self {
            registry,
            node,
            gpg,
            _dir: dir,
        };
        let lookaside = signing.node.path("lookaside");
        signing
            .node
            .set_sources(&format!("lookaside: file://{}", lookaside.display()));
        signing.node.set_policy(json!([signing.signed_by(SIGNER)]));
        signing
    }

    fn signed_by(&self, user: &str) -> Value {
        let keys = STANDARD.encode(self.gpg.export(user).unwrap());
        json!({"type": "signedBy", "keyType": "GPGKeys", "keyData": keys})
    }

    /// Where the lookaside has the signatures of a manifest.
    fn signatures(&self, name: &str, digest: &str) -> PathBuf {
        let place = format!("lookaside/{name}@{}", digest.replace(':', "="));
        self.node.path(&place)
    }

    fn put(&self, name: &str, digest: &str, number: usize, signature: &[u8]) {
        let dir = self.signatures(name, digest);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("signature-{number}")), signature).unwrap();
    }

    /// Signs `name:v1`'s manifest and puts the signature into the lookaside.
    fn sign(&self, name: &str, image: &MadeImage) -> Vec<u8> {
        let reference = self.registry.reference(name, "v1");
        let signature = self
            .gpg
            .sign_image(SIGNER, &reference, &image.digest())
            .unwrap();
        self.put(name, &image.digest(), 1, &signature);
        signature
    }

    /// Expects that `name:v1` is refused in the words of the kubelet, and these.
    #[track_caller]
    fn refused<'a>(&'a self, name: &str, words: &'a str) -> impl Future<Output = ()> + 'a {
        let reference = self.registry.reference(name, "v1");
        async move {
            let error = self.node.pull(&reference).await.unwrap_err();
            let text = error.to_string();
            assert!(matches!(error.root(), Error::Refused(_)), "{text}");
            assert!(text.starts_with("SignatureValidationFailed: "), "{text}");
            assert!(text.contains(words), "{text}");
            assert!(self.node.images.find(&reference).await.unwrap().is_none());
        }
    }
}

#[tokio::test]
async fn an_image_is_pulled_with_a_good_signature_only() {
    let signing = Signing::new();
    let made = image("one");
    signing.registry.push("team/app", "v1", &made).unwrap();
    let (name, digest) = ("team/app", made.digest());
    signing
        .refused(name, "a signature was required, but no signature exists")
        .await;

    let reference = signing.registry.reference(name, "v1");
    let other = image("other");
    let gpg = &signing.gpg;
    let by_other = gpg.sign_image(OTHER, &reference, &digest).unwrap();
    let of_other = gpg.sign_image(SIGNER, &reference, &other.digest()).unwrap();
    let elsewhere = signing.registry.reference("team/elsewhere", "v1");
    let as_other = gpg.sign_image(SIGNER, &elsewhere, &digest).unwrap();
    let other_tag = signing.registry.reference(name, "v2");
    let as_other_tag = gpg.sign_image(SIGNER, &other_tag, &digest).unwrap();
    let long_ago = [
        "--faked-system-time",
        "20200101T000000",
        "--default-sig-expire",
        "1d",
        "--ignore-time-conflict",
    ];
    let content = payload("atomic container signature", &reference, &digest);
    let expired = gpg.sign_with(&long_ago, SIGNER, &content).unwrap();
    let cosigned = payload("cosign container image signature", &reference, &digest);
    let of_another_kind = gpg.sign(SIGNER, &cosigned).unwrap();
    for (signature, words) in [
        (by_other.clone(), "which the policy does not name"),
        (of_other, "does not match"),
        (as_other, "is not accepted"),
        (as_other_tag, "is not accepted"),
        (expired, "the OpenPGP signature has expired"),
        (of_another_kind, "the payload is of type"),
    ] {
        signing.put(name, &digest, 1, &signature);
        signing.refused(name, words).await;
    }
    // One good signature is enough, wherever it stands.
    let good = gpg.sign_image(SIGNER, &reference, &digest).unwrap();
    let mut tampered = gpg
        .sign_with(&["--compress-algo", "none"], SIGNER, &content)
        .unwrap();
    let at = tampered
        .windows(4)
        .position(|part| part == b"team")
        .unwrap();
    tampered[at] = b's';
    signing.put(name, &digest, 1, &tampered);
    signing
        .refused(name, "the OpenPGP signature is wrong")
        .await;
    signing.put(name, &digest, 2, &by_other);
    signing
        .refused(name, "none of the signatures were accepted")
        .await;
    signing.put(name, &digest, 3, &good);
    let id = signing.node.pull(&reference).await.unwrap();
    assert_eq!(id.as_str(), made.id());
    // By digest any signature of the repository counts.
    let by_digest = format!("{}/{name}@{digest}", signing.registry.addr());
    signing.node.pull(&by_digest).await.unwrap();
}

#[tokio::test]
async fn a_key_that_has_expired_or_was_revoked_is_good_for_nothing() {
    let signing = Signing::new();
    let made = image("one");
    signing.registry.push("app", "v1", &made).unwrap();
    let reference = signing.registry.reference("app", "v1");
    let past = ["--faked-system-time", "20200101T000000"];
    signing
        .gpg
        .key_with(&past, "old@x.io", "ed25519", "30d")
        .unwrap();
    let content = payload("atomic container signature", &reference, &made.digest());
    let by_old = signing.gpg.sign_with(&past, "old@x.io", &content).unwrap();
    signing.put("app", &made.digest(), 1, &by_old);
    signing
        .node
        .set_policy(json!([signing.signed_by("old@x.io")]));
    signing.refused("app", "has expired").await;

    signing.sign("app", &made);
    signing.gpg.revoke(SIGNER).unwrap();
    signing.node.set_policy(json!([signing.signed_by(SIGNER)]));
    signing.refused("app", "is revoked").await;
}

#[tokio::test]
async fn a_signature_that_is_replayed_for_another_image_or_name_is_refused() {
    let signing = Signing::new();
    let (good, bad) = (image("good"), image("bad"));
    signing.registry.push("app", "v1", &good).unwrap();
    let signature = signing.sign("app", &good);
    signing
        .node
        .pull(&signing.registry.reference("app", "v1"))
        .await
        .unwrap();
    // The tag is moved to another image, with the signatures of the old one.
    signing.registry.push("app", "v1", &bad).unwrap();
    signing.put("app", &bad.digest(), 1, &signature);
    let error = signing
        .node
        .pull(&signing.registry.reference("app", "v1"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("does not match"), "{error}");
    // The old image is served as another one.
    signing.registry.push("admin", "v1", &good).unwrap();
    signing.put("admin", &good.digest(), 1, &signature);
    signing.refused("admin", "is not accepted").await;
}

#[tokio::test]
async fn of_an_index_the_chosen_image_has_to_be_signed() {
    let signing = Signing::new();
    let own = ImageMaker::new()
        .layer(&[Entry::file("a", 0o644, "own")])
        .architecture(go_architecture())
        .build();
    let foreign = ImageMaker::new()
        .layer(&[Entry::file("a", 0o644, "foreign")])
        .architecture("s390x")
        .build();
    let index = Index::of(Format::Oci, &[foreign.clone(), own.clone()]);
    signing.registry.push_index("app", "v1", &index).unwrap();
    let reference = signing.registry.reference("app", "v1");
    let gpg = &signing.gpg;
    let of_index = gpg.sign_image(SIGNER, &reference, index.digest()).unwrap();
    signing.put("app", index.digest(), 1, &of_index);
    signing.sign("app", &foreign);
    signing.refused("app", "no signature exists").await;
    signing.put("app", &own.digest(), 1, &of_index);
    signing.refused("app", "does not match").await;
    signing.sign("app", &own);
    let id = signing.node.pull(&reference).await.unwrap();
    assert_eq!(id.as_str(), own.id());
    let found = signing.node.images.find(&reference).await.unwrap().unwrap();
    signing
        .node
        .images
        .allowed(&found, &reference, "")
        .await
        .unwrap();
    let by_index = format!("{}/app@{}", signing.registry.addr(), index.digest());
    signing.node.pull(&by_index).await.unwrap();
    signing
        .node
        .images
        .allowed(&found, &by_index, "")
        .await
        .unwrap();
}
