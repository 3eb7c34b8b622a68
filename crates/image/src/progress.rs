//! What running pulls have done so far.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use storage::Digest;

/// A running pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullProgress {
    /// What is pulled.
    pub reference: String,
    /// Since when.
    pub started: SystemTime,
    /// Its layers, the lowest first; empty until the manifest is there.
    pub layers: Vec<LayerProgress>,
    /// Bytes fetched of all layers that had to be.
    pub bytes: u64,
    /// Bytes of all layers that have to be fetched.
    pub total: u64,
    /// How fast at present.
    pub bytes_per_second: u64,
    /// The mirror that it comes from, if it is one.
    pub mirror: Option<String>,
}

/// A layer of a running pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerProgress {
    /// Digest of its blob.
    pub digest: Digest,
    /// How far it is.
    pub state: LayerState,
    /// Bytes fetched.
    pub bytes: u64,
    /// Bytes of its blob.
    pub total: u64,
}

/// How far a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum LayerState {
    /// It waits for its turn.
    Waiting,
    /// The store has it: nothing to fetch.
    Present,
    /// It is fetched, and unpacked meanwhile.
    Fetching,
    /// It is unpacked and waits for those below it.
    Unpacked,
    /// It is in the store.
    Committed,
}

/// A pull's own record of its progress.
#[derive(Debug)]
pub(crate) struct Tracker {
    reference: String,
    started: SystemTime,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    layers: Vec<Arc<LayerTracker>>,
    mirror: Option<String>,
    sampled: Instant,
    sample: u64,
    rate: u64,
}

/// A layer's own record.
#[derive(Debug)]
pub(crate) struct LayerTracker {
    digest: Digest,
    total: u64,
    bytes: AtomicU64,
    state: AtomicU8,
}

impl Tracker {
    pub(crate) fn new(reference: String) -> Self {
        let inner = Inner {
            layers: Vec::new(),
            mirror: None,
            sampled: Instant::now(),
            sample: 0,
            rate: 0,
        };
        Self {
            reference,
            started: SystemTime::now(),
            inner: Mutex::new(inner),
        }
    }

    pub(crate) fn set_mirror(&self, mirror: Option<String>) {
        self.lock().mirror = mirror;
    }

    /// Takes over what another process says of this pull's layers.
    pub(crate) fn follow(&self, layers: &[LayerProgress], mirror: Option<String>) {
        self.set_mirror(mirror);
        let mut trackers = self.lock().layers.clone();
        let known = trackers.iter().map(|layer| (&layer.digest, layer.total));
        let told = layers.iter().map(|layer| (&layer.digest, layer.total));
        if !known.eq(told.clone()) {
            trackers = self.set_layers(told);
        }
        for (tracker, told) in trackers.iter().zip(layers) {
            tracker.bytes.store(told.bytes, Ordering::Relaxed);
            tracker.set(told.state);
        }
    }

    /// What is pulled, by this digest.
    pub(crate) fn name(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.reference)
    }

    /// Says which layers there are.
    pub(crate) fn set_layers<'a>(
        &self,
        layers: impl Iterator<Item = (&'a Digest, u64)>,
    ) -> Vec<Arc<LayerTracker>> {
        let made: Vec<_> = layers
            .map(|(digest, total)| {
                Arc::new(LayerTracker {
                    digest: digest.clone(),
                    total,
                    bytes: AtomicU64::new(0),
                    state: AtomicU8::new(LayerState::Waiting as u8),
                })
            })
            .collect();
        let mut inner = self.lock();
        inner.layers.clone_from(&made);
        inner.sampled = Instant::now();
        made
    }

    pub(crate) fn snapshot(&self) -> PullProgress {
        const WINDOW: Duration = Duration::from_secs(1);
        let mut inner = self.lock();
        let layers: Vec<_> = inner.layers.iter().map(|layer| layer.snapshot()).collect();
        let fetched = || {
            layers
                .iter()
                .filter(|layer| layer.state != LayerState::Present)
        };
        let bytes: u64 = fetched().map(|layer| layer.bytes).sum();
        let total = fetched().map(|layer| layer.total).sum();
        let elapsed = inner.sampled.elapsed();
        if elapsed >= WINDOW || inner.rate == 0 {
            let milliseconds = u64::try_from(elapsed.as_millis())
                .unwrap_or(u64::MAX)
                .max(1);
            inner.rate = bytes.saturating_sub(inner.sample).saturating_mul(1000) / milliseconds;
        }
        if elapsed >= WINDOW {
            (inner.sampled, inner.sample) = (Instant::now(), bytes);
        }
        PullProgress {
            reference: self.reference.clone(),
            started: self.started,
            layers,
            bytes,
            total,
            bytes_per_second: inner.rate,
            mirror: inner.mirror.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LayerTracker {
    pub(crate) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes fetched.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, state: LayerState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    fn snapshot(&self) -> LayerProgress {
        let state = match self.state.load(Ordering::Relaxed) {
            0 => LayerState::Waiting,
            1 => LayerState::Present,
            2 => LayerState::Fetching,
            3 => LayerState::Unpacked,
            _ => LayerState::Committed,
        };
        let bytes = self.bytes.load(Ordering::Relaxed);
        LayerProgress {
            digest: self.digest.clone(),
            state,
            bytes,
            total: self.total,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_already_does_not_count() {
        let tracker = Tracker::new("a".into());
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let layers = tracker.set_layers([(&one, 10), (&two, 20)].into_iter());
        layers[0].set(LayerState::Present);
        layers[1].set(LayerState::Fetching);
        layers[1].add(5);
        let seen = tracker.snapshot();
        assert_eq!((seen.bytes, seen.total), (5, 20));
        assert_eq!(seen.layers[1].state, LayerState::Fetching);
        let follower = Tracker::new("a".into());
        for _ in 0..2 {
            follower.follow(&seen.layers, Some("b".into()));
            let followed = follower.snapshot();
            assert_eq!(
                (followed.bytes, followed.total, followed.layers),
                (5, 20, seen.layers.clone())
            );
            assert_eq!(followed.mirror.as_deref(), Some("b"));
        }
    }
}
