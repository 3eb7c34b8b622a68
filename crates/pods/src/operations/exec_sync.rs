//! ExecSync: a command in a container, its output and its exit code.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;

use super::exec::{self, Command, Running};
use crate::Error;
use crate::node::Node;
use crate::state::container::Container;

/// Most bytes of each stream that are kept (CVE-2022-1708); CRI-O's and containerd's figure.
pub(crate) const OUTPUT_BYTES: usize = 16 * 1024 * 1024;
/// How long output may go on after the command's end, from children that it left.
const DRAIN: Duration = Duration::from_secs(1);

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    /// Its exit code; 128 + the signal where one ended it.
    pub code: i32,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
}

/// Runs `command` in a running container; `timeout` zero is none.
pub(crate) async fn run(
    node: &Arc<Node>,
    id: &str,
    command: Vec<String>,
    timeout: Duration,
) -> Result<Executed, Arc<Error>> {
    let container = exec::running(node, id, &command)?;
    // A caller that goes away must not leave the process: the work is a task of its own, as for
    // operations, but never joined.
    let node = Arc::clone(node);
    let work = tokio::spawn(execute(node, container, command, timeout));
    work.await
        .unwrap_or_else(|panic| Err(Error::Internal(panic.to_string())))
        .map_err(Arc::new)
}

async fn execute(
    node: Arc<Node>,
    container: Arc<Container>,
    arguments: Vec<String>,
    timeout: Duration,
) -> Result<Executed, Error> {
    let (stdout_reader, stdout) = exec::pipe()?;
    let (stderr_reader, stderr) = exec::pipe()?;
    let mut output = Output::new(stdout_reader, stderr_reader)?;
    let command = Command {
        arguments,
        tty: false,
        timeout: exec::START,
    };
    let stdio = [exec::null()?, stdout, stderr];
    let late = || Error::TimedOut(format!("command timed out after {timeout:?}"));
    let mut running = start(&node, container, command, stdio, timeout)
        .await?
        .ok_or_else(late)?;
    let done = wait(&mut output, &mut running, timeout).await;
    if done.is_none() {
        running.kill().await;
    }
    running.forget(&node).await;
    done.map(|code| Executed {
        code,
        stdout: output.stdout.bytes,
        stderr: output.stderr.bytes,
    })
    .ok_or_else(late)
}

/// Starts the command; `None` when time is up before. A runtime that is ended while it starts a
/// command may leave the command behind; so it is let go on, and the command is killed then.
async fn start(
    node: &Arc<Node>,
    container: Arc<Container>,
    command: Command,
    stdio: [OwnedFd; 3],
    timeout: Duration,
) -> Result<Option<Running>, Error> {
    let its_node = Arc::clone(node);
    let mut starting =
        tokio::spawn(async move { exec::start(&its_node, &container, command, Some(stdio)).await });
    let started = if timeout.is_zero() {
        Ok((&mut starting).await)
    } else {
        tokio::time::timeout(timeout, &mut starting).await
    };
    if let Ok(started) = started {
        return started
            .map_err(|panic| Error::Internal(panic.to_string()))?
            .map(Some);
    }
    let node = Arc::clone(node);
    tokio::spawn(async move {
        if let Ok(Ok(running)) = starting.await {
            running.kill().await;
            running.forget(&node).await;
        }
    });
    Ok(None)
}

/// Waits for the command's end and then for its output's; `None` when time is up.
async fn wait(output: &mut Output, running: &mut Running, timeout: Duration) -> Option<i32> {
    let run = async {
        let mut ended = std::pin::pin!(running.wait());
        let code = tokio::select! {
            code = &mut ended => code,
            // Closed streams do not mean that it has ended.
            () = output.read() => ended.await,
        };
        code.unwrap_or(-1)
    };
    let code = if timeout.is_zero() {
        run.await
    } else {
        tokio::time::timeout(timeout, run).await.ok()?
    };
    // Children that it left may hold the pipes open for ever.
    tokio::time::timeout(DRAIN, output.read()).await.ok();
    Some(code)
}

/// Both streams, read side by side.
struct Output {
    stdout: Stream,
    stderr: Stream,
}

struct Stream {
    pipe: Option<Receiver>,
    bytes: Vec<u8>,
}

impl Output {
    fn new(stdout: OwnedFd, stderr: OwnedFd) -> Result<Self, Error> {
        Ok(Self {
            stdout: Stream::new(stdout)?,
            stderr: Stream::new(stderr)?,
        })
    }

    /// Reads both to their ends. May be dropped and called again.
    async fn read(&mut self) {
        tokio::join!(self.stdout.read(), self.stderr.read());
    }
}

impl Stream {
    fn new(pipe: OwnedFd) -> Result<Self, Error> {
        let pipe = Receiver::from_owned_fd(pipe).map_err(Error::io("watch", "pipe"))?;
        Ok(Self {
            pipe: Some(pipe),
            bytes: Vec::new(),
        })
    }

    async fn read(&mut self) {
        let mut buffer = vec![0; 16 * 1024];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut buffer).await {
                Ok(0) | Err(_) => self.pipe = None,
                Ok(count) => {
                    // Beyond the bound it is read and dropped: the command must not block.
                    let room = OUTPUT_BYTES.saturating_sub(self.bytes.len());
                    self.bytes.extend(buffer.iter().take(count.min(room)));
                }
            }
        }
    }
}
