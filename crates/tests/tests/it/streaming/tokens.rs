//! Who gets a session, and who doesn't.

use anyhow::Result;
use testkit::node::Options;
use testkit::requests::container;
use testkit::streams::{Remote, Transport, request};
use tonic::Code;

use super::{attach, exec, forward, sleeper};
use crate::fixture;

const UPGRADE: [(&str, &str); 2] = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")];

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_once_for_what_it_was_given() -> Result<()> {
    let (f, id) = sleeper().await?;
    let url = exec(&f.node, &id, &["true"], &[1]).await?;
    let outcome = Remote::connect(&url, Transport::BEST[0], &[1]).await?;
    assert_eq!(outcome.talk(None).await?.code()?, 0);
    let base = url.rsplit_once("/exec/").unwrap().0.to_owned();
    let other = exec(&f.node, &id, &["true"], &[1]).await?;
    for (url, headers, status) in [
        (url, &UPGRADE[..], 404),
        (other.replace("/exec/", "/attach/"), &UPGRADE, 404),
        (
            format!("{base}/exec/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
            &UPGRADE,
            404,
        ),
        (format!("{base}/exec/"), &UPGRADE, 404),
        (format!("{base}/"), &UPGRADE, 404),
        (exec(&f.node, &id, &["true"], &[1]).await?, &[], 400),
    ] {
        let (_, answered, text) = request(&url, headers).await?;
        assert_eq!(answered, status, "{url}: {text}");
    }
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_requests_is_refused() -> Result<()> {
    let (f, id) = sleeper().await?;
    // All at once: one after another they may take longer than a token is good for.
    let calls = (0..=1000).map(|_| exec(&f.node, &id, &["true"], &[1]));
    let answers = futures_util::future::join_all(calls).await;
    let refused = answers.into_iter().filter_map(Result::err);
    let refused = refused.map(|error| Ok(error.downcast::<tonic::Status>()?.code()));
    let refused: Vec<_> = refused.collect::<Result<_>>()?;
    assert_eq!(refused, [Code::ResourceExhausted], "the thousand-and-first");
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_make_no_sense_are_refused_at_once() -> Result<()> {
    let (f, id) = sleeper().await?;
    let pod = f.node.run_pod("other").await?;
    let done = f
        .node
        .run(&pod, container("d", &f.image, &["true"]))
        .await?;
    f.node.exited(&done).await?;
    let code = |result: Result<String>| match result {
        Ok(url) => panic!("{url}"),
        Err(error) => error.downcast::<tonic::Status>().unwrap().code(),
    };
    let node = &f.node;
    for (refused, wanted) in [
        (
            exec(node, &id, &["true"], &[1, 2, 4]).await,
            Code::InvalidArgument,
        ),
        (exec(node, &id, &["true"], &[]).await, Code::InvalidArgument),
        (exec(node, &id, &[], &[1]).await, Code::InvalidArgument),
        (exec(node, "none", &["true"], &[1]).await, Code::NotFound),
        (
            exec(node, &done, &["true"], &[1]).await,
            Code::FailedPrecondition,
        ),
        (attach(node, &id, &[]).await, Code::InvalidArgument),
        (attach(node, "none", &[1]).await, Code::NotFound),
        (attach(node, &done, &[1]).await, Code::FailedPrecondition),
        (forward(node, "none", &[]).await, Code::NotFound),
        (forward(node, &pod, &[70000]).await, Code::InvalidArgument),
    ] {
        assert_eq!(code(refused), wanted);
    }
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_ended_meanwhile_is_told_by_the_session() -> Result<()> {
    let f = fixture::node().await?;
    let pod = f.node.run_pod("e").await?;
    let id = f
        .node
        .run(&pod, container("c", &f.image, &["sleep", "1000"]))
        .await?;
    let url = exec(&f.node, &id, &["true"], &[1]).await?;
    let request = cri::v1::StopContainerRequest {
        container_id: id.clone(),
        timeout: 0,
    };
    f.node.client().runtime().stop_container(request).await?;
    let outcome = Remote::connect(&url, Transport::BEST[0], &[1]).await?;
    let status = outcome.talk(None).await?.status;
    let status = String::from_utf8_lossy(&status);
    assert!(status.contains("is not running"), "{status}");
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_started_in_a_container_that_is_being_killed() -> Result<()> {
    // A kill that does not succeed: else there would be no time to ask in.
    let f = fixture::with(Options {
        faults: "stop-container.kill.before=fail".into(),
        ..Options::default()
    })
    .await?;
    let pod = f.node.run_pod("k").await?;
    // Whoever ignores the signal has a while in which its preparations may run commands.
    let sleeper = [
        "sh",
        "-c",
        "trap 'touch /asked' TERM; touch /ready; while :; do sleep 0.1; done",
    ];
    let id = f.node.run(&pod, container("c", &f.image, &sleeper)).await?;
    // A runtime's init that has not yet become the command ends by the signal.
    let ready = ["sh", "-c", "until [ -e /ready ]; do sleep 0.1; done"];
    f.node.exec(&id, &ready).await?;
    let stop = |timeout| {
        let (mut client, container_id) = (f.node.client().runtime(), id.clone());
        let request = cri::v1::StopContainerRequest {
            container_id,
            timeout,
        };
        async move { client.stop_container(request).await }
    };
    let stopping = tokio::spawn(stop(1000));
    let asked = [
        "sh",
        "-c",
        "until [ -e /asked ]; do sleep 0.1; done; echo ready",
    ];
    let url = exec(&f.node, &id, &["true"], &[1]).await?;
    assert_eq!(f.node.exec(&id, &asked).await?.stdout, b"ready\n");

    assert!(stop(0).await.is_err(), "the kill does not succeed");
    let refused = f.node.exec(&id, &["true"]).await.unwrap_err();
    let refused = refused.downcast::<tonic::Status>()?;
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("being killed"), "{refused}");
    let late = exec(&f.node, &id, &["true"], &[1]).await?;
    for url in [url, late] {
        let outcome = Remote::connect(&url, Transport::BEST[0], &[1]).await?;
        let status = outcome.talk(None).await?.status;
        let status = String::from_utf8_lossy(&status);
        assert!(status.contains("being killed"), "{status}");
    }
    stop(0).await?;
    stopping.await??;
    f.node.finish().await
}
