//! What the kernel, the disk and the daemon hold of a node at one moment, seen from outside.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::audit;
use crate::node::Node;

/// Headings of the rows that a [`Census`] prints.
pub(super) const HEAD: &str = "\
| | mounts | namespaces (machine) | pins | cgroups | processes | addresses | daemon's descriptors | daemon's memory |
|---|---:|---:|---:|---:|---:|---:|---:|---|";

/// The figures.
#[derive(Debug, Clone)]
pub(super) struct Census {
    mounts: usize,
    namespaces: usize,
    pins: usize,
    cgroups: usize,
    processes: usize,
    addresses: usize,
    descriptors: usize,
    memory: Memory,
}

impl Census {
    /// Counts; `addresses` is where host-local keeps its reservations.
    pub(super) fn of(node: &Node, addresses: &Path) -> Result<Self> {
        let daemon = node.daemon_pid().context("a daemon")?;
        let pins = ["netns", "ipcns", "utsns", "userns", "pidns"];
        Ok(Self {
            mounts: audit::mounts(node).len(),
            namespaces: namespaces(),
            pins: pins
                .iter()
                .map(|kind| audit::files(&node.run_dir.join("ns").join(kind)).count())
                .sum(),
            cgroups: audit::cgroups(node).len(),
            processes: processes(node).len(),
            addresses: audit::files(&addresses.join("soak"))
                .filter_map(|path| path.file_name()?.to_str()?.parse::<std::net::IpAddr>().ok())
                .count(),
            descriptors: audit::files(Path::new(&format!("/proc/{daemon}/fd"))).count(),
            memory: Memory::of(daemon)?,
        })
    }

    /// What there is more of than before, by name. Memory is not compared, nor are descriptors and
    /// namespaces for one or two: pools' threads end and other processes of the machine come.
    pub(super) fn left_since(&self, before: &Self) -> Vec<String> {
        let more = [
            ("mounts", self.mounts, before.mounts),
            ("namespaces", self.namespaces, before.namespaces + 2),
            ("pins", self.pins, before.pins),
            ("cgroups", self.cgroups, before.cgroups),
            ("processes", self.processes, before.processes),
            ("addresses", self.addresses, before.addresses),
            ("descriptors", self.descriptors, before.descriptors + 2),
        ];
        more.iter()
            .filter(|(_, now, before)| now > before)
            .map(|(name, now, before)| format!("{now} {name}, before {before}"))
            .collect()
    }
}

impl fmt::Display for Census {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            self.mounts,
            self.namespaces,
            self.pins,
            self.cgroups,
            self.processes,
            self.addresses,
            self.descriptors,
            self.memory
        )
    }
}

/// Memory of a process as `smaps_rollup` says it (`proc_pid_smaps(5)`), in kB.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    proportional: u64,
    private_dirty: u64,
}

impl Memory {
    /// Of one process.
    pub(super) fn of(pid: i32) -> Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name))?;
            value.split_whitespace().next()?.parse().ok()
        };
        Ok(Self {
            proportional: field("Pss:").with_context(|| format!("Pss in {path}"))?,
            private_dirty: field("Private_Dirty:").context("Private_Dirty")?,
        })
    }

    /// Of an average one of these processes.
    pub(super) fn average(pids: &BTreeSet<i32>) -> Result<Self> {
        let all: Vec<_> = pids
            .iter()
            .map(|pid| Self::of(*pid))
            .collect::<Result<_>>()?;
        let count = u64::try_from(all.len().max(1))?;
        Ok(Self {
            proportional: all.iter().map(|one| one.proportional).sum::<u64>() / count,
            private_dirty: all.iter().map(|one| one.private_dirty).sum::<u64>() / count,
        })
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (proportional, private) = (self.proportional, self.private_dirty);
        write!(
            formatter,
            "PSS {proportional} kB, private dirty {private} kB"
        )
    }
}

/// Processes that name the node, or are in its cgroups.
pub(super) fn processes(node: &Node) -> BTreeSet<i32> {
    let mut found: BTreeSet<_> = audit::processes(node)
        .into_iter()
        .map(|(pid, _)| pid)
        .collect();
    for cgroup in audit::cgroups(node) {
        let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    found
}

/// Different namespaces that processes of this machine are in.
fn namespaces() -> usize {
    let processes = audit::files(Path::new("/proc"));
    let links = processes.flat_map(|process| audit::files(&process.join("ns")).collect::<Vec<_>>());
    links
        // A process may have ended meanwhile.
        .filter_map(|link| fs::read_link(link).ok())
        .collect::<BTreeSet<_>>()
        .len()
}
