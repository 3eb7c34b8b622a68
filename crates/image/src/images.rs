//! The room's face: pulling, listing, finding and removing images.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use storage::{Digest, ImageId, Store};
use sys::pool::Pool;
use tokio::sync::Semaphore;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::image::{Image, OciConfig, User};
use crate::inflight::{Inflight, Key};
use crate::manifest::{Document, Manifest};
use crate::options::{Changing, Options};
use crate::progress::PullProgress;
use crate::pull::{Downloads, LoadRequest, Loaded, PullRequest, Puller};
use crate::totals::{Counters, Totals};
use crate::worker;

mod allowed;
mod artifacts;
mod find;
mod names;
mod remove;

pub use self::allowed::Trust;

/// Threads for configuration, lists and commits: short work, but it may wait for a peer's lock.
const FILE_THREADS: usize = 8;

/// The node's images. Clones share everything.
#[derive(Clone, Debug)]
pub struct Images(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    puller: Arc<Puller>,
    inflight: Inflight,
    /// What images say of themselves never changes: read once.
    details: Mutex<HashMap<DetailsKey, Arc<Details>>>,
}

/// An image, and the manifest that its annotations come from.
type DetailsKey = (ImageId, Option<Digest>);

/// What of an image is read from its data.
#[derive(Debug)]
struct Details {
    config: Arc<OciConfig>,
    user: User,
    annotations: BTreeMap<String, String>,
    size: u64,
}

impl Images {
    /// Makes it over an open store; nothing is read yet.
    #[must_use]
    pub fn new(options: Options, store: Store) -> Self {
        Self::counting(options, store, Counters::default())
    }

    /// The same, with these counters.
    pub(crate) fn counting(options: Options, store: Store, counters: Counters) -> Self {
        let layers = options.parallel_layers.max(1);
        let files = Pool::new("image-files", FILE_THREADS);
        let puller = Puller {
            client: Client::new(&options, files.clone()),
            artifacts: store.artifacts(&options.additional_artifact_stores),
            store,
            files,
            // As many threads as layers, or an unpacking one could wait for an inflating one
            // that waits for a thread.
            unpack: Pool::new("image-unpack", layers),
            inflate: Pool::new("image-inflate", layers),
            offers: Pool::new("image-offers", 2),
            layers: Arc::new(Semaphore::new(layers)),
            downloads: Downloads::of(&options),
            counters,
            tables: Arc::new(Semaphore::new(1)),
            changing: RwLock::new(Arc::new(Changing::of(&options))),
            options,
        };
        Self(Arc::new(Shared {
            puller: Arc::new(puller),
            inflight: Inflight::default(),
            details: Mutex::default(),
        }))
    }

    /// Goes on with other options.
    pub fn change(&self, changing: Changing) {
        let now = &self.0.puller.changing;
        *now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(changing);
    }

    /// Looks whether `registries.conf` and its drop-ins can be used; each pull reads them again.
    ///
    /// # Errors
    /// [`Error`] with the file and what is wrong with it.
    pub async fn check_registries(&self) -> Result<()> {
        let puller = Arc::clone(&self.0.puller);
        let files = puller.files.clone();
        files
            .run(move || puller.options.registries().map(drop))
            .await
    }

    /// Pulls an image or an artifact, or waits for an equal pull that runs: dropping the future cancels nothing.
    ///
    /// # Errors
    /// See [`Error`]; decide by [`Error::root`].
    pub async fn pull(&self, request: PullRequest) -> Result<ImageId, Arc<Error>> {
        let key = Key {
            reference: request.reference.clone(),
            credentials: request.credentials.clone(),
            namespace: request.namespace.clone(),
            artifact: request.artifact,
            parent: request
                .place
                .as_ref()
                .map(|place| place.parent().to_owned()),
        };
        let puller = Arc::clone(&self.0.puller);
        self.0
            .inflight
            .share(key, move |tracker| async move {
                match request.place.clone() {
                    Some(place) => worker::pull(puller, place, request, tracker).await,
                    None => puller.pull(request, tracker).await,
                }
            })
            .await
    }

    /// Loads an image from files of the node, which the policy must allow as well.
    ///
    /// # Errors
    /// [`Error::Local`], [`Error::Refused`], and what a pull's content may fail with.
    pub async fn load(&self, request: LoadRequest) -> Result<Loaded> {
        self.0.puller.load(request).await
    }

    /// What the running pulls have done so far, the oldest first.
    #[must_use]
    pub fn pulls(&self) -> Vec<PullProgress> {
        self.0.inflight.progress()
    }

    /// What all pulls since the start have fetched and found.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.0.puller.counters.read()
    }

    /// All images. One that is damaged is left out and logged.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn list(&self) -> Result<Vec<Image>> {
        let shared = Arc::clone(&self.0);
        self.0.puller.files.run(move || shared.list()).await
    }

    /// Removes layers that pulls left behind which did not come to their end, and are older than
    /// any pull may take. Logs what it did.
    pub async fn prune(&self) {
        const AGE: Duration = Duration::from_secs(6 * 3600);
        self.prune_artifacts(AGE).await;
        let store = self.0.puller.store.clone();
        let pruned = self
            .0
            .puller
            .files
            .run(move || store.prune_layers(AGE))
            .await;
        match pruned {
            Ok(0) => {}
            Ok(layers) => tracing::info!(layers, "layers removed that nothing refers to"),
            Err(error) => tracing::warn!(%error, "layers of unfinished pulls not looked for"),
        }
    }
}

impl Shared {
    fn list(&self) -> Result<Vec<Image>> {
        let stored = self.puller.store.images()?;
        let mut images = Vec::with_capacity(stored.len());
        for record in stored.iter() {
            match self.describe(record) {
                Ok(image) => images.push(image),
                Err(error) => {
                    tracing::warn!(image = %record.id, %error, "an image can't be described");
                }
            }
        }
        let mut details = self.details.lock().unwrap_or_else(PoisonError::into_inner);
        if details.len() > 2 * stored.len() + 16 {
            details.retain(|(id, _), _| stored.iter().any(|record| record.id == *id));
        }
        Ok(images)
    }

    fn describe(&self, record: &storage::Image) -> Result<Image> {
        let details = self.details(record)?;
        let repo_tags = names::tags(record);
        let repo_digests = names::digests(record);
        let names = record.names.iter().chain(&repo_digests);
        let pinned = names::is_pinned(&self.puller.changing().pinned, names.map(String::as_str));
        Ok(Image {
            id: record.id.clone(),
            repo_tags,
            repo_digests,
            size: details.size,
            user: details.user.clone(),
            annotations: details.annotations.clone(),
            // Nobody can free the space of one that is only read: the kubelet is not to try.
            pinned: pinned || record.read_only,
            config: Arc::clone(&details.config),
        })
    }

    fn details(&self, record: &storage::Image) -> Result<Arc<Details>> {
        let key = (record.id.clone(), record.digest.clone());
        let known = || self.details.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(details) = known().get(&key) {
            return Ok(Arc::clone(details));
        }
        let details = Arc::new(self.read_details(record)?);
        known().insert(key, Arc::clone(&details));
        Ok(details)
    }

    fn read_details(&self, record: &storage::Image) -> Result<Details> {
        let store = &self.puller.store;
        let manifest = manifest_of(store, &record.id);
        let config = config_of(store, &record.id, manifest.as_ref())?;
        let config = OciConfig::parse(&config).map_err(|reason| {
            Error::bad_manifest(format!("configuration {}", record.id), reason)
        })?;
        let annotations = manifest.map_or_else(BTreeMap::new, |manifest| manifest.annotations);
        let size = store.image_size(&record.id)?;
        Ok(Details {
            user: config.parsed_user(),
            config: Arc::new(config),
            annotations,
            size,
        })
    }
}

/// An image's manifest. Images that a peer made need not have one that we read.
fn manifest_of(store: &Store, id: &ImageId) -> Option<Manifest> {
    let manifest = store.big_data(id, "manifest").ok()?;
    match Document::parse(&manifest) {
        Ok(Document::Image(manifest)) => Some(manifest),
        _ => None,
    }
}

/// The bytes of an image's configuration.
fn config_of(store: &Store, id: &ImageId, manifest: Option<&Manifest>) -> Result<Vec<u8>> {
    let config = store.big_data(id, &format!("sha256:{id}"));
    match (config, manifest) {
        // Its ID is of more than its configuration (`storage::image_id`).
        (Err(storage::Error::NoBigData { .. }), Some(manifest)) => {
            Ok(store.big_data(id, manifest.config.digest.as_str())?)
        }
        (config, _) => Ok(config?),
    }
}
