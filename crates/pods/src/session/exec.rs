//! Exec: a process in a container, for a client.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::streams::{reader, terminal_reader, writer};
use super::{Kind, Session, Streams, Terminal};
use crate::Error;
use crate::node::Node;
use crate::operations::exec::{self, Command, Running};
use crate::state::container::Container;

/// Starts a command in a running container. A client that goes away closes its streams, no more.
pub(crate) async fn exec(
    node: &Arc<Node>,
    id: &str,
    arguments: Vec<String>,
    streams: Streams,
    tty: bool,
) -> Result<Session, Arc<Error>> {
    let container = exec::running(node, id, &arguments)?;
    let command = Command {
        arguments,
        tty,
        timeout: exec::START,
    };
    let (started, session) = oneshot::channel();
    let node = Arc::clone(node);
    // A task of its own, that ends with the process: whoever asked may go away at any time, and
    // what was kept of the process is removed all the same.
    tokio::spawn(async move {
        let (mut running, session) = match start(&node, &container, command, streams).await {
            Ok(started) => started,
            Err(error) => {
                // Whoever asked may be gone.
                started.send(Err(error)).ok();
                return;
            }
        };
        let (tell, ended) = oneshot::channel();
        let session = Session {
            ended: Box::pin(async move { ended.await.ok().flatten() }),
            ..session
        };
        if started.send(Ok(session)).is_err() {
            // Nobody has seen it, and nobody will.
            running.kill().await;
        }
        let code = running.wait().await;
        tell.send(code).ok();
        running.forget(&node).await;
    });
    let session = session.await;
    session
        .unwrap_or_else(|_| Err(Error::Internal("exec has panicked".to_owned())))
        .map_err(Arc::new)
}

async fn start(
    node: &Node,
    container: &Container,
    command: Command,
    streams: Streams,
) -> Result<(Running, Session), Error> {
    if command.tty {
        let mut running = exec::start(node, container, command, None).await?;
        let session = running
            .take_terminal()
            .ok_or_else(|| Error::Monitor("no terminal came".to_owned()))
            .and_then(|master| on_terminal(master, streams));
        if session.is_err() {
            running.kill().await;
        }
        return Ok((running, session?));
    }
    let (stdin, ours) = if streams.stdin {
        let (read, write) = exec::pipe()?;
        (read, Some(writer(write)?))
    } else {
        (exec::null()?, None)
    };
    let output = |wanted: bool| {
        if !wanted {
            return Ok((exec::null()?, None));
        }
        let (read, write) = exec::pipe()?;
        Ok::<_, Error>((write, Some(reader(read)?)))
    };
    let ((stdout, from_stdout), (stderr, from_stderr)) =
        (output(streams.stdout)?, output(streams.stderr)?);
    let running = exec::start(node, container, command, Some([stdin, stdout, stderr])).await?;
    let session = Session {
        stdin: ours.map(|stdin| Box::new(stdin) as _),
        stdout: from_stdout,
        stderr: from_stderr,
        terminal: None,
        ended: Box::pin(std::future::pending()),
    };
    Ok((running, session))
}

fn on_terminal(master: OwnedFd, streams: Streams) -> Result<Session, Error> {
    let again = || master.try_clone().map_err(Error::io("copy", "terminal"));
    let stdin = if streams.stdin {
        Some(Box::new(writer(again()?)?) as _)
    } else {
        None
    };
    // Read also where nobody wants it: a terminal that is full stops the process.
    let stdout = Some(terminal_reader(again()?)?);
    Ok(Session {
        stdin,
        stdout,
        stderr: None,
        terminal: Some(Terminal(Kind::Own(Arc::new(master)))),
        ended: Box::pin(std::future::pending()),
    })
}
