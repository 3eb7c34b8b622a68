//! The table of metrics.

use super::{Group, Kind, Row};

/// One static per metric, and the table of them all.
macro_rules! rows {
    ($($ident:ident: $group:expr, $kind:ident, $name:literal, [$($label:literal),*], $help:literal;)*) => {
        $(
            #[doc = $help]
            pub(super) static $ident: Row = Row {
                name: $name,
                help: $help,
                group: $group,
                kind: Kind::$kind,
                labels: &[$($label),*],
            };
        )*

        /// Every metric.
        pub static ROWS: &[&Row] = &[$(&$ident),*];
    };
}

rows! {
    LAST_SEEN: None, Gauge, "container_last_seen", [],
        "Unix time at which the container was last seen.";
    CPU_USER_SECONDS: Some(Group::Cpu), Counter, "container_cpu_user_seconds_total", [],
        "Processor time in user mode, in seconds.";
    CPU_SYSTEM_SECONDS: Some(Group::Cpu), Counter, "container_cpu_system_seconds_total", [],
        "Processor time in the kernel, in seconds.";
    CPU_CFS_PERIODS: Some(Group::Cpu), Counter, "container_cpu_cfs_periods_total", [],
        "Periods in which a processor quota was in force.";
    CPU_CFS_THROTTLED_PERIODS: Some(Group::Cpu), Counter, "container_cpu_cfs_throttled_periods_total", [],
        "Periods in which the processor quota was used up.";
    CPU_CFS_THROTTLED_SECONDS: Some(Group::Cpu), Counter, "container_cpu_cfs_throttled_seconds_total", [],
        "Time for which the processor quota held processes back, in seconds.";
    CPU_USAGE_SECONDS: Some(Group::Cpu), Counter, "container_cpu_usage_seconds_total", ["cpu"],
        "Processor time, in seconds; by processor where the kernel tells.";
    FS_INODES_FREE: Some(Group::Disk), Gauge, "container_fs_inodes_free", [],
        "Inodes that are free on the file system.";
    FS_INODES: Some(Group::Disk), Gauge, "container_fs_inodes_total", [],
        "Inodes of the file system.";
    FS_LIMIT_BYTES: Some(Group::Disk), Gauge, "container_fs_limit_bytes", [],
        "Size of the file system, in bytes.";
    FS_USAGE_BYTES: Some(Group::Disk), Gauge, "container_fs_usage_bytes", [],
        "What the writable layer takes, in bytes.";
    FS_READS_BYTES: Some(Group::DiskIo), Counter, "container_fs_reads_bytes_total", ["device"],
        "Bytes read.";
    FS_READS: Some(Group::DiskIo), Counter, "container_fs_reads_total", ["device"],
        "Reads.";
    FS_WRITES_BYTES: Some(Group::DiskIo), Counter, "container_fs_writes_bytes_total", ["device"],
        "Bytes written.";
    FS_WRITES: Some(Group::DiskIo), Counter, "container_fs_writes_total", ["device"],
        "Writes.";
    BLKIO_DEVICE_USAGE: Some(Group::DiskIo), Counter, "container_blkio_device_usage_total", ["device", "major", "minor", "operation"],
        "Bytes by device and operation.";
    HUGETLB_USAGE_BYTES: Some(Group::Hugetlb), Gauge, "container_hugetlb_usage_bytes", ["pagesize"],
        "Huge pages in use, in bytes.";
    HUGETLB_MAX_USAGE_BYTES: Some(Group::Hugetlb), Gauge, "container_hugetlb_max_usage_bytes", ["pagesize"],
        "Most huge pages that were ever in use, in bytes.";
    MEMORY_CACHE: Some(Group::Memory), Gauge, "container_memory_cache", [],
        "Page cache, in bytes.";
    MEMORY_RSS: Some(Group::Memory), Gauge, "container_memory_rss", [],
        "Anonymous memory, in bytes.";
    MEMORY_KERNEL_USAGE: Some(Group::Memory), Gauge, "container_memory_kernel_usage", [],
        "Memory of the kernel, in bytes.";
    MEMORY_MAPPED_FILE: Some(Group::Memory), Gauge, "container_memory_mapped_file", [],
        "Mapped files, in bytes.";
    MEMORY_SWAP: Some(Group::Memory), Gauge, "container_memory_swap", [],
        "Swap in use, in bytes.";
    MEMORY_USAGE_BYTES: Some(Group::Memory), Gauge, "container_memory_usage_bytes", [],
        "Memory in use, in bytes.";
    MEMORY_MAX_USAGE_BYTES: Some(Group::Memory), Gauge, "container_memory_max_usage_bytes", [],
        "Most memory that was ever in use, in bytes.";
    MEMORY_WORKING_SET_BYTES: Some(Group::Memory), Gauge, "container_memory_working_set_bytes", [],
        "Memory in use without inactive file pages, in bytes.";
    MEMORY_FAILCNT: Some(Group::Memory), Counter, "container_memory_failcnt", [],
        "How often the memory limit was hit.";
    MEMORY_FAILURES: Some(Group::Memory), Counter, "container_memory_failures_total", ["failure_type", "scope"],
        "Page faults.";
    NETWORK_RECEIVE_BYTES: Some(Group::Network), Counter, "container_network_receive_bytes_total", ["interface"],
        "Bytes on the way in.";
    NETWORK_RECEIVE_PACKETS: Some(Group::Network), Counter, "container_network_receive_packets_total", ["interface"],
        "Packets on the way in.";
    NETWORK_RECEIVE_PACKETS_DROPPED: Some(Group::Network), Counter, "container_network_receive_packets_dropped_total", ["interface"],
        "Dropped packets on the way in.";
    NETWORK_RECEIVE_ERRORS: Some(Group::Network), Counter, "container_network_receive_errors_total", ["interface"],
        "Errors on the way in.";
    NETWORK_TRANSMIT_BYTES: Some(Group::Network), Counter, "container_network_transmit_bytes_total", ["interface"],
        "Bytes on the way out.";
    NETWORK_TRANSMIT_PACKETS: Some(Group::Network), Counter, "container_network_transmit_packets_total", ["interface"],
        "Packets on the way out.";
    NETWORK_TRANSMIT_PACKETS_DROPPED: Some(Group::Network), Counter, "container_network_transmit_packets_dropped_total", ["interface"],
        "Dropped packets on the way out.";
    NETWORK_TRANSMIT_ERRORS: Some(Group::Network), Counter, "container_network_transmit_errors_total", ["interface"],
        "Errors on the way out.";
    OOM_EVENTS: Some(Group::Oom), Counter, "container_oom_events_total", [],
        "Processes killed for memory.";
    FILE_DESCRIPTORS: Some(Group::Process), Gauge, "container_file_descriptors", [],
        "Open descriptors of all processes.";
    PROCESSES: Some(Group::Process), Gauge, "container_processes", [],
        "Processes.";
    SOCKETS: Some(Group::Process), Gauge, "container_sockets", [],
        "Open sockets.";
    THREADS: Some(Group::Process), Gauge, "container_threads", [],
        "Threads.";
    THREADS_MAX: Some(Group::Process), Gauge, "container_threads_max", [],
        "Most threads that there may be; 0 for no limit.";
    ULIMITS_SOFT: Some(Group::Process), Gauge, "container_ulimits_soft", ["ulimit"],
        "Soft limit of the first process.";
    SPEC_MEMORY_LIMIT_BYTES: Some(Group::Spec), Gauge, "container_spec_memory_limit_bytes", [],
        "Memory limit, in bytes; 0 for none.";
    SPEC_CPU_PERIOD: Some(Group::Spec), Gauge, "container_spec_cpu_period", [],
        "Period of the processor quota, in microseconds.";
    SPEC_CPU_SHARES: Some(Group::Spec), Gauge, "container_spec_cpu_shares", [],
        "Processor weight.";
    SPEC_CPU_QUOTA: Some(Group::Spec), Gauge, "container_spec_cpu_quota", [],
        "Processor quota per period, in microseconds.";
    SPEC_MEMORY_RESERVATION_LIMIT_BYTES: Some(Group::Spec), Gauge, "container_spec_memory_reservation_limit_bytes", [],
        "Memory that is kept for it, in bytes.";
    SPEC_MEMORY_SWAP_LIMIT_BYTES: Some(Group::Spec), Gauge, "container_spec_memory_swap_limit_bytes", [],
        "Limit of memory and swap together, in bytes; 0 for none.";
    START_TIME_SECONDS: Some(Group::Spec), Gauge, "container_start_time_seconds", [],
        "Unix time of its creation.";
    PRESSURE_CPU_STALLED_SECONDS: Some(Group::Pressure), Counter, "container_pressure_cpu_stalled_seconds_total", [],
        "Time for which all processes waited for a processor, in seconds.";
    PRESSURE_CPU_WAITING_SECONDS: Some(Group::Pressure), Counter, "container_pressure_cpu_waiting_seconds_total", [],
        "Time for which a process waited for a processor, in seconds.";
    PRESSURE_MEMORY_STALLED_SECONDS: Some(Group::Pressure), Counter, "container_pressure_memory_stalled_seconds_total", [],
        "Time for which all processes waited for memory, in seconds.";
    PRESSURE_MEMORY_WAITING_SECONDS: Some(Group::Pressure), Counter, "container_pressure_memory_waiting_seconds_total", [],
        "Time for which a process waited for memory, in seconds.";
    PRESSURE_IO_STALLED_SECONDS: Some(Group::Pressure), Counter, "container_pressure_io_stalled_seconds_total", [],
        "Time for which all processes waited for a disk, in seconds.";
    PRESSURE_IO_WAITING_SECONDS: Some(Group::Pressure), Counter, "container_pressure_io_waiting_seconds_total", [],
        "Time for which a process waited for a disk, in seconds.";
}
