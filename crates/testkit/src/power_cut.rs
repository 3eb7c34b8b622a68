//! A power cut in two halves, for a guest that is ended between them: what was told, or happened
//! while no daemon was there, must be found again on the disk.
#![allow(clippy::print_stdout, reason = "who cuts the power waits for a word")]

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use cri::v1;

use crate::image_maker::ImageMaker;
use crate::node::{Node, Options};
use crate::registry::Registry;
use crate::requests;

/// The node's random part, the same in both halves.
const NAME: &str = "c0ffee";
/// What is printed when the power may be cut.
const WORD: &str = "CUT THE POWER";

/// Leaves a node with a container that exited while its daemon was dead, another that exited
/// before, and one that runs; says the word and waits.
///
/// # Errors
/// A call failed.
pub async fn before() -> Result<()> {
    let directory = tempfile::Builder::new()
        .prefix("crixw-")
        .tempdir_in("/var/tmp")?;
    let registry = Registry::start(directory.path())?;
    registry.push("cut/busybox", "1", &ImageMaker::busybox().build())?;
    let mut node = Node::start_as(NAME, options(&registry.addr().to_string())).await?;
    let image = registry.reference("cut/busybox", "1");
    node.pull(&image).await?;
    let pod = node
        .run_pod_config(requests::host_network_pod("cut", &node.logs()))
        .await?;
    let go = node.dir.join("go");
    fs::create_dir_all(&go)?;
    let script = "while [ ! -e /go/now ]; do sleep 0.05; done; exit 7";
    let mut waits = requests::container("waits", &image, &["sh", "-c", script]);
    waits.mounts.push(v1::Mount {
        container_path: "/go".into(),
        host_path: go.display().to_string(),
        ..Default::default()
    });
    let waits = node.run(&pod, waits).await?;
    let ended = requests::container("ended", &image, &["sh", "-c", "exit 3"]);
    let ended = node.run(&pod, ended).await?;
    node.exited(&ended).await?;
    let runs = requests::container("runs", &image, &["sleep", "100000"]);
    let runs = node.run(&pod, runs).await?;
    let ids = format!("{waits} {ended} {runs}");
    sys::durable::replace(&node.dir.join("ids"), ids.as_bytes(), 0o600)?;
    node.kill_daemon()?;
    fs::write(go.join("now"), "")?;
    let copy = node.storage().join("overlay-containers").join(&waits);
    let copy = copy.join("userdata/exit");
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    while !copy.try_exists()? {
        tick.tick().await;
    }
    println!("{WORD}");
    std::future::pending::<()>().await;
    Ok(())
}

/// Starts a daemon on what is left and looks for it.
///
/// # Errors
/// Something is lost.
pub async fn after() -> Result<()> {
    let node = Node::start_as(NAME, options("127.0.0.1:1")).await?;
    let ids = fs::read_to_string(node.dir.join("ids"))?;
    let ids: Vec<_> = ids.split(' ').collect();
    let [waits, ended, runs] = ids[..] else {
        anyhow::bail!("ids {ids:?}");
    };
    for (id, code) in [(waits, 7), (ended, 3)] {
        let status = node.exited(id).await?;
        ensure!(status.exit_code == code, "{code}: {status:?}");
        println!("exit code {code} is there");
    }
    let status = node.exited(runs).await?;
    println!("the one that ran: {} {}", status.exit_code, status.reason);
    let mut images = node.client().images();
    let list = images.list_images(v1::ListImagesRequest::default()).await?;
    ensure!(list.into_inner().images.len() == 1, "the image is there");
    println!("the image is there");
    node.finish().await
}

fn options(registry: &str) -> Options {
    Options {
        insecure: vec![registry.to_owned()],
        log_level: "info".to_owned(),
        ..Options::default()
    }
}
