//! A pod's logs in one of its own emptyDir volumes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use cri::v1;
use testkit::node::Options;
use testkit::requests::{container, pod};

use crate::fixture::{self, Places};

const ANNOTATION: &str = "io.kubernetes.cri-o.LinkLogs";

/// The volume of the pod `uid`.
fn volume(uid: &str) -> PathBuf {
    let volumes = Path::new("/var/lib/kubelet/pods").join(uid);
    volumes.join("volumes/kubernetes.io~empty-dir/logging")
}

/// A pod's directory among the kubelet's, which is removed afterwards: its place is not ours to choose.
struct Kubelet {
    uid: String,
    /// Dropped last.
    _places: Places,
}

impl Kubelet {
    fn new(uid: String) -> Result<Self> {
        let places = Places::make(&volume(&uid))?;
        Ok(Self {
            uid,
            _places: places,
        })
    }

    fn volume(&self) -> PathBuf {
        volume(&self.uid)
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        // Of a test that failed.
        let _unmounted = sys::mount::unmount_all(&self.volume());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_logs_are_in_its_volume_where_the_handler_allows_it() -> Result<()> {
    let runtime = std::env::var("CRIOXIDE_TEST_RUNTIME").unwrap_or_else(|_| "runc".to_owned());
    let allowing = Options {
        config: format!(
            "[crio.runtime.runtimes.{runtime}]\nallowed_annotations = [\"{ANNOTATION}\"]\n"
        ),
        ..Options::default()
    };
    let mut f = fixture::with(allowing).await?;
    let own = f.node.dir.file_name().context("a name")?;
    let kubelet = Kubelet::new(format!("uid-{}", own.display()))?;
    let volume = kubelet.volume();
    let mut config = pod("linked", &f.node.logs());
    config.metadata.as_mut().context("metadata")?.uid = kubelet.uid.clone();
    config
        .annotations
        .insert(ANNOTATION.into(), "logging".into());
    let id = f.node.run_pod_config(config.clone()).await?;
    ensure!(sys::mount::is_mount_point(&volume)?);

    let mut talks = container("talks", &f.image, &["sh", "-c", "echo hello; sleep 1000"]);
    talks.log_path = "talks/0.log".into();
    let talks = f.node.run(&id, talks).await?;
    let mut ships = container("ships", &f.image, &["sleep", "1000"]);
    // Its log has the name that its link would have.
    ships.log_path.clear();
    ships.mounts.push(v1::Mount {
        container_path: "/logs".into(),
        host_path: volume.display().to_string(),
        ..Default::default()
    });
    let ships = f.node.run(&id, ships).await?;
    let log = format!("/logs/{talks}.log");
    let script = format!("until grep 'stdout F hello' {log}; do sleep 0.1; done");
    f.said(&ships, &script).await?;
    let own = f.node.logs().join(format!("linked/{ships}.log"));
    ensure!(fs::symlink_metadata(own)?.is_file());
    let written = f.node.exec(&ships, &["touch", "/logs/new"]).await?;
    ensure!(written.exit_code != 0, "the logs are only read");

    f.node.restart().await?;
    f.node.remove_pod(&id).await?;
    ensure!(!sys::mount::is_mount_point(&volume)?);
    ensure!(
        fs::read_dir(&volume)?.next().is_none(),
        "the volume is as it was"
    );

    // A name that leaves the pod's volumes, and one that is not there: the pod runs without.
    for (name, volume) in [("leaves", "../../x"), ("missing", "nowhere")] {
        let metadata = config.metadata.as_mut().context("metadata")?;
        metadata.name = name.into();
        config.annotations.insert(ANNOTATION.into(), volume.into());
        let id = f.node.run_pod_config(config.clone()).await?;
        f.node.remove_pod(&id).await?;
    }
    f.node.finish().await?;

    // Without leave the annotation says nothing.
    let f = fixture::node().await?;
    let mut config = pod("unlinked", &f.node.logs());
    config.metadata.as_mut().context("metadata")?.uid = kubelet.uid.clone();
    config
        .annotations
        .insert(ANNOTATION.into(), "logging".into());
    let id = f.node.run_pod_config(config).await?;
    ensure!(!sys::mount::is_mount_point(&volume)?);
    f.node.remove_pod(&id).await?;
    f.node.finish().await
}
