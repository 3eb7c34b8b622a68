//! Checkpoints by criu: a container's processes and what they changed, written while it runs on, and
//! restored in another pod with the mounts, user and image of the request.
//!
//! They need criu where the daemon's runtimes look for it, and with crun libcriu. Where it is missing
//! the tests say so and prove the error that a caller gets instead.

mod cgroups;
mod hostile;
mod images;
mod terminals;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use cri::v1;
use testkit::node::{Node, Options};
use testkit::requests::{self, container, with_users};
use tonic::Code;

use crate::fixture::{self, Fixture};

/// Counts in its memory, in a file of its own and in its log.
const COUNT: &str = "rm /etc/group; mkdir -p /changed; n=0; \
    while true; do n=$((n+1)); echo $n > /changed/file; echo count $n; sleep 0.1; done";

/// Whether the runtime that is tested can checkpoint here.
pub(crate) fn available(node: &Node) -> bool {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let criu = sys::spawn::which("criu", path).is_some();
    // crun loads it at run time; Debian has it in a package of its own.
    let library = !node.runtime().contains("crun")
        || [
            "/usr/lib/x86_64-linux-gnu",
            "/usr/lib/aarch64-linux-gnu",
            "/usr/lib64",
            "/usr/lib",
        ]
        .iter()
        .any(|dir| Path::new(dir).join("libcriu.so.2").exists());
    criu && library
}

pub(crate) async fn checkpoint(
    node: &Node,
    id: &str,
    location: &Path,
    timeout: i64,
) -> Result<(), tonic::Status> {
    let request = v1::CheckpointContainerRequest {
        container_id: id.to_owned(),
        location: location.display().to_string(),
        timeout,
    };
    let mut client = node.client().runtime();
    client.checkpoint_container(request).await.map(drop)
}

/// Tells that a test can't run here, and proves that a caller is told as clearly.
#[allow(clippy::print_stderr, reason = "a test that is skipped says why")]
async fn refused_without_criu(f: Fixture) -> Result<()> {
    eprintln!(
        "skipped: no criu for {}; its error is tested instead",
        f.node.runtime()
    );
    let pod = f.node.run_pod("without").await?;
    let id = f
        .node
        .run(&pod, container("c", &f.image, &["sleep", "1000"]))
        .await?;
    ensure!(told(&f.node, &id).await? == ("0001-01-01T00:00:00Z".to_owned(), false));
    let location = f.node.dir.join("none.tar");
    let refused = checkpoint(&f.node, &id, &location, 0).await.unwrap_err();
    ensure!(refused.message().contains("criu"), "{refused}");
    ensure!(!location.exists());
    ensure!(
        f.node.exec(&id, &["true"]).await?.exit_code == 0,
        "it runs on"
    );
    f.node.finish().await
}

/// Waits until a container's log holds a count above `least`, and returns the last one.
async fn counted(node: &Node, pod: &str, least: u64) -> Result<u64> {
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(50));
    for _ in 0..400 {
        let log = node.log(pod, "c").unwrap_or_default();
        let mut counts = log
            .lines()
            .filter_map(|line| line.rsplit("count ").next()?.parse().ok());
        if let Some(count) = counts.next_back().filter(|count: &u64| *count > least) {
            return Ok(count);
        }
        tick.tick().await;
    }
    anyhow::bail!(
        "no count above {least}: {}",
        node.log(pod, "c").unwrap_or_default()
    )
}

fn restored(archive: &Path, image: &str) -> v1::ContainerConfig {
    let mut config = container("c", &archive.display().to_string(), &[]);
    config.image.as_mut().unwrap().user_specified_image = image.to_owned();
    config
}

/// The members of an archive: name and data.
fn members(path: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let output = std::process::Command::new("tar")
        .arg("-tf")
        .arg(path)
        .output()?;
    ensure!(
        output.status.success(),
        "tar: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let names = String::from_utf8(output.stdout)?;
    let mut members = Vec::new();
    for name in names.lines() {
        let data = std::process::Command::new("tar")
            .arg("-xOf")
            .arg(path)
            .arg(name)
            .output()?;
        members.push((name.to_owned(), data.stdout));
    }
    Ok(members)
}

fn member<'a>(members: &'a [(String, Vec<u8>)], name: &str) -> Result<&'a [u8]> {
    let found = members.iter().find(|(known, _)| known == name);
    found
        .map(|(_, data)| data.as_slice())
        .with_context(|| name.to_owned())
}

/// When a container's checkpoint was made, and whether it was restored, as its verbose status says.
async fn told(node: &Node, id: &str) -> Result<(String, bool)> {
    let request = v1::ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: true,
    };
    let answer = node.client().runtime().container_status(request).await?;
    let info: serde_json::Value = serde_json::from_str(&answer.into_inner().info["info"])?;
    let at = info["checkpointedAt"].as_str().context("checkpointedAt")?;
    let restored = info["restored"].as_bool().context("restored")?;
    Ok((at.to_owned(), restored))
}

/// What is beside an archive: nothing half-written.
pub(crate) fn only_in(dir: &Path, names: &[&str]) -> Result<()> {
    let mut there: Vec<_> = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    there.sort();
    ensure!(there == names, "{there:?}");
    Ok(())
}

pub(crate) fn archives(node: &Node) -> Result<PathBuf> {
    let dir = node.dir.join("checkpoints");
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_goes_on_in_another_pod_where_its_checkpoint_was() -> Result<()> {
    let mut f = fixture::node().await?;
    if !available(&f.node) {
        return refused_without_criu(f).await;
    }
    let dir = archives(&f.node)?;
    let archive = dir.join("c.tar");
    let pod = f.node.run_pod("old").await?;
    let id = f
        .node
        .run(&pod, container("c", &f.image, &["sh", "-c", COUNT]))
        .await?;
    counted(&f.node, "old", 3).await?;
    checkpoint(&f.node, &id, &archive, 0)
        .await
        .with_context(|| f.node.log_tail())?;
    let before = counted(&f.node, "old", 0).await?;
    counted(&f.node, "old", before + 2)
        .await
        .context("it runs on")?;
    only_in(&dir, &["c.tar"])?;
    ensure!(fs::metadata(&archive)?.permissions().mode() & 0o7777 == 0o600);

    let members = members(&archive)?;
    for name in [
        "spec.dump",
        "dump.log",
        "checkpoint/inventory.img",
        "io.kubernetes.cri-o.LogPath",
    ] {
        ensure!(!member(&members, name)?.is_empty(), "{name}");
    }
    let config: serde_json::Value = serde_json::from_slice(member(&members, "config.dump")?)?;
    let (first, restored_before) = told(&f.node, &id).await?;
    ensure!(first.starts_with("20") && !restored_before, "{first}");
    f.node.restart().await?;
    ensure!(told(&f.node, &id).await?.0 == first, "it is kept");
    ensure!(config["id"] == id.as_str(), "{config}");
    ensure!(
        config["rootfsImageRef"] == f.node.status(&id).await?.image_id.as_str(),
        "{config}"
    );
    let deleted: Vec<String> = serde_json::from_slice(member(&members, "deleted.files")?)?;
    ensure!(deleted == ["/etc/group"], "{deleted:?}");
    let stdio = String::from_utf8_lossy(member(&members, "checkpoint/descriptors.json")?);
    ensure!(stdio.matches("pipe:[").count() == 2, "{stdio}");

    // Again, to the same place: another archive in place of the first.
    checkpoint(&f.node, &id, &archive, 60).await?;
    let again = self::members(&archive)?;
    let again: serde_json::Value = serde_json::from_slice(member(&again, "config.dump")?)?;
    let at = |config: &serde_json::Value| config["checkpointedTime"].as_str().map(str::to_owned);
    ensure!(at(&again) > at(&config), "{again}");
    ensure!(told(&f.node, &id).await?.0 > first, "it is the last one");
    let checkpointed = counted(&f.node, "old", 0).await?;
    f.node.remove_pod(&pod).await?;

    let pod = f.node.run_pod("new").await?;
    let config = restored(&archive, &f.image);
    let id = f
        .node
        .create(&pod, config.clone())
        .await
        .with_context(|| f.node.log_tail())?;
    ensure!(
        f.node.create(&pod, config).await? == id,
        "a repeat finds it"
    );
    f.node.restart().await?;
    let (at, restored_now) = told(&f.node, &id).await?;
    ensure!(at >= first && restored_now, "{at}");
    let created = f.node.status(&id).await?;
    ensure!(created.state == v1::ContainerState::ContainerCreated as i32);
    f.node
        .start_container(&id)
        .await
        .with_context(|| f.node.log_tail())?;
    f.node
        .start_container(&id)
        .await
        .context("a repeat finds it running")?;
    let first = counted(&f.node, "new", 0).await?;
    ensure!(
        first + 5 > 3 && first <= checkpointed + 20,
        "{checkpointed}, then {first}"
    );
    ensure!(
        !f.node.log("new", "c")?.contains(" count 1\n"),
        "it did not begin again"
    );
    counted(&f.node, "new", first + 3).await?;
    let shown = f
        .node
        .exec(
            &id,
            &["sh", "-c", "cat /changed/file; test ! -e /etc/group"],
        )
        .await?;
    ensure!(shown.exit_code == 0, "the file that was removed is there");
    ensure!(
        String::from_utf8_lossy(&shown.stdout)
            .trim()
            .parse::<u64>()?
            >= first
    );
    ensure!(
        !f.node
            .storage()
            .join("overlay-containers")
            .join(&id)
            .join("userdata/restoring")
            .exists()
    );

    // What it writes and how it ends is told after the deaths of the daemon too.
    f.node.restart().await?;
    let then = counted(&f.node, "new", 0).await?;
    counted(&f.node, "new", then + 2).await?;
    f.node
        .exec(&id, &["sh", "-c", "kill -9 1; true"])
        .await
        .ok();
    let request = v1::StopContainerRequest {
        container_id: id.clone(),
        timeout: 0,
    };
    f.node.client().runtime().stop_container(request).await?;
    ensure!(f.node.exited(&id).await?.exit_code == 137);
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_t_be_checkpointed_is_refused_with_its_code_and_nothing_is_left() -> Result<()> {
    let f = fixture::node().await?;
    let dir = archives(&f.node)?;
    let archive = dir.join("c.tar");
    let pod = f.node.run_pod("p").await?;
    let unknown = checkpoint(&f.node, "0000", &archive, 0).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let id = f
        .node
        .create(&pod, container("c", &f.image, &["sh", "-c", COUNT]))
        .await?;
    let created = checkpoint(&f.node, &id, &archive, 0).await.unwrap_err();
    assert_eq!(created.code(), Code::FailedPrecondition, "{created}");
    f.node.start_container(&id).await?;
    for (location, timeout) in [("relative.tar", 0), ("/a/../b.tar", 0), ("/x.tar", -1)] {
        let bad = checkpoint(&f.node, &id, Path::new(location), timeout)
            .await
            .unwrap_err();
        assert_eq!(bad.code(), Code::InvalidArgument, "{location}: {bad}");
    }
    let users = with_users(requests::pod("u", &f.node.logs()));
    let users = f.node.run_pod_config(users).await?;
    let config = container("c", &f.image, &["sleep", "1000"]);
    let of_users = f.node.run(&users, config).await?;
    let refused = checkpoint(&f.node, &of_users, &archive, 0).await;
    assert_eq!(refused.unwrap_err().code(), Code::FailedPrecondition);
    if available(&f.node) {
        let nowhere = dir.join("no/such/dir.tar");
        for location in [nowhere, dir.clone()] {
            let bad = checkpoint(&f.node, &id, &location, 0).await.unwrap_err();
            assert_eq!(bad.code(), Code::InvalidArgument, "{bad}");
        }
    }
    counted(&f.node, "p", 1).await.context("it runs")?;
    only_in(&dir, &[])?;
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_takes_too_long_leaves_nothing_and_the_container_running() -> Result<()> {
    // A runtime that never ends a checkpoint.
    let directory = tempfile::Builder::new()
        .prefix("crixr-")
        .tempdir_in("/var/tmp")?;
    let runtime = std::env::var("CRIOXIDE_TEST_RUNTIME").unwrap_or_else(|_| "runc".to_owned());
    let slow = directory.path().join("slow");
    let script = format!(
        "#!/bin/sh\nfor word; do [ \"$word\" != checkpoint ] || exec sleep 100; done\nexec {runtime} \"$@\"\n"
    );
    fs::write(&slow, script)?;
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755))?;
    let config = format!(
        "[crio.runtime.runtimes.{runtime}]\nruntime_path = \"{}\"\n",
        slow.display()
    );
    let f = fixture::with(Options {
        config,
        ..Options::default()
    })
    .await?;
    if !available(&f.node) {
        return refused_without_criu(f).await;
    }
    let dir = archives(&f.node)?;
    let pod = f.node.run_pod("p").await?;
    let config = container("c", &f.image, &["sh", "-c", COUNT]);
    let id = f.node.run(&pod, config).await?;
    let late = checkpoint(&f.node, &id, &dir.join("c.tar"), 2)
        .await
        .unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    only_in(&dir, &[])?;
    let before = counted(&f.node, "p", 0).await?;
    counted(&f.node, "p", before + 2)
        .await
        .context("it runs on")?;
    let record = f.node.storage().join("overlay-containers").join(&id);
    ensure!(!record.join("userdata/checkpointing").exists());
    f.node.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_that_are_off_are_refused() -> Result<()> {
    let f = fixture::with(Options {
        config: "[crio.runtime]\nenable_criu_support = false\n".to_owned(),
        ..Options::default()
    })
    .await?;
    let pod = f.node.run_pod("p").await?;
    let id = f
        .node
        .run(&pod, container("c", &f.image, &["sleep", "1000"]))
        .await?;
    let archive = f.node.dir.join("c.tar");
    let off = checkpoint(&f.node, &id, &archive, 0).await.unwrap_err();
    assert_eq!(off.code(), Code::FailedPrecondition);
    assert!(off.message().contains("enable_criu_support"), "{off}");
    let mut config = restored(&archive, &f.image);
    config.metadata.as_mut().unwrap().attempt = 1;
    let off = f.node.create(&pod, config).await.unwrap_err();
    assert!(
        format!("{off:#}").contains("enable_criu_support"),
        "{off:#}"
    );
    f.node.finish().await
}
