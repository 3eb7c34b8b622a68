//! JSON Web Encryption (RFC 7516, JSON serialization) with the algorithms that ocicrypt writes:
//! RSA-OAEP, ECDH-ES with AES key wrap (RFC 7518), AES-GCM.
//!
//! A document may have a recipient for each of many keys; whichever of ours opens one is the right
//! one. What failed is not told apart, lest a stranger learn from it.

use aws_lc_rs::aead::{self, AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce};
use aws_lc_rs::agreement::{self, UnparsedPublicKey};
use aws_lc_rs::digest;
use aws_lc_rs::key_wrap::{self, AesKek, KeyWrap as _};
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::keys::Key;
use crate::limits;

/// A document, flattened (one recipient) or general.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    protected: String,
    #[serde(default)]
    unprotected: Header,
    #[serde(default)]
    header: Header,
    #[serde(default)]
    encrypted_key: String,
    #[serde(default)]
    recipients: Vec<Recipient>,
    #[serde(default)]
    aad: Option<String>,
    iv: String,
    ciphertext: String,
    tag: String,
}

#[derive(Clone, Deserialize)]
struct Recipient {
    #[serde(default)]
    header: Header,
    #[serde(default)]
    encrypted_key: String,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Header {
    alg: Option<String>,
    enc: Option<String>,
    epk: Option<Point>,
    apu: Option<String>,
    apv: Option<String>,
    zip: Option<String>,
    crit: Option<serde::de::IgnoredAny>,
}

/// A public key (RFC 7518, 6.2.1).
#[derive(Clone, Deserialize)]
struct Point {
    crv: String,
    x: String,
    y: String,
}

/// Opens a document with whichever of the keys fits.
pub(crate) fn open(document: &[u8], keys: &[Key]) -> Result<Vec<u8>, String> {
    let document: Document =
        serde_json::from_slice(document).map_err(|error| format!("malformed: {error}"))?;
    let protected: Header = match document.protected.as_str() {
        "" => Header::default(),
        text => serde_json::from_slice(&decode(text)?).map_err(|_| "malformed header")?,
    };
    let recipients = match document.recipients.as_slice() {
        [] => vec![Recipient {
            header: document.header.clone(),
            encrypted_key: document.encrypted_key.clone(),
        }],
        many if many.len() > limits::RECIPIENTS => return Err("too many recipients".to_owned()),
        many => many.to_vec(),
    };
    let shared = protected.or(&document.unprotected);
    let mut reason = "no key fits".to_owned();
    for recipient in &recipients {
        let header = shared.clone().or(&recipient.header);
        if header.zip.is_some() || header.crit.is_some() {
            return Err("compressed, or with extensions: not supported".to_owned());
        }
        for key in keys {
            match header.content_key(&recipient.encrypted_key, key) {
                Ok(Some(content_key)) => match document.decrypt(&header, &content_key) {
                    Ok(plain) => return Ok(plain),
                    Err(failed) => reason = failed,
                },
                Ok(None) => {}
                Err(failed) => reason = failed,
            }
        }
    }
    Err(reason)
}

impl Header {
    /// Its fields, and those of `other` that it lacks.
    fn or(self, other: &Self) -> Self {
        Self {
            alg: self.alg.or_else(|| other.alg.clone()),
            enc: self.enc.or_else(|| other.enc.clone()),
            epk: self.epk.or_else(|| other.epk.clone()),
            apu: self.apu.or_else(|| other.apu.clone()),
            apv: self.apv.or_else(|| other.apv.clone()),
            zip: self.zip.or_else(|| other.zip.clone()),
            crit: self.crit.or(other.crit),
        }
    }

    /// The key of the content; `None` if the key is not for this recipient.
    fn content_key(&self, wrapped: &str, key: &Key) -> Result<Option<Vec<u8>>, String> {
        let wrapped = decode(wrapped)?;
        let alg = self.alg.as_deref().unwrap_or_default();
        match (alg, key) {
            ("RSA-OAEP" | "RSA-OAEP-256", Key::Rsa { oaep: key, .. }) => {
                let padding = match alg {
                    "RSA-OAEP" => &OAEP_SHA1_MGF1SHA1,
                    _ => &OAEP_SHA256_MGF1SHA256,
                };
                let mut plain = vec![0; key.min_output_size()];
                let opened = key.decrypt(padding, &wrapped, &mut plain, None);
                Ok(opened.ok().map(|plain| plain.to_vec()))
            }
            ("ECDH-ES+A128KW" | "ECDH-ES+A256KW", Key::Ec(own)) => {
                let bits = if alg.contains("128") { 128 } else { 256 };
                let Some(peer) = self.epk.as_ref().and_then(|point| point.for_key(own)) else {
                    return Ok(None);
                };
                let party = |text: &Option<String>| decode(text.as_deref().unwrap_or_default());
                let (apu, apv) = (party(&self.apu)?, party(&self.apv)?);
                let derive = |shared: &[u8]| Ok(concat_kdf(shared, alg, &apu, &apv, bits));
                let Ok(kek) = agreement::agree(own, &peer, (), derive) else {
                    return Ok(None);
                };
                Ok(unwrap(&kek, &wrapped))
            }
            ("RSA-OAEP" | "RSA-OAEP-256" | "ECDH-ES+A128KW" | "ECDH-ES+A256KW", _) => Ok(None),
            (other, _) => Err(format!("algorithm {other:?} is not supported")),
        }
    }
}

impl Point {
    /// Its uncompressed form, if it is of the key's curve.
    fn for_key(&self, key: &agreement::PrivateKey) -> Option<UnparsedPublicKey<Vec<u8>>> {
        let (algorithm, length) = match self.crv.as_str() {
            "P-256" => (&agreement::ECDH_P256, 32),
            "P-384" => (&agreement::ECDH_P384, 48),
            "P-521" => (&agreement::ECDH_P521, 66),
            _ => return None,
        };
        let (x, y) = (decode(&self.x).ok()?, decode(&self.y).ok()?);
        if key.algorithm() != algorithm || x.len() != length || y.len() != length {
            return None;
        }
        let bytes = [&[4], &x[..], &y[..]].concat();
        Some(UnparsedPublicKey::new(algorithm, bytes))
    }
}

impl Document {
    fn decrypt(&self, header: &Header, key: &[u8]) -> Result<Vec<u8>, String> {
        let algorithm = match header.enc.as_deref().unwrap_or_default() {
            "A128GCM" => &AES_128_GCM,
            "A192GCM" => &AES_192_GCM,
            "A256GCM" => &AES_256_GCM,
            other => return Err(format!("content encryption {other:?} is not supported")),
        };
        let failed = |_| "no key fits".to_owned();
        let key = aead::UnboundKey::new(algorithm, key).map_err(failed)?;
        let nonce = Nonce::try_assume_unique_for_key(&decode(&self.iv)?).map_err(failed)?;
        let mut authenticated = self.protected.clone();
        if let Some(aad) = &self.aad {
            authenticated.push('.');
            authenticated.push_str(aad);
        }
        let mut bytes = decode(&self.ciphertext)?;
        bytes.extend(decode(&self.tag)?);
        let opened =
            LessSafeKey::new(key).open_in_place(nonce, Aad::from(authenticated), &mut bytes);
        opened.map(|plain| plain.to_vec()).map_err(failed)
    }
}

/// AES key wrap (RFC 3394).
fn unwrap(kek: &[u8], wrapped: &[u8]) -> Option<Vec<u8>> {
    let cipher = match kek.len() {
        16 => &key_wrap::AES_128,
        _ => &key_wrap::AES_256,
    };
    let mut plain = vec![0; wrapped.len()];
    let kek = AesKek::new(cipher, kek).ok()?;
    let plain = kek.unwrap(wrapped, &mut plain).ok()?;
    Some(plain.to_vec())
}

/// The key that two parties derive of their shared secret (RFC 7518, 4.6.2): one round of SHA-256
/// is enough for up to 256 bits.
fn concat_kdf(shared: &[u8], algorithm: &str, apu: &[u8], apv: &[u8], bits: u32) -> Vec<u8> {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(&1_u32.to_be_bytes());
    hash.update(shared);
    for part in [algorithm.as_bytes(), apu, apv] {
        let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
        hash.update(&length.to_be_bytes());
        hash.update(part);
    }
    hash.update(&bits.to_be_bytes());
    let mut key = hash.finish().as_ref().to_vec();
    key.truncate(bits as usize / 8);
    key
}

fn decode(text: &str) -> Result<Vec<u8>, String> {
    let bytes = URL_SAFE_NO_PAD.decode(text);
    bytes.map_err(|_| "a part is not base64".to_owned())
}

/// A key for fuzzing.
#[cfg(feature = "fuzzing")]
pub(crate) fn test_key() -> Key {
    Key::test_ec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_derivation_is_that_of_rfc_7518_appendix_c() {
        let shared = [
            158, 86, 217, 29, 129, 113, 53, 211, 114, 131, 66, 131, 191, 132, 38, 156, 251, 49,
            110, 163, 218, 128, 106, 72, 246, 218, 167, 121, 140, 254, 144, 196,
        ];
        let key = concat_kdf(&shared, "A128GCM", b"Alice", b"Bob", 128);
        assert_eq!(URL_SAFE_NO_PAD.encode(key), "VqqN6vgjbSBcIijNcacQGg");
    }

    #[test]
    fn a_wrapped_key_is_that_of_rfc_3394() {
        let kek: Vec<u8> = (0..32).collect();
        let wrapped = [
            0x28, 0xC9, 0xF4, 0x04, 0xC4, 0xB8, 0x10, 0xF4, 0xCB, 0xCC, 0xB3, 0x5C, 0xFB, 0x87,
            0xF8, 0x26, 0x3F, 0x57, 0x86, 0xE2, 0xD8, 0x0E, 0xD3, 0x26, 0xCB, 0xC7, 0xF0, 0xE7,
            0x1A, 0x99, 0xF4, 0x3B, 0xFB, 0x98, 0x8B, 0x9B, 0x7A, 0x02, 0xDD, 0x21,
        ];
        let key: Vec<u8> = [
            [
                0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xAA, 0xBB, 0xCC, 0xDD,
                0xEE, 0xFF,
            ]
            .as_slice(),
            &(0..16).collect::<Vec<u8>>(),
        ]
        .concat();
        assert_eq!(unwrap(&kek, &wrapped), Some(key));
        assert_eq!(unwrap(&kek, &wrapped[1..]), None);
    }

    #[test]
    fn what_is_not_supported_is_told() {
        let key = Key::test_ec();
        for (text, expected) in [
            ("[]", "malformed"),
            ("{}", "malformed"),
            (
                r#"{"iv":"","ciphertext":"","tag":"","header":{"alg":"dir"}}"#,
                "algorithm \"dir\"",
            ),
            (
                r#"{"iv":"","ciphertext":"","tag":"","header":{"zip":"DEF"}}"#,
                "compressed",
            ),
            (
                r#"{"iv":"","ciphertext":"","tag":"","header":{"alg":"RSA-OAEP"}}"#,
                "no key fits",
            ),
            (
                r#"{"iv":"","ciphertext":"","tag":"","protected":"%"}"#,
                "not base64",
            ),
        ] {
            let error = open(text.as_bytes(), std::slice::from_ref(&key)).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
