//! A static pod with a user namespace of its own (`hostUsers: false`): the kubelet chooses the ids,
//! and its volume belongs to the pod's root.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::{Kubelet, container_id, say};
use crate::node::Node;

/// The pod as the kubelet calls it.
const POD: &str = "users-node1";
/// Ids that the kubelet gives to each pod.
const IDS: u32 = 65_536;

/// Runs the pod, looks at its ids and takes it away.
pub(super) async fn own(kubelet: &Kubelet, node: &Node, image: &str) -> Result<()> {
    let now = Instant::now();
    let script = "trap 'exit 0' TERM; cat /proc/self/uid_map; stat -c owner=%u:%g /data; \
                  touch /data/x && echo written; sleep 1000 & wait";
    let manifest = format!(
        r#"apiVersion: v1
kind: Pod
metadata:
  name: users
  namespace: default
spec:
  hostUsers: false
  terminationGracePeriodSeconds: 10
  containers:
  - name: main
    image: {image}
    command: [sh, -c, "{script}"]
    volumeMounts:
    - {{name: data, mountPath: /data}}
  volumes:
  - name: data
    emptyDir: {{}}
"#
    );
    let path = kubelet.manifests().join("users.yaml");
    sys::durable::replace_volatile(&path, manifest.as_bytes(), 0o644)?;
    let (mut log, mut id) = (String::new(), String::new());
    kubelet
        .until("the pod with users of its own to write", |kubelet| {
            log = kubelet.get(&format!("containerLogs/default/{POD}/main"))?;
            let pod = kubelet.pod(POD)?.unwrap_or_default();
            // Its status comes later than its log.
            id = container_id(&pod).unwrap_or_default();
            Ok(log.contains("written") && !id.is_empty())
        })
        .await?;
    let map = log.lines().next().context("no map")?;
    let map: Vec<u32> = map
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let [0, first, IDS] = map[..] else {
        anyhow::bail!("its map is {map:?}");
    };
    ensure!(first >= IDS, "its first id is {first}");
    ensure!(log.contains("owner=0:0"), "its volume: {log}");
    std::fs::remove_file(path)?;
    // Of what it has in hand the kubelet's list tells nothing.
    let ended = node.exited(&id).await?;
    ensure!(
        ended.exit_code == 0,
        "it ended by its stop signal: {ended:?}"
    );
    say("a pod with users of its own, and its end", now);
    Ok(())
}
