//! What CRI-O left: its records have no file of ours, and its monitors are not ours.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Signal, kill_process};
use testkit::requests::{bind, container};

use crate::fixture;
use crate::restart::monitor;

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_crio_are_ended_and_taken_away_when_we_take_its_place() -> Result<()> {
    let mut f = fixture::node().await?;
    let pod = f.node.run_pod("p").await?;
    let seen = f.node.dir.join("seen");
    fs::create_dir(&seen)?;
    let mut config = container(
        "c",
        &f.image,
        &[
            "sh",
            "-c",
            "trap 'echo bye >/seen/end; exit' TERM; while :; do sleep 0.1; done",
        ],
    );
    config.mounts = vec![bind("/seen", &seen)];
    let id = f.node.run(&pod, config).await?;
    f.node.exec(&id, &["true"]).await?;
    let pid = f.pid(&id).await?;
    f.node.kill_daemon()?;
    // All that is different in a record of CRI-O's: its processes, files and annotations are the same.
    for record in [&pod, &id] {
        let record = f.node.storage().join("overlay-containers").join(record);
        fs::remove_file(record.join("userdata/request.json"))?;
    }
    kill_process(monitor(&f.node, &pod, None).await, Signal::KILL)?;

    f.node.start_daemon().await?;
    // Whatever makes something waits until that is done.
    let new = f.node.run_pod("p").await?;
    ensure!(new != pod);
    ensure!(fs::read_to_string(seen.join("end")).context("it was not asked")? == "bye\n");
    ensure!(!fs::exists(format!("/proc/{pid}/root/seen"))?);
    for record in [&pod, &id] {
        let record = f.node.storage().join("overlay-containers").join(record);
        ensure!(!record.try_exists()?, "{}", record.display());
    }
    let id = f
        .node
        .run(&new, container("c", &f.image, &["true"]))
        .await?;
    assert_eq!(f.node.exited(&id).await?.exit_code, 0);
    f.node.finish().await
}
