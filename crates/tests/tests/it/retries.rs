//! A retry joins: callers that go away and ask again.

use std::time::Duration;

use anyhow::Result;
use cri::v1;
use testkit::client::Client;
use testkit::requests::{container, pod};

use crate::fixture;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_gives_up_and_repeats_gets_one_pod() -> Result<()> {
    let f = fixture::node().await?;
    let request = || v1::RunPodSandboxRequest {
        config: Some(f.node.placed(pod("again", &f.node.logs()))),
        runtime_handler: String::new(),
    };
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..100 {
        // A connection of its own each time: giving up closes it.
        let client = Client::connect(&f.node.socket()).await?;
        let mut runtime = client.runtime();
        let run = runtime.run_pod_sandbox(request());
        if let Ok(answer) = tokio::time::timeout(Duration::from_millis(50), run).await {
            ids.insert(answer?.into_inner().pod_sandbox_id);
        }
    }
    ids.insert(f.node.run_pod("again").await?);
    assert_eq!(ids.len(), 1);
    let list = f
        .node
        .client()
        .runtime()
        .list_pod_sandbox(v1::ListPodSandboxRequest::default())
        .await?
        .into_inner();
    assert_eq!(list.items.len(), 1);
    let other = f
        .node
        .run_pod_config(v1::PodSandboxConfig {
            hostname: "other".into(),
            ..pod("again", &f.node.logs())
        })
        .await;
    let other = other.unwrap_err().downcast::<tonic::Status>()?;
    assert_eq!(other.code(), tonic::Code::AlreadyExists);
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_is_repeated_gets_one_container() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod("create").await?;
    let config = || container("c", &f.image, &["sleep", "1000"]);
    let (first, second) =
        tokio::join!(f.node.create(&pod, config()), f.node.create(&pod, config()));
    let id = first?;
    assert_eq!(second?, id);
    assert_eq!(f.node.create(&pod, config()).await?, id);
    f.node.start_container(&id).await?;
    f.node.start_container(&id).await?;
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pods_at_once_leave_nothing() -> Result<()> {
    let f = fixture::node().await?;
    let one = |number: usize| {
        let f = &f;
        async move {
            let pod = f.node.run_pod(&format!("p{number}")).await?;
            let id = f
                .node
                .run(&pod, container("c", &f.image, &["sh", "-c", "exit 9"]))
                .await?;
            assert_eq!(f.node.exited(&id).await?.exit_code, 9);
            f.node.remove_pod(&pod).await
        }
    };
    let all = (0..10).map(one);
    for done in futures(all).await {
        done?;
    }
    f.node.finish().await
}

async fn futures<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pinned: Vec<_> = all.map(Box::pin).map(Some).collect();
    let mut results: Vec<_> = pinned.iter().map(|_| None).collect();
    std::future::poll_fn(move |context| {
        for (slot, result) in pinned.iter_mut().zip(&mut results) {
            if let Some(future) = slot
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *result = Some(value);
                *slot = None;
            }
        }
        if pinned.iter().any(Option::is_some) {
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(results.iter_mut().filter_map(Option::take).collect())
    })
    .await
}
