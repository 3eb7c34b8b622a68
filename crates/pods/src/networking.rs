//! A pod's network: attached and detached by CNI plugins.

use std::path::PathBuf;
use std::time::Duration;

use crate::node::{Node, blocking};
use crate::operations::intent::Subject;
use crate::operations::run_pod::Run;
use crate::operations::stage::Doing;
use crate::request::{PodRequest, PortMapping, Protocol, Shared};
use crate::{Error, PodId, cgroups, namespaces};

/// How long attaching may take: what CRI-O gives its plugins.
const ADD_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// How long detaching may take.
pub(crate) const DEL_TIMEOUT: Duration = Duration::from_secs(60);

/// The stage `network`.
pub(crate) async fn attach(run: &Run) -> Result<(), Error> {
    if run.request.network == Shared::Host {
        return Ok(());
    }
    let (network, pod) = (run.node.network.clone(), describe(run));
    let attachment = blocking(&run.node.pools.helpers, move || {
        network.add(&pod, ADD_TIMEOUT)
    })
    .await?;
    forward(run, &attachment).await?;
    run.attachment
        .set(attachment)
        .map_err(|_| Error::Internal("a stage ran twice".to_owned()))
}

/// Has the node's ports lead to the pod.
async fn forward(run: &Run, attachment: &network::Attachment) -> Result<(), Error> {
    let pod = network::Forwarded {
        pod_id: run.id.to_string(),
        name: run.request.key.record_name(),
        ips: attachment.ips.clone(),
        mappings: port_mappings(&run.request),
    };
    if !run.node.options.host_ports || pod.mappings.is_empty() {
        return Ok(());
    }
    let ports = run.node.host_ports.clone();
    Ok(blocking(&run.node.pools.helpers, move || ports.add(&pod)).await?)
}

/// Brings the node's ports to what the pods that are ready have; what somebody flushed comes back.
pub(crate) async fn reconcile_ports(node: &Node, ready: Vec<String>) -> Result<(), Error> {
    let ready = if node.options.host_ports {
        ready
    } else {
        Vec::new()
    };
    let ports = node.host_ports.clone();
    Ok(blocking(&node.pools.helpers, move || ports.reconcile(&ready)).await?)
}

/// Detaches a pod, from what the plugins' cache knows.
pub(crate) fn undo<'a>(node: &'a Node, subject: &'a Subject) -> Doing<'a> {
    Box::pin(detach(node, &subject.pod))
}

/// Takes a pod's ports of the node away and detaches it, from what the plugins' cache knows; nothing
/// to do where it knows nothing.
pub(crate) async fn detach(node: &Node, id: &PodId) -> Result<(), Error> {
    let netns = node.options.namespaces_dir.join("netns").join(id.as_str());
    detach_from(node, id, Some(netns)).await
}

/// The same for a pod whose network namespace is pinned elsewhere.
pub(crate) async fn detach_from(
    node: &Node,
    id: &PodId,
    netns: Option<PathBuf>,
) -> Result<(), Error> {
    let (network, ports) = (node.network.clone(), node.host_ports.clone());
    let id = id.to_string();
    let detach = move || {
        // Before its address is another pod's.
        ports.remove(&id)?;
        let netns = netns.filter(|pin| pin.try_exists().unwrap_or(false));
        network.del(
            &network::Pod {
                id,
                netns,
                ..network::Pod::default()
            },
            DEL_TIMEOUT,
        )
    };
    Ok(blocking(&node.pools.helpers, detach).await?)
}

/// The rates that a pod's annotations ask for; in the host's network nobody reads them.
///
/// # Errors
/// An annotation that is no quantity.
pub(crate) fn bandwidth(request: &PodRequest) -> Result<Option<network::Bandwidth>, Error> {
    if request.network == Shared::Host {
        return Ok(None);
    }
    let read = network::Bandwidth::from_annotations(&request.annotations);
    read.map_err(|wrong| Error::Invalid(wrong.to_string()))
}

fn describe(run: &Run) -> network::Pod {
    let (node, id, request) = (&run.node, &run.id, &run.request);
    network::Pod {
        id: id.to_string(),
        name: request.key.name.clone(),
        namespace: request.key.namespace.clone(),
        uid: request.key.uid.clone(),
        netns: namespaces::Pins::of(node, id, request).network,
        port_mappings: port_mappings(request),
        bandwidth: run.bandwidth,
        cgroup_path: Some(cgroups::of_pod(&run.cgroup_parent)),
        annotations: request.annotations.clone(),
    }
}

/// The ports of the node that are to lead to the pod; 0 is none.
fn port_mappings(request: &PodRequest) -> Vec<network::PortMapping> {
    let mapped = request
        .port_mappings
        .iter()
        .filter(|mapping| mapping.host_port != 0);
    let mapping = |mapping: &PortMapping| network::PortMapping {
        host_port: mapping.host_port,
        container_port: mapping.container_port,
        protocol: match mapping.protocol {
            Protocol::Tcp => network::Protocol::Tcp,
            Protocol::Udp => network::Protocol::Udp,
            Protocol::Sctp => network::Protocol::Sctp,
        },
        host_ip: mapping.host_ip.parse().ok(),
    };
    mapped.map(mapping).collect()
}
