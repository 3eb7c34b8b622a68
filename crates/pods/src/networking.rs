//! A pod's network: attached and detached by CNI plugins.

use std::time::Duration;

use crate::node::{Node, blocking};
use crate::operations::intent::Subject;
use crate::operations::run_pod::Run;
use crate::operations::stage::Doing;
use crate::request::{PodRequest, Protocol, Shared};
use crate::{Error, PodId, namespaces};

/// How long attaching may take: what CRI-O gives its plugins.
const ADD_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// How long detaching may take.
pub(crate) const DEL_TIMEOUT: Duration = Duration::from_secs(60);

/// The stage `network`.
pub(crate) async fn attach(run: &Run) -> Result<(), Error> {
    if run.request.network == Shared::Host {
        return Ok(());
    }
    let (network, pod) = (
        run.node.network.clone(),
        describe(&run.node, &run.id, &run.request),
    );
    let attachment = blocking(&run.node.pools.helpers, move || {
        network.add(&pod, ADD_TIMEOUT)
    })
    .await?;
    run.attachment
        .set(attachment)
        .map_err(|_| Error::Internal("a stage ran twice".to_owned()))
}

/// Detaches a pod, from what the plugins' cache knows.
pub(crate) fn undo<'a>(node: &'a Node, subject: &'a Subject) -> Doing<'a> {
    Box::pin(detach(node, &subject.pod))
}

/// Detaches a pod, from what the plugins' cache knows; nothing to do where it knows nothing.
pub(crate) async fn detach(node: &Node, id: &PodId) -> Result<(), Error> {
    let netns = node.options.namespaces_dir.join("netns").join(id.as_str());
    let network = node.network.clone();
    let id = id.to_string();
    let detach = move || {
        let netns = netns.try_exists().unwrap_or(false).then_some(netns);
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

fn describe(node: &Node, id: &PodId, request: &PodRequest) -> network::Pod {
    let mapped = request
        .port_mappings
        .iter()
        .filter(|mapping| mapping.host_port != 0);
    let port_mappings = mapped.map(|mapping| network::PortMapping {
        host_port: mapping.host_port,
        container_port: mapping.container_port,
        protocol: match mapping.protocol {
            Protocol::Tcp => network::Protocol::Tcp,
            Protocol::Udp => network::Protocol::Udp,
            Protocol::Sctp => network::Protocol::Sctp,
        },
        host_ip: mapping.host_ip.parse().ok(),
    });
    network::Pod {
        id: id.to_string(),
        name: request.key.name.clone(),
        namespace: request.key.namespace.clone(),
        uid: request.key.uid.clone(),
        netns: namespaces::Pins::of(node, id, request).network,
        port_mappings: port_mappings.collect(),
        bandwidth: None,
        cgroup_path: None,
        annotations: request.annotations.clone(),
    }
}
