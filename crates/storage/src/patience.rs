//! File systems of other programs, which may never answer: whatever touches them waits on a thread of a
//! small pool, for a bounded time.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use sys::pool::Pool;

/// Runs what another program's file system may hold up, on a thread of `pool`, where it stays if it is.
///
/// # Errors
/// `ETIMEDOUT` after `limit`; else those of `work`.
pub(crate) fn patiently<T: Send + 'static>(
    pool: &Pool,
    limit: Duration,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (tell, told) = mpsc::sync_channel(1);
    // It runs to its end, whoever waits.
    drop(pool.run(move || {
        let _nobody_waits = tell.send(work());
    }));
    told.recv_timeout(limit).unwrap_or_else(|_| {
        let text = format!("no answer within {limit:?}");
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    })
}
