//! An OCI layout: `index.json` says which images there are (image-layout.md).

use serde::Deserialize;
use storage::Digest;

use super::location::Location;
use super::tree::{Result, Tree};
use super::{Blobs, Content};
use crate::limits;
use crate::manifest::{Document, IndexEntry};

/// The annotation that names an image of a layout (annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

#[derive(Deserialize)]
struct Marker {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

/// The path of a blob.
pub(super) fn blob(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// Finds the image that is meant, and its names.
pub(super) fn find(tree: &Tree, location: &Location) -> Result<(Content, Vec<String>)> {
    let marker = tree.bytes("oci-layout", limits::MANIFEST_BYTES)?;
    let marker: Marker =
        serde_json::from_slice(&marker).map_err(|error| format!("oci-layout: {error}"))?;
    if !marker.version.starts_with("1.") {
        return Err(format!(
            "oci-layout: version {:?} is not known",
            marker.version
        ));
    }
    let bytes = tree.bytes("index.json", limits::MANIFEST_BYTES)?;
    let index = Document::parse(&bytes).map_err(|reason| format!("index.json: {reason}"))?;
    let Document::Index(entries) = index else {
        return Err("index.json: not an index".to_owned());
    };
    let names = |entry: &IndexEntry| {
        entry
            .annotations
            .get(REF_NAME)
            .cloned()
            .into_iter()
            .collect()
    };
    let entry = location.choose(&entries, names, str::to_owned)?;
    let digest = &entry.descriptor.digest;
    let first = tree.bytes(&blob(digest), limits::MANIFEST_BYTES)?;
    if let Err(actual) = crate::blob::verify(&first, digest) {
        return Err(format!("{}: has the digest {actual}", blob(digest)));
    }
    let content = Content {
        first,
        blobs: Blobs::Layout,
    };
    Ok((content, names(entry)))
}
