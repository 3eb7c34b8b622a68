//! The processes of a cgroup and of those beneath it.

use std::path::Path;

use super::Reader;
use crate::file;
use crate::limits;

impl Reader {
    /// Numbers of its processes, also of those in cgroups that it made for itself.
    #[must_use]
    pub fn processes(&self, path: &str) -> Vec<i32> {
        let mut found = Vec::new();
        // Every process is in the hierarchy of any controller; version 2 is left aside where a
        // controller of version 1 is there, since a runtime may not use it then.
        if let Some((_, dir)) = self.dir("pids", path) {
            let mut left = limits::CGROUPS;
            collect(dir.path(), 0, &mut left, &mut found);
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// `left` is how many cgroups may still be looked into.
fn collect(dir: &Path, depth: usize, left: &mut usize, found: &mut Vec<i32>) {
    let Some(rest) = left.checked_sub(1) else {
        return;
    };
    *left = rest;
    // A threaded cgroup of version 2 can't be read; its processes are listed above it.
    if let Ok(text) = file::read(&dir.join("cgroup.procs")) {
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    if depth >= limits::CGROUP_DEPTH {
        return;
    }
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), depth + 1, left, found);
        }
    }
}
