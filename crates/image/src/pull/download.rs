//! One blob from the network: with a watchdog, resumed where it was cut, at the next source if
//! need be. A large one comes over several connections at once where one alone is slower than what
//! becomes of its bytes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use crate::blob::PieceSender;
use crate::client::Session;
use crate::error::{Error, Result};
use crate::limits;
use crate::manifest::Descriptor;
use crate::options::Options;
use crate::progress::LayerTracker;

mod connection;

pub(super) use connection::Pace;
use connection::{Connection, Cut};

/// How blobs are fetched. Clones share the memory that may be read ahead into.
#[derive(Clone, Debug)]
pub(crate) struct Downloads {
    pace: Pace,
    ahead: Arc<Semaphore>,
}

impl Downloads {
    pub(crate) fn of(options: &Options) -> Self {
        Self {
            pace: Pace::of(options),
            ahead: Arc::new(Semaphore::new(limits::STRETCHES_AHEAD)),
        }
    }

    /// How slow a connection may be.
    pub(super) fn pace(&self) -> Pace {
        self.pace
    }

    /// Fetches a blob and passes it on. Its digest is the reader's to check; its size is checked
    /// here, as soon as it is exceeded.
    pub(super) async fn blob(
        &self,
        sessions: &[Arc<Session>],
        descriptor: &Descriptor,
        pieces: PieceSender,
        tracker: &LayerTracker,
    ) -> Result<()> {
        let mut transfer = Transfer {
            downloads: self,
            descriptor,
            pieces,
            tracker,
            offset: 0,
            ahead: VecDeque::new(),
            whole: Arc::default(),
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
            // A byte at a time would never end.
            fruitless = match transfer.offset - before {
                limits::FRUITFUL_BYTES.. => 0,
                _ => fruitless + 1,
            };
            if fruitless >= limits::FRUITLESS_RESUMES {
                return Err(error);
            }
            let offset = transfer.offset;
            tracing::debug!(blob = %descriptor.digest, offset, %error, "resuming");
        }
        Err(Error::Interrupted)
    }
}

struct Transfer<'a> {
    downloads: &'a Downloads,
    descriptor: &'a Descriptor,
    pieces: PieceSender,
    tracker: &'a LayerTracker,
    /// What comes next.
    offset: u64,
    /// What is fetched meanwhile, the first first, without gaps.
    ahead: VecDeque<Stretch>,
    /// The registry was seen to know no ranges.
    whole: Arc<AtomicBool>,
}

/// A part of a blob that is fetched before its turn.
struct Stretch {
    start: u64,
    end: u64,
    /// `None` if it failed: it is then fetched in its turn, which says why.
    fetching: JoinHandle<Option<Vec<Bytes>>>,
    _memory: OwnedSemaphorePermit,
}

impl Drop for Stretch {
    fn drop(&mut self) {
        self.fetching.abort();
    }
}

impl Transfer<'_> {
    /// Fetches what is left from one source.
    async fn from(&mut self, session: &Arc<Session>) -> Result<(), Cut> {
        loop {
            if self
                .ahead
                .front()
                .is_some_and(|next| next.start == self.offset)
            {
                self.pass_stretch().await?;
            } else {
                self.connect(session).await?;
            }
            if self.offset == self.descriptor.size {
                return Ok(());
            }
        }
    }

    /// Where the part ends that nobody fetches ahead.
    fn end(&self) -> u64 {
        self.ahead
            .front()
            .map_or(self.descriptor.size, |next| next.start)
    }

    /// Fetches that part over one connection, and passes it on as it comes.
    async fn connect(&mut self, session: &Arc<Session>) -> Result<(), Cut> {
        let asked = self.end();
        let mut connection = Connection::open(
            session,
            self.descriptor,
            self.offset..asked,
            self.downloads.pace,
        )
        .await?;
        if connection.ignores_ranges() {
            self.whole.store(true, Ordering::Relaxed);
        }
        while let Some(mut data) = connection.next().await? {
            if self.whole.load(Ordering::Relaxed) {
                self.ahead.clear();
            }
            // It moves nearer while others start ahead of us.
            let left = self.end() - self.offset;
            let unasked = data.len() as u64 > left;
            if unasked {
                if self.end() == self.descriptor.size {
                    self.offset += data.len() as u64;
                    return Err(Cut::Fatal(self.wrong_size("more")));
                }
                data.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            }
            if !data.is_empty() {
                self.pass(data).await?;
            }
            self.look_ahead(session);
            if self.offset == self.end() && (unasked || self.end() < asked) {
                return Ok(());
            }
        }
        if self.offset < self.end() {
            return Err(Cut::Resume(self.wrong_size("only")));
        }
        Ok(())
    }

    async fn pass(&mut self, data: Bytes) -> Result<(), Cut> {
        let length = data.len() as u64;
        self.pieces.send(data).await.map_err(|_| Cut::Unread)?;
        self.offset += length;
        self.tracker.add(length);
        Ok(())
    }

    /// Passes on what was fetched ahead. Nothing, if that failed.
    async fn pass_stretch(&mut self) -> Result<(), Cut> {
        let Some(mut next) = self.ahead.pop_front() else {
            return Ok(());
        };
        let fetched = (&mut next.fetching).await;
        for data in fetched.ok().flatten().into_iter().flatten() {
            self.pass(data).await?;
        }
        Ok(())
    }

    /// Starts further connections while the decoder has nothing to do and memory is left.
    fn look_ahead(&mut self, session: &Arc<Session>) {
        let size = self.descriptor.size;
        while self.pieces.is_empty()
            && self.ahead.len() < limits::CONNECTIONS_AHEAD
            && !self.whole.load(Ordering::Relaxed)
        {
            let start = match self.ahead.back() {
                Some(last) => last.end,
                None => self.offset + limits::STRETCH_BYTES,
            };
            if start >= size {
                return;
            }
            let Ok(memory) = Arc::clone(&self.downloads.ahead).try_acquire_owned() else {
                return;
            };
            let end = size.min(start + limits::STRETCH_BYTES);
            let fetching = stretch(
                Arc::clone(session),
                self.descriptor.clone(),
                start..end,
                self.downloads.pace,
                Arc::clone(&self.whole),
            );
            self.ahead.push_back(Stretch {
                start,
                end,
                // Its `Stretch` aborts it.
                fetching: tokio::spawn(fetching),
                _memory: memory,
            });
        }
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

/// Fetches a part into memory.
async fn stretch(
    session: Arc<Session>,
    descriptor: Descriptor,
    range: std::ops::Range<u64>,
    pace: Pace,
    whole: Arc<AtomicBool>,
) -> Option<Vec<Bytes>> {
    let mut left = range.end - range.start;
    let mut connection = Connection::open(&session, &descriptor, range, pace)
        .await
        .ok()?;
    if connection.ignores_ranges() {
        whole.store(true, Ordering::Relaxed);
        return None;
    }
    let mut fetched = Vec::new();
    while let Some(data) = connection.next().await.ok()? {
        left = left.checked_sub(data.len() as u64)?;
        fetched.push(data);
    }
    (left == 0).then_some(fetched)
}
