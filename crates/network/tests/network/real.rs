//! Debian's plugins in namespaces of our own.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{BUDGET, Netns, Node, tool};

/// A bridge network with addresses of its own; the bridge is deleted at the end.
struct Bridge {
    node: Node,
    name: String,
}

impl Bridge {
    fn new() -> Self {
        let node = Node::new();
        let name = format!("cxb{}", node.serial);
        let subnet = format!("10.{}.{}", 200 + node.serial % 50, node.serial / 50 % 250);
        node.configure(
            "10-test.conflist",
            &json!({"cniVersion": "1.0.0", "name": "test-net", "plugins": [
                {"type": "bridge", "bridge": name, "isGateway": true, "ipMasq": false, "ipam": {
                    "type": "host-local", "dataDir": node.path("ipam"),
                    "ranges": [[{"subnet": format!("{subnet}.0/24")}],
                               [{"subnet": format!("fd00:{:x}::/64", node.serial)}]]}},
                {"type": "portmap", "capabilities": {"portMappings": true}}
            ]}),
        );
        Self { node, name }
    }

    /// Addresses that host-local holds.
    fn reserved(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.node.path("ipam/test-net"))
            .into_iter()
            .flatten()
            .flatten();
        let paths = entries.map(|entry| entry.path());
        paths
            .filter(|path| {
                let name = path.file_name().unwrap().to_str().unwrap();
                name.starts_with(|c: char| c.is_ascii_hexdigit()) && name != "lock"
            })
            .collect()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        tool("/usr/sbin/ip", &["link", "del", &self.name]);
    }
}

#[test]
fn a_pod_is_attached_and_detached() {
    let bridge = Bridge::new();
    let network = bridge.node.network();
    network.status().unwrap();
    let netns = Netns::new(&bridge.node, "a");
    let pod = bridge.node.pod("a", Some(&netns.path()));

    let attached = network.add(&pod, BUDGET).unwrap();
    assert_eq!(
        (attached.network.as_str(), attached.ips.len()),
        ("test-net", 2)
    );
    assert!(attached.ips[0].is_ipv4() && attached.ips[1].is_ipv6());
    assert!(
        netns
            .ip(&["addr", "show", "eth0"])
            .contains(&attached.ips[0].to_string())
    );
    assert_eq!(network.cached(&pod.id), Some(attached.clone()));
    assert_eq!(network.attachments().unwrap(), [attached]);
    assert_eq!(bridge.reserved().len(), 2);

    network.del(&pod, BUDGET).unwrap();
    assert!(!netns.ip(&["link"]).contains("eth0"));
    assert_eq!(network.cached(&pod.id), None);
    assert!(bridge.reserved().is_empty());
    network.del(&pod, BUDGET).unwrap();
}

#[test]
fn a_pod_is_detached_after_its_namespace_and_the_configuration_went() {
    let bridge = Bridge::new();
    let netns = Netns::new(&bridge.node, "r");
    let mut pod = bridge.node.pod("r", Some(&netns.path()));
    bridge.node.network().add(&pod, BUDGET).unwrap();
    assert_eq!(bridge.reserved().len(), 2);

    let stale = netns.path();
    drop(netns);
    fs::remove_file(bridge.node.path("net.d/10-test.conflist")).unwrap();
    let network = bridge.node.network();
    assert!(
        network
            .status()
            .unwrap_err()
            .message
            .contains("Has your network provider started?")
    );
    pod.netns = Some(stale);
    network.del(&pod, BUDGET).unwrap();
    assert!(bridge.reserved().is_empty());
    assert!(bridge.node.cached_files().is_empty());
}

#[test]
fn collecting_frees_what_belongs_to_no_pod() {
    let bridge = Bridge::new();
    let network = bridge.node.network();
    let (kept_ns, lost_ns) = (Netns::new(&bridge.node, "k"), Netns::new(&bridge.node, "l"));
    let kept = bridge.node.pod("a1", Some(&kept_ns.path()));
    let lost = bridge.node.pod("b2", Some(&lost_ns.path()));
    network.add(&kept, BUDGET).unwrap();
    network.add(&lost, BUDGET).unwrap();
    drop(lost_ns);
    let foreign = "podman-net-c3-eth0";
    let entry = json!({"kind": "cniCacheV1", "containerId": "c3", "ifName": "eth0",
        "networkName": "podman-net", "config": "eyJuYW1lIjoicG9kbWFuLW5ldCIsInR5cGUiOiJicmlkZ2UifQ=="});
    fs::write(
        bridge.node.path("cni/results").join(foreign),
        entry.to_string(),
    )
    .unwrap();

    let collected = network.gc(std::slice::from_ref(&kept.id), BUDGET).unwrap();
    assert!(collected.failed.is_empty(), "{collected:?}");
    assert_eq!(collected.removed, [lost.id]);
    assert_eq!(bridge.reserved().len(), 2);
    assert!(network.cached(&kept.id).is_some());
    assert!(bridge.node.cached_files().contains(&foreign.to_owned()));
    network.del(&kept, BUDGET).unwrap();
}

#[test]
fn an_entry_torn_by_a_power_cut_still_frees_the_addresses() {
    let bridge = Bridge::new();
    let network = bridge.node.network();
    let netns = Netns::new(&bridge.node, "t");
    let pod = bridge.node.pod("d4", Some(&netns.path()));
    network.add(&pod, BUDGET).unwrap();
    let file = bridge.node.cached_files().remove(0);
    fs::write(bridge.node.path("cni/results").join(file), "").unwrap();
    drop(netns);
    let collected = network.gc(&[], BUDGET).unwrap();
    assert!(collected.failed.is_empty(), "{collected:?}");
    assert!(bridge.reserved().is_empty() && bridge.node.cached_files().is_empty());
}

#[test]
fn a_chain_that_fails_after_the_bridge_leaves_no_address() {
    let bridge = Bridge::new();
    let file = bridge.node.path("net.d/10-test.conflist");
    let mut list: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    list["plugins"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "refuses"}));
    bridge.node.configure("10-test.conflist", &list);
    bridge.node.fake("refuses", "[ $CNI_COMMAND = DEL ]");
    let netns = Netns::new(&bridge.node, "p");
    let pod = bridge.node.pod("e5", Some(&netns.path()));
    assert!(bridge.node.network().add(&pod, BUDGET).is_err());
    assert!(bridge.reserved().is_empty() && bridge.node.cached_files().is_empty());
    assert!(!netns.ip(&["link"]).contains("eth0"));
}
