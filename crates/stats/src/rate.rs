//! Processor use between two samples.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between samples that are closer, the last rate stands: two clients at once must not make each
/// other's figures noise.
const LEAST: Duration = Duration::from_millis(500);

/// The last sample of everything that is sampled.
#[derive(Debug, Default)]
pub struct Rates(Mutex<HashMap<String, Sample>>);

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    total: u64,
    rate: u64,
}

impl Rates {
    /// Nanoseconds of processor time per second since the last sample of `key`; 0 for the first.
    #[must_use]
    pub fn of(&self, key: &str, at: Instant, total: u64) -> u64 {
        let mut samples = self.lock();
        let Some(sample) = samples.get_mut(key) else {
            let first = Sample { at, total, rate: 0 };
            samples.insert(key.to_owned(), first);
            return 0;
        };
        let elapsed = at.saturating_duration_since(sample.at);
        if elapsed >= LEAST {
            let used = u128::from(total.saturating_sub(sample.total));
            let rate = used.saturating_mul(1_000_000_000) / elapsed.as_nanos().max(1);
            *sample = Sample {
                at,
                total,
                rate: u64::try_from(rate).unwrap_or(u64::MAX),
            };
        }
        sample.rate
    }

    /// Forgets what is gone.
    pub fn retain(&self, there: impl Fn(&str) -> bool) {
        self.lock().retain(|key, _| there(key));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Sample>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_between_samples() {
        let rates = Rates::default();
        let start = Instant::now();
        for (after_ms, total, rate, why) in [
            (0, 5_000, 0, "the first has nothing before it"),
            (1000, 500_005_000, 500_000_000, "half a processor"),
            (
                1100,
                900_000_000,
                500_000_000,
                "too soon: the last one stands",
            ),
            (3000, 500_005_000, 0, "nothing used since"),
            (4000, 7, 0, "a counter that went back"),
        ] {
            let at = start + Duration::from_millis(after_ms);
            assert_eq!(rates.of("c", at, total), rate, "{why}");
        }
        rates.retain(|key| key != "c");
        assert_eq!(rates.of("c", start, 9), 0);
    }
}
