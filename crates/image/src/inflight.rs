//! Equal pulls share one: the work runs in a task of its own, whoever asked first may go away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use storage::ImageId;
use tokio::sync::watch;

use crate::credentials::Credentials;
use crate::error::Error;
use crate::progress::{PullProgress, Tracker};

/// What makes two pulls equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) reference: String,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) namespace: String,
    pub(crate) artifact: bool,
    /// The parent of its worker's cgroup: nobody's pull is to fail for somebody else's limits.
    pub(crate) parent: Option<String>,
}

/// A pull's end. Errors are shared by all who wait.
pub(crate) type Outcome = Result<ImageId, Arc<Error>>;

/// The pulls that run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inflight(Arc<Mutex<HashMap<Key, Running>>>);

#[derive(Debug)]
struct Running {
    outcome: watch::Receiver<Option<Outcome>>,
    tracker: Arc<Tracker>,
}

impl Inflight {
    /// Joins the running pull of that key or starts `work`, and waits for its outcome.
    pub(crate) async fn share<W>(&self, key: Key, work: impl FnOnce(Arc<Tracker>) -> W) -> Outcome
    where
        W: Future<Output = Result<ImageId, Error>> + Send + 'static,
    {
        let mut outcome = self.join_or_start(key, work);
        match outcome.wait_for(Option::is_some).await {
            Ok(ended) => ended
                .clone()
                .unwrap_or_else(|| Err(Arc::new(Error::Interrupted))),
            // Its task panicked.
            Err(_) => Err(Arc::new(Error::Interrupted)),
        }
    }

    fn join_or_start<W>(
        &self,
        key: Key,
        work: impl FnOnce(Arc<Tracker>) -> W,
    ) -> watch::Receiver<Option<Outcome>>
    where
        W: Future<Output = Result<ImageId, Error>> + Send + 'static,
    {
        let mut running = self.lock();
        if let Some(pull) = running.get(&key) {
            return pull.outcome.clone();
        }
        let (tell, outcome) = watch::channel(None);
        let tracker = Arc::new(Tracker::new(key.reference.clone()));
        let work = work(Arc::clone(&tracker));
        running.insert(
            key.clone(),
            Running {
                outcome: outcome.clone(),
                tracker,
            },
        );
        let leave = Leave {
            inflight: self.clone(),
            key,
        };
        // The table owns it until it has ended, whatever becomes of those who asked.
        tokio::spawn(async move {
            let ended = work.await.map_err(Arc::new);
            drop(leave);
            tell.send_replace(Some(ended));
        });
        outcome
    }

    /// What all of them have done so far.
    pub(crate) fn progress(&self) -> Vec<PullProgress> {
        let trackers: Vec<_> = self
            .lock()
            .values()
            .map(|pull| Arc::clone(&pull.tracker))
            .collect();
        let mut seen: Vec<_> = trackers.iter().map(|tracker| tracker.snapshot()).collect();
        seen.sort_by_key(|pull| pull.started);
        seen
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a pull off the table when it ends, also by a panic.
struct Leave {
    inflight: Inflight,
    key: Key,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.inflight.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::{Context, Waker};
    use tokio::sync::Notify;

    fn key(reference: &str) -> Key {
        Key {
            reference: reference.into(),
            credentials: None,
            namespace: String::new(),
            artifact: false,
            parent: None,
        }
    }

    #[tokio::test]
    async fn equal_pulls_share_one_and_its_first_caller_may_leave() {
        let inflight = Inflight::default();
        let (gate, runs) = (Arc::new(Notify::new()), Arc::new(AtomicU32::new(0)));
        let work = |_tracker| {
            let (gate, runs) = (Arc::clone(&gate), Arc::clone(&runs));
            async move {
                runs.fetch_add(1, Ordering::SeqCst);
                gate.notified().await;
                Ok("0f".repeat(32).parse().unwrap())
            }
        };
        let mut first = Box::pin(inflight.share(key("a"), work));
        assert!(
            first
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        let mut second = Box::pin(inflight.share(key("a"), work));
        assert!(
            second
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        assert_eq!(inflight.progress().len(), 1);
        drop(first);
        gate.notify_one();
        assert_eq!(second.await.unwrap().as_str(), "0f".repeat(32));
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        assert!(inflight.progress().is_empty());
    }

    #[tokio::test]
    async fn a_panic_of_the_work_is_an_error_and_leaves_nothing() {
        let inflight = Inflight::default();
        let outcome = inflight
            .share(key("a"), |_| async { panic!("expected") })
            .await;
        assert!(matches!(*outcome.unwrap_err(), Error::Interrupted));
        assert!(inflight.progress().is_empty());
    }
}
