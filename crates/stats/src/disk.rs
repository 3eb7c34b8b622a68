//! What writable layers take, without a walk on each call.
//!
//! Where the file system counts by itself (project quotas) it is asked each time. Elsewhere nothing tells when something beneath a directory changes, so a layer has to be walked; how
//! often is bounded. A layer is due when somebody asks and its figure is older than [`LEAST`] and
//! than [`SHARE`] times what the last walk took: never more than a twentieth of one processor, and
//! nothing at all while nobody asks. A figure carries its time.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};

use crate::figures::{At, DiskUsage};
use crate::limits;

/// Youngest age at which a figure is taken again: how often the kubelet asks.
pub const LEAST: Duration = Duration::from_secs(10);
/// A walk that took long is repeated after this many times its duration.
pub const SHARE: u32 = 20;

/// The last figure of every layer.
#[derive(Debug, Default)]
pub struct Cache(Mutex<HashMap<String, Entry>>);

#[derive(Debug, Default)]
struct Entry {
    last: Option<At<DiskUsage>>,
    /// When the last walk ended and what it took.
    walked: Option<(Instant, Duration)>,
    walking: bool,
}

impl Cache {
    /// Whether the layer `id` is to be walked now; if so, the caller does it and tells
    /// [`Self::put`], and nobody else does meanwhile.
    #[must_use]
    pub fn due(&self, id: &str, now: Instant) -> bool {
        let mut entries = self.lock();
        let entry = entries.entry(id.to_owned()).or_default();
        let due = entry.walked.is_none_or(|(ended, took)| {
            now.saturating_duration_since(ended) >= LEAST.max(took.saturating_mul(SHARE))
        });
        let due = due && !entry.walking;
        entry.walking |= due;
        due
    }

    /// Takes a figure, `None` where the layer could not be read, and when its walk started; one that took
    /// no walk is due again at once.
    pub fn put(&self, id: &str, usage: Option<DiskUsage>, started: Option<Instant>) {
        let now = Instant::now();
        let mut entries = self.lock();
        // One that was forgotten meanwhile stays so.
        if let Some(entry) = entries.get_mut(id) {
            entry.walking = false;
            entry.walked = started.map(|at| (now, now.saturating_duration_since(at)));
            if let Some(value) = usage {
                let at = SystemTime::now();
                entry.last = Some(At { at, value });
            }
        }
    }

    /// The last figure.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<At<DiskUsage>> {
        self.lock().get(id)?.last.clone()
    }

    /// The sum of all figures.
    #[must_use]
    pub fn sum(&self) -> DiskUsage {
        let entries = self.lock();
        let figures = entries.values().filter_map(|entry| entry.last.as_ref());
        figures.fold(DiskUsage::default(), |sum, figure| DiskUsage {
            bytes: sum.bytes.saturating_add(figure.value.bytes),
            inodes: sum.inodes.saturating_add(figure.value.inodes),
        })
    }

    /// Forgets what is gone.
    pub fn retain(&self, there: impl Fn(&str) -> bool) {
        self.lock().retain(|id, _| there(id));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Walks a directory: blocks allocated and inodes, each file once, symbolic links not followed,
/// other file systems left out. What vanishes meanwhile is not counted.
///
/// # Errors
/// The directory itself can't be opened.
pub fn measure(dir: &Path) -> io::Result<DiskUsage> {
    let root = open(CWD, dir)?;
    let stat = rustix::fs::fstat(&root)?;
    let mut walk = Walk {
        device: stat.st_dev,
        usage: DiskUsage::default(),
        links: HashSet::new(),
    };
    walk.count(&stat);
    walk.directory(root, 0);
    Ok(walk.usage)
}

struct Walk {
    device: u64,
    usage: DiskUsage,
    links: HashSet<u64>,
}

impl Walk {
    fn directory(&mut self, dir: OwnedFd, depth: usize) {
        let Ok(entries) = Dir::read_from(&dir) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            if stat.st_dev != self.device || !self.count(&stat) {
                continue;
            }
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if is_dir
                && depth < limits::LAYER_DEPTH
                && let Ok(child) = open(dir.as_fd(), name)
            {
                self.directory(child, depth + 1);
            }
        }
    }

    /// Counts an inode, unless it was counted under another name.
    fn count(&mut self, stat: &Stat) -> bool {
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if !is_dir && stat.st_nlink > 1 {
            let room = self.links.len() < limits::HARD_LINKS;
            if room && !self.links.insert(stat.st_ino) {
                return false;
            }
        }
        // stat(2): blocks of 512 bytes, whatever the file system's own size.
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        self.usage.bytes = self.usage.bytes.saturating_add(blocks.saturating_mul(512));
        self.usage.inodes = self.usage.inodes.saturating_add(1);
        true
    }
}

fn open(at: impl std::os::fd::AsFd, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn files_count_once_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        let before = measure(dir.path()).unwrap();
        assert_eq!(before.inodes, 3);
        fs::write(at("a/b/file"), vec![7; 100_000]).unwrap();
        fs::hard_link(at("a/b/file"), at("link")).unwrap();
        std::os::unix::fs::symlink("/usr", at("usr")).unwrap();
        let after = measure(dir.path()).unwrap();
        assert_eq!(after.inodes - before.inodes, 2);
        let grown = after.bytes - before.bytes;
        assert!((100_000..200_000).contains(&grown), "{grown}");
        assert!(measure(&at("none")).is_err() && measure(&at("usr")).is_err());
    }

    #[test]
    fn a_layer_is_walked_by_one_and_not_too_often() {
        let cache = Cache::default();
        let now = Instant::now();
        assert!(cache.due("l", now));
        assert!(!cache.due("l", now), "somebody is at it");
        let usage = DiskUsage {
            bytes: 4096,
            inodes: 1,
        };
        cache.put("l", Some(usage), Some(now));
        assert!(!cache.due("l", Instant::now() + LEAST / 2));
        assert!(cache.due("l", Instant::now() + LEAST * 2));
        cache.put("l", None, Some(now));
        assert_eq!(cache.get("l").unwrap().value, usage, "the last one stands");
        assert_eq!(cache.sum(), usage);
        cache.retain(|_| false);
        cache.put("l", Some(usage), Some(now));
        assert!(cache.get("l").is_none(), "what is gone stays gone");
    }

    #[test]
    fn what_took_no_walk_is_asked_for_again_at_once() {
        let cache = Cache::default();
        let now = Instant::now();
        for bytes in [1, 2] {
            assert!(cache.due("l", now));
            cache.put("l", Some(DiskUsage { bytes, inodes: 1 }), None);
            assert_eq!(cache.sum().bytes, bytes);
        }
    }

    #[test]
    fn a_slow_walk_is_repeated_rarely() {
        let cache = Cache::default();
        let started = Instant::now()
            .checked_sub(Duration::from_secs(3))
            .expect("the machine is up for longer");
        assert!(cache.due("l", started));
        cache.put("l", Some(DiskUsage::default()), Some(started));
        assert!(!cache.due("l", Instant::now() + Duration::from_secs(50)));
        assert!(cache.due("l", Instant::now() + Duration::from_secs(70)));
    }
}
