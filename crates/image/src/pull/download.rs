//! One blob from the network: with a watchdog, resumed where it was cut, at the next source if
//! need be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::blob::PieceSender;
use crate::client::Session;
use crate::error::{Error, Result, chain};
use crate::limits;
use crate::manifest::Descriptor;
use crate::options::Options;
use crate::progress::LayerTracker;

/// How slow a connection may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
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
}

/// Why one connection gave no more.
enum Cut {
    /// Try again from where it was.
    Resume(Error),
    /// No use.
    Fatal(Error),
    /// The decoding side failed and says why itself.
    Unread,
}

/// Fetches a blob and passes it on. Its digest is the reader's to check; its size is checked
/// here, as soon as it is exceeded.
pub(super) async fn blob(
    sessions: &[Arc<Session>],
    descriptor: &Descriptor,
    pace: Pace,
    pieces: PieceSender,
    tracker: &LayerTracker,
) -> Result<()> {
    let mut transfer = Transfer {
        descriptor,
        pace,
        pieces,
        tracker,
        offset: 0,
    };
    let mut fruitless = 0;
    for session in sessions.iter().cycle() {
        let before = transfer.offset;
        let error = match transfer.from(session).await {
            Ok(()) => {
                // Whoever does not listen any more has failed, and says so.
                let _gone = transfer.pieces.end().await;
                return Ok(());
            }
            Err(Cut::Unread) => return Ok(()),
            Err(Cut::Fatal(error)) => return Err(error),
            Err(Cut::Resume(error)) => error,
        };
        fruitless = if transfer.offset > before {
            0
        } else {
            fruitless + 1
        };
        if fruitless >= limits::FRUITLESS_RESUMES {
            return Err(error);
        }
        tracing::debug!(blob = %descriptor.digest, offset = transfer.offset, %error, "resuming");
    }
    Err(Error::Interrupted)
}

struct Transfer<'a> {
    descriptor: &'a Descriptor,
    pace: Pace,
    pieces: PieceSender,
    tracker: &'a LayerTracker,
    offset: u64,
}

impl Transfer<'_> {
    /// Fetches what is left over one connection.
    async fn from(&mut self, session: &Session) -> Result<(), Cut> {
        if self.offset == self.descriptor.size && self.offset > 0 {
            return Ok(());
        }
        let opened = session.blob(&self.descriptor.digest, self.offset).await;
        let mut opened = opened.map_err(|error| match error {
            Error::RegistryUnavailable { .. } => Cut::Resume(error),
            // It may be at the next source; if it is nowhere, that is found soon.
            Error::NotFound { .. } | Error::Unauthorized { .. } | Error::Registry { .. } => {
                Cut::Resume(error)
            }
            other => Cut::Fatal(other),
        })?;
        let host = session.source().reference.host();
        let cut = |detail: String| {
            let registry = host.to_owned();
            let detail = format!("blob {}: {detail}", self.descriptor.digest);
            Cut::Resume(Error::RegistryUnavailable { registry, detail })
        };
        let mut watch = Watch::new(self.pace);
        loop {
            let waiting = Instant::now();
            let frame = match watch.limit() {
                Some(limit) => timeout(limit, opened.body.frame())
                    .await
                    .map_err(|_| cut(format!("no progress for {:?}", self.pace.window)))?,
                None => opened.body.frame().await,
            };
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| cut(chain(&error)))?;
            let Ok(mut data) = frame.into_data() else {
                continue;
            };
            if !watch.saw(data.len() as u64, waiting.elapsed()) {
                return Err(cut(format!(
                    "slower than {} bytes per second",
                    self.pace.minimum_rate
                )));
            }
            skip(&mut data, &mut opened.skip);
            if data.is_empty() {
                continue;
            }
            self.offset += data.len() as u64;
            if self.offset > self.descriptor.size {
                return Err(Cut::Fatal(self.wrong_size("more")));
            }
            self.tracker.add(data.len() as u64);
            self.pieces.send(data).await.map_err(|_| Cut::Unread)?;
        }
        if self.offset < self.descriptor.size {
            return Err(Cut::Resume(self.wrong_size("only")));
        }
        Ok(())
    }

    fn wrong_size(&self, how: &str) -> Error {
        let reason = format!(
            "{how} {} bytes instead of {}",
            self.offset, self.descriptor.size
        );
        Error::BadLayer {
            layer: self.descriptor.digest.clone(),
            reason,
        }
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
        (!self.pace.window.is_zero()).then_some(self.pace.window)
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
