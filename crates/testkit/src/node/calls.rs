//! What tests ask of a node, a method per call: with what they mostly want, and the words of the
//! daemon's log where it fails.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cri::v1;

use super::{Node, START, systemd};
use crate::requests;

impl Node {
    /// Runs a pod of the given name and returns its id.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn run_pod(&self, name: &str) -> Result<String> {
        self.run_pod_config(requests::pod(name, &self.logs())).await
    }

    /// Runs a pod and returns its id.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn run_pod_config(&self, config: v1::PodSandboxConfig) -> Result<String> {
        let config = self.placed(config);
        let request = v1::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: String::new(),
        };
        Ok(self
            .client()
            .runtime()
            .run_pod_sandbox(request)
            .await?
            .into_inner()
            .pod_sandbox_id)
    }

    /// A pod as [`Self::run_pod_config`] asks for it: with systemd in the node's slice.
    #[must_use]
    pub fn placed(&self, mut config: v1::PodSandboxConfig) -> v1::PodSandboxConfig {
        if systemd() {
            let linux = config.linux.get_or_insert_default();
            if linux.cgroup_parent.is_empty() {
                linux.cgroup_parent = self.slice();
            }
        }
        config
    }

    /// Creates a container and returns its id.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn create(&self, pod: &str, config: v1::ContainerConfig) -> Result<String> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config),
            sandbox_config: None,
        };
        Ok(self
            .client()
            .runtime()
            .create_container(request)
            .await?
            .into_inner()
            .container_id)
    }

    /// Starts a container.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        let request = v1::StartContainerRequest {
            container_id: id.to_owned(),
        };
        self.client().runtime().start_container(request).await?;
        Ok(())
    }

    /// Creates and starts a container and returns its id.
    ///
    /// # Errors
    /// Those of the calls.
    pub async fn run(&self, pod: &str, config: v1::ContainerConfig) -> Result<String> {
        let id = self.create(pod, config).await?;
        self.start_container(&id).await?;
        Ok(id)
    }

    /// A container's status.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn status(&self, id: &str) -> Result<v1::ContainerStatus> {
        let request = v1::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let response = self
            .client()
            .runtime()
            .container_status(request)
            .await?
            .into_inner();
        response.status.context("a status")
    }

    /// Waits until a container has exited.
    ///
    /// # Errors
    /// It does not, within a minute.
    pub async fn exited(&self, id: &str) -> Result<v1::ContainerStatus> {
        let deadline = tokio::time::Instant::now() + START;
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        loop {
            tick.tick().await;
            let status = self.status(id).await?;
            if status.state == v1::ContainerState::ContainerExited as i32 {
                return Ok(status);
            }
            ensure!(
                tokio::time::Instant::now() < deadline,
                "container {id} does not exit:\n{}",
                self.log_tail()
            );
        }
    }

    /// Runs a command in a container.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn exec(&self, id: &str, command: &[&str]) -> Result<v1::ExecSyncResponse> {
        let request = v1::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.iter().map(|part| (*part).to_owned()).collect(),
            timeout: 60,
        };
        Ok(self
            .client()
            .runtime()
            .exec_sync(request)
            .await?
            .into_inner())
    }

    /// Stops a pod.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn stop_pod(&self, id: &str) -> Result<()> {
        let request = v1::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.client().runtime().stop_pod_sandbox(request).await?;
        Ok(())
    }

    /// Removes a pod, by force.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn remove_pod(&self, id: &str) -> Result<()> {
        let request = v1::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        self.client().runtime().remove_pod_sandbox(request).await?;
        Ok(())
    }

    /// Pulls an image and returns its id.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn pull(&self, image: &str) -> Result<String> {
        let request = v1::PullImageRequest {
            image: Some(v1::ImageSpec {
                image: image.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        Ok(self
            .client()
            .images()
            .pull_image(request)
            .await?
            .into_inner()
            .image_ref)
    }

    /// All images.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn images(&self) -> Result<Vec<v1::Image>> {
        let request = v1::ListImagesRequest::default();
        let listed = self.client().images().list_images(request).await?;
        Ok(listed.into_inner().images)
    }

    /// An image's status.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn image_status(
        &self,
        image: &str,
        verbose: bool,
    ) -> Result<v1::ImageStatusResponse> {
        let image = v1::ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        };
        let request = v1::ImageStatusRequest {
            image: Some(image),
            verbose,
        };
        let answer = self.client().images().image_status(request).await?;
        Ok(answer.into_inner())
    }

    /// Text of a container's log.
    ///
    /// # Errors
    /// There is none.
    pub fn log(&self, pod: &str, container: &str) -> Result<String> {
        let path = self.logs().join(pod).join(format!("{container}.log"));
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    }
}
