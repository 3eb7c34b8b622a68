//! PKCS#7 enveloped data (RFC 5652, 6; RFC 2315, 10) as ocicrypt wraps keys in it: a content key for each
//! certificate by RSA (PKCS#1 v1.5), the content by AES-GCM.
//!
//! ocicrypt's library writes the parameters of AES-GCM in a form of its own: a SEQUENCE with the tag of a
//! primitive element, in which there is another one of nonce and length of the tag. Strict readers of DER
//! refuse that, so the few elements are read here.
//!
//! Which certificate a recipient is named by is not looked at: whichever of our keys opens it is the
//! right one. The content is authenticated, and what failed is not told apart.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use aws_lc_rs::aead::{self, AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce};

use super::keys::Key;
use crate::limits;

/// `id-envelopedData`, 1.2.840.113549.1.7.3.
const ENVELOPED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 7, 3];
/// `rsaEncryption`, 1.2.840.113549.1.1.1.
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1];
/// `aes128-GCM`, 2.16.840.1.101.3.4.1.6.
const AES_128: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 6];
/// `aes256-GCM`, 2.16.840.1.101.3.4.1.46.
const AES_256: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 46];

const INTEGER: u8 = 2;
const OCTETS: u8 = 4;
const OBJECT: u8 = 6;
const PRIMITIVE_SEQUENCE: u8 = 0x10;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0]`, with elements in it.
const FIRST: u8 = 0xa0;
/// `[4]`, which ocicrypt's library has for the nonce.
const NONCE: u8 = 0x84;
/// Bytes of AES-GCM's tag, where a message says how many.
const TAG_BYTES: &[u8] = &[16];

/// Opens a message with whichever of the keys fits.
pub(crate) fn open(message: &[u8], keys: &[Key]) -> Result<Vec<u8>, String> {
    let message = Message::parse(message)?;
    for wrapped in &message.wrapped {
        for key in keys {
            let Key::Rsa { pkcs1, .. } = key else {
                continue;
            };
            let mut plain = vec![0; pkcs1.min_output_size()];
            if let Ok(content_key) = pkcs1.decrypt(wrapped, &mut plain)
                && let Some(opened) = message.decrypt(content_key)
            {
                return Ok(opened);
            }
        }
    }
    Err("no key fits".to_owned())
}

/// What is needed of a message.
struct Message<'a> {
    /// The content key, for each who may read it.
    wrapped: Vec<&'a [u8]>,
    algorithm: &'static aead::Algorithm,
    nonce: &'a [u8],
    /// The ciphertext and its tag.
    content: Vec<u8>,
}

impl<'a> Message<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let malformed = || "malformed".to_owned();
        let mut all = Elements(bytes);
        let mut message = all.expect(SEQUENCE).ok_or_else(malformed)?;
        if message.expect(OBJECT).ok_or_else(malformed)?.0 != ENVELOPED_DATA {
            return Err("not of the type enveloped data".to_owned());
        }
        let mut parts = || {
            let mut data = message.expect(FIRST)?.expect(SEQUENCE)?;
            let _version = data.expect(INTEGER)?;
            let recipients = data.expect(SET)?;
            let mut content = data.expect(SEQUENCE)?;
            let _kind = content.expect(OBJECT)?;
            let algorithm = content.expect(SEQUENCE)?;
            Some((recipients, algorithm, content))
        };
        let (recipients, mut algorithm, mut content) = parts().ok_or_else(malformed)?;
        let wrapped = recipients_of(recipients)?;
        let algorithm_name = algorithm.expect(OBJECT).ok_or_else(malformed)?;
        let cipher = match algorithm_name.0 {
            AES_128 => &AES_128_GCM,
            AES_256 => &AES_256_GCM,
            _ => return Err("its content encryption is not supported".to_owned()),
        };
        Ok(Self {
            wrapped,
            algorithm: cipher,
            nonce: nonce_of(algorithm).ok_or_else(malformed)?,
            content: octets_of(&mut content).ok_or_else(malformed)?,
        })
    }

    fn decrypt(&self, key: &[u8]) -> Option<Vec<u8>> {
        let key = aead::UnboundKey::new(self.algorithm, key).ok()?;
        let nonce = Nonce::try_assume_unique_for_key(self.nonce).ok()?;
        let mut bytes = self.content.clone();
        let opened = LessSafeKey::new(key).open_in_place(nonce, Aad::empty(), &mut bytes);
        opened.ok().map(|plain| plain.to_vec())
    }
}

/// The wrapped keys of those recipients that have one by RSA.
fn recipients_of(mut recipients: Elements<'_>) -> Result<Vec<&[u8]>, String> {
    let mut wrapped = Vec::new();
    let mut seen = 0_usize;
    while !recipients.0.is_empty() {
        let (tag, mut recipient) = recipients.next().ok_or("malformed")?;
        seen = seen.saturating_add(1);
        if seen > limits::RECIPIENTS {
            return Err("too many recipients".to_owned());
        }
        // Other kinds have tags of their own.
        if tag != SEQUENCE {
            continue;
        }
        let mut key = || {
            let _version = recipient.expect(INTEGER)?;
            let _certificate = recipient.next()?;
            let algorithm = recipient.expect(SEQUENCE)?.expect(OBJECT)?;
            Some((algorithm, recipient.expect(OCTETS)?))
        };
        let (algorithm, key) = key().ok_or("malformed")?;
        if algorithm.0 == RSA_ENCRYPTION {
            wrapped.push(key.0);
        }
    }
    match wrapped.is_empty() {
        true => Err("no recipient has a key by RSA with PKCS#1".to_owned()),
        false => Ok(wrapped),
    }
}

/// The nonce among the parameters of AES-GCM.
fn nonce_of(mut algorithm: Elements<'_>) -> Option<&[u8]> {
    let mut parameters = algorithm
        .expect(PRIMITIVE_SEQUENCE)
        .or_else(|| algorithm.expect(SEQUENCE))?
        .expect(SEQUENCE)?;
    let nonce = parameters.expect(NONCE)?;
    (parameters.expect(INTEGER)?.0 == TAG_BYTES).then_some(nonce.0)
}

/// The content, in one piece or in several.
fn octets_of(content: &mut Elements<'_>) -> Option<Vec<u8>> {
    let mut pieces = content.expect(FIRST)?;
    let mut bytes = Vec::new();
    while !pieces.0.is_empty() {
        bytes.extend_from_slice(pieces.expect(OCTETS)?.0);
    }
    Some(bytes)
}

/// Elements of DER, one after another (X.690, 8.1 and 10.1).
#[derive(Clone, Copy)]
struct Elements<'a>(&'a [u8]);

impl<'a> Elements<'a> {
    /// The next element, if it has that tag: what is in it.
    fn expect(&mut self, tag: u8) -> Option<Self> {
        let before = *self;
        match self.next() {
            Some((found, content)) if found == tag => Some(content),
            _ => {
                *self = before;
                None
            }
        }
    }

    /// The next element's tag and what is in it. Tags of one byte, lengths of the shortest form.
    fn next(&mut self) -> Option<(u8, Self)> {
        const LONG: u8 = 0x80;
        const MANY: u8 = 0x1f;
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first.checked_sub(LONG) {
            None => (usize::from(first), rest),
            Some(octets @ 1..=4) => {
                let (octets, rest) = rest.split_at_checked(usize::from(octets))?;
                let mut length = 0_u32;
                for octet in octets {
                    length = length.checked_shl(8)? | u32::from(*octet);
                }
                let shortest = *octets.first()? != 0 && length >= u32::from(LONG);
                (usize::try_from(length).ok().filter(|_| shortest)?, rest)
            }
            Some(_) => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        (tag & MANY != MANY).then_some((tag, Self(content)))
    }
}

/// Fuzzed: whatever is read is in the message and no longer than it, and no stranger's key opens one.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(bytes: &[u8]) {
    assert!(open(bytes, &[Key::test_ec()]).is_err(), "a stranger's key");
    if let Ok(message) = Message::parse(bytes) {
        let wrapped: usize = message.wrapped.iter().map(|key| key.len()).sum();
        let read = wrapped.saturating_add(message.content.len());
        assert!(read.saturating_add(message.nonce.len()) < bytes.len());
        assert!(message.wrapped.len() <= limits::RECIPIENTS);
    }
    let mut elements = Elements(bytes);
    while let Some((tag, content)) = elements.next() {
        let mut again = super::keys::der(tag, content.0);
        let length = again.len();
        again.extend_from_slice(elements.0);
        assert!(bytes.ends_with(&again), "an element is what was read");
        assert!(length > content.0.len());
    }
}

#[cfg(test)]
mod tests;
