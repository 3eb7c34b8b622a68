//! What cosign, Fulcio and Rekor say about a signature, made with OpenSSL.
//!
//! Source of the forms: cosign, `specs/SIGNATURE_SPEC.md`; Fulcio, `docs/oid-info.md`; Rekor's type
//! `hashedrekord`.

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::signer::OpenSsl;

/// The annotation that has the signature.
pub const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// The annotation that has the signer's certificate.
pub const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
/// The annotation that has the certificates above it.
pub const CHAIN: &str = "dev.sigstore.cosign/chain";
/// The annotation that has the log's word.
pub const BUNDLE: &str = "dev.sigstore.cosign/bundle";
/// The media type of what is signed.
pub const MEDIA_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// Who vouched for [`SUBJECT`] at Fulcio.
pub const ISSUER: &str = "https://accounts.x.io";
/// Whom Fulcio certified.
pub const SUBJECT: &str = "joe@x.io";
/// Extensions of any signer's certificate.
pub const LEAF: &str = "basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature\n";

/// Extensions of a certificate of Fulcio's.
#[must_use]
pub fn fulcio_extensions() -> String {
    let raw: String = ISSUER.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{LEAF}extendedKeyUsage=codeSigning\nsubjectAltName=critical,email:{SUBJECT}\n\
         1.3.6.1.4.1.57264.1.1=DER:{raw}\n1.3.6.1.4.1.57264.1.8=ASN1:UTF8String:{ISSUER}\n"
    )
}

/// A log's entry for a signature (base64) over a payload; `signer` is the PEM of key or certificate.
///
/// # Errors
/// OpenSSL fails.
pub fn log_entry(files: &OpenSsl, payload: &[u8], signature: &str, signer: &str) -> Result<Value> {
    let digest = files.sha256(payload)?;
    Ok(
        json!({"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": {
        "data": {"hash": {"algorithm": "sha256", "value": digest}},
        "signature": {"content": signature, "publicKey": {"content": STANDARD.encode(signer)}}}}),
    )
}

/// The bundle that the log with the key `log` makes of an entry, at a time in seconds since 1970.
///
/// # Errors
/// OpenSSL fails.
pub fn log_bundle(files: &OpenSsl, log: &str, entry: &Value, time: i64) -> Result<String> {
    let body = STANDARD.encode(entry.to_string());
    let signed =
        format!(r#"{{"body":"{body}","integratedTime":{time},"logID":"c0ff","logIndex":7}}"#);
    let timestamp = STANDARD.encode(files.sign(log, signed.as_bytes())?);
    // The order of keys is not that of what is signed.
    let bundle = json!({"SignedEntryTimestamp": timestamp, "Payload": {"integratedTime": time,
        "logIndex": 7, "logID": "c0ff", "body": body}});
    Ok(bundle.to_string())
}
