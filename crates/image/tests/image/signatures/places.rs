//! Where signatures come from: lookasides on disk and on servers, for mirrors, and the registry itself.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crioxide_image::{Error, Images, PullRequest};
use serde_json::{Value, json};

use super::{SIGNER, Signing, image};
use crate::fake::{self, Fake, Reply};
use crate::image_maker::{Blob, MadeImage, digest};
use crate::registry::Registry;
use crate::signer::{LONG, OpenSsl, payload};
use crate::support::Node;

#[tokio::test]
async fn a_lookaside_may_be_a_server_and_gets_no_credentials() {
    let signing = Signing::new();
    let made = image("one");
    signing.registry.push("app", "v1", &made).unwrap();
    let reference = signing.registry.reference("app", "v1");
    let good = signing
        .gpg
        .sign_image(SIGNER, &reference, &made.digest())
        .unwrap();
    let path = format!("/sigs/app@{}/signature-", made.digest().replace(':', "="));
    let server = Fake::start(move |asked| match asked.path.strip_prefix(&path) {
        Some("1") => Reply::ok(good.clone()),
        _ => Reply::status(404),
    });
    signing
        .node
        .set_sources(&format!("lookaside: http://{}/sigs", server.host()));
    signing
        .node
        .pull_with(&reference, crate::support::basic("joe", "sesame"))
        .await
        .unwrap();
    assert_eq!(server.asked().len(), 2);
    assert!(
        server
            .asked()
            .iter()
            .all(|asked| asked.header("authorization").is_none())
    );
}

#[tokio::test]
async fn a_lookaside_with_tls_needs_a_certificate_that_the_node_trusts() {
    let signing = Signing::new();
    let (node, made) = (&signing.node, image("one"));
    signing.registry.push("app", "v1", &made).unwrap();
    let reference = signing.registry.reference("app", "v1");
    let good = signing
        .gpg
        .sign_image(SIGNER, &reference, &made.digest())
        .unwrap();
    let files = OpenSsl::new().unwrap();
    files.authority("ca", LONG).unwrap();
    files.ec_key("server").unwrap();
    let extensions = "basicConstraints=CA:FALSE\nsubjectAltName=IP:127.0.0.1\n";
    files.issue("server", Some("ca"), extensions, LONG).unwrap();
    let path = format!("/sigs/app@{}/signature-1", made.digest().replace(':', "="));
    let (certificate, key) = (files.path("server.crt"), files.path("server.key"));
    let server = Fake::start_tls(&certificate, &key, move |asked| match asked.path == path {
        true => Reply::ok(good.clone()),
        false => Reply::status(404),
    });
    node.set_sources(&format!("lookaside: https://{}/sigs", server.host()));
    let error = node.pull(&reference).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(server.asked().is_empty());
    let own = node.path("certs.d").join(server.host());
    fs::create_dir_all(&own).unwrap();
    fs::copy(files.path("ca.crt"), own.join("ca.crt")).unwrap();
    // A node reads them when it first meets a host.
    let images = Images::new(node.options.clone(), node.store.clone());
    let request = PullRequest {
        reference,
        ..PullRequest::default()
    };
    images.pull(request).await.unwrap();
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn a_lookaside_may_have_signatures_in_cosigns_form_too() {
    let signing = Signing::new();
    let files = OpenSsl::new().unwrap();
    for key in ["signer", "other"] {
        files.ec_key(key).unwrap();
    }
    let made = image("one");
    signing.registry.push("app", "v1", &made).unwrap();
    let reference = signing.registry.reference("app", "v1");
    let kind = "cosign container image signature";
    let payload = payload(kind, &reference, &made.digest());
    let signature = STANDARD.encode(files.sign("signer", &payload).unwrap());
    let stored = json!({"mimeType": "application/vnd.dev.cosign.simplesigning.v1+json",
        "payload": STANDARD.encode(&payload),
        "annotations": {"dev.cosignproject.cosign/signature": signature}});
    let stored = format!("\0sigstore-json\n{stored}");
    signing.sign("app", &made);
    signing.put("app", &made.digest(), 2, stored.as_bytes());
    let by = |key: &str| json!({"type": "sigstoreSigned", "keyPath": files.path(key)});
    signing.node.set_policy(json!([by("other.pub")]));
    signing.refused("app", "wrong, or by another key").await;
    // Beside one by gpg, which another requirement asks for.
    let both = json!([by("signer.pub"), signing.signed_by(SIGNER)]);
    signing.node.set_policy(both);
    signing.node.pull(&reference).await.unwrap();
    let images = &signing.node.images;
    let found = images.find(&reference).await.unwrap().unwrap();
    images.allowed(&found, &reference, "").await.unwrap();
}

#[tokio::test]
async fn a_lookaside_that_fails_or_floods_refuses_only_what_needs_it() {
    let signing = Signing::new();
    let made = image("one");
    signing.registry.push("app", "v1", &made).unwrap();
    let reference = signing.registry.reference("app", "v1");
    let good = signing
        .gpg
        .sign_image(SIGNER, &reference, &made.digest())
        .unwrap();
    let endless = Fake::start(|_| Reply::Endless);
    let forever = Fake::start(move |_| Reply::ok(good.clone()));
    let html = Fake::start(|_| Reply::ok("<html>"));
    let broken = Fake::start(|_| Reply::status(500));
    let gone = {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        closed.local_addr().unwrap().to_string()
    };
    let node = &signing.node;
    for (host, words) in [
        (gone, "RegistryUnavailable: "),
        (broken.host(), "RegistryUnavailable: "),
        (endless.host(), "answers with more than 4194304 bytes"),
        (html.host(), "unknown form begins with 0x3c"),
        (forever.host(), "too many"),
    ] {
        node.set_sources(&format!("lookaside: http://{host}"));
        node.set_policy(json!([signing.signed_by(SIGNER)]));
        let error = node.pull(&reference).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        node.set_policy(json!([{"type": "insecureAcceptAnything"}]));
        node.pull(&reference).await.unwrap();
    }
    assert!(forever.asked().len() <= 2 * 129);
    fs::write(node.options.registries_d.join("default.yaml"), "docker: [").unwrap();
    let error = node.pull(&reference).await.unwrap_err();
    assert!(matches!(error.root(), Error::Config { .. }), "{error}");
}

#[tokio::test]
async fn a_mirrors_image_needs_the_signature_of_the_name_that_was_meant() {
    let signing = Signing::new();
    let made = image("one");
    let served = made.clone();
    let mirror = Fake::start(move |asked| fake::image(&served, asked));
    let conf = format!(
        "[[registry]]\nlocation = \"up.test\"\n[[registry.mirror]]\nlocation = \"{}/m\"\ninsecure = true\n",
        mirror.host()
    );
    fs::write(&signing.node.options.registries_conf, conf).unwrap();
    let as_mirrored = format!("{}/m/app:v1", mirror.host());
    let wrong = signing
        .gpg
        .sign_image(SIGNER, &as_mirrored, &made.digest())
        .unwrap();
    // The lookaside has what is asked for at the mirror.
    signing.put("m/app", &made.digest(), 1, &wrong);
    let error = signing
        .node
        .pull("up.test/app:v1")
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("is not accepted"), "{error}");
    let right = signing
        .gpg
        .sign_image(SIGNER, "up.test/app:v1", &made.digest())
        .unwrap();
    signing.put("m/app", &made.digest(), 2, &right);
    signing.node.pull("up.test/app:v1").await.unwrap();
}

/// Attaches a signature in cosign's form to an image.
pub(super) fn attach(
    registry: &Registry,
    name: &str,
    of: &MadeImage,
    payload: &[u8],
    annotations: Value,
) {
    let (payload, config) = (Blob::new(payload.to_vec()), Blob::new(b"{}".to_vec()));
    for blob in [&payload, &config] {
        registry.push_blob(name, blob).unwrap();
    }
    let descriptor = |kind: &str, blob: &Blob| json!({"mediaType": kind, "digest": blob.digest(), "size": blob.bytes().len()});
    let mut layer = descriptor("application/vnd.dev.cosign.simplesigning.v1+json", &payload);
    layer["annotations"] = annotations;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": kind, "layers": [layer],
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config)});
    let tag = format!("{}.sig", of.digest().replace(':', "-"));
    registry
        .push_manifest(name, &tag, kind, manifest.to_string().as_bytes())
        .unwrap();
}

#[tokio::test]
async fn attachments_of_the_registry_are_asked_for_where_it_is_said_so() {
    let signing = Signing::new();
    let node = &signing.node;
    let files = OpenSsl::new().unwrap();
    for key in ["signer", "other"] {
        files.ec_key(key).unwrap();
    }
    let made = image("one");
    signing.registry.push("app", "v1", &made).unwrap();
    let reference = signing.registry.reference("app", "v1");
    node.set_policy(json!([{"type": "sigstoreSigned", "keyPath": files.path("signer.pub")}]));
    node.set_sources("use-sigstore-attachments: true");
    signing.refused("app", "no signature exists").await;

    let content = |reference: &str, image: &MadeImage| {
        payload(
            "cosign container image signature",
            reference,
            &image.digest(),
        )
    };
    let good = content(&reference, &made);
    let elsewhere = content(&signing.registry.reference("elsewhere", "v1"), &made);
    let of_other = content(&reference, &image("other"));
    for (key, payload, words) in [
        ("other", &good, "wrong, or by another key"),
        ("signer", &elsewhere, "is not accepted"),
        ("signer", &of_other, "does not match"),
    ] {
        let signature = STANDARD.encode(files.sign(key, payload).unwrap());
        let annotations = json!({"dev.cosignproject.cosign/signature": signature});
        attach(&signing.registry, "app", &made, payload, annotations);
        signing.refused("app", words).await;
    }
    let signature = STANDARD.encode(files.sign("signer", &good).unwrap());
    let annotations = json!({"dev.cosignproject.cosign/signature": signature});
    attach(
        &signing.registry,
        "app",
        &made,
        &of_other,
        annotations.clone(),
    );
    signing.refused("app", "wrong, or by another key").await;
    attach(&signing.registry, "app", &made, &good, annotations);
    node.set_sources("use-sigstore-attachments: false");
    signing.refused("app", "no signature exists").await;
    node.set_sources("use-sigstore-attachments: true");
    node.pull(&reference).await.unwrap();
    let found = node.images.find(&reference).await.unwrap().unwrap();
    for name in [reference.as_str(), made.id()] {
        node.images.allowed(&found, name, "").await.unwrap();
    }
    node.set_policy(json!([{"type": "sigstoreSigned", "keyPath": files.path("other.pub")}]));
    node.images
        .allowed(&found, &reference, "")
        .await
        .unwrap_err();
    // An OpenPGP signature is none of this kind, nor the other way round.
    node.set_policy(json!([signing.signed_by(SIGNER)]));
    let error = node
        .images
        .allowed(&found, &reference, "")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no signature exists"), "{error}");
}

#[tokio::test]
async fn an_attachment_that_is_not_what_was_listed_is_refused() {
    let made = image("one");
    let (served, listed) = (made.clone(), digest(b"listed"));
    let registry = Fake::start(move |asked| {
        if asked.path.ends_with(".sig") {
            let layer = json!({"mediaType": "x", "digest": listed, "size": 100, "annotations": {}});
            let manifest = json!({"schemaVersion": 2, "layers": [layer]});
            return Reply::ok(manifest.to_string());
        }
        match asked.path.ends_with(&listed) {
            true => Reply::ok("another"),
            false => fake::image(&served, asked),
        }
    });
    let node = Node::new(&registry.conf());
    node.set_sources("use-sigstore-attachments: true");
    node.set_policy(json!([{"type": "sigstoreSigned", "keyPath": "/nonexistent"}]));
    let error = node.pull(&registry.reference("app:1")).await.unwrap_err();
    assert!(
        matches!(error.root(), Error::DigestMismatch { .. }),
        "{error}"
    );
    node.set_policy(json!([{"type": "insecureAcceptAnything"}]));
    node.pull(&registry.reference("app:1")).await.unwrap();
}
