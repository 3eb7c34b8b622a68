//! The values of the metrics that are on.

use std::path::Path;
use std::time::SystemTime;

use super::{Group, Row, Selection, rows};
use crate::cgroup::Reader;
use crate::figures::{Device, DiskUsage, Interface, MemoryDetail, Pressure};
use crate::processes;

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;
/// Microseconds in a second.
const SECOND_US: u64 = 1_000_000;

/// A value of a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    /// Which metric.
    pub row: &'static Row,
    /// Values of the row's own labels.
    pub labels: Vec<String>,
    /// The value.
    pub value: u64,
}

/// A container, as far as its metrics need it.
#[derive(Debug, Clone, Default)]
pub struct Container {
    /// Path of its cgroup.
    pub cgroup: String,
    /// Its first process.
    pub init: Option<i32>,
    /// When it was created.
    pub created: Option<SystemTime>,
    /// Its limits.
    pub limits: Limits,
    /// What its writable layer takes.
    pub disk: Option<DiskUsage>,
    /// The file system that the layer is on.
    pub file_system: Option<FileSystem>,
}

/// Limits as they were asked for; zero is none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of memory and swap together.
    pub memory_swap: i64,
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds per period.
    pub cpu_quota: i64,
    /// Weight.
    pub cpu_shares: i64,
}

/// A file system's size.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileSystem {
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
    /// Inodes that are free.
    pub inodes_free: u64,
}

/// Reads the metrics of one group.
type Read = fn(&mut Values, &Reader, &Container);

#[derive(Debug, Default)]
struct Values(Vec<Metric>);

impl Values {
    fn add(&mut self, row: &'static Row, value: u64) {
        self.labelled(row, &[], value);
    }

    fn labelled(&mut self, row: &'static Row, labels: &[&str], value: u64) {
        debug_assert_eq!(labels.len(), row.labels.len(), "{}", row.name);
        self.0.push(Metric {
            row,
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            value,
        });
    }
}

/// The metrics of a container that are on. Blocks: reads its cgroup and, for the group of
/// processes, their descriptors.
#[must_use]
pub fn container(reader: &Reader, container: &Container, selection: &Selection) -> Vec<Metric> {
    let values = &mut Values::default();
    values.add(&rows::LAST_SEEN, seconds(SystemTime::now()));
    let each: [(Group, Read); 9] = [
        (Group::Cpu, cpu),
        (Group::Disk, disk),
        (Group::DiskIo, disk_io),
        (Group::Hugetlb, huge_pages),
        (Group::Memory, memory),
        (Group::Oom, oom),
        (Group::Process, process),
        (Group::Spec, spec),
        (Group::Pressure, pressure),
    ];
    for (group, read) in each {
        if selection.has(group) {
            read(values, reader, container);
        }
    }
    std::mem::take(&mut values.0)
}

/// The metrics of a pod's interfaces.
#[must_use]
pub fn network(interfaces: &[Interface]) -> Vec<Metric> {
    let mut values = Values::default();
    for interface in interfaces {
        let (received, sent) = (&interface.received, &interface.sent);
        for (row, value) in [
            (&rows::NETWORK_RECEIVE_BYTES, received.bytes),
            (&rows::NETWORK_RECEIVE_PACKETS, received.packets),
            (&rows::NETWORK_RECEIVE_PACKETS_DROPPED, received.dropped),
            (&rows::NETWORK_RECEIVE_ERRORS, received.errors),
            (&rows::NETWORK_TRANSMIT_BYTES, sent.bytes),
            (&rows::NETWORK_TRANSMIT_PACKETS, sent.packets),
            (&rows::NETWORK_TRANSMIT_PACKETS_DROPPED, sent.dropped),
            (&rows::NETWORK_TRANSMIT_ERRORS, sent.errors),
        ] {
            values.labelled(row, &[&interface.name], value);
        }
    }
    values.0
}

fn cpu(values: &mut Values, reader: &Reader, container: &Container) {
    let Some(cpu) = reader.cpu(&container.cgroup) else {
        return;
    };
    values.add(&rows::CPU_USER_SECONDS, cpu.user / SECOND);
    values.add(&rows::CPU_SYSTEM_SECONDS, cpu.system / SECOND);
    values.add(&rows::CPU_CFS_PERIODS, cpu.periods);
    values.add(&rows::CPU_CFS_THROTTLED_PERIODS, cpu.throttled_periods);
    values.add(&rows::CPU_CFS_THROTTLED_SECONDS, cpu.throttled / SECOND);
    if cpu.per_cpu.is_empty() {
        values.labelled(&rows::CPU_USAGE_SECONDS, &["total"], cpu.total / SECOND);
    }
    for (number, used) in cpu
        .per_cpu
        .iter()
        .enumerate()
        .filter(|(_, used)| **used > 0)
    {
        let name = format!("cpu{number:02}");
        values.labelled(&rows::CPU_USAGE_SECONDS, &[&name], used / SECOND);
    }
}

fn disk(values: &mut Values, _: &Reader, container: &Container) {
    if let Some(file_system) = container.file_system {
        values.add(&rows::FS_INODES_FREE, file_system.inodes_free);
        values.add(&rows::FS_INODES, file_system.inodes);
        values.add(&rows::FS_LIMIT_BYTES, file_system.bytes);
    }
    if let Some(usage) = container.disk {
        values.add(&rows::FS_USAGE_BYTES, usage.bytes);
    }
}

fn disk_io(values: &mut Values, reader: &Reader, container: &Container) {
    for device in reader.io(&container.cgroup).unwrap_or_default() {
        let name = &device_name(&device);
        values.labelled(&rows::FS_READS_BYTES, &[name], device.read_bytes);
        values.labelled(&rows::FS_READS, &[name], device.reads);
        values.labelled(&rows::FS_WRITES_BYTES, &[name], device.written_bytes);
        values.labelled(&rows::FS_WRITES, &[name], device.writes);
        let (major, minor) = (device.number.0.to_string(), device.number.1.to_string());
        for (operation, bytes) in [("Read", device.read_bytes), ("Write", device.written_bytes)] {
            let labels: [&str; 4] = [name, &major, &minor, operation];
            values.labelled(&rows::BLKIO_DEVICE_USAGE, &labels, bytes);
        }
    }
}

/// `/dev/vda`, by the kernel's own name of the device; its numbers where it is gone.
fn device_name(device: &Device) -> String {
    let (major, minor) = device.number;
    let link = format!("/sys/dev/block/{major}:{minor}");
    let target = std::fs::read_link(Path::new(&link)).ok();
    match target.as_deref().and_then(Path::file_name) {
        Some(name) => format!("/dev/{}", name.to_string_lossy()),
        None => format!("{major}:{minor}"),
    }
}

fn huge_pages(values: &mut Values, reader: &Reader, container: &Container) {
    for pages in reader.huge_pages(&container.cgroup) {
        let size: &[&str] = &[&pages.size];
        values.labelled(&rows::HUGETLB_USAGE_BYTES, size, pages.usage);
        if let Some(peak) = pages.peak {
            values.labelled(&rows::HUGETLB_MAX_USAGE_BYTES, size, peak);
        }
    }
}

fn memory(values: &mut Values, reader: &Reader, container: &Container) {
    let Some(MemoryDetail {
        basic,
        cache,
        kernel,
        mapped,
        peak,
        limit_hits,
        own_faults,
        ..
    }) = reader.memory(&container.cgroup)
    else {
        return;
    };
    for (row, value) in [
        (&rows::MEMORY_CACHE, cache),
        (&rows::MEMORY_RSS, basic.rss),
        (&rows::MEMORY_KERNEL_USAGE, kernel),
        (&rows::MEMORY_MAPPED_FILE, mapped),
        (&rows::MEMORY_SWAP, basic.swap),
        (&rows::MEMORY_USAGE_BYTES, basic.usage),
        (&rows::MEMORY_MAX_USAGE_BYTES, peak),
        (&rows::MEMORY_WORKING_SET_BYTES, basic.working_set),
        (&rows::MEMORY_FAILCNT, limit_hits),
    ] {
        values.add(row, value);
    }
    for (kind, scope, value) in [
        ("pgfault", "container", own_faults.0),
        ("pgmajfault", "container", own_faults.1),
        ("pgfault", "hierarchy", basic.faults),
        ("pgmajfault", "hierarchy", basic.major_faults),
    ] {
        values.labelled(&rows::MEMORY_FAILURES, &[kind, scope], value);
    }
}

fn oom(values: &mut Values, reader: &Reader, container: &Container) {
    if let Some(memory) = reader.memory(&container.cgroup) {
        values.add(&rows::OOM_EVENTS, memory.oom_kills);
    }
}

fn process(values: &mut Values, reader: &Reader, container: &Container) {
    let pids = reader.processes(&container.cgroup);
    let descriptors = processes::descriptors(&pids);
    values.add(&rows::FILE_DESCRIPTORS, descriptors.open);
    values.add(&rows::SOCKETS, descriptors.sockets);
    values.add(&rows::PROCESSES, u64::try_from(pids.len()).unwrap_or(0));
    if let Some(threads) = reader.threads(&container.cgroup) {
        values.add(&rows::THREADS, threads.current);
        values.add(&rows::THREADS_MAX, threads.limit.unwrap_or(0));
    }
    if let Some(limit) = container.init.and_then(processes::open_files_limit) {
        values.labelled(&rows::ULIMITS_SOFT, &["max_open_files"], limit);
    }
}

fn spec(values: &mut Values, _: &Reader, container: &Container) {
    let limits = &container.limits;
    let none_or = |value: i64| u64::try_from(value).unwrap_or(0);
    for (row, value) in [
        (&rows::SPEC_MEMORY_LIMIT_BYTES, none_or(limits.memory)),
        (&rows::SPEC_CPU_PERIOD, none_or(limits.cpu_period)),
        (&rows::SPEC_CPU_SHARES, none_or(limits.cpu_shares)),
        // The CRI has no field for one.
        (&rows::SPEC_MEMORY_RESERVATION_LIMIT_BYTES, 0),
        (
            &rows::SPEC_MEMORY_SWAP_LIMIT_BYTES,
            none_or(limits.memory_swap),
        ),
    ] {
        values.add(row, value);
    }
    if limits.cpu_quota > 0 {
        values.add(&rows::SPEC_CPU_QUOTA, none_or(limits.cpu_quota));
    }
    if let Some(created) = container.created {
        values.add(&rows::START_TIME_SECONDS, seconds(created));
    }
}

fn pressure(values: &mut Values, reader: &Reader, container: &Container) {
    let pressures = reader.pressures(&container.cgroup);
    let mut add = |pressure: Option<Pressure>, stalled, waiting| {
        if let Some(pressure) = pressure {
            values.add(stalled, pressure.full.total / SECOND_US);
            values.add(waiting, pressure.some.total / SECOND_US);
        }
    };
    add(
        pressures.cpu,
        &rows::PRESSURE_CPU_STALLED_SECONDS,
        &rows::PRESSURE_CPU_WAITING_SECONDS,
    );
    add(
        pressures.memory,
        &rows::PRESSURE_MEMORY_STALLED_SECONDS,
        &rows::PRESSURE_MEMORY_WAITING_SECONDS,
    );
    add(
        pressures.io,
        &rows::PRESSURE_IO_STALLED_SECONDS,
        &rows::PRESSURE_IO_WAITING_SECONDS,
    );
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Traffic;

    #[test]
    fn every_interface_has_every_counter() {
        let traffic = |bytes| Traffic {
            bytes,
            ..Traffic::default()
        };
        let interface = |name: &str| Interface {
            name: name.into(),
            received: traffic(1),
            sent: traffic(2),
        };
        let values = network(&[interface("eth0"), interface("net1")]);
        assert_eq!(values.len(), 16);
        assert!(values.iter().all(|value| value.labels.len() == 1));
        let sent = values
            .iter()
            .filter(|value| value.row.name == "container_network_transmit_bytes_total");
        assert!(sent.clone().all(|value| value.value == 2) && sent.count() == 2);
    }

    #[test]
    fn a_container_without_a_cgroup_has_its_limits_still() {
        let all = Selection::parse(&["all".to_owned()]).unwrap();
        let gone = Container {
            cgroup: "/no/such/cgroup".into(),
            limits: Limits {
                memory: 7,
                cpu_quota: -1,
                ..Limits::default()
            },
            ..Container::default()
        };
        let values = container(&Reader::new().unwrap(), &gone, &all);
        let of = |name: &str| values.iter().find(|value| value.row.name == name);
        assert_eq!(of("container_spec_memory_limit_bytes").unwrap().value, 7);
        assert!(
            of("container_spec_cpu_quota").is_none(),
            "no limit, no quota"
        );
        assert!(of("container_memory_rss").is_none());
        for value in &values {
            assert_eq!(value.labels.len(), value.row.labels.len(), "{value:?}");
        }
    }
}
