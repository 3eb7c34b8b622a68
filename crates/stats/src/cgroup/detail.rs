//! Figures in detail, for the metrics that name them.

use super::{Dir, MICROSECOND, Reader, Version, memory};
use crate::figures::{CpuDetail, Device, HugePages, MemoryDetail};
use crate::file::Buffer;
use crate::text;

/// The unit of `cpuacct.stat`, in nanoseconds: 100 a second on every architecture that we run on
/// (`USER_HZ`, `time(7)`).
const TICK: u64 = 10_000_000;

impl Reader {
    /// Processor time in detail.
    #[must_use]
    pub fn cpu(&self, path: &str) -> Option<CpuDetail> {
        let buffer = &mut Buffer::default();
        let (version, dir) = self.dir("cpuacct", path)?;
        let mut cpu = match version {
            Version::One => cpu_v1(&dir, buffer)?,
            Version::Two => cpu_v2(&dir, buffer)?,
        };
        if version == Version::One
            && let Some((_, dir)) = self.dir("cpu", path)
            && let Some(stat) = dir.text("cpu.stat", buffer)
        {
            [cpu.periods, cpu.throttled_periods, cpu.throttled] =
                text::fields(stat, ["nr_periods", "nr_throttled", "throttled_time"]);
        }
        Some(cpu)
    }

    /// Memory in detail.
    #[must_use]
    pub fn memory(&self, path: &str) -> Option<MemoryDetail> {
        let buffer = &mut Buffer::default();
        let (version, dir) = self.dir("memory", path)?;
        let basic = memory(version, &dir, buffer)?;
        let mut detail = match version {
            Version::One => detail_v1(&dir, buffer),
            Version::Two => detail_v2(&dir, buffer),
        };
        detail.basic = basic;
        Some(detail)
    }

    /// Input and output by device.
    #[must_use]
    pub fn io(&self, path: &str) -> Option<Vec<Device>> {
        let (version, dir) = self.dir("blkio", path)?;
        let buffer = &mut Buffer::default();
        match version {
            Version::One => {
                let mut read = |name| dir.text(name, buffer).map(str::to_owned);
                let bytes = read("blkio.throttle.io_service_bytes_recursive")?;
                let operations = read("blkio.throttle.io_serviced_recursive")?;
                Some(text::io_v1(&bytes, &operations))
            }
            Version::Two => Some(text::io_v2(dir.text("io.stat", buffer)?)),
        }
    }

    /// Huge pages by size.
    #[must_use]
    pub fn huge_pages(&self, path: &str) -> Vec<HugePages> {
        let Some((version, dir)) = self.dir("hugetlb", path) else {
            return Vec::new();
        };
        let (usage, peak) = match version {
            Version::One => ("usage_in_bytes", Some("max_usage_in_bytes")),
            Version::Two => ("current", None),
        };
        let buffer = &mut Buffer::default();
        let names = std::fs::read_dir(dir.path())
            .into_iter()
            .flatten()
            .flatten();
        let sizes = names.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(usage)?;
            let size = size.strip_suffix('.')?;
            (!size.contains('.')).then(|| size.to_owned())
        });
        let mut read = |size: &str, file: &str| {
            dir.text(&format!("hugetlb.{size}.{file}"), buffer)
                .and_then(text::number)
        };
        let mut found: Vec<_> = sizes
            .filter_map(|size| {
                Some(HugePages {
                    usage: read(&size, usage)?,
                    peak: peak.and_then(|peak| read(&size, peak)),
                    size,
                })
            })
            .collect();
        found.sort_by(|a, b| a.size.cmp(&b.size));
        found
    }
}

fn cpu_v1(dir: &Dir, buffer: &mut Buffer) -> Option<CpuDetail> {
    let total = text::number(dir.text("cpuacct.usage", buffer)?)?;
    let [user, system] = text::fields(dir.text("cpuacct.stat", buffer)?, ["user", "system"]);
    let per_cpu = dir.text("cpuacct.usage_percpu", buffer).map(text::list);
    Some(CpuDetail {
        total,
        user: user.saturating_mul(TICK),
        system: system.saturating_mul(TICK),
        per_cpu: per_cpu.unwrap_or_default(),
        ..CpuDetail::default()
    })
}

fn cpu_v2(dir: &Dir, buffer: &mut Buffer) -> Option<CpuDetail> {
    let [total, user, system, periods, throttled_periods, throttled] = text::fields(
        dir.text("cpu.stat", buffer)?,
        [
            "usage_usec",
            "user_usec",
            "system_usec",
            "nr_periods",
            "nr_throttled",
            "throttled_usec",
        ],
    );
    Some(CpuDetail {
        total: total.saturating_mul(MICROSECOND),
        user: user.saturating_mul(MICROSECOND),
        system: system.saturating_mul(MICROSECOND),
        per_cpu: Vec::new(),
        periods,
        throttled_periods,
        throttled: throttled.saturating_mul(MICROSECOND),
    })
}

fn detail_v1(dir: &Dir, buffer: &mut Buffer) -> MemoryDetail {
    let [cache, mapped, faults, major] = text::fields(
        dir.text("memory.stat", buffer).unwrap_or_default(),
        ["total_cache", "total_mapped_file", "pgfault", "pgmajfault"],
    );
    let [oom_kills] = text::fields(
        dir.text("memory.oom_control", buffer).unwrap_or_default(),
        ["oom_kill"],
    );
    let mut read = |name| dir.text(name, buffer).and_then(text::number).unwrap_or(0);
    MemoryDetail {
        cache,
        mapped,
        kernel: read("memory.kmem.usage_in_bytes"),
        peak: read("memory.max_usage_in_bytes"),
        limit_hits: read("memory.failcnt"),
        oom_kills,
        own_faults: (faults, major),
        ..MemoryDetail::default()
    }
}

/// `memory.peak` came with Linux 5.19, the field `kernel` with 5.18.
fn detail_v2(dir: &Dir, buffer: &mut Buffer) -> MemoryDetail {
    let [cache, mapped, kernel, stack, slab, faults, major] = text::fields(
        dir.text("memory.stat", buffer).unwrap_or_default(),
        [
            "file",
            "file_mapped",
            "kernel",
            "kernel_stack",
            "slab",
            "pgfault",
            "pgmajfault",
        ],
    );
    let [limit_hits, oom_kills] = text::fields(
        dir.text("memory.events", buffer).unwrap_or_default(),
        ["max", "oom_kill"],
    );
    let peak = dir.text("memory.peak", buffer).and_then(text::number);
    let kernel = if kernel > 0 {
        kernel
    } else {
        stack.saturating_add(slab)
    };
    MemoryDetail {
        cache,
        mapped,
        kernel,
        peak: peak.unwrap_or(0),
        limit_hits,
        oom_kills,
        // Version 2 counts those beneath it always.
        own_faults: (faults, major),
        ..MemoryDetail::default()
    }
}
