//! skopeo's `dir:`: `manifest.json`, and every blob by its digest's digits.

use super::tree::{Result, Tree};
use super::{Blobs, Content};
use crate::limits;

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
