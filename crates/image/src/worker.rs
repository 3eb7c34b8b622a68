//! Pulls in a process of their own, so that what they take of processors, memory and disk is counted and
//! limited where the administrator of the node wants it.
//!
//! Primer. For one pull the daemon starts its own program as a worker, in a cgroup that somebody makes for
//! it ([`Place`]). What to do, credentials too, comes to the worker's standard input, once it is in that
//! cgroup. The pipe stays open: its end is the daemon's end, and the worker's with it. On its standard
//! output it says how far it is, what it has counted, and at last how the pull ended; its log goes to
//! standard error, which is the daemon's. Each message is a length of four bytes, the lowest first, and
//! that much JSON.
//!
//! The store is shared by its locks, as with podman. What is about one daemon stays in it: equal pulls wait
//! for one worker, and progress and counters are the daemon's. What a worker that was killed leaves is
//! removed by the daemon that waited for it, or by the next one.

mod child;
mod frame;
mod parent;

use std::fmt::Debug;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use storage::ImageId;
use sys::spawn::EnterCgroup;

pub use child::Assignment;
#[cfg(feature = "fuzzing")]
pub(crate) use frame::fuzz;
pub(crate) use parent::pull;

use crate::error::Error;
use crate::options::Options;
use crate::progress::PullProgress;
use crate::pull::PullRequest;
use crate::totals::Count;

/// The cgroup of one pull's worker. Whoever keeps the cgroups of the node makes it and takes it away.
pub trait Place: Debug + Send + Sync {
    /// What it is in: pulls in different ones are not equal.
    fn parent(&self) -> &str;

    /// Makes it, and returns what a process needs to be born in it; `None` if it has to be moved.
    ///
    /// # Errors
    /// In words; [`Place::remove`] is called all the same.
    fn make(&self) -> BoxFuture<'_, Result<Option<EnterCgroup>, String>>;

    /// Moves the process into it that was not born in it.
    ///
    /// # Errors
    /// In words.
    fn adopt(&self, pid: u32) -> BoxFuture<'_, Result<(), String>>;

    /// Takes it away, with what may still be in it.
    fn remove(&self) -> BoxFuture<'_, ()>;
}

/// What a worker is to do: as much of the configuration as counts for it is in here, since files may say
/// something else by now.
#[derive(Debug, Serialize, Deserialize)]
struct Job {
    options: Options,
    store: storage::Options,
    request: PullRequest,
}

/// What a worker says.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    /// How far it is.
    Progress(PullProgress),
    /// What it has counted.
    Count(Count),
    /// How the pull ended; nothing follows.
    End(Result<ImageId, Error>),
}
