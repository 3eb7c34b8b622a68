//! Rekor's signed entry timestamp: the log's word that it has seen a signature, and when.
//!
//! What the log signs is the canonical JSON (RFC 8785) of an entry's four fields; the entry's body is
//! a `hashedrekord` that names key or certificate, signature and the digest of what was signed. All
//! three must be those at hand. Source: cosign, `pkg/cosign/bundle`; rekor,
//! `pkg/types/hashedrekord`, v0.0.1.

use rustls_pki_types::pem::{self, SectionKind};

use super::key::PublicKey;
use crate::digest::Digest;
use crate::json::Object;
use crate::time::Now;

/// What the log must have seen.
pub(super) struct Signed<'a> {
    pub(super) signature: &'a [u8],
    pub(super) payload: &'a [u8],
}

/// The largest whole number that JSON's canonical form can tell apart (RFC 8785, 3.2.2.3).
const EXACT: i64 = 1 << 53;

/// Verifies a bundle: by one of these logs, for this key or certificate (DER) and this signature.
/// Returns when the log took it in.
pub(super) fn verify(
    bundle: &str,
    logs: &[PublicKey],
    signer: &[u8],
    signed: &Signed<'_>,
) -> Result<Now, String> {
    if !logs.iter().all(PublicKey::is_ecdsa) {
        return Err("a public key of Rekor is not of ECDSA".to_owned());
    }
    let mut bundle = Object::parse("Rekor bundle", bundle.as_bytes())?;
    let timestamp = bundle.bytes("SignedEntryTimestamp")?;
    let entry = Entry::take(bundle.object("Payload")?)?;
    bundle.end()?;
    let canonical = entry.canonical()?;
    if !logs
        .iter()
        .any(|log| log.verifies(canonical.as_bytes(), &timestamp))
    {
        return Err("the Rekor bundle is not signed by the policy's Rekor".to_owned());
    }
    check_body(&entry.body, signer, signed)?;
    let seconds = u64::try_from(entry.integrated);
    seconds
        .map(Now)
        .map_err(|_| "the Rekor bundle's time is before 1970".to_owned())
}

struct Entry {
    body_text: String,
    body: Vec<u8>,
    integrated: i64,
    index: i64,
    log: String,
}

impl Entry {
    fn take(mut object: Object) -> Result<Self, String> {
        let body_text = object.string("body")?;
        let entry = Self {
            body: crate::json::decode("body", &body_text)?,
            body_text,
            integrated: whole(&mut object, "integratedTime")?,
            index: whole(&mut object, "logIndex")?,
            log: object.string("logID")?,
        };
        object.end()?;
        Ok(entry)
    }

    /// Keys in their order, no space, whole numbers as they are; strings as `serde_json` writes
    /// them, which escapes what RFC 8785 escapes, in the same way.
    fn canonical(&self) -> Result<String, String> {
        let quoted = |text: &str| serde_json::to_string(text).map_err(|error| error.to_string());
        let (body, log) = (quoted(&self.body_text)?, quoted(&self.log)?);
        let (time, index) = (self.integrated, self.index);
        Ok(format!(
            r#"{{"body":{body},"integratedTime":{time},"logID":{log},"logIndex":{index}}}"#
        ))
    }
}

fn whole(object: &mut Object, key: &str) -> Result<i64, String> {
    let number = object.need(key)?.as_i64();
    let exact = number.filter(|number| (-EXACT..=EXACT).contains(number));
    exact.ok_or_else(|| format!("{key:?} of the Rekor bundle is no whole number"))
}

/// Later versions of Rekor may add keys to the body; those that count must be there.
fn check_body(body: &[u8], signer: &[u8], signed: &Signed<'_>) -> Result<(), String> {
    let mut body = Object::parse("Rekor entry", body)?;
    let (kind, version) = (body.string("kind")?, body.string("apiVersion")?);
    if (kind.as_str(), version.as_str()) != ("hashedrekord", "0.0.1") {
        return Err(format!("the Rekor entry is a {kind} of version {version}"));
    }
    let mut spec = body.object("spec")?;
    let mut signature = spec.object("signature")?;
    if signature.bytes("content")? != signed.signature {
        return Err("the Rekor entry is for another signature".to_owned());
    }
    let key = signature.object("publicKey")?.bytes("content")?;
    if only_section(&key)? != signer {
        return Err("the Rekor entry is for another key or certificate".to_owned());
    }
    let mut hash = spec.object("data")?.object("hash")?;
    let algorithm = hash.string("algorithm")?;
    if algorithm != "sha256" {
        return Err(format!("the Rekor entry has a digest of {algorithm}"));
    }
    let value = hash.string("value")?.to_ascii_lowercase();
    let digest: Digest = format!("sha256:{value}").parse()?;
    if !digest.is_of(signed.payload) {
        return Err("the Rekor entry is for another payload".to_owned());
    }
    Ok(())
}

/// The content of a PEM text that has one part and nothing behind it.
fn only_section(text: &[u8]) -> Result<Vec<u8>, String> {
    let bad = || "the Rekor entry's key is not one part of PEM".to_owned();
    let mut rest = text;
    let section = pem::from_buf(&mut rest).map_err(|_| bad())?;
    let (kind, der) = section.ok_or_else(bad)?;
    let known = matches!(kind, SectionKind::Certificate | SectionKind::PublicKey);
    if known && rest.trim_ascii().is_empty() {
        Ok(der)
    } else {
        Err(bad())
    }
}
