//! Signers that an authority certifies, and a log that saw them sign: the attachments of a registry's
//! image, from the pull to a creation.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::places::attach;
use super::{Signing, image};
use crate::cosign::{
    BUNDLE, CERTIFICATE, CHAIN, ISSUER, LEAF, SIGNATURE, SUBJECT, fulcio_extensions, log_bundle,
    log_entry,
};
use crate::image_maker::MadeImage;
use crate::signer::{LONG, OpenSsl, Validity, payload};

/// 2024-06-01, 12:00, and the ten minutes around it in which Fulcio's certificate is valid.
const THEN: i64 = 1_717_243_200;
const SHORT: Validity = Validity {
    from: "20240601115500Z",
    until: "20240601120500Z",
};

/// A registry's image, keys of a signer and of two logs, two authorities.
struct Certified {
    signing: Signing,
    files: OpenSsl,
    made: MadeImage,
    reference: String,
}

impl Certified {
    fn new() -> Self {
        let signing = Signing::new();
        let files = OpenSsl::new().unwrap();
        for key in ["leaf", "rekor", "log2"] {
            files.ec_key(key).unwrap();
        }
        for authority in ["root", "root2"] {
            files.authority(authority, LONG).unwrap();
        }
        let made = image("one");
        signing.registry.push("app", "v1", &made).unwrap();
        signing.node.set_sources("use-sigstore-attachments: true");
        let reference = signing.registry.reference("app", "v1");
        Self {
            signing,
            files,
            made,
            reference,
        }
    }

    fn data(&self, file: &str) -> Value {
        json!(STANDARD.encode(self.files.read(file).unwrap()))
    }

    /// A certificate for the signer.
    fn certificate(&self, issuer: &str, extensions: &str, validity: Validity) -> String {
        let issued = self.files.issue("leaf", Some(issuer), extensions, validity);
        issued.unwrap();
        self.files.read("leaf.crt").unwrap()
    }

    /// Attaches the signer's signature, with these annotations besides.
    fn attach(&self, more: &[(&str, String)]) {
        let (payload, mut annotations) = self.signed();
        for (key, value) in more {
            annotations[*key] = json!(value);
        }
        let registry = &self.signing.registry;
        attach(registry, "app", &self.made, &payload, annotations);
    }

    fn signed(&self) -> (Vec<u8>, Value) {
        let kind = "cosign container image signature";
        let payload = payload(kind, &self.reference, &self.made.digest());
        let signature = STANDARD.encode(self.files.sign("leaf", &payload).unwrap());
        (payload, json!({SIGNATURE: signature}))
    }

    /// The same, certified and seen by a log at a time.
    fn attach_logged(&self, certificate: &str, chain: &str, log: &str, time: i64) {
        let (payload, mut annotations) = self.signed();
        let signature = annotations[SIGNATURE].as_str().unwrap();
        let entry = log_entry(&self.files, &payload, signature, certificate).unwrap();
        annotations[BUNDLE] = json!(log_bundle(&self.files, log, &entry, time).unwrap());
        annotations[CERTIFICATE] = json!(certificate);
        if !chain.is_empty() {
            annotations[CHAIN] = json!(chain);
        }
        let registry = &self.signing.registry;
        attach(registry, "app", &self.made, &payload, annotations);
    }

    fn ask(&self, mut of: Value) {
        of["type"] = json!("sigstoreSigned");
        self.signing.node.set_policy(json!([of]));
    }

    async fn refused(&self, words: &str) {
        self.signing.refused("app", words).await;
    }

    /// It is pulled, and runs as long as the policy says so.
    async fn pulled(&self, policy: Value, other: Value) {
        self.ask(policy);
        let (node, reference) = (&self.signing.node, &self.reference);
        node.pull(reference).await.unwrap();
        let found = node.images.find(reference).await.unwrap().unwrap();
        node.images.allowed(&found, reference, "").await.unwrap();
        self.ask(other);
        let refused = node.images.allowed(&found, reference, "").await;
        let error = refused.unwrap_err().to_string();
        assert!(error.starts_with("SignatureValidationFailed: "), "{error}");
    }
}

#[tokio::test]
async fn whom_fulcio_certified_and_rekor_saw_is_trusted() {
    let it = Certified::new();
    let policy = |authority: &str, email: &str, log: &str| {
        json!({"rekorPublicKeyData": it.data(&format!("{log}.pub")), "fulcio": {
            "caData": it.data(&format!("{authority}.crt")), "oidcIssuer": ISSUER,
            "subjectEmail": email}})
    };
    let wanted = || policy("root", SUBJECT, "rekor");
    it.ask(wanted());
    it.refused("no signature exists").await;
    // Signed, but neither certified nor seen; certified, but not seen.
    it.attach(&[]);
    it.refused("no annotation dev.sigstore.cosign").await;
    let short = it.certificate("root", &fulcio_extensions(), SHORT);
    it.attach(&[(CERTIFICATE, short.clone())]);
    it.refused("no annotation dev.sigstore.cosign/bundle").await;
    for (issuer, extensions, log, time, words) in [
        (
            "root2",
            fulcio_extensions(),
            "rekor",
            THEN,
            "the signer's certificate",
        ),
        (
            "root",
            fulcio_extensions().replace("joe@", "eve@"),
            "rekor",
            THEN,
            "and not \"joe@x.io\"",
        ),
        (
            "root",
            fulcio_extensions(),
            "log2",
            THEN,
            "not signed by the policy's Rekor",
        ),
        // After the certificate had expired.
        (
            "root",
            fulcio_extensions(),
            "rekor",
            THEN + 600,
            "the signer's certificate",
        ),
    ] {
        let certificate = it.certificate(issuer, &extensions, SHORT);
        it.attach_logged(&certificate, "", log, time);
        it.refused(words).await;
    }
    let certificate = it.certificate("root", &fulcio_extensions(), SHORT);
    let root = it.files.read("root.crt").unwrap();
    it.attach_logged(&certificate, &root, "rekor", THEN);
    it.ask(policy("root", "eve@x.io", "rekor"));
    it.refused("and not \"eve@x.io\"").await;
    it.ask(policy("root", SUBJECT, "log2"));
    it.refused("not signed by the policy's Rekor").await;
    it.pulled(wanted(), policy("root2", SUBJECT, "rekor")).await;
}

#[tokio::test]
async fn whom_an_authority_of_ones_own_certifies_is_trusted() {
    let it = Certified::new();
    let extensions = format!("{LEAF}subjectAltName=email:{SUBJECT},DNS:build.x.io\n");
    let policy = |authority: &str, host: &str| {
        json!({"pki": {"caRootsData": it.data(&format!("{authority}.crt")),
            "subjectEmail": SUBJECT, "subjectHostname": host}})
    };
    it.ask(policy("root", "build.x.io"));
    it.attach(&[]);
    it.refused("no annotation dev.sigstore.cosign/certificate")
        .await;
    for (issuer, validity, words) in [
        ("root2", LONG, "the signer's certificate"),
        ("root", SHORT, "the signer's certificate"),
    ] {
        let certificate = it.certificate(issuer, &extensions, validity);
        it.attach(&[(CERTIFICATE, certificate)]);
        it.refused(words).await;
    }
    let certificate = it.certificate("root", &extensions, LONG);
    it.attach(&[(CERTIFICATE, certificate)]);
    it.ask(policy("root", "x.io"));
    it.refused("not for host").await;
    it.pulled(policy("root", "build.x.io"), policy("root2", "build.x.io"))
        .await;
}

#[tokio::test]
async fn a_key_that_rekor_saw_is_trusted_where_the_log_is_asked_for() {
    let it = Certified::new();
    let policy = |log: &str| {
        json!({"keyData": it.data("leaf.pub"),
            "rekorPublicKeyDatas": [it.data(&format!("{log}.pub"))]})
    };
    it.ask(policy("rekor"));
    it.attach(&[]);
    it.refused("no annotation dev.sigstore.cosign/bundle").await;
    let (payload, annotations) = it.signed();
    let signature = annotations[SIGNATURE].as_str().unwrap();
    let key = it.files.read("leaf.pub").unwrap();
    let attach_with = |signature: &str, log: &str| {
        let entry = log_entry(&it.files, &payload, signature, &key).unwrap();
        let bundle = log_bundle(&it.files, log, &entry, THEN).unwrap();
        let mut annotations = annotations.clone();
        annotations[BUNDLE] = json!(bundle);
        attach(&it.signing.registry, "app", &it.made, &payload, annotations);
    };
    attach_with(signature, "log2");
    it.refused("not signed by the policy's Rekor").await;
    // The log saw another signature by the same key.
    let another = STANDARD.encode(it.files.sign("leaf", &payload).unwrap());
    attach_with(&another, "rekor");
    it.refused("for another signature").await;
    attach_with(signature, "rekor");
    it.pulled(policy("rekor"), policy("log2")).await;
}
