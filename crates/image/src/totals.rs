//! What all pulls since the start have fetched and found, for metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use serde::{Deserialize, Serialize};

/// Upper bounds of [`Totals::layer_sizes`], in bytes, as CRI-O has them.
pub const LAYER_SIZES: [u64; 11] = [
    1_000,
    1_000_000,
    10_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    300_000_000,
    400_000_000,
    500_000_000,
    1_000_000_000,
    10_000_000_000,
];

/// Names of sizes of blobs, the largest first: each is for what is larger than its bytes.
const SIZES: [(u64, &str); 12] = [
    (10 << 30, ">10 GiB"),
    (1 << 30, ">1 GiB"),
    (500 << 20, ">500 MiB"),
    (400 << 20, ">400 MiB"),
    (300 << 20, ">300 MiB"),
    (200 << 20, ">200 MiB"),
    (100 << 20, ">100 MiB"),
    (50 << 20, ">50 MiB"),
    (10 << 20, ">10 MiB"),
    (1 << 20, ">1 MiB"),
    (1 << 10, ">1 KiB"),
    (0, ">0 B"),
];

/// Blobs whose re-use is counted by name (ours): a node that pulls for years must not grow.
const REUSED: usize = 10_000;

/// Sums of all pulls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes fetched, by media type and by the name of the blob's size.
    pub fetched: BTreeMap<(String, &'static str), u64>,
    /// Bytes that were there already, by the name of the blob's size.
    pub skipped: BTreeMap<&'static str, u64>,
    /// How many fetched layers' blobs were at most as large as each of [`LAYER_SIZES`].
    pub layer_sizes: [u64; LAYER_SIZES.len()],
    /// How many layers were fetched.
    pub layers: u64,
    /// Bytes of these.
    pub layer_bytes: u64,
    /// How often a layer was there already, by `reference@digest`; only the first ten thousand
    /// names are counted.
    pub reused: BTreeMap<String, u64>,
}

/// What is counted of a pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Count {
    /// A layer was fetched.
    Fetched {
        /// The type of its blob.
        media_type: String,
        /// How many bytes came.
        bytes: u64,
    },
    /// A layer was there already.
    Skipped {
        /// `reference@digest`.
        name: String,
        /// Bytes of its blob.
        bytes: u64,
    },
}

/// The sums that pulls add to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    totals: Arc<Mutex<Totals>>,
    /// Who is told each count.
    listener: Option<mpsc::Sender<Count>>,
}

impl Counters {
    /// Counts, and tells `listener` what it counted.
    pub(crate) fn telling(listener: mpsc::Sender<Count>) -> Self {
        Self {
            listener: Some(listener),
            ..Self::default()
        }
    }

    /// Counts.
    pub(crate) fn add(&self, count: Count) {
        if let Some(listener) = &self.listener {
            // Nobody wants to know any more.
            listener.send(count.clone()).ok();
        }
        match count {
            Count::Fetched { media_type, bytes } => self.fetched(media_type, bytes),
            Count::Skipped { name, bytes } => self.skipped(name, bytes),
        }
    }

    fn fetched(&self, media_type: String, bytes: u64) {
        let mut totals = self.lock();
        *totals.fetched.entry((media_type, size(bytes))).or_default() += bytes;
        for (count, bound) in totals.layer_sizes.iter_mut().zip(LAYER_SIZES) {
            *count += u64::from(bytes <= bound);
        }
        totals.layers += 1;
        totals.layer_bytes += bytes;
    }

    fn skipped(&self, name: String, bytes: u64) {
        let mut totals = self.lock();
        *totals.skipped.entry(size(bytes)).or_default() += bytes;
        if totals.reused.len() < REUSED || totals.reused.contains_key(&name) {
            *totals.reused.entry(name).or_default() += 1;
        }
    }

    pub(crate) fn read(&self) -> Totals {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of a size.
fn size(bytes: u64) -> &'static str {
    let found = SIZES.iter().find(|(more_than, _)| bytes > *more_than);
    found.map_or(">0 B", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_sorted_into_buckets() {
        for (bytes, name) in [
            (0, ">0 B"),
            (1024, ">0 B"),
            (1025, ">1 KiB"),
            (11 << 20, ">10 MiB"),
            (11 << 30, ">10 GiB"),
        ] {
            assert_eq!(size(bytes), name, "{bytes}");
        }
        let (listener, told) = mpsc::channel();
        let counters = Counters::telling(listener);
        let fetched = |bytes| Count::Fetched {
            media_type: "tar".to_owned(),
            bytes,
        };
        let skipped = Count::Skipped {
            name: "a@b".to_owned(),
            bytes: 5_000,
        };
        for count in [fetched(2_000), fetched(1_000), skipped.clone(), skipped] {
            counters.add(count.clone());
            assert_eq!(told.try_recv(), Ok(count));
        }
        let totals = counters.read();
        assert_eq!(totals.layer_sizes[..3], [1, 2, 2]);
        assert_eq!((totals.layers, totals.layer_bytes), (2, 3_000));
        assert_eq!(totals.skipped[">1 KiB"], 10_000);
        assert_eq!(totals.reused["a@b"], 2);
    }
}
