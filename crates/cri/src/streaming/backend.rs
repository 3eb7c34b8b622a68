//! What the streaming server asks for when a session is claimed: pods' own checks are made again.

use std::sync::Arc;

use ::streaming::{Attach, Backend, End, Exec, Process, Refusal, Resize, Size, Wanted};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use pods::{Pods, Session, Streams, Terminal};
use tokio::net::TcpStream;

use crate::errors::text;

/// Pods, as the streaming server sees them.
#[derive(Debug)]
pub struct StreamingBackend(pub Pods);

impl Backend for StreamingBackend {
    fn exec(&self, exec: Exec) -> BoxFuture<'static, Result<Process, Refusal>> {
        let pods = self.0.clone();
        async move {
            let (streams, tty) = (streams(exec.wanted), exec.wanted.tty);
            let started = pods.exec(&exec.container, exec.command, streams, tty).await;
            let session = started.map_err(|error| {
                format!("error executing command in container: {}", text(&*error))
            })?;
            Ok(process(session, false))
        }
        .boxed()
    }

    fn attach(&self, attach: Attach) -> BoxFuture<'static, Result<Process, Refusal>> {
        let pods = self.0.clone();
        async move {
            let attached = pods.attach(&attach.container, streams(attach.wanted)).await;
            let session = attached
                .map_err(|error| format!("error attaching to container: {}", text(&*error)))?;
            Ok(process(session, true))
        }
        .boxed()
    }

    fn connect(&self, pod: &str, port: u16) -> BoxFuture<'static, Result<TcpStream, Refusal>> {
        let (pods, pod) = (self.0.clone(), pod.to_owned());
        async move { pods.connect(&pod, port).await.map_err(|error| text(&error)) }.boxed()
    }
}

fn streams(wanted: Wanted) -> Streams {
    Streams {
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr,
    }
}

fn process(session: Session, attached: bool) -> Process {
    let ended = session.ended.map(|code| match code {
        Some(code) => End::Exited(code),
        None => End::Unknown("the exit code is lost".to_owned()),
    });
    Process {
        stdin: session.stdin,
        stdout: session.stdout,
        stderr: session.stderr,
        resize: session.terminal.map(resize),
        ended: ended.boxed(),
        attached,
    }
}

fn resize(terminal: Terminal) -> Resize {
    let terminal = Arc::new(terminal);
    Box::new(move |size: Size| {
        let terminal = Arc::clone(&terminal);
        async move {
            if let Err(error) = terminal.resize(size.rows, size.columns).await {
                tracing::debug!(error = text(&error), "terminal not resized");
            }
        }
        .boxed()
    })
}
