//! OpenPGP messages that carry what they sign, and the keys that they may be signed with.
//!
//! The packets and the arithmetic are rPGP's. What it leaves to its callers is here: how large a
//! message may be, which kinds of signatures count, and when signatures and keys are out of date or
//! revoked. The decisions are those of GnuPG, which containers/image asks.

use std::io::{Cursor, Read};

use pgp::composed::{Deserializable, Message, SignedPublicKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType, SignatureVersion, SubpacketData};
use pgp::types::KeyDetails;

use crate::limits::{MESSAGE_BYTES, PAYLOAD_BYTES};
use crate::time::Now;

mod keys;

/// The public keys that a policy names; each of them is good for a signature.
pub(crate) struct KeyRing(Vec<SignedPublicKey>);

const ARMOR: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";

impl KeyRing {
    /// Reads keys, exported with or without armor.
    pub(crate) fn parse(blobs: &[Vec<u8>]) -> Result<Self, String> {
        let mut keys: Vec<SignedPublicKey> = Vec::new();
        for blob in blobs {
            for key in parse_keys(blob).map_err(|why| format!("OpenPGP keys: {why}"))? {
                let print = key.primary_key.fingerprint();
                let mut known = keys.iter_mut();
                match known.find(|known| known.primary_key.fingerprint() == print) {
                    Some(known) => keys::merge(known, key),
                    None => keys.push(key),
                }
            }
        }
        if keys.is_empty() {
            return Err("no OpenPGP public keys are given".to_owned());
        }
        Ok(Self(keys))
    }

    /// Verifies a message and returns what is signed in it.
    ///
    /// # Errors
    /// It is no message of one signature over its content; the signature is wrong, expired, or by a
    /// key that is not in the ring, expired, revoked or not for signing.
    pub(crate) fn verify(&self, message: &[u8], now: Now) -> Result<Vec<u8>, String> {
        let (message, payload) = read(message)?;
        let signature = the_signature(&message)?;
        let made = check_terms(signature, now)?;
        for key in &self.0 {
            if may_be_by(signature, &key.primary_key)
                && signature.verify(&key.primary_key, &*payload).is_ok()
            {
                keys::check_primary(key, made, now)?;
                return Ok(payload);
            }
            for subkey in &key.public_subkeys {
                if may_be_by(signature, &subkey.key)
                    && signature.verify(&subkey.key, &*payload).is_ok()
                {
                    keys::check_subkey(key, subkey, made, now)?;
                    return Ok(payload);
                }
            }
        }
        Err(self.unknown_signer(signature))
    }

    fn unknown_signer(&self, signature: &Signature) -> String {
        let known = self.0.iter().any(|key| {
            let subkeys = key.public_subkeys.iter();
            may_be_by(signature, &key.primary_key)
                || subkeys
                    .into_iter()
                    .any(|subkey| may_be_by(signature, &subkey.key))
        });
        if known {
            return "the OpenPGP signature is wrong".to_owned();
        }
        let ids = signature
            .issuer_key_id()
            .into_iter()
            .map(ToString::to_string);
        let ids = ids.collect::<Vec<_>>().join(", ");
        format!("the OpenPGP signature is by key {ids:?}, which the policy does not name")
    }
}

fn parse_keys(blob: &[u8]) -> Result<Vec<SignedPublicKey>, String> {
    let text = std::str::from_utf8(blob).ok();
    let Some(text) = text.filter(|text| text.contains(ARMOR)) else {
        return collect(SignedPublicKey::from_bytes_many(blob));
    };
    let mut keys = Vec::new();
    for block in text.split(ARMOR).skip(1) {
        let block = format!("{ARMOR}{block}");
        let parsed = SignedPublicKey::from_string_many(&block);
        keys.extend(collect(parsed.map(|(keys, _)| keys))?);
    }
    Ok(keys)
}

type Parsed<'a> = Box<dyn Iterator<Item = pgp::errors::Result<SignedPublicKey>> + 'a>;

fn collect(parsed: pgp::errors::Result<Parsed<'_>>) -> Result<Vec<SignedPublicKey>, String> {
    let all = parsed.and_then(Iterator::collect::<Result<_, _>>);
    all.map_err(|error| error.to_string())
}

/// Opens a message and reads its content, which verifying needs.
fn read(bytes: &[u8]) -> Result<(Message<'_>, Vec<u8>), String> {
    let mut message = open(bytes)?;
    // What is compressed within is not what was signed; so only a literal may be in there.
    match &message {
        Message::Signed { reader, .. } if reader.num_signatures() == 1 => {}
        Message::Signed { .. } => return Err("the message has several signatures".to_owned()),
        _ => return Err("the OpenPGP message is not signed".to_owned()),
    }
    if message.literal_data_header().is_none() {
        return Err("the OpenPGP message does not sign a literal".to_owned());
    }
    let payload = bounded(&mut message, PAYLOAD_BYTES)?;
    Ok((message, payload))
}

/// Opens a message, and the one that is compressed in it. That is unpacked first, within bounds: a
/// few bytes could be millions of packets, and each takes memory.
fn open(bytes: &[u8]) -> Result<Message<'_>, String> {
    let broken = |error: pgp::errors::Error| format!("no OpenPGP message: {error}");
    if bytes.len() > MESSAGE_BYTES {
        return Err(format!(
            "an OpenPGP message of more than {MESSAGE_BYTES} bytes"
        ));
    }
    match Message::from_bytes(bytes).map_err(broken)? {
        Message::Compressed { reader, .. } => {
            let reader = reader.decompress();
            let reader = reader.map_err(|error| format!("no OpenPGP message: {error}"))?;
            let unpacked = bounded(reader, MESSAGE_BYTES)?;
            Message::from_bytes(Cursor::new(unpacked)).map_err(broken)
        }
        message => Ok(message),
    }
}

fn bounded(from: impl Read, limit: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = from.take(limit as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("no OpenPGP message: {error}"))?;
    if bytes.len() > limit {
        return Err(format!(
            "an OpenPGP message has more than {limit} bytes in it"
        ));
    }
    Ok(bytes)
}

fn the_signature<'a>(message: &'a Message<'_>) -> Result<&'a Signature, String> {
    let signature = match message {
        Message::Signed { reader, .. } => reader.signature(0),
        _ => None,
    };
    signature.ok_or_else(|| "the OpenPGP message has no signature".to_owned())
}

/// Checks what a signature says of itself, and returns when it was made.
fn check_terms(signature: &Signature, now: Now) -> Result<Now, String> {
    let config = signature
        .config()
        .filter(|config| {
            matches!(
                config.version(),
                // The third is what some services that sign packages still make.
                SignatureVersion::V3 | SignatureVersion::V4 | SignatureVersion::V6
            )
        })
        .ok_or("the OpenPGP signature is of an unknown version")?;
    if !matches!(config.typ, SignatureType::Binary | SignatureType::Text) {
        return Err("the OpenPGP signature is not one of a document".to_owned());
    }
    // Collisions can be made: a signature over one text would be one over another.
    let weak = matches!(
        config.hash_alg,
        HashAlgorithm::Md5 | HashAlgorithm::Sha1 | HashAlgorithm::Ripemd160
    );
    if weak {
        return Err(format!("the OpenPGP signature uses {}", config.hash_alg));
    }
    // RFC 9580, 5.2.3.7: what is critical and not understood makes the signature an error.
    let unknown = config.hashed_subpackets().any(|subpacket| {
        subpacket.is_critical
            && matches!(
                subpacket.data,
                SubpacketData::Other(..)
                    | SubpacketData::Experimental(..)
                    | SubpacketData::Notation(_)
            )
    });
    if unknown {
        return Err("the OpenPGP signature has a critical part that is unknown".to_owned());
    }
    let made = signature
        .created()
        .ok_or("the OpenPGP signature does not say when it was made")?;
    let made = u64::from(made.as_secs());
    let lasts = signature.signature_expiration_time();
    match lasts.map(|lasts| u64::from(lasts.as_secs())) {
        Some(lasts) if lasts != 0 && now.0 >= made + lasts => {
            Err("the OpenPGP signature has expired".to_owned())
        }
        _ => Ok(Now(made)),
    }
}

/// Whether a signature names this key; one that names none may be by any.
fn may_be_by(signature: &Signature, key: &impl KeyDetails) -> bool {
    let (ids, prints) = (signature.issuer_key_id(), signature.issuer_fingerprint());
    let (id, print) = (key.legacy_key_id(), key.fingerprint());
    ids.is_empty() && prints.is_empty() || ids.contains(&&id) || prints.contains(&&print)
}

#[cfg(test)]
mod tests;
