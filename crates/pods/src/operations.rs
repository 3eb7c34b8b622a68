//! Operations: everything that changes a pod or container.
//!
//! An operation is a task of its own: a caller that goes away neither cancels nor leaks it, and a
//! repeat of the same request joins it and gets the same result. `/operations` shows those that
//! run. What an operation does in the kernel is a [`stage`] list.

pub(crate) mod checkpoint_container;
pub(crate) mod create_container;
pub(crate) mod exec;
pub(crate) mod exec_sync;
pub(crate) mod intent;
pub(crate) mod owed;
pub(crate) mod remove_container;
pub(crate) mod remove_pod;
pub(crate) mod run_pod;
pub(crate) mod stage;
pub(crate) mod start_container;
pub(crate) mod stop_container;
pub(crate) mod stop_pod;
pub(crate) mod update_container;
pub(crate) mod update_pod;

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::Serialize;
use tokio::sync::watch;

use crate::Error;
use crate::node::Node;

/// What makes two requests the same operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// `run-pod-sandbox` and the like.
    pub(crate) kind: &'static str,
    /// Whom it is about: a record's name before there is an id, else an id.
    pub(crate) subject: String,
}

/// The result of an operation: an id where it makes something, else nothing.
pub(crate) type Outcome = Result<String, Arc<Error>>;

/// How far an operation is, for whoever looks.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) id: u64,
    kind: &'static str,
    subject: String,
    started: SystemTime,
    stage: Mutex<&'static str>,
}

impl Progress {
    pub(crate) fn at(&self, stage: &'static str) {
        tracing::debug!(
            operation = self.id,
            kind = self.kind,
            subject = self.subject,
            stage,
            "operation"
        );
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }
}

/// A running operation, as `/operations` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Running {
    /// Number of the operation since the daemon's start.
    pub id: u64,
    /// What it does.
    pub kind: &'static str,
    /// To whom.
    pub subject: String,
    /// The stage it is at.
    pub stage: &'static str,
    /// How long it has been running, in milliseconds.
    pub elapsed_ms: u128,
}

/// Runs `work`, which gives nothing but its end, as the operation `kind` of `subject`, or joins the one
/// that runs. `stage` is what it shows itself at.
///
/// # Errors
/// Those of the operation.
pub(crate) async fn act<F>(
    node: &Arc<Node>,
    kind: &'static str,
    subject: String,
    stage: &'static str,
    work: impl FnOnce(Arc<Node>) -> F,
) -> Outcome
where
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    let start = |progress: Arc<Progress>| {
        let work = work(Arc::clone(node));
        async move {
            progress.at(stage);
            work.await.map(|()| String::new())
        }
    };
    let key = Key { kind, subject };
    node.operations.run(key, String::new(), start).await
}

/// What was found, or nothing where it is not there: then there is nothing to be stopped or removed.
///
/// # Errors
/// Others.
pub(crate) fn if_there<T>(found: Result<T, Error>) -> Result<Option<T>, Error> {
    match found {
        Err(Error::NotFound { .. }) => Ok(None),
        found => found.map(Some),
    }
}

#[derive(Debug)]
struct Entry {
    /// What else must be equal for a repeat to be one.
    fingerprint: String,
    progress: Arc<Progress>,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// The operations that run. None acts before [`Operations::open`].
#[derive(Debug, Default)]
pub(crate) struct Operations {
    running: Mutex<HashMap<Key, Entry>>,
    /// How often an operation was asked for again while it ran, by its kind and stage.
    joined: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    count: AtomicU64,
    open: watch::Sender<bool>,
}

impl Operations {
    /// Lets operations act: what an earlier daemon left is cleared.
    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }

    /// Waits until operations may act.
    pub(crate) async fn opened(&self) {
        // The sender is ours.
        self.open.subscribe().wait_for(|open| *open).await.ok();
    }

    /// Runs `work` as the operation `key`, or joins the one that runs.
    ///
    /// # Errors
    /// Those of the operation; [`Error::AlreadyExists`] where one of that key runs for another
    /// request.
    pub(crate) async fn run<F>(
        self: &Arc<Self>,
        key: Key,
        fingerprint: String,
        work: impl FnOnce(Arc<Progress>) -> F,
    ) -> Outcome
    where
        F: Future<Output = Result<String, Error>> + Send + 'static,
    {
        let mut outcome = self.start(key, fingerprint, work)?;
        let ended = outcome.wait_for(Option::is_some).await;
        match ended {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(Arc::new(lost()))),
            Err(_) => Err(Arc::new(lost())),
        }
    }

    fn start<F>(
        self: &Arc<Self>,
        key: Key,
        fingerprint: String,
        work: impl FnOnce(Arc<Progress>) -> F,
    ) -> Result<watch::Receiver<Option<Outcome>>, Arc<Error>>
    where
        F: Future<Output = Result<String, Error>> + Send + 'static,
    {
        let mut running = self.lock();
        if let Some(entry) = running.get(&key) {
            if entry.fingerprint != fingerprint {
                let text = format!("{} of {} runs for another request", key.kind, key.subject);
                return Err(Arc::new(Error::AlreadyExists(text)));
            }
            self.count_join(entry);
            return Ok(entry.outcome.clone());
        }
        let progress = Arc::new(Progress {
            id: self.count.fetch_add(1, Ordering::Relaxed) + 1,
            kind: key.kind,
            subject: key.subject.clone(),
            started: SystemTime::now(),
            stage: Mutex::new("queued"),
        });
        let (tell, outcome) = watch::channel(None);
        let work = work(Arc::clone(&progress));
        running.insert(
            key.clone(),
            Entry {
                fingerprint,
                progress,
                outcome: outcome.clone(),
            },
        );
        drop(running);
        let operations = Arc::clone(self);
        // The one place where an operation becomes a task.
        tokio::spawn(async move {
            operations.opened().await;
            let ended = tokio::spawn(work).await;
            let result = ended.unwrap_or_else(|panic| Err(Error::Internal(panic.to_string())));
            operations.lock().remove(&key);
            if let Err(error) = &result {
                tracing::error!(
                    kind = key.kind,
                    subject = key.subject,
                    error = chain(error),
                    "operation failed"
                );
            }
            tell.send_replace(Some(result.map_err(Arc::new)));
        });
        Ok(outcome)
    }

    fn count_join(&self, entry: &Entry) {
        let at = (entry.progress.kind, entry.progress.stage());
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        *joined.entry(at).or_default() += 1;
    }

    /// How often an operation was asked for again while it ran, by its kind and the stage that it was
    /// at, since the daemon's start.
    pub(crate) fn joined(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        let joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        joined.clone()
    }

    /// The operations that run, oldest first.
    pub(crate) fn list(&self) -> Vec<Running> {
        let mut list: Vec<_> = self
            .lock()
            .values()
            .map(|entry| entry.progress.show())
            .collect();
        list.sort_by_key(|running| running.id);
        list
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    fn show(&self) -> Running {
        Running {
            id: self.id,
            kind: self.kind,
            subject: self.subject.clone(),
            stage: self.stage(),
            elapsed_ms: self.started.elapsed().unwrap_or_default().as_millis(),
        }
    }

    fn stage(&self) -> &'static str {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lost() -> Error {
    Error::Internal("the operation's task ended without a result".to_owned())
}

/// An error with all its causes, as the log shows it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::Notify;

    fn key() -> Key {
        Key {
            kind: "test",
            subject: "a".into(),
        }
    }

    #[tokio::test]
    async fn a_repeat_joins_and_outlives_the_first_caller() {
        let operations = Arc::new(Operations::default());
        operations.open();
        let go = Arc::new(Notify::new());
        let work = |go: Arc<Notify>| {
            move |_| async move {
                go.notified().await;
                Ok("made".to_owned())
            }
        };
        let first = operations.run(key(), "r".into(), work(Arc::clone(&go)));
        // The first caller gives up at once.
        assert!(
            tokio::time::timeout(std::time::Duration::ZERO, first)
                .await
                .is_err()
        );
        assert_eq!(operations.list().len(), 1);
        let other = operations
            .run(key(), "other".into(), work(Arc::clone(&go)))
            .await;
        assert!(matches!(*other.unwrap_err(), Error::AlreadyExists(_)));
        let second = operations.run(key(), "r".into(), |_| async { Ok("never".to_owned()) });
        assert!(
            operations.joined().is_empty(),
            "another request is no repeat"
        );
        go.notify_one();
        assert_eq!(second.await.unwrap(), "made");
        assert!(operations.list().is_empty());
        assert_eq!(operations.joined(), [(("test", "queued"), 1)].into());
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let operations = Arc::new(Operations::default());
        operations.open();
        let outcome = operations
            .run(key(), String::new(), |_| async { panic!("expected") })
            .await;
        assert!(matches!(*outcome.unwrap_err(), Error::Internal(_)));
    }
}
