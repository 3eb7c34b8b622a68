//! What a client lets us send (SPDY/3.1 draft, 2.6.8): a window for each stream and one for all of
//! them, which data makes smaller and WINDOW_UPDATE larger.
//!
//! Clients that know nothing of windows are most of them, and can't be told from others before they
//! say something of theirs. So windows are counted from the beginning and obeyed from the first
//! word of a client's: SETTINGS with an initial window, or WINDOW_UPDATE; that of the connection
//! from an update of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Where nothing else is said.
const INITIAL: i64 = 64 * 1024;
/// Windows have 31 bits.
const LARGEST: i64 = i32::MAX as i64;

/// The windows of a connection.
#[derive(Debug)]
pub(crate) struct Flow {
    windows: Mutex<Windows>,
    changed: Notify,
}

#[derive(Debug)]
struct Windows {
    initial: i64,
    streams: HashMap<u32, i64>,
    obeyed: bool,
    connection: i64,
    connection_obeyed: bool,
}

/// A window became larger than there is a number for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overflow;

/// The window of a stream; gone with it.
#[derive(Debug)]
pub(crate) struct Window {
    stream: u32,
    flow: Arc<Flow>,
}

impl Default for Flow {
    fn default() -> Self {
        let windows = Windows {
            initial: INITIAL,
            streams: HashMap::new(),
            obeyed: false,
            connection: INITIAL,
            connection_obeyed: false,
        };
        Self {
            windows: Mutex::new(windows),
            changed: Notify::new(),
        }
    }
}

impl Flow {
    fn lock(&self) -> MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a new stream its window.
    pub(crate) fn open(self: &Arc<Self>, stream: u32) -> Arc<Window> {
        let mut windows = self.lock();
        let initial = windows.initial;
        windows.streams.insert(stream, initial);
        let flow = Arc::clone(self);
        Arc::new(Window { stream, flow })
    }

    /// The client has said what the windows of streams begin with; those that are open change by the
    /// difference, below 0 too.
    pub(crate) fn settings(&self, initial: u32) -> Result<(), Overflow> {
        let mut windows = self.lock();
        let initial = i64::from(initial);
        let more = initial - windows.initial;
        (windows.initial, windows.obeyed) = (initial, true);
        for window in windows.streams.values_mut() {
            *window = window.saturating_add(more);
        }
        let largest = windows.streams.values().copied().max().unwrap_or(0);
        self.changed.notify_waiters();
        check(largest.max(initial))
    }

    /// The client takes more: on a stream, or, of number 0, on all together.
    pub(crate) fn update(&self, stream: u32, delta: u32) -> Result<(), Overflow> {
        let mut windows = self.lock();
        windows.obeyed = true;
        let delta = i64::from(delta);
        let window = if stream == 0 {
            windows.connection_obeyed = true;
            Some(&mut windows.connection)
        } else {
            // One that has ended needs none.
            windows.streams.get_mut(&stream)
        };
        let Some(window) = window else { return Ok(()) };
        *window = window.saturating_add(delta);
        self.changed.notify_waiters();
        check(*window)
    }
}

fn check(window: i64) -> Result<(), Overflow> {
    if window > LARGEST {
        Err(Overflow)
    } else {
        Ok(())
    }
}

impl Windows {
    /// How much of `wanted` may be sent now; counted as sent.
    fn take(&mut self, stream: u32, wanted: i64) -> i64 {
        let Some(window) = self.streams.get_mut(&stream) else {
            return wanted;
        };
        let mut taken = wanted;
        if self.obeyed {
            taken = taken.min(*window);
        }
        if self.connection_obeyed {
            taken = taken.min(self.connection);
        }
        let taken = taken.max(0);
        // A client that never says anything of windows may get any number of bytes.
        *window = window.saturating_sub(taken);
        self.connection = self.connection.saturating_sub(taken);
        taken
    }
}

impl Window {
    /// Waits until something may be sent, and returns how much of `wanted` bytes: 1 at least, where
    /// any are wanted.
    pub(crate) async fn take(&self, wanted: usize) -> usize {
        let most = i64::try_from(wanted).unwrap_or(i64::MAX);
        loop {
            let changed = self.flow.changed.notified();
            tokio::pin!(changed);
            // Before looking: a change in between is not missed.
            changed.as_mut().enable();
            let taken = self.flow.lock().take(self.stream, most);
            if taken > 0 || wanted == 0 {
                return usize::try_from(taken).unwrap_or(wanted);
            }
            changed.await;
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.flow.lock().streams.remove(&self.stream);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// What may be sent of `wanted` without waiting.
    fn now(window: &Window, wanted: usize) -> Option<usize> {
        window.take(wanted).now_or_never()
    }

    #[test]
    fn a_client_without_windows_gets_everything() {
        let flow = Arc::new(Flow::default());
        let window = flow.open(1);
        for _ in 0..100 {
            assert_eq!(now(&window, 1 << 20), Some(1 << 20));
        }
        assert_eq!(now(&window, 0), Some(0));
    }

    #[test]
    fn windows_are_obeyed_from_the_clients_first_word() {
        let flow = Arc::new(Flow::default());
        let window = flow.open(1);
        assert_eq!(now(&window, 70_000), Some(70_000));
        // 4464 more than its window was.
        flow.update(1, 4_464).unwrap();
        assert_eq!(now(&window, 1), None);
        flow.update(1, 2_000).unwrap();
        assert_eq!(now(&window, 5_000), Some(2_000));
    }

    #[test]
    fn settings_change_the_windows_of_open_streams() {
        let flow = Arc::new(Flow::default());
        let (one, two) = (flow.open(1), flow.open(3));
        flow.settings(100).unwrap();
        assert_eq!(now(&one, 1000), Some(100));
        assert_eq!(now(&one, 1), None);
        flow.settings(50).unwrap();
        assert_eq!(now(&two, 1000), Some(50));
        flow.update(1, 50).unwrap();
        assert_eq!(now(&one, 1), None, "50 too many were sent");
        flow.settings(60).unwrap();
        assert_eq!(now(&one, 1000), Some(10));
        assert_eq!(now(&flow.open(5), 1000), Some(60));
    }

    #[test]
    fn the_connections_window_is_obeyed_where_it_is_updated() {
        let flow = Arc::new(Flow::default());
        let (one, two) = (flow.open(1), flow.open(3));
        flow.settings(1 << 20).unwrap();
        assert_eq!(now(&one, 65_536), Some(65_536));
        assert_eq!(now(&two, 10), Some(10), "no update of the connection yet");
        flow.update(0, 15).unwrap();
        assert_eq!(now(&two, 10), Some(5));
        assert_eq!(now(&one, 10), None);
    }

    #[test]
    fn a_window_has_31_bits() {
        let flow = Arc::new(Flow::default());
        let window = flow.open(1);
        assert_eq!(flow.update(1, 0x7fff_ffff), Err(Overflow));
        assert_eq!(flow.update(0, 0x7fff_ffff), Err(Overflow));
        drop(window);
        assert_eq!(flow.update(1, 0x7fff_ffff), Ok(()), "nobody has it");
        assert_eq!(flow.settings(u32::MAX), Err(Overflow));
    }

    #[tokio::test]
    async fn whoever_waits_goes_on_with_an_update() {
        let flow = Arc::new(Flow::default());
        let window = flow.open(1);
        flow.settings(0).unwrap();
        let mut waiting = Box::pin(window.take(10));
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("there was no window"),
            () = tokio::task::yield_now() => {}
        }
        flow.update(1, 7).unwrap();
        assert_eq!(waiting.await, 7);
    }
}
