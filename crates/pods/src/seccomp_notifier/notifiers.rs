//! What the monitor of a pod has told of its containers that have a notifier, while they are there.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::Action;
use crate::ContainerId;
use crate::monitors::lock;

/// How often each call was made: by `AUDIT_ARCH_*` and number.
type Counts = BTreeMap<(u32, i32), u64>;

/// What is known of the containers of a pod that have a notifier.
#[derive(Debug, Default)]
pub(crate) struct Notifiers(Mutex<HashMap<ContainerId, Notifier>>);

#[derive(Debug)]
struct Notifier {
    action: Action,
    /// For a successor of the monitor; none once the container has ended.
    listeners: Vec<Arc<OwnedFd>>,
    has_ended: bool,
    /// What monitors that died have told.
    before: Counts,
    /// What the monitor has told.
    now: Counts,
    /// Puts the stop off, while somebody waits to do it.
    again: Option<watch::Sender<()>>,
}

impl Notifier {
    fn totals(&self) -> BTreeMap<String, u64> {
        let mut totals = BTreeMap::new();
        for ((arch, number), count) in self.before.iter().chain(&self.now) {
            let name = spec::seccomp::syscall_name(*arch, *number);
            *totals.entry(name).or_default() += count;
        }
        totals
    }
}

impl Notifiers {
    /// From here on what the monitor tells of a container counts.
    pub(crate) fn expect(&self, id: &ContainerId, action: Action, has_ended: bool) {
        lock(&self.0).entry(id.clone()).or_insert(Notifier {
            action,
            listeners: Vec::new(),
            has_ended,
            before: Counts::new(),
            now: Counts::new(),
            again: None,
        });
    }

    /// A container has ended: its counts stay until it is removed.
    pub(crate) fn ended(&self, id: &ContainerId) {
        if let Some(notifier) = lock(&self.0).get_mut(id) {
            notifier.has_ended = true;
            notifier.listeners.clear();
            notifier.again = None;
        }
    }

    pub(crate) fn forget(&self, id: &ContainerId) {
        lock(&self.0).remove(id);
    }

    /// Keeps a listener. Those whose processes have all ended are dropped then.
    pub(crate) fn hold(&self, id: &ContainerId, listener: Arc<OwnedFd>) {
        if let Some(notifier) = lock(&self.0).get_mut(id)
            && !notifier.has_ended
        {
            let held = &mut notifier.listeners;
            held.retain(|listener| !sys::seccomp::is_over(listener.as_fd()));
            held.push(listener);
        }
    }

    /// The listeners that a successor of the monitor needs.
    pub(crate) fn held(&self, id: &ContainerId) -> Vec<Arc<OwnedFd>> {
        let notifiers = lock(&self.0);
        let notifier = notifiers.get(id);
        notifier.map_or_else(Vec::new, |notifier| notifier.listeners.clone())
    }

    /// The monitor has died: its successor counts from zero.
    pub(crate) fn monitor_lost(&self) {
        for notifier in lock(&self.0).values_mut() {
            for (call, count) in std::mem::take(&mut notifier.now) {
                *notifier.before.entry(call).or_default() += count;
            }
        }
    }

    /// How often each call was made, by its name, of each container.
    pub(crate) fn totals(&self) -> Vec<(ContainerId, BTreeMap<String, u64>)> {
        let notifiers = lock(&self.0);
        let totals = notifiers.iter();
        totals
            .map(|(id, notifier)| (id.clone(), notifier.totals()))
            .collect()
    }

    /// Takes a count that the monitor tells; how many calls are new.
    pub(super) fn count(&self, id: &ContainerId, call: (u32, i32), count: u64) -> u64 {
        let mut notifiers = lock(&self.0);
        let Some(notifier) = notifiers.get_mut(id) else {
            return 0;
        };
        let known = notifier.now.entry(call).or_default();
        let new = count.saturating_sub(*known);
        *known = count.max(*known);
        new
    }

    /// Puts the stop of a container off, or begins to wait for it: then what tells of further calls.
    pub(super) fn put_off(&self, id: &ContainerId) -> Option<watch::Receiver<()>> {
        let mut notifiers = lock(&self.0);
        let notifier = notifiers.get_mut(id)?;
        if notifier.has_ended || notifier.action != Action::Stop {
            return None;
        }
        // Nobody waits any more where the stop has failed.
        if let Some(again) = notifier.again.as_ref().filter(|again| !again.is_closed()) {
            again.send_replace(());
            return None;
        }
        let (again, further) = watch::channel(());
        notifier.again = Some(again);
        Some(further)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_over_monitors_that_die() {
        let id = ContainerId::random();
        let notifiers = Notifiers::default();
        let (chroot, other) = ((0xc000_003e, 161), (0x4000_0003, 61));
        assert_eq!(notifiers.count(&id, chroot, 1), 0, "nobody knows it");
        notifiers.expect(&id, Action::Log, false);
        assert_eq!(notifiers.count(&id, chroot, 2), 2);
        assert_eq!(notifiers.count(&id, chroot, 2), 0, "told again");
        assert_eq!(notifiers.count(&id, chroot, 1), 0, "told late");
        assert_eq!(notifiers.count(&id, other, 1), 1);
        notifiers.monitor_lost();
        assert_eq!(notifiers.count(&id, chroot, 1), 1);
        let [(_, totals)] = &notifiers.totals()[..] else {
            panic!("one container")
        };
        let expected = if cfg!(target_arch = "x86_64") { 4 } else { 3 };
        assert_eq!(totals.values().max(), Some(&expected), "{totals:?}");
    }

    #[test]
    fn only_a_container_that_is_to_be_stopped_and_lives_is_waited_for() {
        let id = ContainerId::random();
        for (action, has_ended, waits) in [
            (Action::Stop, false, true),
            (Action::Stop, true, false),
            (Action::Log, false, false),
        ] {
            let notifiers = Notifiers::default();
            notifiers.expect(&id, action, has_ended);
            let further = notifiers.put_off(&id);
            assert_eq!(further.is_some(), waits, "{action:?} {has_ended}");
            assert!(notifiers.put_off(&id).is_none(), "one waits");
            if let Some(further) = further {
                assert!(further.has_changed().unwrap(), "and is put off");
                notifiers.ended(&id);
                assert!(further.has_changed().is_err(), "until it ends");
            }
        }
    }
}
