//! Images in files with the signatures beside them.

use std::fs;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crioxide_image::Error;
use serde_json::{Value, json};

use super::{OTHER, SIGNER, Signing, image};
use crate::image_maker::{Entry, Format, ImageMaker, Index, MadeImage, go_architecture};
use crate::loading::{directory, load};
use crate::signer::{OpenSsl, payload};

/// Makes the policy ask for this of what is loaded from `dir:`, and nothing of anything else.
fn ask_of_files(signing: &Signing, requirement: &Value) {
    let accept = json!([{"type": "insecureAcceptAnything"}]);
    let policy = json!({"default": accept, "transports": {"dir": {"": [requirement]}}});
    fs::write(&signing.node.options.policy, policy.to_string()).unwrap();
}

fn of_repository(mut requirement: Value) -> Value {
    requirement["signedIdentity"] =
        json!({"type": "exactRepository", "dockerRepository": "a.io/x"});
    requirement
}

struct Files<'a> {
    signing: &'a Signing,
    path: PathBuf,
}

impl<'a> Files<'a> {
    fn new(signing: &'a Signing, image: &MadeImage) -> Self {
        let path = signing.node.path("files");
        directory(&path, image);
        Self { signing, path }
    }

    fn put(&self, name: &str, signature: &[u8]) {
        fs::write(self.path.join(name), signature).unwrap();
    }

    async fn load(&self) -> Result<String, Error> {
        let location = format!("dir:{}", self.path.display());
        let loaded = load(&self.signing.node, &location, &["a.io/x:1"]).await?;
        Ok(loaded.id.to_string())
    }

    async fn refused(&self, words: &str) {
        let error = self.load().await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Refused(_)), "{text}");
        assert!(text.starts_with("SignatureValidationFailed: "), "{text}");
        assert!(text.contains(words), "{words}: {text}");
        let found = self.signing.node.images.find("a.io/x:1").await.unwrap();
        assert!(found.is_none());
    }
}

#[tokio::test]
async fn a_directorys_image_is_loaded_with_a_good_signature_only_and_keeps_it() {
    let signing = Signing::new();
    let (gpg, made) = (&signing.gpg, image("one"));
    let files = Files::new(&signing, &made);
    let wanted = of_repository(signing.signed_by(SIGNER));
    ask_of_files(&signing, &wanted);
    files.refused("no signature exists").await;
    let sign = |user: &str, name: &str, digest: &str| gpg.sign_image(user, name, digest).unwrap();
    let good = sign(SIGNER, "a.io/x:1", &made.digest());
    for (signature, words) in [
        (
            sign(OTHER, "a.io/x:1", &made.digest()),
            "which the policy does not name",
        ),
        (sign(SIGNER, "a.io/y:1", &made.digest()), "is not accepted"),
        (
            sign(SIGNER, "a.io/x:1", &image("two").digest()),
            "does not match",
        ),
    ] {
        files.put("signature-1", &signature);
        files.refused(words).await;
    }
    // One that follows a gap is not there.
    files.put("signature-3", &good);
    files.refused("does not match").await;
    files.put("signature-2", &good);
    // Files have no name that a signature could be compared with.
    ask_of_files(&signing, &signing.signed_by(SIGNER));
    files.refused("the image has no name here").await;
    ask_of_files(&signing, &wanted);
    assert_eq!(files.load().await.unwrap(), made.id());

    // What was beside the files counts for the name that it was given, at each creation.
    let images = &signing.node.images;
    let found = images.find("a.io/x:1").await.unwrap().unwrap();
    for (user, name, allowed) in [
        (SIGNER, "a.io/x:1", true),
        (SIGNER, "a.io/x:2", false),
        ("third@x.io", "a.io/x:1", false),
    ] {
        if user == "third@x.io" {
            gpg.key(user, "ed25519", "never").unwrap();
        }
        signing.node.set_policy(json!([signing.signed_by(user)]));
        let checked = images.allowed(&found, name, "").await;
        assert_eq!(checked.is_ok(), allowed, "{user} {name}: {checked:?}");
    }
}

#[tokio::test]
async fn a_directorys_signatures_may_be_cosigns_and_of_the_chosen_image_of_an_index() {
    let signing = Signing::new();
    let keys = OpenSsl::new().unwrap();
    keys.ec_key("signer").unwrap();
    let build = |content: &str, architecture: &str| {
        ImageMaker::new()
            .layer(&[Entry::file("a", 0o644, content)])
            .architecture(architecture)
            .build()
    };
    let (own, foreign) = (build("own", go_architecture()), build("foreign", "s390x"));
    let index = Index::of(Format::Oci, &[foreign, own.clone()]);
    let files = Files::new(&signing, &own);
    let hex = own.digest().replace("sha256:", "");
    fs::write(files.path.join("manifest.json"), index.manifest()).unwrap();
    files.put(&format!("{hex}.manifest.json"), own.manifest());
    let signer = json!({"type": "sigstoreSigned", "keyPath": keys.path("signer.pub")});
    ask_of_files(&signing, &of_repository(signer));
    let payload = payload(
        "cosign container image signature",
        "a.io/x:1",
        &own.digest(),
    );
    let signature = STANDARD.encode(keys.sign("signer", &payload).unwrap());
    let stored = json!({"mimeType": "application/vnd.dev.cosign.simplesigning.v1+json",
        "payload": STANDARD.encode(&payload),
        "annotations": {"dev.cosignproject.cosign/signature": signature}});
    let stored = format!("\0sigstore-json\n{stored}");
    // That of the index is another.
    files.put("signature-1", stored.as_bytes());
    files.refused("no signature exists").await;
    files.put(&format!("{hex}.signature-1"), stored.as_bytes());
    assert_eq!(files.load().await.unwrap(), own.id());
}

#[tokio::test]
async fn signatures_beside_files_that_are_none_refuse_only_what_needs_them() {
    let signing = Signing::new();
    let made = image("one");
    let files = Files::new(&signing, &made);
    let wanted = of_repository(signing.signed_by(SIGNER));
    let accept = json!({"type": "insecureAcceptAnything"});
    let link = files.path.join("signature-1");
    for (case, words) in [
        ("text", "unknown form begins with 0x3c"),
        ("large", "larger than 4194304 bytes"),
        ("leading out", "signature-1"),
    ] {
        match case {
            "text" => files.put("signature-1", b"<html>"),
            "large" => files.put("signature-1", &vec![0xa3; (4 << 20) + 1]),
            _ => {
                fs::remove_file(&link).unwrap();
                std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
            }
        }
        ask_of_files(&signing, &wanted);
        let error = files.load().await.unwrap_err();
        assert!(matches!(error, Error::Local { .. }), "{case}: {error}");
        assert!(error.to_string().contains(words), "{case}: {error}");
        ask_of_files(&signing, &accept);
        assert_eq!(files.load().await.unwrap(), made.id(), "{case}");
    }
    fs::remove_file(&link).unwrap();
    let good = signing
        .gpg
        .sign_image(SIGNER, "a.io/x:1", &made.digest())
        .unwrap();
    for number in 1..=129 {
        files.put(&format!("signature-{number}"), &good);
    }
    ask_of_files(&signing, &wanted);
    let error = files.load().await.unwrap_err();
    assert!(error.to_string().contains("too many"), "{error}");
}
