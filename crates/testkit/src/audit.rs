//! The leak audit: what the kernel and the disk still hold of a node, found without asking the
//! daemon.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};

use crate::node::Node;

/// All that is left of a node whose pods are removed and whose daemon has ended, a line each.
#[must_use]
pub fn left(node: &Node) -> Vec<String> {
    let mut left: Vec<String> = Vec::new();
    left.extend(
        mounts(node)
            .into_iter()
            .map(|path| format!("mount {}", path.display())),
    );
    left.extend(
        processes(node)
            .into_iter()
            .map(|(pid, what)| format!("process {pid} {what}")),
    );
    // The root of a node's cgroups stays, as a directory does; nothing may be in it.
    left.extend(
        cgroups(node)
            .into_iter()
            .filter(|path| !path.ends_with(node.cgroup().trim_start_matches('/')))
            .map(|path| format!("cgroup {}", path.display())),
    );
    for kind in ["netns", "ipcns", "utsns", "userns"] {
        left.extend(
            files(&node.run_dir.join("ns").join(kind))
                .map(|path| format!("pin {}", path.display())),
        );
    }
    for dir in [
        "crio/monitors",
        "crio/operations",
        "crio/pulls",
        "crio/host-ports",
        "crio/id-mapped",
        "crio/seccomp",
        "exits",
        "runtime",
    ] {
        // crun keeps compiled seccomp filters for the next container.
        let files = files(&node.run_dir.join(dir)).filter(|path| !path.ends_with(".cache"));
        left.extend(files.map(|path| format!("file {}", path.display())));
    }
    left.extend(
        files(&node.dir.join("cni/results"))
            .map(|path| format!("network result {}", path.display())),
    );
    left.extend(
        addresses(node)
            .into_iter()
            .map(|address| format!("address {address}")),
    );
    left.extend(rules(node).into_iter().map(|rule| format!("rule {rule}")));
    let records = node.storage_table("containers");
    let directories = files(&records).filter(|path| path.is_dir());
    left.extend(directories.map(|path| format!("record {}", path.display())));
    left.extend(
        layers(node)
            .into_iter()
            .map(|layer| format!("layer {layer}")),
    );
    left
}

pub(crate) fn files(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
}

/// Mounts beneath the node's directories, the innermost first. podman's bind of the store onto
/// itself is podman's.
pub(crate) fn mounts(node: &Node) -> Vec<PathBuf> {
    let of = |dir: &Path| sys::mount::beneath(dir).unwrap_or_default();
    let points = of(&node.run_dir).into_iter().chain(of(&node.dir));
    points
        .filter(|path| *path != node.storage().join("overlay"))
        .collect()
}

/// Processes whose command line names the node.
#[must_use]
pub fn processes(node: &Node) -> Vec<(i32, String)> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in files(Path::new("/proc")) {
        let name = entry
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let Ok(pid) = name.parse::<i32>() else {
            continue;
        };
        let line = fs::read(entry.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if name != own && line.contains(&node.name) {
            found.push((pid, line));
        }
    }
    found
}

/// Cgroups beneath the node's, the innermost first.
pub(crate) fn cgroups(node: &Node) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        files(dir)
            .filter(|path| path.is_dir())
            .for_each(|path| walk(&path, found));
        found.push(dir.to_owned());
    }
    let mut found = Vec::new();
    for hierarchy in sys::cgroup::hierarchies().unwrap_or_default() {
        let dir = hierarchy.mount.join(node.cgroup().trim_start_matches('/'));
        if dir.is_dir() {
            walk(&dir, &mut found);
        }
    }
    found
}

/// Addresses that host-local has given out.
fn addresses(node: &Node) -> Vec<String> {
    let networks = files(&node.ipam());
    let names = networks.flat_map(|dir| files(&dir).collect::<Vec<_>>());
    let names = names.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    names
        .filter(|name| name.parse::<std::net::IpAddr>().is_ok())
        .collect()
}

/// Rules of host ports that lead to an address of the node's pods, by whatever set them.
fn rules(node: &Node) -> Vec<String> {
    let network = node.pod_network();
    let names = |line: &&str| {
        let numbers = line.split(|c: char| !(c.is_ascii_digit() || c == '.'));
        numbers
            .filter_map(|number| number.parse::<Ipv4Addr>().ok())
            .any(|address| u32::from(address) & !15 == u32::from(network))
    };
    let mut found = Vec::new();
    for (program, args) in [
        ("nft", ["list", "ruleset"]),
        ("iptables-legacy-save", ["-t", "nat"]),
    ] {
        let Some(path) = sys::spawn::which(program, "/usr/sbin:/usr/bin:/sbin:/bin") else {
            continue;
        };
        let program = sys::spawn::Program::new(path, std::time::Duration::from_secs(30));
        // Where it fails there are no rules of its kind.
        if let Ok(output) = sys::spawn::run(&program.args(args)) {
            let text = String::from_utf8_lossy(&output.stdout);
            found.extend(
                text.lines()
                    .filter(names)
                    .map(|line| line.trim().to_owned()),
            );
        }
    }
    found
}

/// Takes away the rules of a node whose daemon can't any more.
fn unforward(node: &Node) {
    let ports = network::HostPorts::new(node.run_dir.join("crio/host-ports"), node.host_ports());
    ports.reconcile(&[]).ok();
}

/// What is being unpacked.
pub(crate) fn staged(node: &Node) -> impl Iterator<Item = PathBuf> {
    let home = node.storage().join(node.storage_driver());
    files(&home.join("staging"))
}

/// Layers on disk that no table names.
fn layers(node: &Node) -> Vec<String> {
    let read = |name: &str| {
        fs::read_to_string(node.storage_table("layers").join(name)).unwrap_or_default()
    };
    let tables = read("layers.json") + &read("volatile-layers.json");
    let home = node.storage().join(node.storage_driver());
    let names = files(&home).chain(files(&home.join("dir")));
    let names = names.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let is_layer =
        |name: &String| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut left: Vec<_> = names
        .filter(is_layer)
        .filter(|name| !tables.contains(name.as_str()))
        .collect();
    left.extend(staged(node).map(|path| path.display().to_string()));
    // Without a pod no writable layer is left.
    let volatile: serde_json::Value =
        serde_json::from_str(&read("volatile-layers.json")).unwrap_or_default();
    let volatile = volatile.as_array().cloned().unwrap_or_default();
    left.extend(
        volatile
            .iter()
            .map(|layer| format!("writable {}", layer["id"])),
    );
    left
}

/// Ends everything that lives of a node, as a power cut does: processes, cgroups and mounts.
pub fn halt(node: &Node) {
    // Nothing here can be helped by failing: what stays is found by the next audit.
    for (pid, _) in processes(node) {
        if let Some(pid) = Pid::from_raw(pid) {
            rustix::process::kill_process(pid, Signal::KILL).ok();
        }
    }
    for cgroup in cgroups(node) {
        let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        for pid in text
            .lines()
            .filter_map(|line| Pid::from_raw(line.parse().ok()?))
        {
            rustix::process::kill_process(pid, Signal::KILL).ok();
        }
    }
    for path in mounts(node)
        .into_iter()
        .chain([node.storage().join("overlay")])
    {
        rustix::mount::unmount(&path, UnmountFlags::DETACH).ok();
    }
    for _ in 0..100 {
        let left: Vec<_> = cgroups(node)
            .into_iter()
            .filter(|dir| fs::remove_dir(dir).is_err())
            .collect();
        if left.is_empty() {
            break;
        }
        std::thread::yield_now();
    }
}

/// Removes all that there is of a node, by force.
pub fn clear(node: &Node) {
    halt(node);
    unforward(node);
    bridge_down(node);
    if std::env::var_os("CRIOXIDE_TEST_KEEP").is_none() {
        fs::remove_dir_all(&node.dir).ok();
        fs::remove_dir_all(&node.run_dir).ok();
    }
}

/// Removes the bridge, which the plugin leaves for the next pod.
fn bridge_down(node: &Node) {
    let Some(random) = node.name.strip_prefix("crixt-") else {
        return;
    };
    let bridge = format!("cx{random}");
    for program in ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"] {
        let program = sys::spawn::Program::new(program, std::time::Duration::from_secs(10));
        if sys::spawn::run(&program.args(["link", "delete", bridge.as_str()])).is_ok() {
            return;
        }
    }
}
