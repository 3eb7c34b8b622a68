//! Events and streamed lists: several clients see the same, in order, from what is there on.

use anyhow::Result;
use cri::v1::{self, ContainerEventType as Type};
use testkit::node::{Node, Options};
use testkit::requests::container;
use tonic::{Code, Streaming};

use crate::fixture;

fn with_events() -> Options {
    Options {
        events: true,
        ..Options::default()
    }
}

async fn subscribe(node: &Node) -> Result<Streaming<v1::ContainerEventResponse>> {
    let request = v1::GetEventsRequest {};
    let answer = node
        .client()
        .runtime()
        .get_container_events(request)
        .await?;
    Ok(answer.into_inner())
}

/// Reads until the event `last` of `id` has come: all of them, as id and kind.
async fn until(
    stream: &mut Streaming<v1::ContainerEventResponse>,
    id: &str,
    last: Type,
) -> Result<Vec<v1::ContainerEventResponse>> {
    let mut seen = Vec::new();
    while let Some(event) = stream.message().await? {
        let end = event.container_id == id && event.container_event_type() == last;
        seen.push(event);
        if end {
            return Ok(seen);
        }
    }
    anyhow::bail!("the stream ended")
}

fn of<'a>(seen: &'a [v1::ContainerEventResponse], id: &'a str) -> Vec<Type> {
    seen.iter()
        .filter(|event| event.container_id == id)
        .map(v1::ContainerEventResponse::container_event_type)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_sees_a_life_from_its_beginning_or_from_what_is_there() -> Result<()> {
    let f = fixture::with(with_events()).await?;
    let mut early = [subscribe(&f.node).await?, subscribe(&f.node).await?];
    let pod = f.node.run_pod("events").await?;
    let main = f
        .node
        .run(&pod, container("main", &f.image, &["sleep", "1000"]))
        .await?;
    let mut late = subscribe(&f.node).await?;
    let present = until(&mut late, &main, Type::ContainerStartedEvent).await?;
    assert_eq!(of(&present, &main), [Type::ContainerStartedEvent]);
    assert_eq!(of(&present, &pod), [Type::ContainerStartedEvent]);

    let mut runtime = f.node.client().runtime();
    let status = v1::PodSandboxStatusRequest {
        pod_sandbox_id: pod.clone(),
        verbose: false,
    };
    let status = runtime.pod_sandbox_status(status).await?.into_inner();
    assert_eq!(status.containers_statuses.len(), 1);
    assert!(status.timestamp > 0);

    f.node.remove_pod(&pod).await?;
    let whole = [
        Type::ContainerCreatedEvent,
        Type::ContainerStartedEvent,
        Type::ContainerStoppedEvent,
        Type::ContainerDeletedEvent,
    ];
    for stream in &mut early {
        let seen = until(stream, &pod, Type::ContainerDeletedEvent).await?;
        assert_eq!(of(&seen, &main), whole);
        assert_eq!(of(&seen, &pod), whole);
        let times: Vec<_> = seen.iter().map(|event| event.created_at).collect();
        assert!(times.is_sorted());
        let stopped = seen.iter().find(|event| {
            event.container_id == main
                && event.container_event_type() == Type::ContainerStoppedEvent
        });
        let stopped = stopped.unwrap();
        let statuses = &stopped.containers_statuses;
        assert_eq!(statuses[0].state(), v1::ContainerState::ContainerExited);
        let pod_status = stopped.pod_sandbox_status.as_ref().unwrap();
        assert_eq!(pod_status.id, pod);
    }
    until(&mut late, &pod, Type::ContainerDeletedEvent).await?;
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_refused_unless_allowed() -> Result<()> {
    let f = fixture::node().await?;
    let refused = subscribe(&f.node).await.unwrap_err();
    let status = refused.downcast_ref::<tonic::Status>().unwrap();
    assert_eq!(status.code(), Code::FailedPrecondition);
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn streamed_lists_hold_what_lists_hold() -> Result<()> {
    let f = fixture::node().await?;
    let mut runtime = f.node.client().runtime();
    let none = v1::StreamContainersRequest::default();
    let mut none = runtime.stream_containers(none).await?.into_inner();
    assert!(
        none.message().await?.is_none(),
        "an empty list has no piece"
    );

    for name in ["one", "two"] {
        let pod = f.node.run_pod(name).await?;
        let sleep = container("main", &f.image, &["sleep", "1000"]);
        f.node.run(&pod, sleep).await?;
    }
    let listed = runtime
        .list_pod_sandbox(v1::ListPodSandboxRequest::default())
        .await?
        .into_inner()
        .items;
    let mut streamed = Vec::new();
    let request = v1::StreamPodSandboxesRequest::default();
    let mut stream = runtime.stream_pod_sandboxes(request).await?.into_inner();
    while let Some(piece) = stream.message().await? {
        streamed.extend(piece.pod_sandboxes);
    }
    assert_eq!((streamed.len(), &streamed), (2, &listed));

    let listed = runtime
        .list_containers(v1::ListContainersRequest::default())
        .await?
        .into_inner()
        .containers;
    let mut streamed = Vec::new();
    let request = v1::StreamContainersRequest::default();
    let mut stream = runtime.stream_containers(request).await?.into_inner();
    while let Some(piece) = stream.message().await? {
        streamed.extend(piece.containers);
    }
    assert_eq!((streamed.len(), &streamed), (2, &listed));

    let mut images = f.node.client().images();
    let request = v1::StreamImagesRequest::default();
    let mut stream = images.stream_images(request).await?.into_inner();
    let piece = stream.message().await?.unwrap();
    assert_eq!(piece.images.len(), 1);
    assert!(stream.message().await?.is_none());
    f.node.finish().await
}
