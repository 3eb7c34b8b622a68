//! Signatures in the store, beside the image or artifact that they are for.
//!
//! An image's are in containers/image's form, so that podman and skopeo see those that we kept, and we theirs: an
//! item `signature-<hex>` per manifest with its signatures one after another, an item `signatures`
//! with those of the manifest that was stored last, and their lengths in the image's metadata. For
//! artifacts nobody else keeps any: theirs are a line with the lengths, `[1,2]`, and they themselves.
//!
//! A pull adds to what is kept and takes nothing away: an image is everybody's on the node, and who
//! pulls it from a source without signatures says nothing about those of others.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use storage::{Digest, Image, ImageId, KnownImage, NewImage, Store, StoredArtifact};
use trust::{Evidence, Signature};

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

/// The signatures that a pull found for a manifest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    pub(crate) signatures: &'a [Signature],
    /// Whether a policy asked for some, and these are enough.
    pub(crate) accepted: bool,
}

/// Adds what was found for a manifest to what is kept for it with an image; what is kept for other
/// manifests stays. `known` is the image as it is in the store.
///
/// # Errors
/// Of reading what is kept; what is missing is not an error.
pub(crate) fn keep(
    image: &mut NewImage,
    known: Option<&KnownImage<'_>>,
    manifest: &Digest,
    found: Found<'_>,
) -> Result<(), storage::Error> {
    let item = |key: &str| match known.map(|known| known.item(key)) {
        None | Some(Err(storage::Error::NoBigData { .. })) => Ok(None),
        Some(item) => item.map(Some),
    };
    let record = add(
        known.map_or("", KnownImage::metadata),
        item,
        manifest,
        found,
    )?;
    image.big_data.extend(record.items);
    image.metadata = record.metadata;
    Ok(())
}

/// What is recorded for a manifest's signatures.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    /// Items of the image.
    items: Vec<(String, Vec<u8>)>,
    /// Its metadata.
    metadata: String,
}

fn add<E>(
    known: &str,
    item: impl Fn(&str) -> Result<Option<Vec<u8>>, E>,
    manifest: &Digest,
    found: Found<'_>,
) -> Result<Record, E> {
    let mut metadata = Metadata::parse(known);
    let read = |key: &str, sizes: &[usize]| {
        let bytes = if sizes.is_empty() { None } else { item(key)? };
        let bytes = bytes.unwrap_or_default();
        let kept = pieces(&bytes, sizes).map(<[u8]>::to_vec);
        Ok::<Vec<_>, E>(kept.collect())
    };
    let mut items = Vec::new();
    let sizes = metadata.by_manifest.remove(manifest.as_str());
    let mut kept = read(&key_of(manifest), &sizes.unwrap_or_default())?;
    // Somebody may have kept those of the manifest that was stored last as such only.
    let last = read(LAST, &metadata.last)?;
    let last_manifest = if last.is_empty() {
        None
    } else {
        item("manifest")?
    };
    if let Some(of) = last_manifest.map(|bytes| Digest::of(&bytes)) {
        let is_kept = |sizes: &Vec<usize>| *sizes == metadata.last;
        if of == *manifest {
            for one in last {
                if !kept.contains(&one) {
                    kept.push(one);
                }
            }
        } else if !metadata.by_manifest.contains_key(of.as_str())
            && sizes_of(&kept) != metadata.last
            && !metadata.by_manifest.values().any(is_kept)
        {
            items.push((key_of(&of), last.concat()));
            metadata.by_manifest.insert(of.to_string(), sizes_of(&last));
        }
    }
    let blobs = merged(kept, found);
    let sizes = sizes_of(&blobs);
    if !blobs.is_empty() {
        let all = blobs.concat();
        items.push((key_of(manifest), all.clone()));
        items.push((LAST.to_owned(), all));
        metadata
            .by_manifest
            .insert(manifest.to_string(), sizes.clone());
    }
    metadata.last = sizes;
    let metadata = serde_json::to_string(&metadata).unwrap_or_else(|_| "{}".to_owned());
    Ok(Record { items, metadata })
}

/// What is kept for a manifest, and what a pull found for it, each once. Where they are too many or too
/// large, those at the end are left out. What is new stands there, so that nothing that is kept goes for
/// what nobody has verified; but what a policy asked for and accepted stands in front of all.
fn merged(kept: Vec<Vec<u8>>, found: Found<'_>) -> Vec<Vec<u8>> {
    let known: Vec<_> = kept.iter().map(|one| Signature::parse(one).ok()).collect();
    let is_found = |one: &Option<Signature>| {
        let one = one.as_ref();
        one.is_some_and(|one| found.signatures.contains(one))
    };
    let all: Vec<Vec<u8>> = if found.accepted {
        let first = found.signatures.iter().map(Signature::encode);
        let rest = kept.into_iter().zip(&known);
        let rest = rest.filter_map(|(bytes, one)| (!is_found(one)).then_some(bytes));
        first.chain(rest).collect()
    } else {
        let new = found.signatures.iter();
        let new = new.filter(|new| !known.iter().any(|one| one.as_ref() == Some(new)));
        kept.into_iter().chain(new.map(Signature::encode)).collect()
    };
    let (mut few, mut bytes): (Vec<Vec<u8>>, usize) = (Vec::new(), 0);
    for one in all {
        let fits = !exceed_limits(few.len() + 1, bytes.saturating_add(one.len()));
        if fits && !few.contains(&one) {
            bytes += one.len();
            few.push(one);
        }
    }
    few
}

/// With those of the manifest that was stored last.
const LAST: &str = "signatures";

/// With those of one manifest.
fn key_of(manifest: &Digest) -> String {
    format!("signature-{}", manifest.hex())
}

fn sizes_of(blobs: &[Vec<u8>]) -> Vec<usize> {
    blobs.iter().map(Vec::len).collect()
}

/// Looks at something until it is enough.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(&Evidence<'_>) -> bool;

/// Shows the manifests of a stored image, each of which says that the image is what it is, with the
/// signatures that are kept for it, until one is enough. What is damaged is left out: it can prove
/// nothing. Those of one manifest never stand in the way of another's.
pub(crate) fn evidence(store: &Store, image: &Image, visit: Visit<'_>) {
    let read = |key: &str| store.big_data(&image.id, key).ok();
    let keys = image.big_data.iter().map(|(key, _)| key.as_str());
    let manifests = keys.filter(|key| *key == "manifest" || key.starts_with("manifest-"));
    let mut manifests: Vec<Vec<u8>> = manifests.filter_map(read).collect();
    // Without them nothing fits an image that has some.
    let tocs = store.layer_tocs(image.top_layer.as_ref());
    let tocs = tocs.unwrap_or_default();
    manifests.retain(|bytes| is_of(bytes, &image.id, &tocs));
    manifests.sort();
    manifests.dedup();
    let metadata = Metadata::parse(&image.metadata);
    for manifest in &manifests {
        let digest = Digest::of(manifest);
        let own = metadata.by_manifest.get(digest.as_str());
        let own = own.map(|sizes| (key_of(&digest), sizes));
        let mut signatures: Vec<Signature> = Vec::new();
        for (key, sizes) in own.into_iter().chain([(LAST.to_owned(), &metadata.last)]) {
            let bytes = if sizes.is_empty() { None } else { read(&key) };
            for signature in split(&bytes.unwrap_or_default(), sizes) {
                if !signatures.contains(&signature) && signatures.len() < trust::limits::SIGNATURES
                {
                    signatures.push(signature);
                }
            }
        }
        let signatures = &signatures;
        if visit(&Evidence {
            manifest,
            signatures,
        }) {
            break;
        }
    }
}

/// The signatures that are kept with an image for one of its manifests, whatever its store is.
pub(crate) fn of_manifest(
    image: &Image,
    manifest: &Digest,
    read: impl Fn(&str) -> Option<Vec<u8>>,
) -> Vec<Signature> {
    let mut metadata = Metadata::parse(&image.metadata);
    let (key, sizes) = match metadata.by_manifest.remove(manifest.as_str()) {
        Some(sizes) => (key_of(manifest), sizes),
        // What was kept before there were several manifests.
        None if metadata.by_manifest.is_empty() => (LAST.to_owned(), metadata.last),
        None => return Vec::new(),
    };
    let bytes = read(&key).filter(|_| !sizes.is_empty());
    bytes.map_or_else(Vec::new, |bytes| split(&bytes, &sizes))
}

/// What is kept with an artifact, `kept` so far, when a pull has found these.
pub(crate) fn keep_for_artifact(kept: &[u8], found: Found<'_>) -> Vec<u8> {
    let (lengths, rest) = parts(kept);
    let kept = pieces(rest, &lengths).map(<[u8]>::to_vec).collect();
    encode(&merged(kept, found))
}

/// An artifact's signatures in the form in which they are kept; nothing where there are none.
pub(crate) fn encode(blobs: &[Vec<u8>]) -> Vec<u8> {
    if blobs.is_empty() {
        return Vec::new();
    }
    let line = serde_json::json!(sizes_of(blobs)).to_string();
    [line.as_bytes(), b"\n", &blobs.concat()].concat()
}

/// Shows an artifact's manifest, and the signatures that are kept with it; what is damaged proves nothing.
pub(crate) fn evidence_of_artifact(artifact: &StoredArtifact, visit: Visit<'_>) {
    let kept = artifact.signatures(limits::KEPT_SIGNATURES_BYTES);
    let signatures = kept.map(|bytes| decode(&bytes)).unwrap_or_else(|error| {
        tracing::warn!(artifact = %artifact.digest, %error, "its signatures can't be read");
        Vec::new()
    });
    visit(&Evidence {
        manifest: &artifact.manifest,
        signatures: &signatures,
    });
}

pub(crate) fn decode(bytes: &[u8]) -> Vec<Signature> {
    let (lengths, rest) = parts(bytes);
    split(rest, &lengths)
}

/// The lengths, and what they are of.
fn parts(bytes: &[u8]) -> (Vec<usize>, &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let parts = end.and_then(|end| Some((bytes.get(..end)?, bytes.get(end + 1..)?)));
    let Some((line, rest)) = parts else {
        return (Vec::new(), &[]);
    };
    (serde_json::from_slice(line).unwrap_or_default(), rest)
}

/// An image's ID is its configuration's digest, and the configuration names its layers; so a manifest
/// with this configuration is one of this image, however it came here. Where layers are identified by
/// their tables of contents, which the configuration does not name, the manifest has to name them.
fn is_of(manifest: &[u8], image: &ImageId, tocs: &[Option<Digest>]) -> bool {
    let Ok(Document::Image(manifest)) = Document::parse(manifest) else {
        return false;
    };
    let layers = manifest.layers.iter();
    let named = layers.map(crate::manifest::Descriptor::toc);
    let same = tocs.len() == manifest.layers.len()
        && tocs
            .iter()
            .zip(named)
            .all(|(toc, named)| toc.is_none() || *toc == named);
    (same || tocs.iter().all(Option::is_none))
        && storage::image_id(&manifest.config.digest, tocs).as_ref() == Some(image)
}

fn split(bytes: &[u8], sizes: &[usize]) -> Vec<Signature> {
    let parse = |one| {
        let signature = Signature::parse(one);
        let signature = signature.inspect_err(|error| {
            tracing::debug!(%error, "a stored signature can't be read");
        });
        signature.ok()
    };
    pieces(bytes, sizes).filter_map(parse).collect()
}

/// The bytes of each, up to the first size that lies.
fn pieces<'a>(mut bytes: &'a [u8], sizes: &[usize]) -> impl Iterator<Item = &'a [u8]> {
    let sizes = sizes.iter().take(trust::limits::SIGNATURES);
    sizes.map_while(move |size| {
        let (one, rest) = bytes.split_at_checked(*size)?;
        bytes = rest;
        Some(one)
    })
}

/// Whether signatures are too many or too large to be kept.
pub(crate) fn exceed_limits(number: usize, bytes: usize) -> bool {
    number > trust::limits::SIGNATURES || bytes > limits::SIGNATURES_BYTES
}

#[cfg(test)]
mod tests;
