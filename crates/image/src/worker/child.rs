//! The worker's end.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::time::Duration;

use storage::Store;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe::Sender;

use super::{Job, Word, frame};
use crate::error::Error;
use crate::images::Images;
use crate::progress::PullProgress;
use crate::pull::PullRequest;
use crate::totals::{Count, Counters};

/// How often it says how far it is.
const RHYTHM: Duration = Duration::from_millis(200);

/// What a worker was told to do.
#[derive(Debug)]
pub struct Assignment {
    images: Result<Images, Error>,
    request: PullRequest,
    counts: mpsc::Receiver<Count>,
}

impl Assignment {
    /// Takes it from the daemon, which is at the other end of `input`, and opens the store. From then on
    /// this process ends when the daemon does. Blocks.
    ///
    /// # Errors
    /// Nobody says what to do: there is nothing to be done then.
    pub fn receive(input: OwnedFd) -> io::Result<Self> {
        let mut input = File::from(input);
        let mut header = [0; 4];
        input.read_exact(&mut header)?;
        let mut body = vec![0; frame::length(header)?];
        input.read_exact(&mut body)?;
        let job: Job = serde_json::from_slice(&body)?;
        // A thread of its own: whatever holds the pull up does not keep this process.
        std::thread::Builder::new()
            .name("lifeline".to_owned())
            .spawn(move || {
                // Nothing is ever said: there is an end, or an error.
                let _ended = input.read(&mut [0]);
                std::process::exit(1)
            })?;
        let (listener, counts) = mpsc::channel();
        let (options, counters) = (job.options, Counters::telling(listener));
        // As it is: what looks unfinished in it may be another worker's.
        let store = Store::open_as_it_is(job.store).map_err(Error::from);
        Ok(Self {
            images: store.map(|store| Images::counting(options, store, counters)),
            request: job.request,
            counts,
        })
    }

    /// Pulls, and says on `output` how that goes.
    ///
    /// # Errors
    /// Nobody listens any more.
    pub async fn run(self, output: OwnedFd) -> io::Result<()> {
        let output = Sender::from_owned_fd(output)?;
        let mut told = Told {
            output,
            counts: self.counts,
            last: None,
        };
        let images = match self.images {
            Ok(images) => images,
            Err(error) => return told.say(&Word::End(Err(error))).await,
        };
        let pull = images.pull(self.request);
        tokio::pin!(pull);
        let mut rhythm = tokio::time::interval(RHYTHM);
        let pulled = loop {
            tokio::select! {
                pulled = &mut pull => break pulled,
                _ = rhythm.tick() => told.say_how_far(&images).await?,
            }
        };
        told.say_how_far(&images).await?;
        let pulled = pulled.map_err(|error| (*error).clone());
        told.say(&Word::End(pulled)).await
    }
}

/// What the daemon is told.
struct Told {
    output: Sender,
    counts: mpsc::Receiver<Count>,
    last: Option<PullProgress>,
}

impl Told {
    async fn say_how_far(&mut self, images: &Images) -> io::Result<()> {
        let seen = images.pulls().pop().map(|seen| PullProgress {
            // The daemon works it out by itself; it would make every word another one.
            bytes_per_second: 0,
            ..seen
        });
        if let Some(seen) = seen
            && self.last.as_ref() != Some(&seen)
        {
            self.last = Some(seen.clone());
            self.say(&Word::Progress(seen)).await?;
        }
        while let Ok(count) = self.counts.try_recv() {
            self.say(&Word::Count(count)).await?;
        }
        Ok(())
    }

    async fn say(&mut self, word: &Word) -> io::Result<()> {
        self.output.write_all(&frame::encode(word)?).await
    }
}
