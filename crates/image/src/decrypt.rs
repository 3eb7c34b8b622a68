//! Encrypted layers, as ocicrypt makes them: the layer's key is in an annotation of its descriptor,
//! wrapped for each who may read it; the layer is AES-256-CTR with an HMAC over the ciphertext.
//!
//! The keys of the node are files of a directory, read again at each pull that needs them. JWE and PKCS#7
//! are read (and key providers asked, which are programs of the node or services); PKCS#11 and PGP are refused.
//! The key of every encrypted layer is asked for at each pull, also where its content is in the store:
//! who has no key gets no image.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use storage::Digest;

use crate::error::{Error, Result};
use crate::manifest::{Descriptor, null_is_default};

pub(crate) mod cipher;
pub(crate) mod jwe;
mod keys;
pub(crate) mod pkcs7;
mod provider;

pub(crate) use cipher::Decryptor;
use keys::Keys;
use provider::Providers;
#[cfg(feature = "fuzzing")]
pub(crate) use provider::grpc::{decode as provider_answer, encode as provider_request};

/// What all annotations of encryption begin with.
pub(crate) const ANNOTATIONS: &str = "org.opencontainers.image.enc.";
/// What is added to the media type of a layer that is encrypted.
const SUFFIX: &str = "+encrypted";

/// What it takes to decrypt one layer.
#[derive(Clone)]
pub(crate) struct Secret {
    key: [u8; 32],
    nonce: [u8; 16],
    /// Of the ciphertext.
    hmac: Vec<u8>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").finish_non_exhaustive()
    }
}

/// ocicrypt's options, the wrapped ones and the open ones. A digest that is among the wrapped ones
/// is that of what the layer was made from, perhaps before it was compressed: it says nothing.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Options {
    symkey: String,
    cipher: String,
    hmac: String,
    #[serde(deserialize_with = "null_is_default")]
    cipheroptions: BTreeMap<String, String>,
}

impl Descriptor {
    /// Whether it is a layer that is encrypted.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.media_type.ends_with(SUFFIX)
    }
}

/// Unwraps the key of each layer that is encrypted, with the node's keys and key providers. Blocks.
///
/// # Errors
/// [`Error::Encrypted`] where no key fits; [`Error::Config`] where keys can't be read.
pub(crate) fn secrets(
    layers: &[Descriptor],
    keys: &Path,
    providers: Option<&Path>,
) -> Result<Vec<Option<Secret>>> {
    if !layers.iter().any(Descriptor::is_encrypted) {
        return Ok(vec![None; layers.len()]);
    }
    let (keys, providers) = (Keys::load(keys)?, Providers::load(providers)?);
    let secret = |layer: &Descriptor| match layer.is_encrypted() {
        false => Ok(None),
        true => secret(layer, &keys, &providers).map(Some),
    };
    layers.iter().map(secret).collect()
}

fn secret(layer: &Descriptor, keys: &Keys, providers: &Providers) -> Result<Secret> {
    let encrypted = |reason: String| Error::Encrypted {
        layer: layer.digest.clone(),
        reason,
    };
    let mut failed = Vec::new();
    for (name, value) in &layer.annotations {
        let Some(scheme) = name
            .strip_prefix(ANNOTATIONS)
            .and_then(|it| it.strip_prefix("keys."))
        else {
            continue;
        };
        for wrapped in value.split(',') {
            let opened = STANDARD
                .decode(wrapped)
                .map_err(|_| "not base64".to_owned())
                .and_then(|wrapped| unwrap(scheme, &wrapped, keys, providers));
            match opened {
                Ok(options) => return Secret::new(layer, &options).map_err(encrypted),
                Err(reason) => failed.push(format!("{scheme}: {reason}")),
            }
        }
    }
    if failed.is_empty() {
        failed.push("its key is not there".to_owned());
    }
    Err(encrypted(failed.join("; ")))
}

fn unwrap(
    scheme: &str,
    wrapped: &[u8],
    keys: &Keys,
    providers: &Providers,
) -> Result<Vec<u8>, String> {
    match scheme {
        "jwe" => jwe::open(wrapped, &keys.keys).map_err(|reason| keys.explain(reason)),
        "pkcs7" => pkcs7::open(wrapped, &keys.keys).map_err(|reason| keys.explain(reason)),
        "pkcs11" | "pgp" => Err("keys of this kind are not supported".to_owned()),
        other => match other.strip_prefix("provider.") {
            Some(name) => providers.unwrap(name, wrapped),
            None => Err("unknown".to_owned()),
        },
    }
}

impl Secret {
    fn new(layer: &Descriptor, wrapped: &[u8]) -> Result<Self, String> {
        const CIPHER: &str = "AES_256_CTR_HMAC_SHA256";
        let parse = |bytes: &[u8], what: &str| -> Result<Options, String> {
            // What it says may be the key: the parser's words are not passed on.
            serde_json::from_slice(bytes).map_err(|_| format!("{what} options are malformed"))
        };
        let bytes = |text: &str, what: &str| {
            let bytes = STANDARD.decode(text);
            bytes.map_err(|_| format!("{what} is not base64"))
        };
        let open = layer.annotations.get(&format!("{ANNOTATIONS}pubopts"));
        let open = bytes(open.map_or("", String::as_str), "its pubopts annotation")?;
        let (own, open) = (parse(wrapped, "private")?, parse(&open, "public")?);
        if open.cipher != CIPHER {
            return Err(format!("cipher {:?} is not supported", open.cipher));
        }
        let nonce = open
            .cipheroptions
            .get("nonce")
            .or_else(|| own.cipheroptions.get("nonce"));
        let nonce = bytes(nonce.map_or("", String::as_str), "the nonce")?;
        let wrong = |what: &str| format!("{what} has a wrong length");
        Ok(Self {
            key: bytes(&own.symkey, "the key")?
                .try_into()
                .map_err(|_| wrong("the key"))?,
            nonce: nonce.try_into().map_err(|_| wrong("the nonce"))?,
            hmac: bytes(&open.hmac, "the HMAC")?,
        })
    }
}

/// A manifest's text as it is once those layers are decrypted that `plain` has the diff ID and the size
/// of: they are then what the store gives out, uncompressed.
///
/// # Errors
/// It is not what was parsed before.
pub(crate) fn decrypted(
    manifest: &[u8],
    plain: &[Option<(Digest, u64)>],
) -> Result<Vec<u8>, String> {
    let malformed = || "the manifest has other layers than before".to_owned();
    let mut document: serde_json::Value =
        serde_json::from_slice(manifest).map_err(|error| error.to_string())?;
    let layers = document["layers"].as_array_mut().ok_or_else(malformed)?;
    if layers.len() != plain.len() {
        return Err(malformed());
    }
    for (layer, plain) in layers.iter_mut().zip(plain) {
        let Some((diff_id, size)) = plain else {
            continue;
        };
        let layer = layer.as_object_mut().ok_or_else(malformed)?;
        let media_type = layer
            .get("mediaType")
            .and_then(|it| it.as_str())
            .unwrap_or_default();
        let media_type = media_type.split('+').next().unwrap_or_default();
        // docker's words for the same.
        let media_type = media_type.trim_end_matches(".gzip").to_owned();
        layer.insert("mediaType".to_owned(), media_type.into());
        layer.insert("digest".to_owned(), diff_id.as_str().into());
        layer.insert("size".to_owned(), (*size).into());
        if let Some(annotations) = layer
            .get_mut("annotations")
            .and_then(|it| it.as_object_mut())
        {
            annotations.retain(|name, _| !name.starts_with(ANNOTATIONS));
            if annotations.is_empty() {
                layer.remove("annotations");
            }
        }
    }
    Ok(document.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn layer(annotations: serde_json::Value) -> Descriptor {
        serde_json::from_value(json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "digest": Digest::of(b"x").as_str(), "size": 1, "annotations": annotations}))
        .unwrap()
    }

    #[test]
    fn what_cant_be_decrypted_says_why() {
        let dir = tempfile::tempdir().unwrap();
        for (annotations, expected) in [
            (json!({}), "its key is not there"),
            (
                json!({"org.opencontainers.image.enc.keys.pgp": "AAAA"}),
                "pgp: keys of this kind",
            ),
            (
                json!({"org.opencontainers.image.enc.keys.pkcs7": "AAAA"}),
                "pkcs7: no key in",
            ),
            (
                json!({"org.opencontainers.image.enc.keys.pkcs11": "AAAA"}),
                "pkcs11: keys of this kind",
            ),
            (
                json!({"org.opencontainers.image.enc.keys.jwe": "%"}),
                "jwe: not base64",
            ),
            (
                json!({"org.opencontainers.image.enc.keys.jwe": "e30="}),
                "no key in",
            ),
            (
                json!({"org.opencontainers.image.enc.keys.provider.none": "AAAA"}),
                "provider.none: no key provider",
            ),
        ] {
            let error = secrets(&[layer(annotations)], dir.path(), None).unwrap_err();
            assert!(matches!(error, Error::Encrypted { .. }), "{error}");
            assert!(error.to_string().contains(expected), "{expected}: {error}");
        }
        let plain = Descriptor {
            media_type: "application/vnd.oci.image.layer.v1.tar".into(),
            ..layer(json!({}))
        };
        assert_eq!(
            secrets(&[plain], Path::new("/absent"), None).unwrap().len(),
            1
        );
    }

    #[test]
    fn options_are_those_of_ocicrypt_or_refused() {
        let own = |symkey: &[u8]| {
            json!({"symkey": STANDARD.encode(symkey), "digest": Digest::of(b"plain").as_str(),
                "cipheroptions": {"nonce": STANDARD.encode([1; 16])}})
            .to_string()
        };
        let open = |cipher: &str| {
            let text =
                json!({"cipher": cipher, "hmac": STANDARD.encode([2; 32]), "cipheroptions": null});
            layer(
                json!({"org.opencontainers.image.enc.pubopts": STANDARD.encode(text.to_string())}),
            )
        };
        let good = open("AES_256_CTR_HMAC_SHA256");
        let secret = Secret::new(&good, own(&[3; 32]).as_bytes()).unwrap();
        assert_eq!((secret.key, secret.nonce), ([3; 32], [1; 16]));
        assert!(format!("{secret:?}").starts_with("Secret {"));
        for (layer, own, expected) in [
            (&good, own(&[3; 31]), "the key has a wrong length"),
            (&good, "{}".to_owned(), "the key has"),
            (&good, "[".to_owned(), "malformed"),
            (&open("ROT13"), own(&[3; 32]), "not supported"),
        ] {
            let error = Secret::new(layer, own.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn a_decrypted_manifest_names_what_the_layers_are_then() {
        let manifest = json!({"schemaVersion": 2, "x": 1, "layers": [
            {"mediaType": "a.tar", "digest": "sha256:1", "size": 1},
            {"mediaType": "a.tar+gzip+encrypted", "digest": "sha256:2", "size": 2,
                "annotations": {"org.opencontainers.image.enc.keys.jwe": "k"}},
            {"mediaType": "a.tar+encrypted", "digest": "sha256:3", "size": 3,
                "annotations": {"org.opencontainers.image.enc.pubopts": "k", "own": "v"}}]});
        let plain = [
            None,
            Some((Digest::of(b"2"), 20)),
            Some((Digest::of(b"3"), 30)),
        ];
        let text = decrypted(manifest.to_string().as_bytes(), &plain).unwrap();
        let found: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(found["x"], 1);
        assert_eq!(found["layers"][0], manifest["layers"][0]);
        assert_eq!(
            found["layers"][1],
            json!({"mediaType": "a.tar", "digest": Digest::of(b"2").as_str(), "size": 20})
        );
        assert_eq!(found["layers"][2]["annotations"], json!({"own": "v"}));
        assert!(decrypted(manifest.to_string().as_bytes(), &plain[..2]).is_err());
    }
}
