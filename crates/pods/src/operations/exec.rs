//! A process in a running container: what ExecSync and the streaming Exec have in common. Bytes go
//! by pipe or terminal between the process and us; the monitor only starts it.

use std::fs;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use monitor_client::{ExecStarted, Id, Monitor};
use rustix::fs::Mode;
use rustix::pipe::{PipeFlags, pipe_with};
use spec::oci::CpuAffinity;
use spec::resources::first_cpu;
use sys::spawn::Status;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::create_container::runtime_error;
use crate::monitors::Live;
use crate::node::{Node, blocking};
use crate::state::container::{Container, Phase};
use crate::{ContainerId, Error, handlers, monitors};

/// How long a runtime may take to start a command, where the caller sets no limit.
pub(crate) const START: Duration = Duration::from_secs(4 * 60);
/// How long the news of an end may follow the end itself: its monitor may have died, and with it
/// the exit code.
const NEWS: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Debug)]
pub(crate) struct Command {
    /// Program and arguments.
    pub(crate) arguments: Vec<String>,
    /// Whether it gets a terminal.
    pub(crate) tty: bool,
    /// What the runtime may take to start it.
    pub(crate) timeout: Duration,
}

/// The container `id`, if a command can be run in it.
pub(crate) fn running(node: &Node, id: &str, command: &[String]) -> Result<Arc<Container>, Error> {
    let container = node.table.load().container(id)?;
    if command.is_empty() {
        return Err(Error::Invalid("exec command cannot be empty".to_owned()));
    }
    if !matches!(container.phase, Phase::Running { .. }) {
        let state = container.phase.name();
        return Err(Error::WrongState(format!(
            "container {} is not running but {state}",
            container.id
        )));
    }
    let live = node.live(&container.pod);
    live.check_not_killed(&container.id)?;
    Ok(container)
}

/// A process that runs. To be let go of by [`Running::forget`].
#[derive(Debug)]
pub(crate) struct Running {
    monitor: Monitor,
    live: Arc<Live>,
    started: ExecStarted,
    container: Id,
    exec: Id,
    files: Files,
    ended: oneshot::Receiver<Status>,
}

#[derive(Debug)]
struct Files {
    process: PathBuf,
    pid: PathBuf,
}

/// Starts a command with a terminal, or with `stdio`: its ends of what are its stdin, stdout and
/// stderr.
pub(crate) async fn start(
    node: &Node,
    container: &Container,
    command: Command,
    stdio: Option<[OwnedFd; 3]>,
) -> Result<Running, Error> {
    let live = node.live(&container.pod);
    let monitor = live.monitor().await?;
    let name = ContainerId::random().to_string();
    let message_timeout = u32::try_from(command.timeout.as_millis()).unwrap_or(u32::MAX);
    let tty = command.tty;
    let files = prepare(node, container, command, &name).await?;
    let (id, exec) = (
        monitors::wire_id(container.id.as_str())?,
        monitors::wire_id(&name)?,
    );
    let message = monitor_client::Exec {
        id: id.clone(),
        exec: exec.clone(),
        process: files.process.to_string_lossy().into_owned(),
        pid_file: files.pid.to_string_lossy().into_owned(),
        exec_args: Vec::new(),
        tty,
        timeout_ms: message_timeout,
    };
    let ended = live.expect_exec(&name);
    let borrowed = stdio
        .as_ref()
        .map(|[stdin, stdout, stderr]| [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]);
    let started = monitor.exec(message, borrowed).await;
    drop(stdio);
    match started {
        Ok(started) => {
            live.exec_runs(&name, started.pid);
            let running = Running {
                monitor,
                live,
                started,
                container: id,
                exec,
                files,
                ended,
            };
            // Killing may have begun while it was being started, and have missed it.
            if let Err(killed) = running.live.check_not_killed(&container.id) {
                running.kill().await;
                running.forget(node).await;
                return Err(killed);
            }
            Ok(running)
        }
        Err(error) => {
            live.forget_exec(&name);
            files.remove(node).await;
            Err(runtime_error("exec failed", error))
        }
    }
}

impl Running {
    /// Its terminal's master, once.
    pub(crate) fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.started.terminal.take()
    }

    /// Waits for its end: its exit code, or `None` where that is lost. May be dropped and called
    /// again until it has returned.
    pub(crate) async fn wait(&mut self) -> Option<i32> {
        let ended = &mut self.ended;
        tokio::select! {
            biased;
            status = &mut *ended => return status.ok().map(Status::code),
            // Where it can't be watched, the news alone tell.
            Ok(()) = self.started.ended() => {}
        }
        let news = match timeout(NEWS, &mut *ended).await {
            Ok(news) => news,
            Err(_late) => {
                // A monitor that lives is behind with its work, and tells before it answers.
                self.monitor.list().await.ok()?;
                timeout(NEWS, ended).await.ok()?
            }
        };
        news.ok().map(Status::code)
    }

    /// Kills it.
    pub(crate) async fn kill(&self) {
        // It may have ended just now.
        let killed = self.monitor.kill_exec(&self.container, &self.exec).await;
        killed.ok();
    }

    /// Removes what was kept of it.
    pub(crate) async fn forget(self, node: &Node) {
        self.live.forget_exec(self.exec.as_str());
        self.files.remove(node).await;
    }
}

impl Files {
    async fn remove(self, node: &Node) {
        // What is left of them goes with the container.
        let remove = move || [self.process, self.pid].map(|path| fs::remove_file(path).ok());
        blocking(&node.pools.files, remove).await;
    }
}

/// Writes the process of the container's spec with another command.
async fn prepare(
    node: &Node,
    container: &Container,
    command: Command,
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
    let affinity = affinity(node, container)?;
    let write = move || {
        let text = fs::read(&config).map_err(Error::io("read", &config))?;
        let spec: spec::oci::Spec = serde_json::from_slice(&text)
            .map_err(|wrong| Error::Internal(format!("{}: {wrong}", config.display())))?;
        let arguments = spec::environment::decoding_too(&spec, command.arguments);
        let mut process = spec.process.unwrap_or_default();
        process.args = arguments;
        process.terminal = command.tty;
        process.exec_cpu_affinity = affinity;
        if command.tty && !process.env.iter().any(|pair| pair.starts_with("TERM=")) {
            process.env.push("TERM=xterm".to_owned());
        }
        let text =
            serde_json::to_vec(&process).map_err(|wrong| Error::Internal(wrong.to_string()))?;
        sys::durable::replace_volatile(&path, &text, 0o600).map_err(Error::io("write", path))
    };
    blocking(&node.pools.files, write).await?;
    Ok(files)
}

/// The processors that a command begins on, where its handler has an opinion: the limits in force
/// count, not those that the container was made with.
fn affinity(node: &Node, container: &Container) -> Result<Option<CpuAffinity>, Error> {
    let pod = node.table.load().pod(container.pod.as_str())?;
    let handler = handlers::of(node, &pod)?;
    let wanted = handler.config.exec_on_first_cpu;
    let first = wanted.then(|| first_cpu(&container.limits.cpuset_cpus));
    Ok(first.flatten().map(|first| CpuAffinity {
        initial: first.to_string(),
    }))
}

/// A pipe whose ends any user of the container may open again by name (`/dev/stdout`), also one of
/// a user namespace: reading end, writing end.
pub(crate) fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    let failed = |error: rustix::io::Errno| Error::io("make", "pipe")(error.into());
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    // One inode behind both.
    rustix::fs::fchmod(&read, Mode::from_raw_mode(0o666)).map_err(failed)?;
    Ok((read, write))
}

/// What a stream is that nobody wants.
pub(crate) fn null() -> Result<OwnedFd, Error> {
    sys::null::open().map_err(Error::io("open", "/dev/null"))
}
