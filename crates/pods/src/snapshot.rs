//! All pods and containers at one moment.
//!
//! Readers get an immutable value without a lock; a change makes a new one and is announced to
//! whoever waits. Changes are rare and small beside reads, so copying the maps of pointers is
//! cheaper than any lock that a list would hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use crate::events::{self, Event, Happened, Subscribers};
use crate::request::{PodKey, PodResources};
use crate::state::container::{Container, IllegalStep, Phase};
use crate::state::pod::Pod;
use crate::{ContainerId, Error, PodId};

/// All pods and containers at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Pods that exist.
    pub pods: BTreeMap<PodId, Arc<Pod>>,
    /// Containers that exist.
    pub containers: BTreeMap<ContainerId, Arc<Container>>,
}

impl Snapshot {
    /// The pod whose id is, or uniquely begins with, `id`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`].
    pub fn pod(&self, id: &str) -> Result<Arc<Pod>, Error> {
        let found = self
            .pods
            .iter()
            .filter(|(known, _)| !id.is_empty() && known.as_str().starts_with(id));
        unique(found.map(|(_, pod)| pod), "pod sandbox", id)
    }

    /// The container whose id is, or uniquely begins with, `id`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`].
    pub fn container(&self, id: &str) -> Result<Arc<Container>, Error> {
        let found = self
            .containers
            .iter()
            .filter(|(known, _)| !id.is_empty() && known.as_str().starts_with(id));
        unique(found.map(|(_, container)| container), "container", id)
    }

    /// The pod that `key` names.
    #[must_use]
    pub fn pod_by_key(&self, key: &PodKey) -> Option<Arc<Pod>> {
        self.pods
            .values()
            .find(|pod| pod.request.key == *key)
            .cloned()
    }

    /// Images that containers have mounted beside their own: id of image, id of a container.
    #[must_use]
    pub fn image_volumes(&self) -> BTreeMap<String, String> {
        let containers = self.containers.values();
        containers
            .flat_map(|container| {
                let images = container.made.image_volumes.iter();
                images.map(|image| (image.clone(), container.id.to_string()))
            })
            .collect()
    }

    /// Containers of a pod.
    pub fn containers_of<'a>(&'a self, pod: &'a PodId) -> impl Iterator<Item = &'a Arc<Container>> {
        self.containers
            .values()
            .filter(move |container| container.pod == *pod)
    }
}

fn unique<'a, T: 'a>(
    mut found: impl Iterator<Item = &'a Arc<T>>,
    what: &'static str,
    id: &str,
) -> Result<Arc<T>, Error> {
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(Arc::clone(one)),
        (None, _) => Err(Error::NotFound {
            what,
            id: id.to_owned(),
        }),
        (Some(_), Some(_)) => Err(Error::Ambiguous {
            what,
            id: id.to_owned(),
        }),
    }
}

/// The snapshot in force, and the way to change it.
#[derive(Debug)]
pub(crate) struct Table {
    current: ArcSwap<Snapshot>,
    /// Held for a change only, never across I/O. Who changes tells the subscribers.
    changing: Mutex<Subscribers>,
    changes: watch::Sender<u64>,
    /// Containers that are being made: their cgroups may be seen before they are.
    coming: Mutex<BTreeSet<ContainerId>>,
}

impl Table {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        Self {
            current: ArcSwap::from_pointee(snapshot),
            changing: Mutex::default(),
            changes: watch::Sender::new(0),
            coming: Mutex::default(),
        }
    }

    pub(crate) fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    pub(crate) fn put_pod(&self, pod: Pod) {
        let pod = Arc::new(pod);
        self.change(|snapshot| {
            let old = snapshot.pods.insert(pod.id.clone(), Arc::clone(&pod));
            let happened = match old.as_ref().map(|old| old.ready) {
                None if pod.ready => vec![Happened::Created, Happened::Started],
                None => vec![Happened::Created],
                Some(true) if !pod.ready => vec![Happened::Stopped],
                Some(_) => Vec::new(),
            };
            let events = happened
                .into_iter()
                .map(|happened| Event::of_pod(happened, &pod, snapshot));
            ((), events.collect())
        });
    }

    pub(crate) fn put_container(&self, container: Container) {
        let container = Arc::new(container);
        self.change(|snapshot| {
            let id = container.id.clone();
            let old = snapshot.containers.insert(id, Arc::clone(&container));
            let happened = events::last(&container.phase);
            let known = old.is_some_and(|old| events::last(&old.phase) == happened);
            let event = Event::of_container(happened, &container, snapshot);
            ((), event.filter(|_| !known).into_iter().collect())
        });
    }

    /// Gives a container other limits; nothing where it is gone.
    pub(crate) fn limit(&self, id: &ContainerId, limits: Arc<spec::resources::Request>) {
        self.change(|snapshot| {
            if let Some(container) = snapshot.containers.get_mut(id) {
                Arc::make_mut(container).limits = limits;
            }
            ((), Vec::new())
        });
    }

    /// Takes note of what will be said of a container's end; nothing where it is gone.
    pub(crate) fn condemn(&self, id: &ContainerId, why: String) {
        self.change(|snapshot| {
            if let Some(container) = snapshot.containers.get_mut(id) {
                Arc::make_mut(container).condemned = Some(why);
            }
            ((), Vec::new())
        });
    }

    /// Takes note of a checkpoint of a container; nothing where it is gone.
    pub(crate) fn checkpointed(&self, id: &ContainerId, at: std::time::SystemTime) {
        self.change(|snapshot| {
            if let Some(container) = snapshot.containers.get_mut(id) {
                Arc::make_mut(container).checkpointed = Some(at);
            }
            ((), Vec::new())
        });
    }

    /// Takes note of what a pod may use; nothing where it is gone.
    pub(crate) fn allow(&self, id: &PodId, resources: Arc<PodResources>) {
        self.change(|snapshot| {
            if let Some(pod) = snapshot.pods.get_mut(id) {
                Arc::make_mut(pod).resources = resources;
            }
            ((), Vec::new())
        });
    }

    pub(crate) fn remove_pod(&self, id: &PodId) {
        self.change(|snapshot| {
            let gone = snapshot.pods.remove(id);
            let events = gone
                .iter()
                .map(|pod| Event::of_pod(Happened::Deleted, pod, snapshot));
            ((), events.collect())
        });
    }

    pub(crate) fn remove_container(&self, id: &ContainerId) {
        self.change(|snapshot| {
            let gone = snapshot.containers.remove(id);
            let event =
                gone.and_then(|gone| Event::of_container(Happened::Deleted, &gone, snapshot));
            ((), event.into_iter().collect())
        });
    }

    /// Announces that a container is being made, until the guard is dropped.
    pub(crate) fn announce(&self, id: &ContainerId) -> Announced<'_> {
        lock(&self.coming).insert(id.clone());
        Announced {
            table: self,
            id: id.clone(),
        }
    }

    /// Waits until no container whose id is `id` is being made.
    pub(crate) async fn settled(&self, id: &str) {
        let is_coming = || {
            lock(&self.coming)
                .iter()
                .any(|coming| coming.as_str() == id)
        };
        self.wait_for(|_| (!is_coming()).then_some(())).await;
    }

    /// Moves a container on; `None` when it is gone.
    pub(crate) fn step(
        &self,
        id: &ContainerId,
        step: impl FnOnce(&Phase) -> Result<Phase, IllegalStep>,
    ) -> Option<Result<Arc<Container>, IllegalStep>> {
        self.change(|snapshot| {
            let Some(old) = snapshot.containers.get(id) else {
                return (None, Vec::new());
            };
            let before = events::last(&old.phase);
            let phase = match step(&old.phase) {
                Ok(phase) => phase,
                Err(illegal) => return (Some(Err(illegal)), Vec::new()),
            };
            let new = Arc::new(Container {
                phase,
                ..Container::clone(old)
            });
            snapshot.containers.insert(id.clone(), Arc::clone(&new));
            let happened = events::last(&new.phase);
            let event = Event::of_container(happened, &new, snapshot);
            let events = event.filter(|_| happened != before).into_iter().collect();
            (Some(Ok(new)), events)
        })
    }

    /// Waits until `ready` finds something in the snapshot.
    pub(crate) async fn wait_for<T>(&self, ready: impl Fn(&Snapshot) -> Option<T>) -> T {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(found) = ready(&self.current.load()) {
                return found;
            }
            // The sender is ours and lives as long as we do.
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// What is there, and a queue of what happens from then on.
    pub(crate) fn subscribe(&self) -> (Vec<Event>, mpsc::Receiver<Event>) {
        let mut subscribers = lock(&self.changing);
        (events::present(&self.current.load()), subscribers.add())
    }

    /// Events for which a subscriber had no room.
    pub(crate) fn dropped_events(&self) -> u64 {
        lock(&self.changing).dropped()
    }

    /// Changes the snapshot; `with` says what that means to subscribers.
    fn change<T>(&self, with: impl FnOnce(&mut Snapshot) -> (T, Vec<Event>)) -> T {
        let mut subscribers = lock(&self.changing);
        let mut next = Snapshot::clone(&self.current.load());
        let (result, events) = with(&mut next);
        self.current.store(Arc::new(next));
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
        for event in &events {
            subscribers.tell(event);
        }
        result
    }
}
/// A container that is being made.
#[derive(Debug)]
pub(crate) struct Announced<'a> {
    table: &'a Table,
    id: ContainerId,
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        lock(&self.table.coming).remove(&self.id);
        let changes = &self.table.changes;
        changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
