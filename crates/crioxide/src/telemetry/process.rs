//! Figures of the daemon's own process, and zombies on the node, from `/proc`.

use std::fs;

/// Clock ticks of `proc_pid_stat(5)` in a second, on every architecture that we run on.
const TICKS: f64 = 100.0;

/// The daemon's own process.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) struct Process {
    /// Seconds of processor time.
    pub(super) cpu: f64,
    /// Threads.
    pub(super) threads: u64,
    /// Unix time of its start.
    pub(super) start: f64,
    /// Bytes of address space.
    pub(super) virtual_bytes: u64,
    /// Bytes of memory.
    pub(super) resident_bytes: u64,
}

impl Process {
    /// Reads `/proc/self`.
    pub(super) fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let status = fs::read_to_string("/proc/self/status").ok()?;
        Self::parse(&stat, &status, boot_time()?)
    }

    /// `proc_pid_stat(5)`; the name in brackets may hold anything.
    fn parse(stat: &str, status: &str, boot: u64) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(')')?;
        // The first one here is the third of the manual page.
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let seconds = |ticks: u64| f64::from(u32::try_from(ticks).unwrap_or(u32::MAX)) / TICKS;
        let boot = f64::from(u32::try_from(boot).ok()?);
        Some(Self {
            cpu: seconds(field(14)?.saturating_add(field(15)?)),
            threads: field(20)?,
            start: boot + seconds(field(22)?),
            virtual_bytes: field(23)?,
            resident_bytes: resident(status)?,
        })
    }
}

/// `VmRSS` of `proc_pid_status(5)`, which is in kB.
fn resident(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kilobytes.saturating_mul(1024))
}

fn boot_time() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

/// Open descriptors.
pub(super) fn open_descriptors() -> usize {
    // The one that reads them is one of them.
    fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1))
}

/// A soft limit in `/proc/self/limits`; none where there is no limit.
pub(super) fn soft_limit(name: &str) -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let values = limits.lines().find_map(|line| line.strip_prefix(name))?;
    values.split_ascii_whitespace().next()?.parse().ok()
}

/// Bytes received and sent in the daemon's network, without loopback.
pub(super) fn traffic() -> (u64, u64) {
    let text = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let interfaces = stats::text::interfaces(&text);
    interfaces.iter().fold((0, 0), |(received, sent), one| {
        (
            received.saturating_add(one.received.bytes),
            sent.saturating_add(one.sent.bytes),
        )
    })
}

/// Zombies on the node: all of `/proc` is looked at.
pub(super) fn zombies() -> usize {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_zombie = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let is_process = name
            .to_str()
            .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        is_process
            && fs::read_to_string(entry.path().join("stat"))
                .is_ok_and(|stat| state(&stat) == Some("Z"))
    };
    entries.filter(is_zombie).count()
}

fn state(stat: &str) -> Option<&str> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_misleads_nobody() {
        let stat =
            "7 (a) Z (b) S 1 7 7 0 -1 4194304 99 0 0 0 150 50 0 0 20 0 9 0 1000 4096000 384 1";
        let process = Process::parse(stat, "Name:\ta\nVmRSS:\t    1536 kB\n", 1_000_000).unwrap();
        let wanted = Process {
            cpu: 2.0,
            threads: 9,
            start: 1_000_010.0,
            virtual_bytes: 4_096_000,
            resident_bytes: 1536 * 1024,
        };
        assert_eq!(process, wanted);
        assert_eq!(state(stat), Some("S"));
        assert!(Process::parse("7 (a", "", 0).is_none());
    }

    #[test]
    fn our_own_process_has_figures() {
        let process = Process::read().unwrap();
        assert!(process.threads > 0 && process.resident_bytes > 0 && process.start > 1e9);
        assert!(open_descriptors() > 2);
    }
}
