//! Signatures in cosign's form, with keys, certificates and log entries that OpenSSL makes.

use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{BUNDLE, CERTIFICATE, CHAIN, SIGNATURE, Sigstore};
use crate::cosign::{self, ISSUER, LEAF, fulcio_extensions};
use crate::digest::hex;
use crate::json::Object;
use crate::signature::{Attachment, SIGSTORE_SIGNATURE};
use crate::signer::{LONG, OpenSsl, Validity, payload};
use crate::time::Now;

/// 2024-06-01, 12:00: when the certificate below is valid.
const THEN: i64 = 1_717_243_200;
const SHORT: Validity = Validity {
    from: "20240601115500Z",
    until: "20240601120500Z",
};

thread_local! {
    /// Of each test its own: keys `signer`, `other`, `rekor`, `log2`; authorities `root` and `root2`;
    /// `middle`, issued by `root`; and `leaf`'s key.
    static FILES: Rc<OpenSsl> = Rc::new(make_files());
}

fn files() -> Rc<OpenSsl> {
    FILES.with(Rc::clone)
}

fn make_files() -> OpenSsl {
    let files = OpenSsl::new().unwrap();
    for key in ["signer", "other", "rekor", "log2", "middle", "leaf"] {
        files.ec_key(key).unwrap();
    }
    files.authority("root", LONG).unwrap();
    files.authority("root2", LONG).unwrap();
    let authority = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n";
    files
        .issue("middle", Some("root"), authority, LONG)
        .unwrap();
    files
}

/// Issues a certificate for `leaf`'s key and returns its PEM.
fn leaf(issuer: &str, extensions: &str, validity: Validity) -> String {
    files()
        .issue("leaf", Some(issuer), extensions, validity)
        .unwrap();
    files().read("leaf.crt").unwrap()
}

fn now() -> Now {
    Now::by_clock()
}

fn content() -> Vec<u8> {
    let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
    payload("cosign container image signature", "a.io/b:1", &digest)
}

fn attachment(key: &str) -> Attachment {
    let payload = content();
    let signature = STANDARD.encode(files().sign(key, &payload).unwrap());
    Attachment {
        media_type: SIGSTORE_SIGNATURE.to_owned(),
        payload,
        annotations: [(SIGNATURE.to_owned(), signature)].into(),
    }
}

fn annotate(attachment: &mut Attachment, key: &str, value: impl Into<String>) {
    attachment.annotations.insert(key.to_owned(), value.into());
}

/// A log's entry for an attachment by a key or certificate.
fn entry(attachment: &Attachment, signer: &str) -> Value {
    let signature = &attachment.annotations[SIGNATURE];
    cosign::log_entry(&files(), &attachment.payload, signature, signer).unwrap()
}

/// The bundle that `log` makes of an entry.
fn bundle(log: &str, entry: &Value, time: i64) -> String {
    cosign::log_bundle(&files(), log, entry, time).unwrap()
}

fn policy(value: Value) -> Sigstore {
    let mut object = Object::of("requirement", value).unwrap();
    let parsed = Sigstore::take(&mut object).unwrap();
    object.end().unwrap();
    parsed
}

fn pem(file: &str) -> Value {
    json!(STANDARD.encode(files().read(file).unwrap()))
}

#[track_caller]
fn refused(policy: &Sigstore, attachment: &Attachment, words: &str) {
    let why = policy.verify(attachment, now()).unwrap_err();
    assert!(why.contains(words), "{why}");
}

#[test]
fn a_key_that_the_policy_names_is_enough() {
    let good = attachment("signer");
    for value in [
        json!({"keyData": pem("signer.pub")}),
        json!({"keyDatas": [pem("other.pub"), pem("signer.pub")]}),
        json!({"keyPath": files().path("signer.pub")}),
        json!({"keyPaths": [files().path("signer.pub"), files().path("other.pub")]}),
    ] {
        let said = policy(value).verify(&good, now()).unwrap();
        assert_eq!(said.reference, "a.io/b:1");
    }
    let other = policy(json!({"keyData": pem("other.pub")}));
    refused(&other, &good, "wrong, or by another key");
    let gone = policy(json!({"keyPath": "/nonexistent/key"}));
    refused(&gone, &good, "read key /nonexistent/key");
    // A key that can't be read is an error, even beside one that is good.
    let broken = policy(json!({"keyDatas": [pem("signer.pub"), "QQ=="]}));
    refused(&broken, &good, "no PEM");
    let secret = policy(json!({"keyData": pem("signer.key")}));
    refused(&secret, &good, "no PEM");
}

#[test]
fn keys_of_each_kind_that_cosign_knows_are_verified() {
    let files = OpenSsl::new().unwrap();
    for (name, kind) in [
        ("p256", "-algorithm EC -pkeyopt ec_paramgen_curve:P-256"),
        ("p384", "-algorithm EC -pkeyopt ec_paramgen_curve:P-384"),
        ("p521", "-algorithm EC -pkeyopt ec_paramgen_curve:P-521"),
        ("rsa", "-algorithm RSA -pkeyopt rsa_keygen_bits:2048"),
        ("ed", "-algorithm ED25519"),
    ] {
        files.key(name, kind).unwrap();
        let mut signed = attachment("signer");
        let signature = match name {
            "ed" => files.sign_raw(name, &signed.payload),
            _ => files.sign(name, &signed.payload),
        };
        annotate(&mut signed, SIGNATURE, STANDARD.encode(signature.unwrap()));
        let data = STANDARD.encode(files.read(&format!("{name}.pub")).unwrap());
        let policy = policy(json!({"keyData": data}));
        policy
            .verify(&signed, now())
            .unwrap_or_else(|why| panic!("{name}: {why}"));
        signed.payload[0] ^= 1;
        refused(&policy, &signed, "wrong");
    }
    for kind in [
        "-algorithm X25519",
        "-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1",
    ] {
        files.key("odd", kind).unwrap();
        let data = STANDARD.encode(files.read("odd.pub").unwrap());
        refused(
            &policy(json!({"keyData": data})),
            &attachment("signer"),
            "unknown kind",
        );
    }
}

#[test]
fn what_was_changed_or_is_missing_is_noticed() {
    let policy = policy(json!({"keyData": pem("signer.pub")}));
    for at in 0..content().len() {
        let mut changed = attachment("signer");
        changed.payload[at] ^= 1;
        assert!(policy.verify(&changed, now()).is_err(), "byte {at}");
        if at > 3 {
            break;
        }
    }
    let mut changed = attachment("signer");
    changed.annotations.clear();
    refused(&policy, &changed, "no annotation");
    annotate(&mut changed, SIGNATURE, "!");
    refused(&policy, &changed, "base64");
    // A good signature over something else says nothing.
    let mut other = attachment("signer");
    other.payload = b"{}".to_vec();
    let signature = STANDARD.encode(files().sign("signer", b"{}").unwrap());
    annotate(&mut other, SIGNATURE, signature);
    refused(&policy, &other, "payload has no");
}

#[test]
fn a_log_that_is_asked_for_must_have_seen_this_signature_by_this_key() {
    let policy = policy(json!({"keyDatas": [pem("other.pub"), pem("signer.pub")],
        "rekorPublicKeyDatas": [pem("log2.pub"), pem("rekor.pub")]}));
    let key = files().read("signer.pub").unwrap();
    let mut signed = attachment("signer");
    refused(&policy, &signed, "no annotation dev.sigstore.cosign/bundle");
    let good = entry(&signed, &key);
    annotate(&mut signed, BUNDLE, bundle("rekor", &good, THEN));
    policy.verify(&signed, now()).unwrap();
    annotate(&mut signed, BUNDLE, bundle("other", &good, THEN));
    refused(&policy, &signed, "not signed by the policy's Rekor");
    let other_key = files().read("other.pub").unwrap();
    let stranger = files().read("rekor.pub").unwrap();
    let other_payload = entry(
        &Attachment {
            payload: b"{}".to_vec(),
            ..signed.clone()
        },
        &key,
    );
    let later = entry(&attachment("signer"), &key);
    let mut version = good.clone();
    version["apiVersion"] = json!("0.0.2");
    let mut algorithm = good.clone();
    algorithm["spec"]["data"]["hash"]["algorithm"] = json!("sha512");
    for (body, words) in [
        (entry(&signed, &other_key), "wrong, or by another key"),
        (entry(&signed, &stranger), "for another key"),
        (
            entry(&signed, &format!("{key}{other_key}")),
            "not one part of PEM",
        ),
        (other_payload, "for another payload"),
        (later, "for another signature"),
        (version, "version 0.0.2"),
        (algorithm, "digest of sha512"),
        (json!({}), "no \"kind\""),
    ] {
        annotate(&mut signed, BUNDLE, bundle("rekor", &body, THEN));
        refused(&policy, &signed, words);
    }
    // What the log signed may not be told otherwise.
    let text = bundle("rekor", &good, THEN);
    for (from, to) in [
        ("1717243200", "1717243201"),
        ("c0ff", "c0fe"),
        ("\"logIndex\":7", "\"logIndex\":8"),
    ] {
        assert!(text.contains(from), "{text}");
        annotate(&mut signed, BUNDLE, text.replace(from, to));
        refused(&policy, &signed, "not signed by the policy's Rekor");
    }
    for (from, to) in [
        ("\"logIndex\":7", "\"logIndex\":7.5"),
        ("\"logIndex\":7", "\"logIndex\":7,\"x\":1"),
    ] {
        annotate(&mut signed, BUNDLE, text.replace(from, to));
        assert!(policy.verify(&signed, now()).is_err());
    }
}

fn fulcio() -> Sigstore {
    policy(
        json!({"rekorPublicKeyData": pem("rekor.pub"), "fulcio": {"caData": pem("root.crt"),
        "oidcIssuer": ISSUER, "subjectEmail": "joe@x.io"}}),
    )
}

/// An attachment that `leaf`'s key signed, with this certificate, logged at that time.
fn certified(certificate: &str, chain: &str, time: i64) -> Attachment {
    let mut signed = attachment("leaf");
    annotate(&mut signed, CERTIFICATE, certificate);
    if !chain.is_empty() {
        annotate(&mut signed, CHAIN, chain);
    }
    let body = entry(&signed, certificate);
    annotate(&mut signed, BUNDLE, bundle("rekor", &body, time));
    signed
}

#[test]
fn fulcio_certifies_somebody_for_the_moment_of_signing() {
    let root = files().read("root.crt").unwrap();
    let good = leaf("root", &fulcio_extensions(), SHORT);
    fulcio().verify(&certified(&good, "", THEN), now()).unwrap();
    fulcio()
        .verify(&certified(&good, &root, THEN), now())
        .unwrap();
    for time in [THEN - 600, THEN + 600] {
        refused(
            &fulcio(),
            &certified(&good, "", time),
            "the signer's certificate: ",
        );
    }
    let mut unlogged = certified(&good, "", THEN);
    unlogged.annotations.remove(BUNDLE);
    refused(
        &fulcio(),
        &unlogged,
        "no annotation dev.sigstore.cosign/bundle",
    );
    let mut bare = certified(&good, "", THEN);
    bare.annotations.remove(CERTIFICATE);
    refused(
        &fulcio(),
        &bare,
        "no annotation dev.sigstore.cosign/certificate",
    );
    // The log saw another certificate of the same key.
    let mut swapped = certified(&good, "", THEN);
    annotate(
        &mut swapped,
        CERTIFICATE,
        leaf("root", &fulcio_extensions(), SHORT),
    );
    refused(&fulcio(), &swapped, "for another key or certificate");
}

#[test]
fn fulcio_certificates_are_by_its_authority_and_for_the_one_who_is_meant() {
    let good = fulcio_extensions();
    for (issuer, extensions, words) in [
        ("root2", good.clone(), "the signer's certificate: "),
        ("root", good.replace("joe@", "eve@"), "and not \"joe@x.io\""),
        (
            "root",
            good.replace("email:joe@x.io", "DNS:joe.x.io"),
            "and not \"joe@x.io\"",
        ),
        (
            "root",
            good.replace("x.io\n1.", "y.io\n1.")
                .replace("joe@y.io", "joe@x.io"),
            "",
        ),
        (
            "root",
            good.replace("codeSigning", "serverAuth"),
            "the signer's certificate: ",
        ),
        (
            "root",
            good.replace("String:https", "String:http"),
            "issuer extension is damaged",
        ),
        (
            "root",
            good.replace("1.3.6.1.4.1.57264.1.", "1.3.6.1.4.1.57264.9."),
            "no issuer extension",
        ),
        (
            "root",
            format!("{good}1.2.3.4=critical,DER:00\n"),
            "the signer's certificate: ",
        ),
    ] {
        let signed = certified(&leaf(issuer, &extensions, SHORT), "", THEN);
        if words.is_empty() {
            fulcio().verify(&signed, now()).unwrap();
        } else {
            refused(&fulcio(), &signed, words);
        }
    }
    let elsewhere = good
        .replace(&hex(ISSUER.as_bytes()), &hex(b"https://evil"))
        .replace(ISSUER, "https://evil");
    let signed = certified(&leaf("root", &elsewhere, SHORT), "", THEN);
    refused(&fulcio(), &signed, "vouched for by \"https://evil\"");
}

#[test]
fn what_a_signer_says_of_the_chain_is_only_a_way_to_the_policys_root() {
    let (root, middle) = (
        files().read("root.crt").unwrap(),
        files().read("middle.crt").unwrap(),
    );
    let below = leaf("middle", &fulcio_extensions(), SHORT);
    let chain = format!("{middle}{root}");
    fulcio()
        .verify(&certified(&below, &chain, THEN), now())
        .unwrap();
    refused(
        &fulcio(),
        &certified(&below, "", THEN),
        "the signer's certificate: ",
    );
    // The last of a chain is taken for the root, which has to be the policy's own.
    refused(
        &fulcio(),
        &certified(&below, &middle, THEN),
        "the signer's certificate: ",
    );
    let foreign = leaf("root2", &fulcio_extensions(), SHORT);
    let root2 = files().read("root2.crt").unwrap();
    for chain in [
        root2.clone(),
        format!("{root2}{root2}"),
        format!("{root2}{root}"),
    ] {
        refused(
            &fulcio(),
            &certified(&foreign, &chain, THEN),
            "the signer's certificate: ",
        );
    }
    let two = format!("{below}{middle}");
    refused(
        &fulcio(),
        &certified(&two, &chain, THEN),
        "several certificates",
    );
}

#[test]
fn an_authority_of_ones_own_certifies_addresses_and_hosts() {
    let extensions = format!("{LEAF}subjectAltName=email:joe@x.io,DNS:build.x.io\n");
    let good = certified(&leaf("middle", &extensions, LONG), "", THEN);
    let pki = |more: Value| {
        let mut pki =
            json!({"caRootsData": pem("root.crt"), "caIntermediatesData": pem("middle.crt")});
        for (key, value) in more.as_object().unwrap() {
            pki[key] = value.clone();
        }
        policy(json!({ "pki": pki }))
    };
    for (more, words) in [
        (json!({"subjectEmail": "joe@x.io"}), ""),
        (json!({"subjectHostname": "build.x.io"}), ""),
        (
            json!({"subjectEmail": "joe@x.io", "subjectHostname": "build.x.io"}),
            "",
        ),
        (json!({"subjectEmail": "eve@x.io"}), "and not \"eve@x.io\""),
        (json!({"subjectHostname": "x.io"}), "not for host"),
        (
            json!({"subjectEmail": "joe@x.io", "subjectHostname": "x.io"}),
            "not for host",
        ),
        (
            json!({"subjectEmail": "joe@x.io", "caIntermediatesData": pem("root2.crt")}),
            "the signer's certificate",
        ),
        (
            json!({"subjectEmail": "joe@x.io", "caRootsData": pem("root2.crt")}),
            "the signer's certificate",
        ),
        (
            json!({"subjectEmail": "joe@x.io", "caRootsData": "QQ=="}),
            "no root certificate",
        ),
    ] {
        let policy = pki(more.clone());
        match words {
            "" => drop(
                policy
                    .verify(&good, now())
                    .unwrap_or_else(|why| panic!("{more}: {why}")),
            ),
            words => refused(&policy, &good, words),
        }
    }
    let joe = pki(json!({"subjectEmail": "joe@x.io"}));
    let past = certified(&leaf("middle", &extensions, SHORT), "", THEN);
    refused(&joe, &past, "the signer's certificate: ");
    let mut stolen = good.clone();
    let by_other = files().sign("other", &stolen.payload).unwrap();
    annotate(&mut stolen, SIGNATURE, STANDARD.encode(by_other));
    refused(&joe, &stolen, "wrong, or by another key");
}

#[test]
fn an_authority_that_has_expired_certifies_nothing() {
    let files = OpenSsl::new().unwrap();
    files
        .authority(
            "old",
            Validity {
                from: "20200101000000Z",
                until: "20210101000000Z",
            },
        )
        .unwrap();
    files.ec_key("leaf").unwrap();
    files
        .issue(
            "leaf",
            Some("old"),
            &format!("{LEAF}subjectAltName=email:joe@x.io\n"),
            LONG,
        )
        .unwrap();
    let mut signed = attachment("signer");
    let by_leaf = files.sign("leaf", &signed.payload).unwrap();
    annotate(&mut signed, SIGNATURE, STANDARD.encode(by_leaf));
    annotate(&mut signed, CERTIFICATE, files.read("leaf.crt").unwrap());
    let data = STANDARD.encode(files.read("old.crt").unwrap());
    let policy = policy(json!({"pki": {"caRootsData": data, "subjectEmail": "joe@x.io"}}));
    refused(&policy, &signed, "the signer's certificate: ");
    policy.verify(&signed, Now(1_590_000_000)).unwrap();
}
