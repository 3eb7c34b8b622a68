//! One connection to a blob, which is given up when it is silent or too slow.

use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::client::{BlobBody, Session};
use crate::error::{Error, chain};
use crate::manifest::Descriptor;
use crate::options::Options;

/// How slow a connection may be.
#[derive(Clone, Copy, Debug)]
pub(in crate::pull) struct Pace {
    window: Duration,
    minimum_rate: u64,
}

impl Pace {
    pub(super) fn of(options: &Options) -> Self {
        Self {
            window: options.pull_progress_timeout,
            minimum_rate: options.minimum_rate,
        }
    }

    /// How long nothing may come; for ever if `None`.
    pub(in crate::pull) fn limit(self) -> Option<Duration> {
        (!self.window.is_zero()).then_some(self.window)
    }
}

/// Why one connection gave no more.
pub(super) enum Cut {
    /// Try again from where it was.
    Resume(Error),
    /// No use.
    Fatal(Error),
    /// The decoding side failed and says why itself.
    Unread,
}

/// A blob's bytes from an offset on.
pub(super) struct Connection<'a> {
    opened: BlobBody,
    watch: Watch,
    session: &'a Session,
    descriptor: &'a Descriptor,
}

impl<'a> Connection<'a> {
    /// Asks for a range. More may come: that which is after it, or all of a registry that knows no
    /// ranges.
    pub(super) async fn open(
        session: &'a Session,
        descriptor: &'a Descriptor,
        range: Range<u64>,
        pace: Pace,
    ) -> Result<Self, Cut> {
        let end = Some(range.end).filter(|end| *end < descriptor.size);
        let opened = session.blob(&descriptor.digest, range.start, end).await;
        let opened = opened.map_err(|error| match error {
            Error::RegistryUnavailable { .. } => Cut::Resume(error),
            // It may be at the next source; if it is nowhere, that is found soon.
            Error::NotFound { .. } | Error::Unauthorized { .. } | Error::Registry { .. } => {
                Cut::Resume(error)
            }
            other => Cut::Fatal(other),
        })?;
        Ok(Self {
            opened,
            watch: Watch::new(pace),
            session,
            descriptor,
        })
    }

    /// Whether what comes first was not asked for.
    pub(super) fn ignores_ranges(&self) -> bool {
        self.opened.skip > 0
    }

    /// The next bytes; `None` at the end of what this connection gives.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Cut> {
        loop {
            let waiting = Instant::now();
            let body = &mut self.opened.body;
            let frame = match self.watch.limit() {
                Some(limit) => match timeout(limit, body.frame()).await {
                    Ok(frame) => frame,
                    Err(_) => return Err(self.cut(format!("no progress for {limit:?}"))),
                },
                None => body.frame().await,
            };
            let Some(frame) = frame else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| self.cut(chain(&error)))?;
            let Ok(mut data) = frame.into_data() else {
                continue;
            };
            if !self.watch.saw(data.len() as u64, waiting.elapsed()) {
                let rate = self.watch.pace.minimum_rate;
                return Err(self.cut(format!("slower than {rate} bytes per second")));
            }
            skip(&mut data, &mut self.opened.skip);
            if !data.is_empty() {
                return Ok(Some(data));
            }
        }
    }

    fn cut(&self, detail: String) -> Cut {
        Cut::Resume(Error::RegistryUnavailable {
            registry: self.session.source().reference.host().to_owned(),
            detail: format!("blob {}: {detail}", self.descriptor.digest),
        })
    }
}

/// Drops what the registry sent again.
fn skip(data: &mut Bytes, left: &mut u64) {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len());
    data.advance(length);
    *left -= length as u64;
}

/// Counts only the time that the network is waited for: a slow disk is not its fault.
struct Watch {
    pace: Pace,
    waited: Duration,
    bytes: u64,
}

impl Watch {
    fn new(pace: Pace) -> Self {
        Self {
            pace,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    fn limit(&self) -> Option<Duration> {
        self.pace.limit()
    }

    /// Counts a frame; `false` if the last window was too slow.
    fn saw(&mut self, bytes: u64, waited: Duration) -> bool {
        self.bytes += bytes;
        self.waited += waited;
        if self.pace.window.is_zero() || self.waited < self.pace.window {
            return true;
        }
        let enough = self.bytes >= self.pace.minimum_rate.saturating_mul(self.waited.as_secs());
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_is_too_slow_and_a_wait_for_the_disk_is_not() {
        let pace = Pace {
            window: Duration::from_secs(10),
            minimum_rate: 100,
        };
        let mut trickle = Watch::new(pace);
        let fast_enough = (0..30).all(|_| trickle.saw(10, Duration::from_secs(1)));
        assert!(!fast_enough);
        let mut steady = Watch::new(pace);
        assert!((0..30).all(|_| steady.saw(200, Duration::from_secs(1))));
        let mut off = Watch::new(Pace {
            window: Duration::ZERO,
            minimum_rate: 100,
        });
        assert!((0..30).all(|_| off.saw(0, Duration::from_secs(100))));
    }
}
