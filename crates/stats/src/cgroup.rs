//! A cgroup's figures, from whichever version has the controller.
//!
//! On a machine with both versions each controller is in one of them only; pressure is told by
//! version 2 alone, there too. What a controller does not tell is absent, never zero.

mod detail;
mod processes;

use std::io;

use sys::cgroup::Hierarchy;

use crate::figures::{Cpu, Memory, Pressures, Threads, Usage};
use crate::file::{Buffer, Dir};
use crate::text;

/// Nanoseconds in a microsecond, the unit of version 2.
const MICROSECOND: u64 = 1000;

/// Reads cgroups; knows where the hierarchies are mounted.
#[derive(Debug, Clone)]
pub struct Reader {
    hierarchies: Vec<Hierarchy>,
}

/// Which files a controller has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Reader {
    /// Looks at what is mounted.
    ///
    /// # Errors
    /// `/proc/self/mountinfo` can't be read.
    pub fn new() -> io::Result<Self> {
        Ok(Self::over(sys::cgroup::hierarchies()?))
    }

    fn over(hierarchies: Vec<Hierarchy>) -> Self {
        Self { hierarchies }
    }

    /// Where a controller has the cgroup `path`; version 2 has a directory for all of them.
    fn dir(&self, controller: &str, path: &str) -> Option<(Version, Dir)> {
        let has = |hierarchy: &&Hierarchy| {
            let mut controllers = hierarchy.controllers.iter();
            controllers.any(|name| name == controller)
        };
        match self.hierarchies.iter().find(has) {
            Some(v1) => Some((Version::One, Dir::at(v1.dir(path)))),
            None => Some((Version::Two, self.unified(path)?)),
        }
    }

    /// The cgroup's directory of version 2.
    fn unified(&self, path: &str) -> Option<Dir> {
        let unified = self.hierarchies.iter().find(|hierarchy| hierarchy.is_v2());
        Some(Dir::at(unified?.dir(path)))
    }

    /// What the cgroup `path` uses: what every poll wants. Seven or eight small files.
    #[must_use]
    pub fn usage(&self, path: &str) -> Usage {
        let buffer = &mut Buffer::default();
        Usage {
            cpu: self
                .dir("cpuacct", path)
                .and_then(|(version, dir)| cpu(version, &dir, buffer)),
            memory: self
                .dir("memory", path)
                .and_then(|(version, dir)| memory(version, &dir, buffer)),
            pressure: self
                .unified(path)
                .map(|dir| pressures(&dir, buffer))
                .unwrap_or_default(),
        }
    }

    /// Stalls.
    #[must_use]
    pub fn pressures(&self, path: &str) -> Pressures {
        let dir = self.unified(path);
        dir.map(|dir| pressures(&dir, &mut Buffer::default()))
            .unwrap_or_default()
    }

    /// Memory in use now; none if there is no such cgroup.
    #[must_use]
    pub fn memory_usage(&self, path: &str) -> Option<u64> {
        let (version, dir) = self.dir("memory", path)?;
        let name = match version {
            Version::One => "memory.usage_in_bytes",
            Version::Two => "memory.current",
        };
        text::number(dir.text(name, &mut Buffer::default())?)
    }

    /// Its threads.
    #[must_use]
    pub fn threads(&self, path: &str) -> Option<Threads> {
        let (_, dir) = self.dir("pids", path)?;
        let buffer = &mut Buffer::default();
        Some(Threads {
            current: text::number(dir.text("pids.current", buffer)?)?,
            limit: dir.text("pids.max", buffer).and_then(text::limit),
        })
    }
}

fn cpu(version: Version, dir: &Dir, buffer: &mut Buffer) -> Option<Cpu> {
    let total = match version {
        Version::One => text::number(dir.text("cpuacct.usage", buffer)?)?,
        Version::Two => {
            let [total] = text::fields(dir.text("cpu.stat", buffer)?, ["usage_usec"]);
            total.saturating_mul(MICROSECOND)
        }
    };
    Some(Cpu { total })
}

fn memory(version: Version, dir: &Dir, buffer: &mut Buffer) -> Option<Memory> {
    match version {
        Version::One => memory_v1(dir, buffer),
        Version::Two => memory_v2(dir, buffer),
    }
}

/// The `total_` fields count the cgroups beneath it too, as version 2 always does.
fn memory_v1(dir: &Dir, buffer: &mut Buffer) -> Option<Memory> {
    let usage = text::number(dir.text("memory.usage_in_bytes", buffer)?)?;
    let [inactive, rss, faults, major_faults, swap, limit, both] = text::fields(
        dir.text("memory.stat", buffer)?,
        [
            "total_inactive_file",
            "total_rss",
            "total_pgfault",
            "total_pgmajfault",
            "total_swap",
            // The lowest limit from here to the root: the one that counts.
            "hierarchical_memory_limit",
            "hierarchical_memsw_limit",
        ],
    );
    let bounded = |limit: u64| text::limit(&limit.to_string()).filter(|limit| *limit > 0);
    let limit = bounded(limit);
    let swap_limit = bounded(both).map(|both| both.saturating_sub(limit.unwrap_or(0)));
    Some(Memory {
        usage,
        working_set: usage.saturating_sub(inactive),
        rss,
        limit,
        faults,
        major_faults,
        swap,
        swap_limit,
    })
}

fn memory_v2(dir: &Dir, buffer: &mut Buffer) -> Option<Memory> {
    let usage = text::number(dir.text("memory.current", buffer)?)?;
    let [inactive, rss, faults, major_faults] = text::fields(
        dir.text("memory.stat", buffer)?,
        ["inactive_file", "anon", "pgfault", "pgmajfault"],
    );
    Some(Memory {
        usage,
        working_set: usage.saturating_sub(inactive),
        rss,
        limit: dir.text("memory.max", buffer).and_then(text::limit),
        faults,
        major_faults,
        swap: dir
            .text("memory.swap.current", buffer)
            .and_then(text::number)
            .unwrap_or(0),
        swap_limit: dir.text("memory.swap.max", buffer).and_then(text::limit),
    })
}

fn pressures(dir: &Dir, buffer: &mut Buffer) -> Pressures {
    let mut read = |name| dir.text(name, buffer).and_then(text::pressure);
    Pressures {
        cpu: read("cpu.pressure"),
        memory: read("memory.pressure"),
        io: read("io.pressure"),
    }
}

#[cfg(test)]
mod tests;
