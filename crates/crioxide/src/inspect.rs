//! Inspection over HTTP on the CRI socket: CRI-O's endpoints that cAdvisor reads, and our own.

use std::path::PathBuf;
use std::sync::Arc;

use http::StatusCode;
use pods::request::Shared;
use pods::{Container, Pods};
use serde_json::{Value, json};
use tokio::sync::watch;

/// What is inspected.
#[derive(Debug, Clone)]
pub(crate) struct Inspect {
    pub(crate) pods: Pods,
    pub(crate) images: Arc<image::Images>,
    /// The configuration in force, as TOML.
    pub(crate) config: watch::Receiver<Arc<str>>,
    /// The graph root.
    pub(crate) root: PathBuf,
    /// The name of its driver.
    pub(crate) driver: &'static str,
}

/// An answer: status, content type, body.
pub(crate) type Answer = (StatusCode, &'static str, String);

impl Inspect {
    /// Answers a GET of `path`.
    pub(crate) async fn answer(&self, path: &str) -> Answer {
        match path {
            "/config" => (
                StatusCode::OK,
                "application/toml",
                self.config.borrow().to_string(),
            ),
            "/info" => document(&self.info()),
            "/operations" => document(&json!(self.pods.operations())),
            "/pulls" => document(&self.pulls()),
            path => match path.strip_prefix("/containers/") {
                // cAdvisor asks once, as soon as it sees a cgroup.
                Some(id) => {
                    self.pods.settled(id).await;
                    self.container(id).await
                }
                None => missing(format!("no such path: {path}")),
            },
        }
    }

    fn info(&self) -> Value {
        let whole = json!([{"container_id": 0, "host_id": 0, "size": 4_294_967_295_u32}]);
        json!({
            "storage_driver": self.driver,
            "storage_image": "",
            "storage_root": self.root,
            "cgroup_driver": match self.pods.keeper().is_systemd() {
                true => "systemd",
                false => "cgroupfs",
            },
            "default_id_mappings": {"uids": whole, "gids": whole},
        })
    }

    fn pulls(&self) -> Value {
        let pulls = self.images.pulls().into_iter().map(|pull| {
            let layers = pull.layers.iter().map(|layer| {
                json!({
                    "digest": layer.digest.to_string(),
                    "state": format!("{:?}", layer.state).to_lowercase(),
                    "bytes": layer.bytes,
                    "total": layer.total,
                })
            });
            json!({
                "reference": pull.reference,
                "mirror": pull.mirror,
                "bytes": pull.bytes,
                "total": pull.total,
                "bytes_per_second": pull.bytes_per_second,
                "layers": layers.collect::<Vec<_>>(),
            })
        });
        Value::Array(pulls.collect())
    }

    async fn container(&self, id: &str) -> Answer {
        let snapshot = self.pods.snapshot();
        let Ok(container) = snapshot.container(id) else {
            return missing(format!("can't find the container with id {id}"));
        };
        let Some(pod) = snapshot.pods.get(&container.pod) else {
            return missing(format!("can't find the sandbox for container id {id}"));
        };
        // One whose bundle is gone has none.
        let spec = self.pods.spec(container.id.as_str()).await;
        let mut spec = spec.unwrap_or_default();
        document(&json!({
            "name": container.request.name,
            "pid": container.phase.init().map_or(0, |init| init.pid),
            "image": container.made.image_name,
            "image_ref": container.made.image_ref,
            "created_time": created(&container),
            "labels": container.request.labels,
            "annotations": container.request.annotations,
            "crio_annotations": spec["annotations"].take(),
            "log_path": container.made.log_path,
            "root": container.made.root,
            "sandbox": container.pod.as_str(),
            "ip_addresses": pod.made.ips,
            "host_network": pod.request.network == Shared::Host,
        }))
    }
}

fn created(container: &Container) -> u64 {
    let since = container
        .created
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn document(value: &Value) -> Answer {
    (StatusCode::OK, "application/json", value.to_string())
}

fn missing(text: String) -> Answer {
    (StatusCode::NOT_FOUND, "text/plain", text)
}
