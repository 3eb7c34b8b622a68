//! A layer of which the store has parts: only the others are fetched. Where that is not possible,
//! the whole blob is; an error of the network is one, and says nothing about the layer.

use std::sync::Arc;

use http_body_util::BodyExt as _;
use storage::{Compression, Digest};
use tokio::time::timeout;

use super::download::Pace;
use super::layers::{Stage, Unpacked};
use crate::blob::{self, PieceSender};
use crate::chunked::{Archive, Places, Plan, Span};
use crate::client::Session;
use crate::error::{Error, Result, chain};
use crate::limits;
use crate::manifest::Descriptor;
use crate::pipe::{self, Stopped};
use crate::progress::LayerTracker;

/// What became of a layer.
pub(super) enum Partly {
    /// It is unpacked.
    Unpacked(Unpacked),
    /// The whole blob has to be fetched; its table of contents, if it has one.
    Whole(Option<Vec<u8>>),
}

/// Fetches what the store lacks of a layer, where that is less than all of it.
pub(super) async fn layer(
    stage: &Stage,
    blob: &Descriptor,
    diff_id: &Digest,
    sessions: &[Arc<Session>],
    tracker: &LayerTracker,
) -> Result<Partly> {
    let Some(places) = Places::of(blob).filter(|_| stage.partial) else {
        return Ok(Partly::Whole(None));
    };
    let bytes = match tables(stage, blob, &places, sessions).await {
        Ok(bytes) => bytes,
        Err(error) => return unsuitable(blob, error),
    };
    let (store, size) = (stage.store.clone(), blob.size);
    let planned = {
        // Tables take many times their size while they are read: one at a time.
        let turn = stage.tables.acquire().await;
        let _turn = turn.map_err(|_| Error::Interrupted)?;
        let plan = move || {
            let contents = places.read(&bytes)?;
            let plan = contents.plan(&store)?;
            Ok::<_, String>((contents.toc, plan))
        };
        stage.inflate.run(plan).await
    };
    let (toc, plan) = match planned {
        // Many requests for nearly all of it are slower than one.
        Ok((toc, plan)) if plan.fetched() / 9 < size / 10 => (toc, plan),
        Ok((toc, _)) => return Ok(Partly::Whole(Some(toc))),
        Err(reason) => {
            tracing::debug!(layer = %blob.digest, reason, "the layer is fetched whole");
            return Ok(Partly::Whole(None));
        }
    };
    tracing::info!(layer = %blob.digest, bytes = plan.fetched(), of = size, "parts of the layer are there");
    match assemble(stage, blob, plan, sessions, tracker).await {
        Ok(unpacked) if unpacked.staged.diff_id() != diff_id => {
            let reason = "its table of contents does not tell the truth".to_owned();
            let layer = blob.digest.clone();
            unsuitable(blob, Error::BadLayer { layer, reason })
        }
        Ok(mut unpacked) => {
            unpacked.toc = Some(toc);
            Ok(Partly::Unpacked(unpacked))
        }
        Err(error) => unsuitable(blob, error),
    }
}

fn unsuitable(blob: &Descriptor, error: Error) -> Result<Partly> {
    match error {
        Error::RegistryUnavailable { .. } | Error::Unauthorized { .. } | Error::NoSpace(_) => {
            Err(error)
        }
        error => {
            tracing::warn!(layer = %blob.digest, %error, "the layer is fetched whole");
            Ok(Partly::Whole(None))
        }
    }
}

/// Fetches table of contents and tar-split, as they are in the blob.
async fn tables(
    stage: &Stage,
    blob: &Descriptor,
    places: &Places,
    sessions: &[Arc<Session>],
) -> Result<Vec<u8>> {
    let bad = |reason: String| Error::BadLayer {
        layer: blob.digest.clone(),
        reason,
    };
    let span = places
        .span()
        .ok_or_else(|| bad("its table of contents is too large".to_owned()))?;
    let (pieces, mut reader) = blob::channel(&blob.digest);
    let reading = stage.inflate.run(move || {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut bytes).map(|_| bytes)
    });
    let wanted = [span];
    let fetching = spans(
        sessions,
        blob,
        &wanted,
        stage.downloads.pace(),
        pieces,
        None,
    );
    let (fetched, read) = futures_util::future::join(fetching, reading).await;
    fetched?;
    read.map_err(|error| bad(chain(&error)))
}

/// Spans → archive → unpacking, side by side.
async fn assemble(
    stage: &Stage,
    blob: &Descriptor,
    plan: Plan,
    sessions: &[Arc<Session>],
    tracker: &LayerTracker,
) -> Result<Unpacked> {
    let wanted = plan.spans.clone();
    let (pieces, reader) = blob::channel(&blob.digest);
    let (writer, plain) = pipe::pipe();
    let store = stage.store.clone();
    let writing = stage.inflate.run(move || {
        let archive = Archive::new(plan, store, reader).map_err(Stopped::Source)?;
        writer.copy(archive)?;
        writer.end().map_err(|_| Stopped::Closed)
    });
    let (store, limits) = (stage.store.clone(), stage.limits);
    let unpacking = stage.unpack.run(move || store.unpack(plain, limits));
    let fetching = spans(
        sessions,
        blob,
        &wanted,
        stage.downloads.pace(),
        pieces,
        Some(tracker),
    );
    let (fetched, written, unpacked) =
        futures_util::future::join3(fetching, writing, unpacking).await;
    fetched?;
    match written {
        Ok(()) | Err(Stopped::Closed) => {}
        Err(Stopped::Source(error)) => {
            return Err(Error::BadLayer {
                layer: blob.digest.clone(),
                reason: chain(&error),
            });
        }
    }
    Ok(Unpacked {
        staged: unpacked?,
        compression: Compression::Zstd,
        whole: false,
        toc: None,
    })
}

/// Fetches parts of a blob, one after another; goes on at the next source where one fails.
async fn spans(
    sessions: &[Arc<Session>],
    blob: &Descriptor,
    spans: &[Span],
    pace: Pace,
    pieces: PieceSender,
    tracker: Option<&LayerTracker>,
) -> Result<()> {
    let mut sources = sessions.iter().cycle();
    for span in spans {
        let (mut left, mut fruitless) = (*span, 0);
        while left.length() > 0 {
            let session = sources.next().ok_or(Error::Interrupted)?;
            let before = left.start;
            match part(session, blob, &mut left, pace, &pieces, tracker).await {
                Ok(Reader::There) => {}
                // It failed, and says why itself.
                Ok(Reader::Gone) => return Ok(()),
                Err(error) => {
                    fruitless = if left.start > before {
                        0
                    } else {
                        fruitless + 1
                    };
                    let may_help = matches!(error, Error::RegistryUnavailable { .. });
                    if fruitless >= limits::FRUITLESS_RESUMES || !may_help && sessions.len() == 1 {
                        return Err(error);
                    }
                }
            }
        }
    }
    // Whoever does not listen any more has failed, and says so.
    let _gone = pieces.end().await;
    Ok(())
}

enum Reader {
    There,
    Gone,
}

/// Fetches what is left of a part over one connection.
async fn part(
    session: &Session,
    blob: &Descriptor,
    left: &mut Span,
    pace: Pace,
    pieces: &PieceSender,
    tracker: Option<&LayerTracker>,
) -> Result<Reader> {
    let unavailable = |detail: String| Error::RegistryUnavailable {
        registry: session.source().reference.host().to_owned(),
        detail: format!("blob {}: {detail}", blob.digest),
    };
    let mut body = session.part(&blob.digest, left.start, left.end).await?;
    while left.length() > 0 {
        let frame = match pace.limit() {
            Some(limit) => timeout(limit, body.frame())
                .await
                .map_err(|_| unavailable(format!("no progress for {limit:?}")))?,
            None => body.frame().await,
        };
        let Some(frame) = frame else {
            return Err(unavailable("the answer is too short".to_owned()));
        };
        let frame = frame.map_err(|error| unavailable(chain(&error)))?;
        let Ok(mut data) = frame.into_data() else {
            continue;
        };
        data.truncate(usize::try_from(left.length()).unwrap_or(usize::MAX));
        let length = data.len() as u64;
        if pieces.send(data).await.is_err() {
            return Ok(Reader::Gone);
        }
        left.start += length;
        if let Some(tracker) = tracker {
            tracker.add(length);
        }
    }
    Ok(Reader::There)
}
