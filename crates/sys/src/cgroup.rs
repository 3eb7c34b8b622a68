//! Cgroups of both versions, and of the two side by side: found, made, entered, killed, removed.
//!
//! Where the hierarchies are comes from `/proc/self/mountinfo`, where a process is from
//! `/proc/PID/cgroup` (`cgroups(7)`). A [`Cgroup`] is one path in every hierarchy that is
//! mounted: with version 1 a process leaves its old cgroup only if it is moved in all of them.
//! Limits and statistics are not this module's.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use crate::spawn::EnterCgroup;

mod proc;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use proc::fuzzed;

/// Rounds of killing: a cgroup whose processes fork while they are killed needs some.
const KILL_ROUNDS: usize = 64;

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Which cgroup the mount shows as its root (`/` but in containers).
    pub root: String,
    /// Controllers of version 1 (`cpu`, `cpuacct`, `name=systemd`); none: version 2.
    pub controllers: Vec<String>,
}

impl Hierarchy {
    /// Whether it is of version 2.
    #[must_use]
    pub fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }

    /// Where the cgroup `path` is.
    #[must_use]
    pub fn dir(&self, path: &str) -> PathBuf {
        let beneath = match self.root.as_str() {
            "/" => path,
            root => path.strip_prefix(root).unwrap_or(path),
        };
        self.mount.join(beneath.trim_start_matches('/'))
    }
}

/// All hierarchies that are mounted, each once.
///
/// # Errors
/// If `/proc/self/mountinfo` can't be read.
pub fn hierarchies() -> io::Result<Vec<Hierarchy>> {
    Ok(proc::parse_mountinfo(&fs::read_to_string(
        "/proc/self/mountinfo",
    )?))
}

/// The cgroups of a process: one of each hierarchy.
///
/// # Errors
/// `ENOENT`, `ESRCH`: there is no such process.
pub fn of_process(pid: Pid) -> io::Result<Cgroup> {
    of_text(&fs::read_to_string(format!("/proc/{pid}/cgroup"))?)
}

/// The cgroups in a text of the form of `/proc/PID/cgroup`, such as one that was kept of a process
/// that has ended.
///
/// # Errors
/// See [`hierarchies`].
pub fn of_text(text: &str) -> io::Result<Cgroup> {
    let hierarchies = hierarchies()?;
    let mut dirs = Vec::new();
    for (controllers, path) in proc::parse_cgroup(text) {
        let hierarchy = hierarchies
            .iter()
            .find(|known| known.controllers == controllers);
        dirs.extend(hierarchy.map(|hierarchy| Dir {
            path: hierarchy.dir(path),
            controllers: hierarchy.controllers.clone(),
        }));
    }
    Ok(Cgroup { dirs })
}

/// One cgroup path in the hierarchies that are mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    dirs: Vec<Dir>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Dir {
    path: PathBuf,
    controllers: Vec<String>,
}

impl Dir {
    fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }
}

impl Cgroup {
    /// The cgroup `path` (absolute, as in `/proc/PID/cgroup`) in all hierarchies.
    ///
    /// # Errors
    /// `EINVAL`: not absolute, or it climbs. Else see [`hierarchies`].
    pub fn at(path: &str) -> io::Result<Self> {
        if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
            return Err(Errno::INVAL.into());
        }
        let dirs = hierarchies()?
            .into_iter()
            .map(|hierarchy| Dir {
                path: hierarchy.dir(path),
                controllers: hierarchy.controllers,
            })
            .collect();
        Ok(Self { dirs })
    }

    /// Keeps only the hierarchies where the cgroup, or one that it is beneath, has `name` in its own
    /// name, and becomes that one: so that what is done to "the container's cgroup" never hits one
    /// that it merely shares. (crun puts the init into a `container` beneath a scope of systemd's.)
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        let has_name = |path: &&Path| {
            let own = path.file_name();
            own.is_some_and(|own| own.to_string_lossy().contains(name))
        };
        self.dirs.retain_mut(|dir| {
            let named = dir.path.ancestors().find(has_name).map(Path::to_owned);
            named.map(|path| dir.path = path).is_some()
        });
        self
    }

    /// Whether it is in no hierarchy at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.dirs.is_empty()
    }

    /// Its directories.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.dirs.iter().map(|dir| dir.path.as_path())
    }

    /// Its directory of version 2.
    #[must_use]
    pub fn v2(&self) -> Option<&Path> {
        self.dirs
            .iter()
            .find(|dir| dir.is_v2())
            .map(|dir| dir.path.as_path())
    }

    /// Its directory in the hierarchy of a controller of version 1.
    #[must_use]
    pub fn v1(&self, controller: &str) -> Option<&Path> {
        let has = |dir: &&Dir| dir.controllers.iter().any(|name| name == controller);
        self.dirs.iter().find(has).map(|dir| dir.path.as_path())
    }

    /// The controllers of each of its hierarchies of version 1, as `/proc/PID/cgroup` has them
    /// (`cpu,cpuacct`, `name=systemd`).
    pub fn v1_controllers(&self) -> impl Iterator<Item = String> {
        let v1 = self.dirs.iter().filter(|dir| !dir.is_v2());
        v1.map(|dir| dir.controllers.join(","))
    }

    /// Makes it, with its parents; fine if it is there.
    ///
    /// # Errors
    /// Those of `mkdir(2)`.
    pub fn make(&self) -> io::Result<()> {
        for dir in &self.dirs {
            fs::create_dir_all(&dir.path)?;
            if dir.controllers.iter().any(|name| name == "cpuset") {
                fill_cpuset(&dir.path)?;
            }
        }
        Ok(())
    }

    /// Opens what a child needs to be born in it.
    ///
    /// # Errors
    /// `ENOENT`: it isn't there.
    pub fn entry(&self) -> io::Result<EnterCgroup> {
        let open = |path: &Path, flags| -> io::Result<OwnedFd> {
            let flags = flags | OFlags::CLOEXEC;
            Ok(rustix::fs::open(path, flags, Mode::empty())?)
        };
        let born_in = self
            .v2()
            .map(|dir| open(dir, OFlags::RDONLY | OFlags::DIRECTORY))
            .transpose()?;
        let v1 = self.dirs.iter().filter(|dir| !dir.is_v2());
        let procs = v1.map(|dir| open(&dir.path.join("cgroup.procs"), OFlags::WRONLY));
        Ok(EnterCgroup {
            born_in,
            procs: procs.collect::<io::Result<_>>()?,
        })
    }

    /// Keeps only the hierarchy of version 2: none where there is none.
    #[must_use]
    pub fn without_v1(mut self) -> Self {
        self.dirs.retain(Dir::is_v2);
        self
    }

    /// Whether a hierarchy of version 1 is among its own.
    #[must_use]
    pub fn has_v1(&self) -> bool {
        self.dirs.iter().any(|dir| !dir.is_v2())
    }

    /// Moves a process into it.
    ///
    /// # Errors
    /// `ESRCH`: no such process.
    pub fn enter(&self, pid: Pid) -> io::Result<()> {
        self.dirs
            .iter()
            .try_for_each(|dir| fs::write(dir.path.join("cgroup.procs"), pid.to_string()))
    }

    /// Its processes, and those of all cgroups beneath it. None if it isn't there.
    ///
    /// # Errors
    /// If a file can't be read.
    pub fn processes(&self) -> io::Result<Vec<Pid>> {
        let mut pids = BTreeSet::new();
        if let Some(dir) = self.main_dir() {
            collect_processes(&dir.path, &mut pids)?;
        }
        Ok(pids
            .into_iter()
            .filter_map(crate::pidfd::of_number)
            .collect())
    }

    /// Sends SIGKILL to everything in it and beneath it, and returns what it found. They may
    /// still be ending.
    ///
    /// # Errors
    /// If a file can't be read.
    pub fn kill(&self) -> io::Result<Vec<Pid>> {
        let mut killed: Vec<Pid> = Vec::new();
        for _ in 0..KILL_ROUNDS {
            let mut found = self.processes()?;
            found.retain(|pid| !killed.contains(pid));
            if found.is_empty() {
                break;
            }
            // Linux 5.14: one write ends them all, whatever they fork meanwhile.
            let at_once = self
                .v2()
                .is_some_and(|dir| fs::write(dir.join("cgroup.kill"), "1").is_ok());
            if !at_once {
                for pid in &found {
                    kill_member(self, *pid);
                }
            }
            killed.append(&mut found);
        }
        Ok(killed)
    }

    /// Lets its processes go on after a runtime's `pause`; fine if they do, or if it isn't there.
    ///
    /// The freezer's files on the way down to the cgroup of `member` are written too: the cgroup
    /// that crun pauses is the one into which it has put the init, beneath a scope of systemd's, and
    /// what is frozen there stays so whatever is written above it.
    ///
    /// # Errors
    /// If a file can't be written.
    pub fn thaw(&self, member: Option<Pid>) -> io::Result<()> {
        let of_member = member.and_then(|pid| of_process(pid).ok());
        let of_member = of_member.unwrap_or_default();
        let freezer = "freezer";
        let (own, lowest, file, word) = match (self.v1(freezer), self.v2()) {
            (Some(own), _) => (own, of_member.v1(freezer), "freezer.state", "THAWED"),
            (None, Some(own)) => (own, of_member.v2(), "cgroup.freeze", "0"),
            (None, None) => return Ok(()),
        };
        let beneath = lowest.into_iter().flat_map(Path::ancestors);
        let beneath = beneath.take_while(|dir| *dir != own && dir.starts_with(own));
        for dir in beneath.chain([own]) {
            match fs::write(dir.join(file), word) {
                Err(err) if is_gone(&err) => {}
                written => written?,
            }
        }
        Ok(())
    }

    /// How many of its processes the kernel has killed for memory; `None` if it can't be told: by a
    /// cgroup that is gone, as a rule.
    #[must_use]
    pub fn oom_kills(&self) -> Option<u64> {
        let v2 = self.v2().map(|dir| dir.join("memory.events"));
        let v1 = self.v1("memory").map(|dir| dir.join("memory.oom_control"));
        [v2, v1]
            .into_iter()
            .flatten()
            .filter_map(|file| fs::read_to_string(file).ok())
            .filter_map(|text| proc::field(&text, "oom_kill"))
            .max()
    }

    /// The same of the cgroup above it with all that is beneath that; 0 but with version 2, where a
    /// parent's counters have those of removed children in them (cgroup-v2.rst, `memory.events`).
    #[must_use]
    pub fn oom_kills_above(&self) -> u64 {
        let above = self.v2().and_then(Path::parent);
        let events = above.and_then(|dir| fs::read_to_string(dir.join("memory.events")).ok());
        events
            .and_then(|text| proc::field(&text, "oom_kill"))
            .unwrap_or(0)
    }

    /// Removes it, with the empty cgroups beneath it; fine if it isn't there. Its parents stay.
    ///
    /// # Errors
    /// `EBUSY`: a process is in it. The other hierarchies are removed all the same.
    pub fn remove(&self) -> io::Result<()> {
        let mut failed = Ok(());
        for dir in &self.dirs {
            if let Err(err) = remove_tree(&dir.path) {
                failed = Err(err);
            }
        }
        failed
    }

    /// Removes it as [`Self::remove`] does, and waits while the kernel still counts processes in it
    /// that have ended: up to a scheduler's tick after their pidfds told.
    ///
    /// # Errors
    /// `EBUSY`: processes are in it after `timeout`.
    pub fn remove_when_empty(&self, timeout: Duration) -> io::Result<()> {
        let deadline = Instant::now() + timeout;
        let mut pause = Duration::from_micros(200);
        loop {
            match self.remove() {
                Err(busy)
                    if busy.raw_os_error() == Some(Errno::BUSY.raw_os_error())
                        && Instant::now() < deadline =>
                {
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "version 1 tells nobody when a cgroup is empty"
                    )]
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
                removed => return removed,
            }
        }
    }

    /// The directory that tells the processes: version 2 where it is there (a runtime may not use
    /// it beside version 1), else any.
    fn main_dir(&self) -> Option<&Dir> {
        let occupied =
            |dir: &&Dir| fs::read(dir.path.join("cgroup.procs")).is_ok_and(|text| !text.is_empty());
        let there = |dir: &&Dir| dir.path.is_dir();
        self.dirs
            .iter()
            .find(|dir| dir.is_v2() && there(dir))
            .or_else(|| self.dirs.iter().find(occupied))
            .or_else(|| self.dirs.iter().find(there))
    }
}

/// By pidfd, and only after a second look: the number may be another's since the list was read.
fn kill_member(cgroup: &Cgroup, pid: Pid) {
    let Ok(pidfd) = crate::pidfd::open(pid) else {
        return;
    };
    let still = cgroup.processes().is_ok_and(|now| now.contains(&pid));
    if still {
        // It may have ended meanwhile.
        let _gone = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
    }
}

fn collect_processes(dir: &Path, pids: &mut BTreeSet<i32>) -> io::Result<()> {
    let text = match fs::read_to_string(dir.join("cgroup.procs")) {
        Ok(text) => text,
        Err(err) if is_gone(&err) => return Ok(()),
        // A threaded cgroup of version 2; its processes are listed above it.
        Err(err) if err.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => return Ok(()),
        Err(err) => return Err(err),
    };
    pids.extend(
        text.lines()
            .filter_map(|line| line.parse::<i32>().ok())
            .filter(|pid| *pid > 0),
    );
    for child in children(dir)? {
        collect_processes(&child, pids)?;
    }
    Ok(())
}

fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(err) if is_gone(&err) => return Ok(Vec::new()),
        Err(err) => return Err(err),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(err) if is_gone(&err) => return Ok(()),
        Err(_) => {}
        done @ Ok(()) => return done,
    }
    for child in children(dir)? {
        remove_tree(&child)?;
    }
    match fs::remove_dir(dir) {
        Err(err) if is_gone(&err) => Ok(()),
        other => other,
    }
}

fn is_gone(err: &io::Error) -> bool {
    err.kind() == io::ErrorKind::NotFound || err.raw_os_error() == Some(Errno::NODEV.raw_os_error())
}

/// A new cpuset of version 1 has no processors and no memory, and takes no process: it gets those
/// of its parent, which gets its own first.
fn fill_cpuset(dir: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = fs::read_to_string(dir.join(file))?;
        if !own.trim().is_empty() {
            continue;
        }
        let Some(parent) = dir.parent().filter(|parent| parent.join(file).is_file()) else {
            continue;
        };
        fill_cpuset(parent)?;
        fs::write(dir.join(file), fs::read_to_string(parent.join(file))?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
