//! Signatures that are kept with an image decide whether it runs, whatever the policy was when it was
//! pulled.

use std::fs;

use crioxide_image::Error;
use serde_json::json;

use super::{OTHER, SIGNER, Signing, image};

#[tokio::test]
async fn a_policy_that_asks_for_signatures_later_finds_those_that_were_kept() {
    let signing = Signing::new();
    let node = &signing.node;
    let (signed, unsigned) = (image("signed"), image("unsigned"));
    for (name, made) in [("app", &signed), ("bare", &unsigned)] {
        signing.registry.push(name, "v1", made).unwrap();
    }
    signing.sign("app", &signed);
    node.set_policy(json!([{"type": "insecureAcceptAnything"}]));
    let (app, bare) = (
        signing.registry.reference("app", "v1"),
        signing.registry.reference("bare", "v1"),
    );
    node.pull(&app).await.unwrap();
    node.pull(&bare).await.unwrap();
    // What it was pulled from is not asked again.
    fs::remove_dir_all(node.path("lookaside")).unwrap();
    let found = node.images.find(&app).await.unwrap().unwrap();
    let by_digest = format!("{}/app@{}", signing.registry.addr(), signed.digest());
    let names = [app.as_str(), &by_digest, signed.id(), ""];
    for (requirement, allowed) in [
        (signing.signed_by(SIGNER), true),
        (signing.signed_by(OTHER), false),
        (json!({"type": "reject"}), false),
    ] {
        node.set_policy(json!([requirement]));
        for name in names {
            let checked = node.images.allowed(&found, name, "").await;
            assert_eq!(
                checked.is_ok(),
                allowed,
                "{requirement} {name}: {checked:?}"
            );
        }
    }
    node.set_policy(json!([signing.signed_by(SIGNER)]));
    let other = signing.registry.reference("app", "v2");
    let error = node.images.allowed(&found, &other, "").await.unwrap_err();
    assert!(
        error.to_string().starts_with("SignatureValidationFailed: "),
        "{error}"
    );
    assert!(error.to_string().contains("is not accepted"), "{error}");
    let found = node.images.find(&bare).await.unwrap().unwrap();
    for name in [bare.as_str(), unsigned.id()] {
        let error = node.images.allowed(&found, name, "").await.unwrap_err();
        assert!(error.to_string().contains("no signature exists"), "{error}");
    }
    // It is signed, and pulled again.
    signing.sign("bare", &unsigned);
    node.pull(&bare).await.unwrap();
    let found = node.images.find(&bare).await.unwrap().unwrap();
    node.images.allowed(&found, &bare, "").await.unwrap();
    // What is kept stays, whatever its source has to say later.
    fs::remove_dir_all(node.path("lookaside")).unwrap();
    node.set_policy(json!([{"type": "insecureAcceptAnything"}]));
    node.pull(&bare).await.unwrap();
    node.set_policy(json!([signing.signed_by(SIGNER)]));
    node.images.allowed(&found, &bare, "").await.unwrap();
}

#[tokio::test]
async fn somebody_elses_pull_of_the_same_image_takes_no_signature_away() {
    let signing = Signing::new();
    let (node, registry) = (&signing.node, &signing.registry);
    let made = image("one");
    for name in ["ours", "theirs"] {
        registry.push(name, "v1", &made).unwrap();
    }
    signing.sign("ours", &made);
    let ours = registry.reference("ours", "v1");
    let id = node.pull(&ours).await.unwrap();
    let found = node.images.find(&ours).await.unwrap().unwrap();
    node.images.allowed(&found, &ours, "").await.unwrap();
    let theirs = format!("{}/theirs@{}", registry.addr(), made.digest());
    let by_them = async || {
        node.set_policy(json!([{"type": "insecureAcceptAnything"}]));
        assert_eq!(node.pull(&theirs).await.unwrap(), id);
        node.set_policy(json!([signing.signed_by(SIGNER)]));
        node.images.allowed(&found, &ours, "").await.unwrap();
        node.images.allowed(&found, &theirs, "").await.unwrap_err();
    };
    // Without signatures, with others, with some that can't be had, and with as many as there may be.
    by_them().await;
    let other = signing.gpg.sign_image(OTHER, &theirs, &made.digest());
    signing.put("theirs", &made.digest(), 1, &other.unwrap());
    by_them().await;
    signing.put("theirs", &made.digest(), 2, b"no signature");
    by_them().await;
    for number in 1..=128 {
        let junk = [&[0xa3][..], number.to_string().as_bytes()].concat();
        signing.put("theirs", &made.digest(), number, &junk);
    }
    by_them().await;
    // Another manifest of the same configuration has as many, and is the last one.
    let pulled = node.store.image(&id).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(made.manifest()).unwrap();
    manifest["annotations"] = json!({"by": "them"});
    let manifest = manifest.to_string().into_bytes();
    let digest = storage::Digest::of(&manifest);
    let pushed = registry.push_manifest("theirs", "v2", made.media_type(), &manifest);
    pushed.unwrap();
    for number in 1..=128 {
        let junk = [&[0xa3][..], number.to_string().as_bytes()].concat();
        signing.put("theirs", digest.as_str(), number, &junk);
    }
    let theirs = format!("{}/theirs@{digest}", registry.addr());
    node.set_policy(json!([{"type": "insecureAcceptAnything"}]));
    assert_eq!(node.pull(&theirs).await.unwrap(), id);
    assert_ne!(node.store.image(&id).unwrap().digests, pulled.digests);
    node.set_policy(json!([signing.signed_by(SIGNER)]));
    node.images.allowed(&found, &ours, "").await.unwrap();
}

#[tokio::test]
async fn one_image_under_two_names_needs_a_signature_for_each() {
    let signing = Signing::new();
    let node = &signing.node;
    let made = image("one");
    for name in ["a", "b"] {
        signing.registry.push(name, "v1", &made).unwrap();
    }
    signing.sign("a", &made);
    node.set_policy(json!([{"type": "insecureAcceptAnything"}]));
    let (a, b) = (
        signing.registry.reference("a", "v1"),
        signing.registry.reference("b", "v1"),
    );
    node.pull(&a).await.unwrap();
    node.set_policy(json!([signing.signed_by(SIGNER)]));
    let found = node.images.find(&a).await.unwrap().unwrap();
    node.images.allowed(&found, &a, "").await.unwrap();
    node.images.allowed(&found, &b, "").await.unwrap_err();
    let error = node.pull(&b).await.unwrap_err();
    assert!(error.to_string().contains("no signature exists"), "{error}");
    // By ID one of its names is enough.
    node.images.allowed(&found, made.id(), "").await.unwrap();
}

#[tokio::test]
async fn each_namespace_has_its_own_idea_of_whom_to_trust() {
    let signing = Signing::new();
    let options = crioxide_image::Options {
        policy_dir: Some(signing.node.path("policies")),
        ..signing.node.options.clone()
    };
    let images = crioxide_image::Images::new(options, signing.node.store.clone());
    let made = image("one");
    signing.registry.push("app", "v1", &made).unwrap();
    signing.sign("app", &made);
    let reference = signing.registry.reference("app", "v1");
    fs::create_dir(signing.node.path("policies")).unwrap();
    let strict = json!({"default": [signing.signed_by(OTHER)]});
    fs::write(
        signing.node.path("policies/strict.json"),
        strict.to_string(),
    )
    .unwrap();
    let pull = |namespace: &str| {
        images.pull(crioxide_image::PullRequest {
            reference: reference.clone(),
            namespace: namespace.to_owned(),
            ..Default::default()
        })
    };
    let error = pull("strict").await.unwrap_err();
    assert!(
        error.to_string().contains("which the policy does not name"),
        "{error}"
    );
    pull("lax").await.unwrap();
    let found = images.find(&reference).await.unwrap().unwrap();
    images.allowed(&found, &reference, "lax").await.unwrap();
    let error = images
        .allowed(&found, &reference, "strict")
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error}");
}
