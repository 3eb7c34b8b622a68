//! A node with a registry that stops within a layer, and the parents that its pulls may be beneath.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use cri::v1;
use rustix::process::Pid;
use serde_json::Value;
use sys::cgroup::Cgroup;
use tempfile::TempDir;
use testkit::client::Client;
use testkit::image_maker::{Compression, Entry, ImageMaker};
use testkit::node::{Node, Options, systemd};
use testkit::registry::Registry;
use tokio::task::JoinHandle;
use tonic::Status;

use super::gate::Gate;
use crate::pulls::nothing_is_left;

/// A node whose pulls have cgroups of their own, and a registry that only lets small blobs through.
pub(super) struct Slow {
    pub(super) node: Node,
    pub(super) registry: Registry,
    pub(super) gate: Gate,
    pub(super) image: String,
    pub(super) directory: TempDir,
}

/// The socket of metrics in the directory of a [`Slow`].
pub(super) const METRICS: &str = "metrics.sock";

/// A parent of cgroups.
pub(super) struct Parent {
    /// As a request or the configuration names it.
    pub(super) name: String,
    /// As `/proc/PID/cgroup` does.
    pub(super) path: String,
}

impl Parent {
    /// Beneath the cgroup of the node of that name.
    pub(super) fn of(node: &str, own: &str) -> Self {
        let slice = format!("{node}-{own}.slice");
        match systemd() {
            true => Self {
                path: format!("/crixt.slice/{node}.slice/{slice}"),
                name: slice,
            },
            false => Self {
                path: format!("/{node}/{own}"),
                name: format!("/{node}/{own}"),
            },
        }
    }

    /// The workers in it.
    pub(super) fn workers(&self) -> Result<Vec<Pid>> {
        Ok(Cgroup::at(&self.path)?.processes()?)
    }

    pub(super) fn is_there(&self) -> Result<bool> {
        Ok(Cgroup::at(&self.path)?.paths().any(Path::is_dir))
    }

    /// The one worker in it, once it runs: before, it may not yet be in all of its cgroups.
    pub(super) async fn worker(&self) -> Result<Pid> {
        let runs = |pid: &Pid| {
            let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
            line.is_ok_and(|line| String::from_utf8_lossy(&line).contains("pull-worker"))
        };
        until("a worker", || Ok(self.workers()?.into_iter().find(runs))).await
    }
}

/// Waits until `look` finds something, for half a minute.
pub(super) async fn until<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    for _ in 0..3000 {
        tick.tick().await;
        if let Some(found) = look()? {
            return Ok(found);
        }
    }
    anyhow::bail!("no {what} within half a minute")
}

/// A name for a node.
pub(super) fn name() -> String {
    let random = sys::random::bytes::<3>();
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Slow {
    /// With that value of the option.
    pub(super) async fn start(random: &str, option: &str) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("crixr-")
            .tempdir_in("/var/tmp")?;
        let registry = Registry::start(directory.path())?;
        let large: Vec<u8> = (0..2_u32 << 20).flat_map(u32::to_le_bytes).collect();
        let image = ImageMaker::busybox()
            .compression(Compression::None)
            .layer(&[Entry::file("large", 0o644, large)])
            .build();
        registry.push("test/slow", "1", &image)?;
        let gate = Gate::start(registry.addr()).await?;
        let options = Options {
            config: format!(
                "[crio.runtime]\nseparate_pull_cgroup = {option:?}\n[crio.metrics]\n\
                 enable_metrics = true\nmetrics_port = 0\nmetrics_socket = {:?}\n",
                directory.path().join(METRICS)
            ),
            insecure: vec![gate.addr.to_string(), registry.addr().to_string()],
            ..Options::default()
        };
        Ok(Self {
            node: Node::start_as(random, options).await?,
            image: format!("{}/test/slow:1", gate.addr),
            registry,
            gate,
            directory,
        })
    }

    /// Starts a pull over a connection of its own.
    pub(super) async fn pull(&self, parent: &str) -> Result<JoinHandle<Result<String, Status>>> {
        let client = Client::connect(&self.node.socket()).await?;
        let request = request(&self.image, parent);
        Ok(tokio::spawn(async move {
            let pulled = client.images().pull_image(request).await?;
            Ok(pulled.into_inner().image_ref)
        }))
    }

    pub(super) async fn pulls(&self) -> Result<Vec<Value>> {
        let text = self.node.client().inspect("/pulls").await?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Waits for what a pull's end takes away.
    pub(super) async fn nothing_is_left(&self, parent: &Parent, when: &str) -> Result<()> {
        until("end of the workers", || {
            Ok(parent.workers()?.is_empty().then_some(()))
        })
        .await?;
        let records = self.node.run_dir.join("crio/pulls");
        until("end of the records", || {
            Ok(fs::read_dir(&records)?.next().is_none().then_some(()))
        })
        .await?;
        for dir in Cgroup::at(&parent.path)?.paths().filter(|dir| dir.is_dir()) {
            for entry in fs::read_dir(dir)? {
                let name = entry?.file_name();
                let left = name.to_string_lossy().starts_with("crio-pull-image-");
                ensure!(!left, "{when}: {}", dir.join(name).display());
            }
        }
        nothing_is_left(&self.node, when)
    }
}

pub(super) fn request(image: &str, parent: &str) -> v1::PullImageRequest {
    let linux = v1::LinuxPodSandboxConfig {
        cgroup_parent: parent.to_owned(),
        ..Default::default()
    };
    v1::PullImageRequest {
        image: Some(v1::ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        }),
        sandbox_config: Some(v1::PodSandboxConfig {
            linux: Some(linux),
            ..Default::default()
        }),
        auth: None,
    }
}
