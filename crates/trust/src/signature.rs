//! A signature as it is stored and sent, whatever it proves.
//!
//! Source of the stored form: containers/image, `docs/signature-protocols.md`, and what its
//! `internal/signature` writes; the order of bytes is a fact that podman and skopeo read.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::json::{self, Object};
use crate::limits::SIGNATURE_BYTES;

/// An image's manifest, and the signatures that were found for it. Nothing of it is trusted.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The manifest's bytes.
    pub manifest: &'a [u8],
    /// The signatures.
    pub signatures: &'a [Signature],
}

/// A signature that nobody has verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// Simple signing: an OpenPGP message.
    Simple(Vec<u8>),
    /// An attachment in cosign's form.
    Sigstore(Attachment),
}

/// What stands as one layer of cosign's manifest: a payload, and what is said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Media type of the payload; there are attachments that are no signatures.
    pub media_type: String,
    /// The bytes that were signed.
    pub payload: Vec<u8>,
    /// Signature, certificates and log entry, by cosign's keys.
    pub annotations: BTreeMap<String, String>,
}

/// cosign's media type of what is signed.
pub const SIGSTORE_SIGNATURE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

const SIMPLE: &[u8] = b"simple-signing";
const SIGSTORE: &[u8] = b"sigstore-json";

#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(rename = "mimeType")]
    media_type: String,
    payload: String,
    annotations: BTreeMap<String, String>,
}

impl Signature {
    /// Reads a signature of a lookaside or of the store.
    ///
    /// # Errors
    /// It is of no known form.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > SIGNATURE_BYTES {
            return Err(format!("a signature has more than {SIGNATURE_BYTES} bytes"));
        }
        match bytes {
            [] => Err("a signature is empty".to_owned()),
            [0, rest @ ..] => Self::parse_named(rest),
            [first, ..] if begins_openpgp(*first) => Ok(Self::Simple(bytes.to_owned())),
            [first, ..] => Err(format!(
                "a signature of unknown form begins with {first:#04x}"
            )),
        }
    }

    /// A simple signature by itself, without the name of its form.
    ///
    /// # Errors
    /// It is no OpenPGP message, or too large.
    pub fn simple(message: Vec<u8>) -> Result<Self, String> {
        match message.first() {
            Some(first) if begins_openpgp(*first) && message.len() <= SIGNATURE_BYTES => {
                Ok(Self::Simple(message))
            }
            _ => Err("a signature is no OpenPGP message".to_owned()),
        }
    }

    /// After the zero byte: the form's name, a line break, the rest.
    fn parse_named(bytes: &[u8]) -> Result<Self, String> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (form, rest) = end
            .and_then(|end| bytes.split_at_checked(end))
            .ok_or("a signature does not name its form")?;
        let rest = rest.get(1..).unwrap_or_default();
        match form {
            SIMPLE => Ok(Self::Simple(rest.to_owned())),
            SIGSTORE => Attachment::parse(rest).map(Self::Sigstore),
            other => {
                let other = String::from_utf8_lossy(other.get(..64).unwrap_or(other));
                Err(format!("a signature of unknown form {other:?}"))
            }
        }
    }

    /// As it is stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Simple(message) => message.clone(),
            Self::Sigstore(attachment) => {
                let stored = Stored {
                    media_type: attachment.media_type.clone(),
                    payload: STANDARD.encode(&attachment.payload),
                    annotations: attachment.annotations.clone(),
                };
                let json = serde_json::to_vec(&stored).unwrap_or_default();
                [b"\0", SIGSTORE, b"\n", &json].concat()
            }
        }
    }
}

impl Attachment {
    pub(crate) fn is_signature(&self) -> bool {
        self.media_type == SIGSTORE_SIGNATURE
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        // Keys of later versions are let pass, as others do; none may be there twice.
        let mut object = Object::parse("sigstore signature", bytes)?;
        let media_type = object.string("mimeType")?;
        let payload = json::decode("payload", &object.string("payload")?)?;
        let annotations = object.object("annotations")?.rest();
        let annotations = annotations.into_iter().map(|(key, value)| match value {
            serde_json::Value::String(value) => Ok((key, value)),
            _ => Err(format!("annotation {key:?} is no string")),
        });
        Ok(Self {
            media_type,
            payload,
            annotations: annotations.collect::<Result<_, _>>()?,
        })
    }
}

/// Whether an OpenPGP message of a signature begins so (RFC 4880, 4.2): compressed data, a
/// one-pass signature, a signature, in the old or the new form of headers.
fn begins_openpgp(byte: u8) -> bool {
    let tag = match byte {
        0xc0..=0xff => byte & 0x3f,
        0x80..=0xbf => (byte >> 2) & 0x0f,
        _ => return false,
    };
    matches!(tag, 2 | 4 | 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_read_again() {
        let attachment = Attachment {
            media_type: SIGSTORE_SIGNATURE.to_owned(),
            payload: b"{}".to_vec(),
            annotations: [("a".to_owned(), "b".to_owned())].into(),
        };
        let sigstore = Signature::Sigstore(attachment);
        let stored = sigstore.encode();
        assert!(stored.starts_with(b"\0sigstore-json\n{\"mimeType\":"));
        assert_eq!(Signature::parse(&stored), Ok(sigstore));
        let simple = Signature::Simple(vec![0xa3, 1, 2]);
        assert_eq!(simple.encode(), [0xa3, 1, 2]);
        assert_eq!(Signature::parse(&[0xa3, 1, 2]), Ok(simple.clone()));
        assert_eq!(
            Signature::parse(b"\0simple-signing\n\xa3\x01\x02"),
            Ok(simple)
        );
    }

    #[test]
    fn other_forms_are_errors() {
        for bad in [
            &b""[..],
            b"\0",
            b"\0sigstore-json",
            b"\0sigstore-json\n",
            b"\0sigstore-json\n{\"mimeType\":\"\",\"payload\":\"!\",\"annotations\":{}}",
            b"\0sigstore-json\n{\"mimeType\":\"\",\"payload\":\"\",\"annotations\":{\"a\":1}}",
            b"\0unheard-of\n{}",
            b"-----BEGIN PGP MESSAGE-----",
            b"<html>",
            b"\x99\x01\x02",
        ] {
            assert!(Signature::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Signature::parse(&vec![0xa3; SIGNATURE_BYTES + 1]).is_err());
    }
}
