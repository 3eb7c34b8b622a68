//! Artifacts beside the images: finding, listing and removing them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use storage::StoredArtifact;

use super::{Images, Shared, names};

use crate::artifact::Artifact;
use crate::error::{Error, Result};
use crate::manifest::Document;
use crate::pull::PullRequest;
use crate::reference::{Reference, full_id, is_id_prefix};

/// Entries of one artifact, one for each of its names.
type Entries = Vec<Arc<StoredArtifact>>;

impl Images {
    /// All artifacts. One that is damaged is left out and logged.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn artifacts(&self) -> Result<Vec<Artifact>> {
        let shared = Arc::clone(&self.0);
        self.0
            .puller
            .files
            .run(move || shared.list_artifacts())
            .await
    }

    /// Finds an artifact as [`Images::find`] finds an image.
    ///
    /// # Errors
    /// As [`Images::find`].
    pub async fn find_artifact(&self, name_or_id: &str) -> Result<Option<Artifact>> {
        let (shared, text) = (Arc::clone(&self.0), name_or_id.to_owned());
        let find = move || {
            let found = shared.look_up_artifact(&text)?;
            found
                .map(|(entries, _)| shared.describe_artifact(&entries))
                .transpose()
        };
        self.0.puller.files.run(find).await
    }

    /// Pulls an artifact and reads its first layer. One that is named by its digest and is there is
    /// not pulled again.
    ///
    /// # Errors
    /// As [`Images::pull`]; [`Error::BadLayer`] where the layer is larger than `limit` bytes.
    pub async fn artifact_data(
        &self,
        reference: &str,
        namespace: &str,
        limit: usize,
    ) -> Result<Vec<u8>, Arc<Error>> {
        let fixed = reference
            .parse::<Reference>()
            .is_ok_and(|reference| reference.digest().is_some());
        let mut found = None;
        if fixed && let Some(artifact) = self.find_artifact(reference).await? {
            self.artifact_allowed(&artifact, reference, namespace)
                .await?;
            found = Some(artifact);
        }
        let artifact = match found {
            Some(artifact) => artifact,
            None => {
                let id = self
                    .pull(PullRequest {
                        reference: reference.to_owned(),
                        namespace: namespace.to_owned(),
                        artifact: true,
                        ..PullRequest::default()
                    })
                    .await?;
                let pulled = self.find_artifact(id.as_str()).await?;
                pulled.ok_or(Error::Interrupted)?
            }
        };
        let files = &self.0.puller.files;
        Ok(files.run(move || artifact.data(limit)).await?)
    }

    pub(super) async fn prune_artifacts(&self, age: Duration) {
        let store = self.0.puller.artifacts.clone();
        match self.0.puller.files.run(move || store.prune(age)).await {
            Ok(0) => {}
            Ok(blobs) => tracing::info!(blobs, "blobs removed that no artifact has"),
            Err(error) => tracing::warn!(%error, "blobs of unfinished pulls not looked for"),
        }
    }
}

impl Shared {
    fn list_artifacts(&self) -> Result<Vec<Artifact>> {
        let mut artifacts = Vec::new();
        for entries in self.entries()? {
            match self.describe_artifact(&entries) {
                Ok(artifact) => artifacts.push(artifact),
                Err(error) => {
                    let artifact = entries.first().map(|entry| entry.digest.to_string());
                    tracing::warn!(artifact, %error, "an artifact can't be described");
                }
            }
        }
        Ok(artifacts)
    }

    /// All entries by artifact, in their order.
    fn entries(&self) -> Result<Vec<Entries>> {
        let mut all: Vec<Entries> = Vec::new();
        for entry in self.puller.artifacts.list()? {
            match all.iter_mut().find(|one| one[0].digest == entry.digest) {
                Some(same) => same.push(entry),
                None => all.push(vec![entry]),
            }
        }
        Ok(all)
    }

    fn describe_artifact(&self, entries: &Entries) -> Result<Artifact> {
        let Some(first) = entries.first() else {
            return Err(Error::Interrupted);
        };
        let bad = |reason| Error::bad_manifest(format!("artifact {}", first.digest), reason);
        let manifest = match Document::parse(&first.manifest).map_err(bad)? {
            Document::Artifact(manifest) | Document::Image(manifest) => manifest,
            Document::Index(_) => return Err(bad("it is an index".to_owned())),
        };
        let named = entries.iter().filter_map(|entry| entry.name.clone());
        let named: Vec<String> = named.filter(|name| name.contains('/')).collect();
        let mut repo_digests = Vec::new();
        for (repository, own) in named.iter().filter_map(|name| names::split(name)) {
            for digest in own.iter().chain([&first.digest]) {
                let full = format!("{repository}@{digest}");
                if !repo_digests.contains(&full) {
                    repo_digests.push(full);
                }
            }
        }
        let repo_tags: Vec<_> = named
            .iter()
            .filter(|name| !name.contains('@'))
            .cloned()
            .collect();
        let known = repo_tags.iter().chain(&repo_digests).map(String::as_str);
        let pinned = entries.iter().any(|entry| entry.read_only)
            || names::is_pinned(&self.puller.changing().pinned, known);
        Artifact::new(Arc::clone(first), manifest, repo_tags, repo_digests, pinned)
    }

    /// The artifact that a text means, and by which of its names, if by one.
    fn look_up_artifact(&self, text: &str) -> Result<Option<(Entries, Option<Reference>)>> {
        let mut all = self.entries()?;
        let id = |entries: &Entries| entries[0].digest.hex().to_owned();
        if is_id_prefix(text) || full_id(text).is_some() {
            let wanted = full_id(text).unwrap_or(text);
            let found: Vec<_> = (0..all.len())
                .filter(|at| id(&all[*at]).starts_with(wanted))
                .collect();
            match found[..] {
                [] => {}
                [only] => return Ok(Some((all.swap_remove(only), None))),
                _ => {
                    return Err(Error::BadReference {
                        reference: text.to_owned(),
                        reason: "several artifacts' IDs begin so".to_owned(),
                    });
                }
            }
        }
        if full_id(text).is_some() || all.is_empty() {
            return Ok(None);
        }
        for reference in self.stored_candidates(text)? {
            let has = |entries: &Entries| entries.iter().any(|entry| is_named(entry, &reference));
            if let Some(at) = all.iter().position(has) {
                return Ok(Some((all.swap_remove(at), Some(reference))));
            }
        }
        Ok(None)
    }

    pub(super) fn remove_artifact(
        &self,
        text: &str,
        mounted: &BTreeMap<String, String>,
    ) -> Result<()> {
        let Some((entries, by)) = self.look_up_artifact(text)? else {
            return Ok(());
        };
        let Some(digest) = entries.first().map(|entry| entry.digest.clone()) else {
            return Ok(());
        };
        if entries.iter().all(|entry| entry.read_only) {
            return Err(Error::ReadOnly {
                image: text.to_owned(),
            });
        }
        let doomed = by.map(|name| {
            let own = entries.iter().filter(|entry| is_named(entry, &name));
            own.filter_map(|entry| entry.name.clone())
                .collect::<Vec<_>>()
        });
        let stays = doomed.as_ref().is_some_and(|doomed| {
            let named = entries.iter().filter_map(|entry| entry.name.as_ref());
            named.into_iter().any(|name| !doomed.contains(name))
        });
        if !stays && let Some(container) = mounted.get(digest.hex()) {
            return Err(Error::InUse {
                image: text.to_owned(),
                container: container.clone(),
            });
        }
        let store = &self.puller.artifacts;
        match doomed {
            Some(doomed) if stays => {
                for name in doomed {
                    store.remove(&digest, Some(&name))?;
                }
            }
            _ => store.remove(&digest, None)?,
        }
        Ok(())
    }
}

/// Whether an entry has that name; by digest also if its tag is of that repository.
fn is_named(entry: &StoredArtifact, reference: &Reference) -> bool {
    let Some(name) = &entry.name else {
        return false;
    };
    *name == reference.stored_name()
        || reference.digest() == Some(&entry.digest)
            && names::split(name).is_some_and(|(own, _)| own == reference.repository())
}
