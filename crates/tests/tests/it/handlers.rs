//! A runtime handler that is taken out of the configuration while pods use it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cri::v1;
use rustix::process::{Signal, kill_process};
use testkit::requests::{container, pod};
use tonic::Code;

use crate::fixture::{self, Fixture};
use crate::reload::{DONE, log, reload, with_handler};
use crate::restart::monitor;

fn runtime(f: &Fixture) -> Result<std::path::PathBuf> {
    sys::spawn::which(&f.node.runtime(), &std::env::var("PATH")?).context("the runtime")
}

/// Configures the handler `second`, whose containers are kept where no other handler finds them.
async fn add(f: &Fixture, path: &Path) -> Result<()> {
    let root = f.node.run_dir.join("second");
    let text = format!(
        "[crio.runtime.runtimes.second]\nruntime_path = {path:?}\nruntime_root = {root:?}\n"
    );
    reload(f, &text, DONE).await
}

async fn is_running(f: &Fixture, id: &str) -> Result<bool> {
    Ok(f.node.status(id).await?.state == v1::ContainerState::ContainerRunning as i32)
}

/// Kills a pod's monitor and waits for the successor to have what it takes over.
async fn succeed(f: &Fixture, pod: &str) -> Result<()> {
    let before = log(f)?
        .matches("a successor of the monitor took over")
        .count();
    let old = monitor(&f.node, pod, None).await;
    kill_process(old, Signal::KILL)?;
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    for _ in 0..1500 {
        tick.tick().await;
        if log(f)?
            .matches("a successor of the monitor took over")
            .count()
            > before
        {
            return Ok(());
        }
    }
    anyhow::bail!("no successor:\n{}", f.node.log_tail())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_handler_stays_for_its_pods_over_a_restart() -> Result<()> {
    let mut f = fixture::node().await?;
    add(&f, &runtime(&f)?).await?;
    let first = with_handler(&f, "first", "second").await?;
    let other = with_handler(&f, "other", "second").await?;
    let stays = container("stays", &f.image, &["sleep", "1000"]);
    let stays = f.node.run(&first, stays).await?;
    reload(&f, "", DONE).await?;
    f.node.restart().await?;

    let exec = f.node.exec(&stays, &["true"]).await?;
    assert_eq!(exec.exit_code, 0);
    let update = v1::UpdateContainerResourcesRequest {
        container_id: stays.clone(),
        linux: Some(v1::LinuxContainerResources {
            memory_limit_in_bytes: 96 << 20,
            ..Default::default()
        }),
        ..Default::default()
    };
    let client = f.node.client();
    client.runtime().update_container_resources(update).await?;
    succeed(&f, &first).await?;
    assert!(is_running(&f, &stays).await?, "{}", f.node.log_tail());
    assert_eq!(f.node.exec(&stays, &["true"]).await?.exit_code, 0);
    let late = container("late", &f.image, &["sh", "-c", "exit 5"]);
    let late = f.node.run(&other, late).await?;
    assert_eq!(f.node.exited(&late).await?.exit_code, 5);

    let refused = with_handler(&f, "new", "second").await.unwrap_err();
    let refused = refused.downcast::<tonic::Status>().unwrap();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let warned = log(&f)?.matches("can't be used any more").count();
    assert_eq!(warned, 1, "once for both pods:\n{}", f.node.log_tail());
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_without_its_handler_is_watched_to_its_end() -> Result<()> {
    let mut f = fixture::node().await?;
    add(&f, &runtime(&f)?).await?;
    let go = f.node.dir.join("go");
    fs::create_dir(&go)?;
    let id = with_handler(&f, "old", "second").await?;
    let script = "while [ ! -e /go/now ]; do sleep 0.05; done; exit 7";
    let mut config = container("ends", &f.image, &["sh", "-c", script]);
    config.mounts = vec![v1::Mount {
        container_path: "/go".into(),
        host_path: go.display().to_string(),
        ..Default::default()
    }];
    let ends = f.node.run(&id, config).await?;
    reload(&f, "", DONE).await?;
    f.node.stop_daemon()?;
    // As a daemon wrote it that kept no more than the handler's name.
    let record = f.node.storage_table("containers").join(&id);
    let record = record.join("userdata/request.json");
    let mut text: serde_json::Value = serde_json::from_slice(&fs::read(&record)?)?;
    let made = text["made"].as_object_mut().context("what was made")?;
    made.remove("handler_config").context("the handler")?;
    fs::write(&record, text.to_string())?;
    f.node.start_daemon().await?;

    succeed(&f, &id).await?;
    assert!(is_running(&f, &ends).await?, "{}", f.node.log_tail());
    let refused = f.node.exec(&ends, &["true"]).await.unwrap_err();
    assert!(
        refused.to_string().contains("runtime handler second"),
        "{refused}"
    );
    fs::write(go.join("now"), "")?;
    assert_ne!(f.node.exited(&ends).await?.reason, "Unknown");
    f.node.remove_pod(&id).await?;
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_being_run_keeps_its_handler() -> Result<()> {
    let f = fixture::node().await?;
    let dir = &f.node.dir;
    // It says nothing of itself, so that the file itself is run and no copy of it.
    let slow = dir.join("slow-runtime");
    let (began, go) = (dir.join("began"), dir.join("go-on"));
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in\n*' features '*) exit 1 ;;\n*' create '*)\n  : > {began:?}\n  \
         while [ ! -e {go:?} ]; do sleep 0.05; done ;;\nesac\nexec {:?} \"$@\"\n",
        runtime(&f)?
    );
    fs::write(&slow, script)?;
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755))?;
    add(&f, &slow).await?;
    let mut config = pod("slow", &f.node.logs());
    config.linux.get_or_insert_default().security_context = Some(v1::LinuxSandboxSecurityContext {
        namespace_options: Some(v1::NamespaceOption {
            pid: v1::NamespaceMode::Pod as i32,
            ..Default::default()
        }),
        ..Default::default()
    });
    let request = v1::RunPodSandboxRequest {
        config: Some(config),
        runtime_handler: "second".to_owned(),
    };
    let mut client = f.node.client().runtime();
    let run = tokio::spawn(async move { client.run_pod_sandbox(request).await });
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    while !began.exists() {
        assert!(!run.is_finished(), "{:?}", run.await);
        tick.tick().await;
    }
    reload(&f, "", DONE).await?;
    fs::write(&go, "")?;
    let id = run.await??.into_inner().pod_sandbox_id;
    let own = container("own", &f.image, &["sh", "-c", "exit 3"]);
    let own = f.node.run(&id, own).await?;
    assert_eq!(f.node.exited(&own).await?.exit_code, 3);
    f.node.remove_pod(&id).await?;
    f.node.finish().await
}
