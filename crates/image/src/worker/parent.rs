//! The daemon's end: a worker is started, told what to do, listened to and waited for.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use storage::ImageId;
use sys::spawn::{Child, EnterCgroup, Session, Spec, Status, spawn};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe::{Receiver, Sender};

use super::{Job, Place, Word, frame};
use crate::error::{Error, Result};
use crate::progress::Tracker;
use crate::pull::{PullRequest, Puller};

/// The program that runs: it stays the same when its file is replaced.
const PROGRAM: &str = "/proc/self/exe";
/// How long a worker may take to end after it has said how the pull ended.
const ENDING: Duration = Duration::from_secs(10);
/// Its `oom_score_adj`: a pull can be repeated, what else is in its cgroup may not.
const OOM_SCORE: i32 = 1000;

/// Pulls in a process of its own. To be run to its end: it is what takes the cgroup away.
pub(crate) async fn pull(
    puller: Arc<Puller>,
    place: Arc<dyn Place>,
    request: PullRequest,
    tracker: Arc<Tracker>,
) -> Result<ImageId> {
    let pulled = match place.make().await {
        Ok(entry) => in_place(&puller, &*place, entry, request, &tracker).await,
        Err(reason) => Err(Error::Worker(reason)),
    };
    place.remove().await;
    if pulled.is_err() {
        let store = puller.store.clone();
        if let Err(error) = puller.files.run(move || store.sweep()).await {
            tracing::warn!(%error, "what a pull has left is not removed");
        }
    }
    pulled
}

async fn in_place(
    puller: &Puller,
    place: &dyn Place,
    entry: Option<EnterCgroup>,
    request: PullRequest,
    tracker: &Tracker,
) -> Result<ImageId> {
    let failed = |error: io::Error| Error::Worker(error.to_string());
    let changing = puller.changing();
    let mut options = puller.options.clone();
    options
        .decryption_keys
        .clone_from(&changing.decryption_keys);
    let job = frame::encode(&Job {
        options,
        store: puller.store.options().clone(),
        request,
    });
    let job = job.map_err(failed)?;
    let arguments = changing.worker.clone();
    let is_born_there = entry.is_some();
    let start = move || start(arguments, entry.as_ref());
    let (child, to, from) = puller.files.run(start).await?;
    let talk = async {
        let mut to = Sender::from_owned_fd(to).map_err(failed)?;
        let from = Receiver::from_owned_fd(from).map_err(failed)?;
        if !is_born_there {
            let pid = child.pid().as_raw_nonzero().get().unsigned_abs();
            place.adopt(pid).await.map_err(Error::Worker)?;
        }
        // One that has ended by now is heard to have.
        to.write_all(&job).await.ok();
        let told = listen(puller, from, tracker).await;
        drop(to);
        told.map_err(failed)
    };
    let told = talk.await;
    let patience = match told {
        Ok(Some(_)) => ENDING,
        _ => Duration::ZERO,
    };
    let status = puller.files.run(move || end(child, patience)).await;
    match told? {
        Some(pulled) => pulled,
        None => Err(Error::Worker(match status {
            Ok(status) => format!("it ended with {status} before the pull did"),
            Err(error) => error.to_string(),
        })),
    }
}

/// Takes what a worker says, until it says how the pull ended or ends itself.
async fn listen(
    puller: &Puller,
    mut from: Receiver,
    tracker: &Tracker,
) -> io::Result<Option<Result<ImageId>>> {
    while let Some(word) = frame::read(&mut from).await? {
        match word {
            Word::Progress(seen) => tracker.follow(&seen.layers, seen.mirror),
            Word::Count(count) => puller.counters.add(count),
            Word::End(pulled) => return Ok(Some(pulled)),
        }
    }
    Ok(None)
}

/// Starts a worker; returns the ends of the pipes to it and from it. Blocks.
fn start(arguments: Vec<String>, entry: Option<&EnterCgroup>) -> Result<(Child, OwnedFd, OwnedFd)> {
    let pipes = || -> io::Result<_> {
        let input = pipe_with(PipeFlags::CLOEXEC)?;
        let output = pipe_with(PipeFlags::CLOEXEC)?;
        for ours in [&input.1, &output.0] {
            rustix::fs::fcntl_setfl(ours, OFlags::NONBLOCK)?;
        }
        Ok((input, output))
    };
    let failed = |error: &dyn std::error::Error| Error::Worker(crate::error::chain(error));
    let ((job, to), (from, words)) = pipes().map_err(|error| failed(&error))?;
    let log = io::stderr();
    let mut spec = Spec::new(Path::new(PROGRAM));
    spec.args = arguments.into_iter().map(Into::into).collect();
    spec.env = std::env::vars_os().collect();
    spec.fds = vec![(job.as_fd(), 0), (words.as_fd(), 1), (log.as_fd(), 2)];
    spec.cgroup = entry;
    spec.session = Session::Group;
    spec.oom_score_adj = Some(OOM_SCORE);
    let child = spawn(&spec).map_err(|error| failed(&error))?;
    Ok((child, to, from))
}

/// Waits for a worker to end, and ends it if it takes longer. Blocks.
fn end(mut child: Child, patience: Duration) -> io::Result<Status> {
    if let Some(status) = child.wait(Some(patience))? {
        return Ok(status);
    }
    child.kill_group();
    let status = child.wait(None)?;
    status.ok_or_else(|| io::Error::other("it does not end"))
}
