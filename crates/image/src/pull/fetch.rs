//! Manifest and configuration of the image that fits the node.

use bytes::Bytes;
use storage::Digest;
use trust::Signature;

use super::check;
use crate::client::Session;
use crate::error::{Error, Result};
use crate::limits;
use crate::manifest::{Document, Manifest, choose, is_schema_1};
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
    /// The manifest as it was fetched, where `manifest_bytes` says what its encrypted layers were.
    pub(super) encrypted: Option<(Digest, Bytes)>,
    /// Whether it is no image.
    pub(super) is_artifact: bool,
    /// What was found to be said about the manifest; empty until it was looked for.
    pub(super) signatures: Vec<Signature>,
    /// Whether a policy asked for signatures, and these are enough.
    pub(super) accepted: bool,
}

/// Where manifests and configurations come from. Digests are the caller's to check.
pub(super) trait Origin: Sync {
    /// What errors call it.
    fn name(&self) -> String;
    /// The digest of the manifest or index that was asked for, where it was asked for by one.
    fn digest(&self) -> Option<&Digest>;
    /// The manifest or index with a digest, or the one that was asked for.
    async fn manifest(&self, digest: Option<&Digest>) -> Result<Bytes>;
    /// A blob of at most `limit` bytes.
    async fn small_blob(&self, digest: &Digest, limit: usize) -> Result<Bytes>;
}

impl Origin for Session {
    fn name(&self) -> String {
        self.source().reference.to_string()
    }

    fn digest(&self) -> Option<&Digest> {
        self.source().reference.digest()
    }

    async fn manifest(&self, digest: Option<&Digest>) -> Result<Bytes> {
        let asked = self.source().reference.version();
        self.manifest(digest.map_or(asked, Digest::as_str)).await
    }

    async fn small_blob(&self, digest: &Digest, limit: usize) -> Result<Bytes> {
        self.small_blob(digest, limit).await
    }
}

/// Fetches them from a source.
pub(super) async fn image(origin: &impl Origin, here: &Platform) -> Result<Fetched> {
    let reference = origin.name();
    let mut expected = origin.digest().cloned();
    let mut index = None;
    for _ in 0..=limits::INDEX_DEPTH {
        let bytes = origin.manifest(expected.as_ref()).await?;
        let digest = match expected {
            Some(expected) => {
                check(&bytes, &expected).map_err(|error| older(&bytes, &reference, error))?;
                expected
            }
            None => Digest::of(&bytes),
        };
        let what = || format!("manifest {digest} of {reference}");
        let document =
            Document::parse(&bytes).map_err(|reason| Error::bad_manifest(what(), reason))?;
        let is_artifact = matches!(document, Document::Artifact(_));
        match document {
            Document::Image(manifest) | Document::Artifact(manifest) => {
                let config_bytes = config(origin, &manifest).await?;
                let (manifest_digest, manifest_bytes) = (digest, bytes);
                return Ok(Fetched {
                    manifest,
                    manifest_digest,
                    manifest_bytes,
                    config_bytes,
                    index,
                    encrypted: None,
                    is_artifact,
                    signatures: Vec::new(),
                    accepted: false,
                });
            }
            Document::Index(entries) => {
                let chosen = choose(&entries, here).ok_or_else(|| Error::NotFound {
                    reference: reference.clone(),
                    detail: format!("no image for {here} in the index"),
                })?;
                expected = Some(chosen.descriptor.digest.clone());
                index.get_or_insert((digest, bytes));
            }
        }
    }
    Err(Error::bad_manifest(reference, "indexes nested too deeply"))
}

/// The error about bytes of another digest, unless they are a manifest of schema 1: it is that then.
fn older(bytes: &[u8], reference: &str, error: Error) -> Error {
    match Document::parse(bytes) {
        Err(reason) if is_schema_1(bytes) => Error::bad_manifest(reference, reason),
        _ => error,
    }
}

async fn config(origin: &impl Origin, manifest: &Manifest) -> Result<Bytes> {
    let config = &manifest.config;
    let bytes = origin
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
