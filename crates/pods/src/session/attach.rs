//! Attach: a container's first process, for a client. Its output is copied by its monitor from now
//! on, its input is written by us.

use std::sync::Arc;

use monitor_client::AttachTo;
use rustix::pipe::{PipeFlags, pipe_with};

use super::streams::{Told, reader, writer};
use super::{Kind, Session, Streams, Terminal};
use crate::node::Node;
use crate::operations::create_container::runtime_error;
use crate::state::container::{Container, Phase};
use crate::{Error, monitors};

/// Attaches to a container that has not exited. Where its stdin is open once only, it ends with
/// this session.
pub(crate) async fn attach(
    node: &Arc<Node>,
    id: &str,
    streams: Streams,
) -> Result<Session, Arc<Error>> {
    let container = node.table.load().container(id)?;
    if matches!(container.phase, Phase::Exited { .. }) {
        return Err(Arc::new(Error::WrongState(format!(
            "container {} is not created or running",
            container.id
        ))));
    }
    Ok(join(node, &container, streams).await?)
}

async fn join(node: &Arc<Node>, container: &Container, streams: Streams) -> Result<Session, Error> {
    let live = node.live(&container.pod);
    let monitor = live.monitor().await?;
    let id = monitors::wire_id(container.id.as_str())?;
    let pipe = |wanted: bool| {
        let made = wanted.then(|| pipe_with(PipeFlags::CLOEXEC)).transpose();
        made.map_err(|error| Error::io("make", "pipe")(error.into()))
    };
    let terminal = container.made.terminal;
    let stdout = pipe(streams.stdout)?.unzip();
    let stderr = pipe(streams.stderr && !terminal)?.unzip();
    let to = AttachTo {
        stdin: streams.stdin && container.request.stdin,
        stdout: stdout.1,
        stderr: stderr.1,
    };
    let attached = monitor.attach(&id, to).await;
    let stdin = attached.map_err(|error| runtime_error("attach failed", error))?;
    let stdin = stdin.map(writer).transpose()?;
    let stdin = match stdin {
        Some(writer) if container.request.stdin_once && !terminal => {
            let (writer, told) = Told::new(writer);
            end_stdin(node, container, told)?;
            Some(Box::new(writer) as _)
        }
        Some(writer) => Some(Box::new(writer) as _),
        None => None,
    };
    let kind = Kind::Container { live, id };
    let (node, id) = (Arc::clone(node), container.id.clone());
    Ok(Session {
        stdin,
        stdout: stdout.0.map(reader).transpose()?,
        stderr: stderr.0.map(reader).transpose()?,
        terminal: terminal.then_some(Terminal(kind)),
        ended: Box::pin(async move {
            let exited = |snapshot: &crate::Snapshot| match snapshot.containers.get(&id) {
                None => Some(None),
                Some(container) => match &container.phase {
                    Phase::Exited { exit, .. } => Some(Some(exit.code)),
                    Phase::Created { .. } | Phase::Running { .. } => None,
                },
            };
            node.table.wait_for(exited).await
        }),
    })
}

/// Has a container's stdin closed everywhere once the first session's end of it is.
fn end_stdin(
    node: &Arc<Node>,
    container: &Container,
    told: tokio::sync::oneshot::Receiver<()>,
) -> Result<(), Error> {
    let live = node.live(&container.pod);
    let (id, wire) = (
        container.id.clone(),
        monitors::wire_id(container.id.as_str())?,
    );
    // A task of its own, that ends with the session: however that ends, stdin does.
    tokio::spawn(async move {
        told.await.ok();
        live.close_stdin(&id);
        let closed = match live.monitor().await {
            Ok(monitor) => monitor.close_stdin(&wire).await.map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = closed {
            // It has ended, as a rule.
            tracing::debug!(container = id.as_str(), error, "stdin not closed");
        }
    });
    Ok(())
}
