//! CRI calls, counted and timed.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Latencies that quantiles are of: the last ones of each call.
const WINDOW: usize = 512;

/// gRPC's code of a call that is not there.
const UNIMPLEMENTED: &str = "12";

/// What is known of each call.
#[derive(Debug, Default)]
pub(crate) struct Calls(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    calls: BTreeMap<String, Call>,
    pulls: Pulls,
}

/// One kind of call.
#[derive(Debug, Default, Clone)]
pub(crate) struct Call {
    /// Calls that ended.
    pub(crate) count: u64,
    /// Those that ended with an error.
    pub(crate) errors: u64,
    /// Sum of their durations.
    pub(crate) sum: Duration,
    /// Duration of the last one.
    pub(crate) last: Duration,
    recent: Vec<Duration>,
    next: usize,
}

/// Pulls of images.
#[derive(Debug, Default, Clone)]
pub(crate) struct Pulls {
    /// Those that succeeded.
    pub(crate) succeeded: u64,
    /// Those that did not, by CRI-O's word for the reason.
    pub(crate) failed: BTreeMap<&'static str, u64>,
}

/// How a call ended: gRPC's code and message, as they are on the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended<'a> {
    pub(crate) code: &'a str,
    pub(crate) message: &'a str,
}

impl Calls {
    /// Takes note of a call.
    pub(crate) fn record(&self, name: &str, took: Duration, failed: Option<Ended<'_>>) {
        // A call that is not there has any name that a client likes.
        if failed.is_some_and(|ended| ended.code == UNIMPLEMENTED) {
            return;
        }
        let mut known = self.lock();
        if !known.calls.contains_key(name) {
            known.calls.insert(name.to_owned(), Call::default());
        }
        if let Some(call) = known.calls.get_mut(name) {
            call.record(took, failed.is_some());
        }
        if name == "PullImage" {
            match failed {
                None => known.pulls.succeeded += 1,
                Some(ended) => *known.pulls.failed.entry(ended.reason()).or_default() += 1,
            }
        }
    }

    /// All calls, and pulls.
    pub(crate) fn read(&self) -> (BTreeMap<String, Call>, Pulls) {
        let known = self.lock();
        (known.calls.clone(), known.pulls.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call {
    fn record(&mut self, took: Duration, failed: bool) {
        self.count += 1;
        self.errors += u64::from(failed);
        self.sum = self.sum.saturating_add(took);
        self.last = took;
        match self.recent.get_mut(self.next) {
            Some(slot) => *slot = took,
            None => self.recent.push(took),
        }
        self.next = (self.next + 1) % WINDOW;
    }

    /// Quantiles of the last durations, in their order; shares are in per cent.
    pub(crate) fn quantiles<const N: usize>(&self, shares: [usize; N]) -> [Duration; N] {
        let mut sorted = self.recent.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        shares.map(|share| sorted.get(last * share / 100).copied().unwrap_or_default())
    }
}

impl Ended<'_> {
    /// CRI-O's word for the reason of a failed pull.
    fn reason(&self) -> &'static str {
        match self.code {
            "16" => "UNAUTHORIZED",
            "5" => "NOT_FOUND",
            "14" if self.message.contains("refused") => "CONNECTION_REFUSED",
            "14" | "4" if self.message.contains("timed") => "CONNECTION_TIMEOUT",
            _ => "UNKNOWN",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_and_timed() {
        let calls = Calls::default();
        let ended = Ended {
            code: "14",
            message: "RegistryUnavailable:%20connection%20refused",
        };
        for n in 1..=1000 {
            let failed = (n % 10 == 0).then_some(ended);
            calls.record("PullImage", Duration::from_millis(n), failed);
        }
        let (read, pulls) = calls.read();
        let call = &read["PullImage"];
        assert_eq!((call.count, call.errors), (1000, 100));
        assert_eq!(call.last, Duration::from_millis(1000));
        let [half, most] = call.quantiles([50, 99]);
        assert_eq!(
            (half, most),
            (Duration::from_millis(744), Duration::from_millis(994)),
            "of the last 512"
        );
        assert_eq!(pulls.succeeded, 900);
        assert_eq!(pulls.failed, [("CONNECTION_REFUSED", 100)].into());
    }
}
