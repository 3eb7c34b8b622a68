//! GetContainerEvents: what happens, with the pod and its containers as they are then.

use futures_util::{StreamExt as _, stream};
use pods::{Event, Happened, Pods};
use tonic::Status;

use crate::pieces::Answers;
use crate::sandboxes::nanos;
use crate::{containers, sandboxes, v1};

/// The stream for a new client: what is there, then what happens.
pub(crate) fn stream(pods: &Pods) -> Answers<v1::ContainerEventResponse> {
    let (present, queue) = pods.events();
    let present = stream::iter(present);
    let coming = stream::unfold(queue, |mut queue| async move {
        queue.recv().await.map(|event| (event, queue))
    });
    // Only a client that is too slow sees this: else the queue does not end before the daemon.
    let end = stream::iter([Err(Status::resource_exhausted(
        "events were not read fast enough: subscribe again",
    ))]);
    let events = present.chain(coming).map(|event| Ok(on_wire(&event)));
    Box::pin(events.chain(end))
}

fn on_wire(event: &Event) -> v1::ContainerEventResponse {
    use v1::ContainerEventType::{
        ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent,
    };
    let kind = match event.happened {
        Happened::Created => ContainerCreatedEvent,
        Happened::Started => ContainerStartedEvent,
        Happened::Stopped => ContainerStoppedEvent,
        Happened::Deleted => ContainerDeletedEvent,
    };
    v1::ContainerEventResponse {
        container_id: event.id.clone(),
        container_event_type: kind as i32,
        created_at: nanos(event.at),
        pod_sandbox_status: Some(sandboxes::status(&event.pod)),
        containers_statuses: event
            .containers
            .iter()
            .map(|container| containers::status(container))
            .collect(),
    }
}
