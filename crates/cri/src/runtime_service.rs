//! The service `runtime.v1.RuntimeService`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pods::Pods;
use serde_json::json;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::errors::status;
use crate::pieces::{self, Answers};
use crate::{checked, containers, events, image_service, metrics, sandboxes, stats, streaming, v1};

/// Who answers, as Version tells.
#[derive(Debug, Clone)]
pub struct Identity {
    /// `cri-o`, for the scripts that match on it.
    pub name: String,
    /// Our version.
    pub version: String,
}

/// Answers the calls about pods and containers.
#[derive(Debug, Clone)]
pub struct RuntimeService {
    pods: Pods,
    identity: Identity,
    /// The configuration in force, as Status shows it: CRI-O's fields.
    config: watch::Receiver<Arc<serde_json::Value>>,
    promises: ::streaming::Promises,
    /// Whether clients may subscribe to events (`enable_pod_events`).
    pod_events: bool,
}

impl RuntimeService {
    /// Makes the service.
    #[must_use]
    pub fn new(
        pods: Pods,
        identity: Identity,
        config: watch::Receiver<Arc<serde_json::Value>>,
        promises: ::streaming::Promises,
    ) -> Self {
        Self {
            pods,
            identity,
            config,
            promises,
            pod_events: false,
        }
    }

    /// Allows clients to subscribe to events.
    #[must_use]
    pub fn with_pod_events(mut self, allowed: bool) -> Self {
        self.pod_events = allowed;
        self
    }

    fn figures(&self) -> stats::Wire {
        let (driver, root) = (self.pods.store_driver(), self.pods.store_root());
        stats::Wire::new(image_service::mountpoint(driver, root).into())
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn not_built<T>(call: &str) -> Answer<T> {
    Err(Status::unimplemented(format!(
        "{call} is not built yet in this version of crioxide"
    )))
}

fn seconds(field: &str, value: i64) -> Result<Duration, Status> {
    u64::try_from(value)
        .map(Duration::from_secs)
        .map_err(|_| checked::invalid(field, format!("{value} is negative")))
}

#[tonic::async_trait]
impl v1::runtime_service_server::RuntimeService for RuntimeService {
    async fn version(&self, _: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
        Ok(Response::new(v1::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: self.identity.name.clone(),
            runtime_version: self.identity.version.clone(),
            runtime_api_version: "v1".to_owned(),
        }))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Answer<v1::RunPodSandboxResponse> {
        let request = checked::pod(request.into_inner())?;
        let pod_sandbox_id = self
            .pods
            .run_pod(request)
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(v1::RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Answer<v1::StopPodSandboxResponse> {
        self.pods
            .stop_pod(&request.into_inner().pod_sandbox_id)
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(v1::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        self.pods
            .remove_pod(&request.into_inner().pod_sandbox_id)
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(v1::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let snapshot = self.pods.snapshot();
        let pod = snapshot
            .pod(&request.pod_sandbox_id)
            .map_err(|error| status(&error))?;
        let mut response = v1::PodSandboxStatusResponse {
            status: Some(sandboxes::status(&pod)),
            ..Default::default()
        };
        if self.pod_events {
            let of_pod = snapshot.containers_of(&pod.id);
            response.containers_statuses = of_pod.map(|one| containers::status(one)).collect();
            response.timestamp = sandboxes::nanos(std::time::SystemTime::now());
        }
        if request.verbose {
            let spec = self
                .pods
                .spec(pod.id.as_str())
                .await
                .map_err(|error| status(&error))?;
            let mut told = json!({
                "runtimeSpec": spec,
                "resources": *pod.resources,
            });
            if let Some(init) = pod.made.infra {
                told["image"] = self.pods.pause_image().into();
                told["pid"] = init.pid.into();
            }
            response.info = info(&told);
        }
        Ok(Response::new(response))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Answer<v1::ListPodSandboxResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let items = sandboxes::list(&self.pods.snapshot(), &filter);
        Ok(Response::new(v1::ListPodSandboxResponse { items }))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Answer<v1::CreateContainerResponse> {
        let request = request.into_inner();
        let container = checked::container(request.config)?;
        let created = self
            .pods
            .create_container(&request.pod_sandbox_id, container)
            .await;
        let container_id = created.map_err(|error| status(&error))?;
        Ok(Response::new(v1::CreateContainerResponse { container_id }))
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Answer<v1::StartContainerResponse> {
        self.pods
            .start_container(&request.into_inner().container_id)
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(v1::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Answer<v1::StopContainerResponse> {
        let request = request.into_inner();
        let timeout = seconds("timeout", request.timeout)?;
        self.pods
            .stop_container(&request.container_id, timeout)
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(v1::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Answer<v1::RemoveContainerResponse> {
        self.pods
            .remove_container(&request.into_inner().container_id)
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(v1::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Answer<v1::ListContainersResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let containers = containers::list(&self.pods.snapshot(), &filter);
        Ok(Response::new(v1::ListContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Answer<v1::ContainerStatusResponse> {
        let request = request.into_inner();
        let container = self
            .pods
            .snapshot()
            .container(&request.container_id)
            .map_err(|error| status(&error))?;
        let mut response = v1::ContainerStatusResponse {
            status: Some(containers::status(&container)),
            ..Default::default()
        };
        if request.verbose {
            let spec = self
                .pods
                .spec(container.id.as_str())
                .await
                .map_err(|error| status(&error))?;
            let mut told = json!({
                "sandboxID": container.pod.as_str(),
                "pid": container.phase.init().map_or(0, |init| init.pid),
                "runtimeSpec": spec,
                "privileged": container.request.privileged,
            });
            if self.pods.checkpoints() {
                told["checkpointedAt"] = containers::checkpointed_at(&container).into();
                told["restored"] = container.made.restored.is_some().into();
            }
            response.info = info(&told);
        }
        Ok(Response::new(response))
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Answer<v1::ReopenContainerLogResponse> {
        self.pods
            .reopen_log(&request.into_inner().container_id)
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(v1::ReopenContainerLogResponse {}))
    }

    async fn exec_sync(
        &self,
        request: Request<v1::ExecSyncRequest>,
    ) -> Answer<v1::ExecSyncResponse> {
        let request = request.into_inner();
        let timeout = seconds("timeout", request.timeout)?;
        let done = self
            .pods
            .exec_sync(&request.container_id, request.cmd, timeout)
            .await;
        let done = done.map_err(|error| status(&error))?;
        Ok(Response::new(v1::ExecSyncResponse {
            stdout: done.stdout,
            stderr: done.stderr,
            exit_code: done.code,
        }))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        let network = self.pods.network_status().await;
        let condition = |kind: &str, missing: Option<(&str, String)>| v1::RuntimeCondition {
            r#type: kind.to_owned(),
            status: missing.is_none(),
            reason: missing
                .as_ref()
                .map_or(String::new(), |(reason, _)| (*reason).to_owned()),
            message: missing.map_or(String::new(), |(_, message)| message),
        };
        let missing = network.err().map(|error| {
            (
                "NetworkPluginNotReady",
                format!("Network plugin returns error: {error}"),
            )
        });
        let user_namespaces = self.pods.user_namespaces().await;
        let handlers = self
            .pods
            .handlers()
            .all()
            .into_iter()
            .map(|(name, handler)| v1::RuntimeHandler {
                name,
                features: Some(v1::RuntimeHandlerFeatures {
                    recursive_read_only_mounts: handler.features.recursive_readonly,
                    user_namespaces: user_namespaces && handler.features.user_namespaces,
                }),
            });
        let mut response = v1::StatusResponse {
            status: Some(v1::RuntimeStatus {
                conditions: vec![
                    condition("RuntimeReady", None),
                    condition("NetworkReady", missing),
                ],
            }),
            runtime_handlers: handlers.collect(),
            features: Some(v1::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: user_namespaces,
                ..Default::default()
            }),
            ..Default::default()
        };
        if request.into_inner().verbose {
            response.info = HashMap::from([(
                "config".to_owned(),
                json!({
                    "crio": **self.config.borrow(),
                    "sandboxImage": self.pods.pause_image(),
                })
                .to_string(),
            )]);
        }
        Ok(Response::new(response))
    }

    async fn runtime_config(
        &self,
        _: Request<v1::RuntimeConfigRequest>,
    ) -> Answer<v1::RuntimeConfigResponse> {
        let cgroup_driver = if self.pods.keeper().is_systemd() {
            v1::CgroupDriver::Systemd as i32
        } else {
            v1::CgroupDriver::Cgroupfs as i32
        };
        Ok(Response::new(v1::RuntimeConfigResponse {
            linux: Some(v1::LinuxRuntimeConfiguration { cgroup_driver }),
        }))
    }

    async fn update_runtime_config(
        &self,
        _: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Answer<v1::UpdateRuntimeConfigResponse> {
        // The pod address range is the network plugins' business.
        Ok(Response::new(v1::UpdateRuntimeConfigResponse {}))
    }

    type StreamPodSandboxesStream = Answers<v1::StreamPodSandboxesResponse>;
    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let items = sandboxes::list(&self.pods.snapshot(), &filter);
        pieces::answer(items, |pod_sandboxes| v1::StreamPodSandboxesResponse {
            pod_sandboxes,
        })
    }

    type StreamContainersStream = Answers<v1::StreamContainersResponse>;
    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let items = containers::list(&self.pods.snapshot(), &filter);
        pieces::answer(items, |containers| v1::StreamContainersResponse {
            containers,
        })
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Answer<v1::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let update = checked::resources(request.linux.unwrap_or_default());
        self.pods
            .update_container(&request.container_id, update)
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(v1::UpdateContainerResourcesResponse {}))
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Answer<v1::ExecResponse> {
        streaming::exec(&self.pods, &self.promises, request.into_inner()).map(Response::new)
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Answer<v1::AttachResponse> {
        streaming::attach(&self.pods, &self.promises, request.into_inner()).map(Response::new)
    }

    async fn port_forward(
        &self,
        request: Request<v1::PortForwardRequest>,
    ) -> Answer<v1::PortForwardResponse> {
        streaming::port_forward(&self.pods, &self.promises, request.into_inner()).map(Response::new)
    }

    async fn container_stats(
        &self,
        request: Request<v1::ContainerStatsRequest>,
    ) -> Answer<v1::ContainerStatsResponse> {
        let id = request.into_inner().container_id;
        let stats = Some(self.figures().container(&self.pods, &id).await?);
        Ok(Response::new(v1::ContainerStatsResponse { stats }))
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Answer<v1::ListContainerStatsResponse> {
        let filter = request.into_inner().filter;
        let stats = self.figures().containers(&self.pods, filter).await;
        Ok(Response::new(v1::ListContainerStatsResponse { stats }))
    }

    type StreamContainerStatsStream = Answers<v1::StreamContainerStatsResponse>;
    async fn stream_container_stats(
        &self,
        request: Request<v1::StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        let filter = request.into_inner().filter;
        let list = self.figures().containers(&self.pods, filter).await;
        let message = |container_stats| v1::StreamContainerStatsResponse { container_stats };
        pieces::answer(list, message)
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Answer<v1::PodSandboxStatsResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let stats = Some(self.figures().pod(&self.pods, &id).await?);
        Ok(Response::new(v1::PodSandboxStatsResponse { stats }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Answer<v1::ListPodSandboxStatsResponse> {
        let filter = request.into_inner().filter;
        let stats = self.figures().pods(&self.pods, filter).await;
        Ok(Response::new(v1::ListPodSandboxStatsResponse { stats }))
    }

    type StreamPodSandboxStatsStream = Answers<v1::StreamPodSandboxStatsResponse>;
    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        let filter = request.into_inner().filter;
        let list = self.figures().pods(&self.pods, filter).await;
        let message = |pod_sandbox_stats| v1::StreamPodSandboxStatsResponse { pod_sandbox_stats };
        pieces::answer(list, message)
    }

    async fn checkpoint_container(
        &self,
        request: Request<v1::CheckpointContainerRequest>,
    ) -> Answer<v1::CheckpointContainerResponse> {
        let request = request.into_inner();
        let (location, timeout) = checked::checkpoint(&request)?;
        self.pods
            .checkpoint_container(&request.container_id, location, timeout)
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(v1::CheckpointContainerResponse {}))
    }

    async fn checkpoint_pod(
        &self,
        _: Request<v1::CheckpointPodRequest>,
    ) -> Answer<v1::CheckpointPodResponse> {
        not_built("CheckpointPod")
    }

    async fn restore_pod(
        &self,
        _: Request<v1::RestorePodRequest>,
    ) -> Answer<v1::RestorePodResponse> {
        not_built("RestorePod")
    }

    type GetContainerEventsStream = Answers<v1::ContainerEventResponse>;
    async fn get_container_events(
        &self,
        _: Request<v1::GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        if !self.pod_events {
            return Err(Status::failed_precondition(
                "pod events are not enabled: set enable_pod_events in crio.conf",
            ));
        }
        Ok(Response::new(events::stream(&self.pods)))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Answer<v1::ListMetricDescriptorsResponse> {
        let descriptors = metrics::descriptors(self.pods.metrics_selection());
        Ok(Response::new(v1::ListMetricDescriptorsResponse {
            descriptors,
        }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Answer<v1::ListPodSandboxMetricsResponse> {
        let pod_metrics = metrics::pods(&self.pods).await;
        Ok(Response::new(v1::ListPodSandboxMetricsResponse {
            pod_metrics,
        }))
    }

    type StreamPodSandboxMetricsStream = Answers<v1::StreamPodSandboxMetricsResponse>;
    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        let list = metrics::pods(&self.pods).await;
        let message = |pod_sandbox_metrics| v1::StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics,
        };
        pieces::answer(list, message)
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<v1::UpdatePodSandboxResourcesResponse> {
        let request = request.into_inner();
        let update = checked::pod_resources(request.overhead, request.resources);
        self.pods
            .update_pod(&request.pod_sandbox_id, update)
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(v1::UpdatePodSandboxResourcesResponse {}))
    }
}

/// CRI-O's verbose information: one JSON document under `info`.
pub(crate) fn info(document: &serde_json::Value) -> HashMap<String, String> {
    HashMap::from([("info".to_owned(), document.to_string())])
}
