//! Artifacts: their blobs as they are, beside the images. What is an artifact shows when its manifest
//! has come; an error on the way there is an error, and nothing is tried again as something else.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use storage::{ArtifactStore, Digest, ImageId, NewArtifact, StagedBlob};

use super::fetch::Fetched;
use super::{Puller, fault};
use crate::blob::{self, PieceReader};
use crate::client::Session;
use crate::error::{Error, Result, chain};
use crate::manifest::{Descriptor, OCI_MANIFEST};
use crate::progress::{LayerState, LayerTracker, Tracker};
use crate::reference::Reference;
use crate::signatures::{Found, keep_for_artifact};

impl Puller {
    /// Fetches the blobs that the store lacks and stores the artifact; returns its ID, the digits of
    /// its manifest's digest.
    pub(super) async fn store_artifact(
        &self,
        reference: &Reference,
        fetched: Fetched,
        sessions: Vec<Arc<Session>>,
        tracker: &Arc<Tracker>,
    ) -> Result<ImageId> {
        let digest = fetched.manifest_digest.clone();
        if digest.algorithm() != "sha256" {
            let reason = "an artifact's digest has to be SHA-256";
            return Err(Error::bad_manifest(reference, reason));
        }
        if let Some(id) = self.in_additional_store(reference).await? {
            return Ok(id);
        }
        let blobs = distinct(&fetched.manifest.layers)?;
        let trackers = tracker.set_layers(blobs.iter().map(|blob| (&blob.digest, blob.size)));
        let sessions = &sessions[..];
        let fetching = blobs.iter().cloned().zip(trackers).map(|(blob, tracker)| {
            let sessions = sessions.to_vec();
            async move { self.artifact_blob(blob, sessions, &tracker).await }
        });
        let fetched_blobs: Vec<Option<StagedBlob>> = stream::iter(fetching)
            .buffer_unordered(self.options.parallel_layers.max(1))
            .try_collect()
            .await?;
        fault("image.pull.artifact")?;
        let config = &fetched.manifest.config;
        let mut needed: Vec<_> = blobs
            .into_iter()
            .map(|blob| (blob.digest, blob.size))
            .collect();
        needed.push((config.digest.clone(), config.size));
        let (store, name) = (self.artifacts.clone(), reference.stored_name());
        let (config, id) = (config.digest.clone(), digest.hex().parse()?);
        let put = move || {
            let mut writer = store.stage_blob()?;
            write_all(&mut writer, &fetched.config_bytes)?;
            let mut blobs: Vec<_> = fetched_blobs.into_iter().flatten().collect();
            blobs.push(writer.finish(&config)?);
            let artifact = NewArtifact {
                name,
                digest,
                manifest: fetched.manifest_bytes.to_vec(),
                media_type: OCI_MANIFEST.to_owned(),
                blobs,
                needed,
            };
            let found = Found {
                signatures: &fetched.signatures,
                accepted: fetched.accepted,
            };
            store.put(artifact, |kept| keep_for_artifact(kept, found))
        };
        self.files.run(put).await?;
        Ok(id)
    }

    /// A store that is only read is never added to, and a name in it does not move.
    async fn in_additional_store(&self, reference: &Reference) -> Result<Option<ImageId>> {
        let (store, name) = (self.artifacts.clone(), reference.stored_name());
        let found = self.files.run(move || {
            let artifacts = store.list()?;
            let named = artifacts
                .iter()
                .find(|it| it.read_only && it.name.as_ref() == Some(&name));
            named.map(|it| it.digest.hex().parse()).transpose()
        });
        found.await.map_err(|error: storage::Error| error.into())
    }

    /// `None` for a blob that the store has.
    async fn artifact_blob(
        &self,
        blob: Descriptor,
        sessions: Vec<Arc<Session>>,
        tracker: &LayerTracker,
    ) -> Result<Option<StagedBlob>> {
        let (store, digest) = (self.artifacts.clone(), blob.digest.clone());
        let there = self.files.run(move || store.has_blob(&digest, blob.size));
        if there.await? {
            tracker.set(LayerState::Present);
            return Ok(None);
        }
        let turn = self.layers.acquire().await;
        let _turn = turn.map_err(|_| Error::Interrupted)?;
        tracker.set(LayerState::Fetching);
        let (pieces, reader) = blob::channel(&blob.digest);
        let (store, digest) = (self.artifacts.clone(), blob.digest.clone());
        let writing = self.unpack.run(move || write(&store, reader, &digest));
        let downloading = self.downloads.blob(&sessions, &blob, pieces, tracker);
        let (downloaded, written) = futures_util::future::join(downloading, writing).await;
        // Whoever writes fails with the download, which knows why.
        downloaded?;
        let staged = written?;
        tracker.set(LayerState::Committed);
        Ok(Some(staged))
    }
}

/// Each blob once; one digest of two sizes is a lie.
fn distinct(layers: &[Descriptor]) -> Result<Vec<Descriptor>> {
    let mut found: BTreeMap<&Digest, &Descriptor> = BTreeMap::new();
    for layer in layers {
        let known = found.entry(&layer.digest).or_insert(layer);
        if known.size != layer.size {
            return Err(Error::BadLayer {
                layer: layer.digest.clone(),
                reason: "it has two sizes".to_owned(),
            });
        }
    }
    Ok(found.into_values().cloned().collect())
}

/// Writes a blob and checks its digest.
fn write(store: &ArtifactStore, mut from: PieceReader, digest: &Digest) -> Result<StagedBlob> {
    use std::io::BufRead as _;
    let mut writer = store.stage_blob()?;
    let bad = |reason: String| Error::BadLayer {
        layer: digest.clone(),
        reason,
    };
    loop {
        let piece = from.fill_buf().map_err(|error| bad(chain(&error)))?;
        if piece.is_empty() {
            break;
        }
        let length = piece.len();
        write_all(&mut writer, piece)?;
        from.consume(length);
    }
    match from.verify().map_err(|error| bad(chain(&error)))? {
        Ok(()) => Ok(writer.finish(digest)?),
        Err(actual) => Err(Error::DigestMismatch {
            expected: digest.clone(),
            actual,
        }),
    }
}

fn write_all(writer: &mut storage::BlobWriter, bytes: &[u8]) -> Result<(), storage::Error> {
    let failed = |source: io::Error| storage::Error::Io {
        doing: "write",
        path: "an artifact's blob".into(),
        source,
    };
    writer.write_all(bytes).map_err(failed)
}
