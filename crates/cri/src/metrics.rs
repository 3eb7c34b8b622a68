//! Metrics of pods and containers on the wire.

use std::time::SystemTime;

use pods::statistics::{ContainerMetrics, PodMetrics};
use pods::{Container, Pod, Pods};
use stats::metrics::{Kind, LABELS, Metric, Row, Selection};

use crate::sandboxes::nanos;
use crate::v1;

/// What cAdvisor and CRI-O call the container of what belongs to the pod as a whole.
const POD: &str = "POD";

/// ListMetricDescriptors: the metrics that are on.
pub(crate) fn descriptors(selection: &Selection) -> Vec<v1::MetricDescriptor> {
    selection.rows().map(descriptor).collect()
}

fn descriptor(row: &Row) -> v1::MetricDescriptor {
    let labels = LABELS.iter().chain(row.labels);
    v1::MetricDescriptor {
        name: row.name.to_owned(),
        help: row.help.to_owned(),
        label_keys: labels.map(ToString::to_string).collect(),
    }
}

/// ListPodSandboxMetrics.
pub(crate) async fn pods(pods: &Pods) -> Vec<v1::PodSandboxMetrics> {
    pods.metrics().await.into_iter().map(pod).collect()
}

fn pod(pod: PodMetrics) -> v1::PodSandboxMetrics {
    let labels = pod_labels(&pod.pod);
    v1::PodSandboxMetrics {
        pod_sandbox_id: pod.pod.id.to_string(),
        metrics: metrics(pod.metrics, pod.at, &labels),
        container_metrics: pod
            .containers
            .into_iter()
            .map(|one| container(one, &pod.pod))
            .collect(),
    }
}

fn container(of: ContainerMetrics, pod: &Pod) -> v1::ContainerMetrics {
    let labels = container_labels(&of.container, pod);
    v1::ContainerMetrics {
        container_id: of.container.id.to_string(),
        metrics: metrics(of.metrics, of.at, &labels),
    }
}

/// Values of [`LABELS`], as CRI-O has them.
fn pod_labels(pod: &Pod) -> [String; 6] {
    let key = &pod.request.key;
    [
        pod.id.to_string(),
        POD.to_owned(),
        String::new(),
        key.namespace.clone(),
        key.name.clone(),
        POD.to_owned(),
    ]
}

fn container_labels(container: &Container, pod: &Pod) -> [String; 6] {
    let key = &pod.request.key;
    let image = match container.made.image_name.as_str() {
        "" => &container.made.image_ref,
        name => name,
    };
    [
        container.id.to_string(),
        container.request.record_name(key),
        image.to_owned(),
        key.namespace.clone(),
        key.name.clone(),
        container.request.name.clone(),
    ]
}

fn metrics(metrics: Vec<Metric>, at: SystemTime, labels: &[String]) -> Vec<v1::Metric> {
    let timestamp = nanos(at);
    let on_wire = |metric: Metric| v1::Metric {
        name: metric.row.name.to_owned(),
        timestamp,
        metric_type: match metric.row.kind {
            Kind::Counter => v1::MetricType::Counter as i32,
            Kind::Gauge => v1::MetricType::Gauge as i32,
        },
        label_values: labels.iter().cloned().chain(metric.labels).collect(),
        value: Some(v1::UInt64Value {
            value: metric.value,
        }),
    };
    metrics.into_iter().map(on_wire).collect()
}
