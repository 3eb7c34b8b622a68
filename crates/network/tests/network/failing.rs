//! Plugins that fail, hang, lie and flood.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use crioxide_network::{Bandwidth, Error, PortMapping, Protocol};
use rustix::process::Pid;
use serde_json::json;

use crate::support::{BUDGET, Netns, Node};

const RESULT: &str = r#"{"cniVersion":"1.0.0","ips":[{"address":"10.9.9.9/24"}]}"#;

fn chain(node: &Node, version: &str, plugins: &[&str]) {
    let plugins: Vec<_> = plugins.iter().map(|kind| json!({"type": kind})).collect();
    node.configure(
        "10.conflist",
        &json!({"cniVersion": version, "name": "fake", "plugins": plugins}),
    );
}

fn good(node: &Node, name: &str) {
    node.fake(
        name,
        &format!("[ $CNI_COMMAND = ADD ] && echo '{RESULT}'; exit 0"),
    );
}

#[test]
fn a_failing_plugin_is_undone_and_its_words_reach_the_caller() {
    let node = Node::new();
    let netns = Netns::new(&node, "f");
    good(&node, "first");
    node.fake(
        "second",
        r#"[ $CNI_COMMAND = DEL ] && exit 0
        echo '{"cniVersion":"1.0.0","code":11,"msg":"busy","details":"come back"}'; exit 1"#,
    );
    chain(&node, "1.0.0", &["first", "second"]);
    let pod = node.pod("a", Some(&netns.path()));
    match node.network().add(&pod, BUDGET).unwrap_err() {
        Error::Plugin {
            plugin,
            code,
            msg,
            details,
            ..
        } => {
            assert_eq!((plugin.as_str(), code), ("second", 11));
            assert_eq!((msg.as_str(), details.as_str()), ("busy", "come back"));
        }
        other => panic!("{other}"),
    }
    let netns = netns.path().display().to_string();
    let calls = [
        ("ADD", "first"),
        ("ADD", "second"),
        ("DEL", "second"),
        ("DEL", "first"),
    ]
    .map(|(command, name)| format!("{command} {name} netns={netns}\n"));
    assert_eq!(node.calls(), calls.concat());
    assert!(node.cached_files().is_empty());
    assert_eq!(
        node.stdin("ADD", "second")["prevResult"]["ips"][0]["address"],
        "10.9.9.9/24"
    );
}

#[test]
fn an_undo_that_fails_is_tried_again_later() {
    let node = Node::new();
    let netns = Netns::new(&node, "u");
    let switch = node.path("fixed");
    node.fake(
        "stuck",
        &format!("[ $CNI_COMMAND = DEL -a -e {} ]", switch.display()),
    );
    chain(&node, "1.0.0", &["stuck"]);
    let network = node.network();
    let pod = node.pod("b", Some(&netns.path()));
    assert!(matches!(
        network.add(&pod, BUDGET),
        Err(Error::PluginDied { .. })
    ));
    assert_eq!(node.cached_files().len(), 1);
    let half = network.cached(&pod.id).unwrap();
    assert_eq!((half.result, half.ips), (None, vec![]));
    assert!(network.del(&pod, BUDGET).is_err());
    assert_eq!(
        node.cached_files().len(),
        1,
        "the entry stays while DEL fails"
    );
    fs::write(switch, "").unwrap();
    network.del(&pod, BUDGET).unwrap();
    assert!(node.cached_files().is_empty());
}

#[test]
fn a_hanging_plugin_is_killed_with_its_children() {
    let node = Node::new();
    let netns = Netns::new(&node, "h");
    let pid = node.path("child");
    node.fake(
        "hangs",
        &format!(
            "[ $CNI_COMMAND = DEL ] && exit 0\nsleep 600 & echo $! >{}; wait",
            pid.display()
        ),
    );
    chain(&node, "1.0.0", &["hangs"]);
    let started = Instant::now();
    let error = node.network().add(
        &node.pod("c", Some(&netns.path())),
        Duration::from_millis(700),
    );
    assert!(
        matches!(error, Err(Error::TimedOut { command: "ADD", .. })),
        "{error:?}"
    );
    assert!(started.elapsed() < Duration::from_secs(20));
    let pid = fs::read_to_string(pid).unwrap();
    let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    // Killed, it may take a moment to end; left alone it would sleep for ten minutes.
    if let Ok(child) = sys::pidfd::open(pid) {
        let ended = sys::pidfd::wait_ended(child.as_fd(), Some(BUDGET)).unwrap();
        assert!(ended, "its child lives");
    }
    assert!(node.cached_files().is_empty());
}

#[test]
fn garbage_and_floods_are_errors() {
    let node = Node::new();
    let netns = Netns::new(&node, "g");
    let network = node.network();
    for (script, expected) in [
        ("echo nonsense", "gave a bad result"),
        ("exit 0", "gave a bad result"),
        ("echo '{\"cniVersion\":\"7.0.0\"}'", "unknown cniVersion"),
        ("head -c 3000000 /dev/zero", "printed more than"),
        ("echo oops >&2; exit 3", "exit code 3, output \"oops\""),
        ("kill -SEGV $$", "signal 11"),
    ] {
        node.fake(
            "bad",
            &format!("[ $CNI_COMMAND = DEL ] && exit 0\n{script}"),
        );
        chain(&node, "1.0.0", &["bad"]);
        let error = network
            .add(&node.pod("d", Some(&netns.path())), BUDGET)
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{script}: {error}");
        assert!(node.cached_files().is_empty());
    }
}

#[test]
fn only_declared_capabilities_are_passed() {
    let node = Node::new();
    let netns = Netns::new(&node, "q");
    for name in ["plain", "all"] {
        good(&node, name);
    }
    node.configure("10.conflist", &json!({"cniVersion": "1.0.0", "name": "fake", "plugins": [
        {"type": "plain", "capabilities": {"portMappings": false}},
        {"type": "all", "capabilities": {"portMappings": true, "bandwidth": true, "cgroupPath": true,
            "io.kubernetes.cri.pod-annotations": true}}]}));
    let network = node.network();
    let mut pod = node.pod("e", Some(&netns.path()));
    pod.port_mappings = vec![PortMapping {
        host_port: 8080,
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: Some("127.0.0.1".parse().unwrap()),
    }];
    pod.annotations = BTreeMap::from([("kubernetes.io/egress-bandwidth".into(), "1M".into())]);
    pod.bandwidth = Bandwidth::from_annotations(&pod.annotations).unwrap();
    pod.cgroup_path = Some("/kubepods/x".into());
    network.add(&pod, BUDGET).unwrap();
    let expected = json!({
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"}],
        "bandwidth": {"egressRate": 1_000_000, "egressBurst": 34_359_738_359_u64},
        "cgroupPath": "/kubepods/x",
        "io.kubernetes.cri.pod-annotations": {"kubernetes.io/egress-bandwidth": "1M"}});
    assert_eq!(node.stdin("ADD", "all")["runtimeConfig"], expected);
    assert!(node.stdin("ADD", "plain").get("runtimeConfig").is_none());

    // A DEL that knows only the id gets the same from the cache.
    network.del(&node.pod("e", None), BUDGET).unwrap();
    assert_eq!(node.stdin("DEL", "all")["runtimeConfig"], expected);
    assert_eq!(
        node.stdin("DEL", "all")["prevResult"]["ips"][0]["address"],
        "10.9.9.9/24"
    );
    assert!(node.calls().ends_with("DEL plain netns=\n"));
}

#[test]
fn status_follows_files_and_plugins() {
    let node = Node::new();
    let network = node.network();
    assert!(network.status().is_err());
    chain(&node, "1.1.0", &["late"]);
    assert!(network.status().unwrap_err().message.contains("\"late\""));
    assert!(matches!(
        network.add(&node.pod("f", Some("/proc/self/ns/net".as_ref())), BUDGET),
        Err(Error::NotReady(_))
    ));
    node.fake("late", "[ $CNI_COMMAND = STATUS ] && { echo '{\"code\":50,\"msg\":\"no datastore\"}'; exit 1; }; exit 0");
    network.status().unwrap();
    assert!(
        network
            .probe(BUDGET)
            .unwrap_err()
            .message
            .contains("no datastore")
    );
    fs::remove_dir_all(node.path("net.d")).unwrap();
    assert!(network.status().is_err());
    fs::create_dir(node.path("net.d")).unwrap();
    chain(&node, "1.1.0", &["late"]);
    network.status().unwrap();
}

#[test]
fn plugins_of_1_1_are_told_what_is_valid() {
    let node = Node::new();
    let netns = Netns::new(&node, "v");
    good(&node, "ours");
    chain(&node, "1.1.0", &["ours"]);
    let network = node.network();
    let (kept, lost) = (
        node.pod("a1", Some(&netns.path())),
        node.pod("b2", Some(&netns.path())),
    );
    network.add(&kept, BUDGET).unwrap();
    network.add(&lost, BUDGET).unwrap();
    let collected = network.gc(std::slice::from_ref(&kept.id), BUDGET).unwrap();
    assert_eq!(collected.removed, [lost.id]);
    let valid = json!([{"containerID": kept.id, "ifname": "eth0"}]);
    let sent = node.stdin("GC", "ours");
    assert_eq!(
        (
            &sent["cni.dev/valid-attachments"],
            &sent["cni.dev/attachments"]
        ),
        (&valid, &valid)
    );
}
