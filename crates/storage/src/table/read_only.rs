//! A table of another root that is only read: its lock file need not be there, nor be writable.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use sys::lock::{Kind, LockError, LockFile};

use super::{Derive, Half, LastWriter, Snapshot, locked, read_rows};
use crate::Error;
use crate::error::Context;
use crate::record::Record;

/// A table that is only read.
pub(crate) struct ReadOnly<R: Record, V> {
    lock: PathBuf,
    records: PathBuf,
    timeout: Duration,
    derive: Derive<R, V>,
    known: ArcSwapOption<(State, Arc<Snapshot<R, V>>)>,
}

/// By what a change is noticed: the last writer, and the file itself where nobody keeps that.
type State = (Option<LastWriter>, Option<(u64, u64, i64, i64)>);

impl<R: Record, V> ReadOnly<R, V> {
    pub(crate) fn new(
        lock: PathBuf,
        records: PathBuf,
        timeout: Duration,
        derive: impl Fn(&[Arc<R>]) -> V + Send + Sync + 'static,
    ) -> Self {
        Self {
            lock,
            records,
            timeout,
            derive: Box::new(derive),
            known: ArcSwapOption::empty(),
        }
    }

    /// The table as it is, or as it was when somebody took the lock to change it.
    pub(crate) fn read(&self) -> Result<Arc<Snapshot<R, V>>, Error> {
        let lock = match LockFile::open_to_read(&self.lock) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            lock => Some(lock.at("open", &self.lock)?),
        };
        let known = self.known.load_full();
        if let Some(known) = &known
            && known.0 == self.state(lock.as_ref())?
        {
            return Ok(Arc::clone(&known.1));
        }
        if let Some(lock) = &lock {
            let patience = if known.is_some() {
                Duration::ZERO
            } else {
                self.timeout
            };
            match (lock.lock(Kind::Shared, patience), known) {
                (Ok(()), _) => {}
                (Err(LockError::TimedOut { .. }), Some(known)) => return Ok(Arc::clone(&known.1)),
                // A file system without locks: nobody writes there either.
                (Err(LockError::Io(error)), _)
                    if error.raw_os_error() == Some(rustix::io::Errno::NOLCK.raw_os_error()) => {}
                (Err(error), _) => return Err(locked(&self.lock, error)),
            }
        }
        let state = self.state(lock.as_ref())?;
        let rows = read_rows(&self.records, Half::Stable)?;
        let writer = state.0.clone().unwrap_or(LastWriter(Vec::new()));
        let snapshot = Arc::new(Snapshot::new(writer, rows, &self.derive));
        self.known
            .store(Some(Arc::new((state, Arc::clone(&snapshot)))));
        Ok(snapshot)
    }

    fn state(&self, lock: Option<&LockFile>) -> Result<State, Error> {
        let writer = lock
            .map(|lock| LastWriter::read(lock, &self.lock))
            .transpose()?;
        let file = match fs::metadata(&self.records) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            stat => {
                let stat = stat.at("stat", &self.records)?;
                Some((stat.ino(), stat.len(), stat.mtime(), stat.mtime_nsec()))
            }
        };
        Ok((writer, file))
    }
}

impl<R: Record, V> std::fmt::Debug for ReadOnly<R, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadOnly")
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}
