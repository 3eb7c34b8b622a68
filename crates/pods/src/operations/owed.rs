//! Operations that failed, and of which something could not be undone either (no descriptors left, a
//! network plugin that is broken, too): undone again and again, until nothing is left of them. Their
//! intents stay until then, so that a successor goes on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::intent::Unfinished;
use super::stage::{Undo, undo_all, undos};
use super::{chain, checkpoint_container, create_container, run_pod};
use crate::node::Node;

/// When it is tried again, at first and at the latest.
const PAUSES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(5 * 60)];

/// What is to be undone.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    list: Mutex<Vec<Unfinished>>,
    more: Notify,
}

impl Owed {
    pub(crate) fn add(&self, unfinished: Unfinished) {
        self.lock().push(unfinished);
        self.more.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Unfinished>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Undoes for ever what is owed.
pub(crate) async fn settle(node: Arc<Node>) {
    let [first, longest] = PAUSES;
    let mut pause = first;
    loop {
        if node.owed.lock().is_empty() {
            pause = first;
            node.owed.more.notified().await;
        }
        sleep_until(Instant::now() + pause).await;
        pause = (pause * 2).min(longest);
        let all = std::mem::take(&mut *node.owed.lock());
        for unfinished in all {
            let live = node.live(&unfinished.subject.pod);
            // A container's pod can't be stopped meanwhile.
            let gate = live.gate.read().await;
            if !undo(&node, &unfinished).await {
                node.owed.lock().push(unfinished);
                continue;
            }
            drop(gate);
            let (operation, pod) = (&unfinished.subject.operation, &unfinished.subject.pod);
            tracing::info!(operation, pod = pod.as_str(), "undone at last");
            if node.table.load().pod(pod.as_str()).is_err() {
                node.forget(pod);
            }
        }
    }
}

/// Undoes what was begun of an operation; whether all of it is.
pub(crate) async fn undo(node: &Arc<Node>, unfinished: &Unfinished) -> bool {
    let all: Vec<(&str, Option<Undo>)> = match unfinished.subject.operation.as_str() {
        run_pod::OPERATION => undos(run_pod::PLAN),
        create_container::OPERATION => undos(create_container::PLAN),
        checkpoint_container::OPERATION => undos(checkpoint_container::PLAN),
        other => {
            let text = "an intent of an unknown operation is left alone";
            tracing::error!(operation = other, "{text}");
            return true;
        }
    };
    let begun = all
        .into_iter()
        .rev()
        .filter(|(name, _)| unfinished.stages.iter().any(|stage| stage == name));
    if !undo_all(node, &unfinished.subject, begun).await {
        return false;
    }
    if let Err(error) = unfinished.forget() {
        tracing::error!(error = chain(&error), "intent not removed");
        return false;
    }
    true
}
