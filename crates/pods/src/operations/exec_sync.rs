//! ExecSync: a command in a container, its output and its exit code. Bytes go by pipe between the
//! process and us; the monitor only starts it.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use monitor_client::Exec;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;

use super::create_container::runtime_error;
use crate::node::{Node, blocking};
use crate::state::container::{Container, Phase};
use crate::{ContainerId, Error, monitors};

/// Most bytes of each stream that are kept (CVE-2022-1708); CRI-O's and containerd's figure.
pub(crate) const OUTPUT_BYTES: usize = 16 * 1024 * 1024;
/// How long output may go on after the command's end, from children that it left.
const DRAIN: Duration = Duration::from_secs(1);
/// How long a runtime may take to start a command, where the caller sets no limit.
const START: Duration = Duration::from_secs(4 * 60);

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
    let container = node.table.load().container(id)?;
    if command.is_empty() {
        return Err(Arc::new(Error::Invalid(
            "exec command cannot be empty".to_owned(),
        )));
    }
    if !matches!(container.phase, Phase::Running { .. }) {
        let state = container.phase.name();
        return Err(Arc::new(Error::WrongState(format!(
            "container {} is not running but {state}",
            container.id
        ))));
    }
    // A caller that goes away must not leave the process: the work is a task of its own, as for
    // operations, but never joined.
    let node = Arc::clone(node);
    let work = tokio::spawn(async move { execute(&node, &container, command, timeout).await });
    work.await
        .unwrap_or_else(|panic| Err(Error::Internal(panic.to_string())))
        .map_err(Arc::new)
}

struct Files {
    process: std::path::PathBuf,
    pid: std::path::PathBuf,
}

async fn execute(
    node: &Arc<Node>,
    container: &Container,
    command: Vec<String>,
    timeout: Duration,
) -> Result<Executed, Error> {
    let live = node.live(&container.pod);
    let monitor = live.monitor().await?;
    let exec = ContainerId::random().to_string();
    let files = prepare(node, container, command, &exec).await?;
    let (stdin, _) = pipe()?;
    let ((stdout_reader, stdout), (stderr_reader, stderr)) = (pipe()?, pipe()?);
    let message = Exec {
        id: monitors::wire_id(container.id.as_str())?,
        exec: monitors::wire_id(&exec)?,
        process: files.process.to_string_lossy().into_owned(),
        pid_file: files.pid.to_string_lossy().into_owned(),
        exec_args: Vec::new(),
        tty: false,
        timeout_ms: u32::try_from(if timeout.is_zero() { START } else { timeout }.as_millis())
            .unwrap_or(u32::MAX),
    };
    let (wire, exec_id) = (message.id.clone(), message.exec.clone());
    let ended = live.expect_exec(&exec);
    let stdio = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let started = monitor.exec(message, Some(stdio)).await;
    drop((stdin, stdout, stderr));
    let result = match started {
        Err(error) => Err(runtime_error("exec failed", error)),
        Ok(_process) => {
            let mut output = Output::new(stdout_reader, stderr_reader)?;
            let done = wait(&mut output, ended, timeout).await;
            if done.is_none() {
                // It may have ended just now.
                monitor.kill_exec(&wire, &exec_id).await.ok();
            }
            done.map(|code| Executed {
                code,
                stdout: output.stdout.bytes,
                stderr: output.stderr.bytes,
            })
            .ok_or_else(|| Error::TimedOut(format!("command timed out after {timeout:?}")))
        }
    };
    live.forget_exec(&exec);
    let clean = move || [files.process, files.pid].map(|path| std::fs::remove_file(path).ok());
    blocking(&node.pools.files, clean).await;
    result
}

/// Waits for the command's end and then for its output's; `None` when time is up.
async fn wait(
    output: &mut Output,
    ended: tokio::sync::oneshot::Receiver<sys::spawn::Status>,
    timeout: Duration,
) -> Option<i32> {
    let run = async {
        let mut ended = std::pin::pin!(ended);
        let status = tokio::select! {
            status = &mut ended => Some(status),
            () = output.read() => None,
        };
        // Closed streams do not mean that it has ended.
        let status = match status {
            Some(status) => status,
            None => ended.await,
        };
        status.map_or(-1, sys::spawn::Status::code)
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

/// Writes the process of the container's spec with another command.
async fn prepare(
    node: &Node,
    container: &Container,
    command: Vec<String>,
    exec: &str,
) -> Result<Files, Error> {
    let dirs = node
        .dirs(container.id.as_str())
        .await?
        .ok_or_else(|| Error::Internal("no record".to_owned()))?;
    let files = Files {
        process: dirs.bundle.join(format!("exec-{exec}.json")),
        pid: dirs.bundle.join(format!("exec-{exec}.pid")),
    };
    let (config, path) = (dirs.bundle.join("config.json"), files.process.clone());
    let write = move || {
        let text = std::fs::read(&config).map_err(Error::io("read", &config))?;
        let spec: spec::oci::Spec = serde_json::from_slice(&text)
            .map_err(|wrong| Error::Internal(format!("{}: {wrong}", config.display())))?;
        let mut process = spec.process.unwrap_or_default();
        process.args = command;
        process.terminal = false;
        let text =
            serde_json::to_vec(&process).map_err(|wrong| Error::Internal(wrong.to_string()))?;
        sys::durable::replace_volatile(&path, &text, 0o600).map_err(Error::io("write", path))
    };
    blocking(&node.pools.files, write).await?;
    Ok(files)
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|error| Error::io("make", "pipe")(error.into()))
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
