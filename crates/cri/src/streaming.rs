//! Exec, Attach and PortForward: checked, and answered with the URL of a session at the streaming
//! server.

mod backend;

pub use backend::StreamingBackend;

use ::streaming::{Attach, Exec, Forward, Promises, Session, Wanted, limits};
use pods::Pods;
use pods::state::container::Phase;
use tonic::Status;

use crate::errors::status;
use crate::{checked, v1};

pub(crate) fn exec(
    pods: &Pods,
    promises: &Promises,
    request: v1::ExecRequest,
) -> Result<v1::ExecResponse, Status> {
    let wanted = wanted(request.stdin, request.stdout, request.stderr, request.tty)?;
    if request.cmd.is_empty() {
        return Err(checked::invalid("cmd", "it is empty"));
    }
    let session = Session::Exec(Exec {
        container: container(pods, &request.container_id)?,
        command: request.cmd,
        wanted,
    });
    let url = promise(promises, session)?;
    Ok(v1::ExecResponse { url })
}

pub(crate) fn attach(
    pods: &Pods,
    promises: &Promises,
    request: v1::AttachRequest,
) -> Result<v1::AttachResponse, Status> {
    let wanted = wanted(request.stdin, request.stdout, request.stderr, request.tty)?;
    let session = Session::Attach(Attach {
        container: container(pods, &request.container_id)?,
        wanted,
    });
    let url = promise(promises, session)?;
    Ok(v1::AttachResponse { url })
}

pub(crate) fn port_forward(
    pods: &Pods,
    promises: &Promises,
    request: v1::PortForwardRequest,
) -> Result<v1::PortForwardResponse, Status> {
    let port = |port: i32| {
        let port = u16::try_from(port).ok().filter(|port| *port != 0);
        port.ok_or_else(|| checked::invalid("port", "a port is 1 to 65535"))
    };
    let ports: Vec<_> = request
        .port
        .into_iter()
        .map(port)
        .collect::<Result<_, _>>()?;
    if ports.len() > limits::WEBSOCKET_PORTS {
        return Err(checked::invalid("port", "too many of them"));
    }
    let snapshot = pods.snapshot();
    let pod = snapshot.pod(&request.pod_sandbox_id);
    let pod = pod.map_err(|error| status(&error))?;
    if !pod.ready {
        let text = format!("pod sandbox {} is not ready", pod.id);
        return Err(Status::failed_precondition(text));
    }
    let session = Session::Forward(Forward {
        pod: pod.id.to_string(),
        ports,
    });
    let url = promise(promises, session)?;
    Ok(v1::PortForwardResponse { url })
}

/// `runtime/v1/api.proto`, ExecRequest: one stream at least, and a terminal has no stderr.
fn wanted(stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Result<Wanted, Status> {
    if tty && stderr {
        return Err(checked::invalid(
            "stderr",
            "tty and stderr cannot both be true",
        ));
    }
    if !stdin && !stdout && !stderr {
        return Err(checked::invalid(
            "stdin",
            "one of stdin, stdout and stderr must be true",
        ));
    }
    Ok(Wanted {
        stdin,
        stdout,
        stderr,
        tty,
    })
}

/// The whole id of a container that has not exited.
fn container(pods: &Pods, id: &str) -> Result<String, Status> {
    let snapshot = pods.snapshot();
    let container = snapshot.container(id).map_err(|error| status(&error))?;
    match container.phase {
        Phase::Created { .. } | Phase::Running { .. } => Ok(container.id.to_string()),
        Phase::Exited { .. } => Err(Status::failed_precondition(format!(
            "container {} is not created or running",
            container.id
        ))),
    }
}

fn promise(promises: &Promises, session: Session) -> Result<String, Status> {
    let promised = promises.promise(session);
    promised.map_err(|full| Status::resource_exhausted(full.to_string()))
}
