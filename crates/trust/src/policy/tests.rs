//! Whole policies, with signatures that GnuPG makes.

use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::digest::hex;
use crate::policy::{Error, Policy};
use crate::scope::{Files, Local, Name};
use crate::signature::{Evidence, Signature};
use crate::signer::Gpg;

const UNSIGNED: Evidence<'_> = Evidence {
    manifest: b"{}",
    signatures: &[],
};

fn load(value: &Value) -> Result<Policy, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.json");
    std::fs::write(&path, value.to_string()).unwrap();
    Policy::load(&path)
}

fn name(repository: &str) -> Name<'_> {
    Name {
        repository,
        tag: Some("1"),
        digest: None,
    }
}

fn accept() -> Value {
    json!([{"type": "insecureAcceptAnything"}])
}

fn reject() -> Value {
    json!([{"type": "reject"}])
}

#[test]
fn the_longest_scope_decides() {
    let policy = load(&json!({"default": accept(), "transports": {
        "docker": {
            "bad.io": reject(),
            "bad.io/good": accept(),
            "bad.io/good/app:old": reject(),
            "*.wild.io": reject(),
            "ok.wild.io": accept(),
            "signed.io": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}],
        },
        "docker-daemon": {"": accept()},
    }}))
    .unwrap();
    for (repository, tag, digest, allowed) in [
        ("docker.io/library/busybox", Some("latest"), None, true),
        ("bad.io/app", Some("v1"), None, false),
        ("bad.io/good/app", Some("v1"), None, true),
        ("bad.io/good/app", Some("old"), None, false),
        ("bad.io/good/app", Some("old"), Some("sha256:00"), true),
        ("bad.io/goodish/app", Some("v1"), None, false),
        ("a.b.wild.io/app", None, None, false),
        ("ok.wild.io/app", None, None, true),
        ("wild.io/app", None, None, true),
        ("signed.io/app", None, None, false),
    ] {
        let name = Name {
            repository,
            tag,
            digest,
        };
        assert_eq!(policy.check(&name, &UNSIGNED).is_ok(), allowed, "{name:?}");
    }
}

#[test]
fn a_refusal_starts_with_the_kubelets_word_and_says_why() {
    let policy = load(&json!({"default": [{"type": "sigstoreSigned", "keyPath": "/k"}]})).unwrap();
    let text = policy
        .check(&name("a.io/b"), &UNSIGNED)
        .unwrap_err()
        .to_string();
    assert!(
        text.starts_with("SignatureValidationFailed: image a.io/b:1: "),
        "{text}"
    );
    assert!(
        text.contains("a signature was required, but no signature exists"),
        "{text}"
    );
}

#[test]
fn the_transports_default_comes_before_the_default() {
    let policy =
        load(&json!({"default": reject(), "transports": {"docker": {"": accept()}}})).unwrap();
    policy.check(&name("a.io/b"), &UNSIGNED).unwrap();
}

#[test]
fn what_is_not_understood_is_no_policy() {
    for value in [
        json!({}),
        json!({"default": []}),
        json!({"default": [{}]}),
        json!({"default": [{"type": "unheardOf"}]}),
        json!({"default": [{"type": "reject", "except": "x"}]}),
        json!({"default": {"type": "reject"}}),
        json!({"default": [{"type": "signedBy", "keyPath": "/k"}]}),
        json!({"default": [{"type": "signedBy", "keyType": "GPGKeys"}]}),
        json!({"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": ""}]}),
        json!({"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPaths": []}]}),
        json!({"default": [{"type": "signedBy", "keyType": "gpgkeys", "keyPath": "/k"}]}),
        json!({"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k", "keyData": "QQ=="}]}),
        json!({"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyData": "Q"}]}),
        json!({"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k", "x": 1}]}),
        json!({"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k",
            "signedIdentity": {"type": "any"}}]}),
        json!({"default": [{"type": "signedBaseLayer"}]}),
        json!({"default": [{"type": "sigstoreSigned"}]}),
        json!({"default": [{"type": "sigstoreSigned", "keyPath": "/k", "keyDatas": ["QQ=="]}]}),
        json!({"default": [{"type": "sigstoreSigned", "keyPath": "/k", "fulcio": {}}]}),
        json!({"default": [{"type": "sigstoreSigned", "fulcio": {"caPath": "/c", "oidcIssuer": "i",
            "subjectEmail": "e"}}]}),
        json!({"default": [{"type": "sigstoreSigned", "rekorPublicKeyPath": "/r", "fulcio": {"caPath": "/c",
            "subjectEmail": "e"}}]}),
        json!({"default": [{"type": "sigstoreSigned", "pki": {"caRootsPath": "/c"}}]}),
        json!({"default": [{"type": "sigstoreSigned", "rekorPublicKeyPath": "/r", "pki": {"caRootsPath": "/c",
            "subjectEmail": "e"}}]}),
        json!({"default": accept(), "transport": {}}),
        json!({"default": accept(), "transports": {"docker": {"a.io": []}}}),
        json!({"default": accept(), "transports": {"docker": {"a.*.io": accept()}}}),
        json!({"default": accept(), "transports": {"docker": {"*.io/x": accept()}}}),
    ] {
        assert!(
            matches!(load(&value), Err(Error::Invalid { .. })),
            "{value}"
        );
    }
    let twice =
        br#"{"default": [{"type": "reject"}], "default": [{"type": "insecureAcceptAnything"}]}"#;
    assert!(Policy::parse(Path::new("p"), twice).is_err());
    let missing = Policy::load(Path::new("/nonexistent/policy.json"));
    assert!(matches!(missing, Err(Error::Read { .. })));
}

#[test]
fn what_nobody_evaluates_refuses_before_anything_is_fetched() {
    let base = json!({"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchExact"}});
    let x509 = json!({"type": "signedBy", "keyType": "X509Certificates", "keyPath": "/k"});
    for requirement in [base, x509, json!({"type": "reject"})] {
        let policy = load(&json!({"default": [requirement]})).unwrap();
        let why = policy.needs_signatures(&name("a.io/b")).unwrap_err();
        assert_eq!(policy.check(&name("a.io/b"), &UNSIGNED).unwrap_err(), why);
    }
    let policy = load(&json!({"default": accept()})).unwrap();
    assert_eq!(policy.needs_signatures(&name("a.io/b")), Ok(false));
}

/// A key, an image that it signed as `a.io/b:1`, and policies about it.
struct Signed {
    gpg: Gpg,
    manifest: Vec<u8>,
    signature: Signature,
}

const SIGNER: &str = "signer@x.io";

impl Signed {
    fn new() -> Self {
        let gpg = Gpg::new().unwrap();
        gpg.key(SIGNER, "ed25519", "never").unwrap();
        gpg.key("other@x.io", "ed25519", "never").unwrap();
        let manifest = b"{\"layers\": []}".to_vec();
        let digest = format!("sha256:{}", hex(digest(&SHA256, &manifest).as_ref()));
        let message = gpg.sign_image(SIGNER, "a.io/b:1", &digest).unwrap();
        let signature = Signature::parse(&message).unwrap();
        Self {
            gpg,
            manifest,
            signature,
        }
    }

    fn requirement(&self, user: &str) -> Value {
        let data = STANDARD.encode(self.gpg.export(user).unwrap());
        json!({"type": "signedBy", "keyType": "GPGKeys", "keyData": data})
    }

    fn check(
        &self,
        policy: &Value,
        repository: &str,
        signatures: &[Signature],
    ) -> Result<(), String> {
        let evidence = Evidence {
            manifest: &self.manifest,
            signatures,
        };
        let policy = load(policy).unwrap();
        assert_eq!(policy.needs_signatures(&name(repository)), Ok(true));
        policy
            .check(&name(repository), &evidence)
            .map_err(|refused| refused.reason)
    }
}

#[test]
fn a_good_signature_of_the_image_under_its_name_is_enough() {
    let signed = Signed::new();
    let policy = json!({"default": [signed.requirement(SIGNER)]});
    let good = std::slice::from_ref(&signed.signature);
    signed.check(&policy, "a.io/b", good).unwrap();
    // Beside bad ones, too.
    let other = signed
        .gpg
        .sign_image("other@x.io", "a.io/b:1", &format!("sha256:{:064}", 0))
        .unwrap();
    let bad = Signature::Simple(other);
    let junk = Signature::Simple(vec![0xa3, 0]);
    signed
        .check(
            &policy,
            "a.io/b",
            &[bad.clone(), junk, signed.signature.clone()],
        )
        .unwrap();
    let why = signed
        .check(&policy, "a.io/b", std::slice::from_ref(&bad))
        .unwrap_err();
    assert!(why.contains("which the policy does not name"), "{why}");
    let why = signed
        .check(&policy, "a.io/b", &[bad.clone(), bad])
        .unwrap_err();
    assert!(
        why.starts_with("none of the signatures were accepted, reasons: "),
        "{why}"
    );
    let why = signed.check(&policy, "a.io/b", &[]).unwrap_err();
    assert_eq!(why, "a signature was required, but no signature exists");
}

#[test]
fn a_signature_counts_for_its_manifest_and_its_name_only() {
    let mut signed = Signed::new();
    let policy = json!({"default": [signed.requirement(SIGNER)]});
    let good = [signed.signature.clone()];
    let why = signed.check(&policy, "a.io/other", &good).unwrap_err();
    assert_eq!(why, "signature for identity \"a.io/b:1\" is not accepted");
    let identity = json!({"type": "exactReference", "dockerReference": "a.io/b:1"});
    let mut wide = signed.requirement(SIGNER);
    wide["signedIdentity"] = identity;
    signed
        .check(&json!({"default": [wide]}), "a.io/other", &good)
        .unwrap();
    signed.manifest.push(b' ');
    let why = signed.check(&policy, "a.io/b", &good).unwrap_err();
    assert!(why.starts_with("signature for digest sha256:"), "{why}");
}

#[test]
fn all_requirements_must_be_met() {
    let signed = Signed::new();
    let good = std::slice::from_ref(&signed.signature);
    let (signer, other) = (signed.requirement(SIGNER), signed.requirement("other@x.io"));
    let accept = json!({"type": "insecureAcceptAnything"});
    for (requirements, met) in [
        (json!([accept, signer]), true),
        (json!([signer, signer]), true),
        (json!([signer, other]), false),
        (json!([other, signer]), false),
        (json!([accept, other]), false),
    ] {
        let checked = signed.check(&json!({"default": requirements}), "a.io/b", good);
        assert_eq!(checked.is_ok(), met, "{requirements}");
    }
    let both = signed
        .gpg
        .sign_with(&["--local-user", "other@x.io"], SIGNER, b"{}")
        .unwrap();
    assert!(
        signed
            .check(
                &json!({"default": [signer]}),
                "a.io/b",
                &[Signature::Simple(both)]
            )
            .is_err()
    );
}

#[test]
fn keys_are_read_from_files_each_time() {
    let signed = Signed::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.gpg");
    let good = std::slice::from_ref(&signed.signature);
    for key in ["keyPath", "keyPaths"] {
        let mut requirement = json!({"type": "signedBy", "keyType": "GPGKeys"});
        requirement[key] = match key {
            "keyPath" => json!(file),
            _ => json!([file, file]),
        };
        let policy = json!({"default": [requirement]});
        std::fs::write(&file, signed.gpg.export(SIGNER).unwrap()).unwrap();
        signed.check(&policy, "a.io/b", good).unwrap();
        std::fs::write(&file, signed.gpg.export("other@x.io").unwrap()).unwrap();
        signed.check(&policy, "a.io/b", good).unwrap_err();
        std::fs::remove_file(&file).unwrap();
        let why = signed.check(&policy, "a.io/b", good).unwrap_err();
        assert!(
            why.contains("read key") && why.contains("keys.gpg"),
            "{why}"
        );
    }
}

#[test]
fn files_of_the_node_need_a_signature_for_a_name_that_the_policy_says() {
    let signed = Signed::new();
    let good = std::slice::from_ref(&signed.signature);
    let wanted = |identity: Value| {
        let mut requirement = signed.requirement(SIGNER);
        requirement["signedIdentity"] = identity;
        json!([requirement])
    };
    let policy = load(&json!({"default": reject(), "transports": {"dir": {
        "/srv": accept(),
        "/srv/signed": [signed.requirement(SIGNER)],
        "/srv/exact": wanted(json!({"type": "exactReference", "dockerReference": "a.io/b:1"})),
        "/srv/repository": wanted(json!({"type": "exactRepository", "dockerRepository": "a.io/b"})),
        "/srv/other": wanted(json!({"type": "exactRepository", "dockerRepository": "a.io/c"})),
    }}}))
    .unwrap();
    let none: &[Signature] = &[];
    for (path, signatures, words) in [
        ("/srv/a", none, ""),
        ("/srv/signed/a", none, "no signature exists"),
        ("/srv/signed/a", good, "has no name"),
        ("/srv/exact", none, "no signature exists"),
        ("/srv/exact", good, ""),
        ("/srv/repository", good, ""),
        ("/srv/other", good, "is not accepted"),
        ("/other", good, "rejected by policy"),
    ] {
        let files = Local::Files(Files {
            transport: "dir",
            path,
            which: None,
        });
        let needed = policy.local_needs_signatures(&files);
        assert_eq!(needed.is_err(), words == "rejected by policy", "{path}");
        assert_eq!(needed == Ok(false), path == "/srv/a", "{path}");
        let evidence = Evidence {
            manifest: &signed.manifest,
            signatures,
        };
        match policy.check_local(&files, &evidence) {
            Ok(()) => assert_eq!(words, "", "{path}"),
            Err(why) => assert!(!words.is_empty() && why.reason.contains(words), "{why}"),
        }
    }
}
