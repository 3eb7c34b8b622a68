//! Artifacts that must be signed by somebody: at the pull, and by what was kept with them wherever
//! they are used.

use std::collections::BTreeMap;
use std::fs;

use crioxide_image::{Artifact, Error};
use serde_json::json;

use super::{OTHER, SIGNER, Signing};
use crate::image_maker::{ArtifactMaker, MadeArtifact};

fn made(content: &str) -> MadeArtifact {
    ArtifactMaker::new()
        .layer(
            json!({"org.opencontainers.image.title": "file"}),
            content.to_owned(),
        )
        .build()
}

async fn found(signing: &Signing, name: &str) -> Artifact {
    let found = signing.node.images.find_artifact(name).await.unwrap();
    found.unwrap_or_else(|| panic!("{name}"))
}

/// Expects that it may be used under all of these names, or under none.
async fn allowed(signing: &Signing, artifact: &Artifact, names: &[&str], words: Option<&str>) {
    for name in names {
        let images = &signing.node.images;
        match (images.artifact_allowed(artifact, name, "").await, words) {
            (Ok(()), None) => {}
            (Err(Error::Refused(why)), Some(words)) => {
                let text = why.to_string();
                assert!(text.starts_with("SignatureValidationFailed: "), "{text}");
                assert!(text.contains(words), "{name}: {text}");
            }
            (checked, _) => panic!("{name}: {checked:?}, and not {words:?}"),
        }
    }
}

#[tokio::test]
async fn an_artifact_is_used_as_long_as_a_kept_signature_is_asked_for() {
    let signing = Signing::new();
    let (node, registry) = (&signing.node, &signing.registry);
    let artifact = made("data");
    registry.push_artifact("team/app", "v1", &artifact).unwrap();
    let reference = registry.reference("team/app", "v1");
    let by_digest = format!("{}/team/app@{}", registry.addr(), artifact.digest());
    let names = [reference.as_str(), &by_digest, artifact.id(), ""];

    // Unsigned: not pulled; and not used where it is there for another's sake.
    let missing = "a signature was required, but no signature exists";
    let error = node.pull(&reference).await.unwrap_err();
    assert!(error.to_string().contains(missing), "{error}");
    let strict = json!([signing.signed_by(SIGNER)]);
    let accept = json!([{"type": "insecureAcceptAnything"}]);
    node.set_policy(accept.clone());
    node.pull(&reference).await.unwrap();
    node.set_policy(strict.clone());
    let kept = found(&signing, &reference).await;
    allowed(&signing, &kept, &names, Some(missing)).await;
    let data = node.images.artifact_data(&by_digest, "", 4).await;
    assert!(
        matches!(data.unwrap_err().root(), Error::Refused(_)),
        "of what is there"
    );

    // What is kept decides, whatever the policy was at the pull, and no registry is asked.
    let gpg = &signing.gpg;
    let digest = artifact.digest();
    let by_other = gpg.sign_image(OTHER, &reference, digest).unwrap();
    let good = gpg.sign_image(SIGNER, &reference, digest).unwrap();
    signing.put("team/app", digest, 1, &by_other);
    let wrong = "which the policy does not name";
    let error = node.pull(&reference).await.unwrap_err();
    assert!(error.to_string().contains(wrong), "{error}");
    signing.put("team/app", digest, 2, &good);
    node.set_policy(accept.clone());
    node.pull(&reference).await.unwrap();
    fs::remove_dir_all(node.path("lookaside")).unwrap();
    node.set_policy(strict.clone());
    let kept = found(&signing, &reference).await;
    allowed(&signing, &kept, &names, None).await;
    let data = node.images.artifact_data(&by_digest, "", 4).await;
    assert_eq!(data.unwrap(), b"data");
    let elsewhere = registry.reference("team/elsewhere", "v1");
    allowed(&signing, &kept, &[&elsewhere], Some("is not accepted")).await;
    for refusing in [
        json!([{"type": "reject"}]),
        json!([{"type": "sigstoreSigned",
        "keyPath": "/nonexistent"}]),
    ] {
        node.set_policy(refusing);
        let refused = node.images.artifact_allowed(&kept, &reference, "").await;
        assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    }

    // Kept signatures that are damaged prove nothing; those that no source has any more stay.
    node.set_policy(strict.clone());
    let file = node.path("root/artifacts/signatures").join(artifact.id());
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let refused = node.images.artifact_allowed(&kept, &reference, "").await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    fs::write(&file, &bytes).unwrap();
    allowed(&signing, &kept, &names, None).await;
    node.set_policy(accept);
    node.pull(&reference).await.unwrap();
    node.set_policy(strict);
    allowed(&signing, &kept, &names, None).await;
    assert_eq!(fs::read(&file).unwrap(), bytes);
    node.images
        .remove(artifact.id(), BTreeMap::new())
        .await
        .unwrap();
    assert!(!fs::exists(&file).unwrap());
}

#[tokio::test]
async fn an_artifact_without_a_name_is_the_defaults_to_judge() {
    let signing = Signing::new();
    let (node, registry) = (&signing.node, &signing.registry);
    node.set_policy(json!([{"type": "insecureAcceptAnything"}]));
    let (old, new) = (made("old"), made("new"));
    for artifact in [&old, &new] {
        registry.push_artifact("app", "v1", artifact).unwrap();
        node.pull(&registry.reference("app", "v1")).await.unwrap();
    }
    let kept = found(&signing, old.id()).await;
    allowed(&signing, &kept, &[old.id()], None).await;
    node.set_policy(json!([{"type": "reject"}]));
    allowed(&signing, &kept, &[old.id()], Some("rejected")).await;
    node.set_policy(json!([signing.signed_by(SIGNER)]));
    allowed(&signing, &kept, &[old.id()], Some("no signature")).await;
}
