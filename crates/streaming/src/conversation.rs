//! A connection from its upgrade to its end: one that reads, one that writes, and the session
//! between them, all in one task, so that nothing is left when one of them ends.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::channel::{Output, Queue};
use crate::limits;

/// When something was last heard or said.
#[derive(Debug)]
pub(crate) struct Activity {
    began: Instant,
    /// Milliseconds since then.
    last: AtomicU64,
    idle: Duration,
}

impl Activity {
    pub(crate) fn new(idle: Duration) -> Self {
        Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
            idle,
        }
    }

    /// Something was heard or said now.
    pub(crate) fn note(&self) {
        let since = self.began.elapsed().as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        self.last.store(since, Ordering::Relaxed);
    }

    async fn over(&self) {
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let end = self.began + last + self.idle;
            if Instant::now() >= end {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// How a conversation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// All was said.
    Done,
    /// The client went away.
    Gone,
    /// Nobody said anything for too long.
    Idle,
}

/// Runs a conversation to its end. `session` is dropped when the client goes, and with it what it
/// holds; when it ends, its last words are written and the client gets a while to close: a socket
/// that is closed with something unread in it takes back what it has sent.
pub(crate) async fn run(
    reader: impl Future<Output = ()>,
    writer: impl Future<Output = io::Result<()>>,
    session: impl Future<Output = ()>,
    queue: Queue,
    activity: &Activity,
) -> Ended {
    let mut reader = pin!(reader);
    let talk = async {
        let session = async {
            session.await;
            // A writer that is gone says so itself.
            queue.send(Output::Finish).await.ok();
            Ok(())
        };
        tokio::try_join!(writer, session)
    };
    let talked = tokio::select! {
        () = &mut reader => return Ended::Gone,
        () = activity.over() => return Ended::Idle,
        talked = talk => talked,
    };
    if talked.is_err() {
        return Ended::Gone;
    }
    // Whoever does not close in time is closed.
    timeout(limits::FAREWELL, reader).await.ok();
    Ended::Done
}
