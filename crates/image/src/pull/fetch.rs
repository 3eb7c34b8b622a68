//! Manifest and configuration of the image that fits the node.

use bytes::Bytes;
use storage::Digest;

use super::check;
use crate::client::Session;
use crate::error::{Error, Result};
use crate::limits;
use crate::manifest::{Document, Manifest, choose};
use crate::platform::Platform;

/// What of an image is not a layer; all digests are checked.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) manifest: Manifest,
    pub(super) manifest_digest: Digest,
    pub(super) manifest_bytes: Bytes,
    pub(super) config_bytes: Bytes,
    /// The index that was asked for, if it was one.
    pub(super) index: Option<(Digest, Bytes)>,
}

/// Fetches them from a source.
pub(super) async fn image(session: &Session, here: &Platform) -> Result<Fetched> {
    let reference = &session.source().reference;
    let mut version = reference.version().to_owned();
    let mut expected = reference.digest().cloned();
    let mut index = None;
    for _ in 0..=limits::INDEX_DEPTH {
        let bytes = session.manifest(&version).await?;
        let digest = match expected {
            Some(expected) => {
                check(&bytes, &expected)?;
                expected
            }
            None => Digest::of(&bytes),
        };
        let what = || format!("manifest {digest} of {reference}");
        match Document::parse(&bytes).map_err(|reason| Error::bad_manifest(what(), reason))? {
            Document::Image(manifest) => {
                let config_bytes = config(session, &manifest).await?;
                let (manifest_digest, manifest_bytes) = (digest, bytes);
                return Ok(Fetched {
                    manifest,
                    manifest_digest,
                    manifest_bytes,
                    config_bytes,
                    index,
                });
            }
            Document::Index(entries) => {
                let chosen = choose(&entries, here).ok_or_else(|| Error::NotFound {
                    reference: reference.to_string(),
                    detail: format!("no image for {here} in the index"),
                })?;
                version = chosen.descriptor.digest.to_string();
                expected = Some(chosen.descriptor.digest.clone());
                index.get_or_insert((digest, bytes));
            }
        }
    }
    Err(Error::bad_manifest(reference, "indexes nested too deeply"))
}

async fn config(session: &Session, manifest: &Manifest) -> Result<Bytes> {
    let config = &manifest.config;
    let bytes = session
        .small_blob(&config.digest, limits::CONFIG_BYTES)
        .await?;
    check(&bytes, &config.digest)?;
    if bytes.len() as u64 != config.size {
        let reason = format!("{} bytes instead of {}", bytes.len(), config.size);
        return Err(Error::bad_manifest(
            format!("configuration {}", config.digest),
            reason,
        ));
    }
    Ok(bytes)
}
