//! Figures, in the kernel's units brought to nanoseconds and bytes.

use std::time::SystemTime;

/// What a cgroup uses, as far as its controllers tell.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    /// Processor time.
    pub cpu: Option<Cpu>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Stalls, told on version 2 only.
    pub pressure: Pressures,
}

impl Usage {
    /// Both together. Stalls can't be added: two processes may wait at the same time.
    #[must_use]
    pub fn plus(self, other: &Self) -> Self {
        let sum = |a: u64, b: u64| a.saturating_add(b);
        let both = |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| sum(a, b));
        let cpu = match (&self.cpu, &other.cpu) {
            (Some(a), Some(b)) => Some(Cpu {
                total: sum(a.total, b.total),
            }),
            (a, b) => a.clone().or_else(|| b.clone()),
        };
        let memory = match (&self.memory, &other.memory) {
            (Some(a), Some(b)) => Some(Memory {
                usage: sum(a.usage, b.usage),
                working_set: sum(a.working_set, b.working_set),
                rss: sum(a.rss, b.rss),
                limit: both(a.limit, b.limit),
                faults: sum(a.faults, b.faults),
                major_faults: sum(a.major_faults, b.major_faults),
                swap: sum(a.swap, b.swap),
                swap_limit: both(a.swap_limit, b.swap_limit),
            }),
            (a, b) => a.clone().or_else(|| b.clone()),
        };
        Self {
            cpu,
            memory,
            pressure: Pressures::default(),
        }
    }
}

/// A moment and what was found then.
#[derive(Debug, Clone, PartialEq)]
pub struct At<T> {
    /// When it was read.
    pub at: SystemTime,
    /// What was read.
    pub value: T,
}

/// Processor time, in nanoseconds since the cgroup was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpu {
    /// All of it.
    pub total: u64,
}

/// Processor time in detail.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuDetail {
    /// All of it, in nanoseconds.
    pub total: u64,
    /// In user mode.
    pub user: u64,
    /// In the kernel.
    pub system: u64,
    /// By processor; version 1 only.
    pub per_cpu: Vec<u64>,
    /// Periods in which a quota was in force.
    pub periods: u64,
    /// Those in which it was used up.
    pub throttled_periods: u64,
    /// Nanoseconds for which it held processes back.
    pub throttled: u64,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// All that is charged.
    pub usage: u64,
    /// That without the file pages that are easily given up.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// The limit; none where there is none.
    pub limit: Option<u64>,
    /// Page faults.
    pub faults: u64,
    /// Those that needed a disk.
    pub major_faults: u64,
    /// Swap in use.
    pub swap: u64,
    /// Most swap that it may use; none where there is no limit.
    pub swap_limit: Option<u64>,
}

/// The node's memory and swap, in bytes: a container without a limit is bounded by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Memory.
    pub memory: u64,
    /// Swap.
    pub swap: u64,
}

impl Node {
    /// Asks the kernel. `sysinfo(2)`.
    #[must_use]
    pub fn now() -> Self {
        let info = rustix::system::sysinfo();
        let bytes = |units: u64| units.saturating_mul(info.mem_unit.into());
        Self {
            memory: bytes(info.totalram),
            swap: bytes(info.totalswap),
        }
    }
}

impl Memory {
    /// What may be used beyond the working set: bounded by the limit and by the node's memory.
    #[must_use]
    pub fn available(&self, node: Node) -> u64 {
        self.limit
            .map_or(node.memory, |limit| limit.min(node.memory))
            .saturating_sub(self.working_set)
    }

    /// What of the node's swap may still be used.
    #[must_use]
    pub fn swap_available(&self, node: Node) -> u64 {
        self.swap_limit
            .map_or(node.swap, |limit| limit.min(node.swap))
            .saturating_sub(self.swap)
    }
}

/// Memory in detail, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryDetail {
    /// What the short form tells.
    pub basic: Memory,
    /// Page cache.
    pub cache: u64,
    /// The kernel's own.
    pub kernel: u64,
    /// Mapped files.
    pub mapped: u64,
    /// Most that was ever in use.
    pub peak: u64,
    /// How often the limit was hit.
    pub limit_hits: u64,
    /// Processes that were killed for memory.
    pub oom_kills: u64,
    /// Page faults of the cgroup itself, without those beneath it: minor and major.
    pub own_faults: (u64, u64),
}

/// Stalls by resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressures {
    /// Waiting for a processor.
    pub cpu: Option<Pressure>,
    /// Waiting for memory.
    pub memory: Option<Pressure>,
    /// Waiting for a disk.
    pub io: Option<Pressure>,
}

/// Pressure stall information of one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// At least one process stalled.
    pub some: Stall,
    /// All of them stalled.
    pub full: Stall,
}

/// Time stalled.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// In microseconds.
    pub total: u64,
    /// Share of the last 10 seconds, in per cent.
    pub avg10: f64,
    /// Share of the last minute.
    pub avg60: f64,
    /// Share of the last five minutes.
    pub avg300: f64,
}

/// Input and output on one block device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// Major and minor number.
    pub number: (u32, u32),
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugePages {
    /// The size, as the kernel names it: `2MB`.
    pub size: String,
    /// In use.
    pub usage: u64,
    /// Most that was ever in use; version 1 only.
    pub peak: Option<u64>,
}

/// Threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Threads {
    /// How many there are.
    pub current: u64,
    /// How many there may be; none where there is no limit.
    pub limit: Option<u64>,
}

/// Traffic of a network interface, as seen from inside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// What came in.
    pub received: Traffic,
    /// What went out.
    pub sent: Traffic,
}

/// Counters of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Errors.
    pub errors: u64,
    /// Dropped packets.
    pub dropped: u64,
}

/// What files take on a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes of the blocks that are allocated.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_available_is_bounded_by_limit_and_node() {
        let memory = |limit, working_set| Memory {
            limit,
            working_set,
            ..Memory::default()
        };
        let node = Node {
            memory: 1000,
            swap: 0,
        };
        for (limit, working_set, available) in [
            (Some(100), 30, 70),
            (Some(100), 130, 0),
            (None, 30, 970),
            (Some(5000), 30, 970),
        ] {
            assert_eq!(
                memory(limit, working_set).available(node),
                available,
                "{limit:?} {working_set}"
            );
        }
    }
}
