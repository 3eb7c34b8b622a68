//! Signatures. Nobody has the secret keys of those whose public keys are beside this file: so
//! whatever comes, nothing may be accepted but the two payloads that were signed with them once.

use serde_json::Value;

use crate::json::Object;
use crate::openpgp::KeyRing;
use crate::payload::{Kind, Payload};
use crate::signature::Signature;
use crate::sigstore::Sigstore;
use crate::time::Now;

const KEYS: &[u8] = include_bytes!("keys.gpg");
const MESSAGE: &[u8] = include_bytes!("message.gpg");
const SIGNED: &[u8] = include_bytes!("payload.json");
const COSIGNED: &[u8] = include_bytes!("cosigned.json");
const SIGNER: &str = include_str!("signer.pub");
const REKOR: &str = include_str!("rekor.pub");
const ROOT: &str = include_str!("root.crt");
/// Somewhat after they were made: 2027.
const NOW: Now = Now(1_800_000_000);

/// OpenPGP messages: what is read from one is bounded, and what is accepted was signed.
pub fn openpgp_message(bytes: &[u8]) {
    let ring = KeyRing::parse(&[KEYS.to_vec()]).expect("a good key");
    if let Ok(payload) = ring.verify(bytes, NOW) {
        assert_eq!(payload, SIGNED);
    }
}

/// Key rings: whatever they have, the message says what it says, or is refused; an empty one accepts
/// nothing.
pub fn openpgp_keys(bytes: &[u8]) {
    let Ok(ring) = KeyRing::parse(&[bytes.to_vec()]) else {
        return;
    };
    if let Ok(payload) = ring.verify(MESSAGE, NOW) {
        assert_eq!(payload, SIGNED);
    }
    assert!(ring.verify(b"", NOW).is_err());
}

/// Payloads: what is read is what a slow reader finds in the same bytes, in one kind only.
pub fn payload(bytes: &[u8]) {
    let simple = Payload::parse(Kind::Simple, bytes);
    let cosign = Payload::parse(Kind::Sigstore, bytes);
    assert!(simple.is_err() || cosign.is_err(), "both kinds at once");
    let (Ok(payload), kind) = (match simple {
        Ok(payload) => (Ok(payload), "atomic container signature"),
        Err(_) => (cosign, "cosign container image signature"),
    }) else {
        return;
    };
    let slow: Value = serde_json::from_slice(bytes).expect("it was read");
    let critical = &slow["critical"];
    assert_eq!(critical["type"], kind);
    assert_eq!(critical["identity"]["docker-reference"], payload.reference);
    let manifest = payload.manifest.to_string();
    assert_eq!(critical["image"]["docker-manifest-digest"], manifest);
}

/// Stored signatures: what is read is written and read again as it is, and an attachment that is
/// accepted, by any way to a key, was signed.
pub fn sigstore(bytes: &[u8]) {
    let Ok(signature) = Signature::parse(bytes) else {
        return;
    };
    let again = Signature::parse(&signature.encode());
    let Signature::Sigstore(attachment) = &signature else {
        // What is named as simple signing may be anything; written, it has no name.
        assert!(again.is_err() || again == Ok(signature));
        return;
    };
    assert_eq!(again.as_ref(), Ok(&signature));
    for policy in policies() {
        if policy.verify(attachment, NOW).is_ok() {
            assert_eq!(attachment.payload, COSIGNED);
        }
    }
}

fn policies() -> [Sigstore; 4] {
    use base64::Engine as _;
    let data = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    let (signer, rekor, root) = (data(SIGNER), data(REKOR), data(ROOT));
    [
        format!(r#"{{"keyData":"{signer}"}}"#),
        format!(r#"{{"keyData":"{signer}","rekorPublicKeyData":"{rekor}"}}"#),
        format!(
            r#"{{"rekorPublicKeyData":"{rekor}","fulcio":{{"caData":"{root}","oidcIssuer":"https://accounts.x.io","subjectEmail":"joe@x.io"}}}}"#
        ),
        format!(r#"{{"pki":{{"caRootsData":"{root}","subjectEmail":"joe@x.io"}}}}"#),
    ]
    .map(|text| {
        let object = Object::parse("requirement", text.as_bytes());
        let parsed = object.and_then(|mut object| Sigstore::take(&mut object));
        parsed.expect("a good requirement")
    })
}
