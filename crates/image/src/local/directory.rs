//! skopeo's `dir:`: `manifest.json`, every blob by its digest's digits, and the signatures of each
//! manifest, numbered from 1.

use storage::Digest;
use trust::Signature;

use super::tree::{Result, Tree};
use super::{Blobs, Content};
use crate::limits;
use crate::signatures::exceed_limits;

/// The first line of `version`; 1.0 had no such file and other names.
const VERSION: &str = "Directory Transport Version: 1.";

/// Finds the image; it says no name.
pub(super) fn find(tree: &Tree) -> Result<(Content, Vec<String>)> {
    let version = tree.bytes("version", limits::MANIFEST_BYTES)?;
    if !version.starts_with(VERSION.as_bytes()) {
        return Err("version: not of a directory that is known".to_owned());
    }
    let content = Content {
        first: tree.bytes("manifest.json", limits::MANIFEST_BYTES)?,
        blobs: Blobs::Flat,
    };
    Ok((content, Vec::new()))
}

/// A blob's name; 1.1 and before know no other algorithm than SHA-256.
pub(super) fn blob(digest: &Digest) -> String {
    match digest.algorithm() {
        "sha256" => digest.hex().to_owned(),
        other => format!("{other}-{}", digest.hex()),
    }
}

/// The name of a manifest that is not the first.
pub(super) fn manifest(digest: &Digest) -> String {
    format!("{}.manifest.json", blob(digest))
}

/// The signatures of a manifest, or of the first; the first number that is not there ends them.
pub(super) fn signatures(tree: &Tree, of: Option<&Digest>) -> Result<Vec<Signature>> {
    let prefix = of.map_or(String::new(), |digest| format!("{}.", blob(digest)));
    let (mut found, mut bytes) = (Vec::new(), 0);
    loop {
        let path = format!("{prefix}signature-{}", found.len() + 1);
        let Some(next) = tree.bytes_if_there(&path, trust::limits::SIGNATURE_BYTES)? else {
            return Ok(found);
        };
        bytes += next.len();
        if exceed_limits(found.len() + 1, bytes) {
            return Err(format!("{path}: too many or too large signatures"));
        }
        found.push(Signature::parse(&next).map_err(|why| format!("{path}: {why}"))?);
    }
}
