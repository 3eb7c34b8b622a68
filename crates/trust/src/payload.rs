//! What a signature is made over: JSON that names an image's manifest and a reference.
//!
//! Simple signing and cosign have the same form and differ in `type`. Source:
//! `containers-signature(5)`; cosign, `specs/SIGNATURE_SPEC.md`.

use serde_json::Value;

use crate::digest::Digest;
use crate::json::Object;
use crate::limits::PAYLOAD_BYTES;

/// Who made it; each has its word in `critical.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Simple signing, in an OpenPGP message.
    Simple,
    /// cosign.
    Sigstore,
}

/// A payload's claims. They count once the signature over its bytes was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Payload {
    /// `critical.image.docker-manifest-digest`.
    pub(crate) manifest: Digest,
    /// `critical.identity.docker-reference`, as it is written.
    pub(crate) reference: String,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Simple => "atomic container signature",
            Self::Sigstore => "cosign container image signature",
        }
    }
}

impl Payload {
    pub(crate) fn parse(kind: Kind, bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > PAYLOAD_BYTES {
            return Err(format!("the payload has more than {PAYLOAD_BYTES} bytes"));
        }
        let mut payload = Object::parse("payload", bytes)?;
        let mut critical = payload.object("critical")?;
        check_optional(kind, payload.need("optional")?)?;
        payload.end()?;
        let word = critical.string("type")?;
        if word != kind.word() {
            return Err(format!("the payload is of type {word:?}"));
        }
        let mut image = critical.object("image")?;
        let mut identity = critical.object("identity")?;
        critical.end()?;
        let digest = image.string("docker-manifest-digest")?;
        image.end()?;
        let reference = identity.string("docker-reference")?;
        identity.end()?;
        let manifest = digest.parse()?;
        Ok(Self {
            manifest,
            reference,
        })
    }
}

/// Any key may be there, but two of them have a form.
fn check_optional(kind: Kind, optional: Value) -> Result<(), String> {
    // cosign writes null where its user has nothing to add.
    if kind == Kind::Sigstore && optional.is_null() {
        return Ok(());
    }
    let optional = Object::of("optional", optional)?.rest();
    if optional.get("creator").is_some_and(|it| !it.is_string()) {
        return Err("\"creator\" of optional is no string".to_owned());
    }
    let whole = |value: &Value| value.as_f64().is_some_and(|number| number.fract() == 0.0);
    if optional.get("timestamp").is_some_and(|it| !whole(it)) {
        return Err("\"timestamp\" of optional is no whole number".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn text(kind: &str, digest: &str, optional: &str) -> String {
        format!(
            r#"{{"critical":{{"identity":{{"docker-reference":"a.io/b:c"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"{kind}"}},"optional":{optional}}}"#
        )
    }

    #[test]
    fn payloads_are_read_strictly() {
        let simple = "atomic container signature";
        let cosign = "cosign container image signature";
        let digest = format!("sha256:{HEX}");
        let good = text(simple, &digest, r#"{"creator":"x","timestamp":1,"y":[]}"#);
        let parsed = Payload::parse(Kind::Simple, good.as_bytes()).unwrap();
        assert_eq!(parsed.reference, "a.io/b:c");
        assert_eq!(parsed.manifest.to_string(), digest);
        for (kind, text, accepted) in [
            (Kind::Simple, text(simple, &digest, "{}"), true),
            (Kind::Simple, text(simple, &digest, "null"), false),
            (Kind::Sigstore, text(cosign, &digest, "null"), true),
            (Kind::Sigstore, text(simple, &digest, "{}"), false),
            (Kind::Simple, text(cosign, &digest, "{}"), false),
            (Kind::Simple, text(simple, "sha256:0", "{}"), false),
            (
                Kind::Simple,
                text(simple, &digest, r#"{"timestamp":1.5}"#),
                false,
            ),
            (
                Kind::Simple,
                text(simple, &digest, r#"{"creator":1}"#),
                false,
            ),
            (
                Kind::Simple,
                good.replace(r#""optional""#, r#""optimal""#),
                false,
            ),
            (
                Kind::Simple,
                good.replace(r#"{"critical""#, r#"{"x":1,"critical""#),
                false,
            ),
            (
                Kind::Simple,
                good.replace(r#","type""#, r#","type":"","type""#),
                false,
            ),
            (
                Kind::Simple,
                good.replace(r#","type""#, r#","Type""#),
                false,
            ),
        ] {
            assert_eq!(
                Payload::parse(kind, text.as_bytes()).is_ok(),
                accepted,
                "{text}"
            );
        }
    }
}
