//! Layers: which are missing, fetching and unpacking them side by side, committing them from the
//! lowest up.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::future::{Either, join, join3, ready};
use storage::{Compression, Digest, LayerId, NewLayer, StagedLayer, Store, UnpackLimits};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::download::Downloads;
use super::partial::{self, Partly};
use super::{Puller, fault};
use crate::blob::{self, PieceReader};
use crate::client::Session;
use crate::decompress;
use crate::decrypt::{Decryptor, Secret};
use crate::error::{Error, Result, chain};
use crate::local::{Counted, Local, Stored};
use crate::manifest::Descriptor;
use crate::pipe::{self, Stopped};
use crate::progress::{LayerState, LayerTracker, Tracker};
use crate::totals::Count;

/// A layer that an image has.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) blob: Descriptor,
    pub(super) diff_id: Digest,
    /// What decrypts the blob.
    pub(super) secret: Option<Secret>,
    /// The table of contents by which another store of the node may offer it.
    pub(super) toc: Option<Digest>,
}

/// Where blobs come from.
#[derive(Clone)]
pub(super) enum Blobs {
    /// Registries, the best first.
    Registry(Vec<Arc<Session>>),
    /// The node itself.
    Local(Arc<Local>),
}

impl Blobs {
    /// Whether they are what is left of blobs that were decrypted and decompressed.
    pub(super) fn are_plain(&self) -> bool {
        matches!(self, Self::Local(local) if matches!(**local, Local::Stored(_)))
    }
}

/// A layer that is unpacked.
pub(super) struct Unpacked {
    pub(super) staged: StagedLayer,
    /// How its blob is compressed.
    pub(super) compression: Compression,
    /// Whether the whole blob was seen, and has its digest.
    pub(super) whole: bool,
    /// Its table of contents, if it has one.
    pub(super) toc: Option<Vec<u8>>,
}

impl Puller {
    /// Gets all layers of an image into the store; returns the top one.
    pub(super) async fn fetch_layers(
        &self,
        wanted: Vec<Wanted>,
        name: String,
        blobs: Blobs,
        pull: &Arc<Tracker>,
    ) -> Result<Option<LayerId>> {
        let trackers = pull.set_layers(wanted.iter().map(|it| (&it.blob.digest, it.blob.size)));
        let (mut top, present) = self.present(&wanted).await?;
        let mut offered = self.offered(&wanted[present..], name, &blobs).await;
        let mut fetching = Fetching::default();
        for (at, layer) in wanted.iter().enumerate() {
            let tracker = Arc::clone(&trackers[at]);
            if at < present || offered[at - present].is_some() {
                tracker.set(LayerState::Present);
                let blob = &layer.blob;
                self.counters.add(Count::Skipped {
                    name: pull.name(&blob.digest),
                    bytes: blob.size,
                });
            } else {
                fetching
                    .0
                    .push_back(self.start(layer.clone(), blobs.clone(), tracker));
            }
        }
        for (at, wanted) in wanted.into_iter().enumerate().skip(present) {
            let (descriptor, diff_id) = (wanted.blob, wanted.diff_id);
            if let Some(layer) = offered[at - present].take() {
                let (store, parent) = (self.store.clone(), top.take());
                let commit = move || store.commit_offered(layer, &diff_id, parent.as_ref());
                top = Some(self.files.run(commit).await?);
                continue;
            }
            // What was encrypted has no blob that others could ask for.
            let open = wanted.secret.is_none();
            let unpacked = fetching.next().await?;
            self.counters.add(Count::Fetched {
                media_type: descriptor.media_type.clone(),
                bytes: trackers[at].bytes(),
            });
            let known = open && unpacked.whole;
            let layer = NewLayer {
                parent: top,
                diff_id,
                compressed_digest: known.then(|| descriptor.digest.clone()),
                compressed_size: known.then_some(descriptor.size),
                compression: unpacked.compression,
            };
            fault("image.pull.unpacked")?;
            let store = self.store.clone();
            let committed = self
                .files
                .run(move || {
                    let id = store.commit_layer(unpacked.staged, layer)?;
                    if let Some(toc) = unpacked.toc
                        && let Err(error) = store.put_layer_toc(&id, &toc)
                    {
                        tracing::warn!(layer = %id, %error, "a layer's table of contents is not kept");
                    }
                    Ok(id)
                })
                .await;
            top = Some(committed.map_err(|error| layer_error(&descriptor.digest, error))?);
            trackers[at].set(LayerState::Committed);
        }
        Ok(top)
    }

    /// How many layers from the lowest up the store has, and the ID of the last of them.
    async fn present(&self, wanted: &[Wanted]) -> Result<(Option<LayerId>, usize)> {
        let store = self.store.clone();
        let wanted = wanted.iter();
        let layers: Vec<_> = wanted
            .map(|it| (it.diff_id.clone(), it.toc.clone()))
            .collect();
        let found = self.files.run(move || {
            let mut top = None;
            for (at, (diff_id, toc)) in layers.iter().enumerate() {
                let unpacked = store.layer_for(diff_id, top.as_ref())?;
                let found = match (unpacked, toc) {
                    (None, Some(toc)) => store.layer_for_toc(toc, diff_id, top.as_ref())?,
                    (unpacked, _) => unpacked,
                };
                match found {
                    Some(layer) => top = Some(layer),
                    None => return Ok((top, at)),
                }
            }
            Ok((top, layers.len()))
        });
        found.await.map_err(|error: storage::Error| error.into())
    }

    fn start(
        &self,
        layer: Wanted,
        blobs: Blobs,
        tracker: Arc<LayerTracker>,
    ) -> JoinHandle<Result<Unpacked>> {
        let stage = Stage {
            store: self.store.clone(),
            limits: self.options.unpack_limits,
            partial: self.options.partial_pulls,
            downloads: self.downloads.clone(),
            tables: Arc::clone(&self.tables),
            unpack: self.unpack.clone(),
            inflate: self.inflate.clone(),
        };
        let turns = Arc::clone(&self.layers);
        // `Fetching` owns it and aborts it when the pull fails.
        tokio::spawn(async move {
            let _turn = turns
                .acquire_owned()
                .await
                .map_err(|_| Error::Interrupted)?;
            tracker.set(LayerState::Fetching);
            let unpacked = stage.run(layer, blobs, &tracker).await?;
            tracker.set(LayerState::Unpacked);
            Ok(unpacked)
        })
    }
}

/// The layers under way; those left are aborted when it is dropped.
#[derive(Default)]
struct Fetching(VecDeque<JoinHandle<Result<Unpacked>>>);

impl Fetching {
    /// The next layer up. If any of those above fails meanwhile, that is found in its turn.
    async fn next(&mut self) -> Result<Unpacked> {
        let Some(task) = self.0.front_mut() else {
            return Err(Error::Interrupted);
        };
        let done = task.await;
        self.0.pop_front();
        done.unwrap_or(Err(Error::Interrupted))
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// What one layer needs: network → channel (or file) → inflating thread → pipe → unpacking thread.
pub(super) struct Stage {
    pub(super) store: Store,
    pub(super) limits: UnpackLimits,
    /// Whether parts of a blob are enough.
    pub(super) partial: bool,
    pub(super) downloads: Downloads,
    /// A turn to read tables of contents.
    pub(super) tables: Arc<Semaphore>,
    pub(super) unpack: sys::pool::Pool,
    pub(super) inflate: sys::pool::Pool,
}

impl Stage {
    async fn run(
        self,
        layer: Wanted,
        blobs: Blobs,
        tracker: &Arc<LayerTracker>,
    ) -> Result<Unpacked> {
        let (descriptor, secret) = (layer.blob, layer.secret);
        let toc = match (&secret, &blobs) {
            (None, Blobs::Registry(sessions)) => {
                let partly =
                    partial::layer(&self, &descriptor, &layer.diff_id, sessions, tracker).await?;
                match partly {
                    Partly::Unpacked(unpacked) => return Ok(unpacked),
                    Partly::Whole(toc) => toc,
                }
            }
            _ => None,
        };
        let digest = descriptor.digest.clone();
        let (compressed, downloading) = match &blobs {
            Blobs::Registry(sessions) => {
                let (pieces, compressed) = blob::channel(&digest);
                let downloads = &self.downloads;
                let downloading = downloads.blob(sessions, &descriptor, pieces, tracker);
                (compressed, Either::Left(downloading))
            }
            Blobs::Local(local) => {
                let bundle = match &**local {
                    Local::Files(bundle) => bundle,
                    Local::Stored(_) => return self.copy(local, descriptor, layer.diff_id).await,
                };
                let counted = Counted::new(bundle.blob(&digest)?, Arc::clone(tracker));
                (
                    blob::of_file(counted, &digest),
                    Either::Right(ready(Ok(()))),
                )
            }
        };
        let (writer, plain) = pipe::pipe();
        let inflating = self
            .inflate
            .run(move || inflate(compressed, secret, writer));
        let (store, limits) = (self.store, self.limits);
        let unpacking = self.unpack.run(move || store.unpack(plain, limits));
        let (downloaded, inflated, unpacked) = join3(downloading, inflating, unpacking).await;
        // What failed first made the others fail: the network, then the decoder, unless that
        // only says that nobody reads on.
        downloaded.map_err(|error| not_distributed(&descriptor, error))?;
        match inflated {
            Ok(compression) => {
                let staged = unpacked.map_err(|error| layer_error(&digest, error))?;
                Ok(Unpacked {
                    staged,
                    compression,
                    whole: true,
                    toc,
                })
            }
            Err(Broken::Unread) => Err(match unpacked {
                Err(error) => layer_error(&digest, error),
                Ok(_) => Error::Interrupted,
            }),
            Err(Broken::Digest(actual)) => Err(Error::DigestMismatch {
                expected: digest,
                actual,
            }),
            Err(Broken::Data(error)) => Err(Error::BadLayer {
                layer: digest,
                reason: chain(&error),
            }),
        }
    }
}

impl Stage {
    /// What another store has: the archive itself, whose digest is checked by the store.
    async fn copy(
        self,
        local: &Arc<Local>,
        descriptor: Descriptor,
        diff_id: Digest,
    ) -> Result<Unpacked> {
        let (writer, plain) = pipe::pipe();
        let local = Arc::clone(local);
        let writing = move || match &*local {
            Local::Stored(stored) => write(stored, &diff_id, writer),
            Local::Files(_) => Err(Error::Interrupted),
        };
        let (store, limits) = (self.store, self.limits);
        let writing = self.inflate.run(writing);
        let unpacking = self.unpack.run(move || store.unpack(plain, limits));
        let (written, unpacked) = join(writing, unpacking).await;
        // A writer fails whose reader has gone, a reader whose writer has; only one says why.
        let staged = match (written, unpacked) {
            (Err(error), Err(storage::Error::Read(_))) => return Err(error),
            (_, Err(error)) => return Err(layer_error(&descriptor.digest, error)),
            (written, Ok(staged)) => written.map(|()| staged)?,
        };
        Ok(Unpacked {
            staged,
            compression: Compression::None,
            // That it was this blob is the other store's word.
            whole: false,
            toc: None,
        })
    }
}

fn write(stored: &Stored, diff_id: &Digest, into: pipe::Writer) -> Result<()> {
    let mut filling = into.filling();
    stored.write_layer(diff_id, &mut filling)?;
    let ended = filling.finish().and_then(|()| into.end());
    // Its reader has gone, and knows why.
    ended.map_err(|_| Error::Interrupted)
}

/// Why inflating failed.
enum Broken {
    /// The unpacking side gave up.
    Unread,
    /// Not the blob that was promised.
    Digest(Digest),
    /// The blob that was promised, and it is damaged.
    Data(std::io::Error),
}

/// Decompresses a blob into a pipe, and checks its digest before the pipe's end is a good one.
fn inflate(
    mut blob: PieceReader,
    secret: Option<Secret>,
    into: pipe::Writer,
) -> Result<Compression, Broken> {
    let decoded = match secret {
        None => decode(&mut blob, &into),
        Some(secret) => decrypt(&mut blob, &secret, &into),
    };
    match decoded {
        Err(Stopped::Closed) => Err(Broken::Unread),
        Err(Stopped::Source(error)) => match blob.verify() {
            Ok(Err(actual)) => Err(Broken::Digest(actual)),
            _ => Err(Broken::Data(error)),
        },
        Ok(compression) => {
            blob.verify()
                .map_err(Broken::Data)?
                .map_err(Broken::Digest)?;
            into.end().map_err(|_| Broken::Unread)?;
            Ok(compression)
        }
    }
}

fn decode(blob: &mut PieceReader, into: &pipe::Writer) -> Result<Compression, Stopped> {
    let compression = decompress::detect(blob).map_err(Stopped::Source)?;
    into.copy(decompress::reader(compression, blob).map_err(Stopped::Source)?)?;
    Ok(compression)
}

fn decrypt(
    blob: &mut PieceReader,
    secret: &Secret,
    into: &pipe::Writer,
) -> Result<Compression, Stopped> {
    let mut plain = Decryptor::new(blob, secret).map_err(Stopped::Source)?;
    let compression = decompress::by_magic(plain.peek(6).map_err(Stopped::Source)?);
    into.copy(decompress::reader(compression, &mut plain).map_err(Stopped::Source)?)?;
    plain.finish().map_err(Stopped::Source)?;
    Ok(compression)
}

/// A layer's own addresses are never followed: a manifest could name any host that the node
/// reaches. So a layer that registries may not have can only come from one that has it.
fn not_distributed(layer: &Descriptor, error: Error) -> Error {
    match error {
        Error::NotFound { .. } if layer.is_foreign() => Error::BadLayer {
            layer: layer.digest.clone(),
            reason: format!(
                "the registry does not have it, and the addresses of a layer of type {:?} are not followed",
                layer.media_type
            ),
        },
        other => other,
    }
}

/// The store's error about a layer, in our words where it is the layer's fault.
fn layer_error(layer: &Digest, error: storage::Error) -> Error {
    let reason = match &error {
        storage::Error::Archive { .. }
        | storage::Error::TooLarge { .. }
        | storage::Error::DiffIdMismatch { .. } => chain(&error),
        _ => return error.into(),
    };
    Error::BadLayer {
        layer: layer.clone(),
        reason,
    }
}
