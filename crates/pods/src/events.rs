//! What happened to pods and containers, told to whoever subscribed.
//!
//! An event is made where the snapshot changes, so none is forgotten and their order is that of the
//! changes. A subscriber has a queue of its own: one that stops reading loses its subscription,
//! never an event in the middle.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::snapshot::Snapshot;
use crate::state::container::{Container, Phase};
use crate::state::pod::Pod;

/// Events that may wait for a subscriber. At a thousand changes a second it is gone for a quarter
/// of a minute then.
const QUEUE: usize = 16 * 1024;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// It was made.
    Created,
    /// It runs.
    Started,
    /// It ended.
    Stopped,
    /// It is gone.
    Deleted,
}

/// Something that happened to a container, or to a pod itself.
#[derive(Debug, Clone)]
pub struct Event {
    /// What.
    pub happened: Happened,
    /// To which container; the pod's id where it is the pod.
    pub id: String,
    /// When.
    pub at: SystemTime,
    /// Its pod then, or as it was last.
    pub pod: Arc<Pod>,
    /// The pod's containers after it.
    pub containers: Vec<Arc<Container>>,
}

impl Event {
    /// Something that happened to a pod's container, as `after` shows; `None` without its pod.
    pub(crate) fn of_container(
        happened: Happened,
        container: &Container,
        after: &Snapshot,
    ) -> Option<Self> {
        let pod = after.pods.get(&container.pod)?;
        Some(Self::new(happened, container.id.to_string(), pod, after))
    }

    /// Something that happened to a pod.
    pub(crate) fn of_pod(happened: Happened, pod: &Arc<Pod>, after: &Snapshot) -> Self {
        Self::new(happened, pod.id.to_string(), pod, after)
    }

    fn new(happened: Happened, id: String, pod: &Arc<Pod>, after: &Snapshot) -> Self {
        Self {
            happened,
            id,
            at: SystemTime::now(),
            pod: Arc::clone(pod),
            containers: after.containers_of(&pod.id).cloned().collect(),
        }
    }
}

/// What a container's phase says has happened to it last.
pub(crate) fn last(phase: &Phase) -> Happened {
    match phase {
        Phase::Created { .. } => Happened::Created,
        Phase::Running { .. } => Happened::Started,
        Phase::Exited { .. } => Happened::Stopped,
    }
}

/// What has happened last to all that is there: where a subscription begins.
pub(crate) fn present(snapshot: &Snapshot) -> Vec<Event> {
    let pods = snapshot.pods.values().map(|pod| {
        let happened = if pod.ready {
            Happened::Started
        } else {
            Happened::Stopped
        };
        Event::of_pod(happened, pod, snapshot)
    });
    let containers = snapshot
        .containers
        .values()
        .filter_map(|container| Event::of_container(last(&container.phase), container, snapshot));
    pods.chain(containers).collect()
}

/// Who is told.
#[derive(Debug)]
pub(crate) struct Subscribers<T = Event> {
    queues: Vec<mpsc::Sender<T>>,
    /// Events for which a queue had no room, since the daemon's start.
    dropped: u64,
}

impl<T> Default for Subscribers<T> {
    fn default() -> Self {
        Self {
            queues: Vec::new(),
            dropped: 0,
        }
    }
}

impl<T: Clone> Subscribers<T> {
    pub(crate) fn add(&mut self) -> mpsc::Receiver<T> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.queues.push(sender);
        receiver
    }

    /// Tells all of them; who is gone, or does not read, is one no more.
    pub(crate) fn tell(&mut self, event: &T) {
        let dropped = &mut self.dropped;
        self.queues
            .retain(|queue| match queue.try_send(event.clone()) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    *dropped += 1;
                    false
                }
                Err(TrySendError::Closed(_)) => false,
            });
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_event_that_finds_no_room_is_a_dropped_one() {
        let mut subscribers = Subscribers::default();
        let gone = subscribers.add();
        let slow = subscribers.add();
        drop(gone);
        for number in 0..QUEUE {
            subscribers.tell(&number);
        }
        assert_eq!((subscribers.dropped(), subscribers.queues.len()), (0, 1));
        subscribers.tell(&QUEUE);
        subscribers.tell(&QUEUE);
        assert_eq!((subscribers.dropped(), subscribers.queues.len()), (1, 0));
        drop(slow);
    }
}
