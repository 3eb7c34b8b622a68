//! Processes' descriptors and limits, from `/proc`: only where metrics of processes are asked
//! for, since it takes a system call per descriptor.

use std::fs;
use std::path::PathBuf;

use crate::{file, limits, text};

/// Descriptors of some processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Descriptors {
    /// All that are open.
    pub open: u64,
    /// Those that are sockets.
    pub sockets: u64,
}

/// Counts the descriptors of processes, up to [`limits::DESCRIPTORS`]; of those that end meanwhile,
/// what was seen.
#[must_use]
pub fn descriptors(pids: &[i32]) -> Descriptors {
    let mut count = Descriptors::default();
    for pid in pids {
        let dir = PathBuf::from(format!("/proc/{pid}/fd"));
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if count.open >= limits::DESCRIPTORS {
                return count;
            }
            count.open = count.open.saturating_add(1);
            let target = fs::read_link(entry.path());
            if target.is_ok_and(|target| target.to_string_lossy().starts_with("socket:")) {
                count.sockets = count.sockets.saturating_add(1);
            }
        }
    }
    count
}

/// A process's soft limit on open files; none where it has no limit, or has ended.
#[must_use]
pub fn open_files_limit(pid: i32) -> Option<u64> {
    let path = PathBuf::from(format!("/proc/{pid}/limits"));
    text::soft_open_files(&file::read(&path).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_descriptors_are_counted() {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let before = descriptors(&[pid]).sockets;
        let pair = std::os::unix::net::UnixStream::pair().unwrap();
        // Other tests open files beside this one; sockets they don't.
        assert_eq!(descriptors(&[pid]).sockets - before, 2);
        drop(pair);
        assert!(open_files_limit(pid).is_none_or(|limit| limit > 0));
        assert_eq!(descriptors(&[i32::MAX]), Descriptors::default());
    }
}
