//! Pulling as a pipeline: resolve, ask the policy, find the manifest at a source, fetch and
//! unpack the layers that the store lacks, commit them in order, record the image.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use storage::{ArtifactStore, Digest, ImageId, LayerId, NewImage, Store};
use sys::pool::Pool;
use tokio::sync::Semaphore;

use crate::client::{Client, Session};
use crate::credentials::{Credentials, Search};
use crate::decrypt::{self, Secret};
use crate::error::{Error, Result};
use crate::image::OciConfig;
use crate::local::Location;
use crate::manifest::Descriptor;
use crate::options::{Changing, Options};
use crate::progress::Tracker;
use crate::reference::{ImageName, Reference};
use crate::registries::{Registries, Source};
use crate::signatures::{Found, keep};
use crate::totals::Counters;
use crate::worker::Place;

mod artifact;
mod download;
mod fetch;
mod layers;
mod load;
mod offers;
mod partial;
mod signatures;

pub(crate) use download::Downloads;
use fetch::Fetched;
use layers::{Blobs, Wanted};
pub use load::{LoadRequest, Loaded};
use signatures::Trust;
#[cfg(feature = "fuzzing")]
pub(crate) use signatures::{parse_attachments, parse_signature_list};

/// What to pull.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PullRequest {
    /// The reference as the user wrote it.
    pub reference: String,
    /// Credentials for the registry that it names; those of files if `None`.
    pub credentials: Option<Credentials>,
    /// A file of credentials that comes before those of the node.
    pub auth_file: Option<PathBuf>,
    /// The Kubernetes namespace that it is for; a pull is shared within one only.
    pub namespace: String,
    /// Whether an image will not do.
    pub artifact: bool,
    /// The cgroup of the process that pulls; `None`: this process does.
    #[serde(skip)]
    pub place: Option<Arc<dyn Place>>,
}

/// What pulls need and share.
#[derive(Debug)]
pub(crate) struct Puller {
    pub(crate) options: Options,
    pub(crate) changing: RwLock<Arc<Changing>>,
    pub(crate) store: Store,
    pub(crate) artifacts: ArtifactStore,
    pub(crate) client: Client,
    /// Configuration, manifests, commits.
    pub(crate) files: Pool,
    pub(crate) unpack: Pool,
    pub(crate) inflate: Pool,
    /// Asking additional layer stores, which may not answer.
    pub(crate) offers: Pool,
    pub(crate) layers: Arc<Semaphore>,
    pub(crate) downloads: Downloads,
    pub(crate) counters: Counters,
    /// Reading of tables of contents.
    pub(crate) tables: Arc<Semaphore>,
}

/// What the node's files say about a request.
struct Plan {
    /// References that it may mean, each with its sources.
    candidates: Vec<Candidate>,
    trust: Arc<Trust>,
}

struct Candidate {
    reference: Reference,
    sources: Vec<(Source, Option<Credentials>)>,
    /// Whether an image will not do.
    artifact: bool,
}

impl Puller {
    /// The options that change, as they are now.
    pub(crate) fn changing(&self) -> Arc<Changing> {
        Arc::clone(&self.changing.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Pulls an image and returns its ID.
    pub(crate) async fn pull(
        self: Arc<Self>,
        request: PullRequest,
        tracker: Arc<Tracker>,
    ) -> Result<ImageId> {
        let options = self.options.clone();
        let plan = self
            .files
            .run(move || Plan::make(&options, &request))
            .await?;
        let mut failed: Vec<(String, Error)> = Vec::new();
        for candidate in plan.candidates {
            let name = candidate.reference.to_string();
            match self.pull_candidate(candidate, &plan.trust, &tracker).await {
                Ok(id) => return Ok(id),
                Err(error) => failed.push((name, error)),
            }
        }
        Err(sources_failed(failed))
    }

    async fn pull_candidate(
        &self,
        candidate: Candidate,
        trust: &Arc<Trust>,
        tracker: &Arc<Tracker>,
    ) -> Result<ImageId> {
        let sessions: Vec<_> = candidate
            .sources
            .into_iter()
            .map(|(source, credentials)| {
                Arc::new(Session::new(self.client.clone(), source, credentials))
            })
            .collect();
        let mut failed = Vec::new();
        for (at, session) in sessions.iter().enumerate() {
            let source = session.source();
            let fetched = self.fetch_trusted(session, &candidate.reference, trust);
            match fetched.await {
                Ok(fetched) => {
                    let mirror = source.mirror.then(|| source.reference.to_string());
                    tracing::info!(image = %candidate.reference, source = %source.reference,
                        layers = fetched.manifest.layers.len(), "pulling");
                    tracker.set_mirror(mirror);
                    // A layer that stalls goes on at the next source.
                    let mut order = sessions.clone();
                    order.rotate_left(at);
                    if fetched.is_artifact {
                        return self
                            .store_artifact(&candidate.reference, fetched, order, tracker)
                            .await;
                    }
                    if candidate.artifact {
                        let reason = "it is an image, and an artifact is asked for";
                        return Err(Error::bad_manifest(&candidate.reference, reason));
                    }
                    let names = [candidate.reference];
                    return self
                        .store_image(&names, fetched, Blobs::Registry(order), tracker)
                        .await;
                }
                Err(error) => failed.push((source.reference.to_string(), error)),
            }
        }
        Err(sources_failed(failed))
    }

    /// Fetches what is not a layer from a source, if it may be run.
    async fn fetch_trusted(
        &self,
        session: &Session,
        reference: &Reference,
        trust: &Arc<Trust>,
    ) -> Result<Fetched> {
        let fetched = fetch::image(session, &self.options.platform).await?;
        self.with_signatures(fetched, reference, session, trust)
            .await
    }

    /// Gets the layers and records the image under these names.
    async fn store_image(
        &self,
        names: &[Reference],
        fetched: Fetched,
        blobs: Blobs,
        tracker: &Arc<Tracker>,
    ) -> Result<ImageId> {
        let bad = |reason: String| {
            let names: Vec<_> = names.iter().map(Reference::to_string).collect();
            Error::bad_manifest(format!("configuration of {}", names.join(", ")), reason)
        };
        let config = OciConfig::parse(&fetched.config_bytes).map_err(bad)?;
        let (layers, diff_ids) = (&fetched.manifest.layers, &config.diff_ids);
        if layers.len() != diff_ids.len() {
            return Err(bad(format!(
                "{} layers, but {} diff IDs",
                layers.len(),
                diff_ids.len()
            )));
        }
        let secrets = match blobs.are_plain() {
            true => vec![None; layers.len()],
            false => self.secrets(layers).await?,
        };
        // Layers of a registry that anybody may read may be offered by another store of the node.
        let offers = self.store.has_layer_stores()
            && matches!(blobs, Blobs::Registry(_))
            && secrets.iter().all(Option::is_none);
        let number = layers.len();
        let layers = layers.iter().zip(diff_ids).zip(&secrets);
        let wanted = layers.map(|((blob, diff_id), secret)| Wanted {
            blob: blob.clone(),
            diff_id: diff_id.clone(),
            secret: secret.clone(),
            toc: blob.toc().filter(|_| offers),
        });
        let wanted = wanted.collect();
        let name = names.first().map(Reference::to_string).unwrap_or_default();
        let top_layer = self.fetch_layers(wanted, name, blobs, tracker).await?;
        let id = self
            .image_id(&fetched.manifest.config.digest, top_layer.as_ref(), number)
            .await?;
        // Before what is encrypted gets another manifest: this one was signed.
        let signed = Digest::of(&fetched.manifest_bytes);
        let (signatures, accepted) = (fetched.signatures.clone(), fetched.accepted);
        let fetched = self.decrypted(fetched, &config.diff_ids, &secrets).await?;
        let image = NewImage {
            id,
            names: names.iter().map(Reference::stored_name).collect(),
            digest: Some(fetched.manifest_digest.clone()),
            top_layer,
            created: config.created_nanoseconds(),
            big_data: fetched.big_data(),
            metadata: "{}".to_owned(),
        };
        fault("image.pull.layers")?;
        let store = self.store.clone();
        let put = move || {
            let found = Found {
                signatures: &signatures,
                accepted,
            };
            store.put_image_with(image, |image, known| keep(image, known, &signed, found))
        };
        let recorded = self.files.run(put).await?;
        Ok(recorded.id.clone())
    }
}

impl Puller {
    /// The ID of an image of that many layers: its configuration's digest, unless layers are offered.
    async fn image_id(
        &self,
        config: &Digest,
        top: Option<&LayerId>,
        layers: usize,
    ) -> Result<ImageId> {
        if !self.store.has_layer_stores() {
            return Ok(config.hex().parse()?);
        }
        let (store, top) = (self.store.clone(), top.cloned());
        let tocs = self
            .files
            .run(move || store.layer_tocs(top.as_ref()))
            .await?;
        // A peer has removed some: which they were nobody knows now.
        if tocs.len() != layers {
            return Err(Error::Interrupted);
        }
        storage::image_id(config, &tocs).ok_or(Error::Interrupted)
    }

    /// What decrypts each of these layers.
    async fn secrets(&self, layers: &[Descriptor]) -> Result<Vec<Option<Secret>>> {
        let (layers, keys) = (layers.to_vec(), self.changing().decryption_keys.clone());
        let providers = self.options.key_providers.clone();
        let unwrap = move || decrypt::secrets(&layers, &keys, providers.as_deref());
        self.files.run(unwrap).await
    }

    /// The image with the manifest of what is stored, where layers were encrypted: that of the
    /// registry would promise peers blobs that the store does not have.
    async fn decrypted(
        &self,
        mut fetched: Fetched,
        diff_ids: &[Digest],
        secrets: &[Option<Secret>],
    ) -> Result<Fetched> {
        if secrets.iter().all(Option::is_none) {
            return Ok(fetched);
        }
        let (store, diff_ids) = (self.store.clone(), diff_ids.to_vec());
        let encrypted: Vec<_> = secrets.iter().map(Option::is_some).collect();
        let measure = move || decrypted_layers(&store, &diff_ids, &encrypted);
        let plain = self.files.run(measure).await?;
        let bytes = decrypt::decrypted(&fetched.manifest_bytes, &plain)
            .map_err(|reason| Error::bad_manifest(&fetched.manifest_digest, reason))?;
        let digest = std::mem::replace(&mut fetched.manifest_digest, Digest::of(&bytes));
        let original = std::mem::replace(&mut fetched.manifest_bytes, bytes.into());
        fetched.encrypted = Some((digest, original));
        Ok(fetched)
    }
}

/// Diff ID and size of each layer that was encrypted; all of them are in the store.
fn decrypted_layers(
    store: &Store,
    diff_ids: &[Digest],
    encrypted: &[bool],
) -> Result<Vec<Option<(Digest, u64)>>> {
    let mut parent = None;
    let mut plain = Vec::with_capacity(diff_ids.len());
    for (diff_id, encrypted) in diff_ids.iter().zip(encrypted) {
        let layer = store.layer_for(diff_id, parent.as_ref())?;
        let layer = layer.ok_or(Error::Interrupted)?;
        plain.push(match encrypted {
            true => Some((diff_id.clone(), store.layer_size(&layer)?)),
            false => None,
        });
        parent = Some(layer);
    }
    Ok(plain)
}

impl Fetched {
    /// The items of an image, under the keys that containers/image uses.
    fn big_data(self) -> Vec<(String, Vec<u8>)> {
        let mut items = vec![
            (
                self.manifest.config.digest.to_string(),
                self.config_bytes.to_vec(),
            ),
            (
                format!("manifest-{}", self.manifest_digest),
                self.manifest_bytes.to_vec(),
            ),
            ("manifest".to_owned(), self.manifest_bytes.to_vec()),
        ];
        items.extend(
            self.index
                .into_iter()
                .chain(self.encrypted)
                .map(|(digest, bytes)| (format!("manifest-{digest}"), bytes.to_vec())),
        );
        items
    }
}

impl Plan {
    /// Reads policy, registries and credentials: all may have changed since the last pull.
    fn make(options: &Options, request: &PullRequest) -> Result<Self> {
        if Location::is_one(&request.reference) {
            return Err(Error::BadReference {
                reference: request.reference.clone(),
                reason: "files of the node are loaded by `crioxide load`, never pulled".to_owned(),
            });
        }
        let name: ImageName = request.reference.parse()?;
        let registries = options.registries()?;
        let trust = Trust::load(options, &request.namespace)?;
        let search = Search::new(options, registries.credential_helpers(), request)?;
        let mut candidates = Vec::new();
        let mut refused = Vec::new();
        for reference in registries.candidates(&name)? {
            match Self::candidate(request, &registries, &trust, &search, &reference) {
                Ok(candidate) => candidates.push(candidate),
                Err(error) => refused.push((reference.to_string(), error)),
            }
        }
        if candidates.is_empty() {
            return Err(sources_failed(refused));
        }
        let trust = Arc::new(trust);
        Ok(Self { candidates, trust })
    }

    fn candidate(
        request: &PullRequest,
        registries: &Registries,
        trust: &Trust,
        search: &Search<'_>,
        reference: &Reference,
    ) -> Result<Candidate> {
        reference.ask(|name| trust.policy.needs_signatures(name))?;
        let mut sources = Vec::new();
        for source in registries.sources(reference)? {
            // A request's credentials are for the registry that it names, never for a mirror.
            let credentials = match &request.credentials {
                Some(given) if source.reference.host() == reference.host() => Some(given.clone()),
                _ => search.find(&source.reference)?,
            };
            sources.push((source, credentials));
        }
        Ok(Candidate {
            reference: reference.clone(),
            sources,
            artifact: request.artifact,
        })
    }
}

/// One error of several sources; the last is the registry itself.
fn sources_failed(mut failed: Vec<(String, Error)>) -> Error {
    match failed.pop() {
        None => Error::Interrupted,
        Some((_, only)) if failed.is_empty() => only,
        Some((_, last)) => Error::Sources {
            last: Box::new(last),
            mirrors: failed
                .iter()
                .map(|(source, error)| format!("{source}: {error}"))
                .collect(),
        },
    }
}

/// A place where a test build can be made to fail or die.
fn fault(point: &str) -> Result<()> {
    let failed = |source| storage::Error::Io {
        doing: "pull",
        path: point.into(),
        source,
    };
    Ok(sys::fault::point(point).map_err(failed)?)
}

/// Checks bytes against the digest that they were asked by.
fn check(bytes: &[u8], expected: &Digest) -> Result<()> {
    crate::blob::verify(bytes, expected).map_err(|actual| Error::DigestMismatch {
        expected: expected.clone(),
        actual,
    })
}
