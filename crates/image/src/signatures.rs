//! Signatures in the store, beside the image or artifact that they are for.
//!
//! An image's are in containers/image's form, so that podman and skopeo see those that we kept, and we theirs: an
//! item `signature-<hex>` per manifest with its signatures one after another, an item `signatures`
//! with those of the manifest that was stored last, and their lengths in the image's metadata. For
//! artifacts nobody else keeps any: theirs are a line with the lengths, `[1,2]`, and they themselves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use storage::{Digest, Image, ImageId, Store, StoredArtifact};
use trust::Signature;

use crate::error::Result;
use crate::limits;
use crate::manifest::Document;

/// What containers/image writes into an image's metadata.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Metadata {
    #[serde(rename = "signature-sizes", skip_serializing_if = "Vec::is_empty")]
    last: Vec<usize>,
    #[serde(
        rename = "signatures-sizes",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    by_manifest: BTreeMap<String, Vec<usize>>,
}

impl Metadata {
    /// Others may write something else there: then there are no signatures.
    fn parse(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }
}

/// What is recorded for a manifest's signatures.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Items of the image.
    pub(crate) items: Vec<(String, Vec<u8>)>,
    /// Its metadata.
    pub(crate) metadata: String,
}

/// Makes the record of a manifest's signatures for an image that may be in the store already, with
/// signatures of other manifests; those stay.
pub(crate) fn record(
    store: &Store,
    image: &ImageId,
    manifest: &Digest,
    signatures: &[Signature],
) -> Result<Record> {
    let known = match store.image(image) {
        Ok(image) => image.metadata.clone(),
        Err(storage::Error::ImageUnknown(_)) => String::new(),
        Err(error) => return Err(error.into()),
    };
    Ok(add(&known, manifest, signatures))
}

fn add(known: &str, manifest: &Digest, signatures: &[Signature]) -> Record {
    let mut metadata = Metadata::parse(known);
    let blobs: Vec<_> = signatures.iter().map(Signature::encode).collect();
    let sizes: Vec<_> = blobs.iter().map(Vec::len).collect();
    let mut items = Vec::new();
    if !blobs.is_empty() {
        let all = blobs.concat();
        items.push((format!("signature-{}", manifest.hex()), all.clone()));
        items.push(("signatures".to_owned(), all));
    }
    metadata.last.clone_from(&sizes);
    metadata.by_manifest.remove(manifest.as_str());
    if !sizes.is_empty() {
        metadata.by_manifest.insert(manifest.to_string(), sizes);
    }
    let metadata = serde_json::to_string(&metadata).unwrap_or_else(|_| "{}".to_owned());
    Record { items, metadata }
}

/// The manifests of a stored image, each of which says that the image is what it is, and all
/// signatures that are kept with it. What is damaged is left out: it can prove nothing.
pub(crate) fn evidence(store: &Store, image: &Image) -> (Vec<Vec<u8>>, Vec<Signature>) {
    let read = |key: &str| store.big_data(&image.id, key).ok();
    let keys = image.big_data.iter().map(|(key, _)| key.as_str());
    let manifests = keys.filter(|key| *key == "manifest" || key.starts_with("manifest-"));
    let mut manifests: Vec<Vec<u8>> = manifests.filter_map(read).collect();
    manifests.retain(|bytes| is_of(bytes, &image.id));
    manifests.sort();
    manifests.dedup();
    let metadata = Metadata::parse(&image.metadata);
    let mut stored = vec![("signatures".to_owned(), metadata.last)];
    for (manifest, sizes) in metadata.by_manifest {
        if let Ok(manifest) = Digest::try_from(manifest) {
            stored.push((format!("signature-{}", manifest.hex()), sizes));
        }
    }
    let mut signatures: Vec<Signature> = Vec::new();
    for (key, sizes) in stored {
        let Some(bytes) = read(&key).filter(|_| !sizes.is_empty()) else {
            continue;
        };
        for signature in split(&bytes, &sizes) {
            if !signatures.contains(&signature) && signatures.len() < trust::limits::SIGNATURES {
                signatures.push(signature);
            }
        }
    }
    (manifests, signatures)
}

/// The signatures that are kept with an image for one of its manifests, whatever its store is.
pub(crate) fn of_manifest(
    image: &Image,
    manifest: &Digest,
    read: impl Fn(&str) -> Option<Vec<u8>>,
) -> Vec<Signature> {
    let mut metadata = Metadata::parse(&image.metadata);
    let (key, sizes) = match metadata.by_manifest.remove(manifest.as_str()) {
        Some(sizes) => (format!("signature-{}", manifest.hex()), sizes),
        // What was kept before there were several manifests.
        None if metadata.by_manifest.is_empty() => ("signatures".to_owned(), metadata.last),
        None => return Vec::new(),
    };
    let bytes = read(&key).filter(|_| !sizes.is_empty());
    bytes.map_or_else(Vec::new, |bytes| split(&bytes, &sizes))
}

/// An artifact's signatures in the form in which they are kept; nothing where there are none.
pub(crate) fn encode(signatures: &[Signature]) -> Vec<u8> {
    if signatures.is_empty() {
        return Vec::new();
    }
    let blobs: Vec<_> = signatures.iter().map(Signature::encode).collect();
    let lengths: Vec<_> = blobs.iter().map(Vec::len).collect();
    let line = serde_json::json!(lengths).to_string();
    [line.as_bytes(), b"\n", &blobs.concat()].concat()
}

/// An artifact's manifest, and the signatures that are kept with it; what is damaged proves nothing.
pub(crate) fn evidence_of_artifact(artifact: &StoredArtifact) -> (Vec<Vec<u8>>, Vec<Signature>) {
    let kept = artifact.signatures(limits::KEPT_SIGNATURES_BYTES);
    let signatures = kept.map(|bytes| decode(&bytes)).unwrap_or_else(|error| {
        tracing::warn!(artifact = %artifact.digest, %error, "its signatures can't be read");
        Vec::new()
    });
    (vec![artifact.manifest.clone()], signatures)
}

pub(crate) fn decode(bytes: &[u8]) -> Vec<Signature> {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let parts = end.and_then(|end| Some((bytes.get(..end)?, bytes.get(end + 1..)?)));
    let Some((line, rest)) = parts else {
        return Vec::new();
    };
    let lengths: Vec<usize> = serde_json::from_slice(line).unwrap_or_default();
    split(rest, &lengths)
}

/// An image's ID is its configuration's digest, and the configuration names its layers; so a manifest
/// with this configuration is one of this image, however it came here.
fn is_of(manifest: &[u8], image: &ImageId) -> bool {
    match Document::parse(manifest) {
        Ok(Document::Image(manifest)) => manifest.config.digest.hex() == image.as_str(),
        _ => false,
    }
}

fn split(mut bytes: &[u8], sizes: &[usize]) -> Vec<Signature> {
    let mut signatures = Vec::new();
    for size in sizes.iter().take(trust::limits::SIGNATURES) {
        let Some((one, rest)) = bytes.split_at_checked(*size) else {
            break;
        };
        bytes = rest;
        match Signature::parse(one) {
            Ok(signature) => signatures.push(signature),
            Err(error) => tracing::debug!(%error, "a stored signature can't be read"),
        }
    }
    signatures
}

/// Whether signatures are too many or too large to be kept.
pub(crate) fn exceed_limits(number: usize, bytes: usize) -> bool {
    number > trust::limits::SIGNATURES || bytes > limits::SIGNATURES_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn simple(byte: u8, length: usize) -> Signature {
        Signature::Simple([&[0xa3][..], &vec![byte; length]].concat())
    }

    #[test]
    fn signatures_of_other_manifests_stay_and_those_of_this_are_replaced() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let first = add("", &one, &[simple(1, 2), simple(2, 3)]);
        let keys: Vec<_> = first.items.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, [&format!("signature-{}", one.hex()), "signatures"]);
        assert_eq!(first.items[0].1, [0xa3, 1, 1, 0xa3, 2, 2, 2]);
        let expected =
            format!(r#"{{"signature-sizes":[3,4],"signatures-sizes":{{"{one}":[3,4]}}}}"#);
        assert_eq!(first.metadata, expected);
        let both = add(&first.metadata, &two, &[simple(3, 4)]);
        let metadata = Metadata::parse(&both.metadata);
        assert_eq!(metadata.last, [5]);
        assert_eq!(metadata.by_manifest.len(), 2);
        let gone = add(&both.metadata, &one, &[]);
        assert_eq!(gone.items, []);
        assert_eq!(
            gone.metadata,
            format!(r#"{{"signatures-sizes":{{"{two}":[5]}}}}"#)
        );
        assert_eq!(add("", &one, &[]).metadata, "{}");
        assert_eq!(add("not JSON", &one, &[]).metadata, "{}");
    }

    #[test]
    fn an_artifacts_signatures_are_read_again_and_what_is_damaged_is_none() {
        let all = [simple(1, 2), simple(2, 3)];
        let kept = encode(&all);
        assert_eq!(kept, b"[3,4]\n\xa3\x01\x01\xa3\x02\x02\x02");
        assert_eq!(decode(&kept), all);
        assert_eq!(encode(&[]), b"");
        for (bytes, found) in [
            (&b""[..], &all[..0]),
            (b"[3,4]", &[]),
            (b"[3,4]\n", &[]),
            (b"[3,9]\n\xa3\x01\x01\xa3", &all[..1]),
            (b"{}\n\xa3\x01\x01", &[]),
            (b"[-1]\n\xa3", &[]),
        ] {
            assert_eq!(decode(bytes), found, "{bytes:?}");
        }
    }

    #[test]
    fn sizes_that_lie_end_the_list() {
        let bytes = [0xa3, 1, 0xa3, 2, 0x00];
        assert_eq!(split(&bytes, &[2, 2]), [simple(1, 1), simple(2, 1)]);
        assert_eq!(split(&bytes, &[2, 9]), [simple(1, 1)]);
        assert_eq!(split(&bytes, &[2, 2, 1]), [simple(1, 1), simple(2, 1)]);
        assert_eq!(split(&bytes, &[0]), []);
        assert_eq!(split(&bytes, &[usize::MAX]), []);
    }
}
