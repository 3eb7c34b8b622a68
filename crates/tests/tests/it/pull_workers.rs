//! Pulls in a process and a cgroup of their own (`separate_pull_cgroup`), with either keeper of cgroups,
//! from a registry that stops within a layer until it is let go on.

use std::fs;
use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cri::v1;
use rustix::process::{Pid, Signal};
use sys::cgroup::Cgroup;
use testkit::client::Client;
use testkit::image_maker::ImageMaker;
use testkit::node::{Node, Options, systemd};
use testkit::registry::Registry;
use testkit::requests::{container, pod};
use tonic::Code;

use self::slow::{METRICS, Parent, Slow, name, request, until};
use crate::image_matrix::{BCRYPT, PASSWORD, USER};
use crate::metrics;
use crate::pulls::POINTS;
use crate::service::systemctl;

mod gate;
mod slow;

/// Fails unless the process is in one cgroup of a pull beneath the parent, with every controller.
fn is_beneath(pid: Pid, parent: &Parent) -> Result<()> {
    let text = fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero()))?;
    for line in text.lines() {
        let path = line.splitn(3, ':').last().context("a path")?;
        let own = path.strip_prefix(&parent.path).unwrap_or_default();
        // What nobody has mounted nobody can enter.
        let mounted = !sys::cgroup::of_text(line)?.is_empty();
        ensure!(!mounted || own.starts_with("/crio-pull-image-"), "{text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_for_a_pod_is_a_process_beneath_its_parent() -> Result<()> {
    let random = name();
    let f = Slow::start(&random, "pod").await?;
    let (one, two) = (
        Parent::of(&f.node.name, "one"),
        Parent::of(&f.node.name, "two"),
    );
    let (first, second) = (f.pull(&one.name).await?, f.pull(&one.name).await?);
    let worker = one.worker().await?;
    is_beneath(worker, &one)?;
    let mut seen = Vec::new();
    for _ in 0..500 {
        seen = f.pulls().await?;
        if seen
            .first()
            .is_some_and(|pull| pull["bytes"].as_u64() > Some(100_000))
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let [pull] = &seen[..] else {
        anyhow::bail!("other pulls: {seen:?}")
    };
    assert_eq!(pull["reference"], f.image);
    assert_eq!(pull["layers"].as_array().map(Vec::len), Some(2), "{pull}");
    assert!(pull["total"].as_u64() > Some(8 << 20), "{pull}");
    assert_eq!(one.workers()?, [worker], "equal pulls share one");
    // What limits one pod is not to end another's pull.
    let third = f.pull(&two.name).await?;
    let other = two.worker().await?;
    is_beneath(other, &two)?;
    f.gate.open();
    let pulled = first.await??;
    assert_eq!(
        (second.await??, third.await??),
        (pulled.clone(), pulled.clone())
    );
    for parent in [&one, &two] {
        f.nothing_is_left(parent, "after the pull").await?;
        assert!(!parent.is_there()?, "it was made for the pull alone");
    }
    assert!(
        f.node
            .images()
            .await?
            .iter()
            .any(|image| image.id == pulled)
    );

    // The daemon's own tables know the image: it runs, in a parent that is there and stays.
    let mut config = pod("one", &f.node.logs());
    config
        .linux
        .get_or_insert_default()
        .cgroup_parent
        .clone_from(&one.name);
    let sandbox = f.node.run_pod_config(config).await?;
    let id = f
        .node
        .run(&sandbox, container("c", &f.image, &["sleep", "1000"]))
        .await?;
    f.pull(&one.name).await?.await??;
    let done = f.node.exec(&id, &["stat", "-c", "%s", "/large"]).await?;
    assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), "8388608");
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_are_beneath_a_parent_that_is_named_and_are_counted() -> Result<()> {
    let random = name();
    let parent = Parent::of(&format!("crixt-{random}"), "pulls");
    let f = Slow::start(&random, &parent.name).await?;
    let pull = f.pull("").await?;
    let worker = parent.worker().await?;
    is_beneath(worker, &parent)?;
    let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", worker.as_raw_nonzero()))?;
    assert_eq!(score.trim(), "1000");
    // A client that gives up, and asks again.
    pull.abort();
    let again = f.pull("").await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(parent.workers()?, [worker]);
    f.gate.open();
    again.await??;
    let counted = metrics::get(&f.directory.path().join(METRICS), "/metrics").await?;
    for (name, least) in [("layer_size_count", 2.0), ("layer_size_sum", 8e6)] {
        let name = format!("container_runtime_crio_image_pulls_{name}");
        let seen = metrics::sample(&counted, &name);
        assert!(seen >= Some(least), "{name}: {seen:?}");
    }
    f.nothing_is_left(&parent, "after the pull").await?;
    assert!(parent.is_there()?, "it is the administrator's");
    take_away(&parent)?;
    f.node.finish().await
}

/// A parent that is named stays; with systemd as a slice.
fn take_away(parent: &Parent) -> Result<()> {
    match systemd() {
        true => systemctl(&["stop", &parent.name]).map(drop),
        false => Ok(Cgroup::at(&parent.path)?.remove()?),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_or_a_daemon_that_is_killed_leaves_nothing() -> Result<()> {
    let random = name();
    let mut f = Slow::start(&random, "pod").await?;
    let parent = Parent::of(&f.node.name, "one");
    let unpacks = |f: &Slow| {
        let staging = f.node.storage().join("overlay/staging");
        move || Ok(fs::read_dir(&staging)?.next().is_some().then_some(()))
    };
    let pull = f.pull(&parent.name).await?;
    let worker = parent.worker().await?;
    until("layer", unpacks(&f)).await?;
    rustix::process::kill_process(worker, Signal::KILL)?;
    let killed = pull.await?.unwrap_err();
    assert_eq!(killed.code(), Code::Unknown, "{killed}");
    assert!(killed.message().contains("signal 9"), "{killed}");
    f.nothing_is_left(&parent, "after the worker's death")
        .await?;

    let pull = f.pull(&parent.name).await?;
    let worker = sys::pidfd::open(parent.worker().await?)?;
    until("layer", unpacks(&f)).await?;
    f.node.kill_daemon()?;
    assert!(pull.await?.is_err());
    let ended = sys::pidfd::wait_ended(worker.as_fd(), Some(Duration::from_secs(10)));
    assert!(ended?, "the worker outlives its daemon");
    f.node.start_daemon().await?;
    f.nothing_is_left(&parent, "after the daemon's death")
        .await?;
    assert!(!parent.is_there()?);

    // A worker that can't go when its daemon does.
    let pull = f.pull(&parent.name).await?;
    let worker = parent.worker().await?;
    until("layer", unpacks(&f)).await?;
    rustix::process::kill_process(worker, Signal::STOP)?;
    f.node.kill_daemon()?;
    assert!(pull.await?.is_err());
    f.node.start_daemon().await?;
    f.nothing_is_left(
        &parent,
        "after the death of the daemon of a worker that hangs",
    )
    .await?;

    f.gate.open();
    f.pull(&parent.name).await?.await??;
    f.nothing_is_left(&parent, "after the retry").await?;
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_at_any_point_leaves_nothing_while_its_daemon_goes_on() -> Result<()> {
    for point in POINTS {
        let mut f = Slow::start(&name(), "pod").await?;
        let parent = Parent::of(&f.node.name, "one");
        f.gate.open();
        f.node.set_faults(&format!("{point}=kill"));
        f.node.restart().await?;
        let daemon = f.node.daemon_pid();
        let died = f.pull(&parent.name).await?.await?.unwrap_err();
        assert!(died.message().contains("signal 9"), "{point}: {died}");
        f.nothing_is_left(&parent, point).await?;
        let alive = daemon.and_then(Pid::from_raw).context("no daemon")?;
        rustix::process::test_kill_process(alive)?;
        f.node.set_faults("");
        f.node.restart().await?;
        f.pull(&parent.name).await?.await??;
        f.node.finish().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_and_credentials_are_those_of_any_pull() -> Result<()> {
    let directory = tempfile::Builder::new()
        .prefix("crixr-")
        .tempdir_in("/var/tmp")?;
    // The same blobs, with and without a password.
    let dir = directory.path().join("private");
    let private = Registry::start_basic(&dir, USER, BCRYPT)?;
    Registry::start(&dir)?.push("test/private", "1", &ImageMaker::busybox().build())?;
    let private_image = format!("{}/test/private:1", private.addr());
    let auth = |password: &str| v1::AuthConfig {
        username: USER.to_owned(),
        password: password.to_owned(),
        ..Default::default()
    };
    let mut told = Vec::new();
    for option in ["", "pod"] {
        let f = Slow::start(&name(), option).await?;
        let (node, host) = (&f.node, f.registry.addr());
        let conf = node.dir.join("registries.conf");
        let insecure = format!(
            "[[registry]]\nlocation = \"{}\"\ninsecure = true\n",
            private.addr()
        );
        fs::write(&conf, fs::read_to_string(&conf)? + &insecure)?;
        let refused = format!(
            r#"{{"default":[{{"type":"insecureAcceptAnything"}}],"transports":{{"docker":{{"{host}/test/refused":[{{"type":"reject"}}]}}}}}}"#
        );
        fs::write(node.dir.join("policy.json"), refused)?;
        let parent = Parent::of(&node.name, "one");
        let mut statuses = Vec::new();
        for (image, auth) in [
            (format!("{host}/test/missing:1"), None),
            (format!("{host}/test/refused:1"), None),
            (format!("{host}/TEST:1"), None),
            ("127.0.0.1:1/none:1".to_owned(), None),
            (private_image.clone(), None),
            (private_image.clone(), Some(auth("wrong"))),
        ] {
            let asked = v1::PullImageRequest {
                auth,
                ..request(&image, &parent.name)
            };
            let status = node.client().images().pull_image(asked).await.unwrap_err();
            let words = status.message().replace(&node.name, "NODE");
            let words = words.replace(&host.to_string(), "HOST");
            statuses.push((status.code(), words));
        }
        told.push(statuses);
        let asked = v1::PullImageRequest {
            auth: Some(auth(PASSWORD)),
            ..request(&private_image, &parent.name)
        };
        node.client().images().pull_image(asked).await?;
        f.node.finish().await?;
    }
    assert_eq!(told[0], told[1]);
    let codes: Vec<_> = told[0].iter().map(|(code, _)| *code).collect();
    let [missing, refused, bad, gone, unknown, wrong] = codes[..] else {
        anyhow::bail!("{codes:?}")
    };
    assert_eq!(
        (missing, refused),
        (Code::NotFound, Code::FailedPrecondition)
    );
    assert_eq!((bad, gone), (Code::InvalidArgument, Code::Unavailable));
    assert_eq!(
        (unknown, wrong),
        (Code::Unauthenticated, Code::Unauthenticated)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_in_no_argument_and_no_variable_of_a_worker() -> Result<()> {
    let f = Slow::start(&name(), "pod").await?;
    let parent = Parent::of(&f.node.name, "one");
    let asked = v1::PullImageRequest {
        auth: Some(v1::AuthConfig {
            username: "joe".to_owned(),
            password: "sesame".to_owned(),
            ..Default::default()
        }),
        ..request(&f.image, &parent.name)
    };
    let client = Client::connect(&f.node.socket()).await?;
    let pull = tokio::spawn(async move { client.images().pull_image(asked).await });
    let worker = parent.worker().await?.as_raw_nonzero();
    // By then it has asked with them.
    let staging = f.node.storage().join("overlay/staging");
    until("layer", || {
        Ok(fs::read_dir(&staging)?.next().is_some().then_some(()))
    })
    .await?;
    for file in ["cmdline", "environ"] {
        let text = fs::read(format!("/proc/{worker}/{file}"))?;
        let text = String::from_utf8_lossy(&text);
        assert!(
            text.contains("pull-worker") || text.contains("PATH="),
            "{text}"
        );
        assert!(!text.contains("sesame"), "{file}");
    }
    f.gate.open();
    pull.await??;
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_no_pull_can_have_is_told_at_the_start() -> Result<()> {
    let wrong = match systemd() {
        true => "/no/slice",
        false => "pulls.slice",
    };
    let options = Options {
        config: format!("[crio.runtime]\nseparate_pull_cgroup = {wrong:?}\n"),
        ..Options::default()
    };
    let error = Node::start(options).await.unwrap_err().to_string();
    for words in ["separate_pull_cgroup", wrong] {
        assert!(error.contains(words), "{error}");
    }
    Ok(())
}
