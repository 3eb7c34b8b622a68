//! The moment at which signatures are judged.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Now(pub(crate) u64);

impl Now {
    /// By the system's clock; a clock before 1970 makes everything that expires expired.
    pub(crate) fn by_clock() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self(since.as_ref().map_or(u64::MAX, Duration::as_secs))
    }
}
